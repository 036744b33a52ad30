package proxy

import (
	"regexp"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// defaultRouteTimeout is Envoy's for a route without timeout.
const defaultRouteTimeout = 15 * time.Second

// routeTable is a RouteConfiguration.
type routeTable struct {
	exact    map[string]*virtualHost
	suffixes []*wildcard // *.example.com, longest first
	prefixes []*wildcard // example.*, longest first
	any      *virtualHost
	headers  headerEdits
}

type wildcard struct {
	text string
	host *virtualHost
}

type virtualHost struct {
	name    string
	routes  []*route
	headers headerEdits
}

// route is one entry of a virtual host.
type route struct {
	name        string
	virtualHost *virtualHost
	match       routeMatch
	headers     headerEdits

	// Where it goes: a cluster by name, or the one that a header names, or a
	// direct response.
	cluster       string
	clusterHeader string
	direct        *directResponse

	timeout       time.Duration // 0: none
	idleTimeout   time.Duration // 0: none; negative: the connection manager's
	upgrades      map[string]bool
	prefixRewrite string
	hostRewrite   string
}

type directResponse struct {
	status int
	body   string
}

type routeMatch struct {
	path        func(path string) bool // without query and fragment
	prefix      string                 // for prefixRewrite
	headers     []headerMatcher
	filterState []filterStateMatcher
}

type headerMatcher struct {
	name         string
	match        func(string) bool // nil: present is asked for
	present      bool
	invert       bool
	missingEmpty bool
}

type filterStateMatcher struct {
	key   string
	match func(string) bool
}

// headerEdits is what a route configuration, virtual host or route does to
// the heads that pass it.
type headerEdits struct {
	requestAdd, responseAdd       []headerOption
	requestRemove, responseRemove []string
}

type headerOption struct {
	name      string
	value     *format
	action    corev3.HeaderValueOption_HeaderAppendAction
	keepEmpty bool
}

// apply writes one header as Envoy's HeaderEvaluator does. An empty value adds
// nothing.
func (o *headerOption) apply(h *Headers, s *stream) {
	exists := h.has(o.name)
	switch o.action {
	case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS:
		if !exists {
			return
		}
	case corev3.HeaderValueOption_ADD_IF_ABSENT:
		if exists {
			return
		}
	}
	value := o.value.text(s, "")
	if value == "" && !o.keepEmpty {
		return
	}
	if o.action == corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD {
		h.Add(o.name, value)
		return
	}
	h.Replace(o.name, value)
}

// find returns the route of a request, or nil.
func (t *routeTable) find(s *stream) *route {
	host := t.host(s.request.value(":authority"))
	if host == nil {
		return nil
	}
	path, _, _ := strings.Cut(s.request.value(":path"), "?")
	path, _, _ = strings.Cut(path, "#")
	for _, r := range host.routes {
		if r.match.matches(s, path) {
			return r
		}
	}
	return nil
}

func (t *routeTable) host(authority string) *virtualHost {
	if len(t.exact) == 0 && len(t.suffixes) == 0 && len(t.prefixes) == 0 {
		return t.any
	}
	authority = lower(authority)
	if v := t.exact[authority]; v != nil {
		return v
	}
	for _, w := range t.suffixes {
		if len(authority) > len(w.text) && strings.HasSuffix(authority, w.text) {
			return w.host
		}
	}
	for _, w := range t.prefixes {
		if len(authority) > len(w.text) && strings.HasPrefix(authority, w.text) {
			return w.host
		}
	}
	return t.any
}

func (m *routeMatch) matches(s *stream, path string) bool {
	if !m.path(path) {
		return false
	}
	for i := range m.headers {
		if !m.headers[i].matches(&s.request) {
			return false
		}
	}
	for i := range m.filterState {
		f := &m.filterState[i]
		if value, ok := s.filterState[f.key]; !ok || !f.match(value) {
			return false
		}
	}
	return true
}

// matches is HeaderUtility::matchHeaders: several lines are one value, joined
// by a comma; an absent header matches nothing but a question for absence.
func (m *headerMatcher) matches(h *Headers) bool {
	value, present := h.joined(m.name)
	if !present && !m.missingEmpty {
		if m.match != nil {
			return false
		}
		return m.present == m.invert
	}
	if m.match == nil {
		return m.present != m.invert
	}
	return m.match(value) != m.invert
}

// joined returns all values of a lower-case name as one list.
func (h *Headers) joined(name string) (string, bool) {
	i := h.find(name)
	if i < 0 {
		return "", false
	}
	value := h.fields[i].value
	for _, f := range h.fields[i+1:] {
		if f.name == name {
			value += "," + f.value
		}
	}
	return value, true
}

// upgradeAllowed gives what the route says of an upgrade type, if anything.
func (r *route) upgradeAllowed(kind string) (allowed, said bool) {
	if r == nil {
		return false, false
	}
	for k, allowed := range r.upgrades {
		if equalFold(k, kind) {
			return allowed, true
		}
	}
	return false, false
}

// ---- from the configuration

func (b *builder) routeTable(path string, c *routev3.RouteConfiguration) (*routeTable, error) {
	t := &routeTable{exact: map[string]*virtualHost{}}
	var err error
	if t.headers, err = b.headerEdits(path, c); err != nil {
		return nil, err
	}
	for i, v := range c.GetVirtualHosts() {
		path := at(path, "virtual_hosts", i)
		host := &virtualHost{name: v.GetName()}
		if host.headers, err = b.headerEdits(path, v); err != nil {
			return nil, err
		}
		for j, r := range v.GetRoutes() {
			route, err := b.route(at(path, "routes", j), r)
			if err != nil {
				return nil, err
			}
			route.virtualHost = host
			host.routes = append(host.routes, route)
		}
		for j, d := range v.GetDomains() {
			if !t.addDomain(lower(d), host) {
				return nil, b.boot.Errorf(at(path, "domains", j), "domain %q stands twice in this route configuration: give each domain one virtual host", d)
			}
		}
	}
	return t, nil
}

// addDomain says false for a domain that is there already.
func (t *routeTable) addDomain(d string, host *virtualHost) bool {
	add := func(list *[]*wildcard, text string) bool {
		i := 0
		for ; i < len(*list) && len((*list)[i].text) >= len(text); i++ {
			if (*list)[i].text == text {
				return false
			}
		}
		*list = append(*list, nil)
		copy((*list)[i+1:], (*list)[i:])
		(*list)[i] = &wildcard{text, host}
		return true
	}
	switch {
	case d == "*":
		if t.any != nil {
			return false
		}
		t.any = host
		return true
	case strings.HasPrefix(d, "*"):
		return add(&t.suffixes, d[1:])
	case strings.HasSuffix(d, "*"):
		return add(&t.prefixes, d[:len(d)-1])
	}
	if t.exact[d] != nil {
		return false
	}
	t.exact[d] = host
	return true
}

func (b *builder) route(path string, c *routev3.Route) (*route, error) {
	r := &route{name: c.GetName(), timeout: defaultRouteTimeout, idleTimeout: -1}
	var err error
	if r.match, err = b.routeMatch(path+".match", c.GetMatch()); err != nil {
		return nil, err
	}
	if r.headers, err = b.headerEdits(path, c); err != nil {
		return nil, err
	}
	switch action := c.GetAction().(type) {
	case *routev3.Route_DirectResponse:
		r.direct = &directResponse{
			status: int(action.DirectResponse.GetStatus()),
			body:   action.DirectResponse.GetBody().GetInlineString(),
		}
	case *routev3.Route_Route:
		a, path := action.Route, path+".route"
		r.cluster, r.clusterHeader = a.GetCluster(), lower(a.GetClusterHeader())
		if r.cluster != "" && !b.clusters[r.cluster] {
			return nil, b.boot.Errorf(path+".cluster", "unknown cluster %q: name one of static_resources.clusters", r.cluster)
		}
		if a.GetTimeout() != nil {
			r.timeout = a.GetTimeout().AsDuration()
		}
		if a.GetIdleTimeout() != nil {
			r.idleTimeout = a.GetIdleTimeout().AsDuration()
		}
		r.prefixRewrite, r.hostRewrite = a.GetPrefixRewrite(), a.GetHostRewriteLiteral()
		for _, u := range a.GetUpgradeConfigs() {
			if r.upgrades == nil {
				r.upgrades = map[string]bool{}
			}
			r.upgrades[u.GetUpgradeType()] = u.GetEnabled() == nil || u.GetEnabled().GetValue()
		}
	default:
		return nil, b.boot.Unsupported(path, "a route without route or direct_response")
	}
	return r, nil
}

func (b *builder) routeMatch(path string, c *routev3.RouteMatch) (routeMatch, error) {
	var m routeMatch
	sensitive := c.GetCaseSensitive() == nil || c.GetCaseSensitive().GetValue()
	fold := func(s string) string {
		if sensitive {
			return s
		}
		return lower(s)
	}
	switch spec := c.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		prefix := fold(spec.Prefix)
		m.prefix = spec.Prefix
		m.path = func(p string) bool { return strings.HasPrefix(fold(p), prefix) }
	case *routev3.RouteMatch_Path:
		exact := fold(spec.Path)
		m.path = func(p string) bool { return fold(p) == exact }
	case *routev3.RouteMatch_PathSeparatedPrefix:
		prefix := fold(spec.PathSeparatedPrefix)
		m.prefix = spec.PathSeparatedPrefix
		m.path = func(p string) bool {
			p = fold(p)
			return strings.HasPrefix(p, prefix) && (len(p) == len(prefix) || p[len(prefix)] == '/')
		}
	case *routev3.RouteMatch_SafeRegex:
		match, err := b.regex(path+".safe_regex", spec.SafeRegex)
		if err != nil {
			return m, err
		}
		m.path = match
	default:
		return m, b.boot.Unsupported(path, "this path matcher")
	}
	for i, h := range c.GetHeaders() {
		path := at(path, "headers", i)
		hm := headerMatcher{name: canonical(h.GetName()), invert: h.GetInvertMatch(), missingEmpty: h.GetTreatMissingHeaderAsEmpty(), present: true}
		switch spec := h.GetHeaderMatchSpecifier().(type) {
		case nil:
		case *routev3.HeaderMatcher_PresentMatch:
			hm.present = spec.PresentMatch
		case *routev3.HeaderMatcher_StringMatch:
			match, err := b.stringMatch(path+".string_match", spec.StringMatch)
			if err != nil {
				return m, err
			}
			hm.match = match
		default:
			return m, b.boot.Unsupported(path, "this header matcher")
		}
		m.headers = append(m.headers, hm)
	}
	for i, f := range c.GetFilterState() {
		path := at(path, "filter_state", i)
		if f.GetStringMatch() == nil {
			return m, b.boot.Unsupported(path, "a filter_state matcher other than string_match")
		}
		match, err := b.stringMatch(path+".string_match", f.GetStringMatch())
		if err != nil {
			return m, err
		}
		m.filterState = append(m.filterState, filterStateMatcher{f.GetKey(), match})
	}
	return m, nil
}

func (b *builder) stringMatch(path string, c *matcherv3.StringMatcher) (func(string) bool, error) {
	fold := func(s string) string { return s }
	if c.GetIgnoreCase() {
		fold = lower
	}
	switch p := c.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		if c.GetIgnoreCase() {
			return func(s string) bool { return equalFold(s, p.Exact) }, nil
		}
		return func(s string) bool { return s == p.Exact }, nil
	case *matcherv3.StringMatcher_Prefix:
		want := fold(p.Prefix)
		return func(s string) bool { return strings.HasPrefix(fold(s), want) }, nil
	case *matcherv3.StringMatcher_Suffix:
		want := fold(p.Suffix)
		return func(s string) bool { return strings.HasSuffix(fold(s), want) }, nil
	case *matcherv3.StringMatcher_Contains:
		want := fold(p.Contains)
		return func(s string) bool { return strings.Contains(fold(s), want) }, nil
	case *matcherv3.StringMatcher_SafeRegex:
		return b.regex(path+".safe_regex", p.SafeRegex)
	}
	return nil, b.boot.Unsupported(path, "this string matcher")
}

// regex compiles a safe_regex, which matches whole strings. Go's syntax is
// RE2's.
func (b *builder) regex(path string, c *matcherv3.RegexMatcher) (func(string) bool, error) {
	re, err := regexp.Compile(`\A(?:` + c.GetRegex() + `)\z`)
	if err != nil {
		return nil, b.boot.Errorf(path+".regex", "%q is no RE2 expression: %v", c.GetRegex(), err)
	}
	return re.MatchString, nil
}

// edited is what route configurations, virtual hosts and routes have in
// common.
type edited interface {
	GetRequestHeadersToAdd() []*corev3.HeaderValueOption
	GetRequestHeadersToRemove() []string
	GetResponseHeadersToAdd() []*corev3.HeaderValueOption
	GetResponseHeadersToRemove() []string
}

func (b *builder) headerEdits(path string, c edited) (headerEdits, error) {
	e := headerEdits{requestRemove: lowerAll(c.GetRequestHeadersToRemove()), responseRemove: lowerAll(c.GetResponseHeadersToRemove())}
	var err error
	if e.requestAdd, err = b.headerOptions(path+".request_headers_to_add", c.GetRequestHeadersToAdd()); err != nil {
		return e, err
	}
	e.responseAdd, err = b.headerOptions(path+".response_headers_to_add", c.GetResponseHeadersToAdd())
	return e, err
}

func (b *builder) headerOptions(path string, options []*corev3.HeaderValueOption) ([]headerOption, error) {
	var list []headerOption
	for i, o := range options {
		opt, err := b.headerOption(index(path, i), o)
		if err != nil {
			return nil, err
		}
		list = append(list, opt)
	}
	return list, nil
}

func (b *builder) headerOption(path string, o *corev3.HeaderValueOption) (headerOption, error) {
	value, err := b.format(path+".header.value", o.GetHeader().GetValue())
	return headerOption{name: canonical(o.GetHeader().GetKey()), value: value, action: o.GetAppendAction(), keepEmpty: o.GetKeepEmptyValue()}, err
}

func lowerAll(names []string) []string {
	var list []string
	for _, n := range names {
		list = append(list, lower(n))
	}
	return list
}

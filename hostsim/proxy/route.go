package proxy

import (
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// defaultRouteTimeout is Envoy's for a route without timeout.
const defaultRouteTimeout = 15 * time.Second

// routeTable is a RouteConfiguration.
type routeTable struct {
	exact    map[string]*virtualHost
	suffixes []*wildcard // *.example.com, longest first
	prefixes []*wildcard // example.*, longest first
	any      *virtualHost

	ignorePort, ignorePathParameters, mostSpecificWins bool

	vhostHeader  string   // that names the virtual host in the place of :authority
	internalOnly []string // fields that clients may not send

	headers headerEdits
	filters filterConfigs
}

type wildcard struct {
	text string
	host *virtualHost
}

type virtualHost struct {
	name            string
	routes          []*route
	requireTLS      bool
	tlsOutside      bool // it is not for internal requests
	headers         headerEdits
	filters         filterConfigs
	metadata        *corev3.Metadata
	virtualClusters []virtualCluster
	otherRequests   *requestStats // that match none of them, which has no name

	contentLimits                        contentLimits
	retry                                *retryPolicy
	attemptCount, attemptCountInResponse bool
	timeoutRetry                         bool // include_is_timeout_retry_header
}

// virtualCluster is a name for the requests of a virtual host that match.
type virtualCluster struct {
	stats   *requestStats
	headers []headerMatcher
}

// route is one entry of a virtual host. One with weighted clusters stands for
// a route of each of them.
type route struct {
	name        string
	virtualHost *virtualHost
	match       routeMatch
	levels      []*headerEdits  // of route, virtual host and table, in order
	filters     []filterConfigs // the same, most specific first
	metadata    *corev3.Metadata
	stats       *requestStats // of its stat_prefix; nil: none

	// Where it goes: a cluster by name, or the one that a header names, one
	// of several, or nowhere.
	cluster       string
	clusterHeader string
	weighted      *weightedClusters
	weight        *clusterWeight // of several, this one
	direct        *directResponse

	noCluster     int           // the status where the cluster is unknown
	timeout       time.Duration // 0: none
	idleTimeout   time.Duration // 0: none; negative: the connection manager's
	maxStream     time.Duration // 0: none; negative: the connection manager's
	durations     bool          // max_stream_duration is there: timeout is not heeded
	grpcMost      time.Duration // of grpc-timeout, which limits the stream; 0: any; negative: it does not
	grpcOffset    time.Duration // to be taken from it
	upgrades      map[string]bool
	terminates    bool         // CONNECT ends here: what it carries goes to the host as it is
	retry         *retryPolicy // nil: what the request asks for
	contentLimits contentLimits
	priority      int
	hashPolicies  []hashPolicy
	labels        labels // metadata_match: what the host is to be marked with

	rewritePath   pathRewrite // nil: none
	rewriteHost   hostRewrite // nil: none
	autoHost      bool        // the authority becomes the endpoint's name
	forwardedHost bool        // the old one is kept in x-forwarded-host
}

// clusterWeight is what a weighted cluster does to heads, before all else.
type clusterWeight struct {
	headers headerEdits
	host    string
}

type weightedClusters struct {
	header string // whose number takes the place of the random one
	hash   *route // whose hash policies do
	total  uint64
	ends   []uint64 // where each route's share ends
	routes []*route
}

// pick chooses by a number that stays the same for the life of the stream.
func (w *weightedClusters) pick(s *stream) *route {
	n := s.randomNumber()
	if w.header != "" {
		if v, err := strconv.ParseUint(s.request.value(w.header), 10, 64); err == nil {
			n = v
		}
	}
	if w.hash != nil {
		if hash, ok := w.hash.hash(s); ok {
			n = hash
		}
	}
	n %= w.total
	for i, end := range w.ends {
		if n < end {
			return w.routes[i]
		}
	}
	return w.routes[len(w.routes)-1]
}

// randomNumber is the one number by which a stream takes all its chances.
func (s *stream) randomNumber() uint64 {
	for s.random == 0 {
		s.random = rand.Uint64()
	}
	return s.random
}

type routeMatch struct {
	path     func(path string) bool // without query
	prefix   string                 // what prefix_rewrite replaces,
	whole    bool                   // or all of the path
	connect  bool                   // CONNECT, which has no path
	template *pathTemplate          // of path_match_policy

	headers    []headerMatcher
	conditions []condition
}

// find returns the route of a request, or nil.
func (t *routeTable) find(s *stream) *route {
	h := &s.request
	host := t.hostOf(h)
	scheme := h.value("x-forwarded-proto")
	if host == nil || scheme == "" {
		return nil
	}
	if host.requireTLS && scheme != "https" && !(host.tlsOutside && h.has("x-envoy-internal")) {
		return toTLS
	}
	i := h.find(":path")
	var path string
	if i >= 0 {
		path, _ = splitQuery(h.fields[i].value)
		if t.ignorePathParameters {
			path = withoutParameters(path)
		}
	}
	for _, r := range host.routes {
		if (i >= 0 || r.match.connect) && r.match.matches(s, path) {
			if r.weighted != nil {
				return r.weighted.pick(s)
			}
			return r
		}
	}
	return nil
}

// withoutParameters drops what stands behind a semicolon in each segment.
func withoutParameters(path string) string {
	for {
		i := strings.IndexByte(path, ';')
		if i < 0 {
			return path
		}
		end := len(path)
		if n := strings.IndexByte(path[i:], '/'); n >= 0 {
			end = i + n
		}
		path = path[:i] + path[end:]
	}
}

// toTLS is the route of a virtual host with require_tls.
var toTLS = &route{virtualHost: &virtualHost{}, contentLimits: contentLimits{-1, -1}, direct: &directResponse{status: 301, redirect: &redirect{scheme: "https"}}}

func (t *routeTable) hostOf(h *Headers) *virtualHost {
	if t.vhostHeader == "" {
		return t.host(h.value(":authority"))
	}
	return t.host(h.value(t.vhostHeader))
}

func (t *routeTable) host(authority string) *virtualHost {
	if len(t.exact) == 0 && len(t.suffixes) == 0 && len(t.prefixes) == 0 {
		return t.any
	}
	authority = lowered(authority)
	if t.ignorePort {
		if i := strings.LastIndexByte(authority, ':'); i >= 0 && strings.IndexByte(authority[i:], ']') < 0 {
			authority = authority[:i]
		}
	}
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

// lowered is lower without a copy of what is lower-case already.
func lowered(s string) string {
	for i := 0; i < len(s); i++ {
		if c := s[i]; 'A' <= c && c <= 'Z' {
			return lower(s)
		}
	}
	return s
}

func (m *routeMatch) matches(s *stream, path string) bool {
	if m.connect {
		if s.request.value(":method") != "CONNECT" {
			return false
		}
	} else {
		if m.template != nil { // which sees parameters even where the others do not
			path, _ = splitQuery(s.request.value(":path"))
		}
		if !m.path(path) {
			return false
		}
	}
	for i := range m.headers {
		if !m.headers[i].matches(&s.request) {
			return false
		}
	}
	return all(m.conditions, s)
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

// virtualClusterOf gives the virtual cluster of a request; nil where there is
// none at all.
func (v *virtualHost) virtualClusterOf(h *Headers) *requestStats {
next:
	for i := range v.virtualClusters {
		for j := range v.virtualClusters[i].headers {
			if !v.virtualClusters[i].headers[j].matches(h) {
				continue next
			}
		}
		return v.virtualClusters[i].stats
	}
	return v.otherRequests
}

// ---- from the configuration

func (b *builder) routeTable(path string, c *routev3.RouteConfiguration) (*routeTable, error) {
	t := &routeTable{
		exact: map[string]*virtualHost{}, mostSpecificWins: c.GetMostSpecificHeaderMutationsWins(),
		vhostHeader: lower(c.GetVhostHeader()),
		ignorePort:  c.GetIgnorePortInHostMatching(), ignorePathParameters: c.GetIgnorePathParametersInPathMatching(),
	}
	b.directBody, b.anyCluster = 4<<10, c.GetValidateClusters() != nil && !c.GetValidateClusters().GetValue()
	if v := c.GetMaxDirectResponseBodySizeBytes(); v != nil {
		b.directBody = int(v.GetValue())
	}
	for _, name := range c.GetInternalOnlyHeaders() {
		t.internalOnly = append(t.internalOnly, canonical(name))
	}
	var err error
	if t.headers, err = b.headerEdits(path, c); err != nil {
		return nil, err
	}
	if t.filters, err = b.filterConfigs(path, c.GetTypedPerFilterConfig()); err != nil {
		return nil, err
	}
	for i, v := range c.GetVirtualHosts() {
		path := at(path, "virtual_hosts", i)
		host, err := b.virtualHost(path, v, t)
		if err != nil {
			return nil, err
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

func (b *builder) virtualHost(path string, c *routev3.VirtualHost, t *routeTable) (*virtualHost, error) {
	v := &virtualHost{
		name: c.GetName(), metadata: c.GetMetadata(),
		requireTLS:   c.GetRequireTls() != routev3.VirtualHost_NONE,
		tlsOutside:   c.GetRequireTls() == routev3.VirtualHost_EXTERNAL_ONLY,
		attemptCount: c.GetIncludeRequestAttemptCount(), attemptCountInResponse: c.GetIncludeAttemptCountInResponse(),
		timeoutRetry: c.GetIncludeIsTimeoutRetryHeader(),
	}
	v.limits(c)
	var err error
	if v.retry, err = b.retryPolicy(path+".retry_policy", c.GetRetryPolicy()); err != nil {
		return nil, err
	}
	if v.headers, err = b.headerEdits(path, c); err != nil {
		return nil, err
	}
	if v.filters, err = b.filterConfigs(path, c.GetTypedPerFilterConfig()); err != nil {
		return nil, err
	}
	for i, c := range c.GetVirtualClusters() {
		headers, err := b.headerMatchers(at(path, "virtual_clusters", i)+".headers", c.GetHeaders())
		if err != nil {
			return nil, err
		}
		v.virtualClusters = append(v.virtualClusters, virtualCluster{newRequestStats(&b.server.Stats, "vhost."+v.name+".vcluster."+c.GetName()+".", c.GetName()), headers})
	}
	if len(v.virtualClusters) > 0 {
		v.otherRequests = newRequestStats(&b.server.Stats, "vhost."+v.name+".vcluster.other.", "")
	}
	for i, c := range c.GetRoutes() {
		r, err := b.route(at(path, "routes", i), c, v, t)
		if err != nil {
			return nil, err
		}
		v.routes = append(v.routes, r)
	}
	return v, nil
}

func (b *builder) route(path string, c *routev3.Route, v *virtualHost, t *routeTable) (*route, error) {
	r := &route{
		name: c.GetName(), virtualHost: v, metadata: c.GetMetadata(),
		timeout: defaultRouteTimeout, idleTimeout: -1, maxStream: -1, grpcMost: -1, noCluster: 503,
		contentLimits: requestLimits(c.GetRequestBodyBufferLimit(), c.GetPerRequestBufferLimitBytes(), v.contentLimits),
	}
	var err error
	if p := c.GetStatPrefix(); p != "" {
		r.stats = newRequestStats(&b.server.Stats, "vhost."+v.name+".route."+p+".", "")
	}
	if r.match, err = b.routeMatch(path+".match", c.GetMatch()); err != nil {
		return nil, err
	}
	headers, err := b.headerEdits(path, c)
	if err != nil {
		return nil, err
	}
	r.levels = outwards(t.mostSpecificWins, &headers, &v.headers, &t.headers)
	filters, err := b.filterConfigs(path, c.GetTypedPerFilterConfig())
	if err != nil {
		return nil, err
	}
	for _, f := range []filterConfigs{filters, v.filters, t.filters} {
		if len(f) > 0 {
			r.filters = append(r.filters, f)
		}
	}
	switch action := c.GetAction().(type) {
	case *routev3.Route_DirectResponse:
		r.direct, err = b.directResponse(path+".direct_response", action.DirectResponse)
	case *routev3.Route_Redirect:
		r.direct, err = b.redirect(path+".redirect", &r.match, action.Redirect)
	case *routev3.Route_Route:
		err = b.routeAction(path+".route", r, action.Route)
	default:
		err = b.boot.Unsupported(path, "a route without route, redirect or direct_response")
	}
	return r, err
}

func (b *builder) directResponse(path string, c *routev3.DirectResponseAction) (*directResponse, error) {
	d := &directResponse{status: int(c.GetStatus())}
	var err error
	if d.body, err = b.dataSource(path+".body", c.GetBody()); err != nil {
		return nil, err
	}
	if most := b.directBody; len(d.body) > most {
		return nil, b.boot.Errorf(path+".body", "the body of a direct response has %d bytes, more than %d", len(d.body), most)
	}
	if c.GetBodyFormat() != nil {
		d.format, err = b.substitution(path+".body_format", c.GetBodyFormat())
	}
	return d, err
}

// dataSource reads a text that may stand elsewhere.
func (b *builder) dataSource(path string, c *corev3.DataSource) (string, error) {
	switch src := c.GetSpecifier().(type) {
	case *corev3.DataSource_Filename:
		data, err := os.ReadFile(src.Filename)
		if err != nil {
			return "", b.boot.Errorf(path+".filename", "%v", err)
		}
		return string(data), nil
	case *corev3.DataSource_InlineBytes:
		return string(src.InlineBytes), nil
	case *corev3.DataSource_InlineString:
		return src.InlineString, nil
	case *corev3.DataSource_EnvironmentVariable:
		value, found := os.LookupEnv(src.EnvironmentVariable)
		if !found {
			return "", b.boot.Errorf(path+".environment_variable", "the environment has no %q", src.EnvironmentVariable)
		}
		return value, nil
	}
	return "", nil
}

func (b *builder) routeAction(path string, r *route, a *routev3.RouteAction) error {
	if err := b.rewrites(path, r, a); err != nil {
		return err
	}
	if a.GetTimeout() != nil {
		r.timeout = a.GetTimeout().AsDuration()
	}
	if a.GetIdleTimeout() != nil {
		r.idleTimeout = a.GetIdleTimeout().AsDuration()
	}
	if v := a.GetMaxStreamDuration().GetMaxStreamDuration(); v != nil {
		r.maxStream = v.AsDuration()
	}
	if d := a.GetMaxStreamDuration(); d != nil {
		r.durations, r.grpcOffset = true, d.GetGrpcTimeoutHeaderOffset().AsDuration()
		if m := d.GetGrpcTimeoutHeaderMax(); m != nil {
			r.grpcMost = m.AsDuration()
		}
	}
	switch a.GetClusterNotFoundResponseCode() {
	case routev3.RouteAction_NOT_FOUND:
		r.noCluster = 404
	case routev3.RouteAction_INTERNAL_SERVER_ERROR:
		r.noCluster = 500
	}
	for i, u := range a.GetUpgradeConfigs() {
		if r.upgrades == nil {
			r.upgrades = map[string]bool{}
		}
		r.upgrades[u.GetUpgradeType()] = u.GetEnabled() == nil || u.GetEnabled().GetValue()
		if u.GetConnectConfig() != nil {
			if !equalFold(u.GetUpgradeType(), "CONNECT") {
				return b.boot.Errorf(at(path, "upgrade_configs", i)+".connect_config", "non-CONNECT upgrade type %s has a connect_config", u.GetUpgradeType())
			}
			r.terminates = true
		}
	}
	var err error
	if r.retry, err = b.retryPolicy(path+".retry_policy", a.GetRetryPolicy()); err != nil {
		return err
	}
	if r.retry == nil {
		r.retry = r.virtualHost.retry
	}
	if r.hashPolicies, err = b.hashPolicies(path+".hash_policy", a.GetHashPolicy()); err != nil {
		return err
	}
	r.priority = int(a.GetPriority())
	r.labels = labelsOf(a.GetMetadataMatch().GetFilterMetadata()["envoy.lb"])
	if w := a.GetWeightedClusters(); w != nil {
		return b.weightedClusters(path+".weighted_clusters", r, w)
	}
	r.cluster, r.clusterHeader = a.GetCluster(), canonical(a.GetClusterHeader())
	return b.knownCluster(path+".cluster", r.cluster)
}

func (b *builder) knownCluster(path, name string) error {
	if name != "" && !b.clusters[name] && !b.anyCluster {
		return b.boot.Errorf(path, "unknown cluster %q: name one of static_resources.clusters", name)
	}
	return nil
}

// weightedClusters makes a route of each cluster.
func (b *builder) weightedClusters(path string, parent *route, c *routev3.WeightedCluster) error {
	w := &weightedClusters{header: canonical(c.GetHeaderName())}
	if c.GetUseHashPolicy().GetValue() {
		w.hash = parent
	}
	configured, runtimePrefix := uint64(0), c.GetRuntimeKeyPrefix()
	for i, c := range c.GetClusters() {
		path := at(path, "clusters", i)
		r := *parent
		r.cluster, r.clusterHeader = c.GetName(), canonical(c.GetClusterHeader())
		switch {
		case r.cluster != "" && r.clusterHeader != "":
			return b.boot.Errorf(path, "only one of name or cluster_header can be given")
		case r.cluster == "" && r.clusterHeader == "":
			return b.boot.Errorf(path, "at least one of name or cluster_header has to be given")
		}
		if err := b.knownCluster(path+".name", r.cluster); err != nil {
			return err
		}
		headers, err := b.headerEdits(path, c)
		if err != nil {
			return err
		}
		r.weight = &clusterWeight{headers, c.GetHostRewriteLiteral()}
		filters, err := b.filterConfigs(path, c.GetTypedPerFilterConfig())
		if err != nil {
			return err
		}
		if len(filters) > 0 {
			r.filters = append([]filterConfigs{filters}, r.filters...)
		}
		r.labels = parent.labels.with(labelsOf(c.GetMetadataMatch().GetFilterMetadata()["envoy.lb"]))
		weight := uint64(c.GetWeight().GetValue())
		configured += weight
		if prefix := runtimePrefix; prefix != "" {
			weight = b.runtime.number(prefix+"."+c.GetName(), weight)
		}
		w.total += weight
		w.ends, w.routes = append(w.ends, w.total), append(w.routes, &r)
	}
	if t := c.GetTotalWeight(); t != nil && uint64(t.GetValue()) != configured {
		return b.boot.Errorf(path+".total_weight", "the weights add up to %d, not to %d", configured, t.GetValue())
	}
	if w.total == 0 {
		return b.boot.Errorf(path+".clusters", "sum of weights in the weighted_cluster must be greater than 0")
	}
	parent.weighted = w
	return nil
}

func (b *builder) routeMatch(path string, c *routev3.RouteMatch) (routeMatch, error) {
	var m routeMatch
	sensitive := c.GetCaseSensitive() == nil || c.GetCaseSensitive().GetValue()
	hasPrefix, equal := strings.HasPrefix, func(a, b string) bool { return a == b }
	if !sensitive {
		hasPrefix, equal = hasPrefixFold, equalFold
	}
	switch spec := c.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		m.prefix = spec.Prefix
		m.path = func(p string) bool { return hasPrefix(p, spec.Prefix) }
	case *routev3.RouteMatch_Path:
		m.path, m.whole = func(p string) bool { return equal(p, spec.Path) }, true
	case *routev3.RouteMatch_PathSeparatedPrefix:
		m.prefix = spec.PathSeparatedPrefix
		n := len(m.prefix)
		m.path = func(p string) bool {
			return hasPrefix(p, spec.PathSeparatedPrefix) && (len(p) == n || p[n] == '/')
		}
	case *routev3.RouteMatch_SafeRegex:
		match, err := b.regex(path+".safe_regex", spec.SafeRegex)
		if err != nil {
			return m, err
		}
		m.path, m.whole = match, true
	case *routev3.RouteMatch_ConnectMatcher_:
		m.connect = true
	case *routev3.RouteMatch_PathMatchPolicy:
		var err error
		if m.template, err = b.pathTemplate(path+".path_match_policy.typed_config", spec.PathMatchPolicy.GetTypedConfig()); err != nil {
			return m, err
		}
		m.path, m.whole = m.template.matches, true
	default:
		return m, b.boot.Unsupported(path, "this path matcher")
	}
	var err error
	if m.headers, err = b.headerMatchers(path+".headers", c.GetHeaders()); err != nil {
		return m, err
	}
	add := func(cond condition, err error) error {
		m.conditions = append(m.conditions, cond)
		return err
	}
	if c.GetGrpc() != nil {
		m.conditions = append(m.conditions, func(s *stream) bool { return isGRPC(&s.request) })
	}
	if f := c.GetRuntimeFraction(); f != nil {
		m.conditions = append(m.conditions, fraction(b.runtime.fraction(f.GetRuntimeKey(), f.GetDefaultValue())))
	}
	if t := c.GetTlsContext(); t != nil {
		m.conditions = append(m.conditions, tlsContextMatches(t))
	}
	for i, q := range c.GetQueryParameters() {
		if err := add(b.queryMatcher(at(path, "query_parameters", i), q)); err != nil {
			return m, err
		}
	}
	for i, k := range c.GetCookies() {
		if err := add(b.cookieMatcher(at(path, "cookies", i), k)); err != nil {
			return m, err
		}
	}
	for i, d := range c.GetDynamicMetadata() {
		if err := add(b.metadataMatcher(at(path, "dynamic_metadata", i), d)); err != nil {
			return m, err
		}
	}
	for i, f := range c.GetFilterState() {
		if err := add(b.filterStateMatcher(at(path, "filter_state", i), f)); err != nil {
			return m, err
		}
	}
	return m, nil
}

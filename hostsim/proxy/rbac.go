package proxy

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// rbac is envoy.filters.http.rbac.
type rbac struct {
	passive
	stream  *stream
	factory *rbacFactory
}

type rbacFactory struct {
	headersOnly
	name  string
	rules *rbacRules

	prefix, shadowPrefix string // of what is left in the metadata

	allowed, denied, shadowAllowed, shadowDenied *Stat
}

func (f *rbacFactory) newFilter(s *stream) httpFilter { return &rbac{stream: s, factory: f} }

// rbacRules are the policies that are enforced and those that are only tried.
type rbacRules struct {
	enforced, shadow *rbacEngine
}

type rbacEngine struct {
	action   rbacconfigv3.RBAC_Action
	policies []rbacPolicy // by name
}

type rbacPolicy struct {
	name                    string
	permissions, principals []condition // one of each has to hold
}

// match finds the first policy that holds for a request.
func (e *rbacEngine) match(s *stream) (policy string, found bool) {
	holds := func(c condition) bool { return c(s) }
	for i := range e.policies {
		p := &e.policies[i]
		if slices.ContainsFunc(p.permissions, holds) && slices.ContainsFunc(p.principals, holds) {
			return p.name, true
		}
	}
	return "", false
}

// allows also gives the policy that decided, if one did.
func (e *rbacEngine) allows(s *stream) (allowed bool, policy string) {
	policy, found := e.match(s)
	switch e.action {
	case rbacconfigv3.RBAC_ALLOW:
		return found, policy
	case rbacconfigv3.RBAC_DENY:
		return !found, policy
	}
	s.setMetadata("envoy.common", &structpb.Struct{Fields: map[string]*structpb.Value{"access_log_hint": structpb.NewBoolValue(found)}})
	return true, policy
}

func (f *rbac) decodeHeaders(bool) status {
	s, rules := f.stream, f.factory.rules
	if r, ok := s.filterConfig(f.factory.name).(*rbacRules); ok {
		rules = r
	}
	if rules.shadow != nil {
		allowed, policy := rules.shadow.allows(s)
		count(allowed, f.factory.shadowAllowed, f.factory.shadowDenied)
		s.rbacResult(f.factory.shadowPrefix+"shadow_", allowed, policy)
	}
	if rules.enforced == nil {
		return goOn
	}
	allowed, policy := rules.enforced.allows(s)
	count(allowed, f.factory.allowed, f.factory.denied)
	s.rbacResult(f.factory.prefix+"enforced_", allowed, policy)
	if allowed {
		return goOn
	}
	if policy == "" {
		policy = "none"
	}
	details := "rbac_access_denied_matched_policy[" + strings.ReplaceAll(policy, " ", "_") + "]"
	s.reply(&localReply{status: 403, body: "RBAC: access denied", details: details})
	return stopHere
}

func count(allowed bool, yes, no *Stat) {
	if allowed {
		yes.Add(1)
	} else {
		no.Add(1)
	}
}

// rbacResult leaves a result in the dynamic metadata.
func (s *stream) rbacResult(prefix string, allowed bool, policy string) {
	result := "denied"
	if allowed {
		result = "allowed"
	}
	fields := map[string]*structpb.Value{prefix + "engine_result": structpb.NewStringValue(result)}
	if policy != "" {
		fields[prefix+"effective_policy_id"] = structpb.NewStringValue(policy)
	}
	s.setMetadata("envoy.filters.http.rbac", &structpb.Struct{Fields: fields})
}

// ---- from the configuration

func (b *builder) rbac(path, name string, c *rbacv3.RBAC) (*rbacFactory, error) {
	rules, err := b.rbacRules(path, c)
	stat := func(prefix, name string) *Stat {
		if prefix != "" && !strings.HasSuffix(prefix, ".") {
			prefix += "."
		}
		return b.server.Stats.Stat(b.statPrefix + "rbac." + prefix + name)
	}
	return &rbacFactory{
		name: name, rules: rules, prefix: c.GetRulesStatPrefix(), shadowPrefix: c.GetShadowRulesStatPrefix(),
		allowed: stat(c.GetRulesStatPrefix(), "allowed"), denied: stat(c.GetRulesStatPrefix(), "denied"),
		shadowAllowed: stat(c.GetShadowRulesStatPrefix(), "shadow_allowed"), shadowDenied: stat(c.GetShadowRulesStatPrefix(), "shadow_denied"),
	}, err
}

func (b *builder) rbacRules(path string, c *rbacv3.RBAC) (*rbacRules, error) {
	rules := &rbacRules{}
	var err error
	if rules.enforced, err = b.rbacEngine(path+".rules", c.GetRules()); err != nil {
		return nil, err
	}
	rules.shadow, err = b.rbacEngine(path+".shadow_rules", c.GetShadowRules())
	return rules, err
}

func (b *builder) rbacEngine(path string, c *rbacconfigv3.RBAC) (*rbacEngine, error) {
	if c == nil {
		return nil, nil
	}
	e := &rbacEngine{action: c.GetAction()}
	for _, name := range slices.Sorted(maps.Keys(c.GetPolicies())) {
		path, c := path+".policies["+strconv.Quote(name)+"]", c.GetPolicies()[name]
		if c.GetCondition() != nil || c.GetCheckedCondition() != nil {
			return nil, b.boot.Unsupported(path+".condition", "a condition of an RBAC policy")
		}
		p := rbacPolicy{name: name}
		var err error
		if p.permissions, err = b.permissions(path+".permissions", c.GetPermissions()); err != nil {
			return nil, err
		}
		if p.principals, err = b.principals(path+".principals", c.GetPrincipals()); err != nil {
			return nil, err
		}
		e.policies = append(e.policies, p)
	}
	return e, nil
}

func (b *builder) permissions(path string, list []*rbacconfigv3.Permission) ([]condition, error) {
	var conditions []condition
	for i, c := range list {
		cond, err := b.permission(index(path, i), c)
		if err != nil {
			return nil, err
		}
		conditions = append(conditions, cond)
	}
	return conditions, nil
}

func (b *builder) permission(path string, c *rbacconfigv3.Permission) (condition, error) {
	switch r := c.GetRule().(type) {
	case *rbacconfigv3.Permission_Any:
		return func(*stream) bool { return r.Any }, nil
	case *rbacconfigv3.Permission_AndRules:
		each, err := b.permissions(path+".and_rules.rules", r.AndRules.GetRules())
		return func(s *stream) bool { return all(each, s) }, err
	case *rbacconfigv3.Permission_OrRules:
		each, err := b.permissions(path+".or_rules.rules", r.OrRules.GetRules())
		return anyOf(each), err
	case *rbacconfigv3.Permission_NotRule:
		rule, err := b.permission(path+".not_rule", r.NotRule)
		return func(s *stream) bool { return !rule(s) }, err
	case *rbacconfigv3.Permission_Header:
		m, err := b.headerMatcher(path+".header", r.Header)
		return func(s *stream) bool { return m.matches(&s.request) }, err
	case *rbacconfigv3.Permission_UrlPath:
		return b.urlPath(path+".url_path", r.UrlPath)
	case *rbacconfigv3.Permission_Metadata:
		return b.metadataMatcher(path+".metadata", r.Metadata)
	case *rbacconfigv3.Permission_DestinationIp:
		return b.addressIn(path+".destination_ip", r.DestinationIp, func(s *stream) string { return s.conn.local })
	case *rbacconfigv3.Permission_DestinationPort:
		return func(s *stream) bool { return portOf(s.conn.local) == int64(r.DestinationPort) }, nil
	case *rbacconfigv3.Permission_DestinationPortRange:
		return func(s *stream) bool {
			port := portOf(s.conn.local)
			return int64(r.DestinationPortRange.GetStart()) <= port && port < int64(r.DestinationPortRange.GetEnd())
		}, nil
	case *rbacconfigv3.Permission_RequestedServerName:
		return b.noServerName(path+".requested_server_name", r.RequestedServerName)
	case *rbacconfigv3.Permission_UriTemplate:
		t, err := b.pathTemplate(path+".uri_template.typed_config", r.UriTemplate.GetTypedConfig())
		return func(s *stream) bool {
			p, _ := splitQuery(s.request.value(":path"))
			return t.matches(p)
		}, err
	case *rbacconfigv3.Permission_SourcedMetadata:
		return b.sourcedMetadata(path+".sourced_metadata", r.SourcedMetadata)
	}
	return nil, b.boot.Unsupported(path, "this RBAC permission")
}

func (b *builder) principals(path string, list []*rbacconfigv3.Principal) ([]condition, error) {
	var conditions []condition
	for i, c := range list {
		cond, err := b.principal(index(path, i), c)
		if err != nil {
			return nil, err
		}
		conditions = append(conditions, cond)
	}
	return conditions, nil
}

func (b *builder) principal(path string, c *rbacconfigv3.Principal) (condition, error) {
	switch r := c.GetIdentifier().(type) {
	case *rbacconfigv3.Principal_Any:
		return func(*stream) bool { return r.Any }, nil
	case *rbacconfigv3.Principal_AndIds:
		each, err := b.principals(path+".and_ids.ids", r.AndIds.GetIds())
		return func(s *stream) bool { return all(each, s) }, err
	case *rbacconfigv3.Principal_OrIds:
		each, err := b.principals(path+".or_ids.ids", r.OrIds.GetIds())
		return anyOf(each), err
	case *rbacconfigv3.Principal_NotId:
		id, err := b.principal(path+".not_id", r.NotId)
		return func(s *stream) bool { return !id(s) }, err
	case *rbacconfigv3.Principal_Header:
		m, err := b.headerMatcher(path+".header", r.Header)
		return func(s *stream) bool { return m.matches(&s.request) }, err
	case *rbacconfigv3.Principal_UrlPath:
		return b.urlPath(path+".url_path", r.UrlPath)
	case *rbacconfigv3.Principal_Metadata:
		return b.metadataMatcher(path+".metadata", r.Metadata)
	case *rbacconfigv3.Principal_FilterState:
		return b.filterStateMatcher(path+".filter_state", r.FilterState)
	case *rbacconfigv3.Principal_DirectRemoteIp:
		return b.addressIn(path+".direct_remote_ip", r.DirectRemoteIp, func(s *stream) string { return s.conn.remote })
	case *rbacconfigv3.Principal_RemoteIp:
		return b.addressIn(path+".remote_ip", r.RemoteIp, (*stream).clientAddress)
	case *rbacconfigv3.Principal_SourceIp:
		return b.addressIn(path+".source_ip", r.SourceIp, func(s *stream) string { return s.conn.remote })
	case *rbacconfigv3.Principal_Authenticated_:
		return func(*stream) bool { return false }, nil // nobody is, without TLS
	case *rbacconfigv3.Principal_SourcedMetadata:
		return b.sourcedMetadata(path+".sourced_metadata", r.SourcedMetadata)
	}
	return nil, b.boot.Unsupported(path, "this RBAC principal")
}

// noServerName matches the server name of a client, which has none without
// TLS.
func (b *builder) noServerName(path string, c *matcherv3.StringMatcher) (condition, error) {
	match, err := b.stringMatch(path, c)
	return func(*stream) bool { return match("") }, err
}

// sourcedMetadata matches what filters have left, or what the route has.
func (b *builder) sourcedMetadata(path string, c *rbacconfigv3.SourcedMetadata) (condition, error) {
	m := c.GetMetadataMatcher()
	if c.GetMetadataSource() == rbacconfigv3.MetadataSource_DYNAMIC {
		return b.metadataMatcher(path+".metadata_matcher", m)
	}
	match, err := b.valueMatcher(path+".metadata_matcher.value", m.GetValue())
	var keys []string
	for _, p := range m.GetPath() {
		keys = append(keys, p.GetKey())
	}
	return func(s *stream) bool {
		var metadata map[string]*structpb.Struct
		if r := s.findRoute(); r != nil {
			metadata = r.metadata.GetFilterMetadata()
		}
		return match(lookUp(metadata[m.GetFilter()], keys)) != m.GetInvert()
	}, err
}

func anyOf(each []condition) condition {
	return func(s *stream) bool {
		return slices.ContainsFunc(each, func(c condition) bool { return c(s) })
	}
}

// urlPath matches the path without its query.
func (b *builder) urlPath(path string, c *matcherv3.PathMatcher) (condition, error) {
	match, err := b.stringMatch(path+".path", c.GetPath())
	return func(s *stream) bool {
		p, _ := splitQuery(s.request.value(":path"))
		return s.request.has(":path") && match(p)
	}, err
}

func (b *builder) addressIn(path string, c *corev3.CidrRange, of func(*stream) string) (condition, error) {
	prefix, err := b.prefix(path, c)
	return func(s *stream) bool {
		a, err := netip.ParseAddrPort(of(s))
		return err == nil && prefix.Contains(a.Addr())
	}, err
}

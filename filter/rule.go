package filter

import "strings"

// Action is what a rule does with the upgrades it matches, or a configuration with those that no rule matches.
type Action uint8

const (
	// Route gives the request its metadata.
	Route Action = iota
	// Refuse answers it.
	Refuse
	// Ignore lets it go on as it came. It stays an upgrade: to take its header fields away would let what follows the
	// head pass as requests that no filter has seen.
	Ignore
)

// String returns the action as a configuration has it.
func (a Action) String() string {
	return [...]string{"route", "refuse", "ignore"}[a]
}

// Rule says which upgrades it matches, and what becomes of them. What is empty matches all.
type Rule struct {
	// Name is what no other rule is called: the value of the route header and of the filter state, and a part of counters.
	Name string
	// Protocol is the protocol wanted, in lower case; without a version, any version of it. The name "*" is any protocol,
	// but where the action is Route neither h2c nor TLS.
	Protocol Protocol
	// Hosts are names or addresses, in lower case and without port; "*." and a suffix is every host below the suffix.
	Hosts []string
	// Path is the whole path wanted, and PathPrefix its beginning; one of the two is empty. They are compared byte for
	// byte with ":path" without its query, as Envoy's matchers of these names do.
	Path, PathPrefix string
	// Origins are the origins wanted, and AbsentOrigin says whether a request without Origin counts as one of them.
	Origins      []Origin
	AbsentOrigin bool
	// Subprotocols are those of which Sec-WebSocket-Protocol has to name one; they have case.
	Subprotocols []string

	Action Action
	// Cluster is the value of the cluster header, or empty for no such header. Only with Route.
	Cluster string
	// Status is that of the answer, 400 to 599, if the action is Refuse, else 0.
	Status int
}

func (r *Rule) anyProtocol() bool { return r.Protocol.Name == "*" }

// wants reports whether the rule's protocol is the offered one.
func (r *Rule) wants(p Protocol) bool {
	if r.anyProtocol() {
		return r.Action != Route || !neverRouted(p)
	}
	return r.Protocol.covers(p)
}

// Missed is a rule that wanted an offered protocol and did not match, and the key of the rule on which it failed.
type Missed struct {
	Rule *Rule
	Key  string
}

// offer is what rules look at, read once from a request.
type offer struct {
	headers    HeaderMap
	verdict    Verdict
	path       string
	host, port string
	origin     requestOrigin
}

// match finds the first rule that matches and which of the offered protocols it wants; and of those before it (of all, if
// none matches) the one that came closest, by the order in which the keys are compared.
func (c *Config) match(o *offer) (rule *Rule, p Protocol, missed Missed) {
	closest := 0
	for i := range c.Rules {
		r := &c.Rules[i]
		p, ok := r.chooses(o)
		if !ok {
			continue
		}
		near, key := 0, ""
		switch {
		case r.Path != "" && o.path != r.Path:
			near, key = 1, "path"
		case !strings.HasPrefix(o.path, r.PathPrefix):
			near, key = 1, "path_prefix"
		case !r.wantsHost(o):
			near, key = 2, "hosts"
		case !r.wantsSubprotocol(o):
			near, key = 3, "subprotocols"
		case !r.wantsOrigin(o):
			near, key = 4, "origins"
		default:
			return r, p, missed
		}
		if near > closest {
			closest, missed = near, Missed{r, key}
		}
	}
	return nil, Protocol{}, missed
}

// chooses returns the first of the offered protocols that the rule wants.
func (r *Rule) chooses(o *offer) (Protocol, bool) {
	if o.verdict.Extended {
		return o.verdict.First, r.wants(o.verdict.First)
	}
	list := o.headers.Elements("upgrade")
	for element, ok := list.Next(); ok; element, ok = list.Next() {
		if p, ok := ParseProtocol(element); ok && r.wants(p) {
			return p, true
		}
	}
	return Protocol{}, false
}

func (r *Rule) wantsHost(o *offer) bool {
	for _, pattern := range r.Hosts {
		if hostMatches(pattern, o.host) {
			return true
		}
	}
	return len(r.Hosts) == 0
}

func (r *Rule) wantsOrigin(o *offer) bool {
	if o.origin.absent && len(r.Origins) > 0 {
		return r.AbsentOrigin
	}
	for _, entry := range r.Origins {
		if entry.matches(o.origin, o.host, o.port) {
			return true
		}
	}
	return len(r.Origins) == 0
}

func (r *Rule) wantsSubprotocol(o *offer) bool {
	if len(r.Subprotocols) == 0 {
		return true
	}
	list := o.headers.Elements("sec-websocket-protocol")
	for element, ok := list.Next(); ok; element, ok = list.Next() {
		for _, s := range r.Subprotocols {
			if element == s {
				return true
			}
		}
	}
	return false
}

// covers reports whether r matches every request that s matches: each key is equal or wider. Behind such a rule s could
// never be reached.
func (r *Rule) covers(s *Rule) bool {
	switch {
	case r.anyProtocol():
		// What h2c and TLS are to a rule depends on its action.
		if r.Action == Route && (s.anyProtocol() && s.Action != Route || neverRouted(s.Protocol)) {
			return false
		}
	case s.anyProtocol() || !r.Protocol.covers(s.Protocol):
		return false
	}
	switch {
	case r.Path != "" && r.Path != s.Path,
		!strings.HasPrefix(s.Path+s.PathPrefix, r.PathPrefix): // one of the two is empty
		return false
	case len(r.Hosts) > 0 && (len(s.Hosts) == 0 || !coverAll(r.Hosts, s.Hosts, hostCovers)):
		return false
	case len(r.Subprotocols) > 0 && (len(s.Subprotocols) == 0 ||
		!coverAll(r.Subprotocols, s.Subprotocols, func(a, b string) bool { return a == b })):
		return false
	case len(r.Origins) > 0 && (len(s.Origins) == 0 || s.AbsentOrigin && !r.AbsentOrigin ||
		!coverAll(r.Origins, s.Origins, Origin.covers)):
		return false
	}
	return true
}

// coverAll reports whether each of the narrow entries is covered by a wide one.
func coverAll[T any](wide, narrow []T, covers func(wide, narrow T) bool) bool {
next:
	for _, n := range narrow {
		for _, w := range wide {
			if covers(w, n) {
				continue next
			}
		}
		return false
	}
	return true
}

package filter

import (
	"strconv"
	"strings"
)

// Op is what a Mutation does.
type Op uint8

const (
	// Remove takes away all fields with the name.
	Remove Op = iota
	// Set replaces the field with the name, or adds it. There is at most one such field when it is applied.
	Set
)

// Mutation is one change of the request's header map. Apply them in order. Value is empty for Remove.
type Mutation struct {
	Op          Op
	Name, Value string
}

// Decision says what becomes of a request. It is data: nothing has been done yet.
//
// A request is routed (Rule is not nil), refused (Status is not 0) or goes on unrouted; Mutations are to be applied unless
// it is refused. FilterState is to be set if it is not empty, with Rule.Name as the value.
type Decision struct {
	Verdict Verdict
	// Reason is the verdict's, or NoRule.
	Reason Reason
	// Rule is the rule that matched. It belongs to the Config and must not be changed.
	Rule *Rule
	// Protocol is the offered protocol that the rule matched, as the client wrote it; without a rule the verdict's First.
	Protocol Protocol
	// Path is ":path" without the query.
	Path string
	// Status and Body are the refusal: an HTTP status and one line of text/plain that begins with the reason.
	Status int
	Body   string
	// Mutations of the header map: first what a client may not set, then what this filter sets.
	Mutations []Mutation
	// FilterState is the key under which the rule's name is to be put for the host's routes and access logs.
	FilterState string
}

// Decide says what becomes of a request with these header fields.
//
// Whatever the decision, client-supplied copies of the two metadata headers go, however often and in whatever mixture of
// case, "-" and "_" they were sent. The first rule that wants one of the offered protocols and the path wins; its request
// gets the metadata, "connection: Upgrade", and in Upgrade the one chosen protocol instead of the list (nothing else may
// ride along to the upstream), for a WebSocket spelled "websocket". What is as it should be is not touched, and an
// extended CONNECT has neither field. It allocates nothing for a request without an upgrade and without such copies.
func Decide(c *Config, h HeaderMap) Decision {
	d := Decision{Verdict: Classify(h), Path: pathOf(h)}
	d.Reason = d.Verdict.Reason
	d.Protocol = d.Verdict.First
	switch d.Reason {
	case MalformedUpgrade:
		d.Status, d.Body = 400, "malformed_upgrade: Upgrade is not a list of protocol names\n"
		return d
	case UpgradeWithBody:
		d.Status, d.Body = 400, "upgrade_with_body: a request for an upgrade must not have content\n"
		return d
	}
	d.Mutations = removeCopies(d.Mutations, h, c.Metadata.RouteHeader)
	d.Mutations = removeCopies(d.Mutations, h, c.Metadata.ClusterHeader)
	if d.Reason != Offered {
		return d
	}
	if d.Rule, d.Protocol = c.match(h, d.Verdict, d.Path); d.Rule == nil {
		d.Reason, d.Protocol = NoRule, d.Verdict.First
		return d
	}
	if c.Metadata.RouteHeader != "" {
		d.Mutations = append(d.Mutations, Mutation{Set, c.Metadata.RouteHeader, d.Rule.Name})
	}
	if c.Metadata.ClusterHeader != "" && d.Rule.Cluster != "" {
		d.Mutations = append(d.Mutations, Mutation{Set, c.Metadata.ClusterHeader, d.Rule.Cluster})
	}
	if !d.Verdict.Extended {
		d.Mutations = setOnly(d.Mutations, h, "connection", "Upgrade")
		d.Mutations = setOnly(d.Mutations, h, "upgrade", canonical(d.Protocol))
	}
	d.FilterState = c.Metadata.FilterState
	return d
}

// String returns the decision as one line of key=value pairs for a log. What a client wrote is quoted wherever it could
// be taken for something else, and cut where it is long.
func (d Decision) String() string {
	route, cluster, protocol := "-", "-", "-"
	if d.Rule != nil {
		route = d.Rule.Name
		if d.Rule.Cluster != "" {
			cluster = d.Rule.Cluster
		}
	}
	if d.Reason == MalformedUpgrade {
		protocol = d.Verdict.Malformed
	} else if d.Verdict.Count > 0 {
		protocol = d.Protocol.String()
	}
	return "reason=" + string(d.Reason) + " route=" + route + " cluster=" + cluster + " protocol=" + loggable(protocol) +
		" path=" + loggable(d.Path)
}

// match finds the first rule that wants this request, and which of the offered protocols it wants.
func (c *Config) match(h HeaderMap, v Verdict, path string) (*Rule, Protocol) {
	for i := range c.Rules {
		r := &c.Rules[i]
		if !strings.HasPrefix(path, r.PathPrefix) {
			continue
		}
		if v.Extended {
			if r.Protocol.covers(v.First) {
				return r, v.First
			}
			continue
		}
		list := h.Elements("upgrade")
		for element, ok := list.Next(); ok; element, ok = list.Next() {
			if p, ok := ParseProtocol(element); ok && r.Protocol.covers(p) {
				return r, p
			}
		}
	}
	return nil, Protocol{}
}

// canonical returns how the chosen protocol goes upstream. RFC 6455 4.2.1 wants the value "websocket", with no version.
func canonical(p Protocol) string {
	if equalFold(p.Name, "websocket") {
		return "websocket"
	}
	return p.String()
}

// removeCopies appends a Remove for each spelling of the name in h. Removing is the host's, which ignores case, so a
// spelling is removed once.
func removeCopies(m []Mutation, h HeaderMap, name string) []Mutation {
	if name == "" {
		return m
	}
fields:
	for i := range h {
		if !sameSpelling(h[i].Name, name) {
			continue
		}
		for j := range m {
			if equalFold(m[j].Name, h[i].Name) {
				continue fields
			}
		}
		m = append(m, Mutation{Op: Remove, Name: lowerString(h[i].Name)})
	}
	return m
}

// setOnly appends what makes value the only value of the field: nothing if it is. Where there are several lines they are
// removed first, as some hosts replace only the first.
func setOnly(m []Mutation, h HeaderMap, name, value string) []Mutation {
	n := h.Count(name)
	if got, _ := h.Get(name); n == 1 && got == value {
		return m
	}
	if n > 1 {
		m = append(m, Mutation{Op: Remove, Name: name})
	}
	return append(m, Mutation{Set, name, value})
}

// pathOf returns ":path" up to the query or fragment, which is what Envoy's prefix matcher looks at.
func pathOf(h HeaderMap) string {
	path, _ := h.Get(":path")
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		path = path[:i]
	}
	return path
}

// loggable returns s itself if it is visible ASCII without quotes and backslashes, else quoted; cut after 200 bytes.
func loggable(s string) string {
	const most = 200
	cut := len(s) > most
	if cut {
		s = s[:most]
	}
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] >= 0x7f || s[i] == '"' || s[i] == '\\' {
			s = strconv.QuoteToASCII(s)
			break
		}
	}
	if s == "" {
		return `""`
	}
	if cut {
		s += "..."
	}
	return s
}

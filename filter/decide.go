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

// Request is what a decision is about.
type Request struct {
	Headers HeaderMap
	// Version returns the version of HTTP by which the request came, as "HTTP/1.1", "HTTP/2" or "HTTP/3" (Envoy's attribute
	// request.protocol). It is called at most once, and only for a WebSocket to be routed that has no Sec-WebSocket-Key.
	// Without it the request came by HTTP/1.1.
	Version func() string
}

// Decision says what becomes of a request. It is data: nothing has been done yet.
//
// A request is routed (Routed), refused (Status is not 0) or goes on unrouted; Mutations are to be applied unless it is
// refused. FilterState is to be set if it is not empty, with Rule.Name as the value.
type Decision struct {
	Verdict Verdict
	// Reason is the verdict's if that decided, else what the rules or the check of the handshake made of it.
	Reason Reason
	// Rule is the rule that matched, whatever its action, or nil. It belongs to the Config and must not be changed.
	Rule   *Rule
	Routed bool
	// Missed is the rule that came closest, if the request is not routed and any rule is for what it offers.
	Missed Missed
	// Protocol is the offered protocol that the rule matched, as the client wrote it; without a rule the verdict's First.
	Protocol Protocol
	// Path is ":path" without the query.
	Path string

	// Status, Headers and Body are the refusal: an HTTP status, all header fields to send with it, and one line of
	// text/plain that begins with the reason.
	Status  int
	Headers []Field
	Body    string

	// Mutations of the header map: first what a client may not set, then what this filter sets.
	Mutations []Mutation
	// FilterState is the key under which the rule's name is to be put for the host's routes and access logs.
	FilterState string
	// SupplyKey asks for a KeyHeader with a NewKey: the WebSocket came by HTTP/2 or HTTP/3, which has none.
	SupplyKey bool
	// Answer is what is to be done about the response.
	Answer Answer

	// Counter is what counts this decision; of a request without Upgrade the zero Counter, as nobody asks about pages.
	Counter Counter
}

// Decide says what becomes of a request.
//
// Whatever the decision, client-supplied copies of the two metadata headers go, however often and in whatever mixture of
// case, "-" and "_" they were sent. The first rule that matches wins. If it routes, the request gets the metadata,
// "connection: Upgrade", and in Upgrade the one chosen protocol instead of the list (nothing else may ride along to the
// upstream), for a WebSocket spelled "websocket". What is as it should be is not touched, and an extended CONNECT has
// neither field.
//
// A WebSocket that came by HTTP/2 or HTTP/3 has no Sec-WebSocket-Key (RFC 8441 5). Where the host shows it as a GET with
// Upgrade, as Envoy does, and the server behind speaks HTTP/1.1, it would be refused: so it is to get a key (SupplyKey), and
// loses the "content-length: 0" that Envoy gives it. A keyless handshake by HTTP/1 stays as invalid as it is.
//
// It allocates nothing for a request without an upgrade and without copies of the metadata headers.
func Decide(c *Config, r Request) Decision {
	h := r.Headers
	d := Decision{Verdict: Classify(h), Path: pathOf(h)}
	d.Reason, d.Protocol = d.Verdict.Reason, d.Verdict.First
	if d.Reason == Offered {
		d.applyRules(c, r)
	}
	if d.Reason != NoUpgrade {
		d.Counter = c.counter(d.Reason, d.Rule, d.Protocol, h.Elements("upgrade"))
	}
	switch d.Reason {
	case MalformedUpgrade, UpgradeWithBody, NotGet, NoKey, SeveralKeys, InvalidKey, NoVersion, InvalidVersion:
		d.Status = 400
	case TooManyElements:
		d.Status = 431
	case UnsupportedVersion:
		d.Status = 426
	case RefusedByRule:
		d.Status = d.Rule.Status
	case NoRule:
		if c.Default == Refuse {
			d.Status = 403
		}
	}
	if d.Status != 0 {
		d.Body = string(d.Reason) + ": " + explanation(d.Reason) + "\n"
		d.Headers = []Field{{"content-type", "text/plain"}}
		if d.Reason == UnsupportedVersion {
			// RFC 6455 4.4, and RFC 9110 15.5.22. Envoy passes Upgrade on only beside this Connection.
			d.Headers = append(d.Headers, Field{"sec-websocket-version", "13"}, Field{"upgrade", "websocket"}, Field{"connection", "upgrade"})
		}
		return d
	}
	d.Mutations = removeCopies(d.Mutations, h, c.Metadata.RouteHeader)
	d.Mutations = removeCopies(d.Mutations, h, c.Metadata.ClusterHeader)
	if !d.Routed {
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
	if d.SupplyKey && h.Has("content-length") {
		d.Mutations = append(d.Mutations, Mutation{Op: Remove, Name: "content-length"})
	}
	d.FilterState = c.Metadata.FilterState
	return d
}

// applyRules decides about a well-formed offer: it sets the reason, the rule, and what is to be done about the key.
func (d *Decision) applyRules(c *Config, r Request) {
	o := offer{headers: r.Headers, verdict: d.Verdict, path: d.Path, origin: originOf(r.Headers)}
	o.host, o.port = hostOf(r.Headers)
	if c.asksSubprotocols() && tooMany(r.Headers.Elements("sec-websocket-protocol")) {
		d.Reason = TooManyElements
		return
	}
	var chosen Protocol
	if d.Rule, chosen, d.Missed = c.match(&o); d.Rule == nil {
		d.Reason = NoRule
		return
	}
	d.Protocol = chosen
	switch d.Rule.Action {
	case Refuse:
		d.Reason = RefusedByRule
		return
	case Ignore:
		d.Reason = IgnoredByRule
		return
	}
	if equalFold(chosen.Name, "websocket") {
		keyless := d.Verdict.Extended
		if !keyless && r.Version != nil && !r.Headers.Has(KeyHeader) {
			version := r.Version()
			keyless = strings.HasPrefix(version, "HTTP/2") || strings.HasPrefix(version, "HTTP/3")
			d.SupplyKey = keyless
		}
		if c.CheckHandshake {
			if d.Reason = checkHandshake(r.Headers, d.Verdict.Extended, keyless); d.Reason != Offered {
				d.SupplyKey = false
				return
			}
		}
		d.Answer.supplied = d.SupplyKey
		if key, reason := singleKey(r.Headers); reason == Offered && isKey(key) && !d.Verdict.Extended {
			d.Answer.key = key
		}
	}
	d.Routed, d.Missed = true, Missed{}
}

// GateRefused is the decision about an upgrade that Envoy itself refused with 403 before any filter saw it, as its gate does
// not allow the protocol. There is nothing left to be done; it is for the log and for counting.
func GateRefused(c *Config, h HeaderMap) Decision {
	d := Decision{Verdict: Classify(h), Reason: UpgradeFailed, Path: pathOf(h)}
	d.Protocol = d.Verdict.First
	d.Counter = c.counter(d.Reason, nil, d.Protocol, h.Elements("upgrade"))
	return d
}

// explanation is what a refusal says behind its reason.
func explanation(r Reason) string {
	switch r {
	case MalformedUpgrade:
		return "Upgrade is not a list of protocol names"
	case TooManyElements:
		return "more than " + strconv.Itoa(maxElements) + " elements in one field"
	case UpgradeWithBody:
		return "a request for an upgrade must not have content"
	case NoRule, RefusedByRule:
		return "this upgrade is not allowed here"
	case NotGet:
		return "the opening handshake of a WebSocket is a GET"
	case NoKey:
		return "Sec-WebSocket-Key is missing"
	case SeveralKeys:
		return "more than one Sec-WebSocket-Key"
	case InvalidKey:
		return "Sec-WebSocket-Key is not 16 bytes in base64"
	case NoVersion:
		return "Sec-WebSocket-Version is missing"
	case InvalidVersion:
		return "Sec-WebSocket-Version is not one number"
	case UnsupportedVersion:
		return "Sec-WebSocket-Version has to be 13"
	}
	return ""
}

// String returns the decision as one line of key=value pairs for a log. What a client wrote is quoted wherever it could
// be taken for something else, and cut where it is long.
//
// The pairs reason, route, cluster, protocol and path are always there; rule where it did not route, missed (rule.key) where
// one came close, status where it is refused, and key=supplied.
func (d Decision) String() string {
	route, cluster, protocol := "-", "-", "-"
	if d.Routed {
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
	s := "reason=" + string(d.Reason) + " route=" + route + " cluster=" + cluster + " protocol=" + loggable(protocol) +
		" path=" + loggable(d.Path)
	if d.Rule != nil && !d.Routed {
		s += " rule=" + d.Rule.Name
	}
	if d.Missed.Rule != nil {
		s += " missed=" + d.Missed.Rule.Name + "." + d.Missed.Key
	}
	if d.Status != 0 {
		s += " status=" + strconv.Itoa(d.Status)
	}
	if d.SupplyKey {
		s += " key=supplied"
	}
	return s
}

// asksSubprotocols reports whether a rule looks at Sec-WebSocket-Protocol.
func (c *Config) asksSubprotocols() bool {
	for i := range c.Rules {
		if len(c.Rules[i].Subprotocols) > 0 {
			return true
		}
	}
	return false
}

// tooMany reports whether a list has more elements than are compared with the rules.
func tooMany(list Elements) bool {
	for range maxElements + 1 {
		if _, ok := list.Next(); !ok {
			return false
		}
	}
	return true
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
	for i := 0; i < len(path); i++ {
		if path[i] == '?' || path[i] == '#' {
			return path[:i]
		}
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

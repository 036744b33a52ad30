package filter

// Reason says in one snake_case word why a request was decided as it was. The same word stands in the log line, in a
// refusal's body and in the counter's name.
type Reason string

// Reasons of Classify, which Decide hands on.
const (
	// NoUpgrade: there is no Upgrade field and no extended CONNECT; a plain request.
	NoUpgrade Reason = "no_upgrade"
	// NotNominated: Upgrade is there, but Connection lacks the option "upgrade", so that it is not meant for this hop
	// (RFC 9110 7.8); a plain request.
	NotNominated Reason = "not_nominated"
	// NothingOffered: Upgrade has only empty elements; a plain request.
	NothingOffered Reason = "nothing_offered"
	// MalformedUpgrade: an element of Upgrade is no protocol-name ["/" protocol-version]. What else stands beside it
	// cannot be trusted to mean what it seems to: refused with 400.
	MalformedUpgrade Reason = "malformed_upgrade"
	// TooManyElements: Upgrade, or Sec-WebSocket-Protocol where a rule asks for it, has more than 100 elements, which no
	// client needs and which would cost much to compare with each rule. Refused with 431.
	TooManyElements Reason = "too_many_elements"
	// UpgradeWithBody: the request has content, which Envoy cannot keep apart from the bytes of the tunnel: it waits for
	// a 101 before it passes them on, or passes chunk framing on as if it were tunnel. Refused with 400.
	UpgradeWithBody Reason = "upgrade_with_body"
	// Offered: an upgrade is offered, and it is well-formed; and of Decide: it is routed.
	Offered Reason = "offered"
)

// Reasons of Decide, by the rules.
const (
	// NoRule: an upgrade is offered that no rule wants; it goes on unrouted or, where the default says so, is refused
	// with 403.
	NoRule Reason = "no_rule"
	// RefusedByRule: the rule that matched refuses, with its status.
	RefusedByRule Reason = "refused_by_rule"
	// IgnoredByRule: the rule that matched lets the request go on unrouted.
	IgnoredByRule Reason = "ignored_by_rule"
)

// Reasons of Decide for a WebSocket that a rule would route, if handshakes are checked (RFC 6455 4.2.1): refused with 400,
// and UnsupportedVersion with 426.
const (
	// NotGet: the method is not GET.
	NotGet Reason = "not_get"
	// NoKey: there is no Sec-WebSocket-Key, and the request came by HTTP/1.
	NoKey Reason = "no_key"
	// SeveralKeys: there is more than one Sec-WebSocket-Key.
	SeveralKeys Reason = "several_keys"
	// InvalidKey: Sec-WebSocket-Key is not the base64 encoding of 16 bytes.
	InvalidKey Reason = "invalid_key"
	// NoVersion: there is no Sec-WebSocket-Version.
	NoVersion Reason = "no_version"
	// InvalidVersion: there is more than one Sec-WebSocket-Version, or it is no number.
	InvalidVersion Reason = "invalid_version"
	// UnsupportedVersion: Sec-WebSocket-Version is another than 13; the answer says which would do (RFC 6455 4.4).
	UnsupportedVersion Reason = "unsupported_version"
)

// UpgradeFailed is the reason of GateRefused: Envoy refused the upgrade before any filter saw it.
const UpgradeFailed Reason = "upgrade_failed"

// Fields that the gate (Envoy's early header mutations, see the envoy folder) sets before this filter runs. A client can
// send them itself where no gate stands, so they may only ever make a decision stricter.
const (
	// OfferedHeader holds the client's Upgrade list, which the gate replaced by the one protocol that Envoy accepts.
	OfferedHeader = "x-upgrade-offered"
	// FramingHeader holds the client's Transfer-Encoding, which Envoy drops before any filter sees it.
	FramingHeader = "x-upgrade-framing"
)

// maxElements is how many elements of a list are compared with the rules.
const maxElements = 100

// Verdict says what a request offers, before any rule is asked.
type Verdict struct {
	Reason Reason
	// Extended is set for an extended CONNECT (RFC 8441, RFC 9220), which offers its protocol in ":protocol".
	Extended bool
	// First is the first protocol offered, the one the client likes best; zero if Reason is NoUpgrade, NotNominated,
	// NothingOffered or MalformedUpgrade.
	First Protocol
	// Count is how many protocols are offered, repetitions included.
	Count int
	// Malformed is the ill-formed element, as the client wrote it, if Reason is MalformedUpgrade.
	Malformed string
}

// Classify says whether a request offers an upgrade, by RFC 9110 7.8 or, as extended CONNECT, by RFC 8441 4.
//
// The field lines may be split, spelled and spaced in every way that RFC 9110 allows. For Connection only the option
// "upgrade" counts; for Upgrade one ill-formed element spoils the field. A request offering nothing but h2c or TLS is
// never UpgradeWithBody: any client may attach these to any request, and servers ignore them. It allocates nothing.
func Classify(h HeaderMap) Verdict {
	if method, _ := h.Get(":method"); method == "CONNECT" {
		if protocol, ok := h.Get(":protocol"); ok {
			return classifyExtendedConnect(h, protocol)
		}
	}
	if !h.Has("upgrade") {
		return Verdict{Reason: NoUpgrade}
	}
	if !h.ContainsToken("connection", "upgrade") {
		return Verdict{Reason: NotNominated}
	}
	v := Verdict{Reason: Offered}
	ordinary := true // nothing but offers that ordinary requests carry
	list := h.Elements("upgrade")
	for element, ok := list.Next(); ok; element, ok = list.Next() {
		p, ok := ParseProtocol(element)
		if !ok {
			return Verdict{Reason: MalformedUpgrade, Malformed: element}
		}
		if v.Count == 0 {
			v.First = p
		}
		if v.Count++; v.Count > maxElements {
			return Verdict{Reason: TooManyElements, First: v.First, Count: v.Count}
		}
		ordinary = ordinary && neverRouted(p)
	}
	if element, bad := malformedHelper(h); bad {
		return Verdict{Reason: MalformedUpgrade, Malformed: element}
	}
	switch {
	case v.Count == 0:
		v.Reason = NothingOffered
	case !ordinary && hasContent(h):
		v.Reason = UpgradeWithBody
	}
	return v
}

// classifyExtendedConnect judges a CONNECT with ":protocol": one protocol, no list. Connection and Upgrade do not exist
// in HTTP/2 and HTTP/3 (RFC 9113 8.2.2); a request that has both forms asks for two things at once.
func classifyExtendedConnect(h HeaderMap, protocol string) Verdict {
	v := Verdict{Reason: Offered, Extended: true, Count: 1}
	var ok bool
	if v.First, ok = ParseProtocol(protocol); !ok || h.Count(":protocol") > 1 || h.Has("upgrade") {
		return Verdict{Reason: MalformedUpgrade, Extended: true, Malformed: protocol}
	}
	if element, bad := malformedHelper(h); bad {
		return Verdict{Reason: MalformedUpgrade, Extended: true, Malformed: element}
	}
	if hasContent(h) {
		v.Reason = UpgradeWithBody
	}
	return v
}

// malformedHelper looks for an ill-formed element in what the gate kept of the client's Upgrade.
func malformedHelper(h HeaderMap) (element string, bad bool) {
	list := h.Elements(OfferedHeader)
	for element, ok := list.Next(); ok; element, ok = list.Next() {
		if _, ok := ParseProtocol(element); !ok {
			return element, true
		}
	}
	return "", false
}

// hasContent reports whether the request has content, or framing that could be read as content (RFC 9112 6).
func hasContent(h HeaderMap) bool {
	if h.Has("transfer-encoding") || h.Has(FramingHeader) {
		return true
	}
	length, ok := h.Get("content-length")
	if !ok {
		return false
	}
	if length == "" || h.Count("content-length") > 1 {
		return true
	}
	for i := 0; i < len(length); i++ {
		if length[i] != '0' {
			return true
		}
	}
	return false
}

// neverRouted reports whether p is one of the two offers that ordinary requests carry and that a server behind a proxy
// never switches to: h2c, which RFC 9113 dropped and which smuggles requests past a proxy that tunnels it, and TLS
// (RFC 2817).
func neverRouted(p Protocol) bool {
	return equalFold(p.Name, "h2c") || equalFold(p.Name, "tls")
}

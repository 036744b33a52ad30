package filter

import "strings"

// KeyHeader is the field with which a client proves that it means a WebSocket, RFC 6455 11.3.1. HTTP/2 has none, and each
// HTTP/1.1 server wants one.
const KeyHeader = "sec-websocket-key"

// NewKey returns a Sec-WebSocket-Key made of 16 bytes, which are to be random for each request (RFC 6455 10.3).
func NewKey(random [16]byte) string { return base64(random[:]) }

// checkHandshake judges a WebSocket's opening handshake as RFC 6455 4.2.1 wants it, and returns Offered or what is wrong.
//
// keyless is set where no key is needed, as the handshake came by extended CONNECT (RFC 8441 5); if there is one
// nevertheless it must be right, as it reaches the server. HTTP/2's handshakes arrive as GET through Envoy, and as CONNECT
// where extended is set.
func checkHandshake(h HeaderMap, extended, keyless bool) Reason {
	if method, _ := h.Get(":method"); method != "GET" && !extended {
		return NotGet
	}
	if key, reason := singleKey(h); reason == NoKey && keyless {
		// As it should be.
	} else if reason != Offered {
		return reason
	} else if !isKey(key) {
		return InvalidKey
	}
	version, ok := h.Get("sec-websocket-version")
	version = trimOWS(version)
	switch {
	case !ok:
		return NoVersion
	case version == "13" && h.Count("sec-websocket-version") == 1:
		return Offered
	case !isVersion(version) || h.Count("sec-websocket-version") > 1:
		return InvalidVersion
	default:
		return UnsupportedVersion
	}
}

// singleKey returns the key, or NoKey or SeveralKeys. A host may have merged two lines into one with a comma, which is
// never part of a key.
func singleKey(h HeaderMap) (string, Reason) {
	key, ok := h.Get(KeyHeader)
	switch {
	case !ok:
		return "", NoKey
	case h.Count(KeyHeader) > 1 || strings.IndexByte(key, ',') >= 0:
		return "", SeveralKeys
	}
	return trimOWS(key), Offered
}

// isKey reports whether s is the base64 encoding of 16 bytes.
func isKey(s string) bool {
	if len(s) != 24 || s[22:] != "==" {
		return false
	}
	for i := range 22 {
		if !isBase64(s[i]) {
			return false
		}
	}
	return true
}

// isVersion reports whether s is a number as RFC 6455 4.3 writes it, without zeros in front, but of any size: also to one
// above 255 the answer is which version would do.
func isVersion(s string) bool {
	if s == "" || len(s) > 1 && s[0] == '0' {
		return false
	}
	for i := 0; i < len(s); i++ {
		if !isDigit(s[i]) {
			return false
		}
	}
	return true
}

// Answer is what is to be done about the response to a routed WebSocket. The zero value is nothing.
//
// Keep it until the response's header fields come, if Needed.
type Answer struct {
	key      string // what to compute a missing Sec-WebSocket-Accept from
	supplied bool   // the key is ours, and so the client must not see an answer to it
}

// Needed reports whether there can be anything to do.
func (a Answer) Needed() bool { return a.supplied || a.key != "" }

// SuppliedKey reports whether the key was not the client's.
func (a Answer) SuppliedKey() bool { return a.supplied }

// Mutations returns the changes of the response's header map.
//
// To a client that sent no key, Sec-WebSocket-Accept is not shown. To one that sent a key and gets a 101 for a WebSocket
// without Sec-WebSocket-Accept, it is computed (RFC 6455 4.2.2, 5.4): that is what Envoy makes of the answer of an HTTP/2
// server, which never saw the key; a client refuses a 101 without it. Of the response only ":status", "upgrade" and
// "sec-websocket-accept" are looked at; where the last is there and the key was the client's, there is nothing to do.
func (a Answer) Mutations(response HeaderMap) []Mutation {
	const accept = "sec-websocket-accept"
	if a.supplied {
		if response.Has(accept) {
			return []Mutation{{Op: Remove, Name: accept}}
		}
		return nil
	}
	if a.key == "" || response.Has(accept) || !response.ContainsToken("upgrade", "websocket") {
		return nil
	}
	if status, _ := response.Get(":status"); status != "101" {
		return nil
	}
	digest := sha1(a.key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")
	return []Mutation{{Set, accept, base64(digest[:])}}
}

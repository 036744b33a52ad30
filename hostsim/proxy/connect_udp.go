package proxy

import (
	"net/url"
	"strings"
)

// udpTarget makes the target that a CONNECT-UDP request names in its path the
// :authority (RFC 9298 2, with the default template); ok is false where the
// path names none.
func udpTarget(h *Headers) (ok bool) {
	path := h.value(":path")
	for i := 0; i < len(path); i++ {
		if path[i] <= ' ' || path[i] > '~' {
			return false
		}
	}
	rest, ok := strings.CutPrefix(path, "/.well-known/masque/udp/")
	parts := strings.Split(rest, "/")
	if !ok || len(parts) < 2 || parts[0] == "" || parts[1] == "" {
		return false
	}
	host, err := url.PathUnescape(parts[0])
	if err != nil {
		host = parts[0]
	}
	port, err := url.PathUnescape(parts[1])
	if err != nil {
		port = parts[1]
	}
	if strings.Contains(host, "%") { // RFC 9298 2: no zones
		return false
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	h.set(":authority", host+":"+port)
	return true
}

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// metadata are the fields that only the gate and the filter may set, each with
// what a client would send to gain by it or to break a handshake.
var metadata = map[string][]string{
	"x-upgrade-route":   {"websocket", "web"},
	"x-upgrade-cluster": {"websocket", "web"},
	"x-upgrade-offered": {"websocket", `"not a protocol`},
	"x-upgrade-framing": {"chunked"},
}

// spellings returns every mixture of - and _ in name, each in three cases.
func spellings(name string) []string {
	mixtures := []string{""}
	for _, c := range name {
		var next []string
		for _, m := range mixtures {
			next = append(next, m+string(c))
			if c == '-' {
				next = append(next, m+"_")
			}
		}
		mixtures = next
	}
	var all []string
	for _, m := range mixtures {
		all = append(all, m, strings.ToUpper(m), strings.ToUpper(m[:1])+m[1:])
	}
	return all
}

// isMetadata says whether a field line is one of the four, however it is
// spelled. It is not built from the gate's own expression.
func isMetadata(line string) bool {
	name, _, _ := strings.Cut(line, ":")
	_, ours := metadata[strings.ReplaceAll(lower(name), "_", "-")]
	return ours
}

// A client cannot set the routing and helper fields: they change nothing, and
// no upstream sees them, whatever the request is.
func testSpoofedMetadata(t *testing.T, p *proxy) {
	requests := []struct{ name, fields, want string }{
		{"on a page", "", "web 200"},
		{"on a page with an Upgrade that Connection does not nominate", "Upgrade: websocket\r\n", "web 200"},
		{"on a page that nominates only other fields", "Connection: keep-alive\r\nUpgrade: websocket\r\n", "web 200"},
		{"on a page that offers h2c only", "Connection: Upgrade\r\nUpgrade: h2c\r\n", "web 200"},
		{"on a socket", "Connection: Upgrade\r\nUpgrade: websocket\r\n", "websocket 101 echo"},
		{"on a socket in a list", "Connection: keep-alive, Upgrade\r\nUpgrade: h2c, websocket\r\n", "websocket 101 echo"},
		{"on a socket that nominates them", "Connection: Upgrade, x-upgrade-route, x-upgrade-cluster\r\nUpgrade: websocket\r\n", "websocket 101 echo"},
	}
	for _, r := range requests {
		t.Run(r.name, func(t *testing.T) {
			check := func(what, spoof string) {
				t.Helper()
				const raw = "GET /t/@@ HTTP/1.1\r\nHost: localhost\r\n%sSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s%s\r\n"
				want := r.want
				if p.refuses != nil && p.refuses(spoof, strings.HasPrefix(want, "websocket")) {
					want = "- 400"
				}
				// Before the handshake's own fields and behind them.
				for _, sent := range []string{fmt.Sprintf(raw, spoof, r.fields, ""), fmt.Sprintf(raw, "", r.fields, spoof)} {
					o := p.exchange(t, sent)
					if o.String() != want {
						t.Errorf("%s, %q: got %s, want %s", what, spoof, o, want)
					}
					for _, line := range o.Received {
						if isMetadata(line) {
							t.Errorf("%s, %q: the upstream received %q", what, spoof, line)
						}
					}
				}
			}
			// What the gate itself sets must not leak either.
			check("nothing spoofed", "")
			for name, values := range metadata {
				for _, value := range values {
					all := ""
					for _, spelling := range spellings(name) {
						line := spelling + ": " + value + "\r\n"
						check("one line", line)
						check("three lines of one spelling", line+line+line)
						all += line
					}
					check("a line of each spelling", all)
				}
			}
		})
	}
}

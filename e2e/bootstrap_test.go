package e2e

import (
	"bufio"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// bootstraps are the shipped files.
var bootstraps = []string{"bootstrap/minimal.yaml", "bootstrap/upgrade-chain.yaml", "bootstrap/subset.yaml"}

// Every peer does with every shipped file, unchanged but for the ports, what
// the file is there for.
func TestBootstraps(t *testing.T) {
	for _, peer := range peers {
		for _, file := range bootstraps {
			t.Run(peer.name+"/"+filepath.Base(file), func(t *testing.T) {
				t.Parallel()
				// One for all: with a Go plugin an Envoy starts in seconds.
				p := start(t, peer, shipped(t, file))
				t.Run("corpus", func(t *testing.T) { testCorpus(t, p) })
				t.Run("spoofed metadata", func(t *testing.T) { testSpoofedMetadata(t, p) })
				t.Run("ignored offers", func(t *testing.T) { testIgnoredOffers(t, p) })
				t.Run("upgrade with a body", func(t *testing.T) { testUpgradeWithBody(t, p) })
				t.Run("path normalisation", func(t *testing.T) { testPathNormalisation(t, p) })
			})
		}
	}
}

const (
	page   = "GET /t/@@ HTTP/1.1\r\nHost: localhost\r\n\r\n"
	socket = "GET /t/@@ HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

// denyAll is an RBAC filter that refuses every request.
const denyAll = `- name: envoy.filters.http.rbac
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
    rules:
      action: DENY
      policies:
        everyone:
          permissions:
          - any: true
          principals:
          - any: true
`

// denyIn puts denyAll first into the filter list that begins at the line list,
// whose items have the list's own indentation.
func denyIn(t *testing.T, bootstrap, list string) string {
	t.Helper()
	indent := list[:len(list)-len(strings.TrimLeft(list, " "))]
	filter := indent + strings.ReplaceAll(strings.TrimSuffix(denyAll, "\n"), "\n", "\n"+indent) + "\n"
	return replace(t, bootstrap, "\n"+list+"\n", "\n"+list+"\n"+filter)
}

// upgrade_configs[].filters replaces http_filters for upgrades: a filter that
// guards sockets too must stand in both. minimal.yaml has one chain for all.
func TestDenyAll(t *testing.T) {
	const (
		httpFilters    = "          http_filters:"
		upgradeFilters = "            filters:"
	)
	tests := []struct {
		name, file string
		lists      []string
		page       string
		socket     string
	}{
		{"in the one chain of minimal.yaml it guards both", "bootstrap/minimal.yaml", []string{httpFilters}, "- 403", "- 403"},
		{"only in http_filters of upgrade-chain.yaml it lets sockets past", "bootstrap/upgrade-chain.yaml", []string{httpFilters}, "- 403", "websocket 101 echo"},
		{"only in the upgrade chain it lets pages past", "bootstrap/upgrade-chain.yaml", []string{upgradeFilters}, "web 200", "- 403"},
		{"in both chains of upgrade-chain.yaml it guards both", "bootstrap/upgrade-chain.yaml", []string{httpFilters, upgradeFilters}, "- 403", "- 403"},
	}
	for _, peer := range peers {
		for _, test := range tests {
			t.Run(peer.name+"/"+test.name, func(t *testing.T) {
				t.Parallel()
				bootstrap := shipped(t, test.file)
				for _, list := range test.lists {
					bootstrap = denyIn(t, bootstrap, list)
				}
				p := start(t, peer, bootstrap)
				if got := p.exchange(t, page).String(); got != test.page {
					t.Errorf("page: got %s, want %s", got, test.page)
				}
				if got := p.exchange(t, socket).String(); got != test.socket {
					t.Errorf("socket: got %s, want %s", got, test.socket)
				}
			})
		}
	}
}

// A rule may name a cluster of its own, and only requests that match the rule
// go there.
func TestRuleWithCluster(t *testing.T) {
	for _, peer := range peers {
		for _, file := range []string{"bootstrap/minimal.yaml", "bootstrap/upgrade-chain.yaml"} {
			t.Run(peer.name+"/"+filepath.Base(file), func(t *testing.T) {
				t.Parallel()
				// `web` for /t/w: the rule's cluster must win over the name.
				p := start(t, peer, replace(t, shipped(t, file),
					`{"rules": [{"name": "websocket", "protocol": "websocket"}]}`,
					`{"rules": [{"name": "websocket", "protocol": "websocket", "path_prefix": "/to-web/", "cluster": "web"},`+
						` {"name": "by-cluster", "protocol": "websocket", "path_prefix": "/to-websocket/", "cluster": "websocket"}]}`))
				for _, test := range []struct{ path, want string }{
					// The web upstream answers 200 to a handshake.
					{"/to-web/t/@@", "web 200"},
					{"/to-websocket/t/@@", "websocket 101 echo"},
					{"/neither/t/@@", "web 200"},
				} {
					if got := p.exchange(t, strings.Replace(socket, "/t/@@", test.path, 1)).String(); got != test.want {
						t.Errorf("socket to %s: got %s, want %s", test.path, got, test.want)
					}
				}
			})
		}
	}
}

// The filter, the routes and the application see one spelling of a path.
func testPathNormalisation(t *testing.T, p *proxy) {
	tests := []struct{ name, path, want, line string }{
		{"dot segments are resolved", "/a/../t/@@", "web 200", "GET /t/@@ HTTP/1.1"},
		{"slashes are merged", "//t///@@", "web 200", "GET /t/@@ HTTP/1.1"},
		{"the query is left alone", "/t/@@?a=//b/../c%2F", "web 200", "GET /t/@@?a=//b/../c%2F HTTP/1.1"},
		{"an escaped slash is refused", "/t/@@%2Fa", "- 400", ""},
		{"an escaped slash in lower case is refused", "/t/@@%2fa", "- 400", ""},
		{"an escaped backslash is refused", "/t/@@%5Ca", "- 400", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := p.exchange(t, strings.Replace(page, "/t/@@", test.path, 1))
			line := ""
			if len(o.Received) > 0 {
				line = o.Received[0]
			}
			if o.String() != test.want || line != test.line {
				t.Errorf("%s: got %s, %q, want %s, %q", test.path, o, line, test.want, test.line)
			}
		})
	}
}

// Offers that the gate ignores make an ordinary request, with its content and
// a connection that stays; what it neither ignores nor allows is refused.
func testIgnoredOffers(t *testing.T, p *proxy) {
	tests := []struct{ name, fields, want string }{
		{"h2c alone", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n", "web 200"},
		{"h2c in a list of itself", "Connection: Upgrade\r\nUpgrade: h2c, H2C\r\n", "web 200"},
		{"h2c in two lines", "Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: h2c\r\n", "web 200"},
		{"TLS in any case and version", "Connection: Upgrade\r\nUpgrade: tLs/1.3\r\n", "web 200"},
		{"h2c and TLS", "Connection: Upgrade\r\nUpgrade: TLS/1.2, h2c,\r\n", "web 200"},
		{"a protocol that is neither", "Connection: Upgrade\r\nUpgrade: foo\r\n", "- 403"},
		{"h2c and a protocol that is neither", "Connection: Upgrade\r\nUpgrade: h2c, foo\r\n", "- 403"},
		{"a name that begins as h2c does", "Connection: Upgrade\r\nUpgrade: h2cc\r\n", "- 403"},
		{"TL and the letter U+017F, which folds to S outside ASCII", "Connection: Upgrade\r\nUpgrade: TL\u017f/1.2\r\n", "- 403"},
		{"websocket with the letter U+017F", "Connection: Upgrade\r\nUpgrade: web\u017focket\r\n", "- 403"},
		{"websocket with U+212A, which folds to K", "Connection: Upgrade\r\nUpgrade: websoc\u212aet\r\n", "- 403"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := p.exchange(t, "POST /t/@@ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"+test.fields+"\r\nhello")
			if o.String() != test.want {
				t.Errorf("got %s, want %s", o, test.want)
			}
			if o.Status == 200 && o.Content != "hello" {
				t.Errorf("web got the content %q, want %q", o.Content, "hello")
			}
			closes := head{fields: o.Answer}.offers("connection", "close")
			if page := o.Status == 200; page == closes {
				t.Errorf("got connection: close %t, want it unless the request is a page\n%q", closes, o.Answer)
			}
		})
	}
}

// An upgrade with content is refused: Envoy would hold a Content-Length body
// back for ever, and make tunnel bytes of the framing of a chunked one.
func testUpgradeWithBody(t *testing.T, p *proxy) {
	tests := []struct{ name, field, content, want string }{
		{"no content", "", "", "websocket 101 echo"},
		{"a Content-Length of nothing", "Content-Length: 0\r\n", "", "websocket 101 echo"},
		{"a Content-Length", "Content-Length: 5\r\n", "hello", "- 400"},
		{"chunked", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n", "- 400"},
		{"chunked in another case, and nothing in it", "transfer-encoding: Chunked\r\n", "0\r\n\r\n", "- 400"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := p.exchange(t, strings.TrimSuffix(socket, "\r\n")+test.field+"\r\n"+test.content)
			if o.String() != test.want {
				t.Errorf("got %s, want %s", o, test.want)
			}
			if o.Status == 400 && !strings.Contains(o.Body, "upgrade_with_body") {
				t.Errorf("got the content %q, want it to name the reason upgrade_with_body", o.Body)
			}
		})
	}
}

// The idle timeout of the route that the filter chose cuts a silent socket,
// not that of the route which matched before: it has none, and Envoy's default
// of five minutes is longer than this test waits.
func TestSocketIdleTimeout(t *testing.T) {
	for _, peer := range peers {
		t.Run(peer.name, func(t *testing.T) {
			t.Parallel()
			p := start(t, peer, replace(t, shipped(t, "bootstrap/minimal.yaml"),
				"cluster: websocket\n                  idle_timeout: 3600s\n",
				"cluster: websocket\n                  idle_timeout: 1s\n"))
			c, err := net.Dial("tcp", p.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(c, strings.ReplaceAll(socket, "@@", "idle")); err != nil {
				t.Fatal(err)
			}
			r := bufio.NewReader(c)
			h, err := readHead(r)
			if err != nil || h.status() != 101 {
				t.Fatalf("got %q, %v, want a 101", h.start, err)
			}
			if !echoes(c, r, "a first sign of life") {
				t.Fatal("no bytes flow")
			}
			if rest, err := io.ReadAll(r); err != nil && isTimeout(err) {
				t.Errorf("the silent socket is still open after %v (%q, %v)", patience, rest, err)
			}
		})
	}
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}

//go:build world

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	chromium = program{title: "Chromium", name: "chromium", pkg: "chromium"}
	firefox  = program{title: "Firefox ESR", name: "firefox-esr", pkg: "firefox-esr"}
)

// browsers are what testers drive, by the names that browser.mjs knows.
var browsers = []struct {
	name    string
	program program
}{
	{"chromium", chromium},
	{"firefox", firefox},
}

// browse has a browser open the URL and returns, as JSON, what the page left in
// window.result, or what the script found. Both and a picture go to bin/world.
func browse(t *testing.T, browser string, program program, url, image string, script ...string) map[string]any {
	t.Helper()
	out := output(t, slices.Concat([]string{"node", installed(t, "node/browser.mjs"), browser, program.path(t), url, artifact(t, image)}, script)...)
	var result map[string]any
	if err := json.Unmarshal(out, &result); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.WriteFile(artifact(t, strings.TrimSuffix(image, ".png")+".json"), out, 0o644); err != nil {
		t.Fatal(err)
	}
	return result
}

// tlsInFront gives the only filter chain of a bootstrap a certificate.
func tlsInFront(t *testing.T, bootstrap string, c certificate, alpn ...string) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(`
    filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [` + strings.Join(alpn, ", ") + `]
            tls_certificates:
            - certificate_chain: {filename: ` + c.chain + `}
              private_key: {filename: ` + c.key + `}
      filters:
`)
	return replace(t, bootstrap, "\n    filter_chains:\n    - filters:\n", b.String())
}

// Browsers open a page and its sockets through the gate and the filter, in every
// way that a front can offer them.
func TestBrowsers(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("testdata/world/sockets.html"))
	if err != nil {
		t.Fatal(err)
	}
	cert := newCertificate(t)
	fronts := []struct {
		name, what, scheme string
		bootstrap          string
		page               string // the protocol of the page, in the words of the Performance API
		log                string // the protocol of the socket, in the access log
	}{
		{"http", "WebSocket over HTTP/1.1", "http", shipped(t, "bootstrap/minimal.yaml"), "http/1.1", "HTTP/1.1"},
		{"https", "WebSocket over HTTP/1.1 and TLS", "https", tlsInFront(t, shipped(t, "bootstrap/minimal.yaml"), cert, "http/1.1"), "http/1.1", "HTTP/1.1"},
		{"h2", "WebSocket over HTTP/2 (RFC 8441) and TLS", "https", tlsInFront(t, shipped(t, "bootstrap/http2.yaml"), cert, "h2", "http/1.1"), "h2", "HTTP/2"},
	}
	for _, peer := range []peer{envoy140, hostsim} {
		for _, front := range fronts {
			t.Run(peer.name+"/"+front.name, func(t *testing.T) {
				t.Parallel()
				u := startUpstreams(t)
				server := startEchoServer(t, u)
				id := u.newID()
				u.ports[8080] = serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/restart" {
						if err := server.restart(); err != nil {
							http.Error(w, err.Error(), http.StatusInternalServerError)
						}
						return
					}
					w.Header().Set("Content-Type", "text/html; charset=utf-8")
					_, _ = w.Write([]byte(strings.ReplaceAll(string(page), "/t/ID", "/t/"+id)))
				}))
				p := startOn(t, peer, front.bootstrap, u)
				_, port, _ := strings.Cut(p.addr, ":")
				for _, b := range browsers {
					t.Run(b.name, func(t *testing.T) {
						before := len(u.received(id))
						got := browse(t, b.name, b.program, front.scheme+"://localhost:"+port+"/", "browser-"+b.name+"-"+peer.name+"-"+front.name+".png")
						version, _ := got["version"].(string)
						delete(got, "version")
						extensions, _ := got["extensions"].(string)
						delete(got, "extensions")
						if !strings.HasPrefix(extensions, "permessage-deflate") {
							t.Errorf("got the extensions %q, want permessage-deflate", extensions)
						}
						// The codes arrive in every way. But when the server has hung
						// up, Envoy resets an HTTP/2 stream, which Chromium calls unclean.
						clean := strconv.FormatBool(b.name != "chromium" || front.name != "h2")
						want := map[string]any{
							"page":              front.page,
							"subprotocol":       "v1.echo",
							"short":             "there and back",
							"long":              true,
							"closed by server":  "4001 as you wish, clean " + clean,
							"closed by page":    "4002, clean " + clean,
							"after the restart": float64(1006),
							"reconnected":       "back again",
						}
						if diff := cmp.Diff(want, got); diff != "" {
							t.Errorf("(-want +got):\n%s", diff)
						}
						if !slices.Contains(server.closedWith(), 4002) {
							t.Errorf("the server got the close codes %v, want 4002 among them", server.closedWith())
						}
						reached := u.received(id)[before:]
						if len(reached) < 4 {
							t.Errorf("%d sockets reached the server, want at least 4", len(reached))
						}
						for _, r := range reached {
							h := head{r.Start, r.Fields}
							if r.Upstream != "websocket" || !slices.Equal(h.values("connection"), []string{"Upgrade"}) || len(h.values("sec-websocket-key")) != 1 {
								t.Errorf("the server got %+v, want a handshake with a key", r)
							}
						}
						if err := await(nil, func() error { // Envoy writes its access log every ten seconds
							if line := `"GET /t/` + id + ` ` + front.log + `"`; !strings.Contains(p.log.String(), line) {
								return fmt.Errorf("the access log has no line with %s", line)
							}
							return nil
						}); err != nil {
							t.Error(err)
						}
						note(t, peer, found{"3 browser", b.program.title, version, front.what + ": permessage-deflate, subprotocol, close codes, reconnect"})
					})
				}
			})
		}
	}
}

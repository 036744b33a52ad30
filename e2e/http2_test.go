package e2e

import (
	"context"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// extendedConnect is what a browser sends over HTTP/2 (RFC 8441 5.1).
func extendedConnect(path string, more ...string) []string {
	return append([]string{
		":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":path", path, ":authority", "localhost",
		"sec-websocket-version", "13", "origin", "http://localhost",
	}, more...)
}

// A WebSocket from HTTP/2 reaches a server of RFC 6455, and one from HTTP/1 a
// server of RFC 8441.
func TestHTTP2(t *testing.T) {
	t.Parallel()
	for _, peer := range []peer{envoy140, hostsim} {
		t.Run(peer.name, func(t *testing.T) {
			t.Parallel()
			testHTTP2(t, peer)
		})
	}
}

func testHTTP2(t *testing.T, peer peer) {
	p := start(t, peer, shipped(t, "bootstrap/http2.yaml"))

	t.Run("an extended CONNECT gets a key for its HTTP/1 upstream, and no answer to it", func(t *testing.T) {
		keys := map[string]bool{}
		for range 3 {
			id := p.upstreams.newID()
			tunnel := requestHTTP2(t, p.addr, false, extendedConnect("/t/"+id)...)
			if tunnel.status != "200" {
				t.Fatalf("got status %s, %q, want 200", tunnel.status, tunnel.fields)
			}
			for _, field := range tunnel.fields {
				switch name, _, _ := strings.Cut(field, ":"); name {
				case "sec-websocket-accept", "upgrade", "connection":
					t.Errorf("the client got %q", field)
				}
			}
			if !echoes(tunnel, tunnel, "marker of "+id) {
				t.Error("no bytes flow")
			}
			got := p.upstreams.received(id)
			if len(got) != 1 || got[0].Upstream != "websocket" {
				t.Fatalf("reached %+v, want websocket once", got)
			}
			h := head{got[0].Start, got[0].Fields}
			if !strings.HasPrefix(h.start, "GET ") || !slices.Equal(h.values("connection"), []string{"Upgrade"}) || !slices.Equal(h.values("upgrade"), []string{"websocket"}) {
				t.Errorf("the upstream got no handshake: %q", got[0])
			}
			sent := h.values("sec-websocket-key")
			if len(sent) != 1 {
				t.Fatalf("the upstream got the keys %q, want one", sent)
			}
			if b, err := base64.StdEncoding.DecodeString(sent[0]); err != nil || len(b) != 16 {
				t.Errorf("the upstream got the key %q, want 16 bytes in base64", sent[0])
			}
			keys[sent[0]] = true
			if lengths := h.values("content-length"); len(lengths) > 0 {
				t.Errorf("the upstream got content-length %q", lengths)
			}
		}
		if len(keys) != 3 {
			t.Errorf("three handshakes got %d different keys", len(keys))
		}
	})

	t.Run("a content-length of 0 is dropped, another is refused", func(t *testing.T) {
		id := p.upstreams.newID()
		tunnel := requestHTTP2(t, p.addr, false, extendedConnect("/t/"+id, "content-length", "0")...)
		got := p.upstreams.received(id)
		if tunnel.status != "200" || len(got) != 1 {
			t.Fatalf("got status %s from %+v, want 200 from websocket", tunnel.status, got)
		}
		if lengths := (head{fields: got[0].Fields}).values("content-length"); len(lengths) > 0 {
			t.Errorf("the upstream got content-length %q", lengths)
		}
		id = p.upstreams.newID()
		tunnel = requestHTTP2(t, p.addr, false, extendedConnect("/t/"+id, "content-length", "5")...)
		if got := p.upstreams.received(id); tunnel.status != "400" || len(got) > 0 {
			t.Errorf("got status %s from %+v, want 400 from none", tunnel.status, got)
		}
	})

	t.Run("a key that the client sent stays, and so does the answer", func(t *testing.T) {
		const key = "dGhlIHNhbXBsZSBub25jZQ=="
		id := p.upstreams.newID()
		tunnel := requestHTTP2(t, p.addr, false, extendedConnect("/t/"+id, "sec-websocket-key", key)...)
		if !slices.Contains(tunnel.fields, "sec-websocket-accept: "+acceptOf(key)) {
			t.Errorf("got %s %q, want the answer to the client's own key", tunnel.status, tunnel.fields)
		}
		if got := p.upstreams.received(id); len(got) != 1 || !slices.Contains(got[0].Fields, "sec-websocket-key: "+key) {
			t.Errorf("the upstream got %q, want the client's key", got)
		}
	})

	t.Run("a keyless handshake of HTTP/1 stays invalid", func(t *testing.T) {
		o := p.exchange(t, strings.Replace(socket, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", 1))
		if o.String() != "websocket 400" {
			t.Errorf("got %s, want websocket 400", o)
		}
		if keys := (head{fields: o.Received}).values("sec-websocket-key"); len(keys) > 0 {
			t.Errorf("the upstream got the key %q", keys)
		}
	})

	t.Run("an extended CONNECT for anything else is refused", func(t *testing.T) {
		for _, protocol := range []string{"foo", "h2c", "websocket, foo bar"} {
			id := p.upstreams.newID()
			fields := extendedConnect("/t/" + id)
			fields[slices.Index(fields, ":protocol")+1] = protocol
			tunnel := requestHTTP2(t, p.addr, false, fields...)
			if got := p.upstreams.received(id); !strings.HasPrefix(tunnel.status, "4") || len(got) > 0 {
				t.Errorf("%s: got status %s from %+v, want a refusal", protocol, tunnel.status, got)
			}
		}
	})

	t.Run("a client cannot set metadata by HTTP/2", func(t *testing.T) {
		for name, values := range metadata {
			for _, spelling := range []string{name, strings.ReplaceAll(name, "-", "_")} {
				id := p.upstreams.newID()
				page := requestHTTP2(t, p.addr, true, ":method", "GET", ":scheme", "http", ":path", "/t/"+id, ":authority", "localhost",
					spelling, values[0], spelling, values[0])
				got := p.upstreams.received(id)
				if page.status != "200" || len(got) != 1 || got[0].Upstream != "web" || slices.ContainsFunc(got[0].Fields, isMetadata) {
					t.Errorf("%s: got status %s from %+v, want 200 from web without it", spelling, page.status, got)
				}
			}
		}
	})

	t.Run("HTTP/1 in front of an HTTP/2 upstream gets its answer", func(t *testing.T) {
		testSocket(t, "ws://"+p.addr+"/http2/echo")
	})

	t.Run("HTTP/1 on both sides works as ever", func(t *testing.T) {
		if got := p.exchange(t, socket).String(); got != "websocket 101 echo" {
			t.Errorf("got %s, want websocket 101 echo", got)
		}
		if got := p.exchange(t, page).String(); got != "web 200" {
			t.Errorf("got %s, want web 200", got)
		}
	})
}

// A WebSocket library, as a server behind Envoy, accepts a handshake that came
// by HTTP/2, and frames flow.
func TestHTTP2WithAWebSocketServer(t *testing.T) {
	t.Parallel()
	for _, peer := range []peer{envoy140, hostsim} {
		t.Run(peer.name, func(t *testing.T) {
			t.Parallel()
			testHTTP2WithAWebSocketServer(t, peer)
		})
	}
}

func testHTTP2WithAWebSocketServer(t *testing.T, peer peer) {
	u := startUpstreams(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return // Accept answered; the client's status is what the test sees
		}
		defer c.CloseNow()
		for {
			typ, b, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if err := c.Write(r.Context(), typ, b); err != nil {
				return
			}
		}
	}))
	t.Cleanup(server.Close)
	u.ports[8081] = server.Listener.Addr().(*net.TCPAddr).Port
	p := startOn(t, peer, shipped(t, "bootstrap/http2.yaml"), u)

	t.Run("from HTTP/2", func(t *testing.T) {
		tunnel := requestHTTP2(t, p.addr, false, extendedConnect("/")...)
		if tunnel.status != "200" {
			t.Fatalf("got status %s, %q, want 200", tunnel.status, tunnel.fields)
		}
		const text = "over RFC 8441 and RFC 6455"
		if _, err := tunnel.Write(textFrame(text)); err != nil {
			t.Fatal(err)
		}
		want := append([]byte{0x81, byte(len(text))}, text...)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(tunnel, got); err != nil || string(got) != string(want) {
			t.Errorf("got the frame %q, %v, want %q", got, err, want)
		}
	})
	t.Run("from HTTP/1", func(t *testing.T) { testSocket(t, "ws://"+p.addr+"/") })
}

// testSocket has a WebSocket library, which checks Sec-WebSocket-Accept, open a
// socket to an echo server and close it.
func testSocket(t *testing.T, url string) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, resp, err := websocket.Dial(ctx, url, nil)
	if err != nil {
		t.Fatalf("%v (%+v)", err, resp)
	}
	defer c.CloseNow()
	const text = "there and back"
	if err := c.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
		t.Fatal(err)
	}
	if _, got, err := c.Read(ctx); err != nil || string(got) != text {
		t.Errorf("got the message %q, %v, want %q", got, err, text)
	}
}

package proxy

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"switchyard/hostsim/bootstrap"
)

// The expectations here are what Envoy 1.40.0 gives; e2e compares the two
// directly on the shipped bootstraps.

// testUpstream answers requests with a function and keeps what it received.
type testUpstream struct {
	net.Listener
	mu       sync.Mutex
	received []string
	closed   chan struct{} // gets one for each connection that ended
}

// newUpstream serves each request's head with answer, which may read and
// write the connection itself.
func newUpstream(t *testing.T, answer func(head string, c net.Conn, r *bufio.Reader)) *testUpstream {
	t.Helper()
	u := &testUpstream{closed: make(chan struct{}, 100)}
	u.Listener = accept(t, func(c net.Conn) {
		defer func() { c.Close(); u.closed <- struct{}{} }()
		r := bufio.NewReader(c)
		for {
			var head strings.Builder
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				head.WriteString(line)
				if line == "\r\n" {
					break
				}
			}
			u.mu.Lock()
			u.received = append(u.received, head.String())
			u.mu.Unlock()
			answer(head.String(), c, r)
		}
	})
	return u
}

// accept serves each connection in a goroutine of its own, until the test ends.
func accept(t testing.TB, serve func(net.Conn)) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return l
}

func ok(head string, c net.Conn, r *bufio.Reader) {
	io.WriteString(c, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
}

// echoSocket accepts an upgrade and echoes.
func echoSocket(head string, c net.Conn, r *bufio.Reader) {
	io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
	io.Copy(c, r)
}

// serve starts a proxy for one upstream; hcm and route are YAML added to the
// connection manager and the route, cluster to the cluster.
func serve(t testing.TB, upstream string, hcm, route, cluster string) (*Server, string) {
	t.Helper()
	_, port, _ := net.SplitHostPort(upstream)
	return serveYAML(t, hcm, "", route, fmt.Sprintf(`%s
    load_assignment: {cluster_name: c, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}}]}]}`, cluster, port))
}

// serveYAML is the bootstrap of these tests, with lines added to its parts.
func serveYAML(t testing.TB, hcm, virtualHost, route, cluster string) (*Server, string) {
	t.Helper()
	text := fmt.Sprintf(`
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: s
          codec_type: AUTO
          upgrade_configs: [{upgrade_type: websocket}]
          %s
          route_config:
            virtual_hosts:
            - name: v
              domains: ["*"]
              %s
              routes:
              - match: {prefix: "/"}
                route: {cluster: c %s}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: c
    connect_timeout: 1s
    %s
`, hcm, virtualHost, route, cluster)
	return startServer(t, text, Options{})
}

// startServer starts a bootstrap that lasts as long as the test. It returns the
// address of its first listener, too.
func startServer(t testing.TB, text string, options Options) (*Server, string) {
	t.Helper()
	boot, err := bootstrap.Load("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(context.Background(), boot, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	s.Start()
	return s, s.Listeners()[0].Address.String()
}

type client struct {
	net.Conn
	*bufio.Reader
	t *testing.T
}

func (c client) Read(p []byte) (int, error) { return c.Reader.Read(p) }

func dial(t *testing.T, address string) client {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return client{c, bufio.NewReader(c), t}
}

func (c client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.Conn, s); err != nil {
		c.t.Fatal(err)
	}
}

// response reads one and returns its status and content.
func (c client) response() (int, string) {
	c.t.Helper()
	r, err := http.ReadResponse(c.Reader, nil)
	if err != nil {
		c.t.Fatalf("no response: %v", err)
	}
	if r.StatusCode == 101 {
		return 101, ""
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		c.t.Fatalf("content: %v", err)
	}
	return r.StatusCode, string(body)
}

const (
	get       = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
	handshake = "GET /a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
)

func wantResponse(t *testing.T, c client, status int, body string) {
	t.Helper()
	if s, b := c.response(); s != status || b != body {
		t.Errorf("got %d %q, want %d %q", s, b, status, body)
	}
}

func wantEOF(t *testing.T, c client) {
	t.Helper()
	if b, err := io.ReadAll(c.Reader); len(b) > 0 || err != nil {
		t.Errorf("got %q, %v, want the end of the connection", b, err)
	}
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	up := newUpstream(t, func(head string, c net.Conn, r *bufio.Reader) {
		path := strings.Fields(head)[1]
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s", len(path), path)
	})
	_, addr := serve(t, up.Addr().String(), "", "", "")
	c := dial(t, addr)
	c.send("GET /1 HTTP/1.1\r\nHost: h\r\n\r\nPOST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\nGET /3 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	for _, path := range []string{"/1", "/2", "/3"} {
		wantResponse(t, c, 200, path)
	}
	wantEOF(t, c)
}

func TestContentPassesBothWays(t *testing.T) {
	const size = 300 << 10
	up := newUpstream(t, func(head string, c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader(head), r)))
		if err != nil {
			return
		}
		body, _ := io.ReadAll(req.Body)
		io.WriteString(c, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
		fmt.Fprintf(c, "%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	})
	_, addr := serve(t, up.Addr().String(), "", "", "")
	content := strings.Repeat("0123456789abcdef", size/16)
	for _, framing := range []string{"length", "chunked"} {
		c := dial(t, addr)
		if framing == "length" {
			c.send(fmt.Sprintf("POST /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", size, content))
		} else {
			c.send("POST /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
			c.send(fmt.Sprintf("%x\r\n%s\r\n", size/2, content[:size/2]))
			c.send(fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", size/2, content[size/2:]))
		}
		status, body := c.response()
		if status != 200 || body != content {
			t.Errorf("%s: got %d and %d bytes, want 200 and the %d bytes that were sent", framing, status, len(body), size)
		}
	}
}

func TestEarlyDataIsHeldUntilTheUpgrade(t *testing.T) {
	up := newUpstream(t, echoSocket)
	_, addr := serve(t, up.Addr().String(), "", "", "")
	c := dial(t, addr)
	c.send(handshake + "early")
	if status, _ := c.response(); status != 101 {
		t.Fatalf("got %d, want 101", status)
	}
	c.send(" late")
	got := make([]byte, len("early late"))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "early late" {
		t.Errorf("got %q, %v, want all that was sent, in order", got, err)
	}
}

func TestEarlyDataIsDroppedWhenTheUpgradeIsRefused(t *testing.T) {
	extra := make(chan string, 1)
	up := newUpstream(t, func(head string, c net.Conn, r *bufio.Reader) {
		io.WriteString(c, "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno")
		rest, _ := io.ReadAll(r)
		extra <- string(rest)
	})
	_, addr := serve(t, up.Addr().String(), "", "", "")
	c := dial(t, addr)
	c.send(handshake + "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n")
	wantResponse(t, c, 403, "no")
	wantEOF(t, c)
	if got := <-extra; got != "" {
		t.Errorf("the upstream got %q behind the refused handshake, want nothing", got)
	}
}

func TestSuccessfulAnswerThatDoesNotSwitchLosesItsContent(t *testing.T) {
	up := newUpstream(t, ok)
	_, addr := serve(t, up.Addr().String(), "", "", "")
	c := dial(t, addr)
	c.send(handshake)
	wantResponse(t, c, 200, "")
	wantEOF(t, c)
}

func TestTunnelEndsWithEitherSide(t *testing.T) {
	t.Run("upstream closes", func(t *testing.T) {
		up := newUpstream(t, func(head string, c net.Conn, r *bufio.Reader) {
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nbye")
			c.Close()
		})
		_, addr := serve(t, up.Addr().String(), "", "", "")
		c := dial(t, addr)
		c.send(handshake)
		c.response()
		if got, err := io.ReadAll(c.Reader); string(got) != "bye" || err != nil {
			t.Errorf("got %q, %v, want what was sent before the end", got, err)
		}
	})
	t.Run("client closes", func(t *testing.T) {
		up := newUpstream(t, echoSocket)
		_, addr := serve(t, up.Addr().String(), "", "", "")
		c := dial(t, addr)
		c.send(handshake)
		c.response()
		c.Close()
		<-up.closed
	})
}

func TestIdleTunnelIsCut(t *testing.T) {
	up := newUpstream(t, echoSocket)
	_, addr := serve(t, up.Addr().String(), "", ", idle_timeout: 0.3s", "")
	c := dial(t, addr)
	c.send(handshake)
	c.response()
	start := time.Now()
	for range 4 { // what moves keeps it open
		time.Sleep(100 * time.Millisecond)
		c.send("x")
		if _, err := c.ReadByte(); err != nil {
			t.Fatalf("cut after %v although bytes moved: %v", time.Since(start), err)
		}
	}
	wantEOF(t, c)
	<-up.closed
}

func TestClientThatLeavesResetsTheUpstream(t *testing.T) {
	reached := make(chan struct{})
	up := newUpstream(t, func(head string, c net.Conn, r *bufio.Reader) {
		close(reached)
		r.ReadByte() // for ever, unless the proxy closes
	})
	_, addr := serve(t, up.Addr().String(), "", "", "")
	c := dial(t, addr)
	c.send(get)
	<-reached
	c.Close()
	<-up.closed
}

func TestRouteTimeout(t *testing.T) {
	up := newUpstream(t, func(head string, c net.Conn, r *bufio.Reader) { r.ReadByte() })
	_, addr := serve(t, up.Addr().String(), "", ", timeout: 0.2s", "")
	c := dial(t, addr)
	c.send(get)
	wantResponse(t, c, 504, "upstream request timeout")
	<-up.closed
}

func TestUpstreamThatBreaksOff(t *testing.T) {
	const broken = "upstream connect error or disconnect/reset before headers. reset reason: "
	for _, tt := range []struct {
		name, answer string
		status       int
		body         string
	}{
		{"before its response", "", 503, broken + "connection termination"},
		{"in its head", "HTTP/1.1 200 OK\r\nX", 502, broken + "protocol error"},
		{"with nonsense", "SSH-2.0\r\n\r\n", 502, broken + "protocol error"},
		{"with a 101 that has content", "HTTP/1.1 101 Switching Protocols\r\nContent-Length: 3\r\n\r\nabc", 502, broken + "protocol error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			up := newUpstream(t, func(head string, c net.Conn, r *bufio.Reader) {
				io.WriteString(c, tt.answer)
				c.Close()
			})
			_, addr := serve(t, up.Addr().String(), "", "", "")
			c := dial(t, addr)
			c.send(get)
			wantResponse(t, c, tt.status, tt.body)
			c.send(get) // the client's connection is as good as before
			wantResponse(t, c, tt.status, tt.body)
		})
	}
	t.Run("in its content", func(t *testing.T) {
		up := newUpstream(t, func(head string, c net.Conn, r *bufio.Reader) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
			c.Close()
		})
		_, addr := serve(t, up.Addr().String(), "", "", "")
		c := dial(t, addr)
		c.send(get)
		if got, err := io.ReadAll(c.Reader); err == nil && bytes.Contains(got, []byte("0123456789")) {
			t.Errorf("got %q, want a broken response", got)
		}
	})
}

func TestRefusedConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	_, addr := serve(t, l.Addr().String(), "", "", "")
	c := dial(t, addr)
	c.send(get)
	wantResponse(t, c, 503, "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure")
}

func TestCircuitBreakers(t *testing.T) {
	up := newUpstream(t, echoSocket)
	_, addr := serve(t, up.Addr().String(), "", ", timeout: 0.3s", "circuit_breakers: {thresholds: [{max_connections: 1, max_pending_requests: 1}]}")
	first := dial(t, addr)
	first.send(handshake)
	if status, _ := first.response(); status != 101 {
		t.Fatalf("got %d, want 101", status)
	}
	second := dial(t, addr)
	second.send(handshake)
	wantResponse(t, second, 504, "upstream request timeout")

	third := dial(t, addr)
	third.send(handshake)
	first.Close() // makes room while the third waits
	if status, _ := third.response(); status != 101 {
		t.Errorf("got %d, want 101 once a socket is closed", status)
	}
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	var mu sync.Mutex
	peers := map[string]bool{}
	up := newUpstream(t, func(head string, c net.Conn, r *bufio.Reader) {
		mu.Lock()
		peers[c.RemoteAddr().String()] = true
		mu.Unlock()
		ok(head, c, r)
	})
	_, addr := serve(t, up.Addr().String(), "", "", "")
	for range 3 {
		c := dial(t, addr)
		c.send(get + get)
		wantResponse(t, c, 200, "ok")
		wantResponse(t, c, 200, "ok")
		c.Close()
	}
	if len(peers) != 1 {
		t.Errorf("6 requests one after the other took %d upstream connections, want 1", len(peers))
	}
}

func TestIdleConnectionThatTheUpstreamClosedIsNotUsed(t *testing.T) {
	up := newUpstream(t, func(head string, c net.Conn, r *bufio.Reader) {
		ok(head, c, r)
		c.Close()
	})
	_, addr := serve(t, up.Addr().String(), "", "", "")
	c := dial(t, addr)
	for range 3 {
		c.send(get)
		wantResponse(t, c, 200, "ok")
		<-up.closed
	}
}

func TestCloseEndsEverything(t *testing.T) {
	up := newUpstream(t, echoSocket)
	s, addr := serve(t, up.Addr().String(), "", "", "")
	c := dial(t, addr)
	c.send(handshake)
	c.response()
	s.Close()
	<-up.closed
	if _, err := c.ReadByte(); err == nil {
		t.Error("an open tunnel outlives Close")
	}
}

// A client cannot steer the proxy: Envoy 1.40.0 drops these of every request
// from outside, and no other x-envoy field.
func TestClientsCannotSteer(t *testing.T) {
	up := newUpstream(t, ok)
	_, addr := serve(t, up.Addr().String(), "", "", "")
	c := dial(t, addr)
	c.send("GET / HTTP/1.1\r\nHost: h\r\nX-Envoy-Retry-On: 5xx\r\nX-Envoy-Force-Trace: 1\r\nX-Envoy-Upstream-Rq-Timeout-Ms: 5\r\nX-Envoy-Foo: 1\r\n\r\n")
	wantResponse(t, c, 200, "ok")
	up.mu.Lock()
	defer up.mu.Unlock()
	head := up.received[0]
	for _, name := range []string{"x-envoy-retry-on", "x-envoy-force-trace", "x-envoy-upstream-rq-timeout-ms"} {
		if strings.Contains(head, name) {
			t.Errorf("the upstream got %s of the client", name)
		}
	}
	if !strings.Contains(head, "x-envoy-foo: 1\r\n") || !strings.Contains(head, "x-envoy-expected-rq-timeout-ms: 15000\r\n") {
		t.Errorf("the upstream got %q, want x-envoy-foo and the route's own timeout", head)
	}
}

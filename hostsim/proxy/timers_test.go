package proxy

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
)

// What Envoy 1.40.0 answers when each limit passes: with 408 it blames a
// client that has not sent all of its request, with 504 nobody.
func TestTimers(t *testing.T) {
	up := newUpstream(t, func(head string, c net.Conn, r *bufio.Reader) {
		switch strings.Fields(head)[1] {
		case "/hang":
			r.ReadByte()
		case "/half":
			io.WriteString(c, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")
			r.ReadByte()
		case "/socket":
			echoSocket(head, c, r)
		default:
			ok(head, c, r)
		}
	})
	const hang = "GET /hang HTTP/1.1\r\nHost: h\r\n\r\n"
	const half = "GET /half HTTP/1.1\r\nHost: h\r\n\r\n"
	for _, tt := range []struct {
		name, hcm, send string
		status          int
		body            string
		again           bool // the connection serves another request
	}{
		{"a head that does not end", "request_headers_timeout: 0.2s", "GET / HTTP/1.1\r\nHost:", 408, "request header timeout", false},
		{"a request that does not end", "request_timeout: 0.2s", "POST /hang HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab", 408, "request timeout", false},
		{"a head that does not end, by the limit of the request", "request_timeout: 0.2s", "GET / HT", 408, "request timeout", false},
		{"an upstream that says nothing", "stream_idle_timeout: 0.2s", hang, 504, "stream timeout", true},
		{"a client that says nothing", "stream_idle_timeout: 0.2s", "GET / HT", 408, "stream timeout", false},
		{"a stream that takes too long", "common_http_protocol_options: {max_stream_duration: 0.2s}", hang, 504, "downstream duration timeout", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, addr := serve(t, up.Addr().String(), tt.hcm, "", "")
			c := dial(t, addr)
			c.send(tt.send)
			wantResponse(t, c, tt.status, tt.body)
			if !tt.again {
				wantEOF(t, c)
				return
			}
			c.send(get)
			wantResponse(t, c, 200, "ok")
		})
	}
	for name, hcm := range map[string]string{
		"a response that stops":         "stream_idle_timeout: 0.2s",
		"a response that takes forever": "common_http_protocol_options: {max_stream_duration: 0.2s}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, addr := serve(t, up.Addr().String(), hcm, "", "")
			c := dial(t, addr)
			c.send(half)
			got, err := io.ReadAll(c.Reader)
			if err != nil || !strings.HasSuffix(string(got), "\r\n\r\nabc") {
				t.Errorf("got %q, %v, want what came and the end of the connection", got, err)
			}
		})
	}
	t.Run("a tunnel that takes too long", func(t *testing.T) {
		t.Parallel()
		_, addr := serve(t, up.Addr().String(), "common_http_protocol_options: {max_stream_duration: 0.3s}", "", "")
		c := dial(t, addr)
		c.send("GET /socket HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		c.response()
		wantEOF(t, c)
	})
	t.Run("a connection without a request", func(t *testing.T) {
		t.Parallel()
		_, addr := serve(t, up.Addr().String(), "common_http_protocol_options: {idle_timeout: 0.2s}", "", "")
		wantEOF(t, dial(t, addr))
	})
	t.Run("a connection between requests is drained first", func(t *testing.T) {
		t.Parallel()
		_, addr := serve(t, up.Addr().String(), "drain_timeout: 2s\n          common_http_protocol_options: {idle_timeout: 1s}", "", "")
		c := dial(t, addr)
		c.send(get)
		wantResponse(t, c, 200, "ok")
		for closing := false; !closing; { // until it has been idle long enough
			c.send(get)
			var head strings.Builder
			for !strings.HasSuffix(head.String(), "\r\n\r\nok") {
				b, err := c.ReadByte()
				if err != nil {
					t.Fatalf("%q: %v", head.String(), err)
				}
				head.WriteByte(b)
			}
			closing = strings.Contains(head.String(), "connection: close")
			if !closing {
				wait(t, c)
			}
		}
		wantEOF(t, c)
	})
}

// wait gives an idle timer the time to pass.
func wait(t *testing.T, c client) {
	t.Helper()
	idle, err := net.Dial("tcp", c.RemoteAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	io.ReadAll(idle) // closed by the same timer
}

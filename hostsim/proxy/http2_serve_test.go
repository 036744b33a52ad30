package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// frameClient is a client that speaks HTTP/2 frame by frame.
type frameClient struct {
	client
	framer  *http2.Framer
	block   bytes.Buffer
	encoder *hpack.Encoder
	decoder *hpack.Decoder
	current *[]string
}

// dialFrames connects and exchanges the settings.
func dialFrames(t *testing.T, address string) *frameClient {
	t.Helper()
	c := &frameClient{client: dial(t, address)}
	c.framer = http2.NewFramer(c.Conn, c.Reader)
	c.framer.AllowIllegalWrites, c.framer.AllowIllegalReads = true, true
	c.encoder = hpack.NewEncoder(&c.block)
	c.decoder = hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		if f.Name != "date" && f.Name != "x-envoy-upstream-service-time" {
			*c.current = append(*c.current, f.Name+": "+f.Value)
		}
	})
	io.WriteString(c.Conn, http2.ClientPreface)
	c.framer.WriteSettings()
	return c
}

// headers opens a stream with fields like "name=value".
func (c *frameClient) headers(id uint32, end bool, fields ...string) {
	c.block.Reset()
	for _, f := range fields {
		i := strings.IndexByte(f[1:], '=') + 1
		c.encoder.WriteField(hpack.HeaderField{Name: f[:i], Value: f[i+1:]})
	}
	c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.block.Bytes(), EndStream: end, EndHeaders: true})
}

// get is a request without content.
func (c *frameClient) get(id uint32, more ...string) {
	c.headers(id, true, append([]string{":method=GET", ":scheme=http", ":authority=h", ":path=/"}, more...)...)
}

// until reads frames and tells them, up to the first line that is last, or to
// the end of the connection.
func (c *frameClient) until(last string) []string {
	c.t.Helper()
	var lines []string
	for !slices.Contains(lines, last) {
		f, err := c.framer.ReadFrame()
		if err != nil {
			if err != io.EOF {
				lines = append(lines, fmt.Sprint(err))
			} else {
				lines = append(lines, "closed")
			}
			if last != lines[len(lines)-1] {
				c.t.Errorf("got %q, and not %q", lines, last)
			}
			return lines
		}
		say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
		id := f.Header().StreamID
		end := f.Header().Flags.Has(http2.FlagDataEndStream)
		switch f := f.(type) {
		case *http2.HeadersFrame:
			var fields []string
			c.current = &fields
			c.decoder.Write(f.HeaderBlockFragment())
			say("%d %s", id, strings.Join(fields, ", "))
		case *http2.DataFrame:
			if len(f.Data()) > 0 {
				say("%d %q", id, f.Data())
			}
		case *http2.SettingsFrame:
			if !f.IsAck() {
				f.ForeachSetting(func(s http2.Setting) error { say("setting %d=%d", s.ID, s.Val); return nil })
			}
			end = false
		case *http2.PingFrame:
			say("ping, answer %t", f.IsAck())
			end = false
		case *http2.RSTStreamFrame:
			say("%d reset %v", id, f.ErrCode)
			end = false
		case *http2.GoAwayFrame:
			say("goaway %d %v", f.LastStreamID, f.ErrCode)
			end = false
		default:
			end = false
		}
		if end {
			say("%d end", id)
		}
	}
	return lines
}

// serveFrames serves with lines for the connection manager, and connects.
func serveFrames(t *testing.T, upstream *testUpstream, manager string) (*Server, *frameClient) {
	t.Helper()
	s, addr := serve(t, upstream.Addr().String(), manager, "", "")
	return s, dialFrames(t, addr)
}

var settings = []string{"setting 1=4096", "setting 8=0", "setting 3=1024", "setting 4=16777216"}

const answer = "1 :status: 200, content-length: 2, server: envoy"

// What a client gets over HTTP/2; each case is one that Envoy answers so in
// e2e/testdata/nodiff.
func TestHTTP2Streams(t *testing.T) {
	up := newUpstream(t, func(head string, c net.Conn, r *bufio.Reader) {
		if !strings.Contains(head, "content-length: 3\r\n") { // that has no end
			ok(head, c, r)
		}
	})
	open := []string{":method=POST", ":scheme=http", ":authority=h", ":path=/"}
	for _, tt := range []struct {
		name, manager string
		send          func(c *frameClient)
		last          string
		want          []string // behind the settings
	}{
		{"a request", "", func(c *frameClient) { c.get(1) }, "1 end", []string{answer, `1 "ok"`, "1 end"}},
		{"a PING", "", func(c *frameClient) { c.framer.WritePing(false, [8]byte{1}) }, "ping, answer true", []string{"ping, answer true"}},
		{"a field of the connection", "", func(c *frameClient) { c.get(1, "connection=close") }, "closed", []string{"closed"}},
		{"a field of the connection ends its stream only", "http2_protocol_options: {override_stream_error_on_invalid_http_message: true}",
			func(c *frameClient) { c.get(1, "connection=close") }, "1 reset PROTOCOL_ERROR", []string{"1 reset PROTOCOL_ERROR"}},
		{"one stream more than allowed", "http2_protocol_options: {max_concurrent_streams: 1}",
			func(c *frameClient) { c.headers(1, false, append(open, "content-length=3")...); c.get(3) }, "3 reset REFUSED_STREAM", []string{"3 reset REFUSED_STREAM"}},
		{"less content than said", "", func(c *frameClient) {
			c.headers(1, false, append(open, "content-length=3")...)
			c.framer.WriteData(1, true, []byte("ab"))
		}, "1 reset PROTOCOL_ERROR", []string{"1 reset PROTOCOL_ERROR"}},
		{"content on no stream", "", func(c *frameClient) { c.framer.WriteData(1, true, nil) }, "closed", []string{"goaway 0 PROTOCOL_ERROR", "closed"}},
		{"header compression that is none", "", func(c *frameClient) {
			c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, EndHeaders: true})
		}, "closed", []string{"goaway 1 COMPRESSION_ERROR", "closed"}},
		{"a head that is continued", "", func(c *frameClient) {
			c.block.Reset()
			for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "h"}, {":path", "/"}} {
				c.encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
			}
			c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.block.Bytes()[:3], EndStream: true})
			c.framer.WriteContinuation(1, true, c.block.Bytes()[3:])
		}, "1 end", []string{answer, `1 "ok"`, "1 end"}},
		{"too large a head", "max_request_headers_kb: 1", func(c *frameClient) { c.get(1, "x="+strings.Repeat("x", 2000)) },
			"1 reset INTERNAL_ERROR", []string{"1 reset INTERNAL_ERROR"}},
		{"too many empty frames", "", func(c *frameClient) {
			c.headers(1, false, append(open, "content-length=3")...)
			c.framer.WriteData(1, false, nil)
			c.framer.WriteData(1, false, nil)
		}, "closed", []string{"closed"}},
		{"too many answers", "http2_protocol_options: {max_outbound_control_frames: 1}", func(c *frameClient) {
			var frames bytes.Buffer
			f := http2.NewFramer(&frames, nil)
			for range 3 {
				f.WritePing(false, [8]byte{})
			}
			c.Conn.Write(frames.Bytes())
		}, "closed", []string{"ping, answer true", "ping, answer true", "ping, answer true", "closed"}},
		{"too many window updates", "", func(c *frameClient) {
			for range 6 {
				c.framer.WriteWindowUpdate(0, 1)
			}
		}, "closed", []string{"closed"}},
		{"a window that overflows", "", func(c *frameClient) { c.framer.WriteWindowUpdate(0, 1<<31-1) }, "closed", []string{"closed"}},
		{"Expect", "", func(c *frameClient) {
			c.headers(1, false, append(open, "expect=100-continue", "content-length=1")...)
			c.framer.WriteData(1, true, []byte("a"))
		}, "1 end", []string{"1 :status: 100", answer, `1 "ok"`, "1 end"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, c := serveFrames(t, up, tt.manager+"\n          delayed_close_timeout: 0.1s")
			tt.send(c)
			got := slices.DeleteFunc(c.until(tt.last), func(line string) bool { return strings.HasPrefix(line, "setting ") })
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestHTTP2Settings(t *testing.T) {
	up := newUpstream(t, ok)
	_, c := serveFrames(t, up, "http2_protocol_options: {allow_connect: true, hpack_table_size: 100, initial_stream_window_size: 70000, max_concurrent_streams: 7, custom_settings_parameters: [{identifier: 77, value: 3}]}")
	c.framer.WritePing(false, [8]byte{})
	want := []string{"setting 77=3", "setting 1=100", "setting 8=1", "setting 3=7", "setting 4=70000", "ping, answer true"}
	if diff := cmp.Diff(want, c.until("ping, answer true")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A response waits for the client's windows, the stream's and the connection's.
func TestHTTP2WaitsForWindows(t *testing.T) {
	body := strings.Repeat("a", 70_000)
	up := newUpstream(t, func(_ string, c net.Conn, _ *bufio.Reader) {
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s", len(body), body)
	})
	_, c := serveFrames(t, up, "")
	c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
	c.get(1)
	received := func(until int) {
		t.Helper()
		for n := 0; n < until; {
			f, err := c.framer.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if d, ok := f.(*http2.DataFrame); ok {
				if n += len(d.Data()); n > until {
					t.Fatalf("%d bytes came, %d were allowed", n, until)
				}
			}
		}
	}
	received(10)
	c.framer.WriteWindowUpdate(1, 1<<20) // now the connection's window, 65,535, is the smaller one
	received(65_535 - 10)
	c.framer.WriteWindowUpdate(0, 1<<20)
	received(70_000 - 65_535)
}

// A client may send more than its window once what it sent has been taken.
func TestHTTP2GivesWindowsBack(t *testing.T) {
	up := newUpstream(t, func(head string, c net.Conn, r *bufio.Reader) {
		io.CopyN(io.Discard, r, 200_000)
		io.WriteString(c, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
	})
	_, c := serveFrames(t, up, "http2_protocol_options: {initial_stream_window_size: 65535, initial_connection_window_size: 65535}")
	c.headers(1, false, ":method=POST", ":scheme=http", ":authority=h", ":path=/", "content-length=200000")
	updates := make(chan uint32, 100)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			f, err := c.framer.ReadFrame()
			if err != nil {
				return
			}
			switch f := f.(type) {
			case *http2.WindowUpdateFrame:
				if f.StreamID == 1 {
					updates <- f.Increment
				}
			case *http2.DataFrame:
				if f.StreamEnded() {
					return
				}
			}
		}
	}()
	for left, window := 200_000, 65_535; left > 0; {
		n := min(left, window, 16<<10)
		if n == 0 {
			select {
			case more := <-updates:
				window += int(more)
			case <-ended:
				t.Fatalf("%d bytes were never allowed", left)
			}
			continue
		}
		left, window = left-n, window-n
		c.framer.WriteData(1, left == 0, make([]byte, n))
	}
	<-ended
}

// What ends a connection over HTTP/2 without an error says so twice: no new
// streams, please, and, when drain_timeout has passed, which was the last.
func TestHTTP2Drains(t *testing.T) {
	up := newUpstream(t, ok)
	const quick = "\n          drain_timeout: 0.2s\n          delayed_close_timeout: 0.1s"
	for _, tt := range []struct {
		name, manager string
		send          func(s *Server, c *frameClient)
		want          []string // behind the settings
		stat          string   // that counts it
	}{
		{"too old", "common_http_protocol_options: {max_connection_duration: 0.1s}", func(*Server, *frameClient) {},
			[]string{"goaway 2147483647 NO_ERROR", "goaway 0 NO_ERROR", "closed"}, "http.s.downstream_cx_max_duration_reached"},
		{"idle", "common_http_protocol_options: {idle_timeout: 0.1s}", func(*Server, *frameClient) {},
			[]string{"goaway 2147483647 NO_ERROR", "goaway 0 NO_ERROR", "closed"}, "http.s.downstream_cx_idle_timeout"},
		{"as many requests as it may serve", "common_http_protocol_options: {max_requests_per_connection: 1}", func(_ *Server, c *frameClient) { c.get(1) },
			[]string{"goaway 2147483647 NO_ERROR", answer, `1 "ok"`, "1 end", "goaway 1 NO_ERROR", "closed"}, "http.s.downstream_cx_max_requests_reached"},
		{"health checks fail", "", func(s *Server, c *frameClient) { s.FailHealthChecks(true); c.get(1) },
			[]string{"goaway 2147483647 NO_ERROR", answer, `1 "ok"`, "1 end", "goaway 1 NO_ERROR", "closed"}, "http.s.downstream_cx_drain_close"},
		{"an upgrade that is refused", "", func(s *Server, c *frameClient) {
			c.headers(1, false, ":method=CONNECT", ":protocol=nonsense", ":scheme=http", ":authority=h", ":path=/")
		}, []string{"goaway 2147483647 NO_ERROR", "1 :status: 403, server: envoy", "1 end", "1 reset NO_ERROR", "goaway 1 NO_ERROR", "closed"}, "http.s.downstream_rq_ws_on_non_ws_route"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			manager := tt.manager
			if strings.Contains(tt.name, "upgrade") {
				manager = "http2_protocol_options: {allow_connect: true}"
			}
			s, c := serveFrames(t, up, manager+quick)
			tt.send(s, c)
			got := slices.DeleteFunc(c.until("closed"), func(line string) bool { return strings.HasPrefix(line, "setting ") })
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if n := s.Stats.Stat(tt.stat).Value(); n != 1 {
				t.Errorf("%s is %d", tt.stat, n)
			}
			if n := s.Stats.Stat("http2.goaway_sent").Value(); n != 1 {
				t.Errorf("goaway_sent is %d", n)
			}
		})
	}
}

// A PING that the client does not answer ends its connection.
func TestHTTP2Keepalive(t *testing.T) {
	up := newUpstream(t, ok)
	s, c := serveFrames(t, up, "http2_protocol_options: {connection_keepalive: {interval: 0.05s, timeout: 0.1s, interval_jitter: {value: 0}}}")
	want := append(append([]string(nil), settings...), "ping, answer false", "closed")
	if diff := cmp.Diff(want, c.until("closed")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if n := s.Stats.Stat("http2.keepalive_timeout").Value(); n != 1 {
		t.Errorf("keepalive_timeout is %d", n)
	}
}

// What an upstream of HTTP/1.1 sees of a request over HTTP/2.
func TestHTTP2RequestsUpstream(t *testing.T) {
	heads := make(chan string, 10)
	up := newUpstream(t, func(head string, c net.Conn, r *bufio.Reader) {
		heads <- head
		ok(head, c, r)
	})
	_, c := serveFrames(t, up, "http2_protocol_options: {allow_connect: true}")
	c.get(1, "cookie=a=1", "x=y", "cookie=b=2", "te=trailers")
	c.until("1 end")
	c.headers(3, false, ":method=CONNECT", ":protocol=websocket", ":scheme=http", ":authority=h", ":path=/ws")
	for _, want := range [][]string{{"GET / HTTP/1.1", "cookie: a=1; b=2", "x: y", "te: trailers"}, {"GET /ws HTTP/1.1", "upgrade: websocket", "connection: upgrade"}} {
		head := <-heads
		for _, line := range want {
			if !strings.Contains("\r\n"+head, "\r\n"+line+"\r\n") {
				t.Errorf("no %q in %q", line, head)
			}
		}
	}
}

// The bytes of a connection count as they are on the wire.
func TestHTTP2CountsBytes(t *testing.T) {
	up := newUpstream(t, ok)
	s, c := serveFrames(t, up, "")
	c.get(1)
	c.until("1 end")
	// The preface, SETTINGS, and HEADERS with :authority (3 bytes), :method, :scheme and :path (1 each).
	const received = 24 + 9 + 9 + 3 + 3
	for deadline := time.Now().Add(10 * time.Second); s.Stats.Stat("http.s.downstream_cx_rx_bytes_total").Value() != received; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("rx_bytes_total is %d, want %d", s.Stats.Stat("http.s.downstream_cx_rx_bytes_total").Value(), received)
		}
	}
	if n := s.Stats.Stat("http.s.downstream_cx_tx_bytes_total").Value(); n < 9+4*6+13+9 {
		t.Errorf("tx_bytes_total is %d", n)
	}
}

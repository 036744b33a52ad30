package proxy

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// upstreamFrames is an upstream that speaks HTTP/2. What it does is said by the
// path of a request: /goaway says GOAWAY behind the response, /trailers sends
// trailers, a CONNECT is echoed; connection n answers with x-conn: n.
func upstreamFrames(t *testing.T, seen chan<- string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for n := 1; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serveUpstreamFrames(c, itoa(n), seen)
		}
	}()
	return l
}

func serveUpstreamFrames(c net.Conn, n string, seen chan<- string) {
	defer c.Close()
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c, preface); err != nil {
		return
	}
	framer := http2.NewFramer(c, c)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	framer.WriteSettings(http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1})
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	headers := func(id uint32, end bool, fields ...string) {
		block.Reset()
		for i := 0; i < len(fields); i += 2 {
			encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
		}
		framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndStream: end, EndHeaders: true})
	}
	known := map[uint32]bool{}
	for {
		f, err := framer.ReadFrame()
		if err != nil {
			return
		}
		switch f := f.(type) {
		case *http2.DataFrame:
			if len(f.Data()) > 0 {
				framer.WriteData(f.StreamID, false, f.Data())
			}
		case *http2.MetaHeadersFrame:
			var text []string
			for _, x := range f.Fields {
				text = append(text, x.Name+": "+x.Value)
			}
			seen <- strings.Join(text, "\n") + "\n"
			if known[f.StreamID] {
				continue // trailers
			}
			known[f.StreamID] = true
			path := f.PseudoValue("path")
			switch {
			case f.PseudoValue("protocol") != "":
				headers(f.StreamID, false, ":status", "200", "x-conn", n)
			case path == "/trailers":
				headers(f.StreamID, false, ":status", "200", "x-conn", n)
				headers(f.StreamID, true, "x-trailer", "1")
			default:
				headers(f.StreamID, true, ":status", "200", "x-conn", n)
				if path == "/goaway" {
					framer.WriteGoAway(f.StreamID, http2.ErrCodeNo, nil)
				}
			}
		}
	}
}

const http2Cluster = `typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        common_http_protocol_options: {max_requests_per_connection: 3}
        explicit_http_config: {http2_protocol_options: {allow_connect: true}}`

func TestHTTP2Upstream(t *testing.T) {
	seen := make(chan string, 20)
	up := upstreamFrames(t, seen)
	s, addr := serve(t, up.Addr().String(), "http2_protocol_options: {allow_connect: true}\n          http_protocol_options: {enable_trailers: true}", "", http2Cluster)
	c := dialFrames(t, addr)
	get := func(id uint32, path string) string {
		t.Helper()
		c.headers(id, true, ":method=GET", ":scheme=http", ":authority=h", ":path="+path)
		return strings.Join(c.until(itoa(int(id))+" end"), "; ")
	}
	next := uint32(1)
	for _, tt := range []struct{ path, conn, also string }{
		{"/a", "1", ""}, {"/goaway", "1", ""}, // it wants no more streams
		{"/b", "2", ""}, {"/trailers", "2", "x-trailer: 1"}, {"/c", "2", ""}, // three are all that it serves
		{"/d", "3", ""},
	} {
		got := get(next, tt.path)
		next += 2
		if !strings.Contains(got, "x-conn: "+tt.conn) || !strings.Contains(got, tt.also) {
			t.Errorf("%s: got %s, want connection %s", tt.path, got, tt.conn)
		}
		if head := <-seen; !strings.Contains(head, ":path: "+tt.path+"\n") {
			t.Errorf("%s: the upstream got %q", tt.path, head)
		}
	}
	for name, want := range map[string]int64{"upstream_cx_close_notify": 1, "upstream_cx_max_requests": 1, "upstream_cx_http2_total": 3} {
		if n := s.Stats.Stat("cluster.c." + name).Value(); n != want {
			t.Errorf("%s is %d, want %d", name, n, want)
		}
	}
}

// An upgrade over HTTP/1.1 is an extended CONNECT over HTTP/2, and its 200 a 101
// (RFC 8441).
func TestHTTP2UpstreamTunnel(t *testing.T) {
	seen := make(chan string, 20)
	up := upstreamFrames(t, seen)
	_, addr := serve(t, up.Addr().String(), "", "", http2Cluster)
	c := dial(t, addr)
	c.send("GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if status, _ := c.response(); status != 101 {
		t.Fatalf("status %d", status)
	}
	head := <-seen
	for _, want := range []string{":method: CONNECT\n", ":protocol: websocket\n", ":path: /ws\n"} {
		if !strings.Contains(head, want) {
			t.Errorf("no %q in %q", want, head)
		}
	}
	for _, not := range []string{"\nupgrade:", "\nconnection:"} {
		if strings.Contains(head, not) {
			t.Errorf("%q in %q", not, head)
		}
	}
	c.send("hello")
	echo := make([]byte, 5)
	if _, err := io.ReadFull(c, echo); err != nil || string(echo) != "hello" {
		t.Errorf("got %q, %v", echo, err)
	}
}

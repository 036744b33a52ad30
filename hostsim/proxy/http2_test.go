package proxy

import (
	"bufio"
	"bytes"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// deafConn is a connection that takes everything and gives nothing.
type deafConn struct{ net.Conn }

func (deafConn) Write(p []byte) (int, error)      { return len(p), nil }
func (deafConn) Close() error                     { return nil }
func (deafConn) SetReadDeadline(time.Time) error  { return nil }
func (deafConn) SetWriteDeadline(time.Time) error { return nil }

// fuzzedHTTP2 is a connection, of a server or a client, that reads data.
func fuzzedHTTP2(data []byte, client bool) *http2Conn {
	stats := &Stats{}
	options := newHTTP2Options(nil)
	counters := newHTTP2Stats(stats, "", client)
	h := newHTTP2Conn(deafConn{}, bufio.NewReader(bytes.NewReader(data)), &options, 100, 60<<10, counters)
	h.onOpen = func(s *http2Stream, m *http2Message) *http2Error {
		e := m.whole()
		if e != nil {
			h.mu.Lock()
			e = h.messageError(s, e)
			h.mu.Unlock()
		}
		return e
	}
	if client {
		h.next = 1
		h.mu.Lock()
		h.newStream(1)
		h.next = 3
		h.mu.Unlock()
	}
	return h
}

// Whatever a peer sends ends in an error or the end of the bytes: no panic, and
// no stream that may receive more than it was given.
func FuzzHTTP2Frames(f *testing.F) {
	var seed bytes.Buffer
	framer := http2.NewFramer(&seed, nil)
	framer.WriteSettings()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":path", "/"}, {":authority", "h.example"}, {"content-length", "3"}} {
		encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
	framer.WriteData(1, true, []byte("abc"))
	framer.WriteWindowUpdate(0, 10)
	framer.WritePing(false, [8]byte{})
	framer.WriteRSTStream(1, http2.ErrCodeCancel)
	framer.WriteGoAway(0, http2.ErrCodeNo, nil)
	f.Add(seed.Bytes(), false)
	f.Add(seed.Bytes(), true)
	f.Fuzz(func(t *testing.T, data []byte, client bool) {
		h := fuzzedHTTP2(data, client)
		if err := h.read(); err == nil {
			t.Fatal("reading ended without a reason")
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		for id, s := range h.streams {
			if !s.active || s.recvWindow > h.options.streamWindow {
				t.Errorf("stream %d: active %v, window %d", id, s.active, s.recvWindow)
			}
		}
	})
}

func TestMessagesOfHTTP2(t *testing.T) {
	good := [][2]string{{":method", "GET"}, {":scheme", "http"}, {":path", "/"}, {":authority", "h.example"}}
	with := func(more ...[2]string) [][2]string { return append(append([][2]string(nil), good...), more...) }
	for name, tt := range map[string]struct {
		fields [][2]string
		want   *http2Error
	}{
		"a request":                         {good, nil},
		"te trailers":                       {with([2]string{"te", "Trailers"}), nil},
		"a connection field":                {with([2]string{"connection", "close"}), errHTTP2Field},
		"an upper-case name":                {with([2]string{"X-A", "1"}), errHTTP2Field},
		"a pseudo header behind a field":    {with([2]string{"a", "1"}, [2]string{":path", "/"}), errHTTP2Field},
		"no authority":                      {good[:3], errHTTP2Message},
		"a host in place of authority":      {append(good[:3:3], [2]string{"host", "h.example"}), nil},
		"extended CONNECT unasked for":      {with([2]string{":protocol", "websocket"}), errHTTP2Field},
		"a length without content":          {with([2]string{"content-length", "5"}), errHTTP2Message},
		"a length of nothing":               {with([2]string{"content-length", "0"}), nil},
		"a value with a control character":  {with([2]string{"a", "\x01"}), errHTTP2Field},
		"white space around a value stays ": {with([2]string{"a", " b "}), nil},
	} {
		t.Run(name, func(t *testing.T) {
			var m http2Message
			m.begin(true, messageCheck{most: 100, mostSize: 60 << 10})
			for _, f := range tt.fields {
				m.add(hpack.HeaderField{Name: f[0], Value: f[1]})
			}
			if got := m.whole(); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

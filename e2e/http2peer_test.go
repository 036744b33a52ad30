package e2e

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// An http2Conn is either end of an HTTP/2 connection without TLS, just enough
// of one for requests and extended CONNECT: golang.org/x/net/http2 offers no
// client that sends ":protocol".
type http2Conn struct {
	conn   net.Conn
	framer *http2.Framer

	mu      sync.Mutex // one writer at a time
	encoder *hpack.Encoder
	block   bytes.Buffer
}

func newHTTP2Conn(c net.Conn, r io.Reader) *http2Conn {
	h := &http2Conn{conn: c, framer: http2.NewFramer(c, r)}
	h.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	h.encoder = hpack.NewEncoder(&h.block)
	return h
}

func (h *http2Conn) write(f func() error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return f()
}

// writeHeaders sends a header block; names and values alternate.
func (h *http2Conn) writeHeaders(stream uint32, end bool, fields ...string) error {
	return h.write(func() error {
		h.block.Reset()
		for i := 0; i < len(fields); i += 2 {
			if err := h.encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}); err != nil {
				return err
			}
		}
		return h.framer.WriteHeaders(http2.HeadersFrameParam{
			StreamID: stream, BlockFragment: h.block.Bytes(), EndStream: end, EndHeaders: true,
		})
	})
}

// next reads the next frame that is about a stream, and does what the protocol
// wants for the others. It gives back at once what a DATA frame took from the
// windows.
func (h *http2Conn) next() (http2.Frame, error) {
	for {
		f, err := h.framer.ReadFrame()
		if err != nil {
			return nil, err
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = h.write(h.framer.WriteSettingsAck)
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				err = h.write(func() error { return h.framer.WritePing(true, f.Data) })
			}
		case *http2.DataFrame:
			if n := uint32(len(f.Data())); n > 0 {
				err = h.write(func() error {
					return errors.Join(h.framer.WriteWindowUpdate(0, n), h.framer.WriteWindowUpdate(f.StreamID, n))
				})
			}
			return f, err
		case *http2.MetaHeadersFrame, *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return f, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// A tunnelHTTP2 is the client's end of one request on a connection of its own.
type tunnelHTTP2 struct {
	*http2Conn
	status string
	fields []string // of the response, "name: value"
	rest   []byte   // of the last DATA frame
	ended  bool
}

// requestHTTP2 sends one request and waits for the head of its response. It
// checks that the server welcomes extended CONNECT, as RFC 8441 3 wants a client
// to do.
func requestHTTP2(t *testing.T, addr string, end bool, fields ...string) *tunnelHTTP2 {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	h := &tunnelHTTP2{http2Conn: newHTTP2Conn(c, bufio.NewReader(c))}
	if err := h.open(end, fields); err != nil {
		t.Fatalf("HTTP/2 request %q: %v", fields, err)
	}
	return h
}

func (h *tunnelHTTP2) open(end bool, fields []string) error {
	if _, err := io.WriteString(h.conn, http2.ClientPreface); err != nil {
		return err
	}
	if err := h.framer.WriteSettings(); err != nil {
		return err
	}
	f, err := h.framer.ReadFrame()
	if err != nil {
		return err
	}
	settings, ok := f.(*http2.SettingsFrame)
	if !ok {
		return fmt.Errorf("got %v, want SETTINGS first", f)
	}
	if v, ok := settings.Value(http2.SettingEnableConnectProtocol); !ok || v != 1 {
		return fmt.Errorf("the server does not announce extended CONNECT: %v", settings)
	}
	if err := h.write(h.framer.WriteSettingsAck); err != nil {
		return err
	}
	if err := h.writeHeaders(1, end, fields...); err != nil {
		return err
	}
	for {
		f, err := h.next()
		if err != nil {
			return err
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			h.status, h.ended = f.PseudoValue("status"), f.StreamEnded()
			for _, field := range f.RegularFields() {
				h.fields = append(h.fields, field.Name+": "+field.Value)
			}
			return nil
		case *http2.RSTStreamFrame:
			return fmt.Errorf("the stream was reset: %v", f.ErrCode)
		case *http2.GoAwayFrame: // without an error the stream goes on
			if f.ErrCode != http2.ErrCodeNo {
				return fmt.Errorf("GOAWAY: %v %q", f.ErrCode, f.DebugData())
			}
		}
	}
}

// Read implements io.Reader: the content of the stream's DATA frames.
func (h *tunnelHTTP2) Read(p []byte) (int, error) {
	for len(h.rest) == 0 {
		if h.ended {
			return 0, io.EOF
		}
		f, err := h.next()
		if err != nil {
			return 0, err
		}
		switch f := f.(type) {
		case *http2.DataFrame:
			h.rest, h.ended = bytes.Clone(f.Data()), f.StreamEnded()
		case *http2.RSTStreamFrame:
			return 0, fmt.Errorf("the stream was reset: %v", f.ErrCode)
		}
	}
	n := copy(p, h.rest)
	h.rest = h.rest[n:]
	return n, nil
}

// Write implements io.Writer. It does not wait for windows: tests send less than
// one holds.
func (h *tunnelHTTP2) Write(p []byte) (int, error) {
	return len(p), h.write(func() error { return h.framer.WriteData(1, false, p) })
}

// serveHTTP2 runs a WebSocket server that speaks RFC 8441 only, and sends back
// every message. It returns its port.
func serveHTTP2(t *testing.T) int {
	return serve(t, func(c net.Conn, r *bufio.Reader) error {
		preface := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(r, preface); err != nil || string(preface) != http2.ClientPreface {
			return fmt.Errorf("preface %q: %w", preface, err)
		}
		h := newHTTP2Conn(c, r)
		if err := h.framer.WriteSettings(http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1}); err != nil {
			return err
		}
		received := map[uint32][]byte{} // of each stream, what is no whole WebSocket frame yet
		for {
			f, err := h.next()
			if err != nil {
				return err
			}
			switch f := f.(type) {
			case *http2.MetaHeadersFrame:
				id := f.StreamID
				if f.PseudoValue("method") != "CONNECT" || f.PseudoValue("protocol") != "websocket" {
					err = h.writeHeaders(id, true, ":status", "400")
					break
				}
				received[id] = nil
				err = h.writeHeaders(id, false, ":status", "200")
			case *http2.DataFrame:
				id := f.StreamID
				frames, rest := unmasked(append(received[id], f.Data()...))
				received[id] = bytes.Clone(rest)
				if len(frames) > 0 {
					err = h.write(func() error { return h.framer.WriteData(id, false, frames) })
				}
			}
			if err != nil {
				return err
			}
		}
	})
}

// A client's frames are masked, a server's are not (RFC 6455 5.1). unmasked
// makes a server's of each whole frame in b; rest is what is left. Messages of
// 126 bytes and more are not understood.
func unmasked(b []byte) (frames, rest []byte) {
	for len(b) >= 6 {
		size := int(b[1] & 0x7f)
		if len(b) < 6+size {
			break
		}
		frames = append(frames, b[0], byte(size))
		for i, c := range b[6 : 6+size] {
			frames = append(frames, c^b[2+i%4])
		}
		b = b[6+size:]
	}
	return frames, b
}

// masked text frame of a client, for messages shorter than 126 bytes.
func textFrame(text string) []byte {
	mask := binary.BigEndian.AppendUint32(nil, 0x01020304)
	frame := append([]byte{0x81, 0x80 | byte(len(text))}, mask...)
	for i := range len(text) {
		frame = append(frame, text[i]^mask[i%4])
	}
	return frame
}

package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// feed is a connection that gives its pieces one read at a time.
type feed struct {
	net.Conn
	pieces [][]byte
}

func (f *feed) Read(p []byte) (int, error) {
	if len(f.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(p, f.pieces[0])
	if f.pieces[0] = f.pieces[0][n:]; len(f.pieces[0]) == 0 {
		f.pieces = f.pieces[1:]
	}
	return n, nil
}

func inputOf(pieces ...string) *input {
	f := &feed{}
	for _, p := range pieces {
		f.pieces = append(f.pieces, []byte(p))
	}
	return &input{conn: f}
}

func TestRequestHeads(t *testing.T) {
	for _, tt := range []struct {
		name, head string
		want       []field // pseudo headers are added later
		err        error
	}{
		{name: "names in lower case, in wire order, repeated lines apart",
			head: "GET / HTTP/1.1\r\nX-B: 1\r\nHost: h\r\nx-a: 2\r\nX-b: 3\r\n\r\n",
			want: []field{{":authority", "h"}, {"x-b", "1"}, {"x-a", "2"}, {"x-b", "3"}}},
		{name: "repeated inline headers joined by a bare comma where the first stood",
			head: "GET / HTTP/1.1\r\nConnection: keep-alive\r\nX: 1\r\nconnection: Upgrade\r\n\r\n",
			want: []field{{"connection", "keep-alive,Upgrade"}, {"x", "1"}}},
		{name: "an empty first line of an inline header leaves no comma",
			head: "GET / HTTP/1.1\r\nConnection:\r\nConnection: Upgrade\r\n\r\n",
			want: []field{{"connection", "Upgrade"}}},
		{name: "OWS is no part of a value", head: "GET / HTTP/1.1\r\nX: \t a b \t\r\nY:c\r\n\r\n",
			want: []field{{"x", "a b"}, {"y", "c"}}},
		{name: "a folded line is joined as it stands", head: "GET / HTTP/1.1\r\nX: a,\r\n\tb\r\nY: 1\r\n\r\n",
			want: []field{{"x", "a,\tb"}, {"y", "1"}}},
		{name: "a bare CR disappears", head: "GET / HTTP/1.1\r\nX: a\rb\r\n\r\n", want: []field{{"x", "ab"}}},
		{name: "lines may end in a bare LF", head: "GET / HTTP/1.1\nX: a\n\n", want: []field{{"x", "a"}}},
		{name: "obs-text is a value", head: "GET / HTTP/1.1\r\nX: \xa0\xff\r\n\r\n", want: []field{{"x", "\xa0\xff"}}},
		{name: "empty lines before the request line", head: "\r\n\n\r\nGET / HTTP/1.1\r\nX: a\r\n\r\n", want: []field{{"x", "a"}}},
		{name: "tabs and CR between the words of the request line", head: "GET\t/ \r HTTP/1.1\r\r\nX: a\r\n\r\n", want: []field{{"x", "a"}}},
		{name: "a space before the colon", head: "GET / HTTP/1.1\r\nX : a\r\n\r\n", err: errParse},
		{name: "a line without a colon", head: "GET / HTTP/1.1\r\nX\r\n\r\n", err: errParse},
		{name: "an empty name", head: "GET / HTTP/1.1\r\n: a\r\n\r\n", err: errParse},
		{name: "a control character in a value", head: "GET / HTTP/1.1\r\nX: a\x0bb\r\n\r\n", err: errCharacters},
		{name: "NUL in a value", head: "GET / HTTP/1.1\r\nX: a\x00b\r\n\r\n", err: errCharacters},
		{name: "a folded line before any header", head: "GET / HTTP/1.1\r\n X: a\r\n\r\n", err: errParse},
		{name: "an unknown method", head: "GETT / HTTP/1.1\r\n\r\n", err: errParse},
		{name: "a method in lower case", head: "get / HTTP/1.1\r\n\r\n", err: errParse},
		{name: "no target", head: "GET\r\n\r\n", err: errParse},
		{name: "a byte over 0x7f in the target", head: "GET /\xc3\xa4 HTTP/1.1\r\n\r\n", err: errParse},
		{name: "a strange version", head: "GET / HTTP/11\r\n\r\n", err: errParse},
	} {
		t.Run(tt.name, func(t *testing.T) {
			head, err := inputOf(tt.head).readHead(1<<20, methodStart)
			var h Headers
			h.reset(requestInline)
			if err == nil {
				_, err = parseRequest(head, &h, 100, false)
			}
			if err != tt.err {
				t.Fatalf("got error %v, want %v", err, tt.err)
			}
			if err == nil {
				if diff := cmp.Diff(tt.want, h.fields, cmp.AllowUnexported(field{})); diff != "" {
					t.Errorf("fields (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestHeadLimits(t *testing.T) {
	many := "GET / HTTP/1.1\r\n" + strings.Repeat("X: 1\r\n", 101) + "\r\n"
	head, err := inputOf(many).readHead(1<<20, methodStart)
	if err != nil {
		t.Fatal(err)
	}
	var h Headers
	h.reset(requestInline)
	if _, err := parseRequest(head, &h, 100, false); err != errTooManyHeaders {
		t.Errorf("101 headers: got %v, want %v", err, errTooManyHeaders)
	}
	if _, err := inputOf("GET / HTTP/1.1\r\nX: "+strings.Repeat("a", 61<<10)).readHead(60<<10, methodStart); err != errHeadersTooBig {
		t.Errorf("a head without an end: got %v, want %v", err, errHeadersTooBig)
	}
	if _, err := inputOf("\x16\x03\x01").readHead(60<<10, methodStart); err != errParse {
		t.Errorf("a TLS hello: got %v, want %v before the head is complete", err, errParse)
	}
}

// However a message is cut into reads, it is the same message, and what comes
// behind it is still there.
func TestSplitAnywhere(t *testing.T) {
	const head = "POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
	const body = "5;ext=1\r\nhello\r\n006\r\n world\r\n0\r\nTrailer: x\r\n\r\n"
	const behind = "\x81\x85frames"
	whole := head + body + behind
	for cut := 1; cut < len(whole); cut++ {
		in := inputOf(whole[:cut], whole[cut:])
		got, err := in.readHead(1<<20, methodStart)
		if err != nil || string(got) != head {
			t.Fatalf("cut at %d: got head %q, %v", cut, got, err)
		}
		in.discard(len(got))
		var b bodyReader
		b.reset(in, bodyChunked, 0)
		var content bytes.Buffer
		for {
			data, err := b.next()
			content.Write(data)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("cut at %d: %v", cut, err)
			}
		}
		if content.String() != "hello world" {
			t.Fatalf("cut at %d: got content %q", cut, content.String())
		}
		for len(in.buffered()) < len(behind) {
			if err := in.fill(len(behind)); err != nil {
				t.Fatalf("cut at %d: lost what comes behind the message: %q", cut, in.buffered())
			}
		}
		if string(in.buffered()) != behind {
			t.Fatalf("cut at %d: got %q behind the message, want %q", cut, in.buffered(), behind)
		}
	}
}

func TestMalformedChunks(t *testing.T) {
	for _, body := range []string{"x\r\n", "\r\n", "-1\r\n", "5\nhello\r\n0\r\n\r\n", "5;a\rb\r\nhello\r\n", " 5\r\n", "fffffffffffffffff\r\n", "0x5\r\nhello\r\n"} {
		var b bodyReader
		b.reset(inputOf(body), bodyChunked, 0)
		for {
			_, err := b.next()
			if errors.Is(err, errBody) {
				break
			}
			if err != nil {
				t.Errorf("%q: got %v, want %v", body, err, errBody)
				break
			}
		}
	}
}

// What the codec takes, it writes such that it reads the same again.
func FuzzRequestHead(f *testing.F) {
	f.Add([]byte("GET /a?b HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nConnection: Upgrade\r\nX: a\r\n\tb\r\n\r\n"))
	f.Add([]byte("POST http://h/ HTTP/1.0\nX:\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		parse := func(data []byte) (requestHead, Headers, bool) {
			var h Headers
			h.reset(requestInline)
			head, err := inputOf(string(data)).readHead(1<<20, methodStart)
			if err != nil {
				return requestHead{}, h, false
			}
			req, err := parseRequest(head, &h, 100, false)
			return req, h, err == nil
		}
		req, h, ok := parse(data)
		if !ok {
			return
		}
		again := h
		again.fields = append([]field(nil), h.fields...)
		again.insert(":method", req.method)
		if req.method == "CONNECT" {
			return // its target is the authority
		}
		again.insert(":path", req.target)
		req2, h2, ok := parse(new(encoding).appendRequest(nil, &again, false, false))
		if !ok {
			t.Fatalf("%q: cannot be read back from %q", data, new(encoding).appendRequest(nil, &again, false, false))
		}
		if req2.method != req.method || req2.target != req.target {
			t.Fatalf("%q: got %+v back, want %+v", data, req2, req)
		}
		if diff := cmp.Diff(h.fields, h2.fields, cmp.AllowUnexported(field{})); diff != "" {
			t.Fatalf("%q: fields read back differ:\n%s", data, diff)
		}
	})
}

// A chunked body never panics, never gives more than was sent, and ends.
func FuzzChunked(f *testing.F) {
	f.Add([]byte("5\r\nhello\r\n0\r\n\r\n"), uint8(3))
	f.Fuzz(func(t *testing.T, data []byte, cut uint8) {
		n := min(int(cut), len(data))
		var b bodyReader
		b.reset(inputOf(string(data[:n]), string(data[n:])), bodyChunked, 0)
		total := 0
		for {
			piece, err := b.next()
			if total += len(piece); total > len(data) {
				t.Fatalf("%d bytes of content out of %d", total, len(data))
			}
			if err != nil {
				return
			}
		}
	})
}

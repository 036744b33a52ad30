package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"testing"
)

// messageEnd returns how many bytes of data the codec takes as the first
// request, or false if it refuses the request, if the request is not complete,
// or if it has no end, as a tunnel has none.
func messageEnd(data []byte) (end int64, ok bool) {
	s := &stream{hcm: &hcm{maxHeaders: 100}, conn: &connection{}}
	s.request.reset(requestInline)
	s.conn.in = input{conn: &feed{pieces: [][]byte{bytes.Clone(data)}}}
	in := &s.conn.in
	head, err := in.readHead(60<<10, methodStart)
	if err != nil || s.decodeCodec(head) != nil || s.body.kind == bodyUntilClose {
		return 0, false
	}
	in.discard(len(head))
	for {
		switch _, err := s.body.next(); {
		case errors.Is(err, io.EOF):
			return in.consumed, true
		case err != nil:
			return 0, false
		}
	}
}

// netHTTPEnd is messageEnd of net/http.
func netHTTPEnd(data []byte) (end int64, ok bool) {
	from := bytes.NewReader(data)
	r := bufio.NewReader(from)
	req, err := http.ReadRequest(r)
	if err != nil {
		return 0, false
	}
	if _, err := io.Copy(io.Discard, req.Body); err != nil {
		return 0, false
	}
	return int64(len(data) - from.Len() - r.Buffered()), true
}

// messages are framed in every way that has been used to make two parties see
// different requests in the same bytes (RFC 9112 11.2).
var messages = []string{
	"GET / HTTP/1.1\r\nHost: h\r\n\r\nGET /behind HTTP/1.1\r\nHost: h\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5, 5\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
	"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 05\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n 5\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n 0\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: h\r\nContent-Length : 5\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: h\r\nContent_Length: 5\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\rX: y\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: h\r\nX: y\rContent-Length: 5\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: h\r\nX: y\nContent-Length: 5\n\nhello",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nbehind",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n5;a=\"\r\n\"\r\nhello\r\n0\r\nX: y\r\n\r\nbehind",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\nbehind",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n 5\r\nhello\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n00\r\n\r\nbehind",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhelloX",
	"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\n\r\nhello",
	"GET / HTTP/1.1\r\nHost: h\r\nConnection: content-length\r\nContent-Length: 5\r\n\r\nhello",
	"GET / HTTP/1.1\r\nHost: h\r\nConnection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: 5\r\n\r\nhello",
}

// Two parties that see different ends in the same bytes let a client smuggle
// requests past the first one.
func TestMessageEndIsThatOfNetHTTP(t *testing.T) {
	compared := 0
	for _, message := range messages {
		end, ok := messageEnd([]byte(message))
		want, wanted := netHTTPEnd([]byte(message))
		if ok && wanted {
			if compared++; end != want {
				t.Errorf("%q: the request ends at %d, net/http says %d", message, end, want)
			}
		}
	}
	if compared < 8 {
		t.Errorf("only %d of the messages were taken by both", compared)
	}
}

// FuzzMessageEnd: the codec and net/http never disagree on where a request
// ends, unless one of them refuses it.
func FuzzMessageEnd(f *testing.F) {
	for _, message := range messages {
		f.Add([]byte(message))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		end, ok := messageEnd(data)
		want, wanted := netHTTPEnd(data)
		if ok && wanted && end != want {
			t.Errorf("the request ends at %d, net/http says %d: %q", end, want, data)
		}
	})
}

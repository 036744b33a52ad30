package proxy

import (
	"net"
	"testing"
)

// BenchmarkPlainRequest is one request on an open connection, through a route
// to an upstream and back, with about the headers a browser sends. Client and
// upstream of the benchmark allocate nothing, so all allocations are ours.
func BenchmarkPlainRequest(b *testing.B) {
	const request = "GET /a/b?c=d HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0\r\n" +
		"Accept: */*\r\nAccept-Language: en-US,en;q=0.9\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nSec-Fetch-Dest: empty\r\n" +
		"Sec-Fetch-Mode: cors\r\nSec-Fetch-Site: same-site\r\nPragma: no-cache\r\nCache-Control: no-cache\r\nCookie: a=b\r\n\r\n"
	response := []byte("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello")
	l := accept(b, func(c net.Conn) {
		defer c.Close()
		buf := make([]byte, 4096)
		for { // a request comes in one piece here
			if _, err := c.Read(buf); err != nil {
				return
			}
			if _, err := c.Write(response); err != nil {
				return
			}
		}
	})
	_, addr := serve(b, l.Addr().String(), "", "", "")
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	out, in := []byte(request), make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(out); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(in); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkParse is the codec alone.
func BenchmarkParse(b *testing.B) {
	const request = "GET /a/b?c=d HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0\r\n" +
		"Accept: */*\r\nAccept-Language: en-US,en;q=0.9\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nSec-Fetch-Dest: empty\r\n" +
		"Sec-Fetch-Mode: cors\r\nSec-Fetch-Site: same-site\r\nPragma: no-cache\r\nCache-Control: no-cache\r\nCookie: a=b\r\n\r\n"
	var h Headers
	head := make([]byte, len(request))
	b.ReportAllocs()
	for b.Loop() {
		copy(head, request)
		h.reset(requestInline)
		if _, err := parseRequest(head, &h, 100, false); err != nil {
			b.Fatal(err)
		}
	}
}

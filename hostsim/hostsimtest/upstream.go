package hostsimtest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Upstream is a server of HTTP/1.1 that records what it receives.
//
// Unless the test says otherwise it answers each request with 200 and the
// cluster's name, and accepts each upgrade, whose bytes it sends back.
type Upstream struct {
	cluster  string
	listener net.Listener
	serving  sync.WaitGroup

	mu       sync.Mutex
	requests []Request
	answer   func(Request, net.Conn)
	conns    map[net.Conn]struct{}
	closed   bool
}

// Request is what an upstream has received.
type Request struct {
	Line    string  // "GET / HTTP/1.1"
	Headers Headers // names as they came
	Body    string  // without its framing
	Raw     string  // all of it, byte by byte
}

// Get returns the value of the first field of that name, in any case, or "".
func (r Request) Get(name string) string {
	for _, h := range r.Headers {
		if equalFold(h[0], name) {
			return h[1]
		}
	}
	return ""
}

// Requests are the requests so far, in the order in which they were complete.
// What a client has an answer to is among them.
func (u *Upstream) Requests() []Request {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.requests)
}

// Answer makes the upstream answer with these bytes from now on.
func (u *Upstream) Answer(raw string) {
	u.Handle(func(_ Request, c net.Conn) { io.WriteString(c, raw) })
}

// Handle makes the upstream answer with f from now on. What f reads is what
// comes behind the request; the connection stays open when f returns, unless f
// closes it.
func (u *Upstream) Handle(f func(Request, net.Conn)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answer = f
}

func newUpstream(cluster string) (*Upstream, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	u := &Upstream{cluster: cluster, listener: l, conns: map[net.Conn]struct{}{}}
	u.answer = u.plain
	u.serving.Go(u.accept)
	return u, nil
}

func (u *Upstream) port() int { return u.listener.Addr().(*net.TCPAddr).Port }

func (u *Upstream) close() {
	u.listener.Close()
	u.mu.Lock()
	u.closed = true
	for c := range u.conns {
		c.Close()
	}
	u.mu.Unlock()
	u.serving.Wait()
}

func (u *Upstream) accept() {
	for {
		c, err := u.listener.Accept()
		if err != nil {
			return
		}
		u.mu.Lock()
		if u.closed {
			c.Close()
		} else {
			u.conns[c] = struct{}{}
			u.serving.Go(func() { u.serve(c) })
		}
		u.mu.Unlock()
	}
}

// buffered is a connection of which some bytes were read ahead.
type buffered struct {
	net.Conn
	in *bufio.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.in.Read(p) }

func (u *Upstream) serve(c net.Conn) {
	defer func() {
		c.Close()
		u.mu.Lock()
		delete(u.conns, c)
		u.mu.Unlock()
	}()
	in := bufio.NewReader(c)
	for {
		r, err := readRequest(in)
		if err != nil {
			return
		}
		u.mu.Lock()
		u.requests = append(u.requests, r)
		answer := u.answer
		u.mu.Unlock()
		answer(r, buffered{c, in})
	}
}

// plain is the answer that a test has not asked for.
func (u *Upstream) plain(r Request, c net.Conn) {
	if upgrade := r.Get("upgrade"); upgrade != "" {
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: %s\r\n\r\n", upgrade)
		io.Copy(c, c)
		c.Close()
		return
	}
	body := u.cluster
	if strings.HasPrefix(r.Line, "HEAD ") {
		body = ""
	}
	fmt.Fprintf(c, "HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s", len(u.cluster), body)
}

// readRequest reads a request as a proxy sends it.
func readRequest(in *bufio.Reader) (r Request, err error) {
	var raw strings.Builder
	line := func() string {
		text, e := in.ReadString('\n')
		raw.WriteString(text)
		if err == nil {
			err = e
		}
		return strings.TrimRight(text, "\r\n")
	}
	take := func(n int64) string {
		var b strings.Builder
		if _, e := io.CopyN(&b, in, n); err == nil {
			err = e
		}
		raw.WriteString(b.String())
		return b.String()
	}
	r.Line = line()
	for text := line(); text != "" && err == nil; text = line() {
		name, value, _ := strings.Cut(text, ":")
		r.Headers = append(r.Headers, [2]string{name, strings.Trim(value, " \t")})
	}
	if n, e := strconv.ParseInt(r.Get("content-length"), 10, 64); e == nil {
		r.Body = take(n)
	}
	for equalFold(r.Get("transfer-encoding"), "chunked") && err == nil {
		size, _, _ := strings.Cut(line(), ";")
		n, e := strconv.ParseInt(size, 16, 64)
		if e != nil || n == 0 {
			for err == nil && line() != "" { // trailers
			}
			break
		}
		r.Body += take(n)
		line()
	}
	r.Raw = raw.String()
	return r, err
}

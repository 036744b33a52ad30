package e2e

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A wire is a TCP connection that is read all the time, so that it is known
// when bytes came and how and when it ended.
type wire struct {
	c  *net.TCPConn
	rw net.Conn // what is read and written: c, or TLS on it

	mu    sync.Mutex
	cond  *sync.Cond
	data  []byte    // all that was received
	read  int       // how much of it Read returned
	last  time.Time // of the last byte received or sent
	ended time.Time
	err   error // how it ended: io.EOF is a FIN
	sent  error // of the first failed write
}

func newWire(c *net.TCPConn) *wire { return wireOn(c, c) }

func wireOn(c *net.TCPConn, rw net.Conn) *wire {
	w := &wire{c: c, rw: rw, last: time.Now()}
	w.cond = sync.NewCond(&w.mu)
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := rw.Read(buf)
			now := time.Now()
			w.mu.Lock()
			if n > 0 {
				w.data, w.last = append(w.data, buf[:n]...), now
			}
			if err != nil {
				w.err, w.ended = err, now
			}
			w.cond.Broadcast()
			w.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return w
}

// Read returns what was received, in order, waiting for it.
func (w *wire) Read(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.read == len(w.data) && w.err == nil {
		w.cond.Wait()
	}
	if w.read == len(w.data) {
		return 0, w.err
	}
	n := copy(p, w.data[w.read:])
	w.read += n
	return n, nil
}

func (w *wire) send(text string) {
	_ = w.rw.SetWriteDeadline(time.Now().Add(nodiffPatience))
	_, err := io.WriteString(w.rw, text)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = time.Now()
	if w.sent == nil {
		w.sent = err
	}
}

// until waits until done says so, the connection ended, or the time is over.
// done sees what was received so far.
func (w *wire) until(timeout time.Duration, done func(data []byte) bool) bool {
	deadline := time.Now().Add(timeout) // before the timer: it must not be early
	t := time.AfterFunc(timeout, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.cond.Broadcast()
	})
	defer t.Stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	for !done(w.data) {
		if w.err != nil || !time.Now().Before(deadline) {
			return false
		}
		w.cond.Wait()
	}
	return true
}

// reset closes with a RST instead of a FIN.
func (w *wire) reset() {
	_ = w.c.SetLinger(0)
	_ = w.c.Close()
}

// end is how the other side ended the connection, in a word.
func (w *wire) end() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.err == nil:
		return "open"
	case errors.Is(w.err, io.EOF):
		return "FIN"
	case errors.Is(w.err, syscall.ECONNRESET):
		return "RST"
	case errors.Is(w.err, net.ErrClosed):
		return "closed here"
	}
	return w.err.Error()
}

// watch waits until the connection ends, or was silent for longer than Envoy
// delays a close (a second), and says what happened.
func (w *wire) watch() string {
	for {
		w.mu.Lock()
		ended, quiet := w.err != nil, time.Since(w.last)
		w.mu.Unlock()
		if ended || quiet > silence {
			break
		}
		w.until(silence-quiet+time.Millisecond, func([]byte) bool { return false })
	}
	end := w.end()
	if end == "open" || end == "closed here" {
		return end
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended.Sub(w.last) > silence/3 {
		return end + " after about a second"
	}
	return end + " at once"
}

const (
	nodiffPatience = 5 * time.Second         // for an answer
	silence        = 1500 * time.Millisecond // a connection that stays so long is kept
)

// A reply is one response as the client got it.
type reply struct {
	head
	content  string
	trailers []string
	complete bool
}

// replies takes apart what a client received. rest is what is no response: the
// data of a tunnel, or garbage. Chunk sizes are forgotten, because they depend
// on how the bytes came.
func replies(data []byte, methods []string, ended bool) (all []reply, rest string) {
	under := bytes.NewReader(data)
	r := bufio.NewReaderSize(under, 16)
	left := func() string {
		b, _ := io.ReadAll(r)
		return string(b)
	}
	for final := 0; ; {
		mark := len(data) - under.Len() - r.Buffered()
		if mark == len(data) {
			return all, ""
		}
		h, err := readHead(r)
		if err != nil {
			return all, string(data[mark:])
		}
		p := reply{head: h}
		method := ""
		if final < len(methods) {
			method = methods[final]
		}
		status := h.status()
		switch {
		case status == 101, method == "CONNECT" && status/100 == 2:
			p.complete = true
			return append(all, p), left()
		case status/100 == 1:
			p.complete = true
			all = append(all, p)
			continue
		case method == "HEAD", status == 204, status == 304:
			p.complete = true
		case h.offers("transfer-encoding", "chunked"):
			b, err := io.ReadAll(httputil.NewChunkedReader(r))
			p.content = string(b)
			if err == nil {
				p.trailers, err = readTrailers(r)
			}
			p.complete = err == nil
		case len(h.values("content-length")) > 0:
			n, err := strconv.ParseInt(h.values("content-length")[0], 10, 64)
			if err != nil {
				return append(all, p), left()
			}
			b, _ := io.ReadAll(io.LimitReader(r, n))
			p.content, p.complete = string(b), int64(len(b)) == n
		default:
			p.content, p.complete = left(), ended
		}
		final++
		all = append(all, p)
	}
}

// count says how many final responses are complete; after a 101 all are.
func count(all []reply) int {
	n := 0
	for _, p := range all {
		if p.complete && (p.status() >= 200 || p.status() == 101) {
			n++
		}
	}
	return n
}

// A scriptedUpstream is one server behind a proxy that answers what the case
// says, and remembers what it got.
type scriptedUpstream struct {
	name string
	port int
	all  *scriptedUpstreams
}

type scriptedUpstreams struct {
	servers []*scriptedUpstream
	closers []io.Closer

	mu      sync.Mutex
	answers [][]step // of the case that runs
	raw     bool     // ... which does not speak HTTP
	next    int
	conns   []*upstreamConn
	got     []*upstreamRequest
}

type upstreamConn struct {
	*wire
	upstream *scriptedUpstream
	served   int
	counted  int // of the case, without sentinels
}

type upstreamRequest struct {
	conn     *upstreamConn
	again    bool // not the first on its connection
	head     head
	content  string
	trailers []string
	complete bool
	ending   []string // of the stream and the connection, if not as it should be
}

// upstreamPorts are the ports that a bootstrap names, and which server of the
// harness stands for each. Nothing listens on "refused"; "unanswered" leaves a
// SYN without an answer.
var upstreamPorts = []struct {
	port string
	name string
}{{"8080", "web"}, {"8081", "websocket"}, {"8082", "other"}, {"8083", "third"}, {"8084", "refused"}, {"8085", "unanswered"}, {"8086", "secure"}, {"8087", "http2"}, {"8088", "stranger"}, {"8089", "either"}, {"8090", "resuming"}, {"8091", "unconnected"}}

// sentinel marks the request that the harness sends after each case: when its
// access log line is there, all lines of the case are.
const sentinel = "nodiff-sentinel"

func startScriptedUpstreams() (*scriptedUpstreams, error) {
	u := &scriptedUpstreams{}
	for _, p := range upstreamPorts {
		s := &scriptedUpstream{name: p.name, all: u}
		u.servers = append(u.servers, s)
		if p.name == "refused" || p.name == "unanswered" {
			if err := s.silent(p.name == "unanswered"); err != nil {
				return nil, err
			}
			continue
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		s.port = l.Addr().(*net.TCPAddr).Port
		u.closers = append(u.closers, l)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go s.accept(c.(*net.TCPConn))
			}
		}()
	}
	return u, nil
}

// accept serves a connection in the way of the upstream.
func (s *scriptedUpstream) accept(c *net.TCPConn) {
	rw, protocol := net.Conn(c), ""
	certificate := map[string]string{"secure": "server", "stranger": "stranger", "either": "server", "resuming": "server"}[s.name]
	if certificate != "" {
		pair, err := certificateOf(certificate)
		if err != nil {
			panic(err) // testdata is part of the repository
		}
		config := &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}, SessionTicketsDisabled: s.name != "resuming"}
		config.SetSessionTicketKeys([][32]byte{{1}}) // there is a config for each connection
		if s.name == "either" {
			config.NextProtos = []string{"h2", "http/1.1"}
		}
		t := tls.Server(c, config)
		_ = t.SetDeadline(time.Now().Add(nodiffPatience))
		if t.Handshake() == nil {
			_ = t.SetDeadline(time.Time{})
		}
		rw, protocol = t, t.ConnectionState().NegotiatedProtocol
	}
	conn := &upstreamConn{wire: wireOn(c, rw), upstream: s}
	u := s.all
	u.mu.Lock()
	u.conns = append(u.conns, conn)
	raw := u.raw
	u.mu.Unlock()
	if raw {
		conn.serveRaw()
	} else if s.name == "http2" || s.name == "unconnected" || protocol == "h2" {
		conn.serveFrames()
	} else {
		conn.serve()
	}
}

// silent takes a port from which nobody gets an answer: a connection is refused
// as long as the socket that holds the port does not listen. Where it is to be
// left unanswered the queue of connections is full, and the kernel drops every
// further SYN.
func (s *scriptedUpstream) silent(unanswered bool) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	syscall.CloseOnExec(fd)
	s.all.closers = append(s.all.closers, closeFD(fd))
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		return err
	}
	s.port = name.(*syscall.SockaddrInet4).Port
	if !unanswered {
		return nil
	}
	if err := syscall.Listen(fd, 0); err != nil {
		return err
	}
	for range 2 {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", s.port), 100*time.Millisecond)
		if err != nil {
			break
		}
		s.all.closers = append(s.all.closers, c)
	}
	return nil
}

type closeFD int

func (fd closeFD) Close() error { return syscall.Close(int(fd)) }

func (u *scriptedUpstreams) close() {
	for _, c := range u.closers {
		c.Close()
	}
	u.forget()
}

// forget ends every connection and gives the proxy time to end it too: each
// case begins with empty pools.
func (u *scriptedUpstreams) forget() {
	u.mu.Lock()
	conns := u.conns
	u.conns, u.got, u.answers, u.next, u.raw = nil, nil, nil, 0, false
	u.mu.Unlock()
	for _, c := range conns {
		_ = c.c.CloseWrite()
	}
	for _, c := range conns {
		c.until(200*time.Millisecond, func([]byte) bool { return false })
		c.c.Close()
	}
}

// serve answers requests by the script of the case.
func (c *upstreamConn) serve() {
	r := bufio.NewReader(c.wire)
	u := c.upstream.all
	for {
		h, err := readHead(r)
		if err != nil {
			return
		}
		request := &upstreamRequest{conn: c, again: c.served > 0, head: h}
		c.served++
		isSentinel := strings.Contains(h.start, sentinel) || strings.Contains(strings.Join(h.fields, "\n"), sentinel)
		var answer []step
		u.mu.Lock()
		if !isSentinel {
			c.counted++
			u.got = append(u.got, request)
			if len(u.answers) > 0 {
				answer = u.answers[min(u.next, len(u.answers)-1)]
				u.next++
			}
		}
		u.mu.Unlock()
		upgrade := h.offers("connection", "upgrade") && len(h.values("upgrade")) > 0 || strings.HasPrefix(h.start, "CONNECT ")
		early := len(answer) > 0 && answer[0].op == "early"
		if !early && !upgrade {
			if request.readContent(u, r) != nil {
				return
			}
		}
		if answer == nil {
			answer = c.standard(h, upgrade)
		}
		if c.play(answer, request, r) {
			return
		}
		if early && !upgrade {
			if request.readContent(u, r) != nil {
				return
			}
		}
	}
}

// play does what a script says, and says whether that is the end of the
// connection.
func (c *upstreamConn) play(answer []step, request *upstreamRequest, r *bufio.Reader) (over bool) {
	u := c.upstream.all
	for _, s := range answer {
		switch s.op {
		case "send":
			c.send(s.text)
		case "pause":
			time.Sleep(s.pause)
		case "half-close":
			_ = c.c.CloseWrite()
		case "close":
			// A close with bytes unread would be a RST.
			_ = c.c.CloseWrite()
			c.until(200*time.Millisecond, func([]byte) bool { return false })
			c.c.Close()
			return true
		case "reset":
			c.reset()
			return true
		case "hang":
			_, _ = io.Copy(request.tunnel(u), r)
		case "echo":
			_, _ = io.Copy(io.MultiWriter(request.tunnel(u), sender{c.wire}), r)
		case "expect":
			buf := make([]byte, len(s.text))
			n, err := io.ReadFull(r, buf)
			_, _ = request.tunnel(u).Write(buf[:n])
			if err != nil {
				return true
			}
		}
	}
	return false
}

// serveRaw does what the script says for the connection, from its first byte
// on; without one it sends back what comes, its name in front, and closes when
// the other side does.
func (c *upstreamConn) serveRaw() {
	u := c.upstream.all
	request := &upstreamRequest{conn: c}
	c.counted++
	u.mu.Lock()
	u.got = append(u.got, request)
	answer := []step{{op: "echo"}, {op: "close"}}
	named := true
	if len(u.answers) > 0 {
		answer, named = u.answers[min(u.next, len(u.answers)-1)], false
		u.next++
	}
	u.mu.Unlock()
	if len(answer) == 0 || answer[0].op != "early" {
		if !c.until(time.Hour, func(data []byte) bool { return len(data) > 0 }) {
			_ = c.c.CloseWrite()
			return
		}
	}
	r := bufio.NewReader(c.wire)
	if named {
		_, _ = r.Peek(1)
		first, _ := r.Peek(r.Buffered())
		c.send(c.upstream.name + ": " + string(first))
		n, _ := request.tunnel(u).Write(first)
		_, _ = r.Discard(n)
	}
	if !c.play(answer, request, r) {
		_, _ = io.Copy(request.tunnel(u), r)
	}
}

// watch is how each connection has ended after a while.
func (u *scriptedUpstreams) watch() (ends []string) {
	u.mu.Lock()
	conns := u.conns
	u.mu.Unlock()
	for _, c := range conns {
		ends = append(ends, c.upstream.name+" "+c.wire.watch())
	}
	return ends
}

// hangUp closes all connections that do not end because the clients' have.
func (u *scriptedUpstreams) hangUp() {
	u.mu.Lock()
	conns := u.conns
	u.mu.Unlock()
	for _, c := range conns {
		c.until(100*time.Millisecond, func([]byte) bool { return false })
		c.c.Close()
	}
}

// standard is the answer where a case has none: 200 with the name of the
// upstream; to an upgrade or a CONNECT, its acceptance and an echo.
func (c *upstreamConn) standard(h head, upgrade bool) []step {
	switch {
	case upgrade && strings.HasPrefix(h.start, "CONNECT "):
		return []step{{op: "send", text: "HTTP/1.1 200 OK\r\n\r\n"}, {op: "echo"}}
	case upgrade && c.upstream.name == "websocket":
		return []step{{op: "send", text: "HTTP/1.1 101 Switching Protocols\r\nUpgrade: " + h.values("upgrade")[0] +
			"\r\nConnection: Upgrade\r\n\r\n"}, {op: "echo"}}
	}
	content := c.upstream.name
	if strings.HasPrefix(h.start, "HEAD ") {
		content = ""
	}
	return []step{{op: "send", text: fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s",
		len(c.upstream.name), content)}}
}

func (q *upstreamRequest) readContent(u *scriptedUpstreams, r *bufio.Reader) error {
	var content []byte
	var trailers []string
	var err error
	if q.head.offers("transfer-encoding", "chunked") {
		if content, err = io.ReadAll(httputil.NewChunkedReader(r)); err == nil {
			trailers, err = readTrailers(r)
		}
	} else {
		content, err = q.head.body(r, false)
		if n := q.head.values("content-length"); err == nil && len(n) > 0 && n[0] != strconv.Itoa(len(content)) {
			err = io.ErrUnexpectedEOF
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	q.content, q.trailers, q.complete = string(content), trailers, err == nil
	return err
}

// tunnel takes what comes behind the head of an upgrade.
func (q *upstreamRequest) tunnel(u *scriptedUpstreams) io.Writer { return tunnelWriter{q, u} }

type tunnelWriter struct {
	q *upstreamRequest
	u *scriptedUpstreams
}

func (t tunnelWriter) Write(p []byte) (int, error) {
	t.u.mu.Lock()
	defer t.u.mu.Unlock()
	t.q.content += string(p)
	return len(p), nil
}

type sender struct{ w *wire }

func (s sender) Write(p []byte) (int, error) {
	s.w.send(string(p))
	return len(p), nil
}

package e2e

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// A received is one request as an upstream got it.
type received struct {
	Upstream string // its name in servers, such as "web" or "websocket"
	Start    string
	Fields   []string // field lines in wire order, names and values as they came
	Content  string   // of a request to web
}

// servers are the upstreams by the ports that the shipped files name.
var servers = map[int]string{
	8080: "web",
	8081: "websocket",
	8082: "live",
	8083: "worker",
	8084: "kubernetes",
	8085: "docker",
	8086: "tailscale",
	8087: "http2",
}

// upstreams are the servers behind a proxy. They remember every request under
// the id in its path, so that many tests can use them at once.
type upstreams struct {
	ports map[int]int // what the ports in servers are replaced by

	lastID atomic.Int64

	mu       sync.Mutex
	requests map[string][]*received
}

// startUpstreams listens on free ports until the test ends.
func startUpstreams(t *testing.T) *upstreams {
	u := &upstreams{ports: map[int]int{}, requests: map[string][]*received{}}
	for port, name := range servers {
		switch name {
		case "web":
			u.ports[port] = serve(t, u.web)
		case "http2":
			u.ports[port] = serveHTTP2(t)
		default:
			u.ports[port] = serve(t, func(c net.Conn, r *bufio.Reader) error { return u.switching(name, c, r) })
		}
	}
	return u
}

// replacePorts gives the listeners and the admin interface of a bootstrap free
// ports, and its clusters those of the upstreams.
func (u *upstreams) replacePorts(t *testing.T, bootstrap string) string {
	t.Helper()
	return portValue.ReplaceAllStringFunc(bootstrap, func(line string) string {
		port, err := strconv.Atoi(strings.TrimPrefix(line, "port_value: "))
		if err != nil {
			t.Fatal(err)
		}
		free, ok := u.ports[port]
		if !ok && port != 0 && port != 9901 && port != 10000 {
			t.Fatalf("the bootstrap has port %d, and no server is known for it", port)
		}
		return fmt.Sprintf("port_value: %d", free)
	})
}

var portValue = regexp.MustCompile(`port_value: [0-9]+`)

// received returns what arrived for an id.
func (u *upstreams) received(id string) []received {
	u.mu.Lock()
	defer u.mu.Unlock()
	var requests []received
	for _, r := range u.requests[id] {
		requests = append(requests, *r)
	}
	return requests
}

// newID returns an id of its own for a request. They are all of one length: an
// id must not change what is compared.
func (u *upstreams) newID() string { return fmt.Sprintf("id%06d", u.lastID.Add(1)) }

// record remembers a request as soon as its head is there: the content of a
// request that should not have come may never follow.
func (u *upstreams) record(name string, h head) *received {
	id, r := idOf(h.start), &received{Upstream: name, Start: h.start, Fields: h.fields}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.requests[id] = append(u.requests[id], r)
	return r
}

func (u *upstreams) recordContent(r *received, content []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	r.Content = string(content)
}

// idOf finds the id in a request line such as "GET /t/ID?q HTTP/1.1".
func idOf(start string) string {
	_, rest, _ := strings.Cut(start, "/t/")
	if end := strings.IndexAny(rest, "/? "); end >= 0 {
		rest = rest[:end]
	}
	return rest
}

// web answers 200 to everything, upgrades too, and keeps the connection.
func (u *upstreams) web(c net.Conn, r *bufio.Reader) error {
	for {
		h, err := readHead(r)
		if err != nil {
			return err
		}
		if err := u.page(c, r, h); err != nil {
			return err
		}
	}
}

// page answers the request with that head as web does.
func (u *upstreams) page(c net.Conn, r *bufio.Reader, h head) error {
	request := u.record("web", h)
	body, err := h.body(r, false)
	if err != nil {
		return err
	}
	u.recordContent(request, body)
	content := "web\n"
	if strings.HasPrefix(h.start, "HEAD ") {
		content = ""
	}
	_, err = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\n%s", content)
	return err
}

// switching does the server's side of the opening handshake (RFC 6455 4.2), or
// of whatever other protocol is offered alone (RFC 9110 7.8), and then sends
// back every byte that it gets. What is no handshake gets 400, or 426 for a
// version of WebSocket other than 13.
func (u *upstreams) switching(name string, c net.Conn, r *bufio.Reader) error {
	h, err := readHead(r)
	if err != nil {
		return err
	}
	return u.handshake(name, c, r, h)
}

// handshake answers the request with that head as switching does.
func (u *upstreams) handshake(name string, c net.Conn, r *bufio.Reader, h head) error {
	u.record(name, h)
	refuse := func(status string) error {
		_, err := fmt.Fprintf(c, "HTTP/1.1 %s\r\nSec-WebSocket-Version: 13\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", status)
		return err
	}
	switching := func(protocol, fields string) error {
		if _, err := fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: %s\r\nConnection: Upgrade\r\n%s\r\n", protocol, fields); err != nil {
			return err
		}
		_, err := io.Copy(c, r)
		return err
	}
	if !h.offers("connection", "upgrade") {
		return refuse("400 Bad Request")
	}
	if offered := h.values("upgrade"); len(offered) == 1 && !strings.Contains(offered[0], ",") && lower(offered[0]) != "websocket" && name != "websocket" {
		return switching(offered[0], "")
	}
	keys, versions := h.values("sec-websocket-key"), h.values("sec-websocket-version")
	switch {
	case !strings.HasPrefix(h.start, "GET ") || !h.offers("upgrade", "websocket"):
		return refuse("400 Bad Request")
	case len(versions) == 1 && versions[0] != "13":
		return refuse("426 Upgrade Required")
	case len(versions) != 1 || len(keys) != 1:
		return refuse("400 Bad Request")
	}
	if nonce, err := base64.StdEncoding.DecodeString(keys[0]); err != nil || len(nonce) != 16 {
		return refuse("400 Bad Request")
	}
	return switching("websocket", "Sec-WebSocket-Accept: "+acceptOf(keys[0])+"\r\n")
}

// acceptOf is the answer to a Sec-WebSocket-Key (RFC 6455 4.2.2).
func acceptOf(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// serve runs handle for every connection to a free port, which it returns.
func serve(t *testing.T, handle func(net.Conn, *bufio.Reader) error) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, l, handle)
}

func serveOn(t *testing.T, l net.Listener, handle func(net.Conn, *bufio.Reader) error) int {
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				// The error is the proxy's: it closed, or sent no HTTP.
				// The test judges by what was recorded.
				_ = handle(c, bufio.NewReader(c))
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

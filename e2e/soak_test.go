//go:build soak

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// TestSoak sends a million mixed requests (SOAK_REQUESTS: another number) to a
// real Envoy: pages with and without spoofed fields, sockets, and what the
// filter and the gate refuse. Nothing may trap, every request must get what it
// should, and once it is warm Envoy's memory must not grow.
//
//	make soak
func TestSoak(t *testing.T) {
	total := 1_000_000
	if s := os.Getenv("SOAK_REQUESTS"); s != "" {
		var err error
		if total, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	p := start(t, envoy140, shipped(t, "bootstrap/minimal.yaml"))
	pid := childNamed(t, "envoy")

	const parts = 10
	var rss []int
	var done atomic.Int64
	for range parts {
		var clients sync.WaitGroup
		for range 8 {
			clients.Go(func() {
				c := soakClient{addr: p.addr}
				defer c.close()
				for range total / parts / 8 {
					if err := c.request(int(done.Add(1))); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		clients.Wait()
		p.forget()
		rss = append(rss, residentKiB(t, pid))
		t.Logf("after %d requests Envoy has %d KiB", done.Load(), rss[len(rss)-1])
		if t.Failed() {
			return
		}
	}
	// The first parts warm up: pools, V8's tiers, the guest's heap.
	if warm, end := rss[2], rss[parts-1]; end > warm+warm/20 {
		t.Errorf("memory grew from %d KiB when warm to %d KiB: %v", warm, end, rss)
	}
	b, err := get(http.DefaultClient, "http://"+p.admin+"/stats")
	if err != nil {
		t.Fatal(err)
	}
	stats := string(b)
	for _, line := range strings.Split(stats, "\n") {
		if strings.HasPrefix(line, "wasmcustom.switchyard.") {
			t.Log(line)
		}
	}
	if !strings.Contains(stats, "wasmcustom.switchyard.panics: 0\n") {
		t.Error("the filter counted panics")
	}
}

// forget drops what is remembered of each request.
func (p *proxy) forget() {
	p.upstreams.mu.Lock()
	clear(p.upstreams.requests)
	p.upstreams.mu.Unlock()
	p.log.mu.Lock()
	p.log.b.Reset()
	p.log.mu.Unlock()
}

// soakRequests are the requests in turn; pages are most of them.
var soakRequests = func() []struct{ raw, want string } {
	const pageHead, socketHead = "GET /t/soak HTTP/1.1\r\nHost: localhost\r\n", "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\n"
	const key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	requests := []struct{ raw, want string }{
		{pageHead + socketHead + key, "101"},
		{pageHead + socketHead + key + "X-Upgrade-Route: web\r\nx_upgrade_cluster: web\r\n", "101"},
		{pageHead + socketHead, "400"}, // by the upstream: no key
		{pageHead + socketHead + key + "Content-Length: 5\r\n", "400"},
		{pageHead + "Connection: Upgrade\r\nUpgrade: websocket, @\r\n", "400"},
		{pageHead + "Connection: Upgrade\r\nUpgrade: foo\r\n", "403"},
	}
	for i := range 150 {
		page := pageHead + fmt.Sprintf("X-Number: %d\r\n", i)
		if i%10 == 0 {
			page += "X-Upgrade-Route: websocket\r\nX-Upgrade-Cluster: websocket\r\nX-Upgrade-Route: again\r\n"
		}
		if i%25 == 0 {
			page += "Cookie: " + strings.Repeat("c", 4000) + "\r\n"
		}
		requests = append(requests, struct{ raw, want string }{page, "200"})
	}
	return requests
}()

// A soakClient sends one request after another, on one connection as long as
// that lives.
type soakClient struct {
	addr string
	c    net.Conn
	r    *bufio.Reader
}

func (s *soakClient) close() {
	if s.c != nil {
		_ = s.c.(*net.TCPConn).SetLinger(0) // or the machine runs out of ports
		s.c.Close()
		s.c = nil
	}
}

func (s *soakClient) request(i int) error {
	q := soakRequests[i%len(soakRequests)]
	if s.c == nil {
		var err error
		if s.c, err = net.Dial("tcp", s.addr); err != nil {
			return err
		}
		s.r = bufio.NewReader(s.c)
	}
	if _, err := io.WriteString(s.c, q.raw+"\r\n"); err != nil {
		return err
	}
	h, err := readHead(s.r)
	if err != nil {
		return fmt.Errorf("%q: %w", q.raw, err)
	}
	if got := strconv.Itoa(h.status()); got != q.want {
		return fmt.Errorf("%q: status %s, want %s", q.raw, got, q.want)
	}
	switch {
	case q.want == "101":
		defer s.close()
		if !echoes(s.c, s.r, "marker") {
			return errors.New("a socket does not echo")
		}
	case q.want == "200":
		_, err = h.body(s.r, false)
	default:
		s.close()
	}
	return err
}

// childNamed returns the process id of this process's child with that name.
func childNamed(t *testing.T, name string) string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // gone
		}
		// pid (name) state ppid ...
		pid, rest, _ := strings.Cut(string(b), " (")
		comm, rest, _ := strings.Cut(rest, ") ")
		if fields := strings.Fields(rest); strings.HasPrefix(comm, name) && len(fields) > 1 && fields[1] == strconv.Itoa(os.Getpid()) {
			return pid
		}
	}
	t.Fatalf("no child %q", name)
	return ""
}

// residentKiB returns how much memory of the process is resident.
func residentKiB(t *testing.T, pid string) int {
	t.Helper()
	b, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib
}

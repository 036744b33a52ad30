package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// BenchmarkSockets prints what open WebSockets cost, with hostsim and with
// Envoy: memory for each of 10,000 that are idle, or as many as there may be, and processor time for each
// message of 1,000 that are busy beside them, with one worker.
//
//	go test ./e2e -run '^$' -bench Sockets -benchtime 1x
func BenchmarkSockets(b *testing.B) {
	const (
		most     = 10_000
		busy     = 1_000
		messages = 50 // of each busy socket, there and back
		size     = 128
	)
	// Each socket is two ends in a proxy. Children have the same limit.
	limit := syscall.Rlimit{Cur: 1 << 16, Max: 1 << 16}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) != nil { // only root may raise it
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			b.Fatal(err)
		}
	}
	idle := min(most, int(limit.Max)/2-busy-200)
	if idle < busy {
		b.Skipf("%d file descriptors are too few: ulimit -n 65536", limit.Max)
	}
	if idle < most {
		b.Logf("only %d idle sockets, because a process may have no more than %d file descriptors", idle, limit.Max)
	}
	for b.Loop() {
		memory, cost := map[string]float64{}, map[string]float64{}
		for _, p := range []peer{envoy140, hostsim} {
			upstream := exec.Command(os.Args[0], "-test.run", "^TestEchoChild$")
			upstream.Env = append(os.Environ(), "ECHO=1")
			out, err := upstream.StdoutPipe()
			if err != nil {
				b.Fatal(err)
			}
			if err := upstream.Start(); err != nil {
				b.Fatal(err)
			}
			line, err := bufio.NewReader(out).ReadString('\n')
			if err != nil {
				b.Fatal(err)
			}
			proxy := socketProxy(b, p, strings.TrimSpace(line))
			open := func(n int) []net.Conn {
				var conns []net.Conn
				for range n {
					conns = append(conns, openSocket(b, proxy.addr))
				}
				return conns
			}
			for _, c := range open(100) { // what the first ones bring along
				c.Close()
			}
			before := rss(b, proxy.pid)
			sleeping := open(idle)
			memory[p.name] = float64(rss(b, proxy.pid)-before) / float64(idle)
			waking := open(busy)
			cost[p.name] = proxy.measure(b, busy*messages, func() { chatter(b, waking, messages, size) }) / 1000
			for _, c := range append(sleeping, waking...) {
				c.Close()
			}
			b.Logf("%-12s %6.1f KiB for each idle socket, %5.1f us of processor time for each message and its echo", p.name, memory[p.name]/1024, cost[p.name])
			proxy.stop()
			_ = upstream.Process.Kill()
			_ = upstream.Wait()
		}
		b.ReportMetric(memory[hostsim.name]/1024, "hostsim-KiB/socket")
		b.ReportMetric(memory[envoy140.name]/1024, "envoy-KiB/socket")
		b.ReportMetric(cost[hostsim.name], "hostsim-us/message")
		b.ReportMetric(cost[envoy140.name], "envoy-us/message")
		b.ReportMetric(0, "ns/op") // says nothing here
	}
}

// openSocket opens a WebSocket.
func openSocket(b *testing.B, addr string) net.Conn {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	io.WriteString(c, "GET /socket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	var head []byte
	buf := make([]byte, 512)
	for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
		n, err := c.Read(buf)
		if err != nil {
			b.Fatalf("handshake: %q, %v", head, err)
		}
		head = append(head, buf[:n]...)
	}
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) {
		b.Fatalf("handshake: %q", head)
	}
	return c
}

// chatter sends messages through all sockets at a time and waits for each echo.
func chatter(b *testing.B, conns []net.Conn, messages, size int) {
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() {
			message, echo := make([]byte, size), make([]byte, size)
			for range messages {
				if _, err := c.Write(message); err != nil {
					b.Error(err)
					return
				}
				if _, err := io.ReadFull(c, echo); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// rss is the memory of a process in bytes.
func rss(b *testing.B, pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		b.Skip("no /proc on this machine")
	}
	pages, _ := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// socketProxy starts a peer whose circuit breakers let that many sockets pass.
func socketProxy(b *testing.B, p peer, upstream string) *stoppableProxy {
	_, port, _ := net.SplitHostPort(upstream)
	listen := freePort(b)
	text := strings.NewReplacer("LISTEN", listen, "UPSTREAM", port, "FILTER", "").Replace(benchBootstrap)
	text = strings.Replace(text, "connect_timeout: 1s", "connect_timeout: 5s\n    circuit_breakers: {thresholds: [{max_connections: 100000, max_requests: 100000, max_pending_requests: 100000}]}", 1)
	file := filepath.Join(b.TempDir(), "sockets.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	binary := filepath.Join(root, p.path)
	if s := os.Getenv(p.env); s != "" {
		binary = s
	}
	binary, err := filepath.Abs(binary)
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(binary, append(append([]string{}, p.args...), "-c", file, "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning")...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	x := &stoppableProxy{benchStart(b, p.name, "127.0.0.1:"+listen, cmd), cmd}
	return x
}

type stoppableProxy struct {
	*benchProxy
	cmd *exec.Cmd
}

func (p *stoppableProxy) stop() { _ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) }

// TestEchoChild is no test: the benchmark runs it as the upstream, so that its
// sockets do not count as the benchmark's.
func TestEchoChild(t *testing.T) {
	if os.Getenv("ECHO") == "" {
		t.Skip("only BenchmarkSockets runs it")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(l.Addr())
	for {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer c.Close()
			buf := make([]byte, 1024)
			if _, err := c.Read(buf); err != nil {
				return
			}
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n")
			io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, buf)
		}()
	}
}

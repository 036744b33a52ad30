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

	"golang.org/x/net/http2"
)

// BenchmarkSockets prints what open WebSockets cost, with hostsim and with
// Envoy: memory for each of 10,000 that are idle, and processor time for each
// message of 1,000 that are busy beside them, with one worker.
//
//	go test ./e2e -run '^$' -bench Sockets -benchtime 1x
//
// Clients and upstream are processes of their own, with file descriptors of
// their own. Upstream it is extended CONNECT, whose streams share a few
// connections; with HTTP/1.1 a socket is two descriptors of the proxy, and
// where those do not suffice there are fewer idle ones.
func BenchmarkSockets(b *testing.B) {
	for _, protocol := range []string{"HTTP2", "HTTP1"} {
		b.Run(protocol, func(b *testing.B) { benchSockets(b, protocol) })
	}
}

func benchSockets(b *testing.B, protocol string) {
	const (
		most     = 10_000
		busy     = 1_000
		messages = 50 // of each busy socket, there and back
		size     = 128
		spare    = 300 // descriptors for everything else
	)
	limit := syscall.Rlimit{Cur: 1 << 16, Max: 1 << 16}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) != nil { // only root may raise it
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			b.Fatal(err)
		}
	}
	each := 1
	if protocol == "HTTP1" {
		each = 2
	}
	idle := min(most, (int(limit.Max)-spare)/each-busy)
	if idle < busy {
		b.Skipf("%d file descriptors are too few: ulimit -n 65536", limit.Max)
	}
	if idle < most {
		b.Logf("only %d idle sockets, because a process may have no more than %d file descriptors", idle, limit.Max)
	}
	for b.Loop() {
		memory, cost := map[string]float64{}, map[string]float64{}
		for _, p := range []peer{envoy140, hostsim} {
			upstream := startChild(b, "UPSTREAM="+protocol)
			proxy := socketProxy(b, p, upstream.line(b), protocol)
			clients := startChild(b, "CLIENTS="+proxy.addr)
			clients.do(b, "open 100") // what the first ones bring along
			before := rss(b, proxy.pid)
			clients.do(b, fmt.Sprintf("open %d", idle))
			memory[p.name] = float64(rss(b, proxy.pid)-before) / float64(idle)
			clients.do(b, fmt.Sprintf("open %d", busy))
			cost[p.name] = proxy.measure(b, busy*messages, func() { clients.do(b, fmt.Sprintf("chat %d %d %d", busy, messages, size)) }) / 1000
			b.Logf("%-12s %5d idle and %d busy: %6.1f KiB for each idle socket, %5.1f us of processor time for each message and its echo",
				p.name, idle, busy, memory[p.name]/1024, cost[p.name])
			clients.stop()
			proxy.stop()
			upstream.stop()
		}
		b.ReportMetric(memory[hostsim.name]/1024, "hostsim-KiB/socket")
		b.ReportMetric(memory[envoy140.name]/1024, "envoy-KiB/socket")
		b.ReportMetric(cost[hostsim.name], "hostsim-us/message")
		b.ReportMetric(cost[envoy140.name], "envoy-us/message")
		b.ReportMetric(0, "ns/op") // says nothing here
	}
}

// A child is this test binary as another process, which does what it is told
// line by line and says a line when it is done.
type child struct {
	cmd *exec.Cmd
	in  io.Writer
	out *bufio.Reader
}

// startChild starts one that is told by env what it is, see TestSocketsChild.
func startChild(b *testing.B, env string) *child {
	cmd := exec.Command(os.Args[0], "-test.run", "^TestSocketsChild$")
	cmd.Env = append(os.Environ(), env)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	c := &child{cmd, in, bufio.NewReader(out)}
	b.Cleanup(c.stop)
	return c
}

func (c *child) line(b *testing.B) string {
	b.Helper()
	line, err := c.out.ReadString('\n')
	if err != nil {
		b.Fatalf("a child ended: %q, %v", line, err)
	}
	return strings.TrimSpace(line)
}

func (c *child) do(b *testing.B, command string) {
	b.Helper()
	fmt.Fprintln(c.in, command)
	if got := c.line(b); got != "done" {
		b.Fatalf("%s: %s", command, got)
	}
}

func (c *child) stop() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
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
func socketProxy(b *testing.B, p peer, upstream, protocol string) *stoppableProxy {
	_, port, _ := net.SplitHostPort(upstream)
	listen := freePort(b)
	text := strings.NewReplacer("LISTEN", listen, "UPSTREAM", port, "FILTER", "").Replace(benchBootstrap)
	options := "connect_timeout: 5s\n    circuit_breakers: {thresholds: [{max_connections: 100000, max_requests: 100000, max_pending_requests: 100000}]}"
	if protocol == "HTTP2" {
		options += `
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {allow_connect: true}}`
	}
	text = strings.Replace(text, "connect_timeout: 1s", options, 1)
	return benchPeer(b, p, text, listen, 1)
}

// benchPeer starts a peer with so many workers, and one thread for each.
func benchPeer(b *testing.B, p peer, bootstrap, port string, workers int) *stoppableProxy {
	file := filepath.Join(b.TempDir(), "bench.yaml")
	if err := os.WriteFile(file, []byte(bootstrap), 0o600); err != nil {
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
	n := strconv.Itoa(workers)
	cmd := exec.Command(binary, append(append([]string{}, p.args...), "-c", file, "--concurrency", n, "--use-dynamic-base-id", "-l", "warning")...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS="+n)
	return &stoppableProxy{benchStart(b, p.name, "127.0.0.1:"+port, cmd), cmd}
}

type stoppableProxy struct {
	*benchProxy
	cmd *exec.Cmd
}

func (p *stoppableProxy) stop() { _ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) }

// TestSocketsChild is no test: BenchmarkSockets runs it as its upstream and as
// its clients.
func TestSocketsChild(t *testing.T) {
	if addr := os.Getenv("CLIENTS"); addr != "" {
		if err := socketClients(addr); err != nil {
			t.Fatal(err)
		}
		return
	}
	protocol := os.Getenv("UPSTREAM")
	if protocol == "" {
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
			if protocol == "HTTP2" {
				_ = echoStreams(c)
			} else {
				echoSocket(c)
			}
		}()
	}
}

// echoSocket accepts an upgrade and sends back what comes.
func echoSocket(c net.Conn) {
	buf := make([]byte, 1024)
	if _, err := c.Read(buf); err != nil {
		return
	}
	io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n")
	io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, buf)
}

// echoStreams accepts each extended CONNECT of a connection and sends back what
// comes.
func echoStreams(c net.Conn) error {
	r := bufio.NewReader(c)
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(r, preface); err != nil {
		return err
	}
	h := newHTTP2Conn(c, r)
	if err := h.framer.WriteSettings(http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1}); err != nil {
		return err
	}
	for {
		f, err := h.next()
		if err != nil {
			return err
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			err = h.writeHeaders(f.StreamID, false, ":status", "200")
		case *http2.DataFrame:
			err = h.write(func() error { return h.framer.WriteData(f.StreamID, f.StreamEnded(), f.Data()) })
		}
		if err != nil {
			return err
		}
	}
}

// socketClients opens sockets ("open NUMBER") and talks through the ones opened
// last ("chat SOCKETS MESSAGES SIZE"), as standard input tells it.
func socketClients(addr string) error {
	var open []net.Conn
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		var n, messages, size int
		var err error
		line := commands.Text()
		if _, e := fmt.Sscanf(line, "open %d", &n); e == nil {
			for range n {
				c, e := openSocket(addr)
				if err = e; err != nil {
					break
				}
				open = append(open, c)
			}
		} else if _, err = fmt.Sscanf(line, "chat %d %d %d", &n, &messages, &size); err == nil {
			err = chatter(open[len(open)-n:], messages, size)
		}
		if err != nil {
			fmt.Println(err)
			return err
		}
		fmt.Println("done")
	}
	return commands.Err()
}

// openSocket opens a WebSocket.
func openSocket(addr string) (net.Conn, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	io.WriteString(c, "GET /socket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	var head []byte
	buf := make([]byte, 512)
	for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
		n, err := c.Read(buf)
		if err != nil {
			return nil, fmt.Errorf("handshake: %q, %w", head, err)
		}
		head = append(head, buf[:n]...)
	}
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) {
		return nil, fmt.Errorf("handshake: %q", head)
	}
	return c, nil
}

// chatter sends messages through all sockets at a time and waits for each echo.
func chatter(conns []net.Conn, messages, size int) error {
	var wg sync.WaitGroup
	failures := make(chan error, len(conns))
	for _, c := range conns {
		wg.Go(func() {
			message, echo := make([]byte, size), make([]byte, size)
			for range messages {
				if _, err := c.Write(message); err != nil {
					failures <- err
					return
				}
				if _, err := io.ReadFull(c, echo); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(failures)
	return <-failures
}

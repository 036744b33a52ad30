package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// BenchmarkProxies prints what a request costs in processor time, as ratios
// within one run: absolute times move with the machine and its neighbours.
//
//	go test ./e2e -run '^$' -bench Proxies -benchtime 1x
//
// All proxies run side by side, with one worker each, and are asked in turn,
// in alternating order; each round's processor time is that of the whole
// process, from the kernel's schedstat. The first quartile of the rounds
// counts.
func BenchmarkProxies(b *testing.B) {
	const (
		rounds   = 16
		requests = 2000 // a round
		messages = 1000 // a round, of 16 KiB
	)
	upstream := benchUpstream(b)
	plain := benchProxies(b, upstream)
	for b.Loop() {
		cost := map[string][]float64{}
		tunnel := map[string][]float64{}
		for i := range rounds {
			order := slices.Clone(plain)
			if i%2 == 1 {
				slices.Reverse(order)
			}
			for _, p := range order {
				cost[p.name] = append(cost[p.name], p.measure(b, requests, func() { p.get(b, requests) }))
			}
			for _, p := range order {
				if p.sockets {
					tunnel[p.name] = append(tunnel[p.name], p.measure(b, messages, func() { p.echo(b, messages) }))
				}
			}
		}
		ratio := func(m map[string][]float64, a, of string) float64 { return quartile(m[a]) / quartile(m[of]) }
		for _, p := range plain {
			b.Logf("%-22s %6.1f us/request, spread %.1f-%.1f", p.name, quartile(cost[p.name])/1000, slices.Min(cost[p.name])/1000, slices.Max(cost[p.name])/1000)
			if t := tunnel[p.name]; t != nil {
				b.Logf("%-22s %6.1f us/message, spread %.1f-%.1f", p.name, quartile(t)/1000, slices.Min(t)/1000, slices.Max(t)/1000)
			}
		}
		b.ReportMetric(ratio(cost, "hostsim+filter", "envoy+filter"), "hostsim+filter/envoy+filter")
		b.ReportMetric(ratio(cost, "hostsim", "envoy"), "hostsim/envoy")
		b.ReportMetric(ratio(cost, "hostsim", "reverseproxy"), "hostsim/reverseproxy")
		b.ReportMetric(ratio(tunnel, "hostsim", "envoy"), "tunnel:hostsim/envoy")
		b.ReportMetric(0, "ns/op") // says nothing here
	}
}

func quartile(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/4]
}

// benchProxy is a running proxy whose processor time can be read.
type benchProxy struct {
	name    string
	pid     int
	addr    string
	sockets bool
}

// measure returns the processor time in ns of one of n operations.
func (p *benchProxy) measure(b *testing.B, n int, f func()) float64 {
	before := p.cpu(b)
	f()
	return float64(p.cpu(b)-before) / float64(n)
}

// cpu is the time that all threads of the process have run, in ns.
func (p *benchProxy) cpu(b *testing.B) int64 {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.pid))
	if err != nil || len(files) == 0 {
		b.Skip("no schedstat on this machine")
	}
	total := int64(0)
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // a thread that ended meanwhile
		}
		n, _ := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		total += n
	}
	return total
}

// get sends n requests over 8 connections.
func (p *benchProxy) get(b *testing.B, n int) {
	const connections = 8
	var wg sync.WaitGroup
	for range connections {
		wg.Go(func() {
			c, err := net.Dial("tcp", p.addr)
			if err != nil {
				b.Error(err)
				return
			}
			defer c.Close()
			buf := make([]byte, 8<<10)
			for range n / connections {
				if _, err := c.Write([]byte(benchRequest)); err != nil {
					b.Error(err)
					return
				}
				m, err := c.Read(buf)
				if err != nil || !strings.HasPrefix(string(buf[:m]), "HTTP/1.1 200 ") {
					b.Errorf("%s: %q, %v", p.name, buf[:m], err)
					return
				}
			}
		})
	}
	wg.Wait()
}

const benchRequest = "GET /bench?c=d HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0\r\n" +
	"Accept: */*\r\nAccept-Language: en-US,en;q=0.9\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nSec-Fetch-Dest: empty\r\n" +
	"Sec-Fetch-Mode: cors\r\nSec-Fetch-Site: same-site\r\nPragma: no-cache\r\nCache-Control: no-cache\r\nCookie: session=0123456789abcdef\r\n\r\n"

// echo opens a socket and sends n messages of 16 KiB through it and back, one
// behind the other, without waiting.
func (p *benchProxy) echo(b *testing.B, n int) {
	c, err := net.Dial("tcp", p.addr)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET /socket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	r := bufio.NewReaderSize(c, 32<<10)
	h, err := readHead(r)
	if err != nil || h.status() != 101 {
		b.Fatalf("%s: handshake: %v %v", p.name, h, err)
	}
	const size = 16 << 10
	go func() {
		message := make([]byte, size)
		for range n {
			if _, err := c.Write(message); err != nil {
				return // the reader fails as well
			}
		}
	}()
	if _, err := io.CopyN(io.Discard, r, int64(n)*size); err != nil {
		b.Fatalf("%s: %v", p.name, err)
	}
}

// benchUpstream answers every request with a few bytes, and echoes sockets.
func benchUpstream(b *testing.B) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	page := []byte("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 13\r\n\r\nHello, world!")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 32<<10)
				for {
					n, err := c.Read(buf) // a head comes in one piece here
					if err != nil {
						return
					}
					if strings.HasPrefix(string(buf[:n]), "GET /socket ") {
						io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n")
						io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, buf)
						return
					}
					if _, err := c.Write(page); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// benchProxies starts Envoy and hostsim, each with and without the filter, and
// net/http's ReverseProxy.
func benchProxies(b *testing.B, upstream string) []*benchProxy {
	_, port, _ := net.SplitHostPort(upstream)
	var all []*benchProxy
	for _, p := range []peer{envoy140, hostsim} {
		for _, filter := range []bool{false, true} {
			name, chain := p.name, ""
			if filter {
				name += "+filter"
				chain = benchFilter
			}
			listen := freePort(b)
			file := filepath.Join(b.TempDir(), "bench.yaml")
			text := strings.NewReplacer("LISTEN", listen, "UPSTREAM", port, "FILTER", chain).Replace(benchBootstrap)
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
			args := append(slices.Clone(p.args), "-c", file, "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning")
			cmd := exec.Command(binary, args...)
			cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
			all = append(all, benchStart(b, name, "127.0.0.1:"+listen, cmd))
			all[len(all)-1].sockets = !filter
		}
	}
	listen := freePort(b)
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run", "^TestReverseProxyChild$")
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "REVERSEPROXY="+listen+" "+upstream)
	return append(all, benchStart(b, "reverseproxy", "127.0.0.1:"+listen, cmd))
}

func benchStart(b *testing.B, name, addr string, cmd *exec.Cmd) *benchProxy {
	cmd.Dir = root
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		b.Skipf("%s does not start: %v (make build envoy)", name, err)
	}
	b.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
	})
	for range 1500 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return &benchProxy{name: name, pid: cmd.Process.Pid, addr: addr}
		}
		time.Sleep(20 * time.Millisecond)
	}
	b.Fatalf("%s does not listen on %s", name, addr)
	return nil
}

// freePort returns a port that nothing listens on, for programs that cannot say
// which port the kernel gave them.
func freePort(b testing.TB) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// TestReverseProxyChild is no test: the benchmark runs it as the peer that Go
// programmers know.
func TestReverseProxyChild(t *testing.T) {
	listen, upstream, ok := strings.Cut(os.Getenv("REVERSEPROXY"), " ")
	if !ok {
		t.Skip("only BenchmarkProxies runs it")
	}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: upstream})
	t.Fatal(http.ListenAndServe("127.0.0.1:"+listen, proxy))
}

const benchBootstrap = `
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: LISTEN}}
    name: bench
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          codec_type: HTTP1
          upgrade_configs: [{upgrade_type: websocket}]
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{match: {prefix: "/"}, route: {cluster: up}}]
          http_filters:
          FILTER
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: up
    connect_timeout: 1s
    load_assignment: {cluster_name: up, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: UPSTREAM}}}}]}]}
`

const benchFilter = `- name: switchyard
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
              config: {name: switchyard, vm_config: {runtime: envoy.wasm.runtime.v8, code: {local: {filename: bin/switchyard.wasm}}}}`

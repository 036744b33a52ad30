package hostsim

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// hammerYAML has the shipped plugin, one that works on what all VMs share, and
// one that pauses, in one filter chain.
const hammerYAML = `
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: s
          upgrade_configs: [{upgrade_type: websocket}]
          route_config: {virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: web}}]}]}
          http_filters:
          - {name: switchyard, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm, config: {name: switchyard, vm_config: {runtime: envoy.wasm.runtime.v8, code: {local: {filename: ../bin/switchyard.wasm}}}}}}
          - {name: hammer, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm, config: {name: hammer, vm_config: {runtime: envoy.wasm.runtime.v8, vm_id: hammer, code: {local: {filename: vm/testdata/hammer.wasm}}}}}}
          - {name: scripted, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm, config: {name: scripted, vm_config: {runtime: envoy.wasm.runtime.v8, code: {local: {filename: ../e2e/testdata/guests/scripted.wasm}}}}}}
          - {name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - {name: web, connect_timeout: 5s, load_assignment: {cluster_name: web, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: PORT}}}}]}]}}
`

// openFiles is the number of file descriptors, or 0 where that is not known.
func openFiles() int {
	list, _ := os.ReadDir("/proc/self/fd")
	return len(list)
}

// liveHeap is what is in use after the garbage is gone, finalizers too.
func liveHeap() uint64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Servers with several plugins are opened, get pages, paused streams, sockets
// and clients that leave in the middle, and are closed under them. Nothing of
// them stays: no goroutine, no file, no memory, no VM.
func TestHammerOpenAndClose(t *testing.T) {
	if _, err := os.Stat("../bin/switchyard.wasm"); err != nil {
		t.Skip("bin/switchyard.wasm is not there; run make build")
	}
	port := echoUpstream(t, "web")
	config, err := Parse("hammer.yaml", []byte(strings.ReplaceAll(hammerYAML, "PORT", port)))
	if err != nil {
		t.Fatal(err)
	}
	cache := filepath.Join(t.TempDir(), "cache")
	rounds := 2
	if raceDetector && !testing.Short() {
		rounds = 10
	}
	hammerOnce(t, config, cache) // what is made once for the process
	goroutines, files, heap := runtime.NumGoroutine(), openFiles(), liveHeap()
	for range rounds {
		hammerOnce(t, config, cache)
	}
	// Connections of the upstream, which ends with the test, take a moment.
	for range 10000 {
		if runtime.NumGoroutine() <= goroutines && openFiles() <= files {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		stacks := make([]byte, 1<<20)
		t.Errorf("%d goroutines, %d before:\n%s", n, goroutines, stacks[:runtime.Stack(stacks, true)])
	}
	if n := openFiles(); n > files {
		t.Errorf("%d open files, %d before", n, files)
	}
	// A VM of the shipped plugin alone has some megabytes.
	if now := liveHeap(); now > heap+4<<20 {
		t.Errorf("%d KiB of memory are in use, %d KiB before %d servers", now>>10, heap>>10, rounds)
	}
}

func hammerOnce(t *testing.T, config *Config, cache string) {
	t.Helper()
	s, err := New(t.Context(), config, Options{Concurrency: 2, CacheDir: cache})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- s.Serve(ctx) }()
	address := s.Listeners()[0].Address.String()

	scripts := []string{
		"rqh:ret 0", "rqh:call web GET /called 1000;rqh:ret 1;call:eff self;call:cont 0", "rqh:reply 403 no", "rqh:close 0",
		"rqb:ret 1;rsh:add 2 a b", "rqh:tick 1;rqh:ret 1;tick:eff self;tick:cont 0", "rqh:register q;rqh:enqueue 1 x;queue:dequeue 1",
		"rqh:ret 1", // for ever: the client leaves, or the server ends
	}
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			for j := range 10 {
				script := scripts[(i+j)%len(scripts)]
				ask := fmt.Sprintf("POST /%d HTTP/1.1\r\nHost: a\r\nx-do: %s\r\nContent-Length: 5\r\n\r\nhello", j, script)
				if (i+j)%5 == 0 {
					ask = fmt.Sprintf("GET /%d HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", j)
				}
				c, err := net.Dial("tcp", address)
				if err != nil {
					t.Error(err)
					return
				}
				io.WriteString(c, ask)
				c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)) // some are never answered
				readHead(bufio.NewReader(c))
				c.SetReadDeadline(time.Time{})
				if j < 9 {
					c.Close()
				} else {
					go func() { // until the server ends it
						io.Copy(io.Discard, c)
						c.Close()
					}()
				}
			}
		})
	}
	clients.Wait()
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	s.Close()
	counts := map[string]int64{}
	s.Stats.Each(func(name string, value int64) { counts[name] = value })
	if n := counts["wasm.envoy.wasm.runtime.v8.active"]; n != 0 {
		t.Errorf("%d VMs are left", n)
	}
	if n, total := counts["wasmcustom.requests"], counts["wasmcustom.total"]; n == 0 || n > total {
		t.Errorf("%d requests, and a number of %d: one was lost", n, total)
	}
}

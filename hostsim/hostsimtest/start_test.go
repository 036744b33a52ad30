package hostsimtest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// shipped starts a bootstrap of this project with its plugin.
func shipped(t *testing.T, name string, opts ...ServerOption) *Server {
	t.Helper()
	wasm, err := filepath.Abs("../../bin/switchyard.wasm")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(wasm); err != nil {
		t.Skip("bin/switchyard.wasm is not there; run make build")
	}
	return Start(t, "../../envoy/bootstrap/"+name, append(opts, Replace("bin/switchyard.wasm", wasm))...)
}

// The project's own plugin, callback by callback.
func TestShippedPlugin(t *testing.T) {
	t.Parallel()
	const wasm = "../../bin/switchyard.wasm"
	if _, err := os.Stat(wasm); err != nil {
		t.Skip("bin/switchyard.wasm is not there; run make build")
	}
	p := Plugin(t, wasm, Config(`{"rules": [{"name": "live", "protocol": "websocket", "cluster": "sockets"}], "default": "refuse"}`))
	if !p.Started().Logged("info", "switchyard: started version=") {
		t.Errorf("it does not say that it has started: %v", p.Started().Logs)
	}
	request := func(upgrade string) Headers {
		return Headers{{":method", "GET"}, {":path", "/"}, {":scheme", "http"}, {":authority", "a"}, {"connection", "Upgrade"}, {"upgrade", upgrade},
			{"sec-websocket-version", "13"}, {"sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="}, {"x-upgrade-route", "spoofed"}}
	}
	s := p.Stream()
	got := s.RequestHeaders(request("h2c, websocket"), false)
	expect(t, "action", got.Action, Continue)
	expect(t, "route", got.After.Values("x-upgrade-route"), []string{"live"})
	expect(t, "cluster", got.After.Get("x-upgrade-cluster"), "sockets")
	expect(t, "upgrade", got.After.Get("upgrade"), "websocket")
	expect(t, "filter state", got.Calls("proxy_set_property"), []Hostcall{{Name: "proxy_set_property", Arguments: `path: "switchyard.route", value: "live"`, Result: "Ok"}})
	s.End()
	s = p.Stream()
	got = s.RequestHeaders(request("tcp"), false)
	expect(t, "what no rule matches", got.Reply.Status, 403)
	s.End()
	expect(t, "decisions", p.Counter("switchyard.decisions.rule.live.reason.offered.protocol.websocket"), uint64(1))
	if err := Refused(t, wasm, Config(`{"rules": [{"protocol": 1}]}`)); !strings.Contains(err.Error(), "rules[0].protocol") {
		t.Errorf("a mistake in its configuration: %v", err)
	}
}

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(b)
}

// Many servers of the same bootstrap at a time do not see each other.
func TestStartInParallel(t *testing.T) {
	t.Parallel()
	for i := range 4 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			s := shipped(t, "minimal.yaml", Upstreams("web", "websocket"), Concurrency(2))
			path := fmt.Sprintf("/page/%d", i)
			status, body := get(t, "http://"+s.Address("main")+path)
			expect(t, "answer", fmt.Sprint(status, " ", body), "200 web")
			requests := s.Upstream("web").Requests()
			if len(requests) != 1 || requests[0].Line != "GET "+path+" HTTP/1.1" || !strings.HasPrefix(requests[0].Raw, "GET "+path+" HTTP/1.1\r\nhost: 127.0.0.1:") {
				t.Errorf("the upstream has received %q", requests)
			}
			expect(t, "sockets", len(s.Upstream("websocket").Requests()), 0)

			s.Upstream("web").Answer("HTTP/1.1 404 Not Found\r\nx-a: b\r\ncontent-length: 0\r\n\r\n")
			status, _ = get(t, "http://"+s.Address("")+path)
			expect(t, "another answer", status, 404)
			expect(t, "stat", s.Stat("cluster.web.upstream_rq_completed"), int64(2))
			status, _ = get(t, "http://"+s.AdminAddress()+"/ready")
			expect(t, "admin", status, 200)
		})
	}
}

func TestSocketsAndContent(t *testing.T) {
	t.Parallel()
	s := shipped(t, "minimal.yaml", Upstreams("web", "websocket"))
	c := s.Dial("main")
	io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nhello")
	in := bufio.NewReader(c)
	line, err := in.ReadString('\n')
	if err != nil || line != "HTTP/1.1 101 Switching Protocols\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	for line != "\r\n" && err == nil {
		line, err = in.ReadString('\n')
	}
	echo := make([]byte, 5)
	if _, err := io.ReadFull(in, echo); err != nil || string(echo) != "hello" {
		t.Errorf("echo %q, %v", echo, err)
	}
	got := s.Upstream("websocket").Requests()[0]
	expect(t, "upgrade", got.Get("Upgrade"), "websocket")

	var seen Request
	s.Upstream("web").Handle(func(r Request, c net.Conn) {
		seen = r
		io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
	})
	response, err := http.Post("http://"+s.Address("main")+"/form", "text/plain", io.MultiReader(strings.NewReader("in "), strings.NewReader("chunks")))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	expect(t, "content", seen.Body, "in chunks")
	if !strings.Contains(seen.Raw, "transfer-encoding: chunked\r\n") || !strings.HasSuffix(seen.Raw, "\r\n0\r\n\r\n") {
		t.Errorf("raw request %q", seen.Raw)
	}
}

const noPlugin = `
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 0.0.0.0, port_value: 80}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: s
          route_config: {virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: web}}]}]}
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
  clusters:
  - {name: web, connect_timeout: 1s, load_assignment: {cluster_name: web, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 80}}}}]}]}}
  - {name: none, connect_timeout: 1s}
`

// stopped runs f as a test that may end early, and returns what it was ended with.
func stopped(t *testing.T, f func(*recorder)) *recorder {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	return r
}

func TestWhatCannotStart(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		f    func(*recorder)
		want string
	}{
		{"no such file", func(r *recorder) { Start(r, "nowhere.yaml") }, "open nowhere.yaml: no such file or directory"},
		{"no such cluster", func(r *recorder) { StartYAML(r, noPlugin, Upstreams("webb")) }, `Upstreams: there is no cluster "webb", but ["web" "none"]`},
		{"no endpoint", func(r *recorder) { StartYAML(r, noPlugin, Upstreams("none")) }, `Upstreams: cluster "none" has no endpoint with a socket_address`},
		{"a mistake", func(r *recorder) { StartYAML(r, strings.Replace(noPlugin, "domains:", "domain:", 1)) }, `bootstrap.yaml:12: static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].domain: unknown field of VirtualHost, did you mean "domains"?`},
		{"no such listener", func(r *recorder) { StartYAML(r, noPlugin).Address("x") }, `there is no listener "x"`},
		{"no such upstream", func(r *recorder) { StartYAML(r, noPlugin).Upstream("web") }, `"web" is not one of Upstreams`},
		{"no admin interface", func(r *recorder) { StartYAML(r, noPlugin).AdminAddress() }, "the bootstrap has no admin interface"},
		{"memory", func(r *recorder) { StartYAML(r, noPlugin, VMMemory(1)) }, "memory of plugins: 1 bytes is not a number of pages of 64 KiB, or more than 4 GiB"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := stopped(t, tt.f); len(got.errors) != 1 || got.errors[0] != tt.want {
				t.Errorf("ended with %q, want %q", got.errors, tt.want)
			}
		})
	}
}

// Limits of plugins reach their VMs.
func TestLimits(t *testing.T) {
	t.Parallel()
	hostile := strings.NewReplacer("http_filters: [", `http_filters: [{name: hostile, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm,
            config: {name: hostile, vm_config: {runtime: envoy.wasm.runtime.v8, code: {local: {filename: ../vm/testdata/stack.wasm}}}}}}, `).Replace(noPlugin)
	s := StartYAML(t, strings.Replace(hostile, "stack.wasm", "loop.wasm", 1), Upstreams("web"), CallbackDeadline(500*time.Millisecond))
	status, _ := get(t, "http://"+s.Address("l")+"/")
	expect(t, "a plugin that loops", status, 503)
	if log := strings.Join(s.Log(), "\n"); !strings.Contains(log, "error|wasm|Function: proxy_on_request_headers failed: callback deadline exceeded (an endless loop?)\nProxy-Wasm plugin in-VM backtrace:") {
		t.Errorf("log:\n%s", log)
	}
	r := stopped(t, func(r *recorder) {
		StartYAML(r, strings.Replace(hostile, "stack.wasm", "abi/trap_log.wasm", 1), VMMemory(64<<10))
	})
	if len(r.errors) != 1 || !strings.Contains(r.errors[0], "Failed to create new Wasm instance") {
		t.Errorf("a plugin that wants more memory than there is: %q", r.errors)
	}
}

// What a server leaves behind fails the test.
func TestLeaksAreFound(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	begun := make(chan struct{})
	s := StartYAML(t, noPlugin, Upstreams("web"))
	s.Upstream("web").Handle(func(_ Request, c net.Conn) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
		go func() { // belongs to the server as well
			close(begun)
			<-stop
		}()
	})
	get(t, "http://"+s.Address("l")+"/")
	<-begun
	s.server.Close()
	s.Upstream("web").close()
	found := 0
	for _, stack := range labelled(s.label) {
		if strings.Contains(stack, "TestLeaksAreFound") {
			found++
		}
	}
	expect(t, "leaks", found, 1)
	close(stop)
}

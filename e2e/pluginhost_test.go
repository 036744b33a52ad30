package e2e

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"switchyard/filter"
	"switchyard/hostsim/abi"
	"switchyard/hostsim/vm"
)

// The .wasm in hostsim's VM, where a test can see and do what it cannot to an
// Envoy.
func TestPluginInVM(t *testing.T) {
	t.Parallel()
	engine, module := loadPlugin(t)
	t.Run("exports", func(t *testing.T) { testPluginExports(t, engine, module) })
	t.Run("several plugins in one VM", func(t *testing.T) { testPluginsInOneVM(t, engine, module) })
	t.Run("failing hostcalls", func(t *testing.T) { testFailingHostcalls(t, engine, module) })
}

// loadPlugin loads the .wasm into an engine of its own, which lasts as long as
// the test.
func loadPlugin(t *testing.T) (*vm.Engine, *vm.Module) {
	t.Helper()
	file := require(t, plugin)
	ctx := context.Background()
	engine, err := vm.NewEngine(ctx, vm.EngineOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { engine.Close(ctx) })
	code, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	module, err := engine.Load(ctx, "bin/switchyard.wasm", code)
	if err != nil {
		t.Fatal(err)
	}
	return engine, module
}

func newPlugin(t *testing.T, engine *vm.Engine, module *vm.Module, configuration string) *vm.Plugin {
	t.Helper()
	p, err := engine.NewPlugin(context.Background(),
		vm.PluginConfig{Name: "switchyard", Module: module, Configuration: []byte(configuration)}, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// A host calls every callback that is there: a tunnel costs nothing only if
// none is for its bytes.
func testPluginExports(t *testing.T, engine *vm.Engine, module *vm.Module) {
	p := newPlugin(t, engine, module, "")
	callbacks := []string{
		"proxy_on_context_create", "proxy_on_vm_start", "proxy_on_configure", "proxy_on_tick", "proxy_on_queue_ready",
		"proxy_on_new_connection", "proxy_on_downstream_data", "proxy_on_upstream_data",
		"proxy_on_downstream_connection_close", "proxy_on_upstream_connection_close",
		"proxy_on_request_headers", "proxy_on_request_body", "proxy_on_request_trailers", "proxy_on_request_metadata",
		"proxy_on_response_headers", "proxy_on_response_body", "proxy_on_response_trailers", "proxy_on_response_metadata",
		"proxy_on_http_call_response", "proxy_on_foreign_function", "proxy_on_done", "proxy_on_log", "proxy_on_delete",
	}
	want := []string{
		"proxy_on_context_create", "proxy_on_vm_start", "proxy_on_configure",
		"proxy_on_request_headers", "proxy_on_response_headers", "proxy_on_log",
	}
	got := slices.DeleteFunc(callbacks, func(name string) bool { return !p.Exports(name) })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("callbacks (-want +got):\n%s", diff)
	}
}

// Plugins with the same vm_id, code and VM configuration share a VM. Each of
// their streams is decided by the configuration of its own plugin.
func testPluginsInOneVM(t *testing.T, engine *vm.Engine, module *vm.Module) {
	var plugins []*vm.Plugin
	names := []string{"first", "second", "third"}
	for _, name := range names {
		plugins = append(plugins, newPlugin(t, engine, module, `{"rules":[{"name":"`+name+`","protocol":"websocket"}]}`))
	}
	for range 3 {
		for i, p := range plugins {
			if got := runPlugin(t, p, handshakeMap()).filterState; got != names[i] {
				t.Errorf("a stream of the plugin %s was routed as %q", names[i], got)
			}
		}
	}
}

func handshakeMap(more ...filter.Field) filter.HeaderMap {
	return append(filter.HeaderMap{
		{Name: ":method", Value: "GET"}, {Name: ":path", Value: "/"},
		{Name: "connection", Value: "Upgrade"}, {Name: "upgrade", Value: "websocket"},
		{Name: "sec-websocket-key", Value: "dGhlIHNhbXBsZSBub25jZQ=="}, {Name: "sec-websocket-version", Value: "13"},
	}, more...)
}

// failingStream is a stream on which some hostcalls fail.
type failingStream struct {
	pluginStream
	noMap, readOnly, noProperty, noResponse bool
}

func (s *failingStream) HeaderMap(t abi.MapType) vm.HeaderMap {
	if s.noMap {
		return nil
	}
	return s.pluginStream.HeaderMap(t)
}

func (s *failingStream) HeaderMapWritable(abi.MapType) bool { return !s.readOnly }

func (s *failingStream) SetProperty(path string, value []byte) abi.Status {
	if s.noProperty {
		return abi.StatusInternalFailure
	}
	return s.pluginStream.SetProperty(path, value)
}

func (s *failingStream) SendLocalResponse(status uint32, details string, body []byte, headers [][2]string, grpc int32) {
	if !s.noResponse {
		s.pluginStream.SendLocalResponse(status, details, body, headers, grpc)
	}
}

// Where a hostcall fails, nothing traps, a request that is not refused goes on,
// and it goes on unrouted.
func testFailingHostcalls(t *testing.T, engine *vm.Engine, module *vm.Module) {
	p := newPlugin(t, engine, module, "")
	spoof := filter.Field{Name: "x-upgrade-route", Value: "spoofed"}
	tests := []struct {
		name    string
		stream  failingStream
		headers filter.HeaderMap
		action  abi.Action
		want    filter.HeaderMap // afterwards
	}{
		{"set_property", failingStream{noProperty: true}, handshakeMap(spoof), abi.ActionContinue, handshakeMap()},
		{"all that change headers", failingStream{readOnly: true}, handshakeMap(), abi.ActionContinue, handshakeMap()},
		{"all that read headers", failingStream{noMap: true}, handshakeMap(), abi.ActionContinue, handshakeMap()},
		{"send_local_response: what must not go on does not", failingStream{noResponse: true},
			handshakeMap(filter.Field{Name: "content-length", Value: "5"}), abi.ActionStopAllIterationAndWatermark,
			handshakeMap(filter.Field{Name: "content-length", Value: "5"})},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := tt.stream
			s.headers = pluginHeaders(slices.Clone(tt.headers))
			c, err := p.NewStream(0, &s)
			if err != nil {
				t.Fatal(err)
			}
			action, err := c.OnRequestHeaders(len(tt.headers), false)
			if err != nil {
				t.Fatal(err)
			}
			if action != tt.action {
				t.Errorf("action %d, want %d", action, tt.action)
			}
			if diff := cmp.Diff(tt.want, filter.HeaderMap(s.headers)); diff != "" {
				t.Errorf("headers (-want +got):\n%s", diff)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// What the .wasm does to any request is what the filter in native Go decides,
// but for two things: from a page it takes only exact copies of the routing
// fields, and an extended CONNECT it knows only in the form that Envoy shows.
func FuzzPlugin(f *testing.F) {
	code, err := os.ReadFile(filepath.Join(root, "bin/switchyard.wasm"))
	if err != nil {
		f.Skipf("%v (%s)", err, plugin.get)
	}
	ctx := context.Background()
	engine, err := vm.NewEngine(ctx, vm.EngineOptions{})
	if err != nil {
		f.Fatal(err)
	}
	defer engine.Close(ctx)
	module, err := engine.Load(ctx, "bin/switchyard.wasm", code)
	if err != nil {
		f.Fatal(err)
	}
	configuration := []byte(`{"rules":[{"protocol":"websocket","path_prefix":"/a","origins":["same-origin"],"cluster":"a"},` +
		`{"name":"any","protocol":"*","hosts":["*.example.com"]}],"default":"refuse","handshake":"check"}`)
	config, err := filter.ParseConfig(configuration)
	if err != nil {
		f.Fatal(err)
	}
	p, err := engine.NewPlugin(ctx, vm.PluginConfig{Name: "switchyard", Module: module, Configuration: configuration}, 1)
	if err != nil {
		f.Fatal(err)
	}
	defer p.Close()
	f.Add("GET /a HTTP/1.1\r\nHost: a.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nOrigin: http://a.example.com\r\n\r\n")
	f.Add("GET / HTTP/1.1\r\nX-Upgrade-Route: a\r\nX_Upgrade_Cluster: b\r\nX-Upgrade-Cluster:\r\nX-Upgrade-Cluster: c\r\n\r\n")
	f.Fuzz(func(t *testing.T, raw string) {
		headers, ok := headerMap(raw)
		if !ok || headers.Has(":protocol") {
			return
		}
		want := runNative(config, headers)
		if !headers.Has("upgrade") {
			page := pluginHeaders(slices.Clone(headers))
			page.Remove("x-upgrade-route")
			page.Remove("x-upgrade-cluster")
			want = effect{headers: page.lines()}
		}
		if diff := cmp.Diff(want, runPlugin(t, p, headers)); diff != "" {
			t.Errorf("-want +wasm:\n%s", diff)
		}
	})
}

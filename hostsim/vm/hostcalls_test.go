package vm

import (
	"encoding/binary"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"switchyard/hostsim/abi"
)

// guest calls host functions as testdata/guest.wasm would.
type guest struct {
	t testing.TB
	v *instance
	e *Engine
}

func newGuest(t testing.TB, config PluginConfig, stream Stream) *guest {
	return newGuestOf(t, "guest", config, EngineOptions{}, stream)
}

func newGuestOf(t testing.TB, module string, config PluginConfig, options EngineOptions, stream Stream) *guest {
	e, _ := newTestEngine(t, options)
	p := mustTestPlugin(t, e, module, config)
	g := &guest{t: t, v: p.threads[1].root.Load().instance, e: e}
	g.v.current = p.threads[1].root.Load()
	if stream != nil {
		s, err := p.NewStream(0, stream)
		if err != nil {
			t.Fatal(err)
		}
		g.v.current = &s.context
	}
	return g
}

// call calls a function with numbers and with strings, of which each is put
// into memory and becomes two parameters, address and size.
func (g *guest) call(name string, args ...any) abi.Status {
	g.t.Helper()
	var stack []uint64
	at := uint64(1024)
	for _, arg := range args {
		switch arg := arg.(type) {
		case int:
			stack = append(stack, uint64(arg))
		case string:
			g.v.memory.WriteString(uint32(at), arg)
			stack = append(stack, at, uint64(len(arg)))
			at += uint64(len(arg))
		}
	}
	if !strings.Contains(name, ".") {
		name = "env." + name
	}
	f := g.e.hostFuncs[name]
	if len(stack) != len(f.params) {
		g.t.Fatalf("%s: %d parameters, want %d", name, len(stack), len(f.params))
	}
	stack = append(stack, 0)
	return abi.Status(g.v.explained(f, stack, func() uint32 { return f.call(g.v, stack) }))
}

// returned does what follows when the callback has returned.
func (g *guest) returned() {
	g.v.mu.Lock()
	g.v.leave()
}

// result reads what a host function gave at ptr and size in 0 and 4.
func (g *guest) result() string {
	g.t.Helper()
	ptr, _ := g.v.memory.ReadUint32Le(0)
	size, _ := g.v.memory.ReadUint32Le(4)
	b, ok := g.v.memory.Read(ptr, size)
	if !ok {
		g.t.Fatalf("result of %d bytes at %d is not in memory", size, ptr)
	}
	return string(b)
}

func TestBuffers(t *testing.T) {
	tests := []struct {
		name          string
		start, length int
		data          string
		status        abi.Status
		body          string
	}{
		{"prepend", 0, 0, "X", abi.StatusOK, "Xhello"},
		{"replace all", 0, 5, "X", abi.StatusOK, "X"},
		{"replace more than there is", 0, 1 << 31, "X", abi.StatusOK, "X"},
		{"replace the beginning", 0, 2, "X", abi.StatusOK, "Xllo"},
		{"append", 5, 0, "X", abi.StatusOK, "helloX"},
		{"append far behind the end", 0xffffffff, 0xffffffff, "X", abi.StatusOK, "helloX"},
		{"the middle cannot be replaced", 1, 1, "X", abi.StatusBadArgument, "hello"},
		{"empty it", 0, 5, "", abi.StatusOK, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			stream := requestStream()
			body := &testBuffer{data: []byte("hello")}
			stream.buffers[abi.BufferRequestBody] = body
			g := newGuest(t, PluginConfig{}, stream)
			if got := g.call("proxy_set_buffer_bytes", 0, tt.start, tt.length, tt.data); got != tt.status {
				t.Errorf("status = %d, want %d", got, tt.status)
			}
			if got := string(body.data); got != tt.body {
				t.Errorf("body = %q, want %q", got, tt.body)
			}
		})
	}
}

func TestGetBufferBytes(t *testing.T) {
	stream := requestStream()
	stream.buffers[abi.BufferRequestBody] = &testBuffer{data: []byte("hello")}
	g := newGuest(t, PluginConfig{VMConfiguration: []byte("vm config"), Configuration: []byte("plugin config")}, stream)
	tests := []struct {
		name          string
		buffer        abi.BufferType
		start, length int
		ptrPtr        int
		status        abi.Status
		result        string
	}{
		{"all", abi.BufferRequestBody, 0, 5, 0, abi.StatusOK, "hello"},
		{"too much is cut", abi.BufferRequestBody, 3, 100, 0, abi.StatusOK, "lo"},
		{"nothing behind the end", abi.BufferRequestBody, 6, 1, 0, abi.StatusOK, ""},
		{"start and length that overflow", abi.BufferRequestBody, 2, 0xffffffff, 0, abi.StatusOK, "llo"},
		{"a body that is not there is empty", abi.BufferResponseBody, 0, 5, 0, abi.StatusOK, ""},
		{"the VM's configuration", abi.BufferVMConfiguration, 0, 100, 0, abi.StatusOK, "vm config"},
		{"the plugin's, which only on_configure has", abi.BufferPluginConfiguration, 0, 100, 0, abi.StatusNotFound, ""},
		{"a callout's answer without a callout", abi.BufferHTTPCallResponseBody, 0, 100, 0, abi.StatusNotFound, ""},
		{"no such buffer", 9, 0, 100, 0, abi.StatusBadArgument, ""},
		{"a bad address for the result", abi.BufferRequestBody, 0, 5, 1 << 30, abi.StatusInvalidMemoryAccess, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g.v.writeUint64(0, 0)
			if got := g.call("proxy_get_buffer_bytes", int(tt.buffer), tt.start, tt.length, tt.ptrPtr, 4); got != tt.status {
				t.Fatalf("status = %d, want %d", got, tt.status)
			}
			if tt.status != abi.StatusOK {
				return
			}
			if got := g.result(); got != tt.result {
				t.Errorf("result = %q, want %q", got, tt.result)
			}
		})
	}
}

func TestFields(t *testing.T) {
	stream := requestStream([2]string{":path", "/"}, [2]string{"a", "1"}, [2]string{"a", "2"})
	g := newGuest(t, PluginConfig{}, stream)
	expect := func(what string, got, want any) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	expect("get", g.call("proxy_get_header_map_value", 0, "A", 0, 4), abi.StatusOK)
	expect("the first of two", g.result(), "1")
	expect("get of what is not there", g.call("proxy_get_header_map_value", 0, "b", 0, 4), abi.StatusNotFound)
	expect("get of another phase", g.call("proxy_get_header_map_value", 2, "a", 0, 4), abi.StatusBadArgument)
	expect("nothing has changed yet", stream.cleared, 0)

	expect("remove of what is not there", g.call("proxy_remove_header_map_value", 0, "b"), abi.StatusOK)
	expect("the route is matched anew all the same", stream.cleared, 1)
	expect("replace", g.call("proxy_replace_header_map_value", 0, "a", "3"), abi.StatusOK)
	expect("add", g.call("proxy_add_header_map_value", 0, "c", ""), abi.StatusOK)
	expect("size in bytes", g.call("proxy_get_header_map_size", 0, 8), abi.StatusOK)
	size, _ := g.v.memory.ReadUint32Le(8)
	expect("size", size, uint32(len(":path/a3c")))
	expect("pairs", g.call("proxy_get_header_map_pairs", 0, 0, 4), abi.StatusOK)
	pairs, ok := abi.ParsePairs([]byte(g.result()))
	expect("pairs", pairs, abi.Pairs{{":path", "/"}, {"a", "3"}, {"c", ""}})
	expect("pairs can be parsed", ok, true)
	expect("pairs of another phase are none", g.call("proxy_get_header_map_pairs", 2, 0, 4), abi.StatusOK)
	expect("pairs of another phase are none", g.result(), "")

	wire := string(abi.AppendPairs(nil, abi.Pairs{{"X", "y"}}))
	expect("set", g.call("proxy_set_header_map_pairs", 0, wire), abi.StatusOK)
	expect("set", stream.maps[0].pairs, [][2]string{{"x", "y"}})
	expect("set of garbage", g.call("proxy_set_header_map_pairs", 0, wire+"!"), abi.StatusOK)
	expect("empties the map", len(stream.maps[0].pairs), 0)

	stream.readOnly = true
	expect("write where one may not", g.call("proxy_add_header_map_value", 0, "a", "1"), abi.StatusBadArgument)
	stream.readOnly = false
	expect("continue", g.call("proxy_continue_stream", 0), abi.StatusOK)
	expect("after which the map is gone", g.call("proxy_add_header_map_value", 0, "a", "1"), abi.StatusBadArgument)
	g.returned()
	expect("resumed", stream.resumed, []abi.StreamType{abi.StreamRequest})
}

func TestProperties(t *testing.T) {
	stream := requestStream()
	stream.props["request\x00path"] = "/x"
	g := newGuest(t, PluginConfig{Name: "n", RootID: "r", VMID: "v",
		Property: func(path string) ([]byte, abi.Status) { return []byte("node " + path), abi.StatusOK }}, stream)
	for path, want := range map[string]string{"plugin_name": "n", "plugin_root_id": "r", "plugin_vm_id\x00": "v", "request\x00path": "/x"} {
		if got := g.call("proxy_get_property", path, 0, 4); got != abi.StatusOK || g.result() != want {
			t.Errorf("%q = %d, %q, want %q", path, got, g.result(), want)
		}
	}
	if got := g.call("proxy_get_property", "", 0, 4); got != abi.StatusSerializationFailure {
		t.Errorf("an empty path gives %d, want 3", got)
	}
	if got := g.call("proxy_set_property", "k", "v"); got != abi.StatusOK || stream.props["k"] != "v" {
		t.Errorf("set_property = %d, stored %q", got, stream.props)
	}
	g.v.current = g.v.current.root
	if got := g.call("proxy_set_property", "k", "v"); got != abi.StatusNotFound {
		t.Errorf("set_property on a root context = %d, want 1", got)
	}
	if got := g.call("proxy_get_property", "xds\x00node", 0, 4); got != abi.StatusOK || g.result() != "node xds\x00node" {
		t.Errorf("get_property on a root context = %d, %q", got, g.result())
	}
}

func TestLocalResponse(t *testing.T) {
	stream := requestStream()
	g := newGuest(t, PluginConfig{}, stream)
	headers := string(abi.AppendPairs(nil, abi.Pairs{{"A", "b"}}))
	for range 2 { // the second one does not count
		if got := g.call("proxy_send_local_response", 403, "no way", "body", headers, 0xffffffff); got != abi.StatusOK {
			t.Errorf("status = %d, want 0", got)
		}
	}
	stopped := g.v.stopNext
	g.returned()
	want := []string{"403 no_way body [[A b]] -1"}
	if diff := cmp.Diff(want, stream.local); diff != "" {
		t.Errorf("local responses (-want +got):\n%s", diff)
	}
	if !stopped {
		t.Error("the callback would not stop the stream")
	}
}

func TestForeignFunctions(t *testing.T) {
	stream := requestStream()
	g := newGuest(t, PluginConfig{Foreign: func(s Stream, name string, args []byte) ([]byte, abi.Status) {
		if s != stream {
			t.Error("not the stream of the call")
		}
		switch name {
		case "reverse":
			return []byte{args[1], args[0]}, abi.StatusOK
		case "fail":
			return nil, abi.StatusBadArgument
		}
		return nil, abi.StatusNotFound
	}}, stream)
	for name, want := range map[string]abi.Status{"reverse": abi.StatusOK, "fail": abi.StatusBadArgument, "other": abi.StatusNotFound, "clear_route_cache": abi.StatusOK} {
		g.v.writeUint64(0, 0)
		if got := g.call("proxy_call_foreign_function", name, "ab", 0x40, 0x44); got != want {
			t.Errorf("%s = %d, want %d", name, got, want)
		}
	}
	if got := g.call("proxy_call_foreign_function", "reverse", "ab", 8, 12); got != abi.StatusOK {
		t.Errorf("reverse = %d", got)
	}
	b, _ := g.v.memory.Read(8, 8)
	ptr, size := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
	if got, _ := g.v.memory.Read(ptr, size); string(got) != "ba" {
		t.Errorf("result = %q, want %q", got, "ba")
	}
	if stream.cleared != 1 {
		t.Errorf("route cache cleared %d times, want 1", stream.cleared)
	}
}

func TestMetrics(t *testing.T) {
	registry := &Registry{}
	e, _ := newTestEngine(t, EngineOptions{Metrics: registry})
	p := mustTestPlugin(t, e, "guest", PluginConfig{})
	g := &guest{t: t, v: p.threads[1].root.Load().instance, e: e}
	for _, tt := range []struct {
		kind int
		ids  [2]uint32
	}{{0, [2]uint32{4, 8}}, {1, [2]uint32{5, 9}}, {2, [2]uint32{6, 10}}} {
		for _, want := range tt.ids {
			g.call("proxy_define_metric", tt.kind, "m", 0)
			if got, _ := g.v.memory.ReadUint32Le(0); got != want {
				t.Errorf("id of a metric of type %d = %d, want %d", tt.kind, got, want)
			}
		}
	}
	if got := g.call("proxy_define_metric", 3, "m", 0); got != abi.StatusBadArgument {
		t.Errorf("define of type 3 = %d, want 2", got)
	}
	for _, tt := range []struct {
		name   string
		call   string
		id, by int
		status abi.Status
	}{
		{"count", "proxy_increment_metric", 4, 5, abi.StatusOK},
		{"count the same by its other id", "proxy_increment_metric", 8, 2, abi.StatusOK},
		{"a counter does not go down", "proxy_increment_metric", 4, -1, abi.StatusBadArgument},
		{"nor nowhere", "proxy_increment_metric", 4, 0, abi.StatusBadArgument},
		{"recording counts", "proxy_record_metric", 4, 10, abi.StatusOK},
		{"gauge", "proxy_record_metric", 5, 7, abi.StatusOK},
		{"gauge down", "proxy_increment_metric", 5, -3, abi.StatusOK},
		{"sample", "proxy_record_metric", 6, 7, abi.StatusOK},
		{"a histogram cannot be incremented", "proxy_increment_metric", 6, 7, abi.StatusBadArgument},
		{"nor read", "proxy_get_metric", 6, 0, abi.StatusBadArgument},
		{"unknown counter", "proxy_increment_metric", 12, 1, abi.StatusNotFound},
		{"unknown id of type 3", "proxy_record_metric", 7, 1, abi.StatusNotFound},
		{"id 0", "proxy_get_metric", 0, 0, abi.StatusNotFound},
	} {
		if got := g.call(tt.call, tt.id, tt.by); got != tt.status {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.status)
		}
	}
	for kind, want := range map[abi.MetricType]uint64{abi.MetricCounter: 17, abi.MetricGauge: 4, abi.MetricHistogram: 7} {
		if got, _ := registry.Value(kind, "m"); got != want {
			t.Errorf("metric of type %d = %d, want %d", kind, got, want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	g := newGuest(t, PluginConfig{Environment: map[string]string{"B": "2", "A": "1"}}, nil)
	if got := g.call("wasi_snapshot_preview1.environ_sizes_get", 0, 4); got != 0 {
		t.Fatalf("environ_sizes_get = %d", got)
	}
	if got := g.call("wasi_unstable.environ_get", 16, 64); got != 0 {
		t.Fatalf("environ_get = %d", got)
	}
	b, _ := g.v.memory.Read(0, 72)
	got := []uint32{binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[16:]), binary.LittleEndian.Uint32(b[20:])}
	if diff := cmp.Diff([]uint32{2, 8, 64, 68}, got); diff != "" {
		t.Errorf("count, size, addresses (-want +got):\n%s", diff)
	}
	if got := string(b[64:72]); got != "A=1\x00B=2\x00" {
		t.Errorf("environment = %q", got)
	}
}

// TestWASITable compares parameters with the table of Envoy's functions:
// i is i32, I is i64.
func TestWASITable(t *testing.T) {
	want := map[string]string{"fd_write": "iiii", "fd_read": "iiii", "fd_seek": "iIii", "fd_close": "i", "fd_fdstat_get": "ii",
		"fd_fdstat_set_flags": "ii", "fd_fdstat_set_rights": "iII", "environ_get": "ii", "environ_sizes_get": "ii", "args_get": "ii",
		"args_sizes_get": "ii", "clock_time_get": "iIi", "clock_res_get": "ii", "fd_advise": "iIIi", "fd_allocate": "iII",
		"fd_datasync": "i", "fd_filestat_set_size": "iI", "fd_filestat_set_times": "iIIi", "fd_pread": "iiiIi", "fd_pwrite": "iiiIi",
		"fd_readdir": "iiiIi", "fd_renumber": "ii", "fd_sync": "i", "fd_tell": "ii", "path_create_directory": "iii",
		"path_filestat_set_times": "iiiiIIi", "path_link": "iiiiii", "path_readlink": "iiiiii", "path_remove_directory": "iii",
		"path_rename": "iiiiii", "path_symlink": "iiii", "path_unlink_file": "iii", "sock_accept": "iii", "sock_recv": "iiiiii",
		"sock_send": "iiiii", "sock_shutdown": "ii", "random_get": "ii", "sched_yield": "", "poll_oneoff": "iiii", "proc_exit": "i",
		"path_open": "iiiiiIIii", "fd_prestat_get": "ii", "fd_prestat_dir_name": "iii", "path_filestat_get": "iiiii", "fd_filestat_get": "ii"}
	got := map[string]string{}
	for _, f := range wasiFunctions() {
		s := ""
		for _, p := range f.params {
			s += map[byte]string{i32: "i", i64: "I"}[p]
		}
		got[f.name] = s
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("WASI functions (-Envoy +got):\n%s", diff)
	}
	if len(want) != 45 {
		t.Errorf("%d functions, want 45", len(want))
	}
}

// TestHostFunctionCount keeps the table of host functions complete: 43 of
// Proxy-Wasm, of which some belong to one ABI version only.
func TestHostFunctionCount(t *testing.T) {
	got := map[abiVersion]int{}
	for _, f := range hostFunctions() {
		if strings.HasPrefix(f.name, "proxy_") {
			for _, v := range []abiVersion{abi010, abi020, abi021} {
				if f.versions&v != 0 {
					got[v]++
				}
			}
			got[0]++
		}
	}
	if diff := cmp.Diff(map[abiVersion]int{0: 43, abi010: 40, abi020: 38, abi021: 39}, got); diff != "" {
		t.Errorf("host functions by version (-want +got):\n%s", diff)
	}
}

// Who looks for what is wrong finds in the debug log what was asked, and why
// the answer is no.
func TestReasonsAreLogged(t *testing.T) {
	stream := requestStream([2]string{"x-up-route", "1"})
	g := newGuest(t, PluginConfig{Name: "plug"}, stream)
	log := &testLog{level: slog.LevelDebug}
	g.e.log = slog.New(log)
	tests := []struct {
		call string
		args []any
		want string
	}{
		{"proxy_get_header_map_value", []any{0, "x_up_route", 0, 4},
			`debug|wasm log plug: proxy_get_header_map_value(map: request headers, name: "x_up_route") = NotFound: there is no field "x_up_route", but "x-up-route"`},
		{"proxy_get_property", []any{"route_name", 0, 4},
			`debug|wasm log plug: proxy_get_property(path: "route_name") = NotFound: it is called xds.route_name`},
		{"proxy_add_header_map_value", []any{2, "a", "b"},
			`debug|wasm log plug: proxy_add_header_map_value(map: response headers, name: "a", value: "b") = BadArgument: there are no response headers in this callback: they can be reached from their own callback on until it returns Continue`},
		{"proxy_http_call", []any{"x", string(abi.AppendPairs(nil, abi.Pairs{{":path", "/"}})), "", "", -1, 0},
			`debug|wasm log plug: proxy_http_call(cluster: "x", headers: [[":path" "/"]], body: "", trailers: none, timeout: -1) = BadArgument: the timeout of -1 ms is negative`},
		{"proxy_log", []any{9, "x"},
			`debug|wasm log plug: proxy_log(level: 9, message: "x") = BadArgument: levels are 0 (trace) to 5 (critical)`},
	}
	for _, tt := range tests {
		log.lines = nil
		g.call(tt.call, tt.args...)
		if diff := cmp.Diff([]string{tt.want}, log.lines); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.call, diff)
		}
	}
}

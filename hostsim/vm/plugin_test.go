package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"switchyard/hostsim/abi"
)

// said returns what testdata/lifecycle.wasm logged since the last call, less
// the prefix that all lines of a plugin with VM id "vm" have.
func (l *testLog) said() (letters string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var words []string
	for _, line := range l.lines {
		if strings.HasPrefix(line, "trace|") {
			continue
		}
		words = append(words, strings.TrimPrefix(strings.TrimPrefix(line, "info|wasm log plug vm: "), "info|wasm log vm: "))
	}
	l.lines = nil
	return strings.Join(words, " ")
}

func expectSaid(t *testing.T, log *testLog, when, want string) {
	t.Helper()
	if diff := cmp.Diff(want, log.said()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", when, diff)
	}
}

func TestLifecycle(t *testing.T) {
	e, log := newTestEngine(t, EngineOptions{})
	config := PluginConfig{VMID: "vm"}
	p := mustTestPlugin(t, e, "lifecycle", config)
	expectSaid(t, log, "loading: canary, main thread, worker", "C1 S1 F1 C1 S1 F1 C1 S1 F1")
	if got := (EngineStats{Created: 4, Active: 2, Bases: 1}); e.Stats() != got {
		t.Errorf("VMs = %+v, want %+v", e.Stats(), got)
	}
	if got := p.TickPeriod(0); got != 250*time.Millisecond {
		t.Errorf("tick period = %v", got)
	}

	s, err := p.NewStream(0, requestStream())
	if err != nil {
		t.Fatal(err)
	}
	expectSaid(t, log, "a stream that has done nothing", "")
	if action, err := s.OnResponseHeaders(1, true); action != abi.ActionContinue || err != nil {
		t.Errorf("response headers before request headers = %v, %v", action, err)
	}
	expectSaid(t, log, "which Envoy has answered itself", "")
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	e.shared.listeners.Wait()
	expectSaid(t, log, "the end of the stream, and an item in the queue", "C2 L2 D2 X2 Q1")

	config.Name = "other"
	config.Module = p.config.Module
	other, err := e.NewPlugin(context.Background(), config, 1)
	if err != nil {
		t.Fatal(err)
	}
	expectSaid(t, log, "a second plugin in the same VMs, whose canary is new", "C1 S1 F1 C2 S2 F2 C3 S3 F3")
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	expectSaid(t, log, "its end, done at once", "D2 X2 D3 X3")

	root := p.threads[1].root.Load()
	root.instance.mu.Lock()
	root.shutdown()
	root.instance.mu.Unlock()
	expectSaid(t, log, "a root context that is not done", "D1")
	if err := p.Tick(0); err != nil {
		t.Error(err)
	}
	expectSaid(t, log, "is deleted once it says that it is", "T1 X1")
}

func TestTickPeriodIsTold(t *testing.T) {
	e, _ := newTestEngine(t, EngineOptions{})
	var worker int
	var period time.Duration
	p := mustTestPlugin(t, e, "guest", PluginConfig{OnTickPeriod: func(w int, d time.Duration) { worker, period = w, d }})
	v := p.threads[0].root.Load().instance
	v.current = p.threads[0].root.Load()
	e.hostFuncs["env.proxy_set_tick_period_milliseconds"].call(v, []uint64{1500})
	if worker != MainThread || period != 1500*time.Millisecond {
		t.Errorf("told worker %d, %v", worker, period)
	}
	if got := p.TickPeriod(MainThread); got != 1500*time.Millisecond {
		t.Errorf("TickPeriod = %v", got)
	}
}

// What testdata/hostile.wasm does, by number of headers.
const (
	wellBehaved = iota
	loopForEver
	recurseForEver
	growForEver
	trapInMalloc
	loopInMalloc
	hostcallInMalloc
	justTrap
)

// attack lets the hostile guest do something in a new stream of worker 0.
func attack(t *testing.T, p *Plugin, what int) error {
	t.Helper()
	s, err := p.NewStream(0, requestStream())
	if err != nil {
		return err
	}
	defer s.Close()
	action, err := s.OnRequestHeaders(what, true)
	if err == nil && action != abi.ActionContinue {
		t.Errorf("action = %v, want Continue", action)
	}
	return err
}

func TestHostileGuests(t *testing.T) {
	tests := []struct {
		name     string
		what     int
		deadline time.Duration
		error    string // "" if the guest survives
	}{
		{"one that behaves", wellBehaved, 0, ""},
		{"one that recurses for ever", recurseForEver, 0, "Function: proxy_on_request_headers failed: Uncaught RangeError: Maximum call stack size exceeded"},
		{"one that takes all the memory it can get", growForEver, 0, ""},
		{"one whose malloc traps", trapInMalloc, 0, "Function: malloc failed: Uncaught RuntimeError: unreachable"},
		{"one whose malloc calls the host", hostcallInMalloc, 0, "Function: malloc failed: Uncaught Error: restricted_callback"},
		{"one that loops for ever", loopForEver, 50 * time.Millisecond, "Function: proxy_on_request_headers failed: callback deadline exceeded (an endless loop?)"},
		{"one whose malloc loops for ever", loopInMalloc, 50 * time.Millisecond, "Function: malloc failed: callback deadline exceeded (an endless loop?)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e, log := newTestEngine(t, EngineOptions{MemoryLimitPages: 64, CallbackDeadline: tt.deadline})
			p := mustTestPlugin(t, e, "hostile", PluginConfig{})
			err := attack(t, p, tt.what)
			if tt.error == "" {
				if err != nil {
					t.Errorf("error %v", err)
				}
				return
			}
			trap, ok := errors.AsType[*TrapError](err)
			if !ok {
				t.Fatalf("error %v is no *TrapError", err)
			}
			if trap.Error() != tt.error {
				t.Errorf("error %q, want %q", trap, tt.error)
			}
			if got := log.messages(); len(got) == 0 || !strings.HasPrefix(got[0], "error|"+tt.error) {
				t.Errorf("log = %q", got)
			}
			if err := attack(t, p, wellBehaved); err != ErrVMFailed {
				t.Errorf("the next stream: %v, want ErrVMFailed", err)
			}
		})
	}
}

func TestMemoryLimit(t *testing.T) {
	e, _ := newTestEngine(t, EngineOptions{MemoryLimitPages: 3})
	p := mustTestPlugin(t, e, "hostile", PluginConfig{})
	if err := attack(t, p, growForEver); err != nil {
		t.Fatal(err)
	}
	if got := p.threads[1].root.Load().instance.memory.Size(); got != 3<<16 {
		t.Errorf("memory grew to %d bytes, want %d", got, 3<<16)
	}
}

func TestFailurePolicies(t *testing.T) {
	tests := []struct {
		policy             FailurePolicy
		bypass, ignoreTrap bool
		reload             bool
	}{
		{policy: FailClosed},
		{policy: FailOpen, bypass: true},
		{policy: FailOpenDeprecated, bypass: true, ignoreTrap: true},
		{policy: FailReload, reload: true},
	}
	for _, tt := range tests {
		now := time.Unix(1e9, 0)
		e, _ := newTestEngine(t, EngineOptions{Now: func() time.Time { return now }})
		p := mustTestPlugin(t, e, "hostile", PluginConfig{FailurePolicy: tt.policy, ReloadBackoff: time.Second})
		if got := p.FailurePolicy().Bypass(); got != tt.bypass {
			t.Errorf("policy %d: Bypass = %v", tt.policy, got)
		}
		if got := p.FailurePolicy().IgnoreTrap(); got != tt.ignoreTrap {
			t.Errorf("policy %d: IgnoreTrap = %v", tt.policy, got)
		}
		open, err := p.NewStream(0, requestStream())
		if err != nil {
			t.Fatal(err)
		}
		now = now.Add(2 * time.Second)
		if attack(t, p, justTrap) == nil {
			t.Fatalf("policy %d: the guest did not trap", tt.policy)
		}
		if !open.Failed() {
			t.Errorf("policy %d: the open stream lives on", tt.policy)
		}
		err = attack(t, p, justTrap)
		if tt.reload {
			if _, ok := errors.AsType[*TrapError](err); !ok {
				t.Errorf("the next stream did not reach a new VM: %v", err)
			}
			err = attack(t, p, wellBehaved)
		}
		if err != ErrVMFailed {
			t.Errorf("policy %d: the next stream: %v, want ErrVMFailed", tt.policy, err)
		}
		if action, err := open.OnRequestBody(1, false); err != ErrVMFailed {
			t.Errorf("policy %d: the open stream: %v, %v, want ErrVMFailed", tt.policy, action, err)
		}
		if err := open.Close(); err != ErrVMFailed {
			t.Errorf("policy %d: closing the open stream: %v, want ErrVMFailed", tt.policy, err)
		}
		if tt.reload {
			now = now.Add(2 * time.Second)
			if err := attack(t, p, wellBehaved); err != nil {
				t.Errorf("after the backoff: %v", err)
			}
			want := PluginStats{ReloadSuccess: 2, ReloadBackoff: 1}
			if diff := cmp.Diff(want, p.Stats()); diff != "" {
				t.Errorf("stats (-want +got):\n%s", diff)
			}
		}
	}
}

func TestLoadErrors(t *testing.T) {
	e, _ := newTestEngine(t, EngineOptions{})
	load := func(code string) string {
		_, err := e.Load(context.Background(), "x.wasm", []byte(code))
		if _, ok := errors.AsType[*LoadError](err); !ok {
			t.Fatalf("error %v is no *LoadError", err)
		}
		return err.Error()
	}
	const missing = "x.wasm: Wasm VM failed Missing or unknown Proxy-Wasm ABI version\nWasm VM failed Failed to load Wasm code"
	const corrupted = "x.wasm: Wasm VM failed Failed to parse corrupted Wasm module\nWasm VM failed Failed to load Wasm code"
	for code, want := range map[string]string{
		"":                    "x.wasm: \nhint: the file is empty",
		"(module)":            missing + "\nhint: this is the text format; assemble it with wat2wasm",
		"\x1f\x8b\x08":        missing + "\nhint: this is gzip; unpack it",
		"\x00asm\x01\x00\x00": missing + "\nhint: the module exports no function proxy_abi_version_0_1_0, _0_2_0 or _0_2_1; was it built with a Proxy-Wasm SDK?",
		"hello":               missing + "\nhint: a module begins with \"\\x00asm\", this with \"hell\"",
		"\x00asm\x01\x00\x00\x00\x07\xff\xff\xff\xff\x0f": corrupted,
	} {
		if got := load(code); got != want {
			t.Errorf("%q: error\n%s\nwant\n%s", code, got, want)
		}
	}
	_, err := loadTestModule(t, e, "abi/abi021_imports_clear_route_cache")
	want := "abi/abi021_imports_clear_route_cache: Failed to load Wasm module due to a missing import: env.proxy_clear_route_cache\n" +
		"Wasm VM failed Failed to initialize Wasm code\n" +
		"hint: env.proxy_clear_route_cache exists in ABI 0.1.0 only, and the module says it has 0.2.1; call the foreign function \"clear_route_cache\" instead"
	if err == nil || err.Error() != want {
		t.Errorf("error\n%v\nwant\n%s", err, want)
	}
	if _, err = loadTestModule(t, e, "resolve_dns"); err != nil {
		t.Errorf("a module that imports envoy_resolve_dns: %v", err)
	}
	header := "\x00asm\x01\x00\x00\x00"
	abi021 := "\x01\x04\x01\x60\x00\x00\x03\x02\x01\x00%s\x07\x1b\x01\x17proxy_abi_version_0_2_1\x00\x00\x0a\x04\x01\x02\x00\x0b"
	for name, memories := range map[string]string{"several memories": "\x05\x05\x02\x00\x01\x00\x01", "a memory of 64 bits": "\x05\x03\x01\x04\x01"} {
		_, err := e.Load(t.Context(), "module", []byte(header+fmt.Sprintf(abi021, memories)))
		if u, ok := errors.AsType[*UnsupportedError](err); !ok || u.Reason != name {
			t.Errorf("%s: error %v, want an *UnsupportedError", name, err)
		}
	}
}

// FuzzLoad feeds mutated modules to all that happens before one runs.
func FuzzLoad(f *testing.F) {
	names, _ := filepath.Glob("testdata/abi/*.wasm")
	for _, name := range names {
		code, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(code)
	}
	f.Fuzz(func(t *testing.T, code []byte) {
		moduleABIVersion(code)
		notWasmHint(code)
	})
}

// switchyardModule is the project's own plugin, which `make build` makes.
func switchyardModule(t testing.TB, e *Engine) *Module {
	t.Helper()
	code, err := os.ReadFile("../../bin/switchyard.wasm")
	if err != nil {
		t.Skip("bin/switchyard.wasm is not there; run make build")
	}
	m, err := e.Load(context.Background(), "switchyard.wasm", code)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func upgradeHeaders() [][2]string {
	return [][2]string{{":authority", "h"}, {":path", "/ws"}, {":method", "GET"}, {":scheme", "http"},
		{"connection", "keep-alive, Upgrade"}, {"upgrade", "websocket"}, {"sec-websocket-version", "13"},
		{"sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="}, {"x-forwarded-proto", "http"}, {"x-request-id", strings.Repeat("f", 36)}}
}

// TestStreamsShareWorkers hammers two VMs of a real plugin from many
// goroutines, and looks for what is left behind.
func TestStreamsShareWorkers(t *testing.T) {
	e, err := NewEngine(context.Background(), EngineOptions{CacheDir: "../../bin/cache"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := e.NewPlugin(context.Background(), PluginConfig{Name: "plug", Module: switchyardModule(t, e)}, 2)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for range 50 {
				stream := requestStream(slices.Clone(upgradeHeaders())...)
				s, err := p.NewStream(i%2, stream)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := s.OnRequestHeaders(stream.maps[abi.MapRequestHeaders].Len(), false); err != nil {
					t.Error(err)
				}
				if _, ok := stream.maps[abi.MapRequestHeaders].Get("x-upgrade-route"); !ok {
					t.Error("an upgrade was not routed")
				}
				s.OnRequestBody(0, false)
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for i := range p.threads {
		if n := len(p.threads[i].root.Load().instance.contexts); n != 2 {
			t.Errorf("%d contexts left on thread %d, want the VM's and the plugin's", n, i)
		}
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if got := e.Stats().Active; got != 0 {
		t.Errorf("%d VMs are left", got)
	}
	if err := e.Close(context.Background()); err != nil {
		t.Error(err)
	}
	stacks := make([]byte, 1<<20)
	for stack := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
		// The runtime may be running a finalizer of wazero's, which is how it frees code.
		if strings.Contains(stack, "runtime.runFinalizers") || strings.Contains(stack, "runtime.runCleanups") {
			continue
		}
		if strings.Contains(stack, "wazero") || strings.Contains(stack, "sharedStore") {
			t.Errorf("a goroutine is left:\n%s", stack)
		}
	}
}

// BenchmarkStream is a stream of the project's own plugin: created, one upgrade
// request, closed. The test's header map costs some of it.
func BenchmarkStream(b *testing.B) {
	for _, bench := range []struct {
		name     string
		deadline time.Duration
	}{{"no deadline", 0}, {"deadline", time.Second}} {
		b.Run(bench.name, func(b *testing.B) {
			e, err := NewEngine(context.Background(), EngineOptions{CallbackDeadline: bench.deadline, CacheDir: "../../bin/cache"})
			if err != nil {
				b.Fatal(err)
			}
			defer e.Close(context.Background())
			p, err := e.NewPlugin(context.Background(), PluginConfig{Name: "plug", Module: switchyardModule(b, e)}, 1)
			if err != nil {
				b.Fatal(err)
			}
			defer p.Close()
			stream := requestStream()
			pairs := upgradeHeaders()
			m := stream.maps[abi.MapRequestHeaders]
			b.ReportAllocs()
			for b.Loop() {
				m.pairs = append(m.pairs[:0], pairs...)
				s, err := p.NewStream(0, stream)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := s.OnRequestHeaders(len(pairs), false); err != nil {
					b.Fatal(err)
				}
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkEmptyStream is the host's share: a guest that does nothing.
func BenchmarkEmptyStream(b *testing.B) {
	e, _ := newTestEngine(b, EngineOptions{})
	p := mustTestPlugin(b, e, "guest", PluginConfig{})
	stream := requestStream()
	b.ReportAllocs()
	for b.Loop() {
		s, err := p.NewStream(0, stream)
		if err != nil {
			b.Fatal(err)
		}
		s.OnRequestHeaders(0, false)
		s.OnRequestBody(0, false)
		s.Close()
	}
}

// What tells plugins apart, as measured on Envoy 1.40: how many it loads of two
// that differ only so.
func TestKey(t *testing.T) {
	e, _ := newTestEngine(t, EngineOptions{})
	base := PluginConfig{Name: "a", RootID: "b", VMID: "c", Configuration: []byte("d"), Module: mustTestPlugin(t, e, "lifecycle", PluginConfig{}).config.Module}
	for _, test := range []struct {
		name string
		edit func(*PluginConfig)
		same bool
	}{
		{"nothing", func(c *PluginConfig) {}, true},
		{"name", func(c *PluginConfig) { c.Name = "x" }, false},
		{"root id", func(c *PluginConfig) { c.RootID = "x" }, false},
		{"name and root id, but not both together", func(c *PluginConfig) { c.Name, c.RootID = "ab", "" }, false},
		{"configuration", func(c *PluginConfig) { c.Configuration = []byte("d ") }, false},
		{"what comes of a trap", func(c *PluginConfig) { c.FailurePolicy = FailOpen }, false},
		{"the meaning of stop iteration", func(c *PluginConfig) { c.AllowOnHeadersStopIteration = true }, false},
		{"what it may call", func(c *PluginConfig) { c.AllowedCapabilities = map[string]bool{"proxy_log": true} }, true},
		{"VM id", func(c *PluginConfig) { c.VMID = "x" }, false},
		{"the VM's configuration", func(c *PluginConfig) { c.VMConfiguration = []byte("x") }, false},
	} {
		other := base
		test.edit(&other)
		if same := other.Key() == base.Key(); same != test.same {
			t.Errorf("%s: the same plugin: %v, want %v", test.name, same, test.same)
		}
	}
}

package hostsimtest

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"switchyard/hostsim/abi"
	"switchyard/hostsim/bootstrap"
	"switchyard/hostsim/proxy"
	"switchyard/hostsim/vm"
)

// Option is a setting of [Plugin].
type Option func(*options)

type options struct {
	name, rootID, vmID, config, vmConfig string
	environment                          map[string]string
	more                                 []string
	clusters                             []string
	properties                           map[string][]byte
	foreign                              map[string]func([]byte) ([]byte, Status)
	now                                  time.Time
	deadline                             time.Duration
	memory                               int64
	mayTrap                              bool
}

// Config is the plugin's configuration, which proxy_on_configure can read.
func Config(text string) Option { return func(o *options) { o.config = text } }

// VMConfig is the VM's configuration, which proxy_on_vm_start can read.
func VMConfig(text string) Option { return func(o *options) { o.vmConfig = text } }

// Name is the plugin's name, otherwise "plugin".
func Name(name string) Option { return func(o *options) { o.name = name } }

// RootID is the plugin's root_id, by which one module can be several plugins.
func RootID(id string) Option { return func(o *options) { o.rootID = id } }

// VMID is the vm_id, to which shared data and queues belong.
func VMID(id string) Option { return func(o *options) { o.vmID = id } }

// Env is an environment variable of the VM.
func Env(name, value string) Option {
	return func(o *options) { o.environment[name] = value }
}

// PluginYAML is any other field of envoy.extensions.wasm.v3.PluginConfig as
// YAML, on one or more lines, such as "failure_policy: FAIL_OPEN".
func PluginYAML(text string) Option {
	return func(o *options) { o.more = append(o.more, strings.Split(strings.TrimSpace(text), "\n")...) }
}

// Clusters are the clusters that callouts may go to. A callout to any other
// one fails, as in Envoy.
func Clusters(names ...string) Option {
	return func(o *options) { o.clusters = append(o.clusters, names...) }
}

// Property is an attribute by its path, with dots, or NUL where a name has
// dots itself, between the segments: "xds.route_name". Without it
// plugins get what Envoy would know of such a stream, request.path for one.
// The value is a string, []byte, bool, int, int64, uint64 or Headers, and is
// encoded as Envoy does that.
func Property(path string, value any) Option {
	if !strings.Contains(path, "\x00") {
		path = strings.ReplaceAll(path, ".", "\x00")
	}
	return func(o *options) { o.properties[path] = encode(value) }
}

// Foreign is a foreign function. Those of Envoy are there without it.
func Foreign(name string, f func(argument []byte) ([]byte, Status)) Option {
	return func(o *options) { o.foreign[name] = f }
}

// StartTime is what the plugin's clock shows first, otherwise the beginning
// of 2026 in UTC. Only [Filter.Advance] moves it.
func StartTime(t time.Time) Option { return func(o *options) { o.now = t } }

// Deadline is how long a callback may take before it counts as an endless
// loop, otherwise 10 s.
func Deadline(d time.Duration) Option { return func(o *options) { o.deadline = d } }

// Memory is the most memory, in bytes, that the VM may have, otherwise 1 GiB
// as in Envoy.
func Memory(bytes int64) Option { return func(o *options) { o.memory = bytes } }

// MayTrap says that the plugin may trap, which fails the test otherwise. See
// [Effect.Trap].
func MayTrap() Option { return func(o *options) { o.mayTrap = true } }

func encode(value any) []byte {
	switch v := value.(type) {
	case string:
		return []byte(v)
	case []byte:
		return v
	case bool:
		if v {
			return []byte{1}
		}
		return []byte{0}
	case int:
		return binary.LittleEndian.AppendUint64(nil, uint64(v))
	case int64:
		return binary.LittleEndian.AppendUint64(nil, uint64(v))
	case uint64:
		return binary.LittleEndian.AppendUint64(nil, v)
	case Headers:
		return abi.AppendPairs(nil, abi.Pairs(v))
	}
	panic(fmt.Sprintf("hostsimtest: a property of type %T", value))
}

// Filter is a plugin under test: a VM on the main thread and one on a worker,
// as in an Envoy with --concurrency 1. Streams are the worker's. Its methods,
// and those of what it gives, are for the goroutine of the test.
type Filter struct {
	t       T
	options options
	harness *proxy.Harness
	now     time.Time
	due     map[int]time.Time // the next ticks, by thread
	periods map[int]time.Duration
	started *Effect

	mu      sync.Mutex
	effect  *Effect // of the step that runs
	journal []string
}

// journalLength is how much of it a test that fails shows.
const journalLength = 300

// Plugin loads the .wasm in a file, and unloads it when the test ends. If Envoy
// would not load it, neither does Plugin: the test ends with Envoy's words.
func Plugin(t T, file string, opts ...Option) *Filter {
	t.Helper()
	p, err := load(t, file, opts)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// PluginBytes is Plugin for a .wasm in memory.
func PluginBytes(t T, code []byte, opts ...Option) *Filter {
	t.Helper()
	return Plugin(t, keep(t, code), opts...)
}

// Refused is for a plugin that Envoy does not load. It returns why, in
// Envoy's words, and ends the test if the plugin is loaded.
func Refused(t T, file string, opts ...Option) error {
	t.Helper()
	if _, err := load(t, file, opts); err != nil {
		return err
	}
	t.Fatalf("%s is loaded", file)
	return nil
}

// keep puts a module into a file.
func keep(t T, code []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "plugin.wasm")
	if err := os.WriteFile(file, code, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func load(t T, file string, opts []Option) (*Filter, error) {
	t.Helper()
	o := options{name: "plugin", environment: map[string]string{}, properties: map[string][]byte{},
		foreign: map[string]func([]byte) ([]byte, Status){}, deadline: 10 * time.Second,
		now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	for _, opt := range opts {
		opt(&o)
	}
	p := &Filter{t: t, options: o, now: o.now, due: map[int]time.Time{}, periods: map[int]time.Duration{}}
	if o.memory%(64<<10) != 0 || o.memory < 0 || o.memory > 4<<30 {
		t.Fatalf("memory of %d bytes is not a number of pages of 64 KiB, or more than 4 GiB", o.memory)
	}
	boot, err := bootstrap.Load("plugin", []byte(p.bootstrap(file)))
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		if t.Failed() && len(p.journal) > 0 {
			t.Log("what the plugin did:\n" + strings.Join(p.journal, "\n"))
		}
	})
	p.started = &Effect{}
	p.effect = p.started
	p.harness, err = proxy.NewHarness(context.Background(), boot, proxy.HarnessOptions{
		// Of the log nothing is kept but what a plugin that is refused has said: all else is observed. Its level is Envoy's.
		Options: proxy.Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), CacheDir: cacheDir(), CallbackDeadline: o.deadline, MemoryLimitPages: uint32(o.memory >> 16)},
		Now:     func() time.Time { return p.now }, Observe: p.observe, Callouts: (*callouts)(p),
		Property: func(path string) ([]byte, bool) {
			value, ok := o.properties[strings.TrimSuffix(path, "\x00")]
			return value, ok
		},
		Foreign: func(name string, argument []byte) ([]byte, abi.Status) {
			if f := o.foreign[name]; f != nil {
				result, status := f(slices.Clone(argument))
				return result, abi.Status(status)
			}
			return nil, abi.StatusNotFound
		},
	})
	p.effect = nil
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { p.Close() })
	p.schedule()
	return p, nil
}

// cacheDir is where compiled plugins are kept, as by hostsim itself.
func cacheDir() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "hostsim")
}

// bootstrap is the configuration of an Envoy that has the plugin and no more.
func (p *Filter) bootstrap(file string) string {
	o := &p.options
	var b strings.Builder
	b.WriteString(`static_resources:
  listeners:
  - name: listener
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          route_config: {name: routes, virtual_hosts: [{name: all, domains: ["*"], routes: [{name: all, match: {prefix: /}, direct_response: {status: 200}}]}]}
          http_filters:
          - name: plugin
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
              config:
`)
	line := func(depth int, format string, args ...any) {
		fmt.Fprintf(&b, "%*s"+format+"\n", append([]any{depth, ""}, args...)...)
	}
	text := func(s string) string {
		return `{"@type": type.googleapis.com/google.protobuf.StringValue, value: ` + quote(s) + `}`
	}
	line(16, "name: %s", quote(o.name))
	line(16, "root_id: %s", quote(o.rootID))
	if o.config != "" {
		line(16, "configuration: %s", text(o.config))
	}
	for _, more := range o.more {
		line(16, "%s", more)
	}
	line(16, "vm_config:")
	line(18, "vm_id: %s", quote(o.vmID))
	line(18, "runtime: envoy.wasm.runtime.v8")
	line(18, "code: {local: {filename: %s}}", quote(file))
	if o.vmConfig != "" {
		line(18, "configuration: %s", text(o.vmConfig))
	}
	if len(o.environment) > 0 {
		line(18, "environment_variables:")
		line(20, "key_values:")
		for _, name := range slices.Sorted(maps.Keys(o.environment)) {
			line(22, "%s: %s", quote(name), quote(o.environment[name]))
		}
	}
	line(10, `- {name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}`)
	if len(o.clusters) > 0 {
		line(2, "clusters:")
	}
	for _, name := range o.clusters {
		line(2, "- name: %s", quote(name))
		line(4, "connect_timeout: 1s")
		line(4, "load_assignment: {cluster_name: %s, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}}}]}]}", quote(name))
	}
	return b.String()
}

// quote gives text as YAML, of which JSON is a part.
func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

// observe takes what the VMs tell.
func (p *Filter) observe(c vm.Call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.note(c)
	e := p.effect
	if e == nil {
		e = &Effect{}
	}
	switch {
	case c.Hostcall:
		e.Hostcalls = append(e.Hostcalls, Hostcall{Name: c.Name, Arguments: c.Arguments, Result: c.Result, Why: c.Why})
		if c.Message != nil {
			e.Logs = append(e.Logs, Log{Level: levelNames[c.Message.Level], Message: c.Message.Text})
		}
	default:
		callback := Callback{Context: c.Context, Name: c.Name, Arguments: c.Arguments, Result: c.Result}
		if c.Trap != nil {
			e.Trap = c.Trap.Detail()
			if e != p.started && !p.options.mayTrap { // one at the start is why it is refused
				p.t.Errorf("the plugin has trapped: %s", e.Trap)
			}
		}
		e.Callbacks = append(e.Callbacks, callback)
	}
}

// note keeps a call for a test that fails.
func (p *Filter) note(c vm.Call) {
	line := fmt.Sprintf("%s(%s)", c.Name, c.Arguments)
	if c.Hostcall {
		line = "    " + line
	}
	if c.Result != "" {
		line += " = " + c.Result
	}
	if c.Why != "" {
		line += ": " + c.Why
	}
	if c.Trap != nil {
		line += ": " + c.Trap.Error()
	}
	if len(p.journal) == journalLength {
		p.journal = append(p.journal[:0], p.journal[1:]...)
	}
	p.journal = append(p.journal, line)
}

// step does something and returns what came of it.
func (p *Filter) step(f func()) *Effect {
	e := &Effect{}
	p.observing(e)
	f()
	p.observing(nil)
	p.schedule()
	return e
}

// Started is what the plugin did when it was loaded. In Envoy, and here, that
// happens on a canary, on the main thread and on each worker.
func (p *Filter) Started() *Effect { return p.started }

// Close unloads the plugin before the test ends: proxy_on_done and
// proxy_on_delete on the main thread and on the worker. Streams must have
// ended. Nothing can be done with the plugin afterwards.
func (p *Filter) Close() *Effect {
	e := &Effect{}
	p.observing(e)
	p.harness.Close()
	p.observing(nil)
	return e
}

// observing says whose the calls are that come now.
func (p *Filter) observing(e *Effect) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.effect = e
}

// Tick calls proxy_on_tick on the worker, whether it is due or not.
func (p *Filter) Tick() *Effect { return p.step(func() { p.tick(0) }) }

func (p *Filter) tick(thread int) {
	p.due[thread] = time.Time{}
	p.harness.Do(thread, func() { p.plugin().Tick(thread) }) // a trap is observed
}

func (p *Filter) plugin() *vm.Plugin { return p.harness.Plugins()[0] }

// TickPeriod is how often the plugin wants a tick on the worker; 0 is never.
func (p *Filter) TickPeriod() time.Duration { return p.plugin().TickPeriod(0) }

// Now is what the plugin's clock shows.
func (p *Filter) Now() time.Time { return p.now }

// threads are the main thread and the worker.
var threads = [...]int{vm.MainThread, 0}

// schedule notes when the next ticks are due.
func (p *Filter) schedule() {
	for _, thread := range threads {
		switch period := p.plugin().TickPeriod(thread); {
		case period == 0:
			p.due[thread] = time.Time{}
		case p.due[thread].IsZero() || period != p.periods[thread]:
			p.due[thread], p.periods[thread] = p.now.Add(period), period
		}
	}
}

// Advance moves the plugin's clock. Ticks that are due until then are fired at
// their times, on the worker and, as in Envoy, on the main thread as well.
func (p *Filter) Advance(d time.Duration) *Effect {
	end := p.now.Add(d)
	e := p.step(func() {
		for {
			next := -2
			for _, thread := range threads {
				if due := p.due[thread]; !due.IsZero() && !due.After(end) && (next == -2 || due.Before(p.due[next])) {
					next = thread
				}
			}
			if next == -2 {
				break
			}
			p.now = p.due[next]
			p.tick(next)
			p.schedule()
		}
		p.now = end
	})
	return e
}

// Counter is the value of a counter that the plugin has defined, or 0.
func (p *Filter) Counter(name string) uint64 { return uint64(p.stat(name)) }

// Gauge is the value of a gauge that the plugin has defined, or 0.
func (p *Filter) Gauge(name string) int64 { return p.stat(name) }

func (p *Filter) stat(name string) int64 { return p.Metrics()[name] }

// Metrics are all counters and gauges that the plugin has used, by name.
func (p *Filter) Metrics() map[string]int64 {
	metrics := map[string]int64{}
	stats, _ := p.harness.Server.Stats.All()
	for _, s := range stats {
		if name, ok := strings.CutPrefix(s.Name, proxy.GuestPrefix); ok {
			metrics[name] = s.Stat.Value()
		}
	}
	return metrics
}

// Samples are the values that the plugin has recorded in a histogram, to two
// digits as Envoy keeps them, with how often each came.
func (p *Filter) Samples(name string) map[float64]uint64 {
	samples := map[float64]uint64{}
	p.harness.Server.Stats.Flush()
	_, histograms := p.harness.Server.Stats.All()
	for _, h := range histograms {
		if h.Name != proxy.GuestPrefix+name {
			continue
		}
		all, _, _ := h.Stat.Flushed()
		for _, bin := range all {
			samples[bin.Lower] = bin.Count
		}
	}
	return samples
}

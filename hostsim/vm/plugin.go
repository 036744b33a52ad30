package vm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"switchyard/hostsim/abi"
)

// FailurePolicy says what streams get once a VM has trapped.
type FailurePolicy uint8

const (
	// FailClosed: a stream of a dead VM fails (503, details wasm_fail_stream),
	// and so does each new one.
	FailClosed FailurePolicy = iota
	// FailReload: as FailClosed, but a new stream gets a new VM, if the last
	// one is old enough.
	FailReload
	// FailOpen: a stream that the VM knew fails; new ones do without the plugin.
	FailOpen
	// FailOpenDeprecated is fail_open: true. All do without the plugin, also
	// the stream in which the VM trapped.
	FailOpenDeprecated
)

// Bypass says whether a new stream goes on without the plugin when NewStream
// returned ErrVMFailed. If not, it fails.
func (p FailurePolicy) Bypass() bool { return p == FailOpen || p == FailOpenDeprecated }

// IgnoreTrap says whether a stream goes on without the plugin when one of its
// callbacks returned an error. If not, it fails.
func (p FailurePolicy) IgnoreTrap() bool { return p == FailOpenDeprecated }

// DefaultReloadBackoff is Envoy's reload_config.backoff.base_interval.
const DefaultReloadBackoff = time.Second

// MainThread is the number of the worker that has no streams. Ticks come to it
// as to all others.
const MainThread = -1

// PluginConfig is envoy.extensions.wasm.v3.PluginConfig, as far as a VM needs it.
type PluginConfig struct {
	Name   string // in log lines and statistics
	RootID string

	// Plugins with the same VMID, module and VMConfiguration share VMs.
	VMID            string
	Module          *Module
	VMConfiguration []byte

	Configuration []byte
	Environment   map[string]string

	AllowOnHeadersStopIteration bool
	FailurePolicy               FailurePolicy
	ReloadBackoff               time.Duration // at least; up to half more is added. 0 is DefaultReloadBackoff

	// AllowedCapabilities lists the host functions and callbacks that the
	// module may use; all others are stubs and never called. An empty one
	// allows all.
	AllowedCapabilities map[string]bool

	// Foreign is called for foreign functions other than clear_route_cache.
	// stream is nil outside streams. Name and arguments are valid during the
	// call only. It returns nil and abi.StatusNotFound for an unknown name. May be nil.
	Foreign func(stream Stream, name string, args []byte) ([]byte, abi.Status)

	// Property answers, for root contexts, what is not the plugin's own, like
	// Stream.Property. May be nil.
	Property func(path string) ([]byte, abi.Status)

	// OnTickPeriod hears of each change of the tick period of a worker (or
	// MainThread) after the plugin is loaded. It is called in a hostcall and
	// must not call the plugin. May be nil; see Plugin.TickPeriod.
	OnTickPeriod func(worker int, period time.Duration)
}

// Key is what tells plugins apart to Envoy: of those with one key, in whatever
// listeners they stand, it loads the first and runs that one for all.
func (c *PluginConfig) Key() [sha256.Size]byte {
	h := sha256.New()
	vm := c.vmKey()
	h.Write(vm[:])
	for _, part := range []string{c.Name, c.RootID, string(c.Configuration)} {
		fmt.Fprintf(h, "%d %s", len(part), part)
	}
	fmt.Fprint(h, c.FailurePolicy, c.AllowOnHeadersStopIteration, c.ReloadBackoff)
	return [sha256.Size]byte(h.Sum(nil))
}

// vmKey is what plugins that share VMs have in common.
func (c *PluginConfig) vmKey() [sha256.Size]byte {
	h := sha256.New()
	fmt.Fprintf(h, "%d %s%d %s%x", len(c.VMID), c.VMID, len(c.VMConfiguration), c.VMConfiguration, c.Module.hash)
	return [sha256.Size]byte(h.Sum(nil))
}

// PluginStats counts what happens to a plugin's VMs under FailReload, as
// Envoy's wasm.NAME.vm_reload_*.
type PluginStats struct {
	ReloadSuccess, ReloadFailure, ReloadBackoff uint64
}

// Plugin is a configured plugin, with a root context on the main thread and
// on each worker. Its methods may be called from any goroutine.
type Plugin struct {
	config        PluginConfig
	group         *group
	logPrefix     string
	rootLogPrefix string
	threads       []thread // the main thread, then the workers

	reloadSuccess, reloadFailure, reloadBackoff atomic.Uint64
}

// thread is a plugin's place on one thread.
type thread struct {
	root atomic.Pointer[hostContext]

	mu       sync.Mutex // held while reloading
	lastLoad time.Time
}

// group is the VMs that run the same module with the same VM id and
// configuration: one for the main thread and one for each worker.
type group struct {
	engine          *Engine
	key             [sha256.Size]byte
	module          *Module
	vmID            string
	vmConfiguration []byte
	environ         []string // "NAME=value\x00", sorted
	capabilities    map[string]bool
	denied          []bool // by index of host function; nil if all are allowed
	plugins         int    // guarded by engine.mu

	mu        sync.Mutex
	instances map[int]*instance // by worker
}

func (g *group) allowed(capability string) bool {
	return len(g.capabilities) == 0 || g.capabilities[capability]
}

// NewPlugin loads a plugin on the main thread and on workers 0 to workers-1:
// first a base VM that is only initialised, and a canary on which all is tried
// once, then one VM for each thread, as Envoy does it. If ctx ends meanwhile,
// it fails with ctx's error before the next VM.
//
// The error is a *LoadError if Envoy would refuse the plugin too.
func (e *Engine) NewPlugin(ctx context.Context, config PluginConfig, workers int) (*Plugin, error) {
	if config.ReloadBackoff == 0 {
		config.ReloadBackoff = DefaultReloadBackoff
	}
	p := &Plugin{config: config, threads: make([]thread, 1+workers)}
	p.rootLogPrefix = logPrefix(config.RootID, config.VMID)
	p.logPrefix = logPrefix(config.Name, config.RootID, config.VMID)

	g, created := e.acquireGroup(config)
	p.group = g
	fail := func(err error) (*Plugin, error) {
		p.Close()
		return nil, err
	}
	if created {
		base, err := newInstance(g, MainThread)
		if err != nil {
			return fail(err)
		}
		base.discard()
	}
	canary, err := newInstance(g, MainThread)
	if err != nil {
		return fail(err)
	}
	_, err = canary.newRootContext(p, "base")
	canary.discard()
	if err != nil {
		return fail(err)
	}
	for i := range p.threads {
		if err := ctx.Err(); err != nil {
			return fail(err)
		}
		if err := p.load(i - 1); err != nil {
			return fail(err)
		}
	}
	return p, nil
}

// logPrefix is what Envoy puts before a message: the parts that are not empty.
func logPrefix(parts ...string) string {
	s := "wasm log"
	for _, part := range parts {
		if part != "" {
			s += " " + part
		}
	}
	return s + ": "
}

// load makes the plugin's root context for a worker, and the VM if there is
// none that lives.
func (p *Plugin) load(worker int) error {
	v, err := p.group.instance(worker)
	if err != nil {
		return err
	}
	root, err := v.newRootContext(p, "thread-local")
	if err != nil {
		return err
	}
	t := &p.threads[1+worker]
	t.lastLoad = p.group.engine.now()
	t.root.Store(root)
	return nil
}

// acquireGroup returns the group for config, which it makes if there is none.
func (e *Engine) acquireGroup(config PluginConfig) (g *group, created bool) {
	key := config.vmKey()
	e.mu.Lock()
	defer e.mu.Unlock()
	g, ok := e.groups[key]
	if !ok {
		g = &group{
			engine:          e,
			key:             key,
			module:          config.Module,
			vmID:            config.VMID,
			vmConfiguration: config.VMConfiguration,
			capabilities:    config.AllowedCapabilities,
			instances:       make(map[int]*instance),
		}
		for _, name := range slices.Sorted(maps.Keys(config.Environment)) {
			g.environ = append(g.environ, name+"="+config.Environment[name]+"\x00")
		}
		if len(g.capabilities) > 0 {
			g.denied = make([]bool, len(e.hostFuncs))
			for _, f := range e.hostFuncs {
				// What is no capability cannot be denied.
				always := f.name == "pthread_equal" || f.name == "emscripten_notify_memory_growth"
				g.denied[f.index] = !always && !g.capabilities[f.name]
			}
		}
		e.groups[key] = g
	}
	g.plugins++
	return g, !ok
}

// releaseGroup undoes acquireGroup, and frees the VMs with the last plugin.
func (e *Engine) releaseGroup(g *group) {
	e.mu.Lock()
	defer e.mu.Unlock()
	g.plugins--
	if g.plugins > 0 {
		return
	}
	delete(e.groups, g.key)
	g.discard()
	for _, other := range e.groups {
		if other.vmID == g.vmID {
			return
		}
	}
	e.shared.forget(g.vmID)
}

func (g *group) discard() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for worker, v := range g.instances {
		v.discard()
		delete(g.instances, worker)
	}
}

// discard closes an instance without a word to the guest.
func (v *instance) discard() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.close()
}

// instance returns the VM of a worker, a new one if there is none that lives.
func (g *group) instance(worker int) (*instance, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if v := g.instances[worker]; v != nil {
		if !v.failed.Load() {
			return v, nil
		}
		v.discard()
		delete(g.instances, worker)
	}
	v, err := newInstance(g, worker)
	if err != nil {
		return nil, err
	}
	v.loading = false
	g.instances[worker] = v
	return v, nil
}

// queueReady calls proxy_on_queue_ready of a root context, if it still exists.
func (g *group) queueReady(worker int, id, token uint32) {
	g.mu.Lock()
	v := g.instances[worker]
	g.mu.Unlock()
	if v == nil {
		return
	}
	lock := g.engine.thread(worker)
	lock.Lock()
	defer lock.Unlock()
	v.mu.Lock()
	defer v.leave()
	c := v.contexts[id]
	if c == nil || v.failed.Load() || v.fns[onQueueReady] == nil {
		return
	}
	v.stack[0], v.stack[1] = uint64(id), uint64(token)
	v.call(c, onQueueReady) // a trap is logged and remembered
	v.afterCall()
}

// Config returns the plugin's configuration.
func (p *Plugin) Config() PluginConfig { return p.config }

// FailurePolicy returns what streams get once a VM has trapped.
func (p *Plugin) FailurePolicy() FailurePolicy { return p.config.FailurePolicy }

// Exports says whether the module exports the callback of that name, such as
// "proxy_on_request_body", and may be called by it.
func (p *Plugin) Exports(name string) bool {
	_, ok := p.group.module.compiled.ExportedFunctions()[name]
	return ok && p.group.allowed(name)
}

// Stats returns the plugin's counters.
func (p *Plugin) Stats() PluginStats {
	return PluginStats{
		ReloadSuccess: p.reloadSuccess.Load(),
		ReloadFailure: p.reloadFailure.Load(),
		ReloadBackoff: p.reloadBackoff.Load(),
	}
}

// NewStream makes the context of a stream on a worker. Nothing is called yet.
// The caller closes it.
//
// It fails with ErrVMFailed if the worker's VM is dead, after it has tried to
// load a new one if the policy is FailReload; see FailurePolicy.Bypass.
func (p *Plugin) NewStream(worker int, stream Stream) (*StreamContext, error) {
	root := p.threads[1+worker].root.Load()
	if root.instance.failed.Load() {
		var ok bool
		if root, ok = p.tryReload(worker); !ok {
			return nil, ErrVMFailed
		}
	}
	s := &StreamContext{context: hostContext{root: root, stream: stream, logPrefix: p.logPrefix}}
	v := root.instance
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.failed.Load() {
		return nil, ErrVMFailed
	}
	v.newContext(&s.context)
	return s, nil
}

// tryReload loads the plugin anew on a worker whose VM is dead, if its policy
// wants that and the backoff allows it.
func (p *Plugin) tryReload(worker int) (*hostContext, bool) {
	t := &p.threads[1+worker]
	if p.config.FailurePolicy != FailReload {
		return nil, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if root := t.root.Load(); !root.instance.failed.Load() {
		return root, true // another stream was first
	}
	e := p.group.engine
	now := e.now()
	backoff := p.config.ReloadBackoff
	if half := int64(backoff / 2); half > 0 {
		backoff += time.Duration(rand.Int64N(half))
	}
	if now.Sub(t.lastLoad) < backoff {
		p.reloadBackoff.Add(1)
		return nil, false
	}
	t.lastLoad = now
	if err := p.load(worker); err != nil {
		p.reloadFailure.Add(1)
		if load, ok := errors.AsType[*LoadError](err); ok {
			for _, line := range load.Lines {
				e.log.Error(line)
			}
		}
		return nil, false
	}
	p.reloadSuccess.Add(1)
	root := t.root.Load()
	if p.config.OnTickPeriod != nil {
		p.config.OnTickPeriod(worker, p.TickPeriod(worker))
	}
	return root, true
}

// TickPeriod returns how often Tick wants to be called for a worker, or for
// MainThread: 0 is never.
func (p *Plugin) TickPeriod(worker int) time.Duration {
	root := p.threads[1+worker].root.Load()
	root.instance.mu.Lock()
	defer root.instance.mu.Unlock()
	return root.tickPeriod
}

// Tick calls proxy_on_tick on a worker, or on MainThread. Its error is as that
// of a callback of a stream.
func (p *Plugin) Tick(worker int) error {
	root := p.threads[1+worker].root.Load()
	v := root.instance
	v.mu.Lock()
	defer v.leave()
	if v.failed.Load() {
		return ErrVMFailed
	}
	_, err := root.notify(onTick, 0)
	return err
}

// Close ends the plugin: proxy_on_done and proxy_on_delete of its root
// contexts. All its streams must be closed before. VMs that no other plugin
// has are freed. Close is called once.
func (p *Plugin) Close() error {
	var errs []error
	for i := range p.threads {
		root := p.threads[i].root.Load()
		if root == nil {
			continue // it was never loaded here
		}
		root.instance.mu.Lock()
		errs = append(errs, root.shutdown())
		root.instance.mu.Unlock()
	}
	p.group.engine.releaseGroup(p.group)
	return errors.Join(errs...)
}

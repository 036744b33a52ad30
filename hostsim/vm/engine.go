// Package vm hosts Proxy-Wasm plugins (ABI 0.1.0, 0.2.0 and 0.2.1) as Envoy
// 1.40 does: it refuses what Envoy refuses, in Envoy's words, and gives guests
// the statuses that Envoy gives, also where the specification differs.
//
// An Engine loads modules. A Plugin is a module with a configuration and one
// VM on the main thread and on each worker. A StreamContext is one HTTP stream
// in it; what it acts on is a Stream, which the data plane implements.
//
// Guests are hostile. No pointer, size or trap of theirs harms the host; an
// endless loop is cut if EngineOptions.CallbackDeadline is set.
package vm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
)

// DefaultMemoryLimitPages is the most memory a VM can have in Envoy: 1 GiB.
const DefaultMemoryLimitPages = 16384

// EngineOptions configures an Engine. The zero value is Envoy's behaviour.
type EngineOptions struct {
	// CacheDir keeps compiled modules between runs; it is made if need be.
	// Empty keeps none.
	CacheDir string
	// Logger gets what guests log and what goes wrong in them, in Envoy's
	// words. Levels trace and critical are LevelTrace and LevelCritical.
	// nil is silent.
	Logger *slog.Logger
	// Metrics gets what guests count. nil is a Registry.
	Metrics Metrics
	// Now is the clock. nil is time.Now.
	Now func() time.Time
	// MemoryLimitPages bounds each VM's memory in pages of 64 KiB.
	// 0 is DefaultMemoryLimitPages.
	MemoryLimitPages uint32
	// Thread returns the lock that the data plane holds whenever it calls a
	// plugin on a worker (or MainThread), as all of a worker is one thread in
	// Envoy. The engine takes it for callbacks that it starts itself. nil is
	// for plugins that are called from one goroutine at a time.
	Thread func(worker int) sync.Locker
	// Callouts sends the requests of guests. nil refuses them.
	Callouts Callouts
	// CallbackDeadline bounds how long one callback may run; a guest that is
	// longer at it has trapped. 0 is no bound, as in Envoy, where an endless
	// loop takes the worker with it. A bound slows guests down, loops most.
	CallbackDeadline time.Duration
	// Observe hears of each callback and hostcall when it has returned, on the
	// goroutine that runs the guest. It must not call the engine. It is for
	// tests: each call is decoded for it. nil hears nothing.
	Observe func(Call)
}

// Engine compiles and runs modules. Its methods may be called from any
// goroutine.
type Engine struct {
	opts      EngineOptions
	log       *slog.Logger
	metrics   Metrics
	now       func() time.Time
	begin     time.Time // when the monotonic clock of guests began
	cache     wazero.CompilationCache
	runtime   wazero.Runtime
	hostFuncs map[string]*hostFunc // by module and name, "env.proxy_log"
	shared    *sharedStore

	created atomic.Uint64
	active  atomic.Int64

	mu      sync.Mutex
	modules map[[sha256.Size]byte]*Module
	groups  map[[sha256.Size]byte]*group
}

// EngineStats counts VMs, as Envoy's wasm.envoy.wasm.runtime.*.
type EngineStats struct {
	Created uint64 // ever
	Active  uint64 // now
	Bases   uint64 // that Envoy would have besides: one for each set of plugins that share VMs, only copied from
}

// Module is a compiled module that an Envoy would load.
type Module struct {
	Name      string // as named in the call to Load
	hash      [sha256.Size]byte
	version   abiVersion
	compiled  wazero.CompiledModule
	callbacks [callbackCount]callbackSpec
	imports   []importedThing // in their order
	memory    bool            // it has imported its memory
	gaps      bool            // its tables have empty elements
	outside   bool            // its elements do not fit into its tables
}

// ABIVersion returns the Proxy-Wasm ABI version that the module says it has.
func (m *Module) ABIVersion() string { return m.version.String() }

// NewEngine makes an engine. The caller closes it.
func NewEngine(ctx context.Context, opts EngineOptions) (*Engine, error) {
	e := &Engine{
		opts:    opts,
		log:     opts.Logger,
		metrics: opts.Metrics,
		now:     opts.Now,
		shared:  newSharedStore(),
		modules: make(map[[sha256.Size]byte]*Module),
		groups:  make(map[[sha256.Size]byte]*group),
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if e.metrics == nil {
		e.metrics = &Registry{}
	}
	if e.now == nil {
		e.now = time.Now
	}
	e.begin = e.now()
	pages := opts.MemoryLimitPages
	if pages == 0 {
		pages = DefaultMemoryLimitPages
	}
	config := wazero.NewRuntimeConfigCompiler().
		WithCoreFeatures(api.CoreFeaturesV2 | experimental.CoreFeaturesTailCall | experimental.CoreFeaturesExtendedConst |
			experimental.CoreFeaturesThreads | experimental.CoreFeaturesExceptionHandling | experimental.CoreFeaturesTypedFunctionReferences).
		WithMemoryLimitPages(pages).
		WithCloseOnContextDone(opts.CallbackDeadline > 0)
	if opts.CacheDir != "" {
		cache, err := wazero.NewCompilationCacheWithDir(opts.CacheDir)
		if err != nil {
			return nil, fmt.Errorf("compilation cache: %w", err)
		}
		e.cache = cache
		config = config.WithCompilationCache(cache)
	}
	e.runtime = wazero.NewRuntimeWithConfig(ctx, config)
	if err := e.registerHostFunctions(ctx); err != nil {
		e.Close(ctx)
		return nil, fmt.Errorf("host functions: %w", err)
	}
	return e, nil
}

// Load compiles a module and checks all that Envoy checks before it runs one:
// the ABI version marker, imports and signatures. name is for messages. The
// same code is compiled once.
//
// The error is a *LoadError if Envoy refuses the module, or an
// *UnsupportedError if only this host cannot run it.
func (e *Engine) Load(ctx context.Context, name string, code []byte) (*Module, error) {
	hash := sha256.Sum256(code)
	e.mu.Lock()
	defer e.mu.Unlock()
	if m, ok := e.modules[hash]; ok {
		return m, nil
	}
	refuse := func(reason, hint string, err error) error {
		return &LoadError{Module: name, Hint: hint, Err: err,
			Lines: []string{"Wasm VM failed " + reason, "Wasm VM failed Failed to load Wasm code"}}
	}
	version, ok := moduleABIVersion(code)
	switch {
	case len(code) == 0:
		return nil, &LoadError{Module: name, Hint: notWasmHint(code)} // Envoy has no word for it
	case !ok:
		return nil, refuse("Failed to parse corrupted Wasm module", notWasmHint(code), nil)
	case version == 0 && notWasmHint(code) != "":
		return nil, refuse("Missing or unknown Proxy-Wasm ABI version", notWasmHint(code), nil)
	case version == 0:
		return nil, refuse("Missing or unknown Proxy-Wasm ABI version",
			"the module exports no function proxy_abi_version_0_1_0, _0_2_0 or _0_2_1; was it built with a Proxy-Wasm SDK?", nil)
	}
	own, imports, memory := ownMemory(code)
	compiled, err := e.runtime.CompileModule(ctx, own)
	if err != nil {
		if strings.Contains(err.Error(), "over limit of") { // of memory
			return nil, &LoadError{Module: name, Hint: err.Error(), Err: err,
				Lines: []string{"Failed to create new Wasm instance", "Wasm VM failed Failed to initialize Wasm code"}}
		}
		if reason := beyondEngine(own); reason != "" {
			return nil, &UnsupportedError{Module: name, Reason: reason}
		}
		return nil, refuse("Failed to load Wasm bytecode", err.Error(), err)
	}
	m := &Module{Name: name, hash: hash, version: version, compiled: compiled, callbacks: callbackSpecs(version)}
	m.imports, m.memory = imports, memory
	m.gaps, m.outside = elements(own)
	if err := e.link(m); err != nil {
		compiled.Close(ctx)
		return nil, err
	}
	e.modules[hash] = m
	return m, nil
}

// notWasmHint says what the bytes look like that are no module.
func notWasmHint(code []byte) string {
	switch {
	case len(code) == 0:
		return "the file is empty"
	case strings.HasPrefix(string(code[:min(len(code), 8)]), "\x00asm\x0d\x00\x01\x00"):
		return "this is a component, and Envoy runs core modules only"
	case strings.HasPrefix(string(code[:min(len(code), 8)]), "(module"):
		return "this is the text format; assemble it with wat2wasm"
	case code[0] == 0x1f:
		return "this is gzip; unpack it"
	case string(code[:min(len(code), 4)]) != "\x00asm":
		return fmt.Sprintf("a module begins with %q, this with %q", "\x00asm", code[:min(len(code), 4)])
	}
	return ""
}

// thread returns what is locked around a callback that the engine starts.
func (e *Engine) thread(worker int) sync.Locker {
	if e.opts.Thread == nil {
		return noLock{}
	}
	return e.opts.Thread(worker)
}

type noLock struct{}

func (noLock) Lock()   {}
func (noLock) Unlock() {}

// AwaitQueues waits until all listeners of queues have been told of what is in
// them. No guest may run meanwhile, and no lock of EngineOptions.Thread be held.
func (e *Engine) AwaitQueues() { e.shared.listeners.Wait() }

// Stats returns the engine's counters.
func (e *Engine) Stats() EngineStats {
	e.mu.Lock()
	defer e.mu.Unlock()
	return EngineStats{Created: e.created.Load(), Active: uint64(e.active.Load()), Bases: uint64(len(e.groups))}
}

// Close frees everything. All plugins must be closed before.
func (e *Engine) Close(ctx context.Context) error {
	e.mu.Lock()
	groups := e.groups
	e.groups = nil
	e.mu.Unlock()
	for _, g := range groups {
		g.discard()
	}
	e.shared.listeners.Wait()
	err := e.runtime.Close(ctx)
	if e.cache != nil {
		err = errors.Join(err, e.cache.Close(ctx))
	}
	return err
}

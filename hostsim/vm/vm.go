package vm

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/sys"

	"switchyard/hostsim/abi"
)

// restriction says which host functions the guest may call at the moment.
type restriction uint8

const (
	unrestricted restriction = iota
	// starting: while _initialize, main or _start run.
	starting
	// allocating: while the host itself has called malloc.
	allocating
)

// instance is one Proxy-Wasm VM: an instantiated module with its contexts.
// Envoy has one per thread, and so has a group. All but failed is guarded by
// mu, which is held while the guest runs.
type instance struct {
	group  *group
	worker int // MainThread or the number of the worker

	mu     sync.Mutex
	failed atomic.Bool // set once, by a trap
	trap   *TrapError  // the first one
	closed bool

	// loading is true until the plugin that is being loaded is configured.
	// What goes wrong meanwhile is in the error that is returned, and not logged.
	loading bool

	module  api.Module
	memory  api.Memory // nil if the module exports none
	fns     [callbackCount]api.Function
	malloc  api.Function
	denied  []bool          // by index of host function; nil if no capability is restricted
	ctx     context.Context // for calls from outside; carries the instance
	callCtx context.Context // for the call that is running; ctx, or ctx with a deadline

	stack       [5]uint64 // parameters and result of a callback
	mallocStack [1]uint64

	contexts    map[uint32]*hostContext
	nextID      uint32
	current     *hostContext // whose callback is running
	effective   *hostContext // set by proxy_set_effective_context; nil is current
	restriction restriction
	stopNext    bool           // a local response was sent: the callback's result is overridden
	finished    []*hostContext // root contexts that called proxy_done during this call
	actions     []func()       // what is done when this call has returned
	tokens      [3]uint32      // the last of each kind of callout
	why         string         // see because
	spent       int            // see afford
	message     *Message       // that was logged, for who observes

	metrics metricTable
}

// instanceKey is the context key under which a host function finds the
// instance that called it.
type instanceKey struct{}

// instanceContext is context.Background with an instance in it, and finds
// that with one comparison.
type instanceContext struct {
	context.Context
	instance *instance
}

func (c *instanceContext) Value(key any) any {
	if key == (instanceKey{}) {
		return c.instance
	}
	return nil
}

// newInstance instantiates the group's module and starts it: _initialize and
// then main, or else _start. It calls no Proxy-Wasm callback.
func newInstance(g *group, worker int) (*instance, error) {
	e := g.engine
	v := &instance{
		group:    g,
		worker:   worker,
		contexts: make(map[uint32]*hostContext),
		nextID:   1,
		denied:   g.denied,
		loading:  true,
	}
	v.ctx = &instanceContext{context.Background(), v}
	v.callCtx = v.ctx
	vmContext := &hostContext{instance: v, logPrefix: "wasm log: "}
	vmContext.root = vmContext
	v.current = vmContext
	v.contexts[0] = vmContext

	v.restriction = starting // a start function runs during instantiation
	ctx := experimental.WithCloseNotifier(v.ctx, experimental.CloseNotifyFunc(v.cut))
	if d := e.opts.CallbackDeadline; d > 0 { // of a start function
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	module, err := e.runtime.InstantiateModule(ctx, g.module.compiled, wazero.NewModuleConfig().WithName("").WithStartFunctions())
	if err != nil {
		return nil, &LoadError{Module: g.module.Name, Lines: []string{
			"Failed to create new Wasm instance",
			"Wasm VM failed Failed to initialize Wasm code",
		}, Err: err}
	}
	v.module = module
	e.created.Add(1)
	e.active.Add(1)
	if g.module.memory || len(g.module.compiled.ExportedMemories()) > 0 {
		v.memory = module.Memory()
	}
	for cb, spec := range g.module.callbacks {
		if spec.name != "" && g.allowed(spec.name) {
			v.fns[cb] = module.ExportedFunction(spec.name)
		}
	}
	v.malloc = module.ExportedFunction("malloc")
	if v.malloc == nil {
		v.malloc = module.ExportedFunction("proxy_on_memory_allocate")
	}

	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.start(vmContext); err != nil {
		v.close()
		return nil, &LoadError{Module: g.module.Name, Lines: []string{
			err.Error(),
			"Wasm VM failed Failed to initialize Wasm code",
		}, Err: err}
	}
	return v, nil
}

// start runs the module's own initialisation.
func (v *instance) start(vmContext *hostContext) error {
	defer func() { v.restriction = unrestricted }()
	run := func(name string) error {
		v.stack = [5]uint64{}
		return v.callFunction(vmContext, name, v.module.ExportedFunction(name))
	}
	exports := func(name string) bool { return v.module.ExportedFunction(name) != nil }
	switch {
	case exports("_initialize"):
		if err := run("_initialize"); err != nil {
			return err
		}
		if exports("main") {
			return run("main")
		}
		if exports("__main_void") {
			return run("__main_void")
		}
	case exports("_start"):
		return run("_start")
	}
	return nil
}

// call runs callback cb of context c with the parameters in v.stack and
// returns its result. The guest must export cb.
func (v *instance) call(c *hostContext, cb callback) (uint64, error) {
	if err := v.callFunction(c, v.group.module.callbacks[cb].name, v.fns[cb]); err != nil {
		return 0, err
	}
	return v.stack[0], nil
}

// callFunction calls into the guest, with the parameters in v.stack. A trap
// there, or in a malloc that the call needed, ends the instance.
func (v *instance) callFunction(c *hostContext, name string, fn api.Function) error {
	v.current, v.effective, v.spent = c, nil, 0
	if log := v.group.engine.log; log.Enabled(v.ctx, LevelTrace) {
		log.Log(v.ctx, LevelTrace, "[host->vm] "+name+"("+v.numbers(name)+")")
		defer func() {
			log.Log(context.Background(), LevelTrace, "[host<-vm] "+name+" return"+v.returned(fn))
		}()
	}
	observe := v.group.engine.opts.Observe
	var numbers string
	if observe != nil {
		numbers = v.numbers(name)
	}
	var err error
	if d := v.group.engine.opts.CallbackDeadline; d > 0 {
		err = v.callWithin(d, fn)
	} else {
		err = fn.CallWithStack(v.ctx, v.stack[:])
	}
	v.current, v.effective = v.contexts[0], nil
	if err != nil {
		v.fail(name, err)
	}
	if observe != nil {
		observe(v.callback(c, name, numbers, fn))
	}
	if v.failed.Load() {
		v.free()
		return v.trap
	}
	return nil
}

// errDeadline ends a guest that has run for too long.
var errDeadline = errors.New("callback deadline exceeded (an endless loop?)")

// callWithin calls fn, which has a deadline.
func (v *instance) callWithin(d time.Duration, fn api.Function) (err error) {
	ctx, cancel := context.WithTimeout(v.ctx, d)
	v.callCtx = ctx
	defer func() {
		cancel()
		v.callCtx = v.ctx
		if r := recover(); r == errDeadline { // where the guest had returned, or was not called yet
			err = errDeadline
		} else if r != nil {
			panic(r)
		}
	}()
	return fn.CallWithStack(ctx, v.stack[:])
}

// cut is told when the WebAssembly engine ends a module, while the guest's
// stack is there. The error with which the engine itself ends one that has run
// for too long has no stack, that of a panic has one.
//
// What the engine would do behind this is to close files, of which there are
// none.
func (v *instance) cut(_ context.Context, exitCode uint32) {
	if exitCode == sys.ExitCodeDeadlineExceeded {
		panic(errDeadline)
	}
}

// afterCall undoes what lasts for one callback only, and deletes the root
// contexts that said in it that they are done.
func (v *instance) afterCall() {
	v.stopNext = false
	for len(v.finished) > 0 {
		c := v.finished[0]
		v.finished = v.finished[1:]
		c.delete()
		v.stopNext = false
	}
}

// fail records that the guest trapped in function name. The first trap is the
// one that later callers see.
func (v *instance) fail(name string, err error) {
	trap := newTrapError(name, err)
	if trap.Reason == outOfTable && v.group.module.gaps {
		// The engine has one error for what V8 has two; an empty element is the more likely cause.
		trap.Reason = wrongElement
	}
	if v.trap == nil {
		v.trap = trap
	}
	v.failed.Store(true)
	if !v.loading {
		v.group.engine.log.Error(trap.Detail())
	}
}

// close ends the instance. The caller holds mu.
func (v *instance) close() {
	if v.closed {
		return
	}
	v.closed = true
	v.failed.Store(true)
	for _, c := range v.contexts {
		c.calls.end()
	}
	v.free()
	clear(v.contexts)
	v.group.engine.active.Add(-1)
}

// free gives back the guest's memory, of which nothing is needed once the
// instance has failed. The guest must not be running.
func (v *instance) free() {
	if v.module != nil {
		v.module.Close(context.Background())
		v.module, v.memory = nil, nil
	}
}

// read returns a view of guest memory. It is valid until the guest runs again.
func (v *instance) read(ptr, size uint64) ([]byte, bool) {
	if v.memory == nil {
		return nil, false
	}
	return v.memory.Read(uint32(ptr), uint32(size))
}

// readString is read, as a string that shares the guest's memory.
func (v *instance) readString(ptr, size uint64) (string, bool) {
	b, ok := v.read(ptr, size)
	return unsafe.String(unsafe.SliceData(b), len(b)), ok
}

func (v *instance) writeUint32(ptr uint64, value uint32) bool {
	return v.memory != nil && v.memory.WriteUint32Le(uint32(ptr), value)
}

func (v *instance) writeUint64(ptr uint64, value uint64) bool {
	b, ok := v.read(ptr, 8)
	if ok {
		binary.LittleEndian.PutUint64(b, value)
	}
	return ok
}

// alloc asks the guest for size bytes and returns a view of them and their
// address. A guest whose malloc traps is dead, but runs on until its callback
// returns, as in Envoy.
func (v *instance) alloc(size int) (b []byte, ptr uint32, ok bool) {
	if v.failed.Load() || uint64(size) > math.MaxUint32 {
		return nil, 0, false
	}
	restriction, current, effective := v.restriction, v.current, v.effective
	v.restriction, v.current, v.effective = allocating, v.contexts[0], nil
	v.mallocStack[0] = uint64(size)
	err := v.malloc.CallWithStack(v.callCtx, v.mallocStack[:])
	v.restriction, v.current, v.effective = restriction, current, effective
	if err != nil {
		v.fail("malloc", err)
		return nil, 0, false
	}
	ptr = uint32(v.mallocStack[0])
	if ptr == 0 {
		return nil, 0, false
	}
	b, ok = v.read(uint64(ptr), uint64(size))
	return b, ptr, ok
}

// give copies data into memory that the guest allocates, and writes address
// and size to where the guest wants them. An empty result allocates nothing
// and has address 0.
func (v *instance) give(data string, ptrPtr, sizePtr uint64) abi.Status {
	var ptr uint32
	if len(data) > 0 {
		b, p, ok := v.alloc(len(data))
		if !ok {
			return abi.StatusInvalidMemoryAccess
		}
		copy(b, data)
		ptr = p
	}
	if !v.writeUint32(ptrPtr, ptr) || !v.writeUint32(sizePtr, uint32(len(data))) {
		return abi.StatusInvalidMemoryAccess
	}
	return abi.StatusOK
}

// giveBytes is give for a byte slice.
func (v *instance) giveBytes(data []byte, ptrPtr, sizePtr uint64) abi.Status {
	return v.give(unsafe.String(unsafe.SliceData(data), len(data)), ptrPtr, sizePtr)
}

// context returns the context that hostcalls act on.
func (v *instance) context() *hostContext {
	if v.effective != nil {
		return v.effective
	}
	return v.current
}

// ErrVMFailed is what callbacks of a VM return after one of them trapped.
var ErrVMFailed = errors.New("the plugin's VM has failed earlier")

package vm

import (
	"time"

	"switchyard/hostsim/abi"
)

// hostContext is the host's side of a context (Proxy-Wasm 0.2.1, "Contexts"):
// the VM's own (id 0, of which a guest knows nothing), a plugin's root
// context, or a stream's. Its instance's mu guards it.
type hostContext struct {
	instance  *instance
	id        uint32
	root      *hostContext // itself, for a root context
	plugin    *Plugin      // of a root context
	stream    Stream       // nil but for a stream context
	logPrefix string

	created bool // proxy_on_context_create has been called

	// Of a root context.
	configuring *Plugin       // whose configuration can be read at the moment
	tickPeriod  time.Duration // 0 is none
	pendingDone bool          // proxy_on_done said no
	calls       callouts

	// Of a stream context.
	logging     bool // proxy_on_log runs
	logged      bool // it was to run
	requestGone bool // the request was continued in this callback
}

// pluginOf returns the plugin whose settings hold in the context, or nil.
func (c *hostContext) pluginOf() *Plugin { return c.root.plugin }

// create calls proxy_on_context_create if it was not called yet.
func (c *hostContext) create(parent uint32) error {
	if c.created {
		return nil
	}
	c.created = true
	v := c.instance
	if v.fns[onContextCreate] == nil {
		return nil
	}
	v.stack[0], v.stack[1] = uint64(c.id), uint64(parent)
	_, err := v.call(c, onContextCreate)
	v.afterCall()
	return err
}

// notify calls a callback that takes the context's id and no more. The result
// is that of the guest, or else what it is if the guest does not export it.
func (c *hostContext) notify(cb callback, otherwise uint64) (uint64, error) {
	v := c.instance
	if v.fns[cb] == nil {
		return otherwise, nil
	}
	v.stack[0] = uint64(c.id)
	result, err := v.call(c, cb)
	v.afterCall()
	return result, err
}

// delete calls proxy_on_delete and forgets the context.
func (c *hostContext) delete() error {
	v := c.instance
	defer delete(v.contexts, c.id)
	c.calls.end()
	if !c.created || v.failed.Load() {
		return nil
	}
	_, err := c.notify(onDelete, 0)
	return err
}

// shutdown ends a root context: proxy_on_done, and, if that says yes,
// proxy_on_delete. If it says no, proxy_done brings the latter.
func (c *hostContext) shutdown() error {
	if c.instance.failed.Load() {
		return nil
	}
	done, err := c.notify(onDone, 1)
	if err != nil {
		return err
	}
	if uint32(done) == 0 {
		c.pendingDone = true
		return nil
	}
	return c.delete()
}

// newContext makes a context with the next free id.
func (v *instance) newContext(c *hostContext) {
	for v.contexts[v.nextID] != nil || v.nextID == 0 {
		v.nextID++
	}
	c.instance, c.id = v, v.nextID
	v.nextID++
	v.contexts[c.id] = c
}

// newRootContext makes the root context of p and starts and configures it:
// proxy_on_context_create, proxy_on_vm_start, proxy_on_configure. It fails
// with a *LoadError in whose lines Envoy says what.
func (v *instance) newRootContext(p *Plugin, base string) (*hostContext, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	wasLoading := v.loading
	v.loading = true
	defer func() { v.loading = wasLoading }()

	c := &hostContext{plugin: p, logPrefix: p.rootLogPrefix}
	c.root = c
	v.newContext(c)
	refuse := func(what string, err error) error {
		delete(v.contexts, c.id)
		e := &LoadError{Module: v.group.module.Name, Err: err}
		if err != nil {
			e.Lines = append(e.Lines, err.Error())
		}
		e.Lines = append(e.Lines, "Wasm VM failed Failed to "+what)
		return e
	}

	start := "start " + base + " Wasm"
	c.configuring = p
	err := c.create(0)
	c.configuring = nil
	if err != nil {
		return nil, refuse(start, err)
	}
	if v.fns[onVMStart] != nil {
		v.stack[0], v.stack[1] = uint64(c.id), uint64(len(v.group.vmConfiguration))
		ok, err := v.call(c, onVMStart)
		v.afterCall()
		if err != nil || uint32(ok) == 0 {
			return nil, refuse(start, err)
		}
	}
	if v.fns[onConfigure] != nil {
		v.stack[0], v.stack[1] = uint64(c.id), uint64(len(p.config.Configuration))
		c.configuring = p
		ok, err := v.call(c, onConfigure)
		c.configuring = nil
		v.afterCall()
		if err != nil || uint32(ok) == 0 {
			return nil, refuse("configure "+base+" Wasm plugin", err)
		}
	}
	return c, nil
}

// StreamContext is one HTTP stream in a plugin. Its callbacks are called one
// at a time, in the order of the stream; callbacks of other streams of the
// same worker wait meanwhile.
//
// A callback that the guest does not export costs nothing and continues. The
// first callback is preceded by proxy_on_context_create.
//
// An error is a *TrapError if the guest trapped just now, or ErrVMFailed if
// it had before, in whatever stream. What the stream gets then is the
// plugin's FailurePolicy: nothing is sent to the guest any more.
type StreamContext struct {
	context hostContext
}

// ID returns the context's id, which the guest knows it by. Ids of streams
// count from 2 in a VM with one plugin.
func (s *StreamContext) ID() uint32 { return s.context.id }

// Failed says whether the stream's VM is dead. It costs next to nothing: for
// tunnels, which Envoy closes at the next data after that.
func (s *StreamContext) Failed() bool { return s.context.instance.failed.Load() }

// begin is called before each callback. It returns without the lock if the
// guest need not be called, and with it otherwise.
func (s *StreamContext) begin(cb callback) (call bool, err error) {
	c := &s.context
	v := c.instance
	if v.failed.Load() {
		return false, ErrVMFailed
	}
	if c.created && v.fns[cb] == nil {
		return false, nil
	}
	v.mu.Lock()
	if v.failed.Load() {
		v.mu.Unlock()
		return false, ErrVMFailed
	}
	c.requestGone = false
	return true, nil
}

// Create calls proxy_on_context_create, in which a guest can reach nothing of
// the stream yet, if that was not called.
func (s *StreamContext) Create() error {
	c := &s.context
	if c.created {
		return nil
	}
	v := c.instance
	v.mu.Lock()
	defer v.leave()
	if v.failed.Load() {
		return ErrVMFailed
	}
	return c.create(c.root.id)
}

// headers calls a headers callback and returns what it wants, as Envoy does.
func (s *StreamContext) headers(cb callback, numHeaders int, endOfStream bool) (abi.Action, error) {
	call, err := s.begin(cb)
	if !call {
		return abi.ActionContinue, err
	}
	c := &s.context
	v := c.instance
	defer v.leave()
	if cb == onRequestHeaders {
		if err := c.create(c.root.id); err != nil {
			return abi.ActionContinue, err
		}
	}
	if !c.created || v.fns[cb] == nil {
		return abi.ActionContinue, nil
	}
	v.stack[0], v.stack[1], v.stack[2] = uint64(c.id), uint64(uint32(numHeaders)), boolToUint64(endOfStream)
	result, err := v.call(c, cb)
	stopped := v.stopNext
	v.afterCall()
	if err != nil {
		return abi.ActionContinue, err
	}
	action := abi.Action(result)
	switch {
	case stopped || action > abi.ActionStopAllIterationAndWatermark:
		return abi.ActionStopAllIterationAndWatermark, nil
	case action == abi.ActionStopIteration && !c.pluginOf().config.AllowOnHeadersStopIteration:
		return abi.ActionStopAllIterationAndWatermark, nil
	case action == abi.ActionContinueAndEndStream:
		return abi.ActionContinue, nil
	}
	return action, nil
}

// body calls a body callback.
func (s *StreamContext) body(cb callback, size int, endOfStream bool) (abi.Action, error) {
	call, err := s.begin(cb)
	if !call {
		return abi.ActionContinue, err
	}
	c := &s.context
	v := c.instance
	defer v.leave()
	if !c.created {
		return abi.ActionContinue, nil
	}
	v.stack[0], v.stack[1], v.stack[2] = uint64(c.id), uint64(uint32(size)), boolToUint64(endOfStream)
	result, err := v.call(c, cb)
	stopped := v.stopNext
	v.afterCall()
	if err != nil {
		return abi.ActionContinue, err
	}
	if action := abi.Action(result); !stopped && action < abi.ActionStopAllIterationAndBuffer {
		return action, nil
	}
	return abi.ActionStopAllIterationAndBuffer, nil // StopIterationNoBuffer
}

// trailers calls a trailers callback.
func (s *StreamContext) trailers(cb callback, numTrailers int) (abi.Action, error) {
	call, err := s.begin(cb)
	if !call {
		return abi.ActionContinue, err
	}
	c := &s.context
	v := c.instance
	defer v.leave()
	if !c.created {
		return abi.ActionContinue, nil
	}
	v.stack[0], v.stack[1] = uint64(c.id), uint64(uint32(numTrailers))
	result, err := v.call(c, cb)
	stopped := v.stopNext
	v.afterCall()
	if err != nil {
		return abi.ActionContinue, err
	}
	if !stopped && uint32(result) == 0 {
		return abi.ActionContinue, nil
	}
	return abi.ActionStopIteration, nil
}

func boolToUint64(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// OnRequestHeaders calls proxy_on_request_headers. It returns Continue,
// StopIteration (only if the plugin allows that), StopAllIterationAndBuffer
// or StopAllIterationAndWatermark.
func (s *StreamContext) OnRequestHeaders(numHeaders int, endOfStream bool) (abi.Action, error) {
	return s.headers(onRequestHeaders, numHeaders, endOfStream)
}

// OnRequestBody calls proxy_on_request_body with the size of what is in the
// body buffer. It returns Continue (0), StopIterationAndBuffer (1),
// StopIterationAndWatermark (2) or StopIterationNoBuffer (3).
func (s *StreamContext) OnRequestBody(size int, endOfStream bool) (abi.Action, error) {
	return s.body(onRequestBody, size, endOfStream)
}

// OnRequestTrailers calls proxy_on_request_trailers. It returns Continue or
// StopIteration.
func (s *StreamContext) OnRequestTrailers(numTrailers int) (abi.Action, error) {
	return s.trailers(onRequestTrailers, numTrailers)
}

// OnResponseHeaders calls proxy_on_response_headers, as OnRequestHeaders does.
// Like all that follows, it does nothing if OnRequestHeaders was not called:
// Envoy answers such requests itself.
func (s *StreamContext) OnResponseHeaders(numHeaders int, endOfStream bool) (abi.Action, error) {
	return s.headers(onResponseHeaders, numHeaders, endOfStream)
}

// OnResponseBody calls proxy_on_response_body, as OnRequestBody does.
func (s *StreamContext) OnResponseBody(size int, endOfStream bool) (abi.Action, error) {
	return s.body(onResponseBody, size, endOfStream)
}

// OnResponseTrailers calls proxy_on_response_trailers, as OnRequestTrailers
// does.
func (s *StreamContext) OnResponseTrailers(numTrailers int) (abi.Action, error) {
	return s.trailers(onResponseTrailers, numTrailers)
}

// Log is the end of the stream for its log: proxy_on_log, after
// proxy_on_context_create if nothing was called before. The stream's header
// maps can be read in it, and afterwards only those that
// the guest has stopped at. Its error changes nothing for
// the stream, whose response is out. Log is called once, before Close.
func (s *StreamContext) Log() error {
	c := &s.context
	v := c.instance
	v.mu.Lock()
	defer v.leave()
	if v.failed.Load() {
		return ErrVMFailed
	}
	return s.log()
}

func (s *StreamContext) log() error {
	c := &s.context
	c.logged, c.requestGone = true, false
	if err := c.create(c.root.id); err != nil {
		return err
	}
	c.logging = true
	_, err := c.notify(onLog, 0)
	c.logging = false
	return err
}

// Close ends the stream: proxy_on_done, proxy_on_delete, after Log if that was
// not called. Close is called once.
func (s *StreamContext) Close() error {
	c := &s.context
	v := c.instance
	v.mu.Lock()
	defer v.leave()
	defer delete(v.contexts, c.id)
	if v.failed.Load() {
		return ErrVMFailed
	}
	if !c.logged {
		if err := s.log(); err != nil {
			return err
		}
	}
	if _, err := c.notify(onDone, 1); err != nil {
		return err
	}
	return c.delete()
}

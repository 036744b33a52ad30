package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	wasmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/wasm/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"switchyard/hostsim/abi"
	"switchyard/hostsim/vm"
)

// wasmFilter is a plugin on one stream: an HTTP filter to the data plane, a
// vm.Stream to the plugin.
type wasmFilter struct {
	stream  *stream
	plugin  *vm.Plugin
	context *vm.StreamContext // nil: the plugin is passed by
	failed  bool              // the VM was dead when the stream began

	// Which header maps the guest can reach: one is there from its callback
	// on until that callback has said Continue.
	requestMap, responseMap, logging        bool
	requestTrailersMap, responseTrailersMap bool

	request, response held
	buffer            *[]byte // the body of the callback under way
}

// held is the body that a filter keeps while it has stopped the stream.
type held struct {
	data      []byte
	buffering bool // the guest wants to see all of it at each callback
}

type wasmFactory struct {
	plugin            *vm.Plugin
	request, response bool
}

func (f *wasmFactory) wantsData() (bool, bool) { return f.request, f.response }

func (f *wasmFactory) newFilter(s *stream) httpFilter {
	w := &wasmFilter{stream: s, plugin: f.plugin}
	context, err := f.plugin.NewStream(s.conn.worker, w)
	switch {
	case err == nil:
		w.context = context
	case !f.plugin.FailurePolicy().Bypass():
		w.failed = true
	}
	return w
}

// wasmFailed is what a stream gets whose plugin has failed.
func (w *wasmFilter) fail() status {
	if w.plugin.FailurePolicy().IgnoreTrap() {
		w.context = nil
		return goOn
	}
	w.stream.conn.server.wakeTunnels()
	w.stream.local = nil // a local reply before the trap does not count
	w.stream.reply(&localReply{status: 503, details: "wasm_fail_stream"})
	return stopHere
}

// broken says that the VM has died under an open tunnel.
func (w *wasmFilter) broken() bool {
	return w.context != nil && w.context.Failed() && !w.plugin.FailurePolicy().IgnoreTrap()
}

func (w *wasmFilter) decodeHeaders(endStream bool) status {
	if w.failed {
		return w.fail()
	}
	if w.context == nil {
		return goOn
	}
	w.requestMap = true
	action, err := w.context.OnRequestHeaders(w.stream.request.Len(), endStream)
	if err != nil {
		return w.fail()
	}
	if action != abi.ActionContinue {
		return stopHere
	}
	w.requestMap = false
	return goOn
}

func (w *wasmFilter) encodeHeaders(endStream bool) status {
	if w.context == nil {
		return goOn
	}
	w.responseMap = true
	action, err := w.context.OnResponseHeaders(w.stream.response.Len(), endStream)
	if err != nil {
		return w.fail()
	}
	if action != abi.ActionContinue {
		return stopHere
	}
	w.responseMap = false
	return goOn
}

func (w *wasmFilter) decodeData(data *[]byte, endStream bool) status {
	if w.context == nil {
		return goOn
	}
	return w.data(&w.request, data, endStream, w.context.OnRequestBody)
}

func (w *wasmFilter) encodeData(data *[]byte, endStream bool) status {
	if w.context == nil {
		return goOn
	}
	return w.data(&w.response, data, endStream, w.context.OnResponseBody)
}

func (w *wasmFilter) decodeTrailers() status {
	if w.context == nil {
		return goOn
	}
	return w.trailers(&w.requestTrailersMap, &w.stream.requestTrailers, w.context.OnRequestTrailers)
}

func (w *wasmFilter) encodeTrailers() status {
	if w.context == nil {
		return goOn
	}
	return w.trailers(&w.responseTrailersMap, &w.stream.responseTrailers, w.context.OnResponseTrailers)
}

func (w *wasmFilter) trailers(there *bool, trailers *Headers, callback func(int) (abi.Action, error)) status {
	*there = true
	action, err := callback(trailers.Len())
	if err != nil {
		return w.fail()
	}
	if action != abi.ActionContinue {
		return stopHere
	}
	*there = false
	return goOn
}

func (w *wasmFilter) data(h *held, data *[]byte, endStream bool, callback func(int, bool) (abi.Action, error)) status {
	if h.buffering {
		*data, h.data, h.buffering = append(h.data, *data...), nil, false
	}
	w.buffer = data
	action, err := callback(len(*data), endStream)
	w.buffer = nil
	if err != nil {
		return w.fail()
	}
	switch action {
	case abi.ActionContinue:
		if len(h.data) > 0 {
			*data, h.data = append(h.data, *data...), nil
		}
		return goOn
	case abi.ActionStopIteration: // StopIterationAndBuffer
		h.data, h.buffering = append(h.data, *data...), true
	case abi.ActionContinueAndEndStream: // StopIterationAndWatermark
		h.data = append(h.data, *data...)
	}
	return stopHere // StopIterationNoBuffer drops it
}

func (w *wasmFilter) takeHeld(data *[]byte) {
	for _, h := range []*held{&w.request, &w.response} {
		if len(h.data) > 0 || h.buffering {
			*data, *h = h.data, held{}
			return
		}
	}
}

func (w *wasmFilter) log() { w.logging = true }

// destroy ends the context: proxy_on_log, proxy_on_done, proxy_on_delete.
func (w *wasmFilter) destroy() {
	if w.context != nil {
		w.context.Close() // what fails here has been logged, and changes nothing
		w.context = nil
	}
}

// ---- vm.Stream

func (w *wasmFilter) HeaderMap(t abi.MapType) vm.HeaderMap {
	switch t {
	case abi.MapRequestHeaders:
		if w.requestMap || w.logging && w.stream.request.Len() > 0 {
			return guestHeaders{&w.stream.request}
		}
	case abi.MapResponseHeaders:
		if w.responseMap || w.logging && w.stream.response.Len() > 0 {
			return guestHeaders{&w.stream.response}
		}
	case abi.MapRequestTrailers:
		if w.requestTrailersMap {
			return guestHeaders{&w.stream.requestTrailers}
		}
	case abi.MapResponseTrailers:
		if w.responseTrailersMap || w.logging && w.stream.responseTrailers.Len() > 0 {
			return guestHeaders{&w.stream.responseTrailers}
		}
	}
	return nil
}

func (w *wasmFilter) HeaderMapWritable(t abi.MapType) bool { return !w.logging }

// guestHeaders is a map that the guest writes to: what it gives is a view of
// its memory and is copied.
type guestHeaders struct{ *Headers }

func (g guestHeaders) Add(name, value string) {
	g.Headers.Add(strings.Clone(name), strings.Clone(value))
}

func (g guestHeaders) Replace(name, value string) {
	g.Headers.Replace(strings.Clone(name), strings.Clone(value))
}

func (w *wasmFilter) Buffer(t abi.BufferType) vm.Buffer {
	if w.buffer == nil {
		return nil
	}
	return guestBuffer{w.buffer}
}

type guestBuffer struct{ data *[]byte }

func (b guestBuffer) Bytes() []byte { return *b.data }

func (b guestBuffer) Replace(start, length int, value []byte) {
	d := *b.data
	out := make([]byte, 0, len(d)-length+len(value))
	out = append(append(append(out, d[:start]...), value...), d[start+length:]...)
	*b.data = out
}

func (w *wasmFilter) ClearRouteCache() { w.stream.clearRoute() }

func (w *wasmFilter) SetProperty(path string, value []byte) abi.Status {
	s := w.stream
	s.setState("wasm."+path, stateObject{text: string(value)})
	return abi.StatusOK
}

func (w *wasmFilter) SendLocalResponse(code uint32, details string, body []byte, headers [][2]string, _ int32) abi.Status {
	w.stream.reply(&localReply{status: int(code), body: string(body), details: strings.Clone(details), headers: headers})
	return abi.StatusOK
}

func (w *wasmFilter) Continue(abi.StreamType) abi.Status {
	w.stream.proceed()
	return abi.StatusOK
}

func (w *wasmFilter) Close(abi.StreamType) abi.Status {
	w.stream.conn.Conn.Close()
	return abi.StatusOK
}

// ---- from the configuration

func (b *builder) wasm(path string, c *wasmv3.PluginConfig) (filterFactory, error) {
	s := b.server
	if s.engine == nil {
		b.guestLog = &guestLog{Handler: s.options.Logger.With("component", "wasm").Handler()}
		engine, err := vm.NewEngine(b.ctx, vm.EngineOptions{
			CacheDir: s.options.CacheDir, Logger: slog.New(b.guestLog), Metrics: (*guestMetrics)(&s.Stats),
		})
		if err != nil {
			return nil, err
		}
		s.engine = engine
	}
	v, path := c.GetVmConfig(), path+".vm_config"
	name, code, err := b.code(path+".code.local", v.GetCode().GetLocal())
	if err != nil {
		return nil, err
	}
	module, err := s.engine.Load(b.ctx, name, code)
	if err != nil {
		return nil, b.wasmError(path+".code.local", err)
	}
	config := vm.PluginConfig{
		Name: c.GetName(), RootID: c.GetRootId(), VMID: v.GetVmId(), Module: module,
		VMConfiguration: configuration(v.GetConfiguration()), Configuration: configuration(c.GetConfiguration()),
		Environment:                 environment(v.GetEnvironmentVariables()),
		AllowOnHeadersStopIteration: c.GetAllowOnHeadersStopIteration().GetValue(),
	}
	if r := c.GetCapabilityRestrictionConfig(); r != nil {
		config.AllowedCapabilities = map[string]bool{}
		for name := range r.GetAllowedCapabilities() {
			config.AllowedCapabilities[name] = true
		}
	}
	failOpen := c.GetFailOpen()
	switch {
	case failOpen:
		config.FailurePolicy = vm.FailOpenDeprecated
	case c.GetFailurePolicy() == wasmv3.FailurePolicy_FAIL_OPEN:
		config.FailurePolicy = vm.FailOpen
	case c.GetFailurePolicy() == wasmv3.FailurePolicy_FAIL_RELOAD:
		config.FailurePolicy = vm.FailReload
	}
	b.guestLog.hold()
	plugin, err := s.engine.NewPlugin(b.ctx, config, s.options.Concurrency)
	said := b.guestLog.release(err == nil)
	if err != nil {
		if said != "" {
			err = fmt.Errorf("%w; the plugin says: %s", err, said)
		}
		return nil, b.wasmError(strings.TrimSuffix(path, ".vm_config"), err)
	}
	s.plugins = append(s.plugins, plugin)
	return &wasmFactory{plugin, plugin.Exports("proxy_on_request_body"), plugin.Exports("proxy_on_response_body")}, nil
}

// guestLog is the log of plugins. While one is being loaded it holds its
// errors back: if loading fails they belong into the one line that says so.
type guestLog struct {
	slog.Handler
	mu      sync.Mutex
	holding bool
	held    []slog.Record
}

func (l *guestLog) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.holding {
			l.held = append(l.held, r.Clone())
			return nil
		}
	}
	return l.Handler.Handle(ctx, r)
}

func (l *guestLog) hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holding = true
}

// release logs what was held if loaded, or else returns it as one line.
func (l *guestLog) release(loaded bool) (said string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var lines []string
	for _, r := range l.held {
		if loaded {
			l.Handler.Handle(context.Background(), r)
			continue
		}
		_, message, prefixed := strings.Cut(r.Message, ": ") // Envoy's "wasm log NAME: "
		if !prefixed {
			message = r.Message
		}
		lines = append(lines, message)
	}
	l.holding, l.held = false, nil
	return strings.Join(lines, "; ")
}

// wasmError puts what is wrong with a plugin into one line.
func (b *builder) wasmError(path string, err error) error {
	var unsupported *vm.UnsupportedError
	if errors.As(err, &unsupported) {
		return b.boot.Unsupported(path, unsupported.Error())
	}
	return b.boot.Errorf(path, "%s", strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; "))
}

// code reads a module from where the configuration says it is.
func (b *builder) code(path string, c *corev3.DataSource) (name string, code []byte, err error) {
	switch src := c.GetSpecifier().(type) {
	case *corev3.DataSource_Filename:
		code, err = os.ReadFile(src.Filename)
		var pe *os.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		if err != nil {
			return "", nil, b.boot.Errorf(path+".filename", "cannot read the plugin %q: %v (relative names start in the working directory)", src.Filename, err)
		}
		return src.Filename, code, nil
	case *corev3.DataSource_InlineBytes:
		return "inline", src.InlineBytes, nil
	case *corev3.DataSource_InlineString:
		return "inline", []byte(src.InlineString), nil
	}
	return "", nil, b.boot.Unsupported(path, "this source of plugin code")
}

// configuration is what a plugin gets of an Any: text and bytes as they are,
// anything else serialised, a Struct too.
func configuration(a *anypb.Any) []byte {
	if a == nil {
		return nil
	}
	msg, err := a.UnmarshalNew()
	if err != nil {
		return a.GetValue()
	}
	switch m := msg.(type) {
	case *wrapperspb.StringValue:
		return []byte(m.GetValue())
	case *wrapperspb.BytesValue:
		return m.GetValue()
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(msg)
	if err != nil {
		return a.GetValue()
	}
	return data
}

func environment(c *wasmv3.EnvironmentVariables) map[string]string {
	env := map[string]string{}
	for k, v := range c.GetKeyValues() {
		env[k] = v
	}
	for _, k := range c.GetHostEnvKeys() {
		if v, ok := os.LookupEnv(k); ok {
			env[k] = v
		}
	}
	return env
}

package proxy

import (
	"context"
	"crypto/sha256"
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

	request, response guestView
	logging, over     bool
	declared          map[string]bool // by declare_property

	network *networkFilter // what it is a part of; nil: an HTTP filter
}

// guestView is what the guest can reach of one direction. A header map is
// there from its callback on until that, or a later one, has said Continue.
type guestView struct {
	headers, trailers bool
	body              *[]byte // of the callback under way
	buffering         bool    // the guest sees all that waits at it, also between callbacks
	ended             bool    // the callback has seen the end of the stream
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

// fail is what a stream gets whose plugin has failed.
func (w *wasmFilter) fail() status {
	if w.plugin.FailurePolicy().IgnoreTrap() {
		w.context = nil
		return goOn
	}
	w.stream.conn.server.wakeTunnels()
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
	return w.headers(&w.request, w.context.OnRequestHeaders, w.stream.request.Len(), endStream)
}

func (w *wasmFilter) encodeHeaders(endStream bool) status {
	if w.context == nil {
		return goOn
	}
	return w.headers(&w.response, w.context.OnResponseHeaders, w.stream.response.Len(), endStream)
}

func (w *wasmFilter) headers(g *guestView, callback func(int, bool) (abi.Action, error), n int, endStream bool) status {
	if err := w.context.Create(); err != nil {
		return w.fail()
	}
	g.headers, g.ended = true, endStream
	action, err := callback(n, endStream)
	if err != nil {
		return w.fail()
	}
	switch action {
	case abi.ActionContinue:
		g.headers = false
		return goOn
	case abi.ActionStopIteration:
		return stopHere
	case abi.ActionStopAllIterationAndBuffer:
		return stopAndBuffer
	}
	return stopAndWatermark
}

func (w *wasmFilter) decodeData(data *[]byte, endStream bool) status {
	if w.context == nil {
		return goOn
	}
	return w.data(&w.request, &w.stream.decoding, data, endStream, w.context.OnRequestBody)
}

func (w *wasmFilter) encodeData(data *[]byte, endStream bool) status {
	if w.context == nil {
		return goOn
	}
	return w.data(&w.response, &w.stream.encoding, data, endStream, w.context.OnResponseBody)
}

func (w *wasmFilter) data(g *guestView, it *iteration, data *[]byte, endStream bool, callback func(int, bool) (abi.Action, error)) status {
	size := len(*data)
	if g.buffering {
		it.streaming = false
		it.hold(*data)
		*data = nil
		if it.over() {
			return stopHere
		}
		size = len(it.buffered)
	}
	g.body, g.ended = data, endStream
	action, err := callback(size, endStream)
	g.body = nil
	if err != nil {
		return w.fail()
	}
	g.buffering = action == abi.ActionStopIteration
	switch action {
	case abi.ActionContinue:
		return goOn
	case abi.ActionStopIteration:
		return stopAndBuffer
	case abi.ActionContinueAndEndStream:
		return stopAndWatermark
	}
	return stopHere
}

func (w *wasmFilter) decodeTrailers() status {
	if w.context == nil {
		return goOn
	}
	return w.tail(&w.request, w.stream.decoding.trailers, w.context.OnRequestTrailers)
}

func (w *wasmFilter) encodeTrailers() status {
	if w.context == nil {
		return goOn
	}
	return w.tail(&w.response, w.stream.encoding.trailers, w.context.OnResponseTrailers)
}

func (w *wasmFilter) tail(g *guestView, trailers *Headers, callback func(int) (abi.Action, error)) status {
	g.trailers = true
	action, err := callback(trailers.Len())
	if err != nil {
		return w.fail()
	}
	if action != abi.ActionContinue {
		return stopHere
	}
	g.trailers = false
	return goOn
}

func (w *wasmFilter) log() {
	w.over, w.logging = true, true
	if w.context != nil {
		logging := &w.stream.conn.server.logging[1+w.stream.conn.worker]
		*logging = w.stream.lastUpstream
		w.context.Log() // what fails here has been logged, and changes nothing
		*logging = nil
	}
	w.logging = false
}

// destroy ends the context: proxy_on_log, proxy_on_done, proxy_on_delete.
func (w *wasmFilter) destroy() {
	w.over = true
	if w.context != nil {
		w.context.Close()
		w.context = nil
	}
}

// ---- vm.Stream

func (w *wasmFilter) HeaderMap(t abi.MapType) vm.HeaderMap {
	s := w.stream
	switch t {
	case abi.MapRequestHeaders:
		if w.request.headers || w.logging && s.request.Len() > 0 {
			return guestHeaders{&s.request}
		}
	case abi.MapResponseHeaders:
		if w.response.headers || w.logging && s.response.Len() > 0 {
			return guestHeaders{&s.response}
		}
	case abi.MapRequestTrailers:
		if trailers := s.decoding.trailers; trailers != nil && w.request.trailers { // not for the log
			return guestHeaders{trailers}
		}
	case abi.MapResponseTrailers:
		if trailers := s.encoding.trailers; trailers != nil && (w.response.trailers || w.logging) {
			return guestHeaders{trailers}
		}
	}
	return nil
}

// HeaderMapWritable adds trailers, as Envoy does, where a guest that looks at
// the end of the content wants to write to some that there are not. What the
// guest has stopped at it may change for as long as there is a stream.
func (w *wasmFilter) HeaderMapWritable(t abi.MapType) bool {
	g, it := &w.request, &w.stream.decoding
	switch t {
	case abi.MapRequestTrailers:
	case abi.MapResponseTrailers:
		g, it = &w.response, &w.stream.encoding
	case abi.MapResponseHeaders:
		return w.response.headers
	default:
		return w.request.headers
	}
	if it.trailers == nil && g.body != nil && g.ended {
		it.addTrailers()
		g.trailers = true
	}
	return g.trailers
}

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
	if w.network != nil {
		return w.network.buffer(t)
	}
	g, it := &w.request, &w.stream.decoding
	switch t {
	case abi.BufferRequestBody:
	case abi.BufferResponseBody:
		g, it = &w.response, &w.stream.encoding
	default:
		return nil
	}
	switch {
	case g.buffering:
		return guestBuffer{&it.buffered}
	case g.body != nil:
		return guestBuffer{g.body}
	}
	return nil
}

type guestBuffer struct{ data *[]byte }

func (b guestBuffer) Bytes() []byte { return *b.data }

func (b guestBuffer) Replace(start, length int, value []byte) {
	d := *b.data
	out := make([]byte, 0, len(d)-length+len(value))
	out = append(append(append(out, d[:start]...), value...), d[start+length:]...)
	*b.data = out
}

func (w *wasmFilter) ClearRouteCache() {
	if !w.over && w.network == nil {
		w.stream.clearRoute()
	}
}

func (w *wasmFilter) SetProperty(path string, value []byte) abi.Status {
	s := w.stream
	s.setState("wasm."+strings.Clone(path), stateObject{text: string(value)})
	return abi.StatusOK
}

func (w *wasmFilter) SendLocalResponse(code uint32, details string, body []byte, headers [][2]string, grpcStatus int32) {
	if w.network != nil {
		return
	}
	if w.over {
		w.crash("proxy_send_local_response when the stream is over")
		return
	}
	w.stream.reply(&localReply{status: int(uint16(code)), body: string(body), details: details, guest: true, headers: headers, grpcStatus: grpcStatus})
}

func (w *wasmFilter) Continue(t abi.StreamType) {
	if w.network != nil {
		w.network.resume(t)
		return
	}
	if w.over || t == abi.StreamDownstream {
		return
	}
	it := &w.stream.decoding
	if t == abi.StreamResponse {
		it = &w.stream.encoding
	}
	i := it.placeOf(w)
	switch {
	case it.closed:
		return
	case i < 0 || !it.places[i].reached:
		w.crash("proxy_continue_stream of a direction that has not come to the plugin yet")
		return
	}
	w.request.headers, w.request.trailers = false, false // Envoy forgets those of the request, and of nothing else, whatever is continued
	it.resume(i)
	w.stream.wake()
}

func (w *wasmFilter) Close(t abi.StreamType) {
	switch {
	case w.network != nil:
		w.network.hangUp(t)
	case w.over:
	case t == abi.StreamRequest:
		w.stream.reset("wasm_close_stream")
	case t == abi.StreamResponse:
		w.stream.reset("")
	}
}

// crash reports what makes Envoy crash, and ends the stream instead.
func (w *wasmFilter) crash(what string) {
	w.stream.conn.server.guestLog.Log(context.Background(), vm.LevelCritical, what+" crashes Envoy 1.40; here it only ends the stream")
	w.stream.reset("")
}

// ---- from the configuration

func (b *builder) wasm(path string, c *wasmv3.PluginConfig) (filterFactory, error) {
	s := b.server
	if s.engine == nil {
		b.guestLog = &guestLog{Handler: s.options.Logger.With("component", "wasm").Handler()}
		s.guestLog = slog.New(b.guestLog)
		s.callouts.open, s.callouts.hcm = map[*callout]struct{}{}, &hcm{server: s, stats: newHCMStats(&Stats{}, "", "")}
		s.callouts.hcm.stats.router = newRouterStats(&Stats{}, "")
		s.callouts.background, s.callouts.stop = context.WithCancel(context.Background())
		s.answering = make([]*callout, 1+s.options.Concurrency)
		s.logging = make([]*upstreamConn, 1+s.options.Concurrency)
		s.threads = make([]sync.Mutex, 1+s.options.Concurrency)
		options := vm.EngineOptions{
			CacheDir: s.options.CacheDir, Logger: s.guestLog, Metrics: (*guestMetrics)(&s.Stats),
			MemoryLimitPages: s.options.MemoryLimitPages, CallbackDeadline: s.options.CallbackDeadline,
			Thread: func(worker int) sync.Locker { return s.thread(worker) }, Callouts: s,
		}
		if h := s.options.harness; h != nil {
			options.Now, options.Observe = h.options.Now, h.options.Observe
		}
		engine, err := vm.NewEngine(b.ctx, options)
		if err != nil {
			return nil, err
		}
		s.engine, s.wasm = engine, map[[sha256.Size]byte]*wasmFactory{}
		active := func() (int64, bool) { n := engine.Stats(); return int64(n.Active + n.Bases), true }
		s.Stats.computed("wasm.envoy.wasm.runtime.v8.active", Gauge, active)
		s.Stats.computed("wasm.envoy.wasm.runtime.v8.created", Counter, func() (int64, bool) { return int64(engine.Stats().Created), true })
		s.Stats.computed("wasm.wasm_vm_count", Gauge, active)
	}
	v, path := c.GetVmConfig(), path+".vm_config"
	name, code, err := b.code(path+".code.local", v.GetCode().GetLocal())
	if err != nil {
		return nil, err
	}
	module, err := s.engine.Load(b.ctx, name, code)
	if err != nil {
		b.logRefusal(c.GetName(), err)
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
	if base := c.GetReloadConfig().GetBackoff().GetBaseInterval(); base != nil {
		config.ReloadBackoff = base.AsDuration()
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
	key := config.Key()
	if same := s.wasm[key]; same != nil {
		return same, nil
	}
	b.guestLog.note()
	harness := s.options.harness
	config.Property = func(path string) ([]byte, abi.Status) {
		if v, ok := harness.property(path); ok {
			return v, abi.StatusOK
		}
		name, ok := strings.CutPrefix(strings.TrimSuffix(path, "\x00"), "xds\x00node")
		switch {
		case path == "xds" || path == "xds\x00":
			return nil, abi.StatusSerializationFailure
		case ok && name == "":
			return encodeAttribute(s.node)
		case ok && name[0] == 0:
			return encodeAttribute(inside(s.node, name[1:]))
		}
		return nil, abi.StatusNotFound
	}
	config.Foreign = s.foreign
	ticks := newTickers(s)
	config.OnTickPeriod = ticks.set
	if harness != nil {
		config.Foreign, config.OnTickPeriod = harness.foreign, nil
	}
	plugin, err := s.engine.NewPlugin(b.ctx, config, s.options.Concurrency)
	said := b.guestLog.said()
	if err != nil {
		b.logRefusal(c.GetName(), err)
		if said != "" {
			err = fmt.Errorf("%w; the plugin says: %s", err, said)
		}
		return nil, b.wasmError(strings.TrimSuffix(path, ".vm_config"), err)
	}
	s.plugins = append(s.plugins, plugin)
	b.pluginStats(config.Name, plugin)
	if harness == nil {
		s.ticks = append(s.ticks, ticks)
		ticks.start(plugin)
	}
	factory := &wasmFactory{plugin, plugin.Exports("proxy_on_request_body"), plugin.Exports("proxy_on_response_body")}
	s.wasm[key] = factory
	return factory, nil
}

// thread is what is locked while something happens on a worker, or on
// vm.MainThread, that a plugin can see.
func (s *Server) thread(worker int) *sync.Mutex { return &s.threads[1+worker] }

// logRefusal logs what Envoy logs of a plugin that it does not load.
func (b *builder) logRefusal(name string, err error) {
	log := func(level slog.Level, line string) { b.server.guestLog.Log(context.Background(), level, line) }
	if load := (*vm.LoadError)(nil); errors.As(err, &load) {
		for _, line := range load.Lines {
			log(slog.LevelError, line)
		}
	}
	log(vm.LevelCritical, "Plugin "+name+" failed to load")
	log(vm.LevelCritical, "Plugin configured to fail closed failed to load")
}

// guestLog is the log of plugins. While one is being loaded it notes errors:
// if loading fails they belong into the line that says so.
type guestLog struct {
	slog.Handler
	mu     sync.Mutex
	noting bool
	noted  []string
}

func (l *guestLog) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		l.mu.Lock()
		if l.noting {
			_, message, prefixed := strings.Cut(r.Message, ": ") // Envoy's "wasm log NAME: "
			if !prefixed {
				message = r.Message
			}
			l.noted = append(l.noted, message)
		}
		l.mu.Unlock()
	}
	return l.Handler.Handle(ctx, r)
}

// note begins to note errors.
func (l *guestLog) note() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noting = true
}

// said ends what note began, and returns the errors as one line.
func (l *guestLog) said() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	noted := l.noted
	l.noting, l.noted = false, nil
	return strings.Join(noted, "; ")
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

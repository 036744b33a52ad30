package vm

import (
	"context"
	"log/slog"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"switchyard/hostsim/abi"
)

// hostFunc is a function that the host offers for import.
type hostFunc struct {
	module, name    string
	params, results []api.ValueType
	versions        abiVersion

	// call takes the parameters from the stack and returns the result, a
	// status or a WASI errno.
	call func(v *instance, stack []uint64) uint32

	during restriction // the strictest restriction under which it may be called
	index  int         // of hostFunc among all
}

// hostFunctions returns all functions that Envoy registers, whatever the ABI
// version. Those of WASI are there once for each of its module names.
func hostFunctions() []hostFunc {
	env := func(versions abiVersion, name string, params int, call func(*instance, []uint64) abi.Status) hostFunc {
		return hostFunc{module: "env", name: name, params: types(params), results: types(1), versions: versions,
			call: func(v *instance, stack []uint64) uint32 { return uint32(call(v, stack)) }}
	}
	metric := func(name string, call func(*instance, []uint64) abi.Status) hostFunc {
		f := env(abiAll, name, 2, call)
		f.params[1] = i64
		return f
	}
	log := env(abiAll, "proxy_log", 3, proxyLog)
	log.during = allocating
	grown := env(abiAll, "emscripten_notify_memory_growth", 1, func(*instance, []uint64) abi.Status { return 0 })
	grown.results, grown.during = nil, starting

	funcs := []hostFunc{
		log,
		grown,
		env(abiAll, "pthread_equal", 2, func(_ *instance, stack []uint64) abi.Status {
			if uint32(stack[0]) == uint32(stack[1]) {
				return 1
			}
			return 0
		}),

		env(abiAll, "proxy_get_status", 3, proxyGetStatus),
		env(abiAll, "proxy_get_current_time_nanoseconds", 1, proxyGetCurrentTimeNanoseconds),
		env(abiAll, "proxy_set_tick_period_milliseconds", 1, proxySetTickPeriodMilliseconds),
		env(abiAll, "proxy_set_effective_context", 1, proxySetEffectiveContext),
		env(abiAll, "proxy_done", 0, proxyDone),
		env(abiAll, "proxy_call_foreign_function", 6, proxyCallForeignFunction),
		env(abi010, "proxy_get_configuration", 2, proxyGetConfiguration),
		env(abi021, "proxy_get_log_level", 1, proxyGetLogLevel),

		env(abiAll, "proxy_get_property", 4, proxyGetProperty),
		env(abiAll, "proxy_set_property", 4, proxySetProperty),

		env(abiAll, "proxy_get_header_map_value", 5, proxyGetHeaderMapValue),
		env(abiAll, "proxy_add_header_map_value", 5, proxyAddHeaderMapValue),
		env(abiAll, "proxy_replace_header_map_value", 5, proxyReplaceHeaderMapValue),
		env(abiAll, "proxy_remove_header_map_value", 3, proxyRemoveHeaderMapValue),
		env(abiAll, "proxy_get_header_map_pairs", 3, proxyGetHeaderMapPairs),
		env(abiAll, "proxy_set_header_map_pairs", 3, proxySetHeaderMapPairs),
		env(abiAll, "proxy_get_header_map_size", 2, proxyGetHeaderMapSize),

		env(abiAll, "proxy_get_buffer_bytes", 5, proxyGetBufferBytes),
		env(abiAll, "proxy_get_buffer_status", 3, proxyGetBufferStatus),
		env(abiAll, "proxy_set_buffer_bytes", 5, proxySetBufferBytes),

		env(abiAll, "proxy_send_local_response", 8, proxySendLocalResponse),
		env(abi020|abi021, "proxy_continue_stream", 1, proxyContinueStream),
		env(abi020|abi021, "proxy_close_stream", 1, proxyCloseStream),
		env(abi010, "proxy_continue_request", 0, proxyContinueRequest),
		env(abi010, "proxy_continue_response", 0, proxyContinueResponse),
		env(abi010, "proxy_clear_route_cache", 0, proxyClearRouteCache),

		env(abiAll, "proxy_get_shared_data", 5, proxyGetSharedData),
		env(abiAll, "proxy_set_shared_data", 5, proxySetSharedData),
		env(abiAll, "proxy_register_shared_queue", 3, proxyRegisterSharedQueue),
		env(abiAll, "proxy_resolve_shared_queue", 5, proxyResolveSharedQueue),
		env(abiAll, "proxy_enqueue_shared_queue", 3, proxyEnqueueSharedQueue),
		env(abiAll, "proxy_dequeue_shared_queue", 3, proxyDequeueSharedQueue),

		env(abiAll, "proxy_define_metric", 4, proxyDefineMetric),
		metric("proxy_increment_metric", proxyIncrementMetric),
		metric("proxy_record_metric", proxyRecordMetric),
		env(abiAll, "proxy_get_metric", 2, proxyGetMetric),

		env(abiAll, "proxy_http_call", 10, proxyHTTPCall),
		env(abiAll, "proxy_grpc_call", 12, proxyGRPCCall),
		env(abiAll, "proxy_grpc_stream", 9, proxyGRPCStream),
		env(abiAll, "proxy_grpc_send", 4, proxyGRPCSend),
		env(abiAll, "proxy_grpc_cancel", 1, proxyGRPCCancel),
		env(abiAll, "proxy_grpc_close", 1, proxyGRPCClose),
		env(abiAll, "envoy_resolve_dns", 3, func(v *instance, _ []uint64) abi.Status {
			v.group.engine.log.Error("envoy_resolve_dns is not simulated")
			return abi.StatusUnimplemented
		}),
	}
	for _, module := range []string{"wasi_unstable", "wasi_snapshot_preview1"} {
		for _, f := range wasiFunctions() {
			f.module = module
			funcs = append(funcs, f)
		}
	}
	for i := range funcs {
		funcs[i].index = i
	}
	return funcs
}

// goFunction adapts f to the WebAssembly engine.
func (f *hostFunc) goFunction() api.GoModuleFunc {
	return func(ctx context.Context, _ api.Module, stack []uint64) {
		v := ctx.Value(instanceKey{}).(*instance)
		if v.restriction > f.during {
			panic(errRestricted)
		}
		var result uint32
		switch {
		case v.group.engine.opts.Observe != nil || v.group.engine.log.Enabled(ctx, slog.LevelDebug):
			result = v.explained(f, stack, func() uint32 { return v.run(f, stack) })
		default:
			result = v.run(f, stack)
		}
		if len(f.results) > 0 {
			stack[0] = uint64(result)
		}
	}
}

// run calls f, if the plugin may.
func (v *instance) run(f *hostFunc, stack []uint64) uint32 {
	if v.denied != nil && v.denied[f.index] {
		return v.deny(f)
	}
	return f.call(v, stack)
}

// deny is the stub that a restricted capability is linked to.
func (v *instance) deny(f *hostFunc) uint32 {
	if f.module == "env" {
		v.group.engine.log.Error("Attempted call to restricted proxy-wasm capability: " + f.name)
		return uint32(abi.StatusInternalFailure)
	}
	v.group.engine.log.Error("Attempted call to restricted WASI capability: " + f.name)
	return wasiENOTCAPABLE
}

// registerHostFunctions makes the modules that guests import from. All
// versions' functions share them: link has checked which a guest may have.
func (e *Engine) registerHostFunctions(ctx context.Context) error {
	builders := make(map[string]wazero.HostModuleBuilder)
	e.hostFuncs = make(map[string]*hostFunc)
	funcs := hostFunctions()
	for i := range funcs {
		f := &funcs[i]
		e.hostFuncs[f.module+"."+f.name] = f
		if builders[f.module] == nil {
			builders[f.module] = e.runtime.NewHostModuleBuilder(f.module)
		}
		builders[f.module].NewFunctionBuilder().WithGoModuleFunction(f.goFunction(), f.params, f.results).Export(f.name)
	}
	for _, b := range builders {
		if _, err := b.Instantiate(ctx); err != nil {
			return err
		}
	}
	return nil
}

package vm

import "github.com/tetratelabs/wazero/api"

// callback numbers the exports that the host calls after a VM is started.
type callback uint8

const (
	onVMStart callback = iota
	onConfigure
	onTick
	onContextCreate
	onRequestBody
	onRequestTrailers
	onResponseBody
	onResponseTrailers
	onQueueReady
	onDone
	onLog
	onDelete
	onRequestHeaders
	onResponseHeaders
	onHTTPCallResponse
	onGrpcReceive
	onGrpcClose
	onGrpcReceiveInitialMetadata
	onGrpcReceiveTrailingMetadata
	onNewConnection
	onDownstreamData
	onUpstreamData
	onDownstreamConnectionClose
	onUpstreamConnectionClose

	// Those below are never called yet, but their signatures are checked.
	validateConfiguration
	onRequestMetadata
	onResponseMetadata
	onForeignFunction

	callbackCount
)

// callbackSpec is the name and signature of an export.
type callbackSpec struct {
	name            string
	params, results []api.ValueType
}

const i32, i64 = api.ValueTypeI32, api.ValueTypeI64

// types returns n times i32.
func types(n int) []api.ValueType {
	t := make([]api.ValueType, n)
	for i := range t {
		t[i] = i32
	}
	return t
}

var (
	mallocSpec = callbackSpec{"malloc", types(1), types(1)}
	startSpecs = []callbackSpec{
		{"_initialize", nil, nil},
		{"main", types(2), types(1)},
		{"__main_void", nil, types(1)},
		{"_start", nil, nil},
	}
)

// callbackSpecs returns the exports that the host calls in the given ABI
// version. What it does not call there has no name.
func callbackSpecs(version abiVersion) (specs [callbackCount]callbackSpec) {
	specs = [...]callbackSpec{
		onVMStart:                     {"proxy_on_vm_start", types(2), types(1)},
		onConfigure:                   {"proxy_on_configure", types(2), types(1)},
		onTick:                        {"proxy_on_tick", types(1), nil},
		onContextCreate:               {"proxy_on_context_create", types(2), nil},
		onRequestBody:                 {"proxy_on_request_body", types(3), types(1)},
		onRequestTrailers:             {"proxy_on_request_trailers", types(2), types(1)},
		onResponseBody:                {"proxy_on_response_body", types(3), types(1)},
		onResponseTrailers:            {"proxy_on_response_trailers", types(2), types(1)},
		onQueueReady:                  {"proxy_on_queue_ready", types(2), nil},
		onDone:                        {"proxy_on_done", types(1), types(1)},
		onLog:                         {"proxy_on_log", types(1), nil},
		onDelete:                      {"proxy_on_delete", types(1), nil},
		onRequestHeaders:              {"proxy_on_request_headers", types(3), types(1)},
		onResponseHeaders:             {"proxy_on_response_headers", types(3), types(1)},
		validateConfiguration:         {"proxy_validate_configuration", types(2), types(1)},
		onNewConnection:               {"proxy_on_new_connection", types(1), types(1)},
		onDownstreamData:              {"proxy_on_downstream_data", types(3), types(1)},
		onUpstreamData:                {"proxy_on_upstream_data", types(3), types(1)},
		onDownstreamConnectionClose:   {"proxy_on_downstream_connection_close", types(2), nil},
		onUpstreamConnectionClose:     {"proxy_on_upstream_connection_close", types(2), nil},
		onRequestMetadata:             {"proxy_on_request_metadata", types(2), types(1)},
		onResponseMetadata:            {"proxy_on_response_metadata", types(2), types(1)},
		onHTTPCallResponse:            {"proxy_on_http_call_response", types(5), nil},
		onGrpcReceive:                 {"proxy_on_grpc_receive", types(3), nil},
		onGrpcClose:                   {"proxy_on_grpc_close", types(3), nil},
		onGrpcReceiveInitialMetadata:  {"proxy_on_grpc_receive_initial_metadata", types(3), nil},
		onGrpcReceiveTrailingMetadata: {"proxy_on_grpc_receive_trailing_metadata", types(3), nil},
		onForeignFunction:             {"proxy_on_foreign_function", types(3), nil},
	}
	if version == abi010 {
		specs[onRequestHeaders].params = types(2)
		specs[onResponseHeaders].params = types(2)
		specs[onForeignFunction] = callbackSpec{}
	}
	return specs
}

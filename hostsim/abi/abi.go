// Package abi is the vocabulary of the Proxy-Wasm ABI (versions 0.1.0, 0.2.0
// and 0.2.1) and its wire forms, as Envoy's host speaks them.
package abi

// Status is what a hostcall returns to the guest (proxy_status_t).
type Status uint32

const (
	StatusOK                   Status = 0
	StatusNotFound             Status = 1
	StatusBadArgument          Status = 2
	StatusSerializationFailure Status = 3
	StatusParseFailure         Status = 4
	StatusBadExpression        Status = 5
	StatusInvalidMemoryAccess  Status = 6
	StatusEmpty                Status = 7
	StatusCasMismatch          Status = 8
	StatusResultMismatch       Status = 9
	StatusInternalFailure      Status = 10
	StatusBrokenConnection     Status = 11
	StatusUnimplemented        Status = 12
)

// MapType names a header map (proxy_map_type_t).
type MapType uint32

const (
	MapRequestHeaders           MapType = 0
	MapRequestTrailers          MapType = 1
	MapResponseHeaders          MapType = 2
	MapResponseTrailers         MapType = 3
	MapGrpcReceiveInitial       MapType = 4
	MapGrpcReceiveTrailing      MapType = 5
	MapHTTPCallResponseHeaders  MapType = 6
	MapHTTPCallResponseTrailers MapType = 7
)

// BufferType names a buffer (proxy_buffer_type_t).
type BufferType uint32

const (
	BufferRequestBody          BufferType = 0
	BufferResponseBody         BufferType = 1
	BufferDownstreamData       BufferType = 2
	BufferUpstreamData         BufferType = 3
	BufferHTTPCallResponseBody BufferType = 4
	BufferGrpcReceive          BufferType = 5
	BufferVMConfiguration      BufferType = 6
	BufferPluginConfiguration  BufferType = 7
	BufferCallData             BufferType = 8
)

// StreamType names what proxy_continue_stream and proxy_close_stream act on
// (proxy_stream_type_t).
type StreamType uint32

const (
	StreamRequest    StreamType = 0
	StreamResponse   StreamType = 1
	StreamDownstream StreamType = 2
	StreamUpstream   StreamType = 3
)

// Action is what a header, body or trailer callback returns
// (proxy_action_t), already converted as Envoy converts it.
type Action uint32

const (
	ActionContinue                     Action = 0
	ActionStopIteration                Action = 1 // for bodies: StopIterationAndBuffer
	ActionContinueAndEndStream         Action = 2 // for bodies: StopIterationAndWatermark
	ActionStopAllIterationAndBuffer    Action = 3 // for bodies: StopIterationNoBuffer
	ActionStopAllIterationAndWatermark Action = 4
)

// MetricType is a kind of metric (proxy_metric_type_t).
type MetricType uint32

const (
	MetricCounter   MetricType = 0
	MetricGauge     MetricType = 1
	MetricHistogram MetricType = 2
)

// LogLevel is a severity of proxy_log (proxy_log_level_t).
type LogLevel uint32

const (
	LogTrace    LogLevel = 0
	LogDebug    LogLevel = 1
	LogInfo     LogLevel = 2
	LogWarn     LogLevel = 3
	LogError    LogLevel = 4
	LogCritical LogLevel = 5
)

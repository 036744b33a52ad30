package vm

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/tetratelabs/wazero/api"

	"switchyard/hostsim/abi"
)

// What a plugin's author sees of hostcalls: at level debug why one did not
// return Ok, at level trace every call with its arguments decoded.

// because notes, for the debug log, why the host function that runs will not
// return Ok.
func (v *instance) because(format string, args ...any) {
	if v.group.engine.opts.Observe != nil || v.group.engine.log.Enabled(context.Background(), slog.LevelDebug) {
		v.why = fmt.Sprintf(format, args...)
	}
}

// Call is a callback or a hostcall that has returned, for whoever observes an
// engine.
type Call struct {
	Hostcall  bool       // the guest called the host
	Context   uint32     // the context that it is about
	Name      string     // proxy_on_request_headers, fd_write
	Arguments string     // of a hostcall decoded, `map: request headers, name: "x"`, of a callback as numbers
	Result    string     // of a hostcall a status by its name, of a callback a number; "" for none
	Why       string     // a hostcall's status is not Ok, if that is known
	Message   *Message   // that the guest has logged with it
	Trap      *TrapError // in which the callback ended
}

// Message is what a guest logs, without Envoy's prefix.
type Message struct {
	Level slog.Level // see LevelTrace
	Text  string
}

// callback describes a callback that has returned.
func (v *instance) callback(c *hostContext, name, arguments string, fn api.Function) Call {
	call := Call{Context: c.id, Name: name, Arguments: arguments, Trap: v.trap}
	if v.trap == nil {
		call.Result = strings.TrimPrefix(v.returned(fn), ": ")
	}
	return call
}

// parameters names the parameters of host functions. Behind a name stands what
// they are: s is text, b bytes and p pairs, of two words each; m is a map, B a
// buffer, l a level, t a stream, and i a number. Where results go is not shown.
var parameters = map[string]string{
	"proxy_log":                          "level:l message:s",
	"proxy_set_tick_period_milliseconds": "period:i",
	"proxy_set_effective_context":        "context:i",
	"proxy_call_foreign_function":        "name:s argument:b",
	"proxy_get_property":                 "path:s",
	"proxy_set_property":                 "path:s value:b",
	"proxy_get_header_map_value":         "map:m name:s",
	"proxy_add_header_map_value":         "map:m name:s value:s",
	"proxy_replace_header_map_value":     "map:m name:s value:s",
	"proxy_remove_header_map_value":      "map:m name:s",
	"proxy_get_header_map_pairs":         "map:m",
	"proxy_set_header_map_pairs":         "map:m pairs:p",
	"proxy_get_header_map_size":          "map:m",
	"proxy_get_buffer_bytes":             "buffer:B start:i size:i",
	"proxy_get_buffer_status":            "buffer:B",
	"proxy_set_buffer_bytes":             "buffer:B start:i size:i value:b",
	"proxy_send_local_response":          "status:i details:s body:b headers:p grpc_status:i",
	"proxy_continue_stream":              "stream:t",
	"proxy_close_stream":                 "stream:t",
	"proxy_get_shared_data":              "key:s",
	"proxy_set_shared_data":              "key:s value:b cas:i",
	"proxy_register_shared_queue":        "name:s",
	"proxy_resolve_shared_queue":         "vm_id:s name:s",
	"proxy_enqueue_shared_queue":         "queue:i value:b",
	"proxy_dequeue_shared_queue":         "queue:i",
	"proxy_define_metric":                "type:i name:s",
	"proxy_increment_metric":             "metric:i by:i",
	"proxy_record_metric":                "metric:i value:i",
	"proxy_get_metric":                   "metric:i",
	"proxy_http_call":                    "cluster:s headers:p body:b trailers:p timeout:i",
	"proxy_grpc_call":                    "service:s name:s method:s metadata:p message:b timeout:i",
	"proxy_grpc_stream":                  "service:s name:s method:s metadata:p",
	"proxy_grpc_send":                    "stream:i message:b end:i",
	"proxy_grpc_cancel":                  "call:i",
	"proxy_grpc_close":                   "call:i",
	"emscripten_notify_memory_growth":    "index:i",
	"pthread_equal":                      "a:i b:i",
	"proxy_get_status":                   "",
	"proxy_get_current_time_nanoseconds": "",
	"proxy_get_log_level":                "",
	"proxy_get_configuration":            "",
	"proxy_done":                         "",
	"proxy_continue_request":             "",
	"proxy_continue_response":            "",
	"proxy_clear_route_cache":            "",
}

var (
	mapNames    = [...]string{"request headers", "request trailers", "response headers", "response trailers", "gRPC initial metadata", "gRPC trailing metadata", "call response headers", "call response trailers"}
	bufferNames = [...]string{"request body", "response body", "downstream data", "upstream data", "call response body", "gRPC message", "VM configuration", "plugin configuration", "call data"}
	streamNames = [...]string{"request", "response", "downstream", "upstream"}
	levelNames  = [...]string{"trace", "debug", "info", "warn", "error", "critical"}
	statusNames = [...]string{"Ok", "NotFound", "BadArgument", "SerializationFailure", "ParseFailure", "BadExpression", "InvalidMemoryAccess", "Empty", "CasMismatch", "ResultMismatch", "InternalFailure", "BrokenConnection", "Unimplemented"}
)

func nameOf(names []string, n uint64) string {
	if uint64(uint32(n)) < uint64(len(names)) {
		return names[uint32(n)]
	}
	return strconv.FormatUint(uint64(uint32(n)), 10)
}

// number shows an argument, of which a guest may leave the upper half as it is.
func number(t api.ValueType, n uint64) string {
	if t == i64 {
		return strconv.FormatInt(int64(n), 10)
	}
	return strconv.FormatInt(int64(int32(uint32(n))), 10)
}

// shown is as much of a long value as a log line has room for.
const shown = 120

func (v *instance) quoted(ptr, size uint64) string {
	b, ok := v.read(ptr, size)
	switch {
	case !ok:
		return fmt.Sprintf("<%d bytes at %#x, which is outside of memory>", uint32(size), uint32(ptr))
	case len(b) > shown:
		return fmt.Sprintf("%q... (%d bytes)", b[:shown], len(b))
	}
	return strconv.Quote(string(b))
}

// describe shows a call with its arguments decoded.
func (v *instance) describe(f *hostFunc, stack []uint64) string {
	spec, ok := parameters[f.name]
	var b strings.Builder
	b.WriteString(f.name + "(")
	if !ok {
		for i := range f.params {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString(number(f.params[i], stack[i]))
		}
		return b.String() + ")"
	}
	at := 0
	for i, field := range strings.Fields(spec) {
		name, kind, _ := strings.Cut(field, ":")
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(name + ": ")
		switch kind {
		case "s", "b":
			b.WriteString(v.quoted(stack[at], stack[at+1]))
			at++
		case "p":
			data, _ := v.read(stack[at], stack[at+1])
			if pairs, ok := abi.ParsePairs(data); ok {
				fmt.Fprintf(&b, "%q", [][2]string(pairs))
			} else if len(data) == 0 {
				b.WriteString("none")
			} else {
				fmt.Fprintf(&b, "%d bytes that are no pairs", len(data))
			}
			at++
		case "m":
			b.WriteString(nameOf(mapNames[:], stack[at]))
		case "B":
			b.WriteString(nameOf(bufferNames[:], stack[at]))
		case "t":
			b.WriteString(nameOf(streamNames[:], stack[at]))
		case "l":
			b.WriteString(nameOf(levelNames[:], stack[at]))
		default:
			b.WriteString(number(f.params[at], stack[at]))
		}
		at++
	}
	return b.String() + ")"
}

// explained calls f and logs what there is to say of it.
func (v *instance) explained(f *hostFunc, stack []uint64, call func() uint32) uint32 {
	log, background, observe := v.group.engine.log, context.Background(), v.group.engine.opts.Observe
	trace, debug := log.Enabled(background, LevelTrace), log.Enabled(background, slog.LevelDebug)
	var shown string
	if trace || observe != nil {
		shown = v.describe(f, stack)
	}
	if trace {
		log.Log(background, LevelTrace, "[vm->host] "+f.module+"."+shown)
	}
	arguments := [12]uint64{}
	copy(arguments[:], stack)
	v.why, v.message = "", nil
	result := call()
	why := ""
	failed := f.module == "env" && len(f.results) > 0 && result != 0 && f.name != "pthread_equal"
	if failed {
		if why = v.why; why == "" {
			why = v.reason(f, arguments[:], abi.Status(result))
		}
		if shown == "" {
			shown = v.describe(f, arguments[:])
		}
	}
	if failed && debug {
		line := v.context().logPrefix + shown + " = " + nameOf(statusNames[:], uint64(result))
		if why != "" {
			line += ": " + why
		}
		log.Log(background, slog.LevelDebug, line)
	}
	text := strconv.FormatUint(uint64(result), 10)
	if f.module == "env" && len(f.results) > 0 {
		text = nameOf(statusNames[:], uint64(result))
	}
	if observe != nil {
		_, args, _ := strings.Cut(strings.TrimSuffix(shown, ")"), "(")
		observe(Call{Hostcall: true, Context: v.context().id, Name: f.name, Arguments: args, Result: text, Why: why, Message: v.message})
	}
	if trace {
		log.Log(background, LevelTrace, "[vm<-host] "+f.module+"."+f.name+" return: "+text)
	}
	return result
}

// reason says why a host function did not return Ok, where that can be told
// from its arguments.
func (v *instance) reason(f *hostFunc, stack []uint64, status abi.Status) string {
	if v.denied != nil && v.denied[f.index] {
		return "capability_restriction_config does not allow it"
	}
	if status == abi.StatusInvalidMemoryAccess {
		return "an address or size is outside of the guest's memory, or its malloc gave no memory"
	}
	c := v.context()
	switch {
	case strings.Contains(f.name, "_header_map_"):
		if uint32(stack[0]) > maxMapType {
			return "there is no such map"
		}
		t := abi.MapType(uint32(stack[0]))
		if status == abi.StatusNotFound {
			name, _ := v.readString(stack[1], stack[2])
			return v.missingField(c.readableMap(t), name)
		}
		switch {
		case c.stream == nil && t <= abi.MapResponseTrailers:
			return "this is a root context, which has no stream; see proxy_set_effective_context"
		case c.logging:
			return "maps cannot be changed in proxy_on_log"
		case c.requestGone:
			return "the request was continued in this callback, and its maps are gone"
		case t > abi.MapResponseTrailers:
			return "what a call has brought can be read only, and in its callback only"
		}
		return "there are no " + mapNames[t] + " in this callback: they can be reached from their own callback on until it returns Continue"
	case strings.Contains(f.name, "_buffer_"):
		switch {
		case uint32(stack[0]) > maxBufferType:
			return "there is no such buffer"
		case status == abi.StatusNotFound:
			return "there is no " + nameOf(bufferNames[:], stack[0]) + " in this callback"
		case f.name == "proxy_set_buffer_bytes" && c.stream != nil && uint32(stack[1]) != 0:
			return "bytes can be put at the start or behind the end, and not in between"
		}
		return "the " + nameOf(bufferNames[:], stack[0]) + " cannot be changed here"
	case f.name == "proxy_get_property":
		path, _ := v.readString(stack[0], stack[1])
		return propertyHint(path, c.stream == nil)
	case f.name == "proxy_set_property":
		return "this is a root context, which has no stream"
	case f.name == "proxy_continue_stream", f.name == "proxy_close_stream":
		return "0 is the request, 1 the response, 2 downstream and 3 upstream"
	case f.name == "proxy_log":
		return "levels are 0 (trace) to 5 (critical)"
	case f.name == "proxy_set_effective_context":
		return fmt.Sprintf("no context has the id %d, or no longer", uint32(stack[0]))
	case f.name == "proxy_done":
		return "it is for a root context whose proxy_on_done has returned false"
	case strings.HasSuffix(f.name, "_metric"):
		if f.name == "proxy_define_metric" {
			return "types are 0 (counter), 1 (gauge) and 2 (histogram)"
		}
		if status == abi.StatusNotFound {
			return "no metric has that number; it is what proxy_define_metric gives"
		}
		return "a metric of that type cannot do this: counters only grow, histograms cannot be read"
	case status == abi.StatusCasMismatch:
		return "somebody else has written it meanwhile; get it again for its cas"
	case f.name == "proxy_get_shared_data":
		return "nobody has stored that key in a VM with this vm_id"
	case strings.HasSuffix(f.name, "_shared_queue"):
		if status == abi.StatusEmpty {
			return "nothing is in the queue"
		}
		return "nobody has registered that queue"
	case f.name == "proxy_call_foreign_function" && status == abi.StatusNotFound:
		return "there is no such foreign function"
	}
	return ""
}

// missingField says that a map has no such field, and which is spelt almost
// so.
func (v *instance) missingField(m HeaderMap, name string) string {
	if m == nil {
		return "there is no such map here"
	}
	plain := func(s string) string {
		return strings.Map(func(r rune) rune {
			if r == '-' || r == '_' || r == ':' || r == ' ' {
				return -1
			}
			return r
		}, lowerASCII(s))
	}
	for i := range m.Len() {
		if have, _ := m.At(i); have != lowerASCII(name) && plain(have) == plain(name) {
			return fmt.Sprintf("there is no field %q, but %q", name, have)
		}
	}
	return fmt.Sprintf("there is no field %q", name)
}

// attributes are the names of what is under each root, for hints.
var attributes = map[string]string{
	"request":     "path url_path host scheme method headers referer useragent time id protocol query size total_size duration",
	"response":    "code code_details flags grpc_status headers trailers size total_size",
	"source":      "address port",
	"destination": "address port",
	"connection":  "id mtls requested_server_name tls_version subject_local_certificate subject_peer_certificate",
	"upstream":    "address port local_address tls_version transport_failure_reason request_attempt_count",
	"xds":         "node cluster_name cluster_metadata listener_direction listener_metadata route_name route_metadata upstream_host_metadata filter_chain_name virtual_host_name virtual_host_metadata",
}

// propertyHint says what may be wrong with a path that gave nothing.
func propertyHint(path string, root bool) string {
	path = strings.TrimSuffix(path, "\x00")
	parts := strings.Split(path, "\x00")
	if path == "" {
		return "the path is empty"
	}
	if len(parts) == 1 {
		if strings.Contains(path, ".") || strings.Contains(path, "/") {
			return "the segments of a path are separated by NUL, not by dots or slashes"
		}
		if _, ok := attributes[path]; ok {
			return "this is a whole object, which cannot be had; ask for one of: " + attributes[path]
		}
		for above, names := range attributes {
			for name := range strings.FieldsSeq(names) {
				if name == path {
					return fmt.Sprintf("it is called %s.%s", above, name)
				}
			}
		}
		return "there is no such attribute, and nothing was stored under that name"
	}
	if names, ok := attributes[parts[0]]; ok {
		for name := range strings.FieldsSeq(names) {
			if name == parts[1] {
				if root {
					return "a root context has no stream"
				}
				return "it is not known at this time, or not at all for this stream"
			}
		}
		return parts[0] + " has: " + names
	}
	return "there is no such attribute"
}

// numbers are the arguments of the callback that begins.
func (v *instance) numbers(name string) string {
	for _, spec := range v.group.module.callbacks {
		if spec.name != name {
			continue
		}
		var parts []string
		for i := range spec.params {
			parts = append(parts, strconv.FormatUint(uint64(uint32(v.stack[i])), 10))
		}
		return strings.Join(parts, ", ")
	}
	return ""
}

// returned is the result of the callback that has ended, if it has one.
func (v *instance) returned(fn api.Function) string {
	if fn == nil || len(fn.Definition().ResultTypes()) == 0 {
		return ""
	}
	return ": " + strconv.FormatUint(uint64(uint32(v.stack[0])), 10)
}

//go:build wasip1 && !tinygo

package main

import (
	"errors"
	"unsafe"

	"switchyard/filter"
)

// This file binds the plugin to a Proxy-Wasm host, ABI 0.2.0, for the standard Go compiler: hostcalls, callbacks, and what
// has to be remembered between them. RATIONALE.md says why there is no SDK.
//
// A pointer that a hostcall fills in is a variable of this package, so that nothing is allocated for it.

// roots are the plugin contexts of this VM. Streams belong to the first one, but for those in owners: a VM rarely has
// more than one plugin.
var (
	roots   = map[uint32]*plugin{}
	firstID uint32
	first   *plugin
	owners  = map[uint32]*plugin{}
)

func owner(stream uint32) *plugin {
	if len(owners) > 0 {
		if p := owners[stream]; p != nil {
			return p
		}
	}
	return first
}

//go:wasmexport proxy_abi_version_0_2_0
func abiVersion() {}

//go:wasmexport proxy_on_vm_start
func onVMStart(_, _ uint32) uint32 { return 1 }

//go:wasmexport proxy_on_context_create
func onContextCreate(id, root uint32) {
	switch {
	case root == 0:
		roots[id] = &plugin{}
		if first == nil {
			first, firstID = roots[id], id
		}
	case root != firstID:
		owners[id] = roots[root]
	}
}

//go:wasmexport proxy_on_configure
func onConfigure(root, size uint32) uint32 {
	text, err := "", error(nil)
	if size > 0 {
		text, err = result(proxyGetBufferBytes(bufferPluginConfiguration, 0, size, &resultData, &resultSize))
	}
	if p := roots[root]; p != nil && p.start([]byte(text), err) {
		return 1
	}
	return 0
}

//go:wasmexport proxy_on_request_headers
func onRequestHeaders(id, _, _ uint32) uint32 {
	if owner(id).requestHeaders(id) {
		return actionPause
	}
	return actionContinue
}

//go:wasmexport proxy_on_response_headers
func onResponseHeaders(id, _, _ uint32) uint32 {
	owner(id).responseHeaders(id)
	return actionContinue
}

// onLog ends a stream. There is no proxy_on_delete, which hosts would call for each stream as well: what it frees is one
// old configuration for each change of it.
//
//go:wasmexport proxy_on_log
func onLog(id uint32) {
	owner(id).end(id)
	if len(owners) > 0 {
		delete(owners, id)
	}
}

// allocated is the memory that the host asked for last and puts the result of the hostcall at hand into.
var allocated []byte

//go:wasmexport proxy_on_memory_allocate
func onMemoryAllocate(size uint32) unsafe.Pointer {
	allocated = make([]byte, max(size, 1))
	return unsafe.Pointer(unsafe.SliceData(allocated))
}

const (
	actionContinue            = 0
	actionPause               = 1
	bufferPluginConfiguration = 7
	metricCounter             = 0
)

// resultData, resultSize and metricID are where the host writes results.
var resultData, resultSize, metricID uint32

// result takes what the host returned in memory that it had from onMemoryAllocate.
func result(s status) (string, error) {
	b := allocated
	allocated = nil
	switch {
	case s != 0:
		return "", s
	case resultSize == 0:
		return "", nil
	case uintptr(resultData) != uintptr(unsafe.Pointer(unsafe.SliceData(b))) || int(resultSize) > len(b):
		return "", errors.New("the host returned memory that it was not given")
	}
	return unsafe.String(unsafe.SliceData(b), resultSize), nil
}

// status is what a hostcall returned. As an error it is nil for 0.
type status uint32

// failed returns nil for the status OK, and otherwise the status.
func (s status) failed() error {
	if s == 0 {
		return nil
	}
	return s
}

func (s status) Error() string {
	for i, name := range [...]string{"ok", "not found", "bad argument", "serialization failure", "parse failure",
		"bad expression", "invalid memory access", "empty", "cas mismatch", "result mismatch", "internal failure",
		"broken connection", "unimplemented"} {
		if i == int(s) {
			return name
		}
	}
	return "unknown status"
}

func log(level logLevel, text string) { proxyLog(level, data(text), size(text)) }

func hasHeader(m mapType, name string) bool {
	s := proxyGetHeaderMapValue(m, data(name), size(name), &resultData, &resultSize)
	allocated = nil
	return s == 0
}

func readHeaders(m mapType, fields filter.HeaderMap) (filter.HeaderMap, error) {
	pairs, err := result(proxyGetHeaderMapPairs(m, &resultData, &resultSize))
	if err != nil {
		return fields, err
	}
	return appendPairs(fields, pairs)
}

func setHeader(m mapType, name, value string) error {
	return proxyReplaceHeaderMapValue(m, data(name), size(name), data(value), size(value)).failed()
}

func removeHeader(m mapType, name string) error {
	return proxyRemoveHeaderMapValue(m, data(name), size(name)).failed()
}

func sendResponse(code int, headers []filter.Field, body string) error {
	const noGRPCStatus = -1
	pairs := encodePairs(headers)
	return proxySendLocalResponse(uint32(code), nil, 0, data(body), size(body), unsafe.SliceData(pairs), uint32(len(pairs)),
		noGRPCStatus).failed()
}

func getProperty(object, name string) (string, error) {
	path := object + "\x00" + name
	return result(proxyGetProperty(data(path), size(path), &resultData, &resultSize))
}

func setProperty(name, value string) error {
	return proxySetProperty(data(name), size(name), data(value), size(value)).failed()
}

func callForeign(name string) error {
	_, err := result(proxyCallForeignFunction(data(name), size(name), nil, 0, &resultData, &resultSize))
	return err
}

func defineCounter(name string) (uint32, error) {
	s := proxyDefineMetric(metricCounter, data(name), size(name), &metricID)
	return metricID, s.failed()
}

func incrementCounter(id uint32) { proxyIncrementMetric(id, 1) }

func data(s string) *byte { return unsafe.StringData(s) }

func size(s string) uint32 { return uint32(len(s)) }

//go:wasmimport env proxy_log
//go:noescape
func proxyLog(level logLevel, text *byte, size uint32) status

//go:wasmimport env proxy_get_header_map_value
//go:noescape
func proxyGetHeaderMapValue(m mapType, name *byte, nameSize uint32, value, valueSize *uint32) status

//go:wasmimport env proxy_get_header_map_pairs
//go:noescape
func proxyGetHeaderMapPairs(m mapType, pairs, pairsSize *uint32) status

//go:wasmimport env proxy_replace_header_map_value
//go:noescape
func proxyReplaceHeaderMapValue(m mapType, name *byte, nameSize uint32, value *byte, valueSize uint32) status

//go:wasmimport env proxy_remove_header_map_value
//go:noescape
func proxyRemoveHeaderMapValue(m mapType, name *byte, nameSize uint32) status

//go:wasmimport env proxy_send_local_response
//go:noescape
func proxySendLocalResponse(code uint32, details *byte, detailsSize uint32, body *byte, bodySize uint32, headers *byte,
	headersSize uint32, grpcStatus int32) status

//go:wasmimport env proxy_get_buffer_bytes
//go:noescape
func proxyGetBufferBytes(buffer, start, length uint32, bytes, bytesSize *uint32) status

//go:wasmimport env proxy_get_property
//go:noescape
func proxyGetProperty(path *byte, pathSize uint32, value, valueSize *uint32) status

//go:wasmimport env proxy_set_property
//go:noescape
func proxySetProperty(path *byte, pathSize uint32, value *byte, valueSize uint32) status

//go:wasmimport env proxy_call_foreign_function
//go:noescape
func proxyCallForeignFunction(name *byte, nameSize uint32, argument *byte, argumentSize uint32, result, resultSize *uint32) status

//go:wasmimport env proxy_define_metric
//go:noescape
func proxyDefineMetric(kind uint32, name *byte, nameSize uint32, id *uint32) status

//go:wasmimport env proxy_increment_metric
//go:noescape
func proxyIncrementMetric(id uint32, offset int64) status

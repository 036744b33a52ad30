package vm

import "switchyard/hostsim/abi"

// HeaderMap is a header map as Envoy keeps it: lower-case names, pseudo
// headers first, wire order, inline headers joined.
//
// Names that reach it may be in any case. A name or value passed to a method
// may be a view of guest memory: an implementation that keeps it copies it.
// Returned strings are valid until the map is next changed.
type HeaderMap interface {
	Len() int
	At(i int) (name, value string)
	Get(name string) (value string, ok bool) // the first of several pairs
	Add(name, value string)                  // an inline header is joined with ","
	Replace(name, value string)              // removes all of that name, adds at the end
	Remove(name string)                      // removes all of that name
	Clear()                                  // removes everything
}

// Buffer is a body or data buffer of the stream in the current callback.
type Buffer interface {
	Bytes() []byte
	// Replace puts value in the place of length bytes from start; both are
	// already clamped to the buffer.
	Replace(start, length int, value []byte)
}

// Stream is what a stream context acts on: the data plane's side of one HTTP
// filter on one stream, or of a network filter on one connection, and which of
// Continue's and Close's directions it heeds depends on that. Its methods are called while a callback of any context
// of the same VM runs, because a guest may choose the context that hostcalls
// act on; SendLocalResponse, Continue and Close right after that callback, in
// the order in which the guest asked for them, as Envoy does it. They may lead
// to further callbacks.
type Stream interface {
	// HeaderMap returns nil where the current phase has no such map.
	HeaderMap(abi.MapType) HeaderMap
	// HeaderMapWritable says whether the current phase may change it: for
	// proxy_on_log it is one in which the guest may read more than that.
	HeaderMapWritable(abi.MapType) bool
	// Buffer returns nil where the current phase has no such buffer.
	Buffer(abi.BufferType) Buffer
	// ClearRouteCache makes the next filter or the router match the route anew.
	ClearRouteCache()
	// Property reads an attribute; path segments are separated by NUL.
	Property(path string) ([]byte, abi.Status)
	// SetProperty writes filter state "wasm."+path.
	SetProperty(path string, value []byte) abi.Status
	SendLocalResponse(status uint32, details string, body []byte, headers [][2]string, grpcStatus int32)
	Continue(abi.StreamType)
	Close(abi.StreamType)
}

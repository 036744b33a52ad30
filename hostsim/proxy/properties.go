package proxy

import (
	"encoding/binary"
	"net"
	"strconv"
	"strings"

	"switchyard/hostsim/abi"
)

// Property reads an attribute as Envoy encodes it: strings as they are,
// integers and times as 8 bytes little endian, booleans as one byte, maps as
// serialised pairs.
func (w *wasmFilter) Property(path string) ([]byte, abi.Status) {
	s := w.stream
	root, rest, nested := strings.Cut(strings.TrimSuffix(path, "\x00"), "\x00")
	if v, ok := s.filterState["wasm."+path]; ok && !isAttributeRoot(root) {
		return []byte(v.text), abi.StatusOK
	}
	if !nested {
		switch root {
		case "request", "source", "destination", "connection", "response", "upstream", "xds", "filter_state":
			return nil, abi.StatusSerializationFailure
		}
		return nil, abi.StatusNotFound
	}
	var v any
	switch root {
	case "request":
		v = s.requestProperty(rest)
	case "response":
		v = s.responseProperty(rest)
	case "source":
		v = addressProperty(s.clientAddress(), rest)
	case "destination":
		v = addressProperty(s.conn.local, rest)
	case "connection":
		switch rest {
		case "id":
			v = s.conn.id
		default:
			v = s.conn.tlsProperty(rest)
		}
	case "upstream":
		if s.responseBegun || s.response.Len() > 0 {
			switch rest {
			case "address":
				v = nonEmpty(s.upstreamHost)
			}
		}
	case "xds":
		v = s.xdsProperty(rest)
	case "filter_state":
		if value, ok := s.filterState[rest]; ok {
			v = value.text
		}
	}
	switch v := v.(type) {
	case string:
		return []byte(v), abi.StatusOK
	case bool:
		if v {
			return []byte{1}, abi.StatusOK
		}
		return []byte{0}, abi.StatusOK
	case int64:
		return binary.LittleEndian.AppendUint64(nil, uint64(v)), abi.StatusOK
	case uint64:
		return binary.LittleEndian.AppendUint64(nil, v), abi.StatusOK
	case *Headers:
		return abi.AppendPairs(nil, v), abi.StatusOK
	}
	return nil, abi.StatusNotFound
}

// isAttributeRoot says that a name is not the guest's to shadow.
func isAttributeRoot(name string) bool {
	switch name {
	case "request", "response", "source", "destination", "connection", "upstream", "xds", "filter_state", "metadata":
		return true
	}
	return false
}

func nonEmpty(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func (s *stream) requestProperty(name string) any {
	h := &s.request
	if header, ok := strings.CutPrefix(name, "headers\x00"); ok {
		if v, ok := h.joined(canonical(header)); ok {
			return v
		}
		return nil
	}
	path, query, _ := strings.Cut(h.value(":path"), "?")
	switch name {
	case "path":
		return h.value(":path")
	case "url_path":
		return path
	case "query":
		return query
	case "host":
		return h.value(":authority")
	case "scheme":
		return h.value(":scheme")
	case "method":
		return h.value(":method")
	case "headers":
		return h
	case "referer":
		return nonEmpty(h.value("referer"))
	case "useragent":
		return nonEmpty(h.value("user-agent"))
	case "id":
		return nonEmpty(h.value("x-request-id"))
	case "protocol":
		return s.protocol
	case "time":
		return s.start.UnixNano()
	case "size":
		if n, ok := contentLength(h.value("content-length")); ok {
			return n
		}
		return s.bytesReceived.Load()
	case "total_size":
		return s.bytesReceived.Load() + int64(h.byteSize())
	}
	return nil
}

func (s *stream) responseProperty(name string) any {
	if s.response.Len() == 0 {
		return nil
	}
	if header, ok := strings.CutPrefix(name, "headers\x00"); ok {
		if v, ok := s.response.joined(s.response.canonical(header)); ok {
			return v
		}
		return nil
	}
	switch name {
	case "code":
		return int64(s.status)
	case "code_details":
		return nonEmpty(s.details)
	case "headers":
		return &s.response
	case "size":
		return s.bytesSent.Load()
	}
	return nil
}

func addressProperty(address, name string) any {
	switch name {
	case "address":
		return address
	case "port":
		if _, port, err := net.SplitHostPort(address); err == nil {
			n, _ := strconv.ParseInt(port, 10, 64)
			return n
		}
	}
	return nil
}

func (s *stream) xdsProperty(name string) any {
	r := s.findRoute()
	if r == nil {
		return nil
	}
	switch name {
	case "route_name":
		return r.name
	case "virtual_host_name":
		return r.virtualHost.name
	case "cluster_name":
		return nonEmpty(r.cluster)
	}
	return nil
}

package proxy

import (
	"encoding/binary"
	"net"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"switchyard/hostsim/abi"
)

// Property reads an attribute as Envoy encodes it: strings as they are,
// integers and times as 8 bytes little endian, booleans as one byte, maps as
// serialised pairs.
func (w *wasmFilter) Property(path string) ([]byte, abi.Status) {
	s := w.stream
	if v, ok := s.conn.server.options.harness.property(path); ok {
		return v, abi.StatusOK
	}
	root, rest, nested := strings.Cut(strings.TrimSuffix(path, "\x00"), "\x00")
	if !nested {
		// What a guest has set under a path of several names nobody finds again.
		if v, ok := s.filterState["wasm."+root]; ok && !isAttributeRoot(root) {
			return []byte(v.text), abi.StatusOK
		}
		switch root {
		case "request", "source", "destination", "connection", "response", "upstream", "xds", "filter_state":
			return nil, abi.StatusSerializationFailure
		case "metadata":
			return encodeAttribute(s.dynamicMetadata())
		case "connection_id":
			return binary.LittleEndian.AppendUint64(nil, s.conn.id), abi.StatusOK
		}
		return nil, abi.StatusNotFound
	}
	var v any
	switch root {
	case "request":
		v = s.requestProperty(rest, w.request.headers || w.logging, w.logging)
	case "response":
		v = s.responseProperty(rest, w.response.headers || w.logging)
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
		v = s.upstreamProperty(rest)
	case "metadata":
		v = inside(s.dynamicMetadata(), rest)
	case "xds":
		name, deeper, nested := strings.Cut(rest, "\x00")
		if v = s.xdsProperty(name); nested {
			v = inside(v, deeper)
		} else if v == nil && strings.HasPrefix(name, "upstream_host_") && s.xdsHost(name) {
			return nil, abi.StatusSerializationFailure
		}
	case "filter_state":
		if value, ok := s.filterState[rest]; ok && !strings.Contains(rest, "\x00") {
			v = value.text
		}
	}
	return encodeAttribute(v)
}

// isAttributeRoot says that a name is not the guest's to shadow.
func isAttributeRoot(name string) bool {
	switch name {
	case "request", "response", "source", "destination", "connection", "upstream", "xds", "filter_state", "metadata", "connection_id":
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

// requestProperty gives what is known of the request. Envoy knows its fields
// only while the plugin can reach their map.
func (s *stream) requestProperty(name string, fields, over bool) any {
	h := &s.request
	switch name {
	case "protocol":
		return nonEmpty(s.protocol)
	case "time":
		return s.start.UnixNano()
	case "size":
		if n, ok := contentLength(h.value("content-length")); ok && fields {
			return n
		}
		return s.bytesReceived.Load()
	case "total_size":
		n := s.bytesReceived.Load()
		if fields {
			n += int64(h.byteSize())
		}
		return n
	case "duration":
		if over {
			return int64(time.Since(s.start))
		}
		return nil
	}
	if !fields {
		if name == "headers" || name == "headers\x00" {
			return &Headers{}
		}
		return nil
	}
	if name == "headers\x00" {
		return h
	}
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
	}
	return nil
}

func (s *stream) upstreamProperty(name string) any {
	switch name {
	case "request_attempt_count":
		return uint64(s.attempts)
	case "address":
		return nonEmpty(s.upstreamHost)
	case "port":
		if s.upstreamHost != "" {
			return addressProperty(s.upstreamHost, "port")
		}
	case "local_address":
		if up := s.lastUpstream; up != nil {
			return up.LocalAddr().String()
		}
	case "transport_failure_reason":
		if s.upstreamHost != "" {
			return ""
		}
	}
	return nil
}

// responseProperty is requestProperty for the response.
func (s *stream) responseProperty(name string, fields bool) any {
	h := &s.response
	if !fields {
		h = &Headers{}
	}
	switch name {
	case "flags":
		return flagBits(s.flags)
	case "size":
		return s.bytesSent.Load()
	case "total_size":
		return s.bytesSent.Load() + int64(h.byteSize()) + int64(s.responseTrailers.byteSize())
	case "headers", "headers\x00":
		return h
	case "trailers", "trailers\x00":
		return &s.responseTrailers
	}
	if trailer, ok := strings.CutPrefix(name, "trailers\x00"); ok {
		if v, ok := s.responseTrailers.joined(canonical(trailer)); ok {
			return v
		}
		return nil
	}
	if s.response.Len() == 0 {
		return nil
	}
	if header, ok := strings.CutPrefix(name, "headers\x00"); ok {
		if v, ok := h.joined(canonical(header)); ok {
			return v
		}
		return nil
	}
	code := s.status
	if code == 0 {
		code, _ = strconv.Atoi(s.response.value(":status"))
	}
	switch name {
	case "code":
		return int64(code)
	case "code_details":
		return s.details
	case "grpc_status":
		if n, err := strconv.ParseInt(s.response.value("grpc-status"), 10, 32); err == nil {
			return n
		}
		return grpcOfHTTP(code)
	}
	return nil
}

// grpcOfHTTP is the gRPC status that an HTTP status stands for
// (Grpc::Utility::httpToGrpcStatus).
func grpcOfHTTP(code int) int64 {
	switch code {
	case 400:
		return 13
	case 401:
		return 16
	case 403:
		return 7
	case 404:
		return 12
	case 429, 502, 503, 504:
		return 14
	}
	return 2
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

// xdsProperty gives what the configuration says of where a stream is. What it
// says in messages is nil where it says nothing.
func (s *stream) xdsProperty(name string) any {
	switch name {
	case "filter_chain_name":
		return s.hcm.filterChain
	case "listener_metadata":
		return orEmpty(s.hcm.listenerMetadata)
	case "listener_direction":
		return int64(s.hcm.direction)
	case "node":
		return s.conn.server.node
	case "upstream_host_metadata":
		if s.host != nil && s.host.metadata != nil {
			return s.host.metadata
		}
		return nil
	case "upstream_host_locality_metadata":
		if s.host != nil && s.host.localityMetadata != nil {
			return s.host.localityMetadata
		}
		return nil
	}
	r := s.findRoute()
	if s.hcm.tcp != nil && s.clusterName != "" {
		switch name {
		case "cluster_name":
			return s.clusterName
		case "cluster_metadata":
			return ""
		}
	}
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
	case "virtual_host_metadata":
		return orEmpty(r.virtualHost.metadata)
	case "route_metadata":
		return orEmpty(r.metadata)
	case "cluster_metadata":
		if c := s.conn.server.clusters[s.clusterName]; c != nil {
			return orEmpty(c.metadata)
		}
	}
	return nil
}

// xdsHost says that a name stands for a message of the host that is not there,
// but could be.
func (s *stream) xdsHost(name string) bool {
	return s.upstreamHost != "" && (name == "upstream_host_metadata" || name == "upstream_host_locality_metadata")
}

func orEmpty(m *corev3.Metadata) *corev3.Metadata {
	if m == nil {
		return &corev3.Metadata{}
	}
	return m
}

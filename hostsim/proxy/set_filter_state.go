package proxy

import (
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	statev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_filter_state/v3"
)

// setFilterState is envoy.filters.http.set_filter_state.
type setFilterState struct {
	passive
	stream  *stream
	factory *setFilterStateFactory
}

type setFilterStateFactory struct {
	headersOnly
	name   string
	values *stateValues
}

// stateValues are what is put into the filter state.
type stateValues struct {
	values     []stateValue
	clearRoute bool
}

type stateValue struct {
	key         string
	kind        stateKind
	format      *substitution
	skipIfEmpty bool
}

func (f *setFilterStateFactory) newFilter(s *stream) httpFilter {
	return &setFilterState{stream: s, factory: f}
}

// decodeHeaders applies the filter's own values and then those of the route.
func (f *setFilterState) decodeHeaders(bool) status {
	f.stream.applyState(f.factory.values)
	if v, ok := f.stream.filterConfig(f.factory.name).(*stateValues); ok {
		f.stream.applyState(v)
	}
	return goOn
}

func (s *stream) applyState(v *stateValues) {
	for i := range v.values {
		e := &v.values[i]
		if text := e.format.text(s); e.kind != stateSilent && (text != "" || !e.skipIfEmpty) {
			s.setState(e.key, stateObject{text: text, kind: e.kind})
		}
	}
	if v.clearRoute {
		s.clearRoute()
	}
}

// ---- from the configuration

// objectFactories are the kinds of objects that Envoy makes of text and that
// are simulated. Others have effects beyond being read again.
var objectFactories = map[string]stateKind{
	"envoy.string":                             stateString,
	"envoy.hashable_string":                    stateString,
	"envoy.tcp_proxy.cluster":                  stateOpaque,
	"envoy.network.upstream_server_name":       stateOpaque,
	"envoy.network.application_protocols":      stateSilent,
	"envoy.network.upstream_subject_alt_names": stateSilent,
}

// otherFactories are registered in Envoy and not simulated.
var otherFactories = map[string]bool{
	"envoy.network.transport_socket.original_dst_address": true, "envoy.ratelimit.hits_addend": true,
	"envoy.upstream.dynamic_host": true, "envoy.upstream.dynamic_port": true, "envoy.tcp_proxy.disable_tunneling": true,
	"envoy.tcp_proxy.per_connection_idle_timeout_ms": true, "envoy.filters.listener.original_dst.local_ip": true,
	"envoy.filters.listener.original_dst.remote_ip": true, "envoy.network.network_namespace": true,
	"envoy.network.ip": true,
}

func (b *builder) stateValues(path string, c *statev3.Config) (*stateValues, error) {
	v := &stateValues{clearRoute: c.GetClearRouteCache()}
	for i, c := range c.GetOnRequestHeaders() {
		path := at(path, "on_request_headers", i)
		value := stateValue{skipIfEmpty: c.GetSkipIfEmpty()}
		if value.key = c.GetObjectKey(); value.key == "" {
			return nil, b.boot.Errorf(path+".object_key", "is required")
		}
		factory, field := c.GetFactoryKey(), "factory_key"
		if factory == "" {
			factory, field = value.key, "object_key"
		}
		var known bool
		switch value.kind, known = objectFactories[factory]; {
		case otherFactories[factory]:
			return nil, b.boot.Unsupported(path+"."+field, "the object factory "+factory)
		case !known:
			return nil, b.boot.Errorf(path+"."+field, "%q does not have an object factory: set factory_key: envoy.string", factory)
		}
		if c.GetSharedWithUpstream() != commonv3.FilterStateValue_NONE && value.kind != stateString || factory == "envoy.hashable_string" && c.GetSharedWithUpstream() != commonv3.FilterStateValue_NONE {
			// The others choose the connection.
			return nil, b.boot.Unsupported(path+".shared_with_upstream", "filter state of "+factory+" that is shared with the upstream")
		}
		var err error
		if value.format, err = b.substitution(path+".format_string", c.GetFormatString()); err != nil {
			return nil, err
		}
		v.values = append(v.values, value)
	}
	return v, nil
}

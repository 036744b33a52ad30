package admin

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"switchyard/hostsim/proxy"
)

// configDump is /config_dump.
func (h *handler) configDump(p params) response {
	plain := func(status int, body string) response {
		return response{Status: status, ContentType: "text/plain", Body: []byte(body), First: [][2]string{{"x-content-type-options", "nosniff"}}}
	}
	pattern, _ := p.get("name_regex")
	names, err := regexp.Compile("^(?:" + pattern + ")$")
	if err != nil {
		_, err = regexp.Compile(pattern)
		r := plain(400, fmt.Sprintf("INVALID_ARGUMENT: Error while parsing name_regex from %s: %s", pattern, re2Error(err)))
		r.First = nil
		return r
	}
	dumps, err := h.dumps(func(name string) bool { return pattern == "" || names.MatchString(name) }, p.has("include_eds"))
	if err != nil {
		return plain(500, err.Error())
	}
	mask, masked := p.get("mask")
	resource, one := p.get("resource")
	var list []proto.Message
	switch {
	case one:
		field, elements := find(dumps, resource)
		if field == nil {
			return plain(404, resource+" not found in config dump")
		}
		if !field.IsList() {
			return plain(400, resource+" is not a repeated field. Use ?mask="+resource+" to get only this field")
		}
		for _, m := range elements {
			if masked {
				if m, err = trimmed(m, maskTree(mask)); err != nil {
					return plain(400, "FieldMask paths: \""+mask+"\"\n could not be successfully used.")
				}
			}
			list = append(list, m)
		}
	case masked:
		for _, m := range dumps {
			if m, err := trimmed(m, maskTree(mask)); err == nil {
				list = append(list, m)
			}
		}
		if list == nil {
			return plain(400, "FieldMask "+mask+" could not be successfully applied to any configs.")
		}
	default:
		list = dumps
	}
	var dump adminv3.ConfigDump
	for _, m := range list {
		m = proto.Clone(m)
		redact(m.ProtoReflect(), false)
		a, err := anypb.New(m)
		if err != nil {
			return plain(500, err.Error())
		}
		dump.Configs = append(dump.Configs, a)
	}
	return message(&dump, false)
}

// dumps are the configurations by kind, in Envoy's order, with what has a name
// that is wanted.
func (h *handler) dumps(wanted func(name string) bool, endpoints bool) ([]proto.Message, error) {
	updated := timestamppb.New(h.started.Truncate(1e6))
	boot := proto.Clone(h.options.Bootstrap).(*bootstrapv3.Bootstrap)
	boot.Node = h.node()
	static := boot.GetStaticResources()

	clusters := &adminv3.ClustersConfigDump{}
	byName := slices.SortedFunc(slices.Values(static.GetClusters()), func(a, b *clusterv3.Cluster) int { return strings.Compare(a.GetName(), b.GetName()) })
	for _, c := range byName {
		if !wanted(c.GetName()) {
			continue
		}
		a, err := anypb.New(c)
		if err != nil {
			return nil, err
		}
		clusters.StaticClusters = append(clusters.StaticClusters, &adminv3.ClustersConfigDump_StaticCluster{Cluster: a, LastUpdated: updated})
	}
	listeners, routes := &adminv3.ListenersConfigDump{}, &adminv3.RoutesConfigDump{}
	for _, l := range static.GetListeners() {
		a, err := anypb.New(l)
		if err != nil {
			return nil, err
		}
		if wanted(l.GetName()) {
			listeners.StaticListeners = append(listeners.StaticListeners, &adminv3.ListenersConfigDump_StaticListener{Listener: a, LastUpdated: updated})
		}
		for _, chain := range l.GetFilterChains() {
			for _, f := range chain.GetFilters() {
				var m hcmv3.HttpConnectionManager
				if f.GetTypedConfig().UnmarshalTo(&m) != nil || m.GetRouteConfig() == nil || !wanted(m.GetRouteConfig().GetName()) {
					continue
				}
				a, err := anypb.New(m.GetRouteConfig())
				if err != nil {
					return nil, err
				}
				routes.StaticRouteConfigs = append(routes.StaticRouteConfigs, &adminv3.RoutesConfigDump_StaticRouteConfig{RouteConfig: a, LastUpdated: updated})
			}
		}
	}
	all := []proto.Message{&adminv3.BootstrapConfigDump{Bootstrap: boot, LastUpdated: updated}, clusters}
	if endpoints {
		dump, err := h.endpointDump(wanted)
		if err != nil {
			return nil, err
		}
		all = append(all, dump)
	}
	return append(all, listeners, &adminv3.ScopedRoutesConfigDump{}, routes, &adminv3.SecretsConfigDump{}), nil
}

// endpointDump is the hosts that there are now.
func (h *handler) endpointDump(wanted func(name string) bool) (*adminv3.EndpointsConfigDump, error) {
	dump := &adminv3.EndpointsConfigDump{}
	for _, c := range h.server.Clusters() {
		if !wanted(c.Name) {
			continue
		}
		load := &endpointv3.ClusterLoadAssignment{ClusterName: c.Name, Policy: &endpointv3.ClusterLoadAssignment_Policy{OverprovisioningFactor: wrapperspb.UInt32(140)}}
		for _, x := range c.Hosts {
			i := slices.IndexFunc(load.Endpoints, func(l *endpointv3.LocalityLbEndpoints) bool {
				return l.Priority == uint32(x.Priority) && l.Locality.GetRegion() == x.Region && l.Locality.GetZone() == x.Zone && l.Locality.GetSubZone() == x.SubZone
			})
			if i < 0 {
				i = len(load.Endpoints)
				load.Endpoints = append(load.Endpoints, &endpointv3.LocalityLbEndpoints{
					Locality: &corev3.Locality{Region: x.Region, Zone: x.Zone, SubZone: x.SubZone}, Priority: uint32(x.Priority), LoadBalancingWeight: wrapperspb.UInt32(0),
				})
			}
			load.Endpoints[i].LbEndpoints = append(load.Endpoints[i].LbEndpoints, lbEndpoint(x))
		}
		a, err := anypb.New(load)
		if err != nil {
			return nil, err
		}
		dump.StaticEndpointConfigs = append(dump.StaticEndpointConfigs, &adminv3.EndpointsConfigDump_StaticEndpointConfig{EndpointConfig: a})
	}
	return dump, nil
}

func lbEndpoint(x proxy.HostStatus) *endpointv3.LbEndpoint {
	return &endpointv3.LbEndpoint{
		HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
			Address: socketAddress(x.Address), HealthCheckConfig: &endpointv3.Endpoint_HealthCheckConfig{}, Hostname: x.Hostname,
		}},
		Metadata:            x.Metadata,
		HealthStatus:        corev3.HealthStatus(corev3.HealthStatus_value[x.Health]),
		LoadBalancingWeight: wrapperspb.UInt32(x.Weight),
	}
}

// find looks for a field among the fields of the dumps and returns its
// elements, if it is a list.
func find(dumps []proto.Message, name string) (protoreflect.FieldDescriptor, []proto.Message) {
	for _, dump := range dumps {
		m := dump.ProtoReflect()
		field := m.Descriptor().Fields().ByName(protoreflect.Name(name))
		if field == nil {
			continue
		}
		var elements []proto.Message
		if field.IsList() {
			list := m.Get(field).List()
			for i := range list.Len() {
				elements = append(elements, list.Get(i).Message().Interface())
			}
		}
		return field, elements
	}
	return nil, nil
}

// tree is a field mask: fields by name, and what is wanted of each; nothing
// means all of it.
type tree map[string]tree

func maskTree(mask string) tree {
	root := tree{}
	for path := range strings.SplitSeq(mask, ",") {
		at := root
		for name := range strings.SplitSeq(path, ".") {
			if at[name] == nil {
				at[name] = tree{}
			}
			at = at[name]
		}
	}
	return root
}

var errNoField = errors.New("the message has no such field")

// trimmed returns what the mask leaves of a message. What an Any contains is
// masked as if it stood there itself.
func trimmed(m proto.Message, mask tree) (proto.Message, error) {
	from := m.ProtoReflect()
	to := from.New()
	for name, below := range mask {
		field := from.Descriptor().Fields().ByName(protoreflect.Name(name))
		if field == nil || len(below) > 0 && (field.Message() == nil || field.IsList() || field.IsMap()) {
			return nil, errNoField
		}
		if !from.Has(field) {
			continue
		}
		if len(below) == 0 {
			to.Set(field, from.Get(field))
			continue
		}
		inner := from.Get(field).Message().Interface()
		a, isAny := inner.(*anypb.Any)
		if isAny {
			var err error
			if inner, err = a.UnmarshalNew(); err != nil {
				return nil, err
			}
		}
		part, err := trimmed(inner, below)
		if err != nil {
			return nil, err
		}
		if isAny {
			if part, err = anypb.New(part); err != nil {
				return nil, err
			}
		}
		to.Set(field, protoreflect.ValueOfMessage(part.ProtoReflect()))
	}
	return to.Interface(), nil
}

package patch

import (
	"slices"
	"strconv"
	"strings"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	networking "istio.io/api/networking/v1alpha3"
)

// clusters patches the clusters, each by itself, and adds the new ones, those of the outbound context first.
func (a *application) clusters(static *bootstrapv3.Bootstrap_StaticResources) {
	static.Clusters = slices.DeleteFunc(static.GetClusters(), func(c *clusterv3.Cluster) bool {
		context := networking.EnvoyFilter_GATEWAY
		if a.proxy.sidecar {
			context = networking.EnvoyFilter_SIDECAR_OUTBOUND
			if strings.HasPrefix(c.GetName(), "inbound|") || c.GetName() == "InboundPassthroughCluster" {
				context = networking.EnvoyFilter_SIDECAR_INBOUND
			}
		}
		return a.cluster(context, c)
	})
	contexts := a.proxy.contexts()
	slices.Reverse(contexts)
	for _, context := range contexts {
		for _, p := range a.patches[networking.EnvoyFilter_CLUSTER] {
			if p.is(add) && p.adds(context) {
				static.Clusters = append(static.Clusters, proto.Clone(p.value).(*clusterv3.Cluster))
				p.applied = true
			}
		}
	}
}

// cluster patches one cluster and reports whether it is to be removed.
func (a *application) cluster(context networking.EnvoyFilter_PatchContext, c *clusterv3.Cluster) (removed bool) {
	for _, p := range a.patches[networking.EnvoyFilter_CLUSTER] {
		if !p.is(remove, merge, mergeReplace) || !p.inContext(context) || !p.matchesCluster(c) {
			continue
		}
		if p.is(remove) {
			p.applied = true
			return true
		}
		socket := p.value.(*clusterv3.Cluster).GetTransportSocket()
		if socket == nil {
			mergeInto(p.operation, c, p.value)
			p.applied = true
			continue
		}
		there := c.GetTransportSocket()
		if matches := c.GetTransportSocketMatches(); len(matches) > 0 {
			at := slices.IndexFunc(matches, func(m *clusterv3.Cluster_TransportSocketMatch) bool {
				return m.GetTransportSocket().GetName() == socket.GetName()
			})
			if at < 0 {
				a.warn(p, "does nothing to the cluster %q: it has transport_socket_matches, and none is named %q", c.GetName(), socket.GetName())
				p.idle = true
				continue
			}
			there = matches[at].GetTransportSocket()
		}
		if there.GetName() != socket.GetName() || there == nil {
			if populated(p.value) > 1 {
				a.warn(p, "only transport_socket is taken: Istio takes nothing else of a patch of a cluster that has one, give it a patch of its own")
			}
			c.TransportSocket = proto.Clone(socket).(*corev3.TransportSocket)
			p.applied = true
			continue
		}
		merged, ok := a.transportSocket(p, there, socket, "cluster")
		if !ok {
			return false
		}
		p.applied = p.applied || merged
	}
	return false
}

func (p *patch) matchesCluster(c *clusterv3.Cluster) bool {
	m := p.match.GetCluster()
	if m == nil {
		return true
	}
	if m.GetName() != "" {
		return m.GetName() == c.GetName() || p.miss(noCluster, c.GetName())
	}
	key := subsetOf(c.GetName())
	if m.GetSubset() != "" && m.GetSubset() != key.subset ||
		m.GetService() != "" && m.GetService() != key.host ||
		m.GetPortNumber() != 0 && int(m.GetPortNumber()) != key.port {
		return p.miss(noCluster, c.GetName())
	}
	return true
}

// subsetKey is what Istio puts in the name of a cluster.
type subsetKey struct {
	port         int
	subset, host string
}

// subsetOf takes direction|port|subset|host apart, or direction_.port_.subset_.host; what is missing stays empty.
func subsetOf(name string) subsetKey {
	separator := "|"
	if strings.HasPrefix(name, "outbound_") || strings.HasPrefix(name, "inbound_") {
		separator = "_."
	}
	var key subsetKey
	parts := strings.Split(name, separator)
	if len(parts) > 2 {
		key.port, _ = strconv.Atoi(parts[1])
	}
	if len(parts) > 3 {
		key.subset = parts[2]
	}
	if len(parts) == 4 {
		key.host = parts[3]
	}
	return key
}

// populated is the number of fields of a message that are set, its name not counted.
func populated(m proto.Message) int {
	n := 0
	m.ProtoReflect().Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if fd.Name() != "name" {
			n++
		}
		return true
	})
	return n
}

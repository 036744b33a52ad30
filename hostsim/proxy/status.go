package proxy

import (
	"cmp"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// ClusterStatus is what /clusters says of a cluster.
type ClusterStatus struct {
	Name     string
	StatName string // the name in stats
	Limits   [2]Limits
	Hosts    []HostStatus
}

// Limits are the circuit breakers of one routing priority, default or high.
type Limits struct{ Connections, Pending, Requests, Retries int64 }

// HostStatus is what /clusters says of a host.
type HostStatus struct {
	Address, Hostname     string
	Region, Zone, SubZone string
	Weight                uint32
	Priority              int
	Healthy               bool
	Flags                 []string         // why not, in Envoy's words
	Health                string           // in those of the EDS API
	Metadata              *corev3.Metadata // nil: there is none
	Canary                bool
	Connections           int64
	ActiveConnections     int64
	ConnectFailures       int64
	Requests              int64
	ActiveRequests        int64
	Pending               int64
	Succeeded, Failed     int64
	TimedOut              int64
}

// Clusters says how the clusters are, in the order of their names.
func (s *Server) Clusters() []ClusterStatus {
	var all []ClusterStatus
	for _, c := range s.clusters {
		c.dropDead()
		status := ClusterStatus{Name: c.name, StatName: c.statName}
		for i := range c.breakers {
			b := &c.breakers[i]
			status.Limits[i] = Limits{b.maxConnections, b.maxPending, b.maxRequests, b.maxRetries}
		}
		for _, h := range c.hosts.Load().all {
			status.Hosts = append(status.Hosts, h.status())
		}
		all = append(all, status)
	}
	slices.SortFunc(all, func(a, b ClusterStatus) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

func (h *host) status() HostStatus {
	n := &h.stats
	s := HostStatus{
		Address: h.dialAddress(), Hostname: h.hostname, Region: h.locality.GetRegion(), Zone: h.locality.GetZone(), SubZone: h.locality.GetSubZone(),
		Weight: h.weight, Priority: h.priority, Health: "HEALTHY", Canary: h.label("canary").GetBoolValue(),
		Connections: n.connections.Load(), ActiveConnections: n.activeConnections.Load(), ConnectFailures: n.connectFail.Load(),
		Requests: n.requests.Load(), ActiveRequests: h.active.Load(), Pending: n.pending.Load(),
		Succeeded: n.succeeded.Load(), Failed: n.failed.Load(), TimedOut: n.timedOut.Load(),
	}
	if s.Metadata = h.metadata; s.Metadata == nil && h.cluster.resolver != nil {
		s.Metadata = &corev3.Metadata{}
	}
	switch h.health {
	case unhealthy:
		s.Health, s.Flags = "UNHEALTHY", []string{"/failed_eds_health"}
	case degraded:
		s.Health, s.Flags = "DEGRADED", []string{"/degraded_eds_health"}
	case excluded:
		s.Health, s.Flags = "DRAINING", []string{"/eds_status_draining"}
	}
	s.Healthy = s.Flags == nil
	return s
}

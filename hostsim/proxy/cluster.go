package proxy

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	upstreamhttpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// cluster is a named set of endpoints.
type cluster struct {
	name, statName string
	alias          string          // what logs call it
	ctx            context.Context // ends with the server
	connectTimeout time.Duration
	idleTimeout    time.Duration // of an idle connection; 0: none
	maxUses        int           // requests for each connection; 0: any number
	maxLife        time.Duration // of a connection; 0: any
	codec          codecOptions
	protocol       upstreamProtocol
	tls            *transportSocket
	http2          http2Options
	http2Stats     func() *http2Stats
	// The most that a response head may have, in bytes and fields.
	maxResponseHead, maxResponseFields int
	breakers                           [2]breaker // by routing priority
	metadata                           *corev3.Metadata
	stats                              *clusterStats
	dialer                             net.Dialer
	maintained                         condition // upstream.maintenance_mode; nil: never
	maintenance                        *Stat
	connectionIDs                      *atomic.Uint64 // of all clusters

	endpoints     []endpoint // as configured
	balancing     balancing
	hosts         atomic.Pointer[hostSet]
	resolver      *resolver // nil for STATIC
	resolverStats *serverStats
}

// endpoint is an entry of the load assignment. One endpoint may have several
// hosts, if it is a name.
type endpoint struct {
	name, port string
	hostname   string
	weight     uint32
	health     health
	priority   int
	locality   *corev3.Locality
	metadata   *corev3.Metadata
	// of all endpoints in the place
	localityMetadata *corev3.Metadata
}

// host is one address with its connection pools, one for each routing
// priority.
type host struct {
	*endpoint
	cluster *cluster
	address string
	current atomic.Pointer[string] // where LOGICAL_DNS connects to now
	active  atomic.Int64           // requests
	stats   hostStats
	raw     [2]pool // of connections without HTTP, for connect_config
	pools   [4]pool // by routing priority, and two more for HTTP/2 clients (use_downstream_protocol_config)
	named   namedPools
}

func (c *cluster) newHost(e endpoint, address string) *host {
	h := &host{endpoint: &e, cluster: c, address: address}
	c.stats.matched.Add(1) // by the transport socket that there is
	for i := range h.pools {
		h.pools[i].host, h.pools[i].breaker, h.pools[i].http2 = h, &c.breakers[i%2], i >= 2
	}
	for i := range h.raw {
		h.raw[i].host, h.raw[i].breaker, h.raw[i].raw = h, &c.breakers[i], true
	}
	return h
}

func (h *host) dialAddress() string {
	if a := h.current.Load(); a != nil {
		return *a
	}
	return h.address
}

// label is what the host is marked with for subsets (envoy.lb).
func (h *host) label(key string) *structpb.Value {
	return h.endpoint.metadata.GetFilterMetadata()["envoy.lb"].GetFields()[key]
}

// eachPool calls f with every pool that there is now.
func (c *cluster) eachPool(f func(*pool)) {
	for _, h := range c.hosts.Load().all {
		for i := range h.pools {
			f(&h.pools[i])
		}
		for i := range h.raw {
			f(&h.raw[i])
		}
		h.named.each(f)
	}
}

// dropDead closes the idle connections that their peers have closed.
func (c *cluster) dropDead() { c.eachPool((*pool).dropDead) }

func (c *cluster) close() { c.eachPool((*pool).close) }

// setHosts makes requests from now on use these hosts. Those that are gone
// keep the requests that they have.
func (c *cluster) setHosts(hosts []*host) {
	next := c.balancing.hostSet(hosts, c.stats)
	before := c.hosts.Swap(next)
	keep := map[*host]bool{}
	for _, h := range hosts {
		keep[h] = true
	}
	if before != nil {
		for _, h := range before.all {
			if !keep[h] {
				for i := range h.pools {
					h.pools[i].close()
				}
				for i := range h.raw {
					h.raw[i].close()
				}
				h.named.each((*pool).close)
			}
		}
	}
	s, changed := c.stats, false
	for p := range max(next.last(), before.last()) + 1 { // Envoy counts for each priority
		if !slices.Equal(next.at(p), before.at(p)) {
			s.membershipChange.Add(1)
			changed = true
		}
	}
	if !changed {
		return
	}
	if c.resolver != nil && !c.resolver.logical {
		heaviest := uint32(1)
		for _, h := range hosts {
			heaviest = max(heaviest, h.weight)
		}
		s.maxWeight.Set(int64(heaviest))
	}
	s.membershipTotal.Set(int64(len(hosts)))
	s.membershipHealthy.Set(int64(next.count(healthy)))
	s.membershipDegraded.Set(int64(next.count(degraded)))
	s.membershipExcluded.Set(int64(next.count(excluded)))
}

func (b *builder) cluster(path string, c *clusterv3.Cluster) (*cluster, error) {
	cl := &cluster{
		name:           c.GetName(),
		ctx:            b.background,
		connectTimeout: 5 * time.Second,
		idleTimeout:    time.Hour,
		maxUses:        int(c.GetMaxRequestsPerConnection().GetValue()),

		maxResponseHead: 80 << 10, maxResponseFields: 100,

		metadata:      c.GetMetadata(),
		connectionIDs: &b.server.connectionIDs,
		statName:      statName(c),
		alias:         cmp.Or(c.GetAltStatName(), c.GetName()),
	}
	cl.stats = newClusterStats(&b.server.Stats, "cluster."+cl.statName+".")
	if c.GetConnectTimeout() != nil {
		cl.connectTimeout = c.GetConnectTimeout().AsDuration()
	}
	var err error
	if err := b.connectionOptions(path, cl, c); err != nil {
		return nil, err
	}
	if cl.tls, err = b.upstreamTLS(path+".transport_socket", c.GetTransportSocket(), "cluster."+cl.statName+"."); err != nil {
		return nil, err
	}
	if err := b.clusterProtocol(path, cl, c); err != nil {
		return nil, err
	}
	cl.circuitBreakers(c.GetCircuitBreakers().GetThresholds())
	for i, priority := range []string{"default", "high"} {
		key, br := "circuit_breakers."+cl.name+"."+priority+".", &cl.breakers[i]
		for name, most := range map[string]*int64{
			"max_connections": &br.maxConnections, "max_pending_requests": &br.maxPending,
			"max_requests": &br.maxRequests, "max_retries": &br.maxRetries,
		} {
			*most = int64(b.runtime.number(key+name, uint64(*most)))
		}
	}
	if share := b.runtime.fraction("upstream.maintenance_mode."+cl.name, nil); share != nil {
		cl.maintained = fraction(share)
		cl.maintenance = b.server.Stats.Stat("cluster." + cl.statName + ".upstream_rq_maintenance_mode")
	}
	cl.stats.circuitBreakers(&b.server.Stats, cl, c.GetCircuitBreakers().GetThresholds())
	b.server.Stats.beforeRead(cl.dropDead)
	if err := b.endpoints(path+".load_assignment", cl, c); err != nil {
		return nil, err
	}
	if c, err = b.policyOf(path, c); err != nil {
		return nil, err
	}
	if cl.balancing, err = b.balancing(path, c); err != nil {
		return nil, err
	}
	var hosts []*host
	if c.GetType() == clusterv3.Cluster_STATIC {
		for _, e := range cl.endpoints {
			hosts = append(hosts, cl.newHost(e, net.JoinHostPort(e.name, e.port)))
		}
	} else {
		b.server.dnsStats()
		if c.GetType() == clusterv3.Cluster_STRICT_DNS {
			cl.stats.maxWeight.Set(1)
		}
		cl.resolverStats = &b.server.stats
		cl.resolver = &resolver{cluster: cl, logical: c.GetType() == clusterv3.Cluster_LOGICAL_DNS, family: c.GetDnsLookupFamily(), refresh: defaultRefresh}
		if d := c.GetDnsRefreshRate(); d != nil {
			cl.resolver.refresh = d.AsDuration()
		}
	}
	cl.setHosts(hosts)
	return cl, nil
}

// connectionOptions reads from where connections are made, and how they are
// kept alive.
func (b *builder) connectionOptions(path string, cl *cluster, c *clusterv3.Cluster) error {
	if a := c.GetUpstreamBindConfig().GetSourceAddress(); a != nil {
		path := path + ".upstream_bind_config.source_address"
		ip, err := netip.ParseAddr(a.GetAddress())
		if err != nil {
			return b.boot.Errorf(path+".address", "malformed IP address: %s", a.GetAddress())
		}
		cl.dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, uint16(a.GetPortValue())))
	}
	if k := c.GetUpstreamConnectionOptions().GetTcpKeepalive(); k != nil {
		seconds := func(v *wrapperspb.UInt32Value) time.Duration { return time.Duration(v.GetValue()) * time.Second }
		cl.dialer.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Count: int(k.GetKeepaliveProbes().GetValue()),
			Idle: seconds(k.GetKeepaliveTime()), Interval: seconds(k.GetKeepaliveInterval())}
	}
	return nil
}

// statName is the cluster's name in stats.
func statName(c *clusterv3.Cluster) string {
	name := []byte(c.GetName())
	if c.GetAltStatName() != "" {
		name = []byte(c.GetAltStatName())
	}
	for i := range name {
		if name[i] == ':' {
			name[i] = '_'
		}
	}
	return string(name)
}

// clusterProtocol reads the options for HTTP/1.1, of which there are two
// spellings.
func (b *builder) clusterProtocol(path string, cl *cluster, c *clusterv3.Cluster) error {
	options, http1 := c.GetCommonHttpProtocolOptions(), c.GetHttpProtocolOptions()
	http1Path := path + ".http_protocol_options"
	const name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
	for key, a := range c.GetTypedExtensionProtocolOptions() {
		path := path + ".typed_extension_protocol_options[" + strconv.Quote(key) + "]"
		msg, err := b.boot.Unpack(a, path)
		if err != nil {
			return err
		}
		typed, ok := msg.(*upstreamhttpv3.HttpProtocolOptions)
		if !ok || key != name {
			return b.boot.Unsupported(path, "protocol options other than "+name)
		}
		if err := b.upstreamProtocol(path, cl, typed); err != nil {
			return err
		}
		if cl.tls != nil {
			cl.tls.autoSNI = typed.GetUpstreamHttpProtocolOptions().GetAutoSni()
			cl.tls.autoSAN = typed.GetUpstreamHttpProtocolOptions().GetAutoSanValidation()
		}
		options, http1 = typed.GetCommonHttpProtocolOptions(), typed.GetExplicitHttpConfig().GetHttpProtocolOptions()
		http1Path = path + ".explicit_http_config.http_protocol_options"
		switch o := typed.GetUpstreamProtocolOptions().(type) {
		case *upstreamhttpv3.HttpProtocolOptions_UseDownstreamProtocolConfig:
			http1, http1Path = o.UseDownstreamProtocolConfig.GetHttpProtocolOptions(), path+".use_downstream_protocol_config.http_protocol_options"
		case *upstreamhttpv3.HttpProtocolOptions_AutoConfig:
			http1, http1Path = o.AutoConfig.GetHttpProtocolOptions(), path+".auto_config.http_protocol_options"
		}
	}
	var err error
	if cl.codec, err = b.codecOptions(http1Path, http1); err != nil {
		return err
	}
	cl.maxLife = options.GetMaxConnectionDuration().AsDuration()
	if v := options.GetMaxHeadersCount(); v != nil {
		cl.maxResponseFields = int(v.GetValue())
	}
	if v := options.GetMaxResponseHeadersKb(); v != nil {
		cl.maxResponseHead = int(v.GetValue()) << 10
	}
	if v := options.GetIdleTimeout(); v != nil {
		cl.idleTimeout = v.AsDuration()
	}
	if v := options.GetMaxRequestsPerConnection(); v != nil {
		cl.maxUses = int(v.GetValue())
	}
	return nil
}

// circuitBreakers reads the thresholds.
func (c *cluster) circuitBreakers(all []*clusterv3.CircuitBreakers_Thresholds) {
	for i := range c.breakers {
		b, t := &c.breakers[i], thresholdsOf(all, i)
		b.maxConnections = int64(limitOf(t.GetMaxConnections(), 1024))
		b.maxPending = int64(limitOf(t.GetMaxPendingRequests(), 1024))
		b.maxRequests = int64(limitOf(t.GetMaxRequests(), 1024))
		b.maxRetries = int64(limitOf(t.GetMaxRetries(), 3))
		if v := t.GetRetryBudget(); v != nil {
			b.budget = &retryBudget{percent: 20, least: int64(limitOf(v.GetMinRetryConcurrency(), 3))}
			if v.GetBudgetPercent() != nil {
				b.budget.percent = v.GetBudgetPercent().GetValue()
			}
		}
	}
}

// thresholdsOf gives those of a priority, the first if there are several, nil
// if there are none.
func thresholdsOf(all []*clusterv3.CircuitBreakers_Thresholds, priority int) *clusterv3.CircuitBreakers_Thresholds {
	for _, t := range all {
		if int(t.GetPriority()) == priority {
			return t
		}
	}
	return nil
}

// endpoints reads the load assignment.
func (b *builder) endpoints(path string, cl *cluster, c *clusterv3.Cluster) error {
	static := c.GetType() == clusterv3.Cluster_STATIC
	for i, locality := range c.GetLoadAssignment().GetEndpoints() {
		for j, e := range locality.GetLbEndpoints() {
			path := at(at(path, "endpoints", i), "lb_endpoints", j)
			address := e.GetEndpoint().GetAddress()
			if _, err := b.socketAddress(path+".endpoint.address.socket_address", address); err != nil {
				return err
			}
			sa := address.GetSocketAddress()
			if static && net.ParseIP(sa.GetAddress()) == nil {
				return b.boot.Errorf(path+".endpoint.address.socket_address.address", "%q is no IP address: a cluster of type STATIC takes only those (STRICT_DNS resolves names)", sa.GetAddress())
			}
			ep := endpoint{
				name: sa.GetAddress(), port: strconv.Itoa(int(sa.GetPortValue())),
				hostname: e.GetEndpoint().GetHostname(),
				weight:   1,
				health:   healthOf(e.GetHealthStatus()),
				priority: int(locality.GetPriority()),
				locality: locality.GetLocality(),
				metadata: e.GetMetadata(), localityMetadata: locality.GetMetadata(),
			}
			if ep.hostname == "" && !static {
				ep.hostname = sa.GetAddress()
			}
			if w := e.GetLoadBalancingWeight(); w != nil {
				ep.weight = w.GetValue()
			}
			cl.endpoints = append(cl.endpoints, ep)
		}
	}
	if c.GetType() == clusterv3.Cluster_LOGICAL_DNS && len(cl.endpoints) != 1 {
		return b.boot.Errorf(path, "LOGICAL_DNS clusters must have a single locality_lb_endpoint and a single lb_endpoint, this one has %d", len(cl.endpoints))
	}
	return nil
}

func healthOf(s corev3.HealthStatus) health {
	switch s {
	case corev3.HealthStatus_UNHEALTHY, corev3.HealthStatus_TIMEOUT:
		return unhealthy
	case corev3.HealthStatus_DRAINING:
		return excluded
	case corev3.HealthStatus_DEGRADED:
		return degraded
	}
	return healthy
}

package proxy

import (
	"errors"
	"math/rand/v2"
	"time"

	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"

	"switchyard/hostsim/vm"
)

// tcpProxy is the network filter that connects a client to an upstream
// (tcp_proxy.cc).
type tcpProxy struct {
	clusters    []tcpCluster
	weights     uint64 // of all of them; 0: there is one
	attempts    int    // to connect
	idle        time.Duration
	longest     time.Duration // 0: a session may last for ever
	accessLogs  []*accessLog
	logStart    bool
	logUpstream bool

	total, noRoute, idleTimeouts, tooLong, flushes *Stat
}

type tcpCluster struct {
	name   string
	end    uint64 // where its share of the weights ends
	labels labels
}

// route chooses a cluster; where there are no weights a filter may have done so.
func (p *tcpProxy) route(s *session) *tcpCluster {
	if p.weights == 0 {
		s.mu.Lock()
		defer s.mu.Unlock()
		if o, ok := s.info.filterState["envoy.tcp_proxy.cluster"]; ok {
			return &tcpCluster{name: o.text}
		}
	} else {
		n := rand.Uint64N(p.weights)
		for i := range p.clusters {
			if n < p.clusters[i].end {
				return &p.clusters[i]
			}
		}
	}
	return &p.clusters[0]
}

// serveTCP is the life of a connection that ends in a tcp_proxy.
func (c *connection) serveTCP() {
	p := c.chain.tcp
	begun := time.Now()
	c.listener.stats.opened(c.worker)
	p.total.Add(1)
	defer func() {
		c.Close()
		c.in.forgetRead()
		c.listener.stats.closed(c.worker, time.Since(begun))
		c.server.forget(c)
	}()
	if c.shakeHands() != nil {
		return
	}
	s := c.newSession()
	s.run(func() bool { return p.connect(s) })
	p.log(s, "TcpConnectionEnd")
}

func (p *tcpProxy) log(s *session, kind string) {
	s.info.logType = kind
	for _, l := range p.accessLogs {
		l.write(s.info)
	}
}

// connect is the filter's part in a new connection: it connects to an upstream,
// as often as it may.
func (p *tcpProxy) connect(s *session) bool {
	info := s.info
	info.streamID = newRequestID()
	info.timers.idle = p.idle
	info.timers.touch()
	if p.longest > 0 {
		info.timers.whole = info.start.Add(p.longest)
	}
	if p.logStart {
		p.log(s, "TcpConnectionStart")
	}
	for {
		up, again := p.attempt(s)
		switch {
		case up != nil:
			s.up = up
			s.conn.stream.upstream.Store(up)
			info.lastUpstream, info.upstreamMeter.used = up, up
			if p.logUpstream {
				p.log(s, "TcpUpstreamConnected")
			}
			info.timers.touch()
			s.connected(&up.in, &up.peeker, up)
			return true
		case !again:
			return false
		}
	}
}

// Why a session has no upstream (TcpProxy::UpstreamFailureReason).
const (
	connectFailed = "0"
	noneHealthy   = "1"
	tooMany       = "2"
	noCluster     = "3"
)

// attempt tries to connect once. Without a connection the session is closed, or
// it may be tried again.
func (p *tcpProxy) attempt(s *session) (up *upstreamConn, again bool) {
	info := s.info
	fail := func(why, flag string) (*upstreamConn, bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.closing == 0 {
			info.flags = withFlag(info.flags, flag)
		}
		s.close(closeNow, vm.ClosedHere, "tcp_initializion_failure:"+why)
		return nil, false
	}
	to := p.route(s)
	c := s.conn.server.clusters[to.name]
	if c == nil {
		p.noRoute.Add(1)
		return fail(noCluster, "NC")
	}
	info.clusterName = c.name
	if b := &c.breakers[0]; b.connections.Load() >= b.maxConnections {
		c.stats.cxOverflow.Add(1)
		return fail(tooMany, "UO")
	}
	h := c.pick(choice{labels: to.labels, hash: rand.Uint64(), attempts: 1})
	if h == nil {
		c.stats.cxNoneHealthy.Add(1)
		return fail(noneHealthy, "UH")
	}
	info.attempts++
	info.retry.tried = append(info.retry.tried, h)
	up, err := h.raw[0].connectFor(s)
	info.upstreamHost, info.host = h.address, h
	var failure *connectError
	switch {
	case err == nil:
		return up, false
	case !errors.As(err, &failure): // the session is over
		if !errors.Is(err, errOverflow) && !errors.Is(err, errQueueFull) {
			info.upstreamHost, info.host = "", nil
			return nil, false
		}
	default:
		info.upstreamMeter.failure = failure.why()
		if info.flags == "" {
			info.flags = "UF"
		}
	}
	if info.attempts < p.attempts {
		return nil, true
	}
	c.stats.cxAttemptsExceeded.Add(1)
	return fail(connectFailed, "URX")
}

// connectFor gives the session a connection of its own.
func (p *pool) connectFor(s *session) (*upstreamConn, error) {
	w := &waiter{given: make(chan given, 1)}
	p.mu.Lock()
	err := p.enqueue(w)
	p.mu.Unlock()
	if err != nil {
		return nil, err
	}
	for {
		if g, is := s.sleep(&s.response, w.given); is {
			return g.conn, g.err
		}
		if s.over() {
			return nil, p.leave(w, errDownstream)
		}
	}
}

// ---- from the configuration

func (b *builder) tcpProxy(path string, c *tcpv3.TcpProxy) (*tcpProxy, *hcm, error) {
	p := &tcpProxy{attempts: limitOf(c.GetMaxConnectAttempts(), 1), idle: time.Hour, longest: c.GetMaxDownstreamConnectionDuration().AsDuration()}
	if d := c.GetIdleTimeout(); d != nil {
		p.idle = d.AsDuration()
	}
	p.logStart, p.logUpstream = c.GetAccessLogOptions().GetFlushAccessLogOnStart(), c.GetAccessLogOptions().GetFlushAccessLogOnConnected()
	wanted := labelsOf(c.GetMetadataMatch().GetFilterMetadata()["envoy.lb"])
	switch spec := c.GetClusterSpecifier().(type) {
	case *tcpv3.TcpProxy_Cluster:
		p.clusters = []tcpCluster{{name: spec.Cluster, labels: wanted}}
	case *tcpv3.TcpProxy_WeightedClusters:
		for _, one := range spec.WeightedClusters.GetClusters() {
			p.weights += uint64(one.GetWeight())
			p.clusters = append(p.clusters, tcpCluster{one.GetName(), p.weights, wanted.with(labelsOf(one.GetMetadataMatch().GetFilterMetadata()["envoy.lb"]))})
		}
	}
	var err error
	if p.accessLogs, err = b.accessLogs(path, "access_log", c.GetAccessLog()); err != nil {
		return nil, nil, err
	}
	stats, prefix := &b.server.Stats, "tcp."+c.GetStatPrefix()+"."
	stat := func(name string) *Stat { return stats.Stat(prefix + name) }
	p.total, p.noRoute, p.idleTimeouts = stat("downstream_cx_total"), stat("downstream_cx_no_route"), stat("idle_timeout")
	stats.zero(prefix, "downstream_cx_drain_close", "downstream_cx_overload_close", "downstream_flow_control_paused_reading_total",
		"downstream_flow_control_resumed_reading_total", "early_data_received_count_total", "route_delayed_total")
	stats.zeroGauges(prefix, "downstream_cx_tx_bytes_buffered", "upstream_flush_active")
	p.tooLong, p.flushes = stat("max_downstream_connection_duration"), stat("upstream_flush_total")
	m := &hcm{server: b.server, tcp: p}
	m.stats.bytesReceived, m.stats.bytesSent = stat("downstream_cx_rx_bytes_total"), stat("downstream_cx_tx_bytes_total")
	m.stats.bytesBuffered = stats.Gauge(prefix + "downstream_cx_rx_bytes_buffered")
	return p, m, nil
}

package proxy

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// cluster is a named set of endpoints with one HTTP/1.1 connection pool each.
type cluster struct {
	name           string
	connectTimeout time.Duration
	random         bool
	limits         limits

	static []string // host:port as configured
	hosts  atomic.Pointer[[]*host]
	next   atomic.Uint32

	// What the circuit breakers count, over all hosts.
	connections, pending, requests atomic.Int64
}

// limits are the circuit breaker thresholds of the default priority.
type limits struct{ connections, pending, requests int64 }

// host is one endpoint and its idle connections, the latest last.
type host struct {
	cluster *cluster
	address string

	mu      sync.Mutex
	idle    []*upstreamConn
	waiting []chan *upstreamConn
}

// upstreamConn is a connection of a pool, owned by one request at a time.
type upstreamConn struct {
	net.Conn
	host *host
	in   input
	out  []byte

	// For alive, made once.
	raw  syscall.RawConn
	peek func(fd uintptr) bool
	one  [1]byte
	open bool

	early    []byte           // what goes upstream behind a 101
	uploaded chan *localReply // how the upload ended, where one runs
}

var errOverflow = errors.New("overflow")

// connectError is a connection that could not be made.
type connectError struct{ timeout bool }

func (e *connectError) Error() string {
	if e.timeout {
		return "connection timeout"
	}
	return "remote connection failure"
}

// pick chooses an endpoint.
func (c *cluster) pick() *host {
	hosts := *c.hosts.Load()
	if len(hosts) == 0 {
		return nil
	}
	if c.random {
		return hosts[rand.IntN(len(hosts))]
	}
	return hosts[int(c.next.Add(1)-1)%len(hosts)]
}

// acquire gives a connection for one request: an idle one, a new one, or,
// where max_connections are open, the next that is given back before the
// deadline.
func (c *cluster) acquire(h *host, deadline time.Time) (*upstreamConn, error) {
	if c.requests.Load() >= c.limits.requests {
		return nil, errOverflow
	}
	if conn := h.takeIdle(); conn != nil {
		c.requests.Add(1)
		return conn, nil
	}
	if c.connections.Add(1) > c.limits.connections {
		c.connections.Add(-1)
		return c.wait(h, deadline)
	}
	conn, err := h.dial(deadline)
	if err != nil {
		c.connections.Add(-1)
		return nil, err
	}
	c.requests.Add(1)
	return conn, nil
}

func (h *host) dial(deadline time.Time) (*upstreamConn, error) {
	timeout := h.cluster.connectTimeout
	if left := time.Until(deadline); !deadline.IsZero() && left < timeout {
		timeout = left
	}
	conn, err := net.DialTimeout("tcp", h.address, timeout)
	if err != nil {
		var ne net.Error
		return nil, &connectError{timeout: errors.As(err, &ne) && ne.Timeout()}
	}
	up := &upstreamConn{Conn: conn, host: h}
	up.in.conn = conn
	up.peek = up.peekFD
	if up.raw, err = conn.(syscall.Conn).SyscallConn(); err != nil {
		conn.Close()
		return nil, &connectError{}
	}
	return up, nil
}

// wait stands in the pending queue.
func (c *cluster) wait(h *host, deadline time.Time) (*upstreamConn, error) {
	if c.pending.Add(1) > c.limits.pending {
		c.pending.Add(-1)
		return nil, errOverflow
	}
	defer c.pending.Add(-1)
	given := make(chan *upstreamConn, 1)
	h.mu.Lock()
	h.waiting = append(h.waiting, given)
	h.mu.Unlock()
	var expired <-chan time.Time
	if !deadline.IsZero() {
		t := time.NewTimer(time.Until(deadline))
		defer t.Stop()
		expired = t.C
	}
	select {
	case conn := <-given:
		if conn == nil { // a connection was closed: its place is ours
			return c.acquire(h, deadline)
		}
		c.requests.Add(1)
		return conn, nil
	case <-expired:
		h.mu.Lock()
		for i, w := range h.waiting {
			if w == given {
				h.waiting = append(h.waiting[:i], h.waiting[i+1:]...)
				h.mu.Unlock()
				return nil, errTimeout
			}
		}
		h.mu.Unlock()
		if conn := <-given; conn != nil {
			conn.giveBack()
		}
		return nil, errTimeout
	}
}

// takeIdle returns an idle connection that the peer has not closed meanwhile.
func (h *host) takeIdle() *upstreamConn {
	for {
		h.mu.Lock()
		n := len(h.idle)
		if n == 0 {
			h.mu.Unlock()
			return nil
		}
		conn := h.idle[n-1]
		h.idle[n-1] = nil
		h.idle = h.idle[:n-1]
		h.mu.Unlock()
		if conn.alive() {
			return conn
		}
		conn.discard()
	}
}

// alive peeks: an idle connection has nothing to say unless it was closed.
func (u *upstreamConn) alive() bool {
	if len(u.in.buffered()) > 0 {
		return false
	}
	u.open = false
	err := u.raw.Read(u.peek)
	return err == nil && u.open
}

// peekFD looks whether something, or the end, waits to be read.
func (u *upstreamConn) peekFD(fd uintptr) bool {
	_, _, err := syscall.Recvfrom(int(fd), u.one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	u.open = err == syscall.EAGAIN
	return true
}

// giveBack ends a request whose connection can serve another one.
func (u *upstreamConn) giveBack() {
	u.SetDeadline(time.Time{})
	h := u.host
	h.mu.Lock()
	if len(h.waiting) > 0 {
		next := h.waiting[0]
		h.waiting = h.waiting[1:]
		h.mu.Unlock()
		next <- u
		return
	}
	h.idle = append(h.idle, u)
	h.mu.Unlock()
}

// discard closes the connection and lets the next in the queue dial.
func (u *upstreamConn) discard() {
	u.Close()
	h := u.host
	h.cluster.connections.Add(-1)
	h.mu.Lock()
	if len(h.waiting) > 0 {
		next := h.waiting[0]
		h.waiting = h.waiting[1:]
		h.mu.Unlock()
		next <- nil
		return
	}
	h.mu.Unlock()
}

func (c *cluster) closeIdle() {
	for _, h := range *c.hosts.Load() {
		for conn := h.takeIdle(); conn != nil; conn = h.takeIdle() {
			conn.discard()
		}
	}
}

// resolve fills the endpoints of a STRICT_DNS cluster, now and every 5 s, as
// Envoy's dns_refresh_rate does by default.
func (c *cluster) resolve(ctx context.Context) {
	const refresh = 5 * time.Second
	known := map[string]*host{}
	lookup := func() {
		var hosts []*host
		for _, address := range c.static {
			name, port, _ := net.SplitHostPort(address)
			ips, err := net.DefaultResolver.LookupHost(ctx, name)
			if err != nil {
				continue // Envoy keeps what it had, too
			}
			for _, ip := range ips {
				a := net.JoinHostPort(ip, port)
				if known[a] == nil {
					known[a] = &host{cluster: c, address: a}
				}
				hosts = append(hosts, known[a])
			}
		}
		if hosts != nil {
			c.hosts.Store(&hosts)
		}
	}
	lookup()
	go func() {
		tick := time.NewTicker(refresh)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				lookup()
			case <-ctx.Done():
				return
			}
		}
	}()
}

func (b *builder) cluster(path string, c *clusterv3.Cluster) (*cluster, error) {
	cl := &cluster{
		name:           c.GetName(),
		connectTimeout: 5 * time.Second,
		random:         c.GetLbPolicy() == clusterv3.Cluster_RANDOM,
		limits:         limits{1024, 1024, 1024},
	}
	if c.GetConnectTimeout() != nil {
		cl.connectTimeout = c.GetConnectTimeout().AsDuration()
	}
	for _, t := range c.GetCircuitBreakers().GetThresholds() {
		if t.GetPriority() != corev3.RoutingPriority_DEFAULT {
			continue
		}
		if v := t.GetMaxConnections(); v != nil {
			cl.limits.connections = int64(v.GetValue())
		}
		if v := t.GetMaxPendingRequests(); v != nil {
			cl.limits.pending = int64(v.GetValue())
		}
		if v := t.GetMaxRequests(); v != nil {
			cl.limits.requests = int64(v.GetValue())
		}
	}
	var hosts []*host
	for i, locality := range c.GetLoadAssignment().GetEndpoints() {
		for j, e := range locality.GetLbEndpoints() {
			path := at(at(path+".load_assignment", "endpoints", i), "lb_endpoints", j) + ".endpoint.address.socket_address"
			address, err := b.socketAddress(path, e.GetEndpoint().GetAddress())
			if err != nil {
				return nil, err
			}
			if c.GetType() == clusterv3.Cluster_STATIC && net.ParseIP(e.GetEndpoint().GetAddress().GetSocketAddress().GetAddress()) == nil {
				return nil, b.boot.Errorf(path+".address", "%q is no IP address: a cluster of type STATIC takes only those (STRICT_DNS resolves names)", address)
			}
			cl.static = append(cl.static, address)
			hosts = append(hosts, &host{cluster: cl, address: address})
		}
	}
	if c.GetType() == clusterv3.Cluster_STRICT_DNS {
		hosts = nil
	}
	cl.hosts.Store(&hosts)
	return cl, nil
}

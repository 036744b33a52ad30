package proxy

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// This file is Envoy's HTTP/1.1 connection pool (conn_pool_base.cc): which
// request gets which connection, which ones wait, and which are refused.

// breaker holds the circuit breaker thresholds of one routing priority, and
// what they are compared with, over all hosts of the cluster.
type breaker struct {
	maxConnections, maxPending, maxRequests, maxRetries int64
	budget                                              *retryBudget // instead of maxRetries

	connections, pending, requests, retries resource
}

// retryBudget limits retries to a share of the requests under way.
type retryBudget struct {
	percent float64
	least   int64
}

// resource is what a circuit breaker limits.
type resource struct {
	atomic.Int64
	used atomic.Bool // ever
}

// take counts one more, unless there are as many as there may be.
func take(n *resource, most int64) bool {
	if n.Add(1) <= most {
		if !n.used.Load() {
			n.used.Store(true)
		}
		return true
	}
	n.Add(-1)
	return false
}

// mayRetry says whether one more retry may be under way.
func (b *breaker) mayRetry() bool {
	most := b.maxRetries
	if b.budget != nil {
		under := b.requests.Load() + b.pending.Load()
		most = max(b.budget.least, int64(b.budget.percent/100*float64(under)))
	}
	return b.retries.Load() < most
}

// pool is the connections to one host for one routing priority.
type pool struct {
	host    *host
	breaker *breaker
	raw     bool // its connections carry no HTTP

	mu         sync.Mutex
	idle       []*upstreamConn // the one used last at the end; it is used next
	clients    []*http2Client  // HTTP/2 connections
	waiting    []*waiter       // requests without a connection, the oldest first
	connecting int             // connections being made
	made       chan struct{}   // closed when the last of them is, or will not be
	open       int             // connections, also those being made
	sweeper    *time.Timer     // will look for connections idle too long; nil: nothing does
	closed     bool
	http2      bool   // it is HTTP/2 because the clients' is
	name       string // of the hosts of its requests, if that is of importance (auto_sni)
}

// waiter is a request in the pending queue. Whoever takes it out of the queue
// gives it a connection or an error, once.
type waiter struct{ given chan given }

type given struct {
	conn *upstreamConn
	err  error
}

// upstreamConn is a connection of a pool, owned by one request at a time.
type upstreamConn struct {
	net.Conn
	pool *pool
	host *host
	in   input
	out  []byte

	contentSent int64 // of the request under way
	uses        int   // requests so far
	old         bool  // max_connection_duration has passed
	life        *time.Timer
	id          uint64
	times       connectTimes
	sent        int64     // bytes
	idleSince   time.Time // when it was given back

	secure   *secure       // TLS, if there is any
	http2    *http2Stream  // what Conn is, if it is a stream of an HTTP/2 connection
	client   *http2Client  // the connection of that stream
	ends     bool          // the next flush is the last
	joined   bool          // ... whose end goes with its content
	headed   bool          // the head was all of the request
	trailers *Headers      // ... which end it
	behind   chan struct{} // closed when the request that waited before this one has sent its head; nil: none
	before   chan struct{} // the same for the next one

	peeker // an idle connection has nothing to say

	early    []byte           // what goes upstream behind a 101
	uploaded chan *localReply // how the upload ended, where one runs
}

var (
	errQueueFull = errors.New("overflow") // the pending queue is full
	errOverflow  = errors.New("overflow") // too many requests are under way
	errClosing   = errors.New("the server closes")
)

// connectError is a connection that could not be made.
type connectError struct {
	timeout bool
	local   bool   // the address to come from is none of ours
	cause   string // as strerror says it
	failure string // of TLS
}

func (e *connectError) Error() string {
	if e.timeout {
		return "connection timeout"
	}
	if e.local {
		return "local connection failure"
	}
	return "remote connection failure"
}

// why is the transport's reason; "" where there is none.
func (e *connectError) why() string {
	if e.cause != "" {
		return "delayed connect error: " + e.cause
	}
	return e.failure
}

// acquire gives a connection for the stream's request: an idle one, or the
// first that becomes free, be it one that is made for the request or one that
// another request gives back.
func (p *pool) acquire(s *stream) (*upstreamConn, error) {
	if p.breaker.connections.Load() >= p.breaker.maxConnections {
		p.host.cluster.dropDead() // Envoy hears of their end at once
	}
	var busy *upstreamConn // which is idle already, but would not be in Envoy
	p.mu.Lock()
	if h := p.idleClient(); h != nil {
		defer p.mu.Unlock()
		if err := p.attachStream(); err != nil {
			return nil, err
		}
		return h.open(), nil
	}
	for len(p.idle) > 0 {
		conn := p.popIdle()
		if conn.look() != nothing {
			p.drop(conn)
			continue
		}
		if s.callout != nil && s.callout.notYet == conn {
			busy = conn
			break
		}
		err := p.attach(conn)
		if err != nil {
			p.idle = append(p.idle, conn)
			conn = nil
		}
		p.mu.Unlock()
		return conn, err
	}
	w := &s.waiter
	if w.given == nil {
		w.given = make(chan given, 1)
	}
	err := p.enqueue(w)
	if busy != nil {
		p.ready(busy)
	}
	made, guests := p.made, s.callout != nil || s.unsettled.Load()
	p.mu.Unlock()
	if err != nil {
		return nil, err
	}
	s.settle()
	conn, err := p.await(s, w)
	if guests && conn != nil {
		// One that somebody else gave back was faster than the one that is being
		// made, which is there before the answer comes: Envoy uses the latest.
		select {
		case <-made:
		case <-time.After(patience):
		}
	}
	return conn, err
}

// enqueue puts a request into the pending queue, and sees to it that a
// connection is made. The lock is held.
func (p *pool) enqueue(w *waiter) error {
	stats := p.host.cluster.stats
	if !take(&p.breaker.pending, p.breaker.maxPending) {
		stats.pendingOverflow.Add(1)
		return errQueueFull
	}
	stats.pendingTotal.Add(1)
	stats.pendingActive.Add(1)
	p.host.stats.pending.Add(1)
	p.waiting = append(p.waiting, w)
	p.connect()
	return nil
}

// hasIdle says whether a request need not wait for a connection.
func (p *pool) hasIdle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle) > 0 && p.idle[len(p.idle)-1].look() == nothing
}

// abandoned is what becomes of a request that ends while it waits, in the turn
// of Envoy's event loop in which it has come: its connection is made all the
// same, for others.
func (p *pool) abandoned() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) > 0 || p.idleClient() != nil || p.breaker.pending.Load() >= p.breaker.maxPending {
		return
	}
	p.host.cluster.stats.pendingTotal.Add(1)
	p.host.cluster.stats.cancelled.Add(1)
	p.waiting = append(p.waiting, nil)
	p.connect()
	p.waiting = p.waiting[:len(p.waiting)-1]
}

// attach makes an idle or new connection serve a request. The lock is held.
func (p *pool) attach(conn *upstreamConn) error {
	stats := p.host.cluster.stats
	if !take(&p.breaker.requests, p.breaker.maxRequests) {
		stats.activeOverflow.Add(1)
		return errOverflow
	}
	p.host.active.Add(1)
	p.host.stats.requests.Add(1)
	stats.rqTotal.Add(1)
	stats.rqActive.Add(1)
	if conn.uses++; conn.last() {
		stats.cxMaxRequests.Add(1)
	}
	return nil
}

// last says that the connection serves no further request.
func (u *upstreamConn) last() bool {
	most := u.host.cluster.maxUses
	return u.old || most > 0 && u.uses >= most
}

// Close closes the connection.
func (u *upstreamConn) Close() error {
	if u.life != nil {
		u.life.Stop()
	}
	return u.Conn.Close()
}

// expire ends a connection that is as old as it may become, as soon as it is
// idle.
func (p *pool) expire(conn *upstreamConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	conn.old = true
	p.host.cluster.stats.cxMaxDuration.Add(1)
	if i := slices.Index(p.idle, conn); i >= 0 {
		p.idle = slices.Delete(p.idle, i, i+1)
		p.drop(conn)
	}
}

// connect makes connections until there are as many as requests that wait. A
// pool without any gets one whatever the circuit breaker says, so that its
// requests do not wait for ever. The lock is held.
func (p *pool) connect() {
	stats := p.host.cluster.stats
	for range 3 {
		if p.connecting*p.sharers() >= len(p.waiting) {
			return
		}
		allowed := take(&p.breaker.connections, p.breaker.maxConnections)
		if !allowed {
			stats.cxOverflow.Add(1)
			if p.open > 0 {
				return
			}
			p.breaker.connections.Add(1)
		}
		p.open++
		p.connecting++
		p.host.stats.connections.Add(1)
		p.host.stats.activeConnections.Add(1)
		stats.cxTotal.Add(1)
		switch {
		case p.host.cluster.protocol == upstreamAuto || p.raw:
		case p.shares():
			stats.cxHTTP2.Add(1)
			p.host.cluster.http2Stats().connections.Add(1)
		default:
			stats.cxHTTP1.Add(1)
			stats.http1()
		}
		stats.cxActive.Add(1)
		p.made = make(chan struct{})
		go p.dial(p.made)
		if !allowed {
			return
		}
	}
}

// dial makes one connection. If that fails, every request that waits fails.
func (p *pool) dial(made chan struct{}) {
	defer close(made)
	c := p.host.cluster
	ctx, cancel := context.WithTimeout(c.ctx, c.connectTimeout)
	defer cancel()
	up, err := p.host.dial(ctx, p)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.connecting--
	if err == nil {
		up.pool = p
		c.stats.connectTime.Record(uint64(up.times.made.Sub(up.times.begun).Milliseconds()))
		if !p.raw && p.speaksHTTP2(up) {
			if c.protocol == upstreamAuto {
				c.stats.cxHTTP2.Add(1)
				c.stats.cxTotal.Add(1)
				c.http2Stats().connections.Add(1)
			}
			p.clients = append(p.clients, p.newHTTP2Client(up))
			p.serveWaiting()
			p.connect()
			return
		}
		if !p.raw && c.protocol == upstreamAuto { // the others are counted already
			c.stats.cxHTTP1.Add(1)
			c.stats.cxTotal.Add(1) // Envoy counts it when the protocol is known, too
			c.stats.http1()
		}
		if c.maxLife > 0 {
			up.life = time.AfterFunc(c.maxLife, func() { p.expire(up) })
		}
		p.ready(up)
		return
	}
	p.forget()
	c.stats.cxConnectFail.Add(1)
	p.host.stats.connectFail.Add(1)
	if err.timeout {
		c.stats.cxConnectTimeout.Add(1)
	}
	if err.timeout || err.local {
		c.stats.destroyed(resetHere, false)
	} else {
		c.stats.destroyed(resetByPeer, false)
	}
	for _, w := range p.waiting {
		p.dequeued()
		c.stats.pendingEject.Add(1)
		w.given <- given{nil, err}
	}
	clear(p.waiting)
	p.waiting = p.waiting[:0]
}

func (h *host) dial(ctx context.Context, p *pool) (*upstreamConn, *connectError) {
	d := h.cluster.dialer
	begun := time.Now()
	conn, err := d.DialContext(ctx, "tcp", h.dialAddress())
	if err != nil {
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() || errors.Is(err, context.DeadlineExceeded) {
			return nil, &connectError{timeout: true}
		}
		var errno syscall.Errno
		if errors.As(err, &errno) {
			text := errno.Error() // strerror's, but for the first letter
			var call *os.SyscallError
			if errors.As(err, &call) && call.Syscall == "bind" {
				h.cluster.stats.bindErrors.Add(1)
				if c, err := new(net.Dialer).DialContext(ctx, "tcp", h.dialAddress()); err == nil {
					c.Close() // Envoy connects all the same, and closes at once
				}
				return nil, &connectError{local: true, failure: "failed to bind to " + d.LocalAddr.String() + ": " + strings.ToUpper(text[:1]) + text[1:]}
			}
			return nil, &connectError{cause: strings.ToUpper(text[:1]) + text[1:]}
		}
		return nil, &connectError{}
	}
	up := &upstreamConn{Conn: conn, host: h, id: h.cluster.connectionIDs.Add(1), times: connectTimes{begun, time.Now()}}
	up.in.conn, up.in.responses = conn, true
	up.in.received, up.in.buffering = h.cluster.stats.bytesReceived, h.cluster.stats.bytesBuffered
	if err := up.init(conn); err != nil {
		conn.Close()
		return nil, &connectError{}
	}
	if t := h.cluster.tls; t != nil {
		limit, _ := ctx.Deadline()
		s, err := t.dial(conn.(*net.TCPConn), p, limit)
		if err != nil {
			conn.Close()
			return nil, err
		}
		up.Conn, up.in.conn, up.secure = s, s, s
		up.peeker.secure, up.peeker.ahead = s, &up.in
	}
	return up, nil
}

// ready gives a connection to the request that has waited longest, or keeps
// it. The lock is held.
func (p *pool) ready(conn *upstreamConn) {
	for len(p.waiting) > 0 {
		w := p.waiting[0]
		p.waiting = append(p.waiting[:0], p.waiting[1:]...)
		p.dequeued()
		if err := p.attach(conn); err != nil {
			w.given <- given{nil, err}
			continue
		}
		w.given <- given{conn, nil}
		p.connect()
		return
	}
	if p.closed {
		p.drop(conn)
		return
	}
	conn.idleSince = time.Now()
	p.idle = append(p.idle, conn)
	if wait := p.host.cluster.idleTimeout; wait > 0 && p.sweeper == nil {
		p.sweeper = time.AfterFunc(wait, p.sweep)
	}
}

func (p *pool) dequeued() {
	p.breaker.pending.Add(-1)
	p.host.stats.pending.Add(-1)
	p.host.cluster.stats.pendingActive.Add(-1)
}

// await waits in the pending queue for as long as the client does.
func (p *pool) await(s *stream, w *waiter) (*upstreamConn, error) {
	s.waited = true
	s.hasPlace()
	limit := s.limit()
	timer := time.NewTimer(time.Until(earliest(limit, time.Now().Add(patience))))
	defer timer.Stop()
	closing := s.conn.server.closing
	select {
	case g := <-w.given:
		return g.conn, g.err
	case <-closing:
		return nil, p.leave(w, errClosing)
	case <-timer.C:
	}
	gone := s.conn.watch()
	defer s.conn.unwatch()
	var expired <-chan time.Time
	if !limit.IsZero() {
		timer.Reset(time.Until(limit))
		expired = timer.C
	}
again:
	select {
	case g := <-w.given:
		return g.conn, g.err
	case <-s.wakeUp.request:
		s.mu.Lock()
		r := s.interrupted()
		s.mu.Unlock()
		if r == nil {
			goto again
		}
		return nil, p.leave(w, errFilter)
	case <-expired:
		return nil, p.leave(w, os.ErrDeadlineExceeded)
	case <-gone:
		return nil, p.leave(w, errDownstream)
	case <-closing:
		return nil, p.leave(w, errClosing)
	}
}

// leave ends the wait of a request that no longer needs a connection.
func (p *pool) leave(w *waiter, why error) error {
	p.host.cluster.stats.cancelled.Add(1)
	p.mu.Lock()
	for i := range p.waiting {
		if p.waiting[i] == w {
			p.waiting = append(p.waiting[:i], p.waiting[i+1:]...)
			p.dequeued()
			p.mu.Unlock()
			return why
		}
	}
	p.mu.Unlock()
	if g := <-w.given; g.conn != nil { // too late: it was given one
		g.conn.finish(kept)
	}
	return why
}

// ending is how a request let go of its connection.
type ending int

const (
	kept         ending = iota // it serves another request
	closedByPeer               // which was the end of the response
	answered                   // all is said, but it cannot be used again
	resetHere                  // closed by us, in the middle of a request
	resetByPeer                // closed by the peer in the middle of a request
)

// finish gives the connection back to its pool, or closes it.
func (u *upstreamConn) finish(how ending) {
	p, stats := u.pool, u.host.cluster.stats
	p.breaker.requests.Add(-1)
	u.host.active.Add(-1)
	stats.rqActive.Add(-1)
	if u.http2 != nil {
		u.finishStream(how)
		return
	}
	if how == kept && (u.last() || len(u.in.buffered()) > 0) {
		if len(u.in.buffered()) > 0 {
			stats.cxProtocolError.Add(1)
		}
		how = answered
	}
	if how != kept {
		u.Close()
		p.mu.Lock()
		u.closed()
		p.forget()
		stats.destroyed(how, how == resetHere || how == resetByPeer)
		p.connect()
		p.mu.Unlock()
		return
	}
	u.SetDeadline(time.Time{})
	p.mu.Lock()
	p.ready(u)
	p.mu.Unlock()
}

// forget takes a connection that is closed out of the count. The lock is held.
func (p *pool) forget() {
	if p.open--; p.open == 0 {
		p.host.cluster.stats.poolEnded.Store(true)
	}
	p.host.stats.activeConnections.Add(-1)
	p.breaker.connections.Add(-1)
	p.host.cluster.stats.cxActive.Add(-1)
}

// closed notes how long the connection lasted and what it served.
func (u *upstreamConn) closed() {
	stats := u.host.cluster.stats
	u.in.forgetRead()
	stats.length.Record(uint64(time.Since(u.times.made).Milliseconds()))
	if u.uses > 0 {
		stats.requestsPerConnection.Record(uint64(u.uses))
	}
}

// popIdle takes the connection that was used last. The lock is held.
func (p *pool) popIdle() *upstreamConn {
	n := len(p.idle) - 1
	conn := p.idle[n]
	p.idle[n] = nil
	p.idle = p.idle[:n]
	return conn
}

// drop closes an idle connection, for what look found or for its age. The
// lock is held.
func (p *pool) drop(conn *upstreamConn) {
	stats := p.host.cluster.stats
	how := answered
	switch conn.seen {
	case ended:
		how = resetByPeer
	case noise:
		stats.cxProtocolError.Add(1)
		conn.drain(1 << 20) // or else closing would reset it
	}
	conn.Close()
	conn.closed()
	p.forget()
	stats.destroyed(how, false)
}

// dropDead closes the idle connections that their peers have closed.
func (p *pool) dropDead() {
	p.mu.Lock()
	defer p.mu.Unlock()
	open := p.idle[:0]
	for _, conn := range p.idle {
		if conn.look() == nothing {
			open = append(open, conn)
		} else {
			p.drop(conn)
		}
	}
	clear(p.idle[len(open):])
	p.idle = open
}

// sweep closes the connections that nobody has used for the idle timeout.
func (p *pool) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweeper = nil
	c := p.host.cluster
	old := 0
	for old < len(p.idle) && time.Since(p.idle[old].idleSince) >= c.idleTimeout {
		c.stats.cxIdleTimeout.Add(1)
		p.drop(p.idle[old])
		old++
	}
	p.idle = append(p.idle[:0], p.idle[old:]...)
	if len(p.idle) > 0 && !p.closed {
		p.sweeper = time.AfterFunc(c.idleTimeout-time.Since(p.idle[0].idleSince), p.sweep)
	}
}

// close closes what is idle now and what is given back later.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.sweeper != nil { // which would keep all of the server until then
		p.sweeper.Stop()
	}
	for len(p.idle) > 0 {
		p.drop(p.popIdle())
	}
	for _, h := range append([]*http2Client(nil), p.clients...) {
		if h.active == 0 {
			h.shut()
		}
	}
}

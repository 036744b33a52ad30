package proxy

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// listener accepts connections for one connection manager.
type listener struct {
	name    string
	address string // that the configuration gives
	server  *Server
	stats   *listenerStats
	prefix  string // of its stats

	chains       []*listenerChain
	defaultChain *listenerChain // nil: none
	plain        *listenerChain // the only one, where nothing is to be chosen
	inspects     bool           // the first bytes of a connection
	inspectLimit time.Duration
	most         int64 // connections; negative: any number
	open         atomic.Int64
	goesOn       bool // when the time to inspect is over

	accessLogs []*accessLog // of connections
	metadata   *corev3.Metadata

	isAdmin    bool
	inbound    bool           // traffic_direction
	modifyOnly bool           // drain_type: failing health checks drain nothing
	unbound    net.Addr       // bind_to_port: false: what it does not listen on
	sockets    []net.Listener // one for each worker, on the same port (reuse_port)
	stopped    sync.Once
}

// stop closes the sockets; connections stay.
func (l *listener) stop() {
	l.stopped.Do(func() {
		for _, socket := range l.sockets {
			socket.Close()
		}
		if l.server.stats.listenersStopped != nil {
			l.server.stats.listenersStopped.Add(1)
		}
	})
}

// serve accepts connections for one worker.
func (l *listener) serve(worker int) {
	for {
		conn, err := l.sockets[worker].Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			l.server.options.Logger.Error("accept failed", "listener", l.name, "error", err)
			time.Sleep(10 * time.Millisecond) // out of file descriptors, most likely
			continue
		}
		if l.most >= 0 && l.open.Load() >= l.most {
			conn.Close()
			l.server.Stats.Stat(l.prefix + "downstream_cx_overflow").Add(1)
			continue
		}
		c := l.server.newConnection(l, worker, conn)
		if c == nil {
			conn.Close()
			return
		}
		if c.peeker.init(conn) != nil { // it is closed already
			c.Close()
			l.server.forget(c)
			continue
		}
		go c.serve()
	}
}

// connection is a downstream connection. It belongs to one worker, whose
// plugin VMs its streams use.
type connection struct {
	net.Conn
	server        *Server
	listener      *listener
	hcm           *hcm
	chain         *listenerChain
	session       *session // of network filters in front of the connection manager
	id            uint64
	worker        int
	remote, local string
	remoteIP      string
	loopback      bool // the client is on this machine

	peeker
	in      input
	out     []byte // written by flush
	flushed int64  // bytes written by it
	stream  stream

	secure     *secure // TLS, if there is any
	serverName string  // that tls_inspector saw
	shaking    *transportSocket
	hello      []byte // what of the handshake was read before
	failure    string // why there is no TLS

	alpn    string       // the protocol that TLS has settled on
	http2   *http2Stream // what Conn is, if it is a stream of an HTTP/2 connection
	server2 *http2Server // the connection of that stream
	ends    bool         // the next flush is the last of the stream
	joined  bool         // ... whose end goes with its content

	served    bool // at least one request
	accepted  bool // by the listener; it is no stream of HTTP/2
	unmatched bool // no filter chain is for it
	life      lifetime

	watching   chan struct{} // closed when the watcher is through
	ready      atomic.Bool   // its connection manager is known
	idle       atomic.Bool   // waits for a request
	deadline   atomic.Bool   // drainDeadline wants something
	tunnel     atomic.Pointer[tunnel]
	drainTimer atomic.Pointer[time.Timer]  // calls drainDeadline; nil: nothing does
	frames     atomic.Pointer[http2Server] // its streams are connections of their own
}

func (c *connection) serve() {
	begun := time.Now()
	if ok, _ := c.secureBy(c.listener); !ok {
		c.Close()
		details, flags := "", ""
		if c.unmatched {
			details, flags = "filter_chain_not_found", "NR"
		}
		c.logConnection(begun, details, flags)
		c.server.forget(c)
		return
	}
	if c.chain.tcp != nil {
		c.serveTCP()
		return
	}
	m := c.hcm
	m.stats.connections.Add(1)
	m.stats.activeConnections.Add(1)
	c.listener.stats.opened(c.worker)
	c.life.begin(m, begun)
	c.ready.Store(true)
	c.awaitDrainDeadline()
	byPeer := true
	defer func() {
		c.Close()
		m.stats.activeConnections.Add(-1)
		m.stats.destroyed.Add(1)
		if byPeer {
			m.stats.destroyedByPeer.Add(1)
		} else {
			m.stats.destroyedHere.Add(1)
		}
		if c.served {
			m.stats.http1Active.Add(-1)
		}
		c.in.forgetRead()
		lasted := time.Since(begun)
		m.stats.length.Record(uint64(lasted.Milliseconds()))
		c.listener.stats.closed(c.worker, lasted)
		c.logConnection(begun, "", "")
		c.server.forget(c)
	}()
	if c.shaking != nil {
		m.stats.sslConnections.Add(1)
		m.stats.sslActive.Add(1)
		defer m.stats.sslActive.Add(-1)
		if c.shakeHands() != nil {
			return // for Envoy it is always the client who ends it
		}
	}
	if len(c.chain.filters) > 0 {
		wait, err := c.filtered()
		if err != nil {
			return
		}
		m = c.hcm
		defer func() {
			if _, ok := c.hungUp(); ok {
				byPeer = false
			}
			c.Close()
			wait()
		}()
	}
	for {
		var more bool
		if more, byPeer = c.awaitRequest(); !more {
			return
		}
		if !c.served && c.speaksHTTP2() {
			byPeer = c.serveHTTP2()
			return
		}
		if !c.served { // Envoy makes the codec with the first byte
			m.stats.http1Connections.Add(1)
			m.stats.http1Active.Add(1)
			c.served = true
		}
		c.stream.conn, c.stream.hcm = c, m
		if !c.stream.serve() || c.over(time.Now()) {
			byPeer = c.linger()
			return
		}
	}
}

// awaitRequest waits for the first byte of a request. If none comes it says
// whether that is because the client has closed.
func (c *connection) awaitRequest() (more, byPeer bool) {
	if len(c.in.buffered()) > 0 {
		return true, false
	}
	c.idle.Store(true)
	defer c.idle.Store(false)
	m := c.hcm
	var idle time.Time
	if m.idleTimeout > 0 {
		idle = time.Now().Add(m.idleTimeout)
	}
	for {
		c.SetReadDeadline(earliest(idle, c.life.old, c.life.over))
		if c.deadline.Load() { // it came before
			c.SetReadDeadline(past)
		}
		err := c.in.fill(1)
		if err == nil {
			return true, false
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return false, true
		}
		now := time.Now()
		if c.age(now) {
			return false, false
		}
		if c.over(now) {
			return false, c.closeLater()
		}
		if !idle.IsZero() && !now.Before(idle) {
			m.stats.idleTimeouts.Add(1)
			if idle = (time.Time{}); !c.served {
				return false, false
			}
			if c.life.over.IsZero() {
				c.life.over = now.Add(m.drainTimeout)
			}
		}
	}
}

// linger waits for the client to read a reply that was sent before its request
// was complete, or that broke off: closing at once could reset the connection
// under it (delayed_close_timeout).
//
// It says whether the client was the first to close.
func (c *connection) linger() (byPeer bool) {
	s := &c.stream
	if s.flags == "DC" {
		return true
	}
	if s.promptly && s.complete() && s.waited {
		return false
	}
	c.drain(1 << 20) // Envoy has read what had come
	return c.closeLater()
}

// closeLater gives the client the time to close first, and says whether it
// has.
func (c *connection) closeLater() (byPeer bool) {
	if c.hcm.delayedClose <= 0 {
		return false
	}
	if awaitPeerClose(c.Conn, c.hcm.delayedClose) {
		return true
	}
	c.hcm.stats.delayedCloses.Add(1)
	return false
}

func (c *connection) write(b []byte) error {
	n, err := c.Write(b)
	c.hcm.stats.bytesSent.Add(int64(n))
	return err
}

func (c *connection) flush() error {
	if c.http2 != nil {
		return c.flushStream()
	}
	if len(c.out) == 0 {
		return nil
	}
	err := c.write(c.out)
	c.flushed += int64(len(c.out))
	if cap(c.out) > 4*bodyBuffer {
		c.out = nil
	}
	c.out = c.out[:0]
	return err
}

// watch starts reading ahead and returns a channel that is closed when the
// client goes away. unwatch stops it; what was read stays in the buffer.
func (c *connection) watch() <-chan struct{} {
	if c.http2 != nil {
		return c.http2.gone
	}
	gone, through := make(chan struct{}), make(chan struct{})
	c.watching = through
	c.SetReadDeadline(time.Time{})
	go func() {
		defer close(through)
		const most = 64 << 10 // of pipelined requests
		for len(c.in.buffered()) < most {
			if err := c.in.fill(len(c.in.buffered()) + 1); err != nil {
				var ne net.Error
				if !errors.As(err, &ne) || !ne.Timeout() {
					close(gone)
				}
				return
			}
		}
	}()
	return gone
}

func (c *connection) unwatch() {
	if c.watching == nil {
		return
	}
	c.SetReadDeadline(past)
	<-c.watching
	c.SetReadDeadline(time.Time{})
	c.watching = nil
}

// date is the value of a Date field, made once a second.
func (s *Server) date() string {
	now := time.Now()
	if d := s.dateCache.Load(); d != nil && d.second == now.Unix() {
		return d.text
	}
	d := &dateText{now.Unix(), now.UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT")}
	s.dateCache.Store(d)
	return d.text
}

type dateText struct {
	second int64
	text   string
}

// connections is the set of open connections.
type connections struct {
	mu   sync.Mutex
	open map[*connection]struct{}
	next uint64
	wg   sync.WaitGroup
}

// newConnection registers a connection; nil when the server is closing.
func (s *Server) newConnection(l *listener, worker int, conn net.Conn) *connection {
	s.conns.mu.Lock()
	defer s.conns.mu.Unlock()
	if s.conns.open == nil {
		return nil
	}
	c := &connection{Conn: conn, server: s, listener: l, id: s.conns.next, worker: worker,
		remote: conn.RemoteAddr().String(), local: conn.LocalAddr().String()}
	c.in.conn = conn
	if l.plain != nil {
		c.hcm, c.chain = l.plain.hcm, l.plain
		c.in.received, c.in.buffering = c.hcm.stats.bytesReceived, c.hcm.stats.bytesBuffered
	}
	c.accepted = true
	l.open.Add(1)
	c.remoteIP = withoutPort(c.remote)
	if ip := net.ParseIP(c.remoteIP); ip != nil {
		c.loopback = ip.IsLoopback()
	}
	s.conns.next++
	s.conns.open[c] = struct{}{}
	s.conns.wg.Add(1)
	return c
}

func (s *Server) forget(c *connection) {
	if t := c.drainTimer.Load(); t != nil { // which would keep all of the server until then
		t.Stop()
	}
	s.conns.mu.Lock()
	if c.accepted {
		c.listener.open.Add(-1)
	}
	delete(s.conns.open, c)
	s.conns.mu.Unlock()
	s.conns.wg.Done()
}

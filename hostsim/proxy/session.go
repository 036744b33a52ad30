package proxy

import (
	"cmp"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"switchyard/hostsim/vm"
)

// This file is a connection with network filters (filter_manager_impl.cc): what
// a client sends goes through them to the last one of the chain, tcp_proxy or a
// connection manager, and what that sends goes back through them in reverse.

// session is such a connection. Each direction has a goroutine, which reads,
// has the filters look at what has come, and writes what they let through.
type session struct {
	conn    *connection
	info    *stream  // what formats and attributes see of it
	outer   net.Conn // the client
	in      input    // ... what it sends
	peeker  peeker
	proxy   *tcpProxy // nil: the last filter is a connection manager
	filters []*networkFilter
	proxied *Stat         // counts what is written to the client
	arrived chan struct{} // closed when the last filter knows of the connection

	mu       *sync.Mutex // guards what follows; the worker's, where there are plugins
	begun    int         // how many filters know of the connection
	request  direction   // from the client
	response direction   // to it
	closing  closeKind   // 0: it is open
	by       vm.CloseType
	hungUp   atomic.Pointer[string] // why, if it is closed here

	up       *upstreamConn // of proxy, once it is there
	upEnding ending        // how its connection ends
	upReset  bool          // ... with a RST
	upClosed bool          // ... because both of its halves have
}

// closeKind is a way to close a connection (Network::ConnectionCloseType).
type closeKind int

const (
	closeFlush closeKind = 1 + iota // when all is written
	closeNow
	closeReset
)

// direction is one way through a session.
type direction struct {
	from   *input
	peeker *peeker // of from
	to     net.Conn

	held    []byte // what filters have not let through yet
	ended   bool   // the other end has no more to say
	out     []byte // what is to be written
	last    bool   // nothing comes behind out
	written bool   // all of it, and its end

	woken atomic.Bool
	kick  chan struct{}
}

func (d *direction) wake() {
	d.woken.Store(true)
	if d.from != nil {
		d.from.conn.SetReadDeadline(past)
	}
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

func (c *connection) newSession() *session {
	chain := c.chain
	s := &session{
		conn: c, outer: c.Conn, in: c.in, proxy: chain.tcp, arrived: make(chan struct{}), upEnding: resetHere,
		proxied: c.hcm.stats.bytesSent, info: &stream{conn: c, hcm: c.hcm, start: time.Now(), routeKnown: true},
	}
	s.peeker.init(socketOf(c.Conn)) // it has been done for c already
	if c.secure != nil {
		s.peeker.secure, s.peeker.ahead = c.secure, &s.in
	}
	s.mu = &s.info.own
	if len(chain.filters) > 0 {
		s.mu = c.server.thread(c.worker)
	}
	s.info.mu = s.mu
	s.info.timers.touch()
	s.request.from, s.request.peeker = &s.in, &s.peeker
	s.request.kick, s.response.kick = make(chan struct{}, 1), make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range chain.filters {
		s.filters = append(s.filters, newNetworkFilter(s, i, f))
	}
	return s
}

// run serves the session until it is over. dial gives it its other end.
func (s *session) run(dial func() bool) {
	s.mu.Lock()
	s.proceed(0)
	s.mu.Unlock()
	var both sync.WaitGroup
	if s.proxy == nil { // tcp_proxy does not read before it has connected
		both.Go(func() { s.relay(&s.request) })
	}
	if s.awaitLast() && dial() && s.proxy != nil { // a connection manager's answers come through managedConn
		both.Go(func() { s.relay(&s.response) })
		s.relay(&s.request)
	}
	both.Wait()
	s.end()
}

// awaitLast waits until the filters have let the connection come to the last
// one, and says whether they have.
func (s *session) awaitLast() bool {
	for {
		select {
		case <-s.arrived:
			return !s.over()
		case <-s.response.kick:
		case <-s.conn.server.closing:
			s.shut(closeNow, vm.ClosedHere, "")
		}
		if s.over() {
			return false
		}
	}
}

// connected gives the session its other end.
func (s *session) connected(in *input, p *peeker, to net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.response.from, s.response.peeker, s.response.to = in, p, s.outer
	s.request.to = to
	if s.closing != 0 {
		s.response.wake()
	}
	s.proceed(len(s.filters))
}

// end closes the session's connections and tells everybody.
func (s *session) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.filters {
		f.end(s.by)
	}
	if s.up != nil && s.by == vm.ClosedHere && s.upEnding == resetHere && !s.upClosed {
		s.info.upstreamReason = cmp.Or(s.info.closeReason, "closing_upstream_tcp_connection_due_to_downstream_local_close")
	}
	s.conn.stream.upstream.Store(nil)
	if up := s.up; up != nil {
		if tcp, ok := socketOf(up.Conn).(*net.TCPConn); ok && s.upReset {
			tcp.SetLinger(0)
		}
		up.finish(s.upEnding)
	} else if s.request.to != nil {
		s.request.to.Close()
	}
	if tcp, ok := socketOf(s.outer).(*net.TCPConn); ok && s.closing == closeReset {
		tcp.SetLinger(0)
	}
	s.outer.Close()
	s.in.forgetRead()
}

// ---- filters

// proceed calls the filters from one on: it tells them of the connection, if
// nobody has yet, and shows them what waits. The lock is held.
func (s *session) proceed(from int) {
	d := &s.request
	for i := from; i < len(s.filters); i++ {
		f := s.filters[i]
		if s.begun == i {
			s.begun++
			if !f.newConnection() || s.closing != 0 {
				return
			}
		}
		if (len(d.held) > 0 || d.ended) && !f.data(&d.held, d.ended) || s.closing != 0 {
			return
		}
	}
	if s.begun == len(s.filters) {
		s.begun++
		close(s.arrived)
	}
	if d.to != nil {
		s.info.meter.taken += int64(len(d.held))
		s.pass(d)
	}
}

// answer shows the filters what is to go to the client. The lock is held.
func (s *session) answer() {
	d := &s.response
	s.info.meter.given += int64(len(d.held)) // what had to wait is counted again, as Envoy does
	for i := len(s.filters) - 1; i >= 0; i-- {
		if !s.filters[i].write(&d.held, d.ended) || s.closing != 0 {
			return
		}
	}
	s.pass(d)
}

// pass lets go what has come to the end of the filters. The lock is held.
func (s *session) pass(d *direction) {
	if len(d.held) == 0 && !d.ended {
		return
	}
	if d == &s.response {
		s.info.bytesSent.Add(int64(len(d.held)))
	}
	d.out = append(d.out, d.held...)
	d.held = d.held[:0]
	d.last = d.ended
	s.info.timers.touch()
	d.wake()
}

// ---- closing

func (s *session) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing != 0
}

// shut is close for those who do not hold the lock.
func (s *session) shut(how closeKind, by vm.CloseType, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.close(how, by, reason)
}

// close closes the connection to the client. The lock is held.
func (s *session) close(how closeKind, by vm.CloseType, reason string) {
	if reason != "" {
		s.info.closeReason = reason
	}
	if s.closing != 0 {
		return
	}
	s.closing, s.by = how, by
	if by == vm.ClosedHere {
		s.hungUp.Store(&reason)
	}
	if how != closeFlush {
		s.outer.SetDeadline(past)
		if s.up != nil {
			s.up.SetDeadline(past)
		}
	}
	s.request.wake()
	s.response.wake()
}

// readEnded is the end of what comes from one side. The lock is held.
func (s *session) readEnded(d *direction, err error) {
	if s.closing != 0 || d.ended {
		return
	}
	half, reset := errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET)
	client := d == &s.request
	switch {
	case s.proxy == nil && client: // a connection manager knows no half-closed connections
		s.close(closeNow, vm.ClosedByPeer, "")
	case half && client:
		d.ended = true
		s.proceed(0)
		if s.response.written {
			if len(d.out) > 0 {
				s.proxy.flushes.Add(1)
			}
			s.close(closeFlush, vm.ClosedByPeer, "")
		}
	case half:
		d.ended = true
		s.answer()
		if s.request.written {
			s.upEnding = resetByPeer
			s.close(closeFlush, vm.ClosedHere, "")
		}
	case client:
		if reset {
			s.info.clientClose, s.upReset = "RemoteReset", true
		}
		s.close(closeNow, vm.ClosedByPeer, "")
	default:
		s.upEnding = resetByPeer
		if reset {
			s.info.flags = withFlag(s.info.flags, "UR")
			s.info.upstreamClose, s.info.clientClose = "RemoteReset", "LocalReset"
			s.close(closeReset, vm.ClosedHere, "")
		} else {
			s.close(closeFlush, vm.ClosedHere, "")
		}
	}
}

// writeFailed is the end of a connection that nobody reads from any more.
func (s *session) writeFailed(d *direction) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d == &s.response {
		s.close(closeNow, vm.ClosedByPeer, "")
	} else if s.closing == 0 {
		s.upEnding = resetByPeer
		s.close(closeFlush, vm.ClosedHere, "")
	}
}

// finish sends the end of one direction.
func (s *session) finish(d *direction) {
	to := d.to
	if up, ok := to.(*upstreamConn); ok {
		to = up.Conn
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d.written = true
	s.upClosed = s.upClosed || d == &s.request && s.response.ended
	if s.request.ended && s.response.ended && s.closing == 0 { // both halves of a connection
		s.close(closeFlush, vm.ClosedHere, "")
	}
}

// expire closes the session if it has been idle, or has lasted, for too long.
func (s *session) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, now := &s.info.timers, time.Now()
	idle := t.idleUntil()
	switch {
	case s.closing != 0 || s.proxy == nil:
	case !t.whole.IsZero() && !now.Before(t.whole):
		s.proxy.tooLong.Add(1)
		s.info.flags = withFlag(s.info.flags, "DT")
		s.close(closeNow, vm.ClosedHere, "max_connection_duration_reached")
	case !idle.IsZero() && !now.Before(idle):
		s.proxy.idleTimeouts.Add(1)
		s.close(closeNow, vm.ClosedHere, "tcp_session_idle_timeout")
	}
}

// withFlag adds a response flag.
func withFlag(flags, one string) string {
	if flags == "" {
		return one
	}
	return flags + "," + one
}

// ---- moving bytes

// relay moves bytes one way until that side has no more, or the session is
// over.
func (s *session) relay(d *direction) {
	var spare []byte
	kernel := s.splicer(d)
	for {
		s.mu.Lock()
		out, last, closing := d.out, d.last, s.closing
		d.out = spare[:0]
		s.mu.Unlock()
		if len(out) > 0 && (closing <= closeFlush || d == &s.request) {
			if err := s.write(d, out); err != nil {
				s.writeFailed(d)
			}
		}
		if spare = out; cap(spare) > 4*bodyBuffer {
			spare = nil
		}
		if last && closing == 0 && !d.written {
			s.finish(d)
		}
		s.mu.Lock()
		over, ended := s.closing != 0 && len(d.out) == 0, d.ended
		s.mu.Unlock()
		switch {
		case over:
			return
		case ended:
			s.sleep(d, nil)
			continue
		}
		d.from.conn.SetReadDeadline(s.info.timers.until())
		if d.woken.Swap(false) {
			d.from.conn.SetReadDeadline(past)
		}
		if kernel == nil {
			s.read(d)
			continue
		}
		n, err := kernel.move()
		if n > 0 {
			s.moved(d, n)
		}
		switch {
		case errors.Is(err, errNoPipe):
			kernel = nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.expire()
		case err != nil:
			s.mu.Lock()
			s.readEnded(d, err)
			s.mu.Unlock()
		}
	}
}

// read reads once, and shows the filters what has come.
func (s *session) read(d *direction) {
	err := d.from.fill(bodyBuffer)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.expire()
		return
	}
	if err == nil { // Envoy reads all that is there, and sees the end that has come with it
		d.peeker.readAhead(d.from)
		if d.peeker.look() == ended {
			err = d.from.fill(len(d.from.buffered()) + 1)
		}
	}
	data := d.from.buffered()
	s.mu.Lock()
	defer s.mu.Unlock()
	d.held = append(d.held, data...)
	d.from.discard(len(data))
	if d == &s.request { // what has to wait is counted again, as Envoy does
		s.info.bytesReceived.Add(int64(len(d.held)))
	}
	if len(data) > 0 && s.closing == 0 && (s.proxy == nil || !errors.Is(err, io.EOF)) { // or else it is shown with the end
		s.show(d)
	}
	if err != nil {
		s.readEnded(d, err)
	}
}

func (s *session) show(d *direction) {
	if d == &s.request {
		s.proceed(0)
	} else {
		s.answer()
	}
}

// moved counts what the kernel has moved.
func (s *session) moved(d *direction, n int) {
	d.from.noteRead(n)
	s.info.timers.touch()
	s.mu.Lock()
	defer s.mu.Unlock()
	if d == &s.request {
		s.info.bytesReceived.Add(int64(n))
		s.info.meter.taken += int64(n)
		s.up.sent += int64(n)
		s.up.host.cluster.stats.bytesSent.Add(int64(n))
	} else {
		s.info.bytesSent.Add(int64(n))
		s.info.meter.given += int64(n)
		s.proxied.Add(int64(n))
	}
}

func (s *session) write(d *direction, data []byte) error {
	n, err := d.to.Write(data)
	if d == &s.response {
		s.proxied.Add(int64(n))
	}
	s.info.timers.touch()
	return err
}

// splicer is nil where the kernel cannot move the bytes alone.
func (s *session) splicer(d *direction) *splicer {
	if len(s.filters) > 0 || s.proxy == nil {
		return nil
	}
	to := d.to
	if up, ok := to.(*upstreamConn); ok {
		to = up.Conn
	}
	return newSplicer(to, d.from.conn, s.conn.server.pipes)
}

// sleep stands in for a read where no more will come. What it is woken by may be
// a connection that is given to it meanwhile; nil gives none.
func (s *session) sleep(d *direction, meanwhile <-chan given) (g given, is bool) {
	var expired <-chan time.Time
	if at := s.info.timers.until(); !at.IsZero() {
		t := time.NewTimer(time.Until(at))
		defer t.Stop()
		expired = t.C
	}
	select {
	case g = <-meanwhile:
		return g, true
	case <-d.kick:
	case <-s.conn.server.closing:
		s.shut(closeNow, vm.ClosedHere, "")
	case <-expired:
		s.expire()
	}
	return g, false
}

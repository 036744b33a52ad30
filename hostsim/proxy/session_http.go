package proxy

import (
	"net"
	"os"
	"syscall"

	"switchyard/hostsim/vm"
)

// managedConn is the client to a connection manager behind network filters. What
// it reads comes through a pair of sockets, in which the session puts what the
// filters let through; what it writes is shown to them at once, in the pieces in
// which it is written.
type managedConn struct {
	*net.UnixConn
	session *session
}

// Write implements net.Conn.
func (c *managedConn) Write(b []byte) (int, error) {
	s, d := c.session, &c.session.response
	s.mu.Lock()
	if s.closing != 0 {
		s.mu.Unlock()
		return 0, net.ErrClosed
	}
	d.held = append(d.held, b...)
	s.answer()
	out, gone := d.out, s.closing
	d.out = nil
	s.mu.Unlock()
	if gone != 0 {
		return 0, net.ErrClosed
	}
	n, err := s.outer.Write(out)
	s.proxied.Add(int64(n))
	if err != nil {
		s.writeFailed(d)
		return 0, err
	}
	return len(b), nil
}

// Close implements net.Conn: the connection manager has no more to say.
func (c *managedConn) Close() error {
	c.session.shut(closeFlush, vm.ClosedHere, "")
	return c.UnixConn.Close()
}

// filtered puts network filters before the connection manager. wait waits until
// the session is over, which closing the connection brings about.
func (c *connection) filtered() (wait func(), err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "session")
		end, failed := net.FileConn(file)
		file.Close()
		if failed != nil {
			err = failed
		} else {
			ends[i] = end.(*net.UnixConn)
		}
	}
	if err != nil {
		for _, end := range ends {
			if end != nil {
				end.Close()
			}
		}
		return nil, err
	}
	s := c.newSession()
	s.proxied, s.in.received, s.in.buffering = c.hcm.stats.bytesSent, c.hcm.stats.bytesReceived, c.hcm.stats.bytesBuffered
	m := *c.hcm // what the connection manager counts itself is not what the client gets
	m.stats.bytesSent = &Stat{}
	inner := &managedConn{ends[0], s}
	c.server.conns.mu.Lock() // Close may be looking
	c.session, c.Conn, c.hcm = s, inner, &m
	c.server.conns.mu.Unlock()
	c.in = input{conn: inner}
	c.peeker = peeker{}
	if err := c.peeker.init(inner); err != nil {
		return nil, err
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		s.run(func() bool {
			s.connected(nil, nil, ends[1])
			return true
		})
		ends[1].Close()
	}()
	return func() { <-over }, nil
}

// hungUp says that a filter has closed the connection, and how a log says it.
func (c *connection) hungUp() (details string, ok bool) {
	if c.session == nil {
		return "", false
	}
	reason := c.session.hungUp.Load()
	if reason == nil {
		return "", false
	}
	return "downstream_local_disconnect(" + *reason + ")", true
}

// shareState gives a stream what network filters have put into the filter state.
func (c *connection) shareState(s *stream) {
	if c.session == nil {
		return
	}
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	for key, object := range c.session.info.filterState {
		s.setState(key, object)
	}
}

package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// tunnel relays both ways after a 101 until either side closes or nothing has
// moved for the idle timeout. The 101 waits in conn.out.
func (s *stream) tunnel(up *upstreamConn) {
	how := resetHere // who ends the connection to the upstream
	defer func() {
		s.upstream.Store(nil)
		up.finish(how)
		s.closing = true
		s.body.done = true
	}()
	s.mu.Lock()
	s.timers.response, s.timers.request = time.Time{}, time.Time{}
	s.mu.Unlock()
	s.timers.touch()
	t := &tunnel{stream: s, up: up}
	up.SetDeadline(time.Time{})
	s.conn.SetDeadline(time.Time{})
	if s.conn.flush() != nil {
		return
	}
	if len(up.early) > 0 {
		if _, err := up.Write(up.early); err != nil {
			return
		}
	}
	s.conn.tunnel.Store(t)
	defer s.conn.tunnel.Store(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		t.end(t.relay(&s.conn.in, up.Conn, s.chain.requestData, s.decodeData, &s.bytesReceived, "downstream_remote_disconnect", "DC"))
	})
	details, flags := t.relay(&up.in, s.conn.Conn, s.chain.responseData, s.encodeData, &s.bytesSent, "", "")
	if details == "" && !t.over.Load() {
		how = resetByPeer
	}
	t.end(details, flags)
	wg.Wait()
}

type tunnel struct {
	stream *stream
	up     *upstreamConn
	over   atomic.Bool
}

// end notes why the tunnel ended, the first time, and wakes the other side.
func (t *tunnel) end(details, flags string) {
	if !t.over.CompareAndSwap(false, true) {
		return
	}
	s := t.stream
	if details != "" {
		s.mu.Lock()
		s.details, s.flags = details, flags
		s.mu.Unlock()
	}
	t.up.SetDeadline(past)
	s.conn.SetDeadline(past)
}

// relay moves bytes one way until that side has no more, and returns why it
// stopped; closed and flags are the answer where the side has closed.
//
// Where no filter looks at the bytes the kernel moves them, without their
// coming here at all.
func (t *tunnel) relay(in *input, to net.Conn, filtered bool, filter func([]byte, bool) ([]byte, *localReply), count *atomic.Int64, closed, flags string) (string, string) {
	from, fromTCP := in.conn.(*net.TCPConn)
	dst, toTCP := to.(*net.TCPConn)
	for {
		if !filtered && fromTCP && toTCP && len(in.buffered()) == 0 && t.stream.brokenPlugin() == nil {
			n, err := t.splice(dst, from)
			count.Add(n)
			if err == nil {
				return closed, flags
			}
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				return closed, flags
			}
			if t.over.Load() {
				return "", ""
			}
			if r := t.stream.expired(time.Now()); r != nil {
				return r.details, r.flags
			}
			continue
		}
		data, err := t.read(in)
		if err != nil {
			if t.over.Load() {
				return "", ""
			}
			if r := t.stream.expired(time.Now()); r != nil && errors.Is(err, os.ErrDeadlineExceeded) {
				return r.details, r.flags
			}
			return closed, flags
		}
		if r := t.stream.brokenPlugin(); r != nil {
			return r.details, r.flags
		}
		count.Add(int64(len(data)))
		out, r := filter(data, false)
		if r != nil {
			return r.details, r.flags
		}
		if _, err := to.Write(out); err != nil {
			return "", ""
		}
		t.stream.timers.touch()
	}
}

// splice moves bytes until from closes (nil), something breaks, or it is time
// to look at the idle timer (os.ErrDeadlineExceeded).
func (t *tunnel) splice(to, from *net.TCPConn) (int64, error) {
	// The kernel does not say when it moved something, so look now and then.
	look := t.stream.limit()
	if idle := t.stream.timers.idle; idle > 0 {
		look = earliest(look, time.Now().Add(max(idle/8, time.Millisecond)))
	}
	from.SetReadDeadline(look)
	if t.over.Load() { // end came before the deadline was set anew
		from.SetReadDeadline(past)
	}
	n, err := io.Copy(to, from)
	if n > 0 {
		t.stream.timers.touch()
	}
	return n, err
}

// read reads from one side, as long as the tunnel is not idle.
func (t *tunnel) read(in *input) ([]byte, error) {
	for {
		if b := in.buffered(); len(b) > 0 {
			in.discard(len(b))
			return b, nil
		}
		in.conn.SetReadDeadline(t.stream.limit())
		if t.over.Load() {
			return nil, os.ErrDeadlineExceeded
		}
		err := in.fill(bodyBuffer)
		if err == nil {
			t.stream.timers.touch()
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && !t.over.Load() && t.stream.expired(time.Now()) == nil {
			continue // woken, or the other direction moved
		}
		return nil, err
	}
}

// brokenPlugin is why a tunnel ends when a plugin VM has died, for whatever
// stream: Envoy closes it at the next piece of data.
func (s *stream) brokenPlugin() *localReply {
	for _, f := range s.filters {
		if w, ok := f.(*wasmFilter); ok && w.broken() {
			return &localReply{status: 503, details: "wasm_fail_stream"}
		}
	}
	return nil
}

// wakeTunnels makes every tunnel look whether its plugins are still alive.
func (s *Server) wakeTunnels() {
	s.conns.mu.Lock()
	defer s.conns.mu.Unlock()
	for c := range s.conns.open {
		if t := c.tunnel.Load(); t != nil {
			t.up.SetReadDeadline(past)
			c.SetReadDeadline(past)
		}
	}
}

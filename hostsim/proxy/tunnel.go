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
	ended := false   // the response has come to its end
	s.mu.Lock()
	if s.tunnelled = true; s.requestComplete.IsZero() {
		s.hcm.stats.earlyResponses.Add(1)
	}
	s.mu.Unlock()
	defer func() {
		s.upstream.Store(nil)
		s.letGo(up, how)
		s.closing = true
		s.broken = s.flags != "DC" && !ended
		s.body.done = true
	}()
	s.mu.Lock()
	s.timers.response, s.timers.request = time.Time{}, time.Time{}
	s.mu.Unlock()
	s.timers.touch()
	s.upstreamMeter.tunnelled()
	t := &tunnel{stream: s, up: up, done: make(chan struct{})}
	up.SetDeadline(time.Time{})
	s.conn.SetDeadline(time.Time{})
	if s.encoding.paused { // filters let it go with the head
		data, _ := s.take(&s.encoding)
		s.sendContent(data, false)
	}
	if !s.answerShown && s.chain.responseData {
		first := bodyReader{in: &up.in, kind: bodyUntilClose}
		data, r := s.encodeData(s.takeFirst(&first), false)
		if r != nil {
			s.conn.flush()
			return
		}
		s.sendContent(data, false)
	}
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
		t.end(t.relay(&s.conn.in, up.Conn, up.host.cluster.stats.bytesSent, false, &s.bytesReceived, "downstream_remote_disconnect", "DC"))
	})
	closed, flag := "upstream_reset_after_response_started{connection_termination}", "UC"
	if up.pool.raw {
		closed, flag = "", "" // what has no framing ends so
	}
	details, flags := t.relay(&up.in, s.conn.Conn, s.hcm.stats.bytesSent, true, &s.bytesSent, closed, flag)
	if t.end(details, flags) && flags == "UC" {
		how = resetByPeer
	}
	wg.Wait()
	ended = t.complete
}

type tunnel struct {
	stream *stream
	up     *upstreamConn
	over   atomic.Bool
	done   chan struct{} // closed when it is over

	complete bool // the response, which is the end of both
}

// end notes why the tunnel ended, the first time, and wakes the other side.
func (t *tunnel) end(details, flags string) (first bool) {
	if !t.over.CompareAndSwap(false, true) {
		return false
	}
	s := t.stream
	close(t.done)
	if details != "" {
		s.mu.Lock()
		s.details, s.flags = details, flags
		s.mu.Unlock()
	}
	t.up.SetDeadline(past)
	s.conn.SetDeadline(past)
	s.wakeUp.signal()
	return true
}

// wake makes both directions look what a filter has let go.
func (t *tunnel) wake() {
	t.up.SetReadDeadline(past)
	t.stream.conn.SetReadDeadline(past)
}

// relay moves bytes one way until that side has no more, and returns why it
// stopped; closed and flags are the answer where the side has closed.
//
// Where no filter looks at the bytes the kernel moves them, without their
// coming here at all.
func (t *tunnel) relay(in *input, to net.Conn, sent *Stat, response bool, count *atomic.Int64, closed, flags string) (string, string) {
	s := t.stream
	filtered, woken, filter, passed := s.chain.requestData, &s.wakeUp.requestWoken, s.decodeData, &s.decoding
	if response {
		filtered, woken, filter, passed = s.chain.responseData, &s.wakeUp.responseWoken, s.encodeData, &s.encoding
	}
	var kernel *splicer
	if !filtered {
		kernel = newSplicer(to, in.conn, t.stream.conn.server.pipes)
	}
	if _, ok := to.(*http2Stream); ok { // its connection counts
		sent = new(Stat)
	}
	t.watch(in.conn, woken)
	for {
		var moved int
		var err error
		switch {
		case len(in.buffered()) > 0:
			data := in.buffered()
			in.discard(len(data))
			if !response {
				count.Add(int64(len(data)))
			}
			end := endsContent(in.conn)
			out, r := filter(data, end)
			if r != nil {
				return r.details, r.flags
			}
			if response {
				count.Add(int64(len(out)))
			}
			if peer, ok := to.(*http2Stream); ok && end {
				_, err = peer.send(out, true, nil)
			} else {
				_, err = to.Write(out)
			}
			if err != nil {
				return "", ""
			}
			if sent.Add(int64(len(out))); end {
				return t.ended(in.conn, to, io.EOF, closed, flags)
			}
		case kernel != nil:
			if moved, err = kernel.move(); errors.Is(err, errNoPipe) {
				kernel, err = nil, nil
			}
			if moved > 0 {
				in.noteRead(moved)
			}
			sent.Add(int64(moved))
		default:
			err = in.fill(bodyBuffer)
		}
		count.Add(int64(moved))
		if err == nil {
			t.stream.timers.touch()
		} else {
			if t.over.Load() {
				return "", ""
			}
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				return t.ended(in.conn, to, err, closed, flags)
			}
			if r := t.stream.expired(time.Now()); r != nil {
				return r.details, r.flags
			}
			t.watch(in.conn, woken) // the other direction moved, or a plugin broke, or let something go
			if filtered {
				out, r := s.take(passed)
				if r != nil {
					return r.details, r.flags
				}
				if len(out) > 0 {
					if response {
						count.Add(int64(len(out)))
					}
					if _, err := to.Write(out); err != nil {
						return "", ""
					}
					sent.Add(int64(len(out)))
				}
			}
		}
		if r := t.stream.brokenPlugin(); r != nil {
			return r.details, r.flags
		}
	}
}

// ended is what the end of one direction means. That of an HTTP/2 client leaves
// the other direction as it is; a response that is complete ends both.
func (t *tunnel) ended(from, to net.Conn, err error, closed, flags string) (string, string) {
	st, ok := from.(*http2Stream)
	if !ok {
		return closed, flags
	}
	response := from == t.up.Conn
	if errors.Is(err, io.EOF) {
		if r := t.finish(st, to, response); r != nil {
			return r.details, r.flags
		}
		if response {
			t.complete = true
			return "", ""
		}
		select {
		case <-st.gone:
		case <-t.done:
			return "", ""
		}
	}
	if response {
		return resetDetails(st.broken())
	}
	return t.stream.conn.whyGone()
}

// finish gives the end of what a stream carries to the filters, with the
// trailers that it may have, and passes it on to another stream.
func (t *tunnel) finish(from *http2Stream, to net.Conn, response bool) *localReply {
	s := t.stream
	it, trailers, end := &s.decoding, &s.requestTrailers, s.decodeEnd
	if response {
		it, trailers, end = &s.encoding, &s.responseTrailers, s.encodeEnd
	}
	var rest []byte
	s.mu.Lock()
	known := it.complete
	if !response && s.requestComplete.IsZero() {
		s.requestComplete = time.Now()
	}
	s.mu.Unlock()
	if !known {
		for _, f := range from.trailers {
			trailers.insert(f.name, f.value)
		}
		var r *localReply
		if rest, r = end(); r != nil {
			return r
		}
	}
	if peer, ok := to.(*http2Stream); ok {
		peer.send(rest, true, trailers)
	} else if len(rest) > 0 {
		_, _ = to.Write(rest)
	}
	return nil
}

// endsContent says whether the end of a stream came with the last piece of its
// content, which was read just now.
func endsContent(c net.Conn) bool {
	st, ok := c.(*http2Stream)
	if !ok {
		return false
	}
	st.http2.mu.Lock()
	defer st.http2.mu.Unlock()
	return st.remoteEnd && !st.endAlone && len(st.trailers) == 0 && st.consumed == len(st.content)
}

// watch makes reads of c end when, for all that is known now, the tunnel will
// be idle or has lasted too long.
func (t *tunnel) watch(c net.Conn, woken *atomic.Bool) {
	c.SetReadDeadline(t.stream.limit())
	if woken.Swap(false) || t.over.Load() { // end came before
		c.SetReadDeadline(past)
	}
}

// errNoPipe is the reason to move bytes without the kernel's help.
var errNoPipe = errors.New("no pipe to splice through")

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

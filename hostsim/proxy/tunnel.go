package proxy

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// tunnel relays both ways after a 101 until either side closes or nothing has
// moved for the idle timeout. The 101 waits in conn.out.
func (s *stream) tunnel(r *route, up *upstreamConn) {
	s.hcm.stats.upgrades.Add(1)
	s.hcm.stats.activeUpgrades.Add(1)
	defer s.hcm.stats.activeUpgrades.Add(-1)
	defer func() {
		s.upstream.Store(nil)
		up.finish(false)
		s.closing = true
		s.body.done = true
	}()
	idle := s.hcm.streamIdle
	if r.idleTimeout >= 0 {
		idle = r.idleTimeout
	}
	t := &tunnel{stream: s, up: up, idle: idle}
	t.touch()
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
	var wg sync.WaitGroup
	wg.Go(t.toUpstream)
	t.toClient()
	wg.Wait()
}

type tunnel struct {
	stream *stream
	up     *upstreamConn
	idle   time.Duration // 0: for ever
	last   atomic.Int64  // when something moved, in ns
	over   atomic.Bool
}

func (t *tunnel) touch() { t.last.Store(time.Now().UnixNano()) }

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

// read reads from one side, as long as the tunnel is not idle.
func (t *tunnel) read(in *input) ([]byte, error) {
	for {
		if b := in.buffered(); len(b) > 0 {
			in.discard(len(b))
			return b, nil
		}
		if t.over.Load() {
			return nil, os.ErrDeadlineExceeded
		}
		if t.idle > 0 {
			in.conn.SetReadDeadline(time.Unix(0, t.last.Load()).Add(t.idle))
		}
		err := in.fill(bodyBuffer)
		if err == nil {
			t.touch()
			continue
		}
		if t.idle > 0 && errors.Is(err, os.ErrDeadlineExceeded) && time.Since(time.Unix(0, t.last.Load())) < t.idle && !t.over.Load() {
			continue // the other direction moved
		}
		return nil, err
	}
}

func (t *tunnel) toUpstream() {
	s := t.stream
	for {
		data, err := t.read(&s.conn.in)
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.end("stream_idle_timeout", "SI")
			} else {
				t.end("downstream_remote_disconnect", "DC")
			}
			return
		}
		out, r := s.decodeData(data, false)
		if r == nil {
			r = s.brokenPlugin()
		}
		if r != nil {
			t.end(r.details, r.flags)
			return
		}
		if _, err := t.up.Write(out); err != nil {
			t.end("", "")
			return
		}
		t.touch()
	}
}

func (t *tunnel) toClient() {
	s := t.stream
	for {
		data, err := t.read(&t.up.in)
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.end("stream_idle_timeout", "SI")
			} else {
				t.end("", "")
			}
			return
		}
		out, r := s.encodeData(data, false)
		if r == nil {
			r = s.brokenPlugin()
		}
		if r != nil {
			t.end(r.details, r.flags)
			return
		}
		s.bytesSent.Add(int64(len(out)))
		if _, err := s.conn.Write(out); err != nil {
			t.end("downstream_remote_disconnect", "DC")
			return
		}
		t.touch()
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

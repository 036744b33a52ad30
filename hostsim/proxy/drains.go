package proxy

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// This file is how a server asks its clients to go elsewhere: health checks
// that fail, and /drain_listeners.

// Direction is whose listeners are meant.
type Direction int

const (
	AllListeners     Direction = iota
	InboundListeners           // traffic_direction: INBOUND
)

// drains is what makes responses say "connection: close".
type drains struct {
	failed atomic.Bool // /healthcheck/fail

	begun    atomic.Bool
	what     Direction // of what has begun
	deadline time.Time

	mu    sync.Mutex
	timer *time.Timer
}

// FailHealthChecks is /healthcheck/fail and /healthcheck/ok. While health
// checks fail each response drains its connection.
func (s *Server) FailHealthChecks(fail bool) {
	s.drains.failed.Store(fail)
	live := int64(1)
	if fail {
		live = 0
	}
	s.stats.live.Set(live)
}

// DrainListeners begins to drain connections: responses say "connection:
// close", under the gradual strategy the more likely the more of DrainTime has
// passed, and what is left is drained near the end of it. With stop the
// listeners stop at once, with neither stop nor keep when DrainTime has passed.
// A second call starts nothing anew.
func (s *Server) DrainListeners(what Direction, stop, keep bool) {
	if stop {
		s.StopListeners(what)
	}
	d := &s.drains
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.begun.Load() {
		return
	}
	d.what, d.deadline = what, time.Now().Add(s.options.DrainTime)
	d.begun.Store(true)
	if !stop && !keep {
		d.timer = time.AfterFunc(s.options.DrainTime, func() { s.StopListeners(what) })
	}
	s.conns.mu.Lock()
	defer s.conns.mu.Unlock()
	for c := range s.conns.open {
		if c.ready.Load() { // or else it will ask itself
			c.awaitDrainDeadline()
		}
	}
}

// awaitDrainDeadline sees to it that the connection is gone when the drain time
// has passed: at some point in the last third of it, early enough for
// drain_timeout, it is drained whatever it does. Envoy does not do so where
// drain_timeout is longer than that third.
func (c *connection) awaitDrainDeadline() {
	s := c.server
	if c.listener == nil || !s.drains.concerns(c.listener) {
		return
	}
	last := time.Until(s.drains.deadline) - c.hcm.drainTimeout
	first := max(last-(s.options.DrainTime-c.hcm.drainTimeout-s.options.DrainTime*2/3), 0)
	if c.hcm.drainTimeout < s.options.DrainTime/3 && last > first {
		c.drainTimer.Store(time.AfterFunc(first+rand.N(last-first), c.drainDeadline))
	}
}

// drainDeadline drains the connection: it is closed if it has served nothing
// yet, its tunnel ends, and a request under way is its last.
func (c *connection) drainDeadline() {
	conns := &c.server.conns
	conns.mu.Lock()
	_, open := conns.open[c]
	conns.mu.Unlock()
	if !open {
		return
	}
	c.deadline.Store(true)
	c.hcm.stats.drainCloses.Add(1) // again, if it was drained before
	if h := c.frames.Load(); h != nil {
		h.drainDeadline()
		return
	}
	if t := c.tunnel.Load(); t != nil {
		t.end("on_drain_deadline", "")
	} else if c.idle.Load() {
		c.SetReadDeadline(past)
	}
}

// StopListeners closes the sockets of listeners. Their connections stay.
func (s *Server) StopListeners(what Direction) {
	for _, l := range s.listeners {
		if what == AllListeners || l.inbound {
			l.stop()
		}
	}
}

func (d *drains) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
}

// concerns says whether a drain that has begun is about the listener.
func (d *drains) concerns(l *listener) bool {
	return d.begun.Load() && !l.isAdmin && (d.what == AllListeners || l.inbound)
}

// drainClose says whether a response that begins now is to drain its
// connection (DrainManagerImpl::drainClose).
func (l *listener) drainClose(now time.Time) bool {
	if l == nil || l.isAdmin { // a callout, or the admin interface
		return false
	}
	d := &l.server.drains
	if d.failed.Load() && !l.modifyOnly {
		return true
	}
	if !d.concerns(l) {
		return false
	}
	left, all := d.deadline.Sub(now), l.server.options.DrainTime
	return l.server.options.DrainAtOnce || left <= 0 || all-left > rand.N(all)
}

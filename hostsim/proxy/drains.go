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
// passed, and drained connections are closed after drain_timeout. Then, unless
// keep, the listeners stop. A second call changes nothing.
func (s *Server) DrainListeners(what Direction, keep bool) {
	d := &s.drains
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.begun.Load() {
		return
	}
	d.what, d.deadline = what, time.Now().Add(s.options.DrainTime)
	d.begun.Store(true)
	if !keep {
		d.timer = time.AfterFunc(s.options.DrainTime, func() { s.StopListeners(what) })
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
	if !d.begun.Load() || d.what == InboundListeners && !l.inbound {
		return false
	}
	left, all := d.deadline.Sub(now), l.server.options.DrainTime
	return l.server.options.DrainAtOnce || left <= 0 || all-left > rand.N(all)
}

package proxy

import "time"

// This file is how a downstream connection comes to its end without an error:
// it was idle, it is old, or it has served as many requests as it may.
//
// One that is idle or old is drained first: whatever it still answers says
// "connection: close", and it is closed after drain_timeout.

// lifetime is what limits the life of a downstream connection.
type lifetime struct {
	requests int
	old      time.Time // when max_connection_duration has passed; zero: never
	over     time.Time // when a connection that is drained is closed; zero: it is not drained
	last     bool      // it is old, and the next request is to end it (http1_safe_max_connection_duration)
}

func (l *lifetime) begin(m *hcm, now time.Time) {
	if m.maxLife > 0 {
		l.old = now.Add(m.maxLife)
	}
}

// age notes that the connection has become old, and says whether that ends it
// at once.
func (c *connection) age(now time.Time) (end bool) {
	l := &c.life
	if c.deadline.CompareAndSwap(true, false) {
		if !c.served {
			return true
		}
		if l.over.IsZero() {
			l.over = now.Add(c.hcm.drainTimeout)
		}
	}
	if l.old.IsZero() || now.Before(l.old) {
		return false
	}
	old := l.old
	l.old = time.Time{}
	c.hcm.stats.longConnections.Add(1)
	switch {
	case !c.served:
		return true
	case !l.over.IsZero():
	case c.hcm.softDrain:
		l.last = true
	default:
		l.over = old.Add(c.hcm.drainTimeout)
	}
	return false
}

// ending says whether a response that begins now is to say that the connection
// will be closed.
func (c *connection) ending(now time.Time) bool {
	c.age(now)
	l := &c.life
	if l.over.IsZero() && c.listener.drainClose(now) {
		l.over = now.Add(c.hcm.drainTimeout)
		c.hcm.stats.drainCloses.Add(1)
	}
	return !l.over.IsZero()
}

// lastRequest counts a request and says whether it is the last.
func (c *connection) lastRequest() bool {
	l := &c.life
	l.requests++
	if most := c.hcm.maxRequests; most > 0 && l.requests >= most {
		c.hcm.stats.requestsReached.Add(1)
		return true
	}
	return l.last
}

// over says whether the time to drain has passed.
func (c *connection) over(now time.Time) bool {
	c.age(now)
	return !c.life.over.IsZero() && !now.Before(c.life.over)
}

package proxy

import (
	"sync/atomic"
	"time"
)

// timers are the limits on how long a stream may take. Envoy has a timer for
// each; here whoever waits asks for the earliest, and what has expired.
type timers struct {
	head     time.Time // request_headers_timeout, until the head is known
	request  time.Time // request_timeout, until the request is complete
	whole    time.Time // max_stream_duration
	response time.Time // the route's timeout, from the complete request on
	try      time.Time // per_try_timeout
	tryIdle  time.Time // per_try_idle_timeout
	idle     time.Duration
	active   atomic.Int64 // when something moved last, in ns
}

func (t *timers) touch() { t.active.Store(time.Now().UnixNano()) }

func (t *timers) start(m *hcm, now time.Time) {
	in := func(d time.Duration) time.Time {
		if d <= 0 {
			return time.Time{}
		}
		return now.Add(d)
	}
	t.head, t.request, t.whole, t.response = in(m.headersTimeout), in(m.requestTimeout), in(m.maxStream), time.Time{}
	t.try, t.tryIdle = time.Time{}, time.Time{}
	t.idle = m.streamIdle
	t.active.Store(now.UnixNano())
}

// limitWhole is max_stream_duration of a route.
func (t *timers) limitWhole(start time.Time, most time.Duration) {
	if t.whole = (time.Time{}); most > 0 {
		t.whole = start.Add(most)
	}
}

func (t *timers) idleUntil() time.Time {
	if t.idle <= 0 {
		return time.Time{}
	}
	return time.Unix(0, t.active.Load()).Add(t.idle)
}

// until is the earliest limit; zero is none.
func (t *timers) until() time.Time {
	return earliest(t.head, t.request, t.whole, t.response, t.try, t.tryIdle, t.idleUntil())
}

func earliest(times ...time.Time) (first time.Time) {
	for _, t := range times {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

// expired is the reply for the limit that has passed, or nil if none has.
// Once the response has begun it cannot be sent any more; then the stream is
// reset, with these details.
func (s *stream) expired(now time.Time) *localReply {
	t := &s.timers
	passed := func(at time.Time) bool { return !at.IsZero() && !now.Before(at) }
	// Envoy blames the client for what it has not sent yet.
	status := 504
	if !s.complete() {
		status = 408
	}
	switch {
	case passed(t.head):
		return &localReply{status: 408, body: "request header timeout", details: "request_header_timeout"}
	case passed(t.request):
		return &localReply{status: 408, body: "request timeout", details: "request_overall_timeout"}
	case passed(t.response):
		return s.timedOut("response_timeout")
	case passed(t.try):
		return s.timedOut("upstream_per_try_timeout")
	case passed(t.tryIdle):
		return s.timedOut("upstream_per_try_idle_timeout")
	case passed(t.whole):
		return &localReply{status: status, body: "downstream duration timeout", details: "max_duration_timeout"}
	case passed(t.idleUntil()):
		return &localReply{status: status, body: "stream timeout", details: "stream_idle_timeout", flags: "SI"}
	}
	return nil
}

package proxy

import (
	"errors"
	"slices"
	"time"

	"golang.org/x/net/http2"
)

// This file limits how many streams a client may open and reset: Envoy's own
// limit (maybeDrainDueToPrematureResets) and that of its codec (nghttp2_ratelim).

// resetLimits say how many resets are too many.
type resetLimits struct {
	streams uint64 // that are looked at before a share of them counts
	seconds uint64 // that a stream lasts at most whose reset is premature
	burst   uint64 // resets at once
	rate    uint64 // and a second
}

// Runtime keys for the first two.
const (
	prematureStreams = "overload.premature_reset_total_stream_count"
	prematureSeconds = "overload.premature_reset_min_stream_lifetime_seconds"
)

// resetCount is what has come of one connection's streams. Its connection's lock
// protects it.
type resetCount struct {
	closed, premature uint64
	left              uint64          // resets that the codec takes
	second            int64           // when that was counted last
	ending            []chan struct{} // closed when a stream that was reset is over
}

// streamReset counts the reset of a stream, nil for one that was over already.
// The lock is held.
func (h *http2Server) streamReset(s *http2Stream) *http2Error {
	limits, n := &h.client.hcm.http2.resets, &h.resets
	if s != nil && s.served != nil {
		n.ending = append(slices.DeleteFunc(n.ending, closed), s.served)
	}
	if s != nil && s.headSent == 0 {
		n.closed++
		if uint64(time.Since(s.opened)/time.Second) <= limits.seconds {
			n.premature++
		}
		if n.tooMany(limits) {
			h.client.hcm.stats.prematureResets.Add(1)
			return &http2Error{silent: true, abort: true, flood: true, details: "too_many_premature_resets"}
		}
	}
	if h.doomed == nil {
		h.doomed = n.codec(limits) // which still takes what has come
	}
	return nil
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// awaitResets waits until the streams that were reset are over, which comes
// before the others.
func (h *http2Server) awaitResets() {
	h.mu.Lock()
	ending := h.resets.ending
	h.resets.ending = nil
	h.mu.Unlock()
	wait := time.NewTimer(20 * time.Millisecond) // unless one waits for something else
	defer wait.Stop()
	for _, served := range ending {
		select {
		case <-served:
		case <-wait.C:
			return
		}
	}
}

// streamClosed counts a stream that came to another end than a premature reset.
// Envoy counts one twice that it answers at once.
func (h *http2Server) streamClosed(s *http2Stream, atOnce bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case s.headSent == 0 && errors.Is(s.err, errHTTP2Reset):
	case atOnce:
		h.resets.closed += 2
	default:
		h.resets.closed++
	}
}

// tooMany says whether half of the streams were reset before their time, or will
// be whatever comes.
func (n *resetCount) tooMany(limits *resetLimits) bool {
	return n.premature*2 >= max(n.closed, limits.streams)
}

// codec counts a reset against what the codec takes: a bucket that is refilled
// each second.
func (n *resetCount) codec(limits *resetLimits) *http2Error {
	switch now := time.Now().Unix(); {
	case n.second == 0:
		n.left, n.second = limits.burst, now
	case now > n.second:
		gain := limits.burst
		if more := uint64(now - n.second); more < limits.burst/max(limits.rate, 1)+1 {
			gain = limits.rate * more
		}
		n.left, n.second = min(n.left+gain, limits.burst), now
	}
	if n.left == 0 {
		return &http2Error{code: http2.ErrCodeInternal}
	}
	n.left--
	return nil
}

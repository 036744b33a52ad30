package proxy

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"
)

// This file drives the iterations of a stream: it moves what comes to the
// filters and what comes out of them on, and waits where a filter has stopped
// the stream. Whoever lets it go on, be it the answer to a callout or a timer,
// does so on a goroutine of its own and wakes those that wait here.

// wakeUp wakes the goroutines of a stream: the one that moves the request and
// the one that moves the response, which may be the same.
type wakeUp struct {
	request, response chan struct{} // have a buffer of one
	requestWoken      atomic.Bool
	responseWoken     atomic.Bool
	reading           atomic.Bool // the request's goroutine reads content
}

func (s *stream) beginIterations() {
	if s.wakeUp.request == nil {
		s.wakeUp.request, s.wakeUp.response = make(chan struct{}, 1), make(chan struct{}, 1)
	}
	s.mu = &s.own
	if s.conn.server.engine != nil {
		s.mu = s.conn.server.thread(s.conn.worker)
	}
	s.decoding.begin(s, false)
	s.encoding.begin(s, true)
}

// signal wakes what waits for a word of the filters.
func (w *wakeUp) signal() {
	for _, c := range []chan struct{}{w.request, w.response} {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// wake makes the stream's goroutines look at what has become of it. The lock is
// held.
func (s *stream) wake() {
	if answering := s.conn.server.answering; answering != nil && s.callout == nil {
		if c := answering[1+s.conn.worker]; c != nil && c.upstream != nil && !c.passed {
			c.passed = true
			s.settling = append(s.settling, c)
			s.unsettled.Store(true)
		}
	}
	w := &s.wakeUp
	w.requestWoken.Store(true)
	w.responseWoken.Store(true)
	w.signal()
	if t := s.conn.tunnel.Load(); t != nil {
		t.wake()
		return
	}
	if w.reading.Load() {
		s.conn.SetReadDeadline(past)
	}
	if up := s.upstream.Load(); up != nil {
		up.SetReadDeadline(past)
	}
}

// reply is a filter's local reply; the first one counts. When the response is
// under way already there can be none, and the stream is reset.
func (s *stream) reply(r *localReply) {
	switch {
	case s.local != nil || s.aborted != nil:
		return
	case s.responseBegun:
		s.aborted = r
	default:
		s.local = r
	}
	s.wake()
}

// reset ends the stream without an answer.
func (s *stream) reset(details string) {
	if s.aborted == nil {
		s.aborted = &localReply{details: details}
		s.wake()
	}
}

// interrupted is what ends a stream because a filter wants it: its local reply,
// or nothing at all.
func (s *stream) interrupted() *localReply {
	switch {
	case s.aborted != nil:
		s.closing = true
		if r := s.aborted; r.details != "" || r.flags != "" {
			s.details, s.flags = r.details, r.flags
		}
		return &localReply{}
	case s.local != nil:
		return s.local
	}
	return nil
}

// await waits, unlocked, for a word of the filters. A reply ends the stream.
// watch says that nobody else reads from the client.
func (s *stream) await(word <-chan struct{}, watch bool) *localReply {
	s.waited = true
	s.mu.Unlock()
	defer s.mu.Lock()
	var gone <-chan struct{}
	if watch {
		gone = s.conn.watch()
		defer s.conn.unwatch()
	}
	var expired <-chan time.Time
	if limit := s.limit(); !limit.IsZero() {
		t := time.NewTimer(time.Until(limit))
		defer t.Stop()
		expired = t.C
	}
	select {
	case <-word:
		return nil
	case now := <-expired:
		return s.expired(now)
	case <-gone:
		return s.left()
	case <-s.conn.server.closing:
		s.closing = true
		return &localReply{}
	}
}

// decodeHeaders runs the request head through the filters.
func (s *stream) decodeHeaders() *localReply {
	s.mu.Lock()
	defer s.mu.Unlock()
	it := &s.decoding
	it.begin(s, false)
	it.complete = s.body.done
	it.headers(0, s.body.done)
	for {
		if r := s.interrupted(); r != nil || it.head {
			return r
		}
		if r := s.pumpRequest(); r != nil {
			return r
		}
	}
}

// pumpRequest gives a filter that has stopped the head more content, or else
// waits for its word. The lock is held.
func (s *stream) pumpRequest() *localReply {
	it := &s.decoding
	if it.complete || it.full() {
		return s.await(s.wakeUp.request, true)
	}
	s.mu.Unlock()
	var data []byte
	var end bool
	var r *localReply
	if s.upgrade && !s.shown {
		data, s.shown = s.takeEarly(), true
	} else {
		data, end, r = s.readContent()
	}
	s.mu.Lock()
	switch {
	case r != nil:
		return r
	case end:
		s.requestComplete, s.timers.request = time.Now(), time.Time{}
		it.finish()
	case data != nil:
		it.data(0, data, false, false)
	}
	return nil
}

// takeEarly takes what a client has sent behind its handshake.
func (s *stream) takeEarly() []byte {
	data, _ := s.body.take()
	s.bytesReceived.Add(int64(len(data)))
	if data == nil {
		data = []byte{} // the codec always gives one piece here, be it empty
	}
	return data
}

// readContent waits for a piece of the request's content. None at all, without
// end or reply, means that somebody has woken it.
func (s *stream) readContent() (data []byte, end bool, r *localReply) {
	s.wakeUp.reading.Store(true)
	defer s.wakeUp.reading.Store(false)
	s.awaitContent()
	data, err := s.body.next()
	switch {
	case err == io.EOF && s.upgrade && s.conn.http2 == nil:
		return nil, false, s.left()
	case err == io.EOF:
		return nil, true, nil
	case err == errBody || errors.As(err, new(*codecError)):
		return nil, false, codecReply(err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		if s.stopUpload.Load() {
			return nil, false, nil
		}
		return nil, false, s.expired(time.Now())
	case err != nil:
		return nil, false, s.left()
	}
	s.timers.touch()
	s.bytesReceived.Add(int64(len(data)))
	return data, false, nil
}

// awaitContent sets the deadline for the client's next piece, unless its reader
// is to look at something else, which may have been said a moment ago.
func (s *stream) awaitContent() {
	s.conn.SetReadDeadline(s.limit())
	if s.wakeUp.requestWoken.Swap(false) || s.stopUpload.Load() {
		s.conn.SetReadDeadline(past)
	}
}

// uploadStopped is what becomes of an upload that is told to stop while a
// filter holds its end back.
var uploadStopped = &localReply{}

// decodeData runs a piece of the request's content through the filters and
// returns what goes upstream. It returns the end only when that has passed all
// filters.
func (s *stream) decodeData(data []byte, endStream bool) ([]byte, *localReply) {
	if s.decoding.passes(s.chain != nil && s.chain.requestData, endStream) {
		return data, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.decoding.feed(data, endStream)
	return s.awaitDecoded(endStream)
}

// awaitDecoded waits until the filters have room for more, or, with end, until
// all has passed them. The lock is held.
func (s *stream) awaitDecoded(end bool) ([]byte, *localReply) {
	it := &s.decoding
	for {
		switch r := s.interrupted(); {
		case r != nil:
			return nil, r
		case s.stopUpload.Load() || s.tunnelOver():
			return nil, uploadStopped
		case it.end || !end && !it.full():
			return it.take(), nil
		}
		if r := s.await(s.wakeUp.request, true); r != nil {
			return nil, r
		}
	}
}

// tunnelOver says that one end of the stream's tunnel is gone.
func (s *stream) tunnelOver() bool {
	t := s.conn.tunnel.Load()
	return t != nil && t.over.Load()
}

// take gives what has passed the filters of one direction since the last piece.
func (s *stream) take(it *iteration) ([]byte, *localReply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.interrupted(); r != nil {
		return nil, r
	}
	return it.take(), nil
}

// encodeHeaders runs the response head through the filters, from the upstream
// side, and through the connection manager. What a filter wants to see of the
// content first is read from body; where there is none the reply is local.
func (s *stream) encodeHeaders(endStream bool, body *bodyReader, up *upstreamConn) *localReply {
	s.mu.Lock()
	defer s.mu.Unlock()
	it := &s.encoding
	it.begin(s, true)
	it.complete = endStream
	it.headers(0, endStream)
	for {
		if r := s.interrupted(); r != nil {
			return r
		}
		if it.head {
			if r := s.checkResponse(); r != nil {
				return r
			}
			s.finishHead()
			return nil
		}
		if r := s.pumpResponse(body, up); r != nil {
			return r
		}
	}
}

// pumpResponse is pumpRequest for the response.
func (s *stream) pumpResponse(body *bodyReader, up *upstreamConn) *localReply {
	it := &s.encoding
	switch {
	case it.complete || it.full():
		s.release()
		return s.await(s.wakeUp.response, s.released || up == nil || up.uploaded == nil)
	case s.upgrade && body != nil && body.kind == bodyUntilClose && !s.answerShown:
		it.data(0, s.takeFirst(body), false, false)
		return nil
	case body == nil:
		it.complete = true
		it.data(0, s.localText, true, false)
		return nil
	}
	s.mu.Unlock()
	data, err := s.nextContent(body, up)
	s.mu.Lock()
	switch {
	case err == io.EOF:
		it.finish()
	case err != nil:
		s.mu.Unlock()
		s.resetBy(err)
		s.mu.Lock()
		return &localReply{}
	case len(data) > 0:
		it.data(0, data, false, false)
	}
	return nil
}

// release gives the connection to the upstream back as soon as the response has
// come, whatever filters still do with it.
func (s *stream) release() {
	up := s.upstream.Load()
	if up == nil || s.callout != nil || !s.encoding.complete || !s.body.done || s.upgrade || up.uploaded != nil {
		return
	}
	s.upstream.Store(nil)
	s.released = true
	how := answered
	if s.keepUpstream {
		how = kept
	} else if s.untilClose {
		how = closedByPeer
	}
	s.letGo(up, how)
}

// takeFirst takes what an upstream has sent behind a 101. The codec always
// gives one piece here, be it empty.
func (s *stream) takeFirst(body *bodyReader) []byte {
	s.answerShown = true
	data, _ := body.take()
	return data
}

// encodeData runs a piece of the response's content through the filters and
// returns what goes to the client, with the end only when that has passed all
// filters. A reply means that the response breaks off.
func (s *stream) encodeData(data []byte, endStream bool) ([]byte, *localReply) {
	if s.encoding.passes(s.chain != nil && s.chain.responseData, endStream) {
		return data, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.encoding.feed(data, endStream)
	return s.awaitEncoded(endStream)
}

// awaitEncoded waits until the filters have room for more, or, with end, until
// all has passed them. The lock is held.
func (s *stream) awaitEncoded(end bool) ([]byte, *localReply) {
	it := &s.encoding
	for {
		if r := s.interrupted(); r != nil {
			return nil, r
		}
		if it.end || !end && !it.full() {
			return it.take(), nil
		}
		if s.tunnelOver() {
			return nil, uploadStopped
		}
		s.mu.Unlock()
		err := s.conn.flush()
		var gone *localReply
		if err != nil {
			gone = s.left()
		}
		s.mu.Lock()
		if err != nil {
			return nil, gone
		}
		s.release()
		up := s.upstream.Load()
		alone := s.conn.tunnel.Load() == nil && (up == nil || up.uploaded == nil)
		if r := s.await(s.wakeUp.response, alone); r != nil {
			s.closing, s.details, s.flags = true, r.details, r.flags
			return nil, r
		}
	}
}

// encodeLocal gives what the filters make of the text of a local reply.
func (s *stream) encodeLocal() ([]byte, *localReply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it := &s.encoding
	if it.headOnly {
		return nil, nil
	}
	it.feed(s.localText, true)
	return s.awaitEncoded(true)
}

package proxy

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// forward is the router filter: it chooses the upstream, sends it the request
// and gives its response to the client. A non-nil reply is to be sent instead.
func (s *stream) forward() *localReply {
	r, stats := s.findRoute(), &s.hcm.stats.router
	stats.requests.Add(1)
	if r == nil {
		stats.noRoute.Add(1)
		return &localReply{status: 404, details: "route_not_found", flags: "NR"}
	}
	if r.direct != nil {
		if r.direct.redirect != nil {
			stats.redirects.Add(1)
		} else {
			stats.direct.Add(1)
		}
		return r.direct.reply(s)
	}
	s.clusterName = r.cluster
	if r.clusterHeader != "" {
		s.clusterName = s.request.value(r.clusterHeader)
	}
	c := s.hcm.server.clusters[s.clusterName]
	if c == nil {
		s.clusterName = ""
		stats.noCluster.Add(1)
		return &localReply{status: r.noCluster, details: "cluster_not_found", flags: "NC"}
	}
	if r.idleTimeout >= 0 {
		s.timers.idle = r.idleTimeout
	}
	if reply := s.checkStrictly(); reply != nil {
		return reply
	}
	if c.maintained != nil && c.maintained(s) {
		c.maintenance.Add(1)
		s.charge(c, 503)
		reply := &localReply{status: 503, body: "maintenance mode", details: "maintenance_mode", flags: "UO"}
		if !s.silent() {
			reply.headers = [][2]string{{"x-envoy-overloaded", "true"}}
		}
		return reply
	}
	s.limitGRPC(r)
	s.timeouts(r)
	if r.virtualHost.attemptCount {
		s.request.set("x-envoy-attempt-count", "1")
	}
	s.counted = countedFor{r.virtualHost.virtualClusterOf(&s.request), r.stats}
	s.finalizeRequest(r)
	s.frame()
	s.retry.begin(r.retry, &s.request, &c.breakers[r.priority], c.stats)
	s.retry.counted = &s.counted
	defer s.retry.release()
	for s.attempts = 1; ; s.attempts++ {
		s.timedOutTry = false
		reply := s.attempt(r, c)
		if s.flags != "DC" {
			s.logAttempt()
		}
		if reply != tryAgain {
			return reply
		}
		if err := s.pauseBeforeRetry(); err != nil {
			return s.failed(err)
		}
		s.expectTimeout()
		if r.virtualHost.attemptCount {
			s.request.set("x-envoy-attempt-count", s.keepInt(int64(s.attempts+1)))
		}
		if r.virtualHost.timeoutRetry {
			s.request.set("x-envoy-is-timeout-retry", strconv.FormatBool(s.timedOutTry))
		}
	}
}

// tryAgain is the reply of an attempt that calls for another one.
var tryAgain = &localReply{}

// attempt sends the request to one host of the cluster.
func (s *stream) attempt(r *route, c *cluster) *localReply {
	want := choice{labels: s.labels(r)}
	want.refuse, want.attempts = s.retry.refuse()
	if c.balancing.hashing != nil {
		var ok bool
		if want.hash, ok = r.hash(s); !ok {
			want.hash = rand.Uint64()
		}
	}
	h := c.pick(want)
	if h == nil {
		c.stats.cxNoneHealthy.Add(1)
		s.responded(c, 503)
		return &localReply{status: 503, body: "no healthy upstream", details: "no_healthy_upstream", flags: "UH"}
	}
	s.upstreamHost, s.host = h.address, h
	pool := h.pool(s, int(r.priority))
	if s.terminates(r) {
		pool = &h.raw[r.priority]
	}
	s.atOnce = !s.upgrade && pool.hasIdle() // then Envoy has sent the head before it looks further
	if s.attempts == 1 && (!s.atOnce || s.decoded()) {
		r := s.spoiled()
		if r == nil {
			r = s.contentAhead()
		}
		if r != nil {
			pool.abandoned()
			return r
		}
	}
	s.retry.tried = append(s.retry.tried, h)
	s.beginAttempt()
	s.upstreamMeter.ask()
	up, err := pool.acquire(s)
	s.settle()
	if err != nil {
		s.upstreamMeter.ready = time.Now()
		return s.failed(err)
	}
	if s.conn.http2 != nil && !s.atOnce && s.conn.look() == ended { // before the connection could be made, for Envoy
		up.finish(kept)
		c.stats.rqTotal.Add(-1)
		h.stats.requests.Add(-1)
		c.stats.cancelled.Add(1)
		return s.left()
	}
	s.counted.sent()
	s.upstreamMeter.begin(up)
	s.upstream.Store(up)
	s.lastUpstream = up
	if r.autoHost && h.hostname != "" {
		s.setAuthority(r, h.hostname)
	}
	select {
	case <-s.conn.server.closing: // Close may have come too early to see it
		up.Close()
	default:
	}
	if reply := s.checkRequest(); reply != nil { // Envoy's codec does, when there is a connection
		return reply
	}
	up.SetDeadline(time.Time{})
	if s.try.open && s.chain.atStart {
		s.writeAttempt("UpstreamPoolReady")
	}
	s.startTry()
	return s.exchange(r, up)
}

// timeouts finds out how long the response may take: what the route says, or
// what the request asks for (FilterUtility::finalTimeout).
func (s *stream) timeouts(r *route) {
	s.timeout, s.timeoutStatus = r.timeout, 504
	if r.durations {
		s.timeout = 0
	}
	s.perTry, s.perTryIdle = 0, 0
	if r.retry != nil {
		s.perTry, s.perTryIdle = r.retry.perTry, r.retry.perTryIdle
	}
	if h := &s.request; hasEnvoyField(h) {
		if n, ok := parseCount(h.value("x-envoy-upstream-rq-timeout-ms")); ok {
			s.timeout = time.Duration(n) * time.Millisecond
		}
		h.remove("x-envoy-upstream-rq-timeout-ms")
		if s.chain.router.GetRespectExpectedRqTimeout() {
			if n, ok := parseCount(h.value("x-envoy-expected-rq-timeout-ms")); ok {
				s.timeout = time.Duration(n) * time.Millisecond
			}
		}
		if n, ok := parseCount(h.value("x-envoy-upstream-rq-per-try-timeout-ms")); ok {
			s.perTry = time.Duration(n) * time.Millisecond
		}
		if h.has("x-envoy-upstream-rq-timeout-alt-response") {
			s.timeoutStatus = 204
			h.remove("x-envoy-upstream-rq-timeout-alt-response")
		}
	}
	if s.timeout > 0 && s.perTry >= s.timeout {
		s.perTry = 0
	}
	if s.timeout > 0 && (s.body.done || s.upgrade) {
		s.timers.response = time.Now().Add(s.timeout)
	}
	s.expectTimeout()
}

// expectTimeout tells the upstream how long it has.
func (s *stream) expectTimeout() {
	expected := s.perTry
	if expected == 0 {
		expected = s.timeout
	}
	if expected == 0 || s.silent() {
		return
	}
	if s.attempts > 0 && !s.timers.response.IsZero() {
		expected = max(min(expected, time.Until(s.timers.response)), time.Millisecond)
	}
	s.request.set("x-envoy-expected-rq-timeout-ms", s.keepInt(expected.Milliseconds()))
}

// silent is suppress_envoy_headers.
func (s *stream) silent() bool { return s.chain.router.GetSuppressEnvoyHeaders() }

// startTry starts the timeouts of an attempt that has its connection.
func (s *stream) startTry() {
	s.timers.try, s.timers.tryIdle = time.Time{}, time.Time{}
	if s.perTryIdle > 0 {
		s.timers.tryIdle = time.Now().Add(s.perTryIdle)
	}
	if s.perTry > 0 && (s.body.done || s.upgrade) {
		s.timers.try = time.Now().Add(s.perTry)
	}
}

// frame decides how the request's content is framed (HTTP/1.1 encoder).
func (s *stream) frame() {
	h := &s.request
	s.chunked, s.zeroLength = false, false
	switch method := h.value(":method"); {
	case h.has("content-length"), isUpgrade(h) && s.upgrade, s.connect:
	case !s.decoding.headOnly:
		s.chunked = true
	default:
		s.zeroLength = method != "GET" && method != "HEAD" && method != "DELETE" && method != "TRACE" && method != "CONNECT"
	}
}

// labels are what the host is to be marked with: by the route, and by what
// filters left in the dynamic metadata.
func (s *stream) labels(r *route) labels { return r.labels.with(labelsOf(s.metadata["envoy.lb"])) }

// responded counts a response, the upstream's or one in its place.
func (s *stream) responded(c *cluster, status int) {
	if s.host != nil {
		s.host.stats.answered(status)
	}
	s.charge(c, status)
}

// charge is responded without the host.
func (s *stream) charge(c *cluster, status int) {
	if s.chain != nil && s.chain.silentStats {
		return
	}
	count := c.stats.responded
	if s.chain != nil && s.chain.router.GetSuppressGrpcRequestFailureCodeStats() && isGRPC(&s.request) {
		count = c.stats.respondedUncoded
	}
	count(status, s.request.value("x-envoy-internal") == "true", s.response.value("x-envoy-upstream-canary") == "true")
	s.counted.responded(status)
}

// took notes how long the response took since the request was complete.
func (s *stream) took(c *cluster) {
	s.mu.Lock()
	begun := s.requestComplete
	s.mu.Unlock()
	if !begun.IsZero() {
		s.counted.took(time.Since(begun))
		c.stats.took(time.Since(begun), s.request.value("x-envoy-internal") == "true", s.response.value("x-envoy-upstream-canary") == "true")
	}
}

// checkRequest refuses what a filter has made unfit to send.
func (s *stream) checkRequest() *localReply {
	for _, f := range s.request.fields {
		if f.name != "" && f.name[0] != ':' && !isToken(f.name) {
			return &localReply{status: 503, body: "invalid header name: " + f.name, details: "filter_removed_required_request_headers", flags: "DPE"}
		}
		if strings.ContainsAny(f.value, "\r\n\x00") {
			return &localReply{status: 503, body: "invalid header value for: " + f.name, details: "filter_removed_required_request_headers", flags: "DPE"}
		}
	}
	missing := ""
	connect := s.request.value(":method") == "CONNECT"
	switch {
	case !s.request.has(":method"):
		missing = ":method"
	case !connect && s.request.value(":path") == "":
		missing = ":path"
	case connect && !s.connect && s.request.has(":path"): // what a filter has made a CONNECT
		missing = ":protocol"
	default:
		return nil
	}
	return &localReply{status: 503, body: "missing required header: " + missing,
		details: "filter_removed_required_request_headers{missing_required_header:_" + missing + "}", flags: "DPE"}
}

// checkResponse refuses a response without a status (FilterManager::encodeHeaders).
func (s *stream) checkResponse() *localReply {
	if _, err := strconv.ParseUint(s.response.value(":status"), 10, 64); err == nil || s.callout != nil {
		return nil
	}
	return &localReply{status: 502, body: "missing required header: :status",
		details: "filter_removed_required_response_headers{missing_required_header:_:status}"}
}

// failed is what becomes of a request whose attempt got no response:
// another attempt, or a reply.
func (s *stream) failed(err error) *localReply {
	up := s.upstream.Swap(nil)
	if up != nil {
		s.letGo(up, endingOf(err))
	}
	stats := s.retry.stats
	r := &localReply{status: 503, flags: "UF"}
	reason, cause := err.Error(), ""
	var connect *connectError
	var protocol *codecError
	switch {
	case err == errDownstream:
		return s.left()
	case err == errClosing:
		s.closing = true
		return &localReply{}
	case errors.Is(err, os.ErrDeadlineExceeded):
		if r = s.expired(time.Now()); r == nil {
			r = s.timedOut("response_timeout")
		}
		switch r.details {
		case "response_timeout":
			stats.rqTimeout.Add(1)
			s.counted.timedOut()
			if up == nil { // no host had it yet
				s.charge(s.host.cluster, r.status)
				return r
			}
			s.host.stats.timedOut.Add(1)
			s.responded(s.host.cluster, r.status)
			return r
		case "upstream_per_try_timeout":
			s.timedOutTry = true
			stats.perTryTimeout.Add(1)
		case "upstream_per_try_idle_timeout":
			s.timedOutTry = true
			stats.perTryIdleTimeout.Add(1)
		default: // no matter of the upstream
			return r
		}
	case err == errQueueFull || err == errOverflow:
		if err == errQueueFull {
			s.upstreamHost = ""
		}
		r.flags = "UO"
		if !s.silent() {
			r.headers = [][2]string{{"x-envoy-overloaded", "true"}}
		}
	case errors.As(err, &connect):
		if why := connect.why(); why != "" {
			s.upstreamMeter.failure = why
			cause = "|" + why
		}
	case errors.Is(err, errHTTP2Reset):
		r.flags, reason = "UR", resetReason(err)
	case errors.As(err, new(*http2Error)):
		r.status, r.flags, reason = 502, "UPE", "protocol error"
	case errors.As(err, &protocol) || err == errBody:
		stats.cxProtocolError.Add(1)
		r.status, r.flags, reason = 502, "UPE", "protocol error"
	default:
		r.flags, reason = "UC", "connection termination"
	}
	s.try.flags = r.flags
	begun := "before"
	if s.continued { // an interim response is one that has begun
		begun = "after"
		s.hcm.stats.router.resets.Add(1)
	} else {
		again, flag := s.retry.again(s.retry.onReset(err, connect == nil))
		if again {
			s.response.reset(responseInline)
			return tryAgain
		}
		if flag != "" {
			r.flags = flag + "," + r.flags
		}
		if err == errQueueFull { // it was no matter of the host
			s.charge(s.host.cluster, r.status)
		} else {
			s.responded(s.host.cluster, r.status)
		}
	}
	if r.details == "" {
		r.details = "upstream_reset_" + begun + "_response_started{" + strings.ReplaceAll(reason+cause, " ", "_") + "}"
		r.body = "upstream connect error or disconnect/reset before headers. "
		if s.attempts > 1 {
			r.body += "retried and the latest "
		}
		r.body += "reset reason: " + reason
	}
	return r
}

// timedOut is the reply for a response that did not come in time.
func (s *stream) timedOut(details string) *localReply {
	r := &localReply{status: s.timeoutStatus, details: details, flags: "UT"}
	if r.status == 504 {
		r.body = "upstream request timeout"
	}
	return r
}

// errHalfHead is a connection that ended in the middle of a response's head.
var errHalfHead = &codecError{status: 400, details: "http1.codec_error"}

// endingOf says who ended a connection that failed so.
func endingOf(err error) ending {
	var protocol *codecError
	if err == errHalfHead {
		return resetByPeer
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) || err == errDownstream || err == errFilter || err == errBody || errors.As(err, &protocol) {
		return resetHere
	}
	return resetByPeer
}

// exchange sends the request and relays the response.
func (s *stream) exchange(r *route, up *upstreamConn) *localReply {
	chunked := s.chunked
	up.head(s)

	s.upstreamMeter.fieldsSent += requestFieldBytes(up.out)
	s.upstreamMeter.begun = time.Now()
	up.early, up.contentSent = up.early[:0], 0
	up.uploaded = nil
	content := s.retained
	if s.attempts == 1 {
		content = s.ahead
	}
	switch {
	case s.upgrade:
		up.early = append(up.early, content...)
	case s.decoded():
		up.content(content, chunked)
		up.end(s)
	default:
		up.content(content, chunked)
		if r := s.firstContent(up, chunked); r != nil {
			if s.atOnce {
				up.flush()
			}
			return r
		}
	}
	s.waited = true
	if s.terminates(r) {
		return s.relay(r, up)
	}
	if err := up.flush(); err != nil {
		return s.failed(err)
	}
	s.hasPlace()
	if s.atOnce && s.attempts == 1 && s.callout == nil && s.conn.look() == ended {
		return s.left()
	}
	decoded := s.decoded()
	if decoded {
		s.upstreamMeter.ended = time.Now()
		s.upstreamMeter.fieldsSent += s.trailersToSend(up)
	}
	if !s.upgrade && !decoded {
		up.uploaded = make(chan *localReply, 1)
		go s.upload(up, chunked)
	}
	return s.relay(r, up)
}

// decoded says whether all of the request has passed the filters. A plugin may
// be letting it go on from another goroutine.
func (s *stream) decoded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.decoding.end
}

// contentAhead runs what of the request's content is there already through
// the filters, as Envoy does before it has a connection for it.
//
// Of an upgrade it is what a client sent behind its handshake without waiting
// for the 101; it goes upstream behind the 101, or nowhere. The codec always
// gives one piece of data there, be it empty.
func (s *stream) contentAhead() *localReply {
	if s.decoding.paused { // a filter has let it go with the head
		out, r := s.take(&s.decoding)
		if r != nil {
			return r
		}
		s.retain(out)
		s.ahead = append(s.ahead, out...)
	}
	for first := !s.shown; first && s.upgrade || !s.decoding.complete; first = false {
		data, err := s.body.take()
		if err != nil {
			return codecReply(err)
		}
		if len(data) == 0 && !s.body.done && !(first && s.upgrade) {
			return nil
		}
		if len(data) > 0 || s.upgrade {
			s.bytesReceived.Add(int64(len(data)))
			out, r := s.decodeData(data, false)
			if r != nil {
				return r
			}
			s.retain(out)
			s.ahead = append(s.ahead, out...)
		}
		if s.body.done {
			out, r := s.contentEnd()
			if r != nil {
				return r
			}
			s.ahead = append(s.ahead, out...)
		}
	}
	return nil
}

// firstContent takes what of the request's content is there already, so that
// most requests need neither a second write nor a second goroutine.
func (s *stream) firstContent(up *upstreamConn, chunked bool) *localReply {
	if s.decoding.paused {
		out, r := s.take(&s.decoding)
		if r != nil {
			return r
		}
		s.retain(out)
		up.content(out, chunked)
	}
	for {
		data, err := s.body.take()
		if err != nil {
			return codecReply(err)
		}
		if len(data) == 0 && !s.body.done {
			return nil
		}
		if len(data) > 0 {
			s.bytesReceived.Add(int64(len(data)))
			out, r := s.decodeData(data, false)
			if r != nil {
				return r
			}
			s.retain(out)
			up.content(out, chunked)
		}
		if s.body.done {
			return s.lastContent(up, chunked)
		}
	}
}

// lastContent ends the request. Envoy's codec gives the end of the stream to
// filters as a piece of its own.
func (s *stream) lastContent(up *upstreamConn, chunked bool) *localReply {
	out, r := s.contentEnd()
	if r != nil {
		return r
	}
	up.content(out, chunked)
	up.end(s)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.perTry > 0 {
		s.timers.try = s.requestComplete.Add(s.perTry)
	}
	if s.timeout > 0 || s.perTry > 0 {
		up.SetReadDeadline(s.timers.until()) // relay may be waiting already
	}
	return nil
}

// contentEnd ends the request for the filters, and gives the content that they
// had kept.
func (s *stream) contentEnd() ([]byte, *localReply) {
	s.mu.Lock()
	s.requestComplete = time.Now()
	s.mu.Unlock()
	out, r := s.decodeEnd()
	if r != nil {
		return nil, r
	}
	s.mu.Lock()
	s.timers.request = time.Time{}
	if s.timeout > 0 {
		s.timers.response = s.requestComplete.Add(s.timeout)
	}
	s.mu.Unlock()
	s.retain(out)
	return out, nil
}

// retain keeps content that was sent, for another attempt to send it again.
func (s *stream) retain(data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(data) == 0 || !s.retry.enabled() {
		return
	}
	if !s.mayRetain(len(s.retained) + len(data)) {
		s.retry.abandon()
		s.retained = nil
		return
	}
	s.retained = append(s.retained, data...)
}

func (u *upstreamConn) content(data []byte, chunked bool) {
	u.contentSent += int64(len(data))
	switch {
	case len(data) == 0:
	case chunked && u.http2 == nil:
		u.out = appendChunk(u.out, data)
	default:
		u.out = append(u.out, data...)
	}
}

// upload relays the rest of the request's content while the response may
// already be on its way.
func (s *stream) upload(up *upstreamConn, chunked bool) {
	up.uploaded <- func() *localReply {
		for {
			up.out = up.out[:0]
			data, end, r := s.readContent()
			switch {
			case r != nil:
				up.SetReadDeadline(past) // wakes relay
				return r
			case s.stopUpload.Load():
				return nil
			case end:
				if r := s.lastContent(up, chunked); r == uploadStopped {
					return nil
				} else if r != nil {
					up.SetReadDeadline(past)
					return r
				}
				up.flush() // relay sees an error as well
				s.upstreamMeter.ended = time.Now()
				s.upstreamMeter.fieldsSent += s.trailersToSend(up)
				return nil
			}
			var out []byte
			if data == nil { // woken: a filter may have let something go
				out, r = s.take(&s.decoding)
			} else {
				out, r = s.decodeData(data, false)
			}
			switch {
			case r == uploadStopped:
				return nil
			case r != nil:
				up.SetReadDeadline(past)
				return r
			case len(out) == 0:
				continue
			}
			s.retain(out)
			up.content(out, chunked)
			if err := up.flush(); err != nil {
				return nil // relay sees it as well
			}
		}
	}()
}

// uploadResult waits for upload and gives the reply it ended with.
func (s *stream) uploadResult(up *upstreamConn, stop bool) *localReply {
	if s.released || up.uploaded == nil {
		return nil
	}
	if stop {
		s.stopUpload.Store(true)
		s.conn.SetReadDeadline(past)
		select { // it may be a filter that it waits for
		case s.wakeUp.request <- struct{}{}:
		default:
		}
	}
	r := <-up.uploaded
	up.uploaded = nil
	s.stopUpload.Store(false)
	return r
}

// relay reads the response and sends it to the client.
func (s *stream) relay(r *route, up *upstreamConn) *localReply {
	status, http11, err := s.answerOf(r, up)
	if err != nil {
		if uploaded := s.uploadResult(up, true); uploaded != nil {
			return uploaded
		}
		s.mu.Lock()
		r := s.interrupted()
		s.mu.Unlock()
		if r != nil {
			return r
		}
		if err == errDownstream {
			return s.left()
		}
		return s.failed(err)
	}
	resp := &s.response
	var body bodyReader
	if err := s.responseBody(&body, &up.in, status); err != nil {
		resp.reset(responseInline)
		s.uploadResult(up, true)
		return s.failed(err)
	}
	c := up.host.cluster
	keep := !wantsClose(resp, http11) && body.kind != bodyUntilClose
	s.mu.Lock()
	s.attemptAnswered(status)
	s.retry.askedFor(resp)
	again, flag := s.retry.again(s.retry.onResponse(status, resp))
	if !again {
		s.retry.on = 0 // what is sent from now on need not be kept
		s.status, s.details, s.flags = status, "via_upstream", flag
		s.timers.try, s.timers.tryIdle = time.Time{}, time.Time{}
	}
	complete := s.requestComplete
	s.mu.Unlock()
	if wantsClose(resp, http11) {
		c.stats.cxCloseNotify.Add(1)
	}
	if again {
		up.host.stats.failed.Add(1) // whatever it was
		c.stats.retryCodes.count(status)
		s.uploadResult(up, true)
		s.conn.SetReadDeadline(time.Time{})
		resp.reset(responseInline)
		s.upstream.Store(nil)
		s.letGo(up, s.endingOfAnswer(&body, keep))
		return tryAgain
	}
	if !complete.IsZero() && !s.silent() {
		resp.set("x-envoy-upstream-service-time", s.keepInt(time.Since(complete).Milliseconds()))
	}
	tunnel := false
	if s.upgrade {
		switch {
		case s.connect:
			if tunnel = s.connected(); tunnel {
				keep = false
			}
		case up.http2 == nil && status >= 200 && status < 400 && equalFold(s.request.value("upgrade"), "websocket"):
			// A handshake that was answered with success or a redirect but
			// not switched: its content is dropped.
			resp.remove("content-length")
			resp.remove("transfer-encoding")
			resp.remove("content-type")
			s.details = "websocket_handshake_unsuccessful"
			body.reset(&up.in, bodyNone, 0)
			keep = false
		case isUpgrade(resp) && !equalFold(resp.value("upgrade"), "h2c"): // with any status
			tunnel, keep = true, false
			if status != 101 {
				up.early = up.early[:0]
			}
			done := up.http2 != nil && body.done
			body.reset(&up.in, bodyUntilClose, 0)
			body.done = done
		case status == 101:
			resp.remove("upgrade")
			resp.remove("connection")
			body.reset(&up.in, bodyNone, 0)
			keep = false
		}
	}
	if s.details == "via_upstream" {
		s.responded(c, status)
	}
	s.upstreamBegun = time.Now()
	for _, c := range s.setCookies {
		resp.Add("set-cookie", c)
	}
	s.finalizeResponse(r)
	if r.virtualHost.attemptCountInResponse {
		resp.set("x-envoy-attempt-count", s.keepInt(int64(s.attempts)))
	}
	s.keepUpstream, s.untilClose = keep, body.kind == bodyUntilClose
	if reply := s.encodeHeaders(body.done, &body, up); reply != nil {
		s.uploadResult(up, true)
		return reply
	}
	chunked := s.writeHead(s.encoding.headOnly)
	if _, gone := s.conn.hungUp(); gone {
		s.uploadResult(up, true)
		return s.failed(errDownstream)
	}
	if tunnel {
		s.tunnel(up)
		return nil
	}
	if s.upgrade && up.http2 != nil && !body.done && !s.decoded() {
		// An answer of HTTP/2 that accepts nothing is one like any other.
		up.uploaded = make(chan *localReply, 1)
		go s.upload(up, false)
	}
	err = s.relayBody(&body, up, chunked)
	uploaded := s.uploadResult(up, true)
	switch {
	case err != nil && uploaded != nil:
		s.closing, s.broken = true, true
		s.details, s.flags = uploaded.details, uploaded.flags
		if uploaded.status == 0 {
			s.left()
		}
	case err != nil:
		s.resetBy(err)
	}
	keep = keep && err == nil && uploaded == nil
	if err == errFilter {
		s.mu.Lock()
		s.release()
		s.mu.Unlock()
	}
	if s.released {
		if err == nil && s.conn.flush() != nil {
			s.resetBy(errDownstream)
		} else if err == nil {
			s.replyEnded = time.Now()
		}
		return nil
	}
	s.upstream.Store(nil)
	if err != nil {
		if up.http2 == nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, errDownstream) && err != errFilter {
			c.stats.cxProtocolError.Add(1)
		}
		s.letGo(up, endingOf(err))
	} else {
		// The next request may use the connection as soon as the client has
		// the whole response.
		s.letGo(up, s.endingOfAnswer(&body, keep))
		s.took(c)
		if s.upstreamMeter.last.IsZero() { // it had no content
			s.upstreamMeter.last = s.upstreamBegun
		}
		if s.conn.flush() != nil {
			s.resetBy(errDownstream)
		} else {
			s.replyEnded = time.Now()
		}
	}
	return nil
}

// endingOfAnswer says what becomes of a connection that has brought a
// response, as far as that was read.
func (s *stream) endingOfAnswer(response *bodyReader, keep bool) ending {
	switch {
	case !s.body.done, s.upgrade, !response.done:
		return resetHere
	case keep:
		return kept
	case response.kind == bodyUntilClose:
		return closedByPeer
	}
	return answered
}

// patience is how long the response may take before the client is watched: a
// client that goes away meanwhile resets the upstream.
const patience = 50 * time.Millisecond

// responseHead reads the final response head, or a 101.
func (s *stream) responseHead(up *upstreamConn) (status int, http11 bool, err error) {
	if up.uploaded != nil { // the upload watches the client
		return s.patientResponseHead(up)
	}
	up.SetReadDeadline(earliest(s.limit(), time.Now().Add(patience)))
	status, http11, err = s.readResponseHead(up)
	if errors.Is(err, os.ErrDeadlineExceeded) && s.expired(time.Now()) == nil {
		return s.watchedResponseHead(up)
	}
	return status, http11, err
}

// patientResponseHead waits until a limit of the stream has passed, which may
// move meanwhile: os.ErrDeadlineExceeded with none expired means that somebody
// woke it.
func (s *stream) patientResponseHead(up *upstreamConn) (status int, http11 bool, err error) {
	for {
		limit := s.limit()
		up.SetReadDeadline(limit)
		status, http11, err = s.readResponseHead(up)
		if !errors.Is(err, os.ErrDeadlineExceeded) || s.expired(time.Now()) != nil {
			return status, http11, err
		}
		if s.wakeUp.responseWoken.Swap(false) {
			s.mu.Lock()
			over := s.interrupted() != nil
			s.mu.Unlock()
			if !over {
				continue
			}
		}
		if limit.IsZero() || time.Now().Before(limit) {
			return status, http11, err
		}
	}
}

// watchedResponseHead waits for a response for as long as the client does.
func (s *stream) watchedResponseHead(up *upstreamConn) (status int, http11 bool, err error) {
	left := s.whileWatched(up, func() { status, http11, err = s.patientResponseHead(up) })
	if left && err != nil {
		err = errDownstream
	}
	return status, http11, err
}

// whileWatched calls receive, which reads from up, and wakes it when the client
// leaves; that is what it returns.
func (s *stream) whileWatched(up *upstreamConn, receive func()) (left bool) {
	gone, received := s.conn.watch(), make(chan struct{})
	found := make(chan bool, 1)
	go func() {
		select {
		case <-gone:
			up.SetReadDeadline(past)
			found <- true
		case <-received:
			found <- false
		}
	}()
	receive()
	close(received)
	s.conn.unwatch()
	return <-found
}

// informational is a 1xx other than 101: it ends here, unless
// proxy_100_continue. Envoy heeds the first one.
func (s *stream) informational(c *cluster, status int) {
	if s.continued {
		return
	}
	s.continued = true
	s.responded(c, status)
	if !s.hcm.proxyContinue {
		return
	}
	s.mu.Lock()
	s.cleanResponse()
	s.hcm.stats.responded(status)
	if s.conn.http2 != nil {
		s.writeFields(false)
		s.conn.http2.flush()
	} else {
		s.conn.out = s.hcm.codec.appendResponse(s.conn.out, &s.response, s.http11, false, false)
	}
	s.mu.Unlock()
	s.conn.flush() // what fails shows in the response too
}

func (s *stream) readResponseHead(up *upstreamConn) (status int, http11 bool, err error) {
	if up.http2 != nil {
		return s.readResponseFields(up)
	}
	for {
		cluster := up.host.cluster
		head, err := up.in.readHead(cluster.maxResponseHead, statusStart)
		if err != nil {
			if len(up.in.buffered()) > 0 && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.As(err, new(*codecError)) {
				err = errHalfHead
			}
			return 0, false, err
		}
		size := len(head)
		s.response.reset(responseInline)
		cluster.codec.noteNames(&s.response, &s.responseNames, head)
		kept := s.keep(head)
		s.upstreamMeter.headHasCome(kept)
		status, http11, err = parseResponse(kept, &s.response, cluster.maxResponseFields+1) // and :status
		up.in.discard(size)
		if err != nil {
			s.response.reset(responseInline)
			return 0, false, err
		}
		if status < 100 || status >= 200 || status == 101 {
			return status, http11, nil
		}
		if err := s.responseBody(new(bodyReader), &up.in, status); err != nil {
			s.response.reset(responseInline)
			return 0, false, err
		}
		s.informational(cluster, status)
	}
}

// past is a deadline that wakes whoever reads or writes.
var past = time.Unix(1, 0)

// responseBody decides how the content of a response ends (RFC 9112 6.3).
func (s *stream) responseBody(b *bodyReader, in *input, status int) error {
	h := &s.response
	if st, ok := in.conn.(*http2Stream); ok {
		s.responseContent(b, in, st)
		return nil
	}
	te, length := h.has("transfer-encoding"), h.has("content-length")
	if te && length && s.host.cluster.codec.chunkedLength {
		h.remove("content-length")
		length = false
	}
	if te && (length || !equalFold(h.value("transfer-encoding"), "chunked")) {
		return errParse
	}
	n := int64(0)
	if length && status != 304 {
		var ok bool
		if n, ok = contentLength(h.value("content-length")); !ok {
			return errParse
		}
	}
	switch {
	case s.connect && status >= 200 && status < 300:
		b.reset(in, bodyUntilClose, 0)
	case status < 200 || status == 204:
		// RFC 9112 6.1, RFC 9110 8.6: neither may be there.
		if te || length && h.value("content-length") != "0" {
			return errParse
		}
		h.remove("content-length")
		if b.reset(in, bodyNone, 0); status < 100 {
			b.reset(in, bodyUntilClose, 0)
		}
	case s.head || status == 304:
		b.reset(in, bodyNone, 0)
	case te:
		b.reset(in, bodyChunked, 0)
		c := s.host.cluster
		b.keepTrailers(&c.codec, &s.responseTrailers, c.maxResponseFields, c.maxResponseHead)
		b.inline = responseTrailerInline
	case length:
		b.reset(in, bodyLength, n)
	default:
		b.reset(in, bodyUntilClose, 0)
	}
	return nil
}

// resetBy notes why a response broke off; all that is left to do is to close.
func (s *stream) resetBy(err error) {
	s.closing, s.broken = true, true
	switch expired := s.expired(time.Now()); {
	case errors.Is(err, errDownstream):
		s.left()
	case err == errFilter: // it has said why
	case errors.Is(err, os.ErrDeadlineExceeded) && expired != nil:
		s.details, s.flags = expired.details, expired.flags
		if s.details == "response_timeout" {
			s.retry.stats.rqTimeout.Add(1)
			s.counted.timedOut()
		}
	default:
		s.details, s.flags = resetDetails(err)
	}
}

// relayBody sends the content of the response. The head waits in conn.out, and
// so does, in the end, the last piece.
func (s *stream) relayBody(body *bodyReader, up *upstreamConn, chunked bool) error {
	c, it := s.conn, &s.encoding
	if it.headOnly {
		return nil
	}
	if it.complete { // the filters have seen all of it
		s.mu.Lock()
		out, r := s.awaitEncoded(true)
		s.mu.Unlock()
		return s.lastOfBody(out, r, chunked, body.joined())
	}
	if it.paused {
		out, _ := s.take(&s.encoding)
		s.sendContent(out, chunked)
	}
	for {
		data, err := body.take()
		if len(data) == 0 && err == nil && !body.done {
			if err := c.flush(); err != nil {
				return errDownstream
			}
			data, err = s.nextContent(body, up)
			if err == nil {
				s.timers.touch()
			}
			if len(data) == 0 && err == nil { // woken: a filter may have let something go
				out, r := s.take(&s.encoding)
				if r != nil {
					return errFilter
				}
				s.sendContent(out, chunked)
				continue
			}
		}
		if err != nil && err != io.EOF {
			c.flush()
			return err
		}
		if len(data) > 0 {
			s.try.received += int64(len(data))
			out, r := s.encodeData(data, false)
			if r != nil {
				c.flush()
				return errFilter
			}
			s.sendContent(out, chunked)
		}
		if body.done {
			out, r := s.encodeEnd()
			return s.lastOfBody(out, r, chunked, body.joined())
		}
		if len(c.out) >= bodyBuffer {
			if err := c.flush(); err != nil {
				return errDownstream
			}
		}
	}
}

// errFilter is a response that a filter has broken off.
var errFilter = errors.New("a filter has reset the stream")

func (s *stream) lastOfBody(out []byte, r *localReply, chunked, joined bool) error {
	if r != nil {
		s.conn.flush()
		return errFilter
	}
	s.sendContent(out, chunked)
	s.endContent(chunked, joined)
	s.upstreamMeter.last = time.Now()
	return nil
}

// nextContent waits for the next piece of a response for as long as the client
// does. None, without an error, means that somebody has woken it.
func (s *stream) nextContent(body *bodyReader, up *upstreamConn) ([]byte, error) {
	up.SetReadDeadline(earliest(s.limit(), time.Now().Add(patience/10)))
	data, err := body.next()
	if !errors.Is(err, os.ErrDeadlineExceeded) || s.expired(time.Now()) != nil {
		return data, err
	}
	if up.uploaded != nil {
		return s.patientContent(body, up) // the upload watches the client
	}
	left := s.whileWatched(up, func() { data, err = s.patientContent(body, up) })
	if left && err != nil && err != io.EOF {
		err = errDownstream
	}
	return data, err
}

// patientContent waits until a limit of the stream has passed, or somebody
// wakes it, as patientResponseHead does.
func (s *stream) patientContent(body *bodyReader, up *upstreamConn) ([]byte, error) {
	for {
		limit := s.limit()
		up.SetReadDeadline(limit)
		if s.wakeUp.responseWoken.Swap(false) {
			return nil, nil
		}
		data, err := body.next()
		if errors.Is(err, os.ErrDeadlineExceeded) && s.wakeUp.responseWoken.Swap(false) {
			return nil, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || limit.IsZero() || time.Now().Before(limit) || s.expired(time.Now()) != nil {
			return data, err
		}
	}
}

func (s *stream) sendContent(data []byte, chunked bool) {
	if len(data) == 0 {
		return
	}
	s.bytesSent.Add(int64(len(data)))
	if s.callout != nil {
		s.callout.add(data)
		return
	}
	if chunked {
		s.conn.out = appendChunk(s.conn.out, data)
	} else {
		s.conn.out = append(s.conn.out, data...)
	}
}

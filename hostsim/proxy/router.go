package proxy

import (
	"errors"
	"io"
	"os"
	"strings"
	"time"
)

// forward is the router filter: it chooses the upstream, sends it the request
// and gives its response to the client. A non-nil reply is to be sent instead.
func (s *stream) forward() *localReply {
	r := s.findRoute()
	if r == nil {
		return &localReply{status: 404, details: "route_not_found", flags: "NR"}
	}
	if r.direct != nil {
		return &localReply{status: r.direct.status, body: r.direct.body, details: "direct_response"}
	}
	s.clusterName = r.cluster
	if r.clusterHeader != "" {
		s.clusterName = s.request.value(r.clusterHeader)
	}
	c := s.hcm.server.clusters[s.clusterName]
	if c == nil {
		s.clusterName = ""
		return &localReply{status: 503, details: "cluster_not_found", flags: "NC"}
	}
	if r := s.checkRequest(); r != nil {
		return r
	}
	if r.timeout > 0 {
		s.request.set("x-envoy-expected-rq-timeout-ms", s.keepInt(r.timeout.Milliseconds()))
		if s.body.done || s.upgrade {
			s.timers.response = time.Now().Add(r.timeout)
		}
	}
	s.finalizeRequest(r)
	h := c.pick()
	if h == nil {
		return &localReply{status: 503, body: "no healthy upstream", details: "no_healthy_upstream", flags: "UH"}
	}
	s.upstreamHost = h.address
	if r.idleTimeout >= 0 {
		s.timers.idle = r.idleTimeout
	}
	up, err := c.acquire(h, s.limit())
	if err != nil {
		return s.noConnection(err)
	}
	s.upstream.Store(up)
	select {
	case <-s.conn.server.closing: // Close may have come too early to see it
		up.Close()
	default:
	}
	up.SetDeadline(time.Time{})
	return s.exchange(r, up)
}

// finalizeRequest is what a route does to the request head.
func (s *stream) finalizeRequest(r *route) {
	for _, e := range []*headerEdits{&r.headers, &r.virtualHost.headers, &s.hcm.routes.headers} {
		e.editRequest(&s.request, s)
	}
	if r.hostRewrite != "" {
		s.request.set(":authority", r.hostRewrite)
	}
	if r.prefixRewrite != "" {
		path := s.request.value(":path")
		s.request.set("x-envoy-original-path", path)
		s.request.set(":path", r.prefixRewrite+strings.TrimPrefix(path, r.match.prefix))
	}
}

// checkRequest refuses what a filter has made unfit to send.
func (s *stream) checkRequest() *localReply {
	for _, f := range s.request.fields {
		if f.name == "" || f.name[0] != ':' && !isToken(f.name) {
			return &localReply{status: 503, body: "invalid header name: " + f.name, details: "filter_removed_required_request_headers", flags: "DPE"}
		}
		if strings.ContainsAny(f.value, "\r\n\x00") {
			return &localReply{status: 503, body: "invalid header value for: " + f.name, details: "filter_removed_required_request_headers", flags: "DPE"}
		}
	}
	for _, name := range []string{":method", ":path"} {
		if s.request.value(name) == "" && !(name == ":path" && s.request.value(":method") == "CONNECT") {
			return &localReply{status: 503, body: "missing required header: " + name,
				details: "filter_removed_required_request_headers{missing_required_header:_" + name + "}", flags: "DPE"}
		}
	}
	return nil
}

func (s *stream) noConnection(err error) *localReply {
	var ce *connectError
	switch {
	case err == errTimeout:
		return upstreamTimeout()
	case err == errOverflow:
		return &localReply{status: 503, body: "upstream connect error or disconnect/reset before headers. reset reason: overflow",
			details: "upstream_reset_before_response_started{overflow}", flags: "UO",
			headers: [][2]string{{"x-envoy-overloaded", "true"}}}
	case errors.As(err, &ce):
		reason := ce.Error()
		return &localReply{status: 503, body: "upstream connect error or disconnect/reset before headers. reset reason: " + reason,
			details: "upstream_reset_before_response_started{" + strings.ReplaceAll(reason, " ", "_") + "}", flags: "UF"}
	}
	return &localReply{status: 503, details: "upstream_reset_before_response_started", flags: "UF"}
}

func upstreamTimeout() *localReply {
	return &localReply{status: 504, body: "upstream request timeout", details: "response_timeout", flags: "UT"}
}

// brokenUpstream is the reply for a connection that failed under a request.
func (s *stream) brokenUpstream(err error) *localReply {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return upstreamTimeout()
	}
	var protocol *codecError
	if errors.As(err, &protocol) || err == errBody {
		return &localReply{status: 502, body: "upstream connect error or disconnect/reset before headers. reset reason: protocol error",
			details: "upstream_reset_before_response_started{protocol_error}", flags: "UPE"}
	}
	return &localReply{status: 503, body: "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
		details: "upstream_reset_before_response_started{connection_termination}", flags: "UC"}
}

// exchange sends the request and relays the response.
func (s *stream) exchange(r *route, up *upstreamConn) *localReply {
	h := &s.request
	upgrade := isUpgrade(h)
	chunked, zero := false, false
	switch method := h.value(":method"); {
	case h.has("content-length"), upgrade && s.upgrade:
	case !s.body.done:
		chunked = true
	default:
		zero = method != "GET" && method != "HEAD" && method != "DELETE" && method != "TRACE" && method != "CONNECT"
	}
	up.out = appendRequest(up.out[:0], h, chunked, zero)

	up.early = up.early[:0]
	up.uploaded = nil
	if s.upgrade {
		if r := s.earlyData(up); r != nil {
			return r
		}
	} else if !s.body.done {
		if r := s.firstContent(up, chunked); r != nil {
			return r
		}
	}
	if _, err := up.Write(up.out); err != nil {
		return s.brokenUpstream(err)
	}
	if !s.upgrade && !s.body.done {
		up.uploaded = make(chan *localReply, 1)
		go s.upload(up, chunked, r.timeout)
	}
	return s.relay(r, up)
}

// earlyData shows filters what a client sent behind its handshake without
// waiting for the 101. It goes upstream behind the 101, or nowhere. The codec
// always gives one piece of data here, be it empty.
func (s *stream) earlyData(up *upstreamConn) *localReply {
	data, _ := s.body.take()
	s.bytesReceived.Add(int64(len(data)))
	data, r := s.decodeData(data, false)
	up.early = append(up.early, data...)
	return r
}

// firstContent takes what of the request's content is there already, so that
// most requests need neither a second write nor a second goroutine.
func (s *stream) firstContent(up *upstreamConn, chunked bool) *localReply {
	for {
		data, err := s.body.take()
		if err != nil {
			return codecReply(errParse)
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
	out, r := s.decodeData(nil, true)
	if r != nil {
		return r
	}
	up.content(out, chunked)
	if chunked {
		up.out = append(up.out, "0\r\n\r\n"...)
	}
	s.mu.Lock()
	s.requestComplete = time.Now()
	s.timers.request = time.Time{}
	if t := s.route.timeout; t > 0 {
		s.timers.response = s.requestComplete.Add(t)
		up.SetReadDeadline(s.timers.until()) // relay may be waiting already
	}
	s.mu.Unlock()
	return nil
}

func (u *upstreamConn) content(data []byte, chunked bool) {
	switch {
	case len(data) == 0:
	case chunked:
		u.out = appendChunk(u.out, data)
	default:
		u.out = append(u.out, data...)
	}
}

// upload relays the rest of the request's content while the response may
// already be on its way.
func (s *stream) upload(up *upstreamConn, chunked bool, timeout time.Duration) {
	up.uploaded <- func() *localReply {
		s.conn.SetReadDeadline(s.limit())
		for {
			up.out = up.out[:0]
			data, err := s.body.next()
			switch {
			case err == io.EOF:
				if r := s.lastContent(up, chunked); r != nil {
					return r
				}
				if _, err := up.Write(up.out); err != nil {
					return s.brokenUpstream(err)
				}
				return nil
			case err == errBody:
				up.SetReadDeadline(past) // wakes relay
				return codecReply(errParse)
			case errors.Is(err, os.ErrDeadlineExceeded):
				if s.stopUpload.Load() {
					return nil
				}
				if r := s.expired(time.Now()); r != nil {
					up.SetReadDeadline(past)
					return r
				}
				s.conn.SetReadDeadline(s.limit())
				continue
			case err != nil:
				up.SetReadDeadline(past)
				return s.left()
			}
			s.timers.touch()
			s.bytesReceived.Add(int64(len(data)))
			out, r := s.decodeData(data, false)
			if r != nil {
				up.SetReadDeadline(past) // wakes relay
				return r
			}
			up.content(out, chunked)
			if _, err := up.Write(up.out); err != nil {
				return nil // relay sees it as well
			}
		}
	}()
}

// uploadResult waits for upload and gives the reply it ended with.
func (s *stream) uploadResult(up *upstreamConn, stop bool) *localReply {
	if up.uploaded == nil {
		return nil
	}
	if stop {
		s.stopUpload.Store(true)
		s.conn.SetReadDeadline(past)
	}
	r := <-up.uploaded
	up.uploaded = nil
	s.stopUpload.Store(false)
	return r
}

// relay reads the response and sends it to the client.
func (s *stream) relay(r *route, up *upstreamConn) *localReply {
	status, http11, err := s.responseHead(up)
	if err != nil {
		if uploaded := s.uploadResult(up, true); uploaded != nil {
			return uploaded
		}
		if err == errDownstream {
			return s.left()
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if r := s.expired(time.Now()); r != nil {
				return r
			}
		}
		return s.brokenUpstream(err)
	}
	s.mu.Lock()
	s.status, s.details = status, "via_upstream"
	complete := s.requestComplete
	s.mu.Unlock()
	resp := &s.response
	var body bodyReader
	if err := s.responseBody(&body, &up.in, status); err != nil {
		resp.reset(responseInline)
		s.uploadResult(up, true)
		return s.brokenUpstream(err)
	}
	keep := http11 && !hasToken(resp.value("connection"), "close") && body.kind != bodyUntilClose
	if !complete.IsZero() {
		resp.set("x-envoy-upstream-service-time", s.keepInt(time.Since(complete).Milliseconds()))
	}
	tunnel := false
	if s.upgrade {
		switch {
		case status == 101:
			tunnel = isUpgrade(resp) && !equalFold(resp.value("upgrade"), "h2c")
			if !tunnel {
				resp.remove("upgrade")
				resp.remove("connection")
				body.reset(&up.in, bodyNone, 0)
			} else {
				body.reset(&up.in, bodyUntilClose, 0)
			}
			keep = false
		case status >= 200 && status < 300 && equalFold(s.request.value("upgrade"), "websocket"):
			// A handshake that was answered with success but not switched:
			// its content is dropped.
			resp.remove("content-length")
			resp.remove("transfer-encoding")
			s.details = "websocket_handshake_unsuccessful"
			body.reset(&up.in, bodyNone, 0)
			keep = false
		}
	}
	if reply := s.encodeHeaders(body.done); reply != nil {
		s.uploadResult(up, true)
		return reply
	}
	chunked := s.writeHead(body.done)
	if tunnel {
		s.tunnel(r, up)
		return nil
	}
	err = s.relayBody(&body, up, chunked)
	if uploaded := s.uploadResult(up, true); uploaded != nil {
		keep = false
	}
	if err != nil {
		keep = false
		s.resetBy(err)
	}
	s.upstream.Store(nil)
	up.finish(keep && s.body.done && !s.upgrade)
	return nil
}

// finish gives the connection back to its pool, or closes it.
func (u *upstreamConn) finish(keep bool) {
	u.host.cluster.requests.Add(-1)
	if keep && len(u.in.buffered()) == 0 {
		u.giveBack()
	} else {
		u.discard()
	}
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
		if !errors.Is(err, os.ErrDeadlineExceeded) || limit.IsZero() || time.Now().Before(limit) || s.expired(time.Now()) != nil {
			return status, http11, err
		}
	}
}

// watchedResponseHead waits for a response for as long as the client does.
func (s *stream) watchedResponseHead(up *upstreamConn) (status int, http11 bool, err error) {
	gone, answered := s.conn.watch(), make(chan struct{})
	left := make(chan bool, 1)
	go func() {
		select {
		case <-gone:
			up.SetReadDeadline(past)
			left <- true
		case <-answered:
			left <- false
		}
	}()
	status, http11, err = s.patientResponseHead(up)
	close(answered)
	s.conn.unwatch()
	if <-left && err != nil {
		err = errDownstream
	}
	return status, http11, err
}

func (s *stream) readResponseHead(up *upstreamConn) (status int, http11 bool, err error) {
	for {
		head, err := up.in.readHead(maxResponseHead, statusStart)
		if err != nil {
			return 0, false, err
		}
		size := len(head)
		s.response.reset(responseInline)
		status, http11, err = parseResponse(s.keep(head), &s.response, maxResponseHeaders)
		up.in.discard(size)
		if err != nil {
			s.response.reset(responseInline)
			return 0, false, err
		}
		if status >= 200 || status == 101 {
			return status, http11, nil
		}
	}
}

// past is a deadline that wakes whoever reads or writes.
var past = time.Unix(1, 0)

const (
	maxResponseHead    = 80 << 10
	maxResponseHeaders = 100
)

// responseBody decides how the content of a response ends (RFC 9112 6.3).
func (s *stream) responseBody(b *bodyReader, in *input, status int) error {
	h := &s.response
	te, length := h.value("transfer-encoding"), h.has("content-length")
	switch {
	case status < 200 || status == 204:
		if length && h.value("content-length") != "0" && status != 204 || te != "" {
			return errParse
		}
		b.reset(in, bodyNone, 0)
	case s.head || status == 304:
		b.reset(in, bodyNone, 0)
	case te != "":
		if !equalFold(te, "chunked") || length {
			return errParse
		}
		b.reset(in, bodyChunked, 0)
	case length:
		n, ok := contentLength(h.value("content-length"))
		if !ok {
			return errParse
		}
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
	case errors.Is(err, os.ErrDeadlineExceeded) && expired != nil:
		s.details, s.flags = expired.details, expired.flags
	default:
		s.details, s.flags = "upstream_reset_after_response_started{connection_termination}", "UC"
	}
}

// relayBody sends the content of the response. The head waits in conn.out.
func (s *stream) relayBody(body *bodyReader, up *upstreamConn, chunked bool) error {
	c := s.conn
	for {
		data, err := body.take()
		if len(data) == 0 && err == nil && !body.done {
			if err := c.flush(); err != nil {
				return errDownstream
			}
			up.SetReadDeadline(s.limit())
			data, err = body.next()
			if errors.Is(err, os.ErrDeadlineExceeded) && s.expired(time.Now()) == nil {
				continue
			}
			s.timers.touch()
		}
		if err != nil && err != io.EOF {
			c.flush()
			return err
		}
		if len(data) > 0 {
			out, _ := s.encodeData(data, false)
			s.sendContent(out, chunked)
		}
		if body.done {
			out, _ := s.encodeData(nil, true)
			s.sendContent(out, chunked)
			if chunked {
				c.out = append(c.out, "0\r\n\r\n"...)
			}
			if err := c.flush(); err != nil {
				return errDownstream
			}
			return nil
		}
		if len(c.out) >= bodyBuffer {
			if err := c.flush(); err != nil {
				return errDownstream
			}
		}
	}
}

func (s *stream) sendContent(data []byte, chunked bool) {
	if len(data) == 0 {
		return
	}
	s.bytesSent.Add(int64(len(data)))
	if chunked {
		s.conn.out = appendChunk(s.conn.out, data)
	} else {
		s.conn.out = append(s.conn.out, data...)
	}
}

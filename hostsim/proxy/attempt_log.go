package proxy

import (
	"slices"
	"time"
)

// attemptLog is what upstream_log of the router says of one attempt. It sees
// the request as the stream does, and of the response what the upstream sent.
type attemptLog struct {
	open           bool
	begun          time.Time
	status         int // 0: no response
	flags          string
	response       Headers
	received, sent int64 // of content
}

// logged says whether attempts are logged.
func (s *stream) logged() bool { return s.chain != nil && len(s.chain.upstreamLogs) > 0 }

func (s *stream) beginAttempt() {
	if s.logged() {
		s.try = attemptLog{open: true, begun: time.Now()}
	}
}

// attemptAnswered notes the head of the response as it came.
func (s *stream) attemptAnswered(status int) {
	if s.try.open {
		s.try.status, s.try.response = status, s.response
		s.try.response.fields = slices.Clone(s.response.fields)
	}
}

// logAttempt writes the lines of an attempt that is over.
func (s *stream) logAttempt() {
	if !s.try.open {
		return
	}
	s.try.open = false
	if s.lastUpstream != nil && s.upstreamMeter.used != nil {
		s.try.sent = s.lastUpstream.contentSent
	}
	if s.broken && s.flags != "DC" && s.try.status != 0 {
		s.try.flags = s.flags
	}
	s.writeAttempt("UpstreamEnd")
}

func (s *stream) writeAttempt(kind string) {
	u := &stream{
		conn: s.conn, hcm: s.hcm, logType: kind, start: s.try.begun, status: s.try.status, flags: s.try.flags,
		request: s.request, response: s.try.response, requestTrailers: s.requestTrailers, responseTrailers: s.responseTrailers,
		route: s.route, routeKnown: s.routeKnown, filterState: s.filterState, metadata: s.metadata, counted: s.counted,
		clusterName: s.clusterName, upstreamHost: s.upstreamHost, host: s.host, upstreamMeter: s.upstreamMeter,
	}
	u.body.done = true
	if s.upstreamMeter.used != nil {
		u.protocol, u.lastUpstream = s.protocol, s.lastUpstream
	}
	u.bytesReceived.Store(s.try.received)
	u.bytesSent.Store(s.try.sent)
	for _, l := range s.chain.upstreamLogs {
		l.write(u)
	}
}

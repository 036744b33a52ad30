package proxy

import (
	"bytes"
	"time"
)

// upstreamMeter counts what a stream takes on connections to upstreams, and
// notes when.
type upstreamMeter struct {
	conn                       *upstreamConn // of the attempt under way
	consumedBefore, sentBefore int64         // of conn, before the attempt
	received, sent             int64         // of attempts that are over
	tunnel                     bool          // what is tunnelled is to be added

	heads        int64  // bytes of response heads in this attempt
	head         []byte // the last of them
	fields       int64  // header bytes, as Envoy counts them, of the heads before
	decompressed int64
	fieldsSent   int64
	failure      string    // why there is no connection
	asked, ready time.Time // for a connection; when it was given, or refused
	begun, ended time.Time // sending the request
	last         time.Time // when the response was complete
	used         *upstreamConn
}

// ask begins an attempt.
func (m *upstreamMeter) ask() {
	m.over()
	m.used, m.failure, m.asked, m.ready = nil, "", time.Now(), time.Time{}
	m.begun, m.ended, m.last = time.Time{}, time.Time{}, time.Time{}
}

// begin begins to use a connection.
func (m *upstreamMeter) begin(up *upstreamConn) {
	m.conn, m.used, m.heads, m.ready = up, up, 0, time.Now()
	m.consumedBefore, m.sentBefore = up.in.consumed, up.sent
}

// over ends the use of the connection, before somebody else can use it.
func (m *upstreamMeter) over() {
	if up := m.conn; up != nil && up.http2 != nil {
		st := up.http2
		m.received += st.count(&st.wireIn)
		m.sent += st.count(&st.wireOut)
		m.fields += st.count(&st.headBytes) + st.count(&st.trailerBytes)
		m.fieldsSent += st.count(&st.headSent)
		m.conn = nil
	} else if up != nil {
		m.received += up.in.consumed + int64(len(up.in.buffered())) - m.consumedBefore
		m.sent += up.sent - m.sentBefore
		m.conn = nil
	}
}

// tunnelled ends the use of the connection as one for HTTP.
func (m *upstreamMeter) tunnelled() {
	if m.conn.http2 != nil {
		return
	}
	m.received += m.heads
	m.sent += m.conn.sent - m.sentBefore
	m.conn, m.tunnel = nil, true
}

// headHasCome notes a response head.
func (m *upstreamMeter) headHasCome(head []byte) {
	m.fields += fieldBytes(m.head)
	m.decompressed += m.fields
	m.head = head
	m.heads += int64(len(head))
}

func (s *stream) upstreamFieldsReceived() int64 {
	m := &s.upstreamMeter
	n := m.fieldsOfHeads()
	if m.used != nil && m.used.http2 == nil {
		n += trailerBytes(&s.responseTrailers)
	}
	return n
}

func (m *upstreamMeter) fieldsOfHeads() int64 { return m.fields + fieldBytes(m.head) }

// upstreamWire is all that was received and sent.
func (s *stream) upstreamWire() (received, sent int64) {
	m := &s.upstreamMeter
	if s.hcm.tcp != nil {
		return s.meter.given, s.meter.taken
	}
	m.over()
	if m.tunnel {
		return m.received + s.bytesSent.Load(), m.sent + s.bytesReceived.Load()
	}
	return m.received, m.sent
}

// letGo gives up the connection to the upstream.
func (s *stream) letGo(up *upstreamConn, how ending) {
	s.upstreamMeter.over()
	if s.callout != nil { // in Envoy the plugin hears of the answer first
		s.callout.settle()
		s.callout.upstream, s.callout.ending = up, how
		return
	}
	up.finish(how)
}

// Write writes to the upstream, and counts.
func (u *upstreamConn) Write(b []byte) (int, error) {
	n, err := u.Conn.Write(b)
	u.sent += int64(n)
	if u.http2 != nil { // its connection counts
		return n, err
	}
	u.host.cluster.stats.bytesSent.Add(int64(n))
	return n, err
}

// connected says when the connection was made; zero if there is none.
func (m *upstreamMeter) connected() connectTimes {
	if m.used == nil {
		return connectTimes{}
	}
	return m.used.times
}

// connectTimes is when a connection was begun, and made.
type connectTimes struct{ begun, made time.Time }

// requestFieldBytes are the header lines of a head that is to be sent.
func requestFieldBytes(head []byte) int64 {
	if len(head) == 0 {
		return 0 // of HTTP/2
	}
	return int64(len(head) - bytes.IndexByte(head, '\n') - 1 - len("\r\n"))
}

// trailersToSend are the bytes of the trailers behind the request, if they are
// sent.
func (s *stream) trailersToSend(up *upstreamConn) int64 {
	if t := &s.requestTrailers; s.chunked && up.http2 == nil && up.host.cluster.codec.trailers {
		return int64(t.byteSize() + len(": \r\n")*t.Len())
	}
	return 0
}

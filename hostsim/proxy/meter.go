package proxy

// meter counts what a stream takes on the downstream connection.
type meter struct {
	head           []byte // as it was received
	headSent       int
	trailersSent   int64
	consumed, sent int64 // of the connection, before the stream

	taken, given int64 // by tcp_proxy, see session
}

func (m *meter) begin(c *connection) {
	*m = meter{consumed: c.in.consumed, sent: c.flushed + int64(len(c.out))}
}

// received notes the head and returns it.
func (m *meter) received(head []byte) []byte {
	m.head = head
	return head
}

// fieldsReceived are the header lines of the request's head.
func (m *meter) fieldsReceived() int64 { return fieldBytes(m.head) }

// fieldBytes are the header lines of a head as Envoy counts them: names and
// values and three bytes for each, without optional white space.
func fieldBytes(head []byte) int64 {
	n := int64(0)
	lines := head
	for first := true; len(lines) > 0; first = false {
		end := 0
		for end < len(lines) && lines[end] != '\n' {
			end++
		}
		line := lines[:end]
		lines = lines[min(end+1, len(lines)):]
		colon := 0
		for colon < len(line) && line[colon] != ':' {
			colon++
		}
		if first || colon == len(line) {
			continue
		}
		n += int64(colon + len(trim(line[colon+1:])) + 3)
	}
	if n == 0 && len(head) > 0 {
		n = 3 // for no field Envoy counts as if there were an empty one
	}
	return n
}

// trim cuts SP, HTAB and CR at both ends.
func trim(b []byte) []byte {
	blank := func(c byte) bool { return c == ' ' || c == '\t' || c == '\r' }
	for len(b) > 0 && blank(b[0]) {
		b = b[1:]
	}
	for len(b) > 0 && blank(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return b
}

// fieldsSent is the head that was sent, without status line and empty line.
func (s *stream) fieldsSent() int64 {
	if st := s.conn.http2; st != nil {
		return st.count(&st.headSent)
	}
	if s.meter.headSent == 0 {
		return 0
	}
	status := s.response.value(":status")
	return int64(s.meter.headSent-len("HTTP/1.1 ")-len(status)-len(" ")-len(s.response.reasonPhrase())-2*len("\r\n")) + s.meter.trailersSent
}

// wireReceived also counts what had come of a request that was not read to
// its end.
func (s *stream) wireReceived() int64 {
	if s.logType == ofConnection {
		return 0
	}
	if st := s.conn.http2; st != nil {
		return st.count(&st.wireIn)
	}
	if s.hcm.tcp != nil {
		return s.meter.taken
	}
	if s.upstreamMeter.tunnel {
		return int64(len(s.meter.head)) + s.bytesReceived.Load()
	}
	n := s.conn.in.consumed - s.meter.consumed
	if !s.body.done {
		n += int64(len(s.conn.in.buffered()))
	}
	return n
}

func (s *stream) wireSent() int64 {
	if s.logType == ofConnection {
		return 0
	}
	if st := s.conn.http2; st != nil {
		return st.count(&st.wireOut)
	}
	if s.hcm.tcp != nil {
		return s.meter.given
	}
	if s.status == 101 { // what is tunnelled does not go through the buffer
		return int64(s.meter.headSent) + s.bytesSent.Load()
	}
	return s.conn.flushed + int64(len(s.conn.out)) - s.meter.sent
}

// trailerBytes are trailers that were received, as fieldBytes counts them.
func trailerBytes(t *Headers) int64 { return int64(t.byteSize() + 3*t.Len()) }

// fieldsReceived are the header fields that came, as they came.
func (s *stream) fieldsReceived() int64 {
	if st := s.conn.http2; st != nil {
		return st.count(&st.headBytes) + st.count(&st.trailerBytes)
	}
	return s.meter.fieldsReceived() + trailerBytes(&s.requestTrailers)
}

// count reads one of the stream's counters.
func (s *http2Stream) count(n *int64) int64 {
	s.http2.mu.Lock()
	defer s.http2.mu.Unlock()
	return *n
}

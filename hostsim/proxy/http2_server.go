package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"time"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"golang.org/x/net/http2"
)

// This file is HTTP/2 with clients. The connection has a goroutine that reads
// frames; each stream has one of its own, and a connection of its own as far as
// the rest of the data plane knows.

// speaksHTTP2 says by what has come first whether this is HTTP/2. Like Envoy
// it does not wait for more.
func (c *connection) speaksHTTP2() bool {
	switch c.hcm.codecType {
	case hcmv3.HttpConnectionManager_HTTP1:
		return false
	case hcmv3.HttpConnectionManager_HTTP2:
		return true
	}
	if c.alpn != "" {
		return c.alpn == "h2"
	}
	return bytes.HasPrefix(c.in.buffered(), []byte("PRI * HTTP/2"))
}

// http2Server is the connection as its streams see it.
type http2Server struct {
	*http2Conn
	client   *connection
	drain    *time.Timer // from the first GOAWAY to the last; nil: it is not drained
	idle     *time.Timer
	life     *time.Timer
	lingered bool
	byPeer   bool
	resets   resetCount
}

// serveHTTP2 serves the connection until it ends, and says whether the client
// has ended it.
func (c *connection) serveHTTP2() (byPeer bool) {
	m := c.hcm
	m.stats.http2Connections.Add(1)
	m.stats.http2Active.Add(1)
	c.server.http2Stats().connections.Add(1)
	defer m.stats.http2Active.Add(-1)
	c.SetReadDeadline(time.Time{})
	r := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(c.in.buffered()), meteredReader{&c.in}), bodyBuffer)
	h := &http2Server{client: c}
	h.http2Conn = newHTTP2Conn(c.Conn, r, &m.http2, m.maxHeaders, m.maxHeadBytes, c.server.http2Stats())
	h.underscores, h.bytesSent = m.underscores, m.stats.bytesSent
	h.onOpen, h.onEnd, h.onReset = h.serveStream, h.streamEnded, h.streamReset
	c.frames.Store(h)
	defer h.close(errHTTP2Closed)
	h.begin(m.http2.settings()...)
	h.keepAlive()
	h.limitLife()
	defer h.unlimitLife()
	if c.deadline.Load() { // it came before
		h.startDrain()
	}
	err := h.preface(r)
	if err == nil {
		err = h.read()
	}
	var e *http2Error
	h.mu.Lock()
	busy, pingLost := len(h.streams) > len(h.ended), h.pingLost
	h.mu.Unlock()
	if pingLost {
		if busy { // Envoy says so, although it was not the client
			m.stats.destroyedBusy.Add(1)
			m.stats.destroyedBusyByPeer.Add(1)
		}
		return false
	}
	if errors.As(err, &e) {
		if !e.flood || e.abort {
			m.stats.protocolErrors.Add(1)
		}
		h.awaitResets()
		h.connectionError(e)
		if busy {
			m.stats.destroyedBusy.Add(1)
			m.stats.destroyedBusyHere.Add(1)
		}
		if e.abort {
			return false
		}
		return h.linger()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	byPeer = !h.lingered || h.byPeer
	if busy && byPeer {
		m.stats.destroyedBusy.Add(1)
		m.stats.destroyedBusyByPeer.Add(1)
	}
	return byPeer
}

// preface reads the preface of a client (RFC 9113 3.4), each byte of which has
// to be right.
func (h *http2Server) preface(r *bufio.Reader) error {
	for i := range len(http2.ClientPreface) {
		if r.Buffered() == 0 && i > 0 {
			_ = h.turn() // nothing was answered yet
		}
		b, err := r.ReadByte()
		if err != nil {
			return err
		}
		if b != http2.ClientPreface[i] {
			return &http2Error{silent: true}
		}
	}
	return nil
}

// linger waits for the client to close, after the last word.
func (h *http2Server) linger() (byPeer bool) {
	m := h.client.hcm
	if m.delayedClose <= 0 {
		return false
	}
	if awaitPeerClose(h.client.Conn, m.delayedClose) {
		return true
	}
	m.stats.delayedCloses.Add(1)
	return false
}

// serveStream serves a stream that the client has opened.
func (h *http2Server) serveStream(st *http2Stream, m *http2Message) *http2Error {
	message := http2Message{fields: append([]field(nil), m.fields...), end: m.end, check: m.check}
	refused := m.err
	if refused == nil {
		refused = m.whole()
	}
	if refused != nil {
		st.headBytes, st.wireIn = 0, 0
		h.mu.Lock()
		h.messageError(st, refused)
		h.mu.Unlock()
	}
	c := h.connectionOf(st)
	if c == nil {
		return nil
	}
	h.stopIdle()
	h.countRequest()
	served := make(chan struct{})
	h.mu.Lock()
	st.served = served
	batch := h.batch
	h.mu.Unlock()
	c.stream.queued = make(chan struct{})
	queued := c.stream.queued
	go func() {
		defer close(served)
		c.stream.serveHTTP2(&message, refused)
		h.streamClosed(st, !c.stream.waited && c.stream.status != 0)
		h.client.server.forget(c)
		h.streamEnded()
	}()
	if refused != nil && !refused.stream && !h.options.streamErrors {
		<-served
		return refused
	}
	if batch || h.in.Buffered() > 0 { // the next stream comes behind this one at upstreams too, and what they say is written together
		wait := time.NewTimer(20 * time.Millisecond) // unless this one waits for something else
		defer wait.Stop()
		select {
		case <-queued:
		case <-served:
		case <-wait.C:
		}
	}
	return nil
}

// connectionOf is the connection that a stream is to its users.
func (h *http2Server) connectionOf(st *http2Stream) *connection {
	c := h.client
	s := c.server
	s.conns.mu.Lock()
	defer s.conns.mu.Unlock()
	if s.conns.open == nil {
		return nil
	}
	sub := &connection{
		Conn: st, server: s, hcm: c.hcm, session: c.session, id: c.id, worker: c.worker, remote: c.remote, local: c.local,
		remoteIP: c.remoteIP, loopback: c.loopback, http2: st, server2: h, alpn: c.alpn, secure: c.secure, serverName: c.serverName, listener: c.listener,
	}
	sub.in.conn = st
	sub.stream.conn, sub.stream.hcm = sub, c.hcm
	s.conns.open[sub] = struct{}{}
	s.conns.wg.Add(1)
	return sub
}

// serveHTTP2 handles one request; refused is what is wrong with its head.
func (s *stream) serveHTTP2(m *http2Message, refused *http2Error) {
	s.begin()
	defer s.end()
	if refused != nil {
		s.left()
		return
	}
	st := s.conn.http2
	s.http11, s.head = true, m.check.isHead
	s.body.reset(&s.conn.in, bodyStream, 0)
	s.body.trailers = &s.requestTrailers
	s.body.done = m.end
	s.decodeFields(m)
	s.answer(s.decodeManager())
	if !s.waited {
		st.forgetIncomplete()
	}
	code := http2.ErrCodeInternal
	if s.lostUpstream() {
		code = http2.ErrCodeConnect
	}
	st.done(s.broken, code)
}

// lostUpstream says whether this was a CONNECT or an upgrade, and its upstream
// could not be reached or has gone away.
func (s *stream) lostUpstream() bool {
	return (s.upgrade || s.connect) && (strings.Contains(s.flags, "UC") || strings.Contains(s.flags, "UF"))
}

// decodeFields makes the request's head of a header section: cookies become one
// field, and an extended CONNECT the upgrade that it would be in HTTP/1.1.
func (s *stream) decodeFields(m *http2Message) {
	h := &s.request
	cookies, protocol := "", ""
	for _, f := range m.fields {
		switch {
		case f.name == "cookie":
			if cookies != "" {
				cookies += "; "
			}
			cookies += f.value
		case f.name == ":protocol":
			protocol = f.value
		case f.name == "host":
			if !m.check.hasAuthority {
				h.insert(":authority", f.value)
			}
		default:
			h.Add(f.name, f.value)
		}
	}
	if cookies != "" {
		h.insert("cookie", cookies)
	}
	if m.check.hasProtocol {
		h.set(":method", "GET")
		h.Add("upgrade", protocol)
		h.Add("connection", "upgrade")
		s.upgrade = true
	}
}

// writeFields sends the response head on an HTTP/2 stream. A 101 becomes the
// 200 of an extended CONNECT.
func (s *stream) writeFields(endStream bool) {
	h, st := &s.response, s.conn.http2
	upgrade := isUpgrade(h)
	st.writeHeaders(endStream, func(add func(name, value string)) {
		for _, f := range h.fields {
			if upgrade {
				switch {
				case f.name == ":status" && f.value == "101":
					add(":status", "200")
					continue
				case f.name == "connection", f.name == "upgrade", f.name == "content-length" && f.value == "0":
					continue
				}
			}
			add(f.name, f.value)
		}
	})
}

// flushStream is flush for an HTTP/2 stream.
func (c *connection) flushStream() error {
	err := c.http2.sendAll(c.out, c.ends, c.joined, &c.stream.responseTrailers)
	c.ends = false
	c.flushed += int64(len(c.out))
	if cap(c.out) > 4*bodyBuffer {
		c.out = nil
	}
	c.out = c.out[:0]
	return err
}

// sendAll sends content and perhaps the end, in a frame of its own unless they
// are joined.
func (s *http2Stream) sendAll(p []byte, end, joined bool, trailers *Headers) error {
	if end && !joined && len(p) > 0 {
		if _, err := s.send(p, false, nil); err != nil {
			return err
		}
		p = nil
	}
	_, err := s.send(p, end, trailers)
	return err
}

// joined says whether the end of the content came together with the last of it.
// The codec of HTTP/1.1 gives it as a piece of its own.
func (b *bodyReader) joined() bool {
	st, ok := b.in.conn.(*http2Stream)
	return ok && !st.endAlone
}

// endContent ends the response. What is left of it waits to be flushed.
func (s *stream) endContent(chunked, joined bool) {
	switch c := s.conn; {
	case c.http2 != nil:
		c.ends, c.joined = true, joined
	case chunked:
		before := len(c.out)
		c.out = s.hcm.codec.appendEnd(c.out, &s.responseTrailers)
		s.meter.trailersSent = int64(len(c.out) - before - len("0\r\n\r\n"))
	}
}

// sendContinue answers Expect.
func (s *stream) sendContinue() {
	c := s.conn
	switch {
	case c.http2 != nil:
	case s.http11:
		c.write([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
		return
	default:
		c.write([]byte("HTTP/1.0 100 Continue\r\n\r\n"))
		return
	}
	c.http2.writeHeaders(false, func(add func(name, value string)) { add(":status", "100") })
	c.http2.flush()
}

// look is peeker's, or says whether the stream has ended before its time.
func (c *connection) look() peeked {
	if c.http2 == nil {
		return c.peeker.look()
	}
	if c.http2.broken() != nil {
		return ended
	}
	return nothing
}

// scheme is of what the client speaks.
func (c *connection) scheme() string {
	if c.secure != nil {
		return "https"
	}
	return "http"
}

func (c *connection) protocol() string {
	if c.http2 != nil {
		return "HTTP/2"
	}
	return "HTTP/1.1"
}

// takeStream is take for the content of an HTTP/2 stream.
func (b *bodyReader) takeStream() ([]byte, error) {
	buf := b.in.buffered()
	if len(buf) == 0 && !b.done {
		st := b.in.conn.(*http2Stream)
		content, end := st.there()
		switch {
		case content:
			if err := b.in.fill(bodyBuffer); err != nil {
				return nil, nil // the next read sees it too
			}
			buf = b.in.buffered()
		case end:
			b.done = true
			if b.trailers != nil {
				for _, f := range st.trailers {
					b.trailers.insert(f.name, f.value)
				}
			}
		}
	}
	b.in.discard(len(buf))
	return buf, nil
}

// forgetIncomplete takes what was sent out of the count where the request is
// not complete and was answered at once: Envoy logs that before it sends.
func (s *http2Stream) forgetIncomplete() {
	s.http2.mu.Lock()
	defer s.http2.mu.Unlock()
	if !s.remoteEnd && s.err == nil {
		s.headSent, s.wireOut = 0, 0
	}
}

// done ends the stream for good: what has not been said by now never will be.
func (s *http2Stream) done(broken bool, code http2.ErrCode) {
	s.http2.mu.Lock()
	defer s.http2.mu.Unlock()
	switch {
	case s.localEnd && s.remoteEnd:
	case s.localEnd && !broken && !s.ours && code != http2.ErrCodeConnect: // what is still to come of the request does not matter
		s.reset(http2.ErrCodeNo)
	default:
		s.reset(code)
	}
	if s.http2.err != nil {
		s.peerReset = true
		s.over()
	}
	s.http2.flush()
}

// whyGone is what the log says of a stream whose client is gone.
func (c *connection) whyGone() (details, flags string) {
	if c.http2 != nil {
		err := c.http2.broken()
		var e *http2Error
		var reset *resetError
		switch {
		case errors.As(err, &reset) && reset.code == http2.ErrCodeNo && c.http2.complete():
			return "", ""
		case errors.As(err, &reset):
			return "http2.remote_reset", "DR"
		case err == errPingTimeout:
			return errPingTimeout.details, "DC"
		case errors.As(err, &e) && e.abort:
			return e.details, ""
		case errors.As(err, &e) && e.code == http2.ErrCodeInternal:
			return e.details, "DR"
		case errors.As(err, &e):
			return e.details, "DPE"
		}
	}
	if details, ok := c.hungUp(); ok {
		return details, "DC"
	}
	return "downstream_remote_disconnect", "DC"
}

// ---- the end of a connection

// drainAfterUpgrade ends a connection on which an upgrade was refused.
func (c *connection) drainAfterUpgrade() {
	if c.server2 != nil {
		c.server2.startDrain()
	}
}

// limitLife starts the timers of the connection.
func (h *http2Server) limitLife() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if most := h.client.hcm.maxLife; most > 0 {
		h.life = time.AfterFunc(time.Until(h.client.life.old), func() {
			h.client.hcm.stats.longConnections.Add(1)
			h.startDrain()
		})
	}
	h.startIdle()
}

func (h *http2Server) unlimitLife() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range []*time.Timer{h.life, h.idle, h.drain} {
		if t != nil {
			t.Stop()
		}
	}
}

// startIdle starts the idle timeout. The lock is held.
func (h *http2Server) startIdle() {
	most := h.client.hcm.idleTimeout
	if most <= 0 || h.err != nil {
		return
	}
	if h.idle == nil {
		h.idle = time.AfterFunc(most, func() {
			h.client.hcm.stats.idleTimeouts.Add(1)
			h.startDrain()
		})
		return
	}
	h.idle.Reset(most)
}

func (h *http2Server) stopIdle() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.idle != nil {
		h.idle.Stop()
	}
}

// drainClose drains the connection, before a response is sent, if the server is
// drained.
func (h *http2Server) drainClose() {
	h.mu.Lock()
	draining := h.drain != nil
	h.mu.Unlock()
	if !draining && h.client.listener.drainClose(time.Now()) {
		h.client.hcm.stats.drainCloses.Add(1)
		h.startDrain()
	}
}

// drainDeadline drains the connection and ends its tunnels, because the time to
// drain is nearly over.
func (h *http2Server) drainDeadline() {
	h.startDrain()
	conns := &h.client.server.conns
	conns.mu.Lock()
	defer conns.mu.Unlock()
	for c := range conns.open {
		if t := c.tunnel.Load(); t != nil && c.server2 == h {
			t.end("on_drain_deadline", "")
		}
	}
}

// countRequest drains the connection with the last request that it may serve.
func (h *http2Server) countRequest() {
	if h.client.lastRequest() {
		h.startDrain()
	}
}

// startDrain tells the client that the connection will be closed: no new
// streams, please, and after drain_timeout none are served.
func (h *http2Server) startDrain() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.drain != nil || h.err != nil {
		return
	}
	h.goAway(math.MaxInt32)
	h.drain = time.AfterFunc(h.client.hcm.drainTimeout, h.finishDrain)
	h.flushLater()
}

func (h *http2Server) finishDrain() {
	h.mu.Lock()
	if h.err != nil {
		h.mu.Unlock()
		return
	}
	h.goAway(h.last)
	h.stats.goAwaysSent.Add(1)
	h.saidGoAway = true
	h.flush()
	idle := len(h.streams) == 0
	h.mu.Unlock()
	if idle {
		h.closeIdle()
	}
}

// streamEnded looks after a stream's end whether the connection is idle now.
func (h *http2Server) streamEnded() {
	h.mu.Lock()
	idle := len(h.streams) == 0
	closing := idle && h.saidGoAway
	if idle && h.drain == nil {
		h.startIdle()
	}
	h.mu.Unlock()
	if closing {
		h.closeIdle()
	}
}

// closeIdle closes a connection that has said its last GOAWAY.
func (h *http2Server) closeIdle() {
	h.mu.Lock()
	if h.lingered {
		h.mu.Unlock()
		return
	}
	h.lingered = true
	h.mu.Unlock()
	go func() {
		byPeer := h.linger()
		h.mu.Lock()
		h.byPeer = byPeer
		h.mu.Unlock()
		h.close(errHTTP2Closed)
	}()
}

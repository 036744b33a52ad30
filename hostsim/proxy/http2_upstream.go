package proxy

import (
	"bufio"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	upstreamhttpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"golang.org/x/net/http2"
)

// This file is HTTP/2 with upstreams: a request has a stream, and the streams
// share the connections of their pool.

// head writes the head of the stream's request.
func (u *upstreamConn) head(s *stream) {
	if u.http2 == nil {
		u.out = u.host.cluster.codec.appendRequest(u.out[:0], &s.request, s.chunked, s.zeroLength)
		return
	}
	u.out, u.ends = u.out[:0], false
	u.sendFields(s, s.decoded() && len(s.ahead) == 0 && len(s.retained) == 0 && s.requestTrailers.Len() == 0)
}

// sendFields sends the head on an HTTP/2 stream. An upgrade becomes an extended
// CONNECT (RFC 8441 4).
func (u *upstreamConn) sendFields(s *stream, end bool) {
	h := &s.request
	upgrade := isUpgrade(h)
	if u.behind != nil {
		<-u.behind
	}
	defer u.hasHead()
	u.http2.isHead, u.http2.isConnect = s.head, h.value(":method") == "CONNECT" && !upgrade
	err := u.http2.writeHeaders(end, func(add func(name, value string)) {
		for i, f := range h.fields {
			if upgrade && i == h.pseudo {
				add(":protocol", h.value("upgrade"))
			}
			switch {
			case upgrade && f.name == ":method":
				add(":method", "CONNECT")
				continue
			case upgrade && (f.name == "upgrade" || f.name == "connection"):
				continue
			case f.name == "host", f.name == "keep-alive", f.name == "proxy-connection", f.name == "transfer-encoding", f.name == "connection", f.name == "upgrade":
				continue
			}
			add(f.name, f.value)
		}
	})
	u.headed = err == nil && end
}

// hasHead lets the next of several requests that have waited for one connection
// send its head.
func (u *upstreamConn) hasHead() {
	if u.before != nil {
		close(u.before)
		u.before = nil
	}
}

// end ends the request. What is left of it waits to be flushed.
func (u *upstreamConn) end(s *stream) {
	switch {
	case u.http2 != nil:
		u.ends, u.joined, u.trailers = !u.headed, s.body.joined(), &s.requestTrailers
	case s.chunked:
		u.out = u.host.cluster.codec.appendEnd(u.out, &s.requestTrailers)
	}
}

// flush sends what waits.
func (u *upstreamConn) flush() error {
	if u.http2 == nil {
		_, err := u.Write(u.out)
		return err
	}
	if u.headed {
		return nil
	}
	return u.http2.sendAll(u.out, u.ends, u.joined, u.trailers)
}

// readResponseFields waits for the head of a response on an HTTP/2 stream.
func (s *stream) readResponseFields(up *upstreamConn) (status int, http11 bool, err error) {
	for {
		head, err := up.http2.nextHead()
		if err != nil {
			return 0, false, err
		}
		h := &s.response
		h.reset(responseInline)
		status, _ = strconv.Atoi(head.status)
		for _, f := range head.fields {
			h.Add(f.name, f.value)
		}
		if isUpgrade(&s.request) && s.upgrade && status == 200 {
			// What an extended CONNECT calls success is a 101 elsewhere.
			status = 101
			h.set(":status", "101")
			h.Add("upgrade", s.request.value("upgrade"))
			h.Add("connection", "upgrade")
			h.remove("content-length")
		}
		if status >= 200 || status == 101 {
			return status, true, nil
		}
		s.informational(up.host.cluster, status)
	}
}

// responseContent is responseBody for an HTTP/2 stream.
func (s *stream) responseContent(b *bodyReader, in *input, st *http2Stream) {
	b.reset(in, bodyStream, 0)
	b.trailers = &s.responseTrailers
	if content, end := st.there(); end && !content && len(st.trailers) == 0 {
		b.done = true
	}
}

// resetReason is Envoy's word for a stream that its upstream has reset.
func resetReason(err error) string {
	var reset *resetError
	if errors.As(err, &reset) && reset.code == http2.ErrCodeRefusedStream {
		return "remote refused stream reset"
	}
	return "remote reset"
}

// resetDetails is what the log says of a response that broke off.
func resetDetails(err error) (details, flags string) {
	reason, flags := "protocol_error", "UPE"
	switch {
	case errors.Is(err, errHTTP2Reset):
		reason, flags = strings.ReplaceAll(resetReason(err), " ", "_"), "UR"
	case errors.Is(err, errHTTP2Closed):
		reason, flags = "connection_termination", "UC"
	}
	return "upstream_reset_after_response_started{" + reason + "}", flags
}

// upstreamProtocol is how a cluster's protocol is chosen.
type upstreamProtocol int

const (
	upstreamHTTP1    upstreamProtocol = iota
	upstreamHTTP2                     // explicit_http_config
	upstreamAuto                      // auto_config: what TLS settles on
	upstreamAsClient                  // use_downstream_protocol_config
)

// speaksHTTP2 says whether a new connection speaks HTTP/2.
func (p *pool) speaksHTTP2(up *upstreamConn) bool {
	switch p.host.cluster.protocol {
	case upstreamHTTP2:
		return true
	case upstreamAuto:
		return up.secure != nil && up.secure.state.NegotiatedProtocol == "h2"
	case upstreamAsClient:
		return p.http2
	}
	return false
}

// protocols are what TLS offers to the upstream.
func (p *pool) protocols() []string {
	switch c := p.host.cluster; {
	case p.raw:
		return nil
	case c.protocol == upstreamAuto:
		return []string{"h2", "http/1.1"}
	case p.shares():
		return []string{"h2"}
	}
	return []string{"http/1.1"}
}

// shares says whether many requests share a connection, for all that is known
// before there is one.
func (p *pool) shares() bool {
	c := p.host.cluster.protocol
	return c == upstreamHTTP2 || c == upstreamAsClient && p.http2 || c == upstreamAuto
}

// sharers is how many requests one new connection will serve at a time.
func (p *pool) sharers() int {
	if !p.shares() {
		return 1
	}
	c := p.host.cluster
	n := int(c.http2.maxStreams)
	if c.maxUses > 0 {
		n = min(n, c.maxUses)
	}
	return n
}

// pool is the pool of the host for a request: apart from the others where the
// client's protocol or the name it asked for matters.
func (h *host) pool(s *stream, priority int) *pool {
	i := priority
	if h.cluster.protocol == upstreamAsClient && s.conn.http2 != nil {
		i += 2
	}
	if t := h.cluster.tls; t == nil || !t.autoSNI && !t.autoSAN {
		return &h.pools[i]
	}
	return h.named.get(h, i, withoutPort(s.request.value(":authority")))
}

// namedPools are pools by the name that TLS is to ask for.
type namedPools struct {
	mu    sync.Mutex
	pools map[string]*pool
}

func (n *namedPools) get(h *host, i int, name string) *pool {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := itoa(i) + name
	p := n.pools[key]
	if p == nil {
		if n.pools == nil {
			n.pools = map[string]*pool{}
		}
		p = &pool{host: h, breaker: &h.cluster.breakers[i%2], http2: i >= 2, name: name}
		n.pools[key] = p
	}
	return p
}

func (n *namedPools) each(f func(*pool)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.pools {
		f(p)
	}
}

func (b *builder) upstreamProtocol(path string, cl *cluster, c *upstreamhttpv3.HttpProtocolOptions) error {
	var options *corev3.Http2ProtocolOptions
	switch o := c.GetUpstreamProtocolOptions().(type) {
	case *upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_:
		if options = o.ExplicitHttpConfig.GetHttp2ProtocolOptions(); options == nil {
			return nil
		}
		cl.protocol = upstreamHTTP2
	case *upstreamhttpv3.HttpProtocolOptions_UseDownstreamProtocolConfig:
		cl.protocol, options = upstreamAsClient, o.UseDownstreamProtocolConfig.GetHttp2ProtocolOptions()
	case *upstreamhttpv3.HttpProtocolOptions_AutoConfig:
		if cl.tls == nil {
			return b.boot.Errorf(path+".auto_config", "ALPN configured for cluster %s which has a non-ALPN transport socket: give it a TLS transport_socket", cl.name)
		}
		cl.protocol, options = upstreamAuto, o.AutoConfig.GetHttp2ProtocolOptions()
	}
	cl.http2 = newHTTP2Options(options)
	cl.http2Stats = sync.OnceValue(func() *http2Stats { return newHTTP2Stats(&b.server.Stats, "cluster."+cl.statName+".", true) })
	return nil
}

// http2Client is a connection to an upstream that many requests share.
type http2Client struct {
	*http2Conn
	pool   *pool
	in     *input  // counts what is received
	secure *secure // TLS, if there is any
	uses   int     // requests so far
	active int     // requests now
	idle   *time.Timer
	closed bool

	noticed bool // that it has said GOAWAY
}

// newHTTP2Client begins to speak HTTP/2 on a connection. The pool's lock is
// held.
func (p *pool) newHTTP2Client(up *upstreamConn) *http2Client {
	c := p.host.cluster
	h := &http2Client{pool: p, secure: up.secure, in: &up.in}
	h.http2Conn = newHTTP2Conn(up.Conn, bufio.NewReaderSize(meteredReader{&up.in}, bodyBuffer), &c.http2, c.maxResponseFields, c.maxResponseHead, c.http2Stats())
	h.next, h.bytesSent = 1, c.stats.bytesSent
	h.onChange = h.changed
	h.out.frames = append(h.out.frames, http2.ClientPreface...)
	h.begin(append([]http2.Setting{{ID: http2.SettingEnablePush}}, h.options.settings()...)...)
	h.keepAlive()
	if c.idleTimeout > 0 {
		h.idle = time.AfterFunc(c.idleTimeout, h.expire)
	}
	h.turn()
	go h.serve()
	return h
}

func (h *http2Client) serve() {
	err := h.read()
	p, stats := h.pool, h.pool.host.cluster.stats
	how, blamed := resetByPeer, 0 // the stream that an error is about has ended before
	h.mu.Lock()
	pingLost := h.pingLost
	h.mu.Unlock()
	if pingLost {
		how = resetHere
	} else if e, ok := err.(*http2Error); ok {
		how, blamed = resetHere, 1
		stats.cxProtocolError.Add(1)
		h.connectionError(e)
	}
	h.close(errHTTP2Closed)
	h.in.forgetRead()
	p.mu.Lock()
	defer p.mu.Unlock()
	h.forget(how, h.active > blamed)
}

// changed looks what the upstream's word means for requests that wait, and
// closes a connection that is of no more use.
func (h *http2Client) changed() {
	p := h.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	h.mu.Lock()
	over := h.goneAway
	h.mu.Unlock()
	if over && !h.noticed {
		h.noticed = true
		p.host.cluster.stats.cxCloseNotify.Add(1)
	}
	switch {
	case over && h.active == 0 && !h.closed:
		h.shut()
	case over:
		p.connect()
	}
	p.serveWaiting()
}

// forget takes the connection out of its pool. The pool's lock is held.
func (h *http2Client) forget(how ending, busy bool) {
	if h.closed {
		return
	}
	h.closed = true
	p := h.pool
	for i, c := range p.clients {
		if c == h {
			p.clients = append(p.clients[:i], p.clients[i+1:]...)
			break
		}
	}
	if h.idle != nil {
		h.idle.Stop()
	}
	p.forget()
	p.host.cluster.stats.destroyed(how, busy)
	p.connect()
}

// expire closes a connection that nobody has used for the idle timeout.
func (h *http2Client) expire() {
	p := h.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if h.active > 0 || h.closed {
		return
	}
	p.host.cluster.stats.cxIdleTimeout.Add(1)
	h.shut()
}

// shut closes the connection from here. The pool's lock is held.
func (h *http2Client) shut() {
	h.forget(answered, h.active > 0)
	go h.close(errHTTP2Closed)
}

// capacity is how many more requests the connection takes. The pool's lock is
// held.
func (h *http2Client) capacity() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	most := h.pool.host.cluster.maxUses
	if h.goneAway || h.err != nil || h.closed || most > 0 && h.uses >= most || h.next > 1<<30 {
		return 0
	}
	n := int(min(h.peerStreams, h.options.maxStreams)) - h.active
	if most > 0 {
		n = min(n, most-h.uses)
	}
	return max(n, 0)
}

// open makes a stream for a request. The pool's lock is held.
func (h *http2Client) open() *upstreamConn {
	if h.uses++; h.uses == h.pool.host.cluster.maxUses {
		h.pool.host.cluster.stats.cxMaxRequests.Add(1)
	}
	h.active++
	if h.idle != nil {
		h.idle.Stop()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	st := h.newStream(0)
	st.ours = true
	h.floods.opened++
	if idle := h.options.keepalive.idle; idle > 0 && time.Since(h.received) > idle {
		h.pingLocked()
	}
	up := &upstreamConn{Conn: st, pool: h.pool, host: h.pool.host, http2: st, client: h}
	up.in.conn = st
	return up
}

// idleClient is a connection that has room for a request, or nil. The lock is
// held.
func (p *pool) idleClient() *http2Client {
	for _, h := range p.clients {
		if h.capacity() > 0 {
			return h
		}
	}
	return nil
}

// finishStream ends a request on its stream.
func (u *upstreamConn) finishStream(how ending) {
	u.countReset(how)
	u.hasHead()
	h, p := u.client, u.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	h.active--
	h.mu.Lock()
	over := h.goneAway || p.host.cluster.maxUses > 0 && h.uses >= p.host.cluster.maxUses || p.closed
	if over && h.active == 0 { // the end of the connection is that of its last stream
		h.end(errHTTP2Closed)
	}
	if u.http2.farewell { // to Envoy its codec seems to have failed
		p.host.cluster.stats.cxProtocolError.Add(1)
	}
	h.mu.Unlock()
	u.http2.done(false, http2.ErrCodeInternal)
	switch {
	case h.closed:
	case h.active == 0 && over:
		h.shut()
	case h.active == 0 && h.idle != nil:
		h.idle.Reset(p.host.cluster.idleTimeout)
	}
	p.serveWaiting()
}

// countReset counts a stream that did not come to its end.
func (u *upstreamConn) countReset(how ending) {
	st, stats := u.http2, u.host.cluster.stats
	err := st.broken()
	var reset *resetError
	switch {
	case errors.As(err, &reset):
		if reset.code != http2.ErrCodeRefusedStream {
			stats.rqRxReset.Add(1)
		}
	case errors.As(err, new(*http2Error)):
		stats.rqTxReset.Add(1)
	case err == nil && (how == resetHere || how == resetByPeer):
		st.http2.mu.Lock()
		open := st.active
		st.http2.mu.Unlock()
		if open {
			stats.rqTxReset.Add(1)
		}
	}
}

// serveWaiting gives requests that wait to connections that have room. The lock
// is held.
func (p *pool) serveWaiting() {
	var behind chan struct{}
	for len(p.waiting) > 0 {
		h := p.idleClient()
		if h == nil {
			break
		}
		w := p.waiting[0]
		p.waiting = append(p.waiting[:0], p.waiting[1:]...)
		p.dequeued()
		if err := p.attachStream(); err != nil {
			w.given <- given{nil, err}
			continue
		}
		up := h.open()
		up.behind, up.before = behind, make(chan struct{})
		behind = up.before
		w.given <- given{up, nil}
	}
}

// attachStream is attach for a stream.
func (p *pool) attachStream() error {
	stats := p.host.cluster.stats
	if !take(&p.breaker.requests, p.breaker.maxRequests) {
		stats.activeOverflow.Add(1)
		return errOverflow
	}
	p.host.active.Add(1)
	stats.rqTotal.Add(1)
	stats.rqActive.Add(1)
	return nil
}

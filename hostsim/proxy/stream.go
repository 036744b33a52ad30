package proxy

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

// stream is one request and its response. It is made once for a connection
// and used again for each of its requests.
type stream struct {
	conn *connection
	hcm  *hcm

	// mu serialises filters and the state they see: the request's content is
	// read by another goroutine than the response's where both flow. Where
	// there are plugins it is one for all streams of a worker, because a
	// plugin can act on a stream while another one calls it.
	mu  *sync.Mutex
	own sync.Mutex

	request, response                 Headers
	requestTrailers, responseTrailers Headers
	requestNames, responseNames       spelling   // of both heads, where it is kept
	text                              []byte     // what the strings of both maps are views of
	body                              bodyReader // of the request
	protocol                          string     // "HTTP/1.1"
	http11, head                      bool
	upgrade                           bool // the codec is in upgrade mode
	connect                           bool // because the method is CONNECT
	tunnelled                         bool // it has become a tunnel, and is counted as one whose response came first
	upgraded                          bool // the connection manager has accepted the upgrade
	closing                           bool // no further request on this connection
	promptly                          bool // ... which both know, so that nobody need wait for the other to close
	broken                            bool // the response broke off
	stopUpload                        atomic.Bool

	bufferLimit   int // of what waits at a filter, in bytes; 0: none
	route         *route
	routeKnown    bool
	filters       []httpFilter
	chain         *filterChain
	filterState   map[string]stateObject
	metadata      map[string]*structpb.Struct // dynamic metadata by namespace
	typedMetadata map[string]*anypb.Any
	random        uint64   // see randomNumber
	formatted     []byte   // room for what a format makes
	additions     []field  // room for headerEdit.apply
	setCookies    []string // of hash policies, for the client

	decoding, encoding iteration
	local              *localReply // a filter's, until it is sent
	localText          []byte      // of a local reply, until filters have seen it
	aborted            *localReply // why a filter has ended the stream, when it was too late for a reply
	responseBegun      bool
	wakeUp             wakeUp
	released           bool        // the connection to the upstream was given back before the response was sent
	unsettled          atomic.Bool // there is something in settling
	settling           []*callout  // whose connections are given back when this stream has got its own
	untilClose         bool        // the end of the connection to the upstream is that of the response
	keepUpstream       bool        // that connection can serve another request
	callout            *callout    // the client, where it is a plugin
	answerShown        bool        // the same for what came behind a 101
	shown              bool        // what came behind a handshake was given to the filters

	start           time.Time
	requestComplete time.Time
	timers          timers
	timeout         time.Duration // of the response; 0: none
	perTry          time.Duration // of an attempt's response; 0: none
	perTryIdle      time.Duration
	timeoutStatus   int
	attempts        int
	retry           retryState
	retained        []byte // the content so far, for another attempt
	ahead           []byte // the content that had come before there was a connection
	continued       bool   // a 1xx has come
	waited          bool   // for something other than the client's own bytes
	chunked         bool   // how the request is framed
	zeroLength      bool
	timedOutTry     bool // the last attempt has
	atOnce          bool // there was a connection for the request when it came
	waiter          waiter
	queued          chan struct{} // closed when the request has its place in the queue of an upstream; nil: nobody waits for that
	status          int
	details, flags  string
	logType         string // which kind of access log this is; "": DownstreamEnd
	refused         bool   // by the codec
	routesFound     int    // how often a route was looked for
	try             attemptLog
	clusterName     string
	upstreamHost    string
	host            *host // of the last attempt
	lastUpstream    *upstreamConn
	upstreamBegun   time.Time // when the head of its response had come
	counted         countedFor
	client          string // its address, if a proxy in front has named it
	meter           meter
	upstreamMeter   upstreamMeter
	replyBegun      time.Time // when the first and the last byte of the response was sent
	replyEnded      time.Time
	localBody       string // of a local reply, while its format is expanded
	bytesReceived   atomic.Int64
	bytesSent       atomic.Int64
	upstream        atomic.Pointer[upstreamConn] // Close ends it

	// Of a session, see there.
	closeReason                string // why it was closed here
	upstreamReason             string // ... and the upstream's connection
	clientClose, upstreamClose string // how each end's connection has ended; "": normally
	streamID                   [36]byte
}

var errDownstream = errors.New("downstream is gone")

// serve handles one request, whose first byte has come, and says whether the
// connection can serve another one.
func (s *stream) serve() (again bool) {
	s.begin()
	defer s.end()
	head, r := s.readHead()
	if r == nil {
		size := len(head)
		r = s.decodeHead(head)
		s.conn.in.discard(size)
	}
	s.answer(r)
	if !s.body.done {
		s.closing = true
	}
	return !s.closing
}

// answer is what follows when the codec has the head; r is what it says
// against it.
func (s *stream) answer(r *localReply) {
	if r == nil {
		s.timers.head = time.Time{}
		s.requestHasCome()
		r = s.decodeHeaders()
	}
	if r == nil && s.hcm.admin != nil {
		r = s.administrate()
	} else if r == nil {
		r = s.forward()
	}
	if r != nil {
		if r.codec {
			s.refused = true
			s.hcm.stats.protocolErrors.Add(1)
		}
		s.sendLocal(r)
	}
}

func (s *stream) begin() {
	s.text = s.text[:0]
	s.request.reset(requestInline)
	s.response.reset(responseInline)
	s.body.reset(&s.conn.in, bodyUntilClose, 0) // not complete before its head is known
	s.requestTrailers.reset(nil)
	s.responseTrailers.reset(nil)
	s.protocol, s.http11, s.head, s.upgrade, s.connect = s.conn.protocol(), true, false, false, false
	s.tunnelled = false
	s.closing, s.promptly, s.refused = false, false, false
	s.route, s.routeKnown, s.bufferLimit = nil, false, s.hcm.bufferLimit
	s.filters, s.chain, s.shown = s.filters[:0], nil, false
	s.released, s.answerShown = false, false
	s.beginIterations()
	clear(s.filterState)
	s.conn.shareState(s)
	clear(s.metadata)
	clear(s.typedMetadata)
	s.setCookies = s.setCookies[:0]
	s.random, s.routesFound, s.localBody, s.client = 0, 0, "", ""
	s.counted = countedFor{}
	s.meter.begin(s.conn)
	s.upstreamMeter = upstreamMeter{}
	s.replyBegun, s.replyEnded = time.Time{}, time.Time{}
	s.lastUpstream, s.upstreamBegun = nil, time.Time{}
	s.local, s.aborted, s.localText, s.responseBegun, s.broken = nil, nil, nil, false, false
	s.start, s.requestComplete = time.Now(), time.Time{}
	s.timers.start(s.hcm, s.start)
	s.status, s.details, s.flags, s.clusterName, s.upstreamHost = 0, "", "", "", ""
	s.host, s.attempts, s.retained, s.ahead, s.waited = nil, 0, s.retained[:0], s.ahead[:0], false
	s.continued = false
	s.bytesReceived.Store(0)
	s.bytesSent.Store(0)
	s.hcm.stats.requests.Add(1)
	if s.conn.http2 != nil {
		s.hcm.stats.http2Requests.Add(1)
	} else {
		s.hcm.stats.http1Requests.Add(1)
	}
	s.hcm.stats.activeRequests.Add(1)
	if s.conn.http2 == nil && s.conn.lastRequest() {
		s.closing, s.promptly = true, true
	}
}

// end logs the stream and lets its filters go.
func (s *stream) end() {
	s.hasPlace()
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := &s.hcm.stats
	stats.activeRequests.Add(-1)
	stats.time.Record(uint64(time.Since(s.start).Milliseconds()))
	if s.upgraded {
		stats.activeUpgrades.Add(-1)
		s.upgraded = false
	}
	switch {
	case s.conn.server.isClosing() && (s.status == 0 || s.status == 101 || s.broken):
		// Envoy says so of whatever is under way when it exits.
		s.details, s.flags = "downstream_local_disconnect(purging_socket_that_have_not_progressed_to_connections)", "DC"
	case s.flags == "DC":
		if s.conn.http2 == nil {
			stats.destroyedBusy.Add(1)
			stats.destroyedBusyByPeer.Add(1)
		}
		if s.responseBegun && s.requestComplete.IsZero() && !s.tunnelled {
			stats.earlyResponses.Add(1)
		}
		stats.resets.Add(1)
	case !s.responseBegun:
		stats.resets.Add(1)
		if s.aborted != nil {
			stats.brokenResponses.Add(1)
		}
	case s.broken || s.aborted != nil:
		if s.conn.http2 == nil || s.status != 101 || s.flags == "UC" || s.flags == "UR" || s.flags == "UPE" || s.aborted != nil {
			stats.brokenResponses.Add(1)
		}
		stats.resets.Add(1)
	case s.requestComplete.IsZero():
		if !s.tunnelled {
			stats.earlyResponses.Add(1)
		}
		stats.resets.Add(1)
	}
	switch s.details {
	case "request_header_timeout":
		stats.headTimeouts.Add(1)
	case "request_overall_timeout":
		stats.timeouts.Add(1)
	case "stream_idle_timeout":
		stats.idleStreams.Add(1)
	case "max_duration_timeout":
		stats.longStreams.Add(1)
	}
	if s.chain == nil {
		// The request was refused before its filters were made; they take
		// part in the log all the same.
		s.makeFilters(s.hcm.chain)
	}
	s.settleLocked()
	s.decoding.closed, s.encoding.closed = true, true
	for _, f := range s.filters {
		f.log()
	}
	for _, l := range s.hcm.accessLogs {
		l.write(s)
	}
	s.logAttempt() // of a client that has left before
	for i, f := range s.filters {
		f.destroy()
		s.filters[i] = nil
	}
}

func (s *stream) findRoute() *route {
	if !s.routeKnown {
		s.route, s.routeKnown = s.hcm.routes.find(s), true
		s.routesFound++
		s.raiseLimit(s.route)
		if s.route != nil && s.hcm.server.clusters[s.route.cluster] != nil {
			s.clusterName = s.route.cluster
		}
	}
	return s.route
}

// clearRoute makes the next look at the route match it anew.
func (s *stream) clearRoute() { s.routeKnown = false }

// hasPlace tells the HTTP/2 connection that later streams may go on.
func (s *stream) hasPlace() {
	if s.queued != nil {
		close(s.queued)
		s.queued = nil
	}
}

// requestHasCome notes that a request without content is complete.
func (s *stream) requestHasCome() {
	if s.body.done {
		s.requestComplete = time.Now()
		s.timers.request = time.Time{}
	}
}

// spoiled looks for what Envoy sees in the same turn of its event loop as the
// head, before a connection to an upstream is open: malformed chunks behind the
// head, without taking them, and a client that is gone.
func (s *stream) spoiled() *localReply {
	if s.callout != nil { // there is no client
		return nil
	}
	size := 0
	if !s.body.done && !s.upgrade && s.body.kind != bodyStream {
		s.conn.readAhead(&s.conn.in)
		in, body, trailers := s.conn.in, s.body, Headers{}
		body.in, body.trial = &in, true
		if body.trailers != nil {
			body.trailers = &trailers
		}
		for !body.done {
			data, err := body.take()
			if err != nil {
				s.closing = true
				s.bytesReceived.Add(int64(size))
				return codecReply(err)
			}
			if len(data) == 0 {
				break
			}
			size += len(data)
		}
	}
	if s.conn.look() == ended {
		s.bytesReceived.Add(int64(size))
		return s.left()
	}
	return nil
}

// readHead waits for the request's head.
func (s *stream) readHead() ([]byte, *localReply) {
	in := &s.conn.in
	for {
		head, err := in.head(s.hcm.maxHeadBytes, s.hcm.codec.methodStart)
		if err == errHeadersTooBig {
			s.conn.drain(1 << 20) // Envoy reads before it looks
		}
		if err == nil && head == nil {
			n, ok := firstLine(in.buffered(), s.hcm.codec.anyMethod)
			if n > 0 {
				return in.buffered()[:n], nil
			}
			if !ok {
				err = errParse
			}
		}
		if err != nil {
			return nil, codecReply(err)
		}
		if head != nil {
			return head, nil
		}
		s.conn.SetReadDeadline(s.limit())
		switch err := in.fill(len(in.buffered()) + 1); {
		case err == nil:
			s.timers.touch()
		case errors.Is(err, os.ErrDeadlineExceeded):
			if r := s.expired(time.Now()); r != nil {
				return nil, r
			}
		default:
			return nil, s.left()
		}
	}
}

// left is the end of a stream whose client has gone away.
func (s *stream) left() *localReply {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	s.details, s.flags = s.conn.whyGone()
	if s.conn.http2 != nil {
		s.bytesReceived.Add(s.conn.http2.unreadContent() + int64(len(s.conn.in.buffered())))
	}
	return &localReply{}
}

// limit is when the stream may wait no longer; zero is never.
func (s *stream) limit() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.timers.until()
}

// complete says whether all of the request has come.
func (s *stream) complete() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.requestComplete.IsZero()
}

// finishHead is what comes behind the filters.
func (s *stream) finishHead() {
	if s.callout != nil {
		s.callout.begin(&s.response)
		s.responseBegun = true
		return
	}
	if n, err := strconv.Atoi(s.response.value(":status")); err == nil {
		s.status = n
	}
	s.hcm.stats.responded(s.status)
	s.mutateResponse()
	s.responseBegun = true
}

// sendLocal sends a reply of the proxy's own. Filters that saw the request see
// it as a response.
func (s *stream) sendLocal(r *localReply) {
	s.settle()
	s.release()
	if up := s.upstream.Swap(nil); up != nil {
		s.letGo(up, resetHere)
	}
	if r.nobody() || s.conn.server.isClosing() {
		return
	}
	if r.status == 400 && !s.hcm.streamErrors {
		s.closing, s.promptly = true, true
	}
	inResponse := s.response.Len() > 0
	s.mu.Lock()
	s.local, s.decoding.closed = nil, true
	s.mu.Unlock()
	body := s.localHead(r)
	if !inResponse {
		s.localText = body
		if again := s.encodeHeaders(len(body) == 0, nil, nil); again != nil {
			if again.nobody() {
				return
			}
			s.mu.Lock()
			s.local, s.encoding.closed = nil, true
			s.mu.Unlock()
			body = s.localHead(again)
			s.finishHead()
		} else {
			filtered, gone := s.encodeLocal()
			if gone != nil {
				return
			}
			body = filtered
		}
	} else {
		s.finishHead()
	}
	s.writeHead(len(body) == 0 || s.head && s.conn.http2 != nil)
	if !s.head {
		s.conn.out = append(s.conn.out, body...)
		s.bytesSent.Add(int64(len(body)))
	}
	s.endContent(false, true)
	s.conn.flush()
	s.replyEnded = time.Now()
}

// localHead makes the head of a reply and gives its body
// (Utility::prepareLocalReply).
func (s *stream) localHead(r *localReply) []byte {
	h := &s.response
	h.reset(responseInline)
	s.details, s.flags = r.details, r.flags
	h.insert(":status", itoa(r.status))
	edits := s.routeKnown && s.route != nil && r.direct == (s.route.direct != nil)
	if edits && !r.direct {
		s.finalizeResponse(s.route)
	}
	for _, f := range r.headers {
		if !strings.HasPrefix(f[0], ":") { // a plugin's reply has its own status
			h.Add(f[0], f[1])
		}
	}
	if s.attempts > 0 && s.route.virtualHost.attemptCountInResponse {
		h.set("x-envoy-attempt-count", itoa(s.attempts))
	}
	if edits && r.direct {
		s.finalizeResponse(s.route)
	}
	if r.contentType != "" {
		h.set("content-type", r.contentType)
	}
	before := h.value("content-type")
	status, body, contentType := s.hcm.replies.rewrite(r, s)
	custom := h.value("content-type") != before
	if !r.codec && isGRPC(&s.request) {
		s.grpcReply(r, status, body, contentType)
		return nil
	}
	if body == "" {
		h.remove("content-length")
		h.remove("content-type")
		return nil
	}
	h.set("content-length", itoa(len(body)))
	if !h.has("content-type") || !custom && body != r.body {
		h.set("content-type", contentType)
	}
	return []byte(body)
}

// writeHead appends the response head to what the connection will write, and
// chooses the framing (HTTP/1.1 encoder).
func (s *stream) writeHead(endStream bool) (chunked bool) {
	if s.callout != nil {
		return false
	}
	h := &s.response
	if s.conn.http2 != nil {
		s.writeFields(endStream)
		return false
	}
	bodiless := s.status < 200 || s.status == 204
	zero := false
	switch {
	case h.has("content-length"), bodiless:
	case s.status == 304 && endStream:
	case endStream && !s.head:
		zero = true
	case !s.http11: // ends with the connection
	default:
		chunked = !isUpgrade(h) && !s.connected()
	}
	before := len(s.conn.out)
	s.conn.out = s.hcm.codec.appendResponse(s.conn.out, h, s.http11, chunked, zero)
	s.meter.headSent = len(s.conn.out) - before
	s.replyBegun = time.Now()
	if s.conn.session != nil && !endStream { // network filters see the head apart
		s.conn.flush()
	}
	return chunked && !s.head
}

func itoa(n int) string { return strconv.Itoa(n) }

// keep copies bytes to where they stay as they are until the stream ends.
func (s *stream) keep(b []byte) []byte {
	if cap(s.text)-len(s.text) < len(b) {
		// What was kept before stays where it is, as long as it is needed.
		s.text = make([]byte, 0, max(2*cap(s.text), 4<<10, len(b)))
	}
	n := len(s.text)
	s.text = append(s.text, b...)
	return s.text[n:]
}

func (s *stream) keepString(b []byte) string {
	kept := s.keep(b)
	return unsafe.String(unsafe.SliceData(kept), len(kept))
}

func (s *stream) keepInt(n int64) string {
	var digits [20]byte
	return s.keepString(strconv.AppendInt(digits[:0], n, 10))
}

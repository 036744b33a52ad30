package proxy

import (
	"context"
	"net"
	"time"

	"switchyard/hostsim/abi"
	"switchyard/hostsim/bootstrap"
	"switchyard/hostsim/vm"
)

// Harness is a data plane without a network: a test gives heads, content and
// trailers to the filters of a bootstrap, one at a time, and sees what comes
// of it. hostsimtest is made of it.
//
// It is the first worker of the bootstrap's first listener. Nothing happens
// by itself: there are no timers, and what plugins send goes to the test. Its
// methods are called one at a time.
type Harness struct {
	Server  *Server
	options HarnessOptions
	hcm     *hcm
	streams map[*HarnessStream]struct{} // that have not ended
}

// HarnessOptions are what a test plays. All of it may be nil.
type HarnessOptions struct {
	Options
	// Now is the clock.
	Now func() time.Time
	// Observe hears of every callback and hostcall.
	Observe func(vm.Call)
	// Callouts gets what plugins send to clusters of the bootstrap; what Envoy
	// would refuse does not reach it. done and events are called in Do.
	Callouts vm.Callouts
	// Property is asked before the data plane for the attribute at a path,
	// whose segments are separated by NUL.
	Property func(path string) (value []byte, ok bool)
	// Foreign is asked before the foreign functions of Envoy.
	// abi.StatusNotFound is for a name that it does not know.
	Foreign func(name string, argument []byte) ([]byte, abi.Status)
}

// NewHarness makes a data plane of a bootstrap as New does, but opens nothing.
func NewHarness(ctx context.Context, boot *bootstrap.Bootstrap, options HarnessOptions) (*Harness, error) {
	h := &Harness{options: options, streams: map[*HarnessStream]struct{}{}}
	h.options.Options.harness = h
	var err error
	if h.Server, err = build(ctx, boot, h.options.Options, false); err != nil {
		return nil, err
	}
	h.hcm = h.Server.listeners[0].chains[0].hcm
	return h, nil
}

// Close frees everything.
func (h *Harness) Close() { h.Server.Close() }

// Plugins are the plugins of the bootstrap, in its order.
func (h *Harness) Plugins() []*vm.Plugin { return h.Server.plugins }

// Do does something on a worker (or vm.MainThread), and all that follows:
// listeners hear of what is in their queues, and filters get the local replies
// that others of them have sent.
func (h *Harness) Do(worker int, f func()) {
	h.locked(worker, f)
	for range 2 { // what filters make of a reply may be an item for a queue
		h.Server.engine.AwaitQueues()
		h.locked(0, func() {
			for s := range h.streams {
				s.reply()
			}
		})
	}
}

func (h *Harness) locked(worker int, f func()) {
	thread := h.Server.thread(worker)
	thread.Lock()
	defer thread.Unlock()
	f()
}

// property and foreign are those of the options, which may be nil.
func (h *Harness) property(path string) ([]byte, bool) {
	if h == nil || h.options.Property == nil {
		return nil, false
	}
	return h.options.Property(path)
}

func (h *Harness) foreign(stream vm.Stream, name string, argument []byte) ([]byte, abi.Status) {
	if h.options.Foreign != nil {
		if result, status := h.options.Foreign(name, argument); status != abi.StatusNotFound {
			return result, status
		}
	}
	return h.Server.foreign(stream, name, argument)
}

// HarnessStream is one request and its response. What a callback leads to has
// happened when the method that called it returns.
type HarnessStream struct {
	harness *Harness
	stream  *stream
	replies []HarnessReply
}

// HarnessReply is a local reply, as its filter wanted it.
type HarnessReply struct {
	Status     int
	Headers    abi.Pairs
	Body       string
	Details    string
	GRPCStatus int32 // -1 is none
}

// NewStream begins a stream. No filter sees it before it has a head, or ends.
func (h *Harness) NewStream() *HarnessStream {
	here, _ := net.Pipe() // nobody reads or writes it
	conn := &connection{Conn: here, server: h.Server, hcm: h.hcm, id: h.Server.connectionIDs.Add(1),
		remote: "127.0.0.1:50000", local: "127.0.0.1:10000", remoteIP: "127.0.0.1"}
	s := &conn.stream
	s.conn, s.hcm = conn, h.hcm
	s.begin()
	if h.options.Now != nil {
		s.start = h.options.Now()
	}
	hs := &HarnessStream{harness: h, stream: s}
	h.streams[hs] = struct{}{}
	return hs
}

func (s *HarnessStream) do(f func()) { s.harness.Do(0, f) }

// reply does with a filter's local reply what the data plane does.
func (s *HarnessStream) reply() {
	st := s.stream
	for first := true; st.local != nil; first = false {
		r := st.local
		s.replies = append(s.replies, HarnessReply{r.status, r.headers, r.body, r.details, r.grpcStatus})
		begun := st.response.Len() > 0
		st.local, st.decoding.closed = nil, true
		st.localText = st.localHead(r)
		if begun || !first {
			st.encoding.closed = true
			return
		}
		it := &st.encoding
		it.begin(st, true)
		it.complete = len(st.localText) == 0
		it.headers(0, it.complete)
		if !it.complete {
			it.feed(st.localText, true)
		}
	}
}

func add(h *Headers, fields [][2]string) {
	for _, f := range fields {
		h.Add(f[0], f[1])
	}
}

// RequestHeaders is the head of the request.
func (s *HarnessStream) RequestHeaders(fields [][2]string, end bool) {
	s.do(func() {
		st := s.stream
		add(&st.request, fields)
		st.findRoute()
		st.makeFilters(s.harness.hcm.chain)
		it := &st.decoding
		it.begin(st, false)
		it.complete = end
		it.headers(0, end)
	})
}

// RequestBody is a piece of the request's content.
func (s *HarnessStream) RequestBody(data []byte, end bool) {
	s.do(func() {
		s.stream.bytesReceived.Add(int64(len(data)))
		s.stream.decoding.feed(data, end)
	})
}

// RequestTrailers is the end of a request with trailers.
func (s *HarnessStream) RequestTrailers(fields [][2]string) {
	s.do(func() {
		add(&s.stream.requestTrailers, fields)
		s.stream.decoding.finish()
	})
}

// ResponseHeaders is the head of the response.
func (s *HarnessStream) ResponseHeaders(fields [][2]string, end bool) {
	s.do(func() {
		st := s.stream
		add(&st.response, fields)
		it := &st.encoding
		it.begin(st, true)
		it.complete = end
		it.headers(0, end)
	})
}

// ResponseBody is a piece of the response's content.
func (s *HarnessStream) ResponseBody(data []byte, end bool) {
	s.do(func() {
		s.stream.bytesSent.Add(int64(len(data)))
		s.stream.encoding.feed(data, end)
	})
}

// ResponseTrailers is the end of a response with trailers.
func (s *HarnessStream) ResponseTrailers(fields [][2]string) {
	s.do(func() {
		add(&s.stream.responseTrailers, fields)
		s.stream.encoding.finish()
	})
}

// End is the end of the stream, however far it has come.
func (s *HarnessStream) End() {
	delete(s.harness.streams, s)
	s.stream.end()
	s.stream.conn.Close()
	s.do(func() {})
}

// HarnessMessage is how far a request or a response has come.
type HarnessMessage struct {
	Headers, Trailers abi.Pairs
	Held              []byte // content that waits at a filter
	Head, End         bool   // have passed all filters
}

// Message tells of the request or of the response.
func (s *HarnessStream) Message(response bool) (m HarnessMessage) {
	s.harness.locked(0, func() {
		st := s.stream
		headers, trailers, it := &st.request, &st.requestTrailers, &st.decoding
		if response {
			headers, trailers, it = &st.response, &st.responseTrailers, &st.encoding
		}
		m = HarnessMessage{pairsOf(headers), pairsOf(trailers), append([]byte(nil), it.buffered...), it.head, it.end}
	})
	return m
}

// Take gives the content that has passed all filters since the last time.
func (s *HarnessStream) Take(response bool) (content []byte) {
	s.harness.locked(0, func() {
		it := &s.stream.decoding
		if response {
			it = &s.stream.encoding
		}
		content = append(content, it.take()...)
	})
	return content
}

// Replies are the local replies of filters.
func (s *HarnessStream) Replies() []HarnessReply { return s.replies }

// Reset says whether a filter has ended the stream without an answer.
func (s *HarnessStream) Reset() (reset bool) {
	s.harness.locked(0, func() { reset = s.stream.aborted != nil })
	return reset
}

// RouteKnown says whether the route that was matched last still holds.
func (s *HarnessStream) RouteKnown() (known bool) {
	s.harness.locked(0, func() { known = s.stream.routeKnown })
	return known
}

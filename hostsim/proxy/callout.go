package proxy

import (
	"context"
	"net"
	"strings"
	"sync"

	"switchyard/hostsim/abi"
	"switchyard/hostsim/vm"
)

// callout is a request that a plugin sends to a cluster (Envoy's
// Http::AsyncClient): a stream without a connection manager, whose client is
// the plugin. It goes through the router like any other.
type callout struct {
	server *Server
	stream *stream
	client net.Conn // the other end of the stream's connection: closing it gives up

	mu        sync.Mutex
	cancelled bool

	head abi.Pairs
	body []byte
	full bool // the response is longer than Envoy takes

	asked    chan struct{} // closed when it has, or waits for, a connection
	notYet   *upstreamConn // of the stream in whose log it was asked for, which in Envoy still has it
	passed   bool          // to a stream, to be given back by it
	upstream *upstreamConn // is given back when the plugin has heard of the answer
	ending   ending
}

// calloutAtMost is how much of a response to a callout Envoy takes.
const calloutAtMost = 32 << 20

// callouts are those under way.
type callouts struct {
	mu     sync.Mutex
	open   map[*callout]struct{}
	closed bool
	wg     sync.WaitGroup

	background context.Context // of gRPC calls
	stop       context.CancelFunc
	hcm        *hcm
}

// HTTP is vm.Callouts.
func (s *Server) HTTP(worker int, call vm.HTTPCall, done func(*vm.HTTPResponse)) (func(), abi.Status, string) {
	if s.clusters[call.Cluster] == nil {
		return nil, abi.StatusBadArgument, "cluster " + quoted(call.Cluster) + " is not in the configuration" + s.nearCluster(call.Cluster)
	}
	c := s.newCallout(worker, call)
	c.notYet = s.logging[1+worker]
	h := &c.stream.request
	for _, name := range []string{":path", ":method", ":authority"} {
		if !h.has(name) {
			return nil, abi.StatusBadArgument, "the headers have no " + name
		}
	}
	if cluster := s.clusters[call.Cluster]; cluster.empty() {
		cluster.stats.cxNoneHealthy.Add(1)
		cluster.stats.responded(503, true, false)
		return nil, abi.StatusInternalFailure, "cluster " + quoted(call.Cluster) + " has no host"
	}
	if h := s.options.harness; h != nil && h.options.Callouts != nil {
		return h.options.Callouts.HTTP(worker, call, done)
	}
	s.callouts.mu.Lock()
	defer s.callouts.mu.Unlock()
	if s.callouts.closed {
		return nil, abi.StatusInternalFailure, "the server is closing"
	}
	s.callouts.open[c] = struct{}{}
	s.callouts.wg.Go(func() {
		r := c.run()
		c.asks()
		s.callouts.mu.Lock()
		delete(s.callouts.open, c)
		s.callouts.mu.Unlock()
		thread := s.thread(worker)
		thread.Lock()
		defer thread.Unlock()
		c.mu.Lock()
		cancelled := c.cancelled
		c.mu.Unlock()
		if !cancelled {
			s.answering[1+worker] = c
			done(r)
			s.answering[1+worker] = nil
		}
		c.settle()
	})
	<-c.asked // what the plugin does next comes later, and so does the next callout
	return c.cancel, abi.StatusOK, ""
}

// empty says that there is no host to send to.
func (c *cluster) empty() bool { return len(c.hosts.Load().all) == 0 }

// nearCluster is a hint at a cluster that is spelt almost so.
func (s *Server) nearCluster(name string) string {
	for have := range s.clusters {
		if equalFold(have, name) || strings.Contains(name, have) || strings.Contains(have, name) && name != "" {
			return "; " + quoted(have) + " is"
		}
	}
	return ""
}

func quoted(s string) string { return `"` + s + `"` }

func (s *Server) newCallout(worker int, call vm.HTTPCall) *callout {
	here, there := net.Pipe()
	c := &callout{server: s, client: there, asked: make(chan struct{})}
	conn := &connection{Conn: here, server: s, hcm: s.callouts.hcm, worker: worker, remote: "127.0.0.1:0", local: "127.0.0.1:0", remoteIP: "127.0.0.1"}
	conn.in.conn, conn.in.buf, conn.in.w = here, call.Body, len(call.Body)
	st := &conn.stream
	c.stream = st
	st.conn, st.hcm, st.callout = conn, s.callouts.hcm, c
	st.begin()
	st.chain = &filterChain{}
	st.mu = &st.own
	h := &st.request
	for _, p := range call.Headers {
		h.Add(p[0], p[1])
	}
	if len(call.Body) > 0 {
		h.set("content-length", itoa(len(call.Body)))
	}
	h.set("x-envoy-internal", "true")
	st.head = h.value(":method") == "HEAD"
	st.body.reset(&conn.in, bodyLength, int64(len(call.Body)))
	st.requestHasCome()
	st.route, st.routeKnown = &route{virtualHost: &virtualHost{}, cluster: call.Cluster, noCluster: 503, timeout: call.Timeout, idleTimeout: -1}, true
	return c
}

// run sends the request and returns the response, or nil if it broke off.
func (c *callout) run() *vm.HTTPResponse {
	s := c.stream
	defer c.client.Close()
	defer s.conn.Close()
	r := s.decodeHeaders()
	if r == nil {
		r = s.forward()
	}
	if r != nil {
		if up := s.upstream.Swap(nil); up != nil {
			s.letGo(up, resetHere)
		}
		if r.status == 0 {
			return nil
		}
		c.body = nil
		body := s.localHead(r)
		c.begin(&s.response)
		c.add(body)
	}
	if s.broken || c.full {
		return nil
	}
	response := &vm.HTTPResponse{Headers: c.head, Body: c.body}
	if t := s.encoding.trailers; t != nil {
		response.Trailers = pairsOf(t)
	}
	return response
}

func (c *callout) begin(h *Headers) { c.head = pairsOf(h) }

func (c *callout) add(data []byte) {
	if c.full = c.full || len(c.body)+len(data) > calloutAtMost; !c.full {
		c.body = append(c.body, data...)
	}
}

func (c *callout) asks() {
	select {
	case <-c.asked:
	default:
		close(c.asked)
	}
}

// settle gives the connection to the upstream back. In Envoy a stream that the
// answer lets go on asks for one of its own before.
func (c *callout) settle() {
	if c.upstream != nil && !c.passed {
		c.upstream.finish(c.ending)
		c.upstream = nil
	}
}

// settle gives back the connections of callouts that have let the stream go on.
func (s *stream) settle() {
	if s.callout != nil {
		s.callout.asks()
		return
	}
	if !s.unsettled.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settleLocked()
}

func (s *stream) settleLocked() {
	for i, c := range s.settling {
		c.passed = false
		c.settle()
		s.settling[i] = nil
	}
	s.settling = s.settling[:0]
	s.unsettled.Store(false)
}

func (c *callout) cancel() {
	c.mu.Lock()
	c.cancelled = true
	c.mu.Unlock()
	c.abort()
}

// abort makes run return soon.
func (c *callout) abort() {
	c.client.Close()
	if up := c.stream.upstream.Load(); up != nil {
		up.SetDeadline(past)
		up.Close()
	}
}

// close ends all callouts and waits until they have ended.
func (c *callouts) close() {
	c.mu.Lock()
	c.closed = true
	for one := range c.open {
		one.abort()
	}
	if c.stop != nil {
		c.stop()
	}
	c.mu.Unlock()
	c.wg.Wait()
}

func pairsOf(h *Headers) abi.Pairs {
	pairs := make(abi.Pairs, 0, h.Len())
	for i := range h.Len() {
		name, value := h.At(i)
		pairs = append(pairs, [2]string{strings.Clone(name), strings.Clone(value)})
	}
	return pairs
}

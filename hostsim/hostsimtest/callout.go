package hostsimtest

import (
	"time"

	"switchyard/hostsim/abi"
	"switchyard/hostsim/vm"
)

// HTTPCall is a request of the plugin (proxy_http_call). The test answers it,
// or fails it, or does neither.
type HTTPCall struct {
	Cluster           string
	Headers, Trailers Headers
	Body              string
	Timeout           time.Duration // 0 is none

	filter    *Filter
	thread    int
	done      func(*vm.HTTPResponse)
	over      bool
	cancelled bool
}

// Answer is the response to the call. Its headers begin with :status.
func (c *HTTPCall) Answer(headers Headers, body string, trailers Headers) *Effect {
	c.filter.t.Helper()
	return c.end(&vm.HTTPResponse{Headers: abi.Pairs(headers), Body: []byte(body), Trailers: abi.Pairs(trailers)})
}

// Fail is what Envoy answers where nobody listens: 503, and why.
func (c *HTTPCall) Fail() *Effect {
	c.filter.t.Helper()
	const why = "upstream connect error or disconnect/reset before headers. reset reason: connection failure"
	return c.Answer(Headers{{":status", "503"}, {"content-length", itoa(int64(len(why)))}, {"content-type", "text/plain"}}, why, nil)
}

// TimeOut is what Envoy answers when the call's timeout has passed.
func (c *HTTPCall) TimeOut() *Effect {
	c.filter.t.Helper()
	const why = "upstream request timeout"
	return c.Answer(Headers{{":status", "504"}, {"content-length", itoa(int64(len(why)))}, {"content-type", "text/plain"}}, why, nil)
}

// Break is a response that has begun and broken off: the plugin gets a
// callback without headers or content.
func (c *HTTPCall) Break() *Effect {
	c.filter.t.Helper()
	return c.end(nil)
}

// Cancelled says that the plugin has ended before the call was answered.
func (c *HTTPCall) Cancelled() bool { return c.cancelled }

func (c *HTTPCall) end(r *vm.HTTPResponse) *Effect {
	c.filter.t.Helper()
	if c.over || c.cancelled {
		c.filter.t.Fatal("the call is over")
	}
	c.over = true
	return c.filter.step(func() { c.filter.harness.Do(c.thread, func() { c.done(r) }) })
}

// GRPCCall is a gRPC call of the plugin: a unary one (proxy_grpc_call) or a
// stream (proxy_grpc_stream).
type GRPCCall struct {
	Cluster         string // or a serialised envoy.config.core.v3.GrpcService
	Service, Method string
	Metadata        Headers
	Stream          bool
	Message         string // of a unary call
	Timeout         time.Duration

	filter    *Filter
	thread    int
	events    vm.GRPCEvents
	over      bool
	cancelled bool
	sent      []string
	closed    bool
}

// Sent are the messages that the plugin has sent on a stream.
func (c *GRPCCall) Sent() []string { return c.sent }

// SendClosed says that the plugin sends nothing more.
func (c *GRPCCall) SendClosed() bool { return c.closed }

// Cancelled says that the plugin has cancelled the call, or has ended.
func (c *GRPCCall) Cancelled() bool { return c.cancelled }

// InitialMetadata is the head of a stream's response.
func (c *GRPCCall) InitialMetadata(h Headers) *Effect {
	c.filter.t.Helper()
	return c.tell(false, func() { c.events.Initial(abi.Pairs(h)) })
}

// Receive is a message. A unary call ends with it.
func (c *GRPCCall) Receive(message string) *Effect {
	c.filter.t.Helper()
	return c.tell(!c.Stream, func() { c.events.Message([]byte(message)) })
}

// TrailingMetadata is what comes behind the messages of a stream.
func (c *GRPCCall) TrailingMetadata(h Headers) *Effect {
	c.filter.t.Helper()
	return c.tell(false, func() { c.events.Trailing(abi.Pairs(h)) })
}

// Close ends the call with a status of gRPC, 0 for OK. A unary call that
// succeeds ends with Receive.
func (c *GRPCCall) Close(status uint32, message string) *Effect {
	c.filter.t.Helper()
	return c.tell(true, func() { c.events.Closed(status, message) })
}

func (c *GRPCCall) tell(last bool, f func()) *Effect {
	c.filter.t.Helper()
	if c.over || c.cancelled {
		c.filter.t.Fatal("the gRPC call is over")
	}
	c.over = last
	return c.filter.step(func() { c.filter.harness.Do(c.thread, f) })
}

// callouts takes the callouts of a Filter, as the data plane would.
type callouts Filter

func (p *callouts) HTTP(thread int, call vm.HTTPCall, done func(*vm.HTTPResponse)) (func(), abi.Status, string) {
	c := &HTTPCall{Cluster: call.Cluster, Headers: Headers(call.Headers), Trailers: Headers(call.Trailers), Body: string(call.Body),
		Timeout: call.Timeout, filter: (*Filter)(p), thread: thread, done: done}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.effect != nil {
		p.effect.HTTPCalls = append(p.effect.HTTPCalls, c)
	}
	return func() { c.cancelled = true }, abi.StatusOK, ""
}

func (p *callouts) GRPC(thread int, call vm.GRPCCall, events vm.GRPCEvents) (vm.GRPCStream, abi.Status, string) {
	c := &GRPCCall{Cluster: call.Service, Service: call.ServiceName, Method: call.MethodName, Metadata: Headers(call.Metadata),
		Stream: call.Stream, Message: string(call.Message), Timeout: call.Timeout, filter: (*Filter)(p), thread: thread, events: events}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.effect != nil {
		p.effect.GRPCCalls = append(p.effect.GRPCCalls, c)
	}
	return (*grpcStream)(c), abi.StatusOK, ""
}

// grpcStream is what the VM sees of a GRPCCall.
type grpcStream GRPCCall

func (s *grpcStream) Send(message []byte, end bool) {
	s.sent = append(s.sent, string(message))
	s.closed = s.closed || end
}
func (s *grpcStream) CloseSend() { s.closed = true }
func (s *grpcStream) Cancel()    { s.cancelled = true }

package vm

import (
	"strings"
	"time"

	"switchyard/hostsim/abi"
)

// HTTP callouts (Proxy-Wasm 0.2.1, "HTTP calls"). They belong to root
// contexts, whatever context makes them.

// HTTPCall is a request that a guest wants to be sent.
type HTTPCall struct {
	Cluster           string
	Headers, Trailers abi.Pairs // Headers has :method, :path and :authority
	Body              []byte
	Timeout           time.Duration // 0 is the data plane's default
}

// HTTPResponse is the answer to an HTTPCall. A call that was not answered,
// because nobody listens or in time, gets one from the data plane.
type HTTPResponse struct {
	Headers, Trailers abi.Pairs // Headers begins with :status
	Body              []byte
}

// Callouts sends requests of guests to clusters.
type Callouts interface {
	// HTTP starts a call of a worker (or MainThread). Later done is called
	// once, on a goroutine that holds the worker's lock (EngineOptions.Thread)
	// and does not run the guest: with the response, or with nil if one began
	// and broke off. After cancel, which may be called once, at any time while
	// the lock is held, it is not called any more.
	//
	// A status that is not Ok says why there is no call; why explains it to
	// people.
	HTTP(worker int, call HTTPCall, done func(*HTTPResponse)) (cancel func(), status abi.Status, why string)
	// GRPC starts a gRPC call, likewise.
	GRPC(worker int, call GRPCCall, events GRPCEvents) (stream GRPCStream, status abi.Status, why string)
}

// Numbers of callouts tell by their last two bits what they are.
const (
	callHTTP    = 0
	callGRPC    = 1
	streamGRPC  = 2
	calloutStep = 4
)

// callouts is what a root context has under way.
type callouts struct {
	cancel   map[uint32]func() // by token
	response *HTTPResponse     // while its callback runs
	streams  map[uint32]GRPCStream
	received received // while a gRPC callback runs
	status   uint32   // what proxy_get_status gives meanwhile
	message  string
}

// nextToken numbers callouts of a kind, from 4 on.
func (v *instance) nextToken(kind uint32) uint32 {
	v.tokens[kind] += calloutStep
	return v.tokens[kind] | kind
}

func proxyHTTPCall(v *instance, stack []uint64) abi.Status {
	cluster, ok1 := v.readString(stack[0], stack[1])
	headers, ok2 := v.read(stack[2], stack[3])
	body, ok3 := v.read(stack[4], stack[5])
	trailers, ok4 := v.read(stack[6], stack[7])
	if !ok1 || !ok2 || !ok3 || !ok4 || !v.writeUint32(stack[9], 0) {
		return abi.StatusInvalidMemoryAccess
	}
	root := v.context().root
	if !v.afford(len(cluster)+len(headers)+len(body)+len(trailers)) || !root.calls.room(v) {
		return abi.StatusInternalFailure
	}
	call := HTTPCall{Cluster: strings.Clone(cluster), Body: append([]byte(nil), body...)}
	call.Headers, ok1 = abi.ParsePairs(headers)
	call.Trailers, _ = abi.ParsePairs(trailers)
	timeout := int32(uint32(stack[8]))
	if timeout < 0 {
		v.because("the timeout of %d ms is negative", timeout)
		return abi.StatusBadArgument
	}
	call.Timeout = time.Duration(timeout) * time.Millisecond
	if v.group.engine.opts.Callouts == nil {
		v.because("there is nothing here that could send a request")
		return abi.StatusBadArgument
	}
	for i, p := range call.Headers {
		call.Headers[i][0] = lowerASCII(p[0])
	}
	token := v.tokens[callHTTP] + calloutStep
	cancel, status, why := v.group.engine.opts.Callouts.HTTP(v.worker, call, func(r *HTTPResponse) { root.answered(token, r) })
	if status != abi.StatusOK {
		if !ok1 {
			why += " (the headers cannot be parsed)"
		}
		v.because("%s", why)
		return status
	}
	v.nextToken(callHTTP)
	root.calls.add(token, cancel)
	v.writeUint32(stack[9], token)
	return abi.StatusOK
}

// room says whether there may be one more under way.
func (c *callouts) room(v *instance) bool {
	if len(c.cancel)+len(c.streams) < maxCallouts {
		return true
	}
	v.because("the plugin has %d callouts under way already", maxCallouts)
	return false
}

func (c *callouts) add(token uint32, cancel func()) {
	if c.cancel == nil {
		c.cancel = map[uint32]func(){}
	}
	c.cancel[token] = cancel
}

// end cancels all that is under way.
func (c *callouts) end() {
	for token, stream := range c.streams {
		delete(c.streams, token)
		stream.Cancel()
	}
	for token, cancel := range c.cancel {
		delete(c.cancel, token)
		cancel()
	}
}

// answered tells the guest of the response to a call. The worker's lock is
// held.
func (c *hostContext) answered(token uint32, r *HTTPResponse) {
	v := c.instance
	v.mu.Lock()
	defer v.leave()
	if _, ok := c.calls.cancel[token]; !ok {
		return
	}
	delete(c.calls.cancel, token)
	if v.failed.Load() || v.fns[onHTTPCallResponse] == nil {
		return
	}
	v.stack[0], v.stack[1] = uint64(c.id), uint64(token)
	v.stack[2], v.stack[3], v.stack[4] = 0, 0, 0
	if r != nil {
		v.stack[2], v.stack[3], v.stack[4] = uint64(len(r.Headers)), uint64(len(r.Body)), uint64(len(r.Trailers))
		c.calls.response = r
	} else {
		c.calls.status, c.calls.message = uint32(abi.StatusBrokenConnection), "reset"
	}
	v.call(c, onHTTPCallResponse)               // a trap is logged and remembered
	c.calls.response, c.calls.message = nil, "" // Envoy keeps the status
	v.afterCall()
}

// pairsMap is a HeaderMap that nobody may change.
type pairsMap struct{ abi.Pairs }

func (m pairsMap) Get(name string) (string, bool) {
	name = lowerASCII(name)
	for _, p := range m.Pairs {
		if p[0] == name {
			return p[1], true
		}
	}
	return "", false
}

func (pairsMap) Add(string, string)     {}
func (pairsMap) Replace(string, string) {}
func (pairsMap) Remove(string)          {}
func (pairsMap) Clear()                 {}

func lowerASCII(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if 'A' <= b[i] && b[i] <= 'Z' {
					b[i] |= 0x20
				}
			}
			return string(b)
		}
	}
	return s
}

// proxyGetStatus gives the status of a callout in its callback, where it is
// not that of the response.
func proxyGetStatus(v *instance, stack []uint64) abi.Status {
	c := v.context()
	if !v.writeUint32(stack[0], c.calls.status) {
		return abi.StatusInvalidMemoryAccess
	}
	return v.give(c.calls.message, stack[1], stack[2])
}

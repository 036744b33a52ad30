package vm

import (
	"strings"
	"time"

	"switchyard/hostsim/abi"
)

// gRPC callouts (Proxy-Wasm 0.2.1, "gRPC calls"): unary calls and streams.
// Like HTTP callouts they belong to root contexts.

// GRPCCall is a call that a guest wants to be made.
type GRPCCall struct {
	// Service is a cluster, or a serialised envoy.config.core.v3.GrpcService.
	Service                 string
	ServiceName, MethodName string
	Metadata                abi.Pairs
	Stream                  bool
	Message                 []byte        // of a unary call
	Timeout                 time.Duration // of a unary call; 0 is none
}

// GRPCEvents are told what comes of a call, each on a goroutine that holds the
// worker's lock (EngineOptions.Thread) and does not run the guest. Metadata is
// told of streams only. Closed is the last; a unary call that succeeds has
// Message instead.
type GRPCEvents struct {
	Initial, Trailing func(abi.Pairs)
	Message           func([]byte)
	Closed            func(code uint32, message string)
}

// GRPCStream is a call under way. Its methods are called with the worker's
// lock held and do not wait.
type GRPCStream interface {
	Send(message []byte, endStream bool)
	CloseSend()
	Cancel() // no event comes after it
}

// received is what the guest can read in a gRPC callback.
type received struct {
	metadata abi.Pairs
	trailing bool
	message  []byte
}

func (v *instance) startGRPC(call GRPCCall, kind uint32, tokenPtr uint64) abi.Status {
	if v.group.engine.opts.Callouts == nil {
		v.because("there is nothing here that could make a call")
		return abi.StatusParseFailure
	}
	root := v.context().root
	if !root.calls.room(v) {
		return abi.StatusInternalFailure
	}
	token := (v.tokens[kind] + calloutStep) | kind
	unary := kind == callGRPC
	tell := func(cb callback, last bool, r received, number uint64) {
		v.mu.Lock()
		defer v.leave()
		if root.calls.streams[token] == nil {
			return
		}
		if last {
			delete(root.calls.streams, token)
		}
		if v.failed.Load() || v.fns[cb] == nil {
			return
		}
		root.calls.received = r
		v.stack[0], v.stack[1], v.stack[2] = uint64(root.id), uint64(token), number
		v.call(root, cb) // a trap is logged and remembered
		root.calls.received, root.calls.message = received{}, ""
		v.afterCall()
	}
	stream, status, why := v.group.engine.opts.Callouts.GRPC(v.worker, call, GRPCEvents{
		Initial: func(m abi.Pairs) {
			tell(onGrpcReceiveInitialMetadata, false, received{metadata: m}, uint64(len(m)))
		},
		Message: func(b []byte) { tell(onGrpcReceive, unary, received{message: b}, uint64(len(b))) },
		Trailing: func(m abi.Pairs) {
			tell(onGrpcReceiveTrailingMetadata, false, received{metadata: m, trailing: true}, uint64(len(m)))
		},
		Closed: func(code uint32, message string) {
			v.mu.Lock()
			root.calls.status, root.calls.message = code, message
			v.mu.Unlock()
			tell(onGrpcClose, true, received{}, uint64(code))
		},
	})
	if status != abi.StatusOK {
		v.because("%s", why)
		return status
	}
	v.nextToken(kind)
	if root.calls.streams == nil {
		root.calls.streams = map[uint32]GRPCStream{}
	}
	root.calls.streams[token] = stream
	if !v.writeUint32(tokenPtr, token) {
		return abi.StatusInvalidMemoryAccess
	}
	return abi.StatusOK
}

// grpcArguments reads what both kinds of calls begin with.
func (v *instance) grpcArguments(stack []uint64) (GRPCCall, abi.Status) {
	service, ok1 := v.readString(stack[0], stack[1])
	name, ok2 := v.readString(stack[2], stack[3])
	method, ok3 := v.readString(stack[4], stack[5])
	metadata, ok4 := v.read(stack[6], stack[7])
	if !ok1 || !ok2 || !ok3 || !ok4 {
		return GRPCCall{}, abi.StatusInvalidMemoryAccess
	}
	if !v.afford(len(service) + len(name) + len(method) + len(metadata)) {
		return GRPCCall{}, abi.StatusInternalFailure
	}
	call := GRPCCall{Service: strings.Clone(service), ServiceName: strings.Clone(name), MethodName: strings.Clone(method)}
	call.Metadata, _ = abi.ParsePairs(metadata)
	return call, abi.StatusOK
}

func proxyGRPCCall(v *instance, stack []uint64) abi.Status {
	call, status := v.grpcArguments(stack)
	if status != abi.StatusOK {
		return status
	}
	message, ok := v.read(stack[8], stack[9])
	switch {
	case !ok:
		return abi.StatusInvalidMemoryAccess
	case !v.afford(len(message)):
		return abi.StatusInternalFailure
	}
	call.Message = append([]byte(nil), message...)
	call.Timeout = time.Duration(uint32(stack[10])) * time.Millisecond
	return v.startGRPC(call, callGRPC, stack[11])
}

func proxyGRPCStream(v *instance, stack []uint64) abi.Status {
	call, status := v.grpcArguments(stack)
	if status != abi.StatusOK {
		return status
	}
	call.Stream = true
	return v.startGRPC(call, streamGRPC, stack[8])
}

func proxyGRPCSend(v *instance, stack []uint64) abi.Status {
	message, ok := v.read(stack[1], stack[2])
	if !ok {
		return abi.StatusInvalidMemoryAccess
	}
	token := uint32(stack[0])
	if token&(calloutStep-1) != streamGRPC {
		v.because("%d is no gRPC stream", token)
		return abi.StatusBadArgument
	}
	stream := v.context().root.calls.streams[token]
	if stream == nil {
		v.because("the gRPC stream %d is closed, or never was", token)
		return abi.StatusNotFound
	}
	if !v.afford(len(message)) {
		return abi.StatusInternalFailure
	}
	stream.Send(append([]byte(nil), message...), uint32(stack[3]) != 0)
	return abi.StatusOK
}

// proxyGRPCClose ends a unary call, and what is sent of a stream.
func proxyGRPCClose(v *instance, stack []uint64) abi.Status {
	token := uint32(stack[0])
	root := v.context().root
	stream := root.calls.streams[token]
	if stream == nil {
		return v.noGRPC(token)
	}
	if token&(calloutStep-1) == streamGRPC {
		stream.CloseSend()
		return abi.StatusOK
	}
	delete(root.calls.streams, token)
	stream.Cancel()
	return abi.StatusOK
}

func proxyGRPCCancel(v *instance, stack []uint64) abi.Status {
	token := uint32(stack[0])
	root := v.context().root
	stream := root.calls.streams[token]
	if stream == nil {
		return v.noGRPC(token)
	}
	delete(root.calls.streams, token)
	stream.Cancel()
	return abi.StatusOK
}

func (v *instance) noGRPC(token uint32) abi.Status {
	if kind := token & (calloutStep - 1); kind != callGRPC && kind != streamGRPC {
		v.because("%d is no gRPC call or stream", token)
		return abi.StatusBadArgument
	}
	v.because("the gRPC call %d is over, or never was", token)
	return abi.StatusNotFound
}

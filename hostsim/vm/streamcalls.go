package vm

import (
	"strings"
	"unicode"

	"switchyard/hostsim/abi"
)

// What acts on the stream (Proxy-Wasm 0.2.1, "HTTP streams", "Stream
// contexts"). All of it happens after the callback has returned.

// after adds to what is done once the callback that runs has returned and the
// VM can be called again (addAfterVmCallAction).
func (v *instance) after(f func()) { v.actions = append(v.actions, f) }

// leave unlocks the instance after a call and does what the guest asked for
// meanwhile. A guest that has trapped gets nothing of it.
func (v *instance) leave() {
	actions := v.actions
	v.actions = nil
	failed := v.failed.Load()
	v.mu.Unlock()
	if failed {
		return
	}
	for _, f := range actions {
		f()
	}
}

// proxySendLocalResponse makes the callback that runs stop the stream,
// whatever it returns. Only the first local response of a callback counts.
// The status is Ok even where there is no stream.
func proxySendLocalResponse(v *instance, stack []uint64) abi.Status {
	details, ok1 := v.readString(stack[1], stack[2])
	body, ok2 := v.read(stack[3], stack[4])
	headers, ok3 := v.read(stack[5], stack[6])
	if !ok1 || !ok2 || !ok3 {
		return abi.StatusInvalidMemoryAccess
	}
	c := v.context()
	if c.stream != nil && !v.stopNext {
		pairs, _ := abi.ParsePairs(headers)
		underscored := strings.Map(func(r rune) rune {
			if r < unicode.MaxASCII && unicode.IsSpace(r) {
				return '_'
			}
			return r
		}, details)
		stream, code, grpc := c.stream, uint32(stack[0]), int32(uint32(stack[7]))
		underscored, body := strings.Clone(underscored), append([]byte(nil), body...)
		v.after(func() { stream.SendLocalResponse(code, underscored, body, pairs, grpc) })
	}
	v.stopNext = true
	return abi.StatusOK
}

func proxyContinueStream(v *instance, stack []uint64) abi.Status {
	return v.context().continueStream(uint32(stack[0]))
}

func proxyContinueRequest(v *instance, _ []uint64) abi.Status {
	return v.context().continueStream(uint32(abi.StreamRequest))
}

func proxyContinueResponse(v *instance, _ []uint64) abi.Status {
	return v.context().continueStream(uint32(abi.StreamResponse))
}

// continueStream resumes a paused stream. The request's maps and body are
// gone from then on until the next callback, for a response too.
func (c *hostContext) continueStream(t uint32) abi.Status {
	switch {
	case t > uint32(abi.StreamUpstream):
		return abi.StatusBadArgument
	case t == uint32(abi.StreamUpstream):
		return abi.StatusUnimplemented
	case c.stream == nil:
		return abi.StatusOK
	}
	if !c.instance.afford(0) {
		return abi.StatusInternalFailure
	}
	c.requestGone = c.requestGone || t != uint32(abi.StreamDownstream)
	stream := c.stream
	c.instance.after(func() { stream.Continue(abi.StreamType(t)) })
	return abi.StatusOK
}

func proxyCloseStream(v *instance, stack []uint64) abi.Status {
	c, t := v.context(), uint32(stack[0])
	switch {
	case t > uint32(abi.StreamUpstream):
		return abi.StatusBadArgument
	case c.stream == nil:
		return abi.StatusOK
	}
	if !v.afford(0) {
		return abi.StatusInternalFailure
	}
	stream := c.stream
	v.after(func() { stream.Close(abi.StreamType(t)) })
	return abi.StatusOK
}

func proxyClearRouteCache(v *instance, _ []uint64) abi.Status {
	if c := v.context(); c.stream != nil {
		c.stream.ClearRouteCache()
	}
	return abi.StatusOK
}

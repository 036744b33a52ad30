package vm

import "switchyard/hostsim/abi"

// Buffers (Proxy-Wasm 0.2.1, "Buffers").

// buffer is what a hostcall sees of a buffer: bytes, and what may be replaced
// in them if anything may.
type buffer struct {
	bytes   []byte
	stream  Buffer // nil if it cannot be changed
	missing bool   // there is no such buffer at all
}

// maxBufferType is the last buffer type there is.
const maxBufferType = uint32(abi.BufferCallData)

func (c *hostContext) buffer(t abi.BufferType) buffer {
	switch t {
	case abi.BufferVMConfiguration:
		return buffer{bytes: c.instance.group.vmConfiguration}
	case abi.BufferPluginConfiguration:
		if c.configuring == nil {
			return buffer{missing: true}
		}
		return buffer{bytes: c.configuring.config.Configuration}
	case abi.BufferCallData:
		return buffer{}
	case abi.BufferGrpcReceive:
		return buffer{bytes: c.root.calls.received.message}
	case abi.BufferHTTPCallResponseBody:
		if r := c.root.calls.response; r != nil {
			return buffer{bytes: r.Body}
		}
		return buffer{missing: true}
	}
	// A body of another phase is there, and empty.
	if c.stream == nil || c.requestGone && t == abi.BufferRequestBody {
		return buffer{}
	}
	if b := c.stream.Buffer(t); b != nil {
		return buffer{bytes: b.Bytes(), stream: b}
	}
	return buffer{}
}

func proxyGetBufferBytes(v *instance, stack []uint64) abi.Status {
	if uint32(stack[0]) > maxBufferType {
		return abi.StatusBadArgument
	}
	b := v.context().buffer(abi.BufferType(stack[0]))
	if b.missing {
		return abi.StatusNotFound
	}
	start, length := uint32(stack[1]), uint32(stack[2])
	size := uint64(len(b.bytes))
	end := min(uint64(start)+uint64(length), size)
	if uint64(start) >= end {
		return v.give("", stack[3], stack[4])
	}
	return v.giveBytes(b.bytes[start:end], stack[3], stack[4])
}

func proxyGetBufferStatus(v *instance, stack []uint64) abi.Status {
	if uint32(stack[0]) > maxBufferType {
		return abi.StatusBadArgument
	}
	b := v.context().buffer(abi.BufferType(stack[0]))
	if b.missing {
		return abi.StatusNotFound
	}
	if !v.writeUint32(stack[1], uint32(len(b.bytes))) || !v.writeUint32(stack[2], 0) {
		return abi.StatusInvalidMemoryAccess
	}
	return abi.StatusOK
}

// proxySetBufferBytes replaces at the start or appends at the end, and cannot
// do anything in between, as in Envoy.
func proxySetBufferBytes(v *instance, stack []uint64) abi.Status {
	if uint32(stack[0]) > maxBufferType {
		return abi.StatusBadArgument
	}
	b := v.context().buffer(abi.BufferType(stack[0]))
	if b.missing {
		return abi.StatusNotFound
	}
	data, ok := v.read(stack[3], stack[4])
	if !ok {
		return abi.StatusInvalidMemoryAccess
	}
	start, length, size := uint64(uint32(stack[1])), uint64(uint32(stack[2])), uint64(len(b.bytes))
	switch {
	case b.stream == nil:
		return abi.StatusBadArgument
	case !v.afford(len(data)):
		return abi.StatusInternalFailure
	case start == 0:
		b.stream.Replace(0, int(min(length, size)), data)
	case start >= size:
		b.stream.Replace(int(size), 0, data)
	default:
		return abi.StatusBadArgument
	}
	return abi.StatusOK
}

func proxyGetConfiguration(v *instance, stack []uint64) abi.Status {
	b := v.context().buffer(abi.BufferPluginConfiguration)
	if b.missing {
		b = v.context().buffer(abi.BufferVMConfiguration)
	}
	return v.giveBytes(b.bytes, stack[0], stack[1])
}

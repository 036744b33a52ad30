package vm

import "switchyard/hostsim/abi"

// Header maps (Proxy-Wasm 0.2.1, "HTTP fields").

// maxMapType is the last map type there is.
const maxMapType = uint32(abi.MapHTTPCallResponseTrailers)

// readableMap returns the header map of the given type, or nil if there is
// none in the current phase.
func (c *hostContext) readableMap(t abi.MapType) HeaderMap {
	switch g := c.root.calls.received; {
	case t == abi.MapGrpcReceiveInitial && g.metadata != nil && !g.trailing,
		t == abi.MapGrpcReceiveTrailing && g.metadata != nil && g.trailing:
		return pairsMap{g.metadata}
	}
	switch r := c.root.calls.response; t {
	case abi.MapHTTPCallResponseHeaders:
		if r != nil {
			return pairsMap{r.Headers}
		}
		return nil
	case abi.MapHTTPCallResponseTrailers:
		if r != nil && len(r.Trailers) > 0 {
			return pairsMap{r.Trailers}
		}
		return nil
	}
	if c.stream == nil || c.requestGone && (t == abi.MapRequestHeaders || t == abi.MapRequestTrailers) {
		return nil
	}
	return c.stream.HeaderMap(t)
}

// writableMap returns the header map of the given type, or nil if the current
// phase may not change it.
func (c *hostContext) writableMap(t abi.MapType) HeaderMap {
	if c.stream == nil || t > abi.MapResponseTrailers || !c.stream.HeaderMapWritable(t) {
		return nil
	}
	return c.readableMap(t)
}

// mapChanged makes the route be matched anew if it was the request's headers
// that a guest wrote to, changed or not.
func (c *hostContext) mapChanged(t abi.MapType) {
	if t == abi.MapRequestHeaders {
		c.stream.ClearRouteCache()
	}
}

func proxyGetHeaderMapValue(v *instance, stack []uint64) abi.Status {
	if uint32(stack[0]) > maxMapType {
		return abi.StatusBadArgument
	}
	name, ok := v.readString(stack[1], stack[2])
	if !ok {
		return abi.StatusInvalidMemoryAccess
	}
	c := v.context()
	m := c.readableMap(abi.MapType(stack[0]))
	if m == nil && !c.logging {
		return abi.StatusBadArgument
	}
	var value string
	found := false
	if m != nil {
		value, found = m.Get(name)
	}
	if !found && v.group.module.version != abi010 {
		return abi.StatusNotFound
	}
	return v.give(value, stack[3], stack[4])
}

func proxyAddHeaderMapValue(v *instance, stack []uint64) abi.Status {
	return v.writeHeader(stack, HeaderMap.Add)
}

func proxyReplaceHeaderMapValue(v *instance, stack []uint64) abi.Status {
	return v.writeHeader(stack, HeaderMap.Replace)
}

func (v *instance) writeHeader(stack []uint64, write func(m HeaderMap, name, value string)) abi.Status {
	if uint32(stack[0]) > maxMapType {
		return abi.StatusBadArgument
	}
	name, ok1 := v.readString(stack[1], stack[2])
	value, ok2 := v.readString(stack[3], stack[4])
	if !ok1 || !ok2 {
		return abi.StatusInvalidMemoryAccess
	}
	c, t := v.context(), abi.MapType(stack[0])
	m := c.writableMap(t)
	if m == nil {
		return abi.StatusBadArgument
	}
	if !v.afford(len(name) + len(value)) {
		return abi.StatusInternalFailure
	}
	write(m, name, value)
	c.mapChanged(t)
	return abi.StatusOK
}

func proxyRemoveHeaderMapValue(v *instance, stack []uint64) abi.Status {
	if uint32(stack[0]) > maxMapType {
		return abi.StatusBadArgument
	}
	name, ok := v.readString(stack[1], stack[2])
	if !ok {
		return abi.StatusInvalidMemoryAccess
	}
	c, t := v.context(), abi.MapType(stack[0])
	m := c.writableMap(t)
	if m == nil {
		return abi.StatusBadArgument
	}
	m.Remove(name)
	c.mapChanged(t)
	return abi.StatusOK
}

func proxyGetHeaderMapPairs(v *instance, stack []uint64) abi.Status {
	if uint32(stack[0]) > maxMapType {
		return abi.StatusBadArgument
	}
	m := v.context().readableMap(abi.MapType(stack[0]))
	if m == nil || m.Len() == 0 {
		return v.give("", stack[1], stack[2])
	}
	size := abi.PairsSize(m)
	b, ptr, ok := v.alloc(size)
	if !ok {
		return abi.StatusInvalidMemoryAccess
	}
	abi.AppendPairs(b[:0:size], m)
	if !v.writeUint32(stack[1], ptr) || !v.writeUint32(stack[2], uint32(size)) {
		return abi.StatusInvalidMemoryAccess
	}
	return abi.StatusOK
}

// proxySetHeaderMapPairs replaces the whole map. What cannot be parsed
// empties it, and is no error.
func proxySetHeaderMapPairs(v *instance, stack []uint64) abi.Status {
	if uint32(stack[0]) > maxMapType {
		return abi.StatusBadArgument
	}
	b, ok := v.read(stack[1], stack[2])
	if !ok {
		return abi.StatusInvalidMemoryAccess
	}
	c, t := v.context(), abi.MapType(stack[0])
	m := c.writableMap(t)
	if m == nil {
		return abi.StatusBadArgument
	}
	if !v.afford(len(b)) {
		return abi.StatusInternalFailure
	}
	pairs, _ := abi.ParsePairs(b)
	m.Clear()
	for _, pair := range pairs {
		m.Add(pair[0], pair[1])
	}
	c.mapChanged(t)
	return abi.StatusOK
}

// proxyGetHeaderMapSize gives the bytes of all names and values together; the
// number of pairs, which the specification asks for, is not what Envoy gives.
func proxyGetHeaderMapSize(v *instance, stack []uint64) abi.Status {
	if uint32(stack[0]) > maxMapType {
		return abi.StatusBadArgument
	}
	m := v.context().writableMap(abi.MapType(stack[0]))
	if m == nil {
		return abi.StatusBadArgument
	}
	size := 0
	for i := range m.Len() {
		name, value := m.At(i)
		size += len(name) + len(value)
	}
	if !v.writeUint32(stack[1], uint32(size)) {
		return abi.StatusInvalidMemoryAccess
	}
	return abi.StatusOK
}

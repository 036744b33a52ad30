package vm

// Network filters (Proxy-Wasm 0.2.1, "TCP streams"): the callbacks of a
// StreamContext whose stream is a connection of bytes.

// CloseType says who has closed a connection (proxy_peer_type_t).
type CloseType uint32

const (
	ClosedUnknown CloseType = 0
	ClosedHere    CloseType = 1
	ClosedByPeer  CloseType = 2
)

// network calls a callback of a connection. What the guest does not export
// gives 0.
func (s *StreamContext) network(cb callback, args ...uint64) (uint32, error) {
	call, err := s.begin(cb)
	if !call {
		return 0, err
	}
	c := &s.context
	v := c.instance
	defer v.leave()
	if cb == onNewConnection {
		if err := c.create(c.root.id); err != nil {
			return 0, err
		}
	}
	if !c.created || v.fns[cb] == nil {
		return 0, nil
	}
	v.stack[0] = uint64(c.id)
	copy(v.stack[1:], args)
	result, err := v.call(c, cb)
	v.afterCall()
	return uint32(result), err
}

// OnNewConnection calls proxy_on_new_connection, after
// proxy_on_context_create, and says whether the connection goes on.
func (s *StreamContext) OnNewConnection() (goOn bool, err error) {
	result, err := s.network(onNewConnection)
	return result == 0, err
}

// OnDownstreamData calls proxy_on_downstream_data with the size of what is in
// the buffer, and says whether that goes on.
func (s *StreamContext) OnDownstreamData(size int, endOfStream bool) (goOn bool, err error) {
	result, err := s.network(onDownstreamData, uint64(uint32(size)), boolToUint64(endOfStream))
	return result == 0, err
}

// OnUpstreamData is OnDownstreamData for what goes to the client.
func (s *StreamContext) OnUpstreamData(size int, endOfStream bool) (goOn bool, err error) {
	result, err := s.network(onUpstreamData, uint64(uint32(size)), boolToUint64(endOfStream))
	return result == 0, err
}

// OnDownstreamClose calls proxy_on_downstream_connection_close. What fails here
// and in OnUpstreamClose has been logged, and changes nothing.
func (s *StreamContext) OnDownstreamClose(by CloseType) {
	s.network(onDownstreamConnectionClose, uint64(by))
}

// OnUpstreamClose calls proxy_on_upstream_connection_close.
func (s *StreamContext) OnUpstreamClose(by CloseType) {
	s.network(onUpstreamConnectionClose, uint64(by))
}

// CloseConnection is Close for a connection: proxy_on_done, proxy_on_log,
// proxy_on_delete, or nothing if OnNewConnection was not called.
func (s *StreamContext) CloseConnection() error {
	c := &s.context
	v := c.instance
	v.mu.Lock()
	defer v.leave()
	defer delete(v.contexts, c.id)
	if v.failed.Load() {
		return ErrVMFailed
	}
	if !c.created {
		return nil
	}
	if _, err := c.notify(onDone, 1); err != nil {
		return err
	}
	if _, err := c.notify(onLog, 0); err != nil {
		return err
	}
	return c.delete()
}

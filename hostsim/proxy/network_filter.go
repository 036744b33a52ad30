package proxy

import (
	"switchyard/hostsim/abi"
	"switchyard/hostsim/vm"
)

// networkFilter is a plugin on a connection: a network filter to the session, a
// vm.Stream, by way of wasmFilter, to the plugin.
type networkFilter struct {
	wasmFilter
	session *session
	index   int

	down, up *[]byte // what the guest can reach: in the callback, and on from one that has stopped
}

func newNetworkFilter(s *session, index int, factory *wasmFactory) *networkFilter {
	f := &networkFilter{session: s, index: index}
	f.stream, f.plugin, f.network = s.info, factory.plugin, f
	context, err := f.plugin.NewStream(s.conn.worker, &f.wasmFilter)
	switch {
	case err == nil:
		f.context = context
	case !f.plugin.FailurePolicy().Bypass():
		f.failed = true
	}
	return f
}

// broke is what a connection gets whose plugin has failed: it is closed, or goes
// on without it.
func (f *networkFilter) broke() (goOn bool) {
	if f.plugin.FailurePolicy().IgnoreTrap() {
		f.context = nil
		return true
	}
	f.session.conn.server.wakeTunnels()
	f.session.close(closeFlush, vm.ClosedHere, "")
	return false
}

func (f *networkFilter) newConnection() (goOn bool) {
	if f.failed {
		return f.broke()
	}
	if f.context == nil {
		return true
	}
	goOn, err := f.context.OnNewConnection()
	if err != nil {
		return f.broke()
	}
	return goOn
}

func (f *networkFilter) data(data *[]byte, endStream bool) (goOn bool) {
	if f.context == nil {
		return true
	}
	f.down = data
	goOn, err := f.context.OnDownstreamData(len(*data), endStream)
	if err != nil {
		return f.broke()
	}
	if goOn {
		f.down = nil
	}
	return goOn
}

// write shows the plugin what goes to the client. The end of that is all that it
// hears of the upstream's connection.
func (f *networkFilter) write(data *[]byte, endStream bool) (goOn bool) {
	if f.context == nil {
		return true
	}
	f.up = data
	goOn, err := f.context.OnUpstreamData(len(*data), endStream)
	if err != nil {
		return f.broke()
	}
	if goOn {
		f.up = nil
	}
	if endStream {
		f.context.OnUpstreamClose(vm.ClosedUnknown)
	}
	return goOn
}

// end ends the context.
func (f *networkFilter) end(by vm.CloseType) {
	f.over = true
	if f.context != nil {
		f.context.OnDownstreamClose(by)
		f.context.CloseConnection()
		f.context = nil
	}
}

// buffer is vm.Stream's Buffer.
func (f *networkFilter) buffer(t abi.BufferType) vm.Buffer {
	data := f.down
	switch t {
	case abi.BufferDownstreamData:
	case abi.BufferUpstreamData:
		data = f.up
	default:
		return nil
	}
	if data == nil {
		return nil
	}
	return guestBuffer{data}
}

// resume is vm.Stream's Continue.
func (f *networkFilter) resume(t abi.StreamType) {
	if t == abi.StreamDownstream && !f.over && f.session.closing == 0 {
		f.session.proceed(f.index + 1)
	}
}

// hangUp is vm.Stream's Close. Whichever stream is named, it is the client's
// connection that is closed.
func (f *networkFilter) hangUp(t abi.StreamType) {
	switch t {
	case abi.StreamDownstream:
		f.session.close(closeFlush, vm.ClosedHere, "wasm_downstream_close")
	case abi.StreamUpstream:
		f.session.close(closeFlush, vm.ClosedHere, "wasm_upstream_close")
	}
}

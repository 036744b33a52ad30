package vm

// What guests can make the host keep is bounded, where Envoy has no bound, so
// that one that asks for more and more in a loop does not take all memory.
const (
	// maxCallbackBytes is for all that goes into header maps, buffers,
	// properties, local responses and callouts in one callback.
	maxCallbackBytes = 256 << 20
	// callbackOverhead is what each such hostcall costs besides its bytes.
	callbackOverhead = 64
	// maxCallouts is for those that a plugin has under way on a thread.
	maxCallouts = 10000
	// maxMetrics is for those that a VM has defined.
	maxMetrics = 1 << 16
	// maxSharedBytes is for shared data and queues of all VMs. It is as much as
	// one VM's memory may be.
	maxSharedBytes = 1 << 30
	// sharedOverhead is what each key, queue and item costs besides its bytes.
	sharedOverhead = 64
)

// afford takes size bytes from what the callback that runs may make the host
// keep. It returns false if that is too much.
func (v *instance) afford(size int) bool {
	v.spent += size + callbackOverhead
	if v.spent <= maxCallbackBytes {
		return true
	}
	v.because("the plugin has made the host keep more than %d MiB in this callback; Envoy would take it, as long as it has memory", maxCallbackBytes>>20)
	return false
}

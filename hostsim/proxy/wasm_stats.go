package proxy

import (
	"crypto/sha256"
	"fmt"

	"switchyard/hostsim/vm"
)

// countVM makes the stats of a plugin's VMs. Envoy makes one VM to load the
// code into, and one for the main thread and each worker, for all plugins with
// equal VM configuration and code; and one for each plugin to try it in.
func (b *builder) countVM(runtime string, c vm.PluginConfig, code []byte) {
	s := b.server
	stats := &s.Stats
	if b.vms == nil {
		b.vms = map[string]bool{}
	}
	key := fmt.Sprintf("%q %q %x", c.VMID, c.VMConfiguration, sha256.Sum256(code))
	made := int64(1)
	active, all := stats.Gauge("wasm."+runtime+".active"), stats.Gauge("wasm.wasm_vm_count")
	if !b.vms[key] {
		b.vms[key] = true
		n := int64(2 + s.options.Concurrency)
		active.Add(n)
		all.Add(n)
		made += n
	}
	stats.Stat("wasm." + runtime + ".created").Add(made)
	stats.zero("wasm.", "remote_load_cache_hits", "remote_load_cache_misses", "remote_load_cache_negative_hits", "remote_load_fetch_failures", "remote_load_fetch_successes")
	stats.zeroGauges("wasm.", "remote_load_cache_entries")
	stats.zero("wasm."+c.Name+".", "vm_reload", "vm_reload_backoff", "vm_reload_failure", "vm_reload_success")
}

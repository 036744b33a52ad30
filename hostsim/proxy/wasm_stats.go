package proxy

import "switchyard/hostsim/vm"

// pluginStats makes the stats of a plugin. Plugins of one name share them.
func (b *builder) pluginStats(name string, plugin *vm.Plugin) {
	s := b.server
	stats := &s.Stats
	stats.zero("wasm.", "remote_load_cache_hits", "remote_load_cache_misses", "remote_load_cache_negative_hits",
		"remote_load_fetch_failures", "remote_load_fetch_successes")
	stats.zeroGauges("wasm.", "remote_load_cache_entries")
	if s.pluginsByName == nil {
		s.pluginsByName = map[string][]*vm.Plugin{}
	}
	s.pluginsByName[name] = append(s.pluginsByName[name], plugin)
	stats.zero("wasm."+name+".", "vm_reload") // Envoy never counts there
	for stat, of := range map[string]func(vm.PluginStats) uint64{
		"vm_reload_success": func(p vm.PluginStats) uint64 { return p.ReloadSuccess },
		"vm_reload_failure": func(p vm.PluginStats) uint64 { return p.ReloadFailure },
		"vm_reload_backoff": func(p vm.PluginStats) uint64 { return p.ReloadBackoff },
	} {
		stats.computed("wasm."+name+"."+stat, Counter, func() (int64, bool) {
			sum := uint64(0)
			for _, p := range s.pluginsByName[name] {
				sum += of(p.Stats())
			}
			return int64(sum), sum > 0
		})
	}
}

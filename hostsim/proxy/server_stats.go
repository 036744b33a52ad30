package proxy

import (
	"runtime"
	"strconv"
	"time"
)

// This file holds the stats of the process as a whole.

// serverStats are those that change while it runs.
type serverStats struct {
	live             *Stat
	listenersStopped *Stat
	dnsQueries       *Stat // of DNS clusters; nil without any
	dnsFailures      *Stat
	dnsNotFound      *Stat
	dnsPending       *Stat
}

// State is what /ready and server.state say.
type State int

const (
	Live            State = iota
	Draining              // health checks are to fail
	PreInitializing       // not used: New returns when all is there
)

func (s State) String() string {
	if s == Draining {
		return "DRAINING"
	}
	return "LIVE"
}

// State is LIVE unless health checks are to fail.
func (s *Server) State() State {
	if s.drains.failed.Load() {
		return Draining
	}
	return Live
}

func (b *builder) serverStats(clusters, listeners int) {
	s := b.server
	stats := &s.Stats
	set := func(name string, n int64) { stats.Gauge(name).Set(n) }
	count := func(name string, n int64) { stats.Stat(name).Add(n) }

	set("cluster_manager.active_clusters", int64(clusters))
	count("cluster_manager.cluster_added", int64(clusters))
	set("cluster_manager.warming_clusters", 0)
	stats.zero("cluster_manager.", "cluster_modified", "cluster_removed", "cluster_updated", "cluster_updated_via_merge",
		"update_merge_cancelled", "update_out_of_merge_window")
	threads := []string{"main_thread"}
	for i := range s.options.Concurrency {
		threads = append(threads, "worker_"+strconv.Itoa(i))
	}
	for _, thread := range threads {
		set("thread_local_cluster_manager."+thread+".clusters_inflated", int64(clusters))
		stats.zero("server."+thread+".", "watchdog_mega_miss", "watchdog_miss")
	}
	stats.zero("main_thread.", "watchdog_mega_miss", "watchdog_miss")
	stats.zero("workers.", "watchdog_mega_miss", "watchdog_miss")

	count("listener_manager.listener_added", int64(listeners))
	count("listener_manager.listener_create_success", int64(listeners*s.options.Concurrency))
	set("listener_manager.total_listeners_active", int64(listeners))
	set("listener_manager.total_listeners_warming", 0)
	set("listener_manager.workers_started", 1)
	s.stats.listenersStopped = stats.Stat("listener_manager.listener_stopped")
	stats.zero("listener_manager.", "listener_create_failure", "listener_in_place_updated", "listener_modified", "listener_removed")
	stats.zeroGauges("listener_manager.", "total_filter_chains_draining", "total_listeners_draining", "workers_pinned")

	count("runtime.load_success", 2)
	count("runtime.override_dir_not_exists", 2)
	set("runtime.num_keys", int64(len(b.runtime)))
	set("runtime.num_layers", int64(len(s.layers)))
	stats.zero("runtime.", "load_error", "override_dir_exists")
	stats.zeroGauges("runtime.", "admin_overrides_active")
	stats.zero("runtime.", "deprecated_feature_use")
	stats.zeroGauges("runtime.", "deprecated_feature_seen_since_process_start")
	if b.deprecated > 0 {
		count("runtime.deprecated_feature_use", b.deprecated)
		set("runtime.deprecated_feature_seen_since_process_start", b.deprecated)
	}

	// Envoy's access log files; hostsim writes its own way.
	stats.zero("filesystem.", "flushed_by_timer", "reopen_failed", "write_buffered", "write_completed", "write_failed")
	stats.zeroGauges("filesystem.", "write_total_buffered")

	stats.zero("", "envoy.overload_actions.reset_high_memory_stream.count")
	stats.Histogram("overload.refresh_interval_delay")
	newRouterStats(stats, "http.async-client.")

	s.stats.live = stats.Gauge("server.live")
	s.stats.live.Set(1)
	set("server.concurrency", int64(s.options.Concurrency))
	set("server.compilation_settings.fips_mode", 0)
	set("server.hot_restart_epoch", 0)
	set("server.hot_restart_generation", 1)
	set("server.version", 0)
	for _, name := range []string{"dynamic_unknown_fields", "static_unknown_fields", "wip_protos"} {
		count("server."+name, 0)
	}
	stats.zero("server.", "debug_assertion_failures", "dropped_stat_flushes", "envoy_bug_failures", "envoy_notifications")
	stats.zeroGauges("server.", "seconds_until_first_ocsp_response_expiring")

	uptime, state, connections := stats.Gauge("server.uptime"), stats.Gauge("server.state"), stats.Gauge("server.total_connections")
	days, parent := stats.Gauge("server.days_until_first_cert_expiring"), stats.Gauge("server.parent_connections")
	lookups := stats.Gauge("server.stats_recent_lookups")
	allocated, heap, physical := stats.Gauge("server.memory_allocated"), stats.Gauge("server.memory_heap_size"), stats.Gauge("server.memory_physical_size")
	started := time.Now()
	stats.onFlush(func() {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		uptime.Set(int64(time.Since(started).Seconds()))
		state.Set(int64(s.State()))
		s.conns.mu.Lock()
		connections.Set(int64(len(s.conns.open)))
		s.conns.mu.Unlock()
		days.Set(s.daysLeft())
		parent.Set(0)
		lookups.Set(0)
		allocated.Set(int64(m.HeapAlloc))
		heap.Set(int64(m.HeapSys))
		physical.Set(int64(m.Sys - m.HeapReleased))
	})
	stats.Histogram("server.initialization_time_ms").Record(uint64(time.Since(b.began).Milliseconds()))
}

// dnsStats makes those of the resolver, which Envoy has only where a cluster
// needs it.
func (s *Server) dnsStats() {
	stats := &s.Stats
	s.stats.dnsQueries = stats.Stat("dns.cares.resolve_total")
	s.stats.dnsFailures = stats.Stat("dns.cares.get_addr_failure")
	s.stats.dnsNotFound = stats.Stat("dns.cares.not_found")
	stats.zero("dns.cares.", "reinits", "timeouts")
	s.stats.dnsPending = stats.Gauge("dns.cares.pending_resolutions")
}

// listenerStats are the stats of a listener.
type listenerStats struct {
	total, active, destroyed *Stat
	waiting                  *Stat      // for listener filters
	length                   *Histogram // of its connections, in ms
	accepted                 *Histogram // connections at a time
	workers                  []workerStats
}

type workerStats struct{ total, active *Stat }

// newListenerStats makes them. prefix ends in a dot; threads are the names of
// those who accept.
func newListenerStats(stats *Stats, prefix string, threads []string) *listenerStats {
	l := &listenerStats{
		total: stats.Stat(prefix + "downstream_cx_total"), active: stats.Gauge(prefix + "downstream_cx_active"),
		destroyed: stats.Stat(prefix + "downstream_cx_destroy"), length: stats.Histogram(prefix + "downstream_cx_length_ms"),
		accepted: stats.Histogram(prefix + "connections_accepted_per_socket_event"),
	}
	for _, thread := range threads {
		l.workers = append(l.workers, workerStats{stats.Stat(prefix + thread + ".downstream_cx_total"), stats.Gauge(prefix + thread + ".downstream_cx_active")})
	}
	stats.zero(prefix, "downstream_cx_overflow", "downstream_cx_overload_reject", "downstream_cx_transport_socket_connect_timeout",
		"downstream_global_cx_overflow", "downstream_listener_filter_error", "downstream_listener_filter_remote_close",
		"downstream_pre_cx_timeout", "no_filter_chain_match")
	l.waiting = stats.Gauge(prefix + "downstream_pre_cx_active")
	return l
}

func workerNames(n int) []string {
	var names []string
	for i := range n {
		names = append(names, "worker_"+strconv.Itoa(i))
	}
	return names
}

func (l *listenerStats) opened(worker int) {
	l.accepted.Record(1)
	l.waiting.Set(0)
	l.total.Add(1)
	l.active.Add(1)
	l.workers[worker].total.Add(1)
	l.workers[worker].active.Add(1)
}

func (l *listenerStats) closed(worker int, lasted time.Duration) {
	l.destroyed.Add(1)
	l.active.Add(-1)
	l.workers[worker].active.Add(-1)
	l.length.Record(uint64(lasted.Milliseconds()))
}

package proxy

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
)

// clusterStats are the stats of a cluster, by Envoy's names; see newClusterStats.
type clusterStats struct {
	rqRxReset, rqTxReset, cxTotal, cxActive, cxHTTP1, cxHTTP2, cxConnectFail, cxConnectTimeout, cxOverflow, cxIdleTimeout, cxMaxRequests, cxMaxDuration *Stat
	cxProtocolError, cxCloseNotify, cxNoneHealthy, cxAttemptsExceeded                                                                                   *Stat
	cxDestroy, cxDestroyLocal, cxDestroyRemote                                                                                                          *Stat
	cxDestroyBusy, cxDestroyLocalBusy, cxDestroyRemoteBusy                                                                                              *Stat

	rqTotal, rqActive, activeOverflow, rqTimeout, cancelled    *Stat
	pendingTotal, pendingActive, pendingOverflow, pendingEject *Stat
	perTryTimeout, perTryIdleTimeout                           *Stat
	retry, retrySuccess, retryOverflow, retryLimit             *Stat
	retryBackoff, retryBackoffLimited, retryAbandoned          *Stat

	membershipChange, membershipTotal, membershipHealthy, membershipDegraded, membershipExcluded *Stat
	updateAttempt, updateSuccess, updateFailure, updateNoRebuild                                 *Stat
	lbPanic, lbSubsetsActive, lbSubsetsCreated, lbSubsetsSelected                                *Stat
	lbSubsetsFallback, lbSubsetsFallbackPanic                                                    *Stat
	http1                                                                                        func() // makes the stats of the codec, which Envoy does with the first connection
	bytesReceived, bytesSent, bytesBuffered, matched, maxWeight                                  *Stat
	bindErrors                                                                                   *Stat
	connectTime, length, requestsPerConnection                                                   *Histogram
	poolEnded                                                                                    atomic.Bool // some pool has no connection any more
	codes, externalCodes, internalCodes, canaryCodes, retryCodes                                 codeStats
}

// newClusterStats makes them, and those that Envoy has and that stay 0 here.
func newClusterStats(stats *Stats, prefix string) *clusterStats {
	c := &clusterStats{}
	for name, stat := range map[string]**Stat{
		"upstream_cx_total":                         &c.cxTotal,
		"upstream_cx_active":                        &c.cxActive,
		"upstream_cx_http1_total":                   &c.cxHTTP1,
		"upstream_rq_rx_reset":                      &c.rqRxReset,
		"upstream_rq_tx_reset":                      &c.rqTxReset,
		"upstream_cx_http2_total":                   &c.cxHTTP2,
		"upstream_cx_connect_fail":                  &c.cxConnectFail,
		"upstream_cx_connect_timeout":               &c.cxConnectTimeout,
		"upstream_cx_overflow":                      &c.cxOverflow,
		"upstream_cx_idle_timeout":                  &c.cxIdleTimeout,
		"upstream_cx_max_requests":                  &c.cxMaxRequests,
		"upstream_cx_max_duration_reached":          &c.cxMaxDuration,
		"upstream_cx_protocol_error":                &c.cxProtocolError,
		"upstream_cx_close_notify":                  &c.cxCloseNotify,
		"upstream_cx_none_healthy":                  &c.cxNoneHealthy,
		"upstream_cx_connect_attempts_exceeded":     &c.cxAttemptsExceeded,
		"upstream_cx_destroy":                       &c.cxDestroy,
		"upstream_cx_destroy_local":                 &c.cxDestroyLocal,
		"upstream_cx_destroy_remote":                &c.cxDestroyRemote,
		"upstream_cx_destroy_with_active_rq":        &c.cxDestroyBusy,
		"upstream_cx_destroy_local_with_active_rq":  &c.cxDestroyLocalBusy,
		"upstream_cx_destroy_remote_with_active_rq": &c.cxDestroyRemoteBusy,
		"upstream_rq_total":                         &c.rqTotal,
		"upstream_rq_active":                        &c.rqActive,
		"upstream_rq_active_overflow":               &c.activeOverflow,
		"upstream_rq_timeout":                       &c.rqTimeout,
		"upstream_rq_cancelled":                     &c.cancelled,
		"upstream_rq_pending_total":                 &c.pendingTotal,
		"upstream_rq_pending_active":                &c.pendingActive,
		"upstream_rq_pending_overflow":              &c.pendingOverflow,
		"upstream_rq_pending_failure_eject":         &c.pendingEject,
		"upstream_rq_per_try_timeout":               &c.perTryTimeout,
		"upstream_rq_per_try_idle_timeout":          &c.perTryIdleTimeout,
		"upstream_rq_retry":                         &c.retry,
		"upstream_rq_retry_success":                 &c.retrySuccess,
		"upstream_rq_retry_overflow":                &c.retryOverflow,
		"upstream_rq_retry_limit_exceeded":          &c.retryLimit,
		"upstream_rq_retry_backoff_exponential":     &c.retryBackoff,
		"upstream_rq_retry_backoff_ratelimited":     &c.retryBackoffLimited,
		"upstream_cx_rx_bytes_total":                &c.bytesReceived,
		"upstream_cx_tx_bytes_total":                &c.bytesSent,
		"default.total_match_count":                 &c.matched,
		"retry_or_shadow_abandoned":                 &c.retryAbandoned,
		"bind_errors":                               &c.bindErrors,
		"membership_change":                         &c.membershipChange,
		"membership_total":                          &c.membershipTotal,
		"membership_healthy":                        &c.membershipHealthy,
		"membership_degraded":                       &c.membershipDegraded,
		"membership_excluded":                       &c.membershipExcluded,
		"update_attempt":                            &c.updateAttempt,
		"update_success":                            &c.updateSuccess,
		"update_failure":                            &c.updateFailure,
		"update_no_rebuild":                         &c.updateNoRebuild,
		"lb_healthy_panic":                          &c.lbPanic,
		"lb_subsets_active":                         &c.lbSubsetsActive,
		"lb_subsets_created":                        &c.lbSubsetsCreated,
		"lb_subsets_selected":                       &c.lbSubsetsSelected,
		"lb_subsets_fallback":                       &c.lbSubsetsFallback,
		"lb_subsets_fallback_panic":                 &c.lbSubsetsFallbackPanic,
	} {
		switch name {
		case "upstream_cx_active", "upstream_rq_active", "upstream_rq_pending_active", "lb_subsets_active",
			"membership_total", "membership_healthy", "membership_degraded", "membership_excluded":
			*stat = stats.Gauge(prefix + name)
		default:
			*stat = stats.Stat(prefix + name)
		}
	}
	c.connectTime, c.length = stats.Histogram(prefix+"upstream_cx_connect_ms"), stats.Histogram(prefix+"upstream_cx_length_ms")
	c.requestsPerConnection = stats.Histogram(prefix + "upstream_rq_per_cx")
	c.bytesBuffered = stats.Gauge(prefix + "upstream_cx_rx_bytes_buffered")
	c.http1 = sync.OnceFunc(func() {
		stats.zero(prefix+"http1.", "dropped_headers_with_underscores", "metadata_not_supported_error", "requests_rejected_with_underscores_in_headers", "response_flood")
	})
	stats.zeroGauges(prefix, "upstream_cx_tx_bytes_buffered", "upstream_queue_overloaded", "version")
	c.maxWeight = stats.Gauge(prefix + "max_host_weight")
	stats.Gauge(prefix + "warming_state").Set(0)
	stats.zero(prefix,
		"assignment_stale", "assignment_timeout_received", "assignment_use_cached", "lb_local_cluster_not_ok",
		"lb_recalculate_zone_structures", "lb_subsets_removed", "lb_zone_cluster_too_small", "lb_zone_no_capacity_left",
		"lb_zone_routing_all_directly", "lb_zone_routing_cross_zone", "lb_zone_routing_sampled",
		"original_dst_host_invalid", "update_empty",
		"upstream_cx_connect_with_0_rtt", "upstream_cx_http3_total",
		"upstream_cx_pool_overflow", "upstream_flow_control_backed_up_total",
		"upstream_flow_control_drained_total", "upstream_flow_control_paused_reading_total",
		"upstream_flow_control_resumed_reading_total", "upstream_http3_broken", "upstream_internal_redirect_failed_total",
		"upstream_internal_redirect_succeeded_total", "upstream_rq_0rtt", "upstream_rq_maintenance_mode",
		"upstream_rq_max_duration_reached", "upstream_rq_rx_reset_no_error",
		"upstream_cx_preconnect_skipped", "upstream_rq_completed")
	c.codes = codeStats{stats: stats, prefix: prefix}
	c.externalCodes = codeStats{stats: stats, prefix: prefix + "external."}
	c.internalCodes = codeStats{stats: stats, prefix: prefix + "internal."}
	c.canaryCodes = codeStats{stats: stats, prefix: prefix + "canary."}
	c.retryCodes = codeStats{stats: stats, prefix: prefix + "retry."}
	return c
}

// circuitBreakers makes the gauges of the circuit breakers. remaining_* are 0
// without track_remaining.
func (c *clusterStats) circuitBreakers(stats *Stats, cl *cluster, thresholds []*clusterv3.CircuitBreakers_Thresholds) {
	for i, name := range []string{"default", "high"} {
		b := &cl.breakers[i]
		prefix := "cluster." + cl.statName + ".circuit_breakers." + name + "."
		track := thresholdsOf(thresholds, i).GetTrackRemaining()
		for _, r := range []struct {
			open, left string
			now        *resource
			most       int64
		}{
			{"cx_open", "remaining_cx", &b.connections, b.maxConnections},
			{"rq_pending_open", "remaining_pending", &b.pending, b.maxPending},
			{"rq_open", "remaining_rq", &b.requests, b.maxRequests},
			{"rq_retry_open", "remaining_retries", &b.retries, b.maxRetries},
		} {
			stats.computed(prefix+r.open, Gauge, func() (int64, bool) {
				if now := r.now.Load(); now >= r.most && max(now, r.most) > 0 { // Envoy looks when it counts
					return 1, true
				}
				return 0, r.now.used.Load()
			})
			if track {
				stats.computed(prefix+r.left, Gauge, func() (int64, bool) { return max(0, r.most-r.now.Load()), true })
			}
		}
		if track { // max_connection_pools, which nobody limits
			stats.computed(prefix+"remaining_cx_pools", Gauge, func() (int64, bool) { return math.MaxUint32, true })
		}
		// A pool counts for its priority when it is made; when it ends Envoy counts down
		// all priorities of its host.
		stats.computed(prefix+"cx_pool_open", Gauge, func() (int64, bool) {
			return 0, c.poolEnded.Load() || i == 0 && (c.cxTotal.Used() || c.pendingOverflow.Used())
		})
	}
}

// destroyed counts a connection that was closed.
func (c *clusterStats) destroyed(how ending, busy bool) {
	all, one, allBusy, oneBusy := c.cxDestroy, c.cxDestroyLocal, c.cxDestroyBusy, c.cxDestroyLocalBusy
	if how == resetByPeer || how == closedByPeer {
		one, oneBusy = c.cxDestroyRemote, c.cxDestroyRemoteBusy
	}
	all.Add(1)
	one.Add(1)
	if busy {
		allBusy.Add(1)
		oneBusy.Add(1)
	}
}

// responded counts a response to a request, be it the upstream's or one that
// the proxy gives in its place (CodeStatsImpl::chargeResponseStat).
func (c *clusterStats) responded(status int, internal, canary bool) {
	c.codes.count(status)
	c.respondedTo(status, internal, canary)
}

// respondedUncoded is responded without the stats of single statuses
// (suppress_grpc_request_failure_code_stats).
func (c *clusterStats) respondedUncoded(status int, internal, canary bool) {
	c.codes.one(&c.codes.completed, "upstream_rq_completed", 0)
	c.respondedTo(status, internal, canary)
}

func (c *clusterStats) respondedTo(status int, internal, canary bool) {
	if canary {
		c.canaryCodes.count(status)
	}
	if internal {
		c.internalCodes.count(status)
	} else {
		c.externalCodes.count(status)
	}
}

// took notes how long a response took (CodeStatsImpl::chargeResponseTiming).
func (c *clusterStats) took(d time.Duration, internal, canary bool) {
	c.codes.took(d)
	if canary {
		c.canaryCodes.took(d)
	}
	if internal {
		c.internalCodes.took(d)
	} else {
		c.externalCodes.took(d)
	}
}

// codeStats counts responses by their status, and how long they took. Its
// stats appear when they are first needed, as Envoy's do.
type codeStats struct {
	stats     *Stats
	prefix    string
	completed atomic.Pointer[Stat]
	classes   [10]atomic.Pointer[Stat]
	codes     [1000]atomic.Pointer[Stat]
	time      atomic.Pointer[Histogram]
}

func (c *codeStats) count(status int) {
	if status < 100 || status > 999 {
		return
	}
	c.one(&c.completed, "upstream_rq_completed", 0)
	c.one(&c.classes[status/100], "xx", status/100)
	c.one(&c.codes[status], "", status)
}

// took notes the time from the complete request to the complete response.
func (c *codeStats) took(d time.Duration) {
	h := c.time.Load()
	if h == nil {
		h = c.stats.Histogram(c.prefix + "upstream_rq_time")
		c.time.Store(h)
	}
	h.Record(uint64(d.Milliseconds()))
}

func (c *codeStats) one(stat *atomic.Pointer[Stat], name string, n int) {
	s := stat.Load()
	if s == nil {
		if n > 0 {
			name = "upstream_rq_" + itoa(n) + name
		}
		s = c.stats.Stat(c.prefix + name)
		stat.Store(s)
	}
	s.Add(1)
}

// hostStats are what /clusters says of a host.
type hostStats struct {
	connections, activeConnections, connectFail atomic.Int64
	requests, pending                           atomic.Int64
	succeeded, failed, timedOut                 atomic.Int64
}

// answered counts a response.
func (h *hostStats) answered(status int) {
	if status >= 500 {
		h.failed.Add(1)
	} else {
		h.succeeded.Add(1)
	}
}

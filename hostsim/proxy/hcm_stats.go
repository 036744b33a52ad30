package proxy

// hcmStats are the stats of a connection manager, by Envoy's names.
type hcmStats struct {
	connections, activeConnections              *Stat // downstream_cx_*
	http1Connections, http1Active               *Stat
	http2Connections, http2Active               *Stat
	sslConnections, sslActive                   *Stat
	destroyed, destroyedHere, destroyedByPeer   *Stat
	protocolErrors, idleTimeouts, delayedCloses *Stat
	drainCloses                                 *Stat
	bytesReceived, bytesSent, bytesBuffered     *Stat
	length                                      *Histogram // of connections, in ms

	requests, activeRequests                         *Stat // downstream_rq_*
	http1Requests, http2Requests                     *Stat
	completed                                        *Stat
	classes                                          [6]*Stat // by the first digit of the status
	resets, brokenResponses                          *Stat    // by the client, by us
	prematureResets                                  *Stat    // connections with too many of them
	earlyResponses                                   *Stat    // before the request was complete
	upgradeRefused                                   *Stat
	timeouts, idleStreams, longStreams, headTimeouts *Stat
	badPaths, relativePaths, redirectedPaths         *Stat
	requestTooLarge, responseTooLarge                *Stat
	time                                             *Histogram // of requests, in ms

	upgrades, activeUpgrades *Stat

	longConnections, requestsReached        *Stat
	destroyedBusy, destroyedBusyByPeer      *Stat // with a request under way
	destroyedBusyHere                       *Stat
	underscoresDropped, underscoresRejected *Stat // http1.*, of all connection managers

	listenerCompleted *Stat // the same for requests of this listener only
	listenerClasses   [6]*Stat

	notTraceable *Stat
	router       routerStats
}

// routerStats are those of the router filter; its prefix is the connection
// manager's.
type routerStats struct {
	requests, noRoute, noCluster, redirects, direct, resets *Stat
}

// responded counts a response head.
func (s *hcmStats) responded(status int) {
	s.completed.Add(1)
	s.listenerCompleted.Add(1)
	if class := status / 100; 1 <= class && class <= 5 {
		s.classes[class].Add(1)
		s.listenerClasses[class].Add(1)
	}
}

// newHCMStats makes them, and those that Envoy has and that stay 0 here.
// prefix and listener end in a dot.
func newHCMStats(stats *Stats, prefix, listener string) hcmStats {
	cx := func(name string) *Stat { return stats.Stat(prefix + "downstream_cx_" + name) }
	rq := func(name string) *Stat { return stats.Stat(prefix + "downstream_rq_" + name) }
	gauge := func(name string) *Stat { return stats.Gauge(prefix + "downstream_" + name) }
	s := hcmStats{
		connections: cx("total"), activeConnections: gauge("cx_active"),
		http1Connections: cx("http1_total"), http1Active: gauge("cx_http1_active"),
		sslConnections: cx("ssl_total"), sslActive: gauge("cx_ssl_active"),
		http2Connections: cx("http2_total"), http2Active: gauge("cx_http2_active"),
		destroyed: cx("destroy"), destroyedHere: cx("destroy_local"), destroyedByPeer: cx("destroy_remote"),
		protocolErrors: cx("protocol_error"), idleTimeouts: cx("idle_timeout"), delayedCloses: cx("delayed_close_timeout"),
		drainCloses: cx("drain_close"), bytesReceived: cx("rx_bytes_total"), bytesSent: cx("tx_bytes_total"), bytesBuffered: gauge("cx_rx_bytes_buffered"),
		length:   stats.Histogram(prefix + "downstream_cx_length_ms"),
		requests: rq("total"), activeRequests: gauge("rq_active"), http1Requests: rq("http1_total"), http2Requests: rq("http2_total"), completed: rq("completed"),
		resets: rq("rx_reset"), prematureResets: rq("too_many_premature_resets"), brokenResponses: rq("tx_reset"), earlyResponses: rq("response_before_rq_complete"), upgradeRefused: rq("ws_on_non_ws_route"),
		timeouts: rq("timeout"), idleStreams: rq("idle_timeout"), longStreams: rq("max_duration_reached"), headTimeouts: rq("header_timeout"),
		badPaths: rq("failed_path_normalization"), relativePaths: rq("non_relative_path"), redirectedPaths: rq("redirected_with_normalized_path"),
		requestTooLarge: rq("too_large"), responseTooLarge: stats.Stat(prefix + "rs_too_large"),
		time:     stats.Histogram(prefix + "downstream_rq_time"),
		upgrades: cx("upgrades_total"), activeUpgrades: gauge("cx_upgrades_active"),
		destroyedBusy: cx("destroy_active_rq"), destroyedBusyByPeer: cx("destroy_remote_active_rq"), destroyedBusyHere: cx("destroy_local_active_rq"),
		longConnections: cx("max_duration_reached"), requestsReached: cx("max_requests_reached"),
		underscoresDropped: stats.Stat("http1.dropped_headers_with_underscores"), underscoresRejected: stats.Stat("http1.requests_rejected_with_underscores_in_headers"),
		listenerCompleted: stats.Stat(listener + prefix + "downstream_rq_completed"),
	}
	for i := 1; i <= 5; i++ {
		class := string(rune('0'+i)) + "xx"
		s.classes[i], s.listenerClasses[i] = rq(class), stats.Stat(listener+prefix+"downstream_rq_"+class)
	}
	stats.zero(prefix, "downstream_cx_http3_total",
		"downstream_cx_overload_disable_keepalive", "downstream_flow_control_paused_reading_total",
		"downstream_flow_control_resumed_reading_total", "downstream_rq_http3_total",
		"downstream_rq_overload_close", "downstream_rq_rejected_via_ip_detection")
	stats.zeroGauges(prefix, "downstream_cx_http1_soft_drain", "downstream_cx_http3_active", "downstream_cx_tx_bytes_buffered")
	stats.zero("http1.", "metadata_not_supported_error", "response_flood")
	return s
}

// withRouter adds those of the router filter and of tracing, which a
// connection manager of a listener has.
func (s *hcmStats) withRouter(stats *Stats, prefix string) {
	s.router = newRouterStats(stats, prefix)
	s.notTraceable = stats.Stat(prefix + "tracing.not_traceable")
	stats.zero(prefix+"tracing.", "client_enabled", "health_check", "random_sampling", "service_forced")
}

func newRouterStats(stats *Stats, prefix string) routerStats {
	stats.zero(prefix, "passthrough_internal_redirect_bad_location", "passthrough_internal_redirect_no_route",
		"passthrough_internal_redirect_predicate", "passthrough_internal_redirect_too_many_redirects",
		"passthrough_internal_redirect_unsafe_scheme", "rq_overload_local_reply")
	return routerStats{
		requests: stats.Stat(prefix + "rq_total"), noRoute: stats.Stat(prefix + "no_route"), noCluster: stats.Stat(prefix + "no_cluster"),
		redirects: stats.Stat(prefix + "rq_redirect"), direct: stats.Stat(prefix + "rq_direct_response"),
		resets: stats.Stat(prefix + "rq_reset_after_downstream_response_started"),
	}
}

package bootstrap

import "google.golang.org/protobuf/reflect/protoreflect"

// ignorable lists the fields that --ignore-unsupported passes over, and what they are for.
//
// A field is here only if it reports what happens (stats, traces, logs), uses the machine's resources in another way (buffers,
// sockets, threads, memory), or is about Envoy itself (its admin interface, its watchdogs). What chooses a host, lets a request in
// or out, changes a message, or can be read by a plugin or an expression, is not here, however rarely it matters. Access loggers of
// every kind are passed over, too.
var ignorable = map[protoreflect.FullName]string{
	"envoy.config.bootstrap.v3.Bootstrap.stats_sinks":                      "reports stats",
	"envoy.config.bootstrap.v3.Bootstrap.stats_server_version_override":    "reports stats",
	"envoy.config.bootstrap.v3.Bootstrap.tracing":                          "reports traces",
	"envoy.config.bootstrap.v3.Bootstrap.perf_tracing_file_path":           "reports traces",
	"envoy.config.bootstrap.v3.Bootstrap.application_log_config":           "formats Envoy's own log",
	"envoy.config.bootstrap.v3.Bootstrap.watchdog":                         "watches Envoy's threads",
	"envoy.config.bootstrap.v3.Bootstrap.watchdogs":                        "watches Envoy's threads",
	"envoy.config.bootstrap.v3.Bootstrap.fatal_actions":                    "is for crashes of Envoy",
	"envoy.config.bootstrap.v3.Bootstrap.overload_manager":                 "limits memory and connections",
	"envoy.config.bootstrap.v3.Bootstrap.memory_allocator_manager":         "limits memory",
	"envoy.config.bootstrap.v3.Bootstrap.grpc_async_client_manager_config": "keeps gRPC clients",
	"envoy.config.bootstrap.v3.ClusterManager.outlier_detection":           "reports events",
	"envoy.config.bootstrap.v3.Admin.access_log":                           "logs the admin interface",
	"envoy.config.bootstrap.v3.Admin.access_log_path":                      "logs the admin interface",
	"envoy.config.bootstrap.v3.Admin.profile_path":                         "is for profiles of Envoy",
	"envoy.config.bootstrap.v3.Admin.socket_options":                       "sets socket options",
	"envoy.config.bootstrap.v3.Admin.ignore_global_conn_limit":             "limits connections",

	"envoy.config.listener.v3.Listener.socket_options":                             "sets socket options",
	"envoy.config.listener.v3.Listener.tcp_backlog_size":                           "sets socket options",
	"envoy.config.listener.v3.Listener.tcp_fast_open_queue_length":                 "sets socket options",
	"envoy.config.listener.v3.Listener.freebind":                                   "sets socket options",
	"envoy.config.listener.v3.Listener.reuse_port":                                 "spreads connections over threads",
	"envoy.config.listener.v3.Listener.connection_balance_config":                  "spreads connections over threads",
	"envoy.config.listener.v3.Listener.max_connections_to_accept_per_socket_event": "spreads connections over threads",
	"envoy.config.listener.v3.Listener.ignore_global_conn_limit":                   "limits connections",
	"envoy.config.listener.v3.Listener.bypass_overload_manager":                    "limits connections",

	"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.tracing":                   "reports traces",
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.access_log_flush_interval": "logs more often",
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.access_log_options":        "logs more often",
	"envoy.extensions.filters.http.router.v3.Router.start_child_span":                                             "reports traces",

	"envoy.config.cluster.v3.Cluster.preconnect_policy":           "connects ahead of need",
	"envoy.config.cluster.v3.Cluster.track_timeout_budgets":       "reports stats",
	"envoy.config.cluster.v3.Cluster.track_cluster_stats":         "reports stats",
	"envoy.config.cluster.v3.Cluster.lrs_server":                  "reports load",
	"envoy.config.cluster.v3.Cluster.lrs_report_endpoint_metrics": "reports load",
	"envoy.config.cluster.v3.Cluster.dns_jitter":                  "spreads DNS queries over time",
	"envoy.config.cluster.v3.Cluster.dns_failure_refresh_rate":    "spreads DNS queries over time",
	"envoy.config.cluster.v3.Cluster.use_tcp_for_dns_lookups":     "asks DNS another way",
	"envoy.config.cluster.v3.Cluster.wait_for_warm_on_init":       "orders the start",
}

package bootstrap

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// supported lists, for each message that the simulator knows, the fields that it simulates. A field that is set and not here is an
// UnsupportedError, and so is every field of a message that is not here.
var supported = map[protoreflect.FullName]string{
	"envoy.type.metadata.v3.MetadataKey.PathSegment":              "key",
	"envoy.type.metadata.v3.MetadataKey":                          "key path",
	"envoy.type.metadata.v3.MetadataKind.Host":                    "",
	"envoy.type.metadata.v3.MetadataKind.Cluster":                 "",
	"envoy.type.metadata.v3.MetadataKind.Route":                   "",
	"envoy.type.metadata.v3.MetadataKind.Request":                 "",
	"envoy.type.metadata.v3.MetadataKind":                         "request route cluster host",
	"envoy.type.tracing.v3.CustomTag.Metadata":                    "kind metadata_key default_value",
	"envoy.type.tracing.v3.CustomTag.Header":                      "name default_value",
	"envoy.type.tracing.v3.CustomTag.Environment":                 "name default_value",
	"envoy.type.tracing.v3.CustomTag.Literal":                     "value",
	"envoy.type.tracing.v3.CustomTag":                             "tag literal environment request_header metadata value",
	"envoy.config.route.v3.Tracing":                               "client_sampling random_sampling overall_sampling custom_tags operation upstream_operation",
	"envoy.config.route.v3.Decorator":                             "operation propagate",
	"envoy.config.metrics.v3.StatsConfig":                         "stats_tags use_all_default_tags",
	"envoy.config.metrics.v3.TagSpecifier":                        "tag_name regex fixed_value",
	"envoy.config.bootstrap.v3.Bootstrap":                         "stats_flush_interval stats_flush_on_admin node admin static_resources stats_config layered_runtime",
	"envoy.config.bootstrap.v3.Bootstrap.StaticResources":         "listeners clusters",
	"envoy.config.bootstrap.v3.Admin":                             "address",
	"envoy.config.core.v3.Node":                                   "id cluster metadata locality",
	"envoy.config.bootstrap.v3.LayeredRuntime":                    "layers",
	"envoy.config.bootstrap.v3.RuntimeLayer":                      "name static_layer admin_layer",
	"envoy.config.bootstrap.v3.RuntimeLayer.AdminLayer":           "",
	"envoy.config.core.v3.Address":                                "socket_address",
	"envoy.config.core.v3.SocketAddress":                          "protocol address port_value",
	"envoy.config.core.v3.DataSource":                             "filename inline_bytes inline_string environment_variable",
	"envoy.config.core.v3.AsyncDataSource":                        "local",
	"envoy.config.core.v3.HeaderValue":                            "key value",
	"envoy.config.core.v3.HeaderValueOption":                      "header append_action append keep_empty_value",
	"envoy.config.core.v3.SubstitutionFormatString":               "text_format_source text_format json_format omit_empty_values content_type json_format_options formatters",
	"envoy.config.core.v3.HttpProtocolOptions":                    "idle_timeout max_headers_count headers_with_underscores_action max_stream_duration max_connection_duration max_requests_per_connection max_response_headers_kb",
	"envoy.config.core.v3.Http1ProtocolOptions":                   "ignore_http_11_upgrade accept_http_10 default_host_for_http_10 allow_absolute_url allow_chunked_length allow_custom_methods send_fully_qualified_url enable_trailers header_key_format override_stream_error_on_invalid_http_message",
	"envoy.config.core.v3.Http2ProtocolOptions":                   "disallow_obs_text stream_reset_burst stream_reset_rate hpack_table_size max_concurrent_streams initial_stream_window_size initial_connection_window_size allow_connect override_stream_error_on_invalid_http_message stream_error_on_invalid_http_messaging custom_settings_parameters connection_keepalive max_outbound_frames max_outbound_control_frames max_consecutive_inbound_frames_with_empty_payload max_inbound_priority_frames_per_stream max_inbound_window_update_frames_per_data_frame_sent",
	"envoy.config.core.v3.Http2ProtocolOptions.SettingsParameter": "identifier value",
	"envoy.config.core.v3.KeepaliveSettings":                      "interval timeout interval_jitter connection_idle_interval",
	"envoy.config.core.v3.TypedExtensionConfig":                   "name typed_config",

	"envoy.config.core.v3.Http1ProtocolOptions.HeaderKeyFormat":                            "proper_case_words stateful_formatter",
	"envoy.config.core.v3.Http1ProtocolOptions.HeaderKeyFormat.ProperCaseWords":            "",
	"envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig": "forward_reason_phrase formatter_type_on_envoy_headers",
	"envoy.config.core.v3.SchemeHeaderTransformation":                                      "scheme_to_overwrite",
	"envoy.extensions.filters.network.http_connection_manager.v3.RequestIDExtension":       "typed_config",
	"envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig":                              "pack_trace_reason use_request_id_for_trace_sampling",

	"envoy.type.matcher.v3.StringMatcher":      "exact prefix suffix contains safe_regex ignore_case",
	"envoy.type.matcher.v3.RegexMatcher":       "regex google_re2",
	"envoy.type.matcher.v3.FilterStateMatcher": "key string_match",

	"envoy.config.listener.v3.Listener":                                              "name address access_log continue_on_listener_filters_timeout bind_to_port filter_chains traffic_direction drain_type enable_reuse_port stat_prefix listener_filters listener_filters_timeout default_filter_chain metadata per_connection_buffer_limit_bytes",
	"envoy.config.listener.v3.FilterChain":                                           "name filters filter_chain_match transport_socket metadata",
	"envoy.config.listener.v3.FilterChainMatch":                                      "destination_port prefix_ranges source_type source_prefix_ranges source_ports direct_source_prefix_ranges server_names transport_protocol application_protocols",
	"envoy.config.listener.v3.ListenerFilter":                                        "name typed_config",
	"envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector":                "",
	"envoy.config.core.v3.TransportSocket":                                           "name typed_config",
	"envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext":                 "common_tls_context require_client_certificate session_ticket_keys disable_stateless_session_resumption disable_stateful_session_resumption session_timeout prefer_client_ciphers",
	"envoy.extensions.transport_sockets.tls.v3.TlsSessionTicketKeys":                 "keys",
	"envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext":                   "common_tls_context sni max_session_keys auto_host_sni auto_sni_san_validation",
	"envoy.extensions.transport_sockets.tls.v3.CommonTlsContext":                     "tls_params tls_certificates validation_context alpn_protocols",
	"envoy.extensions.transport_sockets.tls.v3.TlsParameters":                        "tls_minimum_protocol_version tls_maximum_protocol_version cipher_suites ecdh_curves",
	"envoy.extensions.transport_sockets.tls.v3.TlsCertificate":                       "certificate_chain private_key",
	"envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext":         "trusted_ca match_typed_subject_alt_names trust_chain_verification verify_certificate_hash verify_certificate_spki allow_expired_certificate crl only_verify_leaf_cert_crl",
	"envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher":                "san_type matcher",
	"envoy.config.core.v3.UpstreamHttpProtocolOptions":                               "auto_sni auto_san_validation",
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions.UseDownstreamHttpConfig": "http_protocol_options http2_protocol_options",
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions.AutoHttpConfig":          "http_protocol_options http2_protocol_options",
	"envoy.config.listener.v3.Filter":                                                "name typed_config",

	"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager": "stat_prefix codec_type route_config " +
		"http_filters access_log upgrade_configs http_protocol_options http2_protocol_options common_http_protocol_options early_header_mutation_extensions " +
		"normalize_path merge_slashes path_with_escaped_slashes_action use_remote_address stream_idle_timeout drain_timeout delayed_close_timeout request_timeout " +
		"request_headers_timeout max_request_headers_kb server_name server_header_transformation generate_request_id " +
		"preserve_external_request_id always_set_request_id_in_response strip_any_host_port strip_trailing_host_dot skip_xff_append via " +
		"scheme_header_transformation request_id_extension http1_safe_max_connection_duration proxy_100_continue " +
		"add_user_agent strip_matching_host_port stream_error_on_invalid_http_message local_reply_config xff_num_trusted_hops internal_address_config original_ip_detection_extensions append_x_forwarded_port forward_client_cert_details set_current_client_cert_details",
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.SetCurrentClientCertDetails": "subject cert chain dns uri",
	"envoy.extensions.filters.network.http_connection_manager.v3.LocalReplyConfig":                                  "mappers body_format",
	"envoy.extensions.filters.network.http_connection_manager.v3.ResponseMapper":                                    "filter status_code body body_format_override headers_to_add",
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.InternalAddressConfig":       "cidr_ranges",
	"envoy.extensions.http.original_ip_detection.xff.v3.XffConfig":                                                  "xff_num_trusted_hops xff_trusted_cidrs skip_xff_append",
	"envoy.extensions.http.original_ip_detection.xff.v3.XffTrustedCidrs":                                            "cidrs",
	"envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig":                               "header_name allow_extension_to_set_address_as_trusted reject_with_status",
	"envoy.type.v3.HttpStatus": "code",
	"envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig":                              "path_template",
	"envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig":                          "path_template_rewrite",
	"envoy.config.route.v3.RouteMatch.GrpcRouteMatchOptions":                                          "",
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.UpgradeConfig": "upgrade_type enabled filters",
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter":                          "name typed_config disabled",
	"envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation":                   "mutations",
	"envoy.config.common.mutation_rules.v3.HeaderMutation":                                            "remove append remove_on_match",
	"envoy.config.common.mutation_rules.v3.HeaderMutation.RemoveOnMatch":                              "key_matcher",

	"envoy.extensions.filters.network.wasm.v3.Wasm":                                        "config",
	"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy":                               "stat_prefix cluster weighted_clusters metadata_match idle_timeout max_connect_attempts max_downstream_connection_duration access_log access_log_options",
	"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster":               "clusters",
	"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight": "name weight metadata_match",
	"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.TcpAccessLogOptions":           "flush_access_log_on_connected flush_access_log_on_start",

	"envoy.config.accesslog.v3.AccessLog":                                     "name typed_config filter",
	"envoy.extensions.access_loggers.file.v3.FileAccessLog":                   "path log_format format json_format typed_json_format",
	"envoy.extensions.access_loggers.stream.v3.StdoutAccessLog":               "log_format",
	"envoy.extensions.access_loggers.stream.v3.StderrAccessLog":               "log_format",
	"envoy.extensions.filters.http.router.v3.Router":                          "strict_check_headers dynamic_stats upstream_log upstream_log_options suppress_grpc_request_failure_code_stats suppress_envoy_headers respect_expected_rq_timeout",
	"envoy.extensions.filters.http.wasm.v3.Wasm":                              "config",
	"envoy.extensions.wasm.v3.PluginConfig":                                   "allow_on_headers_stop_iteration reload_config name root_id vm_config configuration failure_policy fail_open capability_restriction_config",
	"envoy.extensions.wasm.v3.ReloadConfig":                                   "backoff",
	"envoy.config.core.v3.BackoffStrategy":                                    "base_interval max_interval",
	"envoy.extensions.wasm.v3.CapabilityRestrictionConfig":                    "allowed_capabilities",
	"envoy.extensions.wasm.v3.SanitizationConfig":                             "",
	"envoy.extensions.wasm.v3.VmConfig":                                       "vm_id runtime code configuration environment_variables allow_precompiled",
	"envoy.extensions.wasm.v3.EnvironmentVariables":                           "host_env_keys key_values",
	"envoy.extensions.filters.http.rbac.v3.RBAC":                              "rules rules_stat_prefix shadow_rules shadow_rules_stat_prefix",
	"envoy.config.rbac.v3.RBAC":                                               "action policies",
	"envoy.config.rbac.v3.Policy":                                             "permissions principals",
	"envoy.config.rbac.v3.Permission":                                         "any and_rules or_rules header url_path destination_ip destination_port destination_port_range metadata not_rule requested_server_name uri_template sourced_metadata",
	"envoy.config.rbac.v3.Principal":                                          "any and_ids or_ids authenticated source_ip direct_remote_ip remote_ip header url_path metadata filter_state not_id sourced_metadata",
	"envoy.config.core.v3.JsonFormatOptions":                                  "sort_properties",
	"envoy.type.matcher.v3.RegexMatcher.GoogleRE2":                            "",
	"envoy.type.matcher.v3.RegexMatchAndSubstitute":                           "pattern substitution",
	"envoy.type.matcher.v3.MetadataMatcher":                                   "filter path value invert",
	"envoy.type.matcher.v3.MetadataMatcher.PathSegment":                       "key",
	"envoy.type.matcher.v3.ValueMatcher":                                      "null_match double_match string_match bool_match present_match list_match or_match",
	"envoy.type.matcher.v3.ValueMatcher.NullMatch":                            "",
	"envoy.type.matcher.v3.ListMatcher":                                       "one_of",
	"envoy.type.matcher.v3.OrMatcher":                                         "value_matchers",
	"envoy.type.matcher.v3.DoubleMatcher":                                     "range exact",
	"envoy.type.v3.DoubleRange":                                               "start end",
	"envoy.type.v3.Int64Range":                                                "start end",
	"envoy.type.v3.Int32Range":                                                "start end",
	"envoy.type.v3.FractionalPercent":                                         "numerator denominator",
	"envoy.config.core.v3.RuntimeFractionalPercent":                           "default_value runtime_key",
	"envoy.type.matcher.v3.PathMatcher":                                       "path",
	"envoy.config.route.v3.VirtualCluster":                                    "headers name",
	"envoy.config.route.v3.RedirectAction":                                    "https_redirect scheme_redirect host_redirect port_redirect path_redirect prefix_rewrite regex_rewrite path_rewrite response_code strip_query",
	"envoy.config.route.v3.RouteMatch.ConnectMatcher":                         "",
	"envoy.config.route.v3.QueryParameterMatcher":                             "name string_match present_match",
	"envoy.config.route.v3.CookieMatcher":                                     "name string_match invert_match",
	"envoy.config.route.v3.WeightedCluster":                                   "clusters total_weight header_name use_hash_policy runtime_key_prefix",
	"envoy.config.route.v3.WeightedCluster.ClusterWeight":                     "name cluster_header weight metadata_match host_rewrite_literal typed_per_filter_config " + headerFields,
	"envoy.config.route.v3.FilterConfig":                                      "config is_optional disabled",
	"envoy.config.accesslog.v3.AccessLogFilter":                               "status_code_filter duration_filter not_health_check_filter runtime_filter and_filter or_filter header_filter response_flag_filter metadata_filter log_type_filter grpc_status_filter extension_filter",
	"envoy.config.accesslog.v3.StatusCodeFilter":                              "comparison",
	"envoy.config.accesslog.v3.DurationFilter":                                "comparison",
	"envoy.config.accesslog.v3.ComparisonFilter":                              "op value",
	"envoy.config.accesslog.v3.NotHealthCheckFilter":                          "",
	"envoy.config.accesslog.v3.RuntimeFilter":                                 "runtime_key percent_sampled use_independent_randomness",
	"envoy.config.accesslog.v3.AndFilter":                                     "filters",
	"envoy.config.accesslog.v3.OrFilter":                                      "filters",
	"envoy.config.accesslog.v3.HeaderFilter":                                  "header",
	"envoy.config.accesslog.v3.ResponseFlagFilter":                            "flags",
	"envoy.config.accesslog.v3.MetadataFilter":                                "matcher match_if_key_not_found",
	"envoy.config.accesslog.v3.LogTypeFilter":                                 "types exclude",
	"envoy.config.core.v3.RuntimeUInt32":                                      "default_value runtime_key",
	"envoy.extensions.filters.http.rbac.v3.RBACPerRoute":                      "rbac",
	"envoy.config.rbac.v3.Permission.Set":                                     "rules",
	"envoy.config.rbac.v3.Principal.Set":                                      "ids",
	"envoy.config.rbac.v3.Principal.Authenticated":                            "principal_name",
	"envoy.config.core.v3.CidrRange":                                          "address_prefix prefix_len",
	"envoy.extensions.filters.http.header_to_metadata.v3.Config":              "request_rules response_rules stat_prefix",
	"envoy.extensions.filters.http.header_to_metadata.v3.Config.Rule":         "header cookie on_header_present on_header_missing remove",
	"envoy.extensions.filters.http.header_to_metadata.v3.Config.KeyValuePair": "metadata_namespace key value regex_value_rewrite type encode",
	"envoy.extensions.filters.http.set_metadata.v3.Config":                    "metadata_namespace value metadata",
	"envoy.extensions.filters.http.set_metadata.v3.Metadata":                  "typed_value metadata_namespace allow_overwrite value",
	"envoy.extensions.filters.http.set_filter_state.v3.Config":                "on_request_headers clear_route_cache",
	"envoy.extensions.filters.common.set_filter_state.v3.FilterStateValue":    "shared_with_upstream object_key factory_key format_string read_only skip_if_empty",
	"envoy.extensions.filters.http.header_mutation.v3.HeaderMutation":         "mutations most_specific_header_mutations_wins",
	"envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute": "mutations",
	"envoy.extensions.filters.http.header_mutation.v3.Mutations":              "request_trailers_mutations response_trailers_mutations request_mutations query_parameter_mutations response_mutations",
	"envoy.config.core.v3.KeyValueMutation":                                   "append remove",
	"envoy.config.core.v3.KeyValueAppend":                                     "record action",
	"envoy.config.core.v3.KeyValuePair":                                       "key value",
	"envoy.config.route.v3.RouteConfiguration":                                "name virtual_hosts validate_clusters max_direct_response_body_size_bytes vhost_header internal_only_headers most_specific_header_mutations_wins ignore_port_in_host_matching ignore_path_parameters_in_path_matching typed_per_filter_config metadata " + headerFields,
	"envoy.config.route.v3.VirtualHost":                                       "include_is_timeout_retry_header retry_policy include_request_attempt_count include_attempt_count_in_response name domains routes require_tls virtual_clusters typed_per_filter_config metadata request_body_buffer_limit per_request_buffer_limit_bytes " + headerFields,
	"envoy.config.route.v3.Route":                                             "name match route direct_response redirect metadata typed_per_filter_config stat_prefix decorator tracing request_body_buffer_limit per_request_buffer_limit_bytes " + headerFields,
	"envoy.config.route.v3.RouteMatch":                                        "prefix path safe_regex path_separated_prefix case_sensitive headers filter_state connect_matcher runtime_fraction query_parameters cookies dynamic_metadata grpc path_match_policy tls_context",
	"envoy.config.route.v3.RouteMatch.TlsContextMatchOptions":                 "presented validated",
	"envoy.config.route.v3.HeaderMatcher":                                     "name string_match present_match invert_match treat_missing_header_as_empty range_match exact_match prefix_match suffix_match contains_match safe_regex_match",
	"envoy.config.route.v3.RouteAction":                                       "retry_policy priority metadata_match cluster cluster_header timeout idle_timeout max_stream_duration upgrade_configs prefix_rewrite host_rewrite_literal weighted_clusters cluster_not_found_response_code regex_rewrite path_rewrite host_rewrite_header auto_host_rewrite host_rewrite_path_regex host_rewrite append_x_forwarded_host path_rewrite_policy hash_policy",
	"envoy.config.route.v3.RouteAction.MaxStreamDuration":                     "grpc_timeout_header_max grpc_timeout_header_offset max_stream_duration",
	"envoy.config.route.v3.RouteAction.UpgradeConfig":                         "upgrade_type enabled connect_config",
	"envoy.extensions.filters.http.router.v3.Router.UpstreamAccessLogOptions": "flush_upstream_log_on_upstream_stream",
	"envoy.config.route.v3.RetryPolicy.RateLimitedRetryBackOff":               "reset_headers max_interval",
	"envoy.config.route.v3.RetryPolicy.ResetHeader":                           "name format",
	"envoy.config.core.v3.RuntimeDouble":                                      "default_value runtime_key",
	"envoy.config.core.v3.BindConfig":                                         "source_address",
	"envoy.config.cluster.v3.UpstreamConnectionOptions":                       "tcp_keepalive",
	"envoy.config.core.v3.TcpKeepalive":                                       "keepalive_probes keepalive_time keepalive_interval",
	"envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig":   "",
	"envoy.config.route.v3.DirectResponseAction":                              "status body body_format",
	"envoy.config.cluster.v3.Cluster": "upstream_bind_config upstream_connection_options typed_dns_resolver_config transport_socket name alt_stat_name type connect_timeout lb_policy load_assignment circuit_breakers per_connection_buffer_limit_bytes " +
		"load_balancing_policy ring_hash_lb_config maglev_lb_config least_request_lb_config lb_subset_config common_lb_config dns_refresh_rate dns_lookup_family respect_dns_ttl metadata " +
		"max_requests_per_connection common_http_protocol_options http_protocol_options typed_extension_protocol_options",
	"envoy.config.cluster.v3.Cluster.LeastRequestLbConfig":                         "active_request_bias choice_count",
	"envoy.config.cluster.v3.Cluster.CommonLbConfig":                               "healthy_panic_threshold consistent_hashing_lb_config",
	"envoy.type.v3.Percent":                                                        "value",
	"envoy.config.cluster.v3.Cluster.LbSubsetConfig":                               "fallback_policy default_subset subset_selectors panic_mode_any list_as_any",
	"envoy.config.cluster.v3.Cluster.LbSubsetConfig.LbSubsetSelector":              "keys fallback_policy fallback_keys_subset",
	"envoy.config.cluster.v3.CircuitBreakers.Thresholds.RetryBudget":               "budget_percent min_retry_concurrency",
	"envoy.config.core.v3.Metadata":                                                "filter_metadata",
	"envoy.config.core.v3.Locality":                                                "region zone sub_zone",
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":                       "auto_config use_downstream_protocol_config upstream_http_protocol_options common_http_protocol_options explicit_http_config",
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions.ExplicitHttpConfig":    "http_protocol_options http2_protocol_options",
	"envoy.config.route.v3.RouteAction.UpgradeConfig.ConnectConfig":                "",
	"envoy.config.route.v3.RouteAction.HashPolicy":                                 "header cookie connection_properties query_parameter terminal",
	"envoy.config.route.v3.RouteAction.HashPolicy.Header":                          "header_name regex_rewrite",
	"envoy.config.route.v3.RouteAction.HashPolicy.Cookie":                          "name ttl path attributes",
	"envoy.config.route.v3.RouteAction.HashPolicy.CookieAttribute":                 "name value",
	"envoy.config.route.v3.RouteAction.HashPolicy.ConnectionProperties":            "source_ip",
	"envoy.config.route.v3.RouteAction.HashPolicy.QueryParameter":                  "name",
	"envoy.config.cluster.v3.Cluster.RingHashLbConfig":                             "minimum_ring_size maximum_ring_size hash_function",
	"envoy.config.cluster.v3.Cluster.MaglevLbConfig":                               "table_size",
	"envoy.config.cluster.v3.Cluster.CommonLbConfig.ConsistentHashingLbConfig":     "use_hostname_for_hashing",
	"envoy.config.rbac.v3.SourcedMetadata":                                         "metadata_matcher metadata_source",
	"envoy.config.accesslog.v3.GrpcStatusFilter":                                   "statuses exclude",
	"envoy.config.accesslog.v3.ExtensionFilter":                                    "name typed_config",
	"envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter":              "expression",
	"envoy.config.endpoint.v3.ClusterLoadAssignment.Policy":                        "overprovisioning_factor",
	"envoy.config.cluster.v3.LoadBalancingPolicy":                                  "policies",
	"envoy.config.cluster.v3.LoadBalancingPolicy.Policy":                           "typed_extension_config",
	"envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin":           "",
	"envoy.extensions.load_balancing_policies.random.v3.Random":                    "",
	"envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest":       "active_request_bias enable_full_scan selection_method choice_count",
	"envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash":               "hash_function minimum_ring_size maximum_ring_size consistent_hashing_lb_config",
	"envoy.extensions.load_balancing_policies.maglev.v3.Maglev":                    "table_size consistent_hashing_lb_config",
	"envoy.extensions.load_balancing_policies.common.v3.ConsistentHashingLbConfig": "use_hostname_for_hashing",
	"envoy.extensions.formatter.cel.v3.Cel":                                        "",
	"envoy.extensions.formatter.metadata.v3.Metadata":                              "",
	"envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery":              "",
	"envoy.extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate":    "",
	"envoy.extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig":     "metadata_match",
	"envoy.config.route.v3.RetryPolicy": "rate_limited_retry_back_off retry_on num_retries per_try_timeout per_try_idle_timeout retriable_status_codes retry_back_off " +
		"retriable_headers retriable_request_headers retry_host_predicate host_selection_retry_max_attempts",
	"envoy.config.route.v3.RetryPolicy.RetryBackOff":                       "base_interval max_interval",
	"envoy.config.route.v3.RetryPolicy.RetryHostPredicate":                 "name typed_config",
	"envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate": "",
	"envoy.config.cluster.v3.CircuitBreakers":                              "thresholds",
	"envoy.config.cluster.v3.CircuitBreakers.Thresholds":                   "priority max_connections max_pending_requests max_requests max_retries retry_budget track_remaining",
	"envoy.config.endpoint.v3.ClusterLoadAssignment":                       "cluster_name endpoints policy",
	"envoy.config.endpoint.v3.LocalityLbEndpoints":                         "locality lb_endpoints priority load_balancing_weight metadata",
	"envoy.config.endpoint.v3.LbEndpoint":                                  "endpoint health_status metadata load_balancing_weight",
	"envoy.config.endpoint.v3.Endpoint":                                    "address hostname",
}

const headerFields = "request_headers_to_add request_headers_to_remove response_headers_to_add response_headers_to_remove"

// perFilter are the messages by which a route configures a filter. Envoy has the last two refused.
const perFilter = "envoy.config.route.v3.FilterConfig envoy.extensions.filters.http.rbac.v3.RBACPerRoute envoy.extensions.filters.http.header_to_metadata.v3.Config " +
	"envoy.extensions.filters.http.set_filter_state.v3.Config envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute " +
	"envoy.extensions.filters.http.wasm.v3.Wasm envoy.extensions.filters.http.router.v3.Router"

// upstreamHTTP1 are the Http1ProtocolOptions of a cluster; the others are for servers.
const upstreamHTTP1 = "enable_trailers header_key_format send_fully_qualified_url allow_chunked_length allow_custom_methods accept_http_10 default_host_for_http_10 allow_absolute_url override_stream_error_on_invalid_http_message"

// limit narrows what is simulated of one field.
type limit struct {
	values string // the enum values, or the scalar, that are simulated
	types  string // the messages that are simulated in an Any; * is any message, which is then not looked into
	fields string // the fields that are simulated of the message here, where it is fewer than elsewhere; - is none
	max    int    // the number of elements that is simulated of a list
}

// limits is keyed by the full name of the field.
var limits = map[protoreflect.FullName]limit{
	"envoy.config.core.v3.SocketAddress.protocol":                                                          {values: "TCP"},
	"envoy.config.listener.v3.ListenerFilter.typed_config":                                                 {types: "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"},
	"envoy.config.core.v3.TransportSocket.typed_config":                                                    {types: "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"},
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions.UseDownstreamHttpConfig.http_protocol_options": {fields: upstreamHTTP1},
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions.AutoHttpConfig.http_protocol_options":          {fields: upstreamHTTP1},
	"envoy.config.listener.v3.Filter.typed_config":                                                         {types: "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy envoy.extensions.filters.network.wasm.v3.Wasm"},
	"envoy.config.accesslog.v3.AccessLog.typed_config":                                                     {types: "envoy.extensions.access_loggers.file.v3.FileAccessLog envoy.extensions.access_loggers.stream.v3.StdoutAccessLog envoy.extensions.access_loggers.stream.v3.StderrAccessLog"},
	"envoy.config.accesslog.v3.ExtensionFilter.typed_config":                                               {types: "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"},
	"envoy.config.cluster.v3.Cluster.type":                                                                 {values: "STATIC STRICT_DNS LOGICAL_DNS"},
	"envoy.config.cluster.v3.Cluster.lb_policy":                                                            {values: "ROUND_ROBIN RANDOM LEAST_REQUEST RING_HASH MAGLEV"},
	"envoy.config.rbac.v3.RBAC.action":                                                                     {values: "ALLOW DENY LOG"},
	"envoy.extensions.filters.http.set_metadata.v3.Metadata.typed_value":                                   {types: "*"},
	"envoy.extensions.wasm.v3.PluginConfig.configuration":                                                  {types: "*"},
	"envoy.extensions.wasm.v3.VmConfig.configuration":                                                      {types: "*"},
	"envoy.extensions.wasm.v3.VmConfig.runtime":                                                            {values: "envoy.wasm.runtime.v8"},

	"envoy.config.cluster.v3.Cluster.common_http_protocol_options":                                    {fields: "idle_timeout max_requests_per_connection max_connection_duration max_headers_count max_response_headers_kb"},
	"envoy.config.cluster.v3.Cluster.http_protocol_options":                                           {fields: upstreamHTTP1},
	"envoy.config.cluster.v3.Cluster.typed_extension_protocol_options":                                {types: "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"},
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions.common_http_protocol_options":             {fields: "idle_timeout max_requests_per_connection max_connection_duration max_headers_count max_response_headers_kb"},
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions.ExplicitHttpConfig.http_protocol_options": {fields: upstreamHTTP1},
	"envoy.config.route.v3.RetryPolicy.RetryHostPredicate.typed_config":                               {types: "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate envoy.extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate envoy.extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig"},
	"envoy.config.core.v3.TypedExtensionConfig.typed_config":                                          {types: "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig envoy.extensions.formatter.cel.v3.Cel envoy.extensions.formatter.metadata.v3.Metadata envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin envoy.extensions.load_balancing_policies.random.v3.Random envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash envoy.extensions.load_balancing_policies.maglev.v3.Maglev envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig envoy.extensions.http.original_ip_detection.xff.v3.XffConfig envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig"},
	"envoy.extensions.filters.network.http_connection_manager.v3.RequestIDExtension.typed_config":     {types: "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig"},
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter.typed_config":             {types: "envoy.extensions.filters.http.wasm.v3.Wasm envoy.extensions.filters.http.router.v3.Router envoy.extensions.filters.http.rbac.v3.RBAC envoy.extensions.filters.http.header_to_metadata.v3.Config envoy.extensions.filters.http.set_metadata.v3.Config envoy.extensions.filters.http.set_filter_state.v3.Config envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"},
	"envoy.config.route.v3.RouteConfiguration.typed_per_filter_config":                                {types: perFilter},
	"envoy.config.route.v3.VirtualHost.typed_per_filter_config":                                       {types: perFilter},
	"envoy.config.route.v3.Route.typed_per_filter_config":                                             {types: perFilter},
	"envoy.config.route.v3.WeightedCluster.ClusterWeight.typed_per_filter_config":                     {types: perFilter},
	"envoy.config.route.v3.FilterConfig.config":                                                       {types: perFilter},
}

// notLinked names the configuration types of Envoy that types.go cannot import, because they depend on modules this one does not have.
var notLinked = []string{
	"envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
	"envoy.extensions.stat_sinks.open_telemetry.v3.SinkConfig",
}

// CheckSupported returns everything in the bootstrap that the simulator does not simulate, in document order.
// What is inside such a thing is not listed again.
func (b *Bootstrap) CheckSupported() []*UnsupportedError {
	w := supportWalk{b: b}
	w.message(b.proto.ProtoReflect(), "", "")
	slices.SortStableFunc(w.found, func(x, y *UnsupportedError) int {
		p, q := b.position(x.Path), b.position(y.Path)
		return cmp.Or(cmp.Compare(p.text, q.text), cmp.Compare(p.line, q.line), cmp.Compare(p.column, q.column), cmp.Compare(x.Path, y.Path))
	})
	return w.found
}

// Ignore takes everything harmless that is not simulated out of the bootstrap and returns it; the rest stays, for CheckSupported to find.
// It must be called before anybody else sees the bootstrap.
func (b *Bootstrap) Ignore() []*UnsupportedError {
	harmless := func(u *UnsupportedError) bool { return u.Harmless }
	all := b.CheckSupported()
	if slices.ContainsFunc(all, harmless) {
		w := supportWalk{b: b, ignore: true}
		w.message(b.proto.ProtoReflect(), "", "")
	}
	return slices.DeleteFunc(all, func(u *UnsupportedError) bool { return !u.Harmless })
}

type supportWalk struct {
	b      *Bootstrap
	ignore bool
	found  []*UnsupportedError
}

func (w *supportWalk) report(path, format string, args ...any) *UnsupportedError {
	e := w.b.Unsupported(path, fmt.Sprintf(format, args...)).(*UnsupportedError)
	w.found = append(w.found, e)
	return e
}

// message looks at the fields of m. The names of those simulated are in only, or, if that is empty, in the table.
func (w *supportWalk) message(m protoreflect.Message, path, only string) {
	md := m.Descriptor()
	if md.ParentFile().Package() == "google.protobuf" {
		return
	}
	simulated := strings.Fields(cmp.Or(only, supported[md.FullName()]))
	for i := range md.Fields().Len() {
		fd := md.Fields().Get(i)
		fieldPath, lim := join(path, string(fd.Name())), limits[fd.FullName()]
		switch known := slices.Contains(simulated, string(fd.Name())); {
		case m.Has(fd) && !known:
			_, harmless := ignorable[fd.FullName()]
			w.report(fieldPath, "%s of %s", fd.Name(), md.Name()).Harmless = harmless
			if w.ignore && harmless {
				m.Clear(fd)
			}
		case m.Has(fd) && !w.logger(fd, m, fieldPath):
			w.field(fd, m.Get(fd), fieldPath, lim)
		}
	}
}

// logger reports an access logger of a kind that is not simulated. Without its configuration the data plane passes it over.
func (w *supportWalk) logger(fd protoreflect.FieldDescriptor, m protoreflect.Message, path string) bool {
	if fd.FullName() != "envoy.config.accesslog.v3.AccessLog.typed_config" {
		return false
	}
	name := string(m.Get(fd).Message().Interface().(*anypb.Any).MessageName())
	if slices.Contains(strings.Fields(limits[fd.FullName()].types), name) {
		return false
	}
	w.report(path, "%s", name).Harmless = true
	if w.ignore {
		m.Clear(fd)
	}
	return true
}

func (w *supportWalk) field(fd protoreflect.FieldDescriptor, v protoreflect.Value, path string, lim limit) {
	switch {
	case fd.IsMap():
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			w.value(fd.MapValue(), v, path+"["+fmt.Sprintf("%q", k.String())+"]", lim)
			return true
		})
	case fd.IsList():
		for i := range v.List().Len() {
			elementPath := fmt.Sprintf("%s[%d]", path, i)
			if lim.max > 0 && i >= lim.max {
				w.report(elementPath, "more than %d of %s", lim.max, fd.Name())
				return
			}
			w.value(fd, v.List().Get(i), elementPath, lim)
		}
	default:
		w.value(fd, v, path, lim)
	}
}

func (w *supportWalk) value(fd protoreflect.FieldDescriptor, v protoreflect.Value, path string, lim limit) {
	if fd.Message() != nil {
		if a, ok := v.Message().Interface().(*anypb.Any); ok {
			w.any(a, path, lim)
			return
		}
		w.message(v.Message(), path, lim.fields)
		return
	}
	text := v.String()
	if fd.Enum() != nil {
		if value := fd.Enum().Values().ByNumber(v.Enum()); value != nil {
			text = string(value.Name())
		}
	}
	if lim.values != "" && !slices.Contains(strings.Fields(lim.values), text) {
		w.report(path, "%s %s, set %s: %s", fd.Name(), quote(text), fd.Name(), strings.ReplaceAll(lim.values, " ", " or "))
	}
}

func (w *supportWalk) any(a *anypb.Any, path string, lim limit) {
	if lim.types == "*" || a.GetTypeUrl() == "" {
		return
	}
	name := string(a.MessageName())
	if !slices.Contains(strings.Fields(lim.types), name) {
		w.report(path, "%s", name)
		return
	}
	m, err := w.b.Unpack(a, path)
	if err != nil { // cannot be: Parse made it
		w.report(path, "%v", err)
		return
	}
	w.message(m.ProtoReflect(), path, "")
}

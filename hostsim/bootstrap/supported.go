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
	"envoy.config.bootstrap.v3.Bootstrap":                 "node admin static_resources",
	"envoy.config.bootstrap.v3.Bootstrap.StaticResources": "listeners clusters",
	"envoy.config.bootstrap.v3.Admin":                     "address",
	"envoy.config.core.v3.Node":                           "id cluster",
	"envoy.config.core.v3.Address":                        "socket_address",
	"envoy.config.core.v3.SocketAddress":                  "protocol address port_value",
	"envoy.config.core.v3.DataSource":                     "filename inline_bytes inline_string",
	"envoy.config.core.v3.AsyncDataSource":                "local",
	"envoy.config.core.v3.HeaderValue":                    "key value",
	"envoy.config.core.v3.HeaderValueOption":              "header append_action",
	"envoy.config.core.v3.SubstitutionFormatString":       "text_format_source",
	"envoy.config.core.v3.HttpProtocolOptions":            "idle_timeout max_headers_count headers_with_underscores_action max_stream_duration",
	"envoy.config.core.v3.Http1ProtocolOptions":           "ignore_http_11_upgrade accept_http_10",
	"envoy.config.core.v3.TypedExtensionConfig":           "name typed_config",
	"envoy.type.matcher.v3.StringMatcher":                 "exact prefix suffix contains safe_regex ignore_case",
	"envoy.type.matcher.v3.RegexMatcher":                  "regex",
	"envoy.type.matcher.v3.FilterStateMatcher":            "key string_match",

	"envoy.config.listener.v3.Listener":    "name address filter_chains",
	"envoy.config.listener.v3.FilterChain": "name filters",
	"envoy.config.listener.v3.Filter":      "name typed_config",

	"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager": "stat_prefix codec_type route_config " +
		"http_filters access_log upgrade_configs http_protocol_options common_http_protocol_options early_header_mutation_extensions " +
		"normalize_path merge_slashes path_with_escaped_slashes_action use_remote_address stream_idle_timeout drain_timeout delayed_close_timeout request_timeout " +
		"request_headers_timeout max_request_headers_kb server_name server_header_transformation generate_request_id",
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.UpgradeConfig": "upgrade_type enabled filters",
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter":                          "name typed_config",
	"envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation":                   "mutations",
	"envoy.config.common.mutation_rules.v3.HeaderMutation":                                            "remove append remove_on_match",
	"envoy.config.common.mutation_rules.v3.HeaderMutation.RemoveOnMatch":                              "key_matcher",

	"envoy.config.accesslog.v3.AccessLog":                       "name typed_config",
	"envoy.extensions.access_loggers.file.v3.FileAccessLog":     "path log_format",
	"envoy.extensions.access_loggers.stream.v3.StdoutAccessLog": "log_format",
	"envoy.extensions.access_loggers.stream.v3.StderrAccessLog": "log_format",
	"envoy.extensions.filters.http.router.v3.Router":            "",
	"envoy.extensions.filters.http.wasm.v3.Wasm":                "config",
	"envoy.extensions.wasm.v3.PluginConfig":                     "name root_id vm_config configuration failure_policy fail_open capability_restriction_config",
	"envoy.extensions.wasm.v3.CapabilityRestrictionConfig":      "allowed_capabilities",
	"envoy.extensions.wasm.v3.SanitizationConfig":               "",
	"envoy.extensions.wasm.v3.VmConfig":                         "vm_id runtime code configuration environment_variables allow_precompiled",
	"envoy.extensions.wasm.v3.EnvironmentVariables":             "host_env_keys key_values",
	"envoy.extensions.filters.http.rbac.v3.RBAC":                "rules",
	"envoy.config.rbac.v3.RBAC":                                 "action policies",
	"envoy.config.rbac.v3.Policy":                               "permissions principals",
	"envoy.config.rbac.v3.Permission":                           "any",
	"envoy.config.rbac.v3.Principal":                            "any",
	"envoy.config.route.v3.RouteConfiguration":                  "name virtual_hosts " + headerFields,
	"envoy.config.route.v3.VirtualHost":                         "name domains routes " + headerFields,
	"envoy.config.route.v3.Route":                               "name match route direct_response " + headerFields,
	"envoy.config.route.v3.RouteMatch":                          "prefix path safe_regex path_separated_prefix case_sensitive headers filter_state",
	"envoy.config.route.v3.HeaderMatcher":                       "name string_match present_match invert_match treat_missing_header_as_empty",
	"envoy.config.route.v3.RouteAction":                         "cluster cluster_header timeout idle_timeout upgrade_configs prefix_rewrite host_rewrite_literal",
	"envoy.config.route.v3.RouteAction.UpgradeConfig":           "upgrade_type enabled",
	"envoy.config.route.v3.DirectResponseAction":                "status body",
	"envoy.config.cluster.v3.Cluster":                           "name type connect_timeout lb_policy load_assignment circuit_breakers",
	"envoy.config.cluster.v3.CircuitBreakers":                   "thresholds",
	"envoy.config.cluster.v3.CircuitBreakers.Thresholds":        "priority max_connections max_pending_requests max_requests max_retries",
	"envoy.config.endpoint.v3.ClusterLoadAssignment":            "cluster_name endpoints",
	"envoy.config.endpoint.v3.LocalityLbEndpoints":              "lb_endpoints",
	"envoy.config.endpoint.v3.LbEndpoint":                       "endpoint",
	"envoy.config.endpoint.v3.Endpoint":                         "address",
}

const headerFields = "request_headers_to_add request_headers_to_remove response_headers_to_add response_headers_to_remove"

// limit narrows what is simulated of one field.
type limit struct {
	values   string // the enum values, or the scalar, that are simulated
	types    string // the messages that are simulated in an Any; * is any message, which is then not looked into
	fields   string // the fields that are simulated of the message here, where it is fewer than elsewhere
	max      int    // the number of elements that is simulated of a list
	explicit bool   // the field has to be given, because its default is not simulated
}

// limits is keyed by the full name of the field.
var limits = map[protoreflect.FullName]limit{
	"envoy.config.core.v3.SocketAddress.protocol":         {values: "TCP"},
	"envoy.config.listener.v3.Listener.filter_chains":     {max: 1},
	"envoy.config.listener.v3.Filter.typed_config":        {types: "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"},
	"envoy.config.accesslog.v3.AccessLog.typed_config":    {types: "envoy.extensions.access_loggers.file.v3.FileAccessLog envoy.extensions.access_loggers.stream.v3.StdoutAccessLog envoy.extensions.access_loggers.stream.v3.StderrAccessLog"},
	"envoy.config.cluster.v3.Cluster.type":                {values: "STATIC STRICT_DNS"},
	"envoy.config.cluster.v3.Cluster.lb_policy":           {values: "ROUND_ROBIN RANDOM"},
	"envoy.config.rbac.v3.RBAC.action":                    {values: "ALLOW DENY"},
	"envoy.config.route.v3.DirectResponseAction.body":     {fields: "inline_string"},
	"envoy.extensions.wasm.v3.PluginConfig.configuration": {types: "*"},
	"envoy.extensions.wasm.v3.VmConfig.configuration":     {types: "*"},
	"envoy.extensions.wasm.v3.VmConfig.runtime":           {values: "envoy.wasm.runtime.v8"},

	"envoy.config.cluster.v3.CircuitBreakers.Thresholds.priority":                         {values: "DEFAULT"},
	"envoy.config.core.v3.SubstitutionFormatString.text_format_source":                    {fields: "inline_string"},
	"envoy.config.core.v3.TypedExtensionConfig.typed_config":                              {types: "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"},
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter.typed_config": {types: "envoy.extensions.filters.http.wasm.v3.Wasm envoy.extensions.filters.http.router.v3.Router envoy.extensions.filters.http.rbac.v3.RBAC"},
	// AUTO takes HTTP/2 with prior knowledge too.
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.codec_type": {values: "HTTP1", explicit: true},
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
		return cmp.Or(cmp.Compare(p.line, q.line), cmp.Compare(p.column, q.column), cmp.Compare(x.Path, y.Path))
	})
	return w.found
}

type supportWalk struct {
	b     *Bootstrap
	found []*UnsupportedError
}

func (w *supportWalk) report(path, format string, args ...any) {
	w.found = append(w.found, w.b.Unsupported(path, fmt.Sprintf(format, args...)).(*UnsupportedError))
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
			w.report(fieldPath, "%s of %s", fd.Name(), md.Name())
		case m.Has(fd):
			w.field(fd, m.Get(fd), fieldPath, lim)
		case known && lim.explicit:
			w.report(fieldPath, "%s unset, set %s: %s", fd.Name(), fd.Name(), strings.ReplaceAll(lim.values, " ", " or "))
		}
	}
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
	if lim.types == "*" {
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

package admin

import (
	"slices"
	"strings"
)

// loggers are the components of Envoy that log, in its order. Those that
// hostsim does not have keep their levels all the same.
var loggers = strings.Fields(`a2a admin ai_protocol_manager alternate_protocols_cache aws assert backtrace basic_auth cache_filter
	client config connection conn_handler compression credential_injector decompression dns dubbo envoy_bug ext_authz ext_proc
	rocketmq file filter forward_proxy geolocation grpc happy_eyeballs hc health_checker http http2 hystrix init io jwt json_rpc kafka
	key_value_store lua local_rate_limit main matcher mcp misc mongo multi_connection notification oauth2 quic quic_stream pool
	rate_limit_quota rbac rds redis router runtime stats secret sse tap testing thrift tracing upstream udp wasm websocket golang
	stats_sinks dynamic_modules ip_tagging`)

var levelNames = []string{"trace", "debug", "info", "warning", "error", "critical", "off"}

func (h *handler) logging(p params) response {
	if h.options.Levels == nil {
		return text(501, "not simulated: levels of this logger\n")
	}
	if problem := h.setLevels(p); problem != "" {
		return text(400, "error: "+problem+"\n\n"+
			"usage: /logging?<name>=<level> (change single level)\n"+
			"usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)\n"+
			"usage: /logging?level=<level> (change all levels)\n"+
			"usage: /logging?group=<group_name>:<level> (change group of loggers)\n"+
			"levels: "+strings.Join(levelNames, " ")+" \n"+h.activeLoggers())
	}
	return text(200, h.activeLoggers())
}

func (h *handler) activeLoggers() string {
	var b strings.Builder
	b.WriteString("active loggers:\n")
	for _, name := range loggers {
		b.WriteString("  " + name + ": " + h.options.Levels.Level(name) + "\n")
	}
	b.WriteString("\n")
	return b.String()
}

// setLevels does what the parameters ask for, or nothing and says why.
func (h *handler) setLevels(p params) (problem string) {
	if len(p) > 1 {
		return "invalid number of parameters"
	}
	if len(p) == 0 {
		return ""
	}
	changes := map[string]string{}
	name, value := p[0][0], p[0][1]
	switch {
	case value == "":
		return ""
	case name == "group":
		return "group parameter requires fine-grain logging to be enabled"
	case name == "level":
		for _, logger := range loggers {
			changes[logger] = value
		}
	case name == "paths":
		for item := range strings.SplitSeq(value, ",") {
			if item == "" {
				continue
			}
			logger, level, _ := strings.Cut(item, ":")
			if logger == "" || level == "" {
				return "empty logger name or empty logger level"
			}
			changes[logger] = level
		}
	default:
		changes[name] = value
	}
	for logger, level := range changes {
		if !slices.Contains(levelNames, level) {
			return "unknown logger level"
		}
		if !slices.Contains(loggers, logger) {
			return "unknown logger name"
		}
	}
	for logger, level := range changes {
		h.options.Levels.SetLevel(logger, level)
	}
	return ""
}

package admin

import (
	"fmt"
	"html"
	"strings"

	"switchyard/hostsim/proxy"
)

// endpoint is one path of the interface.
type endpoint struct {
	path, about string
	post        bool
	params      [][2]string
	answer      func(*handler, params) response
}

var (
	statsFilter = [][2]string{
		{"usedonly", "Only include stats that have been written by system since restart"},
		{"filter", "Regular expression (Google re2) for filtering stats"},
		{"invert_filter", "Invert the filter regex"},
	}
	enable = func(about string) [][2]string { return [][2]string{{"enable", about + "; One of (y, n)"}} }
)

// table lists the endpoints in the order of /help.
func table() []endpoint {
	return []endpoint{
		{path: "/", about: "Admin home page", answer: (*handler).home},
		{path: "/allocprofiler", about: "enable/disable the allocation profiler (if supported)", post: true,
			params: enable("enable/disable the allocation profiler"), answer: profiler("the allocation profiler")},
		{path: "/certs", about: "print certs on machine", answer: (*handler).certificates},
		{path: "/clusters", about: "upstream cluster status", params: [][2]string{
			{"filter", "Regular expression (Google re2) for filtering clusters by name"},
		}, answer: (*handler).clusters},
		{path: "/config_dump", about: "dump current Envoy configs", params: [][2]string{
			{"resource", "The resource to dump"},
			{"mask", "The mask to apply. When both resource and mask are specified, the mask is applied to every element in the desired repeated field so that only a subset of fields are returned. The mask is parsed as a Protobuf::FieldMask"},
			{"name_regex", "Dump only the currently loaded configurations whose names match the specified regex. Can be used with both resource and mask query parameters."},
			{"include_eds", "Dump currently loaded configuration including EDS. See the response definition for more information"},
		}, answer: (*handler).configDump},
		{path: "/contention", about: "dump current Envoy mutex contention stats (if enabled)",
			answer: says("Mutex contention tracing is not enabled. To enable, run Envoy with flag --enable-mutex-tracing.")},
		{path: "/cpuprofiler", about: "enable/disable the CPU profiler", post: true, params: enable("enables the CPU profiler"), answer: profiler("the CPU profiler")},
		{path: "/drain_listeners", about: "drain listeners", post: true, params: [][2]string{
			{"graceful", "When draining listeners, enter a graceful drain period prior to closing listeners. This behaviour and duration is configurable via server options or CLI"},
			{"skip_exit", "When draining listeners, drain the connections but never stop the listeners. The graceful parameter has no effect when this is set, since the drain period only delays stopping the listeners"},
			{"inboundonly", "Drains all inbound listeners. traffic_direction field in envoy_v3_api_msg_config.listener.v3.Listener is used to determine whether a listener is inbound or outbound."},
		}, answer: (*handler).drainListeners},
		{path: "/healthcheck/fail", about: "cause the server to fail health checks", post: true,
			answer: does(func(h *handler) { h.server.FailHealthChecks(true) })},
		{path: "/healthcheck/ok", about: "cause the server to pass health checks", post: true,
			answer: does(func(h *handler) { h.server.FailHealthChecks(false) })},
		{path: "/heap_dump", about: "dump current Envoy heap (if supported)", answer: notSimulated("Envoy's heap")},
		{path: "/heapprofiler", about: "enable/disable the heap profiler", post: true, params: enable("enable/disable the heap profiler"), answer: notSimulated("the heap profiler")},
		{path: "/help", about: "print out list of admin commands", answer: func(h *handler, _ params) response { return text(200, h.help()) }},
		{path: "/hot_restart_version", about: "print the hot restart compatibility version", answer: says(hotRestartVersion)},
		{path: "/init_dump", about: "dump current Envoy init manager information (experimental)", params: [][2]string{
			{"mask", "The desired component to dump unready targets. The mask is parsed as a Protobuf::FieldMask. For example, get the unready targets of all listeners with /init_dump?mask=listener`"},
		}, answer: saysJSON("{}")},
		{path: "/listeners", about: "print listener info", params: [][2]string{{"format", "File format to use; One of (text, json)"}}, answer: (*handler).listeners},
		{path: "/logging", about: "query/change logging levels", post: true, params: [][2]string{
			{"paths", "Change multiple logging levels by setting to <logger_name1>:<desired_level1>,<logger_name2>:<desired_level2>. If fine grain logging is enabled, use __FILE__ or a glob experision as the logger name. For example, source/common*:warning"},
			{"group", "Change given logger group to desired level, set to <logger_group_name>:<desired_level>. logger_group_name must be a logger name."},
			{"level", "desired logging level, this will change all loggers's level; One of (, trace, debug, info, warning, error, critical, off)"},
		}, answer: (*handler).logging},
		{path: "/memory", about: "print current allocation/heap usage", answer: (*handler).memory},
		{path: "/memory/tcmalloc", about: "print TCMalloc stats", answer: notSimulated("TCMalloc")},
		{path: "/peak_heap_dump", about: "dump peak Envoy heap (if supported)", answer: notSimulated("Envoy's heap")},
		{path: "/quitquitquit", about: "exit the server", post: true, answer: func(h *handler, _ params) response {
			return response{Status: 200, Body: []byte("OK\n"), Then: h.options.Quit}
		}},
		{path: "/ready", about: "print server state, return 200 if LIVE, otherwise return 503", answer: (*handler).ready},
		{path: "/reopen_logs", about: "reopen access logs", post: true, answer: does(func(h *handler) { h.options.Reopen() })},
		{path: "/reset_counters", about: "reset all counters to zero", post: true, answer: does(func(h *handler) { h.server.Stats.ResetCounters() })},
		{path: "/runtime", about: "print runtime values", answer: (*handler).runtimeValues},
		{path: "/runtime_modify", about: "Adds or modifies runtime values as passed in query parameters. To delete a previously added key, use an empty string as the value. Note that deletion only applies to overrides added via this endpoint; values loaded from disk can be modified via override but not deleted. E.g. ?key1=value1&key2=value2...",
			post: true, answer: modifyRuntime},
		{path: "/server_info", about: "print server version/status information", answer: (*handler).serverInfo},
		{path: "/stats", about: "print server stats", params: append(statsFilter[:3:3],
			[2]string{"format", "Format to use; One of (html, active-html, text, json)"},
			[2]string{"type", "Stat types to include.; One of (All, Counters, Histograms, Gauges, TextReadouts)"},
			[2]string{"histogram_buckets", "Histogram bucket display mode; One of (cumulative, disjoint, detailed, summary)"},
		), answer: (*handler).stats},
		{path: "/stats/prometheus", about: "print server stats in prometheus format", params: [][2]string{
			statsFilter[0],
			{"text_readouts", "Render text_readouts as new gaugues with value 0 (increases Prometheus data size)"},
			statsFilter[1], statsFilter[2],
			{"histogram_buckets", "Histogram bucket display mode; One of (cumulative, summary)"},
		}, answer: (*handler).prometheus},
		{path: "/stats/recentlookups", about: "Show recent stat-name lookups",
			answer: says("Lookup tracking is not enabled. Use /stats/recentlookups/enable to enable.\n\ntotal: 0\n")},
		{path: "/stats/recentlookups/clear", about: "clear list of stat-name lookups and counter", post: true, answer: says("OK\n")},
		{path: "/stats/recentlookups/disable", about: "disable recording of reset stat-name lookup names", post: true, answer: says("OK\n")},
		{path: "/stats/recentlookups/enable", about: "enable recording of reset stat-name lookup names", post: true, answer: notSimulated("tracking lookups of stats")},
	}
}

// hotRestartVersion is Envoy 1.40's. There is no hot restart here.
const hotRestartVersion = "11.104"

func (h *handler) help() string {
	var b strings.Builder
	b.WriteString("admin commands are:\n")
	for _, e := range h.endpoints {
		b.WriteString("  " + e.path)
		if e.post {
			b.WriteString(" (POST)")
		}
		b.WriteString(": " + e.about + "\n")
		for _, p := range e.params {
			b.WriteString("      " + p[0] + ": " + p[1] + "\n")
		}
	}
	return b.String()
}

// home is a page of links, plainer than Envoy's.
func (h *handler) home(params) response {
	var b strings.Builder
	b.WriteString("<!DOCTYPE html>\n<html lang='en'>\n<head><title>hostsim admin</title></head>\n<body>\n<ul>\n")
	for _, e := range h.endpoints {
		link := fmt.Sprintf("<a href='%s'>%s</a>", e.path[1:], e.path)
		if e.post {
			link = fmt.Sprintf("<form action='%s' method='post'><button>%s</button></form>", e.path[1:], e.path)
		}
		fmt.Fprintf(&b, "<li>%s %s</li>\n", link, html.EscapeString(e.about))
	}
	b.WriteString("</ul>\n</body>\n</html>\n")
	return response{Status: 200, ContentType: "text/html; charset=UTF-8", Body: []byte(b.String())}
}

func says(s string) func(*handler, params) response {
	return func(*handler, params) response { return text(200, s) }
}

func saysJSON(s string) func(*handler, params) response {
	return func(*handler, params) response { return jsonResponse([]byte(s)) }
}

func does(f func(*handler)) func(*handler, params) response {
	return func(h *handler, _ params) response {
		f(h)
		return text(200, "OK\n")
	}
}

func notSimulated(what string) func(*handler, params) response {
	return func(*handler, params) response { return text(501, "not simulated: "+what+"\n") }
}

// profiler refuses to start what there is not here; to stop it is no matter.
func profiler(what string) func(*handler, params) response {
	return func(h *handler, p params) response {
		switch enable, _ := p.get("enable"); enable {
		case "y":
			return notSimulated(what)(h, p)
		case "n":
			return text(200, "OK\n")
		}
		return text(400, "?enable=<y|n>\n")
	}
}

func jsonResponse(compact []byte) response {
	return response{Status: 200, ContentType: "application/json", Body: indented(compact)}
}

func (h *handler) ready(params) response {
	state := h.server.State()
	if state != proxy.Live {
		return text(503, state.String()+"\n")
	}
	return text(200, state.String()+"\n")
}

func (h *handler) drainListeners(p params) response {
	what := proxy.AllListeners
	if p.has("inboundonly") {
		what = proxy.InboundListeners
	}
	keep := p.has("skip_exit")
	h.server.DrainListeners(what, !keep && !p.has("graceful"), keep)
	return text(200, "OK\n")
}

func modifyRuntime(h *handler, p params) response {
	if len(p) == 0 {
		return text(400, "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\n       or send the parameters as form values\nuse an empty value to remove a previously added override")
	}
	for _, layer := range h.options.Bootstrap.GetLayeredRuntime().GetLayers() {
		if layer.GetAdminLayer() != nil {
			return notSimulated("changing runtime values")(h, p)
		}
	}
	return text(503, "No admin layer specified")
}

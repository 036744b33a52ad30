// Package admin serves Envoy's administration endpoints from a data plane.
//
// What it answers is what Envoy answers, but for what only Envoy has: its
// profilers, its allocator, and the pages for browsers.
package admin

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"

	"switchyard/hostsim/proxy"
)

// Options are what the endpoints need besides the data plane.
type Options struct {
	Bootstrap   *bootstrapv3.Bootstrap
	CommandLine CommandLine
	// Levels are those of the log; nil if /logging cannot change them.
	Levels Levels
	// Quit is called for each request to /quitquitquit, after its response.
	Quit func()
	// Reopen is called for /reopen_logs.
	Reopen func()
}

// Levels are the levels of the log's components, by Envoy's names: trace,
// debug, info, warning, error, critical and off.
type Levels interface {
	Level(component string) string
	SetLevel(component, level string)
}

// CommandLine is what /server_info says of the command line.
type CommandLine struct {
	ConfigPath, ConfigYAML, AdminAddressPath string
	Concurrency                              int
	LogLevel, ComponentLogLevel, LogPath     string
	DrainTime                                time.Duration
	DrainAtOnce                              bool
	FileFlushInterval                        time.Duration
	UseDynamicBaseID, DisableHotRestart      bool
}

// Handler returns what answers the requests, for [proxy.Server.ServeAdmin].
func Handler(server *proxy.Server, options Options) func(proxy.AdminRequest) proxy.AdminResponse {
	h := &handler{server: server, options: options, started: time.Now(), tags: newTagExtractor(options.Bootstrap.GetStatsConfig()), endpoints: table()}
	return h.serve
}

type handler struct {
	server    *proxy.Server
	options   Options
	started   time.Time
	tags      *tagExtractor
	endpoints []endpoint
}

type (
	request  = proxy.AdminRequest
	response = proxy.AdminResponse
)

func (h *handler) serve(r request) response {
	path, query, _ := strings.Cut(r.Target, "?")
	path, _, _ = strings.Cut(path, "#")
	for _, e := range h.endpoints {
		if e.path != path {
			continue
		}
		if e.post && r.Method != "POST" {
			return response{Status: 405, Body: []byte("Method " + r.Method + " not allowed, POST required.")}
		}
		p := parseParams(query)
		if r.Method == "POST" && r.ContentType == "application/x-www-form-urlencoded" {
			p = append(p, parseParams(string(r.Body))...)
		}
		return e.answer(h, p)
	}
	return text(404, "invalid path. "+h.help())
}

func text(status int, body string) response { return response{Status: status, Body: []byte(body)} }

// params are the parameters of a query in their order.
type params [][2]string

func parseParams(query string) params {
	var p params
	for item := range strings.SplitSeq(query, "&") {
		if item == "" {
			continue
		}
		name, value, _ := strings.Cut(item, "=")
		p = append(p, [2]string{unescape(name), unescape(value)})
	}
	return p
}

// unescape decodes %XX and leaves alone what is malformed.
func unescape(s string) string {
	if u, err := url.PathUnescape(s); err == nil {
		return u
	}
	return s
}

// get returns the first value, and whether there is one.
func (p params) get(name string) (string, bool) {
	i := slices.IndexFunc(p, func(f [2]string) bool { return f[0] == name })
	if i < 0 {
		return "", false
	}
	return p[i][1], true
}

func (p params) has(name string) bool { _, ok := p.get(name); return ok }

// indented is JSON as Envoy prints it: one space for each level.
func indented(compact []byte) []byte {
	var v json.RawMessage = compact
	out, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return compact
	}
	return append(out, '\n')
}

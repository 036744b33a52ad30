//go:build !wasip1

package main

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tetratelabs/proxy-wasm-go-sdk/proxywasm/proxytest"
	"github.com/tetratelabs/proxy-wasm-go-sdk/proxywasm/types"

	"switchyard/filter"
)

// These tests run the adapter natively, on the binding for TinyGo and the host that its SDK emulates. That one has no empty
// header values, removes one of several, and no call of it can fail. The .wasm of the standard Go compiler is tested on
// hostsim and on real Envoys, in e2e.

// host starts the plugin, which must take the configuration.
func host(t *testing.T, configuration string) proxytest.HostEmulator {
	t.Helper()
	return hostWith(t, configuration, &vm{})
}

func hostWith(t *testing.T, configuration string, context types.VMContext) proxytest.HostEmulator {
	t.Helper()
	h, reset := proxytest.NewHostEmulator(proxytest.NewEmulatorOption().
		WithVMContext(context).WithPluginConfiguration([]byte(configuration)))
	t.Cleanup(reset)
	if h.StartVM() != types.OnVMStartStatusOK || h.StartPlugin() != types.OnPluginStartStatusOK {
		t.Fatalf("the plugin does not start: %q", h.GetCriticalLogs())
	}
	return h
}

// vmFunc makes plugin contexts with a plugin of the test's own.
type vmFunc func() types.PluginContext

func (vmFunc) OnVMStart(int) types.OnVMStartStatus           { return types.OnVMStartStatusOK }
func (f vmFunc) NewPluginContext(uint32) types.PluginContext { return f() }

const clientKey = "dGhlIHNhbXBsZSBub25jZQ==" // RFC 6455 1.3

func page(fields ...[2]string) [][2]string {
	return append([][2]string{{":authority", "example.com"}, {":path", "/chat"}, {":method", "GET"}, {":scheme", "http"}}, fields...)
}

func socket(fields ...[2]string) [][2]string {
	return append(page([2]string{"connection", "Upgrade"}, [2]string{"upgrade", "websocket"}), fields...)
}

var withKey = [2]string{"sec-websocket-key", clientKey}

func TestRequest(t *testing.T) {
	tests := []struct {
		name          string
		configuration string
		request       [][2]string
		want          [][2]string // the request as it goes on; nil if it is refused
		status        uint32
		body          string // begins with
		route         string // property
	}{
		{
			name:    "a page goes on as it came",
			request: page([2]string{"accept", "text/html"}),
			want:    page([2]string{"accept", "text/html"}),
		},
		{
			name:    "copies of the routing headers are taken from a page",
			request: page([2]string{"x-upgrade-route", "a"}, [2]string{"accept", "*/*"}, [2]string{"x-upgrade-cluster", "b"}),
			want:    page([2]string{"accept", "*/*"}),
		},
		{
			name:          "routing headers that are switched off are not looked for",
			configuration: `{"metadata":{"route_header":"x-mine","cluster_header":""}}`,
			request:       page([2]string{"x-upgrade-route", "a"}, [2]string{"x-mine", "b"}),
			want:          page([2]string{"x-upgrade-route", "a"}),
		},
		{
			name:    "a socket is routed",
			request: socket(withKey),
			want:    socket(withKey, [2]string{"x-upgrade-route", "websocket"}),
			route:   "websocket",
		},
		{
			name: "copies in every spelling are taken from a socket",
			request: socket(withKey, [2]string{"x_upgrade_route", "a"}, [2]string{"x-upgrade_route", "a"},
				[2]string{"x-upgrade-cluster", "a"}, [2]string{"X-Upgrade-Route", "a"}),
			want:  socket(withKey, [2]string{"x-upgrade-route", "websocket"}),
			route: "websocket",
		},
		{
			name:          "a socket is routed by filter state alone",
			configuration: `{"rules":[{"name":"live","protocol":"websocket"}],"metadata":{"route_header":"","cluster_header":""}}`,
			request:       socket(withKey),
			want:          socket(withKey),
			route:         "live",
		},
		{
			name:    "copies in every spelling are taken from a request whose Upgrade offers nothing",
			request: page([2]string{"connection", "Upgrade"}, [2]string{"upgrade", ","}, [2]string{"x_upgrade_route", "a"}),
			want:    page([2]string{"connection", "Upgrade"}, [2]string{"upgrade", ","}),
		},
		{
			name:    "a socket with content is refused",
			request: socket(withKey, [2]string{"content-length", "5"}),
			status:  400,
			body:    "upgrade_with_body: ",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := host(t, tt.configuration)
			cleared := 0
			h.RegisterForeignFunction("clear_route_cache", func([]byte) []byte { cleared++; return []byte{0} })
			id := h.InitializeHttpContext()
			action := h.CallOnRequestHeaders(id, tt.request, false)
			if tt.want == nil {
				got := h.GetSentLocalResponse(id)
				if got == nil || got.StatusCode != tt.status || !strings.HasPrefix(string(got.Data), tt.body) {
					t.Fatalf("local response %+v, want status %d with %q", got, tt.status, tt.body)
				}
				if action != types.ActionPause {
					t.Error("a refused request goes on")
				}
				return
			}
			if action != types.ActionContinue {
				t.Error("the request is stopped")
			}
			if diff := cmp.Diff(tt.want, h.GetCurrentRequestHeaders(id)); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
			route, _ := h.GetProperty([]string{"switchyard.route"})
			if string(route) != tt.route {
				t.Errorf("filter state %q, want %q", route, tt.route)
			}
			if onlyState := tt.route == "live"; (cleared > 0) != onlyState {
				t.Errorf("route cache cleared %d times; a change of headers does it too", cleared)
			}
			if logs := slices.Concat(h.GetWarnLogs(), h.GetErrorLogs()); len(logs) > 0 {
				t.Errorf("logs %q", logs)
			}
		})
	}
}

func TestKeyOfAnotherVersion(t *testing.T) {
	h := host(t, "")
	if err := h.SetProperty([]string{"request", "protocol"}, []byte("HTTP/2")); err != nil {
		t.Fatal(err)
	}
	var keys []string
	for range 2 {
		id := h.InitializeHttpContext()
		h.CallOnRequestHeaders(id, socket([2]string{"content-length", "0"}), false)
		request := filterMap(h.GetCurrentRequestHeaders(id))
		key, ok := request.Get("sec-websocket-key")
		if raw, err := base64.StdEncoding.DecodeString(key); !ok || err != nil || len(raw) != 16 {
			t.Errorf("key %q, want 16 bytes in base64", key)
		}
		if request.Has("content-length") {
			t.Error("content-length: 0 is still there")
		}
		keys = append(keys, key)
		response := [][2]string{{":status", "101"}, {"upgrade", "websocket"}, {"connection", "Upgrade"}, {"sec-websocket-accept", "x"}}
		h.CallOnResponseHeaders(id, response, false)
		if diff := cmp.Diff(response[:3], h.GetCurrentResponseHeaders(id)); diff != "" {
			t.Errorf("response to a client that sent no key (-want +got):\n%s", diff)
		}
		h.CompleteHttpContext(id)
	}
	if keys[0] == keys[1] {
		t.Errorf("two requests got the same key %q", keys[0])
	}
}

// A 101 from an HTTP/2 cluster has no Sec-WebSocket-Accept.
func TestAnswerOfAnotherVersion(t *testing.T) {
	h := host(t, "")
	id := h.InitializeHttpContext()
	h.CallOnRequestHeaders(id, socket(withKey, [2]string{"sec-websocket-version", "13"}), false)
	h.CallOnResponseHeaders(id, [][2]string{{":status", "101"}, {"upgrade", "websocket"}, {"connection", "upgrade"}}, false)
	got, _ := filterMap(h.GetCurrentResponseHeaders(id)).Get("sec-websocket-accept")
	if want := "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="; got != want { // RFC 6455 1.3
		t.Errorf("sec-websocket-accept %q, want %q", got, want)
	}

	unchanged := [][2]string{{":status", "101"}, {"upgrade", "websocket"}, {"connection", "upgrade"}, {"sec-websocket-accept", "as it is"}}
	id = h.InitializeHttpContext()
	h.CallOnRequestHeaders(id, socket(withKey, [2]string{"sec-websocket-version", "13"}), false)
	h.CallOnResponseHeaders(id, unchanged, false)
	if diff := cmp.Diff(unchanged, h.GetCurrentResponseHeaders(id)); diff != "" {
		t.Errorf("response that needs nothing (-want +got):\n%s", diff)
	}
}

// Answers are kept only while a response is due.
func TestAnswersAreForgotten(t *testing.T) {
	p := &pluginContext{}
	h := hostWith(t, "", vmFunc(func() types.PluginContext { return p }))
	for _, withResponse := range []bool{true, false} {
		id := h.InitializeHttpContext()
		h.CallOnRequestHeaders(id, socket(withKey), false)
		if len(p.plugin.answers) != 1 {
			t.Fatalf("%d answers kept for an open handshake, want 1", len(p.plugin.answers))
		}
		if withResponse {
			h.CallOnResponseHeaders(id, [][2]string{{":status", "101"}, {"sec-websocket-accept", "x"}}, false)
		} else {
			h.CompleteHttpContext(id)
		}
		if len(p.plugin.answers) != 0 {
			t.Errorf("%d answers kept afterwards, with response: %t", len(p.plugin.answers), withResponse)
		}
	}
}

func TestCountersAndLogs(t *testing.T) {
	now := int64(time.Hour)
	p := &pluginContext{plugin: plugin{now: func() int64 { return now }}}
	h := hostWith(t, "", vmFunc(func() types.PluginContext { return p }))
	if got := h.GetInfoLogs(); len(got) != 1 || !strings.HasPrefix(got[0], "switchyard: started version=dev rules=1 configuration=") {
		t.Errorf("info lines %q, want one about the start", got)
	}
	send := func(request [][2]string) {
		id := h.InitializeHttpContext()
		h.CallOnRequestHeaders(id, request, false)
		h.CompleteHttpContext(id)
	}
	malformed := page([2]string{"connection", "Upgrade"}, [2]string{"upgrade", "@"})
	send(page())
	send(socket(withKey))
	send(malformed)
	send(malformed)
	send(socket(withKey, [2]string{"content-length", "5"}))
	if got := len(h.GetDebugLogs()); got != 4 {
		t.Errorf("%d debug lines, want one for each of 4 upgrades: %q", got, h.GetDebugLogs())
	}
	if got := h.GetWarnLogs(); len(got) != 2 {
		t.Errorf("%d warnings, want one for each of 2 reasons: %q", len(got), got)
	}
	now += int64(time.Minute)
	send(malformed)
	if got := h.GetWarnLogs(); len(got) != 3 {
		t.Errorf("%d warnings after a minute, want one more: %q", len(got), got)
	}
	for name, want := range map[string]uint64{
		"switchyard.decisions.rule.websocket.reason.offered.protocol.websocket": 1,
		"switchyard.decisions.rule.-.reason.malformed_upgrade.protocol.other":   3,
	} {
		if got, err := h.GetCounterMetric(name); err != nil || got != want {
			t.Errorf("counter %s is %d (%v), want %d", name, got, err, want)
		}
	}
	if len(p.plugin.counters) != 3 {
		t.Errorf("%d counters, want 3: a page has none", len(p.plugin.counters))
	}
}

// What the gate refused is seen when the stream ends, and nothing else is taken for it.
func TestGateRefused(t *testing.T) {
	h := host(t, "")
	const name = "switchyard.decisions.rule.-.reason.upgrade_failed.protocol.other"
	count := func() uint64 { n, _ := h.GetCounterMetric(name); return n }
	details := func(s string) {
		if err := h.SetProperty([]string{"response", "code_details"}, []byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	details("upgrade_failed")
	h.CompleteHttpContext(h.InitializeHttpContext())
	if got := count(); got != 1 {
		t.Errorf("counted %d, want 1", got)
	}
	details("http1.codec_error")
	h.CompleteHttpContext(h.InitializeHttpContext())
	if got := count(); got != 1 {
		t.Errorf("another error was counted: %d, want 1", got)
	}
	// A stream whose headers came is none, also if so many came after it that it is not among the latest.
	details("via_upstream")
	old := h.InitializeHttpContext()
	h.CallOnRequestHeaders(old, socket(withKey), false)
	for range 3000 {
		id := h.InitializeHttpContext()
		h.CallOnRequestHeaders(id, page(), false)
		h.CompleteHttpContext(id)
	}
	h.CompleteHttpContext(old)
	if got := count(); got != 1 {
		t.Errorf("streams that were seen are counted: %d, want 1", got)
	}
}

// A panic stops no request, is logged and counted, and leaves no routing header.
func TestPanic(t *testing.T) {
	p := &pluginContext{}
	h := hostWith(t, "", vmFunc(func() types.PluginContext { return p }))
	p.plugin.config = nil
	id := h.InitializeHttpContext()
	if action := h.CallOnRequestHeaders(id, socket([2]string{"x-upgrade-route", "a"}), false); action != types.ActionContinue {
		t.Error("the request is stopped")
	}
	if diff := cmp.Diff(socket(), h.GetCurrentRequestHeaders(id)); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	if n, _ := h.GetCounterMetric("switchyard.panics"); n != 1 {
		t.Errorf("switchyard.panics is %d, want 1", n)
	}
	if got := h.GetErrorLogs(); len(got) != 1 || !strings.HasPrefix(got[0], "switchyard: panic: ") {
		t.Errorf("error lines %q, want one about the panic", got)
	}
}

func TestWrongConfiguration(t *testing.T) {
	h, reset := proxytest.NewHostEmulator(proxytest.NewEmulatorOption().
		WithVMContext(&vm{}).WithPluginConfiguration([]byte(`{"rules":[{"protocol":"h2c"}]}`)))
	defer reset()
	h.StartVM()
	if h.StartPlugin() != types.OnPluginStartStatusFailed {
		t.Error("the plugin starts")
	}
	if got := h.GetCriticalLogs(); len(got) != 1 || !strings.HasPrefix(got[0], "switchyard: configuration: rules[0].protocol: ") {
		t.Errorf("critical lines %q, want one with the path to the value", got)
	}
}

func filterMap(pairs [][2]string) (m filter.HeaderMap) {
	for _, p := range pairs {
		m = append(m, filter.Field{Name: p[0], Value: p[1]})
	}
	return m
}

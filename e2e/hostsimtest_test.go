package e2e

import (
	"os"
	"slices"
	"testing"

	"switchyard/hostsim/hostsimtest"
)

// The shipped .wasm as an author would test it: what it does to a request, what
// it answers, logs and counts.
func TestFilterUnderHostsimtest(t *testing.T) {
	t.Parallel()
	code, err := os.ReadFile(require(t, plugin))
	if err != nil {
		t.Fatal(err)
	}
	p := hostsimtest.PluginBytes(t, code, hostsimtest.Name("switchyard"), hostsimtest.Config(
		`{"rules": [{"name": "live", "protocol": "websocket", "path_prefix": "/live/", "cluster": "daemon"}, {"name": "guard", "protocol": "*", "action": "refuse", "status": 404}]}`))
	upgrade := func(path, connection, protocol string) hostsimtest.Headers {
		return hostsimtest.Headers{
			{":method", "GET"}, {":scheme", "http"}, {":authority", "a.example"}, {":path", path},
			{"connection", connection}, {"upgrade", protocol}, {"x-upgrade-offered", protocol},
			{"sec-websocket-version", "13"}, {"sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="},
		}
	}
	for _, tt := range []struct {
		name           string
		request        hostsimtest.Headers
		route, cluster string
		status         int // of the plugin's own answer
		counter        string
	}{
		{"a socket that a rule names", upgrade("/live/1", "keep-alive, Upgrade", "websocket"), "live", "daemon", 0,
			"switchyard.decisions.rule.live.reason.offered.protocol.websocket"},
		{"a protocol that a rule refuses", upgrade("/exec", "Upgrade", "spdy/3.1"), "", "", 404,
			"switchyard.decisions.rule.guard.reason.refused_by_rule.protocol.other"},
		{"a page", hostsimtest.Headers{{":method", "GET"}, {":scheme", "http"}, {":authority", "a.example"}, {":path", "/live/"}}, "", "", 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := p.Counter(tt.counter)
			s := p.Stream()
			got := s.RequestHeaders(tt.request, true)
			if route, cluster := got.After.Get("x-upgrade-route"), got.After.Get("x-upgrade-cluster"); tt.status == 0 && (route != tt.route || cluster != tt.cluster) {
				t.Errorf("got route %q and cluster %q, want %q and %q", route, cluster, tt.route, tt.cluster)
			}
			switch {
			case tt.status == 0 && got.Reply != nil:
				t.Errorf("got the answer %+v, want none", got.Reply)
			case tt.status != 0 && (got.Reply == nil || got.Reply.Status != tt.status):
				t.Errorf("got the answer %+v, want one with status %d", got.Reply, tt.status)
			}
			s.End()
			if tt.counter == "" {
				return
			}
			if n := p.Counter(tt.counter) - before; n != 1 {
				t.Errorf("%s: got %d more, want 1; there are %v", tt.counter, n, p.Metrics())
			}
			if !slices.ContainsFunc(got.Logs, func(l hostsimtest.Log) bool { return l.Level == "debug" }) {
				t.Errorf("got the log %v, want a line that says why", got.Logs)
			}
		})
	}
}

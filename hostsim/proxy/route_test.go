package proxy

import (
	"fmt"
	"strings"
	"testing"

	"switchyard/hostsim/bootstrap"
)

// BenchmarkRouteMatch finds the last of 50 routes, each with a path and two
// header matchers, for a request of the usual size.
func BenchmarkRouteMatch(b *testing.B) {
	var routes strings.Builder
	for i := range 50 {
		fmt.Fprintf(&routes, "{match: {prefix: /app, headers: [{name: x-upgrade-route, string_match: {exact: r%d}}, {name: ':method', string_match: {exact: GET}}]}, direct_response: {status: 200}},", i)
	}
	table := testTable(b, "virtual_hosts: [{name: other, domains: ['*.example.com', 'api.example.org']}, {name: v, domains: ['*'], routes: ["+routes.String()+"]}]")
	s := &stream{hcm: &hcm{routes: table}}
	s.request.reset(requestInline)
	for _, f := range [][2]string{
		{":authority", "localhost:8080"}, {":path", "/app/page?x=y"}, {":method", "GET"}, {":scheme", "http"}, {"user-agent", "Mozilla/5.0"},
		{"accept", "*/*"}, {"accept-language", "en"}, {"accept-encoding", "gzip"}, {"cookie", "a=b"}, {"x-forwarded-proto", "http"},
		{"x-upgrade-route", "r49"},
	} {
		s.request.Add(f[0], f[1])
	}
	b.ReportAllocs()
	for b.Loop() {
		s.clearRoute()
		if s.findRoute() == nil {
			b.Fatal("no route")
		}
	}
}

func testTable(t testing.TB, routeConfig string) *routeTable {
	t.Helper()
	s, _ := startServer(t, `static_resources: {listeners: [{name: l, address: {socket_address: {address: 127.0.0.1, port_value: 0}}, filter_chains: [{filters: [{name: h, typed_config: {
  "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: s, codec_type: HTTP1,
  route_config: {`+routeConfig+`}, http_filters: [{name: r, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}}]}]}]}`, Options{})
	return s.listeners[0].chains[0].hcm.routes
}

// The messages are hostsim's own; Envoy 1.40.0 refuses each of these, too.
func TestRoutesThatEnvoyRefuses(t *testing.T) {
	route := func(action string) string {
		return "virtual_hosts: [{name: v, domains: ['*'], routes: [{match: {prefix: /}, " + action + "}]}]"
	}
	for name, config := range map[string]string{
		"an unknown cluster":                      route("route: {cluster: nope}"),
		"a domain that stands twice":              "virtual_hosts: [{name: v, domains: [a.example]}, {name: w, domains: [A.example]}]",
		"weights that add up to nothing":          route("route: {weighted_clusters: {clusters: [{cluster_header: x, weight: 0}]}}"),
		"two rewrites of the path":                route("route: {cluster_header: x, prefix_rewrite: /a, path_rewrite: /b}"),
		"a group that the expression has not":     route(`route: {cluster_header: x, regex_rewrite: {pattern: {regex: "a"}, substitution: "\\1"}}`),
		"a pseudo header to add":                  route("direct_response: {status: 200}, request_headers_to_add: [{header: {key: ':path', value: x}}]"),
		"the host to remove":                      route("direct_response: {status: 200}, request_headers_to_remove: [Host]"),
		"a format command that Envoy has not":     route("direct_response: {status: 200}, request_headers_to_add: [{header: {key: x, value: '%NOPE%'}}]"),
		"a lone percent sign":                     route("direct_response: {status: 200}, request_headers_to_add: [{header: {key: x, value: '100%'}}]"),
		"an expression that is no RE2":            "virtual_hosts: [{name: v, domains: ['*'], routes: [{match: {safe_regex: {regex: '(?=a)'}}, direct_response: {status: 200}}]}]",
		"an argument where none may be":           route("direct_response: {status: 200}, request_headers_to_add: [{header: {key: x, value: '%PROTOCOL(x)%'}}]"),
		"a configuration of a filter without one": route(`direct_response: {status: 200}, typed_per_filter_config: {r: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}`),
	} {
		t.Run(name, func(t *testing.T) {
			boot, err := bootstrap.Load("test.yaml", []byte(`static_resources: {listeners: [{name: l, address: {socket_address: {address: 127.0.0.1, port_value: 0}}, filter_chains: [{filters: [{name: h, typed_config: {
  "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: s, codec_type: HTTP1,
  route_config: {`+config+`}, http_filters: [{name: r, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}}]}]}]}`))
			if err != nil {
				t.Fatal(err)
			}
			if err := Validate(t.Context(), boot, Options{}); err == nil || !strings.Contains(err.Error(), "test.yaml:3: ") {
				t.Errorf("got %v, want an error with the line", err)
			}
		})
	}
}

// Envoy 1.40.0 refuses each of these, too.
func TestListenersThatEnvoyRefuses(t *testing.T) {
	const chain = `{filters: [{name: h, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
      stat_prefix: s, route_config: {}, http_filters: [{name: r, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}}]`
	const address = "address: {socket_address: {address: 127.0.0.1, port_value: 0}}"
	for name, config := range map[string]string{
		"a listener without address":            "static_resources: {listeners: [{name: l, filter_chains: [" + chain + "}]}]}",
		"a name to listen on":                   "static_resources: {listeners: [{name: l, address: {socket_address: {address: localhost, port_value: 0}}, filter_chains: [" + chain + "}]}]}",
		"a name to listen on for the admin":     "admin: {address: {socket_address: {address: localhost, port_value: 0}}}",
		"two listeners on one port":             "static_resources: {listeners: [" + strings.Repeat("{address: {socket_address: {address: 127.0.0.1, port_value: 1}}, filter_chains: ["+chain+"}]}, ", 2) + "]}",
		"a router that is disabled":             "static_resources: {listeners: [{" + address + ", filter_chains: [" + strings.Replace(chain, "{name: r,", "{name: r, disabled: true,", 1) + "}]}]}",
		"two chains for every connection":       "static_resources: {listeners: [{name: l, " + address + ", filter_chains: [" + chain + "}, " + chain + ", filter_chain_match: {}}]}]}",
		"two chains for the same server's name": "static_resources: {listeners: [{name: l, " + address + ", filter_chains: [" + chain + ", filter_chain_match: {server_names: [a]}}, " + chain + ", filter_chain_match: {server_names: [a]}}]}]}",
	} {
		t.Run(name, func(t *testing.T) {
			boot, err := bootstrap.Load("test.yaml", []byte(config))
			if err != nil {
				t.Fatal(err)
			}
			if err := Validate(t.Context(), boot, Options{}); err == nil || !strings.HasPrefix(err.Error(), "test.yaml:") {
				t.Errorf("got %v, want an error with the line", err)
			}
		})
	}
}

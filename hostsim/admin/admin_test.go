package admin

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"switchyard/hostsim/bootstrap"
	"switchyard/hostsim/proxy"
)

const testBootstrap = `
node: {id: node1, cluster: c}
stats_flush_on_admin: true
static_resources:
  listeners:
  - name: main
    traffic_direction: INBOUND
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context: {tls_certificates: [{certificate_chain: {filename: ../../e2e/testdata/tls/server.pem}, private_key: {filename: ../../e2e/testdata/tls/server.key}}]}
      filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: main
          route_config:
            name: routes
            virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: web}}]}]
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: web
    load_assignment: {cluster_name: web, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9}}}}]}]}
layered_runtime:
  layers:
  - {name: static, static_layer: {some.key: 7}}
`

// levels keeps those of a log that has two components.
type levels map[string]string

func (l levels) Level(component string) string { return l[component] }

func (l levels) SetLevel(component, level string) { l[component] = level }

// testHandler answers for a data plane that has served nothing.
func testHandler(t *testing.T) (ask func(method, target string) response, quits *int, server *proxy.Server) {
	t.Helper()
	boot, err := bootstrap.Load("test.yaml", []byte(testBootstrap))
	if err != nil {
		t.Fatal(err)
	}
	server, err = proxy.New(context.Background(), boot, proxy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	quits = new(int)
	handle := Handler(server, Options{Bootstrap: boot.Proto(), Levels: levels{}, Quit: func() { *quits++ }, Reopen: func() { *quits += 100 }})
	server.Start()
	return func(method, target string) response { return handle(request{Method: method, Target: target}) }, quits, server
}

// What Envoy 1.40 answers to the same requests with the same bootstrap, in which
// nothing has happened yet.
func TestEndpoints(t *testing.T) {
	const notFound = "invalid path. admin commands are:"
	ask, _, _ := testHandler(t)
	for _, tt := range []struct {
		name, request string
		status        int
		want          string // the body, but for white space around it; "..." at the end: begins so
	}{
		{"ready", "GET /ready", 200, "LIVE"},
		{"any method will do", "DELETE /ready", 200, "LIVE"},
		{"parameters are passed over", "GET /ready?x=1", 200, "LIVE"},
		{"a path that is not there", "GET /nosuch", 404, notFound + "..."},
		{"a path with something behind it", "GET /ready/", 404, notFound + "..."},
		{"what changes something wants POST", "GET /quitquitquit", 405, "Method GET not allowed, POST required."},
		{"PUT is not POST", "PUT /healthcheck/ok", 405, "Method PUT not allowed, POST required."},
		{"stats by name", "GET /stats?filter=http.main.downstream_cx_total", 200, "http.main.downstream_cx_total: 0"},
		{"stats that were used", "GET /stats?filter=main.downstream_cx_total&usedonly", 200, ""},
		{"a name that is escaped", "GET /stats?filter=^http.%6dain.downstream_cx_total", 200, "http.main.downstream_cx_total: 0"},
		{"a filter that is no expression", "GET /stats?filter=a(b", 400, "Invalid re2 regex: missing ): a(b"},
		{"stats by type", "GET /stats?type=Gauges&filter=http.main.downstream_cx_active", 200, "http.main.downstream_cx_active: 0"},
		{"a type that is none", "GET /stats?type=nonsense", 400, "invalid &type= param"},
		{"types have their case", "GET /stats?type=counters", 400, "invalid &type= param"},
		{"a format that is none", "GET /stats?format=nonsense", 400, "usage: /stats?format=(html|active-html|json|prometheus|text)"},
		{"buckets that are none", "GET /stats?histogram_buckets=nonsense", 400, "usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary|prometheusnative)"},
		{"stats as JSON", "GET /stats?format=json&filter=http.main.downstream_cx_active$", 200, `{"stats":[{"name":"http.main.downstream_cx_active","value":0}]}`},
		{"stats for Prometheus", "GET /stats/prometheus?filter=^http.main.downstream_cx_active$", 200,
			"# TYPE envoy_http_downstream_cx_active gauge\nenvoy_http_downstream_cx_active{envoy_http_conn_manager_prefix=\"main\"} 0"},
		{"buckets for Prometheus that are none", "GET /stats/prometheus?histogram_buckets=nonsense", 400,
			"usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary|prometheusnative)"},
		{"a tag of certificates", "GET /stats/prometheus?filter=expiration", 200,
			"# TYPE envoy_listener_ssl_certificate_expiration_unix_time_seconds gauge\nenvoy_listener_ssl_certificate_expiration_unix_time_seconds{envoy_tls_certificate=\"unnamed_cert_e3b0c442\",envoy_listener_address=\"127.0.0.1_0\"}..."},
		{"no such cluster", "GET /clusters?filter=nosuch", 200, ""},
		{"clusters by no expression", "GET /clusters?filter=[", 400, "Invalid re2 regex"},
		{"a resource that is not there", "GET /config_dump?resource=nosuch", 404, "nosuch not found in config dump"},
		{"a resource that is no list", "GET /config_dump?resource=bootstrap", 400, "bootstrap is not a repeated field. Use ?mask=bootstrap to get only this field"},
		{"a mask that fits nothing", "GET /config_dump?mask=nosuch", 400, "FieldMask nosuch could not be successfully applied to any configs."},
		{"a field of each element", "GET /config_dump?resource=static_clusters&mask=cluster.name", 200,
			`{"configs":[{"@type":"type.googleapis.com/envoy.admin.v3.ClustersConfigDump.StaticCluster","cluster":{"@type":"type.googleapis.com/envoy.config.cluster.v3.Cluster","name":"web"}}]}`},
		{"names that are no expression", "GET /config_dump?name_regex=[", 400, "INVALID_ARGUMENT: Error while parsing name_regex from [: missing ]: ["},
		{"names that nothing has", "GET /config_dump?resource=static_listeners&name_regex=nosuch", 200, "{}"},
		{"a level that is none", "POST /logging?level=bogus", 400, "error: unknown logger level\n\nusage: /logging?<name>=<level>..."},
		{"a component that is none", "POST /logging?nosuch=info", 400, "error: unknown logger name\n\nusage: /logging?<name>=<level>..."},
		{"a component that is none, in a list", "POST /logging?paths=nosuch:info", 400, "error: unknown logger name\n\nusage: /logging?<name>=<level>..."},
		{"a level that is none, in a list", "POST /logging?paths=wasm:bogus", 400, "error: unknown logger level\n\nusage: /logging?<name>=<level>..."},
		{"a list without a level", "POST /logging?paths=wasm", 400, "error: empty logger name or empty logger level\n\nusage: /logging?<name>=<level>..."},
		{"one level", "POST /logging?paths=wasm:debug", 200, "active loggers:..."},
		{"runtime values", "GET /runtime", 200, `{"layers":["static"],"entries":{"some.key":{"layer_values":["7"],"final_value":"7"}}}`},
		{"a runtime value without a layer for it", "POST /runtime_modify?a=b", 503, "No admin layer specified"},
		{"no runtime value", "POST /runtime_modify", 400, "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\n       or send the parameters as form values\nuse an empty value to remove a previously added override"},
		{"the version for hot restarts", "GET /hot_restart_version", 200, "11.104"},
		{"nothing waits", "GET /init_dump", 200, "{}"},
		{"contention", "GET /contention", 200, "Mutex contention tracing is not enabled. To enable, run Envoy with flag --enable-mutex-tracing."},
		{"lookups", "GET /stats/recentlookups", 200, "Lookup tracking is not enabled. Use /stats/recentlookups/enable to enable.\n\ntotal: 0"},
		{"a profiler that is to do nothing", "POST /cpuprofiler", 400, "?enable=<y|n>"},
		{"a profiler that is to stop", "POST /cpuprofiler?enable=n", 200, "OK"},
		{"a profiler that is not here", "POST /cpuprofiler?enable=y", 501, "not simulated: the CPU profiler"},
		{"counters begin anew", "POST /reset_counters", 200, "OK"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			method, target, _ := strings.Cut(tt.request, " ")
			got := ask(method, target)
			if got.Status != tt.status {
				t.Errorf("status %d, want %d", got.Status, tt.status)
			}
			body, want := strings.TrimSpace(string(got.Body)), tt.want
			if strings.HasPrefix(want, "{") {
				body, want = sameJSON(t, body), sameJSON(t, want)
			}
			if prefix, ok := strings.CutSuffix(want, "..."); ok {
				if !strings.HasPrefix(body, prefix) {
					t.Errorf("got %.300q, want it to begin with %q", body, prefix)
				}
			} else if body != want {
				t.Errorf("got %.300q, want %q", body, want)
			}
		})
	}
}

// sameJSON prints JSON in one way.
func sameJSON(t *testing.T, text string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Errorf("no JSON: %v in %.200q", err, text)
	}
	b, _ := json.Marshal(v)
	return string(b)
}

// A form's values are parameters as well.
func TestParametersOfAForm(t *testing.T) {
	p := parseParams("a=1&b&a=2&c=%41%zz")
	for name, want := range map[string]string{"a": "1", "b": "", "c": "%41%zz"} {
		if got, ok := p.get(name); !ok || got != want {
			t.Errorf("%s is %q, %t, want %q", name, got, ok, want)
		}
	}
	if p.has("d") {
		t.Error("d was not there")
	}
}

func TestHealthChecksFailAndRecover(t *testing.T) {
	ask, _, server := testHandler(t)
	if got := ask("POST", "/healthcheck/fail"); got.Status != 200 || string(got.Body) != "OK\n" {
		t.Errorf("fail: %d %q", got.Status, got.Body)
	}
	if got := ask("GET", "/ready"); got.Status != 503 || string(got.Body) != "DRAINING\n" {
		t.Errorf("ready: %d %q", got.Status, got.Body)
	}
	if server.State() != proxy.Draining {
		t.Errorf("the server is %v", server.State())
	}
	ask("POST", "/healthcheck/ok")
	if got := ask("GET", "/ready"); got.Status != 200 {
		t.Errorf("ready after recovery: %d %q", got.Status, got.Body)
	}
}

func TestQuitAndReopen(t *testing.T) {
	ask, calls, _ := testHandler(t)
	got := ask("POST", "/quitquitquit")
	if got.Status != 200 || *calls != 0 || got.Then == nil {
		t.Fatalf("%d, called %d times before the response", got.Status, *calls)
	}
	got.Then()
	ask("POST", "/reopen_logs")
	if *calls != 101 {
		t.Errorf("%d, want one of both", *calls)
	}
}

func TestDrainingStopsListeners(t *testing.T) {
	for _, tt := range []struct {
		target  string
		stopped int64
	}{{"/drain_listeners", 1}, {"/drain_listeners?inboundonly", 1}, {"/drain_listeners?skip_exit", 0}, {"/drain_listeners?graceful&skip_exit", 0}} {
		t.Run(tt.target, func(t *testing.T) {
			ask, _, server := testHandler(t)
			if got := ask("POST", tt.target); got.Status != 200 || string(got.Body) != "OK\n" {
				t.Errorf("%d %q", got.Status, got.Body)
			}
			if got := server.Stats.Stat("listener_manager.listener_stopped").Value(); got != tt.stopped {
				t.Errorf("%d listeners have stopped, want %d", got, tt.stopped)
			}
		})
	}
}

// Private keys are nobody's business, wherever they stand.
func TestConfigDumpHidesKeys(t *testing.T) {
	ask, _, _ := testHandler(t)
	for _, target := range []string{"/config_dump", "/config_dump?resource=static_listeners", "/config_dump?mask=bootstrap"} {
		body := string(ask("GET", target).Body)
		if strings.Contains(body, "server.key") || !strings.Contains(body, "[redacted]") {
			t.Errorf("%s shows the key", target)
		}
		if !strings.Contains(body, "server.pem") {
			t.Errorf("%s does not show the certificate", target)
		}
	}
}

func TestCertificates(t *testing.T) {
	ask, _, _ := testHandler(t)
	var got struct {
		Certificates []struct {
			CA    []any `json:"ca_cert"`
			Chain []struct {
				Path   string              `json:"path"`
				Serial string              `json:"serial_number"`
				Names  []map[string]string `json:"subject_alt_names"`
				Days   string              `json:"days_until_expiration"`
			} `json:"cert_chain"`
		} `json:"certificates"`
	}
	body := ask("GET", "/certs").Body
	if err := json.Unmarshal(body, &got); err != nil || len(got.Certificates) != 1 || len(got.Certificates[0].Chain) != 1 {
		t.Fatalf("%v in %s", err, body)
	}
	c := got.Certificates[0].Chain[0]
	if !strings.HasSuffix(c.Path, "testdata/tls/server.pem") || len(got.Certificates[0].CA) != 0 || c.Days == "" {
		t.Errorf("got %s", body)
	}
	// As openssl x509 -serial and -ext subjectAltName say.
	if c.Serial != "6711c5b9e02099a7c6cc53ac093a97c68d1168d8" {
		t.Errorf("serial number %s", c.Serial)
	}
	want := []map[string]string{{"dns": "h.example"}, {"dns": "*.w.example"}, {"uri": "spiffe://h.example/server"}, {"ip_address": "127.0.0.1"}}
	if len(c.Names) != len(want) {
		t.Fatalf("names %v, want %v", c.Names, want)
	}
	for i := range want {
		for k, v := range want[i] {
			if c.Names[i][k] != v {
				t.Errorf("name %d is %v, want %v", i, c.Names[i], want[i])
			}
		}
	}
}

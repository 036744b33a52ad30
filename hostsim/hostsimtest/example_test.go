package hostsimtest_test

import (
	"fmt"
	"net/http"
	"os"

	"switchyard/hostsim/hostsimtest"
)

// example stands for the *testing.T of a test.
type example struct{ cleanups []func() }

func (e *example) Helper()                      {}
func (e *example) Log(args ...any)              { fmt.Println(args...) }
func (e *example) Errorf(f string, args ...any) { fmt.Printf(f+"\n", args...) }
func (e *example) Fatal(args ...any)            { panic(fmt.Sprint(args...)) }
func (e *example) Fatalf(f string, args ...any) { panic(fmt.Sprintf(f, args...)) }
func (e *example) Failed() bool                 { return false }
func (e *example) Cleanup(f func())             { e.cleanups = append(e.cleanups, f) }
func (e *example) TempDir() string              { return os.TempDir() }
func (e *example) end() {
	for i := range e.cleanups {
		e.cleanups[len(e.cleanups)-1-i]()
	}
}

// A plugin asks another service whether a request may pass, and is answered.
func ExamplePlugin() {
	t := &example{} // a test has a *testing.T
	defer t.end()

	p := hostsimtest.Plugin(t, "../../e2e/testdata/guests/scripted.wasm", hostsimtest.Clusters("auth"))
	s := p.Stream()
	got := s.RequestHeaders(hostsimtest.Headers{
		{":method", "GET"}, {":path", "/"}, {":scheme", "http"}, {":authority", "example.com"},
		// What this plugin is to do: call, wait, and then set a field and go on.
		{"x-do", "rqh:call auth GET /check 100;rqh:ret 1;call:eff self;call:add 0 x-user me;call:cont 0"},
	}, true)
	fmt.Println(got.Action, s.Request().Passed)
	call := got.HTTPCalls[0]
	fmt.Println(call.Cluster, call.Headers.Get(":path"), call.Timeout)

	call.Answer(hostsimtest.Headers{{":status", "200"}}, "", nil)
	fmt.Println(s.Request().Passed, s.Request().Headers.Get("x-user"))
	for _, c := range s.End().Callbacks {
		fmt.Println(c.Name)
	}
	// Output:
	// Pause false
	// auth /check 100ms
	// true me
	// proxy_on_log
	// proxy_on_done
	// proxy_on_delete
}

// A bootstrap serves real requests, in front of an upstream that records them.
func ExampleStartYAML() {
	t := &example{} // a test has a *testing.T
	defer t.end()

	srv := hostsimtest.StartYAML(t, `
static_resources:
  listeners:
  - name: ingress
    address: {socket_address: {address: 0.0.0.0, port_value: 80}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{match: {prefix: /}, route: {cluster: web, prefix_rewrite: /app/}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: web
    load_assignment: {cluster_name: web, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: web, port_value: 8080}}}}]}]}
`, hostsimtest.Upstreams("web"))
	srv.Upstream("web").Answer("HTTP/1.1 204 No Content\r\n\r\n")

	response, err := http.Get("http://" + srv.Address("ingress") + "/page?a=b")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	fmt.Println(response.Status)
	for _, r := range srv.Upstream("web").Requests() {
		fmt.Println(r.Line)
	}
	fmt.Println(srv.Stat("cluster.web.upstream_rq_completed"))
	// Output:
	// 204 No Content
	// GET /app/page?a=b HTTP/1.1
	// 1
}

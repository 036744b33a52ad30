package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The expectations are what Envoy 1.40.0 gave for the same clusters.

// endpointOf is an lb_endpoint for an address; extra is more of its YAML.
func endpointOf(a net.Addr, extra string) string {
	host, port, _ := net.SplitHostPort(a.String())
	return fmt.Sprintf("{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}%s}", host, port, extra)
}

// serveCluster starts a proxy with a cluster c of which the YAML is given
// line by line; route is YAML added to the route.
func serveCluster(t testing.TB, route string, cluster ...string) (*Server, string) {
	t.Helper()
	const counts = `include_request_attempt_count: true
              include_attempt_count_in_response: true`
	return serveYAML(t, "", counts, route, strings.Join(cluster, "\n    "))
}

// testEndpoint is endpointOf for a host that is not asked anything.
func testEndpoint(host, extra string) string {
	return endpointOf(&net.TCPAddr{IP: net.ParseIP(host), Port: 80}, extra)
}

// pickShares picks 6000 times and gives the percentage of each host by the
// last byte of its address.
func pickShares(t *testing.T, s *Server, want labels) map[string]int {
	t.Helper()
	c := s.clusters["c"]
	got := map[string]int{}
	for range 6000 {
		name := "none"
		if h := c.pick(choice{labels: want}); h != nil {
			name = h.name[strings.LastIndex(h.name, ".")+1:]
		}
		got[name]++
	}
	for name := range got {
		got[name] = (got[name] + 30) / 60
	}
	return got
}

func TestShares(t *testing.T) {
	const (
		sick, draining, weak = ", health_status: UNHEALTHY", ", health_status: DRAINING", ", health_status: DEGRADED"
		noPanic              = "common_lb_config: {healthy_panic_threshold: {value: 0}}"
	)
	type hosts = []string // health and the like of 127.0.0.1, .2, ...
	for _, tt := range []struct {
		name       string
		more       string
		priorities []hosts
		want       map[string]int // % of requests
	}{
		{"round robin", "lb_policy: ROUND_ROBIN", []hosts{{"", "", "", ""}}, map[string]int{"1": 25, "2": 25, "3": 25, "4": 25}},
		{"round robin with weights", "lb_policy: ROUND_ROBIN", []hosts{{", load_balancing_weight: 3", ", load_balancing_weight: 1"}}, map[string]int{"1": 75, "2": 25}},
		{"least request with weights and no requests", "lb_policy: LEAST_REQUEST", []hosts{{", load_balancing_weight: 3", ", load_balancing_weight: 1"}}, map[string]int{"1": 75, "2": 25}},
		{"no host", "lb_policy: ROUND_ROBIN", []hosts{{}}, map[string]int{"none": 100}},
		{"one that is not healthy of four", "lb_policy: ROUND_ROBIN", []hosts{{"", sick, "", "", ""}}, map[string]int{"1": 25, "3": 25, "4": 25, "5": 25}},
		{"panic: two of three are not healthy", "lb_policy: ROUND_ROBIN", []hosts{{"", sick, sick}}, map[string]int{"1": 33, "2": 33, "3": 33}},
		{"panic: none is healthy", "lb_policy: ROUND_ROBIN", []hosts{{sick}}, map[string]int{"1": 100}},
		{"none is healthy, without panic", noPanic, []hosts{{sick}}, map[string]int{"none": 100}},
		{"two of three drain: no panic", "lb_policy: ROUND_ROBIN", []hosts{{"", draining, draining}}, map[string]int{"1": 100}},
		{"all drain", "lb_policy: ROUND_ROBIN", []hosts{{draining}}, map[string]int{"1": 100}},
		{"all degraded", "lb_policy: ROUND_ROBIN", []hosts{{weak}}, map[string]int{"1": 100}},
		{"the first priority is healthy", "lb_policy: ROUND_ROBIN", []hosts{{""}, {""}}, map[string]int{"1": 100}},
		{"the first priority is not healthy", "lb_policy: ROUND_ROBIN", []hosts{{sick}, {""}}, map[string]int{"2": 100}},
		{"the first priority is empty", "lb_policy: ROUND_ROBIN", []hosts{{}, {""}}, map[string]int{"1": 100}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var localities []string
			n := 0
			for p, hosts := range tt.priorities {
				var endpoints []string
				for _, extra := range hosts {
					n++
					endpoints = append(endpoints, testEndpoint(fmt.Sprintf("127.0.0.%d", n), extra))
				}
				localities = append(localities, fmt.Sprintf("{priority: %d, lb_endpoints: [%s]}", p, strings.Join(endpoints, ", ")))
			}
			s, _ := serveCluster(t, "", tt.more, "load_assignment: {cluster_name: c, endpoints: ["+strings.Join(localities, ", ")+"]}")
			if diff := cmp.Diff(tt.want, pickShares(t, s, nil)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestRandomAndLeastRequestUseAllHosts(t *testing.T) {
	for _, policy := range []string{"RANDOM", "LEAST_REQUEST"} {
		s, _ := serveCluster(t, "", "lb_policy: "+policy, "load_assignment: {cluster_name: c, endpoints: [{lb_endpoints: ["+
			testEndpoint("127.0.0.1", "")+", "+testEndpoint("127.0.0.2", "")+"]}]}")
		if got := pickShares(t, s, nil); got["1"] < 40 || got["2"] < 40 {
			t.Errorf("%s: got %v, want about half for each", policy, got)
		}
	}
}

func TestLeastRequestAvoidsTheBusyHost(t *testing.T) {
	s, _ := serveCluster(t, "", "lb_policy: LEAST_REQUEST", "least_request_lb_config: {choice_count: 100}", "load_assignment: {cluster_name: c, endpoints: [{lb_endpoints: ["+
		testEndpoint("127.0.0.1", "")+", "+testEndpoint("127.0.0.2", "")+"]}]}")
	s.clusters["c"].hosts.Load().all[0].active.Add(1)
	if diff := cmp.Diff(map[string]int{"2": 100}, pickShares(t, s, nil)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSubsets(t *testing.T) {
	mark := func(m string) string { return ", metadata: {filter_metadata: {envoy.lb: " + m + "}}" }
	endpoints := "load_assignment: {cluster_name: c, endpoints: [{lb_endpoints: [" +
		testEndpoint("127.0.0.1", mark(`{stage: prod, version: "1"}`)) + ", " +
		testEndpoint("127.0.0.2", mark(`{stage: dev, version: "1"}`)) + ", " +
		testEndpoint("127.0.0.3", mark(`{stage: dev, version: ["2", "3"]}`)) + "]}]}"
	const selectors = "default_subset: {stage: prod}, list_as_any: true, subset_selectors: [{keys: [version, stage]}, {keys: [stage]}, " +
		"{keys: [color, stage], fallback_policy: KEYS_SUBSET, fallback_keys_subset: [stage]}]"
	any, third := map[string]int{"1": 33, "2": 33, "3": 33}, map[string]int{"3": 100}
	dev, none := map[string]int{"2": 50, "3": 50}, map[string]int{"none": 100}
	for _, tt := range []struct {
		name, policy, asked string
		want                map[string]int
	}{
		{"hosts with the label", "NO_FALLBACK", "{stage: dev}", dev},
		{"hosts with both labels", "NO_FALLBACK", `{stage: dev, version: "2"}`, third},
		{"a value of a list", "NO_FALLBACK", `{stage: dev, version: "3"}`, third},
		{"a number is no string", "NO_FALLBACK", `{stage: dev, version: 2}`, none},
		{"no such host, no fallback", "NO_FALLBACK", "{stage: test}", none},
		{"no such host, any", "ANY_ENDPOINT", "{stage: test}", any},
		{"no such host, the default", "DEFAULT_SUBSET", "{stage: test}", map[string]int{"1": 100}},
		{"no selector has just this key", "ANY_ENDPOINT", `{version: "2"}`, any},
		{"nothing is asked for", "NO_FALLBACK", "{}", none},
		{"fewer keys", "NO_FALLBACK", "{stage: dev, color: red}", dev},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, addr := serveCluster(t, ", metadata_match: {filter_metadata: {envoy.lb: "+tt.asked+"}}",
				"lb_subset_config: {fallback_policy: "+tt.policy+", "+selectors+"}", endpoints)
			route := s.listeners[0].chains[0].hcm.routes.any.routes[0]
			if diff := cmp.Diff(tt.want, pickShares(t, s, route.labels)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if tt.want["none"] > 0 {
				c := dial(t, addr)
				c.send(get)
				wantResponse(t, c, 503, "no healthy upstream")
			}
		})
	}
}

func TestNames(t *testing.T) {
	up := newUpstream(t, ok)
	_, port, _ := net.SplitHostPort(up.Addr().String())
	for _, tt := range []struct {
		name, cluster, address string
		status                 int
		body                   string
	}{
		{"localhost, IPv4 only", "type: STRICT_DNS", "localhost", 200, "ok"},
		{"LOGICAL_DNS", "type: LOGICAL_DNS", "localhost", 200, "ok"},
		{"an address in a cluster of names", "type: STRICT_DNS", "127.0.0.1", 200, "ok"},
		{"a name that is none", "type: STRICT_DNS", "no.such.invalid", 503, "no healthy upstream"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, addr := serveCluster(t, "", tt.cluster, "dns_lookup_family: V4_ONLY",
				"load_assignment: {cluster_name: c, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: "+tt.address+", port_value: "+port+"}}}}]}]}")
			c := dial(t, addr)
			c.send(get)
			wantResponse(t, c, tt.status, tt.body)
		})
	}
	t.Run("localhost is ::1 first", func(t *testing.T) {
		list, err := lookup(context.Background(), "LocalHost.", 0)
		if err != nil || len(list) != 1 || list[0].String() != "::1" {
			t.Errorf("got %v, %v, want ::1", list, err)
		}
	})
}

func TestFullPendingQueue(t *testing.T) {
	const overflow = "upstream connect error or disconnect/reset before headers. reset reason: overflow"
	for _, tt := range []struct{ name, limits, counter string }{
		{"no request may wait", "max_pending_requests: 0", "upstream_rq_pending_overflow"},
		{"no request may be under way", "max_requests: 0", "upstream_rq_active_overflow"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			up := newUpstream(t, ok)
			s, addr := serve(t, up.Addr().String(), "", "", "circuit_breakers: {thresholds: [{"+tt.limits+"}]}")
			c := dial(t, addr)
			c.send(get)
			c.send(get)
			for range 2 {
				wantResponse(t, c, 503, overflow)
			}
			if diff := cmp.Diff(map[string]int64{tt.counter: 2}, stats(s, tt.counter)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestWaitingRequestsAreServedInOrder(t *testing.T) {
	release := make(chan struct{})
	up := newUpstream(t, func(head string, c net.Conn, r *bufio.Reader) {
		if strings.HasPrefix(head, "GET /first ") {
			<-release
		}
		ok(head, c, r)
	})
	s, addr := serve(t, up.Addr().String(), "", "", "circuit_breakers: {thresholds: [{max_connections: 1}]}")
	clients := []client{}
	for i, path := range []string{"first", "second", "third"} {
		c := dial(t, addr)
		c.send("GET /" + path + " HTTP/1.1\r\nHost: h\r\n\r\n")
		clients = append(clients, c)
		for stats(s, "upstream_rq_pending_total")["upstream_rq_pending_total"] < int64(i+1) {
			time.Sleep(time.Millisecond)
		}
	}
	close(release)
	for _, c := range clients {
		wantResponse(t, c, 200, "ok")
	}
	var got []string
	for _, head := range up.heads() {
		got = append(got, strings.Fields(head)[1])
	}
	if diff := cmp.Diff([]string{"/first", "/second", "/third"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	want := map[string]int64{"upstream_cx_total": 1, "upstream_cx_overflow": 3, "upstream_rq_pending_total": 3}
	if diff := cmp.Diff(want, stats(s, "upstream_cx_total", "upstream_cx_overflow", "upstream_rq_pending_total", "upstream_rq_pending_active")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestClientThatLeavesTheQueue(t *testing.T) {
	up := newUpstream(t, echoSocket)
	s, addr := serve(t, up.Addr().String(), "", "", "circuit_breakers: {thresholds: [{max_connections: 1}]}")
	first, second := dial(t, addr), dial(t, addr)
	first.send(handshake)
	first.response()
	second.send(handshake)
	for stats(s, "upstream_rq_pending_active")["upstream_rq_pending_active"] == 0 {
		time.Sleep(time.Millisecond)
	}
	second.Close()
	for stats(s, "upstream_rq_cancelled")["upstream_rq_cancelled"] == 0 {
		time.Sleep(time.Millisecond)
	}
	first.Close()
	third := dial(t, addr)
	third.send(handshake)
	if status, _ := third.response(); status != 101 {
		t.Errorf("got %d, want 101", status)
	}
	if len(up.heads()) != 2 {
		t.Errorf("the upstream got %d requests, want not the one whose client left", len(up.heads()))
	}
}

func TestConnectionServesOnlySoManyRequests(t *testing.T) {
	up := newUpstream(t, ok)
	s, addr := serve(t, up.Addr().String(), "", "", `typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, `+
		`common_http_protocol_options: {max_requests_per_connection: 2}, explicit_http_config: {http_protocol_options: {}}}}`)
	c := dial(t, addr)
	for range 3 {
		c.send(get)
		wantResponse(t, c, 200, "ok")
	}
	<-up.closed
	want := map[string]int64{"upstream_cx_total": 2, "upstream_cx_active": 1, "upstream_cx_max_requests": 1, "upstream_cx_destroy": 1, "upstream_cx_destroy_local": 1}
	if diff := cmp.Diff(want, stats(s, "upstream_cx_total", "upstream_cx_active", "upstream_cx_max_requests", "upstream_cx_destroy", "upstream_cx_destroy_local", "upstream_cx_destroy_with_active_rq")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestIdleConnectionIsClosed(t *testing.T) {
	up := newUpstream(t, ok)
	s, addr := serve(t, up.Addr().String(), "", "", "common_http_protocol_options: {idle_timeout: 0.05s}")
	c := dial(t, addr)
	c.send(get)
	wantResponse(t, c, 200, "ok")
	<-up.closed
	c.send(get)
	wantResponse(t, c, 200, "ok")
	if got := stats(s, "upstream_cx_total", "upstream_cx_idle_timeout"); got["upstream_cx_total"] != 2 || got["upstream_cx_idle_timeout"] < 1 {
		t.Errorf("got %v, want 2 connections and an idle timeout", got)
	}
}

func TestEndsOfConnectionsAreCounted(t *testing.T) {
	for _, tt := range []struct {
		name, path, route string
		want              map[string]int64
	}{
		{"a close under a request", "fin", "", map[string]int64{"upstream_cx_destroy": 1, "upstream_cx_destroy_remote": 1, "upstream_cx_destroy_with_active_rq": 1, "upstream_cx_destroy_remote_with_active_rq": 1, "upstream_rq_503": 1}},
		{"a reset under a request", "rst", "", map[string]int64{"upstream_cx_destroy": 1, "upstream_cx_destroy_remote": 1, "upstream_cx_destroy_with_active_rq": 1, "upstream_cx_destroy_remote_with_active_rq": 1, "upstream_rq_503": 1}},
		{"a timeout", "hang", ", timeout: 0.2s", map[string]int64{"upstream_cx_destroy": 1, "upstream_cx_destroy_local": 1, "upstream_cx_destroy_with_active_rq": 1, "upstream_cx_destroy_local_with_active_rq": 1, "upstream_rq_timeout": 1, "upstream_rq_504": 1}},
		{"none", "200", "", map[string]int64{"upstream_rq_200": 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			up := scripted(t)
			s, addr := serve(t, up.Addr().String(), "", tt.route, "")
			c := dial(t, addr)
			c.send("GET /" + tt.path + " HTTP/1.1\r\nHost: h\r\n\r\n")
			c.response()
			if diff := cmp.Diff(tt.want, stats(s, "upstream_cx_destroy", "upstream_cx_destroy_local", "upstream_cx_destroy_remote", "upstream_cx_destroy_with_active_rq",
				"upstream_cx_destroy_local_with_active_rq", "upstream_cx_destroy_remote_with_active_rq", "upstream_rq_timeout", "upstream_rq_200", "upstream_rq_503", "upstream_rq_504")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestRefusedConnectionsAreCounted(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	s, addr := serve(t, l.Addr().String(), "", "", "")
	c := dial(t, addr)
	c.send(get)
	c.response()
	want := map[string]int64{"upstream_cx_total": 1, "upstream_cx_connect_fail": 1, "upstream_cx_destroy": 1, "upstream_cx_destroy_remote": 1, "upstream_rq_pending_total": 1,
		"upstream_rq_pending_failure_eject": 1, "upstream_rq_503": 1, "upstream_rq_5xx": 1, "upstream_rq_completed": 1, "external.upstream_rq_503": 1}
	if diff := cmp.Diff(want, stats(s, "upstream_cx_total", "upstream_cx_active", "upstream_cx_connect_fail", "upstream_cx_destroy", "upstream_cx_destroy_remote", "upstream_cx_destroy_local",
		"upstream_rq_pending_total", "upstream_rq_pending_active", "upstream_rq_pending_failure_eject", "upstream_rq_total", "upstream_rq_503", "upstream_rq_5xx", "upstream_rq_completed", "external.upstream_rq_503")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAttemptsAreTold(t *testing.T) {
	up := scripted(t)
	_, addr := serveCluster(t, ", retry_policy: {retry_on: 5xx}", "load_assignment: {cluster_name: c, endpoints: [{lb_endpoints: ["+endpointOf(up.Addr(), "")+"]}]}")
	c := dial(t, addr)
	c.send("GET /503,200 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	answer, err := io.ReadAll(c)
	if err != nil || !strings.Contains(string(answer), "\r\nx-envoy-attempt-count: 2\r\n") {
		t.Errorf("got %q, %v, want the number of attempts", answer, err)
	}
	for i, head := range up.heads() {
		if want := fmt.Sprintf("\r\nx-envoy-attempt-count: %d\r\n", i+1); !strings.Contains(head, want) {
			t.Errorf("attempt %d: got %q, want %q in it", i+1, head, want)
		}
	}
}

// BenchmarkAcquire takes a connection out of a pool and gives it back.
func BenchmarkAcquire(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	s, _ := serveCluster(b, "", "load_assignment: {cluster_name: c, endpoints: [{lb_endpoints: ["+endpointOf(l.Addr(), "")+"]}]}")
	st := &stream{conn: &connection{server: s}}
	c := s.clusters["c"]
	b.ReportAllocs()
	for b.Loop() {
		conn, err := c.pick(choice{labels: nil}).pools[0].acquire(st)
		if err != nil {
			b.Fatal(err)
		}
		conn.finish(kept)
	}
}

package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The expectations are what Envoy 1.40.0 gave to the same requests.

// scripted answers the nth request of a path /a,b,c with the nth word: a
// status, or rst or fin; the last word holds for all further ones. Content of
// requests is read by its length.
func scripted(t *testing.T) *testUpstream {
	var mu sync.Mutex
	seen := map[string]int{}
	return newUpstream(t, func(head string, c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader(head), r)))
		if err != nil {
			return
		}
		io.Copy(io.Discard, req.Body)
		words := strings.Split(strings.TrimPrefix(req.URL.Path, "/"), ",")
		mu.Lock()
		n := min(seen[req.RequestURI], len(words)-1)
		seen[req.RequestURI]++
		mu.Unlock()
		switch word := words[n]; word {
		case "rst":
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		case "fin":
			c.Close()
		case "hang":
			r.ReadByte()
		default:
			fmt.Fprintf(c, "HTTP/1.1 %s X\r\nx-word: %d\r\ncontent-length: 1\r\n\r\nx", word, n)
		}
	})
}

// heads are the request heads so far.
func (u *testUpstream) heads() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.received)
}

// stats are those of the cluster with these names that are not 0.
func stats(s *Server, names ...string) map[string]int64 {
	got := map[string]int64{}
	s.Stats.Each(func(name string, value int64) {
		for _, n := range names {
			if name == "cluster.c."+n && value != 0 {
				got[n] = value
			}
		}
	})
	return got
}

func TestRetries(t *testing.T) {
	const (
		terminated = "upstream connect error or disconnect/reset before headers. reset reason: connection termination"
		again      = "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: connection termination"
	)
	for _, tt := range []struct {
		name, policy, path string
		status             int
		body               string
		attempts           int
	}{
		{"5xx on a 503", "5xx", "503,200", 200, "x", 2},
		{"5xx on a 500", "5xx", "500,200", 200, "x", 2},
		{"5xx on a reset", "5xx", "rst,200", 200, "x", 2},
		{"5xx on a 404", "5xx", "404,200", 404, "x", 1},
		{"5xx, with no retry left", "5xx", "503", 503, "x", 3},
		{"5xx, always reset", "5xx", "fin", 503, again, 3},
		{"gateway-error on a 500", "gateway-error", "500,200", 500, "x", 1},
		{"gateway-error on a 502", "gateway-error", "502,200", 200, "x", 2},
		{"gateway-error on a reset", "gateway-error", "rst,200", 200, "x", 2},
		{"reset on a 503", "reset", "503,200", 503, "x", 1},
		{"reset on a close", "reset", "fin,200", 200, "x", 2},
		{"connect-failure on a reset", "connect-failure", "rst,200", 503, terminated, 1},
		{"refused-stream on a reset", "refused-stream", "rst,200", 503, terminated, 1},
		{"reset-before-request on a reset after it", "reset-before-request", "rst,200", 503, terminated, 1},
		{"retriable-4xx on a 409", "retriable-4xx", "409,200", 200, "x", 2},
		{"retriable-4xx on a 404", "retriable-4xx", "404,200", 404, "x", 1},
		{"retriable-status-codes on one of them", "retriable-status-codes", "418,200", 200, "x", 2},
		{"retriable-status-codes on another", "retriable-status-codes", "503,200", 503, "x", 1},
		{"retriable-headers on one", "retriable-headers", "200,201", 201, "x", 2},
		{"a list with an unknown reason", "bogus, 5xx", "503,200", 200, "x", 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			up := scripted(t)
			_, addr := serve(t, up.Addr().String(), "", fmt.Sprintf(`, retry_policy: {retry_on: %q, num_retries: 2, `+
				`retriable_status_codes: [418], retriable_headers: [{name: x-word, string_match: {exact: "0"}}]}`, tt.policy), "")
			c := dial(t, addr)
			c.send("GET /" + tt.path + " HTTP/1.1\r\nHost: h\r\n\r\n")
			wantResponse(t, c, tt.status, tt.body)
			if got := len(up.heads()); got != tt.attempts {
				t.Errorf("%d attempts, want %d", got, tt.attempts)
			}
		})
	}
}

func TestRetrySendsTheContentAgain(t *testing.T) {
	for _, tt := range []struct{ name, fields, content string }{
		{"with a length", "Content-Length: 3", "abc"},
		{"in chunks", "Transfer-Encoding: chunked", "2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var mu sync.Mutex
			var got []string
			up := newUpstream(t, func(head string, c net.Conn, r *bufio.Reader) {
				req, err := http.ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader(head), r)))
				if err != nil {
					return
				}
				body, _ := io.ReadAll(req.Body)
				mu.Lock()
				got = append(got, string(body))
				n := len(got)
				mu.Unlock()
				if n < 3 {
					c.Close()
					return
				}
				ok(head, c, r)
			})
			_, addr := serve(t, up.Addr().String(), "", ", retry_policy: {retry_on: reset, num_retries: 2}", "")
			c := dial(t, addr)
			c.send("POST / HTTP/1.1\r\nHost: h\r\n" + tt.fields + "\r\n\r\n" + tt.content)
			wantResponse(t, c, 200, "ok")
			if diff := cmp.Diff([]string{"abc", "abc", "abc"}, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestRetryWhileTheContentIsStillComing(t *testing.T) {
	first := make(chan struct{})
	var mu sync.Mutex
	n := 0
	up := newUpstream(t, func(head string, c net.Conn, r *bufio.Reader) {
		mu.Lock()
		n++
		attempt := n
		mu.Unlock()
		if attempt == 1 {
			io.ReadFull(r, make([]byte, 3))
			io.WriteString(c, "HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n")
			r.ReadByte() // the end of the connection
			close(first)
			return
		}
		body := make([]byte, 6)
		io.ReadFull(r, body)
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n%s", body)
	})
	_, addr := serve(t, up.Addr().String(), "", ", retry_policy: {retry_on: 5xx}", "")
	c := dial(t, addr)
	c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nabc")
	<-first
	c.send("def")
	wantResponse(t, c, 200, "abcdef")
}

func TestContentTooLargeToBeSentAgain(t *testing.T) {
	up := scripted(t)
	s, addr := serve(t, up.Addr().String(), "", ", retry_policy: {retry_on: 5xx}", "")
	c := dial(t, addr)
	const size = 1<<20 + 1
	c.send(fmt.Sprintf("POST /503,200 HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", size, strings.Repeat("x", size)))
	wantResponse(t, c, 503, "x")
	if diff := cmp.Diff(map[string]int64{"retry_or_shadow_abandoned": 1}, stats(s, "retry_or_shadow_abandoned", "upstream_rq_retry")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTryTimeouts(t *testing.T) {
	for _, tt := range []struct {
		name, policy, path string
		status, attempts   int
		counted            map[string]int64
	}{
		{"the second try answers", "retry_on: 5xx, per_try_timeout: 0.2s", "hang,200", 200, 2, map[string]int64{"upstream_rq_per_try_timeout": 1}},
		{"no try answers", "retry_on: 5xx, per_try_timeout: 0.2s", "hang", 504, 2, map[string]int64{"upstream_rq_per_try_timeout": 2}},
		{"without a reason to retry", "retry_on: connect-failure, per_try_timeout: 0.2s", "hang,200", 504, 1, map[string]int64{"upstream_rq_per_try_timeout": 1}},
		{"nothing comes", "retry_on: reset, per_try_idle_timeout: 0.2s", "hang,200", 200, 2, map[string]int64{"upstream_rq_per_try_idle_timeout": 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			up := scripted(t)
			s, addr := serve(t, up.Addr().String(), "", ", timeout: 100s, retry_policy: {"+tt.policy+"}", "")
			c := dial(t, addr)
			c.send("GET /" + tt.path + " HTTP/1.1\r\nHost: h\r\n\r\n")
			if status, _ := c.response(); status != tt.status || len(up.heads()) != tt.attempts {
				t.Errorf("got %d in %d attempts, want %d in %d", status, len(up.heads()), tt.status, tt.attempts)
			}
			if diff := cmp.Diff(tt.counted, stats(s, "upstream_rq_per_try_timeout", "upstream_rq_per_try_idle_timeout", "upstream_rq_timeout")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestRouteTimeoutEndsRetries(t *testing.T) {
	up := scripted(t)
	s, addr := serve(t, up.Addr().String(), "", ", timeout: 0.5s, retry_policy: {retry_on: 5xx, num_retries: 1000, per_try_timeout: 0.1s}", "")
	c := dial(t, addr)
	c.send("GET /hang HTTP/1.1\r\nHost: h\r\n\r\n")
	wantResponse(t, c, 504, "upstream request timeout")
	if diff := cmp.Diff(map[string]int64{"upstream_rq_timeout": 1}, stats(s, "upstream_rq_timeout", "upstream_rq_retry_limit_exceeded")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRetriesAreCounted(t *testing.T) {
	up := scripted(t)
	s, addr := serve(t, up.Addr().String(), "", ", retry_policy: {retry_on: 5xx, num_retries: 1}", "")
	c := dial(t, addr)
	for _, path := range []string{"503,200", "503", "rst,200", "200"} {
		c.send("GET /" + path + " HTTP/1.1\r\nHost: h\r\n\r\n")
		c.response()
	}
	names := []string{"upstream_rq_retry", "upstream_rq_retry_success", "upstream_rq_retry_limit_exceeded", "upstream_rq_retry_backoff_exponential",
		"retry.upstream_rq_503", "retry.upstream_rq_completed", "upstream_rq_completed", "upstream_rq_200", "upstream_rq_503", "upstream_rq_total"}
	want := map[string]int64{"upstream_rq_retry": 3, "upstream_rq_retry_success": 2, "upstream_rq_retry_limit_exceeded": 1, "upstream_rq_retry_backoff_exponential": 3,
		"retry.upstream_rq_503": 2, "retry.upstream_rq_completed": 2, "upstream_rq_completed": 4, "upstream_rq_200": 3, "upstream_rq_503": 1, "upstream_rq_total": 7}
	if diff := cmp.Diff(want, stats(s, names...)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRetryOverflow(t *testing.T) {
	for _, limit := range []string{"max_retries: 0", "retry_budget: {min_retry_concurrency: 0}"} {
		up := scripted(t)
		s, addr := serve(t, up.Addr().String(), "", ", retry_policy: {retry_on: 5xx}", "circuit_breakers: {thresholds: [{"+limit+"}]}")
		c := dial(t, addr)
		c.send("GET /503,200 HTTP/1.1\r\nHost: h\r\n\r\n")
		wantResponse(t, c, 503, "x")
		if diff := cmp.Diff(map[string]int64{"upstream_rq_retry_overflow": 1}, stats(s, "upstream_rq_retry_overflow", "upstream_rq_retry")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", limit, diff)
		}
	}
}

func TestRetryGoesToAnotherHost(t *testing.T) {
	up := newUpstream(t, ok)
	refused, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused.Close()
	_, addr := serveCluster(t, `, retry_policy: {retry_on: connect-failure, host_selection_retry_max_attempts: 5, retry_host_predicate: [{name: p, `+
		`typed_config: {"@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}]}`,
		"load_assignment: {cluster_name: c, endpoints: [{lb_endpoints: ["+endpointOf(refused.Addr(), "")+", "+endpointOf(up.Addr(), "")+"]}]}")
	c := dial(t, addr)
	for range 4 {
		c.send(get)
		wantResponse(t, c, 200, "ok")
	}
}

func TestUpgradeIsRetriedUntilItHasBegun(t *testing.T) {
	var mu sync.Mutex
	n := 0
	up := newUpstream(t, func(head string, c net.Conn, r *bufio.Reader) {
		mu.Lock()
		n++
		attempt := n
		mu.Unlock()
		if attempt == 1 {
			io.WriteString(c, "HTTP/1.1 503 X\r\ncontent-length: 3\r\n\r\nbad")
			return
		}
		echoSocket(head, c, r)
	})
	_, addr := serve(t, up.Addr().String(), "", ", retry_policy: {retry_on: 5xx}", "")
	c := dial(t, addr)
	c.send(handshake + "early")
	if status, _ := c.response(); status != 101 {
		t.Fatalf("got %d, want 101", status)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "early" {
		t.Errorf("got %q, %v, want what was sent with the handshake", got, err)
	}
}

func TestExpectedTimeoutOfARetryIsWhatIsLeft(t *testing.T) {
	up := scripted(t)
	_, addr := serve(t, up.Addr().String(), "", ", timeout: 10s, retry_policy: {retry_on: 5xx, retry_back_off: {base_interval: 0.1s}}", "")
	c := dial(t, addr)
	start := time.Now()
	c.send("GET /503,200 HTTP/1.1\r\nHost: h\r\n\r\n")
	wantResponse(t, c, 200, "x")
	var ms [2]int64
	for i, head := range up.heads() {
		_, after, _ := strings.Cut(head, "x-envoy-expected-rq-timeout-ms: ")
		fmt.Sscan(after, &ms[i])
	}
	if least := 10000 - time.Since(start).Milliseconds() - 1; ms[0] != 10000 || ms[1] > 10000 || ms[1] < least {
		t.Errorf("got %v, want 10000 and then between %d and 10000", ms, least)
	}
}

package hostsimtest

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	scripted = "../../e2e/testdata/guests/scripted.wasm" // does what the field x-do says
	vectors  = "../vm/testdata/abi/"
)

// head is a request that tells the scripted plugin what to do.
func head(script string, more ...[2]string) Headers {
	return append(Headers{{":method", "GET"}, {":path", "/p?q=1"}, {":scheme", "http"}, {":authority", "example.com"}, {"x-do", script}}, more...)
}

func expect(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func names(callbacks []Callback) (list []string) {
	for _, c := range callbacks {
		list = append(list, strings.TrimPrefix(c.Name, "proxy_on_")+"("+c.Arguments+")")
	}
	return list
}

func TestMutations(t *testing.T) {
	t.Parallel()
	s := Plugin(t, scripted).Stream()
	h := head("rqh:add 0 X-A 1;rqh:add 0 x-a 2;rqh:rep 0 user-agent me;rqh:rem 0 x-do;rqb:set 0 0 2 H;rqt:add 1 x-b 3;"+
		"rsh:add 2 x-c 4;rsb:set 1 9 0 !;rst:rem 3 x-d", [2]string{"user-agent", "you"})
	got := s.RequestHeaders(h, false)
	expect(t, "action", got.Action, Continue)
	expect(t, "before", got.Before, h)
	expect(t, "after", got.After, Headers{{":method", "GET"}, {":path", "/p?q=1"}, {":scheme", "http"}, {":authority", "example.com"},
		{"x-a", "1"}, {"x-a", "2"}, {"user-agent", "me"}})
	expect(t, "callbacks", names(got.Callbacks), []string{"context_create(2, 1)", "request_headers(2, 6, 0)"})
	got = s.RequestBody("hello", false)
	expect(t, "content", got.Body, "Hllo")
	got = s.RequestTrailers(Headers{{"x-t", "1"}})
	expect(t, "trailers", got.After, Headers{{"x-t", "1"}, {"x-b", "3"}})
	expect(t, "the request is through", s.Request().Ended, true)
	got = s.ResponseHeaders(Headers{{":status", "200"}}, false)
	expect(t, "response headers", got.After, Headers{{":status", "200"}, {"x-c", "4"}})
	expect(t, "response content", s.ResponseBody("ok", false).Body, "ok!")
	expect(t, "response trailers", s.ResponseTrailers(Headers{{"x-d", "1"}, {"x-e", "2"}}).After, Headers{{"x-e", "2"}})
	expect(t, "the end", names(s.End().Callbacks), []string{"log(2)", "done(2)", "delete(2)"})
}

// A plugin that has stopped the stream gets what Envoy would give it.
func TestPausing(t *testing.T) {
	t.Parallel()
	p := Plugin(t, scripted, Clusters("auth"))
	s := p.Stream()
	got := s.RequestHeaders(head("rqh:call auth GET /check 1500 body;rqh:ret 1;rqb:ret 0;call:eff self;call:add 0 x-user me;call:cont 0"), false)
	expect(t, "action", got.Action, Pause)
	expect(t, "passed", s.Request().Passed, false)
	if len(got.HTTPCalls) != 1 {
		t.Fatalf("%d callouts, want 1", len(got.HTTPCalls))
	}
	call := got.HTTPCalls[0]
	expect(t, "cluster", call.Cluster, "auth")
	expect(t, "call", call.Headers, Headers{{":method", "GET"}, {":path", "/check"}, {":authority", "callee"}, {"x-called", "1"}})
	expect(t, "body", call.Body, "body")
	expect(t, "timeout", call.Timeout, 1500*time.Millisecond)

	got = s.RequestBody("hel", false)
	expect(t, "content is held back, and the plugin not asked", got.Body+"|"+strings.Join(names(got.Callbacks), ","), "|")
	s.RequestBody("lo", true)
	expect(t, "held", s.Request().Held, "hello")

	got = call.Answer(Headers{{":status", "200"}, {"x-user", "me"}}, "ok", nil)
	expect(t, "callbacks", names(got.Callbacks), []string{"http_call_response(1, 4, 2, 2, 0)", "request_body(2, 5, 1)"})
	m := s.Request()
	expect(t, "passed", m.Passed && m.Ended, true)
	expect(t, "what the answer changed", m.Headers.Get("x-user"), "me")
}

func TestLocalReply(t *testing.T) {
	t.Parallel()
	s := Plugin(t, scripted).Stream()
	got := s.RequestHeaders(head("rqh:replywith 403 x-why because no;rsh:add 2 x-seen 1"), true)
	expect(t, "reply", got.Reply, &Reply{Status: 403, Headers: Headers{{"x-why", "because"}}, Body: "no", GRPCStatus: -1})
	expect(t, "the plugin sees it as a response", s.Response().Headers,
		Headers{{":status", "403"}, {"x-why", "because"}, {"content-length", "2"}, {"content-type", "text/plain"}, {"x-seen", "1"}})
	expect(t, "it stays known", s.Reply(), got.Reply)
	got = s.End()
	expect(t, "no second one", got.Reply, (*Reply)(nil))
}

// To a client of gRPC a local reply has the plugin's status of gRPC, if gRPC
// knows it, or else that which stands for the status of HTTP.
func TestLocalReplyToGRPC(t *testing.T) {
	t.Parallel()
	p := Plugin(t, "testdata/grpc_status.wasm")
	for n, want := range map[int]string{7: "7", 9: "9", 16: "16", 17: "7", 99: "7"} {
		h := Headers{{":path", "/"}, {"content-type", "application/grpc"}}
		for i := len(h); i < n; i++ {
			h = append(h, [2]string{fmt.Sprint("x", i), ""})
		}
		s := p.Stream()
		got := s.RequestHeaders(h, true)
		expect(t, "as the plugin wants it", got.Reply, &Reply{Status: 403, Body: "no", GRPCStatus: int32(n)})
		expect(t, fmt.Sprint("response with ", n), s.Response().Headers, Headers{{":status", "200"}, {"content-type", "application/grpc"}, {"grpc-status", want}, {"grpc-message", "no"}})
		s.End()
	}
}

func TestWhatElseAPluginDoes(t *testing.T) {
	t.Parallel()
	p := Plugin(t, scripted, Name("me"), Property("source.address", "10.1.2.3:4"), Property("connection.id", 7),
		Foreign("double", func(a []byte) ([]byte, Status) { return append(a, a...), OK }))
	s := p.Stream()
	got := s.RequestHeaders(head("rqh:log 1 some detail;rqh:log 4 alas;rqh:prop request/path;rqh:prop source/address;rqh:prop connection/id;rqh:prop route_name;"+
		"rqh:setprop k v;rqh:prop k;rqh:metric 0 hits;rqh:increment 4 3;rqh:metric 1 size;rqh:record 5 12;rqh:metric 2 time;rqh:record 6 170;"+
		"rqh:store key 0 one;rqh:load key;rqh:store key 99 two;rqh:foreign double ab;rqh:foreign nothing x"), true)
	expect(t, "logs", got.Logs, []Log{{"debug", "some detail"}, {"error", "alas"}})
	if !got.Logged("error", "alas") || got.Logged("info", "alas") {
		t.Error("Logged does not find the line, or one of another level")
	}
	expect(t, "properties", got.Calls("proxy_get_property"), []Hostcall{
		{Name: "proxy_get_property", Arguments: `path: "request\x00path"`, Result: "Ok"},
		{Name: "proxy_get_property", Arguments: `path: "source\x00address"`, Result: "Ok"},
		{Name: "proxy_get_property", Arguments: `path: "connection\x00id"`, Result: "Ok"},
		{Name: "proxy_get_property", Arguments: `path: "route_name"`, Result: "NotFound", Why: "it is called xds.route_name"},
		{Name: "proxy_get_property", Arguments: `path: "k"`, Result: "Ok"},
	})
	expect(t, "shared data", got.Calls("proxy_set_shared_data"), []Hostcall{
		{Name: "proxy_set_shared_data", Arguments: `key: "key", value: "one", cas: 0`, Result: "Ok"},
		{Name: "proxy_set_shared_data", Arguments: `key: "key", value: "two", cas: 99`, Result: "CasMismatch", Why: "somebody else has written it meanwhile; get it again for its cas"},
	})
	expect(t, "metrics", p.Metrics(), map[string]int64{"hits": 3, "size": 12})
	expect(t, "counter", p.Counter("hits"), uint64(3))
	expect(t, "gauge", p.Gauge("size"), int64(12))
	expect(t, "histogram", p.Samples("time"), map[float64]uint64{170: 1})
	s = p.Stream()
	got = s.RequestHeaders(head("rqh:dump"), true)
	for _, want := range []string{"prop request/path = 0 /p?q=1\n", "prop source/address = 0 10.1.2.3:4\n", `prop connection/id = 0 \07\00`, "prop k = 0 v\n",
		"load key = 0 one 1\n", "foreign double ab = 0 abab\n", "foreign nothing x = 1\n"} {
		if !strings.Contains(got.Reply.Body, want) {
			t.Errorf("the plugin has not got %q:\n%s", want, got.Reply.Body)
		}
	}
}

func TestTicksAndQueues(t *testing.T) {
	t.Parallel()
	p := Plugin(t, scripted, StartTime(time.Unix(1000, 0)))
	expect(t, "no ticks", p.TickPeriod(), time.Duration(0))
	expect(t, "none", len(p.Advance(time.Hour).Callbacks), 0)
	s := p.Stream()
	got := s.RequestHeaders(head("rqh:tick 400;rqh:register q;rqh:enqueue 1 x;rqh:enqueue 1 y;rqh:ret 1;queue:dequeue 1;tick#2:eff self;tick#2:cont 0"), true)
	expect(t, "the queue's listener has heard of both", names(got.Callbacks), []string{"context_create(2, 1)", "request_headers(2, 5, 1)", "queue_ready(1, 1)", "queue_ready(1, 1)"})
	expect(t, "dequeued", len(got.Calls("proxy_dequeue_shared_queue")), 2)
	expect(t, "period", p.TickPeriod(), 400*time.Millisecond)
	expect(t, "not yet", len(p.Advance(399*time.Millisecond).Callbacks), 0)
	expect(t, "now", names(p.Advance(time.Millisecond).Callbacks), []string{"tick(1)"})
	expect(t, "passed", s.Request().Passed, false)
	expect(t, "three more", names(p.Advance(1300*time.Millisecond).Callbacks), []string{"tick(1)", "tick(1)", "tick(1)"})
	expect(t, "the second has let the stream go on", s.Request().Passed, true)
	expect(t, "clock", p.Now().Equal(time.Unix(1000, 0).Add(time.Hour+1700*time.Millisecond)), true)
	expect(t, "a tick that is not due", names(p.Tick().Callbacks), []string{"tick(1)"})
}

func TestClose(t *testing.T) {
	t.Parallel()
	p := Plugin(t, "../vm/testdata/lifecycle.wasm")
	expect(t, "canary, main thread, worker", len(p.Started().Callbacks), 9)
	expect(t, "logged", p.Started().Logs[:3], []Log{{"info", "C1"}, {"info", "S1"}, {"info", "F1"}})
	expect(t, "it is not done yet, on either", names(p.Close().Callbacks), []string{"done(1)", "done(1)"})
}

func TestCallouts(t *testing.T) {
	t.Parallel()
	p := Plugin(t, scripted, Clusters("web", "grpc"), RootID("r"))
	begin := func(script string) *Effect {
		s := p.Stream()
		t.Cleanup(func() { s.End() })
		return s.RequestHeaders(head("rqh:ret 1;"+script), true)
	}
	expect(t, "an unknown cluster", begin("rqh:call nowhere GET / 10").Calls("proxy_http_call")[0].Result, "BadArgument")
	expect(t, "no call", len(begin("rqh:call nowhere GET / 10").HTTPCalls), 0)

	call := begin("rqh:call web GET / 10;call:get 6 :status;call:map 7;call:buf 4 0 9").HTTPCalls[0]
	got := call.Answer(Headers{{":status", "201"}}, "body", Headers{{"t", "1"}})
	expect(t, "arguments", got.Callbacks[0].Arguments, "1, 4, 1, 4, 1")
	got = begin("rqh:call web GET / 10;call:get 6 :status").HTTPCalls[0].Fail()
	expect(t, "a failure has 3 headers and a text", strings.HasPrefix(got.Callbacks[0].Arguments, "1, 8, 3, 9"), true)
	got = begin("rqh:call web GET / 10;call:status").HTTPCalls[0].TimeOut()
	expect(t, "a timeout too", got.Callbacks[0].Arguments, "1, 12, 3, 24, 0")
	got = begin("rqh:call web GET / 10;call:status").HTTPCalls[0].Break()
	expect(t, "what breaks off has nothing", got.Callbacks[0].Arguments, "1, 16, 0, 0, 0")

	unary := begin("rqh:grpc grpc a.Service Method 5000 hello;grpcreceive:buf 5 0 100").GRPCCalls[0]
	expect(t, "unary", unary.Cluster+" "+unary.Service+" "+unary.Method+" "+unary.Message+" "+unary.Metadata.Get("x-meta")+" "+unary.Timeout.String(), "grpc a.Service Method hello m 5s")
	expect(t, "answer", names(unary.Receive("hi").Callbacks), []string{"grpc_receive(1, 5, 2)"})
	stream := begin("rqh:grpcstream grpc a.Service Method;rqh:grpcsend 6 0 one;grpcreceive:grpcsend 6 1 two").GRPCCalls[0]
	expect(t, "metadata", names(stream.InitialMetadata(Headers{{"a", "b"}}).Callbacks), []string{"grpc_receive_initial_metadata(1, 6, 1)"})
	expect(t, "sent", stream.Sent(), []string{"one"})
	expect(t, "message", names(stream.Receive("one").Callbacks), []string{"grpc_receive(1, 6, 3)"})
	expect(t, "sent", stream.Sent(), []string{"one", "two"})
	expect(t, "and no more", stream.SendClosed(), true)
	expect(t, "trailers", names(stream.TrailingMetadata(Headers{{"a", "b"}}).Callbacks), []string{"grpc_receive_trailing_metadata(1, 6, 1)"})
	expect(t, "end", names(stream.Close(5, "gone").Callbacks), []string{"grpc_close(1, 6, 5)"})
	cancelled := begin("rqh:grpcstream grpc a.Service Method;rqh:grpccancel 10").GRPCCalls[0]
	expect(t, "cancelled", cancelled.Cancelled(), true)
}

// What Envoy does not load is not loaded, and says so in Envoy's words.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for module, want := range map[string]string{
		"no_abi":                           "Wasm VM failed Missing or unknown Proxy-Wasm ABI version",
		"no_malloc":                        "Wasm VM failed Wasm module is missing malloc function.",
		"configure_false":                  "Wasm VM failed Failed to configure base Wasm plugin",
		"abi021_imports_clear_route_cache": "Failed to load Wasm module due to a missing import: env.proxy_clear_route_cache",
	} {
		if err := Refused(t, vectors+module+".wasm"); !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", module, err, want)
		}
	}
	if err := Refused(t, "nowhere.wasm"); !strings.Contains(err.Error(), `cannot read the plugin "nowhere.wasm"`) {
		t.Error(err)
	}
}

// Every public vector that Envoy loads is loaded here, and none that it does
// not; streams of it end.
func TestVectorsLoad(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(vectors + "*.wasm")
	if err != nil || len(files) == 0 {
		t.Fatal("no vectors", err)
	}
	recorded, err := os.ReadFile(vectors + "envoy-1.40.0.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".wasm")
		if !strings.Contains(string(recorded), `{"filter": "`+name+`", "loaded": true`) {
			Refused(t, file)
			continue
		}
		p := Plugin(t, file, MayTrap(), Clusters("web", "ws"))
		s := p.Stream()
		s.RequestHeaders(head(""), false)
		if s.Reply() == nil {
			s.RequestBody("hello", true)
			if s.Reply() == nil && !s.Reset() {
				s.ResponseHeaders(Headers{{":status", "200"}}, false)
				s.ResponseBody("x", true)
			}
		}
		s.End()
	}
}

func TestTraps(t *testing.T) {
	t.Parallel()
	s := Plugin(t, scripted, MayTrap()).Stream()
	got := s.RequestHeaders(head("rqh:trap"), true)
	if !strings.HasPrefix(got.Trap, "Function: proxy_on_request_headers failed: Uncaught RuntimeError: unreachable\nProxy-Wasm plugin in-VM backtrace:") {
		t.Errorf("trap = %q", got.Trap)
	}
	expect(t, "the client gets", got.Reply, &Reply{Status: 503, Details: "wasm_fail_stream"})

	s = Plugin(t, "../vm/testdata/stack.wasm", MayTrap(), Deadline(50*time.Millisecond)).Stream()
	got = s.RequestHeaders(Headers{{":path", "/"}}, true)
	if !strings.Contains(got.Trap, "callback deadline exceeded") || !strings.Contains(got.Trap, "stack::count") {
		t.Errorf("an endless loop = %q", got.Trap)
	}

	// A trap that nobody expects fails the test.
	r := &recorder{TB: t}
	s = Plugin(r, scripted).Stream()
	s.RequestHeaders(head("rqh:trap"), true)
	if len(r.errors) != 1 || !strings.Contains(r.errors[0], "the plugin has trapped: Function: proxy_on_request_headers failed") {
		t.Errorf("errors = %q", r.errors)
	}
}

// recorder is a test that may fail.
type recorder struct {
	testing.TB
	errors []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

func (r *recorder) Fatal(args ...any) { r.Fatalf("%s", fmt.Sprint(args...)) }

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

// Package hostsimtest tests Proxy-Wasm plugins, and Envoy bootstraps, with
// go test and without Envoy.
//
// [Plugin] calls the callbacks of a .wasm one by one, without sockets, and
// tells what it did. It is as strict as Envoy 1.40: what Envoy does not load
// is not loaded, in Envoy's words, and hostcalls return Envoy's statuses.
//
//	func TestAddsHeader(t *testing.T) {
//		p := hostsimtest.Plugin(t, "plugin.wasm", hostsimtest.Config(`{"header": "x-test"}`))
//		s := p.Stream()
//		got := s.RequestHeaders(hostsimtest.Headers{
//			{":method", "GET"}, {":path", "/"}, {":scheme", "http"}, {":authority", "example.com"},
//		}, true)
//		if got.Action != hostsimtest.Continue {
//			t.Errorf("action = %v, want %v", got.Action, hostsimtest.Continue)
//		}
//		if v := got.After.Get("x-test"); v != "1" {
//			t.Errorf("x-test = %q, want 1", v)
//		}
//		s.End()
//		if n := p.Counter("requests"); n != 1 {
//			t.Errorf("requests = %d, want 1", n)
//		}
//	}
//
// A callout is answered by the test, when and as it likes:
//
//	got := s.RequestHeaders(...)
//	call := got.HTTPCalls[0]
//	call.Answer(hostsimtest.Headers{{":status", "200"}}, "body", nil)
//	if !s.Request().Passed { ... }
//
// So is time: [Filter.Advance] moves the plugin's clock and fires the ticks
// that are due. Nothing ever sleeps.
//
// [Start] serves real traffic from a bootstrap, on free ports, in front of
// upstreams that record what they receive:
//
//	srv := hostsimtest.Start(t, "envoy.yaml", hostsimtest.Upstreams("web", "websocket"))
//	http.Get("http://" + srv.Address("ingress") + "/")
//	requests := srv.Upstream("web").Requests()
//
// Whatever either of them starts ends with the test, and any number of tests
// may run at a time (t.Parallel). If a test fails, its log ends with the
// callbacks and hostcalls that led to it, or with what Envoy would have logged.
package hostsimtest

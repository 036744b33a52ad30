package proxy

import (
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/durationpb"
)

// The expected text is what Envoy 1.40 has sent to a client with this address.
func TestACookieIsMadeOfTheAddresses(t *testing.T) {
	of := cookieHash(&routev3.RouteAction_HashPolicy_Cookie{
		Name: "c", Path: "/p", Ttl: durationpb.New(time.Minute),
		Attributes: []*routev3.RouteAction_HashPolicy_CookieAttribute{{Name: "SameSite", Value: "Strict"}, {Name: "Secure"}},
	})
	s := &stream{conn: &connection{remote: "127.0.0.1:18555", local: "127.0.0.1:18123"}}
	made, ok := of(s)
	const want = `c="b0474e4f736564c2"; Max-Age=60; Path=/p; SameSite=Strict; Secure; HttpOnly`
	if !ok || len(s.setCookies) != 1 || s.setCookies[0] != want {
		t.Fatalf("got %v %q, want %q", ok, s.setCookies, want)
	}
	s.request.Add("cookie", "c=b0474e4f736564c2")
	if sent, ok := of(s); !ok || sent != made || len(s.setCookies) != 1 {
		t.Errorf("with the cookie: got %v %x and %d cookies, want the hash %x and no further cookie", ok, sent, len(s.setCookies), made)
	}
}

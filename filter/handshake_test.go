package filter

import (
	stdbase64 "encoding/base64"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func version(v string) func() string { return func() string { return v } }

func TestHandshakeCheck(t *testing.T) {
	const key, v13 = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", "sec-websocket-version: 13"
	for _, tt := range []struct {
		name   string
		http   string
		lines  []string // without :path, connection and upgrade
		want   Reason
		status int
	}{
		{"a right one", "HTTP/1.1", []string{":method: GET", key, v13}, Offered, 0},
		{"spaces around do not matter", "HTTP/1.1", []string{":method: GET", key + "\t", "sec-websocket-version: \t13 "}, Offered, 0},
		{"POST", "HTTP/1.1", []string{":method: POST", key, v13}, NotGet, 400},
		{"methods have case", "HTTP/1.1", []string{":method: get", key, v13}, NotGet, 400},
		{"no key", "HTTP/1.1", []string{":method: GET", v13}, NoKey, 400},
		{"no key, by HTTP/1.0", "HTTP/1.0", []string{":method: GET", v13}, NoKey, 400},
		{"no key, and nobody knows the version", "", []string{":method: GET", v13}, NoKey, 400},
		{"no key, by HTTP/2", "HTTP/2", []string{":method: GET", v13}, Offered, 0},
		{"no key, by HTTP/3", "HTTP/3", []string{":method: GET", v13}, Offered, 0},
		{"an empty key", "HTTP/1.1", []string{":method: GET", "sec-websocket-key:", v13}, InvalidKey, 400},
		{"an empty key, by HTTP/2", "HTTP/2", []string{":method: GET", "sec-websocket-key:", v13}, InvalidKey, 400},
		{"a key of 15 bytes", "HTTP/1.1", []string{":method: GET", "sec-websocket-key: dGhlIHNhbXBsZSBub25j", v13}, InvalidKey, 400},
		{"a key of 17 bytes", "HTTP/1.1", []string{":method: GET", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZXo=", v13}, InvalidKey, 400},
		{"a key with characters that base64 has not", "HTTP/1.1", []string{":method: GET", "sec-websocket-key: dGhlIHNhbXBsZSBub25j-_==", v13}, InvalidKey, 400},
		{"two keys", "HTTP/1.1", []string{":method: GET", key, key, v13}, SeveralKeys, 400},
		{"two keys merged by the host", "HTTP/1.1", []string{":method: GET", key + ",dGhlIHNhbXBsZSBub25jZQ==", v13}, SeveralKeys, 400},
		{"no version", "HTTP/1.1", []string{":method: GET", key}, NoVersion, 400},
		{"no version, by HTTP/2", "HTTP/2", []string{":method: GET"}, NoVersion, 400},
		{"version 8", "HTTP/1.1", []string{":method: GET", key, "sec-websocket-version: 8"}, UnsupportedVersion, 426},
		{"version 255", "HTTP/1.1", []string{":method: GET", key, "sec-websocket-version: 255"}, UnsupportedVersion, 426},
		{"version 1337", "HTTP/1.1", []string{":method: GET", key, "sec-websocket-version: 1337"}, UnsupportedVersion, 426},
		{"version 13.0", "HTTP/1.1", []string{":method: GET", key, "sec-websocket-version: 13.0"}, InvalidVersion, 400},
		{"version 013", "HTTP/1.1", []string{":method: GET", key, "sec-websocket-version: 013"}, InvalidVersion, 400},
		{"an empty version", "HTTP/1.1", []string{":method: GET", key, "sec-websocket-version:"}, InvalidVersion, 400},
		{"a list of versions", "HTTP/1.1", []string{":method: GET", key, "sec-websocket-version: 13, 8"}, InvalidVersion, 400},
		{"two versions", "HTTP/1.1", []string{":method: GET", key, v13, v13}, InvalidVersion, 400},
		{"what is first in the RFC is said", "HTTP/1.1", []string{":method: POST"}, NotGet, 400},
		{"an extended CONNECT has no key", "", []string{":method: CONNECT", ":protocol: websocket", v13}, Offered, 0},
		{"but a version", "", []string{":method: CONNECT", ":protocol: websocket"}, NoVersion, 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := append(fields(":path: /"), fields(tt.lines...)...)
			if !h.Has(":protocol") {
				h = append(h, fields("connection: Upgrade", "upgrade: websocket")...)
			}
			r := Request{Headers: h}
			if tt.http != "" {
				r.Version = version(tt.http)
			}
			d := Decide(mustParse(t, `{"handshake":"check"}`), r)
			if d.Reason != tt.want || d.Status != tt.status || d.Routed != (tt.status == 0) {
				t.Errorf("got %v, want reason %s, status %d", d, tt.want, tt.status)
			}
			if tt.status != 0 && !strings.HasPrefix(d.Body, string(tt.want)+": ") {
				t.Errorf("body %q", d.Body)
			}
			want := map[int][]Field{400: {{"content-type", "text/plain"}},
				426: {{"content-type", "text/plain"}, {"sec-websocket-version", "13"}, {"upgrade", "websocket"}, {"connection", "upgrade"}}}[tt.status]
			if diff := cmp.Diff(want, d.Headers); diff != "" {
				t.Errorf("header fields (-want +got):\n%s", diff)
			}

			// Trusted, all of them are the server's affair; so are other protocols, and what no rule routes.
			if d := Decide(mustParse(t, ""), r); !d.Routed {
				t.Errorf("trusted: %v", d)
			}
			if d := Decide(mustParse(t, `{"handshake":"check","rules":[{"protocol":"websocket","action":"ignore"}]}`), r); d.Reason != IgnoredByRule {
				t.Errorf("ignored: %v", d)
			}
		})
	}
	other := fields(":method: POST", ":path: /", "connection: Upgrade", "upgrade: SPDY/3.1")
	if d := Decide(mustParse(t, `{"handshake":"check","rules":[{"protocol":"spdy/3.1"}]}`), Request{Headers: other}); !d.Routed {
		t.Errorf("kubectl: %v", d)
	}
}

// The corpus says what a correct endpoint answers; a filter that checks has to answer the same.
func TestHandshakesAreCheckedAsTheCorpusSays(t *testing.T) {
	c := mustParse(t, `{"handshake":"check"}`)
	status := map[string]int{"101": 0, "400": 400, "426": 426}
	checked := 0
	for _, tt := range readHandshakes(t) {
		want, known := status[tt.Handshake]
		if tt.Route != "ws" || !known || tt.Also == "refused" || tt.Name == "upg-version-13" || tt.Name == "upg-version-list" {
			continue // content is refused; websocket/13 goes upstream as websocket, which is right
		}
		h, err := readHead(tt.bytes())
		if err != nil {
			continue
		}
		checked++
		if got := Decide(c, Request{Headers: h}); got.Status != want {
			t.Errorf("%s: %v, want status %d", tt.Name, got, want)
		}
	}
	if checked < 50 {
		t.Errorf("only %d looked at", checked)
	}
}

func TestKeysAreSuppliedWhereHTTP2HasNone(t *testing.T) {
	for _, tt := range []struct {
		name, http, config string
		lines              []string
		want, asked        bool
	}{
		{"by HTTP/2", "HTTP/2", ``, upgradeLines(), true, true},
		{"by HTTP/3", "HTTP/3", ``, upgradeLines(), true, true},
		{"by HTTP/2, checked", "HTTP/2", `{"handshake":"check"}`, upgradeLines("sec-websocket-version: 13"), true, true},
		{"not by HTTP/1.1", "HTTP/1.1", ``, upgradeLines(), false, true},
		{"not where there is one", "HTTP/2", ``, upgradeLines("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="), false, false},
		{"not where there is a bad one", "HTTP/2", ``, upgradeLines("sec-websocket-key:"), false, false},
		{"not for what fails the check", "HTTP/2", `{"handshake":"check"}`, upgradeLines(), false, true},
		{"not for another protocol", "HTTP/2", `{"rules":[{"protocol":"*"}]}`, []string{":method: GET", ":path: /", "connection: upgrade", "upgrade: connect-udp"}, false, false},
		{"not for what is not routed", "HTTP/2", `{"rules":[{"protocol":"websocket","path":"/x"}]}`, upgradeLines(), false, false},
		{"not for what is refused", "HTTP/2", `{"rules":[{"protocol":"websocket","action":"refuse"}]}`, upgradeLines(), false, false},
		{"not where the host shows the CONNECT", "HTTP/2", ``, []string{":method: CONNECT", ":protocol: websocket", ":path: /"}, false, false},
		{"not for a page", "HTTP/2", ``, []string{":method: GET", ":path: /"}, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked := 0
			h := append(fields(tt.lines...), Field{"content-length", "0"})
			d := Decide(mustParse(t, tt.config), Request{Headers: h, Version: func() string { asked++; return tt.http }})
			if d.SupplyKey != tt.want || d.Answer.SuppliedKey() != tt.want {
				t.Errorf("SupplyKey = %v, Answer %+v, want %v; %v", d.SupplyKey, d.Answer, tt.want, d)
			}
			if (asked > 0) != tt.asked || asked > 1 {
				t.Errorf("asked for the version %d times, want it: %v", asked, tt.asked)
			}
			if got := d.Routed && !applied(h, d.Mutations).Has("content-length"); got != tt.want {
				t.Errorf("content-length: 0 dropped: %v, want %v", got, tt.want)
			}
			if got := strings.HasSuffix(d.String(), " key=supplied"); got != tt.want {
				t.Errorf("logged as %v", d)
			}
		})
	}
	random := [16]byte{0, 1, 2, 253, 254, 255}
	if got, want := NewKey(random), stdbase64.StdEncoding.EncodeToString(random[:]); got != want || !isKey(got) {
		t.Errorf("NewKey = %q, want %q", got, want)
	}
}

func upgradeLines(lines ...string) []string {
	return append([]string{":method: GET", ":path: /", "connection: upgrade", "upgrade: websocket"}, lines...)
}

func TestAnswer(t *testing.T) {
	// The key and its answer are the example of RFC 6455 1.3.
	const key, accept = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
	client := upgrade(":path: /", "sec-websocket-key: "+key)
	switching := []string{":status: 101", "upgrade: WebSocket", "connection: upgrade"}
	for _, tt := range []struct {
		name     string
		request  Request
		response []string
		want     []Mutation
	}{
		{"a server that never saw the key", Request{Headers: client}, switching, []Mutation{{Set, "sec-websocket-accept", accept}}},
		{"a server that did", Request{Headers: client}, append(switching, "sec-websocket-accept: x"), nil},
		{"a server that does not switch", Request{Headers: client}, []string{":status: 200", "upgrade: websocket"}, nil},
		{"a server that switches to something else", Request{Headers: client}, []string{":status: 101", "upgrade: foo"}, nil},
		{"a client without a key", Request{Headers: upgrade(":path: /")}, switching, nil},
		{"a client with a bad key", Request{Headers: upgrade(":path: /", "sec-websocket-key: x")}, switching, nil},
		{"a client with two keys", Request{Headers: upgrade(":path: /", "sec-websocket-key: "+key, "sec-websocket-key: "+key)}, switching, nil},
		{"an answer to our key", Request{upgrade(":path: /"), version("HTTP/2")}, append(switching, "sec-websocket-accept: x"), []Mutation{{Op: Remove, Name: "sec-websocket-accept"}}},
		{"an answer to our key that refuses", Request{upgrade(":path: /"), version("HTTP/2")}, []string{":status: 400", "sec-websocket-accept: x"}, []Mutation{{Op: Remove, Name: "sec-websocket-accept"}}},
		{"no answer to our key", Request{upgrade(":path: /"), version("HTTP/2")}, switching, nil},
		{"another protocol", Request{Headers: fields(":path: /", "connection: upgrade", "upgrade: foo", "sec-websocket-key: "+key)}, switching, nil},
		{"a page", Request{Headers: fields(":path: /", "sec-websocket-key: "+key)}, switching, nil},
		{"an extended CONNECT", Request{Headers: fields(":method: CONNECT", ":protocol: websocket", ":path: /", "sec-websocket-key: "+key)}, switching, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := Decide(mustParse(t, `{"rules":[{"protocol":"websocket"},{"protocol":"foo"}]}`), tt.request)
			if diff := cmp.Diff(tt.want, d.Answer.Mutations(fields(tt.response...))); diff != "" {
				t.Errorf("mutations (-want +got):\n%s", diff)
			}
			if tt.want != nil && !d.Answer.Needed() {
				t.Error("not needed")
			}
		})
	}
}

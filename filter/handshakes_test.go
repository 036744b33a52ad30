package filter

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// handshakeCase is a line of testdata/handshakes/handshakes.jsonl; the README there says what it means.
type handshakeCase struct{ Name, Raw, Route, Handshake, Must, Also string }

func readHandshakes(t testing.TB) (cases []handshakeCase) {
	t.Helper()
	data, err := os.ReadFile("testdata/handshakes/handshakes.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range bytes.Split(bytes.TrimSpace(data), []byte("\n")) {
		var c handshakeCase
		if err := json.Unmarshal(line, &c); err != nil {
			t.Fatalf("handshakes.jsonl:%d: %v", i+1, err)
		}
		cases = append(cases, c)
	}
	return cases
}

// bytes returns the request as it goes over the wire: each character of Raw is one byte.
func (c handshakeCase) bytes() string {
	var b []byte
	for _, r := range c.Raw {
		b = append(b, byte(r))
	}
	return strings.ReplaceAll(string(b), "@@", c.Name)
}

// passes says whether an outcome (ws, web or refused) is one that the case allows, by the rule of the README.
func (c handshakeCase) passes(outcome string) bool {
	switch {
	case c.Also == outcome:
		return true
	case c.Must == "web" || c.Route == "web" && c.Handshake == "n-a":
		return outcome == "web"
	case c.Route == "ws" && c.Handshake == "101":
		return outcome == "ws"
	case c.Route == "ws":
		return outcome == "ws" || outcome == "refused"
	default: // web with another handshake, other, reject
		return outcome == "web" || outcome == "refused"
	}
}

// TestHandshakes runs the corpus natively: bytes, header map, decision. It is the ceiling for every host, as no codec has
// lost anything yet.
func TestHandshakes(t *testing.T) {
	cases := readHandshakes(t)
	if len(cases) < 117 {
		t.Fatalf("%d cases, want 117 or more", len(cases))
	}
	config := mustParse(t, "")
	passed := 0
	for _, c := range cases {
		outcome, reason := "web", Reason("")
		if h, err := readHead(c.bytes()); err != nil {
			outcome, reason = "refused", Reason(err.Error())
		} else if d := Decide(config, Request{Headers: h}); d.Status != 0 {
			outcome, reason = "refused", d.Reason
		} else if reason = d.Reason; d.Routed {
			outcome = "ws"
			if got, want := collect(applied(h, d.Mutations), "upgrade"), []string{"websocket"}; !slices.Equal(got, want) {
				t.Errorf("%s: upstream sees upgrade %q, want %q", c.Name, got, want)
			}
		}
		if !c.passes(outcome) {
			t.Errorf("%s: %s (%s), want what %s with handshake %s calls for", c.Name, outcome, reason, c.Route, c.Handshake)
			continue
		}
		passed++
	}
	t.Logf("handshakes, native: %d of %d", passed, len(cases))
}

// readHead reads the head of an HTTP/1.1 request strictly by RFC 9112: what a recipient may refuse is refused, so that
// nothing is left to guess. The names come out in lower case, pseudo-headers first, as from a Proxy-Wasm host.
func readHead(raw string) (HeaderMap, error) {
	head, _, found := strings.Cut(raw, "\r\n\r\n")
	if !found {
		return nil, errors.New("no end of the head")
	}
	lines := strings.Split(head, "\r\n")
	method, rest, _ := strings.Cut(lines[0], " ")
	target, version, _ := strings.Cut(rest, " ")
	if !isToken(method) || !strings.HasPrefix(target, "/") || !isVisible(target) {
		return nil, errors.New("request line")
	}
	if len(version) != len("HTTP/1.1") || !strings.HasPrefix(version, "HTTP/1.") || !isDigit(version[7]) {
		return nil, errors.New("version")
	}
	h := HeaderMap{{":method", method}, {":path", target}}
	for _, line := range lines[1:] {
		name, value, found := strings.Cut(line, ":")
		if !found || !isToken(name) { // catches obs-fold and a space before the colon
			return nil, errors.New("field line")
		}
		value = trimOWS(value)
		for i := 0; i < len(value); i++ {
			if value[i] < ' ' && value[i] != '\t' || value[i] == 0x7f {
				return nil, errors.New("control character in a field")
			}
		}
		if version == "HTTP/1.0" && equalFold(name, "upgrade") {
			continue // RFC 9110 7.8: a server must ignore Upgrade in an HTTP/1.0 request
		}
		h = append(h, Field{lowerString(name), value})
	}
	if hosts := h.Count("host"); hosts > 1 || hosts == 0 && version != "HTTP/1.0" {
		return nil, errors.New("not one Host")
	}
	if h.Has("content-length") && h.Has("transfer-encoding") {
		return nil, errors.New("both Content-Length and Transfer-Encoding")
	}
	return h, nil
}

func TestHeadReader(t *testing.T) {
	for _, tt := range []struct {
		name, raw string
		want      HeaderMap // nil if refused
	}{
		{"a request", "GET /a?b HTTP/1.1\r\nHost: h\r\nX:\t y z \r\n\r\nbody", HeaderMap{{":method", "GET"}, {":path", "/a?b"}, {"host", "h"}, {"x", "y z"}}},
		{"HTTP/1.0 has no upgrades", "GET / HTTP/1.0\r\nUpgrade: websocket\r\n\r\n", HeaderMap{{":method", "GET"}, {":path", "/"}}},
		{"a bare LF", "GET / HTTP/1.1\nHost: h\n\n", nil},
		{"a bare LF between lines", "GET / HTTP/1.1\r\nHost: h\nA: b\r\n\r\n", nil},
		{"obs-fold", "GET / HTTP/1.1\r\nHost: h\r\n b\r\n\r\n", nil},
		{"a space before the colon", "GET / HTTP/1.1\r\nHost : h\r\n\r\n", nil},
		{"another major version", "GET / HTTP/2.0\r\nHost: h\r\n\r\n", nil},
		{"no Host", "GET / HTTP/1.1\r\n\r\n", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := readHead(tt.raw)
			if (err != nil) != (tt.want == nil) {
				t.Fatalf("error %v", err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("head (-want +got):\n%s", diff)
			}
		})
	}
}

package filter

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseConfig(t *testing.T) {
	metadata := Metadata{"x-upgrade-route", "x-upgrade-cluster", "switchyard.route"}
	websocket := []Rule{{Name: "websocket", Protocol: Protocol{Name: "websocket"}}}
	for _, tt := range []struct {
		name, text string
		want       Config
	}{
		{"nothing at all", "", Config{websocket, metadata}},
		{"whitespace", " \n", Config{websocket, metadata}},
		{"an empty object", "{}", Config{websocket, metadata}},
		{"metadata without rules", `{"metadata":{"route_header":"x-route"}}`,
			Config{websocket, Metadata{"x-route", "x-upgrade-cluster", "switchyard.route"}}},
		{"metadata switched off", `{"metadata":{"route_header":"","cluster_header":"","filter_state":""}}`, Config{websocket, Metadata{}}},
		{"everything", `{"rules":[{"name":"Live","protocol":"websocket","path_prefix":"/a/%2f","cluster":"outbound|80||a.b"},
			{"protocol":"SPDY/3.1"}],"metadata":{"route_header":"x_r","cluster_header":"x-c.1","filter_state":"A.b_c-1"}}`,
			Config{[]Rule{{"Live", Protocol{Name: "websocket"}, "/a/%2f", "outbound|80||a.b"}, {Name: "spdy", Protocol: Protocol{"SPDY", "3.1"}}},
				Metadata{"x_r", "x-c.1", "A.b_c-1"}}},
		{"escapes in keys and values", `{"rules":[{"pr\u006ftocol":"\u0077ebsocket","path_prefix":"\/ws"}]}`,
			Config{[]Rule{{"websocket", Protocol{Name: "websocket"}, "/ws", ""}}, metadata}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseConfig([]byte(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, *got); diff != "" {
				t.Errorf("config (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseConfigRefuses(t *testing.T) {
	rule := func(rest string) string {
		return `{"rules":[{"protocol":"websocket"},{"protocol":"foo",` + rest + `}]}`
	}
	meta := func(rest string) string { return `{"metadata":{` + rest + `}}` }
	for _, tt := range []struct{ name, text, want string }{
		{"an array", `[]`, `found an array, want an object`},
		{"a string", `"x"`, `found a string, want an object`},
		{"null", `null`, `found null, want an object`},
		{"an unknown key", `{"rule":[]}`, `rule: unknown key, did you mean "rules"?`},
		{"an unknown key like no other", `{"handshake":"check"}`, `handshake: unknown key; known are "rules", "metadata"`},
		{"an unknown key that is no word", `{"a b\n":1}`, `"a b\n": unknown key; known are "rules", "metadata"`},
		{"a key twice", `{"rules":[{"protocol":"a"}],` + "\n" + ` "rules":[]}`, `line 2, column 2: key "rules" stands here a second time`},
		{"rules of another type", `{"rules":{}}`, `rules: found an object, want an array`},
		{"no rule in rules", `{"rules":[]}`, `rules: is empty; leave it out for the default`},
		{"a rule of another type", `{"rules":["websocket"]}`, `rules[0]: found a string, want an object`},
		{"a rule without protocol", `{"rules":[{"name":"a"}]}`, `rules[0]: has no "protocol"; name the one it is for, such as "websocket"`},
		{"a misspelled key in a rule", rule(`"pathprefix":"/"`), `rules[1].pathprefix: unknown key, did you mean "path_prefix"?`},
		{"a key in another case", rule(`"Cluster":"a"`), `rules[1].Cluster: unknown key, did you mean "cluster"?`},
		{"a protocol of another type", `{"rules":[{"protocol":1}]}`, `rules[0].protocol: found a number, want a string`},
		{"a protocol that is a list", `{"rules":[{"protocol":"a, b"}]}`, `rules[0].protocol: "a, b" is not a protocol name, optionally with "/" and a version`},
		{"a protocol without a name", `{"rules":[{"protocol":""}]}`, `rules[0].protocol: "" is not a protocol name, optionally with "/" and a version`},
		{"any protocol", `{"rules":[{"protocol":"*"}]}`, `rules[0].protocol: "*" is not a protocol; name the one this rule is for`},
		{"h2c", `{"rules":[{"protocol":"H2C"}]}`, `rules[0].protocol: "H2C" is never routed: servers ignore offers of h2c (RFC 9113 3.1) and TLS, and Envoy drops them`},
		{"TLS", `{"rules":[{"protocol":"tls/1.2"}]}`, `rules[0].protocol: "tls/1.2" is never routed: servers ignore offers of h2c (RFC 9113 3.1) and TLS, and Envoy drops them`},
		{"a name with a space", rule(`"name":"a b"`), `rules[1].name: "a b" is not a token; use letters, digits, "-", "_" and "."`},
		{"an empty name", rule(`"name":""`), `rules[1].name: "" is not a token; use letters, digits, "-", "_" and "."`},
		{"a name of another type", rule(`"name":null`), `rules[1].name: found null, want a string`},
		{"a name twice", rule(`"name":"websocket"`), `rules[1].name: "websocket" is the name of rules[0] already; give each rule a name of its own`},
		{"a relative prefix", rule(`"path_prefix":"ws"`), `rules[1].path_prefix: "ws" does not begin with "/"`},
		{"a prefix with a query", rule(`"path_prefix":"/a?b"`), `rules[1].path_prefix: "/a?b" can match no path: "?", "#", spaces and what is not ASCII do not occur in one`},
		{"a prefix that is not encoded", rule(`"path_prefix":"/ä"`), `rules[1].path_prefix: "/ä" can match no path: "?", "#", spaces and what is not ASCII do not occur in one`},
		{"an empty cluster", rule(`"cluster":""`), `rules[1].cluster: "" is not a cluster name; it is one or more visible ASCII characters`},
		{"a cluster with a line break", rule(`"cluster":"a\r\nb: c"`), `rules[1].cluster: "a\r\nb: c" is not a cluster name; it is one or more visible ASCII characters`},
		{"metadata of another type", `{"metadata":true}`, `metadata: found a boolean, want an object`},
		{"an unknown key in metadata", meta(`"routeheader":"a"`), `metadata.routeheader: unknown key, did you mean "route_header"?`},
		{"a pseudo-header", meta(`"route_header":":path"`), `metadata.route_header: ":path" is not a header field name in lower case`},
		{"upper case", meta(`"route_header":"X-Route"`), `metadata.route_header: "X-Route" is not a header field name in lower case`},
		{"a framing header in disguise", meta(`"cluster_header":"transfer_encoding"`), `metadata.cluster_header: "transfer_encoding" has a meaning of its own; choose a name that nobody else uses`},
		{"a header of the handshake", meta(`"cluster_header":"sec-websocket-key"`), `metadata.cluster_header: "sec-websocket-key" has a meaning of its own; choose a name that nobody else uses`},
		{"a helper header", meta(`"route_header":"x-upgrade-offered"`), `metadata.route_header: "x-upgrade-offered" has a meaning of its own; choose a name that nobody else uses`},
		{"one header for both", meta(`"route_header":"x-a-b","cluster_header":"x_a_b"`), `metadata.cluster_header: "x_a_b" is the name of route_header too`},
		{"one header and the other's default", meta(`"route_header":"x-upgrade-cluster"`), `metadata.cluster_header: "x-upgrade-cluster" is the name of route_header too`},
		{"a filter state with a colon", meta(`"filter_state":"a:b"`), `metadata.filter_state: "a:b" is not a key; use letters, digits, ".", "_" and "-"`},
		{"the first of several", `{"rules":[{"protocol":"a","x":1,"y":2},{"protocol":""}]}`, `rules[0].x: unknown key; known are "name", "protocol", "path_prefix", "cluster"`},

		{"a binary struct", "\n\x0e\n\x05rules", `line 2, column 1: found "\x0e", want a JSON value; a configuration is a JSON object, in Envoy as text in a google.protobuf.StringValue (a Struct arrives in binary)`},
		{"an end too early", `{"rules": [`, `line 1, column 12: found the end of the text, want a JSON value`},
		{"something behind the end", "{}\n {}", `line 2, column 2: found "{", want nothing more`},
		{"a comma too many", `{"rules":[],}`, `line 1, column 13: found "}", want a key in double quotes`},
		{"no comma", `{"rules":[] "metadata":{}}`, `line 1, column 13: found "\"", want "," or "}"`},
		{"no colon", `{"rules" []}`, `line 1, column 10: found "[", want ":"`},
		{"a comment", "{ // rules\n}", `line 1, column 3: found "/", want a key in double quotes`},
		{"a byte that is not UTF-8, counted in characters", "{\"ä\xff\"", `line 1, column 4: found byte 0xff, want UTF-8`},
		{"a line break in a string", "{\"a\nb\"", `line 1, column 4: found "\n", want control characters escaped in a string`},
		{"half a surrogate pair", `{"\ud800x"`, `line 1, column 3: unpaired surrogate in a string`},
		{"nesting without end", strings.Repeat(`{"a":`, 40), `line 1, column 161: nested deeper than 32 levels`},
		{"more text than any configuration has", `{"` + strings.Repeat("a", 256<<10), `longer than 262144 bytes`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := ParseConfig([]byte(tt.text))
			if err == nil {
				t.Fatalf("got %+v, want the error %s", c, tt.want)
			}
			if got := err.Error(); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if _, ok := err.(*ConfigError); !ok {
				t.Errorf("error is a %T, want a *ConfigError", err)
			}
		})
	}
}

// FuzzParseConfig holds the JSON reader against encoding/json: it takes no more, and understands the same; it takes less
// only for the reasons that parseJSON names. And what ParseConfig takes keeps its promises.
func FuzzParseConfig(f *testing.F) {
	for _, seed := range []string{
		`{"rules":[{"name":"a","protocol":"websocket","path_prefix":"/","cluster":"c"}],"metadata":{"route_header":"x","cluster_header":"","filter_state":"k"}}`,
		`[1, -0.5e+7, 1E400, true, false, null, "\u00e9\ud83d\ude00\"\\\/\b\f\n\r\t"]`, `{"a":1,"a":2}`, "\"\xff\"", `"\ud800"`, `01`, `-`, `[1,]`, "\x00", `nul`, `"\u12"`, `1.`, `.5`, `+1`,
		strings.Repeat("[", 33) + strings.Repeat("]", 33),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseJSON(text)
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.UseNumber()
		var want any
		wantErr := decoder.Decode(&want)
		if wantErr == nil {
			if _, more := decoder.Token(); !errors.Is(more, io.EOF) {
				wantErr = errors.New("something behind the value")
			}
		}
		switch {
		case err == nil && wantErr != nil:
			t.Fatalf("taken, but encoding/json says %v", wantErr)
		case err != nil && wantErr == nil:
			excused := false
			for _, reason := range []string{"second time", "nested deeper", "longer than", "want UTF-8", "unpaired surrogate"} {
				excused = excused || strings.Contains(err.Error(), reason)
			}
			if !excused {
				t.Fatalf("encoding/json takes it, but: %v", err)
			}
		case err == nil:
			if diff := cmp.Diff(want, plain(got)); diff != "" {
				t.Fatalf("(-encoding/json +parseJSON):\n%s", diff)
			}
		}

		c, err := ParseConfig([]byte(text))
		if err != nil {
			if e, ok := err.(*ConfigError); !ok || e.Problem == "" || strings.ContainsAny(err.Error(), "\n\r\x00") {
				t.Fatalf("%T: %q", err, err)
			}
			return
		}
		if len(bytes.TrimSpace([]byte(text))) > 0 && wantErr != nil || len(c.Rules) == 0 {
			t.Fatalf("%q gave %+v", text, c)
		}
		for _, r := range c.Rules {
			if !isToken(r.Name) || !isToken(r.Protocol.Name) || r.PathPrefix != "" && r.PathPrefix[0] != '/' || !isVisible(r.Cluster) {
				t.Fatalf("rule %+v", r)
			}
		}
	})
}

// plain returns v as encoding/json would.
func plain(v jsonValue) any {
	switch v.kind {
	case jsonNull:
		return nil
	case jsonBool:
		return v.text == "true"
	case jsonNumber:
		return json.Number(v.text)
	case jsonString:
		return v.text
	case jsonArray:
		list := []any{}
		for _, item := range v.items {
			list = append(list, plain(item))
		}
		return list
	default:
		object := map[string]any{}
		for _, m := range v.members {
			object[m.key] = plain(m.value)
		}
		return object
	}
}

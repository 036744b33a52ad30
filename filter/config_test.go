package filter

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// acceptedConfig is a configuration and what it means.
type acceptedConfig struct {
	name, text string
	want       Config
}

func acceptedConfigs() []acceptedConfig {
	metadata := Metadata{"x-upgrade-route", "x-upgrade-cluster", "switchyard.route"}
	websocket := []Rule{{Name: "websocket", Protocol: Protocol{Name: "websocket"}}}
	rules := func(rules ...Rule) Config { return Config{Rules: rules, Default: Ignore, Metadata: metadata} }
	meta := func(m Metadata) Config { return Config{Rules: websocket, Default: Ignore, Metadata: m} }
	return []acceptedConfig{
		{"nothing at all", "", meta(metadata)},
		{"whitespace", " \n", meta(metadata)},
		{"an empty object", "{}", meta(metadata)},
		{"a default and a check", `{"default":"refuse","handshake":"check"}`,
			Config{Rules: websocket, Default: Refuse, CheckHandshake: true, Metadata: metadata}},
		{"the defaults, said", `{"default":"ignore","handshake":"trust"}`, meta(metadata)},
		{"metadata without rules", `{"metadata":{"route_header":"x-route"}}`, meta(Metadata{"x-route", "x-upgrade-cluster", "switchyard.route"})},
		{"metadata switched off", `{"metadata":{"route_header":"","cluster_header":"","filter_state":""}}`, meta(Metadata{})},
		{"everything", `{"rules":[
			{"name":"Live_1-","protocol":"websocket","hosts":["A.example","*.b.example","[2001:DB8::1]","192.0.2.1"],"path_prefix":"/a/%2f",
			 "origins":["https://A.example:443","http://a.example:8080","https://*.a.example","*.c.example","null","same-origin","chrome-extension://abc","http://[::1]:80"],
			 "absent_origin":false,"subprotocols":["chat.v1","Chat"],"action":"route","cluster":"outbound|80||a.b"},
			{"protocol":"SPDY/3.1","path":"/x","action":"refuse","status":404},
			{"protocol":"h2c","action":"refuse"},
			{"protocol":"*","action":"ignore"}],
			"metadata":{"route_header":"x_r","cluster_header":"x-c.1","filter_state":"A.b_c-1"}}`,
			Config{Rules: []Rule{
				{Name: "Live_1-", Protocol: Protocol{Name: "websocket"}, Hosts: []string{"a.example", "*.b.example", "[2001:db8::1]", "192.0.2.1"}, PathPrefix: "/a/%2f",
					Origins: []Origin{{"https", "a.example", ""}, {"http", "a.example", "8080"}, {"https", "*.a.example", ""}, {"", "*.c.example", ""},
						{"null", "", ""}, {"same-origin", "", ""}, {"chrome-extension", "abc", ""}, {"http", "[::1]", ""}},
					Subprotocols: []string{"chat.v1", "Chat"}, Cluster: "outbound|80||a.b"},
				{Name: "spdy", Protocol: Protocol{"spdy", "3.1"}, Path: "/x", Action: Refuse, Status: 404},
				{Name: "h2c", Protocol: Protocol{Name: "h2c"}, Action: Refuse, Status: 403},
				{Name: "any", Protocol: Protocol{Name: "*"}, Action: Ignore},
			}, Default: Ignore, Metadata: Metadata{"x_r", "x-c.1", "A.b_c-1"}}},
		{"escapes in keys and values", `{"rules":[{"pr\u006ftocol":"\u0077ebsocket","path_prefix":"\/ws"}]}`,
			rules(Rule{Name: "websocket", Protocol: Protocol{Name: "websocket"}, PathPrefix: "/ws"})},
		{"an absent origin counts where a rule routes", `{"rules":[{"protocol":"websocket","origins":["null"]}]}`,
			rules(Rule{Name: "websocket", Protocol: Protocol{Name: "websocket"}, Origins: []Origin{{"null", "", ""}}, AbsentOrigin: true})},
		{"an absent origin does not count where a rule refuses", `{"rules":[{"protocol":"websocket","origins":["null"],"action":"refuse"}]}`,
			rules(Rule{Name: "websocket", Protocol: Protocol{Name: "websocket"}, Origins: []Origin{{"null", "", ""}}, Action: Refuse, Status: 403})},
		{"unless it says so", `{"rules":[{"protocol":"websocket","origins":["null"],"action":"refuse","absent_origin":true,"status":599}]}`,
			rules(Rule{Name: "websocket", Protocol: Protocol{Name: "websocket"}, Origins: []Origin{{"null", "", ""}}, AbsentOrigin: true, Action: Refuse, Status: 599})},
		{"subprotocols of any protocol", `{"rules":[{"protocol":"*","subprotocols":["a"]}]}`,
			rules(Rule{Name: "any", Protocol: Protocol{Name: "*"}, Subprotocols: []string{"a"}})},
		{"refusing h2c behind a rule that routes all but h2c", `{"rules":[{"protocol":"*"},{"protocol":"h2c","action":"refuse"}]}`,
			rules(Rule{Name: "any", Protocol: Protocol{Name: "*"}}, Rule{Name: "h2c", Protocol: Protocol{Name: "h2c"}, Action: Refuse, Status: 403})},
		{"a wider rule behind a narrower one", `{"rules":[{"name":"a","protocol":"websocket","path_prefix":"/a"},{"protocol":"websocket"}]}`,
			rules(Rule{Name: "a", Protocol: Protocol{Name: "websocket"}, PathPrefix: "/a"}, Rule{Name: "websocket", Protocol: Protocol{Name: "websocket"}})},
	}
}

func TestParseConfig(t *testing.T) {
	for _, tt := range acceptedConfigs() {
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

// refusedConfig is a configuration with a mistake. A JSON Schema cannot say all that ParseConfig refuses: how one rule or
// key relates to another, which header names have a meaning, or that a key stands twice. Those are marked beyondSchema.
type refusedConfig struct {
	name, text, want string
	beyondSchema     bool
}

func refusedConfigs() []refusedConfig {
	const beyondSchema = true
	rule := func(rest string) string {
		return `{"rules":[{"protocol":"websocket","path":"/"},{"protocol":"foo",` + rest + `}]}`
	}
	two := func(first, second string) string {
		return `{"rules":[{"name":"a","protocol":"websocket",` + first + `},{"name":"b","protocol":"websocket",` + second + `}]}`
	}
	meta := func(rest string) string { return `{"metadata":{` + rest + `}}` }
	const shadowed = `rules[1]: is never reached: rules[0] ("a") matches all that it would; put the narrower rule first, or remove one`
	const noOrigin = ` is no origin; it is scheme://host or scheme://host:port, with "*." and the end of a name for all hosts below it, "*." and that alone for all schemes and ports, "null" or "same-origin"`
	const noHost = ` is no host; it is a name, an IP address, or "*." and the end of a name (in ASCII, as "xn--...")`
	const noName = ` is no name; use 1 to 64 letters, digits, "-" and "_", and no "-" in front`
	const noProtocol = ` is not a protocol name, optionally with "/" and a version; use letters, digits, ".", "_", "+" and "-", or "*" for any protocol`
	const neverRouted = ` is never routed: servers ignore offers of h2c (RFC 9113 3.1) and TLS, and Envoy drops them`
	const allKeys = `"name", "protocol", "hosts", "path", "path_prefix", "origins", "absent_origin", "subprotocols", "action", "cluster", "status"`
	return []refusedConfig{
		{"an array", `[]`, `found an array, want an object`, false},
		{"a string", `"x"`, `found a string, want an object`, false},
		{"null", `null`, `found null, want an object`, false},
		{"an unknown key", `{"rule":[]}`, `rule: unknown key, did you mean "rules"?`, false},
		{"an unknown key like no other", `{"upstream":"check"}`, `upstream: unknown key; known are "rules", "default", "handshake", "metadata"`, false},
		{"an unknown key that is no word", `{"a b\n":1}`, `"a b\n": unknown key; known are "rules", "default", "handshake", "metadata"`, false},
		{"a key twice", `{"rules":[{"protocol":"a"}],` + "\n" + ` "rules":[{"protocol":"a"}]}`, `line 2, column 2: key "rules" stands here a second time`, beyondSchema},
		{"a default that routes", `{"default":"route"}`, `default: found "route", want one of "ignore", "refuse"`, false},
		{"a default of another type", `{"default":null}`, `default: found null, want a string`, false},
		{"a handshake neither checked nor trusted", `{"handshake":"Check"}`, `handshake: found "Check", want one of "trust", "check"`, false},
		{"rules of another type", `{"rules":{}}`, `rules: found an object, want an array`, false},
		{"no rule in rules", `{"rules":[]}`, `rules: is empty; leave it out for the default`, false},
		{"more rules than anybody has", `{"rules":[` + strings.Repeat(`{"protocol":"a"},`, 256) + `{"protocol":"a"}]}`, `rules: has 257 entries; at most 256 are taken`, false},
		{"a rule of another type", `{"rules":["websocket"]}`, `rules[0]: found a string, want an object`, false},
		{"a rule without protocol", `{"rules":[{"name":"a"}]}`, `rules[0]: has no "protocol"; name the one it is for, such as "websocket", or "*" for any`, false},
		{"a misspelled key in a rule", rule(`"pathprefix":"/"`), `rules[1].pathprefix: unknown key, did you mean "path_prefix"?`, false},
		{"a key in another case", rule(`"Cluster":"a"`), `rules[1].Cluster: unknown key, did you mean "cluster"?`, false},

		{"a protocol of another type", `{"rules":[{"protocol":1}]}`, `rules[0].protocol: found a number, want a string`, false},
		{"a protocol that is a list", `{"rules":[{"protocol":"a, b"}]}`, `rules[0].protocol: "a, b"` + noProtocol, false},
		{"a protocol without a name", `{"rules":[{"protocol":""}]}`, `rules[0].protocol: ""` + noProtocol, false},
		{"a protocol with a character that no protocol has", `{"rules":[{"protocol":"a|b"}]}`, `rules[0].protocol: "a|b"` + noProtocol, false},
		{"a version of any protocol", `{"rules":[{"protocol":"*/1"}]}`, `rules[0].protocol: "*/1"` + noProtocol, false},
		{"h2c", `{"rules":[{"protocol":"H2C"}]}`, `rules[0].protocol: "H2C"` + neverRouted, false},
		{"TLS", `{"rules":[{"protocol":"tls/1.2","action":"route"}]}`, `rules[0].protocol: "tls/1.2"` + neverRouted, false},

		{"a name with a space", rule(`"name":"a b"`), `rules[1].name: "a b"` + noName, false},
		{"a name with a dot, which counters are cut at", rule(`"name":"a.b"`), `rules[1].name: "a.b"` + noName, false},
		{"a name that looks like none", rule(`"name":"-"`), `rules[1].name: "-"` + noName, false},
		{"an empty name", rule(`"name":""`), `rules[1].name: ""` + noName, false},
		{"a long name", rule(`"name":"` + strings.Repeat("a", 65) + `"`), `rules[1].name: "` + strings.Repeat("a", 65) + `"` + noName, false},
		{"a name of another type", rule(`"name":null`), `rules[1].name: found null, want a string`, false},
		{"a name twice", rule(`"name":"websocket"`), `rules[1].name: "websocket" is the name of rules[0] already; give each rule a name of its own`, beyondSchema},
		{"a default name twice", `{"rules":[{"protocol":"websocket","path":"/a"},{"protocol":"WebSocket"}]}`,
			`rules[1].name: "websocket" is the name of rules[0] already; give each rule a name of its own`, beyondSchema},
		{"no name where the protocol's is none", `{"rules":[{"protocol":"a.b"}]}`, `rules[0]: has no "name", and that of its protocol is none; use letters, digits, "-" and "_"`, beyondSchema},

		{"hosts that are no list", rule(`"hosts":"a"`), `rules[1].hosts: found a string, want an array`, false},
		{"no host", rule(`"hosts":[]`), `rules[1].hosts: is empty; leave it out for the default`, false},
		{"more hosts than anybody has", rule(`"hosts":[` + strings.Repeat(`1,`, 256) + `1]`), `rules[1].hosts: has 257 entries; at most 256 are taken`, false},
		{"a host of another type", rule(`"hosts":["a",1]`), `rules[1].hosts[1]: found a number, want a string`, false},
		{"a host twice", rule(`"hosts":["a","a"]`), `rules[1].hosts[1]: "a" stands here a second time`, false},
		{"any host", rule(`"hosts":["*"]`), `rules[1].hosts[0]: "*" is any host; leave "hosts" out for that`, false},
		{"a host with a port", rule(`"hosts":["a.example:80"]`), `rules[1].hosts[0]: "a.example:80" has a port, which is not compared; leave it out`, false},
		{"a host with an empty port", rule(`"hosts":["a.example:"]`), `rules[1].hosts[0]: "a.example:" has a port, which is not compared; leave it out`, false},
		{"a host with a dot behind", rule(`"hosts":["a.example."]`), `rules[1].hosts[0]: "a.example." ends with a dot, which is not compared; leave it out`, false},
		{"an IPv6 address without brackets", rule(`"hosts":["::1"]`), `rules[1].hosts[0]: "::1" is an IPv6 address, which stands in brackets here`, false},
		{"a host with a scheme", rule(`"hosts":["http://a"]`), `rules[1].hosts[0]: "http://a"` + noHost, false},
		{"a host that is not encoded", rule(`"hosts":["ä.example"]`), `rules[1].hosts[0]: "ä.example"` + noHost, false},
		{"an empty host", rule(`"hosts":[""]`), `rules[1].hosts[0]: ""` + noHost, false},
		{"a wildcard within a name", rule(`"hosts":["a.*.b"]`), `rules[1].hosts[0]: "a.*.b"` + noHost, false},
		{"a wildcard that is not a label", rule(`"hosts":["*a.b"]`), `rules[1].hosts[0]: "*a.b"` + noHost, false},
		{"a wildcard of an address", rule(`"hosts":["*.[::1]"]`), `rules[1].hosts[0]: "*.[::1]"` + noHost, false},

		{"a relative path", rule(`"path":"ws"`), `rules[1].path: "ws" does not begin with "/"`, false},
		{"a relative prefix", rule(`"path_prefix":"ws"`), `rules[1].path_prefix: "ws" does not begin with "/"`, false},
		{"an empty prefix", rule(`"path_prefix":""`), `rules[1].path_prefix: "" does not begin with "/"`, false},
		{"a prefix with a query", rule(`"path_prefix":"/a?b"`), `rules[1].path_prefix: "/a?b" can match no path: "?", "#", spaces and what is not ASCII do not occur in one`, false},
		{"a path that is not encoded", rule(`"path":"/ä"`), `rules[1].path: "/ä" can match no path: "?", "#", spaces and what is not ASCII do not occur in one`, false},
		{"both kinds of path", rule(`"path":"/a","path_prefix":"/a"`), `rules[1].path: contradicts "path_prefix"; give one of the two`, false},

		{"any origin", rule(`"origins":["*"]`), `rules[1].origins[0]: "*" is any origin; leave "origins" out for that`, false},
		{"an origin without a scheme", rule(`"origins":["a.example"]`), `rules[1].origins[0]: "a.example"` + noOrigin, false},
		{"an origin with a path", rule(`"origins":["https://a.example/"]`), `rules[1].origins[0]: "https://a.example/"` + noOrigin, false},
		{"an origin with a user", rule(`"origins":["https://u@a.example"]`), `rules[1].origins[0]: "https://u@a.example"` + noOrigin, false},
		{"an origin without a host", rule(`"origins":["https://"]`), `rules[1].origins[0]: "https://"` + noOrigin, false},
		{"an origin with a scheme that is none", rule(`"origins":["1x://a"]`), `rules[1].origins[0]: "1x://a"` + noOrigin, false},
		{"a suffix with a port", rule(`"origins":["*.a:80"]`), `rules[1].origins[0]: "*.a:80"` + noOrigin, false},
		{"a word in another case", rule(`"origins":["Null"]`), `rules[1].origins[0]: "Null"` + noOrigin, false},
		{"origins that are no list", rule(`"origins":true`), `rules[1].origins: found a boolean, want an array`, false},
		{"an absent origin of no origins", rule(`"absent_origin":true`), `rules[1].absent_origin: does nothing without "origins"`, false},
		{"an absent origin of another type", rule(`"origins":["null"],"absent_origin":"no"`), `rules[1].absent_origin: found a string, want true or false`, false},

		{"a subprotocol that is a list", `{"rules":[{"protocol":"websocket","subprotocols":["a, b"]}]}`, `rules[0].subprotocols[0]: "a, b" is not a token`, false},
		{"subprotocols of another protocol", rule(`"subprotocols":["a"]`), `rules[1].subprotocols: contradicts "foo": only a websocket has subprotocols`, false},

		{"an action that is none", rule(`"action":"deny"`), `rules[1].action: found "deny", want one of "route", "refuse", "ignore"`, false},
		{"a cluster of what is refused", rule(`"action":"refuse","cluster":"a"`), `rules[1].cluster: contradicts action "refuse": only what is routed has a cluster`, false},
		{"a cluster of what is ignored", rule(`"action":"ignore","cluster":"a"`), `rules[1].cluster: contradicts action "ignore": only what is routed has a cluster`, false},
		{"a cluster without a header for it", `{"metadata":{"cluster_header":""},"rules":[{"protocol":"foo","cluster":"a"}]}`,
			`rules[0].cluster: does nothing, as metadata.cluster_header is switched off`, beyondSchema},
		{"an empty cluster", rule(`"cluster":""`), `rules[1].cluster: "" is not a cluster name; it is one or more visible ASCII characters`, false},
		{"a cluster with a line break", rule(`"cluster":"a\r\nb: c"`), `rules[1].cluster: "a\r\nb: c" is not a cluster name; it is one or more visible ASCII characters`, false},
		{"a status of what is routed", rule(`"status":403`), `rules[1].status: contradicts action "route": only "refuse" has a status`, false},
		{"a status of what is ignored", rule(`"action":"ignore","status":403`), `rules[1].status: contradicts action "ignore": only "refuse" has a status`, false},
		{"a status that is no refusal", rule(`"action":"refuse","status":200`), `rules[1].status: 200 is no status of a refusal; it is a whole number from 400 to 599`, false},
		{"a status that is none", rule(`"action":"refuse","status":600`), `rules[1].status: 600 is no status of a refusal; it is a whole number from 400 to 599`, false},
		{"a status with a fraction", rule(`"action":"refuse","status":403.5`), `rules[1].status: 403.5 is no status of a refusal; it is a whole number from 400 to 599`, false},
		{"a status as text", rule(`"action":"refuse","status":"403"`), `rules[1].status: found a string, want a number`, false},

		{"the same rule twice", two(`"path":"/"`, `"path":"/"`), shadowed, beyondSchema},
		{"any protocol before one", `{"rules":[{"name":"a","protocol":"*"},{"protocol":"foo"}]}`, shadowed, beyondSchema},
		{"refusing all before refusing h2c", `{"rules":[{"name":"a","protocol":"*","action":"refuse"},{"protocol":"h2c","action":"ignore"}]}`, shadowed, beyondSchema},
		{"any version before one", `{"rules":[{"name":"a","protocol":"foo"},{"protocol":"foo/1","name":"b"}]}`, shadowed, beyondSchema},
		{"any path before one", two(`"hosts":["a"]`, `"hosts":["a"],"path":"/a"`), shadowed, beyondSchema},
		{"a prefix before a path below", two(`"path_prefix":"/a"`, `"path":"/ab"`), shadowed, beyondSchema},
		{"a prefix before a longer one", two(`"path_prefix":"/a"`, `"path_prefix":"/a/"`), shadowed, beyondSchema},
		{"a suffix before a host below", two(`"hosts":["*.a.b","c"]`, `"hosts":["x.A.b","*.y.a.b","c"]`), shadowed, beyondSchema},
		{"a suffix before an origin below", two(`"origins":["*.a","null"]`, `"origins":["https://x.a:1","https://*.x.a","null"]`), shadowed, beyondSchema},
		{"a suffix with scheme before an origin below", two(`"origins":["https://*.a"]`, `"origins":["https://x.a:443"],"absent_origin":false`), shadowed, beyondSchema},
		{"subprotocols before one of them", two(`"subprotocols":["x","y"]`, `"subprotocols":["y"],"action":"refuse"`), shadowed, beyondSchema},

		{"metadata of another type", `{"metadata":true}`, `metadata: found a boolean, want an object`, false},
		{"an unknown key in metadata", meta(`"routeheader":"a"`), `metadata.routeheader: unknown key, did you mean "route_header"?`, false},
		{"a pseudo-header", meta(`"route_header":":path"`), `metadata.route_header: ":path" is not a header field name in lower case`, false},
		{"upper case", meta(`"route_header":"X-Route"`), `metadata.route_header: "X-Route" is not a header field name in lower case`, false},
		{"a framing header in disguise", meta(`"cluster_header":"transfer_encoding"`), `metadata.cluster_header: "transfer_encoding" has a meaning of its own; choose a name that nobody else uses`, beyondSchema},
		{"a header of the handshake", meta(`"cluster_header":"sec-websocket-key"`), `metadata.cluster_header: "sec-websocket-key" has a meaning of its own; choose a name that nobody else uses`, beyondSchema},
		{"a helper header", meta(`"route_header":"x-upgrade-offered"`), `metadata.route_header: "x-upgrade-offered" has a meaning of its own; choose a name that nobody else uses`, beyondSchema},
		{"one header for both", meta(`"route_header":"x-a-b","cluster_header":"x_a_b"`), `metadata.cluster_header: "x_a_b" is the name of route_header too`, beyondSchema},
		{"one header and the other's default", meta(`"route_header":"x-upgrade-cluster"`), `metadata.cluster_header: "x-upgrade-cluster" is the name of route_header too`, beyondSchema},
		{"a filter state with a colon", meta(`"filter_state":"a:b"`), `metadata.filter_state: "a:b" is not a key; use letters, digits, ".", "_" and "-"`, false},
		{"the first of several", `{"rules":[{"protocol":"a","x":1,"y":2},{"protocol":""}]}`, `rules[0].x: unknown key; known are ` + allKeys, false},

		{"a binary struct", "\n\x0e\n\x05rules", `line 2, column 1: found "\x0e", want a JSON value; a configuration is a JSON object, in Envoy as text in a google.protobuf.StringValue (a Struct arrives in binary)`, false},
		{"an end too early", `{"rules": [`, `line 1, column 12: found the end of the text, want a JSON value`, false},
		{"something behind the end", "{}\n {}", `line 2, column 2: found "{", want nothing more`, false},
		{"a comma too many", `{"rules":[],}`, `line 1, column 13: found "}", want a key in double quotes`, false},
		{"no comma", `{"rules":[] "metadata":{}}`, `line 1, column 13: found "\"", want "," or "}"`, false},
		{"no colon", `{"rules" []}`, `line 1, column 10: found "[", want ":"`, false},
		{"a comment", "{ // rules\n}", `line 1, column 3: found "/", want a key in double quotes`, false},
		{"a byte that is not UTF-8, counted in characters", "{\"ä\xff\"", `line 1, column 4: found byte 0xff, want UTF-8`, false},
		{"a line break in a string", "{\"a\nb\"", `line 1, column 4: found "\n", want control characters escaped in a string`, false},
		{"half a surrogate pair", `{"\ud800x"`, `line 1, column 3: unpaired surrogate in a string`, false},
		{"nesting without end", strings.Repeat(`{"a":`, 40), `line 1, column 161: nested deeper than 32 levels`, false},
		{"more text than any configuration has", `{"` + strings.Repeat("a", 256<<10), `longer than 262144 bytes`, false},
	}
}

func TestParseConfigRefuses(t *testing.T) {
	for _, tt := range refusedConfigs() {
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

// Rules that differ so that each can be reached, though they look alike.
func TestRulesThatAreNotShadowed(t *testing.T) {
	for _, tt := range []struct{ name, first, second string }{
		{"a path and a longer one", `"path":"/a"`, `"path":"/a/"`},
		{"a path and the prefix", `"path":"/a"`, `"path_prefix":"/a"`},
		{"prefixes side by side", `"path_prefix":"/a/"`, `"path_prefix":"/a"`},
		{"some hosts and all", `"hosts":["a"]`, `"path":"/"`},
		{"a suffix and the name itself", `"hosts":["*.a"]`, `"hosts":["a"]`},
		{"a suffix of characters, not labels", `"hosts":["*.a"]`, `"hosts":["xa"]`},
		{"one of two hosts", `"hosts":["a"]`, `"hosts":["a","b"]`},
		{"schemes", `"origins":["https://a"]`, `"origins":["http://a"]`},
		{"ports", `"origins":["https://*.a"]`, `"origins":["https://x.a:8443"]`},
		{"one scheme and all", `"origins":["https://*.a"]`, `"origins":["*.a"]`},
		{"an absent origin", `"origins":["*.a"],"absent_origin":false`, `"origins":["*.a"]`},
		{"same-origin and a suffix", `"origins":["*.a"]`, `"origins":["same-origin"]`},
		{"some subprotocols and all", `"subprotocols":["x"]`, `"path":"/"`},
		{"subprotocols in another case", `"subprotocols":["x"]`, `"subprotocols":["X"]`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mustParse(t, `{"rules":[{"name":"a","protocol":"websocket",`+tt.first+`},{"name":"b","protocol":"websocket",`+tt.second+`}]}`)
		})
	}
	mustParse(t, `{"rules":[{"name":"a","protocol":"foo/1"},{"name":"b","protocol":"foo"},{"protocol":"*"}]}`)
}

// FuzzParseConfig holds the JSON reader against encoding/json: it takes no more, and understands the same; it takes less
// only for the reasons that parseJSON names. And what ParseConfig takes, the schema takes too, and it keeps its promises.
func FuzzParseConfig(f *testing.F) {
	for _, seed := range []string{
		`{"rules":[{"name":"a","protocol":"websocket","path_prefix":"/","cluster":"c"}],"metadata":{"route_header":"x","cluster_header":"","filter_state":"k"}}`,
		`[1, -0.5e+7, 1E400, true, false, null, "\u00e9\ud83d\ude00\"\\\/\b\f\n\r\t"]`, `{"a":1,"a":2}`, "\"\xff\"", `"\ud800"`, `01`, `-`, `[1,]`, "\x00", `nul`, `"\u12"`, `1.`, `.5`, `+1`,
		strings.Repeat("[", 33) + strings.Repeat("]", 33),
	} {
		f.Add(seed)
	}
	for _, c := range acceptedConfigs() {
		f.Add(c.text)
	}
	for _, c := range refusedConfigs() {
		if len(c.text) < 1000 {
			f.Add(c.text)
		}
	}
	schema := readSchema(f)
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
			// Not cmp.Diff, which takes twice as long for each level of nesting.
			if got := plain(got); !reflect.DeepEqual(got, want) {
				t.Fatalf("parseJSON gives %v, encoding/json %v", got, want)
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
		if !schema.takesText(text) {
			t.Fatalf("the schema refuses %q", text)
		}
		for i, r := range c.Rules {
			if !isRuleName(r.Name) || !isToken(r.Protocol.Name) || !isVisible(r.Path+r.PathPrefix+r.Cluster) || r.Path != "" && r.PathPrefix != "" ||
				(r.Action == Refuse) != (r.Status != 0) || r.Action == Route && neverRouted(r.Protocol) {
				t.Fatalf("rule %+v", r)
			}
			for j := range i {
				if c.Rules[j].Name == r.Name || c.Rules[j].covers(&r) {
					t.Fatalf("rules[%d] is reached by nothing, or called like rules[%d]", i, j)
				}
			}
			if !r.covers(&r) {
				t.Fatalf("rule %+v does not cover itself", r)
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

package filter

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http/httpguts"
)

func mustParse(t testing.TB, text string) *Config {
	t.Helper()
	c, err := ParseConfig([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// outcome is what a Decision does, flat, for comparing.
type outcome struct {
	Reason      Reason
	Rule        string
	Protocol    string
	Status      int
	FilterState string
	Mutations   []Mutation
}

func outcomeOf(d Decision) outcome {
	o := outcome{Reason: d.Reason, Status: d.Status, FilterState: d.FilterState, Mutations: d.Mutations}
	if d.Routed {
		o.Rule, o.Protocol = d.Rule.Name, d.Protocol.String()
	}
	return o
}

func TestDecide(t *testing.T) {
	const three = `{"rules": [
		{"name": "live", "protocol": "WebSocket", "path_prefix": "/live/", "cluster": "live-cluster"},
		{"protocol": "spdy/3.1", "cluster": "kube"},
		{"protocol": "websocket"}]}`
	route := func(name string) Mutation { return Mutation{Set, "x-upgrade-route", name} }
	cluster := func(name string) Mutation { return Mutation{Set, "x-upgrade-cluster", name} }
	for _, tt := range []struct {
		name, config string
		lines        []string
		want         outcome
	}{
		{"a page is left alone", ``, []string{":method: GET", ":path: /", "accept: */*"}, outcome{Reason: NoUpgrade}},
		{"a canonical handshake gets the route header only", ``, []string{":path: /", "connection: Upgrade", "upgrade: websocket"},
			outcome{Offered, "websocket", "websocket", 0, "switchyard.route", []Mutation{route("websocket")}}},
		{"other spellings become canonical", ``, []string{":path: /", "connection: keep-alive, upgrade", "upgrade: WebSocket"},
			outcome{Offered, "websocket", "WebSocket", 0, "switchyard.route",
				[]Mutation{route("websocket"), {Set, "connection", "Upgrade"}, {Set, "upgrade", "websocket"}}}},
		{"of a list the chosen protocol remains", ``, []string{":path: /", "connection: Upgrade", "upgrade: h2c, websocket/13"},
			outcome{Offered, "websocket", "websocket/13", 0, "switchyard.route",
				[]Mutation{route("websocket"), {Set, "upgrade", "websocket"}}}},
		{"several lines are removed before one is set", ``,
			[]string{":path: /", "connection: keep-alive", "connection: Upgrade", "upgrade: h2c", "upgrade: websocket"},
			outcome{Offered, "websocket", "websocket", 0, "switchyard.route", []Mutation{route("websocket"),
				{Remove, "connection", ""}, {Set, "connection", "Upgrade"}, {Remove, "upgrade", ""}, {Set, "upgrade", "websocket"}}}},
		{"an extended CONNECT has neither field", ``, []string{":method: CONNECT", ":protocol: websocket", ":path: /x"},
			outcome{Offered, "websocket", "websocket", 0, "switchyard.route", []Mutation{route("websocket")}}},

		{"the first rule that matches wins, and its cluster is named", three, []string{":path: /live/1?a=/b", "connection: Upgrade", "upgrade: websocket"},
			outcome{Offered, "live", "websocket", 0, "switchyard.route", []Mutation{route("live"), cluster("live-cluster")}}},
		{"a prefix is bytes, with case", three, []string{":path: /Live/1", "connection: Upgrade", "upgrade: websocket"},
			outcome{Offered, "websocket", "websocket", 0, "switchyard.route", []Mutation{route("websocket")}}},
		{"the query is no part of the path", three, []string{":path: /?/live/", "connection: Upgrade", "upgrade: websocket"},
			outcome{Offered, "websocket", "websocket", 0, "switchyard.route", []Mutation{route("websocket")}}},
		{"the order of rules counts, not that of offers", three, []string{":path: /live/", "connection: Upgrade", "upgrade: SPDY/3.1, websocket"},
			outcome{Offered, "live", "websocket", 0, "switchyard.route",
				[]Mutation{route("live"), cluster("live-cluster"), {Set, "upgrade", "websocket"}}}},
		{"a protocol with a version keeps its spelling", three, []string{":path: /", "connection: Upgrade", "upgrade: SPDY/3.1"},
			outcome{Offered, "spdy", "SPDY/3.1", 0, "switchyard.route", []Mutation{route("spdy"), cluster("kube")}}},
		{"another version is another protocol", three, []string{":path: /", "connection: Upgrade", "upgrade: SPDY/3"}, outcome{Reason: NoRule}},
		{"no version is another protocol too", three, []string{":path: /", "connection: Upgrade", "upgrade: SPDY"}, outcome{Reason: NoRule}},
		{"a protocol that no rule names is ignored", ``, []string{":path: /", "connection: Upgrade", "upgrade: websocket2, h2c"}, outcome{Reason: NoRule}},
		{"a path that no rule names is ignored", `{"rules":[{"protocol":"websocket","path_prefix":"/ws"}]}`,
			[]string{":path: /w", "connection: Upgrade", "upgrade: websocket"}, outcome{Reason: NoRule}},
		{"/ws is a prefix of /wsx", `{"rules":[{"protocol":"websocket","path_prefix":"/ws"}]}`,
			[]string{":path: /wsx", "connection: Upgrade", "upgrade: websocket"},
			outcome{Offered, "websocket", "websocket", 0, "switchyard.route", []Mutation{route("websocket")}}},

		{"an ill-formed list is refused", ``, []string{":path: /", "connection: Upgrade", `upgrade: "foo, websocket, bar"`},
			outcome{Reason: MalformedUpgrade, Status: 400}},
		{"content is refused", ``, []string{":path: /", "connection: Upgrade", "upgrade: websocket", "content-length: 1"},
			outcome{Reason: UpgradeWithBody, Status: 400}},

		{"a page's copies of the metadata are removed, once for each spelling", ``,
			[]string{":path: /", "x-upgrade-route: websocket", "X-Upgrade-Route: websocket", "x_upgrade_route: websocket", "x-upgrade_cluster: c", "x-upgrade-routes: kept"},
			outcome{Reason: NoUpgrade, Mutations: []Mutation{{Remove, "x-upgrade-route", ""}, {Remove, "x_upgrade_route", ""}, {Remove, "x-upgrade_cluster", ""}}}},
		{"so are those of an upgrade that is not nominated", ``, []string{":path: /", "connection: close", "upgrade: websocket", "x-upgrade-route: websocket"},
			outcome{Reason: NotNominated, Mutations: []Mutation{{Remove, "x-upgrade-route", ""}}}},
		{"so are those of an upgrade no rule wants", ``, []string{":path: /", "connection: Upgrade", "upgrade: foo", "x-upgrade-route: websocket"},
			outcome{Reason: NoRule, Mutations: []Mutation{{Remove, "x-upgrade-route", ""}}}},
		{"a routed upgrade's copies go before the header is set", ``, []string{":path: /", "connection: Upgrade", "upgrade: websocket", "x-upgrade-route: web", "x-upgrade-cluster: web"},
			outcome{Offered, "websocket", "websocket", 0, "switchyard.route",
				[]Mutation{{Remove, "x-upgrade-route", ""}, {Remove, "x-upgrade-cluster", ""}, route("websocket")}}},

		{"a rule that refuses", `{"rules":[{"protocol":"websocket","path":"/admin","action":"refuse"}]}`, []string{":path: /admin", "connection: Upgrade", "upgrade: websocket", "x-upgrade-route: 1"},
			outcome{Reason: RefusedByRule, Status: 403}},
		{"with a status of its own", `{"rules":[{"protocol":"websocket","action":"refuse","status":503}]}`, []string{":path: /", "connection: Upgrade", "upgrade: websocket"},
			outcome{Reason: RefusedByRule, Status: 503}},
		{"a rule that ignores leaves the upgrade one", `{"rules":[{"protocol":"websocket","action":"ignore"}]}`, []string{":path: /", "connection: keep-alive, Upgrade", "upgrade: h2c, websocket", "x-upgrade-route: 1"},
			outcome{Reason: IgnoredByRule, Mutations: []Mutation{{Remove, "x-upgrade-route", ""}}}},
		{"what no rule wants is refused if so said", `{"default":"refuse"}`, []string{":path: /", "connection: Upgrade", "upgrade: foo"}, outcome{Reason: NoRule, Status: 403}},
		{"h2c as well", `{"default":"refuse"}`, []string{":path: /", "connection: Upgrade", "upgrade: h2c"}, outcome{Reason: NoRule, Status: 403}},
		{"but no page", `{"default":"refuse"}`, []string{":path: /", "connection: keep-alive", "upgrade: foo"}, outcome{Reason: NotNominated}},
		{"a hundred offers", ``, []string{":path: /", "connection: Upgrade", "upgrade: " + strings.Repeat("a,", 99) + "websocket"},
			outcome{Offered, "websocket", "websocket", 0, "switchyard.route", []Mutation{route("websocket"), {Set, "upgrade", "websocket"}}}},
		{"and one more", ``, []string{":path: /", "connection: Upgrade", "upgrade: " + strings.Repeat("a,", 100) + "websocket"}, outcome{Reason: TooManyElements, Status: 431}},
		{"more subprotocols than that, where a rule asks", `{"rules":[{"protocol":"websocket","subprotocols":["a"]}]}`,
			[]string{":path: /", "connection: Upgrade", "upgrade: websocket", "sec-websocket-protocol: " + strings.Repeat("a,", 101)}, outcome{Reason: TooManyElements, Status: 431}},
		{"and where none does", ``, []string{":path: /", "connection: Upgrade", "upgrade: websocket", "sec-websocket-protocol: " + strings.Repeat("a,", 101)},
			outcome{Offered, "websocket", "websocket", 0, "switchyard.route", []Mutation{route("websocket")}}},

		{"headers can be renamed", `{"metadata":{"route_header":"x-r","cluster_header":"x-c","filter_state":"k"},"rules":[{"protocol":"websocket","cluster":"c"}]}`,
			[]string{":path: /", "connection: Upgrade", "upgrade: websocket", "x_r: 1", "x-upgrade-route: 1"},
			outcome{Offered, "websocket", "websocket", 0, "k", []Mutation{{Remove, "x_r", ""}, {Set, "x-r", "websocket"}, {Set, "x-c", "c"}}}},
		{"all metadata can be switched off", `{"metadata":{"route_header":"","cluster_header":"","filter_state":""}}`,
			[]string{":path: /", "connection: Upgrade", "upgrade: websocket", "x-upgrade-route: 1", ": x"},
			outcome{Offered, "websocket", "websocket", 0, "", nil}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := Decide(mustParse(t, tt.config), Request{Headers: fields(tt.lines...)})
			if diff := cmp.Diff(tt.want, outcomeOf(d)); diff != "" {
				t.Errorf("decision (-want +got):\n%s", diff)
			}
			if refused := d.Status != 0; refused != strings.HasPrefix(d.Body, string(d.Reason)+": ") || refused && strings.Index(d.Body, "\n") != len(d.Body)-1 {
				t.Errorf("status %d has body %q, want one line that begins with the reason if refused", d.Status, d.Body)
			}
		})
	}
}

func TestTheRuleThatCameClosestIsLogged(t *testing.T) {
	const config = `{"rules":[
		{"name":"api","protocol":"websocket","path_prefix":"/api/","subprotocols":["v2"],"origins":["same-origin"]},
		{"name":"live","protocol":"websocket","path":"/live","hosts":["a.example"]},
		{"name":"guard","protocol":"websocket","path":"/live","action":"refuse"},
		{"protocol":"spdy"}]}`
	for _, tt := range []struct{ name, path, lines, want string }{
		{"by its path", "/", "", "reason=no_rule route=- cluster=- protocol=websocket path=/ missed=api.path_prefix"},
		{"by its subprotocols", "/api/", "", "reason=no_rule route=- cluster=- protocol=websocket path=/api/ missed=api.subprotocols"},
		{"by its origins", "/api/", "sec-websocket-protocol: v2\norigin: https://evil", "reason=no_rule route=- cluster=- protocol=websocket path=/api/ missed=api.origins"},
		{"before one that refuses", "/live", "", "reason=refused_by_rule route=- cluster=- protocol=websocket path=/live rule=guard missed=live.hosts status=403"},
		{"not before one that routes", "/live", ":authority: a.example", "reason=offered route=live cluster=- protocol=websocket path=/live"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := upgrade(":path: " + tt.path)
			if tt.lines != "" {
				h = append(h, fields(strings.Split(tt.lines, "\n")...)...)
			}
			if got := Decide(mustParse(t, config), Request{Headers: h}).String(); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestSpoofable(t *testing.T) {
	for config, want := range map[string][]string{
		``: {"x-upgrade-route", "x-upgrade-cluster"},
		`{"metadata":{"route_header":"","cluster_header":"x-c"}}`: {"x-c"},
		`{"metadata":{"route_header":"","cluster_header":""}}`:    nil,
	} {
		if diff := cmp.Diff(want, mustParse(t, config).Spoofable()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", config, diff)
		}
	}
}

func TestDecisionAsLogLine(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lines []string
		want  string
	}{
		{"routed", []string{":path: /live?token=secret", "connection: Upgrade", "upgrade: h2c, WebSocket"},
			`reason=offered route=websocket cluster=c protocol=WebSocket path=/live`},
		{"plain", []string{":path: /"}, `reason=no_upgrade route=- cluster=- protocol=- path=/`},
		{"no rule", []string{":path: /", "connection: Upgrade", "upgrade: foo/1"}, `reason=no_rule route=- cluster=- protocol=foo/1 path=/`},
		{"query and fragment are not shown", []string{":path: /a#b?c"}, `reason=no_upgrade route=- cluster=- protocol=- path=/a`},
		{"what a client wrote cannot look like another line or key", []string{":path: /a\nreason=x \"", "connection: Upgrade", "upgrade: a\x1b[0m\u00a0"},
			`reason=malformed_upgrade route=- cluster=- protocol="a\x1b[0m\u00a0" path="/a\nreason=x \"" status=400`},
		{"bytes beyond ASCII are quoted", []string{":path: /\u00e4", "connection: Upgrade", "upgrade: \x7f"},
			`reason=malformed_upgrade route=- cluster=- protocol="\x7f" path="/\u00e4" status=400`},
		{"a path without end is cut", []string{":path: /" + strings.Repeat("x", 300)}, `reason=no_upgrade route=- cluster=- protocol=- path=/` + strings.Repeat("x", 199) + `...`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Decide(mustParse(t, `{"rules":[{"protocol":"websocket","cluster":"c"}]}`), Request{Headers: fields(tt.lines...)}).String(); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// page is a plain request as a browser sends it and Envoy shows it.
func page() HeaderMap {
	return fields(":authority: localhost", ":path: /index.html?a=b", ":method: GET", ":scheme: http", "user-agent: Mozilla/5.0",
		"accept: */*", "accept-language: en", "accept-encoding: gzip, deflate, br", "cookie: a=b; c=d", "cache-control: no-cache",
		"x-forwarded-proto: http", "x-request-id: 0f6b1d9e")
}

// handshake is Firefox's classic opening handshake.
func handshake() HeaderMap {
	return append(page(), fields("connection: keep-alive, Upgrade", "upgrade: websocket", "origin: http://localhost",
		"sec-websocket-version: 13", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==")...)
}

func TestAPlainRequestAllocatesNothing(t *testing.T) {
	c, h, upgrade := mustParse(t, ""), page(), handshake()
	full := mustParse(t, `{"default":"refuse","handshake":"check","rules":[{"protocol":"*","hosts":["*.a"],"origins":["same-origin"]}]}`)
	never := func() string { t.Error("asked for the version"); return "" }
	for _, tt := range []struct {
		name string
		do   func()
	}{
		{"Decide on a page", func() { Decide(c, Request{Headers: h, Version: never}) }},
		{"Decide on a page where rules ask for much", func() { Decide(full, Request{Headers: h, Version: never}) }},
		{"Classify on a handshake", func() { Classify(upgrade) }},
	} {
		if n := testing.AllocsPerRun(100, tt.do); n != 0 {
			t.Errorf("%s: %v allocations, want none", tt.name, n)
		}
	}
}

// applied carries out mutations as a host does.
func applied(h HeaderMap, mutations []Mutation) HeaderMap {
	h = append(HeaderMap(nil), h...)
	for _, m := range mutations {
		kept := h[:0]
		for _, f := range h {
			if !strings.EqualFold(f.Name, m.Name) {
				kept = append(kept, f)
			}
		}
		if h = kept; m.Op == Set {
			h = append(h, Field{m.Name, m.Value})
		}
	}
	return h
}

// FuzzDecide takes two lines for each field and an additional field of any name, and checks what must hold of all.
func FuzzDecide(f *testing.F) {
	f.Add("keep-alive", "Upgrade", "h2c", "websocket", "/live/x", "x_upgrade-route", "websocket")
	f.Add("upgrade", "", "spdy/3.1", "", "/", "x-upgrade-offered", "\"a")
	f.Add("upgrade", "", "websocket", ",", "/live/?", "x-upgrade-framing", "chunked")
	f.Add("upgrade", "", "foo", "", "/live/?", "x-upgrade-offered", "websocket")
	c := mustParse(f, `{"rules":[{"name":"live","protocol":"websocket","path_prefix":"/live/","cluster":"l"},{"protocol":"spdy/3.1"},{"protocol":"websocket"}]}`)
	f.Fuzz(func(t *testing.T, conn1, conn2, up1, up2, path, name, value string) {
		h := HeaderMap{{":path", path}, {"connection", conn1}, {"upgrade", up1}, {"connection", conn2}, {"upgrade", up2}}
		d := Decide(c, Request{Headers: h})
		_ = d.String()

		// The same with every element in a line of its own, other case, and more space.
		respelled := HeaderMap{{":path", path}}
		for _, field := range h[1:] {
			for _, element := range strings.Split(field.Value, ",") {
				element = strings.Map(func(r rune) rune {
					if 'a' <= r && r <= 'z' {
						return r - 32
					}
					return r
				}, element)
				respelled = append(respelled, Field{strings.ToUpper(field.Name), "\t " + element + " \t,"})
			}
		}
		if again := Decide(c, Request{Headers: respelled}); again.Reason != d.Reason || again.Rule != d.Rule || again.Status != d.Status {
			t.Fatalf("%v\nrespelled: %v", d, again)
		}

		// A further field, helpers included, makes no upgrade out of what is none. (A further Connection or Upgrade may.)
		more := append(append(HeaderMap(nil), h...), Field{name, value})
		e := Decide(c, Request{Headers: more})
		for _, own := range []string{":path", ":method", ":protocol", "connection", "upgrade"} {
			if equalFold(name, own) {
				return
			}
		}
		if !d.Routed && e.Routed {
			t.Fatalf("not routed: %v\nrouted with %s: %s: %v", d, name, value, e)
		}
		for _, helper := range []string{OfferedHeader, FramingHeader} {
			if !d.Routed && Decide(c, Request{Headers: append(append(HeaderMap(nil), h...), Field{helper, value})}).Routed {
				t.Fatalf("a helper header routed %v", d)
			}
		}

		// Metadata headers are there once, in one spelling, with our value; or not at all.
		if e.Status != 0 {
			return
		}
		after := applied(more, e.Mutations)
		for _, own := range []string{c.Metadata.RouteHeader, c.Metadata.ClusterHeader} {
			want := ""
			if e.Routed && own == c.Metadata.RouteHeader {
				want = e.Rule.Name
			} else if e.Routed {
				want = e.Rule.Cluster
			}
			got := ""
			for _, field := range after {
				if strings.ReplaceAll(strings.ToLower(field.Name), "_", "-") == own {
					got += field.Value
				}
			}
			if got != want {
				t.Fatalf("%s: %q, want %q after %v", own, got, want, e.Mutations)
			}
		}
		if e.Routed && (after.Count("connection") != 1 || after.Count("upgrade") != 1 || len(collect(after, "upgrade")) != 1) {
			t.Fatalf("upstream would see %v", after)
		}
	})
}

func BenchmarkDecide(b *testing.B) {
	c := mustParse(b, "")
	full := mustParse(b, `{"default":"refuse","handshake":"check","rules":[
		{"name":"live","protocol":"websocket","path_prefix":"/live/","origins":["same-origin","https://*.a.example"],"cluster":"live"},
		{"protocol":"spdy/3.1"},{"name":"admin","protocol":"*","path_prefix":"/admin/","action":"refuse"},
		{"protocol":"websocket","hosts":["localhost","*.a.example"],"origins":["same-origin"]}]}`)
	for _, bb := range []struct {
		name string
		c    *Config
		h    HeaderMap
	}{{"page", c, page()}, {"handshake", c, handshake()}, {"page, four rules", full, page()}, {"handshake, four rules", full, handshake()}} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Decide(bb.c, Request{Headers: bb.h})
			}
		})
	}
}

// BenchmarkContainsToken compares what ContainsToken does for a field line with the function of golang.org/x/net that answers
// the same.
func BenchmarkContainsToken(b *testing.B) {
	for _, line := range []string{"Upgrade", "keep-alive, Upgrade", "keep-alive",
		"a, b, c, keep-alive, foo, bar, close, x-forwarded-for, te, Upgrade"} {
		lines := []string{line}
		b.Run("filter/"+line, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				lineContainsToken(lines[0], "upgrade")
			}
		})
		b.Run("httpguts/"+line, func(b *testing.B) {
			for b.Loop() {
				httpguts.HeaderValuesContainsToken(lines, "upgrade")
			}
		})
	}
}

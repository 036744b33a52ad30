package filter

import (
	"net/url"
	"strings"
	"testing"
)

// upgrade returns an upgrade to websocket with further lines.
func upgrade(lines ...string) HeaderMap {
	return append(fields(":method: GET", "connection: Upgrade", "upgrade: websocket"), fields(lines...)...)
}

// A rule with one key beside its protocol, and which requests it matches.
func TestRulesMatch(t *testing.T) {
	for _, tt := range []struct {
		name, key string
		lines     []string
		want      bool
	}{
		{"a path is the path", `"path":"/ws"`, []string{":path: /ws"}, true},
		{"and takes any query", `"path":"/ws"`, []string{":path: /ws?a=/b"}, true},
		{"and any fragment", `"path":"/ws"`, []string{":path: /ws#a?b"}, true},
		{"but no more", `"path":"/ws"`, []string{":path: /ws/"}, false},
		{"and no less", `"path":"/ws/"`, []string{":path: /ws"}, false},
		{"and has case", `"path":"/ws"`, []string{":path: /WS"}, false},
		{"and is not in a query", `"path":"/ws"`, []string{":path: /?/ws"}, false},
		{"a prefix is bytes: /ws begins /wsx", `"path_prefix":"/ws"`, []string{":path: /wsx"}, true},
		{"and itself", `"path_prefix":"/ws"`, []string{":path: /ws?a"}, true},
		{"/ws/ does not begin /wsx", `"path_prefix":"/ws/"`, []string{":path: /wsx"}, false},
		{"nor /ws", `"path_prefix":"/ws/"`, []string{":path: /ws"}, false},
		{"nor is a query part of a prefix", `"path_prefix":"/ws/"`, []string{":path: /ws?/"}, false},
		{"an encoded slash is no slash", `"path_prefix":"/ws/"`, []string{":path: /ws%2Fa"}, false},
		{"but where the rule has it, in the same case", `"path_prefix":"/ws%2F"`, []string{":path: /ws%2Fa"}, true},
		{"an encoded letter is not that letter", `"path_prefix":"/ws"`, []string{":path: /%77s"}, false},
		{"dots are not resolved", `"path_prefix":"/ws/"`, []string{":path: /ws/../admin"}, true},
		{"nor are encoded dots", `"path_prefix":"/ws/"`, []string{":path: /ws/%2e%2e/admin"}, true},
		{"nor slashes merged", `"path_prefix":"/ws/"`, []string{":path: //ws/"}, false},
		{"a request without a path has none", `"path_prefix":"/"`, nil, false},

		{"a host is the host", `"hosts":["a.example"]`, []string{":authority: a.example"}, true},
		{"in any case", `"hosts":["A.example"]`, []string{":authority: a.EXAMPLE"}, true},
		{"at any port", `"hosts":["a.example"]`, []string{":authority: a.example:8080"}, true},
		{"with an empty port", `"hosts":["a.example"]`, []string{":authority: a.example:"}, true},
		{"with a dot behind", `"hosts":["a.example"]`, []string{":authority: a.example.:80"}, true},
		{"in Host, where there is no :authority", `"hosts":["a.example"]`, []string{"host: a.example"}, true},
		{"not in Host beside :authority", `"hosts":["a.example"]`, []string{":authority: b", "host: a.example"}, false},
		{"one of several", `"hosts":["a","b"]`, []string{":authority: b"}, true},
		{"not a longer one", `"hosts":["a.example"]`, []string{":authority: xa.example"}, false},
		{"not one below", `"hosts":["a.example"]`, []string{":authority: b.a.example"}, false},
		{"below a suffix", `"hosts":["*.a.example"]`, []string{":authority: b.a.example:1"}, true},
		{"further below", `"hosts":["*.a.example"]`, []string{":authority: c.b.a.example"}, true},
		{"the suffix itself is not below", `"hosts":["*.a.example"]`, []string{":authority: a.example"}, false},
		{"nor is the suffix with its dot", `"hosts":["*.a.example"]`, []string{":authority: .a.example"}, false},
		{"nor a longer label", `"hosts":["*.a.example"]`, []string{":authority: xa.example"}, false},
		{"IPv6", `"hosts":["[2001:db8::1]"]`, []string{":authority: [2001:DB8::1]:443"}, true},
		{"another IPv6", `"hosts":["[2001:db8::1]"]`, []string{":authority: [2001:db8::2]"}, false},
		{"IPv4", `"hosts":["192.0.2.1"]`, []string{":authority: 192.0.2.1:80"}, true},
		{"two hosts merged are none", `"hosts":["*.a.example"]`, []string{":authority: evil,b.a.example"}, false},
		{"two lines are none", `"hosts":["a.example"]`, []string{"host: a.example", "host: a.example"}, false},
		{"a user is none", `"hosts":["a.example"]`, []string{":authority: u@a.example"}, false},
		{"no host is none", `"hosts":["a.example"]`, nil, false},

		{"an origin is the origin", `"origins":["https://a.example"]`, []string{"origin: https://a.example"}, true},
		{"in any case", `"origins":["https://a.example"]`, []string{"origin: HTTPS://A.example"}, true},
		{"with its scheme's port", `"origins":["https://a.example"]`, []string{"origin: https://a.example:443"}, true},
		{"without it", `"origins":["http://a.example:80"]`, []string{"origin: http://a.example"}, true},
		{"at another port", `"origins":["https://a.example"]`, []string{"origin: https://a.example:8443"}, false},
		{"of another scheme", `"origins":["https://a.example"]`, []string{"origin: http://a.example"}, false},
		{"of another scheme at that port", `"origins":["https://a.example"]`, []string{"origin: http://a.example:443"}, false},
		{"not with more behind", `"origins":["https://a.example"]`, []string{"origin: https://a.example.evil"}, false},
		{"not with a path", `"origins":["https://a.example"]`, []string{"origin: https://a.example/"}, false},
		{"not with a user before", `"origins":["https://a.example"]`, []string{"origin: https://evil@a.example"}, false},
		{"not in a list", `"origins":["https://a.example"]`, []string{"origin: https://evil,https://a.example"}, false},
		{"not in a list with spaces", `"origins":["https://a.example"]`, []string{"origin: https://a.example https://evil"}, false},
		{"not in two lines", `"origins":["https://a.example"]`, []string{"origin: https://a.example", "origin: https://a.example"}, false},
		{"a suffix has any scheme and port", `"origins":["*.a.example"]`, []string{"origin: http://b.a.example:81"}, true},
		{"but not the host itself", `"origins":["*.a.example"]`, []string{"origin: https://a.example"}, false},
		{"a suffix with a scheme", `"origins":["https://*.a.example"]`, []string{"origin: https://b.a.example"}, true},
		{"has that scheme", `"origins":["https://*.a.example"]`, []string{"origin: http://b.a.example"}, false},
		{"and that port", `"origins":["https://*.a.example"]`, []string{"origin: https://b.a.example:444"}, false},
		{"an extension", `"origins":["chrome-extension://abc"]`, []string{"origin: chrome-extension://abc"}, true},
		{"null", `"origins":["null"]`, []string{"origin: null"}, true},
		{"null is a word with case", `"origins":["null"]`, []string{"origin: NULL"}, false},
		{"null is no scheme", `"origins":["null"]`, []string{"origin: null://a"}, false},
		{"null is not one of all", `"origins":["*.a","same-origin"]`, []string{"origin: null"}, false},
		{"same-origin", `"origins":["same-origin"]`, []string{"origin: https://a.example", ":authority: A.example"}, true},
		{"same-origin, with a port", `"origins":["same-origin"]`, []string{"origin: http://a.example:8080", ":authority: a.example:8080"}, true},
		{"same-origin, the scheme's port said once", `"origins":["same-origin"]`, []string{"origin: https://a.example", ":authority: a.example:443"}, true},
		{"same-origin, another port", `"origins":["same-origin"]`, []string{"origin: https://a.example", ":authority: a.example:80"}, false},
		{"same-origin, another host", `"origins":["same-origin"]`, []string{"origin: https://evil.example", ":authority: a.example"}, false},
		{"same-origin, a host that is none", `"origins":["same-origin"]`, []string{"origin: https://a", ":authority: a,b"}, false},
		{"same-origin is not the header's word", `"origins":["same-origin"]`, []string{"origin: same-origin", ":authority: same-origin"}, false},
		{"no origin is not a browser", `"origins":["https://a.example"]`, nil, true},
		{"an empty origin is not no origin", `"origins":["https://a.example"]`, []string{"origin:"}, false},
		{"no origin where one is needed", `"origins":["https://a.example"],"absent_origin":false`, nil, false},
		{"no origin is none of those refused", `"origins":["https://a.example"],"action":"refuse"`, nil, false},
		{"an origin of those refused", `"origins":["https://a.example"],"action":"refuse"`, []string{"origin: https://a.example"}, true},

		{"a subprotocol", `"subprotocols":["chat","v2"]`, []string{"sec-websocket-protocol: v2"}, true},
		{"in a list", `"subprotocols":["chat"]`, []string{"sec-websocket-protocol: a,\t chat ,b"}, true},
		{"in a second line", `"subprotocols":["chat"]`, []string{"sec-websocket-protocol: a", "sec-websocket-protocol: chat"}, true},
		{"subprotocols have case", `"subprotocols":["chat"]`, []string{"sec-websocket-protocol: Chat"}, false},
		{"no subprotocol", `"subprotocols":["chat"]`, nil, false},
		{"an empty one", `"subprotocols":["chat"]`, []string{"sec-websocket-protocol: ,"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := mustParse(t, `{"rules":[{"protocol":"websocket",`+tt.key+`}]}`)
			if got := Decide(c, Request{Headers: upgrade(tt.lines...)}).Rule != nil; got != tt.want {
				t.Errorf("matched = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestAnyProtocol(t *testing.T) {
	for _, tt := range []struct{ name, rules, upgrade, want string }{
		{"any is any", `{"protocol":"*"}`, "foo/1", "offered route=any cluster=- protocol=foo/1"},
		{"the first that is offered", `{"protocol":"*"}`, "h2c, foo, websocket", "offered route=any cluster=- protocol=foo"},
		{"h2c is never routed", `{"protocol":"*"}`, "h2c", "no_rule route=- cluster=- protocol=h2c"},
		{"in no case", `{"protocol":"*"}`, "TLS/1.2, H2C", "no_rule route=- cluster=- protocol=TLS/1.2"},
		{"but any is refused", `{"protocol":"*","action":"refuse"}`, "h2c", "refused_by_rule route=- cluster=- protocol=h2c"},
		{"h2c by its name", `{"protocol":"*"},{"protocol":"h2c","action":"refuse"}`, "h2c", "refused_by_rule route=- cluster=- protocol=h2c"},
		{"rules come first, then offers", `{"protocol":"foo"},{"protocol":"*"}`, "bar, foo", "offered route=foo cluster=- protocol=foo"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := fields(":path: /", "connection: Upgrade", "upgrade: "+tt.upgrade)
			got := Decide(mustParse(t, `{"rules":[`+tt.rules+`]}`), Request{Headers: h})
			if !strings.HasPrefix(got.String(), "reason="+tt.want+" path=/") {
				t.Errorf("got  %v\nwant reason=%s", got, tt.want)
			}
			for _, m := range got.Mutations {
				if m.Name == "upgrade" && neverRouted(Protocol{Name: m.Value}) {
					t.Errorf("upstream gets upgrade: %s", m.Value)
				}
			}
		})
	}
}

// FuzzAuthority holds parseAuthority and parseOrigin against net/url: what they take, it takes, and understands the same.
func FuzzAuthority(f *testing.F) {
	for _, s := range []string{"a.example:80", "[::1]:443", "a.", "a:", "[::1", "u@a", "a,b", "A:080", "[fe80::1%25eth0]", "..", "a..b"} {
		f.Add("https", s)
	}
	f.Fuzz(func(t *testing.T, scheme, authority string) {
		host, port, ok := parseAuthority(authority)
		if ok != (host != "") && ok {
			t.Fatalf("parseAuthority(%q) = %q, %q, %v", authority, host, port, ok)
		}
		o, isOrigin := parseOrigin(scheme + "://" + authority)
		if isOrigin && !ok {
			t.Fatalf("an origin with %q, which is no host", authority)
		}
		if !ok {
			return
		}
		u, err := url.Parse("http://" + authority)
		if err != nil && strings.HasPrefix(authority, "[") {
			return // an IPv6 address that is none; it is only compared with those in rules
		}
		if err != nil {
			t.Fatalf("parseAuthority(%q) takes what net/url does not: %v", authority, err)
		}
		if u.User != nil || u.Path != "" {
			t.Fatalf("parseAuthority(%q): net/url sees %+v", authority, u)
		}
		want := strings.TrimSuffix(u.Hostname(), ".")
		if got := strings.Trim(host, "[]"); got != want {
			t.Fatalf("parseAuthority(%q): host %q, net/url has %q", authority, got, want)
		}
		if got, want := port, strings.TrimLeft(u.Port(), "0"); strings.TrimLeft(got, "0") != want {
			t.Fatalf("parseAuthority(%q): port %q, net/url has %q", authority, got, want)
		}
		if isOrigin && !(Origin{o.Scheme, o.Host, o.Port}).matches(requestOrigin{Origin: o, ok: true}, "", "") {
			t.Fatalf("%v does not match itself", o)
		}
	})
}

// FuzzRules decides about a request by any configuration, and checks what must hold of all.
func FuzzRules(f *testing.F) {
	for _, c := range acceptedConfigs() {
		f.Add(c.text, "websocket", "/a/%2f", "a.example", "https://a.example", "chat.v1, x", "GET", "dGhlIHNhbXBsZSBub25jZQ==", "13", "HTTP/2")
	}
	f.Add(`{"rules":[{"name":"a","protocol":"websocket","origins":["*.a"]},{"name":"b","protocol":"*","origins":["https://x.a","https://*.b.a"],"hosts":["*.x"]},
		{"protocol":"h2c","action":"refuse"}],"handshake":"check","default":"refuse"}`, "h2c, tls/1", "/", "x.x:80", "https://b.b.a", "", "POST", "x", "8", "HTTP/1.1")
	f.Fuzz(func(t *testing.T, text, up, path, host, origin, sub, method, key, wsVersion, http string) {
		c, err := ParseConfig([]byte(text))
		if err != nil {
			return
		}
		h := HeaderMap{{":method", method}, {":path", path}, {":authority", host}, {"connection", "upgrade"}, {"upgrade", up}}
		for _, field := range []Field{{"origin", origin}, {"sec-websocket-protocol", sub}, {"sec-websocket-key", key}, {"sec-websocket-version", wsVersion}} {
			if field.Value != "" {
				h = append(h, field)
			}
		}
		r := Request{h, version(http)}
		d := Decide(c, r)
		_ = d.String()

		// Routed, refused, or neither; and what each of them needs.
		if d.Routed && (d.Status != 0 || d.Rule == nil || d.Rule.Action != Route || d.Reason != Offered || neverRouted(d.Protocol)) {
			t.Fatalf("routed: %+v", d)
		}
		if d.Status != 0 && (d.Status < 400 || d.Status > 599 || d.Mutations != nil || d.SupplyKey || d.Answer.Needed() || d.FilterState != "" ||
			!strings.HasPrefix(d.Body, string(d.Reason)+": ") || strings.Count(d.Body, "\n") != 1) {
			t.Fatalf("refused: %+v", d)
		}
		if !d.Routed && (d.SupplyKey || d.Answer.Needed() || d.FilterState != "") {
			t.Fatalf("not routed: %+v", d)
		}
		if d.SupplyKey && (key != "" || !strings.HasPrefix(http, "HTTP/2") && !strings.HasPrefix(http, "HTTP/3")) {
			t.Fatalf("a key supplied to %+v", r)
		}

		// A counter is made of the configuration's words.
		rule, protocol := d.Counter.Rule == "-", d.Counter.Protocol == Protocol{Name: "other"}
		for i := range c.Rules {
			rule = rule || d.Counter.Rule == c.Rules[i].Name
			protocol = protocol || d.Counter.Protocol == c.Rules[i].Protocol && d.Counter.Protocol.Name != "*"
		}
		if d.Reason != NoUpgrade && (!rule || !protocol) {
			t.Fatalf("counter %+v", d.Counter)
		}

		// Neither the case of names nor the splitting of lists matters.
		respelled := HeaderMap{}
		for _, field := range h {
			values := []string{field.Value}
			if field.Name == "upgrade" || field.Name == "sec-websocket-protocol" {
				values = strings.Split(field.Value, ",")
			}
			for _, v := range values {
				respelled = append(respelled, Field{strings.ToUpper(field.Name), v})
			}
		}
		if again := Decide(c, Request{respelled, version(http)}); again.Reason != d.Reason || again.Rule != d.Rule || again.Status != d.Status ||
			again.SupplyKey != d.SupplyKey || again.Answer != d.Answer || again.Counter != d.Counter {
			t.Fatalf("%v\nrespelled: %v", d, again)
		}

		// Where one rule covers another, it matches all that the other does.
		alone := func(rule Rule) bool {
			return Decide(&Config{Rules: []Rule{rule}, Default: Ignore}, r).Rule != nil
		}
		for i := range min(len(c.Rules), 8) {
			for j := range min(len(c.Rules), 8) {
				if c.Rules[i].covers(&c.Rules[j]) && alone(c.Rules[j]) && !alone(c.Rules[i]) {
					t.Fatalf("rules[%d] does not match what rules[%d] matches", i, j)
				}
			}
		}
	})
}

package e2e

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

// configurations of the filter, each in a listener of its own behind the gate of
// protocols.yaml. Between them they have every key.
var configurations = map[string]string{
	"rules": `{
		"rules": [
			{"name": "exact", "protocol": "websocket", "path": "/exact", "cluster": "live"},
			{"name": "prefix", "protocol": "websocket", "path_prefix": "/ws", "cluster": "worker"},
			{"name": "chat", "protocol": "websocket", "path_prefix": "/chat/", "subprotocols": ["v2.chat", "v1.chat"], "cluster": "live"},
			{"name": "gone", "protocol": "*", "path_prefix": "/gone/", "action": "refuse", "status": 410},
			{"name": "forbidden", "protocol": "websocket", "path_prefix": "/forbidden/", "action": "refuse"},
			{"name": "ignored", "protocol": "websocket", "path_prefix": "/ignored/", "action": "ignore"},
			{"name": "kubectl", "protocol": "spdy/3.1", "path_prefix": "/tools/", "cluster": "kubernetes"},
			{"name": "docker", "protocol": "TCP", "path_prefix": "/tools/", "cluster": "docker"},
			{"name": "all", "protocol": "*", "path_prefix": "/all/", "cluster": "tailscale"},
			{"name": "host", "protocol": "websocket", "path_prefix": "/host/", "cluster": "live",
			 "hosts": ["one.example.com", "*.two.example.com", "[2001:db8::1]"]}
		]
	}`,
	"origins": `{
		"rules": [
			{"name": "evil", "protocol": "websocket", "origins": ["https://evil.example"], "action": "refuse"},
			{"name": "same", "protocol": "websocket", "path_prefix": "/same/", "origins": ["same-origin"], "cluster": "live"},
			{"name": "browsers", "protocol": "websocket", "path_prefix": "/browsers/", "absent_origin": false, "cluster": "live",
			 "origins": ["http://app.example.com", "https://pages.example.net:8443", "*.apps.example.net", "null"]}
		],
		"default": "refuse"
	}`,
	"check": `{
		"rules": [{"protocol": "websocket", "cluster": "live"}, {"protocol": "tcp", "cluster": "docker"}],
		"handshake": "check"
	}`,
	"trust": `{
		"rules": [{"protocol": "websocket", "cluster": "live"}],
		"handshake": "trust",
		"default": "ignore"
	}`,
	"filter state": `{
		"rules": [{"name": "live", "protocol": "websocket"}],
		"metadata": {"route_header": "", "cluster_header": ""}
	}`,
	"headers": `{
		"rules": [{"name": "worker", "protocol": "websocket"}],
		"metadata": {"filter_state": ""}
	}`,
	"renamed": `{
		"rules": [{"name": "sockets", "protocol": "websocket", "cluster": "live"}],
		"metadata": {"route_header": "x-socket", "cluster_header": "x-socket-cluster", "filter_state": "socket.rule"}
	}`,
}

// rulesBootstrap is protocols.yaml with a listener for each of configurations.
// They leave the routing headers in the request, so that upstreams show them,
// and answer with x-state, which shows the two filter states.
func rulesBootstrap(t *testing.T) string {
	t.Helper()
	load := func() (map[string]any, []any) {
		var file map[string]any
		if err := yaml.Unmarshal([]byte(shipped(t, "bootstrap/protocols.yaml")), &file); err != nil {
			t.Fatal(err)
		}
		listeners := dig(t, file, "static_resources", "listeners").([]any)
		return file, listeners
	}
	file, listeners := load()
	for _, name := range slices.Sorted(maps.Keys(configurations)) {
		_, own := load()
		l := own[0].(map[string]any)
		l["name"] = name
		dig(t, l, "address", "socket_address").(map[string]any)["port_value"] = 0
		manager := dig(t, l, "filter_chains", 0, "filters", 0, "typed_config").(map[string]any)
		plugin := dig(t, manager, "http_filters", 0, "typed_config", "config", "configuration").(map[string]any)
		if _, ok := plugin["value"].(string); !ok {
			t.Fatalf("protocols.yaml: the first filter has no configuration: %v", plugin)
		}
		plugin["value"] = configurations[name]
		delete(manager["route_config"].(map[string]any), "request_headers_to_remove")
		manager["route_config"].(map[string]any)["response_headers_to_add"] = []any{
			map[string]any{"header": map[string]any{"key": "x-state",
				"value": "[%FILTER_STATE(wasm.switchyard.route:PLAIN)%] [%FILTER_STATE(wasm.socket.rule:PLAIN)%]"}},
		}
		listeners = append(listeners, l)
	}
	dig(t, file, "static_resources").(map[string]any)["listeners"] = listeners
	b, err := yaml.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// dig follows keys and indexes.
func dig(t *testing.T, v any, path ...any) any {
	t.Helper()
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[step]
		case int:
			if l, _ := v.([]any); step < len(l) {
				v = l[step]
			} else {
				v = nil
			}
		}
		if v == nil {
			t.Fatalf("nothing at %v of %v", step, path)
		}
	}
	return v
}

// offer is a request that offers protocol; the path has the id as @@.
func offer(protocol, path, fields string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: app.example.com\r\n" +
		"Connection: Upgrade\r\nUpgrade: " + protocol + "\r\n" + fields + "\r\n"
}

const handshakeFields = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"

// ws is the opening handshake of RFC 6455 1.2, and what else fields say.
func ws(path, fields string) string { return offer("websocket", path, handshakeFields+fields) }

// host gives a request another host.
func host(name, raw string) string {
	return strings.Replace(raw, "Host: app.example.com", "Host: "+name, 1)
}

// A ruleTest is a request to a listener, and what must come of it.
type ruleTest struct {
	name     string
	listener string // key of configurations, or "main" for protocols.yaml's own
	raw      string
	want     string   // outcome
	counter  string   // rule reason protocol; none for a request without an upgrade
	answer   []string // field lines of the response, of a refusal
	upstream []string // field lines that the upstream must have got
	without  []string // fields that the upstream must not have got
	state    string   // values of the two filter states, where they count
}

var ruleTests = []ruleTest{
	// name, protocol, path, path_prefix, cluster
	{name: "path is the whole path", listener: "rules", raw: ws("/exact?/t/@@", ""), want: "live 101 echo", counter: "exact offered websocket",
		upstream: []string{"connection: Upgrade", "upgrade: websocket", "x-upgrade-route: exact", "x-upgrade-cluster: live"}, state: "[exact] []"},
	{name: "path is no prefix", listener: "rules", raw: ws("/exact/t/@@", ""), want: "web 200", counter: "- no_rule websocket", without: []string{"x-upgrade-route", "x-upgrade-cluster"}, state: "[] []"},
	{name: "path has case", listener: "rules", raw: ws("/Exact?/t/@@", ""), want: "web 200", counter: "- no_rule websocket"},
	{name: "path_prefix", listener: "rules", raw: ws("/ws/t/@@", ""), want: "worker 101 echo", counter: "prefix offered websocket", upstream: []string{"x-upgrade-route: prefix", "x-upgrade-cluster: worker"}},
	{name: "path_prefix knows no segments, as Envoy's prefix knows none", listener: "rules", raw: ws("/wsx/t/@@", ""), want: "worker 101 echo", counter: "prefix offered websocket"},
	{name: "path_prefix is compared with the normalised path", listener: "rules", raw: ws("/a/..//ws/t/@@", ""), want: "worker 101 echo", counter: "prefix offered websocket"},
	{name: "an escaped letter is the letter", listener: "rules", raw: ws("/w%73/t/@@", ""), want: "worker 101 echo", counter: "prefix offered websocket"},
	{name: "an escaped dot segment is resolved", listener: "rules", raw: ws("/a/%2e%2e/ws/t/@@", ""), want: "worker 101 echo", counter: "prefix offered websocket"},
	{name: "an escaped slash is refused before the filter", listener: "rules", raw: ws("/a%2Fws/t/@@", ""), want: "- 400"},
	{name: "the query is no path", listener: "rules", raw: ws("/t/@@?/ws/", ""), want: "web 200", counter: "- no_rule websocket"},
	{name: "a protocol with a version", listener: "rules", raw: offer("SPDY/3.1", "/tools/t/@@", ""), want: "kubernetes 101 echo", counter: "kubectl offered spdy/3.1", upstream: []string{"connection: Upgrade", "upgrade: SPDY/3.1", "x-upgrade-route: kubectl"}},
	{name: "another version of it", listener: "rules", raw: offer("SPDY/3", "/tools/t/@@", ""), want: "- 403", counter: "- upgrade_failed other"},
	{name: "a protocol in another case", listener: "rules", raw: offer("tcp", "/tools/t/@@", ""), want: "docker 101 echo", counter: "docker offered tcp", upstream: []string{"upgrade: tcp"}},
	{name: "tcp by POST, as Docker does", listener: "rules", raw: strings.Replace(offer("tcp", "/tools/t/@@", "Content-Length: 0\r\n"), "GET", "POST", 1), want: "docker 101 echo", counter: "docker offered tcp"},
	{name: "a list of protocols has the first condition of the gate", listener: "rules", raw: offer("tcp, SPDY/3.1", "/tools/t/@@", ""), want: "kubernetes 101 echo", counter: "kubectl offered spdy/3.1", upstream: []string{"upgrade: SPDY/3.1"}},
	{name: "any protocol", listener: "rules", raw: offer("tailscale-control-protocol", "/all/t/@@", ""), want: "tailscale 101 echo", counter: "all offered other", upstream: []string{"upgrade: tailscale-control-protocol"}},
	{name: "any protocol, and websocket is one", listener: "rules", raw: ws("/all/t/@@", ""), want: "tailscale 101 echo", counter: "all offered websocket"},
	{name: "a protocol that no rule of the path has", listener: "rules", raw: ws("/tools/t/@@", ""), want: "web 200", counter: "- no_rule websocket"},

	// hosts
	{name: "a host", listener: "rules", raw: host("one.example.com", ws("/host/t/@@", "")), want: "live 101 echo", counter: "host offered websocket"},
	{name: "a host in another case, with a port", listener: "rules", raw: host("ONE.example.COM:8443", ws("/host/t/@@", "")), want: "live 101 echo", counter: "host offered websocket"},
	{name: "a host of a suffix", listener: "rules", raw: host("a.b.two.example.com", ws("/host/t/@@", "")), want: "live 101 echo", counter: "host offered websocket"},
	{name: "a suffix is not a host of itself", listener: "rules", raw: host("two.example.com", ws("/host/t/@@", "")), want: "web 200", counter: "- no_rule websocket"},
	{name: "a suffix ends at a dot", listener: "rules", raw: host("eviltwo.example.com", ws("/host/t/@@", "")), want: "web 200", counter: "- no_rule websocket"},
	{name: "an IPv6 address", listener: "rules", raw: host("[2001:db8::1]:10000", ws("/host/t/@@", "")), want: "live 101 echo", counter: "host offered websocket"},
	{name: "another host", listener: "rules", raw: host("one.example.com.evil.example", ws("/host/t/@@", "")), want: "web 200", counter: "- no_rule websocket"},

	// subprotocols
	{name: "a subprotocol", listener: "rules", raw: ws("/chat/t/@@", "Sec-WebSocket-Protocol: v1.chat\r\n"), want: "live 101 echo", counter: "chat offered websocket", upstream: []string{"sec-websocket-protocol: v1.chat"}},
	{name: "a subprotocol in a list", listener: "rules", raw: ws("/chat/t/@@", "Sec-WebSocket-Protocol: soap, v2.chat\r\n"), want: "live 101 echo", counter: "chat offered websocket"},
	{name: "a subprotocol in a second line", listener: "rules", raw: ws("/chat/t/@@", "Sec-WebSocket-Protocol: soap\r\nSec-WebSocket-Protocol: ,v2.chat\r\n"), want: "live 101 echo", counter: "chat offered websocket"},
	{name: "another subprotocol", listener: "rules", raw: ws("/chat/t/@@", "Sec-WebSocket-Protocol: v1.chats\r\n"), want: "web 200", counter: "- no_rule websocket"},
	{name: "no subprotocol", listener: "rules", raw: ws("/chat/t/@@", ""), want: "web 200", counter: "- no_rule websocket"},

	// action, status, default
	{name: "refuse", listener: "rules", raw: ws("/forbidden/t/@@", ""), want: "- 403", counter: "forbidden refused_by_rule websocket", answer: []string{"connection: close"}},
	{name: "refuse with a status, any protocol", listener: "rules", raw: offer("tcp", "/gone/t/@@", ""), want: "- 410", counter: "gone refused_by_rule tcp"},
	{name: "ignore", listener: "rules", raw: ws("/ignored/t/@@", ""), want: "web 200", counter: "ignored ignored_by_rule websocket", without: []string{"x-upgrade-route", "x-upgrade-cluster"}, state: "[] []"},
	{name: "ignore by default", listener: "trust", raw: offer("tcp", "/t/@@", ""), want: "web 200", counter: "- no_rule other"},
	{name: "refuse by default", listener: "origins", raw: ws("/t/@@", ""), want: "- 403", counter: "- no_rule websocket"},
	{name: "refuse by default, but not a page", listener: "origins", raw: "GET /t/@@ HTTP/1.1\r\nHost: app.example.com\r\n\r\n", want: "web 200"},

	// origins, absent_origin
	{name: "the same origin", listener: "origins", raw: ws("/same/t/@@", "Origin: http://app.example.com\r\n"), want: "live 101 echo", counter: "same offered websocket"},
	{name: "the same origin on a port", listener: "origins", raw: host("app.example.com:8080", ws("/same/t/@@", "Origin: http://app.example.com:8080\r\n")), want: "live 101 echo", counter: "same offered websocket"},
	{name: "cross-site WebSocket hijacking", listener: "origins", raw: ws("/same/t/@@", "Origin: https://bad.example\r\nCookie: session=victim\r\n"), want: "- 403", counter: "- no_rule websocket"},
	{name: "a host that begins with ours", listener: "origins", raw: ws("/same/t/@@", "Origin: http://app.example.com.bad.example\r\n"), want: "- 403", counter: "- no_rule websocket"},
	{name: "a user that looks like our host", listener: "origins", raw: ws("/same/t/@@", "Origin: http://app.example.com@bad.example\r\n"), want: "- 403", counter: "- no_rule websocket"},
	{name: "another port is another origin", listener: "origins", raw: ws("/same/t/@@", "Origin: http://app.example.com:8080\r\n"), want: "- 403", counter: "- no_rule websocket"},
	{name: "two origins are none", listener: "origins", raw: ws("/same/t/@@", "Origin: http://app.example.com\r\nOrigin: https://bad.example\r\n"), want: "- 403", counter: "- no_rule websocket"},
	{name: "two origins, ours last", listener: "origins", raw: ws("/same/t/@@", "Origin: https://bad.example\r\nOrigin: http://app.example.com\r\n"), want: "- 403", counter: "- no_rule websocket"},
	{name: "an opaque origin is not the same", listener: "origins", raw: ws("/same/t/@@", "Origin: null\r\n"), want: "- 403", counter: "- no_rule websocket"},
	{name: "no origin is no browser", listener: "origins", raw: ws("/same/t/@@", ""), want: "live 101 echo", counter: "same offered websocket"},
	{name: "no origin where browsers are wanted", listener: "origins", raw: ws("/browsers/t/@@", ""), want: "- 403", counter: "- no_rule websocket"},
	{name: "a listed origin", listener: "origins", raw: ws("/browsers/t/@@", "Origin: https://pages.example.net:8443\r\n"), want: "live 101 echo", counter: "browsers offered websocket"},
	{name: "a listed origin with another port", listener: "origins", raw: ws("/browsers/t/@@", "Origin: https://pages.example.net\r\n"), want: "- 403", counter: "- no_rule websocket"},
	{name: "a listed origin with another scheme", listener: "origins", raw: ws("/browsers/t/@@", "Origin: https://app.example.com\r\n"), want: "- 403", counter: "- no_rule websocket"},
	{name: "an origin of a suffix", listener: "origins", raw: ws("/browsers/t/@@", "Origin: https://one.apps.example.net\r\n"), want: "live 101 echo", counter: "browsers offered websocket"},
	{name: "an origin that only ends like a suffix", listener: "origins", raw: ws("/browsers/t/@@", "Origin: https://evilapps.example.net\r\n"), want: "- 403", counter: "- no_rule websocket"},
	{name: "a listed opaque origin", listener: "origins", raw: ws("/browsers/t/@@", "Origin: null\r\n"), want: "live 101 echo", counter: "browsers offered websocket"},
	{name: "a refused origin", listener: "origins", raw: ws("/same/t/@@", "Origin: https://evil.example\r\n"), want: "- 403", counter: "evil refused_by_rule websocket"},

	// handshake
	{name: "a whole handshake", listener: "check", raw: ws("/t/@@", ""), want: "live 101 echo", counter: "websocket offered websocket"},
	{name: "another method", listener: "check", raw: strings.Replace(ws("/t/@@", ""), "GET", "POST", 1), want: "- 400", counter: "websocket not_get websocket"},
	{name: "no key", listener: "check", raw: offer("websocket", "/t/@@", "Sec-WebSocket-Version: 13\r\n"), want: "- 400", counter: "websocket no_key websocket"},
	{name: "two keys", listener: "check", raw: ws("/t/@@", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"), want: "- 400", counter: "websocket several_keys websocket"},
	{name: "a key of 15 bytes", listener: "check", raw: offer("websocket", "/t/@@", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA\r\nSec-WebSocket-Version: 13\r\n"), want: "- 400", counter: "websocket invalid_key websocket"},
	{name: "a key that is no base64", listener: "check", raw: offer("websocket", "/t/@@", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA_A==\r\nSec-WebSocket-Version: 13\r\n"), want: "- 400", counter: "websocket invalid_key websocket"},
	{name: "no version", listener: "check", raw: offer("websocket", "/t/@@", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), want: "- 400", counter: "websocket no_version websocket"},
	{name: "two versions", listener: "check", raw: ws("/t/@@", "Sec-WebSocket-Version: 13\r\n"), want: "- 400", counter: "websocket invalid_version websocket"},
	{name: "version 8", listener: "check", raw: offer("websocket", "/t/@@", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 8\r\n"), want: "- 426", counter: "websocket unsupported_version websocket",
		answer: []string{"sec-websocket-version: 13", "upgrade: websocket", "connection: upgrade"}},
	{name: "the handshake of another protocol is not checked", listener: "check", raw: offer("tcp", "/t/@@", ""), want: "docker 101 echo", counter: "tcp offered tcp"},
	{name: "a handshake without a key is trusted, and the server's to judge", listener: "trust", raw: offer("websocket", "/t/@@", "Sec-WebSocket-Version: 13\r\n"), want: "live 400", counter: "websocket offered websocket", without: []string{"sec-websocket-key"}},
	{name: "version 8 is trusted, and the server's to judge", listener: "trust", raw: offer("websocket", "/t/@@", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 8\r\n"), want: "live 426", counter: "websocket offered websocket"},

	// metadata
	{name: "filter state alone routes", listener: "filter state", raw: ws("/t/@@", ""), want: "live 101 echo", counter: "live offered websocket", without: []string{"x-upgrade-route", "x-upgrade-cluster"}, state: "[live] []"},
	{name: "filter state alone routes what needs no other change", listener: "filter state", raw: offer("websocket", "/t/@@", handshakeFields), want: "live 101 echo", counter: "live offered websocket", state: "[live] []"},
	{name: "headers alone route", listener: "headers", raw: ws("/t/@@", ""), want: "worker 101 echo", counter: "worker offered websocket", upstream: []string{"x-upgrade-route: worker"}, without: []string{"x-upgrade-cluster"}, state: "[] []"},
	{name: "other names", listener: "renamed", raw: ws("/t/@@", ""), want: "web 200", counter: "sockets offered websocket", upstream: []string{"x-socket: sockets", "x-socket-cluster: live"}, without: []string{"x-upgrade-route", "x-upgrade-cluster"}, state: "[] [sockets]"},
	{name: "a client's copies of other names on a page", listener: "renamed", raw: "GET /t/@@ HTTP/1.1\r\nHost: app.example.com\r\nX-Socket: live\r\nx-socket: live\r\nX-Socket-Cluster: live\r\n\r\n", want: "web 200", without: []string{"x-socket", "x-socket-cluster"}, state: "[] []"},
	{name: "a client's copies of other names on a socket", listener: "renamed", raw: ws("/t/@@", "X-Socket: live\r\nx_socket: live\r\nX-Socket_Cluster: docker\r\n"), want: "web 200", counter: "sockets offered websocket", upstream: []string{"x-socket: sockets", "x-socket-cluster: live"}, without: []string{"x_socket", "x-socket_cluster"}},
	{name: "a client's copies on an ignored socket", listener: "rules", raw: ws("/ignored/t/@@", "X-Upgrade-Cluster: docker\r\nx_upgrade_cluster: docker\r\n"), want: "web 200", counter: "ignored ignored_by_rule websocket", without: []string{"x-upgrade-cluster", "x_upgrade_cluster"}},

	// what is refused whatever the rules are
	{name: "an element that is no protocol", listener: "rules", raw: offer("websocket, web socket", "/ws/t/@@", handshakeFields), want: "- 400", counter: "- malformed_upgrade websocket"},
	{name: "content", listener: "rules", raw: ws("/ws/t/@@", "Content-Length: 5\r\n") + "hello", want: "- 400", counter: "- upgrade_with_body websocket"},
	{name: "content of another protocol, as docker exec sends", listener: "rules", raw: offer("tcp", "/tools/t/@@", "Content-Length: 2\r\n") + "{}", want: "- 400", counter: "- upgrade_with_body tcp"},
	{name: "more subprotocols than anybody needs", listener: "rules", raw: ws("/chat/t/@@", "Sec-WebSocket-Protocol: v1.chat"+strings.Repeat(",a", 100)+"\r\n"), want: "- 431", counter: "- too_many_elements websocket"},
	{name: "chunked content", listener: "rules", raw: ws("/ws/t/@@", "Transfer-Encoding: chunked\r\n") + "0\r\n\r\n", want: "- 400", counter: "- upgrade_with_body websocket"},
	{name: "a protocol that the gate does not let in", listener: "rules", raw: offer("foo", "/all/t/@@", ""), want: "- 403", counter: "- upgrade_failed other"},

	// h2c
	{name: "h2c is a page, also where any protocol is routed", listener: "rules", raw: offer("h2c", "/all/t/@@", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"), want: "web 200"},
	{name: "h2c beside a socket is not passed on", listener: "rules", raw: offer("h2c, websocket", "/all/t/@@", handshakeFields), want: "tailscale 101 echo", counter: "all offered websocket", upstream: []string{"upgrade: websocket"}},
	{name: "h2c with a version", listener: "rules", raw: offer("h2c/1", "/all/t/@@", ""), want: "- 403", counter: "- upgrade_failed other"},
	{name: "h2c in two lines, with tcp", listener: "rules", raw: offer("h2c\r\nUpgrade: H2C, tcp", "/all/t/@@", ""), want: "tailscale 101 echo", counter: "all offered tcp", upstream: []string{"upgrade: tcp"}},

	// Log injection
	{name: "an element cannot forge a log line", listener: "rules", raw: offer("websocket, x reason=offered route=admin", "/ws/t/@@", handshakeFields), want: "- 400", counter: "- malformed_upgrade websocket"},
	{name: "an element cannot end its quotes", listener: "rules", raw: offer("websocket, x\" reason=offered route=admin \\", "/ws/t/@@", handshakeFields), want: "- 400", counter: "- malformed_upgrade websocket"},
	{name: "bytes above ASCII are escaped", listener: "rules", raw: offer("websocket, \x9b2J\u202e\u0085", "/ws/t/@@", handshakeFields), want: "- 400", counter: "- malformed_upgrade websocket"},
	{name: "a long element is cut", listener: "rules", raw: offer("websocket, "+strings.Repeat("<", 5000), "/ws/t/@@", handshakeFields), want: "- 400", counter: "- malformed_upgrade websocket"},
	{name: "a path with escaped line ends", listener: "rules", raw: ws("/ws/t/@@/%0d%0a[critical]%22reason=offered", ""), want: "worker 101 echo", counter: "prefix offered websocket"},
	{name: "a path with a quote", listener: "rules", raw: ws("/ws/t/@@/\"reason=offered", ""), want: "worker 101 echo", counter: "prefix offered websocket"},
	{name: "a path above ASCII is refused before the filter", listener: "rules", raw: ws("/ws/t/@@/\u00a0\u2028route=admin", ""), want: "- 400"},
	{name: "a protocol that would be a fine name of a counter", listener: "rules", raw: offer("client.chosen", "/all/t/@@", ""), want: "- 403", counter: "- upgrade_failed other"},

	// protocols.yaml as it is
	{name: "the live view", listener: "main", raw: host("openqa.example.com", ws("/liveviewhandler/t/@@", "Origin: http://openqa.example.com\r\n")), want: "live 101 echo", counter: "live offered websocket", without: []string{"x-upgrade-route", "x-upgrade-cluster", "x-upgrade-offered"}},
	{name: "a worker", listener: "main", raw: host("openqa.example.com", ws("/api/v1/ws/t/@@", "")), want: "worker 101 echo", counter: "worker offered websocket"},
	{name: "a page of openQA", listener: "main", raw: "GET /api/v1/ws/t/@@ HTTP/1.1\r\nHost: openqa.example.com\r\n\r\n", want: "web 200"},
	{name: "the live view from another site", listener: "main", raw: host("openqa.example.com", ws("/liveviewhandler/t/@@", "Origin: http://bad.example\r\n")), want: "- 403", counter: "- no_rule websocket"},
	{name: "kubectl exec", listener: "main", raw: host("one.k8s.example.com:6443", strings.Replace(offer("SPDY/3.1", "/api/v1/namespaces/default/pods/p/exec/t/@@", "X-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n"), "GET", "POST", 1)), want: "kubernetes 101 echo", counter: "kubectl offered spdy/3.1", upstream: []string{"upgrade: SPDY/3.1"}},
	{name: "kubectl exec over WebSocket", listener: "main", raw: host("one.k8s.example.com", ws("/api/v1/namespaces/default/pods/p/exec/t/@@", "Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n")), want: "kubernetes 101 echo", counter: "kubectl-websocket offered websocket"},
	{name: "kubectl exec into kube-system", listener: "main", raw: host("one.k8s.example.com", offer("SPDY/3.1", "/api/v1/namespaces/kube-system/t/@@", "")), want: "- 404", counter: "kube-system refused_by_rule spdy/3.1"},
	{name: "docker attach", listener: "main", raw: host("docker.example.com", strings.Replace(offer("tcp", "/v1.47/containers/c/attach/t/@@", "Content-Length: 0\r\n"), "GET", "POST", 1)), want: "docker 101 echo", counter: "docker offered tcp"},
	{name: "Tailscale", listener: "main", raw: strings.Replace(offer("tailscale-control-protocol", "/ts2021?/t/@@", "Content-Length: 0\r\n"), "GET", "POST", 1), want: "tailscale 101 echo", counter: "tailscale offered tailscale-control-protocol"},
}

// unreachable are the reasons that no request has behind the gate, with why.
var unreachable = map[string]string{
	"not_nominated":   "Envoy removes an Upgrade that Connection does not nominate",
	"nothing_offered": "the codec's ignore list removes an Upgrade that has only empty elements",
	"no_upgrade":      "not counted: it is every page",
}

// Every key and every reason, on Envoy and on hostsim. Requests are sent one
// after the other, so that what was counted and logged belongs to one of them.
func TestRules(t *testing.T) {
	for _, peer := range []peer{envoy140, hostsim} {
		t.Run(peer.name, func(t *testing.T) {
			t.Parallel()
			p := start(t, peer, rulesBootstrap(t))
			failed := 0
			for _, test := range ruleTests {
				if !t.Run(test.listener+": "+test.name, func(t *testing.T) { testRule(t, p.on(t, test.listener), test) }) {
					failed++
				}
				if failed == 10 {
					t.Fatal("ten failures: the rest is not run, as each may have to wait for what does not come")
				}
			}
			t.Run("access log", func(t *testing.T) { testAccessLog(t, p) })
			if peer.name == "envoy" { // hostsim has no /stats/prometheus yet: issue 6
				t.Run("Prometheus", func(t *testing.T) { testPrometheus(t, p) })
			}
		})
	}
}

func testRule(t *testing.T, p *proxy, test ruleTest) {
	before, logged := p.decisions(t), len(p.log.String())
	o := p.exchange(t, test.raw)
	if got := o.String(); got != test.want {
		t.Errorf("got %s, want %s (%q)", got, test.want, o.Answer)
	}

	// The counter, and no other.
	want := map[string]int{}
	rule, reason, protocol := "", "", ""
	if test.counter != "" {
		if n, err := fmt.Sscan(test.counter, &rule, &reason, &protocol); n != 3 {
			t.Fatal(err)
		}
		want["wasmcustom.switchyard.decisions.rule."+rule+".reason."+reason+".protocol."+protocol] = 1
	}
	counted := map[string]int{}
	eventually(t, func() bool {
		clear(counted)
		for name, n := range p.decisions(t) {
			if n -= before[name]; n != 0 {
				counted[name] = n
			}
		}
		return len(counted) >= len(want)
	})
	if diff := cmp.Diff(want, counted); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}

	// The debug line, and no other: upgrade_failed is counted in the log callback.
	if test.counter != "" {
		var lines []string
		eventually(t, func() bool {
			lines = nil
			for line := range strings.Lines(p.log.String()[logged:]) {
				if _, decision, ok := strings.Cut(line, "switchyard: reason="); ok && strings.Contains(line, "[debug]") {
					lines = append(lines, strings.TrimSpace("reason="+decision))
				}
			}
			return len(lines) > 0
		})
		if len(lines) != 1 {
			t.Errorf("got the debug lines %q, want one", lines)
		} else {
			checkDecisionLine(t, lines[0], reason, rule)
		}
	}

	// The refusal: one line of text that begins with the reason.
	if o.Upstream == "-" && reason != "" && reason != "upgrade_failed" {
		if !strings.HasPrefix(o.Body, reason) || strings.Count(o.Body, "\n") != 1 || !strings.HasSuffix(o.Body, "\n") {
			t.Errorf("got the content %q, want one line that begins with %s", o.Body, reason)
		}
		test.answer = append(test.answer, "content-type: text/plain")
	}
	for _, line := range test.answer {
		if !slices.Contains(o.Answer, line) {
			t.Errorf("the answer lacks %q: %q", line, o.Answer)
		}
	}

	for _, line := range test.upstream {
		if !slices.Contains(o.Received, line) {
			t.Errorf("the upstream did not get %q: %q", line, o.Received)
		}
	}
	for _, line := range o.Received {
		name, _, _ := strings.Cut(line, ":")
		if slices.Contains(test.without, name) {
			t.Errorf("the upstream got %q", line)
		}
	}

	if test.state != "" {
		if line := "x-state: " + test.state; !slices.Contains(o.Answer, line) {
			t.Errorf("the answer lacks %q: %q", line, o.Answer)
		}
	}
}

// quoted is a string of strconv.QuoteToASCII.
var quoted = regexp.MustCompile(`"(\\.|[^"\\])*"`)

// checkDecisionLine wants the debug line of a decision to say the reason, and to
// have nothing in it that a client could have forged: outside quotes each key
// stands once, and all is visible ASCII.
func checkDecisionLine(t *testing.T, line, reason, rule string) {
	t.Helper()
	got := map[string]string{}
	for field := range strings.SplitSeq(quoted.ReplaceAllString(line, "QUOTED"), " ") {
		key, value, ok := strings.Cut(field, "=")
		if _, twice := got[key]; !ok || twice {
			t.Errorf("the debug line is not made of different key=value pairs: %q", line)
		}
		got[key] = value
	}
	if i := strings.IndexFunc(line, func(r rune) bool { return r < ' ' || r > '~' }); i >= 0 || len(line) > 1000 {
		t.Errorf("the debug line has a character that a terminal could obey, or is long: %q", line)
	}
	if got["reason"] != reason || rule != "-" && got["route"] != rule && got["rule"] != rule {
		t.Errorf("got the debug line %q, want reason %s, rule %s", line, reason, rule)
	}
}

// The access log of protocols.yaml shows where a socket went, and why: Envoy
// writes it within ten seconds.
func testAccessLog(t *testing.T, p *proxy) {
	const want = " route=live cluster=live upgrade=live\n"
	eventually(t, func() bool { return strings.Contains(p.log.String(), want) })
	if !strings.Contains(p.log.String(), want) {
		t.Errorf("the access log has no line with %q", want)
	}
}

// The stats_tags of the shipped files make labels of a counter's name.
func testPrometheus(t *testing.T, p *proxy) {
	b, err := get(&http.Client{Timeout: patience}, "http://"+p.admin+"/stats/prometheus")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`switchyard_decisions{rule="kubectl",reason="offered",protocol="spdy/3.1"} `,
		`switchyard_decisions{rule="-",reason="upgrade_failed",protocol="other"} `,
		`switchyard_decisions{rule="websocket",reason="unsupported_version",protocol="websocket"} `,
	} {
		if !strings.Contains("\n"+string(b), "\n"+want) {
			t.Errorf("no %s", want)
		}
	}
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, "switchyard") && strings.Contains(line, "decisions_") {
			t.Errorf("not taken apart: %s", line)
		}
	}
}

// eventually waits until the condition holds, or for patience. What it waited
// for is then judged by the caller.
func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !condition() && time.Now().Before(deadline); {
		<-tick.C
	}
}

// decisions returns the counters of decisions.
func (p *proxy) decisions(t *testing.T) map[string]int {
	t.Helper()
	b, err := get(&http.Client{Timeout: patience}, "http://"+p.admin+"/stats?filter=switchyard.decisions")
	if err != nil {
		t.Fatal(err)
	}
	counters := map[string]int{}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		n, err := strconv.Atoi(value)
		if err != nil {
			t.Fatalf("stats: %q", line)
		}
		counters[name] = n
	}
	return counters
}

// The table has every reason of package filter and every key of its schema.
func TestRulesAreComplete(t *testing.T) {
	has := map[string]bool{}
	for _, test := range ruleTests {
		if test.counter != "" {
			has[strings.Fields(test.counter)[1]] = true
		}
	}
	reasons := reasonsOf(t, filepath.Join(root, "filter"))
	if len(reasons) < 15 {
		t.Errorf("found only %d reasons: %q", len(reasons), reasons)
	}
	for _, reason := range reasons {
		if why, no := unreachable[reason]; no == has[reason] {
			t.Errorf("reason %s: in the table %t, unreachable %t %s", reason, has[reason], no, why)
		}
	}
	var all string
	for _, c := range configurations {
		all += c
	}
	for _, key := range keysOf(t, filepath.Join(root, "filter/schema.json")) {
		if !strings.Contains(all, strconv.Quote(key)+":") {
			t.Errorf("no configuration has the key %q", key)
		}
	}
}

// reasonsOf returns the constants of type Reason in a package.
func reasonsOf(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var reasons []string
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			if typ, ok := spec.Type.(*ast.Ident); !ok || typ.Name != "Reason" || len(spec.Values) != 1 {
				return true
			}
			if value, ok := spec.Values[0].(*ast.BasicLit); ok {
				reason, err := strconv.Unquote(value.Value)
				if err != nil {
					t.Fatal(err)
				}
				reasons = append(reasons, reason)
			}
			return true
		})
	}
	return reasons
}

// keysOf returns every key that the configuration's JSON Schema has a property
// for, at any depth.
func keysOf(t *testing.T, schema string) []string {
	t.Helper()
	b, err := os.ReadFile(schema)
	if err != nil {
		t.Fatal(err)
	}
	var root any
	if err := json.Unmarshal(b, &root); err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, item := range v {
				walk(item)
			}
		case map[string]any:
			for key, item := range v {
				if properties, ok := item.(map[string]any); ok && key == "properties" {
					for name := range properties {
						keys[name] = true
					}
				}
				walk(item)
			}
		}
	}
	walk(root)
	if len(keys) < 15 {
		t.Errorf("found only %d keys: %q", len(keys), slices.Sorted(maps.Keys(keys)))
	}
	return slices.Sorted(maps.Keys(keys))
}

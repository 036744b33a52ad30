package filter

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fields makes a HeaderMap of "name: value" lines.
func fields(lines ...string) HeaderMap {
	h := HeaderMap{}
	for _, line := range lines {
		i := strings.Index(line[1:], ":") + 1
		h = append(h, Field{line[:i], strings.Trim(line[i+1:], " \t")})
	}
	return h
}

func TestClassify(t *testing.T) {
	websocket := Protocol{Name: "websocket"}
	for _, tt := range []struct {
		name  string
		lines []string
		want  Verdict
	}{
		{"a page", []string{":method: GET", ":path: /"}, Verdict{Reason: NoUpgrade}},
		{"Connection alone offers nothing", []string{"connection: Upgrade"}, Verdict{Reason: NoUpgrade}},
		{"Upgrade without Connection", []string{"upgrade: websocket"}, Verdict{Reason: NotNominated}},
		{"Upgrade beside keep-alive", []string{"connection: keep-alive", "upgrade: websocket"}, Verdict{Reason: NotNominated}},
		{"an ill-formed list that is not nominated does not matter", []string{"connection: close", `upgrade: "x`}, Verdict{Reason: NotNominated}},
		{"an empty Upgrade", []string{"connection: upgrade", "upgrade:"}, Verdict{Reason: NothingOffered}},
		{"an Upgrade of commas", []string{"connection: upgrade", "upgrade: ,, ,"}, Verdict{Reason: NothingOffered}},
		{"the classic handshake", []string{"connection: keep-alive, Upgrade", "upgrade: websocket"},
			Verdict{Reason: Offered, First: websocket, Count: 1}},
		{"three offers in two lines", []string{"upgrade: h2c, SPDY/3.1", "connection: x", "connection: UPGRADE", "upgrade: websocket"},
			Verdict{Reason: Offered, First: Protocol{Name: "h2c"}, Count: 3}},
		{"a websocket between halves of a quoted string", []string{"connection: upgrade", `upgrade: "foo, websocket, bar"`},
			Verdict{Reason: MalformedUpgrade, Malformed: `"foo`}},
		{"a semicolon between protocols", []string{"connection: upgrade", "upgrade: websocket, h2c;websocket"},
			Verdict{Reason: MalformedUpgrade, Malformed: "h2c;websocket"}},
		{"a no-break space", []string{"connection: upgrade", "upgrade: \u00a0websocket"},
			Verdict{Reason: MalformedUpgrade, Malformed: "\u00a0websocket"}},
		{"a Kelvin sign", []string{"connection: upgrade", "upgrade: websoc\u212aet"},
			Verdict{Reason: MalformedUpgrade, Malformed: "websoc\u212aet"}},
		{"the gate kept an ill-formed list", []string{"connection: upgrade", "upgrade: websocket", `x-upgrade-offered: "foo, websocket, bar"`},
			Verdict{Reason: MalformedUpgrade, Malformed: `"foo`}},
		{"the gate kept a well-formed list", []string{"connection: upgrade", "upgrade: websocket", "x-upgrade-offered: h2c, websocket"},
			Verdict{Reason: Offered, First: websocket, Count: 1}},
		{"a helper header offers nothing by itself", []string{"connection: upgrade", "x-upgrade-offered: websocket"}, Verdict{Reason: NoUpgrade}},
		{"with Content-Length", []string{"connection: upgrade", "upgrade: websocket", "content-length: 5"},
			Verdict{Reason: UpgradeWithBody, First: websocket, Count: 1}},
		{"with a Content-Length of zeros", []string{"connection: upgrade", "upgrade: websocket", "content-length: 00"},
			Verdict{Reason: Offered, First: websocket, Count: 1}},
		{"with two Content-Lengths", []string{"connection: upgrade", "upgrade: websocket", "content-length: 0", "content-length: 0"},
			Verdict{Reason: UpgradeWithBody, First: websocket, Count: 1}},
		{"with an ill-formed Content-Length", []string{"connection: upgrade", "upgrade: websocket", "content-length: 0, 0"},
			Verdict{Reason: UpgradeWithBody, First: websocket, Count: 1}},
		{"with an empty Content-Length", []string{"connection: upgrade", "upgrade: websocket", "content-length:"},
			Verdict{Reason: UpgradeWithBody, First: websocket, Count: 1}},
		{"with Transfer-Encoding", []string{"connection: upgrade", "upgrade: websocket", "transfer-encoding: chunked"},
			Verdict{Reason: UpgradeWithBody, First: websocket, Count: 1}},
		{"with Transfer-Encoding that only the gate saw", []string{"connection: upgrade", "upgrade: websocket", "x-upgrade-framing: chunked"},
			Verdict{Reason: UpgradeWithBody, First: websocket, Count: 1}},
		{"a form post that offers h2c, as curl does", []string{"connection: upgrade", "upgrade: h2c", "content-length: 5"},
			Verdict{Reason: Offered, First: Protocol{Name: "h2c"}, Count: 1}},
		{"a form post that offers TLS, as httpclient does", []string{"connection: upgrade", "upgrade: TLS/1.2", "content-length: 5"},
			Verdict{Reason: Offered, First: Protocol{"TLS", "1.2"}, Count: 1}},
		{"h2c beside a websocket does not excuse content", []string{"connection: upgrade", "upgrade: h2c, websocket", "content-length: 5"},
			Verdict{Reason: UpgradeWithBody, First: Protocol{Name: "h2c"}, Count: 2}},
		{"a plain request with content", []string{":method: POST", "content-length: 5", "x-upgrade-framing: chunked"}, Verdict{Reason: NoUpgrade}},

		{"extended CONNECT", []string{":method: CONNECT", ":protocol: websocket", ":path: /"},
			Verdict{Reason: Offered, Extended: true, First: websocket, Count: 1}},
		{"a CONNECT for a plain tunnel", []string{":method: CONNECT", ":authority: h:1"}, Verdict{Reason: NoUpgrade}},
		{":protocol without CONNECT", []string{":method: GET", ":protocol: websocket"}, Verdict{Reason: NoUpgrade}},
		{"methods have case", []string{":method: connect", ":protocol: websocket"}, Verdict{Reason: NoUpgrade}},
		{"extended CONNECT knows no list", []string{":method: CONNECT", ":protocol: websocket, foo"},
			Verdict{Reason: MalformedUpgrade, Extended: true, Malformed: "websocket, foo"}},
		{"extended CONNECT with nothing in :protocol", []string{":method: CONNECT", ":protocol:"},
			Verdict{Reason: MalformedUpgrade, Extended: true}},
		{"extended CONNECT with two of them", []string{":method: CONNECT", ":protocol: websocket", ":protocol: websocket"},
			Verdict{Reason: MalformedUpgrade, Extended: true, Malformed: "websocket"}},
		{"extended CONNECT with Upgrade", []string{":method: CONNECT", ":protocol: foo", "connection: upgrade", "upgrade: websocket"},
			Verdict{Reason: MalformedUpgrade, Extended: true, Malformed: "foo"}},
		{"extended CONNECT with content", []string{":method: CONNECT", ":protocol: websocket", "content-length: 1"},
			Verdict{Reason: UpgradeWithBody, Extended: true, First: websocket, Count: 1}},
		{"extended CONNECT with an ill-formed helper", []string{":method: CONNECT", ":protocol: websocket", "x-upgrade-offered: a b"},
			Verdict{Reason: MalformedUpgrade, Extended: true, Malformed: "a b"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Classify(fields(tt.lines...))); diff != "" {
				t.Errorf("verdict (-want +got):\n%s", diff)
			}
		})
	}
}

// FuzzClassify holds Classify against a slow and plain reading of RFC 9110 7.8.
func FuzzClassify(f *testing.F) {
	f.Add("keep-alive, Upgrade", "websocket", "", "")
	f.Add("upgrade", `"foo, websocket, bar"`, "h2c", "0")
	f.Add("upgrade", "h2c", "h2c, \u00a0", "5")
	f.Fuzz(func(t *testing.T, connection, upgrade, offered, length string) {
		got := Classify(HeaderMap{{"connection", connection}, {"upgrade", upgrade}, {OfferedHeader, offered}, {"content-length", length}}).Reason

		split := func(s string) (elements []string) {
			for _, e := range strings.Split(s, ",") {
				if e = strings.Trim(e, " \t"); e != "" {
					elements = append(elements, e)
				}
			}
			return elements
		}
		fold := func(s string) string {
			return strings.Map(func(r rune) rune {
				if 'A' <= r && r <= 'Z' {
					return r + 32
				}
				return r
			}, s)
		}
		nominated, wellFormed, ordinary := false, true, true
		for _, e := range split(connection) {
			nominated = nominated || fold(e) == "upgrade"
		}
		for _, e := range append(split(upgrade), split(offered)...) {
			parts := strings.Split(e, "/")
			for _, p := range parts {
				wellFormed = wellFormed && p != "" && strings.Trim(p, "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
			}
			wellFormed = wellFormed && len(parts) <= 2
		}
		for _, e := range split(upgrade) {
			name := fold(strings.Split(e, "/")[0])
			ordinary = ordinary && (name == "h2c" || name == "tls")
		}
		want := Offered
		switch {
		case !nominated:
			want = NotNominated
		case !wellFormed:
			want = MalformedUpgrade
		case len(split(upgrade)) == 0:
			want = NothingOffered
		case !ordinary && (length == "" || strings.Trim(length, "0") != ""):
			want = UpgradeWithBody
		}
		if got != want {
			t.Fatalf("Classify = %s, want %s", got, want)
		}
	})
}

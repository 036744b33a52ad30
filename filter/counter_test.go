package filter

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// statsTags are the regular expressions in Counter.Name's comment, as Envoy applies them: the first group leaves the name,
// the second is the tag's value.
func statsTags(t *testing.T) map[string]*regexp.Regexp {
	t.Helper()
	tags := map[string]*regexp.Regexp{}
	for _, m := range regexp.MustCompile(`(?m)^//\t +- tag_name: (\w+)\n//\t +regex: '(.+)'$`).FindAllStringSubmatch(readFile(t, "counter.go"), -1) {
		tags[m[1]] = regexp.MustCompile(m[2])
	}
	if len(tags) != 3 {
		t.Fatalf("found %d stats_tags in counter.go, want 3", len(tags))
	}
	return tags
}

func TestCounters(t *testing.T) {
	const config = `{"rules":[
		{"name":"live","protocol":"WebSocket","path_prefix":"/live/"},
		{"name":"reason","protocol":"spdy/3.1","action":"refuse"},
		{"name":"a-b_c","protocol":"*","path":"/any"}]}`
	tags := statsTags(t)
	for _, tt := range []struct {
		name                   string
		lines                  []string
		want                   string // the metric's name
		rule, reason, protocol string
	}{
		{"routed", []string{":path: /live/x", "connection: upgrade", "upgrade: WEBSOCKET/13"},
			"switchyard.decisions.rule.live.reason.offered.protocol.websocket", "live", "offered", "websocket"},
		{"refused by a rule with a word for a name", []string{":path: /", "connection: upgrade", "upgrade: SPDY/3.1"},
			"switchyard.decisions.rule.reason.reason.refused_by_rule.protocol.spdy/3.1", "reason", "refused_by_rule", "spdy/3.1"},
		{"any protocol that no rule names", []string{":path: /any", "connection: upgrade", "upgrade: client.reason.x"},
			"switchyard.decisions.rule.a-b_c.reason.offered.protocol.other", "a-b_c", "offered", "other"},
		{"any protocol that another rule names", []string{":path: /any", "connection: upgrade", "upgrade: websocket"},
			"switchyard.decisions.rule.a-b_c.reason.offered.protocol.websocket", "a-b_c", "offered", "websocket"},
		{"no rule, and a protocol that one names", []string{":path: /", "connection: upgrade", "upgrade: h2c, foo, websocket"},
			"switchyard.decisions.rule.-.reason.no_rule.protocol.websocket", "-", "no_rule", "websocket"},
		{"no rule, and a protocol that none names", []string{":path: /", "connection: upgrade", "upgrade: foo"},
			"switchyard.decisions.rule.-.reason.no_rule.protocol.other", "-", "no_rule", "other"},
		{"a version that no rule names", []string{":path: /", "connection: upgrade", "upgrade: spdy/3"},
			"switchyard.decisions.rule.-.reason.no_rule.protocol.other", "-", "no_rule", "other"},
		{"malformed", []string{":path: /", "connection: upgrade", "upgrade: a b"},
			"switchyard.decisions.rule.-.reason.malformed_upgrade.protocol.other", "-", "malformed_upgrade", "other"},
		{"extended CONNECT", []string{":method: CONNECT", ":protocol: websocket", ":path: /live/"},
			"switchyard.decisions.rule.live.reason.offered.protocol.websocket", "live", "offered", "websocket"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := Decide(mustParse(t, config), Request{Headers: fields(tt.lines...)})
			name := d.Counter.Name()
			if name != tt.want {
				t.Errorf("got  %s\nwant %s", name, tt.want)
			}
			got, rest := map[string]string{}, "wasmcustom."+name
			for tag, re := range tags {
				if m := re.FindStringSubmatch("wasmcustom." + name); m != nil {
					got[tag] = m[2]
					rest = strings.Replace(rest, m[1], "", 1)
				}
			}
			if diff := cmp.Diff(map[string]string{"rule": tt.rule, "reason": tt.reason, "protocol": tt.protocol}, got); diff != "" {
				t.Errorf("tags (-want +got):\n%s", diff)
			}
			if rest != "wasmcustom.switchyard.decisions" {
				t.Errorf("without tags it is called %s", rest)
			}
		})
	}
	if d := Decide(mustParse(t, config), Request{Headers: fields(":path: /live/")}); d.Counter != (Counter{}) {
		t.Errorf("a page is counted as %s", d.Counter.Name())
	}
}

func TestGateRefused(t *testing.T) {
	d := GateRefused(mustParse(t, `{"rules":[{"protocol":"spdy/3.1"}]}`), fields(":path: /a?b", "connection: Upgrade", "upgrade: foo,SPDY/3.1"))
	if got, want := d.String(), "reason=upgrade_failed route=- cluster=- protocol=foo path=/a"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, want := d.Counter.Name(), "switchyard.decisions.rule.-.reason.upgrade_failed.protocol.spdy/3.1"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if d.Status != 0 || d.Routed || d.Mutations != nil {
		t.Errorf("something left to do: %+v", d)
	}
}

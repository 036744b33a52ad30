package admin

import (
	"regexp"
	"slices"
	"strings"

	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
)

// tagExtractor takes tags out of the names of stats, as stats_config says.
type tagExtractor struct {
	fixed []tag
	rules []tagRule
}

type tag struct{ name, value string }

// tagRule finds one tag: the first group of the expression is taken out of the
// name, the second one, or else the first, is the value.
type tagRule struct {
	name  string
	first string // the first token of names that it is about; "": any
	match *regexp.Regexp
}

// standardTags are Envoy's (well_known_names.cc), those of stats that hostsim
// has, in Envoy's order.
var standardTags = []struct{ name, regex string }{
	{"envoy.response_code", `_rq(_(\d{3}))$`},
	{"envoy.response_code_class", `_rq_((\d))xx$`},
	{"envoy.virtual_cluster", `^vhost\.[^.]+\.vcluster\.(([^.]+)\.)`},
	{"envoy.route", `^vhost\.[^.]+\.route\.(([^.]+)\.)`},
	{"envoy.ssl_cipher", `^listener\..*?\.ssl\.ciphers(\.(.*?))$`},
	{"cipher_suite", `^cluster\.[^.]+\.ssl\.ciphers(\.(.*?))$`},
	{"envoy.tls_certificate", `^(?:listener\..*?|cluster\.[^.]+)\.ssl\.certificate\.(([^.]+)\.)`},
	{"envoy.ssl_version", `^(?:listener\..*?|cluster\.[^.]+)\.ssl\.versions(\.(.*?))$`},
	{"envoy.ssl_curve", `^(?:listener\..*?|cluster\.[^.]+)\.ssl\.curves(\.(.*?))$`},
	{"envoy.ssl_sigalg", `^(?:listener\..*?|cluster\.[^.]+)\.ssl\.sigalgs(\.(.*?))$`},
	{"envoy.cluster_name", `^cluster\.(([^.]+)\.)`},
	{"envoy.http_conn_manager_prefix", `^listener\..*?\.http\.(([^.]+)\.)`},
	{"envoy.http_conn_manager_prefix", `^http\.(([^.]+)\.)`},
	{"envoy.worker_id", `^(?:listener\..*?|server|listener_manager|thread_local_cluster_manager)\.worker_((\d+)\.)`},
	{"envoy.listener_address", `^listener\.(((?:[_.\d]*|[_\[\]aAbBcCdDeEfF\d]*))\.)`},
	{"envoy.virtual_host", `^vhost\.(([^.]+)\.)`},
}

func newTagExtractor(c *metricsv3.StatsConfig) *tagExtractor {
	t := &tagExtractor{}
	add := func(name, regex string) {
		if re, err := regexp.Compile(regex); err == nil {
			t.rules = append(t.rules, tagRule{name: name, match: re, first: firstToken(regex)})
		}
	}
	if c.GetUseAllDefaultTags() == nil || c.GetUseAllDefaultTags().GetValue() {
		for _, s := range standardTags {
			add(s.name, s.regex)
		}
	}
	for _, s := range c.GetStatsTags() {
		switch v := s.GetTagValue().(type) {
		case *metricsv3.TagSpecifier_FixedValue:
			t.fixed = append(t.fixed, tag{s.GetTagName(), v.FixedValue})
		case *metricsv3.TagSpecifier_Regex:
			if v.Regex != "" {
				add(s.GetTagName(), v.Regex)
				continue
			}
			for _, d := range standardTags {
				if d.name == s.GetTagName() {
					add(d.name, d.regex)
				}
			}
		}
	}
	// Rules about one first token come behind those about any.
	slices.SortStableFunc(t.rules, func(a, b tagRule) int {
		switch {
		case a.first == "" && b.first != "":
			return -1
		case a.first != "" && b.first == "":
			return 1
		}
		return 0
	})
	return t
}

// firstToken is the token that names must begin with to match an expression
// like ^token\..., or "".
func firstToken(regex string) string {
	if !strings.HasPrefix(regex, "^") {
		return ""
	}
	for i := 1; i < len(regex); i++ {
		switch c := regex[i]; {
		case c == '\\' && strings.HasPrefix(regex[i:], `\.`):
			return regex[1:i]
		case c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9'):
			return ""
		}
	}
	return ""
}

// extract returns the name without its tags, and the tags. All expressions see
// the whole name.
func (t *tagExtractor) extract(name string) (string, []tag) {
	tags := slices.Clone(t.fixed)
	var cut [][2]int
	first, _, _ := strings.Cut(name, ".")
	for _, r := range t.rules {
		if r.first != "" && r.first != first || slices.ContainsFunc(tags, func(t tag) bool { return t.name == r.name }) {
			continue
		}
		m := r.match.FindStringSubmatchIndex(name)
		if len(m) < 4 || m[2] < 0 {
			continue
		}
		value := [2]int{m[2], m[3]}
		if len(m) >= 6 && m[4] >= 0 {
			value = [2]int{m[4], m[5]}
		}
		tags = append(tags, tag{r.name, name[value[0]:value[1]]})
		cut = append(cut, [2]int{m[2], m[3]})
	}
	slices.SortFunc(cut, func(a, b [2]int) int { return a[0] - b[0] })
	var b strings.Builder
	at := 0
	for _, c := range cut {
		if c[0] > at {
			b.WriteString(name[at:c[0]])
		}
		at = max(at, c[1])
	}
	b.WriteString(name[at:])
	return b.String(), tags
}

package admin

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"switchyard/hostsim/proxy"
)

// prometheus is /stats/prometheus: counters, gauges and histograms, each
// grouped by name without tags.
func (h *handler) prometheus(p params) response {
	buckets, _ := p.get("histogram_buckets")
	switch buckets {
	case "", "none", "cumulative", "summary":
	case "disjoint", "detailed":
		return text(400, "unsupported prometheus histogram bucket mode")
	case "prometheusnative":
		return notSimulated("native histograms")(h, p)
	default:
		return text(400, "usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary|prometheusnative)\n")
	}
	var s selection
	if problem := s.parse(p); problem != "" {
		return text(400, problem)
	}
	all, histograms := h.server.Stats.All()
	var counters, gauges, many groups
	for _, n := range all {
		if !s.takes(n.Name, n.Stat.Used()) {
			continue
		}
		key, name, labels := h.promName(n.Name)
		line := name + "{" + labels + "} " + strconv.FormatInt(n.Stat.Value(), 10) + "\n"
		if n.Stat.Kind() == proxy.Gauge {
			gauges.add(key, name, n.Name, line)
		} else {
			counters.add(key, name, n.Name, line)
		}
	}
	for _, n := range histograms {
		f := flush(n)
		if !s.takes(f.name, f.used) {
			continue
		}
		key, name, labels := h.promName(n.Name)
		if buckets == "summary" {
			many.add(key, name, n.Name, f.summary(name, labels))
		} else {
			many.add(key, name, n.Name, f.histogram(name, labels))
		}
	}
	var b strings.Builder
	counters.write(&b, "counter")
	gauges.write(&b, "gauge")
	if buckets == "summary" {
		many.write(&b, "summary")
	} else {
		many.write(&b, "histogram")
	}
	return text(200, b.String())
}

// groups are lines by the name that they share.
type groups map[string]*group

type group struct {
	tokens []string // of the name as stats have it: groups are in their order
	name   string
	stats  []stat
}

// stat is one of a group, which are in the order of their whole names.
type stat struct {
	tokens []string
	lines  string
}

func (g *groups) add(key, name, full, lines string) {
	if *g == nil {
		*g = groups{}
	}
	if (*g)[key] == nil {
		(*g)[key] = &group{tokens: strings.Split(key, "."), name: name}
	}
	(*g)[key].stats = append((*g)[key].stats, stat{strings.Split(full, "."), lines})
}

func (g groups) write(b *strings.Builder, kind string) {
	all := slices.SortedFunc(maps.Values(g), func(a, b *group) int { return slices.Compare(a.tokens, b.tokens) })
	for _, x := range all {
		b.WriteString("# TYPE " + x.name + " " + kind + "\n")
		slices.SortStableFunc(x.stats, func(a, b stat) int { return slices.Compare(a.tokens, b.tokens) })
		for _, s := range x.stats {
			b.WriteString(s.lines)
		}
	}
}

// promName is a stat's name without its tags, that as Prometheus has it, and its
// labels without braces. What plugins count has its name from them, without a
// prefix.
func (h *handler) promName(full string) (key, name, labelText string) {
	key, tags := h.tags.extract(full)
	var labels []string
	for _, t := range tags {
		labels = append(labels, sanitized(t.name)+`="`+labelValue.Replace(t.value)+`"`)
	}
	if own, ok := strings.CutPrefix(key, proxy.GuestPrefix); ok {
		name = sanitized(own)
	} else {
		name = "envoy_" + sanitized(key)
	}
	return key, name, strings.Join(labels, ",")
}

var labelValue = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

// sanitized puts an underscore for whatever a name may not contain.
func sanitized(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			b[i] = '_'
		}
	}
	return string(b)
}

func (f flushed) histogram(name, labels string) string {
	var b strings.Builder
	prefix := name + "_bucket{" + labels
	if labels != "" {
		prefix += ","
	}
	for _, bound := range upperBounds {
		b.WriteString(prefix + `le="` + long(bound) + `"} ` + strconv.FormatUint(proxy.AtMost(f.all, bound), 10) + "\n")
	}
	n := strconv.FormatUint(proxy.Count(f.all), 10)
	b.WriteString(prefix + `le="+Inf"} ` + n + "\n")
	b.WriteString(name + "_sum{" + labels + "} " + long(proxy.Sum(f.all)) + "\n")
	b.WriteString(name + "_count{" + labels + "} " + n + "\n")
	return b.String()
}

// summary is of the last interval.
func (f flushed) summary(name, labels string) string {
	var b strings.Builder
	prefix := name + "{" + labels
	if labels != "" {
		prefix += ","
	}
	for _, q := range quantiles {
		b.WriteString(prefix + `quantile="` + short(q) + `"} ` + long(proxy.Quantile(f.interval, q)) + "\n")
	}
	b.WriteString(name + "_sum{" + labels + "} " + long(proxy.Sum(f.interval)) + "\n")
	b.WriteString(name + "_count{" + labels + "} " + strconv.FormatUint(proxy.Count(f.interval), 10) + "\n")
	return b.String()
}

// long is a number with all its digits, up to 32.
func long(x float64) string {
	if math.IsNaN(x) {
		return "nan"
	}
	return strconv.FormatFloat(x, 'g', 32, 64)
}

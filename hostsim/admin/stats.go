package admin

import (
	"cmp"
	"encoding/json"
	"errors"
	"math"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"

	"switchyard/hostsim/proxy"
)

// quantiles and upperBounds are those that Envoy shows of a histogram.
var (
	quantiles   = []float64{0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1}
	upperBounds = []float64{0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000}
)

// selection is which stats are wanted.
type selection struct {
	usedOnly, invert bool
	filter           *regexp.Regexp
	kind             string // Counters, Gauges, Histograms, TextReadouts or All
}

func (s *selection) parse(p params) (problem string) {
	s.usedOnly, s.invert = p.has("usedonly"), p.has("invert_filter")
	if pattern, ok := p.get("filter"); ok {
		var err error
		if s.filter, err = regexp.Compile(pattern); err != nil {
			return "Invalid re2 regex: " + re2Error(err)
		}
	}
	s.kind, _ = p.get("type")
	switch s.kind = cmp.Or(s.kind, "All"); s.kind {
	case "All", "Counters", "Gauges", "Histograms", "TextReadouts":
		return ""
	}
	return "invalid &type= param"
}

func (s *selection) takes(name string, used bool) bool {
	return (used || !s.usedOnly) && (s.filter == nil || s.filter.MatchString(name) != s.invert)
}

// re2Error says what is wrong with a regular expression in the words of RE2.
func re2Error(err error) string {
	var e *syntax.Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	what := map[syntax.ErrorCode]string{
		syntax.ErrMissingBracket: "missing ]", syntax.ErrMissingParen: "missing )", syntax.ErrUnexpectedParen: "unexpected )",
		syntax.ErrMissingRepeatArgument: "no argument for repetition operator", syntax.ErrInvalidRepeatOp: "bad repetition operator",
		syntax.ErrInvalidRepeatSize: "invalid repetition size", syntax.ErrInvalidNamedCapture: "invalid named capture group",
		syntax.ErrTrailingBackslash: `trailing \`, syntax.ErrInvalidUTF8: "invalid UTF-8",
	}[e.Code]
	what = cmp.Or(what, e.Code.String())
	if e.Expr == "" {
		return what
	}
	return what + ": " + e.Expr
}

func (h *handler) stats(p params) response {
	format, _ := p.get("format")
	switch format {
	case "prometheus":
		return h.prometheus(p)
	case "html", "active-html":
		return text(501, "not simulated: format="+format+"\n")
	case "", "text", "json":
	default:
		return text(400, "usage: /stats?format=(html|active-html|json|prometheus|text)\n\n")
	}
	buckets, _ := p.get("histogram_buckets")
	switch buckets {
	case "", "none", "cumulative", "disjoint", "detailed", "summary":
	default:
		return text(400, "usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary|prometheusnative)\n")
	}
	var s selection
	if problem := s.parse(p); problem != "" {
		return text(400, problem)
	}
	all, histograms := h.server.Stats.All()
	var single []proxy.Named[*proxy.Stat]
	for _, n := range all {
		kind := "Counters"
		if n.Stat.Kind() == proxy.Gauge {
			kind = "Gauges"
		}
		if (s.kind == "All" || s.kind == kind) && s.takes(n.Name, n.Stat.Used()) {
			single = append(single, n)
		}
	}
	var many []flushed
	if s.kind == "All" || s.kind == "Histograms" {
		for _, n := range histograms {
			f := flush(n)
			if s.takes(n.Name, f.used) {
				many = append(many, f)
			}
		}
	}
	if format == "json" {
		return statsJSON(single, many, buckets)
	}
	var b strings.Builder
	for _, n := range single {
		b.WriteString(n.Name + ": " + strconv.FormatInt(n.Stat.Value(), 10) + "\n")
	}
	for _, f := range many {
		b.WriteString(f.name + ":" + f.text(buckets) + "\n")
	}
	return text(200, b.String())
}

// flushed is a histogram as it was at the last flush.
type flushed struct {
	name          string
	all, interval []proxy.Bin
	used          bool
}

func flush(n proxy.Named[*proxy.Histogram]) flushed {
	f := flushed{name: n.Name}
	f.all, f.interval, f.used = n.Stat.Flushed()
	return f
}

func (f flushed) text(buckets string) string {
	if !f.used {
		return " No recorded values"
	}
	var b strings.Builder
	switch buckets {
	case "cumulative", "disjoint":
		all, interval := f.buckets(buckets)
		for i, bound := range upperBounds {
			b.WriteString(" B" + short(bound) + "(" + strconv.FormatUint(interval[i], 10) + "," + strconv.FormatUint(all[i], 10) + ")")
		}
	case "detailed":
		bins := func(bins []proxy.Bin) string {
			var parts []string
			for _, x := range bins {
				parts = append(parts, short(x.Lower)+","+short(x.Width)+":"+strconv.FormatUint(x.Count, 10))
			}
			return strings.Join(parts, ", ")
		}
		b.WriteString("\n  totals=" + bins(f.all) + "\n  intervals=" + bins(f.interval) + "\n  summary=" + strings.TrimPrefix(f.text(""), " "))
	default:
		for _, q := range quantiles {
			b.WriteString(" P" + percent(q) + "(" + short(proxy.Quantile(f.interval, q)) + "," + short(proxy.Quantile(f.all, q)) + ")")
		}
	}
	return b.String()
}

func percent(q float64) string { return strconv.FormatFloat(math.Round(q*1000)/10, 'g', -1, 64) }

// short is a number in its shortest form.
func short(x float64) string {
	if math.IsNaN(x) {
		return "nan"
	}
	return strconv.FormatFloat(x, 'g', -1, 64)
}

// buckets counts the values up to each bound, or between it and the one before.
func (f flushed) buckets(mode string) (all, interval []uint64) {
	count := func(bins []proxy.Bin) []uint64 {
		var counts []uint64
		below := uint64(0)
		for _, bound := range upperBounds {
			n := proxy.AtMost(bins, bound)
			if mode == "disjoint" {
				n, below = n-below, n
			}
			counts = append(counts, n)
		}
		return counts
	}
	return count(f.all), count(f.interval)
}

// The JSON of histograms.
type (
	pair struct {
		Cumulative *float64 `json:"cumulative"` // null: there is no value
		Interval   *float64 `json:"interval"`
	}
	bucket struct {
		UpperBound float64 `json:"upper_bound"`
		Interval   uint64  `json:"interval"`
		Cumulative uint64  `json:"cumulative"`
	}
	bin struct {
		LowerBound float64 `json:"lower_bound"`
		Width      float64 `json:"width"`
		Count      uint64  `json:"count"`
	}
	withBuckets struct {
		Name    string   `json:"name"`
		Buckets []bucket `json:"buckets"`
	}
	withQuantiles struct {
		Name   string `json:"name"`
		Values []pair `json:"values"`
	}
	withDetails struct {
		Name        string `json:"name"`
		Totals      []bin  `json:"totals"`
		Intervals   []bin  `json:"intervals"`
		Percentiles []pair `json:"percentiles"`
	}
)

func statsJSON(single []proxy.Named[*proxy.Stat], many []flushed, buckets string) response {
	list := []any{}
	for _, n := range single {
		list = append(list, struct {
			Name  string `json:"name"`
			Value int64  `json:"value"`
		}{n.Name, n.Stat.Value()})
	}
	if len(many) > 0 {
		list = append(list, map[string]any{"histograms": histogramsJSON(many, buckets)})
	}
	body, err := json.Marshal(map[string]any{"stats": list})
	if err != nil {
		return text(500, err.Error())
	}
	return response{Status: 200, ContentType: "application/json", Body: body}
}

func histogramsJSON(many []flushed, buckets string) any {
	var percents []float64
	for _, q := range quantiles {
		percents = append(percents, math.Round(q*1000)/10)
	}
	switch buckets {
	case "cumulative", "disjoint":
		var list []withBuckets
		for _, f := range many {
			w := withBuckets{Name: f.name}
			all, interval := f.buckets(buckets)
			for i, bound := range upperBounds {
				w.Buckets = append(w.Buckets, bucket{bound, interval[i], all[i]})
			}
			list = append(list, w)
		}
		return list
	case "detailed":
		var list []withDetails
		for _, f := range many {
			list = append(list, withDetails{f.name, binsJSON(f.all), binsJSON(f.interval), f.pairs()})
		}
		return struct {
			Percents []float64     `json:"supported_percentiles"`
			Details  []withDetails `json:"details"`
		}{percents, list}
	}
	var list []withQuantiles
	for _, f := range many {
		list = append(list, withQuantiles{f.name, f.pairs()})
	}
	return struct {
		Percents []float64       `json:"supported_quantiles"`
		Computed []withQuantiles `json:"computed_quantiles"`
	}{percents, list}
}

func binsJSON(bins []proxy.Bin) []bin {
	list := []bin{}
	for _, b := range bins {
		list = append(list, bin{b.Lower, b.Width, b.Count})
	}
	return list
}

func (f flushed) pairs() []pair {
	value := func(bins []proxy.Bin, q float64) *float64 {
		if x := proxy.Quantile(bins, q); !math.IsNaN(x) {
			return &x
		}
		return nil
	}
	var list []pair
	for _, q := range quantiles {
		list = append(list, pair{value(f.all, q), value(f.interval, q)})
	}
	return list
}

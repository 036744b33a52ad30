package proxy

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"switchyard/hostsim/abi"
	"switchyard/hostsim/vm"
)

// Stats holds counters, gauges and histograms by Envoy's names. It is safe for
// concurrent use; a Stat is looked up once, when the configuration is loaded.
type Stats struct {
	mu         sync.Mutex
	stats      map[string]*Stat
	histograms map[string]*Histogram
	ahead      []func()
	flushing   []func()
	onRead     bool // stats_flush_on_admin
}

// StatKind says what a stat is.
type StatKind uint8

const (
	Counter StatKind = iota
	Gauge
)

// Stat is one counter or gauge.
type Stat struct {
	value atomic.Int64
	used  atomic.Bool
	kind  StatKind
	now   func() (value int64, used bool) // if it is not nil: the value, less that at the last reset
}

// Add adds to the stat.
func (s *Stat) Add(n int64) {
	s.value.Add(n)
	s.use()
}

// Set sets a gauge.
func (s *Stat) Set(n int64) {
	s.value.Store(n)
	s.use()
}

func (s *Stat) use() {
	if !s.used.Load() { // nobody else's cache line, if it is set already
		s.used.Store(true)
	}
}

// Value returns what the stat says now.
func (s *Stat) Value() int64 {
	if s.now != nil {
		n, _ := s.now()
		return n - s.value.Load()
	}
	return s.value.Load()
}

// Used says whether anything was ever written to the stat, be it 0.
func (s *Stat) Used() bool {
	if s.now != nil {
		_, used := s.now()
		return used
	}
	return s.used.Load()
}

// Kind says whether it is a counter or a gauge.
func (s *Stat) Kind() StatKind { return s.kind }

// Stat returns the counter with that name, made on its first use.
func (s *Stats) Stat(name string) *Stat { return s.get(name, Counter) }

// Gauge returns the gauge with that name, made on its first use.
func (s *Stats) Gauge(name string) *Stat { return s.get(name, Gauge) }

func (s *Stats) get(name string, kind StatKind) *Stat {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stats == nil {
		s.stats = map[string]*Stat{}
	}
	stat := s.stats[name]
	if stat == nil {
		stat = &Stat{kind: kind}
		s.stats[strings.Clone(name)] = stat
	}
	return stat
}

// Histogram returns the histogram with that name, made on its first use.
func (s *Stats) Histogram(name string) *Histogram {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.histograms == nil {
		s.histograms = map[string]*Histogram{}
	}
	h := s.histograms[name]
	if h == nil {
		h = &Histogram{}
		s.histograms[strings.Clone(name)] = h
	}
	return h
}

// zero makes counters that stay 0, because Envoy has them.
func (s *Stats) zero(prefix string, names ...string) {
	for _, name := range names {
		s.Stat(prefix + name)
	}
}

// zeroGauges is zero for gauges.
func (s *Stats) zeroGauges(prefix string, names ...string) {
	for _, name := range names {
		s.Gauge(prefix + name)
	}
}

// computed makes a stat whose value is asked for when somebody reads it, and
// whether it counts as used.
func (s *Stats) computed(name string, kind StatKind, now func() (int64, bool)) {
	s.get(name, kind).now = now
}

// beforeRead has f called whenever somebody reads the stats, so that they show
// what Envoy's event loop would have seen already.
func (s *Stats) beforeRead(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ahead = append(s.ahead, f)
}

// onFlush has f called at each flush: Envoy sets some gauges only then.
func (s *Stats) onFlush(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flushing = append(s.flushing, f)
}

// Flush does what Envoy does each stats_flush_interval, 5 s if nothing else is
// configured: histograms show what was recorded before it.
func (s *Stats) Flush() {
	s.runHooks()
	s.mu.Lock()
	all := make([]*Histogram, 0, len(s.histograms))
	for _, h := range s.histograms {
		all = append(all, h)
	}
	s.mu.Unlock()
	for _, h := range all {
		h.merge()
	}
}

func (s *Stats) runHooks() {
	s.mu.Lock()
	hooks := slices.Clone(s.flushing)
	s.mu.Unlock()
	for _, f := range hooks {
		f()
	}
}

// ResetCounters makes all counters 0.
func (s *Stats) ResetCounters() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, stat := range s.stats {
		switch {
		case stat.kind != Counter:
		case stat.now != nil:
			n, _ := stat.now()
			stat.value.Store(n)
		default:
			stat.value.Store(0)
		}
	}
}

// Named is a stat or a histogram and its name.
type Named[T any] struct {
	Name string
	Stat T
}

func sorted[T any](m map[string]T) []Named[T] {
	all := make([]Named[T], 0, len(m))
	for name, stat := range m {
		all = append(all, Named[T]{name, stat})
	}
	slices.SortFunc(all, func(a, b Named[T]) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// All returns the counters and gauges, and the histograms, each in the order
// of names.
func (s *Stats) All() ([]Named[*Stat], []Named[*Histogram]) {
	s.mu.Lock()
	ahead := slices.Clone(s.ahead)
	s.mu.Unlock()
	for _, look := range ahead {
		look()
	}
	if s.onRead {
		s.Flush()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return sorted(s.stats), sorted(s.histograms)
}

// Each calls f for every counter and gauge in the order of names.
func (s *Stats) Each(f func(name string, value int64)) {
	all, _ := s.All()
	for _, n := range all {
		f(n.Name, n.Stat.Value())
	}
}

// GuestPrefix stands before the names of what plugins count.
const GuestPrefix = "wasmcustom."

// guestMetrics puts what plugins count among the Stats, by Envoy's names.
type guestMetrics Stats

func (m *guestMetrics) Metric(t abi.MetricType, name string) vm.Metric {
	s, name := (*Stats)(m), GuestPrefix+name
	if name == GuestPrefix {
		name = strings.TrimSuffix(name, ".") // the name of no name
	}
	switch t {
	case abi.MetricHistogram:
		return guestHistogram{s.Histogram(name)}
	case abi.MetricGauge:
		return guestMetric{s.Gauge(name)}
	}
	return guestMetric{s.Stat(name)}
}

type guestMetric struct{ *Stat }

func (m guestMetric) Value() uint64   { return uint64(m.Stat.Value()) }
func (m guestMetric) Record(n uint64) { m.Set(int64(n)) }

type guestHistogram struct{ *Histogram }

func (guestHistogram) Add(int64)     {}
func (guestHistogram) Value() uint64 { return 0 }

package proxy

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"switchyard/hostsim/abi"
	"switchyard/hostsim/vm"
)

// Stats holds counters and gauges by Envoy's names. It is safe for concurrent
// use; a Stat is looked up once, when the configuration is loaded.
type Stats struct {
	mu    sync.Mutex
	stats map[string]*Stat
	funcs map[string]func() int64
	ahead []func()
}

// Stat is one counter or gauge.
type Stat struct{ value atomic.Int64 }

func (s *Stat) Add(n int64)  { s.value.Add(n) }
func (s *Stat) Set(n int64)  { s.value.Store(n) }
func (s *Stat) Value() int64 { return s.value.Load() }

// Stat returns the stat with that name, made on its first use.
func (s *Stats) Stat(name string) *Stat {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stats == nil {
		s.stats = map[string]*Stat{}
	}
	stat := s.stats[name]
	if stat == nil {
		stat = &Stat{}
		s.stats[name] = stat
	}
	return stat
}

// gauge adds a stat whose value is asked for when somebody reads it.
func (s *Stats) gauge(name string, value func() int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.funcs == nil {
		s.funcs = map[string]func() int64{}
	}
	s.funcs[name] = value
}

// beforeRead has f called whenever somebody reads the stats, so that they show
// what Envoy's event loop would have seen already.
func (s *Stats) beforeRead(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ahead = append(s.ahead, f)
}

// Each calls f for every stat in the order of names.
func (s *Stats) Each(f func(name string, value int64)) {
	s.mu.Lock()
	ahead := slices.Clone(s.ahead)
	s.mu.Unlock()
	for _, look := range ahead {
		look()
	}
	snapshot := map[string]int64{}
	s.mu.Lock()
	for name, stat := range s.stats {
		snapshot[name] = stat.Value()
	}
	for name, value := range s.funcs {
		snapshot[name] = value()
	}
	s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(snapshot)) {
		f(name, snapshot[name])
	}
}

// guestMetrics puts what plugins count among the Stats, by Envoy's names.
type guestMetrics Stats

func (m *guestMetrics) Metric(t abi.MetricType, name string) vm.Metric {
	if t == abi.MetricHistogram {
		return &guestMetric{&Stat{}, t} // Envoy's /stats lists quantiles of it; hostsim keeps none
	}
	return &guestMetric{(*Stats)(m).Stat("wasmcustom." + name), t}
}

type guestMetric struct {
	stat *Stat
	t    abi.MetricType
}

func (m *guestMetric) Add(n int64)   { m.stat.Add(n) }
func (m *guestMetric) Value() uint64 { return uint64(m.stat.Value()) }
func (m *guestMetric) Record(n uint64) {
	if m.t == abi.MetricGauge {
		m.stat.Set(int64(n))
	}
}

package vm

import (
	"strings"
	"sync"
	"sync/atomic"

	"switchyard/hostsim/abi"
)

// Metrics is where guests' metrics go. Its methods may be called by any number
// of VMs at a time.
type Metrics interface {
	// Metric returns the metric of that type and name, the same one each
	// time. The name is as the guest wrote it, without a prefix. It may be a
	// view of guest memory: an implementation that keeps it copies it.
	Metric(t abi.MetricType, name string) Metric
}

// Metric is a counter, gauge or histogram. Its methods may be called by any
// number of VMs at a time.
type Metric interface {
	Add(delta int64)     // a counter or gauge
	Record(value uint64) // sets a gauge, adds a histogram's sample
	Value() uint64       // of a counter or gauge
}

// Registry is the Metrics of an engine that is given none. Its zero value is
// ready to use.
type Registry struct {
	mu      sync.Mutex
	metrics map[registryKey]*registryMetric
}

type registryKey struct {
	t    abi.MetricType
	name string
}

// registryMetric is a Metric. A histogram's value is the sum of its samples.
type registryMetric struct {
	t     abi.MetricType
	value atomic.Uint64
}

func (m *registryMetric) Add(delta int64) { m.value.Add(uint64(delta)) }
func (m *registryMetric) Value() uint64   { return m.value.Load() }
func (m *registryMetric) Record(value uint64) {
	if m.t == abi.MetricGauge {
		m.value.Store(value)
	} else {
		m.value.Add(value)
	}
}

// Metric implements Metrics.
func (r *Registry) Metric(t abi.MetricType, name string) Metric {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, ok := r.metrics[registryKey{t, name}]
	if !ok {
		if r.metrics == nil {
			r.metrics = make(map[registryKey]*registryMetric)
		}
		m = &registryMetric{t: t}
		r.metrics[registryKey{t, strings.Clone(name)}] = m
	}
	return m
}

// Value returns the value of a metric, and whether it was ever defined.
func (r *Registry) Value(t abi.MetricType, name string) (uint64, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, ok := r.metrics[registryKey{t, name}]
	if !ok {
		return 0, false
	}
	return m.Value(), true
}

// metricTable is a VM's metrics by id. The two low bits of an id are the type
// and the rest counts from 1, for each type by itself: counters 4, 8, gauges
// 5, 9, histograms 6, 10. Each definition makes a new id.
type metricTable struct {
	byType  [3][]Metric
	defined int
}

const (
	metricTypeMask = 3
	metricIDStep   = 4
)

func (t *metricTable) define(kind uint32, m Metric) (id uint32) {
	t.byType[kind] = append(t.byType[kind], m)
	t.defined++
	return uint32(len(t.byType[kind]))*metricIDStep + kind
}

func (t *metricTable) find(id uint32) (abi.MetricType, Metric) {
	kind, n := id&metricTypeMask, id/metricIDStep
	if kind >= uint32(len(t.byType)) || n == 0 || n > uint32(len(t.byType[kind])) {
		return abi.MetricType(kind), nil
	}
	return abi.MetricType(kind), t.byType[kind][n-1]
}

func proxyDefineMetric(v *instance, stack []uint64) abi.Status {
	name, ok := v.readString(stack[1], stack[2])
	if !ok {
		return abi.StatusInvalidMemoryAccess
	}
	kind := uint32(stack[0])
	if kind > uint32(abi.MetricHistogram) {
		return abi.StatusBadArgument
	}
	if v.metrics.defined == maxMetrics {
		v.because("the plugin has defined %d metrics already", maxMetrics)
		return abi.StatusInternalFailure
	}
	id := v.metrics.define(kind, v.group.engine.metrics.Metric(abi.MetricType(kind), name))
	if !v.writeUint32(stack[3], id) {
		return abi.StatusInvalidMemoryAccess
	}
	return abi.StatusOK
}

func proxyIncrementMetric(v *instance, stack []uint64) abi.Status {
	kind, m := v.metrics.find(uint32(stack[0]))
	delta := int64(stack[1])
	switch {
	case kind > abi.MetricGauge:
		return abi.StatusBadArgument
	case m == nil:
		return abi.StatusNotFound
	case kind == abi.MetricCounter && delta <= 0:
		return abi.StatusBadArgument
	}
	m.Add(delta)
	return abi.StatusOK
}

func proxyRecordMetric(v *instance, stack []uint64) abi.Status {
	kind, m := v.metrics.find(uint32(stack[0]))
	switch {
	case m == nil:
		return abi.StatusNotFound
	case kind == abi.MetricCounter:
		m.Add(int64(stack[1]))
	default:
		m.Record(stack[1])
	}
	return abi.StatusOK
}

func proxyGetMetric(v *instance, stack []uint64) abi.Status {
	kind, m := v.metrics.find(uint32(stack[0]))
	switch {
	case kind > abi.MetricGauge:
		return abi.StatusBadArgument
	case m == nil:
		return abi.StatusNotFound
	case !v.writeUint64(stack[1], m.Value()):
		return abi.StatusInvalidMemoryAccess
	}
	return abi.StatusOK
}

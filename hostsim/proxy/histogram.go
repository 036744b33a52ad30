package proxy

import (
	"math"
	"sync"
	"sync/atomic"
)

// Histogram counts values in bins of two significant digits, as Envoy's
// (circllhist) does. Recording takes no lock and, but for the first value of a
// new order of magnitude, no memory.
type Histogram struct {
	zeros  atomic.Uint64
	orders [20]atomic.Pointer[order] // by the power of ten

	mu               sync.Mutex
	merged, interval []Bin // as of the last flush
	used             bool
}

// order counts the values of one order of magnitude, by their first two digits
// less 10.
type order [90]atomic.Uint64

// Record adds one value.
func (h *Histogram) Record(v uint64) {
	if v == 0 {
		h.zeros.Add(1)
		return
	}
	exp, digits := 0, v
	for digits >= 100 {
		digits /= 10
		exp++
	}
	if digits < 10 {
		digits *= 10
	} else {
		exp++
	}
	slot := &h.orders[exp]
	o := slot.Load()
	if o == nil {
		o = new(order)
		if !slot.CompareAndSwap(nil, o) {
			o = slot.Load()
		}
	}
	o[digits-10].Add(1)
}

// Bin is how many values there were from Lower on, less than Lower + Width.
type Bin struct {
	Lower, Width float64
	Count        uint64
}

// merge is what happens to a histogram at a flush.
func (h *Histogram) merge() {
	h.mu.Lock()
	defer h.mu.Unlock()
	var now []Bin
	if n := h.zeros.Load(); n > 0 {
		now = append(now, Bin{0, 0, n})
	}
	for exp := range h.orders {
		o := h.orders[exp].Load()
		if o == nil {
			continue
		}
		width := math.Pow10(exp - 1)
		for i := range o {
			if n := o[i].Load(); n > 0 {
				lower := float64(i+10) * width
				if exp == 0 { // a quotient is nearer to the decimal than a product
					lower = float64(i+10) / 10
				}
				now = append(now, Bin{lower, width, n})
			}
		}
	}
	before := h.merged
	h.interval = h.interval[:0:0]
	for _, b := range now {
		for len(before) > 0 && before[0].Lower < b.Lower {
			before = before[1:]
		}
		if len(before) > 0 && before[0].Lower == b.Lower {
			b.Count -= before[0].Count
		}
		if b.Count > 0 {
			h.interval = append(h.interval, b)
		}
	}
	h.merged, h.used = now, h.used || len(now) > 0
}

// Flushed returns what had been recorded until the last flush, and in the
// interval before it. Both slices are to be read only.
func (h *Histogram) Flushed() (all, interval []Bin, used bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.merged, h.interval, h.used
}

// Count is the number of values in the bins.
func Count(bins []Bin) (n uint64) {
	for _, b := range bins {
		n += b.Count
	}
	return n
}

// Sum is about the sum of the values in the bins: each is taken for the
// harmonic mean of its bin's bounds.
func Sum(bins []Bin) (sum float64) {
	for _, b := range bins {
		if upper := b.Lower + b.Width; upper > 0 {
			sum += 2 * b.Lower * upper / (b.Lower + upper) * float64(b.Count)
		}
	}
	return sum
}

// AtMost is the number of values in bins that begin at limit or below.
func AtMost(bins []Bin, limit float64) (n uint64) {
	for _, b := range bins {
		if b.Lower <= limit {
			n += b.Count
		}
	}
	return n
}

// Quantile returns the value that a share q of all values does not exceed: the
// values of a bin are taken to lie evenly between its bounds. It is NaN if
// there are none.
func Quantile(bins []Bin, q float64) float64 {
	total := Count(bins)
	if total == 0 {
		return math.NaN()
	}
	rank := max(1, uint64(math.Ceil(q*float64(total))))
	below := uint64(0)
	for _, b := range bins {
		if below+b.Count >= rank {
			return b.Lower + b.Width*float64(rank-below)/float64(b.Count+1)
		}
		below += b.Count
	}
	return math.NaN()
}

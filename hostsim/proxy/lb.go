package proxy

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	least_requestv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// This file chooses hosts, as Envoy's load_balancer_impl.cc and
// subset_lb.cc do: first a priority, then healthy, degraded or all hosts, and
// then one of them by the policy.

type health int

const (
	healthy health = iota
	degraded
	unhealthy
	excluded // unhealthy, and not counted among all
)

// balancing is how a cluster chooses among its hosts.
type balancing struct {
	policy     clusterv3.Cluster_LbPolicy
	choices    int         // least request compares this many hosts
	bias       float64     // how much requests under way count against a host's weight
	scan       bool        // least request compares all hosts
	threads    int         // workers and the main thread
	spare      uint32      // overprovisioning_factor, %
	panicBelow uint32      // % of healthy hosts below which health is ignored
	subsets    *subsetting // nil: none
	hashing    *hashing    // nil: the policy uses no hash
}

// hostSet is a set of hosts in the order of their priorities, and how much
// goes to each. It is immutable.
type hostSet struct {
	all        []*host
	priorities []hostPriority
	subsets    map[string]*hostSet // by their labels, see labels.key
	fallback   *hostSet            // the default subset
}

type hostPriority struct {
	groups    [2]*hostGroup // healthy, degraded
	all       *hostGroup
	load      [2]uint32 // % of the requests that go to each of groups
	panic     bool
	total     uint32    // hosts, without those excluded
	available [2]uint32 // %, with what is overprovided
}

// hostGroup is hosts among which a policy chooses.
type hostGroup struct {
	hosts    []*host
	table    hashTable // nil: the policy uses none
	weighted bool
	next     atomic.Uint32

	mu       sync.Mutex
	now      float64
	deadline []float64 // of each host: when it is its turn again
	order    []uint64  // breaks ties, first come first served
	turns    uint64
}

func (b *balancing) hostSet(hosts []*host, stats *clusterStats) *hostSet {
	set := b.plainSet(hosts)
	if b.subsets != nil {
		b.subsets.build(b, set, stats)
	}
	return set
}

func (b *balancing) plainSet(hosts []*host) *hostSet {
	set := &hostSet{all: hosts}
	last := 0
	for _, h := range hosts {
		last = max(last, h.priority)
	}
	for p := range last + 1 {
		var all []*host
		var groups [2][]*host
		total := uint32(0)
		for _, h := range hosts {
			if h.priority != p {
				continue
			}
			all = append(all, h)
			if h.health != excluded {
				total++
			}
			if h.health < unhealthy {
				groups[h.health] = append(groups[h.health], h)
			}
		}
		set.priorities = append(set.priorities, hostPriority{
			groups: [2]*hostGroup{newHostGroup(groups[0]), newHostGroup(groups[1])}, all: newHostGroup(all),
			total: total,
		})
	}
	b.distribute(set)
	if b.hashing != nil {
		for i := range set.priorities {
			p := &set.priorities[i]
			g := p.groups[healthy]
			if p.panic {
				g = p.all
			}
			g.table = b.hashing.table(g.hosts)
		}
	}
	return set
}

// distribute is LoadBalancerBase::recalculatePerPriorityState.
func (b *balancing) distribute(set *hostSet) {
	available := uint32(0)
	for i := range set.priorities {
		p := &set.priorities[i]
		for g := range p.groups {
			if p.total > 0 {
				p.available[g] = min(100, b.spare*uint32(len(p.groups[g].hosts))/p.total)
			}
			available += p.available[g]
		}
	}
	available = min(100, available)
	left := uint32(100)
	for g := range 2 {
		for i := range set.priorities {
			p := &set.priorities[i]
			if available > 0 {
				p.load[g] = min(left, p.available[g]*100/available)
				left -= p.load[g]
			}
		}
	}
	if left > 0 && available > 0 { // what rounding left
		for i := range set.priorities {
			p := &set.priorities[i]
			if g := slices.IndexFunc(p.available[:], func(n uint32) bool { return n > 0 }); g >= 0 {
				p.load[g] += left
				break
			}
		}
	}
	if b.panicBelow == 0 && available == 0 {
		set.priorities[0].load[0] = 100 // somebody has to say that there is nobody
		return
	}
	allPanic := true
	total := uint32(0)
	for i := range set.priorities {
		p := &set.priorities[i]
		p.panic = available < 100 && b.inPanic(p)
		allPanic = allPanic && p.panic
		total += p.total
	}
	if !allPanic {
		return
	}
	left = 100
	for i := range set.priorities {
		p := &set.priorities[i]
		p.load = [2]uint32{}
		if total > 0 {
			p.load[0] = p.total * 100 / total
		}
		left -= p.load[0]
	}
	for i := range set.priorities {
		if p := &set.priorities[i]; p.total > 0 || total == 0 {
			p.load[0] += left
			break
		}
	}
}

func (b *balancing) inPanic(p *hostPriority) bool {
	if p.total == 0 {
		return b.panicBelow > 0
	}
	share := func(n int) uint32 { return uint32(n) * 100 / p.total }
	return share(len(p.groups[healthy].hosts))+share(len(p.groups[degraded].hosts)) < b.panicBelow
}

// last is the lowest priority there is.
func (s *hostSet) last() int {
	if s == nil {
		return 0
	}
	return len(s.priorities) - 1
}

// at gives the hosts of a priority.
func (s *hostSet) at(priority int) []*host {
	if s == nil || priority >= len(s.priorities) {
		return nil
	}
	return s.priorities[priority].all.hosts
}

func (s *hostSet) count(h health) int {
	n := 0
	for _, host := range s.all {
		if host.health == h {
			n++
		}
	}
	return n
}

func newHostGroup(hosts []*host) *hostGroup {
	g := &hostGroup{hosts: hosts}
	for _, h := range hosts {
		g.weighted = g.weighted || h.weight != hosts[0].weight
	}
	if g.weighted {
		g.deadline, g.order = make([]float64, len(hosts)), make([]uint64, len(hosts))
		for i, h := range hosts {
			g.deadline[i], g.order[i] = 1/float64(h.weight), g.turns
			g.turns++
		}
	}
	return g
}

// choice is what a request asks of the host that is chosen for it.
type choice struct {
	labels   labels
	hash     uint64 // random, if the route has no policy for it
	attempts int    // to find a host that is not refused
	refuse   func(*host) bool
	attempt  int // this one, from 0 on
}

// pick chooses a host; nil if there is none. Hosts for which refuse is true
// are taken only after so many attempts.
func (c *cluster) pick(want choice) *host {
	set := c.hosts.Load()
	for ; ; want.attempt++ {
		h := c.balancing.pick(set, &want, c.stats)
		if h == nil || want.refuse == nil || want.attempt >= want.attempts || !want.refuse(h) {
			return h
		}
	}
}

func (b *balancing) pick(set *hostSet, want *choice, stats *clusterStats) *host {
	if b.subsets != nil {
		return b.subsets.pick(b, set, want, want.labels, stats)
	}
	return b.from(set, want, stats)
}

// from chooses a host of a set without a look at labels.
func (b *balancing) from(set *hostSet, want *choice, stats *clusterStats) *host {
	p, g := &set.priorities[0], 0
	if p.load[0] < 100 {
		n := rand.Uint32N(100) + 1
		if b.hashing != nil {
			n = uint32(want.hash%100) + 1
		}
	search:
		for g = range 2 {
			for i := range set.priorities {
				p = &set.priorities[i]
				if n <= p.load[g] {
					break search
				}
				n -= p.load[g]
			}
		}
	}
	group := p.groups[g]
	if b.hashing != nil {
		group = p.groups[healthy] // it has no table of the degraded
	}
	if p.panic {
		stats.lbPanic.Add(1)
		group = p.all
	}
	if b.hashing != nil {
		return group.table.find(want.hash, want.attempt)
	}
	return b.among(group)
}

// among chooses by the policy.
func (b *balancing) among(g *hostGroup) *host {
	n := uint32(len(g.hosts))
	switch {
	case n == 0:
		return nil
	case b.policy == clusterv3.Cluster_RANDOM: // whatever the weights
		return g.hosts[rand.Uint32N(n)]
	case g.weighted:
		return g.turn(b)
	case b.scan:
		return g.leastBusy()
	case b.policy == clusterv3.Cluster_LEAST_REQUEST:
		best := g.hosts[rand.Uint32N(n)]
		for range b.choices - 1 {
			if h := g.hosts[rand.Uint32N(n)]; h.active.Load() < best.active.Load() {
				best = h
			}
		}
		return best
	}
	return g.hosts[(g.next.Add(1)-1)%n]
}

// leastBusy takes one of those with the fewest requests under way.
func (g *hostGroup) leastBusy() *host {
	best, ties := g.hosts[0], uint32(1)
	for _, h := range g.hosts[1:] {
		switch n, least := h.active.Load(), best.active.Load(); {
		case n < least:
			best, ties = h, 1
		case n == least:
			if ties++; rand.Uint32N(ties) == 0 {
				best = h
			}
		}
	}
	return best
}

// turn takes the host with the earliest deadline and gives it its next one
// (EdfScheduler). A busy host's next turn comes later, if that is asked for.
func (g *hostGroup) turn(b *balancing) *host {
	g.mu.Lock()
	defer g.mu.Unlock()
	first := 0
	for i := range g.hosts {
		if g.deadline[i] < g.deadline[first] || g.deadline[i] == g.deadline[first] && g.order[i] < g.order[first] {
			first = i
		}
	}
	h := g.hosts[first]
	weight := float64(h.weight)
	if b.policy == clusterv3.Cluster_LEAST_REQUEST {
		weight /= math.Pow(float64(h.active.Load()+1), b.bias)
	}
	g.now = g.deadline[first]
	g.deadline[first], g.order[first] = g.now+1/weight, g.turns
	g.turns++
	return h
}

func (b *builder) balancing(path string, c *clusterv3.Cluster) (balancing, error) {
	lb := balancing{policy: c.GetLbPolicy(), choices: 2, panicBelow: 50, spare: 140, threads: b.server.options.Concurrency + 1}
	if v := c.GetLoadAssignment().GetPolicy().GetOverprovisioningFactor(); v != nil {
		lb.spare = v.GetValue()
	}
	if v := c.GetLeastRequestLbConfig().GetChoiceCount(); v != nil {
		lb.choices = int(v.GetValue())
	}
	lb.bias = 1
	for i, p := range c.GetLoadBalancingPolicy().GetPolicies()[:min(1, len(c.GetLoadBalancingPolicy().GetPolicies()))] {
		msg, err := b.boot.Unpack(p.GetTypedExtensionConfig().GetTypedConfig(), at(path+".load_balancing_policy", "policies", i)+".typed_extension_config.typed_config")
		if least, ok := msg.(*least_requestv3.LeastRequest); err == nil && ok {
			lb.scan = least.GetSelectionMethod() == least_requestv3.LeastRequest_FULL_SCAN || least.GetEnableFullScan().GetValue()
		}
	}
	if v := c.GetLeastRequestLbConfig().GetActiveRequestBias(); v != nil {
		lb.bias = v.GetDefaultValue()
		if n, ok := runtimeDouble(b.runtime[v.GetRuntimeKey()]); ok {
			lb.bias = n
		}
	}
	if v := c.GetCommonLbConfig().GetHealthyPanicThreshold(); v != nil {
		lb.panicBelow = min(100, uint32(v.GetValue()))
	}
	lb.panicBelow = uint32(min(100, b.runtime.number("upstream.healthy_panic_threshold", uint64(lb.panicBelow))))
	if c.GetLbSubsetConfig() != nil && len(c.GetLbSubsetConfig().GetSubsetSelectors()) > 0 {
		lb.subsets = newSubsetting(c.GetLbSubsetConfig())
		b.server.Stats.zeroGauges("cluster."+statName(c)+".", "lb_subsets_single_host_per_subset_duplicate")
	}
	var err error
	lb.hashing, err = b.hashing(path, "cluster."+statName(c)+".", c)
	return lb, err
}

// labels are what a request asks of a host's envoy.lb metadata, in the order
// of their keys.
type labels []label

type label struct {
	key   string
	value *structpb.Value
}

// labelsOf reads envoy.lb metadata.
func labelsOf(m *structpb.Struct) labels {
	var list labels
	for key, value := range m.GetFields() {
		list = append(list, label{key, value})
	}
	slices.SortFunc(list, func(a, b label) int { return strings.Compare(a.key, b.key) })
	return list
}

// with gives the labels with those of more, which count where both have one.
func (l labels) with(more labels) labels {
	if len(more) == 0 {
		return l
	}
	merged := slices.Clone(more)
	for _, x := range l {
		if !slices.ContainsFunc(more, func(y label) bool { return y.key == x.key }) {
			merged = append(merged, x)
		}
	}
	slices.SortFunc(merged, func(a, b label) int { return strings.Compare(a.key, b.key) })
	return merged
}

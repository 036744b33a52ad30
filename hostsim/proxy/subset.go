package proxy

import (
	"bytes"
	"slices"
	"strconv"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// subsetting is lb_subset_config: hosts with the same labels are balanced
// among themselves, and a request that asks for labels goes to those.
type subsetting struct {
	selectors []subsetSelector
	fallback  clusterv3.Cluster_LbSubsetConfig_LbSubsetFallbackPolicy
	standard  labels // default_subset
	panicAny  bool
	listAsAny bool // a list in a host's label stands for each of its values
}

// subsetSelector names labels by which subsets are made.
type subsetSelector struct {
	keys     []string // sorted
	fallback clusterv3.Cluster_LbSubsetConfig_LbSubsetSelector_LbSubsetSelectorFallbackPolicy
	fewer    []string // fallback_keys_subset
}

func newSubsetting(c *clusterv3.Cluster_LbSubsetConfig) *subsetting {
	s := &subsetting{fallback: c.GetFallbackPolicy(), standard: labelsOf(c.GetDefaultSubset()), panicAny: c.GetPanicModeAny(), listAsAny: c.GetListAsAny()}
	for _, sel := range c.GetSubsetSelectors() {
		next := subsetSelector{
			keys:     slices.Sorted(slices.Values(sel.GetKeys())),
			fallback: sel.GetFallbackPolicy(),
			fewer:    slices.Sorted(slices.Values(sel.GetFallbackKeysSubset())),
		}
		// Envoy keeps fallbacks in a tree of keys, and a selector that comes
		// to the end of its keys at a node of an earlier one loses its own.
		if slices.ContainsFunc(s.selectors, func(earlier subsetSelector) bool {
			return earlier.fallback != clusterv3.Cluster_LbSubsetConfig_LbSubsetSelector_NOT_DEFINED &&
				len(earlier.keys) >= len(next.keys) && slices.Equal(earlier.keys[:len(next.keys)], next.keys)
		}) {
			next.fallback = clusterv3.Cluster_LbSubsetConfig_LbSubsetSelector_NOT_DEFINED
		}
		s.selectors = append(s.selectors, next)
	}
	return s
}

// usesStandard says whether a request can fall back to the default subset.
func (s *subsetting) usesStandard() bool {
	return s.fallback == clusterv3.Cluster_LbSubsetConfig_DEFAULT_SUBSET || slices.ContainsFunc(s.selectors, func(sel subsetSelector) bool {
		return sel.fallback == clusterv3.Cluster_LbSubsetConfig_LbSubsetSelector_DEFAULT_SUBSET
	})
}

// build makes the subsets of a set.
func (s *subsetting) build(b *balancing, set *hostSet, stats *clusterStats) {
	members := map[string][]*host{}
	for _, sel := range s.selectors {
		for _, h := range set.all {
			for _, key := range s.keysOf(h, sel.keys) {
				if !slices.Contains(members[key], h) {
					members[key] = append(members[key], h)
				}
			}
		}
	}
	set.subsets = map[string]*hostSet{}
	for key, hosts := range members {
		set.subsets[key] = b.plainSet(hosts)
	}
	if s.usesStandard() {
		var hosts []*host
		for _, h := range set.all {
			if s.has(h, s.standard) {
				hosts = append(hosts, h)
			}
		}
		set.fallback = b.plainSet(hosts)
	}
	// Envoy counts those of each worker, and of the main thread.
	n := int64(len(set.subsets) * b.threads)
	stats.lbSubsetsActive.Set(n)
	stats.lbSubsetsCreated.Add(n)
}

// keysOf gives the keys of all subsets that a host is in by these labels.
func (s *subsetting) keysOf(h *host, keys []string) []string {
	all := []string{""}
	for _, key := range keys {
		value := h.label(key)
		if value == nil {
			return nil
		}
		values := []*structpb.Value{value}
		if list := value.GetListValue(); list != nil && s.listAsAny {
			values = list.GetValues()
		}
		var longer []string
		for _, prefix := range all {
			for _, v := range values {
				longer = append(longer, string(appendLabel([]byte(prefix), key, v)))
			}
		}
		all = longer
	}
	return all
}

// has says whether a host has all the labels.
func (s *subsetting) has(h *host, want labels) bool {
	for _, l := range want {
		value := h.label(l.key)
		if value == nil {
			return false
		}
		match := equalValues(value, l.value)
		if list := value.GetListValue(); list != nil && s.listAsAny {
			match = slices.ContainsFunc(list.GetValues(), func(v *structpb.Value) bool { return equalValues(v, l.value) })
		}
		if !match {
			return false
		}
	}
	return true
}

// pick chooses among the hosts that have the labels, or falls back. As in
// Envoy, where a selector says how to fall back, that is neither counted nor
// followed by what the cluster says.
func (s *subsetting) pick(b *balancing, set *hostSet, ask *choice, want labels, stats *clusterStats) *host {
	if h, found := s.pickSubset(b, set, ask, want, stats); found {
		if h != nil {
			stats.lbSubsetsSelected.Add(1)
		}
		return h
	}
	if sel := s.selector(want); sel != nil {
		switch sel.fallback {
		case clusterv3.Cluster_LbSubsetConfig_LbSubsetSelector_NO_FALLBACK:
			return nil
		case clusterv3.Cluster_LbSubsetConfig_LbSubsetSelector_ANY_ENDPOINT:
			return b.from(set, ask, stats)
		case clusterv3.Cluster_LbSubsetConfig_LbSubsetSelector_DEFAULT_SUBSET:
			return b.from(set.fallback, ask, stats)
		case clusterv3.Cluster_LbSubsetConfig_LbSubsetSelector_KEYS_SUBSET:
			var fewer labels
			for _, l := range want {
				if slices.Contains(sel.fewer, l.key) {
					fewer = append(fewer, l)
				}
			}
			return s.pick(b, set, ask, fewer, stats)
		}
	}
	switch s.fallback {
	case clusterv3.Cluster_LbSubsetConfig_ANY_ENDPOINT:
		if h := b.from(set, ask, stats); h != nil {
			stats.lbSubsetsFallback.Add(1)
			return h
		}
	case clusterv3.Cluster_LbSubsetConfig_DEFAULT_SUBSET:
		if h := b.from(set.fallback, ask, stats); h != nil {
			stats.lbSubsetsFallback.Add(1)
			return h
		}
	}
	if s.panicAny {
		if h := b.from(set, ask, stats); h != nil {
			stats.lbSubsetsFallbackPanic.Add(1)
			return h
		}
	}
	return nil
}

func (s *subsetting) pickSubset(b *balancing, set *hostSet, ask *choice, want labels, stats *clusterStats) (h *host, found bool) {
	if len(want) == 0 {
		return nil, false
	}
	var buf [256]byte
	key := buf[:0]
	for _, l := range want {
		key = appendLabel(key, l.key, l.value)
	}
	subset := set.subsets[string(key)]
	if subset == nil {
		return nil, false
	}
	return b.from(subset, ask, stats), true
}

// selector finds the selector with exactly the keys of these labels.
func (s *subsetting) selector(want labels) *subsetSelector {
	for i := range s.selectors {
		if slices.EqualFunc(s.selectors[i].keys, want, func(key string, l label) bool { return key == l.key }) {
			return &s.selectors[i]
		}
	}
	return nil
}

// appendLabel writes a label so that different ones never look the same.
func appendLabel(b []byte, key string, v *structpb.Value) []byte {
	b = strconv.AppendInt(b, int64(len(key)), 10)
	b = append(b, ':')
	b = append(b, key...)
	switch kind := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		b = append(b, 's')
		b = strconv.AppendInt(b, int64(len(kind.StringValue)), 10)
		b = append(b, ':')
		return append(b, kind.StringValue...)
	case *structpb.Value_NumberValue:
		b = append(b, 'n')
		b = strconv.AppendFloat(b, kind.NumberValue, 'g', -1, 64)
	case *structpb.Value_BoolValue:
		b = append(b, 'b')
		b = strconv.AppendBool(b, kind.BoolValue)
	case *structpb.Value_ListValue:
		b = append(b, '[')
		for _, e := range kind.ListValue.GetValues() {
			b = appendLabel(b, "", e)
		}
		b = append(b, ']')
	case *structpb.Value_StructValue:
		b = append(b, '{')
		for _, l := range labelsOf(kind.StructValue) {
			b = appendLabel(b, l.key, l.value)
		}
		b = append(b, '}')
	default:
		b = append(b, '0')
	}
	return append(b, ';')
}

func equalValues(a, b *structpb.Value) bool {
	return bytes.Equal(appendLabel(nil, "", a), appendLabel(nil, "", b))
}

package proxy

import (
	"cmp"
	"encoding/binary"
	"math"
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
)

// This file is Envoy's ring_hash_lb.cc and maglev_lb.cc: tables in which the
// same hash finds the same host for as long as the hosts stay.

// hashing is how a cluster with a hash policy makes its tables.
type hashing struct {
	least, most uint64 // entries of a ring
	murmur      bool   // of MurmurHash2 instead of xxHash
	prime       uint64 // entries of a Maglev table; 0: it is a ring
	byName      bool   // hosts are known by their names
	stats       hashStats
}

// hashStats are the gauges of the table that was made last: its size, if it is
// a ring, and the least and the most entries of a host.
type hashStats struct{ size, least, most *Stat }

func newHashStats(stats *Stats, prefix string, maglev bool) hashStats {
	if maglev {
		prefix += "maglev_lb."
		return hashStats{nil, stats.Stat(prefix + "min_entries_per_host"), stats.Stat(prefix + "max_entries_per_host")}
	}
	prefix += "ring_hash_lb."
	return hashStats{stats.Stat(prefix + "size"), stats.Stat(prefix + "min_hashes_per_host"), stats.Stat(prefix + "max_hashes_per_host")}
}

// hashTable finds a host by a hash; attempt, from 0 on, finds others.
type hashTable interface {
	find(hash uint64, attempt int) *host
}

// hashKey is what a host is known by.
func (c *hashing) hashKey(h *host) string {
	if key := h.label("hash_key").GetStringValue(); key != "" {
		return key
	}
	if c.byName {
		return h.hostname
	}
	return h.address
}

func (c *hashing) table(hosts []*host) hashTable {
	if c.prime != 0 {
		return c.maglev(hosts)
	}
	return c.ring(hosts)
}

// weights are the shares of hosts, with the least and the greatest.
func weights(hosts []*host) (share []float64, least, most float64) {
	sum := uint64(0)
	for _, h := range hosts {
		sum += uint64(h.weight)
	}
	least = 1
	for _, h := range hosts {
		w := float64(h.weight) / float64(sum)
		share, least, most = append(share, w), min(least, w), max(most, w)
	}
	return share, least, most
}

type ring []ringEntry

type ringEntry struct {
	hash uint64
	host *host
}

func (c *hashing) ring(hosts []*host) ring {
	share, least, _ := weights(hosts)
	var entries ring
	size, fewest, most := uint64(0), uint64(0), uint64(0)
	if len(hosts) > 0 {
		scale := min(math.Ceil(least*float64(c.least))/least, float64(c.most))
		size = uint64(math.Ceil(scale))
		fewest = size
		have, want := 0.0, 0.0
		for i, h := range hosts {
			key := append([]byte(c.hashKey(h)), '_')
			want += scale * share[i]
			n := uint64(0)
			for ; have < want; have++ {
				entries = append(entries, ringEntry{c.hash(strconv.AppendUint(key, n, 10)), h})
				n++
			}
			fewest, most = min(fewest, n), max(most, n)
		}
		slices.SortFunc(entries, func(a, b ringEntry) int { return cmp.Compare(a.hash, b.hash) })
	}
	c.stats.size.Set(int64(size))
	c.stats.least.Set(int64(fewest))
	c.stats.most.Set(int64(most))
	return entries
}

// find takes the first entry that is not before the hash (ketama_get_server).
func (r ring) find(hash uint64, attempt int) *host {
	if len(r) == 0 {
		return nil
	}
	i, _ := slices.BinarySearchFunc(r, hash, func(e ringEntry, hash uint64) int { return cmp.Compare(e.hash, hash) })
	return r[(i%len(r)+attempt)%len(r)].host
}

type maglev []*host

func (c *hashing) maglev(hosts []*host) maglev {
	type entry struct {
		key                string
		host               *host
		offset, skip, next uint64
		weight, target     float64
		count              uint64
	}
	if len(hosts) == 0 {
		return nil
	}
	share, _, greatest := weights(hosts)
	entries := make([]entry, len(hosts))
	for i, h := range hosts {
		key := c.hashKey(h)
		entries[i] = entry{key: key, host: h, offset: xxhash.Sum64String(key) % c.prime, skip: seededHash(key, 1)%(c.prime-1) + 1, weight: share[i]}
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return cmp.Compare(a.key, b.key) })
	table := make(maglev, c.prime)
	for filled, round := uint64(0), 1.0; filled < c.prime; round++ {
		for i := range entries {
			e := &entries[i]
			if filled == c.prime {
				break
			}
			if round*e.weight < e.target {
				continue
			}
			e.target += greatest
			at := (e.offset + e.skip*e.next) % c.prime
			for table[at] != nil {
				e.next++
				at = (e.offset + e.skip*e.next) % c.prime
			}
			table[at] = e.host
			e.next++
			e.count++
			filled++
		}
	}
	fewest, most := c.prime, uint64(0)
	for _, e := range entries {
		fewest, most = min(fewest, e.count), max(most, e.count)
	}
	c.stats.least.Set(int64(fewest))
	c.stats.most.Set(int64(most))
	return table
}

func (m maglev) find(hash uint64, attempt int) *host {
	if len(m) == 0 {
		return nil
	}
	if attempt > 0 {
		hash ^= ^uint64(0) - uint64(attempt) + 1
	}
	return m[hash%uint64(len(m))]
}

func (c *hashing) hash(b []byte) uint64 {
	if c.murmur {
		return murmurHash2(b)
	}
	return xxhash.Sum64(b)
}

func seededHash(s string, seed uint64) uint64 {
	d := xxhash.NewWithSeed(seed)
	d.WriteString(s)
	return d.Sum64()
}

// murmurHash2 is MurmurHash64A with the seed of libstdc++'s std::hash.
func murmurHash2(b []byte) uint64 {
	const seed, mul = 0xc70f6907, 0xc6a4a7935bd1e995
	h := uint64(seed) ^ uint64(len(b))*mul
	for ; len(b) >= 8; b = b[8:] {
		k := binary.LittleEndian.Uint64(b) * mul
		k = (k ^ k>>47) * mul
		h = (h ^ k) * mul
	}
	if len(b) > 0 {
		var tail [8]byte
		copy(tail[:], b)
		h = (h ^ binary.LittleEndian.Uint64(tail[:])) * mul
	}
	h = (h ^ h>>47) * mul
	return h ^ h>>47
}

// ---- from the configuration

// hashing reads how tables are made; nil for policies without.
func (b *builder) hashing(path, prefix string, c *clusterv3.Cluster) (*hashing, error) {
	common := c.GetCommonLbConfig().GetConsistentHashingLbConfig()
	h := &hashing{byName: common.GetUseHostnameForHashing()}
	if h.byName && c.GetType() == clusterv3.Cluster_STATIC {
		return nil, b.boot.Errorf(path+".common_lb_config.consistent_hashing_lb_config.use_hostname_for_hashing",
			"the hosts of a cluster of type STATIC have no names to hash: use STRICT_DNS")
	}
	switch c.GetLbPolicy() {
	case clusterv3.Cluster_RING_HASH:
		h.least, h.most = 1024, 8<<20
		config := c.GetRingHashLbConfig()
		if v := config.GetMinimumRingSize(); v != nil {
			h.least = v.GetValue()
		}
		if v := config.GetMaximumRingSize(); v != nil {
			h.most = v.GetValue()
		}
		if h.least > h.most {
			return nil, b.boot.Errorf(path+".ring_hash_lb_config", "ring hash: minimum_ring_size (%d) > maximum_ring_size (%d)", h.least, h.most)
		}
		h.murmur = config.GetHashFunction() == clusterv3.Cluster_RingHashLbConfig_MURMUR_HASH_2
	case clusterv3.Cluster_MAGLEV:
		h.prime = 65537
		if v := c.GetMaglevLbConfig().GetTableSize(); v != nil {
			h.prime = v.GetValue()
		}
		if !isPrime(h.prime) {
			return nil, b.boot.Errorf(path+".maglev_lb_config.table_size", "the table size of maglev must be a prime number, not %d", h.prime)
		}
	default:
		return nil, nil
	}
	h.stats = newHashStats(&b.server.Stats, prefix, h.prime != 0)
	return h, nil
}

func isPrime(n uint64) bool {
	for d := uint64(2); d*d <= n; d++ {
		if n%d == 0 {
			return false
		}
	}
	return n > 1
}

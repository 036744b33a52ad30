package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
)

// resolver keeps the hosts of a STRICT_DNS or LOGICAL_DNS cluster up to date.
// The system's resolver does not tell how long an answer is good for, so
// respect_dns_ttl changes nothing: names are asked for again every
// dns_refresh_rate.
type resolver struct {
	cluster *cluster
	logical bool // one host, whatever the number of addresses
	family  clusterv3.Cluster_DnsLookupFamily
	refresh time.Duration
	known   map[string]*host // by endpoint and address
	answers [][]*host        // of each endpoint, the last good one
}

// defaultRefresh is dns_refresh_rate's.
const defaultRefresh = 5 * time.Second

// run looks all names up once before it returns, and then goes on until ctx
// is done.
func (r *resolver) run(ctx context.Context) {
	r.known = map[string]*host{}
	r.answers = make([][]*host, len(r.cluster.endpoints))
	r.lookup(ctx)
	go func() {
		tick := time.NewTicker(r.refresh)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				r.lookup(ctx)
			case <-ctx.Done():
				return
			}
		}
	}()
}

func (r *resolver) lookup(ctx context.Context) {
	c := r.cluster
	for i, e := range c.endpoints {
		c.stats.updateAttempt.Add(1)
		addresses, err := lookup(ctx, e.name, r.family)
		c.asked(err)
		if notFound := (*net.DNSError)(nil); !r.logical && errors.As(err, &notFound) && notFound.IsNotFound {
			err = nil // to Envoy an answer like any other
		}
		if err != nil || r.logical && len(addresses) == 0 {
			c.stats.updateFailure.Add(1)
			continue // what was known stays
		}
		c.stats.updateSuccess.Add(1)
		if r.logical {
			address := net.JoinHostPort(addresses[0].String(), e.port)
			if len(r.answers[i]) == 0 {
				r.answers[i] = []*host{c.newHost(e, address)}
				c.setHosts(r.answers[i])
			} else {
				c.stats.updateNoRebuild.Add(1)
			}
			r.answers[i][0].current.Store(&address) // new connections go there
			continue
		}
		var hosts []*host
		for _, a := range addresses {
			address := net.JoinHostPort(a.String(), e.port)
			key := e.name + " " + address
			if r.known[key] == nil {
				r.known[key] = c.newHost(e, address)
			}
			if !slices.Contains(hosts, r.known[key]) {
				hosts = append(hosts, r.known[key])
			}
		}
		if slices.Equal(hosts, r.answers[i]) {
			c.stats.updateNoRebuild.Add(1)
			continue
		}
		r.answers[i] = hosts
		c.setHosts(slices.Concat(r.answers...))
	}
}

// loopback answers for localhost, as Envoy's resolver does without asking
// anybody (RFC 6761 6.3).
func loopback(name, network string) []netip.Addr {
	name = lower(strings.TrimSuffix(name, "."))
	if name != "localhost" && !strings.HasSuffix(name, ".localhost") {
		return nil
	}
	v4, v6 := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
	switch network {
	case "ip4":
		return []netip.Addr{v4}
	case "ip6":
		return []netip.Addr{v6}
	}
	return []netip.Addr{v6, v4}
}

// asked counts a question to the resolver.
func (c *cluster) asked(err error) {
	stats := c.resolverStats
	stats.dnsQueries.Add(1)
	stats.dnsPending.Set(0)
	if notFound := (*net.DNSError)(nil); errors.As(err, &notFound) && notFound.IsNotFound {
		stats.dnsNotFound.Add(1)
	} else if err != nil {
		stats.dnsFailures.Add(1)
	}
}

// lookup resolves a name to addresses in the order in which Envoy takes them.
func lookup(ctx context.Context, name string, family clusterv3.Cluster_DnsLookupFamily) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{ip}, nil
	}
	ask := func(network string) ([]netip.Addr, error) {
		if local := loopback(name, network); local != nil {
			return local, nil
		}
		list, err := net.DefaultResolver.LookupNetIP(ctx, network, name)
		for i := range list {
			list[i] = list[i].Unmap()
		}
		return list, err
	}
	first, second := "ip6", "ip4"
	switch family {
	case clusterv3.Cluster_V4_ONLY:
		return ask("ip4")
	case clusterv3.Cluster_V6_ONLY:
		return ask("ip6")
	case clusterv3.Cluster_ALL:
		return ask("ip")
	case clusterv3.Cluster_V4_PREFERRED:
		first, second = second, first
	}
	if list, err := ask(first); err == nil && len(list) > 0 {
		return list, nil
	}
	return ask(second)
}

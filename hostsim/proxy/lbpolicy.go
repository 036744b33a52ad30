package proxy

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	least_requestv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	maglevv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/maglev/v3"
	randomv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/random/v3"
	ring_hashv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"
	round_robinv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	"google.golang.org/protobuf/proto"
)

// policyOf gives the cluster as it would be with lb_policy in the place of
// load_balancing_policy, which is the newer spelling of the same.
func (b *builder) policyOf(path string, c *clusterv3.Cluster) (*clusterv3.Cluster, error) {
	policies := c.GetLoadBalancingPolicy().GetPolicies()
	if len(policies) == 0 {
		return c, nil
	}
	path = at(path+".load_balancing_policy", "policies", 0) + ".typed_extension_config.typed_config"
	msg, err := b.boot.Unpack(policies[0].GetTypedExtensionConfig().GetTypedConfig(), path)
	if err != nil {
		return nil, err
	}
	c = proto.Clone(c).(*clusterv3.Cluster)
	c.LbSubsetConfig = nil
	common := &clusterv3.Cluster_CommonLbConfig_ConsistentHashingLbConfig{}
	switch p := msg.(type) {
	case *round_robinv3.RoundRobin:
		c.LbPolicy = clusterv3.Cluster_ROUND_ROBIN
	case *randomv3.Random:
		c.LbPolicy = clusterv3.Cluster_RANDOM
	case *least_requestv3.LeastRequest:
		c.LbPolicy = clusterv3.Cluster_LEAST_REQUEST
		c.LbConfig = &clusterv3.Cluster_LeastRequestLbConfig_{LeastRequestLbConfig: &clusterv3.Cluster_LeastRequestLbConfig{ChoiceCount: p.GetChoiceCount(), ActiveRequestBias: p.GetActiveRequestBias()}}
	case *ring_hashv3.RingHash:
		c.LbPolicy = clusterv3.Cluster_RING_HASH
		config := &clusterv3.Cluster_RingHashLbConfig{MinimumRingSize: p.GetMinimumRingSize(), MaximumRingSize: p.GetMaximumRingSize()}
		if p.GetHashFunction() == ring_hashv3.RingHash_MURMUR_HASH_2 {
			config.HashFunction = clusterv3.Cluster_RingHashLbConfig_MURMUR_HASH_2
		}
		c.LbConfig = &clusterv3.Cluster_RingHashLbConfig_{RingHashLbConfig: config}
		common.UseHostnameForHashing = p.GetConsistentHashingLbConfig().GetUseHostnameForHashing()
	case *maglevv3.Maglev:
		c.LbPolicy = clusterv3.Cluster_MAGLEV
		c.LbConfig = &clusterv3.Cluster_MaglevLbConfig_{MaglevLbConfig: &clusterv3.Cluster_MaglevLbConfig{TableSize: p.GetTableSize()}}
		common.UseHostnameForHashing = p.GetConsistentHashingLbConfig().GetUseHostnameForHashing()
	default:
		return nil, b.boot.Unsupported(path, "this load balancing policy")
	}
	if c.CommonLbConfig == nil {
		c.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{}
	}
	c.CommonLbConfig.ConsistentHashingLbConfig = common
	return c, nil
}

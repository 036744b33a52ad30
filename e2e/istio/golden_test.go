package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	networking "istio.io/api/networking/v1alpha3"
	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/pkg/networking/core"
	"istio.io/istio/pilot/pkg/networking/core/envoyfilter"
	_ "istio.io/istio/pkg/config/xds" // all of Envoy's types
	"sigs.k8s.io/yaml"
)

// goldens are what Istio's own code makes of bootstraps; the everyday tests of hostsim compare with them.
const goldens = "../../hostsim/patch/testdata/golden"

var update = flag.Bool("update", false, "write what Istio makes instead of comparing with it")

// TestGoldens applies the objects in each NAME.in.yaml to the bootstrap in it, with Istio's own selection, ordering and patching.
// NAME.out.yaml is the result.
func TestGoldens(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(goldens, "*.in.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".in.yaml")
		if strings.HasPrefix(name, "mesh-") {
			continue // TestMeshGoldens makes them
		}
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			first, rest, _ := strings.Cut(string(text), "\n---\n")
			boot := parseBootstrap(t, []byte(first))
			patch(t, boot, rest)
			compare(t, filepath.Join(goldens, name+".out.yaml"), boot)
		})
	}
}

// compare compares the bootstrap with the file, or writes it.
func compare(t *testing.T, file string, got *bootstrapv3.Bootstrap) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, render(t, got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	// As text: inside an Any the entries of a map have no order.
	if want := parseBootstrap(t, text); !bytes.Equal(render(t, want), render(t, got)) {
		t.Errorf("%s is not what Istio makes. It makes:\n%s", file, render(t, got))
	}
}

func parseBootstrap(t *testing.T, text []byte) *bootstrapv3.Bootstrap {
	t.Helper()
	j, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	b := &bootstrapv3.Bootstrap{}
	if err := protojson.Unmarshal(j, b); err != nil {
		t.Fatal(err)
	}
	return b
}

func render(t *testing.T, m proto.Message) []byte {
	t.Helper()
	j, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	y, err := yaml.JSONToYAML(j)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.TrimLeft(y, "\n")
}

// patch does to the bootstrap of a proxy what istiod does to what it has generated for it.
func patch(t *testing.T, boot *bootstrapv3.Bootstrap, objects string) {
	t.Helper()
	cg := core.NewConfigGenTest(t, core.TestOptions{ConfigString: objects})
	proxy := proxyOf(t, boot.GetNode())
	efw := cg.PushContext().EnvoyFilters(proxy)
	if efw == nil {
		return
	}
	static := boot.StaticResources
	// Routes come by RDS, or are patched before the listener that they stand in is.
	for _, l := range static.Listeners {
		managers(t, l, func(m *hcmv3.HttpConnectionManager) {
			if rc := m.GetRouteConfig(); rc != nil {
				rc = envoyfilter.ApplyRouteConfigurationPatches(contextOf(proxy, l), proxy, efw, rc)
				m.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: rc}
			}
		})
	}
	contexts := []networking.EnvoyFilter_PatchContext{networking.EnvoyFilter_GATEWAY}
	if proxy.Type == model.SidecarProxy {
		contexts = []networking.EnvoyFilter_PatchContext{networking.EnvoyFilter_SIDECAR_INBOUND, networking.EnvoyFilter_SIDECAR_OUTBOUND}
	}
	order := slices.Clone(static.Listeners)
	var out []*listenerv3.Listener
	for _, context := range contexts {
		var group []*listenerv3.Listener
		for _, l := range order {
			switch {
			case contextOf(proxy, l) != context:
			case proxy.Type == model.SidecarProxy && (l.Name == model.VirtualInboundListenerName || l.Name == model.VirtualOutboundListenerName):
				out = append(out, envoyfilter.ApplyListenerPatches(context, efw, []*listenerv3.Listener{l}, true)...)
			default:
				group = append(group, l)
			}
		}
		out = append(out, envoyfilter.ApplyListenerPatches(context, efw, group, false)...)
	}
	slices.SortStableFunc(out, func(a, b *listenerv3.Listener) int {
		place := func(l *listenerv3.Listener) int {
			if i := slices.Index(order, l); i >= 0 {
				return i
			}
			return len(order)
		}
		return place(a) - place(b)
	})
	static.Listeners = out

	var clusters []*clusterv3.Cluster
	for _, c := range static.Clusters {
		context := networking.EnvoyFilter_GATEWAY
		if proxy.Type == model.SidecarProxy {
			context = networking.EnvoyFilter_SIDECAR_OUTBOUND
			if strings.HasPrefix(c.Name, "inbound|") {
				context = networking.EnvoyFilter_SIDECAR_INBOUND
			}
		}
		if c = envoyfilter.ApplyClusterMerge(context, efw, c, nil); c != nil {
			clusters = append(clusters, c)
		}
	}
	for i := len(contexts) - 1; i >= 0; i-- {
		clusters = append(clusters, envoyfilter.InsertedClusters(contexts[i], efw)...)
	}
	static.Clusters = clusters

	for _, l := range static.Listeners {
		managers(t, l, func(m *hcmv3.HttpConnectionManager) {
			for _, f := range m.HttpFilters {
				if f.GetConfigDiscovery() == nil {
					continue
				}
				if found := envoyfilter.InsertedExtensionConfigurations(efw, []string{f.Name}); len(found) > 0 {
					f.ConfigType = &hcmv3.HttpFilter_TypedConfig{TypedConfig: found[0].TypedConfig}
				}
			}
		})
	}
}

// managers calls do with each connection manager of a listener, which it may change.
func managers(t *testing.T, l *listenerv3.Listener, do func(*hcmv3.HttpConnectionManager)) {
	t.Helper()
	for _, chain := range append(slices.Clone(l.FilterChains), l.DefaultFilterChain) {
		for _, f := range chain.GetFilters() {
			m := &hcmv3.HttpConnectionManager{}
			if f.GetTypedConfig() == nil || f.GetTypedConfig().UnmarshalTo(m) != nil {
				continue
			}
			do(m)
			config, err := anypb.New(m)
			if err != nil {
				t.Fatal(err)
			}
			f.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: config}
		}
	}
}

func contextOf(proxy *model.Proxy, l *listenerv3.Listener) networking.EnvoyFilter_PatchContext {
	switch {
	case proxy.Type == model.Router:
		return networking.EnvoyFilter_GATEWAY
	case l.TrafficDirection == corev3.TrafficDirection_INBOUND:
		return networking.EnvoyFilter_SIDECAR_INBOUND
	}
	return networking.EnvoyFilter_SIDECAR_OUTBOUND
}

// proxyOf is the proxy that istiod sees when one with this node connects.
func proxyOf(t *testing.T, node *corev3.Node) *model.Proxy {
	t.Helper()
	if node.GetId() == "" {
		return &model.Proxy{Type: model.Router, ConfigNamespace: "default", Metadata: &model.NodeMetadata{}}
	}
	metadata, err := model.ParseMetadata(node.GetMetadata())
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := model.ParseServiceNodeWithMetadata(node.GetId(), metadata)
	if err != nil {
		t.Fatal(err)
	}
	proxy.ConfigNamespace = model.GetProxyConfigNamespace(proxy)
	proxy.Labels = metadata.Labels
	return proxy
}

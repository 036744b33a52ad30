package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	httpwasmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/wasm/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/anypb"
	meshv1alpha1 "istio.io/api/mesh/v1alpha1"
	"istio.io/istio/pilot/pkg/features"
	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/config/mesh"
	"istio.io/istio/pkg/test"
)

const gatewayNode = `node:
  id: router~127.0.0.9~edge-0.istio-system~istio-system.svc.cluster.local
  metadata: {NAMESPACE: istio-system, ISTIO_VERSION: 1.31.0, CLUSTER_ID: Kubernetes, LABELS: {istio: ingressgateway}}
`

const sidecarNode = `node:
  id: sidecar~127.0.0.9~client-0.default~default.svc.cluster.local
  metadata: {NAMESPACE: default, ISTIO_VERSION: 1.31.0, CLUSTER_ID: Kubernetes, LABELS: {app: client}, INTERCEPTION_MODE: NONE}
`

// TestMeshGoldens compares what Istio generates for a proxy of a whole mesh with and without the objects in question: NAME.in.yaml has
// the bootstrap without them, and them; NAME.out.yaml the bootstrap with them. Routes, which come by RDS, and plugins, which come by
// ECDS, stand where they are asked for.
func TestMeshGoldens(t *testing.T) {
	// Filters of Istio's own Envoy.
	test.SetForTest(t, &features.ALPNFilter, false)
	test.SetForTest(t, &features.MetadataExchange, false)
	test.SetForTest(t, &features.EnableAmbient, false)
	for _, tt := range []struct {
		name, says, node string
		mesh             []string // files in testdata, or shipped
		objects          []string
		warns            []string
	}{
		{"mesh-gateway-envoyfilter", "The shipped EnvoyFilter on a gateway of Istio's.", gatewayNode,
			[]string{"testdata/services.yaml", "../../envoy/istio/routes.yaml"}, []string{"../../envoy/istio/envoyfilter.yaml"}, nil},
		{"mesh-gateway-wasmplugin", "The shipped WasmPlugin on a gateway of Istio's that asks for a token and has a policy.", gatewayNode,
			[]string{"testdata/services.yaml", "../../envoy/istio/routes.yaml", "testdata/policies.yaml"}, []string{"../../envoy/istio/wasmplugin.yaml"}, nil},
		{"mesh-gateway-phases", "A plugin of each phase, and an external authorization, which stays in front of all.", gatewayNode,
			[]string{"testdata/services.yaml", "../../envoy/istio/routes.yaml", "testdata/policies.yaml", "testdata/external.yaml"}, []string{"testdata/phases.yaml"},
			[]string{"no connection manager is of a mode and port in spec.match"}},
		{"mesh-gateway-phases-alone", "A plugin of each phase where Istio has no other filters.", gatewayNode,
			[]string{"testdata/services.yaml", "../../envoy/istio/routes.yaml"}, []string{"testdata/phases.yaml"},
			[]string{"no connection manager is of a mode and port in spec.match"}},
		{"mesh-sidecar-envoyfilter", "The shipped EnvoyFilter on a sidecar.", sidecarNode,
			[]string{"testdata/sidecar.yaml"}, []string{"../../envoy/istio/envoyfilter-sidecar.yaml"}, nil},
		{"mesh-sidecar-wasmplugin", "The shipped WasmPlugin on a sidecar.", sidecarNode,
			[]string{"testdata/sidecar.yaml"}, []string{"../../envoy/istio/wasmplugin-sidecar.yaml"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mesh, objects := read(t, tt.mesh), read(t, tt.objects)
			// What the agent would fetch is a file here.
			objects = strings.ReplaceAll(objects, "oci://registry.example/switchyard:1", "file://bin/switchyard.wasm")
			without := generate(t, tt.node, mesh)
			var in bytes.Buffer
			fmt.Fprintf(&in, "# %s\n# Made by e2e/istio.\n", tt.says)
			for _, w := range tt.warns {
				fmt.Fprintf(&in, "# warns: %s\n", w)
			}
			fmt.Fprintf(&in, "%s---\n%s", render(t, without), objects)
			file := filepath.Join(goldens, tt.name+".in.yaml")
			if *update {
				if err := os.WriteFile(file, in.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if text, err := os.ReadFile(file); err != nil || !bytes.Equal(text, in.Bytes()) {
				t.Errorf("%s is not what Istio makes (%v): go test -update", file, err)
			}
			compare(t, filepath.Join(goldens, tt.name+".out.yaml"), generate(t, tt.node, mesh+"\n---\n"+objects))
		})
	}
}

func read(t *testing.T, files []string) string {
	t.Helper()
	var texts []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(text))
	}
	return strings.Join(texts, "---\n")
}

// generate is the bootstrap that stands for all that Istio sends to the proxy.
func generate(t *testing.T, node, config string) *bootstrapv3.Bootstrap {
	t.Helper()
	m := mesh.DefaultMeshConfig()
	m.EnableAutoMtls.Value = false
	m.AccessLogFile = ""
	m.ExtensionProviders = []*meshv1alpha1.MeshConfig_ExtensionProvider{{
		Name: "external",
		Provider: &meshv1alpha1.MeshConfig_ExtensionProvider_EnvoyExtAuthzHttp{
			EnvoyExtAuthzHttp: &meshv1alpha1.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationHttpProvider{Service: "web.default.svc.cluster.local", Port: 80},
		},
	}}
	s := xds.NewFakeDiscoveryServer(t, xds.FakeOptions{ConfigString: config, MeshConfig: m})
	boot := parseBootstrap(t, []byte(node))
	proxy := s.SetupProxy(proxyOf(t, boot.GetNode()))
	static := &bootstrapv3.Bootstrap_StaticResources{Listeners: s.Listeners(proxy), Clusters: s.Clusters(proxy)}
	boot.StaticResources = static
	routes := s.RoutesFromListeners(proxy, static.Listeners)
	for _, l := range static.Listeners {
		managers(t, l, func(m *hcmv3.HttpConnectionManager) {
			for _, r := range routes {
				if m.GetRds().GetRouteConfigName() == r.Name {
					m.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: r}
					break
				}
			}
			for _, f := range m.HttpFilters {
				if f.GetConfigDiscovery() == nil {
					continue
				}
				found := s.ConfigGen.BuildExtensionConfiguration(proxy, s.PushContext(), []string{f.Name}, nil)
				if len(found) != 1 {
					t.Fatalf("%s: got %d extension configurations", f.Name, len(found))
				}
				f.ConfigType = &hcmv3.HttpFilter_TypedConfig{TypedConfig: withoutVersion(t, found[0])}
			}
		})
	}
	return boot
}

// withoutVersion is the configuration of a plugin without the version of its object, which is another at each time.
func withoutVersion(t *testing.T, config *corev3.TypedExtensionConfig) *anypb.Any {
	t.Helper()
	filter := &httpwasmv3.Wasm{}
	if err := config.GetTypedConfig().UnmarshalTo(filter); err != nil {
		t.Fatal(err)
	}
	filter.GetConfig().GetVmConfig().GetEnvironmentVariables().GetKeyValues()["ISTIO_META_WASM_PLUGIN_RESOURCE_VERSION"] = ""
	a, err := anypb.New(filter)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

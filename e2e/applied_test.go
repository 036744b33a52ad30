package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The files that are shipped for Istio, applied to what Istio gives a gateway, without Istio: hostsim runs the result, Envoy what
// hostsim render prints, and both do what minimal.yaml does.
func TestApplied(t *testing.T) {
	const bootstrap = "e2e/testdata/istio/gateway.yaml"
	text, err := os.ReadFile(filepath.Join(root, bootstrap))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, file, wasm string }{
		{"EnvoyFilter", "envoy/istio/envoyfilter.yaml", "/etc/switchyard/switchyard.wasm=bin/switchyard.wasm"},
		{"WasmPlugin", "envoy/istio/wasmplugin.yaml", "oci://registry.example/switchyard:1=bin/switchyard.wasm"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			flags := []string{"--apply", test.file, "--wasm", test.wasm}
			simulator := hostsim
			simulator.args = append([]string{"run"}, flags...)
			render := exec.Command(require(t, hostsim), append([]string{"render", "-c", bootstrap}, flags...)...)
			render.Dir = root
			var warnings strings.Builder
			render.Stderr = &warnings
			rendered, err := render.Output()
			if err != nil || warnings.Len() > 0 {
				t.Fatalf("hostsim render: %v\n%s", err, &warnings)
			}
			simulated, real := start(t, simulator, string(text)), start(t, envoy140, string(rendered))
			for _, p := range []*proxy{simulated, real} {
				t.Run(p.name, func(t *testing.T) {
					t.Run("corpus", func(t *testing.T) { testCorpus(t, p) })
					t.Run("spoofed metadata", func(t *testing.T) { testSpoofedMetadata(t, p) })
					t.Run("ignored offers", func(t *testing.T) { testIgnoredOffers(t, p) })
					t.Run("upgrade with a body", func(t *testing.T) { testUpgradeWithBody(t, p) })
					t.Run("path normalisation", func(t *testing.T) { testPathNormalisation(t, p) })
				})
			}
			testAlike(t, simulated, real)
		})
	}
}

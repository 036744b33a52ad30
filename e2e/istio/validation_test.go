package main

import (
	"os"
	"path/filepath"
	"testing"

	"istio.io/istio/pilot/pkg/config/kube/crd"
	"istio.io/istio/pkg/config/schema/collections"
)

// everyEnvoyFilter is what Istio says of each of them.
const everyEnvoyFilter = "EnvoyFilter exposes internal implementation details that may change at any time. Prefer other APIs if possible, " +
	"and exercise extreme caution, especially around upgrades."

// What Istio's admission webhook checks accepts every shipped file, with no other warning than that it is an EnvoyFilter.
func TestIstioAcceptsTheShippedFiles(t *testing.T) {
	files, err := filepath.Glob("../../envoy/istio/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			configs, others, err := crd.ParseInputs(string(text))
			if err != nil || len(configs) == 0 || len(others) > 0 {
				t.Fatalf("got %d objects, %d that Istio does not know: %v", len(configs), len(others), err)
			}
			for _, config := range configs {
				schema, ok := collections.Pilot.FindByGroupVersionAliasesKind(config.GroupVersionKind)
				if !ok {
					t.Errorf("%v is no kind of Istio's", config.GroupVersionKind)
					continue
				}
				warning, err := schema.ValidateConfig(config)
				if err != nil || warning != nil && warning.Error() != everyEnvoyFilter {
					t.Errorf("%s %s: warning %v, error %v", config.GroupVersionKind.Kind, config.Name, warning, err)
				}
			}
		})
	}
}

package envoy_test

import (
	"io/fs"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"switchyard/envoy"
)

// The two files differ only in the place of the filter: the gate, the routes
// and the clusters must not drift apart.
func TestUpgradeChainIsMinimalWithTheFilterElsewhere(t *testing.T) {
	minimal, chain := load(t, "bootstrap/minimal.yaml"), load(t, "bootstrap/upgrade-chain.yaml")
	want, got := manager(t, minimal), manager(t, chain)

	filters := want["http_filters"].([]any)
	want["upgrade_configs"].([]any)[0].(map[string]any)["filters"] = filters
	want["http_filters"] = filters[len(filters)-1:] // the router
	if diff := cmp.Diff(minimal, chain); diff != "" {
		t.Errorf("minimal.yaml with the filter moved, and upgrade-chain.yaml (-want +got):\n%s", diff)
	}
	if len(got["upgrade_configs"].([]any)) != 1 {
		t.Errorf("got %d upgrade_configs, want one", len(got["upgrade_configs"].([]any)))
	}
}

func load(t *testing.T, name string) map[string]any {
	t.Helper()
	data, err := fs.ReadFile(envoy.Files, name)
	if err != nil {
		t.Fatal(err)
	}
	var file map[string]any
	if err := yaml.Unmarshal(data, &file); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return file
}

// manager returns the connection manager of the only listener.
func manager(t *testing.T, file map[string]any) map[string]any {
	t.Helper()
	at := func(value any, key string) any {
		m, ok := value.(map[string]any)
		if !ok || m[key] == nil {
			t.Fatalf("no %q", key)
		}
		return m[key]
	}
	first := func(value any) any {
		list, ok := value.([]any)
		if !ok || len(list) != 1 {
			t.Fatalf("want a list of one, got %v", value)
		}
		return list[0]
	}
	chain := first(at(first(at(at(file, "static_resources"), "listeners")), "filter_chains"))
	return at(first(at(chain, "filters")), "typed_config").(map[string]any)
}

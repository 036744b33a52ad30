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

// The gate is the same in every file, but for the protocols it lets in, and so is
// what makes labels of counters.
func TestGateIsTheSameEverywhere(t *testing.T) {
	gate := func(file string) map[string]any {
		bootstrap := load(t, file)
		m := manager(t, bootstrap)
		extension := m["early_header_mutation_extensions"].([]any)[0].(map[string]any)
		mutations := extension["typed_config"].(map[string]any)["mutations"].([]any)
		last := mutations[len(mutations)-1].(map[string]any)["append"].(map[string]any)["header"].(map[string]any)
		if last["key"] != "upgrade" {
			t.Errorf("%s: the last mutation is of %v, want upgrade", file, last["key"])
		}
		return map[string]any{
			"mutations":    mutations[:len(mutations)-1],
			"removed":      m["route_config"].(map[string]any)["request_headers_to_remove"],
			"stats_config": bootstrap["stats_config"],
			"ignored":      m["http_protocol_options"],
			"address":      m["use_remote_address"],
			"path":         []any{m["normalize_path"], m["merge_slashes"], m["path_with_escaped_slashes_action"]},
		}
	}
	files, err := fs.Glob(envoy.Files, "bootstrap/*")
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	want := gate("bootstrap/minimal.yaml")
	for key, part := range want {
		if part == nil {
			t.Errorf("minimal.yaml has no %s", key)
		}
	}
	for _, file := range files {
		if diff := cmp.Diff(want, gate(file)); diff != "" {
			t.Errorf("minimal.yaml and %s (-minimal +it):\n%s", file, diff)
		}
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

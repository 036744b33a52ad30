package envoy_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"switchyard/envoy"
)

// The files for Istio have the gate of minimal.yaml; what Istio has set already (websocket, path normalisation) is not in them, and
// WebSockets over HTTP/2 are offered as in http2.yaml.
func TestIstioHasTheGateOfMinimal(t *testing.T) {
	want := manager(t, load(t, "bootstrap/minimal.yaml"))
	for _, file := range []string{"istio/envoyfilter.yaml", "istio/envoyfilter-sidecar.yaml", "istio/wasmplugin.yaml", "istio/wasmplugin-sidecar.yaml"} {
		t.Run(file, func(t *testing.T) {
			gate, removed, filters := map[string]any{}, []any{}, 0
			contexts := map[string]bool{}
			for _, document := range documents(t, file) {
				if document["kind"] != "EnvoyFilter" {
					continue
				}
				for _, p := range document["spec"].(map[string]any)["configPatches"].([]any) {
					p := p.(map[string]any)
					contexts[p["match"].(map[string]any)["context"].(string)] = true
					patch := p["patch"].(map[string]any)
					value := patch["value"].(map[string]any)
					switch p["applyTo"].(string) + " " + patch["operation"].(string) {
					case "NETWORK_FILTER MERGE":
						gate = value["typed_config"].(map[string]any)
					case "ROUTE_CONFIGURATION MERGE":
						removed = value["request_headers_to_remove"].([]any)
					case "HTTP_FILTER INSERT_FIRST":
						filters++
						wanted := want["http_filters"].([]any)[0].(map[string]any)
						config := func(v map[string]any) map[string]any {
							return v["typed_config"].(map[string]any)["config"].(map[string]any)["configuration"].(map[string]any)
						}
						if diff := cmp.Diff(config(wanted), config(value)); diff != "" {
							t.Errorf("rules (-minimal +it):\n%s", diff)
						}
					default:
						t.Errorf("unexpected patch %v %v", p["applyTo"], patch["operation"])
					}
				}
			}
			if len(contexts) != 1 {
				t.Errorf("got patches for %v, want one context", contexts)
			}
			for _, key := range []string{"http_protocol_options", "early_header_mutation_extensions"} {
				if diff := cmp.Diff(want[key], gate[key]); diff != "" {
					t.Errorf("%s (-minimal +it):\n%s", key, diff)
				}
			}
			if !strings.Contains(file, "sidecar") {
				for _, key := range []string{"merge_slashes", "path_with_escaped_slashes_action"} {
					if gate[key] != want[key] {
						t.Errorf("%s is %v, want %v", key, gate[key], want[key])
					}
				}
			}
			if diff := cmp.Diff(map[string]any{"allow_connect": true}, gate["http2_protocol_options"]); diff != "" {
				t.Errorf("http2_protocol_options (-want +it):\n%s", diff)
			}
			if _, ok := gate["upgrade_configs"]; ok {
				t.Error("upgrade_configs is set: MERGE appends, and Istio allows websocket already")
			}
			if diff := cmp.Diff(want["route_config"].(map[string]any)["request_headers_to_remove"], any(removed)); diff != "" {
				t.Errorf("removed (-minimal +it):\n%s", diff)
			}
			if wanted := map[bool]int{true: 0, false: 1}[strings.Contains(file, "wasmplugin")]; filters != wanted {
				t.Errorf("got %d filters, want %d", filters, wanted)
			}
		})
	}
}

// The files for Envoy Gateway have the gate of minimal.yaml too, in the words of each policy.
func TestGatewayHasTheGateOfMinimal(t *testing.T) {
	want := manager(t, load(t, "bootstrap/minimal.yaml"))
	mutations := want["early_header_mutation_extensions"].([]any)[0].(map[string]any)["typed_config"].(map[string]any)["mutations"].([]any)

	patches := map[string]any{}
	for _, p := range documents(t, "gateway/patch-policy.yaml")[0]["spec"].(map[string]any)["jsonPatches"].([]any) {
		operation := p.(map[string]any)["operation"].(map[string]any)
		patches[strings.TrimPrefix(operation["path"].(string), "/default_filter_chain/filters/0/typed_config/")] = operation["value"]
	}
	for _, key := range []string{"http_protocol_options", "early_header_mutation_extensions", "path_with_escaped_slashes_action"} {
		if diff := cmp.Diff(want[key], patches[key]); diff != "" {
			t.Errorf("patch-policy.yaml: %s (-minimal +it):\n%s", key, diff)
		}
	}

	// gate.yaml sets what minimal.yaml appends, in the same order, and removes the two fields of the filter.
	set := documents(t, "gateway/gate.yaml")[0]["spec"].(map[string]any)["headers"].(map[string]any)["earlyRequestHeaders"].(map[string]any)["set"].([]any)
	var got, wanted []string
	for _, h := range set {
		got = append(got, h.(map[string]any)["name"].(string)+": "+h.(map[string]any)["value"].(string))
	}
	for _, m := range mutations {
		if header, ok := m.(map[string]any)["append"].(map[string]any); ok {
			h := header["header"].(map[string]any)
			wanted = append(wanted, h["key"].(string)+": "+h["value"].(string))
		}
	}
	if !slices.Equal(got, wanted) {
		t.Errorf("gate.yaml sets\n%q\nminimal.yaml appends\n%q", got, wanted)
	}
}

// documents are the objects in a file.
func documents(t *testing.T, name string) []map[string]any {
	t.Helper()
	data, err := fs.ReadFile(envoy.Files, name)
	if err != nil {
		t.Fatal(err)
	}
	var all []map[string]any
	for d := yaml.NewDecoder(bytes.NewReader(data)); ; {
		var document map[string]any
		err := d.Decode(&document)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all = append(all, document)
	}
}

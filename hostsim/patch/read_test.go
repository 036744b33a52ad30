package patch_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"google.golang.org/protobuf/proto"

	"switchyard/hostsim/bootstrap"
	"switchyard/hostsim/patch"
)

// withPatch is an EnvoyFilter with one patch, whose lines are indented by four; it starts in line 5.
func withPatch(text string) string {
	return "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: a}\nspec: {configPatches: [{\n" + text + "\n}]}\n"
}

const wasmPlugin = "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {name: a}\nspec:\n"

func TestWhatKubernetesOrIstioRefuse(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"no YAML", "a: b: c\n", "a.yaml: invalid YAML: mapping values are not allowed in this context"},
		{"no object", "- a\n", "a.yaml:1: found no object, want apiVersion, kind, metadata and spec"},
		{"no kind", "apiVersion: v1\n", "a.yaml:1: apiVersion or kind is missing, or no string"},
		{"another kind", "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: a}\n", "a.yaml:1: kind: not simulated: networking.istio.io/Gateway, only EnvoyFilter and WasmPlugin of Istio can be applied"},
		{"a name that YAML 1.1 takes for a boolean", "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: y}\n", "a.yaml:3: metadata.name: is required, and a string: put it in quotes"},
		{"a key that is given twice", "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nkind: EnvoyFilter\n", `a.yaml:3: "kind" is given twice`},
		{"an alias", "a: &a {}\nb: *a\n", "a.yaml:2: the alias *a is not read here: write it out"},
		{"infinity", "a: .inf\n", `a.yaml:1: ".inf" is no number in JSON, put it in quotes`},
		{"a field of the object that there is not", "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: a}\nspec: {patches: []}\n", `a.yaml:4: spec: unknown field "patches"`},
		{"no applyTo", withPatch("patch: {operation: MERGE, value: {}}"), "a.yaml:4: spec.configPatches[0].applyTo: is required: what the patch is applied to"},
		{"no operation", withPatch("applyTo: CLUSTER,\npatch: {value: {}}"), "a.yaml:6: spec.configPatches[0].patch.operation: is required"},
		{"no value", withPatch("applyTo: CLUSTER,\npatch: {operation: ADD}"), "a.yaml:6: spec.configPatches[0].patch.value: is required for ADD"},
		{"a match of another class", withPatch("applyTo: CLUSTER,\nmatch: {listener: {}},\npatch: {operation: ADD, value: {}}"), "a.yaml:6: spec.configPatches[0].match: CLUSTER needs a match on cluster"},
		{"a filter without a name", withPatch("applyTo: HTTP_FILTER,\nmatch: {listener: {filterChain: {filter: {}}}},\npatch: {operation: REMOVE}"), "a.yaml:6: spec.configPatches[0].match.listener.filterChain.filter: has no name to match"},
		{"a subFilter of no HTTP filter", withPatch("applyTo: NETWORK_FILTER,\nmatch: {listener: {filterChain: {filter: {name: a, subFilter: {name: b}}}}},\npatch: {operation: REMOVE}"), "a.yaml:6: spec.configPatches[0].match.listener.filterChain.filter.subFilter: is for HTTP_FILTER only, not for NETWORK_FILTER"},
		{"a version that is no expression", withPatch("applyTo: CLUSTER,\nmatch: {proxy: {proxyVersion: '('}},\npatch: {operation: REMOVE}"), "a.yaml:6: spec.configPatches[0].match.proxy.proxyVersion: \"(\" is no regular expression: error parsing regexp: missing closing ): `(`"},
		{"a type that there is not", withPatch("applyTo: HTTP_FILTER,\npatch: {operation: ADD, value: {typed_config: {\n\"@type\": type.googleapis.com/a.B}}}"), `a.yaml:7: spec.configPatches[0].patch.value.typed_config.@type: unknown type "type.googleapis.com/a.B"`},
		{"a number for a string", withPatch("applyTo: CLUSTER,\npatch: {operation: ADD, value: {\nname: 1}}"), "a.yaml:7: spec.configPatches[0].patch.value.name: found the number 1, want a string, put it in quotes"},
		{"a duration without a unit", withPatch("applyTo: CLUSTER,\npatch: {operation: ADD, value: {\nconnect_timeout: '1'}}"), `a.yaml:7: spec.configPatches[0].patch.value.connect_timeout: found "1", want a duration such as "1s", "500ms" or "1h"`},
		{"a value of an enum in lower case", withPatch("applyTo: CLUSTER,\npatch: {operation: ADD, value: {\nlb_policy: random}}"), `a.yaml:7: spec.configPatches[0].patch.value.lb_policy: found "random", want one of ROUND_ROBIN, LEAST_REQUEST, RING_HASH, RANDOM, MAGLEV, CLUSTER_PROVIDED, LOAD_BALANCING_POLICY_CONFIG`},
		{"an object for a list", withPatch("applyTo: CLUSTER,\npatch: {operation: ADD, value: {\nhealth_checks: {}}}"), "a.yaml:7: spec.configPatches[0].patch.value.health_checks: found an object, want a list"},
		{"a WasmPlugin without a URL", wasmPlugin + "  phase: AUTHN\n", "a.yaml:4: spec.url: is required: oci://, https://, http:// or file://"},
		{"a WasmPlugin of another scheme", wasmPlugin + "  url: ftp://a\n", `a.yaml:5: spec.url: "ftp://a" is of a scheme that Istio does not know, want oci, http, https or file`},
		{"a sum that is none", wasmPlugin + "  url: file://a\n  sha256: abc\n", `a.yaml:6: spec.sha256: "abc" is not 64 hexadecimal digits in lower case`},
		{"a plugin for a network filter", wasmPlugin + "  url: file://a\n  type: NETWORK\n", "a.yaml:6: spec.type: not simulated: a plugin for a network filter"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := patch.Read(patch.Text{Name: "a.yaml", Data: []byte(tt.text)})
			if err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

// apply reads and applies the objects to the bootstrap.
func apply(t *testing.T, boot, objects string, options patch.Options) (*bootstrapv3.Bootstrap, []patch.Warning, error) {
	t.Helper()
	parsed, err := bootstrap.Parse(bootstrap.Text{Name: "boot.yaml", Data: []byte(boot)})
	if err != nil {
		t.Fatal(err)
	}
	read, err := patch.Read(patch.Text{Name: "a.yaml", Data: []byte(objects)})
	if err != nil {
		t.Fatal(err)
	}
	merged := proto.CloneOf(parsed.Proto())
	warnings, err := read.Apply(merged, options)
	return merged, warnings, err
}

const manager = `static_resources:
  listeners:
  - name: main
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: main
          route_config: {name: r}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
`

// What the agent would fetch is a file that the options name; what is for the agent does not reach Envoy.
func TestThePluginsFile(t *testing.T) {
	plugin := wasmPlugin + "  url: oci://registry.example/a:1\n  imagePullPolicy: Always\n"
	_, _, err := apply(t, manager, plugin, patch.Options{})
	if want := "a.yaml:5: spec.url: nothing is fetched here: say which file stands for it with --wasm oci://registry.example/a:1=FILE"; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	merged, _, err := apply(t, manager, plugin, patch.Options{Wasm: map[string]string{"oci://registry.example/a:1": "a.wasm"}})
	if err != nil {
		t.Fatal(err)
	}
	text, err := patch.Render(merged)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "filename: a.wasm\n") || strings.Contains(string(text), "ISTIO_META") || strings.Contains(string(text), "oci:") {
		t.Errorf("got\n%s", text)
	}
}

// A file in the container of a proxy is another file here.
func TestAFileOfTheContainer(t *testing.T) {
	text := withPatch(`applyTo: HTTP_FILTER,
patch: {operation: INSERT_FIRST, value: {name: a, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm,
config: {vm_config: {runtime: envoy.wasm.runtime.v8, code: {local: {filename: /etc/a.wasm}}}}}}}`)
	merged, warnings, err := apply(t, manager, text, patch.Options{Wasm: map[string]string{"/etc/a.wasm": "bin/a.wasm"}})
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	rendered, err := patch.Render(merged)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(rendered), "filename: bin/a.wasm\n") {
		t.Errorf("got\n%s", rendered)
	}
}

// What YAML readers take for something else than a string stays one.
func TestRenderedStringsStayStrings(t *testing.T) {
	for _, name := range []string{"y", "no", "On", "true", "null", "1", "1.5", "0x1", "~", "", " a", "a: b", "# a", "a\nb", "a/b.c-d_e", "2006-01-02", "%REQ(A)%", "\u00e9", "\x7f", "\u0085\u0090\ufeff\uffff", "\U0001f600"} {
		in := &bootstrapv3.Bootstrap{HeaderPrefix: name}
		text, err := patch.Render(in)
		if err != nil {
			t.Fatal(err)
		}
		if name == "" {
			text = []byte("header_prefix: \"\"\n")
		}
		out, err := bootstrap.Parse(bootstrap.Text{Name: "a.yaml", Data: text})
		if err != nil {
			t.Errorf("%q: %v\n%s", name, err, text)
		} else if got := out.Proto().GetHeaderPrefix(); got != name {
			t.Errorf("got %q, want %q\n%s", got, name, text)
		}
	}
}

// Whatever is in a text, reading and applying it end with a result or an error.
func FuzzObjects(f *testing.F) {
	files, err := filepath.Glob(goldens + "/*.in.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		_, objects, _ := strings.Cut(string(text), "\n---\n")
		f.Add(objects)
	}
	boot, err := bootstrap.Parse(bootstrap.Text{Name: "boot.yaml", Data: []byte(manager)})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		objects, err := patch.Read(patch.Text{Name: "a.yaml", Data: []byte(text)})
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
			return
		}
		merged := proto.CloneOf(boot.Proto())
		warnings, err := objects.Apply(merged, patch.Options{})
		if err != nil {
			return
		}
		for _, w := range warnings {
			if w.Line < 1 || w.Line > 1+strings.Count(text, "\n") {
				t.Errorf("%s: there is no such line", w)
			}
		}
		if _, err := patch.Render(merged); err != nil {
			t.Error(err)
		}
	})
}

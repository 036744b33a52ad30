package bootstrap

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	wasmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/wasm/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

var update = flag.Bool("update", false, "write the golden files")

const hcmPath = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config"

func TestEverySupportedFieldLoads(t *testing.T) {
	b, err := LoadFile("testdata/complete.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := &routerv3.Router{}
	hcm := unpackHCM(t, b)
	got, err := b.Unpack(hcm.GetHttpFilters()[1].GetTypedConfig(), hcmPath+".http_filters[1].typed_config")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("router (-want +got):\n%s", diff)
	}
}

func TestTheWholeMessageIsWhatTheTextSays(t *testing.T) {
	const text = `
static_resources:
  clusters:
    name: web
    type: strict_dns
    connectTimeout: 0.25s
    lb_policy: 3
    circuit_breakers: {thresholds: {max_connections: "8080.0"}}
    load_assignment: {cluster_name: web, endpoints: {lb_endpoints: {endpoint: {address: {socket_address: {address: localhost, port_value: 0x1F90}}}}}}
`
	b, err := Load("x.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	const want = `
static_resources { clusters {
  name: "web" type: STRICT_DNS connect_timeout { nanos: 250000000 } lb_policy: RANDOM
  circuit_breakers { thresholds { max_connections { value: 8080 } } }
  load_assignment { cluster_name: "web" endpoints { lb_endpoints { endpoint { address { socket_address { address: "localhost" port_value: 8080 } } } } } }
} }`
	wantProto := proto.Clone(b.Proto())
	if err := prototext.Unmarshal([]byte(want), wantProto); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wantProto, proto.Message(b.Proto()), protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWhatStandsInAnAnyIsUnpackedOnce(t *testing.T) {
	b, err := LoadFile("testdata/wasm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	hcm := unpackHCM(t, b)
	path := hcmPath + ".http_filters[0].typed_config"
	m, err := b.Unpack(hcm.GetHttpFilters()[0].GetTypedConfig(), path)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := b.Unpack(hcm.GetHttpFilters()[0].GetTypedConfig(), path); again != m {
		t.Error("a second Unpack made a copy, want the message that was checked")
	}
	config := m.(*wasmv3.Wasm).GetConfig()
	got, err := b.Unpack(config.GetConfiguration(), path+".config.configuration")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(proto.Message(wrapperspb.String(`{"rules":[]}`)), got, protocmp.Transform()); diff != "" {
		t.Errorf("plugin configuration (-want +got):\n%s", diff)
	}
	got, err = b.Unpack(config.GetVmConfig().GetConfiguration(), path+".config.vm_config.configuration")
	if err != nil {
		t.Fatal(err)
	}
	// As in Envoy, a fraction in YAML is a string, and an unquoted yes a boolean.
	want, _ := structpb.NewStruct(map[string]any{"a": "1.5", "b": []any{1, map[string]any{"c": true}}})
	if diff := cmp.Diff(proto.Message(want), got, protocmp.Transform()); diff != "" {
		t.Errorf("vm configuration (-want +got):\n%s", diff)
	}
	// The TypedStruct has become what it describes, in the bytes too.
	router := hcm.GetHttpFilters()[1].GetTypedConfig()
	if got, want := string(router.MessageName()), "envoy.extensions.filters.http.router.v3.Router"; got != want {
		t.Errorf("TypedStruct became %s, want %s", got, want)
	}
	fresh, err := b.Unpack(proto.Clone(hcm.GetHttpFilters()[0].GetTypedConfig()).(*anypb.Any), path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, fresh, protocmp.Transform()); diff != "" {
		t.Errorf("the bytes of the Any are not the message (-message +bytes):\n%s", diff)
	}
}

func TestBothTypedStructsBecomeWhatTheyDescribe(t *testing.T) {
	for _, name := range []string{"xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct"} {
		t.Run(name, func(t *testing.T) {
			text := `
static_resources:
  listeners:
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
      filters:
        name: hcm
        typed_config:
          "@type": type.googleapis.com/` + name + `
          type_url: type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          value: {stat_prefix: h1, codec_type: HTTP1, route_config: {name: r}}
`
			b, err := Load("x.yaml", []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if got := unpackHCM(t, b).GetRouteConfig().GetName(); got != "r" {
				t.Errorf("the route configuration is named %q, want r", got)
			}
		})
	}
}

func TestJSONAndYAMLGiveTheSame(t *testing.T) {
	fromYAML, err := Load("x.yaml", []byte("node: {id: a}\nstatic_resources:\n  clusters: {name: c, type: STATIC, connectTimeout: 1s}\n"))
	if err != nil {
		t.Fatal(err)
	}
	fromJSON, err := Load("x.json", []byte("{\"node\": {\"id\": \"\\u0061\"},\n\"static_resources\":\n\t{\"clusters\": {\n\"name\": \"c\", \"type\": 0, \"connect_timeout\": \"1s\"}}}"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fromYAML.Proto(), fromJSON.Proto(), protocmp.Transform()); diff != "" {
		t.Errorf("(-YAML +JSON):\n%s", diff)
	}
	if got, want := fromJSON.Position("static_resources.clusters[0].name"), 4; got != want {
		t.Errorf("name is in line %d of the JSON, want %d", got, want)
	}
}

func TestPositions(t *testing.T) {
	b, err := LoadFile("testdata/complete.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, path, line string // line is the start of the text in that line
	}{
		{"the bootstrap", "", "node:"},
		{"a field", "admin.address", "address:"},
		{"a field in a flow mapping", "node.cluster", "node:"},
		{"a list element", "static_resources.listeners[0]", "- name: h1"},
		{"a field inside an Any", hcmPath + ".normalize_path", "normalize_path:"},
		{"an Any in an Any", hcmPath + ".access_log[1].typed_config.log_format", `log_format: {text_format_source: {inline_string: "%RESPONSE_CODE%\n"}}`},
		{"a list of one given as a scalar", hcmPath + ".route_config.virtual_hosts[0].domains[0]", `domains: "*"`},
		{"a map entry", hcmPath + `.http_filters[0].typed_config.rules.policies["everyone"].permissions[0].any`, "everyone:"},
		{"what is not there has the line of its parent", "static_resources.clusters[0].circuit_breakers.nothing[3].x", "circuit_breakers:"},
		{"nor there", "nothing.at[0].all", "node:"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			line := strings.TrimSpace(fileLine(t, "testdata/complete.yaml", b.Position(tt.path)))
			if !strings.HasPrefix(line, tt.line) {
				t.Errorf("Position(%s) is line %d %q, want one that starts with %q", tt.path, b.Position(tt.path), line, tt.line)
			}
		})
	}
}

func TestErrorfNamesFileLineAndPath(t *testing.T) {
	b, err := Load("x.yaml", []byte("node:\n  id: a\n"))
	if err != nil {
		t.Fatal(err)
	}
	got := b.Errorf("node.id", "unknown node %q", "a")
	if want := `x.yaml:2: node.id: unknown node "a"`; got.Error() != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if errors.Is(got, ErrUnsupported) {
		t.Error("an Error must not be ErrUnsupported")
	}
	got = b.Unsupported("node.id", "this node")
	if want := `x.yaml:2: node.id: not simulated: this node`; got.Error() != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !errors.Is(got, ErrUnsupported) {
		t.Error("an UnsupportedError must be ErrUnsupported")
	}
}

// TestErrors loads each file of testdata/errors and compares the error with the file's golden twin.
func TestErrors(t *testing.T) {
	for _, input := range inputs(t, "testdata/errors") {
		t.Run(filepath.Base(input), func(t *testing.T) {
			data, err := os.ReadFile(input)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Load(filepath.Base(input), data)
			if err == nil {
				t.Fatal("loaded, want an error")
			}
			checkLine(t, err)
			golden := input + ".golden"
			got := err.Error() + "\n"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			// The mistake stands in the line that has the mark, if there is one.
			for i, line := range strings.Split(string(data), "\n") {
				if strings.Contains(line, "# here") {
					if mark := filepath.Base(input) + ":" + strconv.Itoa(i+1) + ": "; !strings.HasPrefix(got, mark) {
						t.Errorf("got %q, want it to start with %q", got, mark)
					}
				}
			}
		})
	}
}

func TestFilesThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "envoy.pb")
	if err := os.WriteFile(other, []byte("node: {id: a}"), 0o644); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing.yaml")
	for _, tt := range []struct{ name, file, want string }{
		{"a missing file", missing, missing + ": no such file or directory"},
		{"an extension that Envoy reads in another way", other, other + `: not simulated: a bootstrap file with the extension ".pb", name it .yaml, .yml or .json`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := LoadFile(tt.file)
			if err == nil || err.Error() != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func TestAllThatIsNotSimulatedIsListedInDocumentOrder(t *testing.T) {
	const text = `
static_resources:
  clusters:
  - {name: a, connect_timeout: 1s, lb_policy: CLUSTER_PROVIDED, track_timeout_budgets: true}
  - name: b
    type: EDS
stats_server_version_override: 1
node: {id: a, client_features: [b]}
`
	b, err := Parse(Text{"x.yaml", []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, u := range b.CheckSupported() {
		got = append(got, u.Error())
	}
	want := []string{
		`x.yaml:4: static_resources.clusters[0].lb_policy: not simulated: lb_policy "CLUSTER_PROVIDED", set lb_policy: ROUND_ROBIN or RANDOM or LEAST_REQUEST or RING_HASH or MAGLEV`,
		`x.yaml:4: static_resources.clusters[0].track_timeout_budgets: not simulated: track_timeout_budgets of Cluster`,
		`x.yaml:6: static_resources.clusters[1].type: not simulated: type "EDS", set type: STATIC or STRICT_DNS or LOGICAL_DNS`,
		`x.yaml:7: stats_server_version_override: not simulated: stats_server_version_override of Bootstrap`,
		`x.yaml:8: node.client_features: not simulated: client_features of Node`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDepthAndAliasesAreBounded(t *testing.T) {
	var bomb strings.Builder
	bomb.WriteString("node:\n  metadata:\n    a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 9; i++ {
		a := "*a" + strconv.Itoa(i-1)
		bomb.WriteString("    a" + strconv.Itoa(i) + ": &a" + strconv.Itoa(i) + " [" + strings.Repeat(a+", ", 9) + a + "]\n")
	}
	for _, tt := range []struct{ name, text, want string }{
		{"an alias that contains itself", "node: {id: x, metadata: &a {b: [*a]}}\n", "nested too deeply"},
		{"an Any that contains itself", "node: {metadata: {a: 1}}\nstatic_resources: {clusters: {name: a, typed_extension_protocol_options: {a: &a {\"@type\": t/google.protobuf.Any, value: *a}}}}\n", "nested too deeply"},
		{"a list of lists that contains itself", "static_resources: {clusters: {name: a, health_checks: &a [*a]}}\n", "nested too deeply"},
		{"aliases that grow without end", bomb.String(), "too many values"},
		{"deep nesting", "node: {metadata: {a: " + strings.Repeat("[", 300) + strings.Repeat("]", 300) + "}}\n", "nested too deeply"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Load("x.yaml", []byte(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want an error with %q", err, tt.want)
			}
			checkLine(t, err)
		})
	}
}

func FuzzLoad(f *testing.F) {
	for _, name := range append(inputs(f, "testdata"), inputs(f, "testdata/errors")...) {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, filepath.Ext(name) == ".json")
	}
	f.Add([]byte("node: &a {id: x, metadata: *a}"), false)
	f.Add([]byte("node: {id: *x}"), false)
	f.Fuzz(func(t *testing.T, data []byte, json bool) {
		name := "fuzz.yaml"
		if json {
			name = "fuzz.json"
		}
		b, err := Load(name, data)
		if err != nil {
			checkLine(t, err)
			return
		}
		if _, err := proto.Marshal(b.Proto()); err != nil {
			t.Errorf("loaded what cannot be encoded: %v", err)
		}
	})
}

// checkLine holds every error to one readable line of one of the two types.
func checkLine(t *testing.T, err error) {
	t.Helper()
	var mistake *Error
	var unsupported *UnsupportedError
	if !errors.As(err, &mistake) && !errors.As(err, &unsupported) {
		t.Errorf("error of type %T: %v", err, err)
	}
	if strings.ContainsAny(err.Error(), "\n\r") {
		t.Errorf("error of more than one line: %q", err)
	}
}

func unpackHCM(t *testing.T, b *Bootstrap) *hcmv3.HttpConnectionManager {
	t.Helper()
	m, err := b.Unpack(b.Proto().GetStaticResources().GetListeners()[0].GetFilterChains()[0].GetFilters()[0].GetTypedConfig(), hcmPath)
	if err != nil {
		t.Fatal(err)
	}
	return m.(*hcmv3.HttpConnectionManager)
}

func fileLine(t *testing.T, name string, line int) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(data), "\n")[line-1]
}

// inputs returns the YAML and JSON files of a directory.
func inputs(t testing.TB, dir string) (names []string) {
	t.Helper()
	for _, pattern := range []string{"*.yaml", "*.json"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, found...)
	}
	if len(names) == 0 {
		t.Fatalf("no inputs in %s", dir)
	}
	return names
}

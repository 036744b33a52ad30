package bootstrap

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// dialect is what Envoy 1.40.0 reads and what it does not, one claim a line.
// Each text stands behind `static_resources: {clusters: {name: a, connect_timeout: 1s, `, or is a whole bootstrap if it ends in a line break.
var dialect = []struct {
	name, text string
	accepted   bool
}{
	{"an object where a list is expected", "health_checks: []}}", true},
	{"a list in a list", "health_checks: [[]]}}", true},
	{"null is not set", "typed_extension_protocol_options: null, health_checks: null}}", true},
	{"two alternatives, one of them null", "type: STATIC, cluster_type: null}}", true},
	{"a scalar where a map is expected", "typed_extension_protocol_options: a}}", false},
	{"a list where a map is expected", "typed_extension_protocol_options: [{a: b}]}}", false},
	{"lowerCamelCase", "lbPolicy: RANDOM}}", true},
	{"UpperCamelCase", "LbPolicy: RANDOM}}", false},
	{"a field by its number", "'1': b}}", false},
	{"@type in an ordinary message", "'@type': foo}}", false},
	{"an enum in lower case", "lb_policy: random}}", true},
	{"an enum in camel case", "type: strictDns}}", false},
	{"an enum with a dash", "type: Strict-Dns}}", false},
	{"an enum by number", "lb_policy: 3}}", true},
	{"an enum by number in quotes", `lb_policy: "3"}}`, true},
	{"an enum number that is not defined", "type: 99}}", false},
	{"an empty enum", "type: ''}}", false},
	{"a boolean for an enum", "type: on}}", false},
	{"a boolean: yes", "respect_dns_ttl: yes}}", true},
	{"a boolean: TRUE", "respect_dns_ttl: TRUE}}", true},
	{"a boolean: tRUE", "respect_dns_ttl: tRUE}}", true},
	{"a boolean in quotes", "respect_dns_ttl: 'yes'}}", true},
	{"a number for a boolean", "respect_dns_ttl: 1}}", false},
	{"an integer with an empty fraction", "per_connection_buffer_limit_bytes: 8.0}}", true},
	{"an integer in scientific notation", `per_connection_buffer_limit_bytes: "1e3"}}`, true},
	{"an integer in hexadecimal", "per_connection_buffer_limit_bytes: 0x50}}", true},
	{"an integer in octal", "per_connection_buffer_limit_bytes: 010}}", true},
	{"an integer with a fraction", "per_connection_buffer_limit_bytes: 1.5}}", false},
	{"a negative integer", "per_connection_buffer_limit_bytes: -1}}", false},
	{"an integer with a space", "per_connection_buffer_limit_bytes: ' 1'}}", false},
	{"an empty integer", "per_connection_buffer_limit_bytes: ''}}", false},
	{"a wrapper as an object", "per_connection_buffer_limit_bytes: {value: 3}}}", true},
	{"a duration as an object", "cleanup_interval: {seconds: 1}}}", true},
	{"a duration with a fraction", "cleanup_interval: 1.5s}}", true},
	{"a duration of ten digits", "cleanup_interval: 1.0000000001s}}", false},
	{"a duration without an integer", "cleanup_interval: '.5s'}}", false},
	{"a duration with an empty fraction", "cleanup_interval: '1.s'}}", false},
	{"a duration with a capital S", "cleanup_interval: 1S}}", false},
	{"a duration with a space", "cleanup_interval: ' 1s'}}", false},
	{"a duration in minutes", "cleanup_interval: 1m}}", false},
	{"a duration without a unit", "cleanup_interval: 1}}", false},
	{"metadata of any shape", "metadata: {filter_metadata: {a: {b: [1, {c: d}], e: null}}}}}", true},

	{"an empty object", "{}\n", true},
	{"an empty text", "", false},
	{"a list", "[]\n", false},
	{"a list of one where an object is expected", "static_resources: [{clusters: []}]\n", false},
	{"a string where an object is expected", "node: ''\n", false},
	{"null where an object is expected", "node: {locality: null}\n", true},
	{"an integer for a string", "node: {id: 1}\n", false},
	{"an integer with a sign for a string", "node: {id: +5}\n", false},
	{"an octal number for a string", "node: {id: 010}\n", false},
	{"a negative hexadecimal number for a string", "node: {id: -0x5}\n", false},
	{"what is no octal number for a string", "node: {id: 08}\n", true},
	{"what is no hexadecimal number for a string", "node: {id: 0x}\n", true},
	{"an integer of more than 32 bits for a string", "node: {id: 3000000000}\n", true},
	{"a fraction for a string", "node: {id: 1.5}\n", true},
	{"YAML 1.1's grouped digits for a string", "node: {id: 1_000}\n", true},
	{"YAML 1.2's octal number for a string", "node: {id: 0o17}\n", true},
	{"a boolean for a string", "node: {id: y}\n", false},
	{"a boolean in quotes for a string", "node: {id: 'y', cluster: \"n\"}\n", true},
	{"a number in a block scalar for a string", "node:\n  id: |\n    1\n", true},
	{"a number with a string tag for a string", "node: {id: !!str 1}\n", false},
	{"a binary tag for a string", "node: {id: !!binary aGk=}\n", true},
	{"null for a string", "node: {id: Null}\n", true},
	{"what is no null for a string", "node: {id: nULL}\n", true},
	{"an integer as a key", "node: {1: a}\n", false},
	{"a list as a key", "node: {[a]: a}\n", false},
	{"an alias", "node: {id: &a x, cluster: *a}\n", true},
	{"an anchor that is set again", "node: {id: &a x, cluster: &a z, user_agent_name: *a}\n", true},
	{"an alias without an anchor", "node: {id: *x}\n", false},
	{"a merge key", "static_resources:\n  clusters:\n  - &c {name: a}\n  - {<<: *c, name: b}\n", false},
	{"a second document, whatever is in it", "node: {id: a}\n---\nnode: [\n", true},
	{"null in a list is the empty message", "static_resources: {clusters: [null]}\n", false},
}

// stricter are the inputs of testdata/errors that Envoy accepts and this package does not, as the package's comment says.
var stricter = []string{"given-twice.yaml", "given-twice-in-two-spellings.yaml", "given-twice-in-a-struct.yaml", "trailing-comma.json"}

func dialectBootstrap(text string) []byte {
	if text != "" && !strings.HasSuffix(text, "\n") {
		text = "static_resources: {clusters: {name: a, connect_timeout: 1s, " + text + "\n"
	}
	return []byte(text)
}

func TestDialect(t *testing.T) {
	for _, tt := range dialect {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse(Text{"x.yaml", dialectBootstrap(tt.text)})
			if (err == nil) != tt.accepted {
				t.Errorf("got error %v, want it accepted: %v", err, tt.accepted)
			}
		})
	}
}

// TestDialectIsEnvoys asks a real Envoy the same, and about every mistake in testdata/errors.
func TestDialectIsEnvoys(t *testing.T) {
	envoy := findEnvoy(t)
	dir := t.TempDir()
	for i, tt := range dialect {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(dir, strconv.Itoa(i)+".yaml")
			if err := os.WriteFile(file, dialectBootstrap(tt.text), 0o644); err != nil {
				t.Fatal(err)
			}
			if got, output := validates(envoy, file); got != tt.accepted {
				t.Errorf("Envoy accepts it: %v, want %v\n%s", got, tt.accepted, output)
			}
		})
	}
	for _, input := range append(inputs(t, "testdata/errors"), "testdata/complete.yaml") {
		t.Run(filepath.Base(input), func(t *testing.T) {
			t.Parallel()
			_, err := LoadFile(input)
			want := err == nil || errors.Is(err, ErrUnsupported) || slices.Contains(stricter, filepath.Base(input))
			if got, output := validates(envoy, input); got != want {
				t.Errorf("Envoy accepts it: %v, want %v because hostsim says %v\n%s", got, want, err, output)
			}
		})
	}
}

func validates(envoy, file string) (bool, string) {
	output, err := exec.Command(envoy, "--mode", "validate", "--use-dynamic-base-id", "-l", "error", "-c", file).CombinedOutput()
	return err == nil, string(output)
}

// findEnvoy returns the binary that ENVOY names or `make envoy` installed.
func findEnvoy(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("ENVOY"); path != "" {
		return path
	}
	if installed := "../../.tools/envoy-1.40.0/envoy"; fileExists(installed) {
		return installed
	}
	const missing = "envoy is not installed: run make envoy, or set ENVOY to its path"
	if slices.Contains(strings.Split(os.Getenv("E2E_REQUIRE"), ","), "envoy") {
		t.Fatal(missing)
	}
	t.Skip(missing)
	return ""
}

func fileExists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

package e2e

import (
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"switchyard/envoy"
)

// Every shipped file is run by a test.
func TestEveryBootstrapIsTested(t *testing.T) {
	tested := map[string]bool{
		"bootstrap/protocols.yaml": true, // by TestRules
		"bootstrap/openqa.yaml":    true, // by TestOpenQABootstrap
		"bootstrap/http2.yaml":     true, // by TestHTTP2Bootstrap
	}
	for _, file := range bootstraps {
		tested[file] = true
	}
	files, err := fs.Glob(envoy.Files, "bootstrap/*")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(files, slices.Sorted(maps.Keys(tested))); diff != "" {
		t.Errorf("shipped and tested (-shipped +tested):\n%s", diff)
	}
}

// To HTTP/1 the file for HTTP/2 does what minimal.yaml does.
func TestHTTP2Bootstrap(t *testing.T) {
	for _, peer := range []peer{envoy140, hostsim} {
		t.Run(peer.name, func(t *testing.T) {
			t.Parallel()
			p := start(t, peer, shipped(t, "bootstrap/http2.yaml"))
			t.Run("corpus", func(t *testing.T) { testCorpus(t, p) })
			t.Run("spoofed metadata", func(t *testing.T) { testSpoofedMetadata(t, p) })
			t.Run("ignored offers", func(t *testing.T) { testIgnoredOffers(t, p) })
			t.Run("upgrade with a body", func(t *testing.T) { testUpgradeWithBody(t, p) })
		})
	}
}

// A mistake in the filter's configuration stops the proxy, whose log says where
// the mistake is.
func TestBadConfigurations(t *testing.T) {
	tests := []struct{ name, configuration, want string }{
		{"shadowed rule", `{"rules": [{"protocol": "websocket"}, {"protocol": "websocket", "name": "b", "path": "/b"}]}`, "rules[1]: "},
		{"unknown key", `{"rules": [{"protocol": "websocket", "path_prefx": "/"}]}`, `rules[0].path_prefx: unknown key, did you mean "path_prefix"?`},
		{"contradiction", `{"rules": [{"protocol": "websocket", "action": "refuse", "cluster": "web"}]}`, "rules[0].cluster: "},
		{"duplicate name", `{"rules": [{"protocol": "tcp", "name": "a"}, {"protocol": "websocket", "name": "a"}]}`, "rules[1].name: "},
		{"no JSON", `{"rules": [}`, "line 1, column 12: "},
		{"h2c", `{"rules": [{"protocol": "h2c"}]}`, "rules[0].protocol: "},
	}
	for _, peer := range []peer{envoy140, hostsim} {
		for i, test := range tests {
			if peer.name == envoy140.name && i >= 2 {
				continue // the plugin is the same, and an Envoy needs seconds to compile it
			}
			t.Run(peer.name+"/"+test.name, func(t *testing.T) {
				t.Parallel()
				bootstrap := replace(t, shipped(t, "bootstrap/minimal.yaml"),
					`{"rules": [{"name": "websocket", "protocol": "websocket"}]}`, test.configuration)
				if log := refuses(t, peer, bootstrap); !strings.Contains(log, "switchyard: configuration: "+test.want) {
					t.Errorf("got the log\n%s\nwant it to say %q", log, test.want)
				}
			})
		}
	}
}

//go:build istio || gateway

package e2e

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// withoutGate is what misses where a control plane configures the plugin alone, with what becomes of it.
var withoutGate = map[string]string{
	"bare-cr-in-value":                  "websocket 101 echo",
	"h2c-smuggle-two-lines":             "- 403",
	"h2c-smuggle-ws-and-h2c":            "- 403",
	"nominated-upgrade-empty-plain-get": "- 403",
	"real-httpclient5-tls12":            "- 403",
	"real-istio29427-doubled":           "- 403",
	"upg-list-nospace":                  "- 403",
	"upg-list-websocket-h2c":            "- 403",
	"upg-two-lines-h2c-then-ws":         "- 403",
	"upg-two-lines-ws-then-h2c":         "- 403",
	"upg-two-lines-ws-twice":            "- 403",
}

// inNamespace is set in the process that has a network and mounts of its own: control planes have fixed ports and
// fixed paths.
const inNamespace = "SWITCHYARD_IN_NAMESPACE"

// isolated runs the test again in a network and a mount namespace of its own, and reports whether this is the process in there.
func isolated(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inNamespace) != "" {
		command(t, "ip", "link", "set", "lo", "up")
		return true
	}
	name := "^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$"
	cmd := exec.Command("unshare", "--net", "--mount", os.Args[0], "-test.run", name, "-test.v", "-test.timeout", "10m")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		t.Logf("%s", out)
	case strings.Contains(string(out), "unshare: ") || len(out) == 0:
		if os.Getenv("E2E_REQUIRE") != "" {
			t.Fatalf("this machine allows no namespaces: %v %s", err, out)
		}
		t.Skipf("this machine allows no namespaces: %v %s", err, out)
	default:
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// registry serves the images that make image has made, read only.
func registry(t *testing.T) string {
	t.Helper()
	layout := filepath.Join(root, "bin/image")
	text, err := os.ReadFile(filepath.Join(layout, "index.json"))
	if err != nil {
		t.Fatalf("%v (make image)", err)
	}
	var index struct {
		Manifests []struct {
			MediaType, Digest string
			Annotations       map[string]string
		}
	}
	if err := json.Unmarshal(text, &index); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/v2/{$}", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/v2/switchyard/{kind}/{reference}", func(w http.ResponseWriter, r *http.Request) {
		digest := r.PathValue("reference")
		for _, m := range index.Manifests {
			if r.PathValue("kind") == "manifests" && (digest == m.Annotations["org.opencontainers.image.ref.name"] || digest == m.Digest) {
				digest = m.Digest
				w.Header().Set("Content-Type", m.MediaType)
			}
		}
		w.Header().Set("Docker-Content-Digest", digest)
		http.ServeFile(w, r, filepath.Join(layout, "blobs", strings.ReplaceAll(digest, ":", "/")))
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://") + "/switchyard"
}

// files serves the directory of what was built.
func files(t *testing.T) string {
	t.Helper()
	require(t, plugin)
	server := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(root, "bin"))))
	t.Cleanup(server.Close)
	return server.URL
}

// testWithoutGate says how much of the corpus passes where no gate is open before the plugin.
func testWithoutGate(t *testing.T, p *proxy, what string) {
	corpus := readCorpus(t)
	misses := map[string]string{}
	for i, o := range runCorpus(t, p, corpus) {
		if !corpus[i].passes(o) {
			misses[corpus[i].Name] = o.String()
		}
	}
	t.Logf("%s alone passes %d of %d", what, len(corpus)-len(misses), len(corpus))
	if diff := cmp.Diff(withoutGate, misses); diff != "" {
		t.Errorf("misses (-want +got):\n%s", diff)
	}
}

//go:build gateway

package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"switchyard/envoy"
)

// envoyGateway is the real one, built by way of e2e/gateway.
var envoyGateway = peer{name: "envoy-gateway", env: "ENVOY_GATEWAY", path: "bin/envoy-gateway", get: "make e2e-gateway"}

// hostInfrastructure is what makes Envoy Gateway run our Envoy on this machine.
const hostInfrastructure = `apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: eg}
spec:
  controllerName: gateway.envoyproxy.io/gatewayclass-controller
  parametersRef: {group: gateway.envoyproxy.io, kind: EnvoyProxy, name: host, namespace: default}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyProxy
metadata: {name: host, namespace: default}
spec:
  provider: {type: Host, host: {envoyVersion: "1.40.0"}}
`

// startGateway runs Envoy Gateway on the files, and waits until its Envoy listens. In there the ports are all free.
func startGateway(t *testing.T, files ...string) *proxy {
	t.Helper()
	u := startUpstreams(t)
	dir := t.TempDir()
	config, home := filepath.Join(dir, "config"), filepath.Join(dir, "home")
	binaries := filepath.Join(home, "data/envoy-versions/1.40.0/bin")
	for _, d := range []string{config, binaries} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(require(t, envoy140), filepath.Join(binaries, "envoy")); err != nil {
		t.Fatal(err)
	}
	server := require(t, envoyGateway)
	command(t, server, "certgen", "--local", "--config-home", filepath.Join(home, "config"))
	certificates := filepath.Join(home, "config/certs/envoy")
	encoded := func(name string) string {
		b, err := os.ReadFile(filepath.Join(certificates, name))
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(b)
	}
	// Three things that version 1.9.1 does not do for the plugins of a standalone gateway: it gives Envoy another certificate than the one
	// on the disk, the path of a container, and a name that only Kubernetes resolves.
	secret := fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: envoy, namespace: envoy-gateway-system}\ntype: kubernetes.io/tls\n"+
		"data: {ca.crt: %q, tls.crt: %q, tls.key: %q}\n", encoded("ca.crt"), encoded("tls.crt"), encoded("tls.key"))
	if err := os.MkdirAll("/certs", 0o755); err != nil {
		t.Fatal(err)
	}
	command(t, "mount", "--bind", certificates, "/certs")
	hosts := filepath.Join(dir, "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost envoy-gateway.envoy-gateway-system.svc.cluster.local\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	command(t, "mount", "--bind", hosts, "/etc/hosts")
	t.Cleanup(func() {
		_ = exec.Command("umount", "/certs").Run()
		_ = os.Remove("/certs")
		_ = exec.Command("umount", "/etc/hosts").Run()
	})

	backends := ""
	for name, port := range map[string]int{"web": u.ports[8080], "websocket": u.ports[8081]} {
		backends += fmt.Sprintf("---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: Backend\nmetadata: {name: %s, namespace: default}\n"+
			"spec: {endpoints: [{ip: {address: 127.0.0.1, port: %d}}]}\n", name, port)
	}
	for i, text := range append([]string{secret, hostInfrastructure, backends}, files...) {
		if err := os.WriteFile(filepath.Join(config, fmt.Sprintf("%02d.yaml", i)), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	own := filepath.Join(dir, "envoy-gateway.yaml")
	if err := os.WriteFile(own, []byte(fmt.Sprintf(`apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyGateway
gateway: {controllerName: gateway.envoyproxy.io/gatewayclass-controller}
provider:
  type: Custom
  custom:
    resource: {type: File, file: {paths: [%q]}}
    infrastructure:
      type: Host
      host: {configHome: %[2]q, dataHome: %[3]q, stateHome: %[4]q, runtimeDir: %[5]q}
extensionApis: {enableBackend: true, enableEnvoyPatchPolicy: true}
`, config, filepath.Join(home, "config"), filepath.Join(home, "data"), filepath.Join(home, "state"), filepath.Join(home, "run"))), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(server, "server", "--config-path", own)
	cmd.Env = append(os.Environ(), "HOME="+home)
	log, exited := startProcess(t, "Envoy Gateway", cmd)
	t.Cleanup(func() {
		_ = syscall.Kill(cmd.Process.Pid, syscall.SIGTERM) // it stops its Envoy
		<-exited
	})
	gate := slices.ContainsFunc(files, func(text string) bool { return strings.Contains(text, "kind: ClientTrafficPolicy") })
	p := &proxy{name: "Envoy Gateway", upstreams: u, log: log, listeners: map[string]string{}}
	client := http.Client{}
	err := await(exited, func() error {
		// The port that Envoy Gateway's documentation names for Envoy's admin interface is taken by its own.
		found, err := filepath.Glob(filepath.Join(home, "run", "*", "admin-address.txt"))
		if err != nil || len(found) == 0 {
			return fmt.Errorf("no admin address yet: %v", err)
		}
		address, err := os.ReadFile(found[0])
		if err != nil {
			return err
		}
		p.admin = strings.TrimSpace(string(address))
		if _, err := get(&client, "http://"+p.admin+"/ready"); err != nil {
			return err
		}
		c, err := net.Dial("tcp", "127.0.0.1:8080")
		if err == nil {
			c.Close()
		}
		return err
	})
	if err != nil {
		t.Fatalf("Envoy Gateway did not start: %v", err)
	}
	p.addr = "127.0.0.1:8080"
	p.refuses = func(fields string, socket bool) bool {
		// Its own rule is to refuse a name with an underscore. gate.yaml leaves a client's x-upgrade-framing where there is no
		// Transfer-Encoding, which the plugin takes for content.
		return strings.Contains(fields, "_") || gate && socket && strings.Contains(lower(fields), "x-upgrade-framing")
	}
	return p
}

// gatewayRoutes are the shipped ones, with backends in place of Services.
func gatewayRoutes(t *testing.T) string {
	t.Helper()
	text := shipped(t, "gateway/routes.yaml")
	for _, name := range []string{"websocket", "web"} {
		text = replace(t, text, "    - name: "+name+"\n      port: 80\n", "    - {group: gateway.envoyproxy.io, kind: Backend, name: "+name+"}\n")
	}
	return text
}

// The files that are shipped for Envoy Gateway do through the real one what minimal.yaml does.
func TestGatewayPatchPolicy(t *testing.T) {
	if isolated(t) {
		policy := replace(t, shipped(t, "gateway/patch-policy.yaml"), "filename: /etc/switchyard/switchyard.wasm", "filename: "+require(t, plugin))
		testGateway(t, startGateway(t, gatewayRoutes(t), policy), "patch-policy")
	}
}

func TestGatewayExtensionPolicyHTTP(t *testing.T) {
	if isolated(t) {
		policy := replace(t, shipped(t, "gateway/extension-policy-http.yaml"), "https://files.example/", files(t)+"/")
		testGateway(t, startGateway(t, gatewayRoutes(t), shipped(t, "gateway/gate.yaml"), policy), "extension-policy-http")
	}
}

func TestGatewayExtensionPolicyImage(t *testing.T) {
	if isolated(t) {
		policy := replace(t, shipped(t, "gateway/extension-policy-image.yaml"), "oci://registry.example/switchyard:1", "oci://"+registry(t)+":oci")
		testGateway(t, startGateway(t, gatewayRoutes(t), shipped(t, "gateway/gate.yaml"), policy), "extension-policy-image")
	}
}

func testGateway(t *testing.T, p *proxy, golden string) {
	t.Run("what Envoy gets", func(t *testing.T) { testDump(t, p, golden) })
	t.Run("corpus", func(t *testing.T) { testCorpus(t, p) })
	t.Run("spoofed metadata", func(t *testing.T) { testSpoofedMetadata(t, p) })
	t.Run("ignored offers", func(t *testing.T) { testIgnoredOffers(t, p) })
	t.Run("upgrade with a body", func(t *testing.T) { testUpgradeWithBody(t, p) })
	t.Run("path normalisation", func(t *testing.T) { testPathNormalisation(t, p) })
}

// Every file under envoy/gateway is run by a test here.
func TestEveryGatewayFileIsTested(t *testing.T) {
	found, err := fs.Glob(envoy.Files, "gateway/*")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"gateway/extension-policy-http.yaml", "gateway/extension-policy-image.yaml", "gateway/gate.yaml", "gateway/patch-policy.yaml", "gateway/routes.yaml"}
	if !slices.Equal(found, want) {
		t.Errorf("shipped are %q, tested %q", found, want)
	}
}

// What Envoy Gateway makes of the files is in testdata/gateway: the listener and the routes. UPDATE=1 writes it.
func testDump(t *testing.T, p *proxy, golden string) {
	text, err := get(&http.Client{}, "http://"+p.admin+"/config_dump")
	if err != nil {
		t.Fatal(err)
	}
	var dump struct {
		Configs []struct {
			Listeners []struct {
				Name  string
				State struct{ Listener any } `json:"active_state"`
			} `json:"dynamic_listeners"`
			Routes []struct {
				Config any `json:"route_config"`
			} `json:"dynamic_route_configs"`
		}
	}
	if err := json.Unmarshal(text, &dump); err != nil {
		t.Fatal(err)
	}
	got := map[string]any{}
	var routes []any
	for _, c := range dump.Configs {
		for _, l := range c.Listeners {
			if l.Name == "default/edge/http" {
				got["listener"] = l.State.Listener
			}
		}
		for _, r := range c.Routes {
			routes = append(routes, r.Config)
		}
	}
	got["routes"] = routes
	made, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	// What is another each time: where the plugin was built, what its bytes are, and where Envoy Gateway serves it.
	made = append(regexp.MustCompile(`[0-9a-f]{64}|[0-9A-Za-z_-]{43}=`).ReplaceAll(made, []byte("DIGEST")), '\n')
	made = bytes.ReplaceAll(made, []byte(require(t, plugin)), []byte("bin/switchyard.wasm"))
	file := filepath.Join("testdata/gateway", golden+".json")
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, made, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(made)); diff != "" {
		t.Errorf("what Envoy gets (-want +got):\n%s", diff)
	}
}

// Without the gate an EnvoyExtensionPolicy sees only what is exactly `websocket` in Upgrade: all else is answered 403 before.
func TestGatewayExtensionPolicyAlone(t *testing.T) {
	if !isolated(t) {
		return
	}
	policy := replace(t, shipped(t, "gateway/extension-policy-http.yaml"), "https://files.example/", files(t)+"/")
	p := startGateway(t, gatewayRoutes(t), policy)
	testWithoutGate(t, p, "an EnvoyExtensionPolicy")
}

// What becomes of a gateway whose plugin cannot be had or does not start: nothing reaches an upstream.
func TestGatewayFailures(t *testing.T) {
	if !isolated(t) {
		return
	}
	module := "url: " + files(t) + "/switchyard.wasm"
	for _, test := range []struct{ name, file, old, new, page, socket string }{
		{"no such file", "http", "url: https://files.example/switchyard.wasm", "url: " + files(t) + "/none.wasm", "- 500", "- 403"},
		{"another sum", "http", "url: https://files.example/switchyard.wasm", module + "\n        sha256: " + strings.Repeat("a", 64), "- 500", "- 403"},
		{"no such image", "image", "oci://registry.example/switchyard:1", "oci://" + registry(t) + ":none", "- 500", "- 403"},
		{"an image of another sum", "image", "oci://registry.example/switchyard:1", "oci://" + registry(t) + ":oci\n        sha256: " + strings.Repeat("a", 64), "- 500", "- 403"},
		{"a bad configuration", "http", "        protocol: websocket\n", "        protocol: websocket\n        paht: /\n", "- 503", "- 503"},
	} {
		t.Run(test.name, func(t *testing.T) {
			policy := replace(t, shipped(t, "gateway/extension-policy-"+test.file+".yaml"), test.old, test.new)
			policy = strings.Replace(policy, "url: https://files.example/switchyard.wasm", module, 1)
			p := startGateway(t, gatewayRoutes(t), shipped(t, "gateway/gate.yaml"), policy)
			if got := p.exchange(t, page).String(); got != test.page {
				t.Errorf("a page: got %s, want %s", got, test.page)
			}
			if got := p.exchange(t, socket).String(); got != test.socket {
				t.Errorf("a socket: got %s, want %s", got, test.socket)
			}
		})
	}
}

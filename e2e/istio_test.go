//go:build istio

package e2e

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"switchyard/envoy"
)

// istiod is Istio's own discovery server, built from e2e/istio.
var istiod = peer{name: "istio", env: "ISTIO", path: "bin/istio", get: "make e2e-istio"}

// withoutMesh switches off in Istio what needs an Envoy of Istio's, or a certificate authority.
var withoutMesh = []string{
	"PILOT_ENABLE_ALPN_FILTER=false", "PILOT_ENABLE_METADATA_EXCHANGE=false", "PILOT_ENABLE_AMBIENT=false",
	"ENABLE_CA_SERVER=false", "PILOT_CERT_PROVIDER=none", "POD_NAMESPACE=istio-system", "POD_NAME=istiod-0", "CLUSTER_ID=Kubernetes",
}

// meshed is a proxy that Istio configures.
type meshed struct {
	node string // of the bootstrap
	port int    // that it will listen on
	docs []string
}

// gateway is an ingress gateway with the routes that are shipped, and what else is given.
func gateway(t *testing.T, docs ...string) meshed {
	t.Helper()
	port := unusedPort(t)
	routes := replace(t, shipped(t, "istio/routes.yaml"), "number: 8080", "number: "+strconv.Itoa(port))
	return meshed{
		node: `{id: router~127.0.0.1~edge-0.istio-system~istio-system.svc.cluster.local, cluster: edge, metadata: {NAMESPACE: istio-system, ` +
			`CLUSTER_ID: Kubernetes, ISTIO_VERSION: "1.31.0", LABELS: {istio: ingressgateway}}}`,
		port: port,
		docs: append([]string{routes, services("web.default.svc.cluster.local", "websocket.default.svc.cluster.local", 80)}, docs...),
	}
}

// sidecar is that of an application that sends everything through one port.
func sidecar(t *testing.T, docs ...string) meshed {
	t.Helper()
	port := unusedPort(t)
	// Its address is no endpoint of a ServiceEntry: Istio would take the labels from there.
	return meshed{
		node: `{id: sidecar~127.0.0.9~client-0.default~default.svc.cluster.local, cluster: client, metadata: {NAMESPACE: default, ` +
			`CLUSTER_ID: Kubernetes, ISTIO_VERSION: "1.31.0", LABELS: {app: client}, INTERCEPTION_MODE: NONE}}`,
		port: port,
		docs: append([]string{sidecarMesh(port), services("web.backend.example", "websocket.backend.example", port)}, docs...),
	}
}

func sidecarMesh(port int) string {
	return fmt.Sprintf(`apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: DISABLE}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: client, namespace: default}
spec:
  workloadSelector: {labels: {app: client}}
  egress:
  - port: {number: %[1]d, protocol: HTTP, name: http}
    bind: 127.0.0.1
    captureMode: NONE
    hosts: ["./*"]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: edge, namespace: default}
spec:
  hosts: [edge.example]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: %[1]d, name: http, protocol: HTTP}]
  endpoints: [{address: 127.0.0.1, ports: {http: 1}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge, namespace: default}
spec:
  hosts: [edge.example]
  http:
  - match: [{headers: {x-upgrade-route: {exact: websocket}}}]
    route: [{destination: {host: websocket.backend.example}}]
  - route: [{destination: {host: web.backend.example}}]
`, port)
}

// services are the two upstreams; their ports are put in when it is known which are free.
func services(web, websocket string, port int) string {
	var docs []string
	for _, s := range []struct{ name, host, endpoint string }{{"web", web, "WEB"}, {"websocket", websocket, "WEBSOCKET"}} {
		docs = append(docs, fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: %s, namespace: default}
spec:
  hosts: [%s]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: %d, name: http, protocol: HTTP}]
  endpoints: [{address: 127.0.0.1, ports: {http: %s}}]
`, s.name, s.host, port, s.endpoint))
	}
	return strings.Join(docs, "---\n")
}

// unusedPort is free now, and may be taken by others only until it is used.
func unusedPort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// start runs Istio on the documents and Envoy on what Istio sends it.
func (m meshed) start(t *testing.T) *proxy {
	t.Helper()
	u := startUpstreams(t)
	q := startOn(t, envoy140, m.bootstrap(t, u), u)
	if q.addr != fmt.Sprintf("127.0.0.1:%d", m.port) {
		if q.addr != fmt.Sprintf("0.0.0.0:%d", m.port) {
			t.Fatalf("Envoy listens on %s, want port %d", q.addr, m.port)
		}
		q.addr = fmt.Sprintf("127.0.0.1:%d", m.port)
	}
	q.name = "istio"
	return q
}

// bootstrap starts Istio and returns the bootstrap that asks it for everything.
func (m meshed) bootstrap(t *testing.T, u *upstreams) string {
	t.Helper()
	dir := t.TempDir()
	ports := strings.NewReplacer("http: WEBSOCKET", fmt.Sprintf("http: %d", u.ports[8081]), "http: WEB", fmt.Sprintf("http: %d", u.ports[8080]))
	address := filepath.Join(dir, "address")
	args := []string{"-address-file", address}
	for i, doc := range m.docs {
		file := filepath.Join(dir, fmt.Sprintf("%02d.yaml", i))
		if err := os.WriteFile(file, []byte(ports.Replace(doc)), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, file)
	}
	cmd := exec.Command(require(t, istiod), args...)
	cmd.Env = append(os.Environ(), withoutMesh...)
	log := &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-exited
		if t.Failed() {
			t.Logf("log of Istio:\n%s", log.tail(60))
		}
	})
	at, err := adminAddress(address, exited)
	if err != nil {
		t.Fatalf("Istio did not start: %v", err)
	}
	_, port, _ := strings.Cut(at, ":")
	return `node: ` + m.node + `
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
dynamic_resources:
  ads_config:
    api_type: GRPC
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services: [{envoy_grpc: {cluster_name: xds-grpc}}]
  lds_config: {ads: {}, resource_api_version: V3}
  cds_config: {ads: {}, resource_api_version: V3}
static_resources:
  clusters:
  - name: xds-grpc
    type: STATIC
    connect_timeout: 2s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment:
      cluster_name: xds-grpc
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, "port_value": ` + port + `}}}}]}]
`
}

// withPlugin is a shipped file with the plugin that was built in place of the one it names.
func withPlugin(t *testing.T, file string) string {
	t.Helper()
	wasm := require(t, plugin)
	text := shipped(t, file)
	if strings.Contains(text, "kind: WasmPlugin") {
		return replace(t, text, "oci://registry.example/switchyard:1", "file://"+wasm)
	}
	return replace(t, text, "/etc/switchyard/switchyard.wasm", wasm)
}

// The files that are shipped for Istio do through Istio's own discovery server what minimal.yaml does.
func TestIstio(t *testing.T) {
	tests := []struct {
		name, file string
		proxy      func(*testing.T, ...string) meshed
	}{
		{"EnvoyFilter on a gateway", "istio/envoyfilter.yaml", gateway},
		{"WasmPlugin on a gateway", "istio/wasmplugin.yaml", gateway},
		{"EnvoyFilter on a sidecar", "istio/envoyfilter-sidecar.yaml", sidecar},
		{"WasmPlugin on a sidecar", "istio/wasmplugin-sidecar.yaml", sidecar},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := test.proxy(t, withPlugin(t, test.file)).start(t)
			if strings.Contains(test.file, "sidecar") {
				p.host = "edge.example"
			}
			t.Run("corpus", func(t *testing.T) { testCorpus(t, p) })
			t.Run("spoofed metadata", func(t *testing.T) { testSpoofedMetadata(t, p) })
			t.Run("ignored offers", func(t *testing.T) { testIgnoredOffers(t, p) })
			t.Run("upgrade with a body", func(t *testing.T) { testUpgradeWithBody(t, p) })
			if p.host == "" {
				t.Run("path normalisation", func(t *testing.T) { testPathNormalisation(t, p) })
			}
		})
	}
}

// A WasmPlugin alone opens no gate: whatever is not exactly `websocket` in Upgrade is answered 403 before the plugin runs.
func TestIstioWasmPluginAlone(t *testing.T) {
	alone, _, _ := strings.Cut(withPlugin(t, "istio/wasmplugin.yaml"), "\n---\n")
	p := gateway(t, alone).start(t)
	corpus := readCorpus(t)
	misses := map[string]string{}
	for i, o := range runCorpus(t, p, corpus) {
		if !corpus[i].passes(o) {
			misses[corpus[i].Name] = o.String()
		}
	}
	t.Logf("a WasmPlugin alone passes %d of %d", len(corpus)-len(misses), len(corpus))
	if diff := cmp.Diff(withoutGate, misses); diff != "" {
		t.Errorf("misses (-want +got):\n%s", diff)
	}
}

// Every file under envoy/istio is run by a test here.
func TestEveryIstioFileIsTested(t *testing.T) {
	files, err := fs.Glob(envoy.Files, "istio/*")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"istio/envoyfilter-sidecar.yaml", "istio/envoyfilter.yaml", "istio/routes.yaml", "istio/wasmplugin-sidecar.yaml", "istio/wasmplugin.yaml"}
	if !slices.Equal(files, want) {
		t.Errorf("shipped are %q, tested %q", files, want)
	}
}

//go:build istio

package e2e

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"switchyard/envoy"
)

// istiod is Istio's own discovery server, built from e2e/istio.
var istiod = peer{name: "istio", env: "ISTIO", path: "bin/istio", get: "make e2e-istio"}

// The real agent, and the bootstrap that it fills in.
var (
	pilotAgent    = peer{name: "pilot-agent", env: "PILOT_AGENT", path: "bin/pilot-agent", get: "make e2e-istio"}
	agentTemplate = peer{name: "envoy_bootstrap", path: "bin/envoy_bootstrap.json", get: "make e2e-istio"}
)

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
	q := startOn(t, envoy140, m.bootstrap(m.serve(t, u)), u)
	if q.addr != fmt.Sprintf("127.0.0.1:%d", m.port) {
		if q.addr != fmt.Sprintf("0.0.0.0:%d", m.port) {
			t.Fatalf("Envoy listens on %s, want port %d", q.addr, m.port)
		}
		q.addr = fmt.Sprintf("127.0.0.1:%d", m.port)
	}
	q.name = "istio"
	return q
}

// serve starts Istio on the documents and returns its address.
func (m meshed) serve(t *testing.T, u *upstreams) string {
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
	_, exited := startProcess(t, "Istio", cmd)
	at, err := adminAddress(address, exited)
	if err != nil {
		t.Fatalf("Istio did not start: %v", err)
	}
	return at
}

// bootstrap asks a server of Istio's for everything.
func (m meshed) bootstrap(server string) string {
	_, port, _ := strings.Cut(server, ":")
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
	testWithoutGate(t, p, "a WasmPlugin")
}

// Envoy refuses what has no plugin, or a plugin with a mistake in its configuration. By an EnvoyFilter the listener is refused, and
// nothing listens that did not before; of a WasmPlugin only the plugin is, and the listener answers 500.
func TestIstioRefused(t *testing.T) {
	for _, test := range []struct{ name, file, old, new, stat, want string }{
		{"an EnvoyFilter whose file is not there", "istio/envoyfilter.yaml", "filename: /etc/switchyard/", "filename: /nowhere/", "listener_manager.lds.update_rejected", ""},
		{"an EnvoyFilter with a bad configuration", "istio/envoyfilter.yaml", `"protocol": "websocket"`, `"protocl": "websocket"`, "listener_manager.lds.update_rejected", ""},
		{"an EnvoyFilter that allows websocket again", "istio/envoyfilter.yaml", "          # upgrade_configs:\n          # - upgrade_type: SPDY/3.1\n",
			"          upgrade_configs:\n          - upgrade_type: websocket\n", "listener_manager.lds.update_rejected", ""},
		{"a WasmPlugin with a bad configuration", "istio/wasmplugin.yaml", "      protocol: websocket\n", "      protocl: websocket\n", ".config_fail", "- 500"},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := replace(t, shipped(t, test.file), test.old, test.new)
			text = strings.NewReplacer("/etc/switchyard/switchyard.wasm", require(t, plugin), "oci://registry.example/switchyard:1", "file://"+require(t, plugin)).Replace(text)
			m, u, dir := gateway(t, text), startUpstreams(t), t.TempDir()
			file := filepath.Join(dir, "admin")
			_, exited := run(t, envoy140, m.bootstrap(m.serve(t, u)), u, dir, "--admin-address-path", file)
			admin, err := adminAddress(file, exited)
			if err != nil {
				t.Fatal(err)
			}
			client := http.Client{}
			err = await(exited, func() error {
				stats, err := get(&client, "http://"+admin+"/stats?usedonly")
				if err != nil {
					return err
				}
				for _, line := range strings.Split(string(stats), "\n") {
					if name, value, _ := strings.Cut(line, ": "); strings.HasSuffix(name, test.stat) && value != "0" {
						return nil
					}
				}
				return fmt.Errorf("no %s in\n%s", test.stat, stats)
			})
			if err != nil {
				t.Fatal(err)
			}
			p := &proxy{name: "istio", addr: fmt.Sprintf("127.0.0.1:%d", m.port), upstreams: u}
			if test.want == "" {
				if c, err := net.Dial("tcp", p.addr); err == nil {
					c.Close()
					t.Error("the port is open, want no listener")
				}
				return
			}
			err = await(exited, func() error {
				c, err := net.Dial("tcp", p.addr)
				if err == nil {
					c.Close()
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, raw := range []string{page, socket} {
				if got := p.exchange(t, raw).String(); got != test.want {
					t.Errorf("got %s, want %s", got, test.want)
				}
			}
		})
	}
}

// startAgent runs Istio, the real agent and under it Envoy, in a namespace, because the agent's ports and paths are fixed.
func (m meshed) startAgent(t *testing.T) *proxy {
	t.Helper()
	u := startUpstreams(t)
	dir := t.TempDir()
	proxyConfig, err := json.Marshal(map[string]string{
		"discoveryAddress": m.serve(t, u), "controlPlaneAuthPolicy": "NONE", "binaryPath": require(t, envoy140),
		"configPath": filepath.Join(dir, "proxy"), "terminationDrainDuration": "1s",
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(require(t, pilotAgent), "proxy", "router", "--domain", "istio-system.svc.cluster.local", "--proxyLogLevel=info", "--templateFile", require(t, agentTemplate))
	cmd.Dir = dir // its other paths begin with ./
	cmd.Env = append(os.Environ(), "PROXY_CONFIG="+string(proxyConfig), "POD_NAME=edge-0", "POD_NAMESPACE=istio-system", "INSTANCE_IP=127.0.0.9",
		"ISTIO_META_CLUSTER_ID=Kubernetes", `ISTIO_METAJSON_LABELS={"istio":"ingressgateway"}`, "JWT_POLICY=none", "PILOT_CERT_PROVIDER=none", "CA_ROOT_CA=SYSTEM",
		"WASM_HTTP_REQUEST_MAX_RETRIES=1")
	log, exited := startProcess(t, "the agent", cmd)
	p := &proxy{name: "Istio's agent", addr: fmt.Sprintf("127.0.0.1:%d", m.port), admin: "127.0.0.1:15000", upstreams: u, log: log}
	err = await(exited, func() error {
		c, err := net.Dial("tcp", p.addr)
		if err == nil {
			c.Close()
		}
		return err
	})
	if err != nil {
		t.Fatalf("Envoy does not listen: %v", err)
	}
	return p
}

// The agent fetches the image that make image has made. What it cannot fetch becomes a filter that answers 403 to everything; with
// FAIL_OPEN all passes, but unrouted.
func TestIstioAgent(t *testing.T) {
	if !isolated(t) {
		return
	}
	// The agent keeps what it fetches under this path.
	command(t, "mount", "-t", "tmpfs", "tmpfs", "/var/lib")
	if err := os.MkdirAll("/var/lib/istio/data", 0o755); err != nil {
		t.Fatal(err)
	}
	images := "oci://" + registry(t)
	for _, test := range []struct{ name, url, more, page, socket string }{
		{"the image", images + ":oci", "", "web 200", "websocket 101 echo"},
		{"the image with Docker's media types", images + ":docker", "", "web 200", "websocket 101 echo"},
		{"the artifact", images + ":artifact", "", "web 200", "websocket 101 echo"},
		{"the file", files(t) + "/switchyard.wasm", "", "web 200", "websocket 101 echo"},
		{"no such image", images + ":none", "", "- 403", "- 403"},
		{"an image of another sum", images + ":oci", "  sha256: " + strings.Repeat("a", 64) + "\n", "- 403", "- 403"},
		{"a file of another sum", files(t) + "/switchyard.wasm", "  sha256: " + strings.Repeat("a", 64) + "\n", "- 403", "- 403"},
		{"no such image, and FAIL_OPEN", images + ":none", "FAIL_OPEN", "web 200", "web 200"},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := replace(t, shipped(t, "istio/wasmplugin.yaml"), "url: oci://registry.example/switchyard:1\n", "url: "+test.url+"\n"+strings.TrimPrefix(test.more, "FAIL_OPEN"))
			if test.more == "FAIL_OPEN" {
				text = replace(t, text, "failStrategy: FAIL_CLOSE", "failStrategy: FAIL_OPEN")
			}
			p := gateway(t, text).startAgent(t)
			if got := p.exchange(t, page).String(); got != test.page {
				t.Errorf("a page: got %s, want %s", got, test.page)
			}
			if got := p.exchange(t, socket).String(); got != test.socket {
				t.Errorf("a socket: got %s, want %s", got, test.socket)
			}
			if test.name == "the image" {
				t.Run("corpus", func(t *testing.T) { testCorpus(t, p) })
			}
		})
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

// A further protocol is let in by the lines that are in the file as a comment.
func TestIstioFurtherProtocol(t *testing.T) {
	const spdy = "GET /t/@@ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"
	file := withPlugin(t, "istio/envoyfilter.yaml")
	if got := gateway(t, file).start(t).exchange(t, spdy).String(); got != "- 403" {
		t.Errorf("as shipped: got %s, want - 403", got)
	}
	file = replace(t, file, "          # upgrade_configs:\n          # - upgrade_type: SPDY/3.1\n", "          upgrade_configs:\n          - upgrade_type: SPDY/3.1\n")
	file = replace(t, file, `"protocol": "websocket"}]`, `"protocol": "spdy/3.1"}]`)
	// The upstream wants a WebSocket; that it was asked is what counts.
	if got := gateway(t, file).start(t).exchange(t, spdy).String(); got != "websocket 400" {
		t.Errorf("with it: got %s, want websocket 400", got)
	}
}

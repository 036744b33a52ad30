//go:build world

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// world is where `make e2e-world` puts what it installs, from the root.
const world = ".tools/world"

// A clientResult is what the programs in e2e/world say.
type clientResult struct {
	Version     string `json:"version"`
	Subprotocol string `json:"subprotocol"`
	Text        string `json:"text"`
	Binary      int    `json:"binary"`
	Close       int    `json:"close"`
	Status      int    `json:"status"`
}

// runClient runs a command that prints a clientResult.
func runClient(t *testing.T, args ...string) clientResult {
	t.Helper()
	out := output(t, args...)
	var r clientResult
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return r
}

// output runs a command of the world for two minutes at most.
func output(t *testing.T, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	path, err := exec.LookPath(args[0])
	if err != nil && !filepath.IsAbs(args[0]) {
		missing(t, args[0], err.Error())
	}
	cmd := exec.CommandContext(ctx, path, args[1:]...)
	cmd.Dir = root
	cmd.Env = append(cmd.Environ(), "PYTHONPATH="+filepath.Join(world, "python/lib"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(args, " "), err, out, &stderr)
	}
	return out
}

// installed skips the test, or fails it, where `make world` has not been run.
func installed(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(filepath.Join(root, world, path))
	if err != nil {
		t.Fatal(err)
	}
	if found, _ := filepath.Glob(abs); len(found) == 0 {
		missing(t, path, "make world")
	}
	return abs
}

// Client libraries of five languages open a socket, or get a page although they
// offer an upgrade, through the gate and the filter.
func TestClients(t *testing.T) {
	golang := installed(t, "go/go")
	node := []string{"node", installed(t, "node/clients.mjs")}
	python := []string{"python3", filepath.Join("e2e/world/python/clients.py")}
	java := []string{"java", "-cp", installed(t, "java") + "/*:" + installed(t, "java"), "Clients"}
	installed(t, "python/requirements.txt")
	with := func(command []string, args ...string) []string { return slices.Concat(command, args) }

	sockets := []struct {
		name, text string
		command    []string
	}{
		{"coder/websocket (Go)", "text of coder", []string{golang, "coder"}},
		{"gorilla/websocket (Go)", "text of gorilla", []string{golang, "gorilla"}},
		{"ws (Node)", "text of ws", with(node, "ws")},
		{"undici (Node)", "text of undici", with(node, "undici")},
		{"websockets (Python)", "text of websockets", with(python, "websockets")},
		{"aiohttp (Python)", "text of aiohttp", with(python, "aiohttp")},
		{"java.net.http WebSocket (Java)", "text of java", with(java, "websocket")},
	}
	pages := []struct {
		name, offers string
		command      []string
	}{
		{"java.net.http HttpClient (Java)", "h2c", with(java, "page")},
		{"Apache HttpClient (Java)", "TLS/1.2", with(java, "httpclient5")},
	}

	for _, peer := range []peer{envoy140, hostsim} {
		t.Run(peer.name, func(t *testing.T) {
			t.Parallel()
			u := startUpstreams(t)
			startEchoServer(t, u)
			p := startOn(t, peer, shipped(t, "bootstrap/minimal.yaml"), u)

			for _, test := range sockets {
				t.Run(test.name, func(t *testing.T) {
					id := u.newID()
					got := runClient(t, with(test.command, "ws://"+p.addr+"/t/"+id)...)
					want := clientResult{Version: got.Version, Subprotocol: "v1.echo", Text: test.text, Binary: 256, Close: 4001}
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("(-want +got):\n%s", diff)
					}
					reached := u.received(id)
					if len(reached) != 1 {
						t.Fatalf("reached %+v, want websocket once", reached)
					}
					h := head{reached[0].Start, reached[0].Fields}
					if !slices.Equal(h.values("connection"), []string{"Upgrade"}) || !slices.Equal(h.values("upgrade"), []string{"websocket"}) {
						t.Errorf("the upstream got Connection %q, Upgrade %q", h.values("connection"), h.values("upgrade"))
					}
					note(t, peer, found{"2 client", test.name, got.Version, "WebSocket: text, bytes, subprotocol, close code"})
				})
			}

			for _, test := range pages {
				t.Run(test.name, func(t *testing.T) {
					id := u.newID()
					got := runClient(t, with(test.command, "http://"+p.addr+"/t/"+id)...)
					if want := (clientResult{Version: got.Version, Status: 200, Text: "web"}); got != want {
						t.Errorf("got %+v, want %+v", got, want)
					}
					if reached := u.received(id); len(reached) != 1 || reached[0].Upstream != "web" {
						t.Errorf("reached %+v, want web once", reached)
					}
					note(t, peer, found{"2 client", test.name, got.Version, "page, although it offers " + test.offers})
				})
			}

			t.Run("curl", func(t *testing.T) {
				version := commandVersion(t, program{title: "curl", name: "curl", pkg: "curl"}.path(t), "--version")
				t.Run("a page, offering h2c", func(t *testing.T) {
					id := u.newID()
					if got := string(output(t, "curl", "--silent", "--http2", "http://"+p.addr+"/t/"+id)); got != "web\n" {
						t.Errorf("got %q, want web's page", got)
					}
					if reached := u.received(id); len(reached) != 1 || reached[0].Upstream != "web" {
						t.Errorf("reached %+v, want web once", reached)
					}
				})
				t.Run("a handshake by hand", func(t *testing.T) {
					id := u.newID()
					got := string(output(t, "curl", "--silent", "--include", "--http1.1", "--max-time", "30", "http://"+p.addr+"/hello/t/"+id,
						"--header", "Connection: keep-alive, Upgrade", "--header", "Upgrade: WebSocket",
						"--header", "Sec-WebSocket-Version: 13", "--header", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="))
					if !strings.HasPrefix(got, "HTTP/1.1 101 ") || !strings.Contains(got, acceptOf("dGhlIHNhbXBsZSBub25jZQ==")) || !strings.HasSuffix(got, "\x81\x05hello") {
						t.Errorf("got %q, want a 101 with the answer to the key, and a frame that says hello", got)
					}
				})
				note(t, peer, found{"2 client", "curl", version, "page, although it offers h2c; WebSocket by hand"})
			})
		})
		t.Run(peer.name+" without the gate", func(t *testing.T) {
			t.Parallel()
			p := start(t, peer, readRecipe(t, "envoy-upgrade.yaml"))
			got := runClient(t, with(java, "httpclient5", "http://"+p.addr+"/t/"+p.upstreams.newID())...)
			if got.Status != 403 {
				t.Errorf("Apache HttpClient's page got %+v, want a 403: else the client offers no TLS, and its test shows nothing", got)
			}
		})
		t.Run(peer.name+" protocols", func(t *testing.T) {
			t.Parallel()
			u := startUpstreams(t)
			// The kubelet prints its address when it listens.
			kubelet := exec.Command(golang, "kubelet")
			log, exited := startProcess(t, "kubelet", kubelet)
			if err := await(exited, func() error {
				addr, _, ok := strings.Cut(log.String(), "\n")
				if !ok {
					return fmt.Errorf("no address yet: %q", addr)
				}
				_, port, err := net.SplitHostPort(addr)
				if err == nil {
					u.ports[8084], err = strconv.Atoi(port)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			p := startOn(t, peer, shipped(t, "bootstrap/protocols.yaml"), u)

			t.Run("kubectl exec", func(t *testing.T) {
				got := runClient(t, golang, "kubectl", p.addr, "one.k8s.example.com")
				if want := (clientResult{Version: got.Version, Text: "text of kubectl"}); got != want {
					t.Errorf("got %+v, want %+v", got, want)
				} else {
					note(t, peer, found{"2 client", "client-go (Go), as kubectl exec uses it", got.Version, "SPDY/3.1: the streams of a command"})
				}
			})
			t.Run("docker attach", func(t *testing.T) {
				got := runClient(t, golang, "docker", p.addr, "docker.example.com")
				if want := (clientResult{Version: got.Version, Text: "text of docker"}); got != want {
					t.Errorf("got %+v, want %+v", got, want)
				} else {
					note(t, peer, found{"2 client", "moby/client (Go), as docker attach uses it", got.Version, "`Upgrade: tcp`: the bytes of a container"})
				}
			})
		})
	}
}

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// buildDemo compiles what `make run` runs.
func buildDemo(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "demo")
	cmd := exec.Command("go", "build", "-o", binary, "./e2e/demo")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build ./e2e/demo: %v\n%s", err, out)
	}
	return binary
}

// demoConfig writes minimal.yaml with four ports that were free a moment ago:
// the demo reads its addresses from the file, as a user's would be.
func demoConfig(t *testing.T) (file string, ports []string) {
	t.Helper()
	text := shipped(t, "bootstrap/minimal.yaml")
	for _, port := range []string{"10000", "9901", "8080", "8081"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // all four at once, so that they differ
		_, free, _ := net.SplitHostPort(l.Addr().String())
		text = replace(t, text, "port_value: "+port+"\n", "port_value: "+free+"\n")
		ports = append(ports, free)
	}
	file = filepath.Join(t.TempDir(), "bootstrap.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, ports
}

func runDemo(demo, proxy, config string) (stdout, stderr string, err error) {
	cmd := exec.Command(demo, "-proxy", proxy, "-config", config, "-once")
	cmd.Dir = root
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// The demonstration says where each request went, and why.
func TestDemo(t *testing.T) {
	want := []string{
		"a socket, classic Firefox|keep-alive, Upgrade|websocket|websocket|101|yes|offered",
		"a socket, Chromium|Upgrade|websocket|websocket|101|yes|offered",
		"a socket, another case|upgrade|WebSocket|websocket|101|yes|offered",
		"a socket, two Connection lines|keep-alive / Upgrade|websocket|websocket|101|yes|offered",
		"a socket, or h2c instead|Upgrade|h2c, websocket|websocket|101|yes|offered",
		"a page|-|-|web|200|-|via_upstream",
		"a page, X-Upgrade-Route: websocket|-|-|web|200|-|via_upstream",
	}
	for _, peer := range []peer{envoy140, hostsim} {
		t.Run(peer.name, func(t *testing.T) {
			t.Parallel()
			binary := require(t, peer)
			require(t, plugin)
			demo := buildDemo(t)
			var stdout, stderr string
			var err error
			for range 3 { // another process may have taken a port in between
				config, _ := demoConfig(t)
				if stdout, stderr, err = runDemo(demo, binary, config); !strings.Contains(stderr, "is in use") {
					break
				}
			}
			if err != nil {
				t.Fatalf("%v\n%s%s", err, stdout, stderr)
			}
			var got []string
			for line := range strings.Lines(stdout) {
				if cells := columns(line); len(cells) == 7 && cells[0] != "WHAT WAS SENT" {
					got = append(got, strings.Join(cells, "|"))
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("table (-want +got):\n%s\n%s", diff, stdout)
			}
		})
	}
}

// columns takes a line of the table apart: two spaces or more stand between.
func columns(line string) []string {
	cells := strings.Split(strings.TrimSpace(line), "  ")
	for i := range cells {
		cells[i] = strings.TrimSpace(cells[i])
	}
	return slices.DeleteFunc(cells, func(s string) bool { return s == "" })
}

// A port in use is named, with who needs it, and ends the demo.
func TestDemoPortInUse(t *testing.T) {
	demo := buildDemo(t)
	needs := []string{"the proxy's listener", "the proxy's admin interface", "the demo's cluster web", "the demo's cluster websocket"}
	for i, what := range needs {
		t.Run(what, func(t *testing.T) {
			config, ports := demoConfig(t)
			l, err := net.Listen("tcp", "127.0.0.1:"+ports[i])
			if err != nil {
				t.Skipf("another process took the port: %v", err)
			}
			defer l.Close()
			_, stderr, err := runDemo(demo, "bin/hostsim", config)
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("got %v, want exit status 1", err)
			}
			want := fmt.Sprintf("demo: 127.0.0.1:%s is in use, and %s needs it: stop what listens there (ss -ltnp 'sport = :%[1]s' shows it) or change the port in %[3]s\n", ports[i], what, config)
			if stderr != want {
				t.Errorf("got %q, want %q", stderr, want)
			}
		})
	}
}

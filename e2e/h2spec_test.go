//go:build h2spec

package e2e

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// h2specBootstrap answers every request after a moment, so that no test of
// h2spec depends on which of two is faster.
const h2specBootstrap = "testdata/h2spec.yaml"

var (
	h2specPlace = regexp.MustCompile(`^ *[0-9]+(\.[0-9]+)*\. `)
	h2specFails = regexp.MustCompile(`× ([0-9]+: .*)$`)
)

// hostsim fails no test of h2spec that Envoy passes. (Some of Envoy's failures
// are its library's, and hostsim has them too.)
func TestH2spec(t *testing.T) {
	binary := os.Getenv("H2SPEC")
	if binary == "" {
		t.Fatal("H2SPEC does not name the binary: run make h2spec")
	}
	text, err := os.ReadFile(h2specBootstrap)
	if err != nil {
		t.Fatal(err)
	}
	failed := map[string][]string{}
	for _, p := range []peer{envoy140, hostsim} {
		x, err := startNodiff(p, require(t, p), string(text), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		// What h2spec has no answer of the upstream for waits here.
		x.upstreams.answers = [][]step{{
			{op: "pause", pause: 100 * time.Millisecond},
			{op: "send", text: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"},
		}}
		host, port, err := net.SplitHostPort(x.first)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(binary, "-h", host, "-p", port, "-o", "2")
		out, err := cmd.Output()
		x.close()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		failed[p.name] = h2specFailures(out)
		tail := out[max(0, len(out)-60):]
		t.Logf("%s: %s, failed: %q", p.name, bytes.TrimSpace(tail), failed[p.name])
	}
	for _, name := range failed[hostsim.name] {
		if !slices.Contains(failed[envoy140.name], name) {
			t.Errorf("hostsim fails %s, Envoy does not", name)
		}
	}
}

// h2specFailures lists what failed, with the section that it stands in.
func h2specFailures(out []byte) []string {
	var names []string
	section := ""
	for line := range strings.SplitSeq(string(out), "\n") {
		if strings.HasPrefix(line, "Failures:") {
			break
		}
		if i := strings.LastIndexByte(line, '\r'); i >= 0 {
			line = line[i+1:]
		}
		if h2specPlace.MatchString(line) {
			section = strings.TrimSpace(line)
		}
		if m := h2specFails.FindStringSubmatch(line); m != nil {
			names = append(names, section+" / "+m[1])
		}
	}
	return names
}

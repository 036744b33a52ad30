//go:build world

package e2e

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The tests behind the build tag world put the real programs that people run in
// front of the proxies, beside them and behind them. `make e2e-world` installs
// what they need, runs them, and keeps what they show in bin/world.

// update writes the generated parts of README.md and MIGRATION.md.
var update = flag.Bool("update", false, "write the generated parts of README.md and MIGRATION.md")

// A program is a command that a Debian package brings.
type program struct {
	title   string // as its makers write it
	name    string
	pkg     string
	version []string // arguments that make it say its version
}

var (
	apache  = program{"Apache httpd", "apache2", "apache2", []string{"-v"}}
	nginx   = program{"nginx", "nginx", "nginx-light", []string{"-v"}}
	haproxy = program{"HAProxy", "haproxy", "haproxy", []string{"-v"}}
	caddy   = program{"Caddy", "caddy", "caddy", []string{"version"}}
)

// path returns where the program is, or skips the test; if E2E_REQUIRE has the
// name, or world for all of them, the test fails instead.
func (p program) path(t *testing.T) string {
	t.Helper()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/local/sbin", "/usr/sbin", "/sbin") {
		if path, err := exec.LookPath(filepath.Join(dir, p.name)); err == nil {
			return path
		}
	}
	missing(t, p.name, "Debian package "+p.pkg)
	return ""
}

// missing ends a test that cannot run for lack of something.
func missing(t *testing.T, name, get string) {
	t.Helper()
	required := strings.FieldsFunc(os.Getenv("E2E_REQUIRE"), func(r rune) bool { return r == ',' || r == ' ' })
	if slices.Contains(required, name) || slices.Contains(required, "world") {
		t.Fatalf("%s is required by E2E_REQUIRE and missing (%s): make e2e-world", name, get)
	}
	t.Skipf("%s is not installed (%s): make e2e-world", name, get)
}

// versionNumber finds a version in what programs say of themselves.
var versionNumber = regexp.MustCompile(`[0-9]+(\.[0-9]+)+`)

// versionOf runs the program for its version, such as "2.4.62".
func (p program) versionOf(t *testing.T) string {
	t.Helper()
	return commandVersion(t, p.path(t), p.version...)
}

func commandVersion(t *testing.T, path string, args ...string) string {
	t.Helper()
	out, err := exec.Command(path, args...).CombinedOutput()
	v := versionNumber.Find(out)
	if v == nil {
		t.Fatalf("%s %s says no version: %v\n%s", path, strings.Join(args, " "), err, out)
	}
	return string(v)
}

// artifact returns the path of a file of the run that is kept.
func artifact(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(root, "bin/world", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// awaitPort waits until something listens on the address.
func awaitPort(t *testing.T, name, addr string, exited <-chan struct{}) {
	t.Helper()
	err := await(exited, func() error {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err
	})
	if err != nil {
		t.Fatalf("%s did not start: %v", name, err)
	}
}

// generated compares the part of a file between the lines <!-- NAME --> and
// <!-- end of NAME --> with what a test found, or writes it with -update.
// Versions may differ: they change with what Debian has.
func generated(t *testing.T, file, name, got string) {
	t.Helper()
	path := filepath.Join(root, file)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := []byte("<!-- "+name+" -->\n"), []byte("<!-- end of "+name+" -->\n")
	head, rest, ok := bytes.Cut(b, begin)
	want, tail, ok2 := bytes.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no part between %q and %q", file, begin, end)
	}
	if *update {
		if err := os.WriteFile(path, slices.Concat(head, begin, []byte(got), end, tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	mask := func(s string) string { return versionNumber.ReplaceAllString(s, "*") }
	if mask(string(want)) != mask(got) {
		t.Errorf("%s, part %s: got\n%s\nwant\n%s\n(after a look: make e2e-world UPDATE=1)", file, name, got, want)
	}
}

// table is a table of Markdown.
func table(head []string, rows [][]string) string {
	var b strings.Builder
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	line(head)
	line(slices.Repeat([]string{"---"}, len(head)))
	for _, row := range rows {
		line(row)
	}
	return b.String()
}

// serveHTTP serves on a free port, which it returns, until the test ends.
func serveHTTP(t *testing.T, handler http.Handler) int {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.Listener.Addr().(*net.TCPAddr).Port
}

// A found is a system that was seen to work through a proxy: the kind of system,
// its name and version, and what it did. The kind begins with its place in the
// table of README.md.
type found struct{ Kind, System, Version, What string }

// note keeps what was found, if the test has not failed, for TestWorldTable.
func note(t *testing.T, p peer, f found) {
	t.Helper()
	if t.Failed() {
		return
	}
	b, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	slug := regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(f.System+" "+f.What), "-")
	if err := os.WriteFile(artifact(t, "found/"+p.name+"/"+slug+".json"), b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// The table of systems in README.md has what the other tests of the world found,
// through Envoy and through hostsim. Its name puts it behind them.
func TestWorldTable(t *testing.T) {
	seen := map[found][]string{}
	kinds := map[string]bool{}
	proxies := []peer{envoy140, hostsim}
	for _, p := range proxies {
		files, err := filepath.Glob(filepath.Join(artifact(t, "found"), p.name, "*.json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var f found
			if err := json.Unmarshal(b, &f); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			seen[f] = append(seen[f], p.name)
			kinds[f.Kind] = true
		}
	}
	if len(kinds) < 4 {
		t.Skipf("only some of the tests of the world have run (%d kinds of system): make e2e-world", len(kinds))
	}
	all := slices.SortedFunc(maps.Keys(seen), func(a, b found) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(strings.ToLower(a.System), strings.ToLower(b.System)), cmp.Compare(a.What, b.What))
	})
	var rows [][]string
	for _, f := range all {
		row := []string{f.System, f.Version, f.What}
		for _, p := range proxies {
			if slices.Contains(seen[f], p.name) {
				row = append(row, "works")
			} else {
				row = append(row, "not yet")
			}
		}
		rows = append(rows, row)
	}
	generated(t, "README.md", "world", table([]string{"system", "version", "what it does", "Envoy 1.40", "hostsim"}, rows))
}

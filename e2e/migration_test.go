//go:build world

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A migration is a section of MIGRATION.md: a recipe, and what becomes of it.
type migration struct {
	heading string
	program program
	recipe  string // the file that the section quotes
	run     func(t *testing.T, config string, u *upstreams) *proxy
	after   string // the shipped file that gets the filter's configuration
}

var migrations = []migration{
	{"From Apache's RewriteCond", apache, "apache-recipe.conf", runApache, "bootstrap/minimal.yaml"},
	{"From Apache's RewriteCond with paths", apache, "apache-paths.conf", runApache, "bootstrap/openqa.yaml"},
	{"From nginx's map", nginx, "nginx-map.conf", runNginx, "bootstrap/minimal.yaml"},
	{"From HAProxy's ACLs", haproxy, "haproxy-acl.cfg", runHAProxy, "bootstrap/minimal.yaml"},
}

// Every socket and every page of a real client goes where it went before, but
// for what MIGRATION.md says: the test writes there what differs.
func TestMigration(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "MIGRATION.md"))
	if err != nil {
		t.Fatal(err)
	}
	var real []handshake
	for _, h := range readCorpus(t) {
		if h.Class == "real client" {
			real = append(real, h)
		}
	}
	if len(real) < 25 {
		t.Fatalf("the corpus has %d requests of real clients, want at least 25", len(real))
	}
	for _, m := range migrations {
		t.Run(strings.TrimSuffix(m.recipe, filepath.Ext(m.recipe)), func(t *testing.T) {
			before, after := blocks(t, string(text), m.heading)
			if diff := cmp.Diff(readRecipe(t, m.recipe), before); diff != "" {
				t.Errorf("the recipe and MIGRATION.md (-recipe +MIGRATION.md):\n%s", diff)
			}

			// By path a request goes to one of three servers, which the recipe
			// speaks to in the clear and openqa.yaml over TLS.
			paths := []string{"/t/@@"}
			cert := newCertificate(t, openqaName)
			daemons := func(u *upstreams) {
				for port, handle := range map[int]func(net.Conn, *bufio.Reader) error{
					9626: u.web,
					9627: func(c net.Conn, r *bufio.Reader) error { return u.switching("worker", c, r) },
					9628: func(c net.Conn, r *bufio.Reader) error { return u.switching("live", c, r) },
				} {
					u.ports[port-100], u.ports[port] = serve(t, handle), serveTLS(t, cert, handle)
				}
			}
			bootstrap := func(u *upstreams) string {
				return replace(t, shipped(t, m.after), `{"rules": [{"name": "websocket", "protocol": "websocket"}]}`, strings.TrimSpace(after))
			}
			if m.after == "bootstrap/openqa.yaml" {
				paths = []string{"/t/@@", "/api/v1/ws/t/@@", "/liveviewhandler/t/@@"}
				bootstrap = func(u *upstreams) string {
					text := openqaBootstrap(t, u, u.ports, cert)
					sameJSON(t, text, after)
					return text
				}
			}

			var requests []handshake
			for _, h := range real {
				for _, path := range paths {
					h := h
					if len(paths) > 1 {
						h.Name += " to " + strings.TrimSuffix(path, "t/@@")
						h.Raw = fromThisSite(strings.Replace(h.Raw, "/t/@@", path, 1))
					}
					requests = append(requests, h)
				}
			}

			u := startUpstreams(t)
			daemons(u)
			had := m.run(t, before, u).attemptAll(requests)
			var changes string
			for _, peer := range []peer{envoy140, hostsim} {
				t.Run(peer.name, func(t *testing.T) {
					u := startUpstreams(t)
					daemons(u)
					p := startOn(t, peer, bootstrap(u), u)
					if m.after == "bootstrap/openqa.yaml" {
						p.tls = cert.client(t, "http/1.1")
					}
					got := p.attemptAll(requests)
					same, differ := 0, map[string][]string{}
					for i, h := range requests {
						if got[i].String() == had[i].String() {
							same++
							continue
						}
						name, path, _ := strings.Cut(h.Name, " to ")
						change := had[i].String() + " | " + got[i].String()
						if path != "" {
							change += " | `" + path + "`"
						}
						differ[change] = append(differ[change], strings.TrimPrefix(name, "real-"))
						// A valid handshake may only gain.
						if h.Route == "ws" && had[i].Status == 101 && got[i].Status != 101 && (len(paths) == 1 || !strings.HasSuffix(h.Name, " to /")) {
							t.Errorf("%s: got %s, and it was %s before", h.Name, got[i], had[i])
						}
						if h.Must == "web" && got[i].Status != 200 {
							t.Errorf("%s: got %s, want a page", h.Name, got[i])
						}
					}
					changes = fmt.Sprintf("Of %d requests of real clients %d go where they went.", len(requests), same)
					columns := []string{"before", "after", "requests"}
					if len(paths) > 1 {
						columns = []string{"before", "after", "path", "requests"}
					}
					var rows [][]string
					for _, change := range slices.Sorted(maps.Keys(differ)) {
						rows = append(rows, []string{change, strings.Join(differ[change], ", ")})
					}
					if len(rows) > 0 {
						changes += " The others:\n\n" + table(columns, rows)
					} else {
						changes += "\n"
					}
					generated(t, "MIGRATION.md", m.heading, changes)
					note(t, peer, found{"1 proxy", m.program.title, m.program.versionOf(t), "moving from its recipe " + m.recipe + ", on real clients' requests"})
				})
			}
		})
	}
}

// fromThisSite makes the Origin of a request, if it has one, that of a page of the
// host that the request is for.
func fromThisSite(raw string) string {
	host := regexp.MustCompile(`(?i)\r\nHost: *([^\r]*)`).FindStringSubmatch(raw)
	if host == nil {
		return raw
	}
	return regexp.MustCompile(`(?i)(\r\nOrigin: *)[^\r]*`).ReplaceAllString(raw, "${1}https://"+host[1])
}

// blocks returns the first two fenced blocks of a section of a Markdown file.
func blocks(t *testing.T, text, heading string) (first, second string) {
	t.Helper()
	_, section, ok := strings.Cut(text, "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("MIGRATION.md has no section %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	parts := strings.Split(section, "\n```")
	if len(parts) < 5 {
		t.Fatalf("section %q has %d fences, want at least 4", heading, len(parts)-1)
	}
	_, first, _ = strings.Cut(parts[1], "\n")
	_, second, _ = strings.Cut(parts[3], "\n")
	return first + "\n", second + "\n"
}

// sameJSON wants the bootstrap to have the filter's configuration as the
// document shows it.
func sameJSON(t *testing.T, bootstrap, want string) {
	t.Helper()
	compact := func(s string) string { return strings.Join(strings.Fields(s), "") }
	if !json.Valid([]byte(want)) || !strings.Contains(compact(bootstrap), compact(want)) {
		t.Errorf("the shipped file does not have the configuration that MIGRATION.md shows: %s", want)
	}
}

//go:build world

package e2e

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// A recipe is a configuration that people use to send WebSockets to another
// place than pages, and the program that it is for.
type recipe struct {
	name    string
	program string
	file    string // in testdata/recipes, or a shipped bootstrap
	run     func(t *testing.T, config string, u *upstreams) *proxy

	// one says that the recipe has one upstream for pages and sockets, which
	// decides by itself.
	one     bool
	version func(t *testing.T) string
}

func recipes() []recipe {
	debian := func(p program) func(*testing.T) string { return p.versionOf }
	return []recipe{
		{name: "`RewriteCond` without anchors", program: "Apache", file: "apache-recipe.conf", run: runApache, version: debian(apache)},
		{name: "`RewriteCond ^Upgrade$`", program: "Apache", file: "apache-strict.conf", run: runApache, version: debian(apache)},
		{name: "`upgrade=websocket`", program: "Apache", file: "apache-upgrade.conf", run: runApache, one: true, version: debian(apache)},
		{name: "`ProxyPass ws://`", program: "Apache", file: "apache-wstunnel.conf", run: runApache, one: true, version: debian(apache)},
		{name: "as documented", program: "nginx", file: "nginx-doc.conf", run: runNginx, one: true, version: debian(nginx)},
		{name: "`map` to an upstream", program: "nginx", file: "nginx-map.conf", run: runNginx, version: debian(nginx)},
		{name: "`hdr()` of both fields", program: "HAProxy", file: "haproxy-acl.cfg", run: runHAProxy, version: debian(haproxy)},
		{name: "matcher as documented", program: "Caddy", file: "caddy.caddyfile", run: runCaddy, version: debian(caddy)},
		{name: "`upgrade_configs` and a header match", program: "Envoy", file: "envoy-upgrade.yaml", run: runPeer(envoy140), version: func(*testing.T) string { return "1.40.0" }},
		{name: "**this filter**", program: "Envoy", file: "bootstrap/minimal.yaml", run: runPeer(envoy140), version: func(*testing.T) string { return "1.40.0" }},
		{name: "**this filter**", program: "hostsim", file: "bootstrap/minimal.yaml", run: runPeer(hostsim), version: func(*testing.T) string { return "" }},
	}
}

// readRecipe returns the text of the recipe's file.
func readRecipe(t *testing.T, file string) string {
	t.Helper()
	if strings.HasPrefix(file, "bootstrap/") {
		return shipped(t, file)
	}
	b, err := os.ReadFile(filepath.Join("testdata/recipes", file))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func runPeer(p peer) func(*testing.T, string, *upstreams) *proxy {
	return func(t *testing.T, config string, u *upstreams) *proxy { return startOn(t, p, config, u) }
}

// readdress gives a configuration the ports of the upstreams and, for 10000,
// that of its listener.
func (u *upstreams) readdress(config string, listener string) string {
	pairs := []string{"127.0.0.1:10000", "127.0.0.1:" + listener, ":10000", ":" + listener}
	for port, free := range u.ports {
		pairs = append(pairs, fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("127.0.0.1:%d", free),
			fmt.Sprintf("localhost:%d", port), fmt.Sprintf("127.0.0.1:%d", free))
	}
	return strings.NewReplacer(pairs...).Replace(config)
}

func runApache(t *testing.T, config string, u *upstreams) *proxy {
	return runRecipe(t, apache, "apache.conf", config, u, func(path, dir string) []string {
		return []string{path, "-f", filepath.Join(dir, "main"), "-DFOREGROUND"}
	})
}

func runNginx(t *testing.T, config string, u *upstreams) *proxy {
	return runRecipe(t, nginx, "nginx.conf", config, u, func(path, dir string) []string {
		return []string{path, "-c", filepath.Join(dir, "main"), "-p", dir}
	})
}

func runHAProxy(t *testing.T, config string, u *upstreams) *proxy {
	return runRecipe(t, haproxy, "haproxy.cfg", config, u, func(path, dir string) []string {
		return []string{path, "-db", "-f", filepath.Join(dir, "main"), "-f", filepath.Join(dir, "recipe")}
	})
}

func runCaddy(t *testing.T, config string, u *upstreams) *proxy {
	return runRecipe(t, caddy, "", config, u, func(path, dir string) []string {
		return []string{"env", "HOME=" + dir, path, "run", "--adapter", "caddyfile", "--config", filepath.Join(dir, "recipe")}
	})
}

// runRecipe starts a program with the recipe as file DIR/recipe and what the
// program needs besides as DIR/main.
func runRecipe(t *testing.T, p program, main, config string, u *upstreams, command func(path, dir string) []string) *proxy {
	t.Helper()
	path, dir, port := p.path(t), t.TempDir(), freePort(t)
	fill := strings.NewReplacer("DIR", dir, "RECIPE", filepath.Join(dir, "recipe"), "MODULES", "/usr/lib/apache2/modules")
	files := map[string]string{"recipe": config}
	if main != "" {
		files["main"] = fill.Replace(readRecipe(t, main))
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(u.readdress(text, port)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	args := command(path, dir)
	_, exited := startProcess(t, p.name, exec.Command(args[0], args[1:]...))
	addr := net.JoinHostPort("127.0.0.1", port)
	awaitPort(t, p.name, addr, exited)
	t.Cleanup(func() {
		if b, err := os.ReadFile(filepath.Join(dir, "error.log")); err == nil && t.Failed() {
			t.Logf("error log of %s:\n%s", p.name, b)
		}
	})
	return &proxy{name: p.name, addr: addr, upstreams: u}
}

// both is a server that has pages and sockets: by RFC 6455 it switches for a
// handshake and refuses a bad one, and everything else is a page to it. It is
// recorded under what it took the request for.
func (u *upstreams) both(c net.Conn, r *bufio.Reader) error {
	for {
		h, err := readHead(r)
		if err != nil {
			return err
		}
		if h.offers("connection", "upgrade") && h.offers("upgrade", "websocket") {
			return u.handshake("websocket", c, r, h)
		}
		if err := u.page(c, r, h); err != nil {
			return err
		}
	}
}

// attempt is exchange for proxies that may do anything: a response that never
// ends is an outcome, not a mistake of the test.
func (p *proxy) attempt(raw string) outcome {
	id := p.upstreams.newID()
	var o outcome
	if err := o.talk(p.dial, id, strings.ReplaceAll(raw, "@@", id)); err != nil {
		o.Status = 0
	}
	var reached []string
	for _, r := range p.upstreams.received(id) {
		reached = append(reached, r.Upstream)
	}
	if o.Upstream = strings.Join(reached, "+"); o.Upstream == "" {
		o.Upstream = "-"
	}
	return o
}

func (p *proxy) attemptAll(corpus []handshake) []outcome {
	outcomes := make([]outcome, len(corpus))
	work := make(chan int)
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for i := range work {
				outcomes[i] = p.attempt(corpus[i].Raw)
			}
		})
	}
	for i := range corpus {
		work <- i
	}
	close(work)
	workers.Wait()
	return outcomes
}

// A score is what a recipe makes of the corpus.
type score struct {
	passes, of         int
	clients, ofClients int      // real clients, sockets or not
	lost, ofSockets    int      // valid handshakes that got no tunnel
	over               []string // reached the WebSocket server, and must not
	refused            []string // ordinary requests that got no page
	outcomes           []outcome
	handshakes         []handshake
}

func scoreOf(corpus []handshake, outcomes []outcome) score {
	s := score{of: len(corpus), outcomes: outcomes, handshakes: corpus}
	for i, h := range corpus {
		o := outcomes[i]
		ok := h.passes(o)
		if ok {
			s.passes++
		}
		if h.Class == "real client" {
			if s.ofClients++; ok {
				s.clients++
			}
		}
		if h.Route == "ws" && h.Handshake == "101" && h.Also == "" {
			if s.ofSockets++; !ok {
				s.lost++
			}
		}
		if !h.mayReach() && (strings.Contains(o.Upstream, "websocket") || o.Status == 101) {
			s.over = append(s.over, h.Name)
		}
		if !ok && (h.Must == "web" || h.Route == "web" && h.Handshake == "n-a") && !strings.Contains(o.Upstream, "websocket") {
			s.refused = append(s.refused, h.Name)
		}
	}
	return s
}

// Every recipe, side by side, on the whole corpus. The table is in MIGRATION.md;
// what each made of each request goes to bin/world/recipes.txt.
func TestRecipes(t *testing.T) {
	corpus := readCorpus(t)
	all := recipes()
	scores := make([]score, len(all))
	t.Run("recipe", func(t *testing.T) {
		for i, r := range all {
			t.Run(strings.TrimSuffix(filepath.Base(r.file), filepath.Ext(r.file))+strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()
				u := startUpstreams(t)
				u.ports[8088] = serve(t, u.both)
				p := r.run(t, readRecipe(t, r.file), u)
				scores[i] = scoreOf(corpus, p.attemptAll(corpus))
			})
		}
	})
	if t.Failed() || t.Skipped() {
		return
	}

	link := func(r recipe) string {
		path := "e2e/testdata/recipes/" + r.file
		if strings.HasPrefix(r.file, "bootstrap/") {
			path = "envoy/" + r.file
		}
		return "[" + r.name + "](" + path + ")"
	}
	var rows [][]string
	var details, matrix strings.Builder
	fraction := func(n, of int) string { return fmt.Sprintf("%d of %d", n, of) }
	for i, r := range all {
		s := scores[i]
		if s.of == 0 {
			return // it was skipped, and so there is no table
		}
		rows = append(rows, []string{strings.TrimSpace(r.program + " " + r.version(t)), link(r), fraction(s.passes, s.of), fraction(s.clients, s.ofClients),
			fraction(s.lost, s.ofSockets), strconv.Itoa(len(s.over)), strconv.Itoa(len(s.refused))})
		if len(s.over) > 0 {
			fmt.Fprintf(&details, "- %s, %s: %s\n", r.program, r.name, strings.Join(s.over, ", "))
		}
		for j, h := range corpus {
			verdict := "ok"
			if !h.passes(s.outcomes[j]) {
				verdict = "MISS"
			}
			fmt.Fprintf(&matrix, "%-45s %-28s %-6s %-5s %-4s %s\n", r.program+", "+r.name, h.Name, h.Route, h.Handshake, verdict, s.outcomes[j])
		}
	}
	if err := os.WriteFile(artifact(t, "recipes.txt"), []byte(matrix.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	text := table([]string{"program", "recipe", "passes", "real clients served", "sockets lost", "reach the sockets and must not", "pages refused"}, rows) +
		"\nWhat reached the WebSocket server and must not, by its name in the corpus:\n\n" + details.String()
	generated(t, "MIGRATION.md", "recipes", text)
}

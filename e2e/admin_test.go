package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// adminRequests are asked of every bootstrap, before and after traffic.
var adminRequests = []string{
	"GET /ready", "POST /ready", "HEAD /ready", "GET //ready", "GET /%72eady", "GET /ready?x=1",
	"GET /help", "GET /nosuch", "GET /stats/", "HEAD /nosuch",
	"GET /listeners", "GET /listeners?format=json", "GET /listeners?format=nonsense",
	"GET /clusters", "GET /clusters?format=json", "GET /clusters?filter=web", "GET /clusters?filter=[",
	"GET /stats", "GET /stats?usedonly", "GET /stats?filter=downstream_rq", "GET /stats?filter=downstream_rq&invert_filter", "GET /stats?filter=a(b",
	"GET /stats?filter=a)b", "GET /stats?filter=*", "GET /stats?filter=x{2,1}", "GET /stats?filter=[z-a]", "GET /stats?filter=a%5C",
	"GET /stats?type=Gauges", "GET /stats?type=Counters&usedonly", "GET /stats?type=Histograms", "GET /stats?type=TextReadouts", "GET /stats?type=nonsense",
	"GET /stats?format=json", "GET /stats?format=json&usedonly", "GET /stats?format=json&filter=nothing", "GET /stats?format=nonsense",
	"GET /stats?format=json&histogram_buckets=cumulative", "GET /stats?format=json&histogram_buckets=disjoint", "GET /stats?format=json&histogram_buckets=detailed",
	"GET /stats?histogram_buckets=cumulative", "GET /stats?histogram_buckets=disjoint", "GET /stats?histogram_buckets=detailed", "GET /stats?histogram_buckets=nonsense",
	"GET /stats/prometheus", "GET /stats?format=prometheus&usedonly", "GET /stats/prometheus?filter=upstream_rq", "GET /stats/prometheus?histogram_buckets=summary",
	"GET /stats/prometheus?histogram_buckets=detailed",
	"GET /config_dump", "GET /config_dump?include_eds", "GET /config_dump?resource=static_clusters", "GET /config_dump?resource=static_clusters&mask=cluster.name",
	"GET /config_dump?resource=dynamic_listeners", "GET /config_dump?resource=bootstrap", "GET /config_dump?resource=nosuch", "GET /config_dump?mask=bootstrap.admin",
	"GET /config_dump?mask=nosuch", "GET /config_dump?name_regex=web", "GET /config_dump?name_regex=[",
	"GET /server_info", "GET /certs", "GET /init_dump", "GET /runtime", "GET /hot_restart_version", "GET /contention",
	"GET /logging", "PUT /logging", "POST /logging", "POST /logging?level=bogus", "POST /logging?nosuch=info", "POST /logging?paths=wasm:debug,http:error",
	"POST /logging?paths=wasm", "POST /logging?level=warning&wasm=info", "POST /logging?group=wasm:info", "POST /logging?level=", "POST /logging?level=warning",
	"GET /quitquitquit", "GET /drain_listeners", "GET /healthcheck/fail", "GET /reset_counters", "POST /healthcheck/ok", "POST /reopen_logs",
	"POST /runtime_modify", "POST /runtime_modify?a=b", "GET /stats/recentlookups", "POST /stats/recentlookups/clear",
	"POST /healthcheck/fail", "GET /ready ", "GET /stats?filter=server.live", "POST /healthcheck/ok ", "GET /ready  ",
	"POST /reset_counters", "GET /stats?type=Counters",
}

// adminBootstraps are the files of testdata/nodiff whose endpoints are
// compared, each with the cases that are played in between.
var adminBootstraps = []string{"plain", "upgrades", "wasm", "dns", "unreachable", "retries", "rbac", "runtime", "direct", "breakers",
	"tls-sni", "tls-client-certificates", "tls-upstream", "tls-sessions", "tls-refused", "http2-options", "http2-websocket", "http2-matrix"}

// The admin interface of hostsim says what Envoy's says: on some bootstraps,
// right after the start and again when both have seen the same traffic.
func TestAdminNodiff(t *testing.T) {
	simulator, real := require(t, hostsim), require(t, envoy140)
	require(t, plugin)
	for _, name := range adminBootstraps {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile("testdata/nodiff/" + name + ".yaml")
			if err != nil {
				t.Fatal(err)
			}
			file, err := readNodiffFile("testdata/nodiff/" + name + ".txt")
			if err != nil {
				t.Fatal(err)
			}
			bootstrap := "stats_flush_on_admin: true\n" + string(text)
			sides := [2]*nodiffProxy{}
			for i, p := range []peer{envoy140, hostsim} {
				binary := real
				if i == 1 {
					binary = simulator
				}
				if sides[i], err = startNodiff(p, binary, bootstrap, t.TempDir()); err != nil {
					t.Fatal(err)
				}
				defer sides[i].close()
			}
			var answers [2][]string
			both := func(f func(x *nodiffProxy) []string) {
				var wg sync.WaitGroup
				for i, x := range sides {
					wg.Go(func() { answers[i] = append(answers[i], f(x)...) })
				}
				wg.Wait()
			}
			ask := func(when string) {
				both(func(x *nodiffProxy) []string {
					var list []string
					for _, r := range adminRequests {
						list = append(list, when+": "+r+"\n"+x.adminAnswer(t, r))
					}
					return list
				})
			}
			ask("at the start")
			cases := file.cases[:min(len(file.cases), 6)]
			both(func(x *nodiffProxy) []string {
				for _, c := range cases {
					if _, err := x.run(c, asWritten, nil); err != nil {
						t.Error(err)
					}
				}
				return nil
			})
			ask("after traffic")
			for i, want := range answers[0] {
				if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(answers[1][i], "\n")); diff != "" {
					label, _, _ := strings.Cut(want, "\n")
					t.Errorf("%s (-envoy +hostsim):\n%s", label, diff)
				}
			}
			t.Logf("%d answers compared, %d cases in between", len(answers[0]), len(cases))
		})
	}
}

// Whatever stat Envoy has at its start hostsim has too, and no other, on every
// bootstrap of testdata/nodiff that it takes.
func TestStatNames(t *testing.T) {
	simulator, real := require(t, hostsim), require(t, envoy140)
	require(t, plugin)
	files, err := filepath.Glob("testdata/nodiff/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no bootstraps in testdata/nodiff", err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".yaml"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			simulated, err := startNodiff(hostsim, simulator, string(text), t.TempDir())
			if err != nil {
				t.Fatalf("hostsim refuses the bootstrap: %v", err)
			}
			defer simulated.close()
			envoy, err := startNodiff(envoy140, real, string(text), t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer envoy.close()
			if diff := cmp.Diff(envoy.statNames(t), simulated.statNames(t)); diff != "" {
				t.Errorf("(-envoy +hostsim):\n%s", diff)
			}
		})
	}
}

// statNames waits for the worker, which starts after the admin interface does.
func (x *nodiffProxy) statNames(t *testing.T) []string {
	client := http.Client{Timeout: 10 * time.Second}
	var b []byte
	for deadline := time.Now().Add(patience); !bytes.Contains(b, []byte("server.worker_0.watchdog_miss")); {
		var err error
		if b, err = get(&client, x.admin+"/stats"); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatal("no worker has started")
		}
	}
	var names []string
	for line := range strings.Lines(string(b)) {
		name, _, _ := strings.Cut(line, ": ")
		names = append(names, name)
	}
	return names
}

// adminAnswer asks and returns status, fields and content, without what differs
// from run to run or is known to differ.
func (x *nodiffProxy) adminAnswer(t *testing.T, r string) string {
	method, target, _ := strings.Cut(strings.TrimSpace(r), " ")
	conn, err := net.Dial("tcp", strings.TrimPrefix(x.admin, "http://"))
	if err != nil {
		t.Error(err)
		return ""
	}
	w := newWire(conn.(*net.TCPConn))
	defer w.c.Close()
	w.send(method + " " + target + " HTTP/1.1\r\nHost: admin\r\n\r\n")
	var all []reply
	if !w.until(30*time.Second, func(data []byte) bool {
		all, _ = replies(data, []string{method}, false)
		return count(all) > 0
	}) {
		return "no answer"
	}
	a := all[0]
	content := a.content
	if strings.HasPrefix(target, "/stats") && a.status() == 200 {
		content = knownStats(content, strings.Contains(target, "usedonly"))
	}
	if slices.ContainsFunc(a.fields, func(f string) bool { return f == "content-type: application/json" }) {
		content = sortedJSON(content, strings.Contains(target, "usedonly"))
	} else if strings.HasPrefix(target, "/clusters") && a.status() == 200 { // Envoy's order is that of a hash table
		lines := strings.Split(content, "\n")
		slices.Sort(lines)
		content = strings.Join(lines, "\n")
	}
	return x.masked(a.start + "\n" + strings.Join(a.fields, "\n") + "\n\n" + content)
}

// masked hides what is different in each process.
func (x *nodiffProxy) masked(s string) string {
	var names []string
	for name, addr := range x.listeners {
		_, port, _ := net.SplitHostPort(addr)
		names = append(names, addr, "<listener "+name+">", `"port_value": `+port+"\n", `"port_value": <listener `+name+">\n")
	}
	for i, server := range x.upstreams.servers {
		port := fmt.Sprint(server.port)
		names = append(names, "127.0.0.1:"+port, "<"+upstreamPorts[i].name+">", `"port_value": `+port+"\n", `"port_value": <`+upstreamPorts[i].name+">\n")
	}
	names = append(names, x.dir, "<dir>")
	s = strings.NewReplacer(names...).Replace(s)
	s = dateValue.ReplaceAllString(s, "<date>")
	for _, m := range adminMasks {
		s = m.find.ReplaceAllString(s, m.put)
	}
	return s
}

// adminMasks are differences by design: hostsim says that it is not Envoy, has
// another memory, and leaves out what is about Envoy's insides.
var adminMasks = []struct {
	find *regexp.Regexp
	put  string
}{
	{regexp.MustCompile(`"(last_updated|uptime_current_epoch|uptime_all_epochs)": ".*"`), `"$1": <time>`},
	{regexp.MustCompile(`"(version)": "[^"/]*/1\.40\.0/.*"`), `"$1": <version>`},
	{regexp.MustCompile(`"(revision.sha|ssl.version)": ".*"`), `"$1": <build>`},
	{regexp.MustCompile(`FieldMask (goo.gle/debug\w*\s*)?paths: `), "FieldMask paths: "},
	{regexp.MustCompile(`(?m)^total: [0-9]+$`), "total: <n>"}, // lookups of names
	{regexp.MustCompile(`"base_id": ".*"`), `"base_id": <id>`},
	{regexp.MustCompile(`"goo\.gle/debug\w*.*fields.*HUNDRED.*\\n"`), `"<fraction>"`},
	{regexp.MustCompile(`"\{\\"denominator\\":.*\}"`), `"<fraction>"`},
}

// knownStats hides values that depend on the machine, and takes out what is not
// compared; hiddenStats says why.
func knownStats(content string, used bool) string {
	if strings.HasPrefix(content, "{") {
		return content // see sortedJSON
	}
	var lines []string
	hidden := false // a histogram in detail has more lines
	for line := range strings.Lines(content) {
		if strings.HasPrefix(line, " ") && hidden {
			continue
		}
		if used && strings.HasPrefix(line, "# TYPE") {
			continue // perhaps of what is hidden
		}
		line = hideStat(line)
		if hidden = strings.HasSuffix(line, "<hidden>\n"); !hidden || !used {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// hiddenStats are those whose values are not compared, their names are.
var hiddenStats = []struct {
	name *regexp.Regexp
	why  string
}{
	{regexp.MustCompile(`^(envoy_)?server[._](memory_|uptime|version|stats_recent_lookups|initialization_time_ms|total_connections)`), "the process itself"},
	{regexp.MustCompile(`^(envoy_)?filesystem[._]`), "how Envoy writes its access logs"},
	{regexp.MustCompile(`watchdog_(mega_)?miss|server[._]dropped_stat_flushes`), "a busy machine"},
	{regexp.MustCompile(`^(envoy_)?(http|listener)[._](admin[._]|.*conn_manager_prefix="admin")`), "the test waits for the start as long as it takes"},
	{regexp.MustCompile(`^envoy_(listener_admin|http_downstream).*(admin)?`), "the same for Prometheus"},
	{regexp.MustCompile(`(cx_length_ms|cx_connect_ms|rq_time|_ms)(_bucket|_sum|_count)?(\{.*\})?$`), "times"},
	{regexp.MustCompile(`downstream_cx_tx_bytes_total|upstream_cx_rx_bytes_total`), "x-envoy-upstream-service-time has one digit or more"},
	{regexp.MustCompile(`cluster[._](logical|strict|nohost)[._](default[._]total_match_count|update_)`), "how often names were asked for"},
	{regexp.MustCompile(`(update_|total_match_count).*"(logical|strict|nohost)"`), "the same for Prometheus"},
	{regexp.MustCompile(`upstream_rq_per_cx`), "in which interval the end of a connection is noticed"},
	{regexp.MustCompile(`connections_accepted_per_socket_event`), "how many connections wait when Envoy looks"},
	{regexp.MustCompile(`dns[._]cares`), "how often the test's patience let names be asked for"},
}

var statLine = regexp.MustCompile(`^([^ ]+\{.*\}|[^ :{]+):? ?(.*)\n?$`)

func hideStat(line string) string {
	if strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "" {
		return line
	}
	m := statLine.FindStringSubmatch(line)
	if m == nil {
		return line
	}
	for _, h := range hiddenStats {
		if h.name.MatchString(m[1]) {
			return m[1] + " <hidden>\n"
		}
	}
	return line
}

// sortedJSON prints JSON with its keys in order; lists of what has a name are
// sorted too, where Envoy's order is that of a hash table.
func sortedJSON(text string, used bool) string {
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return "not JSON: " + text
	}
	v = ordered(v, used)
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(v); err != nil {
		return err.Error()
	}
	// What follows a port tells it from a longer number.
	return regexp.MustCompile(`("port_value": [0-9]+),\n`).ReplaceAllString(b.String(), "$1\n")
}

func ordered(v any, used bool) any {
	switch v := v.(type) {
	case map[string]any:
		delete(v, "extensions") // of the node: what Envoy was built with
		if name, ok := v["name"].(string); ok && len(v) == 2 && (v["value"] != nil || v["values"] != nil || v["buckets"] != nil) {
			for _, h := range hiddenStats {
				if h.name.MatchString(name) {
					for key := range v {
						if key != "name" {
							v[key] = "<hidden>"
						}
					}
				}
			}
		}
		if name, ok := v["name"].(string); ok && v["totals"] != nil {
			for _, h := range hiddenStats {
				if h.name.MatchString(name) {
					return map[string]any{"name": name}
				}
			}
		}
		for key := range v {
			v[key] = ordered(v[key], used)
		}
		if clusters, ok := v["cluster_statuses"].([]any); ok {
			slices.SortFunc(clusters, func(a, b any) int {
				return strings.Compare(fmt.Sprint(a.(map[string]any)["name"]), fmt.Sprint(b.(map[string]any)["name"]))
			})
		}
		if certificates, ok := v["certificates"].([]any); ok {
			slices.SortFunc(certificates, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		}
		if routes, ok := v["static_route_configs"].([]any); ok {
			slices.SortFunc(routes, func(a, b any) int {
				return strings.Compare(fmt.Sprint(a.(map[string]any)["route_config"]), fmt.Sprint(b.(map[string]any)["route_config"]))
			})
		}
	case []any:
		for i := range v {
			v[i] = ordered(v[i], used)
		}
		return slices.DeleteFunc(v, func(e any) bool {
			m, ok := e.(map[string]any)
			return ok && used && (m["value"] == "<hidden>" || m["values"] == "<hidden>")
		})
	}
	return v
}

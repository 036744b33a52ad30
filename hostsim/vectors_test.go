package hostsim

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"switchyard/hostsim/vm"
)

// vector is a line of vm/testdata/abi/envoy-1.40.0.jsonl: what Envoy 1.40.0
// did with a module, in front of an upstream that echoes, to a few requests.
type vector struct {
	Filter    string // the module, and behind @ how it was configured
	Loaded    bool
	ExitAfter int `json:"exit_after"` // not 0: Envoy has crashed
	Requests  []vectorResult
	Stats     json.RawMessage `json:"wasm_stats"`
	Log       []string        // level|component|message, "  (xN)" behind what came N times in a row
}

type vectorResult struct {
	Req, End, Status string
	Headers          []string
	Body             any
}

// What Envoy logs, but not for the sake of the plugin.
var notOfThePlugin = []string{"Deprecated field", "goo.gle/debug", "<config>", "Unable to create Wasm plugin plug"}

func readVectors(t *testing.T) (vectors []*vector) {
	data, err := os.ReadFile(filepath.Join("vm", "testdata", "abi", "envoy-1.40.0.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		v := &vector{}
		if err := json.Unmarshal([]byte(line), v); err != nil {
			t.Fatal(err)
		}
		vectors = append(vectors, v)
	}
	return vectors
}

func (v *vector) wantLog() (lines []string) {
	for _, line := range v.Log {
		if slices.ContainsFunc(notOfThePlugin, func(s string) bool { return strings.Contains(line, s) }) || strings.Contains(line, "|backtrace|") {
			continue
		}
		times := 1
		if i := strings.LastIndex(line, "  (x"); i >= 0 {
			if _, err := fmt.Sscanf(line[i:], "  (x%d)", &times); err == nil {
				line = line[:i]
			}
		}
		for range times {
			lines = append(lines, line)
		}
	}
	return lines
}

// Every module of vm/testdata/abi does in hostsim what it was seen to do in
// Envoy: whether it is loaded, what clients and the upstream get, the log and
// the stats.
func TestVectors(t *testing.T) {
	t.Parallel()
	bootstrap, err := os.ReadFile("testdata/vectors/bootstrap.yaml")
	if err != nil {
		t.Fatal(err)
	}
	cache := t.TempDir()
	for _, v := range readVectors(t) {
		t.Run(v.Filter, func(t *testing.T) {
			t.Parallel()
			runVector(t, v, string(bootstrap), cache)
		})
	}
}

// variants are what a name behind @ adds to the plugin's configuration.
var variants = map[string]string{
	"open": "failure_policy: FAIL_OPEN", "closed": "failure_policy: FAIL_CLOSED", "reload": "failure_policy: FAIL_RELOAD",
	"failopen_old": "fail_open: true", "stopiter": "allow_on_headers_stop_iteration: true",
	"caplog": "capability_restriction_config: {allowed_capabilities: {proxy_log: {}, proxy_on_context_create: {}, proxy_on_vm_start: {}, proxy_on_configure: {}, proxy_on_request_headers: {}}}",
}

func runVector(t *testing.T, v *vector, bootstrap, cache string) {
	module, variant, _ := strings.Cut(v.Filter, "@")
	web, ws := echoUpstream(t, "web"), echoUpstream(t, "ws")
	replace := strings.NewReplacer("NAME.wasm", "vm/testdata/abi/"+module+".wasm", "13001", web, "13002", ws,
		"root_id: ''", "root_id: ''\n                "+variants[variant])
	config, err := Parse(v.Filter, []byte(replace.Replace(bootstrap)))
	if err != nil {
		t.Fatal(err)
	}
	log := &vectorLog{more: make(chan struct{}, 1000)}
	server, err := New(t.Context(), config, Options{Logger: slog.New(log), CacheDir: cache})
	if err != nil {
		if v.Loaded {
			t.Fatalf("not loaded: %v", err)
		}
		if diff := cmp.Diff(v.wantLog(), log.wasm()); diff != "" {
			t.Errorf("log (-Envoy +hostsim):\n%s", diff)
		}
		return
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- server.Serve(ctx) }()
	end := sync.OnceFunc(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		server.Close()
	})
	defer end()
	if !v.Loaded {
		t.Fatal("loaded, which Envoy does not")
	}
	address := server.Listeners()[0].Address.String()
	for _, line := range v.wantLog() {
		if strings.Contains(line, "proxy_on_tick failed") { // before the first request
			log.await(line)
		}
	}
	for _, want := range v.Requests {
		if v.ExitAfter != 0 {
			want = vectorResult{Req: want.Req, End: "closed"} // hostsim ends the stream where Envoy crashes
		} else if want.End == "" {
			continue // it was not sent any more
		}
		got := ask(t, address, want.Req, want.End)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-Envoy +hostsim):\n%s", want.Req, diff)
		}
	}
	if v.ExitAfter != 0 {
		return
	}
	var stats []string
	server.Stats.Each(func(name string, value int64) {
		if strings.HasPrefix(name, "wasm") && value != 0 {
			stats = append(stats, fmt.Sprintf("%s: %d", name, value))
		}
	})
	var wantStats []string
	if err := json.Unmarshal(v.Stats, &wantStats); err != nil {
		t.Fatal(err)
	}
	slices.Sort(wantStats)
	if diff := cmp.Diff(wantStats, stats); diff != "" {
		t.Errorf("stats (-Envoy +hostsim):\n%s", diff)
	}
	end()
	want, got := v.wantLog(), log.wasm()
	if diff := cmp.Diff(want, got); diff != "" && len(want)+len(got) > 0 {
		t.Errorf("log (-Envoy +hostsim):\n%s", diff)
	}
}

// ask sends a request of the vectors and says how it ended. When it returns the
// plugin has heard of the end of the stream: only then the connection, whose
// client has no more to say, is closed.
func ask(t *testing.T, address, name, end string) vectorResult {
	request := map[string]string{
		"get":  "GET / HTTP/1.1\r\nHost: example.com\r\nUser-Agent: t/1\r\nX-Test: 1\r\n\r\n",
		"get2": "GET / HTTP/1.1\r\nHost: example.com\r\nUser-Agent: t/1\r\n\r\n",
		"post": "POST /post HTTP/1.1\r\nHost: example.com\r\nUser-Agent: t/1\r\nContent-Type: text/plain\r\nContent-Length: 11\r\n\r\nhello world",
		"dup":  "GET /headers?x=1 HTTP/1.1\r\nHost: example.com\r\nUser-Agent: t/1\r\nX-Dup: a\r\nX-Dup: b\r\nCookie: c=1\r\n\r\n",
	}[name]
	result := vectorResult{Req: name}
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	defer func() {
		c.(*net.TCPConn).CloseWrite()
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.Copy(io.Discard, r); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection stays open", name)
		}
		c.Close()
	}()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	patience := 20 * time.Second
	if end == "timeout" { // nothing comes, however long one waits
		patience = 300 * time.Millisecond
	}
	c.SetReadDeadline(time.Now().Add(patience))
	head, err := readHead(r)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		result.End = "timeout"
		return result
	case err != nil:
		result.End = "closed"
		return result
	}
	result.End = "ok"
	_, status, _ := strings.Cut(head[0], " ")
	result.Status, _, _ = strings.Cut(status, " ")
	length := 0
	for _, line := range head[1:] {
		name, value, _ := strings.Cut(line, ":")
		name = strings.ToLower(name)
		if name == "content-length" {
			fmt.Sscan(value, &length)
		}
		if name != "date" && name != "x-envoy-upstream-service-time" {
			result.Headers = append(result.Headers, name+":"+value)
		}
	}
	slices.Sort(result.Headers)
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		t.Fatal(err)
	}
	if json.Unmarshal(body, &result.Body) != nil {
		result.Body = string(body)
	}
	return result
}

func readHead(r *bufio.Reader) (lines []string, err error) {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil, err
		}
		if line = strings.TrimRight(line, "\r\n"); line == "" {
			return lines, nil
		}
		lines = append(lines, line)
	}
}

// echoUpstream answers with what it received, as the upstream of the recorded
// runs did.
func echoUpstream(t *testing.T, name string) (port string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for r := bufio.NewReader(c); ; {
					head, err := readHead(r)
					if err != nil {
						return
					}
					method, rest, _ := strings.Cut(head[0], " ")
					path, _, _ := strings.Cut(rest, " ")
					headers, length := [][2]string{}, 0
					for _, line := range head[1:] {
						name, value, _ := strings.Cut(line, ":")
						value = strings.TrimSpace(value)
						if name == "content-length" {
							fmt.Sscan(value, &length)
						}
						if name != "x-request-id" {
							headers = append(headers, [2]string{name, value})
						}
					}
					body := make([]byte, length)
					if _, err := io.ReadFull(r, body); err != nil {
						return
					}
					// Python's json.dumps puts spaces behind commas and colons, and lengths are compared.
					text := fmt.Sprintf(`{"up": %s, "method": %s, "path": %s, "headers": %s, "body": %s, "trailers": []}`,
						quote(name), quote(method), quote(path), quotePairs(headers), quote(string(body)))
					fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nX-Up: %s\r\n"+
						"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nCache-Control: no-cache\r\n\r\n%s", len(text), name, text)
				}
			}()
		}
	}()
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

func quotePairs(pairs [][2]string) string {
	var parts []string
	for _, p := range pairs {
		parts = append(parts, "["+quote(p[0])+", "+quote(p[1])+"]")
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// vectorLog keeps what the component wasm logs, as level|component|message.
type vectorLog struct {
	mu    *sync.Mutex
	lines *[]vectorLine
	wasmy bool
	more  chan struct{} // gets one for each line
	seen  int           // by await
}

type vectorLine struct {
	level slog.Level
	text  string
}

func (l *vectorLog) shared() {
	if l.mu == nil {
		l.mu, l.lines = &sync.Mutex{}, &[]vectorLine{}
	}
}

func (l *vectorLog) Enabled(context.Context, slog.Level) bool { return true }
func (l *vectorLog) WithGroup(string) slog.Handler            { return l }

func (l *vectorLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	l.shared()
	with := *l
	for _, a := range attrs {
		if a.Key == "component" && a.Value.String() == "wasm" {
			with.wasmy = true
		}
	}
	return &with
}

func (l *vectorLog) Handle(_ context.Context, r slog.Record) error {
	if !l.wasmy {
		return nil
	}
	level := map[slog.Level]string{slog.LevelInfo: "info", slog.LevelWarn: "warning", slog.LevelError: "error", vm.LevelCritical: "critical"}[r.Level]
	message, _, _ := strings.Cut(r.Message, "\n") // the rest is a stack
	l.mu.Lock()
	defer l.mu.Unlock()
	*l.lines = append(*l.lines, vectorLine{r.Level, level + "|wasm|" + message})
	select {
	case l.more <- struct{}{}:
	default:
	}
	return nil
}

// await waits for one more line of that text.
func (l *vectorLog) await(text string) {
	for {
		for _, line := range l.wasm()[l.seen:] {
			l.seen++
			if line == text {
				return
			}
		}
		<-l.more
	}
}

// wasm returns the lines of at least level info.
func (l *vectorLog) wasm() (lines []string) {
	l.shared()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range *l.lines {
		if line.level >= slog.LevelInfo {
			lines = append(lines, line.text)
		}
	}
	return lines
}

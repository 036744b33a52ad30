package e2e

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A nodiffProxy is a peer that runs a bootstrap, with upstreams of its own.
type nodiffProxy struct {
	peer      peer
	upstreams *scriptedUpstreams
	listeners map[string]string // name to address
	first     string            // address of the first listener
	admin     string
	dir       string

	cmd    *exec.Cmd
	exited chan struct{}
	stdout lockedBuffer // the access log
	stderr lockedBuffer
	logged int // how much of the access log belongs to earlier cases
	filed  int // the same for the file access.log
	said   int // the same for what guests log
	runs   int
	began  []string // what guests logged before the first case, sorted: threads start in no order
}

// listenerPort is any port of the form 100NN: a listener of a bootstrap.
var listenerPort = regexp.MustCompile(`\b(port_value: *)(100[0-9][0-9]|9901)\b`)

// startNodiff runs the bootstrap. An error says why there is no proxy, in the
// words of the peer.
func startNodiff(p peer, binary, bootstrap, dir string, flags ...string) (*nodiffProxy, error) {
	u, err := startScriptedUpstreams()
	if err != nil {
		return nil, err
	}
	x := &nodiffProxy{peer: p, upstreams: u, dir: dir, exited: make(chan struct{})}
	bootstrap = listenerPort.ReplaceAllString(bootstrap, "${1}0")
	for i, port := range upstreamPorts {
		bootstrap = regexp.MustCompile(`\b(port_value: *)`+port.port+`\b`).ReplaceAllString(bootstrap, fmt.Sprintf("${1}%d", u.servers[i].port))
	}
	bootstrap = strings.ReplaceAll(bootstrap, "ACCESS-LOG-FILE", filepath.Join(dir, "access.log"))
	file, adminFile := filepath.Join(dir, "bootstrap.yaml"), filepath.Join(dir, "admin")
	if err := os.WriteFile(file, []byte(bootstrap), 0o600); err != nil {
		return nil, err
	}
	args := append(slices.Clone(p.args), "-c", file, "--admin-address-path", adminFile, "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning")
	args = append(args, flags...)
	if p.name == envoy140.name || takesFlushInterval(binary, file) {
		args = append(args, "--file-flush-interval-msec", "5")
	}
	x.cmd = exec.Command(binary, args...)
	x.cmd.Dir = root
	x.cmd.Stdout, x.cmd.Stderr = &x.stdout, &x.stderr
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := x.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = x.cmd.Wait()
		close(x.exited)
	}()
	if err := x.await(adminFile); err != nil {
		x.close()
		return nil, fmt.Errorf("%w\n%s", err, x.stderr.tail(40))
	}
	return x, nil
}

func (x *nodiffProxy) close() {
	_ = syscall.Kill(-x.cmd.Process.Pid, syscall.SIGKILL)
	<-x.exited
	x.upstreams.close()
}

// takesFlushInterval asks a peer whether it knows this flag of Envoy's.
func takesFlushInterval(binary, file string) bool {
	out, _ := exec.Command(binary, "run", "--mode", "validate", "-c", file, "--file-flush-interval-msec", "5").CombinedOutput()
	return !bytes.Contains(out, []byte("unknown flag"))
}

// await waits until all listeners have their ports.
func (x *nodiffProxy) await(adminFile string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(2 * time.Minute)
	client := http.Client{Timeout: 10 * time.Second}
	err := fmt.Errorf("no admin address yet")
	for {
		select {
		case <-x.exited:
			return fmt.Errorf("%s exited", x.peer.name)
		case <-deadline:
			return err
		case <-tick.C:
		}
		var admin, b []byte
		if admin, err = os.ReadFile(adminFile); err != nil || len(admin) == 0 {
			continue
		}
		x.admin = "http://" + string(admin)
		if _, err = get(&client, x.admin+"/ready"); err != nil {
			continue
		}
		if b, err = get(&client, x.admin+"/listeners?format=json"); err != nil {
			continue
		}
		var listeners struct {
			Statuses []struct {
				Name    string `json:"name"`
				Address struct {
					Socket struct {
						Port int `json:"port_value"`
					} `json:"socket_address"`
				} `json:"local_address"`
			} `json:"listener_statuses"`
		}
		if err = json.Unmarshal(b, &listeners); err != nil {
			return err
		}
		x.listeners = map[string]string{}
		for _, l := range listeners.Statuses {
			addr := fmt.Sprintf("127.0.0.1:%d", l.Address.Socket.Port)
			if l.Address.Socket.Port != 0 {
				x.listeners[l.Name] = addr
			}
			if l.Name == "main" {
				x.first = addr
			}
		}
		if len(x.listeners) > 0 && len(x.listeners) == len(listeners.Statuses) {
			if x.first == "" || x.listeners["main"] == "" {
				return fmt.Errorf("no listener is named main")
			}
			return nil
		}
		err = fmt.Errorf("a listener has no port yet: %s", b)
	}
}

// An observation is all that came of one case, as lines to compare.
type observation struct {
	reached  []string   // for each request that an upstream received: which, and whether the connection was new
	received [][]string // head, content and trailers of each
	ends     []string   // how the connections to upstreams ended
	clients  [][]string // for each client: what it received
	closed   []string   // and what became of its connection
	log      []string   // access log lines
	began    []string   // what guests logged before the first case: level and text
	guests   []string   // what they logged since
	stats    map[string]int64
	known    map[string]bool // the stats that there are
}

// run plays a case. split says how its writes are cut.
func (x *nodiffProxy) run(c *nodiffCase, split func(text string) []string, stats []*regexp.Regexp) (*observation, error) {
	addr := x.first
	if c.listener != "" {
		if addr = x.listeners[c.listener]; addr == "" {
			return nil, fmt.Errorf("the bootstrap has no listener %q", c.listener)
		}
	}
	if x.runs == 0 {
		x.settle()
		text := x.stderr.from(0)
		x.said = len(text)
		x.began = guestLog(text)
		slices.Sort(x.began)
	}
	before, err := x.stats(stats)
	if err != nil {
		return nil, err
	}
	x.upstreams.forget()
	x.upstreams.mu.Lock()
	x.upstreams.answers, x.upstreams.raw = c.answers, c.raw
	x.upstreams.mu.Unlock()

	o := &observation{}
	wires := make([]*wire, len(c.methods))
	waited := make([]int, len(c.methods)) // responses
	passed := make([]int, len(c.methods)) // bytes, of wait "text"
	silent := make([]bool, len(c.methods))
	writers := make([]*frameWriter, len(c.methods))
	secure := make([]*tlsClient, len(c.methods))
	var config *tls.Config
	if c.tls != nil {
		if config, err = clientTLS(c.tls); err != nil {
			return nil, err
		}
	}
	var masks []string
	open := func(i int) error {
		if wires[i] != nil {
			return nil
		}
		conn, err := net.DialTimeout("tcp", addr, nodiffPatience)
		if err == nil {
			rw := conn
			if config != nil {
				secure[i] = secured(conn, config)
				rw = secure[i]
			}
			wires[i] = wireOn(conn.(*net.TCPConn), rw)
			masks = append(masks, conn.LocalAddr().String(), "<client>")
		}
		return err
	}
	wait := func(i, n int) {
		waited[i] += n
		wires[i].until(nodiffPatience, func(data []byte) bool {
			if c.http2 {
				_, ended := frames(data)
				return ended >= waited[i]
			}
			if c.raw {
				return len(data) > 0
			}
			all, _ := replies(data, c.methods[i], false)
			return count(all) >= waited[i]
		})
	}
	if len(c.client) == 0 || c.client[0].op != "send" && c.client[0].op != "frame" {
		if err := open(0); err != nil {
			return nil, err
		}
	}
	for _, s := range c.client {
		if err := open(s.client); err != nil {
			return nil, err
		}
		w := wires[s.client]
		switch s.op {
		case "frame":
			if writers[s.client] == nil {
				writers[s.client] = newFrameWriter()
				for _, first := range []string{"preface", "settings"} {
					if text, err := writers[s.client].frame(first); err == nil && !c.bare {
						w.send(text)
					}
				}
				time.Sleep(20 * time.Millisecond) // whether SETTINGS come with the first frame is not left to chance
			}
			text, err := writers[s.client].frame(s.text)
			if err != nil {
				return nil, fmt.Errorf("line %q: %w", s.text, err)
			}
			for i, part := range split(text) {
				if i > 0 {
					time.Sleep(2 * time.Millisecond)
				}
				w.send(part)
			}
		case "send":
			for i, part := range split(s.text) {
				if i > 0 {
					time.Sleep(2 * time.Millisecond)
				}
				w.send(part)
			}
		case "wait":
			if s.text == "" {
				wait(s.client, s.n)
				continue
			}
			w.until(nodiffPatience, func(data []byte) bool {
				i := bytes.Index(data[passed[s.client]:], []byte(s.text))
				if i >= 0 {
					passed[s.client] += i + len(s.text)
				}
				return i >= 0
			})
		case "pause":
			time.Sleep(s.pause)
		case "half-close":
			_ = w.c.CloseWrite()
		case "close":
			w.c.Close()
			silent[s.client] = true
		case "reset":
			w.reset()
			silent[s.client] = true
		case "silent":
			silent[s.client] = true
		}
	}
	for i, w := range wires {
		if w != nil && waited[i] == 0 && !silent[i] && passed[i] == 0 {
			wait(i, 1)
		}
	}
	for i, w := range wires {
		if w == nil {
			continue
		}
		o.closed = append(o.closed, w.watch())
		if c.http2 {
			w.mu.Lock()
			lines, _ := frames(w.data)
			w.mu.Unlock()
			o.clients = append(o.clients, lines)
			continue
		}
		if c.raw {
			w.mu.Lock()
			o.clients = append(o.clients, rawLines(w.data))
			w.mu.Unlock()
			continue
		}
		w.mu.Lock()
		all, rest := replies(w.data, c.methods[i], w.err != nil)
		w.mu.Unlock()
		var lines []string
		for _, p := range all {
			lines = append(lines, p.start)
			lines = append(lines, p.fields...)
			lines = append(lines, "content: "+strconv.Quote(p.content))
			for _, t := range p.trailers {
				lines = append(lines, "trailer "+t)
			}
			if !p.complete {
				lines = append(lines, "(incomplete)")
			}
		}
		if rest != "" {
			lines = append(lines, "then: "+strconv.Quote(rest))
		}
		o.clients = append(o.clients, lines)
	}
	for i, t := range slices.DeleteFunc(secure, func(t *tlsClient) bool { return t == nil }) {
		o.clients[i] = append(t.lines(), o.clients[i]...)
	}
	if c.raw {
		o.ends = x.upstreams.watch()
	}
	for _, w := range wires {
		if w != nil {
			w.c.Close()
		}
	}
	if c.raw { // or else what waits for an upstream would not end
		x.upstreams.hangUp()
		x.awaitNoConnection()
	}
	log := x.settle()
	text := x.stderr.from(x.said)
	x.said += len(text)
	o.began, o.guests = x.began, guestLog(text)
	after, err := x.stats(stats)
	if err != nil {
		return nil, err
	}
	o.stats, o.known = map[string]int64{}, map[string]bool{}
	for name, n := range after {
		o.known[name] = true
		if n != before[name] {
			o.stats[name] = n - before[name]
		}
	}

	u := x.upstreams
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, q := range u.got {
		connection := "a new connection"
		if q.again {
			connection = "the connection of an earlier request"
		}
		o.reached = append(o.reached, q.conn.upstream.name+" on "+connection)
		if c.raw {
			o.received = append(o.received, rawLines([]byte(q.content)))
			continue
		}
		lines := append([]string{q.head.start}, q.head.fields...)
		lines = append(lines, "content: "+strconv.Quote(q.content))
		for _, t := range q.trailers {
			lines = append(lines, "trailer "+t)
		}
		if !q.complete {
			lines = append(lines, "(incomplete, or a tunnel)")
		}
		lines = append(lines, q.ending...)
		o.received = append(o.received, lines)
	}
	for _, conn := range u.conns {
		if c.raw {
			break
		}
		if conn.counted > 0 || conn.served == 0 {
			o.ends = append(o.ends, conn.upstream.name+" "+conn.end())
		}
	}
	o.log = log
	for i, s := range u.servers {
		masks = append(masks, fmt.Sprintf("127.0.0.1:%d", s.port), "<"+upstreamPorts[i].name+">")
	}
	for name, addr := range x.listeners {
		masks = append(masks, addr, "<listener "+name+">")
		_, port, _ := strings.Cut(addr, ":")
		masks = append(masks, "x-forwarded-port: "+port, "x-forwarded-port: <listener "+name+">")
	}
	o.mask(strings.NewReplacer(masks...))
	return o, nil
}

// settle sends the sentinel and returns the access log lines before its own.
func (x *nodiffProxy) settle() []string {
	x.runs++
	mark := fmt.Sprintf("/%s-%d", sentinel, x.runs)
	if c, err := net.DialTimeout("tcp", x.first, nodiffPatience); err == nil {
		w := newWire(c.(*net.TCPConn))
		w.send("GET " + mark + " HTTP/1.1\r\nHost: " + sentinel + "\r\n\r\n")
		w.until(nodiffPatience, func(data []byte) bool {
			all, _ := replies(data, nil, false)
			return count(all) > 0
		})
		c.Close()
	}
	// The log is flushed each 5 ms by Envoy, each second at least by others.
	deadline := time.Now().Add(2500 * time.Millisecond)
	for !strings.Contains(x.stdout.from(x.logged), mark) && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
	}
	x.awaitNoConnection() // the stats count its end
	text := x.stdout.from(x.logged)
	x.logged += len(text)
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if file, err := os.ReadFile(filepath.Join(x.dir, "access.log")); err == nil {
		for line := range strings.SplitSeq(strings.TrimSuffix(string(file[x.filed:]), "\n"), "\n") {
			lines = append(lines, "file: "+line)
		}
		x.filed = len(file)
	}
	return slices.DeleteFunc(lines, func(s string) bool { return strings.Contains(s, sentinel) || s == "" || s == "file: " })
}

// wasmLine is a line of a proxy's log: its level, and what the component wasm says.
var wasmLine = regexp.MustCompile(`^\[[^]]+\]\[[0-9]+\]\[([a-z]+)\]\[([a-z_0-9]+)\] \[[^]]+\] (.*)$`)

// explanation is what hostsim adds at level debug, where a hostcall gives a
// status that is not Ok.
var explanation = regexp.MustCompile(`^wasm log.*: proxy_[a-z_]+\(.*\) = [A-Z][A-Za-z]+(: |$)`)

// guestLog picks what guests log, at any level, and what the host says of them
// at level info or above: of a trap the first line, because the backtrace
// behind it is each engine's own. The harness's own requests are not in it:
// guests say nothing of a path that they do not know.
func guestLog(text string) (lines []string) {
	guest := false // the line before was one of a guest, and may go on
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		m := wasmLine.FindStringSubmatch(line)
		switch {
		case m == nil && guest:
			lines[len(lines)-1] += "\n" + line
		case m == nil || m[2] != "wasm":
			guest = false
		case explanation.MatchString(m[3]):
			guest = false
		default:
			if guest = strings.HasPrefix(m[3], "wasm log"); guest || m[1] != "trace" && m[1] != "debug" {
				lines = append(lines, m[1]+" "+m[3])
			}
		}
	}
	return lines
}

// awaitNoConnection waits until all connections of clients have ended, though
// not for long.
func (x *nodiffProxy) awaitNoConnection() {
	client := http.Client{Timeout: 10 * time.Second}
	for range 40 {
		b, err := get(&client, x.admin+"/stats?filter=downstream_cx_active")
		if err != nil || !openConnection.Match(adminConnection.ReplaceAll(b, nil)) {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
}

var (
	adminConnection = regexp.MustCompile(`(?m)^(http|listener)\.admin\..*`)
	openConnection  = regexp.MustCompile(`(?m)^(http|listener)\..*\.downstream_cx_active: [1-9]`)
)

// rawLines shows bytes, a line for each line of them.
func rawLines(data []byte) (lines []string) {
	for line := range strings.Lines(string(data)) {
		lines = append(lines, "bytes: "+strconv.Quote(line))
	}
	return lines
}

// from returns what was written behind the first n bytes.
func (l *lockedBuffer) from(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b.Bytes()[n:])
}

// stats reads the stats that are compared.
func (x *nodiffProxy) stats(wanted []*regexp.Regexp) (map[string]int64, error) {
	select {
	case <-x.exited:
		return nil, fmt.Errorf("%s exited\n%s", x.peer.name, x.stderr.tail(40))
	default:
	}
	client := http.Client{Timeout: 10 * time.Second}
	b, err := get(&client, x.admin+"/stats")
	if err != nil {
		return nil, err
	}
	values := map[string]int64{}
	for line := range strings.SplitSeq(string(b), "\n") {
		name, value, _ := strings.Cut(line, ": ")
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || strings.HasPrefix(name, "http.admin.") {
			continue
		}
		for _, re := range wanted {
			if re.MatchString(name) {
				values[name] = n
			}
		}
	}
	return values, nil
}

// What differs from run to run is hidden; that it is there still counts.
var (
	dateValue    = regexp.MustCompile(`[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT`)
	uuidValue    = regexp.MustCompile(`\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b`)
	serviceTime  = regexp.MustCompile(`(?i)\b(x-envoy-upstream-service-time: *|[a-z_]*duration"?[=:] *)-?[0-9]+`)
	defaultLog   = regexp.MustCompile(`^((?:file: )?\[<time>\] ".*" [0-9]+ \S+ [0-9]+ [0-9]+) [0-9]+ (?:[0-9]+|(-)) `) // durations
	expectedTime = regexp.MustCompile(`^(x-envoy-expected-rq-timeout-ms: )([0-9]+)$`)
	startTime    = regexp.MustCompile(`\b20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9:.]+(Z|[+-][0-9:]+)?`)
	connectionID = regexp.MustCompile(`\b((?:connection_id|conn|port)=)[0-9]+`)
	cookieValue  = regexp.MustCompile(`^(set-cookie: [a-z]+=")[0-9a-f]{16}"`) // a hash of addresses
	sessionID    = regexp.MustCompile(`(_session=)[0-9a-f]{64}\b`)
	socketKey    = regexp.MustCompile(`^(sec-websocket-key: )[A-Za-z0-9+/]{22}==$`)
	otherPort    = regexp.MustCompile(`\b127\.0\.0\.1:[0-9]+`)
)

// sampleKey is the Sec-WebSocket-Key that cases send.
const sampleKey = "dGhlIHNhbXBsZSBub25jZQ=="

func (o *observation) mask(ports *strings.Replacer) {
	hide := func(lines []string) {
		for i, s := range lines {
			s = ports.Replace(s)
			s = dateValue.ReplaceAllString(s, "<date>")
			s = uuidValue.ReplaceAllString(s, "<uuid>")
			s = serviceTime.ReplaceAllString(s, "${1}<ms>")
			s = startTime.ReplaceAllString(s, "<time>")
			if !strings.HasSuffix(s, sampleKey) { // a fresh one
				s = socketKey.ReplaceAllString(s, "${1}<key>")
			}
			s = cookieValue.ReplaceAllString(s, "${1}<hash>\"")
			s = sessionID.ReplaceAllString(s, "${1}<id>")
			s = connectionID.ReplaceAllString(s, "${1}<id>")
			s = defaultLog.ReplaceAllString(s, "${1} <ms> ${2} ")
			if m := expectedTime.FindStringSubmatch(s); m != nil {
				// What a retry has left of its time, to half a second.
				if n, _ := strconv.Atoi(m[2]); n%100 != 0 {
					s = fmt.Sprintf("%s%d", m[1], (n+250)/500*500)
				}
			}
			lines[i] = otherPort.ReplaceAllString(s, "127.0.0.1:<port>")
		}
	}
	for _, lines := range o.received {
		hide(lines)
	}
	for _, lines := range o.clients {
		hide(lines)
	}
	hide(o.log)
	hide(o.guests)
}

// asWritten leaves a write as it is.
func asWritten(text string) []string { return []string{text} }

// randomly cuts a write at up to three places, the same ones in each run.
func randomly(c *nodiffCase) func(string) []string {
	h := fnv.New64a()
	h.Write([]byte(c.name))
	seed := h.Sum64()
	return func(text string) []string {
		if len(text) < 2 {
			return []string{text}
		}
		random := rand.New(rand.NewPCG(seed, uint64(len(text))))
		var parts []string
		cuts := []int{0, 1 + random.IntN(len(text)-1), 1 + random.IntN(len(text)-1), 1 + random.IntN(len(text)-1), len(text)}
		slices.Sort(cuts)
		cuts = slices.Compact(cuts)
		for i := 1; i < len(cuts); i++ {
			parts = append(parts, text[cuts[i-1]:cuts[i]])
		}
		return parts
	}
}

// bytewise cuts a write behind every byte.
func bytewise(text string) []string {
	if len(text) > 400 {
		return []string{text}
	}
	return strings.Split(text, "")
}

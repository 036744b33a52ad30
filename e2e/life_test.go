package e2e

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// lifeBootstrap has two listeners, one of them inbound.
const lifeBootstrap = `
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}}
static_resources:
  listeners:
  - name: main
    address: {socket_address: {address: 127.0.0.1, port_value: 10000}}
    filter_chains: &chains
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: main
          codec_type: AUTO
          http2_protocol_options: {allow_connect: true}
          drain_timeout: 0.6s
          delayed_close_timeout: 0.4s
          upgrade_configs: [{upgrade_type: websocket}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - {match: {prefix: /socket}, route: {cluster: websocket}}
              - {match: {prefix: /}, route: {cluster: web}}
          access_log:
          - name: envoy.access_loggers.stdout
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
              log_format: {text_format_source: {inline_string: "%PROTOCOL% path=%REQ(:PATH)% code=%RESPONSE_CODE% details=%RESPONSE_CODE_DETAILS% flags=%RESPONSE_FLAGS% sent=%BYTES_SENT%\n"}}
  - name: inbound
    traffic_direction: INBOUND
    address: {socket_address: {address: 127.0.0.1, port_value: 10001}}
    filter_chains: *chains
  clusters:
  - name: web
    connect_timeout: 1s
    load_assignment: {cluster_name: web, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 8080}}}}]}]}
  - name: websocket
    connect_timeout: 1s
    load_assignment: {cluster_name: websocket, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 8081}}}}]}]}
`

// What becomes of open connections of every kind, and of new ones, when a
// process is asked to drain or to end, is the same with hostsim as with Envoy.
func TestLifeNodiff(t *testing.T) {
	simulator, real := require(t, hostsim), require(t, envoy140)
	for _, tt := range []struct{ name, how string }{
		{"SIGTERM", "TERM"}, {"SIGINT", "INT"}, {"SIGHUP is ignored", "HUP"}, {"SIGUSR1 reopens logs", "USR1"},
		{"quitquitquit", "/quitquitquit"},
		{"the listeners stop", "/drain_listeners"},
		{"the inbound listener stops", "/drain_listeners?inboundonly"},
		{"connections are drained, then the listeners stop", "/drain_listeners?graceful"},
		{"inbound connections are drained, then their listener stops", "/drain_listeners?graceful&inboundonly"},
		{"connections are drained and no listener stops", "/drain_listeners?graceful&skip_exit"},
		{"skip_exit alone drains as well", "/drain_listeners?skip_exit"},
		{"health checks fail", "/healthcheck/fail"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var lives [2]*life
			var wg sync.WaitGroup
			for i, p := range []peer{envoy140, hostsim} {
				wg.Go(func() {
					binary := real
					if i == 1 {
						binary = simulator
					}
					// All at once, because a share of responses is chance.
					x, err := startNodiff(p, binary, lifeBootstrap, t.TempDir(), "--drain-time-s", "4", "--drain-strategy", "immediate")
					if err != nil {
						t.Error(err)
						return
					}
					t.Cleanup(x.close)
					l := &life{proxy: x}
					if err := l.live(t, tt.how); err != nil {
						t.Errorf("%s: %v", p.name, err)
						return
					}
					l.settle(t)
					lives[i] = l
				})
			}
			wg.Wait()
			if t.Failed() {
				return
			}
			// Where the machine is busy one is later than the other.
			var got [2]string
			for deadline := time.Now().Add(lifePatience); ; time.Sleep(100 * time.Millisecond) {
				for i, l := range lives {
					got[i] = l.told(t)
				}
				if got[0] == got[1] || time.Now().After(deadline) {
					break
				}
			}
			for i, l := range lives {
				got[i] += l.later()
			}
			if diff := cmp.Diff(strings.Split(got[0], "\n"), strings.Split(got[1], "\n")); diff != "" {
				t.Errorf("(-envoy +hostsim):\n%s", diff)
			}
			for _, l := range lives {
				for _, c := range l.clients {
					c.c.Close()
				}
			}
		})
	}
}

const lifePatience = 15 * time.Second

// A life is a process that is asked to drain or to end, with its clients.
type life struct {
	proxy   *nodiffProxy
	clients []*lifeClient
	said    []string // what was seen on the way
	begun   time.Time
	exited  bool
}

// A lifeClient is one connection.
type lifeClient struct {
	*wire
	name   string
	frames *frameWriter // of HTTP/2; nil: this is HTTP/1.1
}

// open opens a connection, or returns nil if it is refused.
func (l *life) open(name, listener string, http2 bool) *lifeClient {
	conn, err := net.DialTimeout("tcp", l.proxy.listeners[listener], nodiffPatience)
	if err != nil {
		l.said = append(l.said, name+": refused")
		return nil
	}
	c := &lifeClient{wire: newWire(conn.(*net.TCPConn)), name: name}
	l.clients = append(l.clients, c)
	if http2 {
		c.frames = newFrameWriter()
		c.say("preface", "settings")
		c.await(func(data []byte) bool { return len(data) > 9 })
		c.say("ack")
	}
	return c
}

// say sends frames.
func (c *lifeClient) say(list ...string) {
	var all string
	for _, f := range list {
		text, err := c.frames.frame(f)
		if err != nil {
			panic(err)
		}
		all += text
	}
	c.send(all)
}

func (c *lifeClient) await(done func(data []byte) bool) { c.until(lifePatience, done) }

func (c *lifeClient) got(text string) {
	c.await(func(data []byte) bool { return strings.Contains(string(data), text) })
}

// responses waits until so many streams have ended.
func (c *lifeClient) responses(n int) {
	c.await(func(data []byte) bool {
		_, ended := frames(data)
		return ended >= n
	})
}

// told is what the client has received, and whether its connection is open.
func (c *lifeClient) told() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	end := "open"
	switch {
	case c.err == io.EOF:
		end = "closed"
	case c.err != nil:
		end = "reset"
	}
	mask := func(s string) string {
		return serviceTime.ReplaceAllString(dateValue.ReplaceAllString(s, "<date>"), "${1}<ms>")
	}
	text := strconv.Quote(mask(string(c.data)))
	if c.frames != nil {
		lines, _ := frames(c.data)
		text = mask(strings.Join(lines, "\n  "))
	}
	return fmt.Sprintf("%s: %s, %s\n", c.name, text, end)
}

// live opens connections, does what how says, and talks on.
func (l *life) live(t *testing.T, how string) error {
	x := l.proxy
	x.upstreams.mu.Lock()
	x.upstreams.answers = nil
	x.upstreams.mu.Unlock()
	const page = "GET /page HTTP/1.1\r\nHost: h\r\n\r\n"
	request := func(id int, end string) string {
		return fmt.Sprintf("headers %d %s :method=GET :scheme=http :authority=h :path=/page%d", id, end, id)
	}
	fresh, used := l.open("fresh", "main", false), l.open("used", "main", false)
	inbound, half := l.open("inbound", "inbound", false), l.open("half", "main", false)
	socket := l.open("socket", "main", false)
	fresh2, used2 := l.open("HTTP/2, fresh", "main", true), l.open("HTTP/2, used", "main", true)
	inbound2, half2 := l.open("HTTP/2, inbound", "inbound", true), l.open("HTTP/2, half", "main", true)
	socket2 := l.open("HTTP/2, socket", "main", true)
	quiet2 := l.open("HTTP/2, used and quiet", "main", true)
	if len(l.clients) != 11 {
		return fmt.Errorf("cannot connect: %q", l.said)
	}
	for _, c := range []*lifeClient{used, inbound} {
		c.send(page)
		c.got("200 OK")
	}
	half.send("GET /half HTTP/1.1\r\nHo")
	socket.send("GET /socket HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	socket.got("\r\n\r\n")
	for _, c := range []*lifeClient{used2, inbound2, quiet2} {
		c.say(request(1, "end"))
		c.responses(1)
	}
	half2.say(request(1, ""), "data 1 half")
	socket2.say("headers 1 :method=CONNECT :protocol=websocket :scheme=http :authority=h :path=/socket", "data 1 hello")
	socket2.got("hello")

	l.begun = time.Now()
	if strings.HasPrefix(how, "/") {
		l.said = append(l.said, "answer: "+x.adminAnswer(t, "POST "+how))
	} else {
		sig := map[string]syscall.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP, "USR1": syscall.SIGUSR1}[how]
		if err := x.cmd.Process.Signal(sig); err != nil {
			return err
		}
	}
	wait := 300 * time.Millisecond // a thread tells the others
	if how == "TERM" || how == "INT" || how == "/quitquitquit" {
		wait = lifePatience
	}
	select {
	case <-x.exited:
		l.exited = true
		l.said = append(l.said, fmt.Sprintf("exit code %d", x.cmd.ProcessState.ExitCode()))
		return nil
	case <-time.After(wait):
	}
	for _, c := range []*lifeClient{fresh, used, inbound} {
		c.send(page)
	}
	socket.send("hello")
	socket.got("hello")
	fresh2.say(request(1, "end"))
	used2.say(request(3, "end"))
	used2.responses(2)
	inbound2.say(request(3, "end"))
	socket2.say("data 1 again", request(3, "end"))
	socket2.got("again")
	for _, listener := range []string{"main", "inbound"} {
		if c := l.open("new to "+listener, listener, false); c != nil {
			c.send(page)
			c.got("200 OK")
		}
		if c := l.open("HTTP/2, new to "+listener, listener, true); c != nil {
			c.say(request(1, "end"))
			c.responses(1)
			c.say(request(3, "end"))
		}
	}
	return nil
}

// settle waits until drained connections must be closed, as drain time, drain
// timeout and delayed close have passed, and nothing has changed for a while.
func (l *life) settle(t *testing.T) {
	const quiet = time.Second
	if l.exited {
		return
	}
	time.Sleep(time.Until(l.begun.Add(5500 * time.Millisecond)))
	last, since := "", time.Now()
	for deadline := time.Now().Add(lifePatience); time.Now().Before(deadline) && time.Since(since) < quiet; time.Sleep(100 * time.Millisecond) {
		if now := l.told(t); now != last {
			last, since = now, time.Now()
		}
	}
}

// later says which listeners still accept connections.
func (l *life) later() (text string) {
	for _, listener := range []string{"main", "inbound"} {
		c, err := net.DialTimeout("tcp", l.proxy.listeners[listener], nodiffPatience)
		if err == nil {
			c.Close()
		}
		text += fmt.Sprintf("later connection to %s: %t\n", listener, err == nil)
	}
	return text
}

// told is all that can be seen by now.
func (l *life) told(t *testing.T) string {
	x := l.proxy
	b := strings.Join(l.said, "\n") + "\n"
	if !l.exited {
		b += "ready: " + x.adminAnswer(t, "GET /ready") + "\n"
		b += "stats: " + x.adminAnswer(t, "GET /stats?filter=main.downstream_cx_(drain_close|delayed|destroy)|listener_stopped|server.live|total_listeners|goaway_sent") + "\n"
	}
	for _, c := range l.clients {
		b += c.told()
	}
	log := strings.Split(strings.TrimSpace(x.stdout.from(0)), "\n")
	slices.Sort(log)
	return b + "log:\n" + strings.Join(log, "\n") + "\n"
}

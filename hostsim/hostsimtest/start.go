package hostsimtest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"switchyard/hostsim"
)

// ServerOption is a setting of [Start].
type ServerOption func(*serverOptions)

type serverOptions struct {
	upstreams   []string
	replace     []string
	concurrency int
	level       slog.Level
	deadline    time.Duration
	memory      int64
}

// Upstreams are clusters whose endpoints become upstreams of the test, one for
// each cluster, which record what they receive; see [Upstream].
func Upstreams(clusters ...string) ServerOption {
	return func(o *serverOptions) { o.upstreams = append(o.upstreams, clusters...) }
}

// Replace replaces text in the bootstrap before it is read, such as the name
// of a plugin's file. Names of files begin in the directory of the test.
func Replace(old, new string) ServerOption {
	return func(o *serverOptions) { o.replace = append(o.replace, old, new) }
}

// Concurrency is the number of workers, otherwise 1.
func Concurrency(workers int) ServerOption {
	return func(o *serverOptions) { o.concurrency = workers }
}

// LogLevel is the least level that is logged, otherwise info. See [Server.Log].
func LogLevel(level slog.Level) ServerOption { return func(o *serverOptions) { o.level = level } }

// CallbackDeadline is how long a callback of a plugin may take before it counts
// as an endless loop, otherwise 10 s.
func CallbackDeadline(d time.Duration) ServerOption {
	return func(o *serverOptions) { o.deadline = d }
}

// VMMemory is the most memory, in bytes, that each VM may have, otherwise 1 GiB
// as in Envoy.
func VMMemory(bytes int64) ServerOption { return func(o *serverOptions) { o.memory = bytes } }

// Server is a running simulator. Its methods may be called from any goroutine.
type Server struct {
	t         T
	server    *hostsim.Server
	upstreams map[string]*Upstream
	log       *serverLog
	label     string // of its goroutines
}

// Start serves the bootstrap in a file until the test ends. Its listeners and
// its admin interface get free ports of 127.0.0.1. If Envoy would not start, or
// hostsim does not simulate what is in the bootstrap, the test ends with the
// reason; if something of the server is left afterwards, the test fails.
func Start(t T, file string, opts ...ServerOption) *Server {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return start(t, file, string(text), opts)
}

// StartYAML is Start for a bootstrap as text.
func StartYAML(t T, text string, opts ...ServerOption) *Server {
	t.Helper()
	return start(t, "bootstrap.yaml", text, opts)
}

// started tells servers apart.
var started atomic.Int64

func start(t T, name, text string, opts []ServerOption) *Server {
	t.Helper()
	o := serverOptions{deadline: 10 * time.Second}
	for _, opt := range opts {
		opt(&o)
	}
	config, err := hostsim.Parse(name, []byte(strings.NewReplacer(o.replace...).Replace(text)))
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, upstreams: map[string]*Upstream{}, log: &serverLog{lines: &lines{}, level: o.level, component: "main"}}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log("what the server logged:\n" + strings.Join(s.Log(), "\n"))
		}
	})
	s.label = strconv.FormatInt(started.Add(1), 10)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	pprof.Do(ctx, pprof.Labels(leakLabel, s.label), func(ctx context.Context) {
		t.Cleanup(func() { awaitNone(t, s.label) })
		t.Cleanup(func() {
			stop()
			if s.server != nil {
				<-served
				s.server.Close()
			}
			for _, u := range s.upstreams {
				u.close()
			}
		})
		if err := s.place(config.Bootstrap(), o.upstreams); err != nil {
			t.Fatal(err)
		}
		server, err := hostsim.New(ctx, config, hostsim.Options{Concurrency: o.concurrency, CacheDir: cacheDir(), Logger: slog.New(s.log),
			WasmDeadline: o.deadline, WasmMemory: o.memory})
		if err != nil {
			t.Fatal(err)
		}
		s.server = server
		go func() { served <- server.Serve(ctx) }()
	})
	return s
}

// place gives the bootstrap free ports, and the upstreams of the test.
func (s *Server) place(b *bootstrapv3.Bootstrap, upstreams []string) error {
	free := func(a *corev3.Address) {
		if sa := a.GetSocketAddress(); sa != nil {
			sa.Address, sa.PortSpecifier = "127.0.0.1", &corev3.SocketAddress_PortValue{}
		}
	}
	free(b.GetAdmin().GetAddress())
	for _, l := range b.GetStaticResources().GetListeners() {
		free(l.GetAddress())
	}
	clusters := map[string]*clusterv3.Cluster{}
	var names []string
	for _, c := range b.GetStaticResources().GetClusters() {
		clusters[c.GetName()] = c
		names = append(names, c.GetName())
	}
	for _, name := range upstreams {
		c := clusters[name]
		switch {
		case c == nil:
			return fmt.Errorf("Upstreams: there is no cluster %q, but %q", name, names)
		case c.GetTransportSocket() != nil:
			return fmt.Errorf("Upstreams: cluster %q has a transport_socket, and upstreams of a test speak plain HTTP/1.1", name)
		}
		u, err := newUpstream(name)
		if err != nil {
			return err
		}
		s.upstreams[name] = u
		endpoints := 0
		for _, locality := range c.GetLoadAssignment().GetEndpoints() {
			for _, e := range locality.GetLbEndpoints() {
				if sa := e.GetEndpoint().GetAddress().GetSocketAddress(); sa != nil {
					endpoints++
					sa.Address, sa.PortSpecifier = "127.0.0.1", &corev3.SocketAddress_PortValue{PortValue: uint32(u.port())}
				}
			}
		}
		if endpoints == 0 {
			return fmt.Errorf("Upstreams: cluster %q has no endpoint with a socket_address", name)
		}
	}
	return nil
}

// Address is where the listener of that name listens, host:port. "" is for the
// first one.
func (s *Server) Address(listener string) string {
	s.t.Helper()
	for _, l := range s.server.Listeners() {
		if listener == "" || l.Name == listener {
			return l.Address.String()
		}
	}
	s.t.Fatalf("there is no listener %q", listener)
	return ""
}

// AdminAddress is where the admin interface listens, host:port.
func (s *Server) AdminAddress() string {
	s.t.Helper()
	a := s.server.AdminAddress()
	if a == nil {
		s.t.Fatal("the bootstrap has no admin interface")
	}
	return a.String()
}

// Dial connects to a listener. The connection is closed when the test ends.
func (s *Server) Dial(listener string) net.Conn {
	s.t.Helper()
	c, err := net.Dial("tcp", s.Address(listener))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// Upstream is the upstream of a cluster that [Upstreams] has named.
func (s *Server) Upstream(cluster string) *Upstream {
	s.t.Helper()
	u := s.upstreams[cluster]
	if u == nil {
		s.t.Fatalf("%q is not one of Upstreams", cluster)
	}
	return u
}

// Stat is the value of a counter or gauge, by Envoy's name, and 0 if there is
// none.
func (s *Server) Stat(name string) (value int64) {
	s.server.Stats.Each(func(have string, n int64) {
		if have == name {
			value = n
		}
	})
	return value
}

// Log are the lines that Envoy would have logged, as "level|component|message".
func (s *Server) Log() []string {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	return append([]string(nil), s.log.all...)
}

// lines are shared by the handlers of all components.
type lines struct {
	mu  sync.Mutex
	all []string
}

// serverLog is a slog.Handler.
type serverLog struct {
	*lines
	level     slog.Level
	component string
}

func (l *serverLog) Enabled(_ context.Context, level slog.Level) bool { return level >= l.level }
func (l *serverLog) WithGroup(string) slog.Handler                    { return l }

func (l *serverLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *l
	for _, a := range attrs {
		if a.Key == "component" {
			with.component = a.Value.String()
		}
	}
	return &with
}

func (l *serverLog) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, cmp.Or(levelNames[r.Level], r.Level.String())+"|"+l.component+"|"+r.Message)
	return nil
}

// leakLabel is a label of pprof that all goroutines of a server have, because
// each inherits it from that which has started it.
const leakLabel = "hostsimtest"

// awaitNone waits until no goroutine has the label, and fails the test if some
// stay.
func awaitNone(t T, label string) {
	t.Helper()
	var left []string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if left = labelled(label); len(left) == 0 {
			return
		}
	}
	t.Errorf("goroutines of the server are left:\n%s", strings.Join(left, "\n\n"))
}

// labelled are the stacks of goroutines with the label.
func labelled(label string) (stacks []string) {
	var b bytes.Buffer
	pprof.Lookup("goroutine").WriteTo(&b, 1)
	for stack := range strings.SplitSeq(b.String(), "\n\n") {
		if strings.Contains(stack, fmt.Sprintf("%q:%q", leakLabel, label)) {
			stacks = append(stacks, stack)
		}
	}
	return stacks
}

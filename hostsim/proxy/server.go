// Package proxy is the data plane: listeners, HTTP connection managers, filter
// chains, routes, clusters and tunnels, as Envoy runs them from the same
// bootstrap. It speaks HTTP/1.1 with code of its own, because what matters
// here (order, spelling, malformed input, bytes behind a handshake) is what
// net/http hides.
package proxy

import (
	"context"
	"crypto/sha256"
	"io"
	"log/slog"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/proto"

	"switchyard/hostsim/bootstrap"
	"switchyard/hostsim/vm"
)

// Options are what is not in the bootstrap.
type Options struct {
	// Concurrency is the number of workers: each has its own plugin VMs.
	// 0 means 1.
	Concurrency int
	// DrainTime is how long DrainListeners takes.
	DrainTime time.Duration
	// DrainAtOnce makes every response of that time end its connection,
	// instead of more and more of them (--drain-strategy).
	DrainAtOnce bool
	// CacheDir keeps compiled plugins from one start to the next; "" keeps
	// none.
	CacheDir string
	// Logger takes what Envoy writes to its log. nil drops it.
	Logger *slog.Logger
	// Stdout and Stderr are where access logs of /dev/stdout and /dev/stderr
	// go. nil drops them.
	Stdout, Stderr io.Writer
	// LogFlushInterval is how often access logs are written out. 0 means
	// each second.
	LogFlushInterval time.Duration
	// MemoryLimitPages and CallbackDeadline bound each plugin's VM; see
	// vm.EngineOptions.
	MemoryLimitPages uint32
	CallbackDeadline time.Duration

	harness *Harness // nil: there is a network
}

// Server is a data plane made from one bootstrap.
type Server struct {
	Stats Stats

	options       Options
	engine        *vm.Engine
	wasm          map[[sha256.Size]byte]*wasmFactory // by vm.PluginConfig.Key
	plugins       []*vm.Plugin
	pluginsByName map[string][]*vm.Plugin // whose stats have one name
	guestLog      *slog.Logger
	node          *corev3.Node

	expressions expressions
	callouts    callouts
	grpc        grpcClients
	answering   []*callout      // by thread: what is being told to a plugin
	logging     []*upstreamConn // by thread: of the stream whose end it hears of
	ticks       []*tickers
	threads     []sync.Mutex // see thread
	listeners   []*listener
	clusters    map[string]*cluster
	logs        map[string]*logFile
	conns       connections
	pipes       *pipes
	dateCache   atomic.Pointer[dateText]
	localIP     string
	// How many connections to upstreams there were.
	connectionIDs atomic.Uint64

	certificates []TLSCertificates

	http2Stats func() *http2Stats // downstream; Envoy makes them with the first connection

	stats  serverStats
	layers []runtimeLayer

	flushInterval time.Duration // of the stats
	drains        drains
	closing       chan struct{}
	closeOnce     sync.Once
	stop          context.CancelFunc // ends background work
}

// builder makes a Server from protos; path is always where in the YAML the
// proto stands.
type builder struct {
	ctx        context.Context
	background context.Context // until the server closes
	boot       *bootstrap.Bootstrap
	server     *Server
	clusters   map[string]bool
	guestLog   *guestLog
	runtime    runtimeValues
	deprecated int64 // uses of what is deprecated

	// Of the route configuration that is being built: how large the bodies of
	// direct responses may be, and whether clusters may be unknown.
	directBody int
	anyCluster bool

	withoutQuery bool // the format that is being built knows REQ_WITHOUT_QUERY

	began          time.Time
	listenerPrefix string // of the stats of the listener that is being built
	statPrefix     string // of the connection manager that is being built
}

func at(path, field string, i int) string { return index(path+"."+field, i) }
func index(path string, i int) string     { return path + "[" + strconv.Itoa(i) + "]" }

// New builds a data plane: it compiles and starts the plugins, resolves
// clusters and opens the listeners, but accepts nothing before Start.
// Errors name file, line and path of what is wrong.
func New(ctx context.Context, boot *bootstrap.Bootstrap, options Options) (*Server, error) {
	return build(ctx, boot, options, true)
}

// Validate does everything that New does but opening listeners.
func Validate(ctx context.Context, boot *bootstrap.Bootstrap, options Options) error {
	s, err := build(ctx, boot, options, false)
	if err == nil {
		s.Close()
	}
	return err
}

func build(ctx context.Context, boot *bootstrap.Bootstrap, options Options, listen bool) (*Server, error) {
	options.Concurrency = max(options.Concurrency, 1)
	if options.LogFlushInterval <= 0 {
		options.LogFlushInterval = time.Second
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if options.Stdout == nil {
		options.Stdout = io.Discard
	}
	if options.Stderr == nil {
		options.Stderr = io.Discard
	}
	background, stop := context.WithCancel(context.Background())
	s := &Server{
		options: options, clusters: map[string]*cluster{}, logs: map[string]*logFile{},
		localIP: localIP(), closing: make(chan struct{}), stop: stop, pipes: newPipes(),
	}
	s.http2Stats = sync.OnceValue(func() *http2Stats { return newHTTP2Stats(&s.Stats, "", false) })
	s.conns.open = map[*connection]struct{}{}
	b := &builder{began: time.Now(), ctx: ctx, background: background, boot: boot, server: s, clusters: map[string]bool{}}
	if err := b.build(listen); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (b *builder) build(listen bool) error {
	s := b.server
	s.node = &corev3.Node{}
	proto.Merge(s.node, b.boot.Proto().GetNode())
	s.node.UserAgentName = "envoy"
	if err := b.readRuntime("layered_runtime", b.boot.Proto().GetLayeredRuntime()); err != nil {
		return err
	}
	s.flushInterval = 5 * time.Second
	if d := b.boot.Proto().GetStatsFlushInterval(); d != nil {
		s.flushInterval = d.AsDuration()
	}
	if b.boot.Proto().GetStatsFlushOnAdmin() {
		s.flushInterval = math.MaxInt64
		s.Stats.onRead = true
	}
	if a := b.boot.Proto().GetAdmin().GetAddress(); a != nil {
		if _, err := b.listenAddress("admin.address", a); err != nil {
			return err
		}
	}
	static := b.boot.Proto().GetStaticResources()
	for i, c := range static.GetClusters() {
		path := at("static_resources", "clusters", i)
		if b.clusters[c.GetName()] {
			return b.boot.Errorf(path+".name", "cluster %q stands twice: give each its own name", c.GetName())
		}
		b.clusters[c.GetName()] = true
		cl, err := b.cluster(path, c)
		if err != nil {
			return err
		}
		s.clusters[cl.name] = cl
		if cl.resolver != nil {
			cl.resolver.run(b.background)
		}
	}
	taken := map[string]int{}
	for i, c := range static.GetListeners() {
		path := at("static_resources", "listeners", i)
		l, err := b.listener(path, c)
		if err != nil {
			return err
		}
		if c.GetAddress().GetSocketAddress().GetPortValue() != 0 {
			if earlier, is := taken[l.address]; is {
				return b.boot.Errorf(path+".address", "listeners[%d] has the address %s already", earlier, l.address)
			}
			taken[l.address] = i
		}
		s.listeners = append(s.listeners, l)
	}
	b.serverStats(len(s.clusters), len(s.listeners))
	if !listen {
		return nil
	}
	for i, l := range s.listeners {
		c := static.GetListeners()[i]
		path := at("static_resources", "listeners", i) + ".address.socket_address"
		var err error
		if c.GetBindToPort() != nil && !c.GetBindToPort().GetValue() {
			if l.unbound, err = net.ResolveTCPAddr("tcp", l.address); err != nil {
				return b.boot.Errorf(path, "%v", err)
			}
			continue
		}
		reusePort := canReusePort && (c.GetEnableReusePort() == nil || c.GetEnableReusePort().GetValue())
		if l.sockets, err = listenTCP(b.ctx, l.address, s.options.Concurrency, reusePort); err != nil {
			return b.boot.Errorf(path, "listener %q: cannot listen on %s: %v", l.name, l.address, plainListenError(err))
		}
	}
	return nil
}

// plainListenError cuts what the message says already.
func plainListenError(err error) error {
	if op, ok := err.(*net.OpError); ok {
		return op.Err
	}
	return err
}

func (b *builder) listener(path string, c *listenerv3.Listener) (*listener, error) {
	if c.GetAddress() == nil {
		return nil, b.boot.Errorf(path, "a listener needs an address")
	}
	address, err := b.listenAddress(path+".address", c.GetAddress())
	if err != nil {
		return nil, err
	}
	l := &listener{name: c.GetName(), address: address, server: b.server, most: -1}
	if key := "envoy.resource_limits.listener." + c.GetName() + ".connection_limit"; b.runtime[key] != nil {
		l.most = int64(b.runtime.number(key, math.MaxInt64))
	}
	l.inbound = c.GetTrafficDirection() == corev3.TrafficDirection_INBOUND
	l.modifyOnly = c.GetDrainType() == listenerv3.Listener_MODIFY_ONLY
	b.listenerPrefix = "listener." + listenerStatName(c) + "."
	l.stats = newListenerStats(&b.server.Stats, b.listenerPrefix, workerNames(b.server.options.Concurrency))
	b.server.Stats.zero(b.listenerPrefix, "extension_config_missing", "network_extension_config_missing")
	l.prefix = b.listenerPrefix
	chains := c.GetFilterChains()
	if c.GetDefaultFilterChain() != nil {
		chains = append(slices.Clone(chains), c.GetDefaultFilterChain())
	}
	l.metadata = c.GetMetadata()
	if l.accessLogs, err = b.accessLogs(path, "access_log", c.GetAccessLog()); err != nil {
		return nil, err
	}
	for i, chain := range chains {
		chainPath := at(path, "filter_chains", i)
		if i == len(c.GetFilterChains()) {
			chainPath = path + ".default_filter_chain"
		} else if j := slices.IndexFunc(chains[:i], func(earlier *listenerv3.FilterChain) bool {
			return sameMatch(earlier.GetFilterChainMatch(), chain.GetFilterChainMatch())
		}); j >= 0 {
			return nil, b.boot.Errorf(chainPath, "the same filter_chain_match as filter_chains[%d]: no connection could choose between them", j)
		}
		compiled, err := b.listenerChain(chainPath, chain)
		if err != nil {
			return nil, err
		}
		m := compiled.hcm
		m.listener, m.filterChain = c.GetName(), chain.GetName()
		m.bufferLimit = limitOf(c.GetPerConnectionBufferLimitBytes(), bufferLimit)
		m.listenerMetadata, m.chainMetadata, m.direction = c.GetMetadata(), chain.GetMetadata(), c.GetTrafficDirection()
		if i == len(c.GetFilterChains()) {
			l.defaultChain = compiled
		} else {
			l.chains = append(l.chains, compiled)
		}
	}
	if tcp := func(c *listenerChain) bool { return c.tcp != nil }; len(l.accessLogs) > 0 &&
		(slices.ContainsFunc(l.chains, tcp) || l.defaultChain != nil && tcp(l.defaultChain)) {
		return nil, b.boot.Unsupported(path+".access_log", "the access log of a listener with a tcp_proxy")
	}
	if err := b.listenerFilters(path, c, l); err != nil {
		return nil, err
	}
	if len(chains) == 0 {
		return nil, b.boot.Errorf(path, "listener %q has no filter chain: nothing could be answered", l.name)
	}
	return l, nil
}

// sameMatch compares what filter chains are chosen by; nothing is as good as an
// empty one.
func sameMatch(a, b *listenerv3.FilterChainMatch) bool {
	if a == nil {
		a = &listenerv3.FilterChainMatch{}
	}
	if b == nil {
		b = &listenerv3.FilterChainMatch{}
	}
	return proto.Equal(a, b)
}

// listenerStatName is the listener's name in stats: its address.
func listenerStatName(c *listenerv3.Listener) string {
	if c.GetStatPrefix() != "" {
		return c.GetStatPrefix()
	}
	sa := c.GetAddress().GetSocketAddress()
	address := net.JoinHostPort(sa.GetAddress(), strconv.Itoa(int(sa.GetPortValue())))
	return strings.ReplaceAll(address, ":", "_")
}

// listenAddress is socketAddress for what listens, which no name will do for.
func (b *builder) listenAddress(path string, a *corev3.Address) (string, error) {
	path += ".socket_address"
	address, err := b.socketAddress(path, a)
	if err == nil {
		if ip := a.GetSocketAddress().GetAddress(); net.ParseIP(ip) == nil {
			err = b.boot.Errorf(path+".address", "%q is no IP address: a listener does not look up names", ip)
		}
	}
	return address, err
}

// socketAddress gives host:port of an address.
func (b *builder) socketAddress(path string, a *corev3.Address) (string, error) {
	sa := a.GetSocketAddress()
	if sa == nil {
		return "", b.boot.Unsupported(path, "an address other than socket_address")
	}
	if sa.GetNamedPort() != "" {
		return "", b.boot.Unsupported(path+".named_port", "a named port")
	}
	return net.JoinHostPort(sa.GetAddress(), strconv.Itoa(int(sa.GetPortValue()))), nil
}

// Start accepts connections, in goroutines of its own.
func (s *Server) Start() {
	for _, l := range s.listeners {
		for worker := range l.sockets {
			go l.serve(worker)
		}
	}
	s.Stats.runHooks()
	go func() {
		tick := time.NewTicker(s.flushInterval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				s.Stats.Flush()
			case <-s.closing:
				return
			}
		}
	}()
}

// ListenerAddress is a listener by name and where it really listens.
type ListenerAddress struct {
	Name    string
	Address net.Addr
}

// Listeners are the listeners in the order of the bootstrap.
func (s *Server) Listeners() []ListenerAddress {
	var list []ListenerAddress
	for _, l := range s.listeners {
		address := l.unbound
		if address == nil {
			address = l.sockets[0].Addr()
		}
		list = append(list, ListenerAddress{l.name, address})
	}
	return list
}

// isClosing says whether Close was called.
func (s *Server) isClosing() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

// Close ends everything at once and waits until it has ended.
func (s *Server) Close() {
	s.closeOnce.Do(func() {
		s.drains.close()
		s.StopListeners(AllListeners)
		close(s.closing)
		s.conns.mu.Lock()
		for c := range s.conns.open { // first, so that nothing is said on their streams any more
			if h := c.frames.Load(); h != nil {
				h.close(errHTTP2Closed)
			}
		}
		for c := range s.conns.open {
			c.SetDeadline(past)
			c.Close()
			if up := c.stream.upstream.Load(); up != nil {
				up.Close()
			}
			if c.session != nil {
				c.session.outer.SetDeadline(past)
			}
		}
		s.conns.open = nil
		s.conns.mu.Unlock()
		s.conns.wg.Wait()
		s.callouts.close()
		s.grpc.close()
		s.pipes.close()
		s.stop()
		for _, c := range s.clusters {
			c.close()
		}
		for _, t := range s.ticks {
			t.close()
		}
		for _, p := range s.plugins {
			p.Close()
		}
		if s.engine != nil {
			s.engine.Close(context.Background())
		}
		for _, f := range s.logs {
			f.close()
		}
	})
}

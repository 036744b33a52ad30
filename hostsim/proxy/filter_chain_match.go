package proxy

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tls_inspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	networkwasmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/wasm/v3"
)

// This file is how a listener chooses one of its filter chains for a connection
// (filter_chain_manager_impl.cc), for which it may have to look at the client's
// first bytes.

// listenerChain is a filter chain with what it is chosen by.
type listenerChain struct {
	hcm     *hcm
	tcp     *tcpProxy        // nil: it ends in hcm
	filters []*wasmFactory   // before either
	tls     *transportSocket // nil: plain text

	// All of these have to match; an empty list and "" are any.
	ports                                []string // of the listener's side
	serverNames                          []string
	transport                            string   // "tls", "raw_buffer"
	protocols                            []string // of ALPN
	sourceType                           string   // "local", "external"
	sourcePorts                          []string
	destinations, directSources, sources []netip.Prefix
}

// any says that the chain takes every connection.
func (c *listenerChain) any() bool {
	return len(c.ports) == 0 && len(c.serverNames) == 0 && c.transport == "" && len(c.protocols) == 0 && c.sourceType == "" &&
		len(c.sourcePorts) == 0 && len(c.destinations) == 0 && len(c.directSources) == 0 && len(c.sources) == 0
}

// inspection is what a client's first bytes say.
type inspection struct {
	tls        bool
	serverName string
	protocols  []string
	read       []byte
}

// inspect reads a ClientHello, or as much as shows that there is none. (It is
// crypto/tls that parses it; the handshake is given up then.)
func inspect(c net.Conn, limit time.Duration) (*inspection, error) {
	i := &inspection{}
	if limit > 0 {
		c.SetReadDeadline(time.Now().Add(limit))
		defer c.SetReadDeadline(time.Time{})
	}
	recorder := &helloRecorder{Conn: c, seen: &i.read}
	err := tls.Server(recorder, &tls.Config{
		MinVersion: tls.VersionTLS10,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			i.tls, i.serverName, i.protocols = true, lower(hello.ServerName), hello.SupportedProtos
			return nil, errInspected
		},
	}).Handshake()
	if !i.tls && (recorder.err != nil || len(i.read) == 0) && !errors.As(err, new(tls.RecordHeaderError)) {
		return i, err
	}
	return i, nil
}

var errInspected = errors.New("all is known")

// helloRecorder keeps what is read and drops what is written.
type helloRecorder struct {
	net.Conn
	seen *[]byte
	err  error
}

func (r *helloRecorder) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	*r.seen = append(*r.seen, p[:n]...)
	if err != nil && (err != io.EOF || n == 0) {
		r.err = err
	}
	return n, err
}

func (r *helloRecorder) Write(p []byte) (int, error) { return len(p), nil }

// choose finds the chain for a connection: step by step, in each those chains
// that name what the connection has most specifically, and it never goes back;
// nil is none.
func (l *listener) choose(c *connection, i *inspection) *listenerChain {
	chains := l.chains
	narrow := func(of func(*listenerChain) []string, wanted ...string) bool {
		for _, want := range wanted {
			var some []*listenerChain
			for _, c := range chains {
				if has(of(c), want) {
					some = append(some, c)
				}
			}
			if len(some) > 0 {
				chains = some
				return true
			}
		}
		return false
	}
	within := func(of func(*listenerChain) []netip.Prefix, ip netip.Addr) bool {
		best := -1
		for _, c := range chains {
			best = max(best, longest(of(c), ip))
		}
		chains = slices.DeleteFunc(slices.Clone(chains), func(c *listenerChain) bool { return longest(of(c), ip) < best })
		return best >= 0
	}
	transport := "raw_buffer"
	if i.tls {
		transport = "tls"
	}
	local, remote := addrPortOf(c.local), addrPortOf(c.remote)
	if narrow(func(c *listenerChain) []string { return c.ports }, itoa(int(local.Port())), "") &&
		within(func(c *listenerChain) []netip.Prefix { return c.destinations }, local.Addr()) &&
		narrow(func(c *listenerChain) []string { return c.serverNames }, serverNames(i.serverName)...) &&
		narrow(func(c *listenerChain) []string { return []string{c.transport} }, transport, "") &&
		narrow(func(c *listenerChain) []string { return c.protocols }, append(slices.Clone(i.protocols), "")...) &&
		within(func(c *listenerChain) []netip.Prefix { return c.directSources }, remote.Addr()) &&
		narrow(func(c *listenerChain) []string { return []string{c.sourceType} }, sourceType(local.Addr(), remote.Addr()), "") &&
		within(func(c *listenerChain) []netip.Prefix { return c.sources }, remote.Addr()) &&
		narrow(func(c *listenerChain) []string { return c.sourcePorts }, itoa(int(remote.Port())), "") {
		return chains[0]
	}
	return l.defaultChain
}

func addrPortOf(address string) netip.AddrPort {
	a, _ := netip.ParseAddrPort(address)
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// longest is how long the longest prefix is that has an address; none at all
// has every one, as /0 does. Negative is none.
func longest(prefixes []netip.Prefix, ip netip.Addr) int {
	if len(prefixes) == 0 {
		return 0
	}
	best := -1
	for _, p := range prefixes {
		if p.Contains(ip) {
			best = max(best, p.Bits())
		}
	}
	return best
}

// sourceType says whether a client is on this machine
// (Utility::isSameIpOrLoopback).
func sourceType(local, remote netip.Addr) string {
	if remote == local || remote.IsLoopback() {
		return "local"
	}
	return "external"
}

// has says whether a list has an element; an empty list has "".
func has(list []string, element string) bool {
	for _, e := range list {
		if e == element {
			return true
		}
	}
	return len(list) == 0 && element == ""
}

// serverNames are what a name is looked up as: itself, wildcards from the
// longest to the shortest, and "" for any.
func serverNames(name string) []string {
	names := []string{name}
	for rest := name; rest != ""; {
		i := strings.IndexByte(rest, '.')
		if i < 0 {
			break
		}
		rest = rest[i+1:]
		names = append(names, "*."+rest)
	}
	if name != "" {
		names = append(names, "")
	}
	return names
}

// secureBy prepares an accepted connection: it chooses a filter chain and
// shakes hands. It says false where nothing more comes of it.
func (c *connection) secureBy(l *listener) (ok, byPeer bool) {
	if l.plain != nil {
		return true, false
	}
	seen := &inspection{}
	if l.inspects {
		var err error
		seen, err = inspect(c.Conn, l.inspectLimit)
		late := errors.Is(err, os.ErrDeadlineExceeded)
		if late {
			l.server.Stats.Stat(l.prefix + "downstream_pre_cx_timeout").Add(1)
		}
		switch {
		case err == nil:
			l.inspected(seen)
			if !seen.tls {
				c.failure = cmp.Or(firstRecord(seen.read), unreadableHello()).inspected()
			}
		case late && l.goesOn:
		default:
			resetIfPeeked(c.Conn, seen)
			return false, true
		}
	}
	c.serverName = seen.serverName
	chain := l.choose(c, seen)
	if chain == nil {
		c.unmatched = true
		l.server.Stats.Stat(l.prefix + "no_filter_chain_match").Add(1)
		resetIfPeeked(c.Conn, seen)
		return false, false
	}
	c.hcm, c.chain = chain.hcm, chain
	c.in.received, c.in.buffering = chain.hcm.stats.bytesReceived, chain.hcm.stats.bytesBuffered
	if chain.tls == nil {
		if len(seen.read) > 0 {
			c.in.buf = append(c.in.buf[:0], seen.read...)
			c.in.r, c.in.w = 0, len(seen.read)
			c.in.buf = c.in.buf[:cap(c.in.buf)]
		}
		return true, false
	}
	c.shaking = chain.tls
	c.hello = seen.read
	return true, false
}

// resetIfPeeked makes the close of a connection a reset if an inspector has seen
// something of it: Envoy has only peeked at that.
func resetIfPeeked(c net.Conn, seen *inspection) {
	if tcp, ok := c.(*net.TCPConn); ok && len(seen.read) > 0 {
		tcp.SetLinger(0)
	}
}

// shakeHands is the TLS handshake, after which the connection is one for HTTP.
func (c *connection) shakeHands() error {
	if c.shaking == nil {
		return nil
	}
	s, err := c.shaking.handshake(c.Conn.(*net.TCPConn), c.hello, 0)
	c.hello = nil
	if err != nil {
		if s != nil {
			c.secure, c.failure = s, err.Error()
		}
		return err
	}
	c.server.conns.mu.Lock() // Close may be looking
	c.Conn, c.in.conn, c.secure = s, s, s
	c.server.conns.mu.Unlock()
	c.peeker.secure, c.peeker.ahead = s, &c.in
	c.alpn = s.state.NegotiatedProtocol
	return nil
}

// inspected counts what tls_inspector found.
func (l *listener) inspected(i *inspection) {
	count := func(found bool, name string) {
		if found {
			name += "_found"
		} else {
			name += "_not_found"
		}
		l.server.Stats.Stat("tls_inspector." + name).Add(1)
	}
	l.server.Stats.Histogram("tls_inspector.bytes_processed").Record(uint64(len(i.read)))
	count(i.tls, "tls")
	if i.tls {
		count(i.serverName != "", "sni")
		count(len(i.protocols) > 0, "alpn")
	}
}

// ---- from the configuration

// networkFilters reads the filters of a chain, the last of which is a connection
// manager or tcp_proxy.
func (b *builder) networkFilters(path string, chain *listenerChain, list []*listenerv3.Filter) error {
	for i, f := range list {
		path := at(path, "filters", i) + ".typed_config"
		msg, err := b.boot.Unpack(f.GetTypedConfig(), path)
		if err != nil {
			return err
		}
		last := true
		switch c := msg.(type) {
		case *hcmv3.HttpConnectionManager:
			chain.hcm, err = b.hcm(path, c)
		case *tcpv3.TcpProxy:
			chain.tcp, chain.hcm, err = b.tcpProxy(path, c)
		case *networkwasmv3.Wasm:
			last = false
			var factory filterFactory
			if factory, err = b.wasm(path+".config", c.GetConfig()); err == nil {
				chain.filters = append(chain.filters, factory.(*wasmFactory))
			}
		default:
			err = b.boot.Unsupported(path, fmt.Sprintf("the network filter %s", msg.ProtoReflect().Descriptor().FullName()))
		}
		switch {
		case err != nil:
			return err
		case last && i < len(list)-1:
			return b.boot.Errorf(path, "terminal filter named %s must be the last filter in a network filter chain", f.GetName())
		case !last && i == len(list)-1:
			return b.boot.Errorf(path, "non-terminal filter named %s is the last filter in a network filter chain", f.GetName())
		}
	}
	if len(list) == 0 {
		return b.boot.Unsupported(path, "a filter chain without filters")
	}
	return nil
}

func (b *builder) listenerChain(path string, c *listenerv3.FilterChain) (*listenerChain, error) {
	chain := &listenerChain{}
	if err := b.networkFilters(path, chain, c.GetFilters()); err != nil {
		return nil, err
	}
	match := c.GetFilterChainMatch()
	chain.transport, chain.protocols = match.GetTransportProtocol(), match.GetApplicationProtocols()
	for i, name := range match.GetServerNames() {
		if strings.Contains(strings.TrimPrefix(name, "*."), "*") {
			return nil, b.boot.Errorf(at(path+".filter_chain_match", "server_names", i), "partial wildcards are not supported in server_names: %q", name)
		}
		chain.serverNames = append(chain.serverNames, lower(name))
	}
	if t := chain.transport; t != "" && t != "tls" && t != "raw_buffer" {
		return nil, b.boot.Unsupported(path+".filter_chain_match.transport_protocol", "the transport protocol "+strconv.Quote(t))
	}
	if p := match.GetDestinationPort(); p != nil {
		chain.ports = []string{itoa(int(p.GetValue()))}
	}
	for _, p := range match.GetSourcePorts() {
		chain.sourcePorts = append(chain.sourcePorts, itoa(int(p)))
	}
	switch match.GetSourceType() {
	case listenerv3.FilterChainMatch_SAME_IP_OR_LOOPBACK:
		chain.sourceType = "local"
	case listenerv3.FilterChainMatch_EXTERNAL:
		chain.sourceType = "external"
	}
	var err error
	path += ".filter_chain_match"
	if chain.destinations, err = b.prefixes(path+".prefix_ranges", match.GetPrefixRanges()); err != nil {
		return nil, err
	}
	if chain.directSources, err = b.prefixes(path+".direct_source_prefix_ranges", match.GetDirectSourcePrefixRanges()); err != nil {
		return nil, err
	}
	if chain.sources, err = b.prefixes(path+".source_prefix_ranges", match.GetSourcePrefixRanges()); err != nil {
		return nil, err
	}
	path = strings.TrimSuffix(path, ".filter_chain_match")
	chain.tls, err = b.downstreamTLS(path+".transport_socket", c.GetTransportSocket(), b.listenerPrefix)
	return chain, err
}

// listenerFilters reads which listener filters there are. Without tls_inspector
// nothing is known of a client's first bytes.
func (b *builder) listenerFilters(path string, c *listenerv3.Listener, l *listener) error {
	l.inspectLimit, l.goesOn = 15*time.Second, c.GetContinueOnListenerFiltersTimeout()
	if d := c.GetListenerFiltersTimeout(); d != nil {
		l.inspectLimit = d.AsDuration()
	}
	for i, f := range c.GetListenerFilters() {
		path := at(path, "listener_filters", i) + ".typed_config"
		msg, err := b.boot.Unpack(f.GetTypedConfig(), path)
		if err != nil {
			return err
		}
		if _, ok := msg.(*tls_inspectorv3.TlsInspector); !ok {
			return b.boot.Unsupported(path, "a listener filter other than tls_inspector")
		}
		l.inspects = true
	}
	if l.inspects {
		b.server.Stats.zero("tls_inspector.", "alpn_found", "alpn_not_found", "client_hello_too_large", "sni_found", "sni_not_found", "tls_found", "tls_not_found")
		b.server.Stats.Histogram("tls_inspector.bytes_processed")
	}
	if len(l.chains) == 1 && !l.inspects && l.chains[0].tls == nil && l.chains[0].any() {
		l.plain = l.chains[0]
	}
	return nil
}

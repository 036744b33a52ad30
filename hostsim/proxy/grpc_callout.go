package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"switchyard/hostsim/abi"
	"switchyard/hostsim/vm"
)

// rawCodec leaves messages as they are: plugins serialise them.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

// grpcClients are the connections for gRPC callouts, by cluster and host.
type grpcClients struct {
	mu    sync.Mutex
	conns map[string]*grpc.ClientConn
}

func (g *grpcClients) conn(cluster *cluster, address string) (*grpc.ClientConn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := cluster.name + " " + address
	if c := g.conns[key]; c != nil {
		return c, nil
	}
	secrecy := insecure.NewCredentials()
	if t := cluster.tls; t != nil {
		config := t.config.Clone()
		config.NextProtos, config.ServerName, config.InsecureSkipVerify = nil, t.sni, true // verify does it
		config.VerifyConnection = func(state tls.ConnectionState) error { return t.verify.check(&secure{}, &state, "", t.stats) }
		secrecy = credentials.NewTLS(config)
	}
	c, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(secrecy),
		grpc.WithAuthority(cluster.name), grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})), grpc.WithDisableServiceConfig())
	if err != nil {
		return nil, err
	}
	if g.conns == nil {
		g.conns = map[string]*grpc.ClientConn{}
	}
	g.conns[key] = c
	return c, nil
}

func (g *grpcClients) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.conns {
		c.Close()
	}
}

// grpcCallout is a gRPC call of a plugin. The worker's lock guards cancelled.
type grpcCallout struct {
	server    *Server
	worker    int
	stop      context.CancelFunc
	cancelled bool
	closed    bool // nothing more is sent

	mu      sync.Mutex
	pending [][]byte // messages to be sent; nil is their end
	wake    chan struct{}
}

// GRPC is vm.Callouts. It has connections of its own to the cluster's hosts.
func (s *Server) GRPC(worker int, call vm.GRPCCall, events vm.GRPCEvents) (vm.GRPCStream, abi.Status, string) {
	name := call.Service
	if s.clusters[name] == nil {
		service := &corev3.GrpcService{}
		if err := proto.Unmarshal([]byte(call.Service), service); err != nil || service.GetEnvoyGrpc().GetClusterName() == "" {
			return nil, abi.StatusParseFailure, quoted(name) + " is neither a cluster of the configuration nor a serialised GrpcService with envoy_grpc" + s.nearCluster(name)
		}
		name = service.GetEnvoyGrpc().GetClusterName()
	}
	cluster := s.clusters[name]
	if cluster == nil {
		return nil, abi.StatusInternalFailure, "cluster " + quoted(name) + " is not in the configuration" + s.nearCluster(name)
	}
	h := cluster.pick(choice{attempts: 1})
	if h == nil {
		return nil, abi.StatusInternalFailure, "cluster " + quoted(name) + " has no host"
	}
	if h := s.options.harness; h != nil && h.options.Callouts != nil {
		return h.options.Callouts.GRPC(worker, call, events)
	}
	conn, err := s.grpc.conn(cluster, h.dialAddress())
	if err != nil {
		return nil, abi.StatusInternalFailure, err.Error()
	}
	s.callouts.mu.Lock()
	defer s.callouts.mu.Unlock()
	if s.callouts.closed {
		return nil, abi.StatusInternalFailure, "the server is closing"
	}
	ctx, stop := context.WithCancel(s.callouts.background)
	if call.Timeout > 0 {
		ctx, stop = context.WithTimeout(s.callouts.background, call.Timeout)
	}
	md := metadata.MD{}
	for _, p := range call.Metadata {
		if name := lower(p[0]); name != "" && name[0] != ':' {
			md.Append(name, p[1])
		}
	}
	ctx = metadata.NewOutgoingContext(ctx, md)
	c := &grpcCallout{server: s, worker: worker, stop: stop, wake: make(chan struct{}, 1)}
	method := "/" + call.ServiceName + "/" + call.MethodName
	s.callouts.wg.Go(func() {
		defer stop()
		if call.Stream {
			c.stream(ctx, conn, method, events)
			return
		}
		var answer []byte
		err := conn.Invoke(ctx, method, &call.Message, &answer)
		c.tell(func() {
			if err != nil {
				closedBy(err, events)
				return
			}
			events.Message(answer)
		})
	})
	return c, abi.StatusOK, ""
}

func closedBy(err error, events vm.GRPCEvents) {
	st := grpcstatus.Convert(err)
	events.Closed(uint32(st.Code()), st.Message())
}

// tell calls f as the worker's thread would.
func (c *grpcCallout) tell(f func()) {
	thread := c.server.thread(c.worker)
	thread.Lock()
	defer thread.Unlock()
	if !c.cancelled {
		f()
	}
}

func (c *grpcCallout) stream(ctx context.Context, conn *grpc.ClientConn, method string, events vm.GRPCEvents) {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		c.tell(func() { closedBy(err, events) })
		return
	}
	var sender sync.WaitGroup
	sender.Go(func() { c.send(ctx, stream) })
	if md, err := stream.Header(); err == nil && md != nil {
		c.tell(func() { events.Initial(pairsOfMetadata(md)) })
	}
	for {
		var message []byte
		if err = stream.RecvMsg(&message); err != nil {
			break
		}
		c.tell(func() { events.Message(message) })
	}
	c.tell(func() { events.Trailing(pairsOfMetadata(stream.Trailer())) })
	c.tell(func() {
		if errors.Is(err, io.EOF) {
			events.Closed(0, "")
			return
		}
		closedBy(err, events)
	})
	c.stop()
	sender.Wait()
}

// send sends what the plugin gives, until it says that this is all.
func (c *grpcCallout) send(ctx context.Context, stream grpc.ClientStream) {
	for {
		c.mu.Lock()
		pending := c.pending
		c.pending = nil
		c.mu.Unlock()
		for _, message := range pending {
			if message == nil {
				stream.CloseSend()
				return
			}
			if stream.SendMsg(&message) != nil {
				return
			}
		}
		select {
		case <-c.wake:
		case <-ctx.Done():
			return
		}
	}
}

func (c *grpcCallout) queue(message []byte) {
	c.mu.Lock()
	c.pending = append(c.pending, message)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Send is vm.GRPCStream.
func (c *grpcCallout) Send(message []byte, endStream bool) {
	if c.closed {
		return
	}
	if message == nil {
		message = []byte{}
	}
	c.queue(message)
	if endStream {
		c.CloseSend()
	}
}

// CloseSend is vm.GRPCStream.
func (c *grpcCallout) CloseSend() {
	if !c.closed {
		c.closed = true
		c.queue(nil)
	}
}

// Cancel is vm.GRPCStream.
func (c *grpcCallout) Cancel() {
	c.cancelled = true
	c.stop()
}

func pairsOfMetadata(md metadata.MD) (pairs abi.Pairs) {
	pairs = abi.Pairs{}
	for name, values := range md {
		for _, value := range values {
			pairs = append(pairs, [2]string{name, value})
		}
	}
	slices.SortStableFunc(pairs, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) }) // their order is lost
	return pairs
}

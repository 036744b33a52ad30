package proxy

import (
	"context"
	"net"
)

// listenTCP opens the listening sockets of n workers. With reusePort each has its
// own, among which the kernel shares connections out, as with Envoy's
// enable_reuse_port; without it they accept from the same one.
func listenTCP(ctx context.Context, address string, n int, reusePort bool) ([]net.Listener, error) {
	var config net.ListenConfig
	if reusePort {
		config.Control = setReusePort
	}
	var sockets []net.Listener
	for range n {
		if !reusePort && len(sockets) > 0 {
			sockets = append(sockets, sockets[0])
			continue
		}
		socket, err := config.Listen(ctx, "tcp", address)
		if err != nil {
			for _, s := range sockets {
				s.Close()
			}
			return nil, err
		}
		sockets = append(sockets, socket)
		address = socket.Addr().String() // port 0 is the same port for all
	}
	return sockets, nil
}

//go:build !linux

package proxy

import (
	"io"
	"net"
	"time"
)

// awaitPeerClose waits until the peer has closed its side, for as long as
// given at most, and says whether it has. Without Linux's epoll it has to read what still comes.
func awaitPeerClose(c net.Conn, most time.Duration) bool {
	c.SetReadDeadline(time.Now().Add(most))
	_, err := io.Copy(io.Discard, c)
	return err == nil
}

package proxy

import (
	"net"
	"syscall"
	"time"
)

// awaitPeerClose waits until the peer has closed its side, for as long as
// given at most, and says whether it has. It reads nothing: as with Envoy, what the peer still sends
// makes the final close a reset.
func awaitPeerClose(c net.Conn, most time.Duration) bool {
	sc, ok := socketOf(c).(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	poll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return false
	}
	defer syscall.Close(poll)
	watched := false
	raw.Control(func(fd uintptr) {
		event := syscall.EpollEvent{Events: syscall.EPOLLRDHUP, Fd: int32(fd)}
		watched = syscall.EpollCtl(poll, syscall.EPOLL_CTL_ADD, int(fd), &event) == nil
	})
	deadline := time.Now().Add(most)
	for watched {
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		events := make([]syscall.EpollEvent, 1)
		n, err := syscall.EpollWait(poll, events, int(left.Milliseconds())+1)
		if n > 0 || err != nil && err != syscall.EINTR {
			return n > 0
		}
	}
	return false
}

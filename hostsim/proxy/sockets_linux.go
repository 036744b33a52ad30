package proxy

import "syscall"

const canReusePort = true

func setReusePort(_, _ string, c syscall.RawConn) error {
	const reusePort = 15 // SO_REUSEPORT
	var err error
	if e := c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, reusePort, 1) }); e != nil {
		return e
	}
	return err
}

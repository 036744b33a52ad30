//go:build !linux

package proxy

import "syscall"

// canReusePort: Envoy too does it on Linux only.
const canReusePort = false

func setReusePort(_, _ string, _ syscall.RawConn) error { return nil }

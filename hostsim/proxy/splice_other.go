//go:build !linux

package proxy

import "net"

// Only Linux moves bytes between sockets without their coming here.
type splicer struct{}

func newSplicer(to, from net.Conn, pipes *pipes) *splicer { return nil }

func (s *splicer) move() (int, error) { return 0, errNoPipe }

type pipes struct{}

func newPipes() *pipes { return &pipes{} }

func (p *pipes) close() {}

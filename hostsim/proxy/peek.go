package proxy

import (
	"net"
	"syscall"
)

// peeked is what a look at a connection found.
type peeked int

const (
	nothing peeked = iota
	ended          // the peer has closed it
	noise          // the peer has sent something
)

// peeker looks at what a connection would give without reading it, and without
// waiting.
type peeker struct {
	raw  syscall.RawConn
	peek func(fd uintptr) // made once
	one  [1]byte
	seen peeked

	secure *secure // TLS, through which it looks
	ahead  *input  // ... and where what it finds goes
}

func (p *peeker) init(c net.Conn) error {
	p.peek = p.peekFD
	var err error
	p.raw, err = c.(syscall.Conn).SyscallConn()
	return err
}

func (p *peeker) look() peeked {
	p.seen = ended
	if p.secure != nil {
		p.seen = p.secure.look(p.ahead)
		return p.seen
	}
	if p.raw == nil { // a callout of a plugin
		return nothing
	}
	// Control, unlike Read, does not mind a deadline that has passed.
	p.raw.Control(p.peek) // fails where it is closed
	return p.seen
}

func (p *peeker) peekFD(fd uintptr) {
	switch n, _, err := syscall.Recvfrom(int(fd), p.one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT); {
	case err == syscall.EAGAIN:
		p.seen = nothing
	case n > 0:
		p.seen = noise
	}
}

// readAhead reads what has come already, as Envoy does in one turn of its event
// loop.
func (p *peeker) readAhead(in *input) {
	const most = 1 << 20 // Envoy's default of per_connection_buffer_limit_bytes
	if p.secure != nil {
		for len(in.buffered()) < most && p.secure.now(in) == nil {
		}
		return
	}
	for {
		n := 0
		p.raw.Control(func(fd uintptr) {
			in.room(len(in.buffered()) + bodyBuffer)
			n, _, _ = syscall.Recvfrom(int(fd), in.buf[in.w:], syscall.MSG_DONTWAIT)
		})
		if n <= 0 {
			return
		}
		in.noteRead(n)
		if in.w += n; len(in.buffered()) >= most {
			return
		}
	}
}

// drain reads and drops what has come already, up to most bytes.
func (p *peeker) drain(most int) {
	if p.secure != nil {
		return
	}
	p.raw.Control(func(fd uintptr) {
		buf := make([]byte, 64<<10)
		for most > 0 {
			n, _, err := syscall.Recvfrom(int(fd), buf, syscall.MSG_DONTWAIT)
			if n <= 0 || err != nil {
				break
			}
			most -= n
		}
	})
}

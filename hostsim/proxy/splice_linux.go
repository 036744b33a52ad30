package proxy

import (
	"io"
	"net"
	"syscall"
)

// A splicer moves bytes from one TCP connection to another inside the kernel,
// through a pipe that it holds only while bytes move: an idle tunnel has none.
//
// It calls splice(2) itself, and without telling Go's scheduler, because
// neither socket nor pipe can block. io.Copy splices too, but there the
// scheduler takes a call of some 20 us for one that blocks and wakes another
// thread, which made a tunnel cost half as much again (BenchmarkProxies).
type splicer struct {
	from, to syscall.RawConn
	pipes    *pipes
	pipe     pipe
	moved    int // into the pipe
	left     int // of that in the pipe
	err      error
	in, out  func(fd uintptr) (done bool) // made once
}

// newSplicer returns nil if either connection is not a socket of the kernel.
func newSplicer(to, from net.Conn, pipes *pipes) *splicer {
	src, ok := from.(*net.TCPConn)
	dst, ok2 := to.(*net.TCPConn)
	if !ok || !ok2 {
		return nil
	}
	s := &splicer{pipes: pipes}
	var err, err2 error
	s.from, err = src.SyscallConn()
	s.to, err2 = dst.SyscallConn()
	if err != nil || err2 != nil {
		return nil
	}
	s.in, s.out = s.fill, s.drain
	return s
}

// mostSpliced is the most bytes that one call moves.
const mostSpliced = 256 << 10

// move waits for bytes and moves what is there. The error is io.EOF at the end
// of the stream, os.ErrDeadlineExceeded at from's deadline, errNoPipe when the
// process has no file descriptor left, or why one of the sockets broke.
func (s *splicer) move() (int, error) {
	s.moved, s.err = 0, nil
	if err := s.from.Read(s.in); err != nil {
		return 0, err
	}
	if s.err != nil {
		return 0, s.err
	}
	if s.moved == 0 {
		s.pipes.put(s.pipe)
		return 0, io.EOF
	}
	s.left = s.moved
	err := s.to.Write(s.out)
	if err == nil {
		err = s.err
	}
	if s.left > 0 {
		s.pipe.close() // nobody else may get what it still holds
	} else {
		s.pipes.put(s.pipe)
	}
	return s.moved - s.left, err
}

func (s *splicer) fill(fd uintptr) (done bool) {
	if s.pipe, s.err = s.pipes.get(); s.err != nil {
		return true
	}
	n, errno := splice(int(fd), s.pipe.w, mostSpliced)
	if errno == 0 {
		s.moved = n
		return true
	}
	s.pipes.put(s.pipe)
	if errno == syscall.EAGAIN {
		return false
	}
	s.err = errno
	return true
}

func (s *splicer) drain(fd uintptr) (done bool) {
	for s.left > 0 {
		n, errno := splice(s.pipe.r, int(fd), s.left)
		if errno == syscall.EAGAIN {
			return false
		}
		if errno != 0 {
			s.err = errno
			return true
		}
		s.left -= n
	}
	return true
}

func splice(from, to, most int) (int, syscall.Errno) {
	const moveNonblock = 1 | 2 // SPLICE_F_MOVE, SPLICE_F_NONBLOCK
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(most), moveNonblock)
		if errno != syscall.EINTR {
			return int(n), errno
		}
	}
}

// pipe is an empty pipe.
type pipe struct{ r, w int }

func (p pipe) close() {
	syscall.Close(p.r)
	syscall.Close(p.w)
}

// pipes keeps a few pipes for whoever needs one next.
type pipes struct{ free chan pipe }

// freePipes is how many wait at most: bytes move in few tunnels at a time.
const freePipes = 64

func newPipes() *pipes { return &pipes{free: make(chan pipe, freePipes)} }

func (p *pipes) get() (pipe, error) {
	select {
	case free := <-p.free:
		return free, nil
	default:
	}
	var fds [2]int
	if syscall.Pipe2(fds[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK) != nil {
		return pipe{}, errNoPipe
	}
	const setPipeSize = 1031 // F_SETPIPE_SZ; without the right to it the pipe stays small, and works
	syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(fds[0]), setPipeSize, mostSpliced)
	return pipe{r: fds[0], w: fds[1]}, nil
}

func (p *pipes) put(free pipe) {
	select {
	case p.free <- free:
	default:
		free.close()
	}
}

// close closes the pipes that wait, when no tunnel is left.
func (p *pipes) close() {
	for {
		select {
		case free := <-p.free:
			free.close()
		default:
			return
		}
	}
}

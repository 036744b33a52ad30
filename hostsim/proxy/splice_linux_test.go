package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
)

// socketPair is both ends of a TCP connection.
func socketPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestSplicerMovesEverythingAndHoldsNoPipe(t *testing.T) {
	client, from := socketPair(t)
	to, server := socketPair(t)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<17) // more than the sockets hold
	go func() {
		client.Write(sent)
		client.Close()
	}()
	received := make(chan []byte)
	go func() {
		all, _ := io.ReadAll(server)
		received <- all
	}()
	pipes := newPipes()
	defer pipes.close()
	s := newSplicer(to, from, pipes)
	total := 0
	for {
		n, err := s.move()
		total += n
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if free := len(pipes.free); free != 1 {
			t.Fatalf("between two moves %d pipes are free, want the one there is", free)
		}
	}
	to.Close()
	if got := <-received; !bytes.Equal(got, sent) || total != len(sent) {
		t.Errorf("got %d bytes, counted %d, want %d, or their order differs", len(got), total, len(sent))
	}
}

// What a pipe still holds when its tunnel breaks belongs to nobody else.
func TestSplicerDropsPipeThatIsNotEmpty(t *testing.T) {
	client, from := socketPair(t)
	to, _ := socketPair(t)
	if _, err := client.Write([]byte("secret")); err != nil {
		t.Fatal(err)
	}
	to.(*net.TCPConn).CloseWrite()
	pipes := newPipes()
	defer pipes.close()
	if n, err := newSplicer(to, from, pipes).move(); n != 0 || err == nil {
		t.Errorf("got %d, %v from a socket that takes nothing more", n, err)
	}
	if free := len(pipes.free); free != 0 {
		t.Errorf("%d pipes are free, want none", free)
	}
}

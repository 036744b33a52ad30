//go:build world

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"
)

// An echoServer is a server of coder/websocket as the upstream websocket. It
// speaks the subprotocol v1.echo and permessage-deflate, sends messages back,
// and closes with code CODE when it gets the text "close CODE". Behind /hello/
// it speaks first, and hangs up.
type echoServer struct {
	upstreams *upstreams
	addr      string

	mu     sync.Mutex
	stop   func()
	closed []int // the codes of close frames from clients
}

func startEchoServer(t *testing.T, u *upstreams) *echoServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &echoServer{upstreams: u, addr: l.Addr().String()}
	u.ports[8081] = l.Addr().(*net.TCPAddr).Port
	s.serve(l)
	t.Cleanup(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.stop()
	})
	return s
}

func (s *echoServer) serve(l net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	server := &http.Server{Handler: http.HandlerFunc(s.accept), BaseContext: func(net.Listener) context.Context { return ctx }}
	s.stop = func() {
		cancel() // ends the sockets, which the server knows nothing of any more
		server.Close()
	}
	go server.Serve(l)
}

// restart cuts every socket as a crash does, and comes back on the same port.
func (s *echoServer) restart() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		return err
	}
	s.serve(l)
	return nil
}

func (s *echoServer) accept(w http.ResponseWriter, r *http.Request) {
	var fields []string
	for name, values := range r.Header {
		for _, value := range values {
			fields = append(fields, name+": "+value)
		}
	}
	s.upstreams.record("websocket", head{fmt.Sprintf("%s %s %s", r.Method, r.RequestURI, r.Proto), fields})
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols: []string{"v1.echo"}, CompressionMode: websocket.CompressionContextTakeover, InsecureSkipVerify: true,
	})
	if err != nil {
		return // Accept answered; the client sees it
	}
	defer c.CloseNow()
	c.SetReadLimit(1 << 20)
	if strings.HasPrefix(r.URL.Path, "/hello/") {
		_ = c.Write(r.Context(), websocket.MessageText, []byte("hello"))
		return
	}
	for {
		typ, message, err := c.Read(r.Context())
		if code := websocket.CloseStatus(err); code > 0 {
			s.mu.Lock()
			s.closed = append(s.closed, int(code))
			s.mu.Unlock()
		}
		if err != nil {
			return
		}
		if code, ok := strings.CutPrefix(string(message), "close "); ok {
			n, _ := strconv.Atoi(code)
			_ = c.Close(websocket.StatusCode(n), "as you wish")
			return
		}
		if err := c.Write(r.Context(), typ, message); err != nil {
			return
		}
	}
}

// closedWith returns the codes of the close frames that clients sent.
func (s *echoServer) closedWith() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]int{}, s.closed...)
}

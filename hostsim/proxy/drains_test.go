package proxy

import (
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// connectionField reads a response and returns its field Connection.
func connectionField(t *testing.T, c client) string {
	t.Helper()
	r, err := http.ReadResponse(c.Reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if b, err := io.ReadAll(r.Body); err != nil || r.StatusCode != 200 || string(b) != "ok" {
		t.Errorf("got %d %q, %v", r.StatusCode, b, err)
	}
	if r.Close {
		return "close"
	}
	return r.Header.Get("Connection")
}

// What stops is the accepting; connections stay, and nothing tells them to
// leave.
func TestListenersStop(t *testing.T) {
	up := newUpstream(t, ok)
	s, addr := serve(t, up.Addr().String(), "", "", "")
	c := dial(t, addr)
	c.send(get)
	wantResponse(t, c, 200, "ok")
	s.StopListeners(InboundListeners) // it is none of those
	other := dial(t, addr)
	for accepted := s.Stats.Stat("http.s.downstream_cx_total"); accepted.Value() < 2; {
		time.Sleep(time.Millisecond) // what is not accepted yet would be reset
	}
	s.StopListeners(AllListeners)
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("a listener that has stopped accepts connections")
	}
	for _, c := range []client{c, other} {
		c.send(get)
		if got := connectionField(t, c); got != "" {
			t.Errorf("Connection: %q", got)
		}
	}
	if got := s.Stats.Stat("listener_manager.listener_stopped").Value(); got != 1 {
		t.Errorf("listener_stopped is %d", got)
	}
}

// While health checks fail each response says that it is the last; what comes
// before the drain timeout is answered all the same.
func TestFailingHealthChecksDrainConnections(t *testing.T) {
	up := newUpstream(t, ok)
	s, addr := serve(t, up.Addr().String(), "drain_timeout: 0.2s\n          delayed_close_timeout: 0.1s", "", "")
	c := dial(t, addr)
	c.send(get)
	wantResponse(t, c, 200, "ok")
	s.FailHealthChecks(true)
	for range 2 {
		c.send(get)
		if got := connectionField(t, c); got != "close" {
			t.Errorf("Connection: %q, want close", got)
		}
	}
	wantEOF(t, c)
	if got := s.Stats.Stat("http.s.downstream_cx_drain_close").Value(); got != 1 {
		t.Errorf("drain_close is %d", got)
	}
	s.FailHealthChecks(false)
	c = dial(t, addr)
	c.send(get)
	if got := connectionField(t, c); got != "" {
		t.Errorf("Connection: %q after recovery", got)
	}
}

func TestDrainCloseByStrategy(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		name    string
		inbound bool
		what    Direction
		atOnce  bool
		left    time.Duration // of 10 s
		least   int           // of 1000
		most    int
	}{
		{"at the begin nothing", false, AllListeners, false, 10 * time.Second, 0, 0},
		{"half of the responses at half of the time", false, AllListeners, false, 5 * time.Second, 400, 600},
		{"all at the end", false, AllListeners, false, 0, 1000, 1000},
		{"all at once", false, AllListeners, true, 10 * time.Second, 1000, 1000},
		{"no other listeners than inbound ones", false, InboundListeners, true, 0, 0, 0},
		{"inbound ones", true, InboundListeners, true, 0, 1000, 1000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &Server{options: Options{DrainTime: 10 * time.Second, DrainAtOnce: tt.atOnce}}
			s.drains.what, s.drains.deadline = tt.what, now.Add(tt.left)
			s.drains.begun.Store(true)
			l := &listener{server: s, inbound: tt.inbound}
			n := 0
			for range 1000 {
				if l.drainClose(now) {
					n++
				}
			}
			if n < tt.least || n > tt.most {
				t.Errorf("%d of 1000", n)
			}
		})
	}
}

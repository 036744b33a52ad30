package main

import (
	"fmt"
	"net/http"
	"sync"

	"github.com/coder/websocket"
)

// upstreams are the applications behind the proxy. They remember which of them
// got which path.
type upstreams struct {
	mu   sync.Mutex
	seen map[string]string
}

func newUpstreams() *upstreams { return &upstreams{seen: map[string]string{}} }

// cluster returns which upstream got the path, "-" if none did.
func (u *upstreams) cluster(path string) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	if name, ok := u.seen[path]; ok {
		return name
	}
	return "-"
}

func (u *upstreams) saw(r *http.Request, name string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.seen[r.URL.Path] = name
}

// web answers every request with a line.
func (u *upstreams) web() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.saw(r, "web")
		fmt.Fprintf(w, "web: %s %q\n", r.Method, r.URL.Path)
	})
}

// websocket sends every message back.
func (u *upstreams) websocket() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.saw(r, "websocket")
		// The demo has no users to protect from pages of other origins.
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return // Accept has answered
		}
		defer c.CloseNow()
		for {
			kind, message, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if err := c.Write(r.Context(), kind, message); err != nil {
				return
			}
		}
	})
}

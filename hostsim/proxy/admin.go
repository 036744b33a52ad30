package proxy

import (
	"net"
	"strconv"
	"time"
)

// AdminRequest is a request to the admin interface.
type AdminRequest struct {
	Method      string
	Target      string // path and query, normalised
	ContentType string
	Body        []byte
}

// AdminResponse answers it.
type AdminResponse struct {
	Status      int
	ContentType string // "" is plain text
	Body        []byte
	First       [][2]string // fields before all others
	Then        func()      // called when the response is out; may be nil
}

// ServeAdmin answers the requests that come through socket with handler, until
// the server closes. The admin interface is a connection manager like any
// other, with stats of its own, whose terminal filter is handler.
func (s *Server) ServeAdmin(socket net.Listener, handler func(AdminRequest) AdminResponse) {
	m := &hcm{
		server: s, admin: handler, routes: &routeTable{}, chain: &filterChain{},
		http2: newHTTP2Options(nil), serverName: "envoy", maxHeaders: 100, maxHeadBytes: 60 << 10,
		normalizePath: true, mergeSlashes: true, remoteAddress: true, skipXFF: true,
		drainTimeout: 5 * time.Second, delayedClose: time.Second,
	}
	const prefix = "listener.admin."
	m.stats = newHCMStats(&s.Stats, "http.admin.", prefix)
	l := &listener{name: "admin", most: -1, server: s, plain: &listenerChain{hcm: m}, isAdmin: true, sockets: []net.Listener{socket}}
	l.stats = newListenerStats(&s.Stats, prefix, []string{"main_thread"})
	go l.serve(0)
	go func() {
		<-s.closing
		socket.Close()
	}()
}

// administrate gives the request to the admin interface.
func (s *stream) administrate() *localReply {
	const most = 1 << 20
	var body []byte
	for !s.body.done {
		s.conn.SetReadDeadline(time.Time{})
		piece, err := s.body.next()
		body = append(body, piece...)
		switch {
		case s.body.done:
		case err != nil:
			if _, malformed := err.(*codecError); malformed || err == errBody {
				return codecReply(err)
			}
			return s.left()
		case len(body) > most:
			return &localReply{status: 413, body: "Payload Too Large", details: "request_payload_too_large"}
		}
	}
	s.mu.Lock()
	s.requestComplete = time.Now()
	s.mu.Unlock()
	r := s.hcm.admin(AdminRequest{s.request.value(":method"), s.request.value(":path"), s.request.value("content-type"), body})
	h := &s.response
	h.reset(responseInline)
	h.insert(":status", itoa(r.Status))
	for _, f := range r.First {
		h.Add(f[0], f[1])
	}
	if r.ContentType == "" {
		r.ContentType = "text/plain; charset=UTF-8"
	}
	h.insert("content-type", r.ContentType)
	h.insert("cache-control", "no-cache, max-age=0")
	h.Add("x-content-type-options", "nosniff")
	s.mu.Lock()
	s.finishHead()
	s.mu.Unlock()
	if s.writeHead(false) {
		if len(r.Body) > 0 {
			s.conn.out = strconv.AppendInt(s.conn.out, int64(len(r.Body)), 16)
			s.conn.out = append(append(append(s.conn.out, "\r\n"...), r.Body...), "\r\n"...)
		}
		s.conn.out = append(s.conn.out, "0\r\n\r\n"...)
	} else if !s.head {
		s.conn.out = append(s.conn.out, r.Body...)
	}
	s.conn.flush()
	if r.Then != nil {
		r.Then()
	}
	return nil
}

package proxy

// This file is what is special about CONNECT: it opens a tunnel with any
// response of success, and a route with connect_config ends it here.

// connected says whether the response to a CONNECT opens the tunnel.
func (s *stream) connected() bool { return s.connect && s.status >= 200 && s.status < 300 }

// terminates says whether the host is to get what the CONNECT carries, and
// not the CONNECT.
func (s *stream) terminates(r *route) bool { return s.connect && r.terminates }

// answerOf gives the head of the upstream's response. A host that does not
// speak HTTP has agreed by accepting the connection.
func (s *stream) answerOf(r *route, up *upstreamConn) (status int, http11 bool, err error) {
	if !s.terminates(r) {
		return s.responseHead(up)
	}
	s.response.reset(responseInline)
	s.response.insert(":status", "200")
	return 200, true, nil
}

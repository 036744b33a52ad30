package proxy

// This file is the end of a request or response on its way through the
// filters: trailers, or an empty last piece of content.

// decodeEnd runs the end of the request through the filters and returns, when
// they have let it pass, the content that they had kept.
func (s *stream) decodeEnd() ([]byte, *localReply) {
	if s.requestTrailers.Len() == 0 {
		return s.decodeData(nil, true)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.decoding.finish()
	return s.awaitDecoded(true)
}

// encodeEnd is decodeEnd for the response.
func (s *stream) encodeEnd() ([]byte, *localReply) {
	if s.responseTrailers.Len() == 0 {
		return s.encodeData(nil, true)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.encoding.finish()
	return s.awaitEncoded(true)
}

package proxy

// This file is trailers on their way through the filters. They come instead of
// an empty last piece of content.

// decodeEnd runs the end of the request through the filters and returns the
// content that they had kept.
func (s *stream) decodeEnd() ([]byte, *localReply) {
	if s.requestTrailers.Len() == 0 {
		return s.decodeData(nil, true)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []byte
	for i, f := range s.filters {
		st := f.decodeTrailers()
		if s.local != nil {
			return nil, s.local
		}
		if st != goOn {
			if r := s.await(); r != nil {
				return nil, r
			}
		}
		var data []byte
		if f.takeHeld(&data); len(data) == 0 {
			continue
		}
		kept := false
		for _, next := range s.filters[i+1:] {
			if kept = next.decodeData(&data, false) != goOn; kept || s.local != nil {
				break
			}
		}
		if s.local != nil {
			return nil, s.local
		}
		if !kept {
			out = append(out, data...)
		}
	}
	return out, nil
}

// encodeEnd is decodeEnd for the response.
func (s *stream) encodeEnd() ([]byte, *localReply) {
	if s.responseTrailers.Len() == 0 {
		return s.encodeData(nil, true)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []byte
	for i := len(s.filters) - 1; i >= 0; i-- {
		f := s.filters[i]
		if f.encodeTrailers() != goOn {
			if r := s.await(); r != nil {
				return nil, r
			}
		}
		var data []byte
		if f.takeHeld(&data); len(data) == 0 {
			continue
		}
		kept := false
		for j := i - 1; j >= 0 && !kept; j-- {
			kept = s.filters[j].encodeData(&data, false) != goOn
		}
		if !kept {
			out = append(out, data...)
		}
	}
	return out, nil
}

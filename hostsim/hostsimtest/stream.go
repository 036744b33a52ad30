package hostsimtest

import (
	"strconv"

	"switchyard/hostsim/proxy"
)

// Stream is one request and its response at the plugin.
//
// It obeys Envoy's filter manager: a plugin that has stopped the stream gets
// nothing more, or all of the content at once, as the action says that it has
// returned, until it lets the stream go on.
type Stream struct {
	filter  *Filter
	harness *proxy.HarnessStream
	replies int
	// What the test has given already.
	request, response part
	ended             bool
}

// part is how far a test is with a message.
type part struct{ head, end bool }

// Stream begins a stream. The plugin hears of it with the request's headers,
// or at its end.
func (p *Filter) Stream() *Stream { return &Stream{filter: p, harness: p.harness.NewStream()} }

// Message is how far a request or a response has come.
type Message struct {
	Headers, Trailers Headers
	Held              string // content that the plugin holds back
	Passed            bool   // its headers have passed the plugin
	Ended             bool   // all of it has
}

// Request is how far the request has come.
func (s *Stream) Request() Message { return s.message(false) }

// Response is how far the response has come.
func (s *Stream) Response() Message { return s.message(true) }

func (s *Stream) message(response bool) Message {
	m := s.harness.Message(response)
	return Message{Headers(m.Headers), Headers(m.Trailers), string(m.Held), m.Head, m.End}
}

// Reply is the local response that the plugin has sent on this stream, or nil.
func (s *Stream) Reply() *Reply {
	replies := s.harness.Replies()
	if len(replies) == 0 {
		return nil
	}
	return reply(replies[0])
}

func reply(r proxy.HarnessReply) *Reply {
	return &Reply{r.Status, Headers(r.Headers), r.Body, r.Details, r.GRPCStatus}
}

// Reset says whether the stream has been ended without an answer:
// proxy_close_stream, or what makes Envoy crash.
func (s *Stream) Reset() bool { return s.harness.Reset() }

// step is one callback, or more.
func (s *Stream) step(callback string, response bool, f func()) *Effect {
	s.filter.t.Helper()
	if s.ended {
		s.filter.t.Fatalf("%s: the stream has ended", callback)
	}
	e := s.filter.step(f)
	e.Body = string(s.harness.Take(response))
	for _, c := range e.Callbacks {
		if c.Name == callback {
			n, _ := strconv.ParseUint(c.Result, 10, 32)
			e.Action = Action(n)
		}
	}
	if replies := s.harness.Replies(); len(replies) > s.replies {
		e.Reply = reply(replies[s.replies])
		s.replies = len(replies)
	}
	return e
}

// headers is a step with a header map.
func (s *Stream) headers(callback string, p *part, h Headers, end bool, f func()) *Effect {
	s.filter.t.Helper()
	if p.head {
		s.filter.t.Fatalf("%s: the headers were there already", callback)
	}
	p.head, p.end = true, end
	response := p == &s.response
	e := s.step(callback, response, f)
	e.Before, e.After = h, s.message(response).Headers
	return e
}

// RequestHeaders gives the request's headers to the plugin, with end if that
// is all of it. A route is found for them if they have :authority and :path.
func (s *Stream) RequestHeaders(h Headers, end bool) *Effect {
	s.filter.t.Helper()
	return s.headers("proxy_on_request_headers", &s.request, h, end, func() { s.harness.RequestHeaders(h, end) })
}

// ResponseHeaders gives the response's headers to the plugin, with end if that
// is all of it. After a local response there is no other one to give.
func (s *Stream) ResponseHeaders(h Headers, end bool) *Effect {
	s.filter.t.Helper()
	if s.Reply() != nil {
		s.filter.t.Fatal("proxy_on_response_headers: the plugin has answered the request itself")
	}
	return s.headers("proxy_on_response_headers", &s.response, h, end, func() { s.harness.ResponseHeaders(h, end) })
}

func (s *Stream) goesOn(callback string, p *part, end bool) {
	s.filter.t.Helper()
	switch {
	case !p.head:
		s.filter.t.Fatalf("%s: there were no headers yet", callback)
	case p.end:
		s.filter.t.Fatalf("%s: the message has ended", callback)
	}
	p.end = end
}

// RequestBody gives a piece of the request's content to the plugin, with end
// if it is the last. Over HTTP/1.1 Envoy tells of the end with an empty piece.
func (s *Stream) RequestBody(data string, end bool) *Effect {
	s.filter.t.Helper()
	s.goesOn("proxy_on_request_body", &s.request, end)
	return s.step("proxy_on_request_body", false, func() { s.harness.RequestBody([]byte(data), end) })
}

// ResponseBody is RequestBody for the response.
func (s *Stream) ResponseBody(data string, end bool) *Effect {
	s.filter.t.Helper()
	s.goesOn("proxy_on_response_body", &s.response, end)
	return s.step("proxy_on_response_body", true, func() { s.harness.ResponseBody([]byte(data), end) })
}

// RequestTrailers ends the request with trailers.
func (s *Stream) RequestTrailers(h Headers) *Effect {
	s.filter.t.Helper()
	s.goesOn("proxy_on_request_trailers", &s.request, true)
	e := s.step("proxy_on_request_trailers", false, func() { s.harness.RequestTrailers(h) })
	e.Before, e.After = h, s.Request().Trailers
	return e
}

// ResponseTrailers ends the response with trailers.
func (s *Stream) ResponseTrailers(h Headers) *Effect {
	s.filter.t.Helper()
	s.goesOn("proxy_on_response_trailers", &s.response, true)
	e := s.step("proxy_on_response_trailers", true, func() { s.harness.ResponseTrailers(h) })
	e.Before, e.After = h, s.Response().Trailers
	return e
}

// End ends the stream, however far it has come: proxy_on_log, proxy_on_done,
// proxy_on_delete.
func (s *Stream) End() *Effect {
	s.filter.t.Helper()
	e := s.step("proxy_on_done", false, s.harness.End)
	s.ended = true
	return e
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

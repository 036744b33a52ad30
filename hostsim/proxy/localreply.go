package proxy

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// This file is local_reply_config: in which words the proxy gives a reply of
// its own (Envoy's local_reply.cc).

// localReplies are the mappers, of which the first that holds counts, and the
// format of a body that none of them gives one.
type localReplies struct {
	mappers []replyMapper
	format  *substitution // nil: the body as it is
}

type replyMapper struct {
	filter  condition // nil: none, which never holds
	status  int       // 0: as it is
	body    *string   // nil: as it is
	format  *substitution
	headers headerEdit
}

// rewrite gives the reply that is sent in the place of r. The head has the
// status and the fields of r already.
func (l *localReplies) rewrite(r *localReply, s *stream) (status int, body, contentType string) {
	status, body, contentType = r.status, r.body, "text/plain"
	if l == nil {
		return status, body, contentType
	}
	format := l.format
	s.status = status // what filters and formats see
	for i := range l.mappers {
		m := &l.mappers[i]
		if m.filter == nil || !m.filter(s) {
			continue
		}
		if m.body != nil {
			body = *m.body
		}
		m.headers.apply(&s.response, s)
		if m.status != 0 {
			status = m.status
			s.status = status
			s.response.set(":status", itoa(status))
		}
		if m.format != nil {
			format = m.format
		}
		break
	}
	if format != nil {
		s.localBody = body
		body = format.text(s)
		if format.contentType != "" {
			contentType = format.contentType
		}
	}
	return status, body, contentType
}

// ---- from the configuration

func (b *builder) localReplies(path string, c *hcmv3.LocalReplyConfig) (*localReplies, error) {
	if c == nil {
		return nil, nil
	}
	l := &localReplies{}
	for i, c := range c.GetMappers() {
		m, err := b.replyMapper(at(path, "mappers", i), c)
		if err != nil {
			return nil, err
		}
		l.mappers = append(l.mappers, m)
	}
	var err error
	l.format, err = b.bodyFormat(path+".body_format", c.GetBodyFormat())
	return l, err
}

func (b *builder) replyMapper(path string, c *hcmv3.ResponseMapper) (m replyMapper, err error) {
	if m.filter, err = b.logFilter(path+".filter", c.GetFilter()); err != nil {
		return m, err
	}
	if m.filter == nil && c.GetFilter().GetFilterSpecifier() != nil {
		m.filter = func(*stream) bool { return true }
	}
	m.status = int(c.GetStatusCode().GetValue())
	if c.GetBody() != nil {
		text, err := b.dataSource(path+".body", c.GetBody())
		if err != nil {
			return m, err
		}
		m.body = &text
	}
	if m.format, err = b.bodyFormat(path+".body_format_override", c.GetBodyFormatOverride()); err != nil {
		return m, err
	}
	m.headers, err = b.headerEdit(path+".headers_to", c.GetHeadersToAdd(), nil)
	return m, err
}

// bodyFormat is a substitution that may not be there.
func (b *builder) bodyFormat(path string, c *corev3.SubstitutionFormatString) (*substitution, error) {
	if c == nil {
		return nil, nil
	}
	return b.substitution(path, c)
}

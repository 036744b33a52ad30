package proxy

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// This file judges the messages of HTTP/2 as Envoy's codec does (nghttp2,
// http2/codec_impl.cc): field by field while they are decoded, and as a whole.

// messageKind is what a header section is.
type messageKind int

const (
	requestSection messageKind = iota
	responseSection
	trailerSection
)

// messageCheck is what was seen of a header section so far.
type messageCheck struct {
	kind     messageKind
	connect  bool // the peer may send extended CONNECT
	most     int  // fields
	mostSize int  // of names and values

	underscores corev3.HttpProtocolOptions_HeadersWithUnderscoresAction
	stats       *http2Stats

	regular                                       bool // a field that is no pseudo header
	hasMethod, hasPath, hasScheme, hasAuthority   bool
	hasProtocol, hasHost, hasStatus, hasLength    bool
	isConnect, isOptions, isHead, pathOK, pathAny bool
	method, scheme, status                        string
	length                                        int64
	size                                          int
}

var (
	errHTTP2Field      = &http2Error{code: http2.ErrCodeProtocol, silent: true, details: "http2.invalid.header.field"}
	errHTTP2Message    = &http2Error{code: http2.ErrCodeProtocol, silent: true, details: "http2.violation.of.messaging.rule"}
	errHTTP2TooMany    = &http2Error{code: http2.ErrCodeInternal, stream: true, details: "http2.too_many_headers"}
	errHTTP2Underscore = &http2Error{code: http2.ErrCodeInternal, stream: true, details: "http2.unexpected_underscore"}
	errHTTP2TooLarge   = &http2Error{code: http2.ErrCodeInternal, stream: true, details: "http2.header_list_size_too_large"}
)

func (m *http2Message) begin(end bool, check messageCheck) {
	m.fields = m.fields[:0]
	m.size, m.end, m.err, m.refused, m.check = 0, end, nil, false, check
	m.check.length = -1
}

// informational says that it is the head of an interim response.
func (m *http2Message) informational() bool { return m.check.status != "" && m.check.status[0] == '1' }

// add takes a field from the decoder.
func (m *http2Message) add(f hpack.HeaderField) {
	if m.err != nil {
		return
	}
	keep, err := m.check.field(f.Name, f.Value)
	if err != nil {
		m.err = err
		return
	}
	c := &m.check
	if keep && strings.IndexByte(f.Name, '_') >= 0 {
		switch c.underscores {
		case corev3.HttpProtocolOptions_REJECT_REQUEST:
			c.stats.underscoresRejected.Add(1)
			m.err = errHTTP2Underscore
			return
		case corev3.HttpProtocolOptions_DROP_HEADER:
			c.stats.underscoresDropped.Add(1)
			keep = false
		}
	}
	if !keep {
		return
	}
	c.size += len(f.Name) + len(f.Value)
	switch {
	case c.size > c.mostSize:
		c.stats.tooLarge.Add(1)
		m.err = errHTTP2TooLarge
	case len(m.fields) >= c.most:
		c.stats.overflow.Add(1)
		m.err = errHTTP2TooMany
	default:
		m.fields = append(m.fields, field{f.Name, f.Value})
	}
}

// field judges one field (nghttp2_http_on_header).
func (c *messageCheck) field(name, value string) (keep bool, err *http2Error) {
	bad := func(ok bool) (bool, *http2Error) {
		if ok {
			return true, nil
		}
		return false, errHTTP2Field
	}
	if strings.HasPrefix(name, ":") {
		if c.regular || c.kind == trailerSection {
			return bad(false)
		}
		return bad(c.pseudo(name, value))
	}
	c.regular = true
	if !isLowerToken(name) {
		return bad(false)
	}
	if name == "host" && c.kind == requestSection {
		first := !c.hasHost
		c.hasHost = true
		return bad(first && validHTTP2Authority(value))
	}
	if !validHTTP2Value(value) {
		return bad(false)
	}
	switch name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		return bad(false)
	case "te":
		return bad(equalFold(value, "trailers"))
	case "content-length":
		if c.kind == trailerSection {
			return true, nil
		}
		if c.kind == responseSection {
			switch {
			case c.status == "204":
				if c.hasLength || value != "0" {
					return bad(false)
				}
				c.hasLength = true
				return false, nil
			case strings.HasPrefix(c.status, "1"):
				return bad(false)
			case c.isConnect && strings.HasPrefix(c.status, "2"):
				return false, nil
			}
		}
		n, ok := contentLength(value)
		if c.hasLength || !ok {
			return bad(false)
		}
		c.hasLength, c.length = true, n
	}
	return true, nil
}

// pseudo judges a pseudo header.
func (c *messageCheck) pseudo(name, value string) bool {
	first := func(seen *bool) bool {
		if *seen || value == "" {
			return false
		}
		*seen = true
		return true
	}
	if c.kind == responseSection {
		if name != ":status" || !first(&c.hasStatus) || value == "101" || len(value) != 3 || !isDigit(value[0]) || !isDigit(value[1]) || !isDigit(value[2]) {
			return false
		}
		c.status = value
		return true
	}
	switch name {
	case ":authority":
		return first(&c.hasAuthority) && validHTTP2Authority(value)
	case ":method":
		c.method = value
		c.isConnect, c.isOptions, c.isHead = value == "CONNECT", value == "OPTIONS", value == "HEAD"
		return first(&c.hasMethod) && isToken(value)
	case ":path":
		c.pathOK, c.pathAny = strings.HasPrefix(value, "/"), value == "*"
		return first(&c.hasPath) && validHTTP2Path(value)
	case ":scheme":
		c.scheme = value
		return first(&c.hasScheme) && validHTTP2Scheme(value)
	case ":protocol":
		return c.connect && first(&c.hasProtocol) && validHTTP2Value(value)
	}
	return false
}

// whole judges the section as a whole (nghttp2_http_on_request_headers and its
// like).
func (m *http2Message) whole() *http2Error {
	if m.err != nil {
		return m.err
	}
	c := &m.check
	ok := true
	switch c.kind {
	case requestSection:
		if c.isConnect && !c.hasProtocol {
			ok = !c.hasPath && !c.hasScheme && c.hasAuthority
			c.length = -1
			break
		}
		ok = c.hasMethod && c.hasPath && c.hasScheme && (c.hasAuthority || c.hasHost)
		if c.hasProtocol {
			ok = ok && c.isConnect && c.hasAuthority
			c.length = -1
		}
		if equalFold(c.scheme, "http") || equalFold(c.scheme, "https") {
			ok = ok && (c.pathOK || c.isOptions && c.pathAny)
		}
	case responseSection:
		ok = c.hasStatus && !(m.end && m.informational())
	case trailerSection:
		ok = m.end
	}
	if ok && m.end && c.length > 0 && c.kind == requestSection {
		ok = false
	}
	if !ok {
		return errHTTP2Message
	}
	return nil
}

func isLowerToken(s string) bool {
	for i := 0; i < len(s); i++ {
		if 'A' <= s[i] && s[i] <= 'Z' {
			return false
		}
	}
	return isToken(s)
}

func validHTTP2Value(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// validHTTP2Authority is nghttp2_check_authority.
func validHTTP2Authority(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !isAlpha(c) && !isDigit(c) && strings.IndexByte("!$%&'()*+,-.:;=@[]_~", c) < 0 {
			return false
		}
	}
	return true
}

// validHTTP2Path is nghttp2_check_path.
func validHTTP2Path(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c == 0x7f {
			return false
		}
	}
	return true
}

func validHTTP2Scheme(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !isAlpha(c) && (i == 0 || !isDigit(c) && c != '+' && c != '-' && c != '.') {
			return false
		}
	}
	return s != ""
}

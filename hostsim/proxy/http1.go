package proxy

import (
	"bytes"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"strconv"
	"strings"
	"unsafe"
)

// This file is the HTTP/1.1 codec. It gives filters what Envoy's codec gives
// them: names in lower case, lines in wire order, the malformed refused with
// the same status, and not one byte behind a head lost.

// codecError is a message that the codec refuses, with the local reply that
// Envoy gives to it.
type codecError struct {
	status  int
	details string // response code details
	empty   bool   // the reply has no body
}

func (e *codecError) Error() string { return e.details }

var (
	errParse          = &codecError{status: 400, details: "http1.codec_error"}
	errCharacters     = &codecError{status: 400, details: "http1.invalid_characters"}
	errHeadersTooBig  = &codecError{status: 431, details: "http1.headers_too_large"}
	errTooManyHeaders = &codecError{status: 431, details: "http1.too_many_headers"}
)

// input is the read side of a connection: a buffer that grows up to the
// largest head that is accepted.
type input struct {
	conn net.Conn
	buf  []byte // buf[r:w] is unread
	r, w int
	// How much of it holds no end of a head.
	scanned int
	begun   bool // the first message has
	// It is that of a connection to an upstream.
	responses bool
	// How much has been taken out of it, since it was made.
	consumed  int64
	received  *Stat // counts what is read, if it is not nil
	buffering *Stat // the sizes of the last reads of all connections: Envoy looks before it parses
	lastRead  int
}

const (
	initialBuffer = 4 << 10
	bodyBuffer    = 16 << 10
)

func (in *input) buffered() []byte { return in.buf[in.r:in.w] }

func (in *input) discard(n int) {
	in.scanned = 0
	in.r += n
	in.consumed += int64(n)
	if in.r == in.w {
		in.r, in.w = 0, 0
	}
}

// fill reads once, and makes room for at least want unread bytes first.
func (in *input) fill(want int) error {
	in.room(want)
	n, err := in.conn.Read(in.buf[in.w:])
	in.w += n
	if n > 0 {
		in.noteRead(n)
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// noteRead counts what was read.
func (in *input) noteRead(n int) {
	if in.received != nil {
		in.received.Add(int64(n))
		in.buffering.Add(int64(n - in.lastRead))
		in.lastRead = n
	}
}

// forgetRead ends the count, with the connection.
func (in *input) forgetRead() {
	if in.buffering != nil && in.lastRead > 0 {
		in.buffering.Add(int64(-in.lastRead))
		in.lastRead = 0
	}
}

// room makes room for at least want unread bytes, and for one to read.
func (in *input) room(want int) {
	if in.r > 0 && in.r == in.w {
		in.r, in.w = 0, 0
	}
	if len(in.buf)-in.r < want || in.w == len(in.buf) {
		if in.r > 0 {
			in.w = copy(in.buf, in.buf[in.r:in.w])
			in.r = 0
		}
		if len(in.buf) < want || in.w == len(in.buf) {
			grown := make([]byte, max(want, 2*len(in.buf), initialBuffer))
			copy(grown, in.buf[:in.w])
			in.buf = grown
		}
	}
}

// head returns a whole head with its empty line, if one is buffered, or else
// nil. The slice is valid until the next read. limit is in bytes.
//
// Envoy judges the first byte of the first request of a connection, and of
// every response, before its line is complete.
func (in *input) head(limit int, check func(first byte) bool) ([]byte, error) {
	// RFC 9112 2.2: empty lines before a request are skipped.
	for !in.responses && in.scanned == 0 && len(in.buffered()) > 0 && (in.buf[in.r] == '\r' || in.buf[in.r] == '\n') {
		in.discard(1)
	}
	b := in.buffered()
	if len(b) > 0 && in.scanned == 0 && (in.responses || !in.begun) {
		if !check(b[0]) {
			return nil, errParse
		}
		in.begun = true
	}
	n := headEnd(b, in.scanned)
	if max(n, len(b)) > limit && (n == 0 || n > limit) {
		return nil, errHeadersTooBig
	}
	if n == 0 {
		in.scanned = max(len(b)-3, 0)
		return nil, nil
	}
	return b[:n], nil
}

// readHead waits for a head.
func (in *input) readHead(limit int, check func(first byte) bool) ([]byte, error) {
	for {
		head, err := in.head(limit, check)
		if head != nil || err != nil {
			return head, err
		}
		if in.responses && !validStatusLine(in.buffered()) {
			return nil, errParse
		}
		if err := in.fill(len(in.buffered()) + 1); err != nil {
			if err == io.EOF && len(in.buffered()) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// headEnd returns the length of the head in b up to and with its empty line,
// or 0. A line may end in a bare LF (RFC 9112 2.2).
func headEnd(b []byte, from int) int {
	for i := from; ; {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			return 0
		}
		i += n + 1
		if i < len(b) && b[i] == '\n' {
			return i + 1
		}
		if i+1 < len(b) && b[i] == '\r' && b[i+1] == '\n' {
			return i + 2
		}
	}
}

// requestHead is a parsed request line; its header fields go to a Headers.
type requestHead struct {
	method, target, version string // no version is HTTP/0.9
}

func (r *requestHead) http11() bool { return r.version == "HTTP/1.1" }

// parseRequest parses a whole head. It lower-cases names in place, and the
// strings it makes are views of head, which must not change while they live.
// anyMethod is allow_custom_methods.
func parseRequest(head []byte, h *Headers, maxHeaders int, anyMethod bool) (requestHead, error) {
	var req requestHead
	lowerNames(head)
	text := unsafe.String(unsafe.SliceData(head), len(head))
	line, rest, _ := strings.Cut(text, "\n")
	req, ok := parseRequestLine(line, anyMethod)
	switch {
	case !validMethod(req.method, anyMethod):
		return req, errParse
	case ok && req.version == "" && validHead(line): // HTTP/0.9 has no fields
		return req, nil
	case !validHead(text):
		return req, errCharacters
	case !ok:
		return req, errParse
	}
	return req, parseFields(rest, h, maxHeaders)
}

func parseRequestLine(line string, anyMethod bool) (requestHead, bool) {
	method, line := nextWord(line)
	target, line := nextWord(line)
	version := strings.Trim(line, " \t\r")
	ok := validMethod(method, anyMethod) && validTarget(target, method == "CONNECT") && validVersion(version)
	return requestHead{method: method, target: target, version: version}, ok
}

func validMethod(m string, any bool) bool { return knownMethod(m) || any && isToken(m) }

// firstLine judges the request line of an incomplete head as soon as it is
// there. One of HTTP/0.9 is all of a head; then n is its length.
func firstLine(b []byte, anyMethod bool) (n int, ok bool) {
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		return 0, true
	}
	req, ok := parseRequestLine(string(b[:i]), anyMethod)
	if ok && req.version == "" {
		n = i + 1
	}
	return n, ok
}

// parseResponse parses the head of a response, as parseRequest does.
func parseResponse(head []byte, h *Headers, maxHeaders int) (status int, http11 bool, err error) {
	lowerNames(head)
	text := unsafe.String(unsafe.SliceData(head), len(head))
	if !validHead(text) {
		return 0, false, errCharacters
	}
	line, rest, _ := strings.Cut(text, "\n")
	version, status, ok := parseStatusLine(line)
	if !ok {
		return 0, false, errParse
	}
	// The number as it stands there, where that is its usual form: no memory.
	_, word, _ := strings.Cut(line, " ")
	if 100 <= status && status <= 999 && len(word) >= 3 && isDigit(word[0]) && word[0] != '0' && (len(word) == 3 || !isDigit(word[3])) {
		h.insert(":status", word[:3])
	} else {
		h.insert(":status", itoa(status))
	}
	return status, version == "HTTP/1.1", parseFields(rest, h, maxHeaders)
}

// parseStatusLine takes any number for a status, and keeps 16 bits of it, as
// Envoy does.
func parseStatusLine(line string) (version string, status int, ok bool) {
	version, line = nextWord(line)
	code, _ := nextWord(line)
	n, err := strconv.ParseUint(strings.TrimPrefix(code, "+"), 10, 64)
	return version, int(uint16(n)), validVersion(version) && version != "" && err == nil
}

// validStatusLine judges the status line of an incomplete head as soon as it
// is there.
func validStatusLine(b []byte) bool {
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		return true
	}
	_, _, ok := parseStatusLine(string(b[:i]))
	return ok
}

// nextWord cuts a word of a request or status line. Envoy takes any run of white space
// between words, also CR.
func nextWord(s string) (word, rest string) {
	s = strings.TrimLeft(s, " \t\r")
	if i := strings.IndexAny(s, " \t\r"); i >= 0 {
		return s[:i], s[i:]
	}
	return s, ""
}

// lowerNames lower-cases every field name of a head, before it becomes a
// string. The first line and folded lines are left alone.
func lowerNames(head []byte) {
	i := bytes.IndexByte(head, '\n') + 1
	for i < len(head) {
		if head[i] != ' ' && head[i] != '\t' {
			for j := i; j < len(head) && head[j] != ':' && head[j] != '\n'; j++ {
				if 'A' <= head[j] && head[j] <= 'Z' {
					head[j] += 'a' - 'A'
				}
			}
		}
		n := bytes.IndexByte(head[i:], '\n')
		if n < 0 {
			return
		}
		i += n + 1
	}
}

// parseFields parses the field lines of a head up to its empty line.
func parseFields(text string, h *Headers, maxHeaders int) error {
	for {
		line, rest, _ := strings.Cut(text, "\n")
		if line == "" || line == "\r" {
			return nil
		}
		name, value, colon := strings.Cut(line, ":")
		if !colon || !isToken(name) {
			return errParse
		}
		// A line that begins with SP or HTAB continues the value (obs-fold).
		for rest != "" && (rest[0] == ' ' || rest[0] == '\t') {
			more, after, _ := strings.Cut(rest, "\n")
			value += more // its CR goes below
			rest = after
		}
		value = strings.TrimSuffix(value, "\r")
		if strings.IndexByte(value, '\r') >= 0 {
			// Envoy's codec drops a bare CR before anyone can see it.
			value = strings.ReplaceAll(value, "\r", "")
		}
		value = strings.Trim(value, " \t")
		if len(h.fields) >= maxHeaders {
			return errTooManyHeaders
		}
		h.Add(name, value)
		text = rest
	}
}

var tokenChar = func() (t [256]bool) {
	for _, c := range "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" {
		t[c] = true
	}
	return t
}()

// isToken is RFC 9110 5.6.2.
func isToken(s string) bool {
	for i := 0; i < len(s); i++ {
		if !tokenChar[s[i]] {
			return false
		}
	}
	return s != ""
}

// validHead refuses control characters other than white space.
func validHead(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < ' ' || c == 0x7f) && c != '\r' && c != '\n' && c != '\t' {
			return false
		}
	}
	return true
}

// knownMethod holds the methods that Envoy's codec takes without
// allow_custom_methods.
func knownMethod(m string) bool {
	switch m {
	case "GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE",
		"ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "COPY", "LINK", "LOCK", "MERGE",
		"MKACTIVITY", "MKCALENDAR", "MKCOL", "MOVE", "MSEARCH", "NOTIFY", "PROPFIND", "PROPPATCH",
		"PURGE", "REBIND", "REPORT", "SEARCH", "SOURCE", "SUBSCRIBE", "UNBIND", "UNLINK", "UNLOCK", "UNSUBSCRIBE":
		return true
	}
	return false
}

// methodStart says whether a request may begin with c; Envoy refuses another
// byte at once, before the head is complete.
func methodStart(c byte) bool { return strings.IndexByte("ABCDGHLMNOPRSTU", c) >= 0 }

func statusStart(c byte) bool { return c == 'H' }

func validVersion(v string) bool {
	return v == "" || len(v) == 8 && v[:5] == "HTTP/" && isDigit(v[5]) && v[6] == '.' && isDigit(v[7])
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isAlpha(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// validTarget is Envoy's crude check of a request target (balsa_parser.cc,
// isUrlValid).
func validTarget(t string, connect bool) bool {
	if t == "" {
		return false
	}
	if t[0] == '/' || t[0] == '*' {
		return validPath(t[1:])
	}
	if !connect {
		if !isAlpha(t[0]) {
			return false
		}
		i := 1
		for i < len(t) && (isAlpha(t[i]) || isDigit(t[i]) || t[i] == '+' || t[i] == '-' || t[i] == '.') {
			i++
		}
		if !strings.HasPrefix(t[i:], "://") {
			return false
		}
		t = t[i+3:]
	}
	host, path := t, ""
	if i := strings.IndexAny(t, "/?"); i >= 0 {
		host, path = t[:i], t[i:]
	}
	for i := 0; i < len(host); i++ {
		if c := host[i]; !isAlpha(c) && !isDigit(c) && strings.IndexByte("!$%&'()*+,-.:;=@[]_~", c) < 0 {
			return false
		}
	}
	return !strings.Contains(host, "@@") && validPath(path)
}

func validPath(p string) bool {
	for i := 0; i < len(p); i++ {
		if c := p[i]; c != '\t' && c != '\f' && (c <= ' ' || c > '~') {
			return false
		}
	}
	return true
}

// bodyKind is how a message's body ends.
type bodyKind int

const (
	bodyNone bodyKind = iota
	bodyLength
	bodyChunked
	bodyUntilClose // a response without length, or a tunnel
	bodyStream     // the content of an HTTP/2 stream
)

var errBody = errors.New("malformed chunk")

// bodyReader reads a message's content from an input.
type bodyReader struct {
	in   *input
	kind bodyKind
	left int64 // bytes to go of the content (bodyLength) or the chunk
	tail bool  // the CRLF behind a chunk's data is still to come
	done bool

	trailers     *Headers // where they go; nil: they are dropped
	maxTrailers  int      // how many there may be
	trailerBytes int      // and of how many bytes
	inline       map[string]bool
	hcm          *hcm // whose rules for underscores they obey; nil: none
	trial        bool // it is read once more
}

func (b *bodyReader) reset(in *input, kind bodyKind, length int64) {
	*b = bodyReader{in: in, kind: kind, left: length, trailerBytes: 60 << 10, done: kind == bodyNone || kind == bodyLength && length == 0}
}

// next returns the next piece of content; it is valid until the next read.
// It returns io.EOF at the end of the content, having read everything of the
// message.
func (b *bodyReader) next() ([]byte, error) {
	for {
		if b.done {
			return nil, io.EOF
		}
		data, err := b.take()
		if len(data) > 0 || err != nil {
			return data, err
		}
		if b.done {
			continue
		}
		if err := b.in.fill(len(b.in.buffered()) + bodyBuffer); err != nil {
			if b.kind == bodyStream && err == io.EOF {
				continue
			}
			if b.kind == bodyStream {
				return nil, err
			}
			if b.kind == bodyUntilClose && !errors.Is(err, os.ErrDeadlineExceeded) {
				b.done = true
				return nil, io.EOF
			}
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// take returns what of the content is buffered already, without a read.
func (b *bodyReader) take() ([]byte, error) {
	if b.kind == bodyStream {
		return b.takeStream()
	}
	for !b.done {
		buf := b.in.buffered()
		if len(buf) == 0 {
			return nil, nil
		}
		if b.kind == bodyUntilClose {
			b.in.discard(len(buf))
			return buf, nil
		}
		if b.left > 0 {
			n := int(min(b.left, int64(len(buf))))
			b.left -= int64(n)
			if b.kind == bodyLength {
				b.done = b.left == 0
			} else {
				b.tail = b.left == 0
			}
			b.in.discard(n)
			return buf[:n], nil
		}
		// The rest is chunk framing (RFC 9112 7.1).
		if b.tail {
			// Envoy skips whatever stands before the line end.
			i := bytes.IndexByte(buf, '\n')
			if i < 0 {
				b.in.discard(len(buf))
				return nil, nil
			}
			b.in.discard(i + 1)
			b.tail = false
			continue
		}
		i := bytes.IndexByte(buf, '\n')
		if i < 0 {
			if len(buf) > 4096 || !chunkSizeStart(buf) {
				return nil, errBody
			}
			return nil, nil
		}
		size, ok := chunkSize(buf[:i])
		if !ok {
			return nil, errBody
		}
		if size > 0 {
			b.left = size
			b.in.discard(i + 1)
			continue
		}
		// The last chunk, and trailers up to an empty line.
		end := headEnd(buf, i)
		if most := b.trailerBytes; max(end, len(buf)) > most && (end == 0 || end > most) {
			return nil, errHeadersTooBig
		}
		if end == 0 {
			return nil, nil
		}
		if err := b.parseTrailers(buf[i:end]); err != nil {
			return nil, err
		}
		b.in.discard(end)
		b.done = true
	}
	return nil, nil
}

// parseTrailers reads a trailer section, which begins with the end of the line
// before. Without enable_trailers it is only checked.
func (b *bodyReader) parseTrailers(section []byte) error {
	var dropped Headers
	h, most := b.trailers, b.maxTrailers
	if h == nil {
		h, most = &dropped, math.MaxInt
	}
	h.reset(b.inline)
	section = bytes.Clone(section)
	lowerNames(section)
	text := string(section[1:])
	err := error(errCharacters)
	if validHead(text) {
		err = parseFields(text, h, most)
	}
	if err == nil && b.hcm != nil {
		err = b.hcm.judgeUnderscores(h, !b.trial)
	}
	if err != nil {
		h.reset(nil)
	}
	return err
}

// chunkSizeStart says whether a chunk-size line may begin so. Envoy does not
// wait for its end before it refuses one.
func chunkSizeStart(line []byte) bool {
	digits := 0
	for _, c := range line {
		switch {
		case isHex(c):
			if digits++; digits > 16 {
				return false
			}
		case c == ';' || c == ' ' || c == '\t' || c == '\r':
			return digits > 0
		default:
			return false
		}
	}
	return true
}

// chunkSize parses a chunk-size line without its LF; extensions are ignored.
// Unlike other lines it must end in CRLF.
func chunkSize(line []byte) (int64, bool) {
	line, ok := bytes.CutSuffix(line, []byte("\r"))
	if !ok || bytes.IndexByte(line, '\r') >= 0 {
		return 0, false
	}
	n, digits := int64(0), 0
	for _, c := range line {
		var d byte
		switch {
		case isDigit(c):
			d = c - '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			d = c | 0x20 - 'a' + 10
		case c == ';' || c == ' ' || c == '\t':
			return n, digits > 0
		default:
			return 0, false
		}
		if digits++; digits > 15 {
			return 0, false
		}
		n = n<<4 | int64(d)
	}
	return n, digits > 0
}

// contentLength parses a Content-Length value: digits only, and the same
// number throughout where lines were joined is refused as Envoy refuses it.
func contentLength(v string) (int64, bool) {
	if v == "" || len(v) > 18 {
		return 0, false
	}
	n := int64(0)
	for i := 0; i < len(v); i++ {
		if !isDigit(v[i]) {
			return 0, false
		}
		n = n*10 + int64(v[i]-'0')
	}
	return n, true
}

// encoding is how a codec writes heads.
type encoding struct {
	names    nameCase // of fields whose spelling nobody has kept
	absolute bool     // requests have an absolute-form target
	trailers bool     // are written
}

// appendRequest writes a request head. chunked says that the encoder adds
// Transfer-Encoding.
func (e *encoding) appendRequest(b []byte, h *Headers, chunked, zeroLength bool) []byte {
	b = append(b, h.value(":method")...)
	b = append(b, ' ')
	switch {
	case h.value(":method") == "CONNECT":
		b = append(b, h.value(":authority")...)
	case e.absolute:
		b = append(b, h.value(":scheme")...)
		b = append(b, "://"...)
		b = append(b, h.value(":authority")...)
		fallthrough
	default:
		b = append(b, h.value(":path")...)
	}
	b = append(b, " HTTP/1.1\r\n"...)
	return e.appendFields(b, h, chunked, zeroLength)
}

// appendResponse writes a response head.
func (e *encoding) appendResponse(b []byte, h *Headers, http11 bool, chunked, zeroLength bool) []byte {
	if http11 {
		b = append(b, "HTTP/1.1 "...)
	} else {
		b = append(b, "HTTP/1.0 "...)
	}
	status := h.value(":status")
	b = append(b, status...)
	b = append(b, ' ')
	b = append(b, h.reasonPhrase()...)
	b = append(b, "\r\n"...)
	return e.appendFields(b, h, chunked, zeroLength)
}

// appendFields writes the field lines of a head or a trailer section, and its
// empty line.
func (e *encoding) appendFields(b []byte, h *Headers, chunked, zeroLength bool) []byte {
	for _, f := range h.fields {
		name := f.name
		if name == ":authority" {
			name = "host"
		} else if name != "" && name[0] == ':' {
			continue
		}
		b = e.appendField(b, h, name, f.value)
	}
	if chunked {
		b = e.appendField(b, h, "transfer-encoding", "chunked")
	}
	if zeroLength {
		b = e.appendField(b, h, "content-length", "0")
	}
	return append(b, "\r\n"...)
}

func (e *encoding) appendField(b []byte, h *Headers, name, value string) []byte {
	b = e.names.append(b, h.spelling, name)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, "\r\n"...)
}

// appendEnd writes the last chunk.
func (e *encoding) appendEnd(b []byte, trailers *Headers) []byte {
	b = append(b, "0\r\n"...)
	if e.trailers {
		plain := encoding{} // whatever the codec does to names of a head
		return plain.appendFields(b, trailers, false, false)
	}
	return append(b, "\r\n"...)
}

func appendChunk(b, data []byte) []byte {
	b = strconv.AppendInt(b, int64(len(data)), 16)
	b = append(b, "\r\n"...)
	b = append(b, data...)
	return append(b, "\r\n"...)
}

// reasonPhrase is Envoy's CodeUtility::toString.
func reasonPhrase(status string) string {
	code, _ := strconv.Atoi(status)
	switch code {
	case 100:
		return "Continue"
	case 101:
		return "Switching Protocols"
	case 200:
		return "OK"
	case 201:
		return "Created"
	case 202:
		return "Accepted"
	case 203:
		return "Non-Authoritative Information"
	case 204:
		return "No Content"
	case 205:
		return "Reset Content"
	case 206:
		return "Partial Content"
	case 207:
		return "Multi-Status"
	case 208:
		return "Already Reported"
	case 226:
		return "IM Used"
	case 300:
		return "Multiple Choices"
	case 301:
		return "Moved Permanently"
	case 302:
		return "Found"
	case 303:
		return "See Other"
	case 304:
		return "Not Modified"
	case 305:
		return "Use Proxy"
	case 307:
		return "Temporary Redirect"
	case 308:
		return "Permanent Redirect"
	case 400:
		return "Bad Request"
	case 401:
		return "Unauthorized"
	case 402:
		return "Payment Required"
	case 403:
		return "Forbidden"
	case 404:
		return "Not Found"
	case 405:
		return "Method Not Allowed"
	case 406:
		return "Not Acceptable"
	case 407:
		return "Proxy Authentication Required"
	case 408:
		return "Request Timeout"
	case 409:
		return "Conflict"
	case 410:
		return "Gone"
	case 411:
		return "Length Required"
	case 412:
		return "Precondition Failed"
	case 413:
		return "Payload Too Large"
	case 414:
		return "URI Too Long"
	case 415:
		return "Unsupported Media Type"
	case 416:
		return "Range Not Satisfiable"
	case 417:
		return "Expectation Failed"
	case 421:
		return "Misdirected Request"
	case 422:
		return "Unprocessable Entity"
	case 423:
		return "Locked"
	case 424:
		return "Failed Dependency"
	case 426:
		return "Upgrade Required"
	case 428:
		return "Precondition Required"
	case 429:
		return "Too Many Requests"
	case 431:
		return "Request Header Fields Too Large"
	case 500:
		return "Internal Server Error"
	case 501:
		return "Not Implemented"
	case 502:
		return "Bad Gateway"
	case 503:
		return "Service Unavailable"
	case 504:
		return "Gateway Timeout"
	case 505:
		return "HTTP Version Not Supported"
	case 506:
		return "Variant Also Negotiates"
	case 507:
		return "Insufficient Storage"
	case 508:
		return "Loop Detected"
	case 510:
		return "Not Extended"
	case 511:
		return "Network Authentication Required"
	case 599:
		return "Last Unassigned Server Error Code"
	}
	return "Unknown"
}

package filter

import (
	"strconv"
	"unicode/utf8"
)

// Limits of a configuration. The nesting limit keeps the recursive reader from exhausting a small wasm stack.
const (
	maxConfigSize  = 256 << 10 // bytes
	maxConfigDepth = 32        // arrays and objects within each other
)

type jsonKind uint8

const (
	jsonNull jsonKind = iota
	jsonBool
	jsonNumber
	jsonString
	jsonArray
	jsonObject
)

// String names the kind for an error message.
func (k jsonKind) String() string {
	switch k {
	case jsonNull:
		return "null"
	case jsonBool:
		return "a boolean"
	case jsonNumber:
		return "a number"
	case jsonString:
		return "a string"
	case jsonArray:
		return "an array"
	default:
		return "an object"
	}
}

// jsonValue is a parsed JSON value. text is a string's content, or a number or literal as written.
type jsonValue struct {
	kind    jsonKind
	text    string
	items   []jsonValue
	members []jsonMember
}

type jsonMember struct {
	key   string
	value jsonValue
}

// parseJSON reads one JSON text, RFC 8259, and nothing behind it but whitespace.
//
// It takes nothing that the RFC's grammar does not allow, and refuses what the grammar allows but what no two readers agree
// on: duplicate keys, bytes that are not UTF-8, and unpaired surrogates. Errors are *ConfigError with line and column.
func parseJSON(text string) (jsonValue, error) {
	r := jsonReader{text: text}
	if len(text) > maxConfigSize {
		return jsonValue{}, &ConfigError{Problem: "longer than " + strconv.Itoa(maxConfigSize) + " bytes"}
	}
	v := r.value(0)
	r.space()
	if r.err == nil && r.pos < len(r.text) {
		r.fail("nothing more")
	}
	if r.err != nil {
		return jsonValue{}, r.err
	}
	return v, nil
}

// jsonReader holds a position and the first error; after an error it stands at the end, where every read fails.
type jsonReader struct {
	text string
	pos  int
	err  error
}

// fail records that something else was found than what is wanted here.
func (r *jsonReader) fail(want string) {
	found := "the end of the text"
	if r.pos < len(r.text) {
		c, size := utf8.DecodeRuneInString(r.text[r.pos:])
		if c == utf8.RuneError && size == 1 {
			found = "byte 0x" + strconv.FormatUint(uint64(r.text[r.pos]), 16)
		} else {
			found = strconv.QuoteToASCII(r.text[r.pos : r.pos+size])
		}
	}
	r.failAt(r.pos, "found "+found+", want "+want)
}

func (r *jsonReader) failAt(pos int, problem string) {
	if r.err == nil {
		e := &ConfigError{Line: 1, Problem: problem}
		start := 0
		for i := 0; i < pos; i++ {
			if r.text[i] == '\n' {
				e.Line++
				start = i + 1
			}
		}
		e.Column = utf8.RuneCountInString(r.text[start:pos]) + 1
		r.err = e
	}
	r.pos = len(r.text)
}

func (r *jsonReader) space() {
	for r.pos < len(r.text) {
		switch r.text[r.pos] {
		case ' ', '\t', '\n', '\r':
			r.pos++
		default:
			return
		}
	}
}

// peek returns the next byte, or 0 at the end. A NUL is no token of JSON, so the two need not be told apart.
func (r *jsonReader) peek() byte {
	if r.pos < len(r.text) {
		return r.text[r.pos]
	}
	return 0
}

func (r *jsonReader) take(c byte) bool {
	if r.peek() == c && r.pos < len(r.text) {
		r.pos++
		return true
	}
	return false
}

func (r *jsonReader) value(depth int) jsonValue {
	r.space()
	switch c := r.peek(); {
	case c == '{' || c == '[':
		if depth == maxConfigDepth {
			r.failAt(r.pos, "nested deeper than "+strconv.Itoa(maxConfigDepth)+" levels")
			return jsonValue{}
		}
		r.pos++
		if c == '{' {
			return r.object(depth + 1)
		}
		return r.array(depth + 1)
	case c == '"':
		return jsonValue{kind: jsonString, text: r.string()}
	case c == '-' || isDigit(c):
		return jsonValue{kind: jsonNumber, text: r.number()}
	case c == 't':
		return r.literal("true", jsonBool)
	case c == 'f':
		return r.literal("false", jsonBool)
	case c == 'n':
		return r.literal("null", jsonNull)
	}
	r.fail("a JSON value")
	return jsonValue{}
}

func (r *jsonReader) literal(word string, kind jsonKind) jsonValue {
	for i := 0; i < len(word); i++ {
		if !r.take(word[i]) {
			r.fail(word)
			return jsonValue{}
		}
	}
	return jsonValue{kind: kind, text: word}
}

func (r *jsonReader) array(depth int) jsonValue {
	v := jsonValue{kind: jsonArray}
	r.space()
	if r.take(']') {
		return v
	}
	for r.err == nil {
		v.items = append(v.items, r.value(depth))
		r.space()
		if r.take(']') {
			break
		}
		if !r.take(',') {
			r.fail(`"," or "]"`)
		}
	}
	return v
}

func (r *jsonReader) object(depth int) jsonValue {
	v := jsonValue{kind: jsonObject}
	seen := map[string]bool{}
	r.space()
	if r.take('}') {
		return v
	}
	for r.err == nil {
		r.space()
		start := r.pos
		if r.peek() != '"' {
			r.fail("a key in double quotes")
			break
		}
		key := r.string()
		if r.err == nil && seen[key] {
			r.failAt(start, "key "+strconv.Quote(key)+" stands here a second time")
			break
		}
		seen[key] = true
		r.space()
		if !r.take(':') {
			r.fail(`":"`)
			break
		}
		v.members = append(v.members, jsonMember{key, r.value(depth)})
		r.space()
		if r.take('}') {
			break
		}
		if !r.take(',') {
			r.fail(`"," or "}"`)
		}
	}
	return v
}

// number reads -? int frac? exp?, RFC 8259 6.
func (r *jsonReader) number() string {
	start := r.pos
	r.take('-')
	if !r.take('0') {
		r.digits()
	}
	if r.take('.') {
		r.digits()
	}
	if r.take('e') || r.take('E') {
		if !r.take('+') {
			r.take('-')
		}
		r.digits()
	}
	if r.err != nil {
		return ""
	}
	return r.text[start:r.pos]
}

func (r *jsonReader) digits() {
	if !isDigit(r.peek()) {
		r.fail("a digit")
	}
	for isDigit(r.peek()) {
		r.pos++
	}
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// string reads a string, RFC 8259 7, from its opening quote on.
func (r *jsonReader) string() string {
	r.pos++
	start := r.pos
	for r.pos < len(r.text) && r.text[r.pos] >= ' ' && r.text[r.pos] < utf8.RuneSelf && r.text[r.pos] != '\\' {
		if r.take('"') {
			return r.text[start : r.pos-1] // the common case: nothing to decode
		}
		r.pos++
	}
	b := []byte(r.text[start:r.pos])
	for r.pos < len(r.text) {
		switch c := r.text[r.pos]; {
		case c == '"':
			r.pos++
			return string(b)
		case c == '\\':
			b = r.escape(b)
		case c < ' ':
			r.fail("control characters escaped in a string")
		case c < utf8.RuneSelf:
			b = append(b, c)
			r.pos++
		default:
			c, size := utf8.DecodeRuneInString(r.text[r.pos:])
			if c == utf8.RuneError && size == 1 {
				r.fail("UTF-8")
				break
			}
			b = append(b, r.text[r.pos:r.pos+size]...)
			r.pos += size
		}
	}
	r.fail(`'"' at the end of the string`)
	return ""
}

// escape decodes the escape sequence at the position and appends it.
func (r *jsonReader) escape(b []byte) []byte {
	start := r.pos
	r.pos++
	switch c := r.peek(); c {
	case '"', '\\', '/':
		b = append(b, c)
	case 'b':
		b = append(b, '\b')
	case 'f':
		b = append(b, '\f')
	case 'n':
		b = append(b, '\n')
	case 'r':
		b = append(b, '\r')
	case 't':
		b = append(b, '\t')
	case 'u':
		r.pos++
		c := r.hex4()
		switch {
		case 0xdc00 <= c && c <= 0xdfff:
			r.failAt(start, "unpaired surrogate in a string")
		case 0xd800 <= c && c <= 0xdbff:
			if !r.take('\\') || !r.take('u') {
				r.failAt(start, "unpaired surrogate in a string")
				return b
			}
			low := r.hex4()
			if low < 0xdc00 || low > 0xdfff {
				r.failAt(start, "unpaired surrogate in a string")
				return b
			}
			c = 0x10000 + (c-0xd800)<<10 + (low - 0xdc00)
		}
		return utf8.AppendRune(b, c)
	default:
		r.fail(`an escape: one of "\/bfnrtu`)
		return b
	}
	r.pos++
	return b
}

func (r *jsonReader) hex4() rune {
	var c rune
	for range 4 {
		switch x := lower(r.peek()); {
		case isDigit(x):
			c = c<<4 | rune(x-'0')
		case 'a' <= x && x <= 'f':
			c = c<<4 | rune(x-'a'+10)
		default:
			r.fail("four hexadecimal digits")
			return 0
		}
		r.pos++
	}
	return c
}

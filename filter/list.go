package filter

import "strings"

// Elements walks the elements of a list-based field, RFC 9110 5.6.1, over all its field lines in order.
//
// Empty elements are skipped, OWS (SP and HTAB, nothing else) around an element is not part of it, and a comma always
// separates: neither Connection nor Upgrade knows quoted strings. Elements come as written, well-formed or not. The zero
// value has none. Walking allocates nothing.
type Elements struct {
	fields HeaderMap // lines not looked at yet
	name   string
	rest   string // of the current line
	inLine bool
}

// Elements returns a walk over the list elements of the fields with that name.
func (h HeaderMap) Elements(name string) Elements {
	return Elements{fields: h, name: name}
}

// Next returns the next element, which is never empty, or false at the end.
func (e *Elements) Next() (element string, ok bool) {
	for {
		for e.inLine {
			element = e.rest
			if comma := strings.IndexByte(element, ','); comma >= 0 {
				element, e.rest = element[:comma], element[comma+1:]
			} else {
				e.inLine = false
			}
			if element = trimOWS(element); element != "" {
				return element, true
			}
		}
		for !e.inLine {
			if len(e.fields) == 0 {
				return "", false
			}
			if equalFold(e.fields[0].Name, e.name) {
				e.rest, e.inLine = e.fields[0].Value, true
			}
			e.fields = e.fields[1:]
		}
	}
}

// ContainsToken reports whether the list-based field has that token among its elements, under ASCII case folding.
//
// Other elements do not matter, even ill-formed ones. It answers as httpguts.HeaderValuesContainsToken of golang.org/x/net
// does, for every token.
func (h HeaderMap) ContainsToken(name, token string) bool {
	for i := range h {
		if equalFold(h[i].Name, name) && lineContainsToken(h[i].Value, token) {
			return true
		}
	}
	return false
}

// lineContainsToken is ContainsToken for one field line. It cuts out no elements, but looks for the token where one begins.
func lineContainsToken(line, token string) bool {
	if token == "" {
		return false
	}
	first := lower(token[0])
	for len(line) >= len(token) {
		switch c := line[0]; {
		case c == ',' || isOWS(c):
			line = line[1:]
			continue
		case lower(c) == first && equalFold(line[:len(token)], token):
			rest := line[len(token):]
			for rest != "" && isOWS(rest[0]) {
				rest = rest[1:]
			}
			if rest == "" || rest[0] == ',' {
				return true
			}
		}
		comma := strings.IndexByte(line, ',')
		if comma < 0 {
			return false
		}
		line = line[comma+1:]
	}
	return false
}

// Protocol is an element of Upgrade, RFC 9110 7.8: protocol-name ["/" protocol-version], as it was written.
type Protocol struct{ Name, Version string }

// ParseProtocol parses one protocol-name ["/" protocol-version]; both are tokens. It reports whether s is one.
func ParseProtocol(s string) (p Protocol, ok bool) {
	name, version, found := strings.Cut(s, "/")
	if !isToken(name) || found && !isToken(version) {
		return Protocol{}, false
	}
	return Protocol{Name: name, Version: version}, true
}

// String returns the protocol as it stands in a field: name, or name/version.
func (p Protocol) String() string {
	if p.Version == "" {
		return p.Name
	}
	return p.Name + "/" + p.Version
}

// covers reports whether a rule that names p means the offered protocol: the same name and, where p has a version, the
// same version, under ASCII case folding.
func (p Protocol) covers(offered Protocol) bool {
	return equalFold(p.Name, offered.Name) && (p.Version == "" || equalFold(p.Version, offered.Version))
}

// isOWS reports whether c is optional whitespace, RFC 9110 5.6.3.
func isOWS(c byte) bool { return c == ' ' || c == '\t' }

func trimOWS(s string) string {
	for s != "" && isOWS(s[0]) {
		s = s[1:]
	}
	for s != "" && isOWS(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
}

// isToken reports whether s is a token, RFC 9110 5.6.2: one or more tchar.
func isToken(s string) bool {
	for i := 0; i < len(s); i++ {
		if !tchar[s[i]] {
			return false
		}
	}
	return s != ""
}

// tchar is the set of bytes a token is made of, RFC 9110 5.6.2. It is never written to.
var tchar = [256]bool{
	'!': true, '#': true, '$': true, '%': true, '&': true, '\'': true, '*': true, '+': true, '-': true, '.': true,
	'^': true, '_': true, '`': true, '|': true, '~': true,
	'0': true, '1': true, '2': true, '3': true, '4': true, '5': true, '6': true, '7': true, '8': true, '9': true,
	'A': true, 'B': true, 'C': true, 'D': true, 'E': true, 'F': true, 'G': true, 'H': true, 'I': true, 'J': true,
	'K': true, 'L': true, 'M': true, 'N': true, 'O': true, 'P': true, 'Q': true, 'R': true, 'S': true, 'T': true,
	'U': true, 'V': true, 'W': true, 'X': true, 'Y': true, 'Z': true,
	'a': true, 'b': true, 'c': true, 'd': true, 'e': true, 'f': true, 'g': true, 'h': true, 'i': true, 'j': true,
	'k': true, 'l': true, 'm': true, 'n': true, 'o': true, 'p': true, 'q': true, 'r': true, 's': true, 't': true,
	'u': true, 'v': true, 'w': true, 'x': true, 'y': true, 'z': true,
}

package filter

// Field is one header field as a Proxy-Wasm host hands it over: a name and a value.
//
// Hosts give names in lower case and pseudo-header fields (":method", ":path", RFC 9113 8.3) among them. The value is
// taken as bytes; nothing about it is assumed.
type Field struct{ Name, Value string }

// HeaderMap is the ordered list of a request's header fields.
//
// Repeated field lines may stand apart, as received, or be merged into one with commas, as Envoy does with some fields:
// RFC 9110 5.3 makes both the same, and so does this package. Lookups fold ASCII case only.
type HeaderMap []Field

// Get returns the value of the first field with that name, and whether there is one.
//
// The name is compared with ASCII case folding. A field with an empty value is there.
func (h HeaderMap) Get(name string) (value string, ok bool) {
	for i := range h {
		if equalFold(h[i].Name, name) {
			return h[i].Value, true
		}
	}
	return "", false
}

// Has reports whether a field with that name is there.
func (h HeaderMap) Has(name string) bool {
	_, ok := h.Get(name)
	return ok
}

// Count returns how many fields with that name there are.
func (h HeaderMap) Count(name string) int {
	n := 0
	for i := range h {
		if equalFold(h[i].Name, name) {
			n++
		}
	}
	return n
}

// lower folds one ASCII letter; every other byte stays what it is. strings.EqualFold is no substitute: it takes U+212A
// (Kelvin sign) for a k and U+017F for an s, and so would let "webso\u212aet" pass for a websocket.
func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}

// equalFold compares two strings byte for byte under ASCII case folding.
func equalFold(a, b string) bool { return a == b || len(a) == len(b) && equalFoldSlow(a, b) }

func equalFoldSlow(a, b string) bool {
	for i := 0; i < len(a); i++ {
		if a[i] != b[i] && lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

// sameSpelling compares two field names under ASCII case folding and with "-" and "_" taken for the same character.
// Many a server behind a proxy (CGI, WSGI, ...) folds the two, so a client's x_upgrade_route would reach it as ours.
func sameSpelling(a, b string) bool { return len(a) == len(b) && sameSpellingSlow(a, b) }

func sameSpellingSlow(a, b string) bool {
	for i := 0; i < len(a); i++ {
		x, y := lower(a[i]), lower(b[i])
		if x == '_' {
			x = '-'
		}
		if y == '_' {
			y = '-'
		}
		if x != y {
			return false
		}
	}
	return true
}

// lowerString returns s with its ASCII letters in lower case.
func lowerString(s string) string {
	for i := 0; i < len(s); i++ {
		if lower(s[i]) != s[i] {
			b := []byte(s)
			for j := i; j < len(b); j++ {
				b[j] = lower(b[j])
			}
			return string(b)
		}
	}
	return s
}

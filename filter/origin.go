package filter

import "strings"

// Origin is an entry of a rule's "origins", or a request's Origin (RFC 6454 7, RFC 6455 10.2), in parts.
//
// In a rule, Host may be "*." and a suffix, which stands for all hosts below it, and an entry without Scheme is for every
// scheme and port. The entries "null" and "same-origin" are a Scheme without Host. Of same-origin, schemes are not compared,
// as TLS may end before the host; list an origin with its scheme where that is needed.
type Origin struct {
	// Scheme and Host are in lower case in a rule, and compared without case. Port is empty for the scheme's own.
	Scheme, Host, Port string
}

// The two entries that are words; they have no host. Neither is ever written to.
var (
	nullOrigin = Origin{Scheme: "null"}        // a sandboxed frame, a file, a page behind a redirect: nobody in particular
	sameOrigin = Origin{Scheme: "same-origin"} // the host and port that the request itself is for
)

// String returns the entry as a configuration has it.
func (o Origin) String() string {
	switch {
	case o.Host == "":
		return o.Scheme
	case o.Scheme == "":
		return o.Host
	case o.Port == "":
		return o.Scheme + "://" + o.Host
	default:
		return o.Scheme + "://" + o.Host + ":" + o.Port
	}
}

// parseOrigin parses scheme "://" host [":" port]; a path, even "/", is no part of an origin.
func parseOrigin(s string) (o Origin, ok bool) {
	scheme, authority, found := strings.Cut(s, "://")
	if !found || !isScheme(scheme) {
		return Origin{}, false
	}
	o.Scheme = scheme
	if o.Host, o.Port, ok = parseAuthority(authority); !ok {
		return Origin{}, false
	}
	if o.Port == defaultPort(scheme) {
		o.Port = ""
	}
	return o, true
}

// isScheme reports whether s is a scheme, RFC 3986 3.1.
func isScheme(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := lower(s[i]); ('a' > c || c > 'z') && (i == 0 || !isDigit(c) && c != '+' && c != '-' && c != '.') {
			return false
		}
	}
	return s != ""
}

// defaultPort returns the port that a URL of that scheme means if it names none.
func defaultPort(scheme string) string {
	switch {
	case equalFold(scheme, "http"):
		return "80"
	case equalFold(scheme, "https"):
		return "443"
	}
	return ""
}

// parseAuthority parses host [":" port], RFC 9110 7.2. The host is a name, without the dot that may end it, or an IP
// address, of version 6 in its brackets. Neither userinfo nor percent-encoding is taken, which no client sends here.
func parseAuthority(s string) (host, port string, ok bool) {
	host = s
	if end := strings.LastIndexByte(s, ':'); end > strings.LastIndexByte(s, ']') {
		host, port = s[:end], s[end+1:]
		for i := 0; i < len(port); i++ {
			if !isDigit(port[i]) {
				return "", "", false
			}
		}
		for len(port) > 1 && port[0] == '0' {
			port = port[1:]
		}
	}
	if len(host) > 1 && host[0] != '[' && host[len(host)-1] == '.' {
		host = host[:len(host)-1]
	}
	return host, port, isHost(host)
}

// isHost reports whether s is a host's name or address.
func isHost(s string) bool {
	if len(s) > 1 && s[0] == '[' && s[len(s)-1] == ']' {
		s = s[1 : len(s)-1]
		colons := 0
		for i := 0; i < len(s); i++ {
			c := lower(s[i])
			if !isDigit(c) && ('a' > c || c > 'f') && c != ':' && c != '.' {
				return false
			}
			if c == ':' {
				colons++
			}
		}
		return colons >= 2
	}
	for i := 0; i < len(s); i++ {
		c := lower(s[i])
		if !isDigit(c) && ('a' > c || c > 'z') && c != '-' && c != '_' && c != '.' {
			return false
		}
		if c == '.' && (i == 0 || i+1 == len(s) || s[i+1] == '.') {
			return false
		}
	}
	return s != ""
}

// hostMatches reports whether a host is the one in a rule, or below it where it begins with "*.".
func hostMatches(pattern, host string) bool {
	if strings.HasPrefix(pattern, "*.") {
		cut := len(host) - len(pattern) + 1
		return cut > 0 && equalFold(host[cut:], pattern[1:])
	}
	return equalFold(host, pattern)
}

// matches reports whether an entry of a rule stands for the origin of a request to that host.
func (o Origin) matches(origin requestOrigin, host, port string) bool {
	switch {
	case o == nullOrigin:
		return origin.null
	case !origin.ok:
		return false
	case o == sameOrigin:
		if port == defaultPort(origin.Scheme) {
			port = ""
		}
		return equalFold(origin.Host, host) && origin.Port == port
	case o.Scheme == "":
		return hostMatches(o.Host, origin.Host)
	default:
		return equalFold(o.Scheme, origin.Scheme) && o.Port == origin.Port && hostMatches(o.Host, origin.Host)
	}
}

// covers reports whether every origin for which p stands is one for which o stands too.
func (o Origin) covers(p Origin) bool {
	return o == p || o.Host != "" && p.Host != "" && hostCovers(o.Host, p.Host) &&
		(o.Scheme == "" || o.Scheme == p.Scheme && o.Port == p.Port)
}

// hostCovers is covers for an entry of "hosts".
func hostCovers(wide, narrow string) bool {
	return wide == narrow || strings.HasPrefix(wide, "*.") && hostMatches(wide, strings.TrimPrefix(narrow, "*"))
}

// requestOrigin is the Origin of a request: absent, "null", a well-formed one (ok), or something that is no origin.
type requestOrigin struct {
	Origin
	absent, null, ok bool
}

// originOf reads the field Origin. Two of them are none: nobody can say which the server will believe.
func originOf(h HeaderMap) (o requestOrigin) {
	value, found := h.Get("origin")
	switch {
	case !found:
		o.absent = true
	case h.Count("origin") == 1:
		o.null = trimOWS(value) == "null"
		o.Origin, o.ok = parseOrigin(trimOWS(value))
	}
	return o
}

// hostOf reads the host and port that a request is for: ":authority", or the field Host where a host shows that. What is
// no host, or stands twice, is "", which is no rule's.
func hostOf(h HeaderMap) (host, port string) {
	name := ":authority"
	if !h.Has(name) {
		name = "host"
	}
	value, _ := h.Get(name)
	host, port, ok := parseAuthority(trimOWS(value))
	if !ok || h.Count(name) > 1 {
		return "", ""
	}
	return host, port
}

package proxy

import "strings"

// validReferer says whether Envoy leaves a Referer in a request
// (Utility::isValidRefererValue): it has to be an absolute URL without user
// information and fragment, or a relative reference without a fragment.
func validReferer(v string) bool {
	if host, rest, ok := splitURL(v); ok {
		return !strings.Contains(host, "@") && !strings.Contains(rest, "#")
	}
	segment := true // the first one, in which a colon would end a scheme
	for i := 0; i < len(v); i++ {
		switch c := v[i]; {
		case c == ':' && segment:
			return false
		case c == '/':
			segment = false
		case !isAlpha(c) && !isDigit(c) && strings.IndexByte("!$%&'()*+,-.:;=?@_~", c) < 0:
			return false
		}
	}
	return true
}

// splitURL cuts an absolute URL into its authority and what follows. ok is
// false if Envoy's parser would not take it.
func splitURL(v string) (authority, rest string, ok bool) {
	scheme, v, ok := strings.Cut(v, "://")
	if !ok || scheme == "" || !isAlpha(scheme[0]) {
		return "", "", false
	}
	for i := 0; i < len(scheme); i++ {
		if c := scheme[i]; !isAlpha(c) && !isDigit(c) && c != '+' && c != '-' && c != '.' {
			return "", "", false
		}
	}
	authority = v
	if i := strings.IndexAny(v, "/?#"); i >= 0 {
		authority, rest = v[:i], v[i:]
	}
	for i := 0; i < len(rest); i++ {
		if c := rest[i]; c <= ' ' || c > '~' {
			return "", "", false
		}
	}
	host := authority[strings.LastIndexByte(authority, '@')+1:]
	if !validHostPort(host) {
		return "", "", false
	}
	inside, v6 := strings.CutPrefix(host, "[")
	if v6 {
		if i := strings.IndexByte(inside, ']'); i < 0 {
			return "", "", false
		} else {
			host = inside[:i]
		}
	} else if i := strings.IndexByte(host, ':'); i >= 0 {
		host = host[:i]
	}
	for i := 0; i < len(host); i++ {
		if c := host[i]; !isAlpha(c) && !isDigit(c) && c != '.' && c != '-' && !(v6 && c == ':') {
			return "", "", false
		}
	}
	return authority, rest, true
}

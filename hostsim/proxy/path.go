package proxy

import "strings"

// This file is what the connection manager does to a path before it is
// matched: normalize_path, merge_slashes, path_with_escaped_slashes_action.
// The query is never touched.

func splitQuery(path string) (p, query string) {
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		return path[:i], path[i:]
	}
	return path, ""
}

func hasEscapedSlash(path string) bool {
	p, _ := splitQuery(path)
	for i := 0; i+2 < len(p); i++ {
		if p[i] == '%' && isSlash(p[i+1], p[i+2]) {
			return true
		}
	}
	return false
}

// isSlash says whether %ab is / or \.
func isSlash(a, b byte) bool {
	return a == '2' && b|0x20 == 'f' || a == '5' && b|0x20 == 'c'
}

func unescapeSlashes(path string) string {
	p, query := splitQuery(path)
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		if p[i] == '%' && i+2 < len(p) && isSlash(p[i+1], p[i+2]) {
			if p[i+1] == '2' {
				b.WriteByte('/')
			} else {
				b.WriteByte('\\')
			}
			i += 2
			continue
		}
		b.WriteByte(p[i])
	}
	return b.String() + query
}

// normalizePath removes dot segments, also percent-encoded ones, decodes
// escapes of unreserved characters and turns \ into / (RFC 3986 6.2.2 as the
// URL library of Chromium does it, which Envoy uses).
func normalizePath(path string) (string, bool) {
	p, query := splitQuery(path)
	if !strings.ContainsAny(p, "%\\.") {
		return path, true
	}
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		c := p[i]
		switch {
		case c == '\\':
			b.WriteByte('/')
		case c == '%' && i+2 < len(p) && isHex(p[i+1]) && isHex(p[i+2]):
			d := unhex(p[i+1])<<4 | unhex(p[i+2])
			switch {
			case d == 0:
				return "", false
			case isAlpha(d) || isDigit(d) || strings.IndexByte("-._~", d) >= 0:
				b.WriteByte(d)
			default:
				b.WriteString(p[i : i+3])
			}
			i += 2
		default:
			b.WriteByte(c)
		}
	}
	return removeDotSegments(b.String()) + query, true
}

// removeDotSegments is RFC 3986 5.2.4 for an absolute path.
func removeDotSegments(p string) string {
	var out []string
	segments := strings.Split(p[1:], "/")
	for i, seg := range segments {
		last := i == len(segments)-1
		switch seg {
		case ".":
			if last {
				out = append(out, "")
			}
		case "..":
			if len(out) > 0 {
				out = out[:len(out)-1]
			}
			if last {
				out = append(out, "")
			}
		default:
			out = append(out, seg)
		}
	}
	return "/" + strings.Join(out, "/")
}

func mergeSlashes(path string) string {
	p, query := splitQuery(path)
	if !strings.Contains(p, "//") {
		return path
	}
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		if p[i] == '/' && i > 0 && p[i-1] == '/' {
			continue
		}
		b.WriteByte(p[i])
	}
	return b.String() + query
}

func isHex(c byte) bool { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' }

func unhex(c byte) byte {
	if isDigit(c) {
		return c - '0'
	}
	return c | 0x20 - 'a' + 10
}

package proxy

import "strings"

// parameter is one pair of a query, decoded.
type parameter struct{ name, value string }

// decodeQuery reads the query of a path
// (QueryParamsMulti::parseAndDecodeQueryString). A plus sign is one.
func decodeQuery(path string) []parameter {
	_, query, _ := strings.Cut(path, "?")
	var list []parameter
	for more := query != ""; more; {
		var pair string
		pair, query, more = strings.Cut(query, "&")
		name, value, _ := strings.Cut(pair, "=")
		if pair != "" {
			list = append(list, parameter{percentDecode(name), percentDecode(value)})
		}
	}
	return list
}

// percentDecode leaves what is no escape as it is.
func percentDecode(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]) {
			b.WriteByte(unhex(s[i+1])<<4 | unhex(s[i+2]))
			i += 2
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// percentEncode escapes all but the unreserved characters of RFC 3986 2.3.
func percentEncode(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c := s[i]; isAlpha(c) || isDigit(c) || strings.IndexByte("-_.~", c) >= 0 {
			b.WriteByte(c)
		} else {
			b.WriteString(string([]byte{'%', hex[c>>4], hex[c&15]}))
		}
	}
	return b.String()
}

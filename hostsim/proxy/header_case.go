package proxy

import "strings"

// This file is header_key_format: how the names of fields are spelt on output.

// nameCase is how a codec spells names: as they are, in lower case, or in
// words (proper_case_words).
type nameCase int

const (
	lowerCase nameCase = iota
	properCase
)

// append writes a name, as kept has it if that knows the name.
func (c nameCase) append(b []byte, kept *spelling, name string) []byte {
	if kept != nil {
		for _, original := range kept.names {
			if equalFold(original, name) {
				return append(b, original...)
			}
		}
		c = kept.others
	}
	if c == lowerCase {
		return append(b, name...)
	}
	start := true
	for i := 0; i < len(name); i++ {
		d := name[i]
		if start && 'a' <= d && d <= 'z' {
			d -= 'a' - 'A'
		}
		start = !isAlpha(d) && !isDigit(d)
		b = append(b, d)
	}
	return b
}

// spelling is what the preserve_case formatter keeps of a head beside its
// header map: each name as it was first spelt, and the reason phrase.
type spelling struct {
	names  []string
	others nameCase // of names that the proxy adds
	phrase bool     // the reason phrase is kept
	reason string
}

// note keeps the names of a head.
func (k *spelling) note(head []byte) {
	k.names, k.reason = k.names[:0], ""
	first, text, _ := strings.Cut(string(head), "\n")
	if k.phrase {
		_, rest := nextWord(first)
		_, rest = nextWord(rest)
		k.reason = strings.Trim(rest, " \t\r")
	}
	for text != "" {
		line, rest, _ := strings.Cut(text, "\n")
		text = rest
		name, _, colon := strings.Cut(line, ":")
		if !colon || line[0] == ' ' || line[0] == '\t' {
			continue
		}
		known := false
		for _, n := range k.names {
			known = known || equalFold(n, name)
		}
		if !known {
			k.names = append(k.names, name)
		}
	}
}

// reasonPhrase is the one that came with the head, if it is kept, or else
// Envoy's for the status.
func (h *Headers) reasonPhrase() string {
	if h.spelling != nil && h.spelling.reason != "" {
		return h.spelling.reason
	}
	return reasonPhrase(h.value(":status"))
}

package proxy

import (
	"regexp"
	"strconv"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// This file is Envoy's matchers: of strings, header fields, query parameters,
// cookies, dynamic metadata and filter state. Routes, RBAC and access logs
// share them.

// condition is a question about a stream.
type condition func(*stream) bool

// all says whether every condition holds.
func all(conditions []condition, s *stream) bool {
	for _, c := range conditions {
		if !c(s) {
			return false
		}
	}
	return true
}

// headerMatcher is a HeaderMatcher (HeaderUtility::HeaderData).
type headerMatcher struct {
	name         string
	match        func(string) bool // nil: present is asked for
	present      bool
	invert       bool
	missingEmpty bool
}

// matches holds where the value of one of the lines does. An absent header
// matches nothing but a question for absence.
func (m *headerMatcher) matches(h *Headers) bool {
	i := h.find(m.name)
	switch {
	case m.match == nil:
		return (m.present == (i >= 0 || m.missingEmpty)) != m.invert
	case i >= 0:
		return m.matchesOne(h.fields[i:]) != m.invert
	case m.missingEmpty:
		return m.match("") != m.invert
	}
	return false
}

func (m *headerMatcher) matchesOne(fields []field) bool {
	for i := range fields {
		if f := &fields[i]; f.name == m.name && m.match(f.value) {
			return true
		}
	}
	return false
}

// joined returns all values of a lower-case name as one list.
func (h *Headers) joined(name string) (string, bool) {
	i := h.find(name)
	if i < 0 {
		return "", false
	}
	value := h.fields[i].value
	for _, f := range h.fields[i+1:] {
		if f.name == name {
			value += "," + f.value
		}
	}
	return value, true
}

// queryParameter returns the first value of a parameter of the query, which
// is everything behind the first question mark. Nothing is decoded.
func queryParameter(path, name string) (value string, found bool) {
	_, query, _ := strings.Cut(path, "?")
	for more := query != ""; more; {
		var pair string
		pair, query, more = strings.Cut(query, "&")
		key, value, _ := strings.Cut(pair, "=")
		if key == name && pair != "" {
			return value, true
		}
	}
	return "", false
}

// cookie returns the first value of a cookie, without its quotes.
func cookie(h *Headers, name string) (value string, found bool) {
	for _, f := range h.fields {
		if f.name != "cookie" {
			continue
		}
		for list, more := f.value, true; more; {
			var pair string
			pair, list, more = strings.Cut(list, ";")
			key, value, ok := strings.Cut(strings.TrimLeft(pair, " \t"), "=")
			if !ok || key != name {
				continue
			}
			value = strings.TrimRight(value, " \t")
			if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
				value = value[1 : n-1]
			}
			return value, true
		}
	}
	return "", false
}

// ---- from the configuration

func (b *builder) stringMatch(path string, c *matcherv3.StringMatcher) (func(string) bool, error) {
	switch p := c.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		if c.GetIgnoreCase() {
			return func(s string) bool { return equalFold(s, p.Exact) }, nil
		}
		return func(s string) bool { return s == p.Exact }, nil
	case *matcherv3.StringMatcher_Prefix:
		if c.GetIgnoreCase() {
			return func(s string) bool { return hasPrefixFold(s, p.Prefix) }, nil
		}
		return func(s string) bool { return strings.HasPrefix(s, p.Prefix) }, nil
	case *matcherv3.StringMatcher_Suffix:
		if n := len(p.Suffix); c.GetIgnoreCase() {
			return func(s string) bool { return len(s) >= n && equalFold(s[len(s)-n:], p.Suffix) }, nil
		}
		return func(s string) bool { return strings.HasSuffix(s, p.Suffix) }, nil
	case *matcherv3.StringMatcher_Contains:
		if c.GetIgnoreCase() {
			want := lower(p.Contains)
			return func(s string) bool { return strings.Contains(lower(s), want) }, nil
		}
		return func(s string) bool { return strings.Contains(s, p.Contains) }, nil
	case *matcherv3.StringMatcher_SafeRegex:
		return b.regex(path+".safe_regex", p.SafeRegex)
	}
	return nil, b.boot.Unsupported(path, "this string matcher")
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && equalFold(s[:len(prefix)], prefix)
}

// regex compiles a safe_regex, which matches whole strings. Go's syntax is
// RE2's.
func (b *builder) regex(path string, c *matcherv3.RegexMatcher) (func(string) bool, error) {
	re, err := b.regexp(path, c)
	if err != nil {
		return nil, err
	}
	whole, err := regexp.Compile(`\A(?:` + re.String() + `)\z`)
	if err != nil {
		return nil, b.boot.Errorf(path+".regex", "%q is no RE2 expression: %v", c.GetRegex(), err)
	}
	return whole.MatchString, nil
}

func (b *builder) regexp(path string, c *matcherv3.RegexMatcher) (*regexp.Regexp, error) {
	re, err := regexp.Compile(c.GetRegex())
	if err != nil {
		return nil, b.boot.Errorf(path+".regex", "%q is no RE2 expression: %v", c.GetRegex(), err)
	}
	return re, nil
}

func (b *builder) headerMatcher(path string, c *routev3.HeaderMatcher) (*headerMatcher, error) {
	m := &headerMatcher{name: canonical(c.GetName()), invert: c.GetInvertMatch(), missingEmpty: c.GetTreatMissingHeaderAsEmpty(), present: true}
	var err error
	switch spec := c.GetHeaderMatchSpecifier().(type) {
	case nil:
	case *routev3.HeaderMatcher_PresentMatch:
		m.present = spec.PresentMatch
	case *routev3.HeaderMatcher_StringMatch:
		m.match, err = b.stringMatch(path+".string_match", spec.StringMatch)
	case *routev3.HeaderMatcher_RangeMatch:
		start, end := spec.RangeMatch.GetStart(), spec.RangeMatch.GetEnd()
		m.match = func(s string) bool {
			n, err := strconv.ParseInt(strings.Trim(s, " \t\n\v\f\r"), 10, 64)
			return err == nil && start <= n && n < end
		}
	case *routev3.HeaderMatcher_ExactMatch:
		m.match = func(s string) bool { return s == spec.ExactMatch }
	case *routev3.HeaderMatcher_PrefixMatch:
		m.match = func(s string) bool { return strings.HasPrefix(s, spec.PrefixMatch) }
	case *routev3.HeaderMatcher_SuffixMatch:
		m.match = func(s string) bool { return strings.HasSuffix(s, spec.SuffixMatch) }
	case *routev3.HeaderMatcher_ContainsMatch:
		m.match = func(s string) bool { return strings.Contains(s, spec.ContainsMatch) }
	case *routev3.HeaderMatcher_SafeRegexMatch:
		m.match, err = b.regex(path+".safe_regex_match", spec.SafeRegexMatch)
	default:
		err = b.boot.Unsupported(path, "this header matcher")
	}
	return m, err
}

// headerMatchers are those of which all have to hold.
func (b *builder) headerMatchers(path string, list []*routev3.HeaderMatcher) ([]headerMatcher, error) {
	var matchers []headerMatcher
	for i, c := range list {
		m, err := b.headerMatcher(index(path, i), c)
		if err != nil {
			return nil, err
		}
		matchers = append(matchers, *m)
	}
	return matchers, nil
}

func (b *builder) queryMatcher(path string, c *routev3.QueryParameterMatcher) (condition, error) {
	name, present := c.GetName(), true
	switch spec := c.GetQueryParameterMatchSpecifier().(type) {
	case *routev3.QueryParameterMatcher_StringMatch:
		match, err := b.stringMatch(path+".string_match", spec.StringMatch)
		return func(s *stream) bool {
			value, found := queryParameter(s.request.value(":path"), name)
			return found && match(value)
		}, err
	case *routev3.QueryParameterMatcher_PresentMatch:
		present = spec.PresentMatch
	}
	return func(s *stream) bool {
		_, found := queryParameter(s.request.value(":path"), name)
		return found == present
	}, nil
}

func (b *builder) cookieMatcher(path string, c *routev3.CookieMatcher) (condition, error) {
	match, err := b.stringMatch(path+".string_match", c.GetStringMatch())
	name, invert := c.GetName(), c.GetInvertMatch()
	return func(s *stream) bool {
		value, found := cookie(&s.request, name)
		return (found && match(value)) != invert
	}, err
}

func (b *builder) filterStateMatcher(path string, c *matcherv3.FilterStateMatcher) (condition, error) {
	if c.GetStringMatch() == nil {
		return nil, b.boot.Unsupported(path, "a filter_state matcher other than string_match")
	}
	match, err := b.stringMatch(path+".string_match", c.GetStringMatch())
	key := c.GetKey()
	return func(s *stream) bool {
		object, found := s.filterState[key]
		return found && match(object.text)
	}, err
}

func (b *builder) metadataMatcher(path string, c *matcherv3.MetadataMatcher) (condition, error) {
	match, err := b.valueMatcher(path+".value", c.GetValue())
	namespace, invert := c.GetFilter(), c.GetInvert()
	var keys []string
	for _, p := range c.GetPath() {
		keys = append(keys, p.GetKey())
	}
	return func(s *stream) bool { return match(lookUp(s.metadata[namespace], keys)) != invert }, err
}

// lookUp follows keys through nested structs; nil stands for what is not
// there (Config::Metadata::metadataValue).
func lookUp(from *structpb.Struct, keys []string) *structpb.Value {
	if from == nil || len(keys) == 0 {
		return nil
	}
	v := from.GetFields()[keys[0]]
	for _, k := range keys[1:] {
		v = v.GetStructValue().GetFields()[k]
	}
	return v
}

// valueMatcher matches a value of the metadata; nil is one that is not set.
func (b *builder) valueMatcher(path string, c *matcherv3.ValueMatcher) (func(*structpb.Value) bool, error) {
	switch m := c.GetMatchPattern().(type) {
	case *matcherv3.ValueMatcher_NullMatch_:
		return func(v *structpb.Value) bool {
			_, null := v.GetKind().(*structpb.Value_NullValue)
			return null
		}, nil
	case *matcherv3.ValueMatcher_DoubleMatch:
		within := func(n float64) bool { return n == m.DoubleMatch.GetExact() }
		if r := m.DoubleMatch.GetRange(); r != nil {
			within = func(n float64) bool { return r.GetStart() <= n && n < r.GetEnd() }
		}
		return func(v *structpb.Value) bool {
			n, number := v.GetKind().(*structpb.Value_NumberValue)
			return number && within(n.NumberValue)
		}, nil
	case *matcherv3.ValueMatcher_StringMatch:
		match, err := b.stringMatch(path+".string_match", m.StringMatch)
		return func(v *structpb.Value) bool {
			text, is := v.GetKind().(*structpb.Value_StringValue)
			return is && match(text.StringValue)
		}, err
	case *matcherv3.ValueMatcher_BoolMatch:
		return func(v *structpb.Value) bool {
			is, boolean := v.GetKind().(*structpb.Value_BoolValue)
			return boolean && is.BoolValue == m.BoolMatch
		}, nil
	case *matcherv3.ValueMatcher_PresentMatch:
		return func(v *structpb.Value) bool { return m.PresentMatch && v.GetKind() != nil }, nil
	case *matcherv3.ValueMatcher_ListMatch:
		one, err := b.valueMatcher(path+".list_match.one_of", m.ListMatch.GetOneOf())
		return func(v *structpb.Value) bool {
			for _, element := range v.GetListValue().GetValues() {
				if one(element) {
					return true
				}
			}
			return false
		}, err
	case *matcherv3.ValueMatcher_OrMatch:
		var either []func(*structpb.Value) bool
		for i, c := range m.OrMatch.GetValueMatchers() {
			match, err := b.valueMatcher(at(path+".or_match", "value_matchers", i), c)
			if err != nil {
				return nil, err
			}
			either = append(either, match)
		}
		return func(v *structpb.Value) bool {
			for _, match := range either {
				if match(v) {
					return true
				}
			}
			return false
		}, nil
	}
	return nil, b.boot.Unsupported(path, "this value matcher")
}

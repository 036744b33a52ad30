package proxy

import (
	"regexp"
	"slices"
	"strings"

	matchv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	rewritev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/path/rewrite/uri_template/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// pathTemplate is a path with wildcards and variables, as in
// /users/{id}/{rest=**}.
type pathTemplate struct {
	whole *regexp.Regexp
	names []string // of its groups
}

func (t *pathTemplate) matches(path string) bool { return t.whole.MatchString(path) }

// What * and ** stand for: some literal characters of a segment, and any
// number of them and slashes.
const (
	oneSegment  = "[a-zA-Z0-9\\-._~%!$&'()+,;:@=*]+"
	anySegments = "[a-zA-Z0-9\\-._~%!$&'()+,;:@=*/]*"
)

// pathTemplate compiles the configuration of path_match_policy.
func (b *builder) pathTemplate(path string, a *anypb.Any) (*pathTemplate, error) {
	msg, err := b.boot.Unpack(a, path)
	if err != nil {
		return nil, err
	}
	c, ok := msg.(*matchv3.UriTemplateMatchConfig)
	if !ok {
		return nil, b.boot.Unsupported(path, "this path_match_policy")
	}
	t, problem := parseTemplate(c.GetPathTemplate())
	if problem != "" {
		return nil, b.boot.Errorf(path+".path_template", "path_match_policy.path_template %s is invalid: %s", c.GetPathTemplate(), problem)
	}
	return t, nil
}

// parseTemplate says in problem what is wrong with a template.
func parseTemplate(text string) (t *pathTemplate, problem string) {
	t = &pathTemplate{}
	var re strings.Builder
	rest, ok := strings.CutPrefix(text, "/")
	if !ok {
		return nil, "it has to begin with /"
	}
	any := false // ** is the last there may be
	for more := true; more; {
		re.WriteByte('/')
		segment := rest
		if i := segmentEnd(rest); i >= 0 {
			segment, rest = rest[:i], rest[i+1:]
		} else {
			more = false
		}
		if any {
			return nil, "nothing may follow **"
		}
		switch {
		case segment == "*":
			re.WriteString(oneSegment)
		case segment == "**":
			re.WriteString(anySegments)
			any = true
		case strings.HasPrefix(segment, "{"):
			inner, ok := strings.CutSuffix(segment[1:], "}")
			name, pattern, given := strings.Cut(inner, "=")
			if !given {
				pattern = "*"
			}
			if !ok || !validVariable(name) {
				return nil, "a variable is a name in braces, which a letter begins"
			}
			if slices.Contains(t.names, name) {
				return nil, "a variable stands twice"
			}
			t.names = append(t.names, name)
			re.WriteByte('(')
			for i, part := range strings.Split(pattern, "/") {
				if i > 0 {
					re.WriteByte('/')
				}
				switch {
				case any:
					return nil, "nothing may follow **"
				case part == "*":
					re.WriteString(oneSegment)
				case part == "**":
					re.WriteString(anySegments)
					any = true
				case !literalSegment(part):
					return nil, "a segment of a variable is *, ** or literal"
				default:
					re.WriteString(regexp.QuoteMeta(part))
				}
			}
			re.WriteByte(')')
		case segment == "" && (more || text != "/"), !literalSegment(segment):
			return nil, "a segment is *, **, a variable in braces or literal characters"
		default:
			re.WriteString(regexp.QuoteMeta(segment))
		}
	}
	var err error
	if t.whole, err = regexp.Compile(`\A` + re.String() + `\z`); err != nil {
		return nil, err.Error()
	}
	return t, ""
}

// segmentEnd finds the slash that ends a segment; those in braces do not.
func segmentEnd(s string) int {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '{':
			depth++
		case '}':
			depth--
		case '/':
			if depth == 0 {
				return i
			}
		}
	}
	return -1
}

func validVariable(name string) bool {
	for i := 0; i < len(name); i++ {
		if c := name[i]; !isAlpha(c) && (i == 0 || !isDigit(c) && c != '_') {
			return false
		}
	}
	return name != "" && len(name) <= 16
}

func literalSegment(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; !isAlpha(c) && !isDigit(c) && strings.IndexByte("-._~%!$&'()+,;:@=", c) < 0 {
			return false
		}
	}
	return true
}

// templateRewrite compiles the configuration of path_rewrite_policy for a
// route with a template: its variables in braces, and literal text.
func (b *builder) templateRewrite(path string, t *pathTemplate, a *anypb.Any) (pathRewrite, error) {
	msg, err := b.boot.Unpack(a, path)
	if err != nil {
		return nil, err
	}
	c, ok := msg.(*rewritev3.UriTemplateRewriteConfig)
	if !ok {
		return nil, b.boot.Unsupported(path, "this path_rewrite_policy")
	}
	path += ".path_template_rewrite"
	if t == nil {
		return nil, b.boot.Errorf(path, "a template for the new path needs one for the old: give the route a path_match_policy")
	}
	var parts []string // literal and name in turn
	rest := c.GetPathTemplateRewrite()
	if !strings.HasPrefix(rest, "/") {
		return nil, b.boot.Errorf(path, "%q has to begin with /", rest)
	}
	for {
		literal, after, found := strings.Cut(rest, "{")
		parts = append(parts, literal)
		if !found {
			break
		}
		name, after, found := strings.Cut(after, "}")
		if !found || !slices.Contains(t.names, name) {
			return nil, b.boot.Errorf(path, "{%s} is no variable of the path_match_policy", name)
		}
		parts, rest = append(parts, name), after
	}
	return func(_ *stream, old string) string {
		groups := t.whole.FindStringSubmatch(old)
		if groups == nil {
			return ""
		}
		var to strings.Builder
		for i, part := range parts {
			if i%2 == 1 {
				part = groups[1+slices.Index(t.names, part)]
			}
			to.WriteString(part)
		}
		return to.String()
	}, nil
}

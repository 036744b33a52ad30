package proxy

import (
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// format is a compiled substitution format string ("%REQ(:PATH)% ...").
type format struct {
	parts []formatPart
}

type formatPart struct {
	literal string
	value   func(*stream) (string, bool) // nil for a literal
	max     int                          // bytes, 0: no limit
}

// text expands the format; absent stands for a value that is not there.
func (f *format) text(s *stream, absent string) string {
	if len(f.parts) == 1 {
		return f.parts[0].text(s, absent)
	}
	var b strings.Builder
	for i := range f.parts {
		b.WriteString(f.parts[i].text(s, absent))
	}
	return b.String()
}

func (p *formatPart) text(s *stream, absent string) string {
	if p.value == nil {
		return p.literal
	}
	v, ok := p.value(s)
	if !ok {
		return absent
	}
	if p.max > 0 && len(v) > p.max {
		v = v[:p.max]
	}
	return v
}

// command is Envoy's own expression for a format command.
var command = regexp.MustCompile(`\A%([A-Z0-9_]+)(?:\((.*?)\))?(?::([0-9]+))?%`)

// format compiles a format string.
func (b *builder) format(path, text string) (*format, error) {
	f := &format{}
	literal := ""
	flush := func() {
		if literal != "" {
			f.parts = append(f.parts, formatPart{literal: literal})
			literal = ""
		}
	}
	for text != "" {
		i := strings.IndexByte(text, '%')
		if i < 0 {
			literal += text
			break
		}
		literal, text = literal+text[:i], text[i:]
		if strings.HasPrefix(text, "%%") {
			literal, text = literal+"%", text[2:]
			continue
		}
		m := command.FindStringSubmatch(text)
		if m == nil {
			return nil, b.boot.Errorf(path, "%q begins no format command: write %%NAME(argument)%%, or %%%% for a percent sign", text)
		}
		flush()
		value, err := b.formatCommand(path, m[1], m[2])
		if err != nil {
			return nil, err
		}
		max, _ := strconv.Atoi(m[3])
		f.parts = append(f.parts, formatPart{value: value, max: max})
		text = text[len(m[0]):]
	}
	flush()
	if len(f.parts) == 0 {
		f.parts = []formatPart{{}}
	}
	return f, nil
}

func (b *builder) formatCommand(path, name, arg string) (func(*stream) (string, bool), error) {
	word := func(get func(*stream) string) (func(*stream) (string, bool), error) {
		return func(s *stream) (string, bool) { v := get(s); return v, v != "" }, nil
	}
	switch name {
	case "REQ":
		main, alternative := headerNames(arg)
		return func(s *stream) (string, bool) { return pick(&s.request, main, alternative) }, nil
	case "RESP":
		main, alternative := headerNames(arg)
		return func(s *stream) (string, bool) { return pick(&s.response, main, alternative) }, nil
	case "CEL":
		return b.cel(path, arg)
	case "FILTER_STATE":
		key, kind, _ := strings.Cut(arg, ":")
		if kind != "PLAIN" {
			return nil, b.boot.Unsupported(path, "%FILTER_STATE("+arg+")%: only (KEY:PLAIN)")
		}
		return func(s *stream) (string, bool) { v, ok := s.filterState[key]; return v, ok }, nil
	case "PROTOCOL":
		return word(func(s *stream) string { return s.protocol })
	case "RESPONSE_CODE":
		return func(s *stream) (string, bool) { return strconv.Itoa(s.status), true }, nil
	case "RESPONSE_CODE_DETAILS":
		return word(func(s *stream) string { return s.details })
	case "RESPONSE_FLAGS":
		return word(func(s *stream) string { return s.flags })
	case "ROUTE_NAME":
		return word(func(s *stream) string {
			if s.route == nil {
				return ""
			}
			return s.route.name
		})
	case "VIRTUAL_CLUSTER_NAME":
		return func(*stream) (string, bool) { return "", false }, nil
	case "UPSTREAM_CLUSTER":
		return word(func(s *stream) string { return s.clusterName })
	case "UPSTREAM_HOST":
		return word(func(s *stream) string { return s.upstreamHost })
	case "BYTES_RECEIVED":
		return func(s *stream) (string, bool) { return strconv.FormatInt(s.bytesReceived.Load(), 10), true }, nil
	case "BYTES_SENT":
		return func(s *stream) (string, bool) { return strconv.FormatInt(s.bytesSent.Load(), 10), true }, nil
	case "DURATION":
		return func(s *stream) (string, bool) {
			return strconv.FormatInt(time.Since(s.start).Milliseconds(), 10), true
		}, nil
	case "START_TIME":
		if arg != "" {
			return nil, b.boot.Unsupported(path, "%START_TIME% with a format of its own")
		}
		return func(s *stream) (string, bool) { return s.start.UTC().Format("2006-01-02T15:04:05.000Z"), true }, nil
	case "DOWNSTREAM_REMOTE_ADDRESS":
		return word(func(s *stream) string { return s.conn.remote })
	case "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT":
		return word(func(s *stream) string { return withoutPort(s.conn.remote) })
	case "DOWNSTREAM_LOCAL_ADDRESS":
		return word(func(s *stream) string { return s.conn.local })
	case "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT":
		return word(func(s *stream) string { return withoutPort(s.conn.local) })
	case "CONNECTION_ID":
		return func(s *stream) (string, bool) { return strconv.FormatUint(s.conn.id, 10), true }, nil
	}
	return nil, b.boot.Unsupported(path, "the format command %"+name+"%")
}

func withoutPort(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}

func headerNames(arg string) (main, alternative string) {
	main, alternative, _ = strings.Cut(arg, "?")
	main = canonical(main)
	if alternative != "" {
		alternative = canonical(alternative)
	}
	return main, alternative
}

// pick returns the first value of the main header, else of the alternative.
func pick(h *Headers, main, alternative string) (string, bool) {
	if i := h.find(main); i >= 0 {
		return h.fields[i].value, true
	}
	if alternative != "" {
		if i := h.find(alternative); i >= 0 {
			return h.fields[i].value, true
		}
	}
	return "", false
}

// cel compiles %CEL(expression)% over the attributes of the request.
func (b *builder) cel(path, expression string) (func(*stream) (string, bool), error) {
	env, err := cel.NewEnv(cel.Variable("request", cel.MapType(cel.StringType, cel.DynType)))
	if err != nil {
		return nil, err
	}
	ast, issues := env.Compile(expression)
	if issues.Err() != nil {
		first, _, _ := strings.Cut(issues.Err().Error(), "\n")
		return nil, b.boot.Errorf(path, "%%CEL(%s)%%: %s (hostsim knows the attributes of request)", expression, strings.TrimPrefix(first, "ERROR: "))
	}
	program, err := env.Program(ast)
	if err != nil {
		return nil, b.boot.Errorf(path, "%%CEL(%s)%%: %v", expression, err)
	}
	return func(s *stream) (string, bool) {
		out, _, err := program.Eval(map[string]any{"request": requestAttributes(s)})
		if err != nil {
			return "", false
		}
		return celText(out)
	}, nil
}

// celText is how Envoy prints the result of an expression.
func celText(v ref.Val) (string, bool) {
	if types.IsError(v) || types.IsUnknown(v) {
		return "", false
	}
	if s, ok := v.Value().(string); ok {
		return s, true
	}
	text := v.ConvertToType(types.StringType)
	s, ok := text.Value().(string)
	return s, ok
}

// requestAttributes is the CEL attribute "request" in the header phase.
func requestAttributes(s *stream) map[string]any {
	headers := make(map[string]string, s.request.Len())
	for _, f := range s.request.fields {
		if _, twice := headers[f.name]; !twice {
			headers[f.name], _ = s.request.joined(f.name)
		}
	}
	path := s.request.value(":path")
	urlPath, query, _ := strings.Cut(path, "?")
	return map[string]any{
		"headers": headers, "path": path, "url_path": urlPath, "query": query,
		"host": s.request.value(":authority"), "scheme": s.request.value(":scheme"), "method": s.request.value(":method"),
		"protocol": s.protocol, "id": s.request.value("x-request-id"),
	}
}

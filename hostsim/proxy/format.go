package proxy

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	withoutqueryv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/formatter/req_without_query/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// format is a compiled substitution format string ("%REQ(:PATH)% ...").
type format struct {
	parts []formatPart
}

// formatPart is text, or a command with its limit in bytes.
type formatPart struct {
	literal string
	command command // nil for text
	max     int     // of bytes, negative: no limit
}

// command appends what it stands for.
type command func(dst []byte, s *stream) ([]byte, kind)

// kind is what a command has appended.
type kind int

const (
	absent kind = iota // nothing, there is no such value
	text               // text
	raw                // a number, boolean, list or object, written as in JSON
)

// append expands the format; missing stands for a value that is not there.
func (f *format) append(dst []byte, s *stream, missing string) []byte {
	for i := range f.parts {
		p := &f.parts[i]
		if p.command == nil {
			dst = append(dst, p.literal...)
			continue
		}
		start := len(dst)
		var k kind
		if dst, k = p.command(dst, s); k == absent {
			dst = append(dst[:start], missing...)
		} else if p.max >= 0 && len(dst)-start > p.max {
			dst = dst[:start+p.max]
		}
	}
	return dst
}

// text expands the format into a string.
func (f *format) text(s *stream, missing string) string {
	switch {
	case len(f.parts) == 0:
		return ""
	case len(f.parts) == 1 && f.parts[0].command == nil:
		return f.parts[0].literal
	}
	s.formatted = f.append(s.formatted[:0], s, missing)
	return string(s.formatted)
}

// substitution is a SubstitutionFormatString: text or JSON.
type substitution struct {
	line        *format
	json        *jsonFormat // takes the place of line
	missing     string      // what stands for a value that is not there
	contentType string      // of a body made with it, "": text/plain
}

func (f *substitution) append(dst []byte, s *stream) []byte {
	if f.json == nil {
		return f.line.append(dst, s, f.missing)
	}
	dst, _ = f.json.append(dst, s, f.missing == "")
	return append(dst, '\n')
}

func (f *substitution) text(s *stream) string {
	s.formatted = f.append(s.formatted[:0], s)
	return string(s.formatted)
}

// jsonFormat is a value of a json_format. One field is set.
type jsonFormat struct {
	constant string // written as it is
	line     *format
	keys     []string // of an object, in order, as they are written
	members  []*jsonFormat
	list     bool // members are those of a list
}

// append writes the value. With omit, what is not there and objects that
// become empty by that are left out; empty says that this is one of them.
func (f *jsonFormat) append(dst []byte, s *stream, omit bool) (out []byte, empty bool) {
	switch {
	case f.line != nil:
		return f.appendLine(dst, s, omit)
	case f.keys == nil && !f.list:
		return append(dst, f.constant...), f.constant == "null"
	}
	open, end := byte('{'), byte('}')
	if f.list {
		open, end = '[', ']'
	}
	dst = append(dst, open)
	first := true
	for i, m := range f.members {
		start := len(dst)
		if !first {
			dst = append(dst, ',')
		}
		if !f.list {
			dst = append(append(dst, f.keys[i]...), ':')
		}
		var empty bool
		if dst, empty = m.append(dst, s, omit); empty && omit {
			dst = dst[:start]
			continue
		}
		first = false
	}
	return append(dst, end), first && !f.list
}

// appendLine keeps the type of a lone command and makes text of everything
// else.
func (f *jsonFormat) appendLine(dst []byte, s *stream, omit bool) (out []byte, empty bool) {
	start := len(dst)
	if p := &f.line.parts[0]; len(f.line.parts) == 1 {
		var k kind
		switch dst, k = p.command(dst, s); k {
		case absent:
			return append(dst[:start], "null"...), true
		case raw:
			return dst, string(dst[start:]) == "null"
		}
		if p.max >= 0 && len(dst)-start > p.max {
			dst = dst[:start+p.max]
		}
	} else {
		missing := "-"
		if omit {
			missing = ""
		}
		dst = f.line.append(dst, s, missing)
	}
	value := string(dst[start:])
	return appendJSONString(dst[:start], value), false
}

// ---- from the configuration

// substitution compiles a SubstitutionFormatString.
func (b *builder) substitution(path string, c *corev3.SubstitutionFormatString) (*substitution, error) {
	f := &substitution{missing: "-", contentType: c.GetContentType()}
	if c.GetOmitEmptyValues() {
		f.missing = ""
	}
	// CEL and METADATA are there without their formatters too.
	b.withoutQuery = slices.ContainsFunc(c.GetFormatters(), func(f *corev3.TypedExtensionConfig) bool {
		return f.GetTypedConfig().MessageIs(&withoutqueryv3.ReqWithoutQuery{})
	})
	defer func() { b.withoutQuery = false }()
	var err error
	switch spec := c.GetFormat().(type) {
	case *corev3.SubstitutionFormatString_JsonFormat:
		f.json, err = b.jsonObject(path+".json_format", spec.JsonFormat)
		if f.contentType == "" {
			f.contentType = "application/json"
		}
	case *corev3.SubstitutionFormatString_TextFormat:
		f.line, err = b.format(path+".text_format", spec.TextFormat)
	case *corev3.SubstitutionFormatString_TextFormatSource:
		path := path + ".text_format_source"
		var line string
		if line, err = b.dataSource(path, spec.TextFormatSource); err == nil {
			f.line, err = b.format(path+".inline_string", line)
		}
	}
	return f, err
}

func (b *builder) jsonObject(path string, c *structpb.Struct) (*jsonFormat, error) {
	f := &jsonFormat{keys: []string{}}
	for _, key := range slices.Sorted(maps.Keys(c.GetFields())) {
		m, err := b.jsonFormat(path+"."+key, c.GetFields()[key])
		if err != nil {
			return nil, err
		}
		f.keys = append(f.keys, string(appendJSONString(nil, key)))
		f.members = append(f.members, m)
	}
	return f, nil
}

func (b *builder) jsonFormat(path string, c *structpb.Value) (*jsonFormat, error) {
	switch v := c.GetKind().(type) {
	case *structpb.Value_StructValue:
		return b.jsonObject(path, v.StructValue)
	case *structpb.Value_ListValue:
		f := &jsonFormat{list: true}
		for i, c := range v.ListValue.GetValues() {
			m, err := b.jsonFormat(index(path, i), c)
			if err != nil {
				return nil, err
			}
			f.members = append(f.members, m)
		}
		return f, nil
	case *structpb.Value_StringValue:
		line, err := b.format(path, v.StringValue)
		if err != nil {
			return nil, err
		}
		if literal, ok := line.literal(); ok {
			return &jsonFormat{constant: string(appendJSONString(nil, literal))}, nil
		}
		return &jsonFormat{line: line}, nil
	}
	return &jsonFormat{constant: string(appendJSON(nil, c))}, nil
}

// literal gives the text of a format without commands.
func (f *format) literal() (string, bool) {
	switch {
	case len(f.parts) == 0:
		return "", true
	case len(f.parts) == 1 && f.parts[0].command == nil:
		return f.parts[0].literal, true
	}
	return "", false
}

// format compiles a format string.
func (b *builder) format(path, text string) (*format, error) {
	f := &format{}
	rest, err := parseFormat(text, func(literal, name, arg string, hasArg bool, max int) error {
		if name == "" {
			f.parts = append(f.parts, formatPart{literal: literal})
			return nil
		}
		c, err := b.command(path, name, arg, hasArg, max >= 0)
		f.parts = append(f.parts, formatPart{command: c, max: max})
		return err
	})
	if err == nil && rest != "" {
		err = b.boot.Errorf(path, "%q begins no format command: write %%NAME(argument)%%, or %%%% for a percent sign", rest)
	}
	return f, err
}

// parseFormat cuts a format string into text and commands. What it returns
// begins with a percent sign that begins no command.
//
// A command is %NAME%, %NAME(argument)% or %NAME(argument):length%. Envoy
// finds its end with the expression
// %((?:[A-Z]|[0-9]|_)+)(?:\((.*?)\))?(?::([0-9]+))?%, so an argument ends
// with the first parenthesis behind which the command can end.
func parseFormat(in string, each func(literal, name, arg string, hasArg bool, max int) error) (rest string, err error) {
	var literal []byte
	for in != "" {
		i := strings.IndexByte(in, '%')
		if i < 0 {
			literal, in = append(literal, in...), ""
			break
		}
		literal, in = append(literal, in[:i]...), in[i:]
		if strings.HasPrefix(in, "%%") {
			literal, in = append(literal, '%'), in[2:]
			continue
		}
		name, arg, hasArg, max, n := cutCommand(in)
		if n == 0 {
			return in, nil
		}
		if len(literal) > 0 {
			if err := each(string(literal), "", "", false, -1); err != nil {
				return "", err
			}
			literal = literal[:0]
		}
		if err := each("", name, arg, hasArg, max); err != nil {
			return "", err
		}
		in = in[n:]
	}
	if len(literal) > 0 {
		err = each(string(literal), "", "", false, -1)
	}
	return "", err
}

// cutCommand reads the command that in begins with; n is its length, 0 where
// there is none.
func cutCommand(in string) (name, arg string, hasArg bool, max, n int) {
	i := 1
	for i < len(in) && ('A' <= in[i] && in[i] <= 'Z' || isDigit(in[i]) || in[i] == '_') {
		i++
	}
	if i == 1 {
		return "", "", false, 0, 0
	}
	name = in[1:i]
	if max, n := cutLength(in, i); n > 0 {
		return name, "", false, max, n
	}
	if i == len(in) || in[i] != '(' {
		return "", "", false, 0, 0
	}
	for j := i + 1; j < len(in) && in[j] != '\n'; j++ {
		if in[j] == ')' {
			if max, n := cutLength(in, j+1); n > 0 {
				return name, in[i+1 : j], true, max, n
			}
		}
	}
	return "", "", false, 0, 0
}

// cutLength reads an optional :length and the final percent sign at i. n is
// where the command ends, 0 if it does not end so.
func cutLength(in string, i int) (max, n int) {
	max = -1
	if i < len(in) && in[i] == ':' {
		j := i + 1
		for j < len(in) && isDigit(in[j]) {
			j++
		}
		v, err := strconv.Atoi(in[i+1 : j])
		if err != nil {
			return 0, 0
		}
		max, i = v, j
	}
	if i < len(in) && in[i] == '%' {
		return max, i + 1
	}
	return 0, 0
}

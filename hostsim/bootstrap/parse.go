package bootstrap

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxDepth is the number of nested objects and lists that Envoy's JSON reader follows.
const maxDepth = 100

// jsonNumber tags the numbers of JSON text. Those of YAML text are found by resolve.
const jsonNumber = "!json-number"

// parse turns text into a tree of nodes with positions. The root is never nil.
func parse(name string, data []byte) (*yaml.Node, error) {
	if filepath.Ext(name) == ".json" {
		return parseJSON(name, data)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, syntaxError(name, data, err)
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) == 0 {
		return nil, &Error{File: name, Msg: "is empty, a bootstrap starts with static_resources:"}
	}
	return doc.Content[0], nil
}

var (
	yamlLine   = regexp.MustCompile(`^line (\d+): `)
	yamlAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)
)

// syntaxError gives err, which yaml.Unmarshal returned for data, the line where the text went wrong.
func syntaxError(name string, data []byte, err error) error {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 0
	if m := yamlLine.FindStringSubmatch(msg); m != nil {
		line, _ = strconv.Atoi(m[1])
		msg = msg[len(m[0]):]
	}
	if n := lastGoodLine(data); n >= 0 {
		line = n + 1
	}
	if m := yamlAnchor.FindStringSubmatch(msg); m != nil {
		msg = "the alias *" + m[1] + " has no anchor &" + m[1] + " before it"
	}
	msg, _, _ = strings.Cut(msg, "\n")
	return &Error{File: name, Line: line, Msg: "invalid YAML: " + msg}
}

// lastGoodLine returns the largest number of lines from the start of data that are YAML by themselves, or -1 if data is too large to look.
// The YAML reader's own line is that of the surrounding block, and often one less.
func lastGoodLine(data []byte) int {
	const maxLines, maxSize = 2000, 1 << 18
	lines := bytes.SplitAfter(data, []byte("\n"))
	if len(lines) > maxLines || len(data) > maxSize {
		return -1
	}
	end := len(data)
	for n := len(lines) - 1; n > 0; n-- {
		end -= len(lines[n])
		var doc yaml.Node
		if yaml.Unmarshal(data[:end], &doc) == nil {
			return n
		}
	}
	return 0
}

// parseJSON reads JSON text into the same tree as YAML.
func parseJSON(name string, data []byte) (*yaml.Node, error) {
	p := jsonParser{data: data, dec: json.NewDecoder(bytes.NewReader(data)), line: 1}
	p.dec.UseNumber()
	root, err := p.value(0)
	if err == nil {
		if _, err = p.dec.Token(); err == nil {
			p.advance(int(p.dec.InputOffset()))
			err = errors.New("more text after the end of the object")
		} else if err == io.EOF {
			return root, nil
		}
	}
	if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
		p.advance(int(syntax.Offset))
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		p.advance(len(bytes.TrimRight(data, " \t\r\n")))
		err = errors.New("the text ends too early")
	}
	return nil, &Error{File: name, Line: p.line, Msg: "invalid JSON: " + err.Error()}
}

type jsonParser struct {
	data []byte
	dec  *json.Decoder

	// line and column of offset, from 1 and from 0.
	offset, line, column int
}

// advance moves the position to offset.
func (p *jsonParser) advance(offset int) {
	for ; p.offset < min(offset, len(p.data)); p.offset++ {
		p.column++
		if p.data[p.offset] == '\n' {
			p.line++
			p.column = 0
		}
	}
}

// token reads a token and returns it with a node at its end, which is on its line.
func (p *jsonParser) token() (json.Token, *yaml.Node, error) {
	tok, err := p.dec.Token()
	if err != nil {
		return nil, nil, err
	}
	p.advance(int(p.dec.InputOffset()))
	return tok, &yaml.Node{Line: p.line, Column: p.column}, nil
}

func (p *jsonParser) value(depth int) (*yaml.Node, error) {
	tok, n, err := p.token()
	if err != nil {
		return nil, err
	}
	if depth > maxDepth {
		return nil, errors.New("objects and lists are nested too deeply")
	}
	n.Kind = yaml.ScalarNode
	switch tok := tok.(type) {
	case nil:
		n.Value = "null"
	case bool:
		n.Value = strconv.FormatBool(tok)
	case json.Number:
		n.Value, n.Tag = tok.String(), jsonNumber
	case string:
		n.Value, n.Style = tok, yaml.DoubleQuotedStyle
	case json.Delim:
		n.Kind = yaml.SequenceNode
		if tok == '{' {
			n.Kind = yaml.MappingNode
		}
		for p.dec.More() {
			if n.Kind == yaml.MappingNode {
				tok, key, err := p.token()
				if err != nil {
					return nil, err
				}
				key.Kind, key.Style, key.Value = yaml.ScalarNode, yaml.DoubleQuotedStyle, tok.(string)
				n.Content = append(n.Content, key)
			}
			v, err := p.value(depth + 1)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, v)
		}
		if _, _, err := p.token(); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// scalar is the value of a scalar node as Envoy reads it.
type scalar struct {
	kind scalarKind
	text string // true, false, a number, or the string
}

type scalarKind int

const (
	nullScalar scalarKind = iota
	boolScalar
	numberScalar
	stringScalar
)

// resolve reads a scalar node as Envoy and yaml-cpp do: what is quoted is a string, plain text is null, a boolean, an integer of 32 bits, or
// else a string. A number with a fraction and an integer of more than 32 bits are strings; fields of a number type read them all the same.
func resolve(n *yaml.Node) scalar {
	if n.Tag == jsonNumber {
		return scalar{numberScalar, n.Value}
	}
	const quoted = yaml.DoubleQuotedStyle | yaml.SingleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle
	if n.Style&quoted != 0 {
		return scalar{stringScalar, n.Value}
	}
	switch n.Value {
	case "", "~", "null", "Null", "NULL":
		return scalar{nullScalar, "null"}
	case "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON":
		return scalar{boolScalar, "true"}
	case "n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF":
		return scalar{boolScalar, "false"}
	}
	if i, ok := streamInt(n.Value); ok {
		kind := numberScalar
		if i != int64(int32(i)) {
			kind = stringScalar
		}
		return scalar{kind, strconv.FormatInt(i, 10)}
	}
	return scalar{stringScalar, n.Value}
}

// streamInt reads s as a C++ stream without a fixed base does: 0x is hexadecimal, a leading 0 octal.
func streamInt(s string) (int64, bool) {
	sign, digits, base := "", s, 10
	if s != "" && (s[0] == '+' || s[0] == '-') {
		sign, digits = s[:1], s[1:]
	}
	switch {
	case strings.HasPrefix(digits, "0x"), strings.HasPrefix(digits, "0X"):
		digits, base = digits[2:], 16
	case strings.HasPrefix(digits, "0") && len(digits) > 1:
		digits, base = digits[1:], 8
	}
	if digits == "" || digits[0] == '+' || digits[0] == '-' {
		return 0, false
	}
	i, err := strconv.ParseInt(sign+digits, base, 64)
	return i, err == nil
}

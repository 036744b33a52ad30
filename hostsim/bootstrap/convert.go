package bootstrap

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// converter fills messages from nodes, by their descriptors.
type converter struct {
	file      string
	text      int // which one of several it is
	positions map[string]position
	messages  map[*anypb.Any]proto.Message
	anys      []unpacked // what stands in every Any, in document order

	// What is left of the number of values that a text may grow to when its aliases are followed.
	budget int
}

// unpacked is a message that stands in an Any at path.
type unpacked struct {
	path    string
	message proto.Message
}

func (c *converter) position(n *yaml.Node) position { return position{c.text, n.Line, n.Column} }

func (c *converter) errorf(n *yaml.Node, path, format string, args ...any) error {
	return &Error{File: c.file, Line: n.Line, Path: path, Msg: fmt.Sprintf(format, args...)}
}

// enter follows aliases, notes where path is, and guards against texts that are too large or deep once aliases are followed.
func (c *converter) enter(n *yaml.Node, path string, depth int) (*yaml.Node, error) {
	c.budget--
	if _, ok := c.positions[path]; !ok { // an element of a list of one is where the list is
		c.positions[path] = c.position(n)
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch {
	case depth > maxDepth:
		return nil, c.errorf(n, shorten(path), "objects and lists are nested too deeply, more than %d", maxDepth)
	case c.budget < 0:
		return nil, c.errorf(n, shorten(path), "the text has too many values once its aliases are followed")
	}
	return n, nil
}

// shorten keeps the path of a text that nests without end readable.
func shorten(path string) string {
	const limit = 200
	if len(path) > limit {
		return path[:limit] + "..."
	}
	return path
}

// message fills m from n.
func (c *converter) message(m protoreflect.Message, n *yaml.Node, path string, depth int) error {
	n, err := c.enter(n, path, depth)
	if err != nil {
		return err
	}
	md := m.Descriptor()
	switch md.FullName() {
	case "google.protobuf.Any":
		return c.any(m.Interface().(*anypb.Any), n, path, depth)
	case "google.protobuf.Struct":
		return c.field(m, md.Fields().ByName("fields"), n, path, depth)
	case "google.protobuf.ListValue":
		return c.field(m, md.Fields().ByName("values"), n, path, depth)
	case "google.protobuf.Value":
		return c.value(m, n, path, depth)
	}
	// Envoy reads these from an object too, {seconds: 1}.
	if n.Kind == yaml.ScalarNode {
		switch md.FullName() {
		case "google.protobuf.BoolValue", "google.protobuf.StringValue", "google.protobuf.BytesValue",
			"google.protobuf.Int32Value", "google.protobuf.Int64Value", "google.protobuf.UInt32Value",
			"google.protobuf.UInt64Value", "google.protobuf.FloatValue", "google.protobuf.DoubleValue":
			return c.field(m, md.Fields().ByName("value"), n, path, depth)
		case "google.protobuf.Duration":
			return c.jsonString(m, n, path, `a duration in seconds such as "1s" or "0.25s"`)
		case "google.protobuf.Timestamp":
			return c.jsonString(m, n, path, `a time such as "2006-01-02T15:04:05Z"`)
		case "google.protobuf.FieldMask":
			return c.jsonString(m, n, path, `a list of fields such as "user.displayName,photo"`)
		}
	}
	if n.Kind != yaml.MappingNode {
		return c.errorf(n, path, "found %s, want an object with fields of %s", describe(n), md.Name())
	}

	given := map[protoreflect.FieldNumber]int{} // the line of each field
	chosen := map[protoreflect.Name]protoreflect.FieldDescriptor{}
	for i := 0; i < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		name, err := c.key(key, path)
		if err != nil {
			return err
		}
		fd := md.Fields().ByName(protoreflect.Name(name))
		if fd == nil {
			fd = md.Fields().ByJSONName(name)
		}
		if fd == nil {
			return c.errorf(key, join(path, name), "unknown field of %s%s", md.Name(), fieldHint(md, name))
		}
		fieldPath := join(path, string(fd.Name()))
		if line, ok := given[fd.Number()]; ok {
			return c.errorf(key, fieldPath, "given twice, first in line %d", line)
		}
		given[fd.Number()] = key.Line
		c.positions[fieldPath] = c.position(key)
		if isNull(val) && !isValue(fd) {
			continue
		}
		if oneof := fd.ContainingOneof(); oneof != nil && !oneof.IsSynthetic() {
			if other, ok := chosen[oneof.Name()]; ok {
				return c.errorf(key, fieldPath, "%s and %s cannot both be set, they are alternatives", other.Name(), fd.Name())
			}
			chosen[oneof.Name()] = fd
		}
		if err := c.field(m, fd, val, fieldPath, depth+1); err != nil {
			return err
		}
	}
	// Envoy finds an extension by the type of its configuration, the name is for people.
	if oneof := md.Oneofs().ByName("config_type"); oneof != nil && m.WhichOneof(oneof) == nil {
		return c.errorf(n, path, "%s has no typed_config, its \"@type\" names the extension", md.Name())
	}
	return nil
}

// field sets field fd of m from n.
func (c *converter) field(m protoreflect.Message, fd protoreflect.FieldDescriptor, n *yaml.Node, path string, depth int) error {
	switch {
	case fd.IsMap():
		return c.mapField(m.Mutable(fd).Map(), fd, n, path, depth)
	case fd.IsList():
		return c.list(m.Mutable(fd).List(), fd, n, path, depth)
	case fd.Message() != nil:
		return c.message(m.Mutable(fd).Message(), n, path, depth)
	}
	v, err := c.scalar(fd, n, path, depth)
	if err != nil || c.text > 0 && !fd.HasPresence() && v.Equal(fd.Default()) {
		return err // merging does not see it
	}
	m.Set(fd, v)
	return nil
}

// list appends the elements of n. What is not a list is a list of one, and lists in a list are one list, as in Envoy.
func (c *converter) list(list protoreflect.List, fd protoreflect.FieldDescriptor, n *yaml.Node, path string, depth int) error {
	n, err := c.enter(n, path, depth)
	if err != nil {
		return err
	}
	elements := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		elements = n.Content
	}
	for _, e := range elements {
		target := follow(e)
		// In a list of values a list is a value.
		if n.Kind == yaml.SequenceNode && target.Kind == yaml.SequenceNode && !isValue(fd) {
			if err := c.list(list, fd, e, path, depth+1); err != nil {
				return err
			}
			continue
		}
		elementPath := path + "[" + strconv.Itoa(list.Len()) + "]"
		c.positions[elementPath] = c.position(e)
		v := list.NewElement()
		switch {
		case isNull(e) && !isValue(fd): // the empty message, the zero value
		case fd.Message() != nil:
			err = c.message(v.Message(), e, elementPath, depth+1)
		default:
			v, err = c.scalar(fd, e, elementPath, depth+1)
		}
		if err != nil {
			return err
		}
		list.Append(v)
	}
	return nil
}

func (c *converter) mapField(entries protoreflect.Map, fd protoreflect.FieldDescriptor, n *yaml.Node, path string, depth int) error {
	n, err := c.enter(n, path, depth)
	if err != nil {
		return err
	}
	if n.Kind != yaml.MappingNode {
		return c.errorf(n, path, "found %s, want an object", describe(n))
	}
	for i := 0; i < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		name, err := c.key(key, path)
		if err != nil {
			return err
		}
		entryPath := path + "[" + strconv.Quote(name) + "]"
		k, err := c.scalar(fd.MapKey(), &yaml.Node{Kind: yaml.ScalarNode, Style: yaml.DoubleQuotedStyle, Value: name, Line: key.Line}, entryPath, depth)
		if err != nil {
			return err
		}
		if entries.Has(k.MapKey()) {
			return c.errorf(key, entryPath, "given twice")
		}
		c.positions[entryPath] = c.position(key)
		v := entries.NewValue()
		switch vd := fd.MapValue(); {
		case isNull(val) && !isValue(vd):
		case vd.Message() != nil:
			err = c.message(v.Message(), val, entryPath, depth+1)
		default:
			v, err = c.scalar(vd, val, entryPath, depth+1)
		}
		if err != nil {
			return err
		}
		entries.Set(k.MapKey(), v)
	}
	return nil
}

// value fills a google.protobuf.Value.
func (c *converter) value(m protoreflect.Message, n *yaml.Node, path string, depth int) error {
	fields := m.Descriptor().Fields()
	switch n.Kind {
	case yaml.MappingNode:
		return c.message(m.Mutable(fields.ByName("struct_value")).Message(), n, path, depth)
	case yaml.SequenceNode:
		return c.message(m.Mutable(fields.ByName("list_value")).Message(), n, path, depth)
	}
	switch s := resolve(n); s.kind {
	case nullScalar:
		m.Set(fields.ByName("null_value"), protoreflect.ValueOfEnum(0))
	case boolScalar:
		m.Set(fields.ByName("bool_value"), protoreflect.ValueOfBool(s.text == "true"))
	case numberScalar:
		f, err := strconv.ParseFloat(s.text, 64)
		if err != nil {
			return c.errorf(n, path, "%s is out of range", quote(s.text))
		}
		m.Set(fields.ByName("number_value"), protoreflect.ValueOfFloat64(f))
	default:
		m.Set(fields.ByName("string_value"), protoreflect.ValueOfString(s.text))
	}
	return nil
}

// jsonString fills a message that has a string form in JSON.
func (c *converter) jsonString(m protoreflect.Message, n *yaml.Node, path, want string) error {
	// Envoy wants digits on both sides of the point in a duration, protojson does not.
	if s := resolve(n); s.kind == stringScalar && !strings.HasPrefix(s.text, ".") && !strings.HasPrefix(s.text, "-.") && !strings.Contains(s.text, ".s") {
		text, err := json.Marshal(s.text)
		if err == nil && protojson.Unmarshal(text, m.Interface()) == nil {
			return nil
		}
	}
	return c.errorf(n, path, "found %s, want %s", describe(n), want)
}

// scalar reads a number, boolean, string, bytes or enum value.
func (c *converter) scalar(fd protoreflect.FieldDescriptor, n *yaml.Node, path string, depth int) (v protoreflect.Value, err error) {
	n, err = c.enter(n, path, depth)
	if err != nil {
		return v, err
	}
	kind := fd.Kind()
	want := "a " + kind.String()
	if n.Kind == yaml.ScalarNode {
		s := resolve(n)
		textual := s.kind == numberScalar || s.kind == stringScalar
		switch kind {
		case protoreflect.StringKind:
			if s.kind == stringScalar {
				return protoreflect.ValueOfString(s.text), nil
			}
			want += ", put it in quotes"
		case protoreflect.BytesKind:
			want = "a base64 string"
			if data, err := decodeBase64(s.text); err == nil && s.kind == stringScalar {
				return protoreflect.ValueOfBytes(data), nil
			}
		case protoreflect.BoolKind:
			want = "true or false"
			if b, ok := parseBool(s.text); ok && (s.kind == boolScalar || s.kind == stringScalar) {
				return protoreflect.ValueOfBool(b), nil
			}
		case protoreflect.EnumKind:
			ed := fd.Enum()
			want = "one of " + enumNames(ed)
			if number, ok := enumNumber(ed, s.text); ok && textual {
				return protoreflect.ValueOfEnum(number), nil
			}
		case protoreflect.FloatKind, protoreflect.DoubleKind:
			want = "a number"
			if f, ok := parseFloat(s.text); ok && textual {
				if kind == protoreflect.DoubleKind {
					return protoreflect.ValueOfFloat64(f), nil
				}
				if math.IsInf(f, 0) || math.Abs(f) <= math.MaxFloat32 || math.IsNaN(f) {
					return protoreflect.ValueOfFloat32(float32(f)), nil
				}
			}
		default:
			bits, signed := 32, true
			switch kind {
			case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
				bits = 64
			case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
				bits, signed = 64, false
			case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
				signed = false
			}
			text := s.text
			if f, err := strconv.ParseFloat(text, 64); err == nil && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
				text = strconv.FormatInt(int64(f), 10) // 8080.0, 1e3
			}
			if signed {
				want = fmt.Sprintf("an integer of %d bits", bits)
				if i, err := strconv.ParseInt(text, 10, bits); err == nil && textual {
					if bits == 64 {
						return protoreflect.ValueOfInt64(i), nil
					}
					return protoreflect.ValueOfInt32(int32(i)), nil
				}
			} else {
				want = fmt.Sprintf("a non-negative integer of %d bits", bits)
				if u, err := strconv.ParseUint(text, 10, bits); err == nil && textual {
					if bits == 64 {
						return protoreflect.ValueOfUint64(u), nil
					}
					return protoreflect.ValueOfUint32(uint32(u)), nil
				}
			}
		}
	}
	return v, c.errorf(n, path, "found %s, want %s", describe(n), want)
}

// key returns the name that a key of a mapping stands for.
func (c *converter) key(key *yaml.Node, path string) (string, error) {
	key = follow(key)
	if key.Kind != yaml.ScalarNode {
		return "", c.errorf(key, path, "found %s, want the name of a field", describe(key))
	}
	return key.Value, nil
}

func follow(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool {
	n = follow(n)
	return n.Kind == yaml.ScalarNode && resolve(n).kind == nullScalar
}

// isValue reports whether null is a value of the field's type.
func isValue(fd protoreflect.FieldDescriptor) bool {
	return fd.Message() != nil && fd.Message().FullName() == "google.protobuf.Value"
}

func join(path, field string) string {
	if path == "" {
		return field
	}
	return path + "." + field
}

// describe says what was found.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "an object"
	case yaml.SequenceNode:
		return "a list"
	}
	switch s := resolve(n); s.kind {
	case nullScalar:
		return "null"
	case boolScalar:
		return "the boolean " + n.Value
	case numberScalar:
		return "the number " + n.Value
	default:
		return quote(s.text)
	}
}

// lower is the ASCII letter in lower case, every other byte as it is.
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s)
}

// parseBool accepts what absl::SimpleAtob accepts.
func parseBool(s string) (value, ok bool) {
	switch lower(s) {
	case "true", "t", "yes", "y", "1":
		return true, true
	case "false", "f", "no", "n", "0":
		return false, true
	}
	return false, false
}

// parseFloat accepts a JSON number and the three words of protocol buffers' JSON.
func parseFloat(s string) (float64, bool) {
	switch s {
	case "NaN":
		return math.NaN(), true
	case "Infinity":
		return math.Inf(1), true
	case "-Infinity":
		return math.Inf(-1), true
	}
	if !json.Valid([]byte(s)) {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil
}

// decodeBase64 accepts the standard and the URL alphabet, with padding or without.
func decodeBase64(s string) ([]byte, error) {
	s = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(s, "="))
	return base64.RawStdEncoding.DecodeString(s)
}

// enumNumber finds an enum value by its name in any case, or takes its number.
func enumNumber(ed protoreflect.EnumDescriptor, s string) (protoreflect.EnumNumber, bool) {
	if number, err := strconv.ParseInt(s, 10, 32); err == nil {
		return protoreflect.EnumNumber(number), true
	}
	for i := range ed.Values().Len() {
		if v := ed.Values().Get(i); lower(string(v.Name())) == lower(s) {
			return v.Number(), true
		}
	}
	return 0, false
}

func enumNames(ed protoreflect.EnumDescriptor) string {
	var names []string
	for i := range ed.Values().Len() {
		names = append(names, string(ed.Values().Get(i).Name()))
	}
	return strings.Join(names, ", ")
}

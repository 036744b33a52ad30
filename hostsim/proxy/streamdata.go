package proxy

import (
	"encoding/base64"
	"maps"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/structpb"
)

// This file is what filters leave on a stream for those behind them: dynamic
// metadata, by namespace, and filter state, by key.

// stateObject is one object of the filter state: text that Envoy would print
// in its PLAIN form, and how its TYPED form looks.
type stateObject struct {
	text string
	kind stateKind
}

type stateKind int

const (
	stateBytes  stateKind = iota // CelState of a plugin: BytesValue
	stateString                  // StringAccessor: StringValue
	stateOpaque                  // has no TYPED form
	stateSilent                  // has no form at all
)

// typed is the TYPED form as a JSON value.
func (o stateObject) typed() (text string, ok bool) {
	switch o.kind {
	case stateBytes:
		return base64.StdEncoding.EncodeToString([]byte(o.text)), true
	case stateString:
		return o.text, true
	}
	return "", false
}

// setState puts an object into the filter state, in the place of one that is
// there. (Envoy 1.40 overwrites even what was put there read_only.)
func (s *stream) setState(key string, o stateObject) {
	if s.filterState == nil {
		s.filterState = map[string]stateObject{}
	}
	s.filterState[key] = o
}

// setMetadata merges fields into a namespace of the dynamic metadata, each as
// a whole (StreamInfo::setDynamicMetadata).
func (s *stream) setMetadata(namespace string, fields *structpb.Struct) {
	if s.metadata == nil {
		s.metadata = map[string]*structpb.Struct{}
	}
	have := s.metadata[namespace]
	if have == nil {
		have = &structpb.Struct{}
		s.metadata[namespace] = have
	}
	if have.Fields == nil {
		have.Fields = map[string]*structpb.Value{}
	}
	for k, v := range fields.GetFields() {
		have.Fields[k] = v
	}
}

// mergeMetadata is setMetadata for set_metadata with allow_overwrite: structs
// are merged, lists appended (StructUtil::update). What the metadata refers to
// may belong to the configuration and is never written.
func (s *stream) mergeMetadata(namespace string, fields *structpb.Struct) {
	merged := mergeStruct(s.metadata[namespace], fields)
	delete(s.metadata, namespace)
	s.setMetadata(namespace, merged)
}

func mergeStruct(old, with *structpb.Struct) *structpb.Struct {
	out := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for k, v := range old.GetFields() {
		out.Fields[k] = v
	}
	for k, v := range with.GetFields() {
		switch have := out.Fields[k].GetKind().(type) {
		case *structpb.Value_StructValue:
			if s := v.GetStructValue(); s != nil {
				v = structpb.NewStructValue(mergeStruct(have.StructValue, s))
			}
		case *structpb.Value_ListValue:
			if l := v.GetListValue(); l != nil {
				all := append([]*structpb.Value(nil), have.ListValue.GetValues()...)
				v = structpb.NewListValue(&structpb.ListValue{Values: append(all, l.GetValues()...)})
			}
		}
		out.Fields[k] = v
	}
	return out
}

// appendJSON writes a value as Envoy's access logs do: keys in order, no
// spaces.
func appendJSON(dst []byte, v *structpb.Value) []byte {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		return appendJSONString(dst, k.StringValue)
	case *structpb.Value_NumberValue:
		return appendJSONNumber(dst, k.NumberValue)
	case *structpb.Value_BoolValue:
		return strconv.AppendBool(dst, k.BoolValue)
	case *structpb.Value_StructValue:
		dst = append(dst, '{')
		for i, key := range slices.Sorted(maps.Keys(k.StructValue.GetFields())) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendJSONString(dst, key), ':')
			dst = appendJSON(dst, k.StructValue.GetFields()[key])
		}
		return append(dst, '}')
	case *structpb.Value_ListValue:
		dst = append(dst, '[')
		for i, element := range k.ListValue.GetValues() {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendJSON(dst, element)
		}
		return append(dst, ']')
	}
	return append(dst, "null"...)
}

// appendJSONNumber writes the shorter of the fixed and the scientific form,
// which is what std::to_chars chooses.
func appendJSONNumber(dst []byte, n float64) []byte {
	switch {
	case math.IsNaN(n):
		return append(dst, "null"...)
	case math.IsInf(n, 1):
		return append(dst, "inf"...)
	case math.IsInf(n, -1):
		return append(dst, "-inf"...)
	}
	fixed, scientific := strconv.FormatFloat(n, 'f', -1, 64), strconv.FormatFloat(n, 'e', -1, 64)
	if len(scientific) < len(fixed) {
		return append(dst, scientific...)
	}
	return append(dst, fixed...)
}

// appendJSONString writes a JSON string. Of text that is not UTF-8 each byte
// is taken for a character of its own (Json::sanitize).
func appendJSONString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	utf := utf8.ValidString(s)
	dst = append(dst, '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case !utf && (c < 0x20 || c == '"' || c == '\\' || c >= 0x80):
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\b':
			dst = append(dst, '\\', 'b')
		case c == '\f':
			dst = append(dst, '\\', 'f')
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c == '\r':
			dst = append(dst, '\\', 'r')
		case c == '\t':
			dst = append(dst, '\\', 't')
		case c < 0x20:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}

func (s *stream) hasState(key string) bool {
	_, ok := s.filterState[key]
	return ok
}

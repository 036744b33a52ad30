package proxy

import (
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"switchyard/hostsim/abi"
)

// This file is how attributes that have an inside are looked into and written
// for plugins (Context::getProperty, serializeValue): messages by the names of
// their fields, structs and maps by key, lists by index.

// inside looks into an attribute along a path; nil is what is not there.
func inside(v any, path string) any {
	for name := range strings.SplitSeq(path, "\x00") {
		switch of := v.(type) {
		case *structpb.Struct:
			v = plain(of.GetFields()[name])
		case *structpb.ListValue:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(of.GetValues()) {
				return nil
			}
			v = plain(of.GetValues()[i])
		case messageMap:
			value := of.Get(protoreflect.ValueOfString(name).MapKey())
			if !value.IsValid() {
				return nil
			}
			v = ofField(of.field.MapValue(), value)
		case proto.Message:
			m := of.ProtoReflect()
			fd := m.Descriptor().Fields().ByName(protoreflect.Name(name))
			switch {
			case fd == nil || fd.IsList():
				return nil
			case fd.IsMap():
				if fd.MapKey().Kind() != protoreflect.StringKind {
					return nil
				}
				v = messageMap{m.Get(fd).Map(), fd}
			default:
				v = ofField(fd, m.Get(fd))
			}
		default:
			return nil
		}
	}
	return v
}

// messageMap is a map field of a message, with strings for keys.
type messageMap struct {
	protoreflect.Map
	field protoreflect.FieldDescriptor
}

// null is a null of a struct, which cannot be written.
type null struct{}

// plain is the value itself; nil where there is none.
func plain(v *structpb.Value) any {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		return k.StringValue
	case *structpb.Value_NumberValue:
		return k.NumberValue
	case *structpb.Value_BoolValue:
		return k.BoolValue
	case *structpb.Value_StructValue:
		return k.StructValue
	case *structpb.Value_ListValue:
		return k.ListValue
	case *structpb.Value_NullValue:
		return null{}
	}
	return nil
}

// ofField is the value of a field that is no list.
func ofField(fd protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch v := v.Interface().(type) {
	case protoreflect.Message:
		return v.Interface()
	case protoreflect.EnumNumber:
		return int64(v)
	case int32:
		return int64(v)
	case uint32:
		return uint64(v)
	case float32:
		return float64(v)
	default:
		return v
	}
}

// asMap has each name once, with all its values.
func (h *Headers) asMap() *Headers {
	m := &Headers{}
	for i, f := range h.fields {
		if h.find(f.name) == i {
			f.value, _ = h.joined(f.name)
			m.fields = append(m.fields, f)
		}
	}
	return m
}

// encodeAttribute gives a value as Envoy serialises it for plugins: numbers as 8
// bytes little endian, booleans as one, maps and lists as pairs.
func encodeAttribute(v any) ([]byte, abi.Status) {
	switch v := v.(type) {
	case string:
		return []byte(v), abi.StatusOK
	case bool:
		if v {
			return []byte{1}, abi.StatusOK
		}
		return []byte{0}, abi.StatusOK
	case int64:
		return binary.LittleEndian.AppendUint64(nil, uint64(v)), abi.StatusOK
	case uint64:
		return binary.LittleEndian.AppendUint64(nil, v), abi.StatusOK
	case *Headers:
		return abi.AppendPairs(nil, v.asMap()), abi.StatusOK
	case []byte:
		return v, abi.StatusOK
	case float64:
		return binary.LittleEndian.AppendUint64(nil, math.Float64bits(v)), abi.StatusOK
	case *structpb.Struct:
		pairs, status := abi.Pairs{}, abi.StatusOK
		for _, key := range slices.Sorted(maps.Keys(v.GetFields())) {
			pairs, status = appendPair(pairs, key, plain(v.GetFields()[key]))
			if status != abi.StatusOK {
				return nil, status
			}
		}
		return abi.AppendPairs(nil, pairs), abi.StatusOK
	case *structpb.ListValue:
		pairs := abi.Pairs{}
		for _, e := range v.GetValues() {
			text, status := encodeAttribute(plain(e))
			if status != abi.StatusOK {
				return nil, abi.StatusSerializationFailure
			}
			pairs = append(pairs, [2]string{string(text)})
		}
		return abi.AppendPairs(nil, pairs), abi.StatusOK
	case messageMap:
		fields := map[string]any{}
		v.Range(func(k protoreflect.MapKey, value protoreflect.Value) bool {
			fields[k.String()] = ofField(v.field.MapValue(), value)
			return true
		})
		pairs, status := abi.Pairs{}, abi.StatusOK
		for _, key := range slices.Sorted(maps.Keys(fields)) {
			if pairs, status = appendPair(pairs, key, fields[key]); status != abi.StatusOK {
				return nil, status
			}
		}
		return abi.AppendPairs(nil, pairs), abi.StatusOK
	case proto.Message:
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(v)
		if err != nil {
			return nil, abi.StatusSerializationFailure
		}
		return b, abi.StatusOK
	case null:
		return nil, abi.StatusSerializationFailure
	}
	return nil, abi.StatusNotFound
}

func appendPair(pairs abi.Pairs, key string, v any) (abi.Pairs, abi.Status) {
	text, status := encodeAttribute(v)
	if status != abi.StatusOK {
		return nil, abi.StatusSerializationFailure
	}
	return append(pairs, [2]string{key, string(text)}), abi.StatusOK
}

// dynamicMetadata is the stream's metadata as a message.
func (s *stream) dynamicMetadata() *corev3.Metadata {
	return &corev3.Metadata{FilterMetadata: s.metadata, TypedFilterMetadata: s.typedMetadata}
}

// appendMessage prints a message as Envoy does: field by field in the order of
// their numbers, a space behind each.
func appendMessage(dst []byte, m protoreflect.Message) []byte {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if !m.Has(fd) {
			continue
		}
		switch v := m.Get(fd); {
		case fd.IsMap():
			var keys []string
			v.Map().Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
				keys = append(keys, k.String())
				return true
			})
			slices.Sort(keys)
			for _, key := range keys {
				dst = append(append(dst, fd.Name()...), " { key: "...)
				dst = append(strconv.AppendQuote(dst, key), ' ')
				dst = appendField(dst, fd.MapValue(), v.Map().Get(protoreflect.ValueOfString(key).MapKey()))
				dst = append(dst, "} "...)
			}
		case fd.IsList():
			for j := range v.List().Len() {
				dst = appendField(dst, fd, v.List().Get(j))
			}
		default:
			dst = appendField(dst, fd, v)
		}
	}
	return dst
}

func appendField(dst []byte, fd protoreflect.FieldDescriptor, v protoreflect.Value) []byte {
	dst = append(dst, fd.Name()...)
	switch fd.Kind() {
	case protoreflect.MessageKind:
		return append(appendMessage(append(dst, " { "...), v.Message()), "} "...)
	case protoreflect.StringKind:
		dst = strconv.AppendQuote(append(dst, ": "...), v.String())
	case protoreflect.EnumKind:
		dst = append(append(dst, ": "...), fd.Enum().Values().ByNumber(v.Enum()).Name()...)
	default:
		dst = append(append(dst, ": "...), v.String()...)
	}
	return append(dst, ' ')
}

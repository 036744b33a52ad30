package patch

import (
	"encoding/base64"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/structpb"
	networking "istio.io/api/networking/v1alpha3"
)

// newValue returns an empty message of the type of a patch's value, nil if there is none.
func newValue(of networking.EnvoyFilter_ApplyTo) proto.Message {
	switch of {
	case networking.EnvoyFilter_LISTENER:
		return &listenerv3.Listener{}
	case networking.EnvoyFilter_LISTENER_FILTER:
		return &listenerv3.ListenerFilter{}
	case networking.EnvoyFilter_FILTER_CHAIN:
		return &listenerv3.FilterChain{}
	case networking.EnvoyFilter_NETWORK_FILTER:
		return &listenerv3.Filter{}
	case networking.EnvoyFilter_HTTP_FILTER:
		return &hcmv3.HttpFilter{}
	case networking.EnvoyFilter_ROUTE_CONFIGURATION:
		return &routev3.RouteConfiguration{}
	case networking.EnvoyFilter_VIRTUAL_HOST:
		return &routev3.VirtualHost{}
	case networking.EnvoyFilter_HTTP_ROUTE:
		return &routev3.Route{}
	case networking.EnvoyFilter_CLUSTER:
		return &clusterv3.Cluster{}
	case networking.EnvoyFilter_EXTENSION_CONFIG:
		return &corev3.TypedExtensionConfig{}
	case networking.EnvoyFilter_BOOTSTRAP:
		return &bootstrapv3.Bootstrap{}
	}
	return nil
}

// reader turns the value of a patch into a message by the rules of the library that Istio uses, which are older than those of
// protojson: a duration is written as in Go ("1h", "500ms"), the name of an enum's value is exact, of two alternatives the one with
// the later number wins, and unknown fields are dropped. Warnings say where that is not what was meant.
type reader struct {
	warn    func(path, format string, args ...any)
	merging bool // the value is merged into what is there
}

// valueError is what makes Istio refuse the object.
type valueError struct{ path, msg string }

func (r *reader) message(m protoreflect.Message, s *structpb.Struct, path string) *valueError {
	md := m.Descriptor()
	known := map[string]bool{"@type": md.FullName() == "google.protobuf.Any"}
	chosen := map[protoreflect.Name]string{}
	for i := range md.Fields().Len() {
		fd := md.Fields().Get(i)
		var v *structpb.Value
		name := ""
		for _, n := range []string{string(fd.Name()), fd.JSONName()} {
			known[n] = true
			if given, ok := s.GetFields()[n]; ok {
				v, name = given, n
			}
		}
		if v == nil {
			continue
		}
		if _, null := v.GetKind().(*structpb.Value_NullValue); null && !isValue(fd) {
			continue
		}
		fieldPath := path + "." + name
		if oneof := fd.ContainingOneof(); oneof != nil && !oneof.IsSynthetic() {
			if other, ok := chosen[oneof.Name()]; ok {
				r.warn(fieldPath, "%s and %s are alternatives: Istio takes %s without a word", other, name, name)
			}
			chosen[oneof.Name()] = name
		}
		if err := r.field(m, fd, v, fieldPath); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.GetFields())) {
		if !known[name] {
			r.warn(path+"."+name, "is no field of %s: Istio drops it without a word", md.Name())
		}
	}
	return nil
}

func isValue(fd protoreflect.FieldDescriptor) bool {
	return fd.Message() != nil && fd.Message().FullName() == "google.protobuf.Value"
}

func (r *reader) field(m protoreflect.Message, fd protoreflect.FieldDescriptor, v *structpb.Value, path string) *valueError {
	switch {
	case fd.IsList():
		elements, ok := v.GetKind().(*structpb.Value_ListValue)
		if !ok {
			return &valueError{path, fmt.Sprintf("found %s, want a list", describe(v))}
		}
		list := m.NewField(fd).List()
		inner := reader{warn: r.warn} // what is in a list is added as a whole
		for i, e := range elements.ListValue.GetValues() {
			got, err := inner.single(fd, list.NewElement, e, fmt.Sprintf("%s[%d]", path, i))
			if err != nil {
				return err
			}
			list.Append(got)
		}
		m.Set(fd, protoreflect.ValueOfList(list))
	case fd.IsMap():
		fields, ok := v.GetKind().(*structpb.Value_StructValue)
		if !ok {
			return &valueError{path, fmt.Sprintf("found %s, want an object", describe(v))}
		}
		entries := m.NewField(fd).Map()
		inner := reader{warn: r.warn}
		for _, name := range slices.Sorted(maps.Keys(fields.StructValue.GetFields())) {
			key, err := inner.scalar(fd.MapKey(), structpb.NewStringValue(name), path)
			if err != nil {
				return err
			}
			got, err := inner.single(fd.MapValue(), entries.NewValue, fields.StructValue.GetFields()[name], path+"."+name)
			if err != nil {
				return err
			}
			entries.Set(key.MapKey(), got)
		}
		m.Set(fd, protoreflect.ValueOfMap(entries))
	default:
		got, err := r.single(fd, func() protoreflect.Value { return m.NewField(fd) }, v, path)
		if err != nil {
			return err
		}
		if r.merging && !fd.HasPresence() && got.Equal(fd.Default()) {
			r.warn(path, "MERGE cannot set %s to %s: that is the field's zero, which a merge does not see", fd.Name(), zero(fd, got))
		}
		m.Set(fd, got)
	}
	return nil
}

func zero(fd protoreflect.FieldDescriptor, v protoreflect.Value) string {
	if fd.Kind() == protoreflect.EnumKind {
		return string(fd.Enum().Values().ByNumber(v.Enum()).Name())
	}
	if fd.Kind() == protoreflect.StringKind {
		return strconv.Quote(v.String())
	}
	return v.String()
}

func (r *reader) single(fd protoreflect.FieldDescriptor, empty func() protoreflect.Value, v *structpb.Value, path string) (protoreflect.Value, *valueError) {
	if fd.Message() == nil {
		return r.scalar(fd, v, path)
	}
	m := empty()
	return m, r.known(m.Message(), v, path)
}

// known fills a message that may have a form of its own in JSON.
func (r *reader) known(m protoreflect.Message, v *structpb.Value, path string) *valueError {
	if _, null := v.GetKind().(*structpb.Value_NullValue); null && m.Descriptor().FullName() != "google.protobuf.Value" {
		return nil
	}
	want := "an object with fields of " + string(m.Descriptor().Name())
	switch m.Descriptor().FullName() {
	case "google.protobuf.Any":
		if s, ok := v.GetKind().(*structpb.Value_StructValue); ok {
			return r.any(m, s.StructValue, path)
		}
		want = `an object with "@type"`
	case "google.protobuf.BoolValue", "google.protobuf.StringValue", "google.protobuf.BytesValue", "google.protobuf.Int32Value",
		"google.protobuf.UInt32Value", "google.protobuf.Int64Value", "google.protobuf.UInt64Value", "google.protobuf.FloatValue", "google.protobuf.DoubleValue":
		fd := m.Descriptor().Fields().ByNumber(1)
		got, err := r.scalar(fd, v, path)
		if err == nil {
			m.Set(fd, got)
		}
		return err
	case "google.protobuf.Duration":
		want = `a duration such as "1s", "500ms" or "1h"`
		if d, err := time.ParseDuration(v.GetStringValue()); err == nil {
			m.Set(m.Descriptor().Fields().ByNumber(1), protoreflect.ValueOfInt64(int64(d/time.Second)))
			m.Set(m.Descriptor().Fields().ByNumber(2), protoreflect.ValueOfInt32(int32(d%time.Second)))
			return nil
		}
	case "google.protobuf.Timestamp":
		want = `a time such as "2006-01-02T15:04:05Z"`
		if t, err := time.Parse(time.RFC3339Nano, v.GetStringValue()); err == nil {
			m.Set(m.Descriptor().Fields().ByNumber(1), protoreflect.ValueOfInt64(t.Unix()))
			m.Set(m.Descriptor().Fields().ByNumber(2), protoreflect.ValueOfInt32(int32(t.Nanosecond())))
			return nil
		}
	case "google.protobuf.Value":
		proto.Merge(m.Interface(), v)
		return nil
	case "google.protobuf.Struct":
		if s, ok := v.GetKind().(*structpb.Value_StructValue); ok {
			proto.Merge(m.Interface(), s.StructValue)
			return nil
		}
		want = "an object"
	case "google.protobuf.ListValue":
		if l, ok := v.GetKind().(*structpb.Value_ListValue); ok {
			proto.Merge(m.Interface(), l.ListValue)
			return nil
		}
		want = "a list"
	default:
		if s, ok := v.GetKind().(*structpb.Value_StructValue); ok {
			return r.message(m, s.StructValue, path)
		}
	}
	return &valueError{path, fmt.Sprintf("found %s, want %s", describe(v), want)}
}

func (r *reader) any(m protoreflect.Message, s *structpb.Struct, path string) *valueError {
	url, ok := s.GetFields()["@type"].GetKind().(*structpb.Value_StringValue)
	if !ok {
		return &valueError{path, `"@type" is missing, it names the type of the configuration`}
	}
	name := url.StringValue[strings.LastIndexByte(url.StringValue, '/')+1:]
	mt, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name))
	if err != nil {
		return &valueError{path + ".@type", fmt.Sprintf("unknown type %q", url.StringValue)}
	}
	inner := mt.New()
	if mt.Descriptor().ParentFile().Package() == "google.protobuf" && name != "google.protobuf.Empty" {
		value, ok := s.GetFields()["value"]
		if !ok {
			return &valueError{path, name + ` needs a "value"`}
		}
		if err := r.known(inner, value, path+".value"); err != nil {
			return err
		}
	} else {
		rest := &structpb.Struct{Fields: maps.Clone(s.GetFields())}
		delete(rest.Fields, "@type")
		if err := r.message(inner, rest, path); err != nil {
			return err
		}
	}
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(inner.Interface())
	if err != nil {
		return &valueError{path, fmt.Sprintf("cannot be encoded: %v", err)}
	}
	m.Set(m.Descriptor().Fields().ByNumber(1), protoreflect.ValueOfString(url.StringValue))
	m.Set(m.Descriptor().Fields().ByNumber(2), protoreflect.ValueOfBytes(value))
	return nil
}

// scalar reads a number, boolean, string, bytes or enum value.
func (r *reader) scalar(fd protoreflect.FieldDescriptor, v *structpb.Value, path string) (protoreflect.Value, *valueError) {
	text, isText := v.GetKind().(*structpb.Value_StringValue)
	number, isNumber := v.GetKind().(*structpb.Value_NumberValue)
	digits := ""
	switch {
	case isText:
		digits = text.StringValue
	case isNumber && number.NumberValue == math.Trunc(number.NumberValue) && math.Abs(number.NumberValue) < 1e21:
		digits = strconv.FormatFloat(number.NumberValue, 'f', 0, 64)
	case isNumber:
		digits = strconv.FormatFloat(number.NumberValue, 'g', -1, 64)
	}
	want := fd.Kind().String()
	switch fd.Kind() {
	case protoreflect.BoolKind:
		if b, ok := v.GetKind().(*structpb.Value_BoolValue); ok {
			return protoreflect.ValueOfBool(b.BoolValue), nil
		}
		want = "true or false"
	case protoreflect.StringKind:
		if isText {
			return protoreflect.ValueOfString(text.StringValue), nil
		}
		want = "a string, put it in quotes"
	case protoreflect.BytesKind:
		if data, err := base64.StdEncoding.DecodeString(v.GetStringValue()); err == nil && isText {
			return protoreflect.ValueOfBytes(data), nil
		}
		want = "a base64 string"
	case protoreflect.EnumKind:
		if isText {
			if value := fd.Enum().Values().ByName(protoreflect.Name(text.StringValue)); value != nil {
				return protoreflect.ValueOfEnum(value.Number()), nil
			}
		} else if i, err := strconv.ParseInt(digits, 10, 32); err == nil {
			return protoreflect.ValueOfEnum(protoreflect.EnumNumber(i)), nil
		}
		var names []string
		for i := range fd.Enum().Values().Len() {
			names = append(names, string(fd.Enum().Values().Get(i).Name()))
		}
		want = "one of " + strings.Join(names, ", ")
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		if i, err := strconv.ParseInt(digits, 10, 32); err == nil {
			return protoreflect.ValueOfInt32(int32(i)), nil
		}
		want = "an integer of 32 bits"
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		if i, err := strconv.ParseInt(digits, 10, 64); err == nil {
			return protoreflect.ValueOfInt64(i), nil
		}
		want = "an integer of 64 bits"
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		if u, err := strconv.ParseUint(digits, 10, 32); err == nil {
			return protoreflect.ValueOfUint32(uint32(u)), nil
		}
		want = "a non-negative integer of 32 bits"
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		if u, err := strconv.ParseUint(digits, 10, 64); err == nil {
			return protoreflect.ValueOfUint64(u), nil
		}
		want = "a non-negative integer of 64 bits"
	case protoreflect.FloatKind:
		if f, err := strconv.ParseFloat(digits, 32); err == nil {
			return protoreflect.ValueOfFloat32(float32(f)), nil
		}
		want = "a number"
	case protoreflect.DoubleKind:
		if f, err := strconv.ParseFloat(digits, 64); err == nil {
			return protoreflect.ValueOfFloat64(f), nil
		}
		want = "a number"
	}
	return protoreflect.Value{}, &valueError{path, fmt.Sprintf("found %s, want %s", describe(v), want)}
}

// describe says what was found.
func describe(v *structpb.Value) string {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StructValue:
		return "an object"
	case *structpb.Value_ListValue:
		return "a list"
	case *structpb.Value_BoolValue:
		return fmt.Sprintf("the boolean %v", k.BoolValue)
	case *structpb.Value_NumberValue:
		return fmt.Sprintf("the number %v", k.NumberValue)
	case *structpb.Value_StringValue:
		return fmt.Sprintf("%.80q", k.StringValue)
	}
	return "null"
}

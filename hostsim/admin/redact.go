package admin

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// redact hides what the API marks as sensitive, private keys above all, also in
// what an Any contains (MessageUtil::redact). Strings and bytes become
// "[redacted]", other values are cleared.
func redact(m protoreflect.Message, sensitive bool) {
	if a, ok := m.Interface().(*anypb.Any); ok {
		inner, err := a.UnmarshalNew()
		if err != nil {
			return
		}
		redact(inner.ProtoReflect(), sensitive)
		if b, err := (proto.MarshalOptions{Deterministic: true}).Marshal(inner); err == nil {
			a.Value = b
		}
		return
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		hide := sensitive || isSensitive(fd)
		switch {
		case fd.IsMap() && fd.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				redact(v.Message(), hide)
				return true
			})
		case fd.IsList() && fd.Message() != nil:
			for i := range v.List().Len() {
				redact(v.List().Get(i).Message(), hide)
			}
		case fd.Message() != nil && !fd.IsMap():
			redact(v.Message(), hide)
		case !hide:
		case fd.IsMap():
			m.Clear(fd)
		case fd.IsList():
			for i := range v.List().Len() {
				v.List().Set(i, hidden(fd, v.List().Get(i)))
			}
		default:
			m.Set(fd, hidden(fd, v))
		}
		return true
	})
}

// hidden stands for a value that nobody may see.
func hidden(fd protoreflect.FieldDescriptor, v protoreflect.Value) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString("[redacted]")
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte("[redacted]"))
	}
	return fd.Default()
}

// isSensitive says whether the field is marked so.
func isSensitive(fd protoreflect.FieldDescriptor) (marked bool) {
	options := fd.Options()
	if options == nil {
		return false
	}
	options.ProtoReflect().Range(func(x protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		marked = x.FullName() == "udpa.annotations.sensitive" && v.Bool()
		return !marked
	})
	return marked
}

package patch

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	networking "istio.io/api/networking/v1alpha3"
)

// errMismatch is two messages of different types that MERGE should make one of. Istio panics, recovers, and drops the pass.
var errMismatch = errors.New("MERGE of different types")

// mergeInto merges src into dst as the operation has it: MERGE appends to lists, MERGE_AND_REPLACE_LIST replaces them, at every
// depth. Messages are merged field by field, except durations and the values of maps, which are replaced. What src does not set
// stays, and a field without presence is not set to its zero.
func mergeInto(operation networking.EnvoyFilter_Patch_Operation, dst, src proto.Message) {
	mergeMessage(dst.ProtoReflect(), src.ProtoReflect(), operation == networking.EnvoyFilter_Patch_MERGE_AND_REPLACE_LIST)
}

func mergeMessage(dst, src protoreflect.Message, replaceLists bool) {
	src.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsList():
			list := dst.Mutable(fd).List()
			if replaceLists {
				list.Truncate(0)
			}
			for i := range v.List().Len() {
				list.Append(copyOf(fd, v.List().Get(i)))
			}
		case fd.IsMap():
			entries := dst.Mutable(fd).Map()
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				entries.Set(k, copyOf(fd.MapValue(), v))
				return true
			})
		case fd.Message() != nil && fd.Message().FullName() != "google.protobuf.Duration":
			mergeMessage(dst.Mutable(fd).Message(), v.Message(), replaceLists)
		default:
			dst.Set(fd, copyOf(fd, v))
		}
		return true
	})
}

func copyOf(fd protoreflect.FieldDescriptor, v protoreflect.Value) protoreflect.Value {
	switch {
	case fd.Message() != nil:
		return protoreflect.ValueOfMessage(proto.Clone(v.Message().Interface()).ProtoReflect())
	case fd.Kind() == protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(slices.Clone(v.Bytes()))
	}
	return v
}

// mergeAny merges what is inside two Any; the lists in it are always appended to.
func mergeAny(dst, src *anypb.Any) (*anypb.Any, error) {
	to, err := dst.UnmarshalNew()
	if err != nil {
		return dst, nil
	}
	from, err := src.UnmarshalNew()
	if err != nil {
		return dst, nil
	}
	if want, got := to.ProtoReflect().Descriptor().FullName(), from.ProtoReflect().Descriptor().FullName(); want != got {
		return nil, fmt.Errorf("%w: what is there is %s, the patch has %s", errMismatch, want, got)
	}
	mergeInto(networking.EnvoyFilter_Patch_MERGE, to, from)
	return pack(to), nil
}

// pack is anypb.New for messages that were unpacked before.
func pack(m proto.Message) *anypb.Any {
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil { // cannot be: no required fields, and strings were checked when they were read
		panic(err)
	}
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: value}
}

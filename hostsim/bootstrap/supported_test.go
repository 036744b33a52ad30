package bootstrap

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

func TestTheTableNamesOnlyWhatExists(t *testing.T) {
	for message, fields := range supported {
		md := findMessage(t, string(message))
		if md == nil {
			continue
		}
		names := strings.Fields(fields)
		for i, name := range names {
			fd := md.Fields().ByName(protoreflect.Name(name))
			if fd == nil {
				t.Errorf("%s has no field %s", message, name)
				continue
			}
			if slices.Contains(names[:i], name) {
				t.Errorf("%s lists %s twice", message, name)
			}
			if fd.IsMap() {
				fd = fd.MapValue()
			}
			if sub := fd.Message(); sub != nil && sub.ParentFile().Package() != "google.protobuf" {
				if _, ok := supported[sub.FullName()]; !ok {
					t.Errorf("%s.%s is simulated, but nothing says what of %s is", message, name, sub.FullName())
				}
			}
		}
	}
}

func TestTheLimitsNameOnlyWhatExists(t *testing.T) {
	for field, lim := range limits {
		md := findMessage(t, string(field.Parent()))
		if md == nil {
			continue
		}
		fd := md.Fields().ByName(field.Name())
		if fd == nil {
			t.Errorf("there is no field %s", field)
			continue
		}
		if !slices.Contains(strings.Fields(supported[field.Parent()]), string(field.Name())) {
			t.Errorf("%s has limits, but is not simulated", field)
		}
		for _, value := range strings.Fields(lim.values) {
			if ed := fd.Enum(); ed != nil && ed.Values().ByName(protoreflect.Name(value)) == nil {
				t.Errorf("%s has no value %s", field, value)
			}
		}
		for _, name := range strings.Fields(lim.fields) {
			if fd.Message() == nil || fd.Message().Fields().ByName(protoreflect.Name(name)) == nil {
				t.Errorf("what is in %s has no field %s", field, name)
			}
		}
		for _, name := range strings.Fields(lim.types) {
			if name == "*" {
				continue
			}
			if _, ok := supported[protoreflect.FullName(name)]; !ok || findMessage(t, name) == nil {
				t.Errorf("%s takes %s, but nothing says what of it is simulated", field, name)
			}
		}
		if lim.max > 0 && !fd.IsList() {
			t.Errorf("%s has a maximum, but is not a list", field)
		}
	}
}

func TestEveryAnyThatIsSimulatedSaysWhatMayStandInIt(t *testing.T) {
	for message, fields := range supported {
		md := findMessage(t, string(message))
		for _, name := range strings.Fields(fields) {
			fd := md.Fields().ByName(protoreflect.Name(name))
			if fd == nil || fd.Message() == nil || fd.Message().FullName() != "google.protobuf.Any" {
				continue
			}
			if limits[fd.FullName()].types == "" {
				t.Errorf("%s is simulated, but no limit says which types", fd.FullName())
			}
		}
	}
}

func TestWhatIsSaidNotToBeLinkedIsNot(t *testing.T) {
	for _, name := range notLinked {
		if _, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name)); err == nil {
			t.Errorf("%s is linked, take it out of notLinked", name)
		}
	}
}

func findMessage(t *testing.T, name string) protoreflect.MessageDescriptor {
	t.Helper()
	mt, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name))
	if err != nil {
		t.Errorf("there is no message %s", name)
		return nil
	}
	return mt.Descriptor()
}

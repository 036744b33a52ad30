package bootstrap

import (
	"cmp"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// constraintError is what the generated Validate methods return.
type constraintError interface {
	error
	Field() string
	Reason() string
	Cause() error
}

// validate runs the constraints that Envoy's messages carry, inside every Any too, and returns the first violation in document order.
func (b *Bootstrap) validate(anys []unpacked) error {
	var found []*Error
	for _, u := range append([]unpacked{{"", b.proto}}, anys...) {
		if v, ok := u.message.(interface{ Validate() error }); ok {
			if err := v.Validate(); err != nil {
				found = append(found, b.violation(u.message, u.path, err))
			}
		}
	}
	if len(found) == 0 {
		return nil
	}
	return slices.MinFunc(found, func(x, y *Error) int { return cmp.Compare(x.Line, y.Line) })
}

// violation finds the field that err, from m's Validate, is about.
func (b *Bootstrap) violation(m proto.Message, path string, err error) *Error {
	md := m.ProtoReflect().Descriptor()
	for {
		violated, ok := err.(constraintError)
		if !ok {
			return b.Errorf(path, "%v", err).(*Error)
		}
		// Field is the Go name of a field or oneof, with [index] or [key] behind it.
		name, index, _ := strings.Cut(violated.Field(), "[")
		fd := fieldByGoName(md, name)
		if fd == nil {
			return b.Errorf(path, "%s: %s", oneofNames(md, name), violated.Reason()).(*Error)
		}
		path = join(path, string(fd.Name()))
		if index = strings.TrimSuffix(index, "]"); index != "" {
			if fd.IsMap() && fd.MapKey().Kind() == protoreflect.StringKind {
				index = quote(index)
			}
			path += "[" + index + "]"
		}
		if violated.Cause() == nil {
			return b.Errorf(path, "%s", violated.Reason()).(*Error)
		}
		err = violated.Cause()
		if fd.IsMap() {
			fd = fd.MapValue()
		}
		if md = fd.Message(); md == nil {
			return b.Errorf(path, "%s: %v", violated.Reason(), err).(*Error)
		}
	}
}

func fieldByGoName(md protoreflect.MessageDescriptor, name string) protoreflect.FieldDescriptor {
	for i := range md.Fields().Len() {
		if fd := md.Fields().Get(i); goName(string(fd.Name())) == name {
			return fd
		}
	}
	return nil
}

// oneofNames lists the alternatives of a oneof given by its Go name.
func oneofNames(md protoreflect.MessageDescriptor, name string) string {
	for i := range md.Oneofs().Len() {
		oneof := md.Oneofs().Get(i)
		if goName(string(oneof.Name())) != name {
			continue
		}
		var names []string
		for j := range oneof.Fields().Len() {
			names = append(names, string(oneof.Fields().Get(j).Name()))
		}
		return "one of " + strings.Join(names, ", ")
	}
	return name
}

// goName is how protoc-gen-go writes the name of a field: route_config is RouteConfig, http_11 is Http_11.
func goName(name string) string {
	var out []byte
	for i := 0; i < len(name); i++ {
		c := name[i]
		letterNext := i+1 < len(name) && 'a' <= name[i+1] && name[i+1] <= 'z'
		switch {
		case c == '_' && i == 0:
			out = append(out, 'X')
		case c == '_' && letterNext:
		case 'a' <= c && c <= 'z' && (i == 0 || name[i-1] == '_' || '0' <= name[i-1] && name[i-1] <= '9'):
			out = append(out, c-'a'+'A')
		default:
			out = append(out, c)
		}
	}
	return string(out)
}

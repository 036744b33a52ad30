package bootstrap

import (
	"slices"
	"strings"

	_ "github.com/cncf/xds/go/udpa/type/v1" // the two TypedStructs; nothing else brings the old one
	_ "github.com/cncf/xds/go/xds/type/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"
)

// any fills a from {"@type": url, fields...}, or {"@type": url, value: ...} if the type has a JSON form of its own.
//
// In a field named typed_... an xds.type.v3.TypedStruct is replaced by the message that it describes, as Envoy does for extensions.
// Elsewhere (the configuration of a Wasm plugin) Envoy passes a TypedStruct on as it is.
func (c *converter) any(a *anypb.Any, n *yaml.Node, path string, depth int) error {
	if n.Kind != yaml.MappingNode {
		return c.errorf(n, path, `found %s, want an object with "@type"`, describe(n))
	}
	typeKey, url, body, err := c.split(n, "@type", path)
	if err != nil {
		return err
	}
	if typeKey == nil && len(n.Content) == 0 {
		return nil // an Any without a type, which routes use to say "enabled"
	}
	if typeKey == nil {
		return c.errorf(n, path, `"@type" is missing, it names the type of the configuration`)
	}
	mt, err := c.findType(typeKey, url, join(path, "@type"))
	if err != nil {
		return err
	}

	switch name := mt.Descriptor().FullName(); {
	case name == "xds.type.v3.TypedStruct" || name == "udpa.type.v1.TypedStruct":
		if _, field := cutLast(path, "."); !strings.HasPrefix(field, "typed_") {
			break
		}
		urlKey, inner, rest, err := c.split(body, "type_url", path)
		if err != nil {
			return err
		}
		if urlKey == nil {
			return c.errorf(n, path, "type_url is missing, it names the type of the TypedStruct's value")
		}
		if mt, err = c.findType(urlKey, inner, join(path, "type_url")); err != nil {
			return err
		}
		if body, err = c.valueOf(rest, path); err != nil {
			return err
		}
	case hasJSONForm(name):
		if body, err = c.valueOf(body, path); err != nil {
			return err
		}
	}

	m := mt.New()
	at := len(c.anys)
	c.anys = append(c.anys, unpacked{path, m.Interface()})
	if body != nil {
		if err := c.message(m, body, path, depth+1); err != nil {
			return err
		}
	}
	c.anys[at].message = m.Interface()
	a.TypeUrl = "type.googleapis.com/" + string(mt.Descriptor().FullName())
	if a.Value, err = (proto.MarshalOptions{Deterministic: true}).Marshal(m.Interface()); err != nil {
		return c.errorf(n, path, "cannot be encoded: %v", err)
	}
	c.messages[a] = m.Interface()
	return nil
}

// split takes the string under name out of a mapping. The key is nil if it is not there.
func (c *converter) split(n *yaml.Node, name, path string) (key *yaml.Node, value string, rest *yaml.Node, err error) {
	r := *n
	r.Content = nil
	for i := 0; i < len(n.Content); i += 2 {
		k, v := n.Content[i], follow(n.Content[i+1])
		if got := follow(k); got.Kind != yaml.ScalarNode || got.Value != name {
			r.Content = append(r.Content, k, n.Content[i+1])
			continue
		}
		if key != nil {
			return nil, "", nil, c.errorf(k, join(path, name), "given twice, first in line %d", key.Line)
		}
		if v.Kind != yaml.ScalarNode || resolve(v).kind != stringScalar {
			return nil, "", nil, c.errorf(v, join(path, name), "found %s, want the name of a type", describe(v))
		}
		key, value = k, v.Value
	}
	return key, value, &r, nil
}

// valueOf returns what stands under the only key "value", nil if nothing does.
func (c *converter) valueOf(n *yaml.Node, path string) (*yaml.Node, error) {
	var value *yaml.Node
	for i := 0; i < len(n.Content); i += 2 {
		name, err := c.key(n.Content[i], path)
		if err != nil {
			return nil, err
		}
		if name != "value" || value != nil {
			return nil, c.errorf(n.Content[i], join(path, name), `unknown field, this type has "value" only, and once`)
		}
		value = n.Content[i+1]
	}
	if value != nil && isNull(value) {
		value = nil
	}
	return value, nil
}

// hasJSONForm reports whether protocol buffers' JSON writes the type in another way than as an object of its fields.
func hasJSONForm(name protoreflect.FullName) bool {
	return name.Parent() == "google.protobuf" && name != "google.protobuf.Empty"
}

func (c *converter) findType(n *yaml.Node, url, path string) (protoreflect.MessageType, error) {
	_, name := cutLast(url, "/")
	if name == url || !protoreflect.FullName(name).IsValid() {
		return nil, c.errorf(n, path, "%s is not a type, want type.googleapis.com/ and the name of a message", quote(url))
	}
	if mt, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name)); err == nil {
		return mt, nil
	}
	if slices.Contains(notLinked, name) {
		return nil, &UnsupportedError{File: c.file, Line: n.Line, Path: path, What: name}
	}
	return nil, c.errorf(n, path, "unknown type %s%s", quote(url), typeHint(name))
}

// cutLast splits s around the last sep; all of s is after it if there is none.
func cutLast(s, sep string) (before, after string) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):]
	}
	return "", s
}

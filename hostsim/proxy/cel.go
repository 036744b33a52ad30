package proxy

import (
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"google.golang.org/protobuf/types/known/structpb"
)

// celRoots are the attributes that an expression can begin with. What is not
// simulated of them is absent, like what Envoy does not know yet.
var celRoots = map[string]func(s *stream, name string) any{
	"request":     (*stream).requestAttribute,
	"response":    (*stream).responseAttribute,
	"source":      func(s *stream, name string) any { return addressProperty(s.clientAddress(), name) },
	"destination": func(s *stream, name string) any { return addressProperty(s.conn.local, name) },
	"connection":  (*stream).connectionAttribute,
	"upstream":    (*stream).upstreamAttribute,
	"xds":         (*stream).xdsProperty,
	"metadata":    (*stream).metadataAttribute,
	"filter_state": func(s *stream, name string) any {
		if o, ok := s.filterState[name]; ok {
			return o.text
		}
		return nil
	},
}

// expression compiles an expression over the attributes of a stream.
func (b *builder) expression(path, command, source string) (func(*stream) (ref.Val, bool), error) {
	var variables []cel.EnvOption
	for name := range celRoots {
		variables = append(variables, cel.Variable(name, cel.MapType(cel.StringType, cel.DynType)))
	}
	env, err := cel.NewEnv(variables...)
	if err != nil {
		return nil, err
	}
	ast, issues := env.Parse(source)
	if issues.Err() != nil {
		first, _, _ := strings.Cut(issues.Err().Error(), "\n")
		return nil, b.boot.Errorf(path, "%s(%s): %s", command, source, strings.TrimPrefix(first, "ERROR: "))
	}
	program, err := env.Program(ast, cel.EvalOptions(cel.OptOptimize)) // compiles constant regular expressions once
	if err != nil {
		return nil, b.boot.Errorf(path, "%s(%s): %v", command, source, err)
	}
	return func(s *stream) (ref.Val, bool) {
		out, _, err := program.Eval(activation{s})
		return out, err == nil && !types.IsError(out) && !types.IsUnknown(out)
	}, nil
}

// cel compiles %CEL(expression)%, which always gives text, and
// %TYPED_CEL(expression)%.
func (b *builder) cel(path, source string, typed bool) (command, error) {
	name := "%CEL"
	if typed {
		name = "%TYPED_CEL"
	}
	eval, err := b.expression(path, name, source)
	return func(dst []byte, s *stream) ([]byte, kind) {
		v, ok := eval(s)
		switch {
		case !ok:
			return dst, absent
		case typed:
			return appendTyped(dst, v)
		}
		return appendCEL(dst, v), text
	}, err
}

// appendCEL is how Envoy prints the result of an expression.
func appendCEL(dst []byte, v ref.Val) []byte {
	const instant = "2006-01-02T15:04:05.999999999-07:00"
	switch v := v.(type) {
	case types.String:
		return append(dst, v...)
	case types.Bytes:
		return append(dst, v...)
	case types.Null:
		return append(dst, "NULL"...)
	case types.Timestamp:
		return v.UTC().AppendFormat(dst, instant)
	case types.Duration:
		return append(dst, v.Duration.String()...)
	case types.Double:
		return strconv.AppendFloat(dst, float64(v), 'g', 6, 64)
	case traits.Mapper:
		return append(dst, "CelMap value"...)
	case traits.Lister:
		return append(dst, "CelList value"...)
	}
	if s, ok := v.ConvertToType(types.StringType).(types.String); ok {
		return append(dst, s...)
	}
	return dst
}

func appendTyped(dst []byte, v ref.Val) ([]byte, kind) {
	if s, ok := v.(types.String); ok {
		return append(dst, s...), text
	}
	native, err := v.ConvertToNative(reflect.TypeFor[*structpb.Value]())
	if err != nil {
		return dst, absent
	}
	return appendJSON(dst, native.(*structpb.Value)), raw
}

// activation resolves attributes only when an expression asks for them.
type activation struct{ *stream }

func (a activation) ResolveName(name string) (any, bool) {
	get, ok := celRoots[name]
	if !ok {
		return nil, false
	}
	return attributes{a.stream, get}, true
}

func (a activation) Parent() cel.Activation { return nil }

// attributes is a map whose entries are looked up one by one.
type attributes struct {
	s   *stream
	get func(*stream, string) any
}

var celAdapter = types.DefaultTypeAdapter

func (a attributes) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		return nil, false
	}
	switch v := a.get(a.s, string(name)).(type) {
	case nil:
		return nil, false
	case *Headers:
		return headerAttributes(v), true
	default:
		return celAdapter.NativeToValue(v), true
	}
}

// headerAttributes are the header fields by name, each with all its lines. It
// is a map of its own that an expression may also count and list.
func headerAttributes(h *Headers) ref.Val {
	return headerMap{attributes{nil, func(_ *stream, name string) any {
		if v, ok := h.joined(canonical(name)); ok {
			return v
		}
		return nil
	}}, h}
}

type headerMap struct {
	attributes
	h *Headers
}

func (m headerMap) Size() ref.Val {
	n := 0
	for i, f := range m.h.fields {
		if m.h.find(f.name) == i {
			n++
		}
	}
	return types.Int(n)
}

func (m headerMap) Iterator() traits.Iterator {
	names := map[string]string{}
	for _, f := range m.h.fields {
		names[f.name] = ""
	}
	return types.NewStringStringMap(celAdapter, names).Iterator()
}

func (a attributes) Contains(key ref.Val) ref.Val { _, ok := a.Find(key); return types.Bool(ok) }
func (a attributes) Get(key ref.Val) ref.Val {
	if v, ok := a.Find(key); ok {
		return v
	}
	return types.NewErr("no such key: %v", key)
}
func (a attributes) Iterator() traits.Iterator {
	return types.NewStringStringMap(celAdapter, nil).Iterator()
}
func (a attributes) Size() ref.Val { return types.IntZero }
func (a attributes) ConvertToNative(reflect.Type) (any, error) {
	return nil, types.NewErr("attributes cannot be converted").(*types.Err)
}
func (a attributes) ConvertToType(t ref.Type) ref.Val {
	if t == types.MapType {
		return a
	}
	return types.NewErr("attributes cannot be converted to %s", t.TypeName())
}
func (a attributes) Equal(ref.Val) ref.Val { return types.False }
func (a attributes) Type() ref.Type        { return types.MapType }
func (a attributes) Value() any            { return a }

func (s *stream) requestAttribute(name string) any {
	switch name {
	case "time":
		return s.start
	case "duration":
		return time.Since(s.start)
	case "host", "path", "method", "scheme":
		header := ":" + name
		if name == "host" {
			header = ":authority"
		}
		if !s.request.has(header) {
			return nil
		}
	case "url_path", "query":
		if !s.request.has(":path") {
			return nil
		}
	}
	return s.requestProperty(name)
}

func (s *stream) responseAttribute(name string) any {
	switch name {
	case "code":
		if s.status == 0 {
			return nil
		}
		return int64(s.status)
	case "code_details":
		return nonEmpty(s.details)
	case "flags":
		return flagBits(s.flags)
	}
	return s.responseProperty(name)
}

func (s *stream) connectionAttribute(name string) any {
	switch name {
	case "id":
		return s.conn.id
	case "mtls":
		return false
	}
	return nil
}

func (s *stream) upstreamAttribute(name string) any {
	switch name {
	case "address":
		return nonEmpty(s.upstreamHost)
	case "local_address":
		return nonEmpty(s.upstreamLocal())
	case "port":
		if n := portOf(s.upstreamHost); n >= 0 {
			return n
		}
	}
	return nil
}

// metadataAttribute is the dynamic metadata; its only field is
// filter_metadata.
func (s *stream) metadataAttribute(name string) any {
	if name != "filter_metadata" {
		return nil
	}
	all := make(map[string]any, len(s.metadata))
	for namespace, fields := range s.metadata {
		all[namespace] = fields
	}
	return all
}

// flagBits are the response flags as a number, by their place in Envoy's list.
func flagBits(flags string) int64 {
	var bits int64
	for f := range strings.SplitSeq(flags, ",") {
		for i, name := range flagOrder {
			if f == name {
				bits |= 1 << min(i, math.MaxInt8)
			}
		}
	}
	return bits
}

var flagOrder = []string{
	"LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC", "URX", "SI", "IH", "DPE",
	"UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR", "UDO",
}

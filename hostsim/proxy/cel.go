package proxy

import (
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	celast "cel.dev/cel-go/common/ast"
	celenv "cel.dev/cel-go/common/env"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
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
	options := celLanguage()
	for name := range celRoots {
		options = append(options, cel.Variable(name, cel.MapType(cel.StringType, cel.DynType)))
	}
	env, err := cel.NewCustomEnv(options...)
	if err != nil {
		return nil, err
	}
	ast, issues := env.Parse(source)
	if issues.Err() != nil {
		first, _, _ := strings.Cut(issues.Err().Error(), "\n")
		return nil, b.boot.Errorf(path, "%s(%s): %s", command, source, strings.TrimPrefix(first, "ERROR: "))
	}
	if problem := beyondLanguage(env, ast); problem != "" {
		return nil, b.boot.Errorf(path, "%s(%s): failed to create an expression: %s", command, source, problem)
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

// celLanguage is what Envoy leaves of CEL: nothing that could make an
// expression take long, so neither loops nor the joining of texts and lists,
// nor string().
func celLanguage() []cel.EnvOption {
	subset := celenv.NewLibrarySubset().AddExcludedFunctions(celenv.NewFunction("string"), celenv.NewFunction(operators.Add))
	add := cel.Overload("add_numbers_and_times", []*cel.Type{cel.DynType, cel.DynType}, cel.DynType,
		cel.BinaryBinding(func(a, b ref.Val) ref.Val {
			n, ok := a.(traits.Adder)
			switch a.(type) {
			case types.String, types.Bytes, traits.Lister:
				ok = false
			}
			if !ok {
				return types.NewErr("no such overload: %v + %v", a.Type(), b.Type())
			}
			return n.Add(b)
		}))
	return []cel.EnvOption{cel.StdLib(cel.StdLibSubset(subset)), cel.Function(operators.Add, add)}
}

// beyondLanguage says what of an expression is not in celLanguage.
func beyondLanguage(env *cel.Env, parsed *cel.Ast) (problem string) {
	celast.PreOrderVisit(parsed.NativeRep().Expr(), celast.NewExprVisitor(func(e celast.Expr) {
		switch {
		case problem != "":
		case e.Kind() == celast.ComprehensionKind:
			problem = "Comprehension support is disabled"
		case e.Kind() == celast.CallKind && !env.HasFunction(e.AsCall().FunctionName()):
			problem = "No overload found in reference resolve step for " + e.AsCall().FunctionName()
		}
	}))
	return problem
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
	if m, ok := v.Value().(proto.Message); ok {
		return appendMessage(dst, m.ProtoReflect())
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
	switch v := v.(type) { // protobuf's JSON has 0, 3, 6 or 9 digits behind the point
	case types.Timestamp:
		t := v.UTC()
		return append(appendDigits(t.AppendFormat(dst, "2006-01-02T15:04:05"), t.Nanosecond()), 'Z'), text
	case types.Duration:
		if v.Duration < 0 {
			dst, v.Duration = append(dst, '-'), -v.Duration
		}
		dst = strconv.AppendInt(dst, int64(v.Duration/time.Second), 10)
		return append(appendDigits(dst, int(v.Duration%time.Second)), 's'), text
	}
	if m, ok := v.Value().(proto.Message); ok {
		return appendMessage(dst, m.ProtoReflect()), text
	}
	native, err := v.ConvertToNative(reflect.TypeFor[*structpb.Value]())
	if err != nil {
		return dst, absent
	}
	return appendJSON(dst, native.(*structpb.Value)), raw
}

// appendDigits writes a fraction of a second in milli-, micro- or nanoseconds.
func appendDigits(dst []byte, nanos int) []byte {
	text := strconv.Itoa(1_000_000_000 + nanos)[1:]
	for strings.HasSuffix(text, "000") {
		text = text[:len(text)-3]
	}
	if text != "" {
		dst = append(append(dst, '.'), text...)
	}
	return dst
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

var celAdapter = celMessages()

// celMessages lets expressions look into the messages that are attributes.
func celMessages() types.Adapter {
	registry, err := types.NewRegistry(&corev3.Metadata{}, &corev3.Node{})
	if err != nil { // cannot be: they are compiled in
		return types.DefaultTypeAdapter
	}
	return registry
}

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
	return s.requestProperty(name, true, !s.requestComplete.IsZero())
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
	return s.responseProperty(name, true)
}

func (s *stream) connectionAttribute(name string) any {
	if name == "id" {
		return s.conn.id
	}
	return s.conn.tlsProperty(name)
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

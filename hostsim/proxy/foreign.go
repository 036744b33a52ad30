package proxy

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"io"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"

	"switchyard/hostsim/abi"
	"switchyard/hostsim/vm"
)

// foreign is the foreign functions of Envoy besides clear_route_cache
// (source/extensions/common/wasm/foreign.cc): set_envoy_filter_state,
// declare_property, compress, uncompress, sign, verify_signature, and those of
// expressions.
func (s *Server) foreign(stream vm.Stream, name string, args []byte) ([]byte, abi.Status) {
	switch name {
	case "compress":
		var b bytes.Buffer
		z := zlib.NewWriter(&b)
		z.Write(args)
		z.Close()
		return b.Bytes(), abi.StatusOK
	case "uncompress":
		z, err := zlib.NewReader(bytes.NewReader(args))
		if err != nil {
			return nil, abi.StatusSerializationFailure
		}
		// Guests are hostile: what they compress must not fill the host's memory.
		b, err := io.ReadAll(io.LimitReader(z, uncompressAtMost+1))
		if err != nil || len(b) > uncompressAtMost {
			return nil, abi.StatusSerializationFailure
		}
		return b, abi.StatusOK
	case "set_envoy_filter_state":
		path, value, ok := filterStateArguments(args)
		if !ok {
			return nil, abi.StatusBadArgument
		}
		w, ok := stream.(*wasmFilter)
		kind, known := objectFactories[path]
		if !ok || !known {
			return []byte{}, abi.StatusNotFound
		}
		w.stream.setState(path, stateObject{text: value, kind: kind})
		return nil, abi.StatusOK
	case "declare_property":
		path, _, ok := filterStateArguments(args)
		w, onStream := stream.(*wasmFilter)
		if !ok || onStream && w.declared[path] {
			return nil, abi.StatusBadArgument
		}
		if onStream {
			if w.declared == nil {
				w.declared = map[string]bool{}
			}
			w.declared[strings.Clone(path)] = true
		}
		return nil, abi.StatusOK // what is declared is how it is kept, which nobody sees
	case "sign":
		return sign(args)
	case "verify_signature":
		return verifySignature(args)
	}
	return s.expressions.foreign(stream, name, args)
}

// expressions are those that plugins have made with expr_create.
type expressions struct {
	mu       sync.Mutex
	next     uint32
	programs map[uint32]cel.Program
}

// expressionsAtMost bounds what guests can make the host keep.
const expressionsAtMost = 10000

func (e *expressions) foreign(stream vm.Stream, name string, args []byte) ([]byte, abi.Status) {
	if name == "expr_create" {
		return e.create(string(args))
	}
	if name != "expr_evaluate" && name != "expr_delete" {
		return nil, abi.StatusNotFound
	}
	if len(args) != 4 {
		return nil, abi.StatusBadArgument
	}
	id := binary.LittleEndian.Uint32(args)
	e.mu.Lock()
	program := e.programs[id]
	if name == "expr_delete" {
		delete(e.programs, id)
	}
	e.mu.Unlock()
	w, ok := stream.(*wasmFilter)
	switch {
	case name == "expr_delete":
		return nil, abi.StatusOK
	case program == nil:
		return []byte{}, abi.StatusNotFound
	case !ok:
		return nil, abi.StatusInternalFailure
	}
	out, _, err := program.Eval(activation{w.stream})
	if err != nil || types.IsError(out) || types.IsUnknown(out) {
		return nil, abi.StatusBadExpression
	}
	return encodeAttribute(out.Value())
}

func (e *expressions) create(source string) ([]byte, abi.Status) {
	options := celLanguage()
	for name := range celRoots {
		options = append(options, cel.Variable(name, cel.MapType(cel.StringType, cel.DynType)))
	}
	env, err := cel.NewCustomEnv(options...)
	if err != nil {
		return nil, abi.StatusInternalFailure
	}
	ast, issues := env.Parse(strings.Clone(source))
	if issues.Err() != nil || beyondLanguage(env, ast) != "" {
		return nil, abi.StatusBadArgument
	}
	program, err := env.Program(ast)
	if err != nil {
		return nil, abi.StatusBadArgument
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.programs) >= expressionsAtMost {
		return nil, abi.StatusInternalFailure
	}
	if e.programs == nil {
		e.programs = map[uint32]cel.Program{}
	}
	id := e.next
	e.next++
	e.programs[id] = program
	return binary.LittleEndian.AppendUint32(nil, id), abi.StatusOK
}

const uncompressAtMost = 64 << 20

// filterStateArguments reads fields 1 and 2 of a message, which are text.
func filterStateArguments(b []byte) (path, value string, ok bool) {
	fields, ok := lengthDelimited(b)
	return string(fields[1]), string(fields[2]), ok
}

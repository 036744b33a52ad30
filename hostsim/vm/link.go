package vm

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/tetratelabs/wazero/api"
)

// abiVersion is a version of the Proxy-Wasm ABI, as a bit so that a host
// function can name all it belongs to.
type abiVersion uint8

const (
	abi010 abiVersion = 1 << iota
	abi020
	abi021
	abiAll = abi010 | abi020 | abi021
)

func (v abiVersion) String() string {
	switch v {
	case abi010:
		return "0.1.0"
	case abi020:
		return "0.2.0"
	case abi021:
		return "0.2.1"
	}
	return "unknown"
}

// A LoadError says why Envoy would refuse a module or a plugin.
type LoadError struct {
	Module string   // as named in the call to Load
	Lines  []string // what Envoy logs, in its own words, one message each
	More   []string // further imports of which it would say the same, had it not stopped at the first
	Hint   string   // what to do about it, if known
	Err    error    // the cause, if there is one beneath
}

// Error returns the lines, and the hint on its own line.
func (e *LoadError) Error() string {
	s := e.Module + ": " + strings.Join(slices.Concat(e.Lines[:min(len(e.Lines), 1)], e.More, e.Lines[min(len(e.Lines), 1):]), "\n")
	if e.Hint != "" {
		s += "\nhint: " + e.Hint
	}
	return s
}

// Unwrap returns the cause, which may be a *TrapError.
func (e *LoadError) Unwrap() error { return e.Err }

// An UnsupportedError says that Envoy would load the module, but that the
// WebAssembly engine does not know what it uses.
type UnsupportedError struct {
	Module string // as named in the call to Load
	Reason string
}

func (e *UnsupportedError) Error() string {
	return e.Module + ": the module uses what Envoy has but what is not simulated: " + e.Reason
}

// moduleABIVersion returns the ABI version that code says it has: the first
// of its function exports, in the order of the export section, that is a
// version marker (Proxy-Wasm 0.2.1, "ABI version"). It is 0 if there is none.
// ok is false if the sections of a module are not what they say.
func moduleABIVersion(code []byte) (version abiVersion, ok bool) {
	if b, found := strings.CutPrefix(string(code[:min(len(code), 8)]), "\x00asm\x01\x00\x00\x00"); !found || b != "" {
		return 0, true // Envoy looks for the marker, and there is none
	}
	r := byteReader{code[8:]}
	for len(r.b) > 0 {
		id, _ := r.byte()
		section, ok := r.bytes()
		if !ok {
			return 0, false
		}
		if id != 7 { // the export section
			continue
		}
		s := byteReader{section}
		n, ok := s.uint32()
		for ; ok && n > 0; n-- {
			var name []byte
			var kind byte
			name, ok = s.bytes()
			if ok {
				kind, ok = s.byte()
			}
			if ok && kind == 0 { // a function
				switch string(name) {
				case "proxy_abi_version_0_1_0":
					return abi010, true
				case "proxy_abi_version_0_2_0":
					return abi020, true
				case "proxy_abi_version_0_2_1":
					return abi021, true
				}
			}
			if ok {
				_, ok = s.uint32() // the index
			}
		}
		return 0, ok
	}
	return 0, true
}

// byteReader reads the WebAssembly binary format.
type byteReader struct{ b []byte }

func (r *byteReader) byte() (byte, bool) {
	if len(r.b) == 0 {
		return 0, false
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c, true
}

func (r *byteReader) uint32() (uint32, bool) {
	n, size := binary.Uvarint(r.b[:min(len(r.b), 5)])
	if size <= 0 || n > 1<<32-1 {
		return 0, false
	}
	r.b = r.b[size:]
	return uint32(n), true
}

// bytes reads a vector of bytes: its length and them.
func (r *byteReader) bytes() ([]byte, bool) {
	n, ok := r.uint32()
	if !ok || uint64(n) > uint64(len(r.b)) {
		return nil, false
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b, true
}

// link checks everything that Envoy checks before it runs a module: its
// imports against the host functions of its ABI version, and the signatures
// of the exports that the host calls.
func (e *Engine) link(m *Module) error {
	var lines, hints []string
	refuse := func(line, hint string) {
		lines = append(lines, line)
		if hint != "" && !slices.Contains(hints, hint) {
			hints = append(hints, hint)
		}
	}
	functions := m.compiled.ImportedFunctions()
	for _, imported := range m.imports {
		name := imported.module + "." + imported.name
		if imported.kind == importTable || imported.kind == importMemory {
			continue
		}
		if imported.kind != importFunction {
			refuse("Failed to load Wasm module due to a missing import: "+name, "Envoy has functions, a memory and tables to import, and nothing else")
			continue
		}
		def := functions[0]
		functions = functions[1:]
		f, ok := e.hostFuncs[name]
		switch {
		case !ok || f.versions&m.version == 0:
			refuse("Failed to load Wasm module due to a missing import: "+name, e.missingImportHint(m, imported.module, imported.name))
		case !slices.Equal(f.params, def.ParamTypes()) || !slices.Equal(f.results, def.ResultTypes()):
			refuse(fmt.Sprintf("Failed to load Wasm module due to an import type mismatch: %s, want: %s, but host exports: %s",
				name, signature(def.ParamTypes(), def.ResultTypes()), signature(f.params, f.results)), mismatchHint(imported.name))
		}
	}
	if len(lines) > 0 {
		return &LoadError{Module: m.Name, Lines: []string{lines[0], "Wasm VM failed Failed to initialize Wasm code"}, More: lines[1:], Hint: strings.Join(hints, "\n      ")}
	}
	if m.outside {
		return &LoadError{Module: m.Name, Lines: []string{"Failed to create new Wasm instance", "Wasm VM failed Failed to initialize Wasm code"},
			Hint: "an element segment does not fit into its table"}
	}

	exports := m.compiled.ExportedFunctions()
	check := func(spec callbackSpec) {
		def, ok := exports[spec.name]
		if ok && (!slices.Equal(spec.params, def.ParamTypes()) || !slices.Equal(spec.results, def.ResultTypes())) {
			delete(exports, spec.name)
			refuse(fmt.Sprintf("Bad function signature for: %s, want: %s, but the module exports: %s", spec.name,
				signature(spec.params, spec.results), signature(def.ParamTypes(), def.ResultTypes())), signatureHint(m.version, spec.name))
		}
	}
	for _, spec := range startSpecs {
		// main matters only beside _initialize, _start only without it.
		_, reactor := exports["_initialize"]
		if spec.name == "_initialize" || reactor == (spec.name != "_start") {
			check(spec)
		}
	}
	check(mallocSpec)
	if _, ok := exports[mallocSpec.name]; !ok {
		allocate := mallocSpec
		allocate.name = "proxy_on_memory_allocate"
		check(allocate)
		if _, ok := exports[allocate.name]; !ok {
			refuse("Wasm VM failed Wasm module is missing malloc function.", "export malloc or proxy_on_memory_allocate, (i32) -> i32")
		}
	}
	for _, spec := range m.callbacks {
		if spec.name != "" {
			check(spec)
		}
	}
	if len(lines) > 0 {
		return &LoadError{Module: m.Name, Lines: append(lines, "Wasm VM failed Failed to initialize Wasm code"), Hint: strings.Join(hints, "\n      ")}
	}
	return nil
}

func signature(params, results []api.ValueType) string {
	return valueTypes(params) + " -> " + valueTypes(results)
}

func valueTypes(types []api.ValueType) string {
	if len(types) == 0 {
		return "void"
	}
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = api.ValueTypeName(t)
	}
	return strings.Join(names, " ")
}

func (e *Engine) missingImportHint(m *Module, module, function string) string {
	switch f, ok := e.hostFuncs[module+"."+function]; {
	case ok && f.versions == abi010:
		hint := module + "." + function + " exists in ABI 0.1.0 only, and the module says it has " + m.version.String()
		if function == "proxy_clear_route_cache" {
			hint += "; call the foreign function \"clear_route_cache\" instead"
		}
		return hint
	case ok:
		return module + "." + function + " does not exist in ABI " + m.version.String() + ", which the module says it has"
	}
	switch {
	case module == "wasi_snapshot_preview1" || module == "wasi_unstable":
		return "Envoy 1.40 offers 45 functions of WASI preview 1 and " + function + " is not one of them; find out what in the program or its libraries needs it"
	case module == "gojs" || module == "go":
		return "the module was built for JavaScript; build it with GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared"
	case strings.HasPrefix(module, "wasi:"):
		return "this is WASI preview 2, which Envoy does not have; build for preview 1 (wasip1)"
	case module == "wasi":
		return "Envoy has no threads; build without them"
	}
	return ""
}

func mismatchHint(function string) string {
	switch function {
	case "path_link", "path_symlink":
		return "the module is right about " + function + ", but Envoy 1.40 declares it with a parameter too few; such a module cannot be loaded there"
	case "proxy_continue_request", "proxy_continue_response", "proxy_clear_route_cache":
		return "the specification of ABI 0.1.0 gives " + function + " no result, but Envoy's has one (i32)"
	}
	return ""
}

func signatureHint(version abiVersion, name string) string {
	if name == "proxy_on_request_headers" || name == "proxy_on_response_headers" {
		return fmt.Sprintf("the module says it has ABI %s; %s has no end_of_stream in 0.1.0 and has it in 0.2.x", version, name)
	}
	return ""
}

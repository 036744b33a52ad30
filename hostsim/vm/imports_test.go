package vm

import (
	"slices"
	"strings"
	"testing"
)

// Envoy makes the memory and the tables that a module imports, by whatever
// name, and what else is missing it says of the first import.
func TestImportsThatAreNoFunctions(t *testing.T) {
	e, log := newTestEngine(t, EngineOptions{})
	p := mustTestPlugin(t, e, "imported", PluginConfig{})
	if err := attack(t, p, 0); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(log.messages(), func(s string) bool { return strings.HasSuffix(s, "hello from imported memory") }) {
		t.Errorf("nothing came out of the imported memory: %q", log.messages())
	}

	header := "\x00asm\x01\x00\x00\x00\x01\x04\x01\x60\x00\x00"
	rest := "\x03\x02\x01\x00\x07\x1b\x01\x17proxy_abi_version_0_2_1\x00\x01\x0a\x04\x01\x02\x00\x0b"
	_, err := e.Load(t.Context(), "module", []byte(header+"\x02\x12\x02\x03env\x01g\x03\x7f\x00\x03env\x01f\x00\x00"+rest))
	want := "module: Failed to load Wasm module due to a missing import: env.g\n" +
		"Failed to load Wasm module due to a missing import: env.f\n" +
		"Wasm VM failed Failed to initialize Wasm code\n" +
		"hint: Envoy has functions, a memory and tables to import, and nothing else"
	if err == nil || err.Error() != want {
		t.Errorf("error\n%v\nwant\n%s", err, want)
	}
	if load, ok := err.(*LoadError); !ok || len(load.Lines) != 2 {
		t.Errorf("lines %q, want what Envoy logs: the first and what becomes of it", load.Lines)
	}
}

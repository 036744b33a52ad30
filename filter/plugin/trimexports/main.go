// Command trimexports takes Proxy-Wasm callbacks that a plugin does nothing in out of the exports of its .wasm.
//
//	trimexports FILE.wasm
//
// A host calls every callback that a module exports, and an SDK exports all of them: each chunk of a tunnel and of a body
// would enter the VM for nothing. In Istio nothing else can keep it out, as a WasmPlugin takes no capability restriction.
// What is not exported is not called; the module is otherwise the same, byte for byte.
//
// FILE is rewritten, and only if all of it is understood. The same input gives the same output, and trimming twice is
// trimming once.
package main

import (
	"fmt"
	"os"
)

// kept are the callbacks that the switchyard filter lives on. proxy_on_done and proxy_on_delete do nothing in it, but
// SDKs free their contexts there.
var kept = map[string]bool{
	"proxy_on_memory_allocate":  true,
	"proxy_on_context_create":   true,
	"proxy_on_vm_start":         true,
	"proxy_on_configure":        true,
	"proxy_on_request_headers":  true,
	"proxy_on_response_headers": true,
	"proxy_on_log":              true,
	"proxy_on_done":             true,
	"proxy_on_delete":           true,
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: trimexports FILE.wasm")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "trimexports:", err)
		os.Exit(1)
	}
}

func run(file string) error {
	module, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	trimmed, err := trim(module)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	// A new file and a rename: a host that is just reading never sees half of it.
	if err := os.WriteFile(file+".trimmed", trimmed, 0o644); err != nil {
		return err
	}
	return os.Rename(file+".trimmed", file)
}

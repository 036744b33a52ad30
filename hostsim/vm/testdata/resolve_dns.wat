;; Imports what Envoy offers and hostsim does not.
(module
 (import "env" "envoy_resolve_dns" (func (param i32 i32 i32) (result i32)))
 (memory (export "memory") 1)
 (func (export "malloc") (param i32) (result i32) (i32.const 1024))
 (func (export "proxy_abi_version_0_2_1")))

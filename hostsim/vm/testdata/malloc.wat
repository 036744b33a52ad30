;; A guest whose malloc returns what the test has put into the global "at", and
;; takes a page of memory each time if "grow" is not 0.
(module
  (memory (export "memory") 2 8)
  (global $at (export "at") (mut i32) (i32.const 4096))
  (global $grow (export "grow") (mut i32) (i32.const 0))
  (func (export "malloc") (param i32) (result i32)
    (if (global.get $grow) (then (drop (memory.grow (i32.const 1)))))
    (global.get $at))
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0)))

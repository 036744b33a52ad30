//! A guest whose stack can be read: by the number of headers it loops for ever
//! or traps, two functions down. stack.wasm has names and lines (DWARF):
//!
//!     rustc --target wasm32-unknown-unknown -O -C debuginfo=line-tables-only --remap-path-prefix "$PWD=." \
//!         --emit obj -o stack.o stack.rs
//!     rust-lld -flavor wasm --no-entry --export-dynamic -o stack.wasm stack.o
#![no_std]
#![no_main]

use core::hint::black_box;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[no_mangle]
pub extern "C" fn proxy_abi_version_0_2_1() {}

#[no_mangle]
pub extern "C" fn malloc(_: u32) -> u32 {
    1024
}

#[no_mangle]
pub extern "C" fn proxy_on_request_headers(_: u32, headers: u32, _: u32) -> u32 {
    decide(headers)
}

#[inline(never)]
fn decide(headers: u32) -> u32 {
    match headers {
        1 => count(black_box(1)),
        2 => divide(black_box(0)),
        _ => 0,
    }
}

#[inline(never)]
fn count(step: u32) -> u32 {
    let mut n = 0u32;
    loop {
        n = black_box(n.wrapping_add(step));
    }
}

#[inline(never)]
fn divide(by: u32) -> u32 {
    if black_box(by) == 0 {
        core::arch::wasm32::unreachable()
    }
    by
}

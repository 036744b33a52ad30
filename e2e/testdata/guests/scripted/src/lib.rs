//! A plugin that does what each request tells it to, so that a test can try
//! every hostcall in every callback. It uses no SDK: what it calls and returns
//! is what the test says.
//!
//! The field x-do of a request is a list of CALLBACK:OPERATION, separated by
//! semicolons; CALLBACK#N is its Nth call for this stream. Operations run in
//! their order and what they give goes into a trace, which `dump` sends as a
//! local response and empties.
//!
//! A TCP connection does what the plugin's configuration says, if that is such a
//! list; besides, what a client sends may begin with a line "DO " and a list,
//! which the plugin takes away. `spill N` puts the trace in front of what is in
//! buffer N and empties it.
//!
//! Build: cargo build --release --target wasm32-unknown-unknown

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write;

#[link(wasm_import_module = "env")]
extern "C" {
    fn proxy_log(level: i32, p: *const u8, n: usize) -> i32;
    fn proxy_get_header_map_value(m: i32, k: *const u8, kn: usize, v: *mut *mut u8, vn: *mut usize) -> i32;
    fn proxy_add_header_map_value(m: i32, k: *const u8, kn: usize, v: *const u8, vn: usize) -> i32;
    fn proxy_replace_header_map_value(m: i32, k: *const u8, kn: usize, v: *const u8, vn: usize) -> i32;
    fn proxy_remove_header_map_value(m: i32, k: *const u8, kn: usize) -> i32;
    fn proxy_get_header_map_pairs(m: i32, v: *mut *mut u8, vn: *mut usize) -> i32;
    fn proxy_set_header_map_pairs(m: i32, v: *const u8, vn: usize) -> i32;
    fn proxy_get_header_map_size(m: i32, n: *mut usize) -> i32;
    fn proxy_get_buffer_bytes(b: i32, start: usize, n: usize, v: *mut *mut u8, vn: *mut usize) -> i32;
    fn proxy_get_buffer_status(b: i32, n: *mut usize, flags: *mut u32) -> i32;
    fn proxy_set_buffer_bytes(b: i32, start: usize, n: usize, v: *const u8, vn: usize) -> i32;
    fn proxy_send_local_response(code: u32, d: *const u8, dn: usize, b: *const u8, bn: usize, h: *const u8, hn: usize, grpc: i32) -> i32;
    fn proxy_http_call(c: *const u8, cn: usize, h: *const u8, hn: usize, b: *const u8, bn: usize, t: *const u8, tn: usize, ms: u32, token: *mut u32) -> i32;
    fn proxy_grpc_call(c: *const u8, cn: usize, s: *const u8, sn: usize, m: *const u8, mn: usize, i: *const u8, in_: usize, b: *const u8, bn: usize, ms: u32, token: *mut u32) -> i32;
    fn proxy_grpc_stream(c: *const u8, cn: usize, s: *const u8, sn: usize, m: *const u8, mn: usize, i: *const u8, in_: usize, token: *mut u32) -> i32;
    fn proxy_grpc_send(token: u32, b: *const u8, bn: usize, end: i32) -> i32;
    fn proxy_grpc_cancel(token: u32) -> i32;
    fn proxy_grpc_close(token: u32) -> i32;
    fn proxy_continue_stream(t: i32) -> i32;
    fn proxy_close_stream(t: i32) -> i32;
    fn proxy_set_effective_context(id: u32) -> i32;
    fn proxy_set_tick_period_milliseconds(ms: u32) -> i32;
    fn proxy_get_property(p: *const u8, n: usize, v: *mut *mut u8, vn: *mut usize) -> i32;
    fn proxy_set_property(p: *const u8, n: usize, v: *const u8, vn: usize) -> i32;
    fn proxy_register_shared_queue(p: *const u8, n: usize, id: *mut u32) -> i32;
    fn proxy_resolve_shared_queue(v: *const u8, vn: usize, p: *const u8, n: usize, id: *mut u32) -> i32;
    fn proxy_enqueue_shared_queue(id: u32, p: *const u8, n: usize) -> i32;
    fn proxy_dequeue_shared_queue(id: u32, v: *mut *mut u8, vn: *mut usize) -> i32;
    fn proxy_get_shared_data(k: *const u8, kn: usize, v: *mut *mut u8, vn: *mut usize, cas: *mut u32) -> i32;
    fn proxy_set_shared_data(k: *const u8, kn: usize, v: *const u8, vn: usize, cas: u32) -> i32;
    fn proxy_define_metric(t: i32, p: *const u8, n: usize, id: *mut u32) -> i32;
    fn proxy_increment_metric(id: u32, by: i64) -> i32;
    fn proxy_record_metric(id: u32, v: u64) -> i32;
    fn proxy_get_metric(id: u32, v: *mut u64) -> i32;
    fn proxy_get_status(code: *mut u32, v: *mut *mut u8, vn: *mut usize) -> i32;
    fn proxy_call_foreign_function(f: *const u8, fn_: usize, a: *const u8, an: usize, v: *mut *mut u8, vn: *mut usize) -> i32;
    fn proxy_done() -> i32;
}

#[derive(Default)]
struct State {
    scripts: HashMap<u32, Vec<(String, String)>>,
    calls: HashMap<(u32, String), u32>, // of a callback of a context, so far
    owner: HashMap<u32, u32>,           // of a callout: the context that made it
    parent: HashMap<u32, u32>,          // the root context of a context
    ticking: u32,                       // the context that wants ticks
    queueing: u32,                      // the context that wants news of queues
    trace: String,
}

thread_local! { static STATE: RefCell<State> = RefCell::new(State::default()); }

fn with<T>(f: impl FnOnce(&mut State) -> T) -> T {
    STATE.with(|s| f(&mut s.borrow_mut()))
}

fn trace(text: &str) {
    with(|s| {
        s.trace.push_str(text);
        s.trace.push('\n');
    })
}

fn printable(b: &[u8]) -> String {
    let mut out = String::new();
    for &c in b {
        if (0x20..0x7f).contains(&c) && c != b'\\' {
            out.push(c as char)
        } else {
            let _ = write!(out, "\\{:02x}", c);
        }
    }
    out
}

/// taken is what the host has put into memory that it had allocated.
fn taken(p: *mut u8, n: usize) -> Vec<u8> {
    if p.is_null() {
        return Vec::new();
    }
    unsafe { Vec::from_raw_parts(p, n, n) }
}

fn pairs(list: &[(&str, &str)]) -> Vec<u8> {
    let mut out = (list.len() as u32).to_le_bytes().to_vec();
    for (k, v) in list {
        out.extend((k.len() as u32).to_le_bytes());
        out.extend((v.len() as u32).to_le_bytes());
    }
    for (k, v) in list {
        out.extend(k.as_bytes());
        out.push(0);
        out.extend(v.as_bytes());
        out.push(0);
    }
    out
}

/// unpairs lists what pairs has made.
fn unpairs(b: &[u8]) -> String {
    if b.len() < 4 {
        return String::new();
    }
    let word = |i: usize| u32::from_le_bytes(b[i..i + 4].try_into().unwrap()) as usize;
    let n = word(0);
    let mut at = 4 + 8 * n;
    let mut out = String::new();
    for i in 0..n {
        let (k, v) = (word(4 + 8 * i), word(8 + 8 * i));
        let _ = write!(out, " {}={}", printable(&b[at..at + k]), printable(&b[at + k + 1..at + k + 1 + v]));
        at += k + v + 2;
    }
    out
}

/// run does what the script of context owner says of a callback; it returns
/// what the callback is to return.
fn run(owner: u32, callback: &str, args: &str) -> i32 {
    let steps = with(|s| {
        let count = s.calls.entry((owner, callback.to_string())).or_insert(0);
        *count += 1;
        let numbered = format!("{}#{}", callback, count);
        match s.scripts.get(&owner) {
            Some(steps) => steps.iter().filter(|(c, _)| *c == callback || *c == numbered).map(|(_, op)| op.clone()).collect(),
            None => Vec::new(),
        }
    });
    if with(|s| s.scripts.contains_key(&owner)) {
        trace(&format!("{} {}", callback, args));
    }
    let mut action = 0;
    for step in steps {
        step_of(owner, &step, &mut action)
    }
    action
}

fn step_of(owner: u32, step: &str, action: &mut i32) {
    let words: Vec<&str> = step.split(' ').collect();
    let word = |i: usize| words.get(i).copied().unwrap_or("");
    let num = |i: usize| word(i).parse::<i64>().unwrap_or(0);
    let rest = |i: usize| words[i.min(words.len())..].join(" ");
    let (mut p, mut n, mut id) = (std::ptr::null_mut::<u8>(), 0usize, 0u32);
    let mut given = String::new();
    let status = unsafe {
        match word(0) {
            "ret" => {
                *action = num(1) as i32;
                return;
            }
            "log" => proxy_log(num(1) as i32, rest(2).as_ptr(), rest(2).len()),
            "get" => {
                let s = proxy_get_header_map_value(num(1) as i32, word(2).as_ptr(), word(2).len(), &mut p, &mut n);
                given = printable(&taken(p, n));
                s
            }
            "add" => proxy_add_header_map_value(num(1) as i32, word(2).as_ptr(), word(2).len(), rest(3).as_ptr(), rest(3).len()),
            "rep" => proxy_replace_header_map_value(num(1) as i32, word(2).as_ptr(), word(2).len(), rest(3).as_ptr(), rest(3).len()),
            "rem" => proxy_remove_header_map_value(num(1) as i32, word(2).as_ptr(), word(2).len()),
            "map" => {
                let s = proxy_get_header_map_pairs(num(1) as i32, &mut p, &mut n);
                given = unpairs(&taken(p, n));
                s
            }
            "setmap" => {
                let list: Vec<(&str, &str)> = words[2.min(words.len())..].chunks(2).map(|c| (c[0], c.get(1).copied().unwrap_or(""))).collect();
                let b = pairs(&list);
                proxy_set_header_map_pairs(num(1) as i32, b.as_ptr(), b.len())
            }
            "size" => {
                let s = proxy_get_header_map_size(num(1) as i32, &mut n);
                given = n.to_string();
                s
            }
            "buf" => {
                let s = proxy_get_buffer_bytes(num(1) as i32, num(2) as usize, num(3) as usize, &mut p, &mut n);
                let b = taken(p, n);
                given = if b.len() > 200 { format!("{} bytes", b.len()) } else { printable(&b) };
                s
            }
            "set" => proxy_set_buffer_bytes(num(1) as i32, num(2) as usize, num(3) as usize, rest(4).as_ptr(), rest(4).len()),
            "bufsize" => {
                let s = proxy_get_buffer_status(num(1) as i32, &mut n, &mut id);
                given = format!("{} {}", n, id);
                s
            }
            "reply" => proxy_send_local_response(num(1) as u32, "by script".as_ptr(), 9, rest(2).as_ptr(), rest(2).len(), std::ptr::null(), 0, -1),
            "replywith" => {
                let b = pairs(&[(word(2), word(3))]);
                proxy_send_local_response(num(1) as u32, std::ptr::null(), 0, rest(4).as_ptr(), rest(4).len(), b.as_ptr(), b.len(), -1)
            }
            "dump" => {
                let text = with(|s| std::mem::take(&mut s.trace));
                proxy_send_local_response(200, std::ptr::null(), 0, text.as_ptr(), text.len(), std::ptr::null(), 0, -1);
                return;
            }
            "spill" => {
                let text = with(|s| std::mem::take(&mut s.trace));
                proxy_set_buffer_bytes(num(1) as i32, 0, 0, text.as_ptr(), text.len());
                return;
            }
            "forget" => {
                with(|s| s.trace.clear());
                return;
            }
            "call" => {
                // cluster method path milliseconds body
                let h = pairs(&[(":method", word(2)), (":path", word(3)), (":authority", "callee"), ("X-Called", "1")]);
                let s = proxy_http_call(word(1).as_ptr(), word(1).len(), h.as_ptr(), h.len(), rest(5).as_ptr(), rest(5).len(), std::ptr::null(), 0, num(4) as u32, &mut id);
                if s == 0 {
                    with(|s| s.owner.insert(id, owner));
                } else {
                    given = id.to_string();
                }
                s
            }
            "calltrailers" => {
                let h = pairs(&[(":method", "POST"), (":path", word(2)), (":authority", "callee")]);
                let t = pairs(&[("x-trailer", "t")]);
                let s = proxy_http_call(word(1).as_ptr(), word(1).len(), h.as_ptr(), h.len(), "hi".as_ptr(), 2, t.as_ptr(), t.len(), 1000, &mut id);
                with(|s| s.owner.insert(id, owner));
                s
            }
            "callraw" => {
                // cluster milliseconds, then names and values
                let list: Vec<(&str, &str)> = words[3.min(words.len())..].chunks(2).map(|c| (c[0], c.get(1).copied().unwrap_or(""))).collect();
                let h = pairs(&list);
                let s = proxy_http_call(word(1).as_ptr(), word(1).len(), h.as_ptr(), h.len(), std::ptr::null(), 0, std::ptr::null(), 0, num(2) as u32, &mut id);
                with(|s| s.owner.insert(id, owner));
                s
            }
            "grpc" => {
                // cluster service method milliseconds message
                let i = pairs(&[("x-meta", "m")]);
                let s = proxy_grpc_call(word(1).as_ptr(), word(1).len(), word(2).as_ptr(), word(2).len(), word(3).as_ptr(), word(3).len(), i.as_ptr(), i.len(), rest(5).as_ptr(), rest(5).len(), num(4) as u32, &mut id);
                with(|s| s.owner.insert(id, owner));
                given = id.to_string();
                s
            }
            "grpcstream" => {
                let i = pairs(&[("x-meta", "m")]);
                let s = proxy_grpc_stream(word(1).as_ptr(), word(1).len(), word(2).as_ptr(), word(2).len(), word(3).as_ptr(), word(3).len(), i.as_ptr(), i.len(), &mut id);
                with(|s| s.owner.insert(id, owner));
                given = id.to_string();
                s
            }
            "grpcsend" => proxy_grpc_send(num(1) as u32, rest(3).as_ptr(), rest(3).len(), num(2) as i32),
            "grpccancel" => proxy_grpc_cancel(num(1) as u32),
            "grpcclose" => proxy_grpc_close(num(1) as u32),
            "cont" => proxy_continue_stream(num(1) as i32),
            "close" => proxy_close_stream(num(1) as i32),
            "eff" => proxy_set_effective_context(match word(1) {
                "self" => owner,
                _ => num(1) as u32,
            }),
            "tick" => {
                with(|s| s.ticking = owner);
                proxy_set_tick_period_milliseconds(num(1) as u32)
            }
            "prop" => {
                let path = word(1).replace('/', "\0");
                let s = proxy_get_property(path.as_ptr(), path.len(), &mut p, &mut n);
                given = printable(&taken(p, n));
                s
            }
            "setprop" => {
                let path = word(1).replace('/', "\0");
                proxy_set_property(path.as_ptr(), path.len(), rest(2).as_ptr(), rest(2).len())
            }
            "register" => {
                with(|s| s.queueing = owner);
                let s = proxy_register_shared_queue(word(1).as_ptr(), word(1).len(), &mut id);
                given = id.to_string();
                s
            }
            "resolve" => {
                let s = proxy_resolve_shared_queue(word(2).as_ptr(), word(2).len(), word(1).as_ptr(), word(1).len(), &mut id);
                given = id.to_string();
                s
            }
            "enqueue" => proxy_enqueue_shared_queue(num(1) as u32, rest(2).as_ptr(), rest(2).len()),
            "dequeue" => {
                let s = proxy_dequeue_shared_queue(num(1) as u32, &mut p, &mut n);
                given = printable(&taken(p, n));
                s
            }
            "load" => {
                let s = proxy_get_shared_data(word(1).as_ptr(), word(1).len(), &mut p, &mut n, &mut id);
                given = format!("{} {}", printable(&taken(p, n)), id);
                s
            }
            "store" => proxy_set_shared_data(word(1).as_ptr(), word(1).len(), rest(3).as_ptr(), rest(3).len(), num(2) as u32),
            "metric" => {
                let s = proxy_define_metric(num(1) as i32, word(2).as_ptr(), word(2).len(), &mut id);
                given = id.to_string();
                s
            }
            "increment" => proxy_increment_metric(num(1) as u32, num(2)),
            "record" => proxy_record_metric(num(1) as u32, num(2) as u64),
            "value" => {
                let mut v = 0u64;
                let s = proxy_get_metric(num(1) as u32, &mut v);
                given = v.to_string();
                s
            }
            "status" => {
                let s = proxy_get_status(&mut id, &mut p, &mut n);
                given = format!("{} {}", id, printable(&taken(p, n)));
                s
            }
            "foreign" => {
                let arg = unhex(&rest(2));
                let s = proxy_call_foreign_function(word(1).as_ptr(), word(1).len(), arg.as_ptr(), arg.len(), &mut p, &mut n);
                given = printable(&taken(p, n));
                s
            }
            "done" => proxy_done(),
            "trap" => core::arch::wasm32::unreachable(),
            "loop" => loop {
                std::hint::black_box(0);
            },
            _ => -1,
        }
    };
    if given.is_empty() {
        trace(&format!("  {} = {}", step, status));
    } else {
        trace(&format!("  {} = {} {}", step, status, given));
    }
}

/// unhex turns \ and two digits into a byte.
fn unhex(s: &str) -> Vec<u8> {
    let b = s.as_bytes();
    let (mut out, mut i) = (Vec::new(), 0);
    while i < b.len() {
        if b[i] == b'\\' && i + 2 < b.len() + 0 {
            out.push(u8::from_str_radix(&s[i + 1..i + 3], 16).unwrap_or(b'?'));
            i += 3;
        } else {
            out.push(b[i]);
            i += 1;
        }
    }
    out
}

#[no_mangle]
pub extern "C" fn malloc(n: usize) -> *mut u8 {
    let mut v = Vec::<u8>::with_capacity(n);
    let p = v.as_mut_ptr();
    std::mem::forget(v);
    p
}

#[no_mangle]
pub extern "C" fn proxy_abi_version_0_2_1() {}
#[no_mangle]
pub extern "C" fn proxy_on_context_create(id: u32, parent: u32) {
    with(|s| s.parent.insert(id, parent));
}
#[no_mangle]
pub extern "C" fn proxy_on_vm_start(_: u32, _: u32) -> i32 {
    1
}
#[no_mangle]
pub extern "C" fn proxy_on_configure(id: u32, n: usize) -> i32 {
    let (mut p, mut got) = (std::ptr::null_mut(), 0);
    unsafe { proxy_get_buffer_bytes(7, 0, n, &mut p, &mut got) };
    let text = String::from_utf8_lossy(&taken(p, got)).to_string();
    learn(id, &text);
    let result = with(|s| s.scripts.contains_key(&id));
    let action = run(id, "configure", "");
    with(|s| s.trace.clear());
    (!result || action == 0) as i32
}

fn learn(id: u32, text: &str) {
    let steps: Vec<(String, String)> = text.split(';').filter_map(|step| step.trim().split_once(':')).map(|(c, op)| (c.to_string(), op.to_string())).collect();
    if !steps.is_empty() {
        with(|s| s.scripts.insert(id, steps));
    }
}

#[no_mangle]
pub extern "C" fn proxy_on_request_headers(id: u32, n: u32, end: u32) -> i32 {
    let (mut p, mut got) = (std::ptr::null_mut(), 0);
    if unsafe { proxy_get_header_map_value(0, "x-do".as_ptr(), 4, &mut p, &mut got) } == 0 {
        learn(id, &String::from_utf8_lossy(&taken(p, got)));
    }
    run(id, "rqh", &format!("{} {}", n, end))
}
#[no_mangle]
pub extern "C" fn proxy_on_request_body(id: u32, n: u32, end: u32) -> i32 {
    run(id, "rqb", &format!("{} {}", n, end))
}
#[no_mangle]
pub extern "C" fn proxy_on_request_trailers(id: u32, n: u32) -> i32 {
    run(id, "rqt", &n.to_string())
}
#[no_mangle]
pub extern "C" fn proxy_on_response_headers(id: u32, n: u32, end: u32) -> i32 {
    run(id, "rsh", &format!("{} {}", n, end))
}
#[no_mangle]
pub extern "C" fn proxy_on_response_body(id: u32, n: u32, end: u32) -> i32 {
    run(id, "rsb", &format!("{} {}", n, end))
}
#[no_mangle]
pub extern "C" fn proxy_on_response_trailers(id: u32, n: u32) -> i32 {
    run(id, "rst", &n.to_string())
}
#[no_mangle]
pub extern "C" fn proxy_on_new_connection(id: u32) -> i32 {
    with(|s| {
        let root = s.parent.get(&id).copied().unwrap_or(0);
        if let Some(steps) = s.scripts.get(&root).cloned() {
            s.scripts.insert(id, steps);
        }
    });
    run(id, "new", "")
}
#[no_mangle]
pub extern "C" fn proxy_on_downstream_data(id: u32, n: usize, end: u32) -> i32 {
    let (mut n, mut p, mut got) = (n, std::ptr::null_mut(), 0);
    unsafe { proxy_get_buffer_bytes(2, 0, n, &mut p, &mut got) };
    let data = taken(p, got);
    if data.starts_with(b"DO ") {
        if let Some(line) = data.iter().position(|c| *c == b'\n') {
            learn(id, &String::from_utf8_lossy(&data[3..line]));
            unsafe { proxy_set_buffer_bytes(2, 0, line + 1, std::ptr::null(), 0) };
            n -= line + 1;
        }
    }
    run(id, "down", &format!("{} {}", n, end))
}
#[no_mangle]
pub extern "C" fn proxy_on_upstream_data(id: u32, n: u32, end: u32) -> i32 {
    run(id, "up", &format!("{} {}", n, end))
}
#[no_mangle]
pub extern "C" fn proxy_on_downstream_connection_close(id: u32, by: u32) {
    run(id, "downclosed", &by.to_string());
}
#[no_mangle]
pub extern "C" fn proxy_on_upstream_connection_close(id: u32, by: u32) {
    run(id, "upclosed", &by.to_string());
}
#[no_mangle]
pub extern "C" fn proxy_on_log(id: u32) {
    run(id, "log", "");
}
#[no_mangle]
pub extern "C" fn proxy_on_done(id: u32) -> i32 {
    (run(id, "done", "") == 0) as i32
}
#[no_mangle]
pub extern "C" fn proxy_on_delete(id: u32) {
    run(id, "delete", "");
    with(|s| {
        s.scripts.remove(&id);
        s.parent.remove(&id);
        s.calls.retain(|k, _| k.0 != id);
    });
}
#[no_mangle]
pub extern "C" fn proxy_on_tick(_: u32) {
    run(with(|s| s.ticking), "tick", "");
}
#[no_mangle]
pub extern "C" fn proxy_on_queue_ready(_: u32, id: u32) {
    run(with(|s| s.queueing), "queue", &id.to_string());
}
#[no_mangle]
pub extern "C" fn proxy_on_http_call_response(_: u32, token: u32, headers: u32, body: u32, trailers: u32) {
    let owner = with(|s| s.owner.remove(&token).unwrap_or(0));
    run(owner, "call", &format!("{} {} {}", headers, body, trailers));
}
#[no_mangle]
pub extern "C" fn proxy_on_grpc_receive_initial_metadata(_: u32, token: u32, n: u32) {
    run(with(|s| s.owner.get(&token).copied().unwrap_or(0)), "grpcinitial", &n.to_string());
}
#[no_mangle]
pub extern "C" fn proxy_on_grpc_receive(_: u32, token: u32, n: u32) {
    run(with(|s| s.owner.get(&token).copied().unwrap_or(0)), "grpcreceive", &n.to_string());
}
#[no_mangle]
pub extern "C" fn proxy_on_grpc_receive_trailing_metadata(_: u32, token: u32, n: u32) {
    run(with(|s| s.owner.get(&token).copied().unwrap_or(0)), "grpctrailing", &n.to_string());
}
#[no_mangle]
pub extern "C" fn proxy_on_grpc_close(_: u32, token: u32, code: u32) {
    run(with(|s| s.owner.get(&token).copied().unwrap_or(0)), "grpcclosed", &code.to_string());
}

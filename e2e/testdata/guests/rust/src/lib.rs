//! The filter of ../README.md on the SDK for Rust.

use log::{debug, error, info, trace, warn};
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, Bytes, ContextType, LogLevel, MapType, MetricType, Status};
use std::cell::RefCell;
use std::time::Duration;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Trace);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

thread_local! {
    /// What a tick resumes: contexts, and whether their response.
    static WAITING: RefCell<Vec<(u32, bool)>> = const { RefCell::new(Vec::new()) };
}

#[derive(Default, Clone, Copy)]
struct Shared {
    counter: u32,
    gauge: u32,
    histogram: u32,
    queue: u32,
}

#[derive(Default)]
struct Root {
    configuration: String,
    shared: Shared,
}

fn text(b: Option<Bytes>) -> String {
    b.map_or("none".into(), |b| String::from_utf8_lossy(&b).into_owned())
}

fn list(map: Vec<(String, String)>) -> String {
    map.iter().filter(|(k, _)| k != "x-request-id").map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
}

impl Context for Root {}

impl RootContext for Root {
    fn on_vm_start(&mut self, size: usize) -> bool {
        info!("start {size} {}", text(self.get_vm_configuration()));
        true
    }

    fn on_configure(&mut self, size: usize) -> bool {
        self.configuration = text(self.get_plugin_configuration());
        info!("configure {size} {}", self.configuration);
        self.shared = Shared {
            counter: hostcalls::define_metric(MetricType::Counter, "sdk_rust_counter").unwrap(),
            gauge: hostcalls::define_metric(MetricType::Gauge, "sdk_rust_gauge").unwrap(),
            histogram: hostcalls::define_metric(MetricType::Histogram, "sdk_rust_histogram").unwrap(),
            queue: self.register_shared_queue("sdk"),
        };
        self.set_tick_period(Duration::from_millis(20));
        true
    }

    fn on_tick(&mut self) {
        for (id, response) in WAITING.take() {
            hostcalls::set_effective_context(id).unwrap();
            info!("tick resumes");
            if response {
                hostcalls::resume_http_response().unwrap()
            } else {
                hostcalls::add_map_value(MapType::HttpRequestHeaders, "x-tick", "1").unwrap();
                hostcalls::resume_http_request().unwrap()
            }
        }
    }

    fn on_queue_ready(&mut self, queue: u32) {
        while let Ok(Some(item)) = self.dequeue_shared_queue(queue) {
            info!("queue ready {}", text(Some(item)));
        }
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Http { id, path: String::new(), configuration: self.configuration.clone(), shared: self.shared }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Http {
    id: u32,
    path: String,
    configuration: String,
    shared: Shared,
}

impl Http {
    fn is(&self, path: &str) -> bool {
        self.path == path || self.path.starts_with(path) && self.path[path.len()..].starts_with('/')
    }

    fn call(&self, cluster: &str, ms: u64) -> Result<u32, Status> {
        let headers = vec![(":method", "POST"), (":path", "/callee"), (":authority", "callee"), ("x-call", &self.path)];
        self.dispatch_http_call(cluster, headers, Some(b"question"), vec![("x-asked", "yes")], Duration::from_millis(ms))
    }

    fn wait(&self, response: bool) -> Action {
        WAITING.with_borrow_mut(|w| w.push((self.id, response)));
        Action::Pause
    }
}

impl Context for Http {
    fn on_http_call_response(&mut self, _: u32, headers: usize, size: usize, trailers: usize) {
        // Without an answer there is no such map, and the SDK would panic.
        let status = if headers == 0 { None } else { self.get_http_call_response_header(":status") }.unwrap_or("none".into());
        let body = text(self.get_http_call_response_body(0, size));
        info!("called {headers} {size} {trailers}: {status} {body} {}", list(self.get_http_call_response_trailers()));
        if self.is("/call/reply") {
            self.send_http_response(418, vec![("x-callee", &status)], Some(body.as_bytes()));
            return;
        }
        self.add_http_request_header("x-callee", &status);
        self.resume_http_request();
    }

    fn on_done(&mut self) -> bool {
        if !self.path.is_empty() {
            info!("done");
        }
        true
    }
}

impl HttpContext for Http {
    fn on_http_request_headers(&mut self, n: usize, end: bool) -> Action {
        let path = self.get_http_request_header(":path").unwrap_or_default();
        if path.contains("sentinel") {
            return Action::Continue;
        }
        self.path = path.split('?').next().unwrap().to_string();
        info!("request {} {n} {end}", self.path);
        if self.is("/get") {
            info!("x-in {:?} x-none {:?}", self.get_http_request_header("X-In"), self.get_http_request_header("x-none"));
            info!("all {}", list(self.get_http_request_headers()));
        } else if self.is("/edit") {
            self.add_http_request_header("X-Added", "1");
            self.add_http_request_header("x-added", "2");
            self.set_http_request_header("x-in", Some("replaced"));
            self.set_http_request_header("x-new", Some("set"));
            self.set_http_request_header("x-gone", None);
            info!("all {}", list(self.get_http_request_headers()));
        } else if self.is("/set-all") {
            let all = self.get_http_request_headers();
            let mut some: Vec<(&str, &str)> = all.iter().map(|(k, v)| (k.as_str(), v.as_str())).filter(|(k, _)| *k != "x-in").collect();
            some.push(("x-all", "a"));
            some.push(("x-all", "b"));
            self.set_http_request_headers(some);
        } else if self.is("/body") {
            self.remove_http_request_header("content-length");
        } else if self.is("/reply/head") {
            self.send_http_response(403, vec![("x-reply", "a"), ("x-reply", "b"), ("server", "mine")], Some(b"refused"));
            return Action::Pause;
        } else if self.is("/reply/grpc") {
            self.send_grpc_response(proxy_wasm::types::GrpcStatusCode::NotFound, Some("no such thing"), vec![("x-meta", b"m")]);
            return Action::Pause;
        } else if self.is("/reply/continue") {
            self.send_http_response(204, vec![], None);
        } else if self.is("/call") {
            let (cluster, ms) = if self.is("/call/refused") {
                ("refused", 1000)
            } else if self.is("/call/unknown") {
                ("nowhere", 1000)
            } else if self.is("/call/late") {
                ("other", 100)
            } else {
                ("other", 5000)
            };
            return match self.call(cluster, ms) {
                Ok(_) => Action::Pause,
                Err(e) => {
                    error!("no call: {e:?}");
                    Action::Continue
                }
            };
        } else if self.is("/shared") {
            let key = self.path.clone();
            let (value, cas) = self.get_shared_data(&key);
            info!("was {:?} {}", value.map(|v| String::from_utf8(v).unwrap()), cas.is_some());
            info!("set {:?}", self.set_shared_data(&key, Some(b"one"), None));
            let (value, cas) = self.get_shared_data(&key);
            info!("is {} {}", text(value), cas.is_some());
            info!("wrong {:?}", self.set_shared_data(&key, Some(b"two"), Some(cas.unwrap() + 1000)));
            info!("right {:?}", self.set_shared_data(&key, Some(b"three"), cas));
            info!("then {}", text(self.get_shared_data(&key).0));
            info!("empty {:?} {:?}", self.set_shared_data(&key, None, None), self.get_shared_data(&key).0);
        } else if self.is("/queue") {
            info!("resolved {:?} {:?}", self.resolve_shared_queue("", "sdk") == Some(self.shared.queue), self.resolve_shared_queue("", "none"));
            info!("enqueued {:?} {:?}", self.enqueue_shared_queue(self.shared.queue, Some(b"item")), self.enqueue_shared_queue(4711, Some(b"x")));
            info!("dequeued {:?}", self.dequeue_shared_queue(4711));
        } else if self.is("/metric") {
            let s = self.shared;
            hostcalls::increment_metric(s.counter, 3).unwrap();
            hostcalls::record_metric(s.gauge, 7).unwrap();
            hostcalls::increment_metric(s.gauge, -2).unwrap();
            hostcalls::record_metric(s.histogram, 250).unwrap();
            info!("counter {:?} gauge {:?} histogram {:?}", hostcalls::get_metric(s.counter).is_ok(), hostcalls::get_metric(s.gauge), hostcalls::get_metric(s.histogram));
            info!("counter down {:?}", hostcalls::increment_metric(s.counter, -1));
        } else if self.is("/property") {
            for path in [vec!["request", "path"], vec!["request", "method"], vec!["request", "headers", "x-in"], vec!["plugin_name"], vec!["plugin_root_id"], vec!["plugin_vm_id"],
                vec!["xds", "route_name"], vec!["xds", "cluster_name"], vec!["response", "code"], vec!["node"], vec!["nothing"], vec!["listener_direction"]] {
                info!("property {} {:?}", path.join("."), self.get_property(path.clone()).map(|v| String::from_utf8_lossy(&v).into_owned()));
            }
            info!("unset {:?}", self.get_property(vec!["mine", "own"]));
            self.set_property(vec!["mine", "own"], Some(b"kept"));
            info!("set {}", text(self.get_property(vec!["mine", "own"])));
        } else if self.is("/foreign") {
            self.set_property(vec!["k"], Some(b"routed"));
            info!("clear {:?}", self.call_foreign_function("clear_route_cache", None));
            info!("none {:?}", self.call_foreign_function("no_such_function", Some(b"x")));
            let z = self.call_foreign_function("compress", Some(b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"));
            info!("compress {:?}", z.is_ok());
        } else if self.is("/levels") {
            trace!("at trace");
            debug!("at debug");
            info!("at info, two\nlines");
            warn!("at warn");
            error!("at error");
            hostcalls::log(LogLevel::Critical, "at critical").unwrap();
            info!("level {:?}", hostcalls::get_log_level());
            println!("printed");
            eprintln!("printed to stderr");
            print!("without newline");
        } else if self.is("/config") {
            self.send_http_response(200, vec![], Some(format!("{} {:?}", self.configuration, std::env::var("SDK_ENV")).as_bytes()));
            return Action::Pause;
        } else if self.is("/time") {
            let since = self.get_current_time().duration_since(std::time::UNIX_EPOCH).unwrap();
            info!("time {} {}", since.as_secs() > 1_700_000_000, std::time::Instant::now().elapsed() < Duration::from_secs(1));
        } else if self.is("/grow") {
            let mut all = Vec::new();
            for i in 0..40u8 {
                all.push(vec![i; 1 << 20]);
            }
            info!("grown {}", all.iter().map(|v| v.len()).sum::<usize>());
        } else if self.is("/tick/request") {
            return self.wait(false);
        } else if self.is("/panic/request") {
            panic!("in the request");
        } else if self.is("/panic/bounds") {
            let n = self.path.len();
            let v = vec![1, 2, 3];
            info!("{}", v[n]);
        } else if self.is("/close/request") {
            self.reset_http_request();
        }
        Action::Continue
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        if self.path.is_empty() {
            return Action::Continue;
        }
        info!("request body {size} {end}");
        if self.is("/body") {
            if !end {
                return Action::Pause;
            }
            let body = text(self.get_http_request_body(0, size));
            self.set_http_request_body(0, size, format!("<{}>", body.to_uppercase()).as_bytes());
        } else if self.is("/chunks") {
            info!("chunk {}", text(self.get_http_request_body(0, usize::MAX)));
            self.set_http_request_body(size, 0, b"+");
            self.set_http_request_body(0, 0, b"-");
        } else if self.is("/reply/body") && end {
            self.send_http_response(400, vec![], Some(b"bad content"));
            return Action::Pause;
        } else if self.is("/panic/body") {
            panic!("in the body");
        }
        Action::Continue
    }

    fn on_http_request_trailers(&mut self, n: usize) -> Action {
        if self.path.is_empty() {
            return Action::Continue;
        }
        info!("request trailers {n} {}", list(self.get_http_request_trailers()));
        if self.is("/trailers") {
            self.add_http_request_trailer("x-added", "1");
            self.set_http_request_trailer("x-t", Some("replaced"));
            self.remove_http_request_trailer("x-gone");
            info!("x-t {:?} x-gone {:?}", self.get_http_request_trailer("x-t"), self.get_http_request_trailer("x-gone"));
        } else if self.is("/body") {
            info!("content {}", text(self.get_http_request_body(0, usize::MAX)));
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, n: usize, end: bool) -> Action {
        if self.path.is_empty() {
            return Action::Continue;
        }
        info!("response {:?} {n} {end}", self.get_http_response_header(":status"));
        if self.is("/get") {
            info!("all {}", list(self.get_http_response_headers()).split(" x-envoy-upstream-service-time").next().unwrap());
        } else if self.is("/edit") {
            self.add_http_response_header("x-added", "1");
            self.add_http_response_header("x-added", "2");
            self.set_http_response_header("x-out", Some("replaced"));
            self.set_http_response_header("content-type", Some("text/edited"));
            self.remove_http_response_header("x-gone");
        } else if self.is("/set-all") {
            self.set_http_response_headers(vec![(":status", "203"), ("x-only", "1")]);
        } else if self.is("/body") {
            self.remove_http_response_header("content-length");
        } else if self.is("/reply/response") {
            self.send_http_response(599, vec![("x-reply", "r")], Some(b"instead"));
            return Action::Pause;
        } else if self.is("/property") {
            let code = self.get_property(vec!["response", "code"]).map(|v| i64::from_le_bytes(v.try_into().unwrap()));
            info!("code {code:?} mine {}", text(self.get_property(vec!["mine", "own"])));
            info!("upstream {} {}", text(self.get_property(vec!["xds", "cluster_name"])), text(self.get_property(vec!["response", "code_details"])));
        } else if self.is("/tick/response") {
            return self.wait(true);
        } else if self.is("/panic/response") {
            panic!("in the response");
        } else if self.is("/panic/status") {
            info!("request {:?}", self.get_http_request_header("x-in"));
        } else if self.is("/close/response") {
            self.reset_http_response();
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        if self.path.is_empty() {
            return Action::Continue;
        }
        info!("response body {size} {end}");
        if self.is("/body") {
            if !end {
                return Action::Pause;
            }
            let body = text(self.get_http_response_body(0, size));
            self.set_http_response_body(0, size, format!("<{}>", body.to_uppercase()).as_bytes());
        } else if self.is("/chunks") {
            info!("chunk {}", text(self.get_http_response_body(0, size)));
            if end {
                self.set_http_response_body(size, 0, b" the end");
            }
        }
        Action::Continue
    }

    fn on_http_response_trailers(&mut self, n: usize) -> Action {
        if self.path.is_empty() {
            return Action::Continue;
        }
        info!("response trailers {n} {}", list(self.get_http_response_trailers()));
        if self.is("/trailers") {
            self.add_http_response_trailer("x-added", "1");
            self.set_http_response_trailer("x-u", Some("replaced"));
            self.set_http_response_trailer("x-gone", None);
        }
        Action::Continue
    }

    fn on_log(&mut self) {
        if self.path.is_empty() {
            return;
        }
        info!("log {:?} {:?}", self.get_http_response_header(":status"), self.get_http_request_header("x-in"));
        if self.is("/panic/log") {
            panic!("in the log");
        }
    }
}

// The filter of ../README.md on the SDK for AssemblyScript. Its log goes to
// standard output, with the level in the text; so one field names what is to be
// logged by proxy_log itself.

export * from "@gcoredev/proxy-wasm-sdk-as/assembly/proxy";
import * as imports from "@gcoredev/proxy-wasm-sdk-as/assembly/imports";
import {
  BaseContext,
  BufferTypeValues,
  Context,
  Counter,
  FilterDataStatusValues,
  FilterHeadersStatusValues,
  FilterTrailersStatusValues,
  Gauge,
  Headers,
  Histogram,
  LogLevelValues,
  RootContext,
  WasmResultValues,
  call_foreign_function,
  continue_request,
  continue_response,
  dequeue_shared_queue,
  enqueue_shared_queue,
  get_buffer_bytes,
  get_current_time_nanoseconds,
  get_property,
  get_shared_data,
  log,
  makeHeaderPair,
  proxy_set_effective_context,
  register_shared_queue,
  registerRootContext,
  resolve_shared_queue,
  send_local_response,
  set_buffer_bytes,
  set_property,
  set_shared_data,
  set_tick_period_milliseconds,
  stream_context,
} from "@gcoredev/proxy-wasm-sdk-as/assembly";

function say(text: string): void {
  log(LogLevelValues.info, text);
}

function text(b: ArrayBuffer | null): string {
  return b === null ? "null" : String.UTF8.decode(b);
}

function list(all: Headers): string {
  let out = "";
  for (let i = 0; i < all.length; i++) {
    const name = text(all[i].key);
    if (name != "x-request-id" && name != "x-envoy-upstream-service-time") {
      out += " " + name + "=" + text(all[i].value);
    }
  }
  return out;
}

// What a tick resumes: contexts, and whether their response.
class Waiting {
  constructor(public id: u32, public response: bool) {}
}

class Root extends RootContext {
  waiting: Array<Waiting> = [];
  counter: Counter | null = null;
  gauge: Gauge | null = null;
  histogram: Histogram | null = null;
  queue: u32 = 0;

  createContext(context_id: u32): Context {
    return new Filter(context_id, this);
  }

  onStart(size: usize): bool {
    say("start " + size.toString() + " " + text(get_buffer_bytes(BufferTypeValues.VmConfiguration, 0, size as u32)));
    return true;
  }

  onConfigure(size: u32): bool {
    super.onConfigure(size);
    say("configure " + size.toString() + " " + this.getConfiguration());
    this.counter = new Counter("sdk_as_counter");
    this.gauge = new Gauge("sdk_as_gauge");
    this.histogram = new Histogram("sdk_as_histogram");
    this.queue = register_shared_queue("sdk").token;
    set_tick_period_milliseconds(20);
    return true;
  }

  onTick(): void {
    for (let i = 0; i < this.waiting.length; i++) {
      proxy_set_effective_context(this.waiting[i].id);
      say("tick resumes");
      if (this.waiting[i].response) {
        continue_response();
      } else {
        stream_context.headers.request.add("x-tick", "1");
        continue_request();
      }
    }
    this.waiting = [];
  }

  onQueueReady(token: u32): void {
    for (let item = dequeue_shared_queue(token); item.result == WasmResultValues.Ok; item = dequeue_shared_queue(token)) {
      say("queue ready " + text(item.data));
    }
  }
}

class Filter extends Context {
  path: string = "";

  constructor(context_id: u32, root_context: RootContext) {
    super(context_id, root_context);
  }

  root(): Root {
    return this.root_context as Root;
  }

  is(path: string): bool {
    return this.path == path || this.path.startsWith(path + "/");
  }

  reply(status: u32, body: string, headers: Headers, grpc: i32 = -1): void {
    send_local_response(status, "by the filter", String.UTF8.encode(body), headers, grpc);
  }

  wait(response: bool): FilterHeadersStatusValues {
    this.root().waiting.push(new Waiting(this.context_id, response));
    return FilterHeadersStatusValues.StopIteration;
  }

  call(): FilterHeadersStatusValues {
    let cluster = "other";
    let milliseconds: u32 = 5000;
    if (this.is("/call/refused")) {
      cluster = "refused";
    } else if (this.is("/call/unknown")) {
      cluster = "nowhere";
    } else if (this.is("/call/late")) {
      milliseconds = 100;
    }
    const headers: Headers = [makeHeaderPair(":method", "POST"), makeHeaderPair(":path", "/callee"), makeHeaderPair(":authority", "callee"), makeHeaderPair("x-call", this.path)];
    const result = this.root().httpCall(cluster, headers, String.UTF8.encode("question"), [makeHeaderPair("x-asked", "yes")], milliseconds, this,
      (origin: BaseContext, headers: u32, size: usize, trailers: u32): void => {
        const f = origin as Filter;
        // The answer belongs to the root context, the request to this one.
        const status = stream_context.headers.http_callback.get(":status");
        const body = text(get_buffer_bytes(BufferTypeValues.HttpCallResponseBody, 0, size as u32));
        say("called " + headers.toString() + " " + size.toString() + " " + trailers.toString() + ": " + status + " " + body + list(stream_context.trailers.http_callback.get_headers()));
        if (f.is("/call/reply")) {
          f.reply(418, body, [makeHeaderPair("x-callee", status)]);
          return;
        }
        stream_context.headers.request.add("x-callee", status);
        continue_request();
      });
    if (result != WasmResultValues.Ok) {
      log(LogLevelValues.error, "no call: " + result.toString());
      return FilterHeadersStatusValues.Continue;
    }
    return FilterHeadersStatusValues.StopIteration;
  }

  shared(): void {
    const key = this.path;
    const was = get_shared_data(key);
    say("was " + was.result.toString() + " " + text(was.value));
    say("set " + set_shared_data(key, String.UTF8.encode("one")).toString());
    const is = get_shared_data(key);
    say("is " + is.result.toString() + " " + text(is.value) + " " + (is.cas != 0).toString());
    say("wrong " + set_shared_data(key, String.UTF8.encode("two"), is.cas + 1000).toString());
    say("right " + set_shared_data(key, String.UTF8.encode("three"), is.cas).toString());
    say("then " + text(get_shared_data(key).value));
  }

  levels(): void {
    const names: string[] = ["trace", "debug", "info, two\nlines", "warn", "error", "critical", "none"];
    for (let i = 0; i < names.length; i++) {
      const b = String.UTF8.encode("at " + names[i]);
      const status = imports.proxy_log(i, changetype<usize>(b), b.byteLength);
      log(i < 6 ? i as LogLevelValues : LogLevelValues.info, "printed " + names[i] + " " + status.toString());
    }
    process.stderr.write("printed to stderr\n");
    process.stdout.write("without newline");
  }

  onRequestHeaders(n: u32, end: bool): FilterHeadersStatusValues {
    const path = stream_context.headers.request.get(":path");
    if (path.includes("sentinel")) {
      return FilterHeadersStatusValues.Continue;
    }
    this.path = path.split("?")[0];
    say("request " + this.path + " " + n.toString() + " " + end.toString());
    if (this.is("/get")) {
      say("x-in " + stream_context.headers.request.get("X-In") + " x-none " + stream_context.headers.request.get("x-none"));
      say("all" + list(stream_context.headers.request.get_headers()));
    } else if (this.is("/edit")) {
      stream_context.headers.request.add("X-Added", "1");
      stream_context.headers.request.add("x-added", "2");
      stream_context.headers.request.replace("x-in", "replaced");
      stream_context.headers.request.replace("x-new", "set");
      stream_context.headers.request.remove("x-gone");
      say("all" + list(stream_context.headers.request.get_headers()));
    } else if (this.is("/set-all")) {
      const some: Headers = [];
      const all = stream_context.headers.request.get_headers();
      for (let i = 0; i < all.length; i++) {
        if (text(all[i].key) != "x-in") {
          some.push(all[i]);
        }
      }
      some.push(makeHeaderPair("x-all", "a"));
      some.push(makeHeaderPair("x-all", "b"));
      stream_context.headers.request.set_headers(some);
    } else if (this.is("/body")) {
      stream_context.headers.request.remove("content-length");
    } else if (this.is("/reply/head")) {
      this.reply(403, "refused", [makeHeaderPair("x-reply", "a"), makeHeaderPair("x-reply", "b"), makeHeaderPair("server", "mine")]);
      return FilterHeadersStatusValues.StopIteration;
    } else if (this.is("/reply/grpc")) {
      this.reply(200, "no such thing", [makeHeaderPair("x-meta", "m")], 5);
      return FilterHeadersStatusValues.StopIteration;
    } else if (this.is("/reply/continue")) {
      this.reply(204, "", []);
    } else if (this.is("/call")) {
      return this.call();
    } else if (this.is("/shared")) {
      this.shared();
    } else if (this.is("/queue")) {
      const id = resolve_shared_queue("", "sdk");
      say("resolved " + (id.token == this.root().queue).toString() + " " + resolve_shared_queue("", "none").result.toString());
      say("enqueued " + enqueue_shared_queue(id.token, String.UTF8.encode("item")).toString() + " " + enqueue_shared_queue(4711, String.UTF8.encode("x")).toString());
      say("dequeued " + dequeue_shared_queue(4711).result.toString());
    } else if (this.is("/metric")) {
      say("counter " + this.root().counter!.increment(3).toString() + " gauge " + this.root().gauge!.increment(5).toString());
      say("histogram " + this.root().histogram!.increment(1).toString() + " " + this.root().histogram!.record(this.root().histogram!.metric_id, 250).toString());
    } else if (this.is("/property")) {
      const paths: string[] = ["request.path", "request.method", "request.headers.x-in", "plugin_name", "plugin_root_id", "plugin_vm_id",
        "xds.route_name", "xds.cluster_name", "response.code", "node", "nothing", "listener_direction"];
      for (let i = 0; i < paths.length; i++) {
        say("property " + paths[i] + " " + text(get_property(paths[i].replaceAll(".", "\0"))));
      }
      say("set " + set_property("mine", String.UTF8.encode("kept")).toString() + " " + text(get_property("mine")));
    } else if (this.is("/foreign")) {
      set_property("k", String.UTF8.encode("routed"));
      say("clear " + call_foreign_function("clear_route_cache", "").byteLength.toString());
    } else if (this.is("/levels")) {
      this.levels();
    } else if (this.is("/config")) {
      const environment = process.env.has("SDK_ENV") ? process.env.get("SDK_ENV") : "none";
      this.reply(200, this.root().getConfiguration() + " " + environment + " " + process.argv.length.toString(), []);
      return FilterHeadersStatusValues.StopIteration;
    } else if (this.is("/time")) {
      say("time " + (get_current_time_nanoseconds() > 1700000000000000000).toString() + " " + (Date.now() > 1700000000000).toString() + " " + (Math.random() < 1).toString());
    } else if (this.is("/grow")) {
      let size = 0;
      const all: Array<ArrayBuffer> = [];
      for (let i = 0; i < 40; i++) {
        all.push(new ArrayBuffer(1 << 20));
        size += all[i].byteLength;
      }
      say("grown " + size.toString());
    } else if (this.is("/tick/request")) {
      return this.wait(false);
    } else if (this.is("/panic/request")) {
      throw new Error("in the request");
    } else if (this.is("/panic/bounds")) {
      const few: i32[] = [1, 2, 3];
      say(few[this.path.length].toString());
    } else if (this.is("/close/request")) {
      imports.proxy_close_stream(0);
    }
    return FilterHeadersStatusValues.Continue;
  }

  onRequestBody(size: usize, end: bool): FilterDataStatusValues {
    if (this.path == "") {
      return FilterDataStatusValues.Continue;
    }
    say("request body " + size.toString() + " " + end.toString());
    if (this.is("/body")) {
      return this.replace(BufferTypeValues.HttpRequestBody, size as u32, end);
    } else if (this.is("/chunks")) {
      say("chunk " + text(get_buffer_bytes(BufferTypeValues.HttpRequestBody, 0, size as u32)));
      set_buffer_bytes(BufferTypeValues.HttpRequestBody, size as u32, 0, String.UTF8.encode("+"));
      set_buffer_bytes(BufferTypeValues.HttpRequestBody, 0, 0, String.UTF8.encode("-"));
    } else if (this.is("/reply/body") && end) {
      this.reply(400, "bad content", []);
      return FilterDataStatusValues.StopIterationNoBuffer;
    } else if (this.is("/panic/body")) {
      throw new Error("in the body");
    }
    return FilterDataStatusValues.Continue;
  }

  replace(body: BufferTypeValues, size: u32, end: bool): FilterDataStatusValues {
    if (!end) {
      return FilterDataStatusValues.StopIterationAndBuffer;
    }
    const was = text(get_buffer_bytes(body, 0, size));
    say("replaced " + set_buffer_bytes(body, 0, size, String.UTF8.encode("<" + was.toUpperCase() + ">")).toString());
    return FilterDataStatusValues.Continue;
  }

  onRequestTrailers(n: u32): FilterTrailersStatusValues {
    if (this.path == "") {
      return FilterTrailersStatusValues.Continue;
    }
    say("request trailers " + n.toString() + list(stream_context.trailers.request.get_headers()));
    if (this.is("/trailers")) {
      stream_context.trailers.request.add("x-added", "1");
      stream_context.trailers.request.replace("x-t", "replaced");
      stream_context.trailers.request.remove("x-gone");
      say("x-t " + stream_context.trailers.request.get("x-t"));
    }
    return FilterTrailersStatusValues.Continue;
  }

  onResponseHeaders(n: u32, end: bool): FilterHeadersStatusValues {
    if (this.path == "") {
      return FilterHeadersStatusValues.Continue;
    }
    say("response " + stream_context.headers.response.get(":status") + " " + n.toString() + " " + end.toString());
    if (this.is("/get")) {
      say("all" + list(stream_context.headers.response.get_headers()) + " x-in " + stream_context.headers.request.get("x-in"));
    } else if (this.is("/edit")) {
      stream_context.headers.response.add("x-added", "1");
      stream_context.headers.response.add("x-added", "2");
      stream_context.headers.response.replace("x-out", "replaced");
      stream_context.headers.response.replace("content-type", "text/edited");
      stream_context.headers.response.remove("x-gone");
    } else if (this.is("/set-all")) {
      stream_context.headers.response.set_headers([makeHeaderPair(":status", "203"), makeHeaderPair("x-only", "1")]);
    } else if (this.is("/body")) {
      stream_context.headers.response.remove("content-length");
    } else if (this.is("/reply/response")) {
      this.reply(599, "instead", [makeHeaderPair("x-reply", "r")]);
      return FilterHeadersStatusValues.StopIteration;
    } else if (this.is("/property")) {
      say("mine " + text(get_property("mine")) + " cluster " + text(get_property("xds\0cluster_name")) + " code " + get_property("response\0code").byteLength.toString());
    } else if (this.is("/tick/response")) {
      return this.wait(true);
    } else if (this.is("/panic/response")) {
      throw new Error("in the response");
    } else if (this.is("/panic/status")) {
      // The SDK throws where a status is neither Ok nor NotFound.
      stream_context.headers.request.remove("x-in");
    } else if (this.is("/close/response")) {
      imports.proxy_close_stream(1);
    }
    return FilterHeadersStatusValues.Continue;
  }

  onResponseBody(size: usize, end: bool): FilterDataStatusValues {
    if (this.path == "") {
      return FilterDataStatusValues.Continue;
    }
    say("response body " + size.toString() + " " + end.toString());
    if (this.is("/body")) {
      return this.replace(BufferTypeValues.HttpResponseBody, size as u32, end);
    } else if (this.is("/chunks")) {
      say("chunk " + text(get_buffer_bytes(BufferTypeValues.HttpResponseBody, 0, size as u32)));
      if (end) {
        set_buffer_bytes(BufferTypeValues.HttpResponseBody, size as u32, 0, String.UTF8.encode(" the end"));
      }
    }
    return FilterDataStatusValues.Continue;
  }

  onResponseTrailers(n: u32): FilterTrailersStatusValues {
    if (this.path == "") {
      return FilterTrailersStatusValues.Continue;
    }
    say("response trailers " + n.toString() + list(stream_context.trailers.response.get_headers()));
    if (this.is("/trailers")) {
      stream_context.trailers.response.add("x-added", "1");
      stream_context.trailers.response.replace("x-u", "replaced");
      stream_context.trailers.response.remove("x-gone");
    }
    return FilterTrailersStatusValues.Continue;
  }

  onLog(): void {
    if (this.path == "") {
      return;
    }
    say("log " + stream_context.headers.response.get(":status") + " " + stream_context.headers.request.get("x-in"));
    if (this.is("/panic/log")) {
      throw new Error("in the log");
    }
  }

  onDone(): bool {
    if (this.path != "") {
      say("done");
    }
    return true;
  }
}

registerRootContext((context_id: u32): RootContext => new Root(context_id), "sdk");

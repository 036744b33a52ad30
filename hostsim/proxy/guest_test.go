package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"
)

// A plugin that does what the field x-do tells it is asked by these tests for
// what e2e, which has a real Envoy, cannot ask both for.

// withGuest starts a proxy with that plugin, in front of clusters by name and
// address.
func withGuest(t testing.TB, options Options, plugin string, clusters map[string]string) (*Server, string) {
	t.Helper()
	text := `
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: s
          codec_type: HTTP1
          upgrade_configs: [{upgrade_type: websocket}]
          route_config:
            virtual_hosts:
            - name: v
              domains: ["*"]
              routes: [{match: {prefix: "/"}, route: {cluster: web}}]
          http_filters:
          - name: scripted
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
              config:
                name: scripted
                ` + plugin + `
                vm_config:
                  runtime: envoy.wasm.runtime.v8
                  code: {local: {filename: ../../e2e/testdata/guests/scripted.wasm}}
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
`
	for name, address := range clusters {
		address, secure := strings.CutPrefix(address, "tls:")
		if secure {
			text += "  - transport_socket: {name: tls, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, " +
				"common_tls_context: {validation_context: {trusted_ca: {filename: ../../e2e/testdata/tls/ca.pem}}}}}\n"
			text += fmt.Sprintf("    name: %s\n", name)
		} else {
			text += fmt.Sprintf("  - name: %s\n", name)
		}
		_, port, _ := net.SplitHostPort(address)
		text += fmt.Sprintf("    connect_timeout: 1s\n    load_assignment: {cluster_name: %s, endpoints: [{lb_endpoints: "+
			"[{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}}]}]}\n", name, port)
	}
	options.CacheDir = t.TempDir()
	return startServer(t, text, options)
}

// do sends a request with a script and returns the response's content.
func do(t testing.TB, address, method, script, body string) (status int, content string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "http://"+address+"/", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("x-do", script)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(b)
}

// grpcEcho answers a unary call and a stream with what it gets, with metadata
// before and after; the method Fail fails.
func grpcEcho(t *testing.T, options ...grpc.ServerOption) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	options = append(options, grpc.ForceServerCodec(rawCodec{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(stream)
		if strings.HasSuffix(method, "/Fail") {
			return grpcstatus.Error(codes.NotFound, "nothing there")
		}
		md, _ := metadata.FromIncomingContext(stream.Context())
		stream.SendHeader(metadata.Pairs("x-echo", strings.Join(md["x-meta"], ",")))
		stream.SetTrailer(metadata.Pairs("x-end", "1"))
		for {
			var message []byte
			if err := stream.RecvMsg(&message); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
			echo := append([]byte("echo "), message...)
			if err := stream.SendMsg(&echo); err != nil {
				return err
			}
		}
	}))
	s := grpc.NewServer(options...)
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

func TestGRPCCalloutsOverTLS(t *testing.T) {
	t.Parallel()
	web := newUpstream(t, ok)
	for _, test := range []struct{ name, certificate, want string }{
		{"a server that is known", "server", "grpcreceive 10"},
		{"a stranger", "stranger", "grpcclosed 14"},
	} {
		t.Run(test.name, func(t *testing.T) {
			certificate, err := credentials.NewServerTLSFromFile("../../e2e/testdata/tls/"+test.certificate+".pem", "../../e2e/testdata/tls/"+test.certificate+".key")
			if err != nil {
				t.Fatal(err)
			}
			_, address := withGuest(t, Options{}, "root_id: r", map[string]string{"web": web.Addr().String(), "echo": "tls:" + grpcEcho(t, grpc.Creds(certificate))})
			do(t, address, "GET", "rqh:grpc echo a.Service Method 5000 hello;rqh:ret 1;grpcreceive:eff self;grpcreceive:cont 0;grpcclosed:eff self;grpcclosed:cont 0", "")
			if _, trace := do(t, address, "GET", "rqh:dump", ""); !strings.Contains(trace, test.want) {
				t.Errorf("trace\n%s\nwants %q", trace, test.want)
			}
		})
	}
}

func TestGRPCCallouts(t *testing.T) {
	t.Parallel()
	web := newUpstream(t, ok)
	_, address := withGuest(t, Options{}, "root_id: r", map[string]string{"web": web.Addr().String(), "echo": grpcEcho(t)})
	tests := []struct{ name, script, want string }{
		{"a unary call", "rqh:grpc echo a.Service Method 5000 hello;rqh:ret 1;grpcreceive:buf 5 0 100;grpcreceive:eff self;grpcreceive:cont 0",
			"  grpc echo a.Service Method 5000 hello = 0 5\ngrpcreceive 10\n  buf 5 0 100 = 0 echo hello\n  eff self = 0\n  cont 0 = 0\n"},
		{"a unary call that fails", "rqh:grpc echo a.Service Fail 5000 hello;rqh:ret 1;grpcclosed:status;grpcclosed:eff self;grpcclosed:cont 0",
			"  grpc echo a.Service Fail 5000 hello = 0 9\ngrpcclosed 5\n  status = 0 5 nothing there\n  eff self = 0\n  cont 0 = 0\n"},
		{"a stream", "rqh:grpcstream echo a.Service Method;rqh:ret 1;rqh:grpcsend 6 0 one;grpcinitial:get 4 x-echo;grpcreceive:buf 5 0 100;" +
			"grpcreceive#1:grpcsend 6 1 two;grpctrailing:get 5 x-end;grpcclosed:eff self;grpcclosed:cont 0",
			"  grpcstream echo a.Service Method = 0 6\n  grpcsend 6 0 one = 0\ngrpcinitial 2\n  get 4 x-echo = 0 m\ngrpcreceive 8\n  buf 5 0 100 = 0 echo one\n" +
				"  grpcsend 6 1 two = 0\ngrpcreceive 8\n  buf 5 0 100 = 0 echo two\ngrpctrailing 1\n  get 5 x-end = 0 1\ngrpcclosed 0\n  eff self = 0\n  cont 0 = 0\n"},
		{"what cannot be", "rqh:grpc nowhere a.S M 1000 x;rqh:grpcsend 4 0 x;rqh:grpcsend 400002 0 x;rqh:grpccancel 400001;rqh:grpcclose 400003",
			"  grpc nowhere a.S M 1000 x = 4 0\n  grpcsend 4 0 x = 2\n  grpcsend 400002 0 x = 1\n  grpccancel 400001 = 1\n  grpcclose 400003 = 2\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			do(t, address, "GET", "rqh:dump", "")
			if status, _ := do(t, address, "GET", tt.script, ""); status != 200 {
				t.Errorf("status %d, want 200", status)
			}
			_, trace := do(t, address, "GET", "rqh:dump", "")
			if !strings.Contains(trace, tt.want) {
				t.Errorf("trace\n%s\nwants\n%s", trace, tt.want)
			}
		})
	}
}

// Many clients at once, with everything that lets goroutines of callouts,
// ticks and queues act on streams of others; afterwards nothing is left.
func TestGuestsUnderLoad(t *testing.T) {
	before := runtime.NumGoroutine()
	web := newUpstream(t, ok)
	s, address := withGuest(t, Options{Concurrency: 2}, "root_id: r", map[string]string{"web": web.Addr().String()})
	const call = "rqh:call web GET /called 1000;rqh:ret 1;call:eff self;"
	scripts := []string{
		"rqh:ret 0",
		call + "call:add 0 x-a b;call:prop request/path;call:cont 0",
		call + "call:reply 403 no",
		call + "call:close 0",
		"rqh:call web GET /called 1000;call:eff self;call:prop request/path;call:map 0;call:cont 0",
		"rqb:call web GET /called 1000;rqb:ret 1;call:eff self;call:bufsize 0;call:cont 0",
		"rsh:call web GET /called 1000;rsh:ret 1;call:eff self;call:rep 2 x-a b;call:cont 1",
		"rsb:ret 1;rsb#2:ret 0",
		"rqh:tick 5;rqh:ret 1;tick:eff self;tick:cont 0",
		"rqh:register q;rqh:enqueue 1 x;queue:dequeue 1;queue:eff 2;queue:map 0",
		"log:call web GET /late 1000",
		"rqh:forget;rqh:eff 1;rqh:prop request/path",
	}
	requests := 40
	if raceDetector && !testing.Short() {
		requests = 200
	}
	var clients sync.WaitGroup
	for n := range 8 {
		clients.Go(func() {
			client := &http.Client{Transport: &http.Transport{}, Timeout: 500 * time.Millisecond}
			defer client.CloseIdleConnections()
			for i := range requests {
				request, _ := http.NewRequestWithContext(t.Context(), "POST", "http://"+address+"/", strings.NewReader("hello"))
				request.Header.Set("x-do", scripts[(i*7+n)%len(scripts)])
				if response, err := client.Do(request); err == nil { // some are closed, and some wait for ever
					io.Copy(io.Discard, response.Body)
					response.Body.Close()
				}
			}
		})
	}
	clients.Wait()
	if status, _ := do(t, address, "GET", "rqh:ret 0", ""); status != 200 {
		t.Errorf("afterwards a plain request gets %d, want 200", status)
	}
	http.DefaultClient.CloseIdleConnections()
	s.Close()
	web.Close()
	for runtime.NumGoroutine() > before+2 { // the test's time limit ends it; those of closed connections take a moment
		runtime.Gosched()
	}
}

func TestCalloutsWithContent(t *testing.T) {
	web := newUpstream(t, func(head string, c net.Conn, r *bufio.Reader) {
		if strings.HasPrefix(head, "POST /c") {
			io.CopyN(io.Discard, r, 5)
		}
		ok(head, c, r)
	})
	_, address := withGuest(t, Options{}, "root_id: r", map[string]string{"web": web.Addr().String()})
	status, _ := do(t, address, "GET", "rqh:call web POST /c 1000 hello;rqh:ret 1;call:buf 4 0 10;call:eff self;call:cont 0", "")
	_, trace := do(t, address, "GET", "rqh:dump", "")
	if want := "  buf 4 0 10 = 0 ok\n"; status != 200 || !strings.Contains(trace, want) {
		t.Errorf("status %d, trace\n%s\nwants\n%s", status, trace, want)
	}
}

// How many VMs Envoy 1.40 has made, with one worker, when it has loaded a plugin
// in each of two listeners (wasm.envoy.wasm.runtime.v8.created).
func TestPluginsOfTwoListeners(t *testing.T) {
	for _, tt := range []struct {
		name, second string
		want         uint64
	}{
		{"the same", "", 4}, // to initialise, to try, and one for each thread
		{"another failure policy", "failure_policy: FAIL_OPEN, ", 5},
		{"other capabilities", "capability_restriction_config: {allowed_capabilities: {proxy_log: {}}}, ", 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := "static_resources:\n  listeners:\n"
			for i, more := range []string{"", tt.second} {
				text += fmt.Sprintf(`  - name: l%d
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: s
          route_config: {}
          http_filters:
          - name: scripted
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
              config: {name: scripted, %svm_config: {runtime: envoy.wasm.runtime.v8, code: {local: {filename: ../../e2e/testdata/guests/scripted.wasm}}}}
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
`, i, more)
			}
			s, _ := startServer(t, text, Options{Concurrency: 1, CacheDir: t.TempDir()})
			if got := s.engine.Stats().Created; got != tt.want {
				t.Errorf("%d VMs were made, want %d", got, tt.want)
			}
		})
	}
}

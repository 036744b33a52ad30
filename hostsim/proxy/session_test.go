package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"switchyard/hostsim/bootstrap"
)

// serveConnections starts a proxy whose listener has these network filters, in
// front of the cluster web.
func serveConnections(t *testing.T, filters, upstream string) string {
	t.Helper()
	_, port, _ := net.SplitHostPort(upstream)
	_, address := startServer(t, fmt.Sprintf(`
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
%s
  clusters:
  - name: web
    load_assignment: {cluster_name: web, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}}]}]}
`, filters, port), Options{})
	return address
}

const (
	pluginOnConnections = `
      - name: plugin
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm
          config:
            name: plugin
            vm_config:
              runtime: envoy.wasm.runtime.v8
              code: {local: {filename: ../../e2e/testdata/guests/scripted.wasm}}
            configuration: {"@type": type.googleapis.com/google.protobuf.StringValue, value: "%s"}`
	proxyOfConnections = `
      - name: tcp
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: t
          cluster: web`
	managerOfConnections = `
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: h
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config: {virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: web}}]}]}`
)

// echo sends back what it gets, and closes when the other side does.
func echo(t *testing.T) string {
	return accept(t, func(c net.Conn) {
		io.Copy(c, c)
		c.Close()
	}).Addr().String()
}

func TestBytesThroughNetworkFilters(t *testing.T) {
	large := strings.Repeat("0123456789", 100_000)
	for _, test := range []struct {
		name, plugin string // "" is none
		sent, want   string
	}{
		{"without a plugin", "", "hello", "hello"},
		{"without a plugin, much", "", large, large},
		{"a plugin that looks on", "down:bufsize 2;up:bufsize 3", large, large},
		{"a plugin that changes both ways", "down#1:set 2 0 0 [;up#1:set 3 0 0 (", "hello", "([hello"},
		{"a connection that begins late", "new:ret 1;new:tick 10;tick:eff self;tick:cont 2;tick:tick 0", "hello", "hello"},
		{"a plugin that hangs up", "down#1:close 2", "hello", ""},
		{"a plugin that hangs up at once", "new:close 3", "hello", ""},
		{"a plugin that traps", "down#1:trap", "hello", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			filters := proxyOfConnections
			if test.plugin != "" {
				filters = fmt.Sprintf(pluginOnConnections, test.plugin) + filters
			}
			c, err := net.Dial("tcp", serveConnections(t, filters, echo(t)))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(20 * time.Second))
			go func() {
				io.WriteString(c, test.sent)
				c.(*net.TCPConn).CloseWrite()
			}()
			got, err := io.ReadAll(c)
			if err != nil && test.want != "" { // what is not read makes a close a reset
				t.Error(err)
			}
			if string(got) != test.want {
				t.Errorf("got %d bytes %.40q, want %d", len(got), got, len(test.want))
			}
		})
	}
}

func TestRequestsThroughNetworkFilters(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s", r.Method, content)
	}))
	defer web.Close()
	address := serveConnections(t, fmt.Sprintf(pluginOnConnections, "down:bufsize 2;up:bufsize 3")+managerOfConnections, web.Listener.Addr().String())
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for range 20 {
				response, err := http.Post("http://"+address+"/", "text/plain", bytes.NewReader(make([]byte, 50_000)))
				if err != nil {
					t.Error(err)
					return
				}
				content, err := io.ReadAll(response.Body)
				response.Body.Close()
				if err != nil || len(content) != len("POST ")+50_000 {
					t.Errorf("got %d bytes, %v", len(content), err)
				}
			}
		})
	}
	clients.Wait()
}

func TestNetworkFiltersStandInOrder(t *testing.T) {
	for _, test := range []struct{ name, filters, want string }{
		{"a plugin that comes last", fmt.Sprintf(pluginOnConnections, ""), "non-terminal filter named plugin is the last filter"},
		{"a plugin behind tcp_proxy", proxyOfConnections + fmt.Sprintf(pluginOnConnections, ""), "terminal filter named tcp must be the last filter"},
	} {
		t.Run(test.name, func(t *testing.T) {
			boot, err := bootstrap.Parse(bootstrap.Text{Name: "tcp.yaml", Data: []byte(`
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
` + test.filters)})
			if err != nil {
				t.Fatal(err)
			}
			if err := Validate(t.Context(), boot, Options{}); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

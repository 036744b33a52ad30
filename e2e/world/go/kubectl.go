package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/apimachinery/pkg/util/httpstream/spdy"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
)

// exec is the path of kubectl exec for some pod.
const exec = "/api/v1/namespaces/default/pods/some/exec"

// streamProtocol is the version of what is inside SPDY.
const streamProtocol = "v4.channel.k8s.io"

// kubectl has a command's standard input and output over SPDY/3.1.
func kubectl(ctx context.Context, addr, host string) (result, error) {
	r := result{Version: versionOf("k8s.io/client-go")}
	// The round tripper of SPDY dials for itself, so the name of the API server
	// cannot come from the address.
	config := &rest.Config{
		Host:          "http://" + addr,
		WrapTransport: func(rt http.RoundTripper) http.RoundTripper { return named{rt, host} },
	}
	executor, err := remotecommand.NewSPDYExecutor(config, http.MethodPost, &url.URL{
		Scheme: "http", Host: addr, Path: exec,
		RawQuery: url.Values{"command": {"cat"}, "stdin": {"true"}, "stdout": {"true"}}.Encode(),
	})
	if err != nil {
		return r, err
	}
	var out bytes.Buffer
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("text of kubectl"), Stdout: &out})
	r.Text = out.String()
	return r, err
}

// named sends requests for another host than the one that it connects to.
type named struct {
	http.RoundTripper
	host string
}

func (n named) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Host = n.host
	return n.RoundTripper.RoundTrip(req)
}

// kubelet is the server's side of kubectl exec for a command that sends back
// what it gets.
func kubelet(ctx context.Context) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.HandlerFunc(execute), ReadHeaderTimeout: 30 * time.Second}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	fmt.Println(l.Addr())
	return server.Serve(l)
}

func execute(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path != exec {
		http.NotFound(w, req)
		return
	}
	if _, err := httpstream.Handshake(req, w, []string{streamProtocol}); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	streams := make(chan httpstream.Stream)
	connection := spdy.NewResponseUpgrader().UpgradeResponse(w, req, func(s httpstream.Stream, _ <-chan struct{}) error {
		streams <- s
		return nil
	})
	if connection == nil {
		return // the upgrader answered
	}
	defer connection.Close()
	byType := map[string]httpstream.Stream{}
	timeout := time.After(30 * time.Second)
	for len(byType) < 3 { // error, stdin, stdout
		select {
		case s := <-streams:
			byType[s.Headers().Get("streamType")] = s
		case <-timeout:
			return
		case <-connection.CloseChan():
			return
		}
	}
	// What goes wrong here the client sees as a missing text.
	_, _ = io.Copy(byType["stdout"], byType["stdin"])
	_ = byType["stdout"].Close()
	_, _ = io.WriteString(byType["error"], `{"metadata":{},"status":"Success"}`)
	_ = byType["error"].Close()
	// Closing the connection at once could overtake what was written.
	select {
	case <-connection.CloseChan():
	case <-timeout:
	}
}

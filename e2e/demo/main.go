// Command demo shows where a proxy with a shipped bootstrap file sends
// WebSocket handshakes and pages.
//
// It starts two small upstreams and the proxy, sends a few handshakes as
// browsers and other clients spell them, prints what became of each, and stays
// up until it is interrupted. It runs in the repository root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	var (
		binary = flag.String("proxy", "bin/hostsim", "the proxy: hostsim or an Envoy `binary`")
		config = flag.String("config", "envoy/bootstrap/minimal.yaml", "bootstrap `file`")
		once   = flag.Bool("once", false, "exit after the table")
	)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, *binary, *config, *once); err != nil && ctx.Err() == nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, binary, config string, once bool) error {
	addrs, err := readAddresses(config)
	if err != nil {
		return err
	}
	up := newUpstreams()
	for _, server := range []struct {
		addr    string
		handler http.Handler
		what    string
	}{
		{addrs.web, up.web(), "the demo's cluster web"},
		{addrs.websocket, up.websocket(), "the demo's cluster websocket"},
		// The proxy takes these two itself: only look whether it can.
		{addrs.listener, nil, "the proxy's listener"},
		{addrs.admin, nil, "the proxy's admin interface"},
	} {
		l, err := net.Listen("tcp", server.addr)
		if errors.Is(err, syscall.EADDRINUSE) {
			_, port, _ := net.SplitHostPort(server.addr)
			return fmt.Errorf("%s is in use, and %s needs it: stop what listens there (ss -ltnp 'sport = :%s' shows it) or change the port in %s",
				server.addr, server.what, port, config)
		}
		if err != nil {
			return fmt.Errorf("%s cannot listen: %w", server.what, err)
		}
		if server.handler == nil {
			l.Close()
			continue
		}
		s := &http.Server{Handler: server.handler, ReadHeaderTimeout: 10 * time.Second}
		go s.Serve(l)
		defer s.Close()
	}

	p, err := startProxy(binary, config)
	if err != nil {
		return err
	}
	defer p.stop()
	if err := p.waitReady(ctx, addrs.admin); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s -c %s listens on http://%s\n\n", binary, config, addrs.listener)

	if err := table(ctx, out, p, up, addrs.listener); err != nil {
		return err
	}
	if once {
		return nil
	}
	fmt.Fprintf(out, `
Try it yourself; what the filter decides and what the proxy did appears below.

  curl -i http://%[1]s/
  curl -i -N --max-time 1 -H 'Connection: keep-alive, Upgrade' -H 'Upgrade: websocket' \
       -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' http://%[1]s/

Ctrl-C stops everything.

`, addrs.listener)
	p.showTo(out)
	select {
	case <-ctx.Done():
		return nil
	case <-p.exited:
		return p.exitError()
	}
}

// table sends every demonstration request and prints what became of it.
func table(ctx context.Context, out io.Writer, p *proxy, up *upstreams, addr string) error {
	results := make([]result, len(requests))
	var paths []string
	for i, r := range requests {
		path := fmt.Sprintf("/demo/%d", i+1)
		paths = append(paths, path)
		var err error
		if results[i], err = r.send(addr, path); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	reasons := p.reasons(ctx, paths)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WHAT WAS SENT\tCONNECTION\tUPGRADE\tCLUSTER\tSTATUS\tECHO\tREASON")
	for i, r := range requests {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", r.name, r.values("Connection"), r.values("Upgrade"),
			up.cluster(paths[i]), results[i].status, results[i].echo, reasons[paths[i]])
	}
	return w.Flush()
}

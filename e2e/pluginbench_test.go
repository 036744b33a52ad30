package e2e

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"switchyard/filter"
	"switchyard/hostsim/vm"
)

// One stream through bin/switchyard.wasm in hostsim's VM, from its creation to
// its end.
func BenchmarkPlugin(b *testing.B) {
	code, err := os.ReadFile(filepath.Join(root, "bin/switchyard.wasm"))
	if err != nil {
		b.Skipf("%v (%s)", err, plugin.get)
	}
	ctx := context.Background()
	engine, err := vm.NewEngine(ctx, vm.EngineOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer engine.Close(ctx)
	module, err := engine.Load(ctx, "bin/switchyard.wasm", code)
	if err != nil {
		b.Fatal(err)
	}
	p, err := engine.NewPlugin(ctx, vm.PluginConfig{Name: "switchyard", Module: module}, 1)
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	for _, bb := range []struct {
		name    string
		headers filter.HeaderMap
	}{{"page", pageMap()}, {"socket", append(pageMap(), handshakeMap()[2:]...)}} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			s := &pluginStream{}
			for b.Loop() {
				s.headers = append(s.headers[:0], bb.headers...)
				c, err := p.NewStream(0, s)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := c.OnRequestHeaders(len(s.headers), bb.name == "page"); err != nil {
					b.Fatal(err)
				}
				if err := c.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// pageMap is the head of a page's request.
func pageMap() filter.HeaderMap {
	return filter.HeaderMap{
		{Name: ":authority", Value: "localhost"}, {Name: ":path", Value: "/index.html?a=b"}, {Name: ":method", Value: "GET"},
		{Name: ":scheme", Value: "http"}, {Name: "user-agent", Value: "Mozilla/5.0"}, {Name: "accept", Value: "*/*"},
		{Name: "accept-language", Value: "en"}, {Name: "accept-encoding", Value: "gzip"}, {Name: "cookie", Value: "a=b; c=d"},
		{Name: "cache-control", Value: "no-cache"}, {Name: "x-forwarded-proto", Value: "http"}, {Name: "x-request-id", Value: "1"},
	}
}

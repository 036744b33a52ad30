package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"switchyard/filter"
)

// One stream through bin/switchyard.wasm in hostsim's VM, from its creation to
// its end.
func BenchmarkPlugin(b *testing.B) {
	code, err := os.ReadFile(filepath.Join(root, "bin/switchyard.wasm"))
	if err != nil {
		b.Skipf("%v (%s)", err, plugin.get)
	}
	for _, bb := range []struct {
		name    string
		headers filter.HeaderMap
	}{{"page", pageMap()}, {"socket", append(pageMap(), handshakeMap()[2:]...)}} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			stream := inVM(b, code, bb.headers, bb.name == "page")
			for b.Loop() {
				stream()
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

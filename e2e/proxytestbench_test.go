package e2e

import (
	"context"
	"io"
	"log"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/proxytest"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"

	"switchyard/filter"
	"switchyard/hostsim/hostsimtest"
	"switchyard/hostsim/vm"
)

// One stream through bin/switchyard.wasm, from its creation to its end, in
// hostsim's VM, in hostsimtest, and in the emulator of the SDK for Go
// (proxytest), which runs a .wasm on the same WebAssembly engine. They take
// turns, and the numbers are medians, so that what else the machine does
// counts for all of them.
func BenchmarkBesideProxytest(b *testing.B) {
	file := filepath.Join(root, "bin/switchyard.wasm")
	code, err := os.ReadFile(file)
	if err != nil {
		b.Skipf("%v (%s)", err, plugin.get)
	}
	for _, bb := range []struct {
		name    string
		headers filter.HeaderMap
	}{{"page", pageMap()}, {"socket", append(pageMap(), handshakeMap()[2:]...)}} {
		b.Run(bb.name, func(b *testing.B) {
			end := bb.name == "page"
			runners := []struct {
				name  string
				run   func()
				times []time.Duration
			}{
				{name: "hostsim", run: inVM(b, code, bb.headers, end)},
				{name: "hostsimtest", run: inHostsimtest(b, file, bb.headers, end)},
				{name: "proxytest", run: inProxytest(b, code, bb.headers, end)},
			}
			const turn = 20 // streams
			for b.Loop() {
				for i := range runners {
					r := &runners[i]
					begun := time.Now()
					for range turn {
						r.run()
					}
					r.times = append(r.times, time.Since(begun)/turn)
				}
			}
			var medians []float64
			for _, r := range runners {
				slices.Sort(r.times)
				median := float64(r.times[len(r.times)/2])
				medians = append(medians, median)
				b.ReportMetric(median, r.name+"-ns/stream")
			}
			b.ReportMetric(0, "ns/op") // of all three together, which says nothing
			b.ReportMetric(medians[2]/medians[0], "times-proxytest")
		})
	}
}

// inVM runs streams in hostsim's VM alone.
func inVM(b *testing.B, code []byte, headers filter.HeaderMap, end bool) func() {
	ctx := context.Background()
	engine, err := vm.NewEngine(ctx, vm.EngineOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { engine.Close(ctx) })
	module, err := engine.Load(ctx, "bin/switchyard.wasm", code)
	if err != nil {
		b.Fatal(err)
	}
	p, err := engine.NewPlugin(ctx, vm.PluginConfig{Name: "switchyard", Module: module}, 1)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { p.Close() })
	s := &pluginStream{}
	return func() {
		s.headers = append(s.headers[:0], headers...)
		c, err := p.NewStream(0, s)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.OnRequestHeaders(len(s.headers), end); err != nil {
			b.Fatal(err)
		}
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func pairsOf(headers filter.HeaderMap) (pairs [][2]string) {
	for _, f := range headers {
		pairs = append(pairs, [2]string{f.Name, f.Value})
	}
	return pairs
}

// inHostsimtest runs streams as tests do, with everything observed.
func inHostsimtest(b *testing.B, file string, headers filter.HeaderMap, end bool) func() {
	p := hostsimtest.Plugin(b, file)
	pairs := hostsimtest.Headers(pairsOf(headers))
	return func() {
		s := p.Stream()
		s.RequestHeaders(pairs, end)
		s.End()
	}
}

// inProxytest runs streams in the SDK's emulator. Of what the plugin needs it
// lacks one foreign function.
func inProxytest(b *testing.B, code []byte, headers filter.HeaderMap, end bool) func() {
	wasm, err := proxytest.NewWasmVMContext(code)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { wasm.Close() })
	log.SetOutput(io.Discard) // it writes what the plugin logs
	b.Cleanup(func() { log.SetOutput(os.Stderr) })
	host, reset := proxytest.NewHostEmulator(proxytest.NewEmulatorOption().WithVMContext(wasm))
	b.Cleanup(reset)
	host.RegisterForeignFunction("clear_route_cache", func([]byte) []byte { return nil })
	if host.StartPlugin() != types.OnPluginStartStatusOK {
		b.Fatal("the emulator does not start the plugin")
	}
	pairs := pairsOf(headers)
	return func() {
		id := host.InitializeHttpContext()
		host.CallOnRequestHeaders(id, pairs, end)
		host.CompleteHttpContext(id)
	}
}

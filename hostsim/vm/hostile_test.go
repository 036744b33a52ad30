package vm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero/api"

	"switchyard/hostsim/abi"
)

// Whatever a guest gives to a host function, it gets a status, or traps: the
// host is none the worse for it.

// accepting is Callouts that takes every call, and answers none.
type accepting struct{ under, ended int }

type acceptedStream struct{ calls *accepting }

func (s acceptedStream) Send([]byte, bool) {}
func (s acceptedStream) CloseSend()        {}
func (s acceptedStream) Cancel()           { s.calls.ended++ }

func (c *accepting) HTTP(int, HTTPCall, func(*HTTPResponse)) (func(), abi.Status, string) {
	c.under++
	return func() { c.ended++ }, abi.StatusOK, ""
}

func (c *accepting) GRPC(int, GRPCCall, GRPCEvents) (GRPCStream, abi.Status, string) {
	c.under++
	return acceptedStream{c}, abi.StatusOK, ""
}

// hostileGuest is a guest in a stream on which every host function has
// something to act on.
func hostileGuest(t testing.TB, module string) *guest {
	stream := requestStream([2]string{":path", "/"}, [2]string{"a", "b"})
	for m := range abi.MapType(maxMapType + 1) {
		stream.maps[m] = &testMap{pairs: [][2]string{{"a", "b"}}}
	}
	for b := range abi.BufferType(maxBufferType + 1) {
		stream.buffers[b] = &testBuffer{data: []byte("hello")}
	}
	config := PluginConfig{VMConfiguration: []byte("vm"), Environment: map[string]string{"A": "1", "B": "2"},
		Foreign: func(_ Stream, _ string, args []byte) ([]byte, abi.Status) { return bytes.Clone(args), abi.StatusOK }}
	g := newGuestOf(t, module, config, EngineOptions{Callouts: &accepting{}}, stream)
	g.v.context().root.configuring = g.v.context().pluginOf()
	return g
}

// functions are all that can be called, in order.
func (g *guest) functions() []*hostFunc {
	var all []*hostFunc
	for _, name := range slices.Sorted(maps.Keys(g.e.hostFuncs)) {
		if f := g.e.hostFuncs[name]; f.call != nil {
			all = append(all, f)
		}
	}
	return all
}

// callRaw calls a host function, and does what follows its callback. It gives
// what the host has panicked with.
func (g *guest) callRaw(f *hostFunc, stack []uint64) (result uint32, panicked string) {
	defer func() {
		if r := recover(); r != nil {
			panicked = fmt.Sprintf("%v\n%s", r, debug.Stack())
		}
	}()
	arguments := append(slices.Clone(stack), 0)
	result = g.v.explained(f, arguments, func() uint32 { return f.call(g.v, arguments) })
	g.v.actions, g.v.stopNext, g.v.spent = nil, false, 0
	g.v.effective = nil
	g.v.context().requestGone = false
	return result, ""
}

// good are arguments with which a function does what it is for: addresses are
// in memory, sizes small, numbers 0.
func good(f *hostFunc) []uint64 {
	stack := make([]uint64, len(f.params))
	for i := range stack {
		stack[i] = uint64(64 + 16*i)
	}
	at := 0
	for field := range strings.FieldsSeq(parameters[f.name]) {
		switch _, kind, _ := strings.Cut(field, ":"); kind {
		case "s", "b", "p":
			stack[at+1] = 8
			at++
		default:
			stack[at] = 0
		}
		at++
	}
	return stack
}

// sound says that a result is one that a guest can get.
func sound(f *hostFunc, result uint32) bool {
	switch {
	case len(f.results) == 0:
		return true
	case f.module == "env":
		return result <= uint32(abi.StatusUnimplemented)
	}
	return result <= wasiENOTCAPABLE
}

// Each argument, each pair of arguments, and all of them together, of each
// function are at the ends of memory and beyond.
func TestHostcallsWithBadArguments(t *testing.T) {
	g := hostileGuest(t, "guest")
	size := uint64(g.v.memory.Size())
	bad := []uint64{0, 1, size - 1, size, math.MaxUint32, 1 << 32, math.MaxUint64}
	functions, calls := g.functions(), 0
	for _, f := range functions {
		try := func(stack []uint64) {
			t.Helper()
			calls++
			result, panicked := g.callRaw(f, stack)
			if panicked != "" {
				t.Errorf("%s(%#x) panicked: %s", f.name, stack, panicked)
			} else if !sound(f, result) {
				t.Errorf("%s(%#x) = %d, which is nothing that Envoy returns", f.name, stack, result)
			}
		}
		try(good(f))
		for _, x := range bad {
			all := make([]uint64, len(f.params))
			for i := range all {
				all[i] = x
			}
			try(all)
			for i := range f.params {
				for j := i; j < len(f.params); j++ {
					for _, y := range bad {
						stack := good(f)
						stack[i], stack[j] = x, y
						try(stack)
					}
				}
			}
		}
		if failed := g.v.failed.Load(); failed {
			t.Fatalf("%s has ended the guest, whose malloc does not trap", f.name)
		}
	}
	if want := 43 + 3 + 2*45; len(functions) != want { // with two of emscripten and one of Envoy
		t.Errorf("%d functions, want %d", len(functions), want)
	}
	t.Logf("%d calls of %d functions", calls, len(functions))
}

// Text that is not in memory is never taken for empty text.
func TestTextOutsideOfMemory(t *testing.T) {
	g := hostileGuest(t, "guest")
	size := uint64(g.v.memory.Size())
	for _, f := range g.functions() {
		at := 0
		for field := range strings.FieldsSeq(parameters[f.name]) {
			name, kind, _ := strings.Cut(field, ":")
			if kind != "s" && kind != "b" && kind != "p" {
				at++
				continue
			}
			for _, outside := range [][2]uint64{{size, 1}, {size - 1, 2}, {0, size + 1}, {math.MaxUint32, 1}, {1, math.MaxUint32}, {math.MaxUint32, math.MaxUint32}} {
				stack := good(f)
				stack[at], stack[at+1] = outside[0], outside[1]
				if result, _ := g.callRaw(f, stack); abi.Status(result) != abi.StatusInvalidMemoryAccess {
					t.Errorf("%s with %s of %d bytes at %#x = %d, want 6", f.name, name, outside[1], outside[0], result)
				}
			}
			at += 2
		}
	}
}

// What malloc returns is checked as well, and memory may have moved when it
// returns.
func TestMallocThatLies(t *testing.T) {
	const size = 2 << 16
	for _, at := range []uint32{0, 1, 4096, size - 1, size, math.MaxUint32 - 7, math.MaxUint32} {
		for _, grow := range []uint64{0, 1} {
			t.Run(fmt.Sprintf("%#x grow %d", at, grow), func(t *testing.T) {
				g := hostileGuest(t, "malloc")
				set := func(name string, value uint64) {
					g.v.module.ExportedGlobal(name).(api.MutableGlobal).Set(value)
				}
				set("at", uint64(at))
				set("grow", grow)
				// 0 is no address, and of what lies outside nothing is given.
				if bad := at == 0 || grow == 0 && at >= size-7; bad {
					copy(must(g.v.read(64, 8)), "a\x00\x00\x00\x00\x00\x00\x00")
					stack := []uint64{0, 64, 1, 32, 36}
					if result, _ := g.callRaw(g.e.hostFuncs["env.proxy_get_header_map_value"], stack); at != size-1 && abi.Status(result) != abi.StatusInvalidMemoryAccess {
						t.Errorf("proxy_get_header_map_value = %d, want 6", result)
					}
				}
				for _, f := range g.functions() {
					for _, results := range []uint64{32, size - 1, math.MaxUint32} {
						stack := good(f)
						for i := len(stack) - 2; i < len(stack) && i >= 0; i++ {
							if stack[i] > 8 {
								stack[i] = results
							}
						}
						result, panicked := g.callRaw(f, stack)
						if panicked != "" {
							t.Errorf("%s(%#x) panicked: %s", f.name, stack, panicked)
						} else if !sound(f, result) {
							t.Errorf("%s(%#x) = %d", f.name, stack, result)
						}
					}
				}
			})
		}
	}
}

func must(b []byte, ok bool) []byte {
	if !ok {
		panic("not in memory")
	}
	return b
}

// A guest that asks for more and more in one callback is told no before the
// host has no memory left.
func TestWhatGuestsMakeTheHostKeep(t *testing.T) {
	const piece = 64 << 10
	long := strings.Repeat("x", piece)
	spend := func(g *guest) { g.v.spent = maxCallbackBytes - 2*piece } // as if that had been done before
	store := func(g *guest) { g.e.shared.bytes = maxSharedBytes - 2*piece }
	nothing := func(*guest) {}
	tests := []struct {
		name   string
		before func(g *guest)
		call   func(g *guest, i int) abi.Status
		most   int // calls that may succeed
	}{
		{"fields", spend, func(g *guest, i int) abi.Status {
			return g.call("proxy_add_header_map_value", 0, fmt.Sprint("a", i), long)
		}, 2},
		{"whole maps", spend, func(g *guest, i int) abi.Status { return g.call("proxy_set_header_map_pairs", 0, long) }, 2},
		{"content", spend, func(g *guest, _ int) abi.Status {
			return g.call("proxy_set_buffer_bytes", 0, math.MaxInt32, 0, long)
		}, 2},
		{"properties", spend, func(g *guest, i int) abi.Status { return g.call("proxy_set_property", fmt.Sprint(i), long) }, 2},
		{"callouts", spend, func(g *guest, _ int) abi.Status { return g.call("proxy_http_call", "c", "", long, "", 1, 0) }, 2},
		{"gRPC calls", spend, func(g *guest, _ int) abi.Status {
			return g.call("proxy_grpc_call", "c", "s", "m", "", long, 1, 0)
		}, 2},
		{"words to the stream", spend, func(g *guest, _ int) abi.Status { return g.call("proxy_continue_stream", 0) }, 2 * piece / callbackOverhead},
		{"many callouts", nothing, func(g *guest, _ int) abi.Status { return g.call("proxy_http_call", "c", "", "", "", 1, 0) }, maxCallouts},
		{"many gRPC calls", nothing, func(g *guest, _ int) abi.Status {
			return g.call("proxy_grpc_call", "c", "s", "m", "", "", 1, 0)
		}, maxCallouts},
		{"metrics", nothing, func(g *guest, i int) abi.Status { return g.call("proxy_define_metric", 0, fmt.Sprint(i), 0) }, maxMetrics},
		{"shared data", store, func(g *guest, i int) abi.Status { return g.call("proxy_set_shared_data", fmt.Sprint(i), long, 0) }, 2},
		{"queues", store, func(g *guest, i int) abi.Status {
			return g.call("proxy_register_shared_queue", fmt.Sprint(i)+long, 0)
		}, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			stream := requestStream()
			stream.buffers[abi.BufferRequestBody] = &testBuffer{}
			g := newGuestOf(t, "guest", PluginConfig{}, EngineOptions{Callouts: &accepting{}}, stream)
			g.e.log = slog.New(slog.DiscardHandler)
			tt.before(g)
			for i := range tt.most + 1 {
				if status := tt.call(g, i); status == abi.StatusInternalFailure {
					if i == 0 {
						t.Error("the first call is refused already")
					}
					return
				} else if status != abi.StatusOK {
					t.Fatalf("call %d = %d", i, status)
				}
			}
			t.Errorf("after %d calls there is still no end", tt.most+1)
		})
	}
}

// FuzzHostcalls makes calls in any order with any arguments. A call is a byte
// for the function and one for each argument: an address or number that is
// interesting, or small.
func FuzzHostcalls(f *testing.F) {
	g := hostileGuest(f, "guest")
	g.e.log = slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: LevelTrace}))
	functions := g.functions()
	size := uint64(g.v.memory.Size())
	interesting := []uint64{size - 8, size - 1, size, size + 1, 1 << 31, math.MaxInt32, math.MaxUint32 - 7, math.MaxUint32, 1 << 32, math.MaxUint64}
	for i, fn := range functions {
		seed := []byte{byte(i)}
		for _, x := range good(fn) {
			seed = append(seed, byte(x))
		}
		f.Add([]byte("a\x00\x00\x00\x01\x00\x00\x00"), append(seed, seed...))
	}
	stream := g.v.context().stream.(*testStream)
	f.Fuzz(func(t *testing.T, memory, program []byte) {
		if len(memory) > 4096 || len(program) > 1024 {
			return
		}
		g.v.memory.Write(0, memory)
		for len(program) > 0 {
			fn := functions[int(program[0])%len(functions)]
			program = program[1:]
			stack := make([]uint64, len(fn.params))
			for i := range stack {
				if len(program) == 0 {
					break
				}
				if x := uint64(program[0]); x < 200 {
					stack[i] = x
				} else {
					stack[i] = interesting[(x-200)%uint64(len(interesting))]
				}
				program = program[1:]
			}
			result, panicked := g.callRaw(fn, stack)
			if panicked != "" {
				t.Fatalf("%s(%#x) panicked: %s", fn.name, stack, panicked)
			}
			if !sound(fn, result) {
				t.Fatalf("%s(%#x) = %d", fn.name, stack, result)
			}
		}
		// The next run begins as this one did, but for what lasts longer.
		binary.LittleEndian.PutUint32(must(g.v.read(0, 4)), 0)
		for _, b := range stream.buffers {
			b.data = []byte("hello")
		}
		for _, m := range stream.maps {
			m.pairs = [][2]string{{"a", "b"}}
		}
		clear(stream.props)
		g.v.context().root.calls.end()
		g.v.metrics = metricTable{}
	})
}

package vm

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"switchyard/hostsim/abi"
)

// testMap is a HeaderMap without inline headers.
type testMap struct{ pairs [][2]string }

func (m *testMap) Len() int                      { return len(m.pairs) }
func (m *testMap) At(i int) (name, value string) { return m.pairs[i][0], m.pairs[i][1] }
func (m *testMap) Clear()                        { m.pairs = nil }
func (m *testMap) Get(name string) (string, bool) {
	for _, p := range m.pairs {
		if p[0] == strings.ToLower(name) {
			return p[1], true
		}
	}
	return "", false
}
func (m *testMap) Add(name, value string) {
	m.pairs = append(m.pairs, [2]string{strings.Clone(strings.ToLower(name)), strings.Clone(value)})
}
func (m *testMap) Remove(name string) {
	m.pairs = slices.DeleteFunc(m.pairs, func(p [2]string) bool { return p[0] == strings.ToLower(name) })
}
func (m *testMap) Replace(name, value string) {
	m.Remove(name)
	m.Add(name, value)
}

// testBuffer is a Buffer.
type testBuffer struct{ data []byte }

func (b *testBuffer) Bytes() []byte { return b.data }
func (b *testBuffer) Replace(start, length int, value []byte) {
	b.data = slices.Replace(b.data, start, start+length, value...)
}

// testStream is a Stream that records what a plugin does to it.
type testStream struct {
	maps     map[abi.MapType]*testMap // those of the current phase
	readOnly bool
	buffers  map[abi.BufferType]*testBuffer
	cleared  int
	props    map[string]string
	local    []string
	resumed  []abi.StreamType
	closed   []abi.StreamType
}

func (s *testStream) HeaderMap(t abi.MapType) HeaderMap {
	if m, ok := s.maps[t]; ok {
		return m
	}
	return nil
}
func (s *testStream) HeaderMapWritable(abi.MapType) bool { return !s.readOnly }
func (s *testStream) Buffer(t abi.BufferType) Buffer {
	if b, ok := s.buffers[t]; ok {
		return b
	}
	return nil
}
func (s *testStream) ClearRouteCache() { s.cleared++ }
func (s *testStream) Property(path string) ([]byte, abi.Status) {
	if v, ok := s.props[path]; ok {
		return []byte(v), abi.StatusOK
	}
	return nil, abi.StatusNotFound
}
func (s *testStream) SetProperty(path string, value []byte) abi.Status {
	s.props[strings.Clone(path)] = string(value)
	return abi.StatusOK
}
func (s *testStream) SendLocalResponse(status uint32, details string, body []byte, headers [][2]string, grpcStatus int32) {
	s.local = append(s.local, fmt.Sprint(status, " ", details, " ", string(body), " ", headers, " ", grpcStatus))
}
func (s *testStream) Continue(t abi.StreamType) { s.resumed = append(s.resumed, t) }
func (s *testStream) Close(t abi.StreamType)    { s.closed = append(s.closed, t) }

// requestStream is a stream in the phase of its request headers.
func requestStream(headers ...[2]string) *testStream {
	return &testStream{
		maps:    map[abi.MapType]*testMap{abi.MapRequestHeaders: {pairs: headers}},
		buffers: map[abi.BufferType]*testBuffer{},
		props:   map[string]string{},
	}
}

// testLog keeps log messages as "level|message", levels as Envoy names them.
type testLog struct {
	mu    sync.Mutex
	level slog.Level
	lines []string
}

func (l *testLog) Enabled(_ context.Context, level slog.Level) bool { return level >= l.level }
func (l *testLog) WithAttrs([]slog.Attr) slog.Handler               { return l }
func (l *testLog) WithGroup(string) slog.Handler                    { return l }
func (l *testLog) Handle(_ context.Context, r slog.Record) error {
	names := map[slog.Level]string{LevelTrace: "trace", slog.LevelDebug: "debug", slog.LevelInfo: "info",
		slog.LevelWarn: "warning", slog.LevelError: "error", LevelCritical: "critical"}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, names[r.Level]+"|"+r.Message)
	return nil
}

// messages returns the lines of at least level info.
func (l *testLog) messages() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(l.lines), func(s string) bool {
		return strings.HasPrefix(s, "trace|") || strings.HasPrefix(s, "debug|")
	})
}

// newTestEngine makes an engine that logs into the result and is closed with
// the test.
func newTestEngine(t testing.TB, opts EngineOptions) (*Engine, *testLog) {
	t.Helper()
	log := &testLog{level: LevelTrace}
	if opts.Logger == nil {
		opts.Logger = slog.New(log)
	}
	e, err := NewEngine(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return e, log
}

// loadTestModule loads testdata/NAME.wasm.
func loadTestModule(t testing.TB, e *Engine, name string) (*Module, error) {
	t.Helper()
	code, err := os.ReadFile(filepath.Join("testdata", name+".wasm"))
	if err != nil {
		t.Fatal(err)
	}
	return e.Load(context.Background(), name, code)
}

// newTestPlugin loads testdata/NAME.wasm as a plugin with one worker.
func newTestPlugin(t testing.TB, e *Engine, name string, config PluginConfig) (*Plugin, error) {
	t.Helper()
	m, err := loadTestModule(t, e, name)
	if err != nil {
		return nil, err
	}
	config.Module = m
	if config.Name == "" {
		config.Name = "plug"
	}
	p, err := e.NewPlugin(context.Background(), config, 1)
	if err == nil {
		t.Cleanup(func() { p.Close() })
	}
	return p, err
}

// mustTestPlugin is newTestPlugin for a plugin that loads.
func mustTestPlugin(t testing.TB, e *Engine, name string, config PluginConfig) *Plugin {
	t.Helper()
	p, err := newTestPlugin(t, e, name, config)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

package e2e

import (
	"bufio"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"switchyard/filter"
	"switchyard/hostsim/abi"
	"switchyard/hostsim/vm"
)

// The .wasm in hostsim's VM, without any data plane, does to each handshake
// what the filter in native Go decides about it, and that passes the corpus.
func TestPluginDecidesLikeNativeGo(t *testing.T) {
	engine, module := loadPlugin(t)
	configuration := []byte(`{"rules":[{"protocol":"websocket","cluster":"sockets"}]}`)
	config, err := filter.ParseConfig(configuration)
	if err != nil {
		t.Fatal(err)
	}
	plugin := newPlugin(t, engine, module, string(configuration))

	sent, misses := 0, map[string]string{}
	for _, h := range readCorpus(t) {
		headers, ok := headerMap(h.Raw)
		if !ok {
			continue // no codec would give this to a filter
		}
		sent++
		got, want := runPlugin(t, plugin, headers), runNative(config, headers)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-native +wasm):\n%s", h.Name, diff)
		}
		o := outcome{Upstream: "web", Status: 200}
		switch {
		case got.status != 0:
			o = outcome{Upstream: "-", Status: got.status}
		case got.filterState == "websocket":
			o = outcome{Upstream: "websocket", Status: 101, Echo: true}
		}
		if !h.passes(o) {
			misses[h.Name] = o.String()
		}
	}
	if sent < 100 {
		t.Errorf("only %d handshakes reached the plugin", sent)
	}
	// What the codec, and not the filter, has to refuse or to hide.
	want := map[string]string{
		"bare-cr-in-value": "websocket 101 echo", // the reader below drops the CR, as Envoy's does
		"http10":           "websocket 101 echo",
		"http10-no-host":   "websocket 101 echo",
		"http20-in-h1":     "websocket 101 echo",
		"no-host":          "websocket 101 echo",
	}
	if diff := cmp.Diff(want, misses); diff != "" {
		t.Errorf("misses without a codec (-want +got):\n%s", diff)
	}
	t.Logf("the plugin alone passes %d of %d", sent-len(misses), sent)
}

// effect is what becomes of a request.
type effect struct {
	status      int // of the refusal
	body        string
	filterState string
	headers     []string // afterwards, where it goes on; in no order
}

func (e effect) Equal(o effect) bool {
	slices.Sort(e.headers)
	slices.Sort(o.headers)
	return e.status == o.status && e.body == o.body && e.filterState == o.filterState && slices.Equal(e.headers, o.headers)
}

func runNative(config *filter.Config, headers filter.HeaderMap) effect {
	d := filter.Decide(config, filter.Request{Headers: headers})
	if d.Status != 0 {
		return effect{status: d.Status, body: d.Body}
	}
	m := pluginHeaders(slices.Clone(headers))
	for _, c := range d.Mutations {
		if c.Op == filter.Remove {
			m.Remove(c.Name)
		} else {
			m.Replace(c.Name, c.Value)
		}
	}
	e := effect{headers: m.lines()}
	if d.FilterState != "" {
		e.filterState = d.Rule.Name
	}
	return e
}

func runPlugin(t *testing.T, p *vm.Plugin, headers filter.HeaderMap) effect {
	t.Helper()
	s := &pluginStream{headers: pluginHeaders(slices.Clone(headers))}
	c, err := p.NewStream(0, s)
	if err != nil {
		t.Fatal(err)
	}
	action, err := c.OnRequestHeaders(len(headers), false)
	if err != nil {
		t.Fatal(err)
	}
	if stopped, refused := action != abi.ActionContinue, s.effect.status != 0; stopped != refused {
		t.Errorf("action %d with status %d: a refused request stops, and no other", action, s.effect.status)
	}
	if s.effect.status == 0 {
		s.effect.headers = s.headers.lines()
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return s.effect
}

// headerMap reads a head as Envoy's codec would give it to a filter, as far as
// the filter is concerned.
func headerMap(raw string) (filter.HeaderMap, bool) {
	h, err := readHead(bufio.NewReader(strings.NewReader(raw)))
	if err != nil {
		return nil, false
	}
	method, rest, _ := strings.Cut(h.start, " ")
	path, _, _ := strings.Cut(rest, " ")
	m := filter.HeaderMap{{Name: ":method", Value: method}, {Name: ":path", Value: path}}
	for _, line := range h.fields {
		name, value, colon := strings.Cut(line, ":")
		if !colon || strings.ContainsAny(name, " \t") || strings.ContainsAny(value, "\x00\x0b") {
			return nil, false
		}
		value = strings.Trim(strings.ReplaceAll(value, "\r", ""), " \t")
		m = append(m, filter.Field{Name: lower(name), Value: value})
	}
	_, te := m.Get("transfer-encoding")
	_, length := m.Get("content-length")
	return m, !(te && length)
}

// pluginHeaders is a vm.HeaderMap.
type pluginHeaders filter.HeaderMap

func (m *pluginHeaders) lines() []string {
	var lines []string
	for _, f := range *m {
		lines = append(lines, f.Name+": "+f.Value)
	}
	return lines
}

func (m *pluginHeaders) Len() int { return len(*m) }

func (m *pluginHeaders) At(i int) (name, value string) { return (*m)[i].Name, (*m)[i].Value }

func (m *pluginHeaders) Get(name string) (string, bool) { return filter.HeaderMap(*m).Get(name) }

func (m *pluginHeaders) Add(name, value string) {
	*m = append(*m, filter.Field{Name: lower(strings.Clone(name)), Value: strings.Clone(value)})
}

func (m *pluginHeaders) Replace(name, value string) {
	m.Remove(name)
	m.Add(name, value)
}

func (m *pluginHeaders) Remove(name string) {
	*m = slices.DeleteFunc(*m, func(f filter.Field) bool { return f.Name == lower(name) })
}

func (m *pluginHeaders) Clear() { *m = nil }

// pluginStream is a vm.Stream in the phase of request headers.
type pluginStream struct {
	headers pluginHeaders
	effect  effect
}

func (s *pluginStream) HeaderMap(t abi.MapType) vm.HeaderMap {
	if t == abi.MapRequestHeaders {
		return &s.headers
	}
	return nil
}

func (s *pluginStream) SendLocalResponse(status uint32, _ string, body []byte, _ [][2]string, _ int32) {
	s.effect = effect{status: int(status), body: string(body)}
}

func (s *pluginStream) SetProperty(path string, value []byte) abi.Status {
	if path == "switchyard.route" {
		s.effect.filterState = string(value)
	}
	return abi.StatusOK
}

func (s *pluginStream) HeaderMapWritable(abi.MapType) bool   { return true }
func (s *pluginStream) Buffer(abi.BufferType) vm.Buffer      { return nil }
func (s *pluginStream) ClearRouteCache()                     {}
func (s *pluginStream) Property(string) ([]byte, abi.Status) { return nil, abi.StatusNotFound }
func (s *pluginStream) Continue(abi.StreamType)              {}
func (s *pluginStream) Close(abi.StreamType)                 {}

package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"switchyard/hostsim/abi"
)

// vector is a line of testdata/abi/envoy-1.40.0.jsonl: what Envoy 1.40.0 does
// with a module.
type vector struct {
	Filter   string
	Loaded   bool
	Requests []struct {
		Req, End, Status string
		Body             json.RawMessage // the upstream's echo, or a string
	}
	Log []string // level|component|message, "  (xN)" behind what came N times in a row
}

// recorded returns what the plugin wrote into the headers x-ra, x-rb, ... of a
// request, as the upstream saw it.
func (v *vector) recorded(t *testing.T, request string) [][2]string {
	for _, r := range v.Requests {
		var echo struct{ Headers [][2]string }
		if r.Req == request && json.Unmarshal(r.Body, &echo) == nil {
			return onlyRecorded(echo.Headers)
		}
	}
	return nil
}

func onlyRecorded(pairs [][2]string) (recorded [][2]string) {
	for _, p := range pairs {
		if strings.HasPrefix(p[0], "x-r") && p[0] != "x-request-id" {
			recorded = append(recorded, p)
		}
	}
	return recorded
}

// wasmLog returns the messages of Envoy's wasm component, as level|message,
// repeated as often as they came.
func (v *vector) wasmLog() (lines []string) {
	for _, line := range v.Log {
		parts := strings.SplitN(line, "|", 3)
		if len(parts) < 3 || parts[1] != "wasm" {
			continue
		}
		message, times := parts[2], 1
		if i := strings.LastIndex(message, "  (x"); i >= 0 {
			if _, err := fmt.Sscanf(message[i:], "  (x%d)", &times); err == nil {
				message = message[:i]
			}
		}
		for range times {
			lines = append(lines, parts[0]+"|"+message)
		}
	}
	return lines
}

func readVectors(t *testing.T) (vectors []*vector) {
	data, err := os.ReadFile(filepath.Join("testdata", "abi", "envoy-1.40.0.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		v := &vector{}
		if err := json.Unmarshal([]byte(line), v); err != nil {
			t.Fatal(err)
		}
		vectors = append(vectors, v)
	}
	return vectors
}

// vectorConfig is the plugin configuration of a vector's run.
func vectorConfig(filter string) (module string, config PluginConfig) {
	module, variant, _ := strings.Cut(filter, "@")
	config = PluginConfig{Name: "plug", VMID: "vm"}
	switch variant {
	case "open":
		config.FailurePolicy = FailOpen
	case "caplog":
		config.AllowedCapabilities = map[string]bool{"proxy_log": true, "proxy_on_context_create": true,
			"proxy_on_vm_start": true, "proxy_on_configure": true, "proxy_on_request_headers": true}
	}
	return module, config
}

// TestEnvoyVectors runs every module as Envoy 1.40.0 was seen to run it: the
// same refusals in the same words, the same statuses. Streams are played call
// by call, as Envoy calls plugins, without a data plane.
func TestEnvoyVectors(t *testing.T) {
	for _, vector := range readVectors(t) {
		t.Run(vector.Filter, func(t *testing.T) {
			e, log := newTestEngine(t, EngineOptions{Callouts: unanswered{}})
			module, config := vectorConfig(vector.Filter)
			p, err := newTestPlugin(t, e, filepath.Join("abi", module), config)
			if unsupported, ok := errors.AsType[*UnsupportedError](err); ok {
				t.Skip(unsupported)
			}
			if got := err == nil; got != vector.Loaded {
				t.Fatalf("loaded = %v, want %v (%v)", got, vector.Loaded, err)
			}
			if !vector.Loaded {
				load, ok := errors.AsType[*LoadError](err)
				if !ok {
					t.Fatalf("error is a %T, want *LoadError", err)
				}
				var want []string
				for _, line := range vector.wasmLog() {
					if text, ok := strings.CutPrefix(line, "error|"); ok {
						want = append(want, text)
					}
				}
				if diff := cmp.Diff(want, load.Lines); diff != "" {
					t.Errorf("lines (-Envoy +got):\n%s", diff)
				}
				return
			}

			for _, request := range []string{"get", "post"} {
				pairs := [][2]string{{":authority", "example.com"}, {":path", "/"}, {":method", "GET"}, {":scheme", "http"},
					{"user-agent", "t/1"}, {"x-test", "1"}, {"x-forwarded-proto", "http"}, {"x-request-id", strings.Repeat("f", 36)}}
				body := ""
				if request == "post" {
					body = "hello world"
					pairs[1][1], pairs[2][1] = "/post", "POST"
					pairs[5] = [2]string{"content-type", "text/plain"}
					pairs = append(pairs, [2]string{"content-length", "11"})
				}
				stream := requestStream(pairs...)
				stream.props["request\x00path"] = pairs[1][1]
				play(t, p, stream, body)
				if want := vector.recorded(t, request); want != nil {
					got := onlyRecorded(stream.maps[abi.MapRequestHeaders].pairs)
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("%s: statuses (-Envoy +got):\n%s", request, diff)
					}
				}
			}
			// Envoy logged three requests or more, here are two.
			got := log.messages()
			want := vector.wasmLog()
			for i := range got {
				got[i], _, _ = strings.Cut(got[i], "\n")
			}
			if len(got) > len(want) && vector.Log != nil {
				t.Errorf("%d log lines, Envoy has %d: %q", len(got), len(want), got)
			}
			if diff := cmp.Diff(want[:min(len(got), len(want))], got[:min(len(got), len(want))]); diff != "" && len(got) > 0 && len(want) > 0 {
				t.Errorf("log (-Envoy +got):\n%s", diff)
			}
		})
	}
}

// unanswered takes calls to the clusters of the vectors' bootstrap.
type unanswered struct{}

func (unanswered) HTTP(_ int, call HTTPCall, _ func(*HTTPResponse)) (func(), abi.Status, string) {
	h := pairsMap{call.Headers}
	for _, name := range []string{":path", ":method", ":authority"} {
		if _, ok := h.Get(name); !ok {
			return nil, abi.StatusBadArgument, "no " + name
		}
	}
	if call.Cluster != "web" && call.Cluster != "ws" {
		return nil, abi.StatusBadArgument, "no such cluster"
	}
	return func() {}, abi.StatusOK, ""
}

func (unanswered) GRPC(_ int, call GRPCCall, _ GRPCEvents) (GRPCStream, abi.Status, string) {
	return nil, abi.StatusParseFailure, "no such cluster"
}

// play calls a plugin as Envoy does for one request.
func play(t *testing.T, p *Plugin, stream *testStream, body string) {
	t.Helper()
	p.Tick(MainThread)
	p.Tick(0)
	s, err := p.NewStream(0, stream)
	if err != nil {
		return
	}
	defer s.Close()
	headers := stream.maps[abi.MapRequestHeaders]
	action, err := s.OnRequestHeaders(headers.Len(), body == "")
	if err != nil || action != abi.ActionContinue || len(stream.local)+len(stream.closed) > 0 {
		return
	}
	stream.maps = map[abi.MapType]*testMap{}
	defer func() { stream.maps[abi.MapRequestHeaders] = headers }()
	chunks := func(body string, call func(int, bool) (abi.Action, error)) bool {
		action, err := call(len(body), false)
		if err == nil {
			action, err = call(0, true)
		}
		return err == nil && action == abi.ActionContinue
	}
	if body != "" && !chunks(body, s.OnRequestBody) {
		return
	}
	stream.maps[abi.MapResponseHeaders] = &testMap{pairs: [][2]string{{":status", "200"}}}
	if action, err := s.OnResponseHeaders(1, false); err != nil || action != abi.ActionContinue {
		return
	}
	chunks("hello", s.OnResponseBody)
}

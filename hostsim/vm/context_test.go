package vm

import (
	"testing"

	"switchyard/hostsim/abi"
)

// TestActions checks what the data plane gets for what a guest returns, by
// Envoy's conversion.
func TestActions(t *testing.T) {
	type (
		callback func(*StreamContext, int) (abi.Action, error)
		returned map[int]abi.Action
	)
	headers := returned{0: abi.ActionContinue, 1: abi.ActionStopAllIterationAndWatermark, 2: abi.ActionContinue,
		3: abi.ActionStopAllIterationAndBuffer, 4: abi.ActionStopAllIterationAndWatermark,
		5: abi.ActionStopAllIterationAndWatermark, -1: abi.ActionStopAllIterationAndWatermark}
	allowed := returned{0: abi.ActionContinue, 1: abi.ActionStopIteration, 4: abi.ActionStopAllIterationAndWatermark}
	// For bodies: buffer is 1, watermark is 2, no buffer is 3.
	body := returned{0: 0, 1: 1, 2: 2, 3: 3, 4: 3, -1: 3}
	trailers := returned{0: abi.ActionContinue, 1: abi.ActionStopIteration, 2: abi.ActionStopIteration, -1: abi.ActionStopIteration}
	local := returned{0: abi.ActionStopAllIterationAndWatermark, 2: abi.ActionStopAllIterationAndWatermark}

	tests := []struct {
		name   string
		config PluginConfig
		call   callback
		want   returned
	}{
		{"request headers", PluginConfig{}, func(s *StreamContext, n int) (abi.Action, error) { return s.OnRequestHeaders(n, false) }, headers},
		{"response headers", PluginConfig{}, func(s *StreamContext, n int) (abi.Action, error) { return s.OnResponseHeaders(n, false) }, headers},
		{"headers with allow_on_headers_stop_iteration", PluginConfig{AllowOnHeadersStopIteration: true},
			func(s *StreamContext, n int) (abi.Action, error) { return s.OnRequestHeaders(n, false) }, allowed},
		{"headers with a local response", PluginConfig{}, func(s *StreamContext, n int) (abi.Action, error) { return s.OnRequestHeaders(n, true) }, local},
		{"request body", PluginConfig{}, func(s *StreamContext, n int) (abi.Action, error) { return s.OnRequestBody(n, false) }, body},
		{"response body", PluginConfig{}, func(s *StreamContext, n int) (abi.Action, error) { return s.OnResponseBody(n, false) }, body},
		{"body with a local response", PluginConfig{}, func(s *StreamContext, n int) (abi.Action, error) { return s.OnResponseBody(n, true) }, returned{0: 3, 1: 3}},
		{"request trailers", PluginConfig{}, (*StreamContext).OnRequestTrailers, trailers},
		{"response trailers", PluginConfig{}, (*StreamContext).OnResponseTrailers, trailers},
	}
	e, _ := newTestEngine(t, EngineOptions{})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := mustTestPlugin(t, e, "actions", tt.config)
			s, err := p.NewStream(0, requestStream())
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if _, err := s.OnRequestHeaders(0, false); err != nil {
				t.Fatal(err)
			}
			for n, want := range tt.want {
				if got, err := tt.call(s, n); got != want || err != nil {
					t.Errorf("guest returns %d: %d, %v, want %d", n, got, err, want)
				}
			}
		})
	}
}

// TestRequestIsGoneUntilTheNextCallback: a guest that continues the request
// cannot change it any more in the same callback.
func TestRequestIsGoneUntilTheNextCallback(t *testing.T) {
	e, _ := newTestEngine(t, EngineOptions{})
	p := mustTestPlugin(t, e, "actions", PluginConfig{})
	s, err := p.NewStream(0, requestStream())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.OnRequestHeaders(0, false); err != nil {
		t.Fatal(err)
	}
	const (
		write            = 98
		continueAndWrite = 99
	)
	for _, tt := range []struct {
		what   int
		status abi.Status
	}{{write, abi.StatusOK}, {continueAndWrite, abi.StatusBadArgument}, {write, abi.StatusOK}} {
		// A body callback's action is the status as long as that is small.
		if got, err := s.OnRequestBody(tt.what, false); abi.Status(got) != tt.status || err != nil {
			t.Errorf("%d: status %d, %v, want %d", tt.what, got, err, tt.status)
		}
	}
}

package hostsimtest

import (
	"log/slog"
	"strings"

	"switchyard/hostsim/abi"
	"switchyard/hostsim/vm"
)

// T is what is needed of a *testing.T or *testing.B.
type T interface {
	Helper()
	Log(args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
	Cleanup(func())
	TempDir() string
}

// Headers are the names and values of a header map, in order. Envoy's names
// are lower-case, pseudo headers come first.
type Headers [][2]string

// Get returns the value of the first field of that name, or "".
func (h Headers) Get(name string) string {
	for _, f := range h {
		if f[0] == name {
			return f[1]
		}
	}
	return ""
}

// equalFold compares ASCII without regard to case.
func equalFold(a, b string) bool {
	lower := func(c byte) byte {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		return c
	}
	for i := range min(len(a), len(b)) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return len(a) == len(b)
}

// Values returns the values of all fields of that name.
func (h Headers) Values(name string) (values []string) {
	for _, f := range h {
		if f[0] == name {
			values = append(values, f[1])
		}
	}
	return values
}

// Action is what a callback returns (proxy_action_t).
type Action uint32

// Actions, by their names in the SDKs. Envoy takes what else a callback for
// headers returns for Pause.
const (
	Continue Action = 0
	Pause    Action = 1
)

func (a Action) String() string {
	switch a {
	case Continue:
		return "Continue"
	case Pause:
		return "Pause"
	}
	return "Action(" + itoa(int64(int32(a))) + ")"
}

// Status is what a hostcall returns (proxy_status_t).
type Status = abi.Status

// Statuses for [Foreign].
const (
	OK          = abi.StatusOK
	NotFound    = abi.StatusNotFound
	BadArgument = abi.StatusBadArgument
)

// Effect is what one step of a test has led to.
type Effect struct {
	// Action is what the callback of the step has returned. If none was
	// called, because the plugin has none or has stopped the stream before, it
	// is Continue.
	Action Action
	// Callbacks are all that ran, in the order in which they returned.
	Callbacks []Callback
	// Before and After are the headers or trailers of the step.
	Before, After Headers
	// Body is the content that has passed the plugin in this step.
	Body string
	// Reply is the local response that the plugin has sent, or nil. Where the
	// VM has failed it is Envoy's: 503.
	Reply *Reply
	// Logs are what the plugin has logged, at whatever level.
	Logs []Log
	// HTTPCalls and GRPCCalls are the callouts that it has begun.
	HTTPCalls []*HTTPCall
	GRPCCalls []*GRPCCall
	// Hostcalls are all calls of host functions, proxy_log among them, in the
	// order in which they returned.
	Hostcalls []Hostcall
	// Trap is in which way the plugin has trapped, with its stack; see MayTrap.
	Trap string
}

// Callback is a callback that the plugin has got.
type Callback struct {
	Context   uint32 // its id
	Name      string // "proxy_on_tick"
	Arguments string // in decimal, the context's id first
	Result    string // in decimal; "" if it has none
}

// Hostcall is a host function that the plugin has called.
type Hostcall struct {
	Name      string // "proxy_set_property"
	Arguments string // decoded: `path: "a", value: "b"`
	Result    string // the status by its name: "Ok", "NotFound"
	Why       string // the status is not Ok, if that is known
}

// Log is a line that the plugin has logged.
type Log struct {
	Level   string // trace, debug, info, warn, error or critical
	Message string
}

// Reply is a local response.
type Reply struct {
	Status     int
	Headers    Headers
	Body       string
	Details    string
	GRPCStatus int32 // -1 is none
}

// Calls returns the calls of one host function.
func (e *Effect) Calls(name string) (calls []Hostcall) {
	for _, c := range e.Hostcalls {
		if c.Name == name {
			calls = append(calls, c)
		}
	}
	return calls
}

// Logged says whether a line of that level contains the text.
func (e *Effect) Logged(level, text string) bool {
	for _, l := range e.Logs {
		if l.Level == level && strings.Contains(l.Message, text) {
			return true
		}
	}
	return false
}

var levelNames = map[slog.Level]string{vm.LevelTrace: "trace", slog.LevelDebug: "debug", slog.LevelInfo: "info",
	slog.LevelWarn: "warn", slog.LevelError: "error", vm.LevelCritical: "critical"}

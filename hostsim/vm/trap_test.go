package vm

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// Whoever looks for a trap, or for an endless loop, is told where the guest
// was: functions from the name section, lines from DWARF.
func TestStackOfATrap(t *testing.T) {
	tests := []struct {
		name     string
		what     int
		deadline time.Duration
		reason   string
		stack    []string // patterns that are there in this order
	}{
		{"an endless loop", 1, 100 * time.Millisecond, "callback deadline exceeded (an endless loop?)", []string{`stack::count`, `stack\.rs:\d+`, `stack::decide`, `proxy_on_request_headers`}},
		{"a trap", 2, time.Minute, "Uncaught RuntimeError: unreachable", []string{`stack::divide`, `stack\.rs:\d+`, `stack::decide`, `proxy_on_request_headers`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e, log := newTestEngine(t, EngineOptions{CallbackDeadline: tt.deadline})
			p := mustTestPlugin(t, e, "stack", PluginConfig{})
			err := attack(t, p, tt.what)
			trap, ok := errors.AsType[*TrapError](err)
			if !ok || trap.Reason != tt.reason {
				t.Fatalf("error %v, want a trap by %q", err, tt.reason)
			}
			frames := trap.Stack
			for _, pattern := range tt.stack {
				i := slices.IndexFunc(frames, regexp.MustCompile(pattern).MatchString)
				if i < 0 {
					t.Fatalf("stack %q has no %s, or not in its place", trap.Stack, pattern)
				}
				frames = frames[i:]
			}
			if logged := strings.Join(log.messages(), "\n"); !strings.Contains(logged, tt.stack[0]) {
				t.Errorf("the log does not say where:\n%s", logged)
			}
		})
	}
}

// A deadline that is over before anything runs is an error like any other.
func TestDeadlineThatIsOver(t *testing.T) {
	e, _ := newTestEngine(t, EngineOptions{CallbackDeadline: 1})
	_, err := newTestPlugin(t, e, "lifecycle", PluginConfig{})
	load, ok := errors.AsType[*LoadError](err)
	if !ok || !strings.Contains(err.Error(), "callback deadline exceeded") {
		t.Errorf("error %v (%v), want a refusal because of the deadline", err, load)
	}
}

// An element that is empty and one that is not there are one error to the
// engine, and two to V8: the module tells which is the likely one.
func TestEmptyElementsOfTables(t *testing.T) {
	section := func(id byte, content ...byte) []byte { return append([]byte{id, byte(len(content))}, content...) }
	tests := []struct {
		name          string
		sections      [][]byte
		gaps, outside bool
	}{
		{"no table", nil, false, false},
		{"an empty table", [][]byte{section(4, 1, 0x70, 0, 2)}, true, false},
		{"a full table", [][]byte{section(4, 1, 0x70, 1, 2, 9), section(9, 1, 0, 0x41, 0, 0x0b, 2, 0, 1)}, false, false},
		{"a gap at the start", [][]byte{section(4, 1, 0x70, 0, 3), section(9, 1, 0, 0x41, 1, 0x0b, 2, 0, 1)}, true, false},
		{"a segment behind the end", [][]byte{section(4, 1, 0x70, 0, 3), section(9, 1, 0, 0x41, 2, 0x0b, 2, 0, 1)}, true, true},
		{"a table without elements", [][]byte{section(4, 1, 0x70, 0, 0)}, false, false},
		{"more elements than there are bytes", [][]byte{section(4, 1, 0x70, 0, 3), section(9, 1, 0, 0x41, 1, 0x0b, 9, 0, 1)}, false, false},
		{"a segment of another form", [][]byte{section(4, 1, 0x70, 0, 3), section(9, 1, 1, 0, 1, 0)}, false, false},
	}
	for _, tt := range tests {
		code := slices.Concat(append([][]byte{[]byte("\x00asm\x01\x00\x00\x00")}, tt.sections...)...)
		if gaps, outside := elements(code); gaps != tt.gaps || outside != tt.outside {
			t.Errorf("%s: got %v, %v, want %v, %v", tt.name, gaps, outside, tt.gaps, tt.outside)
		}
	}
}

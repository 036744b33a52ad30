package vm

import (
	"errors"
	"strconv"
	"strings"
)

// errRestricted ends a guest that calls a host function which it may not call
// at the moment.
var errRestricted = errors.New("restricted_callback")

// TrapError says that the guest trapped. Its VM is dead from then on.
type TrapError struct {
	Function string   // the callback, or malloc
	Reason   string   // in V8's words where V8 has some
	Stack    []string // the guest's functions, innermost first, each with lines for its places in the source if they are known
	Err      error    // what the WebAssembly engine said
}

// Error is the first line of what Envoy logs.
func (e *TrapError) Error() string {
	return "Function: " + e.Function + " failed: " + e.Reason
}

// Unwrap returns the WebAssembly engine's error.
func (e *TrapError) Unwrap() error { return e.Err }

// Detail is all that Envoy logs: Error and the guest's stack.
func (e *TrapError) Detail() string {
	if len(e.Stack) == 0 {
		return e.Error()
	}
	var b strings.Builder
	b.WriteString(e.Error())
	b.WriteString("\nProxy-Wasm plugin in-VM backtrace:")
	for i, frame := range e.Stack {
		b.WriteString("\n" + strings.Repeat(" ", max(0, 3-len(strconv.Itoa(i)))) + strconv.Itoa(i) + ":  " + frame)
	}
	return b.String()
}

// Of an element of a table that is called: there is none, or it is empty or of
// another type.
const (
	outOfTable   = "Uncaught RuntimeError: table index is out of bounds"
	wrongElement = "Uncaught RuntimeError: function signature mismatch"
)

// maxFrames is how many frames of a stack are kept, as in proxy-wasm-cpp-host.
const maxFrames = 20

func newTrapError(function string, err error) *TrapError {
	e := &TrapError{Function: function, Err: err}
	text, stack, _ := strings.Cut(err.Error(), "\nwasm stack trace:\n")
	for line := range strings.Lines(stack) {
		place := strings.TrimSpace(line)
		if last := len(e.Stack) - 1; last >= 0 && strings.HasPrefix(line, "\t\t") { // of that frame, in the source
			e.Stack[last] += "\n      at " + place
			continue
		}
		if len(e.Stack) == maxFrames {
			break
		}
		e.Stack = append(e.Stack, place)
	}
	text, _, _ = strings.Cut(text, "\n")
	text = strings.TrimPrefix(text, "wasm error: ")
	switch {
	case errors.Is(err, errRestricted):
		e.Reason = "Uncaught Error: restricted_callback"
		return e
	case errors.Is(err, errDeadline):
		e.Reason = errDeadline.Error()
		return e
	}
	switch text {
	case "unreachable":
		e.Reason = "Uncaught RuntimeError: unreachable"
	case "integer divide by zero":
		e.Reason = "Uncaught RuntimeError: divide by zero"
	case "integer overflow":
		e.Reason = "Uncaught RuntimeError: divide result unrepresentable"
	case "invalid conversion to integer":
		e.Reason = "Uncaught RuntimeError: float unrepresentable in integer range"
	case "out of bounds memory access":
		e.Reason = "Uncaught RuntimeError: memory access out of bounds"
	case "invalid table access":
		e.Reason = outOfTable
	case "indirect call type mismatch":
		e.Reason = wrongElement
	case "uncaught exception":
		e.Reason = "Uncaught #<Exception>"
	case "stack overflow":
		e.Reason = "Uncaught RangeError: Maximum call stack size exceeded"
	default:
		e.Reason = text
	}
	return e
}

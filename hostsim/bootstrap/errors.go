package bootstrap

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrUnsupported is matched, with [errors.Is], by every [UnsupportedError].
var ErrUnsupported = errors.New("not simulated")

// Error is a mistake in the bootstrap, one that Envoy would not start with either.
type Error struct {
	File string // as given to Load
	Line int    // counted from 1; 0 if the mistake is not in one line
	Path string // of the field, "" if it is not in one field
	Msg  string // what was found and what to do
}

// Error returns one line, "file:line: path: message".
func (e *Error) Error() string { return where(e.File, e.Line, e.Path) + e.Msg }

// UnsupportedError is something that is valid for Envoy and that the simulator does not simulate.
type UnsupportedError struct {
	File string // as given to Load
	Line int    // counted from 1; 0 if it is not in one line
	Path string // of the field, "" if it is not in one field
	What string // what it is, and what to use instead if there is something

	// Harmless says that a simulation without it makes the same routing decisions; see [Bootstrap.Ignore].
	Harmless bool
}

// Error returns one line, "file:line: path: not simulated: what".
func (e *UnsupportedError) Error() string {
	return where(e.File, e.Line, e.Path) + ErrUnsupported.Error() + ": " + e.What
}

// Is reports whether target is [ErrUnsupported].
func (e *UnsupportedError) Is(target error) bool { return target == ErrUnsupported }

func where(file string, line int, path string) string {
	var s strings.Builder
	s.WriteString(file)
	if line > 0 {
		s.WriteString(":" + strconv.Itoa(line))
	}
	s.WriteString(": ")
	if path != "" {
		s.WriteString(path + ": ")
	}
	return s.String()
}

// Errorf returns an [*Error] about the field at path.
func (b *Bootstrap) Errorf(path, format string, args ...any) error {
	p := b.position(path)
	return &Error{File: b.files[p.text], Line: p.line, Path: path, Msg: fmt.Sprintf(format, args...)}
}

// Unsupported returns an [*UnsupportedError] about the field at path.
func (b *Bootstrap) Unsupported(path, what string) error {
	p := b.position(path)
	return &UnsupportedError{File: b.files[p.text], Line: p.line, Path: path, What: what}
}

// quote is %q with an upper limit: an error stays one readable line even if the value is a whole program.
func quote(s string) string {
	const limit = 200
	if len(s) > limit {
		return fmt.Sprintf("%.*q...", limit, s)
	}
	return strconv.Quote(s)
}

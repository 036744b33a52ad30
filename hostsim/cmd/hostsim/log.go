package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"
)

// The levels of Envoy that slog has no name for.
const (
	levelTrace    = slog.LevelDebug - 4
	levelCritical = slog.LevelError + 4
	levelOff      = slog.Level(math.MaxInt)
)

// levels is the least level that is written, and that of single components.
// /logging changes them while loggers use them.
type levels struct {
	mu        sync.RWMutex
	standard  slog.Level
	component map[string]slog.Level
}

// Level is the name of a component's level.
func (l *levels) Level(component string) string { return levelName(l.of(component)) }

// SetLevel changes a component's level.
func (l *levels) SetLevel(component, name string) {
	if level, err := parseLevel(name); err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.component[component] = level
	}
}

// parseLevels reads the flags --log-level and --component-log-level.
func parseLevels(standard, components string) (*levels, error) {
	l := &levels{component: map[string]slog.Level{}}
	var err error
	if l.standard, err = parseLevel(standard); err != nil {
		return nil, fmt.Errorf("--log-level: %w", err)
	}
	for _, item := range strings.Split(components, ",") {
		if components == "" {
			break
		}
		name, text, found := strings.Cut(item, ":")
		if !found || name == "" {
			return nil, fmt.Errorf("--component-log-level: %q is not name:level", item)
		}
		if l.component[name], err = parseLevel(text); err != nil {
			return nil, fmt.Errorf("--component-log-level: %s: %w", name, err)
		}
	}
	return l, nil
}

func parseLevel(name string) (slog.Level, error) {
	switch name {
	case "trace":
		return levelTrace, nil
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warning", "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	case "critical":
		return levelCritical, nil
	case "off":
		return levelOff, nil
	}
	return 0, fmt.Errorf("unknown level %q, want trace, debug, info, warning, error, critical or off", name)
}

func levelName(l slog.Level) string {
	switch {
	case l < slog.LevelDebug:
		return "trace"
	case l < slog.LevelInfo:
		return "debug"
	case l < slog.LevelWarn:
		return "info"
	case l < slog.LevelError:
		return "warning"
	case l < levelCritical:
		return "error"
	case l < levelOff:
		return "critical"
	}
	return "off"
}

// newLogger returns a logger that writes lines as Envoy does, in local time:
//
//	[2026-11-22 10:00:00.123][4711][info][wasm] [hostsim] message key=value
//
// The second field is the process, Go has no thread to name. The fourth is the attribute "component" that was given
// to [slog.Logger.With], or main.
func newLogger(w io.Writer, l *levels) *slog.Logger {
	return slog.New(&envoyHandler{out: &lineWriter{w: w}, levels: l, component: "main"})
}

// of is the least level of a component.
func (l *levels) of(component string) slog.Level {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if level, ok := l.component[component]; ok {
		return level
	}
	return l.standard
}

// lineWriter writes one line at a time.
type lineWriter struct {
	mu sync.Mutex
	w  io.Writer
}

// envoyHandler is a [slog.Handler]. It is immutable, so that the loggers made of it share nothing but the writer.
type envoyHandler struct {
	out       *lineWriter
	levels    *levels
	component string
	attrs     string // as they are written, with a space before each
	group     string // the prefix of later attributes' names
}

func (h *envoyHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.levels.of(h.component)
}

func (h *envoyHandler) Handle(_ context.Context, r slog.Record) error {
	line := make([]byte, 0, 256)
	line = append(line, '[')
	line = r.Time.AppendFormat(line, "2006-01-02 15:04:05.000")
	line = append(line, "]["...)
	line = strconv.AppendInt(line, int64(os.Getpid()), 10)
	line = append(line, "]["+levelName(r.Level)+"]["+h.component+"] [hostsim] "+r.Message+h.attrs...)
	r.Attrs(func(a slog.Attr) bool {
		line = appendAttr(line, h.group, a)
		return true
	})
	line = append(line, '\n')
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	_, err := h.out.w.Write(line)
	return err
}

func (h *envoyHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := *h
	for _, a := range attrs {
		if a.Key == "component" && h.group == "" {
			n.component = a.Value.String()
			continue
		}
		n.attrs = string(appendAttr([]byte(n.attrs), h.group, a))
	}
	return &n
}

func (h *envoyHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	n := *h
	n.group += name + "."
	return &n
}

// appendAttr writes " key=value", the value in quotes where it would not read as one word.
func appendAttr(line []byte, group string, a slog.Attr) []byte {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			group += a.Key + "."
		}
		for _, member := range v.Group() {
			line = appendAttr(line, group, member)
		}
		return line
	}
	if a.Equal(slog.Attr{}) {
		return line
	}
	text := v.String()
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == '"' || r == '=' || r == 0x7f }) {
		text = strconv.Quote(text)
	}
	line = append(line, ' ')
	line = append(line, group...)
	line = append(line, a.Key...)
	line = append(line, '=')
	return append(line, text...)
}

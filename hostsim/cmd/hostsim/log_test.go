package main

import (
	"context"
	"log/slog"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/slogtest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestALogLineLooksLikeEnvoys(t *testing.T) {
	var out strings.Builder
	l, err := parseLevels("info", "wasm:debug,quiet:off")
	if err != nil {
		t.Fatal(err)
	}
	log := newLogger(&out, l)
	log.Info("starting")
	log.Debug("not written")
	log.With("component", "wasm").Debug("wasm log switchyard: reason=offered", "path", "/a b", "n", 1)
	log.With("component", "wasm").Log(context.Background(), levelTrace, "not written")
	log.With("component", "quiet").Log(context.Background(), levelCritical, "not written")
	log.With("worker", 2).WithGroup("g").With("component", "x").Warn("careful", slog.Group("h", "k", "v"))
	log.Log(context.Background(), levelCritical, "over")

	stamp := regexp.MustCompile(`(?m)^\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3})\]\[` + strconv.Itoa(os.Getpid()) + `\]`)
	for _, m := range stamp.FindAllStringSubmatch(out.String(), -1) {
		if _, err := time.ParseInLocation("2006-01-02 15:04:05.000", m[1], time.Local); err != nil {
			t.Error(err)
		}
	}
	got := strings.Split(stamp.ReplaceAllString(out.String(), ""), "\n")
	want := []string{
		`[info][main] [hostsim] starting`,
		`[debug][wasm] [hostsim] wasm log switchyard: reason=offered path="/a b" n=1`,
		`[warning][main] [hostsim] careful worker=2 g.component=x g.h.k=v`,
		`[critical][main] [hostsim] over`,
		``,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestTheHandlerKeepsSlogsContract runs the checks of testing/slogtest on lines parsed back into maps.
func TestTheHandlerKeepsSlogsContract(t *testing.T) {
	var out strings.Builder
	line := regexp.MustCompile(`^\[([^]]+)\]\[\d+\]\[(\w+)\]\[main\] \[hostsim\] (\w+)((?: \S+=\S+)*)$`)
	slogtest.Run(t, func(*testing.T) slog.Handler {
		out.Reset()
		return newLogger(&out, &levels{standard: levelTrace}).Handler()
	}, func(t *testing.T) map[string]any {
		m := line.FindStringSubmatch(strings.TrimSuffix(out.String(), "\n"))
		if m == nil {
			t.Fatalf("unreadable line %q", out.String())
		}
		result := map[string]any{slog.LevelKey: m[2], slog.MessageKey: m[3]}
		if !strings.HasPrefix(m[1], "0001-") {
			result[slog.TimeKey] = m[1]
		}
		for _, field := range strings.Fields(m[4]) {
			name, value, _ := strings.Cut(field, "=")
			at := result
			names := strings.Split(name, ".")
			for _, group := range names[:len(names)-1] {
				if at[group] == nil {
					at[group] = map[string]any{}
				}
				at = at[group].(map[string]any)
			}
			at[names[len(names)-1]] = value
		}
		return result
	})
}

func TestLevels(t *testing.T) {
	for _, tt := range []struct{ name, standard, components, want string }{
		{"an unknown level", "loud", "", `--log-level: unknown level "loud", want trace, debug, info, warning, error, critical or off`},
		{"an unknown level of a component", "info", "wasm:debug,http:", `--component-log-level: http: unknown level "", want trace, debug, info, warning, error, critical or off`},
		{"a component without a level", "info", "wasm", `--component-log-level: "wasm" is not name:level`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseLevels(tt.standard, tt.components)
			if err == nil || err.Error() != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
	for _, name := range []string{"trace", "debug", "info", "warning", "error", "critical", "off"} {
		l, err := parseLevel(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := levelName(l); got != name {
			t.Errorf("level %s is written as %s", name, got)
		}
	}
}

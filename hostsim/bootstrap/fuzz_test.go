package bootstrap

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// FuzzParse: whatever the text, loading ends with a bootstrap or with an error of ours, whose line is one of the text.
func FuzzParse(f *testing.F) {
	for _, dir := range []string{"testdata/*.yaml", "testdata/*/*.yaml", "testdata/*/*.json", "../../envoy/bootstrap/*.yaml"} {
		names, err := filepath.Glob(dir)
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data, []byte(`static_resources: {clusters: {name: a, lb_policy: MAGLEV}}`), filepath.Ext(name) == ".json")
		}
	}
	f.Fuzz(func(t *testing.T, data, more []byte, asJSON bool) {
		name := "x.yaml"
		if asJSON {
			name = "x.json"
		}
		texts := []Text{{name, data}}
		if len(more) > 0 {
			texts = append(texts, Text{"more.yaml", more})
		}
		check := func(err error) {
			var mistake *Error
			var unsupported *UnsupportedError
			line := 0
			switch {
			case errors.As(err, &mistake):
				line = mistake.Line
			case errors.As(err, &unsupported):
				line = unsupported.Line
			default:
				t.Errorf("an error of another kind: %v", err)
			}
			most := 2
			for _, text := range texts {
				for _, c := range text.Data {
					if c == '\n' || c == '\r' || c == 0x85 || c == 0xa8 || c == 0xa9 { // also NEL, LS and PS in UTF-8
						most++
					}
				}
			}
			if line < 0 || line > most {
				t.Errorf("line %d of a text of %d lines: %v", line, most, err)
			}
		}
		b, err := Parse(texts...)
		if err != nil {
			check(err)
			return
		}
		ignored := b.Ignore()
		for _, u := range b.CheckSupported() {
			check(u)
			if u.Harmless {
				t.Errorf("%v is harmless and still there after Ignore found %d", u, len(ignored))
			}
		}
	})
}

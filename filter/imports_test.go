package filter

import (
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Each of these is small, and none brings in reflection, so that TinyGo makes a small .wasm of this package.
func TestImportsStaySmall(t *testing.T) {
	allowed := []string{"strconv", "strings", "unicode/utf8"}
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		seen++
		parsed, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range parsed.Imports {
			if path, _ := strconv.Unquote(spec.Path.Value); !slices.Contains(allowed, path) {
				t.Errorf("%s imports %q; allowed are %q", f.Name(), path, allowed)
			}
		}
	}
	if seen == 0 {
		t.Error("no files looked at")
	}
}

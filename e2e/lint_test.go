package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// imports are the packages of this module with what each may import besides
// the standard library: these packages of the module, and these other modules.
var imports = map[string][]string{
	"switchyard/filter":                    {},
	"switchyard/filter/plugin":             {"switchyard/filter", "github.com/tetratelabs/proxy-wasm-go-sdk"},
	"switchyard/filter/plugin/trimexports": {},
	"switchyard/hostsim/abi":               {},
	"switchyard/hostsim/vm":                {"switchyard/hostsim/abi", "github.com/tetratelabs/wazero"},
	"switchyard/hostsim/bootstrap":         {"github.com/envoyproxy/go-control-plane", "github.com/envoyproxy/protoc-gen-validate", "github.com/cncf/xds", "google.golang.org/protobuf", "go.yaml.in/yaml"},
	"switchyard/hostsim/patch":             {"switchyard/hostsim/bootstrap", "github.com/envoyproxy/go-control-plane", "istio.io/api", "google.golang.org/protobuf", "go.yaml.in/yaml"},
	"switchyard/hostsim/foreign":           {"switchyard/hostsim/abi", "cel.dev/cel-go", "google.golang.org/protobuf"},
	"switchyard/hostsim/proxy":             {"switchyard/hostsim/vm", "switchyard/hostsim/abi", "switchyard/hostsim/bootstrap", "switchyard/hostsim/foreign", "github.com/envoyproxy/go-control-plane", "google.golang.org/protobuf", "google.golang.org/grpc", "golang.org/x/net", "cel.dev/cel-go", "github.com/cespare/xxhash/v2"},
	"switchyard/hostsim/admin":             {"switchyard/hostsim/proxy", "github.com/envoyproxy/go-control-plane", "google.golang.org/protobuf"},
	"switchyard/hostsim":                   {"switchyard/hostsim/abi", "switchyard/hostsim/vm", "switchyard/hostsim/bootstrap", "switchyard/hostsim/patch", "switchyard/hostsim/foreign", "switchyard/hostsim/proxy", "switchyard/hostsim/admin", "github.com/envoyproxy/go-control-plane", "google.golang.org/protobuf"},
	"switchyard/hostsim/hostsimtest":       {"switchyard/hostsim", "switchyard/hostsim/vm", "switchyard/hostsim/abi", "switchyard/hostsim/bootstrap", "switchyard/hostsim/proxy", "github.com/envoyproxy/go-control-plane"},
	"switchyard/hostsim/cmd/hostsim":       {"switchyard/hostsim", "github.com/alecthomas/kong"},
	"switchyard/envoy":                     {},
	"switchyard/e2e":                       {},
	"switchyard/e2e/demo":                  {"switchyard/envoy", "github.com/coder/websocket", "go.yaml.in/yaml"},
}

// filter is compiled to wasm by two compilers: these make it several times as
// large.
var tooLargeForFilter = []string{"fmt", "encoding/json", "reflect", "regexp"}

func TestAllowedImports(t *testing.T) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	within := func(path, allowed string) bool {
		return path == allowed || strings.HasPrefix(path, allowed+"/") && !strings.HasPrefix(allowed, "switchyard/")
	}
	for list := json.NewDecoder(bytes.NewReader(out)); ; {
		var pkg struct {
			ImportPath string
			Imports    []string
		}
		if err := list.Decode(&pkg); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		allowed, known := imports[pkg.ImportPath]
		if !known {
			t.Errorf("%s has no line in the table of allowed imports", pkg.ImportPath)
			continue
		}
		for _, path := range pkg.Imports {
			first, _, _ := strings.Cut(path, "/")
			standard := first != "switchyard" && !strings.Contains(first, ".")
			switch {
			case pkg.ImportPath == "switchyard/filter" && slices.Contains(tooLargeForFilter, path):
				t.Errorf("%s imports %s, which makes the .wasm large", pkg.ImportPath, path)
			case !standard && !slices.ContainsFunc(allowed, func(a string) bool { return within(path, a) }):
				t.Errorf("%s imports %s, which its line in the table does not allow", pkg.ImportPath, path)
			}
		}
	}
}

// No file names a directory of the machine that it was written on.
func TestNoMachinePaths(t *testing.T) {
	// Put together here, so that this file does not find itself.
	var forbidden [][]byte
	for _, dir := range []string{"work", "root", "home", "Users"} {
		forbidden = append(forbidden, []byte("/"+dir+"/"))
	}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains([]string{".git", ".tools", "bin"}, d.Name()) && filepath.Dir(path) == root {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, dir := range forbidden {
			if bytes.Contains(b, dir) {
				t.Errorf("%s contains %s", path, dir)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

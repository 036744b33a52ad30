package patch_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"switchyard/hostsim/bootstrap"
	"switchyard/hostsim/patch"
)

const goldens = "testdata/golden"

// Each NAME.in.yaml is a bootstrap and, behind ---, the objects to apply to it; NAME.out.yaml is what Istio's own code made of it
// (make e2e-istio). Each line "# warns: " at the start of NAME.in.yaml is in one of the warnings, in any order, and there are no others.
func TestIstioMakesTheSame(t *testing.T) {
	files, err := filepath.Glob(goldens + "/*.in.yaml")
	if err != nil || len(files) < 60 {
		t.Fatalf("%d goldens, want at least 60: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".in.yaml"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			first, rest, _ := strings.Cut(string(text), "\n---\n")
			boot, err := bootstrap.Parse(bootstrap.Text{Name: file, Data: []byte(first)})
			if err != nil {
				t.Fatal(err)
			}
			objects, err := patch.Read(patch.Text{Name: file, Data: []byte(rest)})
			if err != nil {
				t.Fatal(err)
			}
			got := proto.CloneOf(boot.Proto())
			warnings, err := objects.Apply(got, patch.Options{})
			if err != nil {
				t.Fatal(err)
			}
			want := golden(t, strings.TrimSuffix(file, ".in.yaml")+".out.yaml")
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
				t.Errorf("Istio and this (-Istio +this):\n%s", diff)
			}
			checkWarnings(t, first, warnings)

			// The result can be written and read again.
			rendered, err := patch.Render(got)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(got, unmarshal(t, rendered), protocmp.Transform()); diff != "" {
				t.Errorf("applied, and rendered and read again:\n%s", diff)
			}
		})
	}
}

func golden(t *testing.T, file string) *bootstrapv3.Bootstrap {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return unmarshal(t, text)
}

// unmarshal reads a bootstrap without checking it: what Istio makes need not be valid.
func unmarshal(t *testing.T, text []byte) *bootstrapv3.Bootstrap {
	t.Helper()
	var v any
	if err := yaml.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	j, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	b := &bootstrapv3.Bootstrap{}
	if err := protojson.Unmarshal(j, b); err != nil {
		t.Fatal(err)
	}
	return b
}

func checkWarnings(t *testing.T, head string, warnings []patch.Warning) {
	t.Helper()
	left := warnings
	for _, line := range strings.Split(head, "\n") {
		want, ok := strings.CutPrefix(line, "# warns: ")
		if !ok {
			continue
		}
		found := false
		for i, w := range left {
			if strings.Contains(w.String(), want) {
				left = append(append([]patch.Warning{}, left[:i]...), left[i+1:]...)
				found = true
				break
			}
		}
		if !found {
			t.Errorf("no warning says %q, there is %v", want, left)
		}
	}
	for _, w := range left {
		t.Errorf("not expected: %s", w)
	}
}

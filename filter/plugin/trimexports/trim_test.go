package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// module puts sections together: the header, a type section, an export section with that content, a custom section.
func module(exports string) string {
	return "\x00asm\x01\x00\x00\x00" + "\x01\x04\x01\x60\x00\x00" + "\x07" + string(rune(len(exports))) + exports + "\x00\x06\x04nameX"
}

// function and memory are entries of an export section.
func function(name string) string { return string(rune(len(name))) + name + "\x00\x05" }
func memory(name string) string   { return string(rune(len(name))) + name + "\x02\x00" }

func TestTrim(t *testing.T) {
	tests := []struct {
		name      string
		in, wants string
	}{
		{
			name: "callbacks that nothing is done in go",
			in: module("\x04" + memory("memory") + function("proxy_on_request_body") + function("proxy_on_request_headers") +
				function("proxy_on_tick")),
			wants: module("\x02" + memory("memory") + function("proxy_on_request_headers")),
		},
		{
			name:  "what is no callback stays, whatever it is",
			in:    module("\x04" + function("_initialize") + function("proxy_abi_version_0_2_0") + function("malloc") + memory("proxy_on_tick")),
			wants: module("\x04" + function("_initialize") + function("proxy_abi_version_0_2_0") + function("malloc") + memory("proxy_on_tick")),
		},
		{
			name:  "a section in which nothing changes keeps its padded numbers",
			in:    module("\x81\x80\x00" + memory("memory")),
			wants: module("\x81\x80\x00" + memory("memory")),
		},
		{
			name:  "an export keeps its padded numbers",
			in:    module("\x02" + "\x86\x00memory\x02\x80\x00" + function("proxy_on_tick")),
			wants: module("\x01" + "\x86\x00memory\x02\x80\x00"),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := trim([]byte(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]byte(tt.wants), got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestTrimRefuses(t *testing.T) {
	whole := module("\x01" + function("proxy_on_tick"))
	tests := []struct{ name, in, want string }{
		{"nothing", "", "not a WebAssembly module"},
		{"a component", "\x00asm\x0d\x00\x01\x00", "not a WebAssembly module"},
		{"no exports", whole[:8+6], "exports nothing"},
		{"half a section", whole[:8+6+5], "has 3 bytes and says 17"},
		{"two export sections", whole + whole[8+6:8+6+2+17], "two export sections"},
		{"fewer exports than it says", module("\x02" + function("f")), "export 1: "},
		{"more bytes than exports", module("\x01" + function("f") + "x"), "1 bytes follow"},
		{"a name that ends nowhere", module("\x01\x7fab\x00\x05"), "export 0: ends early"},
		{"a number of more than 32 bits", module("\xff\xff\xff\xff\x7f" + function("f")), "count: not a number"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := trim([]byte(tt.in))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %q and error %v, want an error with %q", got, err, tt.want)
			}
		})
	}
}

// What was refused is still there.
func TestFileIsLeftAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.wasm")
	if err := os.WriteFile(file, []byte("not wasm"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("error %v, want one that names the file", err)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "not wasm" {
		t.Errorf("the file has %q now (%v)", got, err)
	}
}

// Trimming a module that the Go compiler made drops the callback and keeps all else.
func TestTrimRealModule(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	if err := os.WriteFile(source, []byte(`package main

func main() {}

//go:wasmexport proxy_on_request_headers
func headers(id, n, end uint32) uint32 { return 0 }

//go:wasmexport proxy_on_request_body
func body(id, n, end uint32) uint32 { return 0 }
`), 0o644); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "a.wasm")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-o", file, source)
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := run(file); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"proxy_on_request_headers", "_initialize", "memory"} {
		if !bytes.Contains(after, []byte(name)) {
			t.Errorf("%s is gone", name)
		}
	}
	// The export has an index of two bytes, and the section's size may have been padded with up to four.
	dropped := len("\x15proxy_on_request_body\x00") + 2
	if got := len(before) - len(after); got < dropped || got > dropped+4 {
		t.Errorf("%d bytes dropped, want %d to %d", got, dropped, dropped+4)
	}
	again, err := trim(after)
	if err != nil || !bytes.Equal(again, after) {
		t.Errorf("trimming twice is not trimming once (%v)", err)
	}
}

// Whatever it is given, it does not panic; what it returns is never longer, and trimming that changes nothing.
func FuzzTrim(f *testing.F) {
	f.Add([]byte(module("\x02" + memory("memory") + function("proxy_on_tick"))))
	f.Add([]byte(module("\x81\x80\x00" + memory("memory"))))
	f.Add([]byte("\x00asm\x01\x00\x00\x00\x07\xff\xff\xff\xff\x0f"))
	f.Fuzz(func(t *testing.T, b []byte) {
		once, err := trim(b)
		if err != nil {
			return
		}
		if len(once) > len(b) {
			t.Errorf("grew from %d to %d bytes", len(b), len(once))
		}
		twice, err := trim(once)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(once, twice) {
			t.Errorf("once %q, twice %q", once, twice)
		}
	})
}

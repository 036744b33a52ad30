package vm

import (
	"testing"

	"github.com/tetratelabs/wazero/api"

	"switchyard/hostsim/abi"
)

// Keys are views of guest memory, and the guest uses that for something else
// afterwards: also where a value replaces one.
func TestSharedKeysAreCopied(t *testing.T) {
	s := newSharedStore()
	for _, value := range []string{"one", "two"} {
		memory := []byte("key")
		v := &instance{memory: bytesMemory{b: memory}}
		key, _ := v.readString(0, 3)
		if status := s.set("vm", key, value, 0); status != abi.StatusOK {
			t.Fatal(status)
		}
		copy(memory, "???")
		if got, ok := s.get("vm", "key"); !ok || got.data != value {
			t.Errorf("got %q, %v, want %q", got.data, ok, value)
		}
	}
}

// bytesMemory is a guest's memory of which only Read is used.
type bytesMemory struct {
	api.Memory
	b []byte
}

func (m bytesMemory) Read(offset, size uint32) ([]byte, bool) { return m.b[offset:][:size], true }

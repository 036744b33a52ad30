package abi

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPairs(t *testing.T) {
	tests := []struct {
		name  string
		wire  string
		pairs Pairs
		ok    bool
	}{
		{"an empty buffer is no list", "", nil, false},
		{"no pairs at all", "\x00\x00\x00\x00", Pairs{}, true},
		{"one pair", "\x01\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00a\x00bc\x00", Pairs{{"a", "bc"}}, true},
		{"an empty name and value", "\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", Pairs{{"", ""}}, true},
		{"a NUL inside a value", "\x01\x00\x00\x00\x01\x00\x00\x00\x03\x00\x00\x00a\x00b\x00c\x00", Pairs{{"a", "b\x00c"}}, true},
		{"a stray byte at the end", "\x01\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00a\x00bc\x00\x00", nil, false},
		{"no NUL behind the name", "\x01\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00a!bc\x00", nil, false},
		{"a length beyond the buffer", "\x01\x00\x00\x00\x01\x00\x00\x00\xff\xff\xff\xffa\x00bc\x00", nil, false},
		{"a count beyond the buffer", "\x02\x00\x00\x00\x01\x00\x00\x00", nil, false},
		{"a count beyond the limit", "\x01\x04\x00\x00" + strings.Repeat("\x00", 10*1025), nil, false},
		{"a count at the limit", "\x00\x04\x00\x00" + strings.Repeat("\x00", 10*1024), make(Pairs, 1024), true},
		{"more bytes than the limit", "\x01\x00\x00\x00\x00\x00\x00\x00\xf4\xff\x0f\x00\x00" + strings.Repeat("a", 1048564) + "\x00", nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := ParsePairs([]byte(tt.wire))
			if ok != tt.ok {
				t.Fatalf("ok = %v, want %v", ok, tt.ok)
			}
			if diff := cmp.Diff(tt.pairs, got); diff != "" {
				t.Errorf("ParsePairs (-want +got):\n%s", diff)
			}
			if !tt.ok {
				return
			}
			if got := string(AppendPairs(nil, tt.pairs)); got != tt.wire {
				t.Errorf("AppendPairs = %q, want %q", got, tt.wire)
			}
			if got := PairsSize(tt.pairs); got != len(tt.wire) {
				t.Errorf("PairsSize = %d, want %d", got, len(tt.wire))
			}
		})
	}
}

func FuzzPairs(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x01\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00a\x00bc\x00"))
	f.Add([]byte("\x02\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00a\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		pairs, ok := ParsePairs(wire)
		if !ok {
			return
		}
		if got := AppendPairs(nil, pairs); !bytes.Equal(got, wire) {
			t.Errorf("AppendPairs(ParsePairs(%q)) = %q", wire, got)
		}
	})
}

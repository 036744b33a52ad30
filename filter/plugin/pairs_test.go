package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"switchyard/filter"
)

const twoPairs = "\x02\x00\x00\x00" + "\x05\x00\x00\x00\x01\x00\x00\x00" + "\x01\x00\x00\x00\x00\x00\x00\x00" +
	":path\x00/\x00" + "a\x00\x00"

func TestPairs(t *testing.T) {
	fields := filter.HeaderMap{{Name: ":path", Value: "/"}, {Name: "a", Value: ""}}
	got, err := appendPairs(nil, twoPairs)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fields, got); diff != "" {
		t.Errorf("read (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(twoPairs, string(encodePairs(fields))); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
	for i := 1; i < len(twoPairs); i++ {
		if got, err := appendPairs(nil, twoPairs[:i]); err == nil {
			t.Errorf("the first %d bytes are read as %v", i, got)
		}
	}
}

// Whatever a host writes, reading it does not panic, and what was read is written back the same.
func FuzzPairs(f *testing.F) {
	f.Add(twoPairs)
	f.Add("\xff\xff\xff\xff")
	f.Add("\x01\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xffab")
	f.Fuzz(func(t *testing.T, b string) {
		fields, err := appendPairs(nil, b)
		if err != nil {
			return
		}
		again, err := appendPairs(nil, string(encodePairs(fields)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(fields, again); diff != "" {
			t.Errorf("-read +written and read again:\n%s", diff)
		}
	})
}

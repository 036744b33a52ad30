package bootstrap

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// fieldHint proposes a field of md for an unknown name.
func fieldHint(md protoreflect.MessageDescriptor, name string) string {
	if name == "<<" {
		return ", Envoy's YAML has no merge keys"
	}
	best := nearest{name: name}
	for i := range md.Fields().Len() {
		best.offer(string(md.Fields().Get(i).Name()))
	}
	return best.hint()
}

// typeHint proposes a known message for an unknown name.
func typeHint(name string) string {
	if strings.Contains(name, ".v2.") {
		return ", Envoy's version 2 types are gone, use version 3"
	}
	best := nearest{name: name}
	protoregistry.GlobalTypes.RangeMessages(func(mt protoreflect.MessageType) bool {
		if full := mt.Descriptor().FullName(); strings.HasPrefix(string(full), "envoy.") {
			best.offer(string(full))
		}
		return true
	})
	return best.hint()
}

// nearest keeps the offered word that differs least from name.
type nearest struct {
	name, word string
	distance   int
}

func (b *nearest) offer(word string) {
	const limit = 200
	if len(b.name) > limit {
		return
	}
	d := distance(b.name, word)
	// A third of the letters may differ, and no more than four. The smaller word wins a tie, whatever the order they come in.
	if d > min(max(len(b.name)/3, 1), 4) {
		return
	}
	if b.word == "" || d < b.distance || d == b.distance && word < b.word {
		b.word, b.distance = word, d
	}
}

func (b *nearest) hint() string {
	if b.word == "" {
		return ""
	}
	return ", did you mean " + quote(b.word) + "?"
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := diagonal
			if a[i] != b[j] {
				d++
			}
			diagonal = row[j+1]
			row[j+1] = min(d, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

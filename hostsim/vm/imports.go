package vm

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// Imports that are no functions (WebAssembly 2.0, "Import Section"): Envoy
// makes the memory and the tables that a module imports, whatever their names,
// and has nothing else to give. The engine has no imported memories that
// nobody exports, so such a module is made to define them itself.

// importedThing is an import, as far as it can be refused.
type importedThing struct {
	module, name string
	kind         byte
}

// The kinds of imports.
const (
	importFunction = iota
	importTable
	importMemory
)

// The numbers of sections, and the order in which they stand.
const (
	sectionImport  = 2
	sectionTable   = 4
	sectionMemory  = 5
	sectionElement = 9
	sectionTag     = 13
)

var sectionOrder = []byte{1, 2, 3, 4, 5, 13, 6, 7, 8, 9, 12, 10, 11}

type section struct {
	id      byte
	content []byte
}

// sections takes a module apart; ok is false if it is none.
func sections(code []byte) (list []section, ok bool) {
	for r := (byteReader{code[8:]}); len(r.b) > 0; {
		id, _ := r.byte()
		content, ok := r.bytes()
		if !ok {
			return nil, false
		}
		list = append(list, section{id, content})
	}
	return list, true
}

// ownMemory returns the module with its imported memory and tables defined in
// it, and its imports in order. What it cannot read it leaves to the engine.
func ownMemory(code []byte) (own []byte, imports []importedThing, memory bool) {
	list, ok := sections(code)
	i := slices.IndexFunc(list, func(s section) bool { return s.id == sectionImport })
	if !ok || i < 0 {
		return code, nil, false
	}
	r := byteReader{list[i].content}
	n, ok := r.uint32()
	var kept []byte
	left := 0
	moved := map[byte][][]byte{} // by section: what is defined there
	for ; ok && n > 0; n-- {
		begin := r.b
		module, _ := r.bytes()
		name, _ := r.bytes()
		kind, _ := r.byte() // what is cut off shows in what follows
		before := r.b
		switch kind {
		case importFunction:
			_, ok = r.uint32()
		case importTable:
			if t, _ := r.byte(); t != 0x70 && t != 0x6f { // funcref, externref
				return code, nil, false
			}
			ok = r.limits()
		case importMemory:
			ok = r.limits()
			memory = true
		case 3: // a global: a type, and whether it can change
			_, _ = r.byte()
			_, ok = r.byte()
		case 4: // a tag
			_, _ = r.byte()
			_, ok = r.uint32()
		default:
			ok = false
		}
		if !ok {
			break
		}
		imports = append(imports, importedThing{string(module), string(name), kind})
		definition := before[:len(before)-len(r.b)]
		switch kind {
		case importTable:
			moved[sectionTable] = append(moved[sectionTable], definition)
		case importMemory:
			moved[sectionMemory] = append(moved[sectionMemory], definition)
		default:
			kept = append(kept, begin[:len(begin)-len(r.b)]...)
			left++
		}
	}
	switch {
	case !ok:
		return code, nil, false
	case len(moved) == 0:
		return code, imports, false
	}
	list[i].content = append(binary.AppendUvarint(nil, uint64(left)), kept...)
	for id, definitions := range moved {
		list = define(list, id, definitions)
	}
	out := bytes.Clone(code[:8])
	for _, s := range list {
		out = append(out, s.id)
		out = append(binary.AppendUvarint(out, uint64(len(s.content))), s.content...)
	}
	return out, imports, memory
}

// define puts definitions in front of those of a section, where what was
// imported has its place.
func define(list []section, id byte, definitions [][]byte) []section {
	added := slices.Concat(definitions...)
	for i := range list {
		if list[i].id != id {
			continue
		}
		r := byteReader{list[i].content}
		n, _ := r.uint32()
		list[i].content = slices.Concat(binary.AppendUvarint(nil, uint64(n)+uint64(len(definitions))), added, r.b)
		return list
	}
	s := section{id, append(binary.AppendUvarint(nil, uint64(len(definitions))), added...)}
	rank := slices.Index(sectionOrder, id)
	i := slices.IndexFunc(list, func(s section) bool { return slices.Index(sectionOrder, s.id) > rank })
	if i < 0 {
		i = len(list)
	}
	return slices.Insert(list, i, s)
}

// limits reads the size of a memory or table.
func (r *byteReader) limits() bool {
	form, ok := r.byte()
	if !ok || form > 3 { // not of 64 bits
		return false
	}
	if _, ok = r.uint32(); ok && form&1 != 0 {
		_, ok = r.uint32()
	}
	return ok
}

// elements looks at the tables of a module and what its element segments put
// there: whether any element stays empty, and whether a segment does not fit,
// which the engine does not mind. Of tables and segments in rarer forms it
// knows nothing and says no.
func elements(code []byte) (gaps, outside bool) {
	list, _ := sections(code)
	empty, first := uint64(0), uint64(0)
	for _, s := range list {
		r := byteReader{s.content}
		var n uint32
		ok := true
		if s.id == sectionTable || s.id == sectionElement {
			n, ok = r.uint32()
		}
		for i := range n {
			var form byte
			var size, offset, count uint32
			switch s.id {
			case sectionTable: // a type, and limits
				_, _ = r.byte()
				form, _ = r.byte()
				if size, ok = r.uint32(); ok && form&1 != 0 {
					_, ok = r.uint32()
				}
				ok = ok && form <= 1
				empty += uint64(size)
				if i == 0 {
					first = uint64(size)
				}
			case sectionElement: // of functions, active in table 0, from i32.const on
				form, _ = r.byte()
				opcode, _ := r.byte()
				offset, _ = r.uint32()
				end, _ := r.byte()
				count, ok = r.uint32()
				ok = ok && form == 0 && opcode == 0x41 && end == 0x0b
				empty -= min(empty, uint64(count))
				for i := count; ok && i > 0; i-- {
					_, ok = r.uint32()
				}
				if offset&0x40 != 0 && offset < 0x80 {
					ok = false // a negative number of one byte
				}
				outside = outside || ok && uint64(offset)+uint64(count) > first
			}
			if !ok {
				return false, outside
			}
		}
	}
	return empty > 0, outside
}

// beyondEngine says what a module uses that the engine does not have, or "".
func beyondEngine(code []byte) string {
	list, _ := sections(code)
	for _, s := range list {
		if s.id == sectionTag {
			return "exceptions as they were before WebAssembly 3.0"
		}
		if s.id != sectionMemory {
			continue
		}
		r := byteReader{s.content}
		n, _ := r.uint32()
		form, _ := r.byte()
		switch {
		case n > 1:
			return "several memories"
		case form&4 != 0:
			return "a memory of 64 bits"
		}
	}
	return ""
}

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// exportSection is the id of the export section, WebAssembly Core 5.5.10.
const exportSection = 7

// trim returns the module without the exported functions that are called proxy_on_... and not kept. Every other export
// and every other section stays as it is. What is not a well-formed row of sections with one export section is an error.
func trim(module []byte) ([]byte, error) {
	const header = "\x00asm\x01\x00\x00\x00" // 5.5.16: magic, and version 1; components have another
	if !strings.HasPrefix(string(module), header) {
		return nil, errors.New("not a WebAssembly module of version 1")
	}
	out := []byte(header)
	exports := 0
	for rest := module[len(header):]; len(rest) > 0; {
		id := rest[0]
		size, n, err := u32(rest[1:])
		if err != nil {
			return nil, fmt.Errorf("section %d: size: %w", id, err)
		}
		content := rest[1+n:]
		if uint64(size) > uint64(len(content)) {
			return nil, fmt.Errorf("section %d: has %d bytes and says %d", id, len(content), size)
		}
		content = content[:size]
		section := rest[:1+n+len(content)]
		rest = rest[len(section):]
		if id != exportSection {
			out = append(out, section...)
			continue
		}
		if exports++; exports > 1 {
			return nil, errors.New("has two export sections")
		}
		fewer, dropped, err := trimSection(content)
		if err != nil {
			return nil, fmt.Errorf("export section: %w", err)
		}
		if dropped == 0 {
			out = append(out, section...)
			continue
		}
		out = append(out, exportSection)
		out = binary.AppendUvarint(out, uint64(len(fewer)))
		out = append(out, fewer...)
	}
	if exports == 0 {
		return nil, errors.New("exports nothing")
	}
	return out, nil
}

// trimSection trims the content of an export section: a vector of (name, kind, index).
func trimSection(content []byte) (fewer []byte, dropped int, err error) {
	count, n, err := u32(content)
	if err != nil {
		return nil, 0, fmt.Errorf("count: %w", err)
	}
	rest := content[n:]
	var stay []byte
	for i := range count {
		length, n, err := u32(rest)
		if err != nil {
			return nil, 0, fmt.Errorf("export %d: length of its name: %w", i, err)
		}
		// One byte at least for the kind, and one for the index.
		if uint64(length)+2 > uint64(len(rest)-n) {
			return nil, 0, fmt.Errorf("export %d: ends early", i)
		}
		name, after := string(rest[n:n+int(length)]), n+int(length)
		kind := rest[after]
		_, n, err = u32(rest[after+1:])
		if err != nil {
			return nil, 0, fmt.Errorf("export %q: index: %w", name, err)
		}
		export := rest[:after+1+n]
		rest = rest[len(export):]
		if kind == 0 && strings.HasPrefix(name, "proxy_on_") && !kept[name] {
			dropped++
			continue
		}
		stay = append(stay, export...)
	}
	if len(rest) > 0 {
		return nil, 0, fmt.Errorf("%d bytes follow the last export", len(rest))
	}
	fewer = binary.AppendUvarint(nil, uint64(count)-uint64(dropped))
	return append(fewer, stay...), dropped, nil
}

// u32 reads an unsigned LEB128 of 32 bits, 5.2.2, and how many bytes it takes; padded ones, which linkers like, too.
func u32(b []byte) (value uint32, n int, err error) {
	if len(b) > 5 {
		b = b[:5]
	}
	v, n := binary.Uvarint(b)
	if n <= 0 || v > 1<<32-1 {
		return 0, 0, errors.New("not a number of 32 bits")
	}
	return uint32(v), n, nil
}

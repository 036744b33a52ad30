//go:build !tinygo

package main

import (
	"encoding/binary"
	"errors"

	"switchyard/filter"
)

// The wire form of a header map in Proxy-Wasm: a count, for each field the lengths of its name and of its value, then
// names and values, each with a NUL behind it. Numbers have 32 bits and are little-endian.

// appendPairs reads a header map and appends its fields. They share the memory of b.
func appendPairs(fields filter.HeaderMap, b string) (filter.HeaderMap, error) {
	if b == "" {
		return fields, nil // an empty map
	}
	errShort := errors.New("the header map ends early")
	if len(b) < 4 {
		return fields, errShort
	}
	count, lengths := u32(b), b[4:]
	if uint64(count)*8 > uint64(len(lengths)) {
		return fields, errShort
	}
	data := lengths[count*8:]
	next := func(length string) (s string, ok bool) {
		n := u32(length)
		if uint64(n)+1 > uint64(len(data)) {
			return "", false
		}
		s, data = data[:n], data[n+1:]
		return s, true
	}
	for i := range int(count) {
		name, ok := next(lengths[i*8:])
		if !ok {
			return fields, errShort
		}
		value, ok := next(lengths[i*8+4:])
		if !ok {
			return fields, errShort
		}
		fields = append(fields, filter.Field{Name: name, Value: value})
	}
	return fields, nil
}

// encodePairs is the inverse of appendPairs.
func encodePairs(fields []filter.Field) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(fields)))
	for _, f := range fields {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(f.Name)))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(f.Value)))
	}
	for _, f := range fields {
		b = append(append(b, f.Name...), 0)
		b = append(append(b, f.Value...), 0)
	}
	return b
}

func u32(s string) uint32 {
	return uint32(s[0]) | uint32(s[1])<<8 | uint32(s[2])<<16 | uint32(s[3])<<24
}

package abi

import "encoding/binary"

// Limits of the serialised form that a host accepts from a guest
// (proxy-wasm-cpp-host, limits.h). What a host sends has no limit.
const (
	MaxPairsBytes = 1 << 20 // size of the whole buffer
	MaxPairs      = 1024    // number of pairs in it
)

// PairSource is anything that lists name and value pairs in order.
type PairSource interface {
	Len() int
	At(i int) (name, value string)
}

// Pairs is a list of name and value pairs in order. It is a PairSource.
type Pairs [][2]string

// Len returns the number of pairs.
func (p Pairs) Len() int { return len(p) }

// At returns the i-th pair.
func (p Pairs) At(i int) (name, value string) { return p[i][0], p[i][1] }

// PairsSize returns how many bytes AppendPairs appends.
func PairsSize(p PairSource) int {
	size := 4
	for i := range p.Len() {
		name, value := p.At(i)
		size += 8 + len(name) + 1 + len(value) + 1
	}
	return size
}

// AppendPairs appends the serialised form of p to dst: the number of pairs,
// then for each the lengths of name and value, all as 32 bit little endian,
// then for each name and value with a NUL behind each (Proxy-Wasm 0.2.1,
// "Serialization").
func AppendPairs(dst []byte, p PairSource) []byte {
	n := p.Len()
	dst = binary.LittleEndian.AppendUint32(dst, uint32(n))
	for i := range n {
		name, value := p.At(i)
		dst = binary.LittleEndian.AppendUint32(dst, uint32(len(name)))
		dst = binary.LittleEndian.AppendUint32(dst, uint32(len(value)))
	}
	for i := range n {
		name, value := p.At(i)
		dst = append(dst, name...)
		dst = append(dst, 0)
		dst = append(dst, value...)
		dst = append(dst, 0)
	}
	return dst
}

// ParsePairs is the inverse of AppendPairs, as strict as Envoy: an empty or
// oversized buffer, too many pairs, a length that does not fit, a missing NUL
// or a trailing byte make all of it invalid. Envoy then goes on with no pairs
// at all and no error, so callers that imitate it ignore ok. The result does
// not share memory with b.
func ParsePairs(b []byte) (pairs Pairs, ok bool) {
	if len(b) < 4 || len(b) > MaxPairsBytes {
		return nil, false
	}
	n := int(binary.LittleEndian.Uint32(b))
	if n > MaxPairs || len(b) < 4+8*n {
		return nil, false
	}
	sizes, text := b[4:4+8*n], string(b[4+8*n:])
	pairs = make(Pairs, n)
	for i := range pairs {
		for j := range 2 {
			size := int(binary.LittleEndian.Uint32(sizes))
			sizes = sizes[4:]
			if size >= len(text) || text[size] != 0 {
				return nil, false
			}
			pairs[i][j], text = text[:size], text[size+1:]
		}
	}
	if text != "" {
		return nil, false
	}
	return pairs, true
}

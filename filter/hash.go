package filter

// Both exist in the standard library, which brings in so much (crypto/sha1 a FIPS 140 module with its self-tests) that the
// .wasm of a small compiler would be several times as large. What is hashed here is no secret.

// sha1 returns the SHA-1 digest of s, FIPS 180-4 6.1.
func sha1(s string) [20]byte {
	h := [5]uint32{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0}
	bits := uint64(len(s)) * 8
	var block [64]byte
	for len(s) >= len(block) {
		copy(block[:], s)
		sha1Block(&h, &block)
		s = s[len(block):]
	}
	// What is left, one bit, zeros, and the length in the last 8 bytes of a block.
	block = [64]byte{}
	block[copy(block[:], s)] = 0x80
	if len(s) >= 56 {
		sha1Block(&h, &block)
		block = [64]byte{}
	}
	for i := range 8 {
		block[56+i] = byte(bits >> (56 - 8*i))
	}
	sha1Block(&h, &block)

	var digest [20]byte
	for i := range digest {
		digest[i] = byte(h[i/4] >> (24 - 8*(i%4)))
	}
	return digest
}

func sha1Block(h *[5]uint32, block *[64]byte) {
	var w [80]uint32
	for i := range 16 {
		w[i] = uint32(block[4*i])<<24 | uint32(block[4*i+1])<<16 | uint32(block[4*i+2])<<8 | uint32(block[4*i+3])
	}
	for i := 16; i < len(w); i++ {
		w[i] = rotate(w[i-3]^w[i-8]^w[i-14]^w[i-16], 1)
	}
	a, b, c, d, e := h[0], h[1], h[2], h[3], h[4]
	for i := range w {
		var f, k uint32
		switch {
		case i < 20:
			f, k = b&c|^b&d, 0x5a827999
		case i < 40:
			f, k = b^c^d, 0x6ed9eba1
		case i < 60:
			f, k = b&c|b&d|c&d, 0x8f1bbcdc
		default:
			f, k = b^c^d, 0xca62c1d6
		}
		a, b, c, d, e = rotate(a, 5)+f+e+k+w[i], a, rotate(b, 30), c, d
	}
	h[0], h[1], h[2], h[3], h[4] = h[0]+a, h[1]+b, h[2]+c, h[3]+d, h[4]+e
}

func rotate(x uint32, n uint) uint32 { return x<<n | x>>(32-n) }

// base64 returns the base64 encoding of b with padding, RFC 4648 4.
func base64(b []byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	out := make([]byte, 0, (len(b)+2)/3*4)
	for ; len(b) > 0; b = b[min(3, len(b)):] {
		var three [3]byte
		copy(three[:], b)
		x := uint(three[0])<<16 | uint(three[1])<<8 | uint(three[2])
		out = append(out, alphabet[x>>18], alphabet[x>>12&63], alphabet[x>>6&63], alphabet[x&63])
		for pad := len(b); pad < 3; pad++ {
			out[len(out)-3+pad] = '='
		}
	}
	return string(out)
}

// isBase64 reports whether c is of the alphabet that base64 encodes with.
func isBase64(c byte) bool {
	return 'a' <= lower(c) && lower(c) <= 'z' || isDigit(c) || c == '+' || c == '/'
}

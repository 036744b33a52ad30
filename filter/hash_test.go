package filter

import (
	stdsha1 "crypto/sha1"
	stdbase64 "encoding/base64"
	"strings"
	"testing"
)

func TestSHA1AndBase64AreThoseOfTheStandardLibrary(t *testing.T) {
	text := strings.Repeat("The quick brown fox\x00\xff", 15)
	for n := range len(text) {
		s := text[:n]
		if got, want := sha1(s), stdsha1.Sum([]byte(s)); got != want {
			t.Errorf("sha1 of %d bytes: %x, want %x", n, got, want)
		}
		if got, want := base64([]byte(s)), stdbase64.StdEncoding.EncodeToString([]byte(s)); got != want {
			t.Errorf("base64 of %d bytes: %s, want %s", n, got, want)
		}
	}
	for i := range 256 {
		c := byte(i)
		_, err := stdbase64.RawStdEncoding.DecodeString("A" + string(c))
		if want := err == nil && c != '\n' && c != '\r'; isBase64(c) != want {
			t.Errorf("isBase64(%q) = %v, want %v", c, !want, want)
		}
	}
}

func FuzzHash(f *testing.F) {
	f.Add("dGhlIHNhbXBsZSBub25jZQ==258EAFA5-E914-47DA-95CA-C5AB0DC85B11")
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := sha1(s), stdsha1.Sum([]byte(s)); got != want {
			t.Fatalf("sha1(%q) = %x, want %x", s, got, want)
		}
		if got, want := base64([]byte(s)), stdbase64.StdEncoding.EncodeToString([]byte(s)); got != want {
			t.Fatalf("base64(%q) = %s, want %s", s, got, want)
		}
	})
}

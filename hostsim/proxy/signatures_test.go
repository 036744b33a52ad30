package proxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"switchyard/hostsim/abi"
)

// A signature by ECDSA is another one each time, so e2e cannot compare it with
// Envoy's: what is signed has to verify.
func TestSignatureByECDSA(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	message := func(fields ...[]byte) (b []byte) {
		for i, value := range fields {
			b = protowire.AppendBytes(protowire.AppendTag(b, protowire.Number(i+1), protowire.BytesType), value)
		}
		return b
	}
	result, status := sign(message([]byte("sha256"), private, []byte("text")))
	signed, ok := lengthDelimited(result)
	if status != abi.StatusOK || !ok || len(signed[2]) == 0 {
		t.Fatalf("sign gives %d %q", status, result)
	}
	for _, test := range []struct{ name, text, want string }{
		{"the text", "text", "\x08\x01"},
		{"another text", "test", "\x12\x26Failed to verify digest. Error code: 0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, status := verifySignature(message([]byte("sha256"), public, signed[2], []byte(test.text)))
			if status != abi.StatusOK || string(got) != test.want {
				t.Errorf("verify_signature gives %d %q, want %q", status, got, test.want)
			}
		})
	}
}

package proxy

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"switchyard/hostsim/abi"
)

// This file is the foreign functions sign and verify_signature: RSA (PKCS #1
// v1.5) and ECDSA over a hash (source/common/crypto/utility_impl.cc).

// verifySignature takes a VerifySignatureArguments (hash_function, public_key,
// signature, text, public_key_pem) and gives a VerifySignatureResult.
func verifySignature(args []byte) ([]byte, abi.Status) {
	fields, ok := lengthDelimited(args)
	if !ok || !utf8.Valid(fields[1]) || !utf8.Valid(fields[5]) || (len(fields[2]) == 0) == (len(fields[5]) == 0) {
		return nil, abi.StatusBadArgument
	}
	refuse := func(why string) ([]byte, abi.Status) {
		return protowire.AppendString(protowire.AppendTag(nil, 2, protowire.BytesType), why), abi.StatusOK
	}
	hash, ok := hashNamed(string(fields[1]))
	if !ok {
		return refuse(string(fields[1]) + " is not supported.")
	}
	digest, valid := digestOf(hash, fields[4]), false
	der := fields[2]
	if len(der) == 0 {
		der = pemBlock(fields[5], "PUBLIC KEY")
	}
	key, _ := x509.ParsePKIXPublicKey(firstElement(der))
	switch key := key.(type) {
	case *rsa.PublicKey:
		valid = rsa.VerifyPKCS1v15(key, hash, digest, fields[3]) == nil
	case *ecdsa.PublicKey:
		valid = ecdsa.VerifyASN1(key, digest, fields[3])
	default:
		return refuse("Failed to initialize digest verify.")
	}
	if !valid {
		return refuse("Failed to verify digest. Error code: 0")
	}
	return yes(), abi.StatusOK
}

// sign takes a SignArguments (hash_function, private_key, text,
// private_key_pem) and gives a SignResult.
func sign(args []byte) ([]byte, abi.Status) {
	fields, ok := lengthDelimited(args)
	if !ok || !utf8.Valid(fields[1]) || !utf8.Valid(fields[4]) || (len(fields[2]) == 0) == (len(fields[4]) == 0) {
		return nil, abi.StatusBadArgument
	}
	refuse := func(why string) ([]byte, abi.Status) {
		return protowire.AppendString(protowire.AppendTag(nil, 3, protowire.BytesType), why), abi.StatusOK
	}
	hash, ok := hashNamed(string(fields[1]))
	if !ok {
		return refuse(string(fields[1]) + " is not supported.")
	}
	key, _ := x509.ParsePKCS8PrivateKey(firstElement(fields[2]))
	if len(fields[4]) > 0 {
		key = privateKey(pemBlock(fields[4], "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"))
	}
	digest := digestOf(hash, fields[3])
	var signature []byte
	var err error
	switch key := key.(type) {
	case nil:
		return refuse("Invalid key type: private key required for signing operation.")
	case *rsa.PrivateKey:
		signature, err = rsa.SignPKCS1v15(nil, key, hash, digest)
	case *ecdsa.PrivateKey:
		signature, err = ecdsa.SignASN1(rand.Reader, key, digest)
	default:
		return refuse("Invalid private key: key data is corrupted or malformed.")
	}
	if err != nil {
		return refuse("Failed to sign digest.")
	}
	return protowire.AppendBytes(protowire.AppendTag(yes(), 2, protowire.BytesType), signature), abi.StatusOK
}

// yes is field 1 of either result.
func yes() []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1)
}

func hashNamed(name string) (crypto.Hash, bool) {
	h, ok := map[string]crypto.Hash{
		"sha1": crypto.SHA1, "sha224": crypto.SHA224, "sha256": crypto.SHA256, "sha384": crypto.SHA384, "sha512": crypto.SHA512,
	}[lower(name)]
	return h, ok
}

func digestOf(hash crypto.Hash, text []byte) []byte {
	h := hash.New()
	h.Write(text)
	return h.Sum(nil)
}

// firstElement cuts what stands behind a DER element.
func firstElement(der []byte) []byte {
	var first asn1.RawValue
	if _, err := asn1.Unmarshal(der, &first); err != nil {
		return der
	}
	return first.FullBytes
}

// privateKey reads PKCS #8, or the older form of its algorithm; nil is none.
func privateKey(der []byte) any {
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		return key
	}
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key
	}
	return nil
}

// pemBlock finds the first block of one of these types.
func pemBlock(text []byte, types ...string) []byte {
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return nil
		}
		for _, t := range types {
			if block.Type == t {
				return block.Bytes
			}
		}
		text = rest
	}
}

// lengthDelimited reads the fields of a message that are text, bytes or
// messages; the last of each counts.
func lengthDelimited(b []byte) (fields map[protowire.Number][]byte, ok bool) {
	fields = map[protowire.Number][]byte{}
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, false
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
			return nil, false
		}
		if kind == protowire.BytesType {
			fields[number], _ = protowire.ConsumeBytes(b)
		}
		b = b[n:]
	}
	return fields, true
}

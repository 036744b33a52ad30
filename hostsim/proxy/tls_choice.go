package proxy

import (
	"crypto/ecdsa"
	"crypto/tls"
	"slices"
	"strings"
)

// This file is what the server's part of a handshake chooses: certificate,
// cipher and curve. crypto/tls would choose by an order of its own, so it is left
// no choice.

// choose is the configuration for one client, from that of its connection.
func (t *transportSocket) choose(config *tls.Config, hello *tls.ClientHelloInfo) *tls.Config {
	c := config.Clone()
	if !slices.ContainsFunc(c.NextProtos, func(ours string) bool { return slices.Contains(hello.SupportedProtos, ours) }) {
		c.NextProtos = nil // no protocol in common is no reason to refuse
	}
	version := uint16(0)
	for _, v := range hello.SupportedVersions {
		if v >= c.MinVersion && v <= c.MaxVersion {
			version = max(version, v)
		}
	}
	for _, curve := range config.CurvePreferences {
		if slices.Contains(hello.SupportedCurves, curve) && (version >= tls.VersionTLS13 || curve != tls.X25519MLKEM768) {
			c.CurvePreferences = []tls.CurveID{curve}
			break
		}
	}
	if version < tls.VersionTLS13 {
		certificate := t.certificateFor(hello)
		c.CipherSuites = []uint16{} // none
		if id := t.cipherFor(hello, certificate, version); id != 0 && curveAgreed(hello, certificate) {
			c.CipherSuites = []uint16{id}
		}
	}
	return c
}

// ofECDSA says that a certificate has such a key, and on which curve.
func ofECDSA(c *tls.Certificate) (tls.CurveID, bool) {
	key, ok := c.Leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return 0, false
	}
	return map[int]tls.CurveID{256: tls.CurveP256, 384: tls.CurveP384, 521: tls.CurveP521}[key.Curve.Params().BitSize], true
}

// curveAgreed says whether a client knows the curve of a certificate, as up to
// TLS 1.2 it must (RFC 8422 5.1).
func curveAgreed(hello *tls.ClientHelloInfo, c *tls.Certificate) bool {
	curve, ecdsa := ofECDSA(c)
	return !ecdsa || len(hello.SupportedCurves) == 0 || slices.Contains(hello.SupportedCurves, curve)
}

// certificateFor is Envoy's choice (DefaultTlsCertificateSelector): by the name
// that is asked for, exact before wildcards, and an ECDSA one for whom knows its
// curve and has some cipher in common, whichever; the first where nothing fits.
func (t *transportSocket) certificateFor(hello *tls.ClientHelloInfo) *tls.Certificate {
	all := t.config.Certificates
	common := slices.Contains(hello.SupportedVersions, tls.VersionTLS13) ||
		slices.ContainsFunc(hello.CipherSuites, func(id uint16) bool { return slices.Contains(t.config.CipherSuites, id) })
	scan := func(fits func(*tls.Certificate) bool) (found *tls.Certificate) {
		for i := range all {
			if !fits(&all[i]) {
				continue
			}
			if _, ecdsa := ofECDSA(&all[i]); ecdsa && common && curveAgreed(hello, &all[i]) {
				return &all[i]
			} else if !ecdsa && found == nil {
				found = &all[i]
			}
		}
		return found
	}
	name := lower(hello.ServerName)
	var found *tls.Certificate
	if name == "" {
		found = scan(func(*tls.Certificate) bool { return true })
	} else if found = scan(func(c *tls.Certificate) bool {
		return slices.ContainsFunc(namesFor(c), func(n string) bool { return equalFold(n, name) })
	}); found == nil {
		found = scan(func(c *tls.Certificate) bool {
			return slices.ContainsFunc(namesFor(c), func(n string) bool { return strings.HasPrefix(n, "*.") && wildcardCovers(n, name) })
		})
	}
	if found == nil {
		return &all[0]
	}
	return found
}

// namesFor are those for which a certificate is chosen.
func namesFor(c *tls.Certificate) []string {
	if len(c.Leaf.DNSNames) == 0 && c.Leaf.Subject.CommonName != "" {
		return []string{c.Leaf.Subject.CommonName}
	}
	return c.Leaf.DNSNames
}

// cipherFor is the cipher of TLS 1.2 or older, 0 if there is none: the first of
// ours that the client has, of equal ones the client's first.
func (t *transportSocket) cipherFor(hello *tls.ClientHelloInfo, c *tls.Certificate, version uint16) uint16 {
	_, ecdsa := ofECDSA(c)
	for _, equal := range t.ciphers {
		for _, id := range hello.CipherSuites {
			i := slices.IndexFunc(equal, func(s *tls.CipherSuite) bool { return s.ID == id })
			if i >= 0 && slices.Contains(equal[i].SupportedVersions, version) && strings.HasPrefix(equal[i].Name, "TLS_ECDHE_ECDSA_") == ecdsa {
				return id
			}
		}
	}
	return 0
}

// cipherSuite finds what crypto/tls knows of a cipher.
func cipherSuite(id uint16) *tls.CipherSuite {
	for _, list := range [][]*tls.CipherSuite{tls.CipherSuites(), tls.InsecureCipherSuites()} {
		for _, s := range list {
			if s.ID == id {
				return s
			}
		}
	}
	return nil
}

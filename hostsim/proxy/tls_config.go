package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
)

// downstreamTLS compiles the transport_socket of a filter chain; nil is plain
// text.
func (b *builder) downstreamTLS(path string, c *corev3.TransportSocket, prefix string) (*transportSocket, error) {
	if c == nil {
		return nil, nil
	}
	path += ".typed_config"
	d, err := tlsContext[*tlsv3.DownstreamTlsContext](b, path, c)
	if err != nil {
		return nil, err
	}
	common := d.GetCommonTlsContext()
	t, err := b.transportSocket(path+".common_tls_context", common, false)
	if err != nil {
		return nil, err
	}
	if len(t.config.Certificates) == 0 {
		return nil, b.boot.Errorf(path+".common_tls_context.tls_certificates", "No TLS certificates found for server context: give tls_certificates")
	}
	t.stats = newTLSStats(&b.server.Stats, prefix, false)
	b.noteCertificates(t, common)
	if common.GetValidationContext() != nil && d.GetRequireClientCertificate() == nil { // Envoy warns of this
		b.deprecated++
	}
	v := &t.verify
	named := len(v.sans)+len(v.hashes)+len(v.keys) > 0
	v.required = v.roots != nil && d.GetRequireClientCertificate().GetValue() || named && !v.untrusted
	switch {
	case v.required:
		t.config.ClientAuth = tls.RequireAnyClientCert
	case v.roots != nil || named || v.untrusted: // Envoy asks only if it can judge
		t.config.ClientAuth = tls.RequestClientCert
	}
	t.config.ClientCAs, v.purpose = v.roots, x509.ExtKeyUsageClientAuth
	if d.GetPreferClientCiphers() {
		t.ciphers = [][]*tls.CipherSuite{slices.Concat(t.ciphers...)}
	}
	return t, b.sessionTickets(path, d, t)
}

// tlsContext unpacks the configuration of a transport socket.
func tlsContext[T any](b *builder, path string, c *corev3.TransportSocket) (context T, err error) {
	msg, err := b.boot.Unpack(c.GetTypedConfig(), path)
	if err != nil {
		return context, err
	}
	context, ok := msg.(T)
	if !ok {
		err = b.boot.Unsupported(path, "a transport socket other than TLS")
	}
	return context, err
}

// upstreamTLS compiles the transport_socket of a cluster.
func (b *builder) upstreamTLS(path string, c *corev3.TransportSocket, prefix string) (*transportSocket, error) {
	if c == nil {
		return nil, nil
	}
	path += ".typed_config"
	u, err := tlsContext[*tlsv3.UpstreamTlsContext](b, path, c)
	if err != nil {
		return nil, err
	}
	t, err := b.transportSocket(path+".common_tls_context", u.GetCommonTlsContext(), true)
	if err != nil {
		return nil, err
	}
	t.hostSNI, t.sniSAN = u.GetAutoHostSni(), u.GetAutoSniSanValidation()
	t.sni, t.verify.purpose = u.GetSni(), x509.ExtKeyUsageServerAuth
	if len(t.verify.sans) > 0 && t.verify.roots == nil {
		return nil, b.boot.Errorf(path+".common_tls_context.validation_context", "SAN-based verification of peer certificates without trusted CA is insecure and not allowed: give trusted_ca")
	}
	t.stats = newTLSStats(&b.server.Stats, prefix, true)
	b.noteCertificates(t, u.GetCommonTlsContext())
	t.sessions = &upstreamSessions{most: limitOf(u.GetMaxSessionKeys(), 1)}
	return t, nil
}

// noteCertificates makes known which certificates there are, and until when
// they are valid.
func (b *builder) noteCertificates(t *transportSocket, c *tlsv3.CommonTlsContext) {
	var context TLSCertificates
	for i := range t.config.Certificates {
		t.stats.expires("unnamed_cert", t.config.Certificates[i].Leaf)
		context.Shown = append(context.Shown, NamedCertificate{sourcePath(c.GetTlsCertificates()[i].GetCertificateChain()), t.config.Certificates[i].Leaf})
	}
	switch {
	case t.verify.authority == nil && c.GetValidationContext() != nil: // nobody whose time would be over
		t.stats.stats.Gauge(t.stats.prefix + "certificate.unnamed_ca_cert.expiration_unix_time_seconds").Set(math.MaxInt64)
	case t.verify.authority != nil:
		t.stats.expires("unnamed_ca_cert", t.verify.authority)
		context.Authority = NamedCertificate{sourcePath(c.GetValidationContext().GetTrustedCa()), t.verify.authority}
	}
	b.server.certificates = append(b.server.certificates, context)
}

// sourcePath is where a certificate came from, as /certs says it.
func sourcePath(d *corev3.DataSource) string {
	if d.GetFilename() != "" {
		return d.GetFilename()
	}
	return "<inline>"
}

// TLSCertificates are the certificates of one TLS context.
type TLSCertificates struct {
	Authority NamedCertificate // the first that is trusted; its Certificate is nil if there is none
	Shown     []NamedCertificate
}

// NamedCertificate is a certificate and the file that it came from, or
// "<inline>".
type NamedCertificate struct {
	Path string
	*x509.Certificate
}

// Certificates are those of each TLS context.
func (s *Server) Certificates() []TLSCertificates { return s.certificates }

// daysLeft is for how many days the certificate that ends first is still valid,
// or Envoy's number for none.
func (s *Server) daysLeft() int64 {
	const none = 1<<32 - 1
	least := int64(none)
	for _, context := range s.certificates {
		for _, c := range append(context.Shown[:len(context.Shown):len(context.Shown)], context.Authority) {
			if c.Certificate != nil {
				least = min(least, max(int64(time.Until(c.NotAfter)/(24*time.Hour)), 0))
			}
		}
	}
	return least
}

func (b *builder) transportSocket(path string, c *tlsv3.CommonTlsContext, client bool) (*transportSocket, error) {
	params := c.GetTlsParams()
	t := &transportSocket{config: &tls.Config{
		NextProtos: c.GetAlpnProtocols(), MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS13,
		CurvePreferences: []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256},
	}}
	if client {
		t.config.MaxVersion = tls.VersionTLS12
	}
	versions := map[tlsv3.TlsParameters_TlsProtocol]uint16{
		tlsv3.TlsParameters_TLSv1_0: tls.VersionTLS10, tlsv3.TlsParameters_TLSv1_1: tls.VersionTLS11,
		tlsv3.TlsParameters_TLSv1_2: tls.VersionTLS12, tlsv3.TlsParameters_TLSv1_3: tls.VersionTLS13,
	}
	if v, ok := versions[params.GetTlsMinimumProtocolVersion()]; ok {
		t.config.MinVersion = v
	}
	if v, ok := versions[params.GetTlsMaximumProtocolVersion()]; ok {
		t.config.MaxVersion = v
	}
	if t.config.MaxVersion < tls.VersionTLS13 {
		t.config.CurvePreferences = t.config.CurvePreferences[1:]
	}
	lists := params.GetCipherSuites()
	if len(lists) == 0 { // Envoy's own choice
		lists = []string{
			"[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]", "[ECDHE-RSA-AES128-GCM-SHA256|ECDHE-RSA-CHACHA20-POLY1305]",
			"ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384",
		}
	}
	for i, list := range lists {
		var equal []*tls.CipherSuite
		for name := range strings.SplitSeq(strings.Trim(list, "[]"), "|") {
			id := uint16(0)
			for known, openssl := range cipherNames {
				if openssl == name {
					id = known
				}
			}
			if id == 0 {
				return nil, b.boot.Unsupported(at(path+".tls_params", "cipher_suites", i), "the cipher suite "+strconv.Quote(name))
			}
			equal = append(equal, cipherSuite(id))
			t.config.CipherSuites = append(t.config.CipherSuites, id)
		}
		t.ciphers = append(t.ciphers, equal)
	}
	if curves := params.GetEcdhCurves(); len(curves) > 0 {
		t.config.CurvePreferences = nil
		for i, name := range curves {
			id := map[string]tls.CurveID{"X25519MLKEM768": tls.X25519MLKEM768, "X25519": tls.X25519, "P-256": tls.CurveP256, "P-384": tls.CurveP384, "P-521": tls.CurveP521}[name]
			if id == 0 {
				return nil, b.boot.Unsupported(at(path+".tls_params", "ecdh_curves", i), "the curve "+strconv.Quote(name))
			}
			t.config.CurvePreferences = append(t.config.CurvePreferences, id)
		}
	}
	for i, pair := range c.GetTlsCertificates() {
		path := at(path, "tls_certificates", i)
		chain, err := b.dataSource(path+".certificate_chain", pair.GetCertificateChain())
		if err != nil {
			return nil, err
		}
		key, err := b.dataSource(path+".private_key", pair.GetPrivateKey())
		if err != nil {
			return nil, err
		}
		certificate, err := tls.X509KeyPair([]byte(chain), []byte(key))
		if err != nil {
			return nil, b.boot.Errorf(path, "no usable certificate: %v", err)
		}
		t.config.Certificates = append(t.config.Certificates, certificate)
	}
	if err := b.validation(path+".validation_context", c.GetValidationContext(), &t.verify); err != nil {
		return nil, err
	}
	return t, nil
}

func (b *builder) validation(path string, c *tlsv3.CertificateValidationContext, v *verifier) error {
	if c.GetTrustedCa() != nil {
		text, err := b.dataSource(path+".trusted_ca", c.GetTrustedCa())
		if err != nil {
			return err
		}
		v.roots = x509.NewCertPool()
		for rest := []byte(text); ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			authority, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				continue
			}
			if v.authority == nil {
				v.authority = authority
			}
			if v.anyTime = c.GetAllowExpiredCertificate(); v.anyTime {
				authority = timeless(authority)
			}
			v.roots.AddCert(authority)
		}
		if v.authority == nil {
			return b.boot.Errorf(path+".trusted_ca", "Failed to load trusted CA certificates: no certificate in PEM was found")
		}
	}
	v.untrusted = c.GetTrustChainVerification() == tlsv3.CertificateValidationContext_ACCEPT_UNTRUSTED
	v.keys = c.GetVerifyCertificateSpki()
	if c.GetCrl() != nil {
		text, err := b.dataSource(path+".crl", c.GetCrl())
		if err != nil {
			return err
		}
		if v.revoked.lists, err = revocationLists(text); err != nil || len(v.revoked.lists) == 0 {
			return b.boot.Errorf(path+".crl", "Failed to load CRL: no list in PEM was found")
		}
		v.revoked.leaf = c.GetOnlyVerifyLeafCertCrl()
	}
	for _, hash := range c.GetVerifyCertificateHash() {
		v.hashes = append(v.hashes, lower(strings.ReplaceAll(hash, ":", "")))
	}
	for i, m := range c.GetMatchTypedSubjectAltNames() {
		path := at(path, "match_typed_subject_alt_names", i)
		match, err := b.stringMatch(path+".matcher", m.GetMatcher())
		if err != nil {
			return err
		}
		san := sanMatch{match: match}
		switch m.GetSanType() {
		case tlsv3.SubjectAltNameMatcher_DNS:
			san.kind, san.exact = sanDNS, m.GetMatcher().GetExact()
		case tlsv3.SubjectAltNameMatcher_URI:
			san.kind = sanURI
		case tlsv3.SubjectAltNameMatcher_EMAIL:
			san.kind = sanEmail
		case tlsv3.SubjectAltNameMatcher_IP_ADDRESS:
			san.kind = sanIP
		default:
			return b.boot.Unsupported(path+".san_type", "this type of subject alternative name")
		}
		v.sans = append(v.sans, san)
	}
	return nil
}

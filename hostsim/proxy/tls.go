package proxy

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// This file is TLS on connections, of both sides: handshakes, what is known of
// them afterwards, and what Envoy counts.

// transportSocket is a compiled TLS context.
type transportSocket struct {
	config *tls.Config
	verify verifier
	stats  *tlsStats

	sni              string // upstream
	autoSNI, autoSAN bool
	hostSNI, sniSAN  bool // auto_host_sni, auto_sni_san_validation
	sessions         *upstreamSessions

	ciphers        [][]*tls.CipherSuite // of TLS 1.2 and older, the preferred ones first, equal ones together
	sessionTimeout time.Duration        // downstream; 0: BoringSSL's own
	sessionContext [sha256.Size]byte
}

// verifier is a validation context.
type verifier struct {
	roots     *x509.CertPool    // nil: any certificate will do
	authority *x509.Certificate // the first of them
	purpose   x509.ExtKeyUsage  // what a peer's certificate has to be for
	sans      []sanMatch
	untrusted bool     // ACCEPT_UNTRUSTED: whatever is found, the peer is let in
	required  bool     // of clients
	hashes    []string // of certificates
	keys      []string // of their public keys
	anyTime   bool     // expired ones are good, too
	revoked   revocation
}

// sanMatch is one of match_typed_subject_alt_names.
type sanMatch struct {
	kind  sanKind
	match func(string) bool
	exact string // a DNS name that is matched exactly, for wildcards in certificates
}

type sanKind int

const (
	sanDNS sanKind = iota
	sanURI
	sanEmail
	sanIP
)

// tlsStats are the stats of a TLS context (ssl.*), by Envoy's names.
type tlsStats struct {
	stats  *Stats
	prefix string

	errors, handshakes, reused, noCertificate        *Stat
	verifyNoCert, verifyError, verifySAN, verifyHash *Stat
	stapleRequests, staplesOmitted                   *Stat
}

func newTLSStats(stats *Stats, prefix string, client bool) *tlsStats {
	factory := "server_ssl_socket_factory."
	if client {
		factory = "client_ssl_socket_factory."
	}
	stats.zero(prefix+factory, "downstream_context_secrets_not_ready", "ssl_context_update_by_sds", "upstream_context_secrets_not_ready")
	prefix += "ssl."
	stats.zero(prefix, "ocsp_staple_failed", "ocsp_staple_responses")
	s := func(name string) *Stat { return stats.Stat(prefix + name) }
	return &tlsStats{
		stats: stats, prefix: prefix, errors: s("connection_error"), handshakes: s("handshake"), reused: s("session_reused"),
		noCertificate: s("no_certificate"), verifyNoCert: s("fail_verify_no_cert"), verifyError: s("fail_verify_error"),
		verifySAN: s("fail_verify_san"), verifyHash: s("fail_verify_cert_hash"),
		stapleRequests: s("ocsp_staple_requests"), staplesOmitted: s("ocsp_staple_omitted"),
	}
}

// shaken counts a handshake.
func (t *tlsStats) shaken(s *tls.ConnectionState) {
	t.handshakes.Add(1)
	if s.DidResume {
		t.reused.Add(1)
	}
	if len(s.PeerCertificates) == 0 {
		t.noCertificate.Add(1)
	}
	t.stats.Stat(t.prefix + "ciphers." + cipherName(s.CipherSuite)).Add(1)
	t.stats.Stat(t.prefix + "versions." + versionName(s.Version)).Add(1)
	if alg := signatureOf(s); alg != "" {
		t.stats.Stat(t.prefix + "sigalgs." + alg).Add(1)
	}
	if curve := curveName(s.CurveID); curve != "" {
		t.stats.Stat(t.prefix + "curves." + curve).Add(1)
	}
}

// signatureOf is the algorithm by which the peer has proved to own its
// certificate: crypto/tls does not tell it, but the key leaves no choice among
// those that both sides prefer.
func signatureOf(s *tls.ConnectionState) string {
	if len(s.PeerCertificates) == 0 {
		return ""
	}
	switch key := s.PeerCertificates[0].PublicKey.(type) {
	case *ecdsa.PublicKey:
		switch key.Curve.Params().BitSize {
		case 256:
			return "ecdsa_secp256r1_sha256"
		case 384:
			return "ecdsa_secp384r1_sha384"
		}
	case *rsa.PublicKey:
		return "rsa_pss_rsae_sha256"
	}
	return ""
}

// expires notes until when a certificate is valid. Envoy names it by its
// configured name, of which there is none here.
func (t *tlsStats) expires(kind string, c *x509.Certificate) {
	if c != nil {
		t.stats.Gauge(t.prefix + "certificate." + kind + "_e3b0c442.expiration_unix_time_seconds").Set(c.NotAfter.Unix())
	}
}

// extensionStatusRequest asks for a stapled OCSP response (RFC 6066 8). There is
// none here.
const extensionStatusRequest = 5

// check judges the certificates of a peer; host is the name that
// auto_san_validation wants.
func (v *verifier) check(secure *secure, s *tls.ConnectionState, host string, stats *tlsStats) error {
	if s.DidResume {
		return nil // that was done when the session was made, of which no word is kept
	}
	if len(s.PeerCertificates) == 0 {
		if !v.required {
			return nil
		}
		stats.verifyNoCert.Add(1)
		return verifyFailed("no certificate", alertHandshakeFailure)
	}
	leaf := s.PeerCertificates[0]
	var chain []*x509.Certificate
	known := func() { // of a client that is let in
		if len(chain) > 1 {
			secure.issuer = chain[1]
		}
	}
	refuse := func(counted *Stat, failure *refusal) error {
		counted.Add(1)
		if v.untrusted {
			known()
			return nil // Envoy looks no further
		}
		return failure
	}
	if v.roots != nil {
		var why *refusal
		if chain, why = v.trusted(s.PeerCertificates); why != nil {
			return refuse(stats.verifyError, why)
		}
	}
	matches := v.sans
	if host != "" {
		matches = []sanMatch{exactSAN(host)}
	}
	if len(matches) > 0 && !matchesSAN(leaf, matches) {
		why := "SAN matcher, certificate SANs are ["
		if host != "" {
			why = "verify SAN list, expected SANs: [" + host + "], certificate SANs: ["
		}
		return refuse(stats.verifySAN, verifyFailed(why+strings.Join(allSANs(leaf), ", ")+"]", alertCertificateUnknown))
	}
	if len(v.hashes)+len(v.keys) > 0 {
		sum, key := sha256.Sum256(leaf.Raw), sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
		if !slices.Contains(v.hashes, hex.EncodeToString(sum[:])) && !slices.Contains(v.keys, base64.StdEncoding.EncodeToString(key[:])) {
			return refuse(stats.verifyHash, verifyFailed("cert hash and spki", alertBadCertificateHash))
		}
	}
	known()
	secure.validated = v.roots != nil || len(matches) > 0 || len(v.hashes)+len(v.keys) > 0
	return nil
}

// chainFailed is a chain of certificates with a fault.
func chainFailed(depth int, why string, alert uint8) *refusal {
	return verifyFailed(fmt.Sprintf("X509_verify_cert: certificate verification error at depth %d: %s", depth, why), alert)
}

// timeless is a certificate that is valid now and always was.
func timeless(c *x509.Certificate) *x509.Certificate {
	copied := *c
	copied.NotBefore, copied.NotAfter = time.Time{}, time.Now().AddDate(1, 0, 0)
	return &copied
}

// trusted looks for a chain from the peer's certificate to an authority.
func (v *verifier) trusted(shown []*x509.Certificate) ([]*x509.Certificate, *refusal) {
	if v.anyTime {
		shown = slices.Clone(shown)
		for i := range shown {
			shown[i] = timeless(shown[i])
		}
	}
	leaf := shown[0]
	inner := x509.NewCertPool()
	for _, c := range shown[1:] {
		inner.AddCert(c)
	}
	options := x509.VerifyOptions{Roots: v.roots, Intermediates: inner, KeyUsages: []x509.ExtKeyUsage{v.purpose}}
	chains, err := leaf.Verify(options)
	var invalid x509.CertificateInvalidError
	if err == nil {
		if why := v.revoked.judge(chains[0]); why != nil {
			return nil, why
		}
		return chains[0], nil
	}
	if errors.As(err, &invalid) {
		depth := max(slices.IndexFunc(shown, invalid.Cert.Equal), 0)
		switch {
		case invalid.Reason == x509.Expired && time.Now().Before(invalid.Cert.NotBefore):
			return nil, chainFailed(depth, "certificate is not yet valid", alertCertificateExpired)
		case invalid.Reason == x509.Expired:
			return nil, chainFailed(depth, "certificate has expired", alertCertificateExpired)
		case invalid.Reason == x509.IncompatibleUsage:
			return nil, chainFailed(0, "unsupported certificate purpose", alertUnsupportedCertificate)
		}
	}
	// How far the chain goes, and by what it ends.
	last, depth := leaf, 0
	for !bytes.Equal(last.RawIssuer, last.RawSubject) {
		i := slices.IndexFunc(shown[1:], func(c *x509.Certificate) bool { return last.CheckSignatureFrom(c) == nil })
		if i < 0 || depth > len(shown) {
			break
		}
		last, depth = shown[1+i], depth+1
	}
	switch {
	case !bytes.Equal(last.RawIssuer, last.RawSubject) || last.KeyUsage != 0 && last.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, chainFailed(depth, "unable to get local issuer certificate", alertUnknownCA)
	case depth == 0:
		return nil, chainFailed(depth, "self signed certificate", alertUnknownCA)
	}
	return nil, chainFailed(depth, "self signed certificate in certificate chain", alertUnknownCA)
}

func exactSAN(host string) sanMatch {
	if ip := net.ParseIP(host); ip != nil {
		return sanMatch{kind: sanIP, match: func(s string) bool { return s == host }}
	}
	return sanMatch{kind: sanDNS, exact: host, match: func(s string) bool { return equalFold(s, host) }}
}

func matchesSAN(c *x509.Certificate, matches []sanMatch) bool {
	for _, m := range matches {
		for _, name := range sansOf(c, m.kind) {
			if m.match(name) || m.exact != "" && strings.HasPrefix(name, "*.") && wildcardCovers(name, m.exact) {
				return true
			}
		}
	}
	return false
}

// wildcardCovers says whether *.domain stands for a name with one more label.
func wildcardCovers(wildcard, name string) bool {
	_, domain, ok := strings.Cut(name, ".")
	return ok && equalFold(wildcard[2:], domain)
}

// sansOf lists the subject alternative names of a kind.
func sansOf(c *x509.Certificate, kind sanKind) []string {
	var names []string
	switch kind {
	case sanDNS:
		return c.DNSNames
	case sanEmail:
		return c.EmailAddresses
	case sanURI:
		return urisOf(c)
	case sanIP:
		for _, ip := range c.IPAddresses {
			names = append(names, ip.String())
		}
	}
	return names
}

func allSANs(c *x509.Certificate) []string {
	var names []string
	for _, kind := range []sanKind{sanDNS, sanURI, sanEmail, sanIP} {
		names = append(names, sansOf(c, kind)...)
	}
	return names
}

// ---- connections

// tlsTransport is the socket below TLS. It replays what was read before TLS
// was known to be there, and can be told not to wait.
type tlsTransport struct {
	*net.TCPConn
	raw    syscall.RawConn
	replay []byte
	nowait atomic.Bool

	// As long as hands are shaken:
	withholds bool
	first     []byte // of what the other side has sent
	withheld  []byte // an alert
	records   int    // that were sent
	secrets   keyLog
	key       trafficKey // of the alert
}

// Read implements net.Conn.
func (t *tlsTransport) Read(p []byte) (n int, err error) {
	if len(t.replay) > 0 {
		n = copy(p, t.replay)
		t.replay = t.replay[n:]
		t.note(p[:n])
		return n, nil
	}
	if !t.nowait.Load() {
		n, err = t.TCPConn.Read(p)
		t.note(p[:max(n, 0)])
		return n, err
	}
	n, err = -1, os.ErrDeadlineExceeded
	t.raw.Control(func(fd uintptr) {
		n, _, err = syscall.Recvfrom(int(fd), p, syscall.MSG_DONTWAIT)
	})
	switch {
	case err == syscall.EAGAIN:
		return 0, os.ErrDeadlineExceeded
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// note keeps the beginning of what is read.
func (t *tlsTransport) note(p []byte) {
	if t.withholds && len(t.first) <= recordHead+2 {
		t.first = append(t.first, p[:min(len(p), 2*recordHead)]...)
	}
}

// secure is TLS on a connection.
type secure struct {
	*tls.Conn
	transport *tlsTransport
	state     tls.ConnectionState
	local     *x509.Certificate // that this end has shown
	issuer    *x509.Certificate // of the peer's, where that was verified
	validated bool              // the peer's, in this handshake
	session   string            // the id of one that is resumed

	begun, shaken time.Time // when the handshake began and ended
}

func newSecure(c *net.TCPConn, replay []byte) (*tlsTransport, error) {
	raw, err := c.SyscallConn()
	return &tlsTransport{TCPConn: c, raw: raw, replay: replay, withholds: true}, err
}

// now reads what is there without waiting.
func (s *secure) now(in *input) error {
	s.transport.nowait.Store(true)
	defer s.transport.nowait.Store(false)
	return in.fill(len(in.buffered()) + 1)
}

// look is peeker's look through TLS. What belongs to TLS itself is no noise.
func (s *secure) look(in *input) peeked {
	switch err := s.now(in); {
	case err == nil:
		return noise
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nothing
	}
	return ended
}

// socketOf is the socket below a connection.
func socketOf(c net.Conn) net.Conn {
	if s, ok := c.(*secure); ok {
		return s.transport.TCPConn
	}
	return c
}

// handshake is the server's part. If it fails there is a connection all the
// same, for what is known of it.
func (t *transportSocket) handshake(c *net.TCPConn, replay []byte, limit time.Duration) (*secure, error) {
	transport, err := newSecure(c, replay)
	if err != nil {
		return nil, err
	}
	s := &secure{transport: transport, begun: time.Now()}
	config := t.config.Clone()
	config.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		chosen := t.certificateFor(hello)
		s.local = chosen.Leaf
		return chosen, nil
	}
	config.KeyLogWriter = &transport.secrets
	var said *tls.ClientHelloInfo
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		said = hello
		if slices.Contains(hello.Extensions, extensionStatusRequest) {
			t.stats.stapleRequests.Add(1)
			t.stats.staplesOmitted.Add(1)
		}
		return t.choose(config, hello), nil
	}
	t.resumes(s, config)
	certificates := config.Certificates
	config.Certificates = nil
	config.VerifyConnection = func(state tls.ConnectionState) error { return t.verify.check(s, &state, "", t.stats) }
	s.Conn = tls.Server(transport, config)
	if limit > 0 {
		c.SetDeadline(time.Now().Add(limit))
	}
	err = s.Conn.Handshake()
	s.state = s.Conn.ConnectionState()
	if s.local == nil {
		s.local = certificates[0].Leaf
	}
	if err != nil {
		why := t.refusedClient(err, transport, said, &s.state)
		if !errors.As(err, new(*refusal)) && why.code != noCertificate && (why.code != 0 || why.alert != 0) {
			t.stats.errors.Add(1)
		}
		transport.tell(why.alert)
		s.state.Version = cmp.Or(s.state.Version, tls.VersionTLS12) // BoringSSL's answer before there is one
		return s, why
	}
	transport.shaken()
	c.SetDeadline(time.Time{})
	s.shaken = time.Now()
	t.stats.shaken(&s.state)
	return s, nil
}

// dial is the client's part.
func (t *transportSocket) dial(c *net.TCPConn, p *pool, limit time.Time) (*secure, *connectError) {
	transport, err := newSecure(c, nil)
	if err != nil {
		return nil, &connectError{}
	}
	s := &secure{transport: transport, begun: time.Now()}
	config := t.config.Clone()
	config.ServerName, config.InsecureSkipVerify = t.sni, true // verify does it
	config.ClientSessionCache = t.sessions.of(s)
	if len(config.NextProtos) == 0 {
		config.NextProtos = p.protocols()
	}
	if t.autoSNI && net.ParseIP(p.name) == nil {
		config.ServerName = p.name
	}
	if host := p.host.hostname; t.hostSNI && host != "" && net.ParseIP(host) == nil {
		config.ServerName = host
	}
	verify, san := t.verify, ""
	if t.sniSAN && config.ServerName != "" {
		verify.sans = []sanMatch{exactSAN(config.ServerName)}
	}
	if t.autoSAN {
		san = p.name
	}
	config.KeyLogWriter = &transport.secrets
	config.VerifyConnection = func(state tls.ConnectionState) error { return verify.check(s, &state, san, t.stats) }
	if len(config.Certificates) > 0 {
		s.local = config.Certificates[0].Leaf
	}
	s.Conn = tls.Client(transport, config)
	c.SetDeadline(limit)
	if err := s.Conn.Handshake(); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, &connectError{timeout: true}
		}
		why := refusedServer(err, transport)
		if !errors.As(err, new(*refusal)) {
			t.stats.errors.Add(1)
		}
		transport.tell(why.alert)
		return nil, &connectError{failure: why.Error()}
	}
	transport.shaken()
	c.SetDeadline(time.Time{})
	s.state, s.shaken = s.Conn.ConnectionState(), time.Now()
	t.stats.shaken(&s.state)
	t.sessions.shaken(&s.state)
	return s, nil
}

// ---- names

func versionName(v uint16) string {
	switch v {
	case tls.VersionTLS10:
		return "TLSv1"
	case tls.VersionTLS11:
		return "TLSv1.1"
	case tls.VersionTLS12:
		return "TLSv1.2"
	case tls.VersionTLS13:
		return "TLSv1.3"
	}
	return ""
}

// cipherNames are OpenSSL's, where they differ from those of the RFCs.
var cipherNames = map[uint16]string{
	tls.TLS_RSA_WITH_AES_128_CBC_SHA:                  "AES128-SHA",
	tls.TLS_RSA_WITH_AES_256_CBC_SHA:                  "AES256-SHA",
	tls.TLS_RSA_WITH_AES_128_GCM_SHA256:               "AES128-GCM-SHA256",
	tls.TLS_RSA_WITH_AES_256_GCM_SHA384:               "AES256-GCM-SHA384",
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA:          "ECDHE-ECDSA-AES128-SHA",
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA:          "ECDHE-ECDSA-AES256-SHA",
	tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA:            "ECDHE-RSA-AES128-SHA",
	tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA:            "ECDHE-RSA-AES256-SHA",
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256:       "ECDHE-ECDSA-AES128-GCM-SHA256",
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384:       "ECDHE-ECDSA-AES256-GCM-SHA384",
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256:         "ECDHE-RSA-AES128-GCM-SHA256",
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384:         "ECDHE-RSA-AES256-GCM-SHA384",
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256: "ECDHE-ECDSA-CHACHA20-POLY1305",
	tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256:   "ECDHE-RSA-CHACHA20-POLY1305",
}

func cipherName(id uint16) string {
	if name, ok := cipherNames[id]; ok {
		return name
	}
	if id == 0 {
		return ""
	}
	return tls.CipherSuiteName(id)
}

func curveName(id tls.CurveID) string {
	switch id {
	case tls.CurveP256:
		return "P-256"
	case tls.CurveP384:
		return "P-384"
	case tls.CurveP521:
		return "P-521"
	case tls.X25519MLKEM768:
		return "X25519MLKEM768"
	case tls.X25519:
		return "X25519"
	}
	return ""
}

// ---- what formats and attributes say

// fingerprint is of a certificate, as lower-case hexadecimals.
func fingerprint(c *x509.Certificate, short bool) string {
	if short {
		sum := sha1.Sum(c.Raw)
		return hex.EncodeToString(sum[:])
	}
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// escapedPEM is the certificate as a URL can carry it.
func escapedPEM(c *x509.Certificate) string {
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	var b strings.Builder
	for _, ch := range text {
		switch {
		case isAlpha(ch), isDigit(ch), strings.IndexByte("-._~", ch) >= 0:
			b.WriteByte(ch)
		default:
			fmt.Fprintf(&b, "%%%02X", ch)
		}
	}
	return b.String()
}

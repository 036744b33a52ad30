package proxy

import (
	"crypto/x509"
	"encoding/hex"
	"maps"
	"strings"
	"time"
)

// This file is what access logs and attributes say of TLS.

// peer is the certificate of the client, or nil.
func (s *stream) peer() *x509.Certificate { return s.conn.secure.peer() }

// local is the certificate that the client was shown, or nil.
func (s *stream) localCertificate() *x509.Certificate {
	if s.conn.secure == nil {
		return nil
	}
	return s.conn.secure.local
}

func (s *secure) peer() *x509.Certificate {
	if s == nil || len(s.state.PeerCertificates) == 0 {
		return nil
	}
	return s.state.PeerCertificates[0]
}

func (s *secure) version() string { return versionName(s.state.Version) }
func (s *secure) cipher() string  { return cipherName(s.state.CipherSuite) }
func (s *secure) group() string   { return curveName(s.state.CurveID) }

// asked is the server name that a client has asked for.
func (s *secure) asked() string { return s.state.ServerName }

// downstreamFailure is why a client got no TLS, which only the logs of
// connections know.
func (s *stream) downstreamFailure() string {
	if s.logType != ofConnection {
		return ""
	}
	return strings.ReplaceAll(s.conn.failure, " ", "_")
}

// upstreamSecure is TLS on the connection to the upstream, or nil.
func (s *stream) upstreamSecure() *secure {
	up := s.upstreamMeter.used
	switch {
	case up == nil:
		return nil
	case up.client != nil:
		return up.client.secure
	}
	return up.secure
}

// ofTLS is a command that says something of a connection with TLS.
func ofTLS(from func(*stream) *secure, say func(*secure) string) commandKind {
	return word(func(s *stream) string {
		if c := from(s); c != nil {
			return say(c)
		}
		return ""
	})
}

// ofCertificate is a command that says something of a certificate, if there is
// one.
func ofCertificate(from func(*stream) *x509.Certificate, say func(*x509.Certificate) string) commandKind {
	return word(func(s *stream) string {
		if c := from(s); c != nil {
			return say(c)
		}
		return ""
	})
}

// ofChain is a command that says something of each certificate of the client.
func ofChain(say func(*x509.Certificate) string) commandKind {
	return word(func(s *stream) string {
		var all []string
		if s.conn.secure != nil {
			for _, c := range s.conn.secure.state.PeerCertificates {
				all = append(all, say(c))
			}
		}
		return strings.Join(all, ",")
	})
}

func subject(c *x509.Certificate) string      { return c.Subject.String() }
func issuer(c *x509.Certificate) string       { return c.Issuer.String() }
func serial(c *x509.Certificate) string       { return hex.EncodeToString(c.SerialNumber.Bytes()) }
func fingerprint1(c *x509.Certificate) string { return fingerprint(c, true) }
func fingerprint256(c *x509.Certificate) string {
	return fingerprint(c, false)
}

func namesOf(kind sanKind) func(*x509.Certificate) string {
	return func(c *x509.Certificate) string { return strings.Join(sansOf(c, kind), ",") }
}

// validity is %DOWNSTREAM_PEER_CERT_V_START% and its like.
func validity(from func(*stream) *x509.Certificate, of func(*x509.Certificate) time.Time) commandKind {
	return commandKind{optional, func(b *builder, path, arg string) (command, error) {
		when, err := timeCommand(false, func(s *stream) time.Time { return of(from(s)) })(b, path, arg)
		return func(dst []byte, s *stream) ([]byte, kind) {
			if from(s) == nil {
				return dst, absent
			}
			return when(dst, s)
		}, err
	}}
}

func notBefore(c *x509.Certificate) time.Time { return c.NotBefore }
func notAfter(c *x509.Certificate) time.Time  { return c.NotAfter }

// withTLS adds the commands that need TLS to say anything.
func withTLS(commands map[string]commandKind) map[string]commandKind {
	peer, local := (*stream).peer, (*stream).localCertificate
	upstream := func(s *stream) *x509.Certificate { return s.upstreamSecure().peer() }
	downstream := func(s *stream) *secure { return s.conn.secure }
	peerIssuer := func(s *stream) *x509.Certificate {
		if s.conn.secure == nil {
			return nil
		}
		return s.conn.secure.issuer
	}
	shown := func(s *stream) *x509.Certificate {
		if up := s.upstreamSecure(); up != nil {
			return up.local
		}
		return nil
	}
	maps.Copy(commands, map[string]commandKind{
		"DOWNSTREAM_HANDSHAKE_DURATION": number(func(s *stream) int64 {
			if s.conn.secure == nil {
				return -1
			}
			return between(s.conn.secure.begun, s.conn.secure.shaken)
		}),
		"DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256": ofCertificate(peerIssuer, fingerprint256),
		"DOWNSTREAM_PEER_ISSUER_SERIAL":          ofCertificate(peerIssuer, serial),
		"DOWNSTREAM_TLS_SESSION_ID":              ofTLS(downstream, (*secure).sessionID),
		"UPSTREAM_TLS_SESSION_ID":                ofTLS((*stream).upstreamSecure, (*secure).sessionID),
		"UPSTREAM_SERVER_NAME":                   ofTLS((*stream).upstreamSecure, (*secure).asked),
		"DOWNSTREAM_TLS_VERSION":                 ofTLS(downstream, (*secure).version),
		"DOWNSTREAM_TLS_CIPHER":                  ofTLS(downstream, (*secure).cipher),
		"DOWNSTREAM_PEER_SUBJECT":                ofCertificate(peer, subject),
		"DOWNSTREAM_PEER_ISSUER":                 ofCertificate(peer, issuer),
		"DOWNSTREAM_PEER_SERIAL":                 ofCertificate(peer, serial),
		"DOWNSTREAM_PEER_FINGERPRINT_1":          ofCertificate(peer, fingerprint1),
		"DOWNSTREAM_PEER_FINGERPRINT_256":        ofCertificate(peer, fingerprint256),
		"DOWNSTREAM_PEER_CHAIN_SERIALS":          ofChain(serial),
		"DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1":   ofChain(fingerprint1),
		"DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256": ofChain(fingerprint256),
		"DOWNSTREAM_PEER_CERT":                   ofCertificate(peer, escapedPEM),
		"DOWNSTREAM_PEER_CERT_V_START":           validity(peer, notBefore),
		"DOWNSTREAM_PEER_CERT_V_END":             validity(peer, notAfter),
		"DOWNSTREAM_PEER_URI_SAN":                ofCertificate(peer, namesOf(sanURI)),
		"DOWNSTREAM_PEER_DNS_SAN":                ofCertificate(peer, namesOf(sanDNS)),
		"DOWNSTREAM_PEER_IP_SAN":                 ofCertificate(peer, namesOf(sanIP)),
		"DOWNSTREAM_PEER_EMAIL_SAN":              ofCertificate(peer, namesOf(sanEmail)),
		"DOWNSTREAM_LOCAL_SUBJECT":               ofCertificate(local, subject),
		"DOWNSTREAM_LOCAL_URI_SAN":               ofCertificate(local, namesOf(sanURI)),
		"DOWNSTREAM_LOCAL_DNS_SAN":               ofCertificate(local, namesOf(sanDNS)),
		"DOWNSTREAM_LOCAL_IP_SAN":                ofCertificate(local, namesOf(sanIP)),
		"DOWNSTREAM_LOCAL_EMAIL_SAN":             ofCertificate(local, namesOf(sanEmail)),
		"UPSTREAM_TLS_VERSION":                   ofTLS((*stream).upstreamSecure, (*secure).version),
		"UPSTREAM_TLS_CIPHER":                    ofTLS((*stream).upstreamSecure, (*secure).cipher),
		"UPSTREAM_PEER_SUBJECT":                  ofCertificate(upstream, subject),
		"UPSTREAM_PEER_ISSUER":                   ofCertificate(upstream, issuer),
		"UPSTREAM_PEER_CERT":                     ofCertificate(upstream, escapedPEM),
		"UPSTREAM_PEER_CERT_V_START":             validity(upstream, notBefore),
		"UPSTREAM_PEER_CERT_V_END":               validity(upstream, notAfter),
		"UPSTREAM_LOCAL_DNS_SAN":                 ofCertificate(shown, namesOf(sanDNS)),
		"UPSTREAM_LOCAL_URI_SAN":                 ofCertificate(shown, namesOf(sanURI)),
		"UPSTREAM_LOCAL_IP_SAN":                  ofCertificate(shown, namesOf(sanIP)),
		"UPSTREAM_TLS_GROUP":                     ofTLS((*stream).upstreamSecure, (*secure).group),
		"DOWNSTREAM_TLS_GROUP":                   ofTLS(downstream, (*secure).group),
		"UPSTREAM_PEER_URI_SAN":                  ofCertificate(upstream, namesOf(sanURI)),
		"UPSTREAM_PEER_DNS_SAN":                  ofCertificate(upstream, namesOf(sanDNS)),
		"UPSTREAM_PEER_IP_SAN":                   ofCertificate(upstream, namesOf(sanIP)),
	})
	return commands
}

// tlsProperty is connection.* as far as it is about TLS.
func (c *connection) tlsProperty(name string) any {
	switch name {
	case "mtls":
		return c.secure.peer() != nil
	case "requested_server_name":
		return c.serverName
	}
	if c.secure == nil {
		return nil
	}
	of := func(c *x509.Certificate, say func(*x509.Certificate) string) any {
		if c == nil {
			return nil
		}
		return nonEmpty(say(c))
	}
	first := func(kind sanKind) func(*x509.Certificate) string {
		return func(c *x509.Certificate) string {
			if names := sansOf(c, kind); len(names) > 0 {
				return names[0]
			}
			return ""
		}
	}
	switch name {
	case "tls_version":
		return c.secure.version()
	case "subject_local_certificate":
		return of(c.secure.local, subject)
	case "subject_peer_certificate":
		return of(c.secure.peer(), subject)
	case "uri_san_local_certificate":
		return of(c.secure.local, first(sanURI))
	case "uri_san_peer_certificate":
		return of(c.secure.peer(), first(sanURI))
	case "dns_san_local_certificate":
		return of(c.secure.local, first(sanDNS))
	case "dns_san_peer_certificate":
		return of(c.secure.peer(), first(sanDNS))
	case "sha256_peer_certificate_digest":
		return of(c.secure.peer(), fingerprint256)
	}
	return nil
}

package proxy

import (
	"crypto/x509"
	"encoding/asn1"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// This file is x-forwarded-client-cert, by which upstreams learn of the
// certificates of clients, and routes that ask for one.

const forwardedClientCert = "x-forwarded-client-cert"

// clientCert is forward_client_cert_details and what goes with it.
type clientCert struct {
	forward hcmv3.HttpConnectionManager_ForwardClientCertDetails
	details *hcmv3.HttpConnectionManager_SetCurrentClientCertDetails
}

// apply is ConnectionManagerUtility::mutateXfccRequestHeader.
func (c *clientCert) apply(h *Headers, s *secure) {
	if c.forward == hcmv3.HttpConnectionManager_ALWAYS_FORWARD_ONLY {
		return
	}
	if c.forward == hcmv3.HttpConnectionManager_SANITIZE || s.peer() == nil {
		h.remove(forwardedClientCert)
		return
	}
	switch c.forward {
	case hcmv3.HttpConnectionManager_APPEND_FORWARD:
		h.Add(forwardedClientCert, c.element(s))
	case hcmv3.HttpConnectionManager_SANITIZE_SET:
		h.set(forwardedClientCert, c.element(s))
	}
}

// element is what is said of this connection. What is empty is left out, but
// for a subject and URIs that were asked for.
func (c *clientCert) element(s *secure) string {
	var parts []string
	each := func(key string, values []string) {
		for _, v := range values {
			parts = append(parts, key+"="+v)
		}
	}
	peer := s.peer()
	if s.local != nil {
		each("By", sansOf(s.local, sanURI))
	}
	each("Hash", []string{fingerprint256(peer)})
	if c.details.GetCert() {
		parts = append(parts, `Cert="`+escapedPEM(peer)+`"`)
	}
	if c.details.GetChain() {
		var chain strings.Builder
		for _, one := range s.state.PeerCertificates {
			chain.WriteString(escapedPEM(one))
		}
		parts = append(parts, `Chain="`+chain.String()+`"`)
	}
	if c.details.GetSubject().GetValue() {
		parts = append(parts, `Subject="`+subject(peer)+`"`)
	}
	if c.details.GetUri() {
		uris := sansOf(peer, sanURI)
		if len(uris) == 0 {
			uris = []string{""}
		}
		each("URI", uris)
	}
	if c.details.GetDns() {
		each("DNS", sansOf(peer, sanDNS))
	}
	return strings.Join(parts, ";")
}

// urisOf are the URIs among the names of a certificate, byte for byte, which
// net/url would spell anew.
func urisOf(c *x509.Certificate) []string {
	const uri = 6 // uniformResourceIdentifier of GeneralName (RFC 5280 4.2.1.6)
	var uris []string
	for _, e := range c.Extensions {
		if !e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			continue
		}
		var names []asn1.RawValue
		if _, err := asn1.Unmarshal(e.Value, &names); err != nil {
			return nil // it has been parsed before
		}
		for _, n := range names {
			if n.Class == asn1.ClassContextSpecific && n.Tag == uri {
				uris = append(uris, string(n.Bytes))
			}
		}
	}
	return uris
}

// tlsContextMatches is RouteMatch.tls_context.
func tlsContextMatches(c *routev3.RouteMatch_TlsContextMatchOptions) condition {
	return func(s *stream) bool {
		if want := c.GetPresented(); want != nil && want.GetValue() != (s.peer() != nil) {
			return false
		}
		want := c.GetValidated()
		return want == nil || want.GetValue() == (s.conn.secure != nil && s.conn.secure.validated)
	}
}

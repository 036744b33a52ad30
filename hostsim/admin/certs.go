package admin

import (
	"crypto/x509"
	"fmt"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	"google.golang.org/protobuf/types/known/timestamppb"

	"switchyard/hostsim/proxy"
)

// certificates is /certs: what each TLS context shows and trusts.
func (h *handler) certificates(params) response {
	all := &adminv3.Certificates{}
	for _, c := range h.server.Certificates() {
		one := &adminv3.Certificate{}
		if c.Authority.Certificate != nil {
			one.CaCert = append(one.CaCert, certificateDetails(c.Authority))
		}
		for _, shown := range c.Shown {
			one.CertChain = append(one.CertChain, certificateDetails(shown))
		}
		all.Certificates = append(all.Certificates, one)
	}
	return message(all, true)
}

func certificateDetails(c proxy.NamedCertificate) *adminv3.CertificateDetails {
	d := &adminv3.CertificateDetails{
		Path: c.Path, SerialNumber: fmt.Sprintf("%x", c.SerialNumber), DaysUntilExpiration: uint64(daysLeft(c.Certificate)),
		ValidFrom: timestamppb.New(c.NotBefore), ExpirationTime: timestamppb.New(c.NotAfter),
	}
	for _, name := range c.DNSNames {
		d.SubjectAltNames = append(d.SubjectAltNames, &adminv3.SubjectAlternateName{Name: &adminv3.SubjectAlternateName_Dns{Dns: name}})
	}
	for _, uri := range c.URIs {
		d.SubjectAltNames = append(d.SubjectAltNames, &adminv3.SubjectAlternateName{Name: &adminv3.SubjectAlternateName_Uri{Uri: uri.String()}})
	}
	for _, ip := range c.IPAddresses {
		d.SubjectAltNames = append(d.SubjectAltNames, &adminv3.SubjectAlternateName{Name: &adminv3.SubjectAlternateName_IpAddress{IpAddress: ip.String()}})
	}
	return d
}

// daysLeft is for how many whole days a certificate is still valid.
func daysLeft(c *x509.Certificate) int64 { return max(int64(time.Until(c.NotAfter)/(24*time.Hour)), 0) }

package proxy

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"slices"
)

// This file is lists of revoked certificates (crl).

// revocation is what a validation context says of them.
type revocation struct {
	lists []*x509.RevocationList
	leaf  bool // only the peer's own certificate is looked up (only_verify_leaf_cert_crl)
}

// revocationLists parses PEM.
func revocationLists(text string) (lists []*x509.RevocationList, err error) {
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return lists, nil
		}
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, err
		}
		lists = append(lists, list)
	}
}

// judge looks up the certificates of a chain, the peer's first, each in the list of its issuer, which there has to be.
func (r *revocation) judge(chain []*x509.Certificate) *refusal {
	if len(r.lists) == 0 {
		return nil
	}
	const failed = "certificate revocation check against provided CRLs failed: "
	last := len(chain) - 1
	if r.leaf {
		last = 0
	}
	for depth := 0; depth <= last; depth++ {
		c, issuer := chain[depth], chain[min(depth+1, len(chain)-1)]
		i := slices.IndexFunc(r.lists, func(l *x509.RevocationList) bool {
			return bytes.Equal(l.RawIssuer, c.RawIssuer) && l.CheckSignatureFrom(issuer) == nil
		})
		if i < 0 {
			return chainFailed(depth, failed+"unable to get certificate CRL", alertUnknownCA)
		}
		if slices.ContainsFunc(r.lists[i].RevokedCertificateEntries, func(e x509.RevocationListEntry) bool { return e.SerialNumber.Cmp(c.SerialNumber) == 0 }) {
			return chainFailed(depth, failed+"certificate revoked", alertCertificateRevoked)
		}
	}
	return nil
}

package e2e

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// This file is how cases of nodiff are played over TLS.

// tlsFile is a certificate or key of testdata/tls.
func tlsFile(name string) string { return filepath.Join(root, "e2e", "testdata", "tls", name) }

// certificateOf reads a certificate of testdata/tls and its key.
func certificateOf(name string) (tls.Certificate, error) {
	return tls.LoadX509KeyPair(tlsFile(name+".pem"), tlsFile(name+".key"))
}

// clientTLS is what the words behind "tls" in a case say.
func clientTLS(words []string) (*tls.Config, error) {
	c := &tls.Config{InsecureSkipVerify: true} //nolint // what the proxy shows is compared in its log
	positional := 0
	for _, word := range words {
		if key, value, ok := strings.Cut(word, "="); ok {
			if err := tlsOption(c, key, strings.Split(value, ",")); err != nil {
				return nil, err
			}
			continue
		}
		positional++
		if word == "-" {
			continue
		}
		switch positional {
		case 1:
			c.ServerName = word
		case 2:
			c.NextProtos = strings.Split(word, ",")
		case 3:
			pair, err := certificateOf(word)
			if err != nil {
				return nil, err
			}
			// Even to a server that names other authorities.
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		default:
			return nil, fmt.Errorf("tls: %q is too much", word)
		}
	}
	return c, nil
}

func tlsOption(c *tls.Config, key string, values []string) error {
	switch key {
	case "versions":
		for i, bound := range []*uint16{&c.MinVersion, &c.MaxVersion} {
			v := values[min(i, len(values)-1)]
			if *bound = map[string]uint16{"1.0": tls.VersionTLS10, "1.1": tls.VersionTLS11, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}[v]; *bound == 0 {
				return fmt.Errorf("tls: no version %q", v)
			}
		}
	case "ciphers":
		all := append(tls.CipherSuites(), tls.InsecureCipherSuites()...)
		for _, v := range values {
			i := slices.IndexFunc(all, func(s *tls.CipherSuite) bool { return s.Name == "TLS_"+v })
			if i < 0 {
				return fmt.Errorf("tls: no cipher %q", v)
			}
			c.CipherSuites = append(c.CipherSuites, all[i].ID)
		}
	case "curves":
		for _, v := range values {
			id := map[string]tls.CurveID{"X25519MLKEM768": tls.X25519MLKEM768, "X25519": tls.X25519, "P-256": tls.CurveP256, "P-384": tls.CurveP384, "P-521": tls.CurveP521}[v]
			if id == 0 {
				return fmt.Errorf("tls: no curve %q", v)
			}
			c.CurvePreferences = append(c.CurvePreferences, id)
		}
	case "sessions": // how many the clients of the case keep together
		n, err := strconv.Atoi(values[0])
		if err != nil {
			return err
		}
		c.ClientSessionCache = tls.NewLRUClientSessionCache(n)
	default:
		return fmt.Errorf("tls: no option %q", key)
	}
	return nil
}

// A tlsClient is TLS on a connection of a client. It remembers what the last
// record was, for whether the other side said that it closes.
type tlsClient struct {
	*tls.Conn
	records *recordReader
	failure error
}

// secured puts TLS on a connection; a handshake that fails shows as the end of
// the connection.
func secured(c net.Conn, config *tls.Config) *tlsClient {
	t := &tlsClient{records: &recordReader{Conn: c}}
	t.Conn = tls.Client(t.records, config)
	_ = t.SetDeadline(time.Now().Add(nodiffPatience))
	if t.failure = t.Handshake(); t.failure == nil {
		_ = t.SetDeadline(time.Time{})
	}
	return t
}

// lines are what is to be seen of TLS, beside an alert, with which the
// connection ends.
func (t *tlsClient) lines() []string {
	if t.failure != nil {
		return []string{"tls: no handshake: " + t.failure.Error()}
	}
	s := t.ConnectionState()
	line := fmt.Sprintf("tls: %s %s protocol=%s resumed=%t certificate=%s", tls.VersionName(s.Version), tls.CipherSuiteName(s.CipherSuite), s.NegotiatedProtocol, s.DidResume, s.PeerCertificates[0].Subject)
	if s.CurveID != 0 {
		line += " curve=" + s.CurveID.String()
	}
	return []string{line, "tls: close_notify=" + strconv.FormatBool(t.records.endsWithAlert())}
}

// recordReader follows the records of TLS.
type recordReader struct {
	net.Conn
	mu     sync.Mutex
	header []byte
	left   int
}

// Read implements net.Conn.
func (r *recordReader) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	for b := bytes.NewBuffer(p[:n]); b.Len() > 0; {
		if r.left > 0 {
			r.left -= len(b.Next(r.left))
			continue
		}
		if len(r.header) == 5 {
			r.header = nil
		}
		if r.header = append(r.header, b.Next(5-len(r.header))...); len(r.header) == 5 {
			r.left = int(binary.BigEndian.Uint16(r.header[3:]))
		}
	}
	return n, err
}

// endsWithAlert says whether the last record was an alert: by its type, or in
// TLS 1.3 by its length, which content never has in the cases.
func (r *recordReader) endsWithAlert() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.header) == 5 && (r.header[0] == 21 || r.header[0] == 23 && binary.BigEndian.Uint16(r.header[3:]) == 2+1+16)
}

package proxy

import (
	"bytes"
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
)

// This file is what becomes of a handshake that fails: why, in the words of
// BoringSSL, and by which alert the other side learns of it. crypto/tls decides
// that it fails; its own alert is held back and replaced.

// refusal is the reason for which BoringSSL gives up a handshake.
type refusal struct {
	code  int    // within its library; 0: there is nothing to say
	why   string // its name, and what Envoy adds
	alert uint8  // 0: the other side is told nothing
}

// Error implements error, in Envoy's words.
func (r *refusal) Error() string {
	if r.code == 0 {
		return ""
	}
	return fmt.Sprintf("TLS_error:|%d:SSL routines:OPENSSL_internal:%s:TLS_error_end", 16<<24+r.code, r.why)
}

// inspected is the same as tls_inspector says it.
func (r *refusal) inspected() string {
	if r.code == 0 {
		return ""
	}
	return fmt.Sprintf("TLS_error|error:%08x:SSL routines:OPENSSL_internal:%s:TLS_error_end", 16<<24+r.code, r.why)
}

// noCertificate is the code of a client that has none.
const noCertificate = 192

// Alerts (RFC 8446 6.2).
const (
	alertUnexpectedMessage      = 10
	alertRecordOverflow         = 22
	alertHandshakeFailure       = 40
	alertUnsupportedCertificate = 43
	alertCertificateRevoked     = 44
	alertCertificateExpired     = 45
	alertCertificateUnknown     = 46
	alertUnknownCA              = 48
	alertDecodeError            = 50
	alertProtocolVersion        = 70
	alertBadCertificateHash     = 114
)

// verifyFailed is a certificate that is not accepted.
func verifyFailed(why string, alert uint8) *refusal {
	return &refusal{125, "CERTIFICATE_VERIFY_FAILED:verify cert failed: " + why, alert}
}

// Sizes and types of records (RFC 8446 5).
const (
	recordHead      = 5
	longestRecord   = 1<<14 + 256
	recordAlert     = 21
	recordHandshake = 22
	recordContent   = 23
)

// unreadableHello is a ClientHello that is none.
func unreadableHello() *refusal { return &refusal{131, "CLIENTHELLO_PARSE_FAILED", alertDecodeError} }

// firstRecord judges a client's first bytes (tls_open_handshake of BoringSSL):
// nil is a ClientHello, or what may become one. What is no record of a handshake
// at all is known from its head.
func firstRecord(b []byte) *refusal {
	begins := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return bytes.HasPrefix(b, []byte(w)) })
	}
	switch {
	case len(b) < recordHead:
		return nil
	case begins("GET ", "POST ", "HEAD ", "PUT "):
		return &refusal{156, "HTTP_REQUEST", 0}
	case begins("CONNE"):
		return &refusal{155, "HTTPS_PROXY_REQUEST", 0}
	case b[0]&0x80 != 0 && b[2] == 1 && b[3] == 3: // SSL 2.0
		return unreadableHello()
	case b[1] != 3:
		return &refusal{247, "WRONG_VERSION_NUMBER", alertProtocolVersion}
	case int(binary.BigEndian.Uint16(b[3:])) > longestRecord:
		return &refusal{146, "ENCRYPTED_LENGTH_TOO_LONG", alertRecordOverflow}
	case b[0] == recordAlert && len(b) > 6:
		return alertReceived(b[6])
	case b[0] != recordHandshake && b[0] != recordAlert:
		return &refusal{225, "UNEXPECTED_RECORD", alertUnexpectedMessage}
	case b[0] == recordHandshake && len(b) > recordHead && b[recordHead] != 1:
		return &refusal{223, "UNEXPECTED_MESSAGE", alertUnexpectedMessage}
	}
	return nil
}

// alertReceived is what BoringSSL says of an alert.
func alertReceived(alert uint8) *refusal {
	if name := alertName(alert); name != "" {
		return &refusal{1000 + int(alert), name, 0}
	}
	return &refusal{}
}

// alertIn finds the alert in an error of crypto/tls, whose type for it is its
// own.
func alertIn(err error) (alert uint8, ok bool) {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" {
		return 0, false
	}
	if v := reflect.ValueOf(op.Err); v.Kind() == reflect.Uint8 {
		return uint8(v.Uint()), true
	}
	return 0, false
}

// refusedClient says why the server's part of a handshake has failed. hello is
// nil where there was none.
func (t *transportSocket) refusedClient(err error, transport *tlsTransport, hello *tls.ClientHelloInfo, s *tls.ConnectionState) *refusal {
	var why *refusal
	alert, received := alertIn(err)
	switch {
	case errors.As(err, &why):
		return why
	case received:
		return alertReceived(alert)
	case hello == nil:
		why = firstRecord(transport.first)
		if why == nil && len(transport.withheld) == 0 {
			return &refusal{} // the client has gone
		}
		return cmp.Or(why, unreadableHello())
	case len(transport.withheld) == 0:
		return &refusal{}
	case !slices.ContainsFunc(hello.SupportedVersions, func(v uint16) bool { return v >= t.config.MinVersion && v <= t.config.MaxVersion }):
		return &refusal{240, "UNSUPPORTED_PROTOCOL", alertProtocolVersion}
	case t.verify.required && len(s.PeerCertificates) == 0 && !s.DidResume && transport.records > 0:
		t.stats.verifyNoCert.Add(1)
		return &refusal{noCertificate, "PEER_DID_NOT_RETURN_A_CERTIFICATE:peer did not provide required client certificate", transport.withheldAlert()}
	case len(hello.SupportedCurves) > 0 && !slices.ContainsFunc(hello.SupportedCurves, func(c tls.CurveID) bool { return slices.Contains(t.config.CurvePreferences, c) }):
		if s.Version == tls.VersionTLS13 {
			return &refusal{266, "NO_SHARED_GROUP", alertHandshakeFailure}
		}
		return &refusal{243, "WRONG_CURVE", alertHandshakeFailure}
	case transport.records == 0 && s.Version != tls.VersionTLS13 && !curveAgreed(hello, t.certificateFor(hello)):
		return &refusal{243, "WRONG_CURVE", alertHandshakeFailure}
	case transport.records == 0:
		return &refusal{184, "NO_SHARED_CIPHER", alertHandshakeFailure}
	}
	return &refusal{alert: transport.withheldAlert()}
}

// refusedServer says why the client's part of a handshake has failed.
func refusedServer(err error, transport *tlsTransport) *refusal {
	var why *refusal
	alert, received := alertIn(err)
	var header tls.RecordHeaderError
	switch {
	case errors.As(err, &why):
		return why
	case errors.As(err, &header) && header.RecordHeader[0] != 0:
		return &refusal{247, "WRONG_VERSION_NUMBER", alertProtocolVersion}
	case received:
		return alertReceived(alert)
	case len(transport.withheld) > 0:
		return &refusal{alert: transport.withheldAlert()}
	}
	return &refusal{}
}

// alertName is BoringSSL's name of an alert that was received.
func alertName(alert uint8) string {
	return map[uint8]string{
		10: "SSLV3_ALERT_UNEXPECTED_MESSAGE", 20: "SSLV3_ALERT_BAD_RECORD_MAC", 40: "SSLV3_ALERT_HANDSHAKE_FAILURE",
		42: "SSLV3_ALERT_BAD_CERTIFICATE", 43: "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE", 44: "SSLV3_ALERT_CERTIFICATE_REVOKED",
		45: "SSLV3_ALERT_CERTIFICATE_EXPIRED", 46: "SSLV3_ALERT_CERTIFICATE_UNKNOWN", 47: "SSLV3_ALERT_ILLEGAL_PARAMETER",
		48: "TLSV1_ALERT_UNKNOWN_CA", 49: "TLSV1_ALERT_ACCESS_DENIED", 50: "TLSV1_ALERT_DECODE_ERROR", 51: "TLSV1_ALERT_DECRYPT_ERROR",
		70: "TLSV1_ALERT_PROTOCOL_VERSION", 71: "TLSV1_ALERT_INSUFFICIENT_SECURITY", 80: "TLSV1_ALERT_INTERNAL_ERROR",
		112: "TLSV1_ALERT_UNRECOGNIZED_NAME", 116: "TLSV1_ALERT_CERTIFICATE_REQUIRED", 120: "TLSV1_ALERT_NO_APPLICATION_PROTOCOL",
	}[alert]
}

// ---- the alert

// Write implements net.Conn. While hands are shaken it keeps alerts for tell.
func (t *tlsTransport) Write(p []byte) (int, error) {
	if !t.withholds {
		return t.TCPConn.Write(p)
	}
	for rest := p; len(rest) >= recordHead; {
		size := recordHead + int(binary.BigEndian.Uint16(rest[3:]))
		if size > len(rest) {
			break
		}
		if record := rest[:size]; isAlert(record) {
			t.withheld = bytes.Clone(record)
			if _, err := t.TCPConn.Write(p[:len(p)-len(rest)]); err != nil {
				return 0, err
			}
			return len(p), nil
		}
		t.records++
		rest = rest[size:]
	}
	return t.TCPConn.Write(p)
}

// shaken says that the handshake is over: nothing is held back any more.
func (t *tlsTransport) shaken() {
	t.withholds, t.first, t.secrets = false, nil, keyLog{}
}

// sealedAlert is the size of an encrypted alert of TLS 1.3, which no other
// message of a handshake has.
const sealedAlert = recordHead + 2 + 1 + 16

func isAlert(record []byte) bool {
	return record[0] == recordAlert || record[0] == recordContent && len(record) == sealedAlert
}

func (t *tlsTransport) withheldAlert() uint8 {
	if r := t.withheld; len(r) == recordHead+2 {
		return r[recordHead+1]
	} else if opened := t.open(); opened != nil {
		return opened[1]
	}
	return alertHandshakeFailure
}

// tell sends an alert, fatal and as this end would be sending now: in the clear,
// or in place of crypto/tls's own one, under the same key and number.
func (t *tlsTransport) tell(alert uint8) {
	if alert == 0 {
		return
	}
	record := t.withheld
	switch {
	case len(record) == 0:
		record = []byte{recordAlert, 3, 1, 0, 2, 2, alert}
	case len(record) == recordHead+2:
		record[recordHead], record[recordHead+1] = 2, alert
	default:
		if opened := t.open(); opened != nil {
			opened[0], opened[1] = 2, alert
			record = t.seal(opened)
		}
	}
	t.TCPConn.Write(record)
}

// ---- records of TLS 1.3 (RFC 8446 5.2)

// keyLog keeps the secrets of a handshake, which crypto/tls tells in the form of
// NSS's key log.
type keyLog struct {
	secrets [][]byte
}

// Write implements io.Writer.
func (l *keyLog) Write(line []byte) (int, error) {
	if fields := bytes.Fields(line); len(fields) == 3 {
		if secret, err := hex.DecodeString(string(fields[2])); err == nil {
			l.secrets = append(l.secrets, secret)
		}
	}
	return len(line), nil
}

// trafficKey is by what a record is sealed.
type trafficKey struct {
	aead  cipher.AEAD
	nonce []byte
}

// keyOf derives the key of a secret (RFC 8446 7.3) for the ciphers with AES;
// that of the third, ChaCha20-Poly1305, is not in the standard library.
func keyOf(secret []byte, number int) (key trafficKey, err error) {
	newHash, size := sha256.New, 16
	if len(secret) == sha512.Size384 {
		newHash, size = sha512.New384, 32
	}
	expand := func(label string, n int) []byte {
		info := string(binary.BigEndian.AppendUint16(nil, uint16(n))) + string(rune(len("tls13 ")+len(label))) + "tls13 " + label + "\x00"
		derived, failed := hkdf.Expand(newHash, secret, info, n)
		err = errors.Join(err, failed)
		return derived
	}
	block, failed := aes.NewCipher(expand("key", size))
	if failed != nil {
		return key, failed
	}
	if key.aead, failed = cipher.NewGCM(block); failed != nil {
		return key, failed
	}
	key.nonce = expand("iv", key.aead.NonceSize())
	if err != nil {
		return key, err
	}
	for i, b := range binary.BigEndian.AppendUint64(nil, uint64(number)) {
		key.nonce[len(key.nonce)-8+i] ^= b
	}
	return key, nil
}

// open decrypts the alert that is held back, and keeps by what.
func (t *tlsTransport) open() []byte {
	if len(t.withheld) != sealedAlert {
		return nil
	}
	for _, secret := range t.secrets.secrets {
		for number := range t.records + 1 {
			key, err := keyOf(secret, number)
			if err != nil {
				continue
			}
			if text, err := key.aead.Open(nil, key.nonce, t.withheld[recordHead:], t.withheld[:recordHead]); err == nil {
				t.key = key
				return text
			}
		}
	}
	return nil
}

// seal encrypts in place of what open has decrypted. That was never sent, so no
// number is used twice.
func (t *tlsTransport) seal(text []byte) []byte {
	return t.key.aead.Seal(bytes.Clone(t.withheld[:recordHead]), t.key.nonce, text, t.withheld[:recordHead])
}

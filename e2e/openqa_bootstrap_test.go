package e2e

import (
	"bufio"
	"crypto/tls"
	"net"
	"strings"
	"testing"
)

// openqaName is the name that openqa.yaml gives to openQA.
const openqaName = "openqa.example.com"

// openqaBootstrap is openqa.yaml with a certificate, and with the ports of the
// daemons' TLS by those in the file.
func openqaBootstrap(t *testing.T, u *upstreams, ports map[int]int, c certificate) string {
	t.Helper()
	for port, free := range ports {
		u.ports[port] = free
	}
	u.ports[443] = 0
	text := shipped(t, "bootstrap/openqa.yaml")
	text = replace(t, text, "/etc/envoy/tls/openqa.crt", c.chain)
	text = replace(t, text, "/etc/envoy/tls/openqa.key", c.key)
	text = strings.ReplaceAll(text, "/etc/envoy/tls/openqa-ca.crt", c.chain)
	return replace(t, text, "address: 0.0.0.0", "address: 127.0.0.1")
}

// serveTLS is serve with TLS and that certificate.
func serveTLS(t *testing.T, c certificate, handle func(net.Conn, *bufio.Reader) error) int {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(c.chain, c.key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, l, handle)
}

// openqa.yaml sends each request to the daemon that it is for, and trusts no
// daemon with another certificate. `make e2e-world` has the real openQA behind
// it.
func TestOpenQABootstrap(t *testing.T) {
	const handshake = "\r\nHost: " + openqaName + "\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
	const (
		here  = "Origin: https://" + openqaName + "\r\n"
		there = "Origin: https://evil.example\r\n"
	)
	tests := []struct{ name, raw, want string }{
		{"a page", "GET /t/@@ HTTP/1.1\r\nHost: " + openqaName + "\r\n\r\n", "web 200"},
		{"the live view's socket", "GET /liveviewhandler/t/@@ HTTP/1.1" + handshake + here + "\r\n", "live 101 echo"},
		{"a worker's socket", "GET /api/v1/ws/t/@@ HTTP/1.1" + handshake + "\r\n", "worker 101 echo"},
		{"a socket of another site's page", "GET /liveviewhandler/t/@@ HTTP/1.1" + handshake + there + "\r\n", "- 403"},
		{"a socket to anywhere else", "GET /t/@@ HTTP/1.1" + handshake + here + "\r\n", "- 403"},
		{"the progress of an upload", "POST /liveviewhandler/t/@@ HTTP/1.1\r\nHost: " + openqaName + "\r\nContent-Length: 2\r\n\r\nab", "live 400"},
		{"no socket where workers connect", "GET /api/v1/ws/t/@@ HTTP/1.1\r\nHost: " + openqaName + "\r\n\r\n", "worker 400"},
	}
	for _, peer := range []peer{envoy140, hostsim} {
		t.Run(peer.name, func(t *testing.T) {
			t.Parallel()
			u, c := startUpstreams(t), newCertificate(t, openqaName)
			daemon := func(name string) func(net.Conn, *bufio.Reader) error {
				return func(c net.Conn, r *bufio.Reader) error { return u.switching(name, c, r) }
			}
			p := startOn(t, peer, openqaBootstrap(t, u, map[int]int{
				9626: serveTLS(t, c, u.web), 9627: serveTLS(t, c, daemon("worker")), 9628: serveTLS(t, c, daemon("live")),
			}, c), u)
			p.tls = c.client(t, "http/1.1")
			for _, test := range tests {
				if got := p.exchange(t, test.raw); got.String() != test.want {
					t.Errorf("%s: got %s %s, want %s", test.name, got, got.Body, test.want)
				}
			}
		})
		t.Run(peer.name+" and another certificate", func(t *testing.T) {
			t.Parallel()
			u, c := startUpstreams(t), newCertificate(t, openqaName)
			p := startOn(t, peer, openqaBootstrap(t, u, map[int]int{
				9626: serveTLS(t, newCertificate(t, openqaName), u.web), 9627: 1, 9628: 1,
			}, c), u)
			p.tls = c.client(t, "http/1.1")
			if got := p.exchange(t, tests[0].raw).String(); got != "- 503" {
				t.Errorf("got %s from a daemon that is not trusted, want - 503", got)
			}
		})
	}
}

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// A request is one line of the table: what it is, and the field lines that
// matter. The others of a handshake are added if it has an Upgrade.
type request struct {
	name   string
	fields []string
}

// values returns what the field lines of that name say, "-" if there are none.
func (r request) values(name string) string {
	var values []string
	for _, line := range r.fields {
		if n, value, _ := strings.Cut(line, ": "); n == name {
			values = append(values, value)
		}
	}
	if values == nil {
		return "-"
	}
	return strings.Join(values, " / ")
}

var requests = []request{
	{"a socket, classic Firefox", []string{"Connection: keep-alive, Upgrade", "Upgrade: websocket"}},
	{"a socket, Chromium", []string{"Connection: Upgrade", "Upgrade: websocket"}},
	{"a socket, another case", []string{"Connection: upgrade", "Upgrade: WebSocket"}},
	{"a socket, two Connection lines", []string{"Connection: keep-alive", "Connection: Upgrade", "Upgrade: websocket"}},
	{"a socket, or h2c instead", []string{"Connection: Upgrade", "Upgrade: h2c, websocket"}},
	{"a page", nil},
	{"a page, X-Upgrade-Route: websocket", []string{"X-Upgrade-Route: websocket"}},
}

// A result is what the client saw.
type result struct {
	status int
	echo   string // "yes", "no", or "-" where there was no 101
}

// send sends one request in one write and, after a 101, a WebSocket frame that
// must come back.
func (r request) send(addr, path string) (result, error) {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return result{}, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return result{}, err
	}
	lines := append([]string{"GET " + path + " HTTP/1.1", "Host: " + addr}, r.fields...)
	if r.values("Upgrade") != "-" {
		// RFC 6455 4.1.
		lines = append(lines, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
	}
	if _, err := io.WriteString(c, strings.Join(lines, "\r\n")+"\r\n\r\n"); err != nil {
		return result{}, err
	}
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		return result{}, fmt.Errorf("no answer: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return result{resp.StatusCode, "-"}, nil
	}
	if err := echo(c, br, []byte("all aboard")); err != nil {
		return result{resp.StatusCode, "no"}, nil
	}
	return result{resp.StatusCode, "yes"}, nil
}

// echo sends text, of less than 126 bytes, as one masked frame (RFC 6455 5.2)
// and reads it back as the server's unmasked one.
func echo(w io.Writer, r io.Reader, text []byte) error {
	key := [4]byte{1, 2, 3, 4}
	frame := append([]byte{0x81, 0x80 | byte(len(text))}, key[:]...)
	for i, b := range text {
		frame = append(frame, b^key[i%4])
	}
	if _, err := w.Write(frame); err != nil {
		return err
	}
	want := append([]byte{0x81, byte(len(text))}, text...)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("sent %q, got the frame %q", text, got)
	}
	return nil
}

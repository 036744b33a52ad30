package e2e

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// patience is how long a client waits for an answer: no right answer takes it.
const patience = 20 * time.Second

// An outcome is what one request led to.
type outcome struct {
	Upstream string   // "web", "websocket", several joined by "+", or "-"
	Status   int      // 0: no answer, the connection was closed or stayed silent
	Echo     bool     // after a 101, bytes flowed both ways
	Received []string // request line and field lines that upstreams received, id as @@
	Content  string   // content of a request that web received
	Answer   []string // status line and field lines of the response
	Body     string   // content of a response that is no 101
}

// String is the outcome in the notation of the corpus: "websocket 101 echo".
func (o outcome) String() string {
	s := o.Upstream
	if o.Status == 0 {
		s += " -"
	} else {
		s += " " + strconv.Itoa(o.Status)
	}
	if o.Echo {
		s += " echo"
	}
	return s
}

// hostField is the field Host up to its value.
var hostField = regexp.MustCompile(`(?i)(\nhost:[ \t]*)(?:localhost|docker|127\.0\.0\.1)(?::[0-9]+)?`)

// exchange sends raw, with an id for each @@, to the proxy in one write and
// reports what came of it.
func (p *proxy) exchange(t *testing.T, raw string) outcome {
	t.Helper()
	id := p.upstreams.newID()
	if p.host != "" {
		raw = hostField.ReplaceAllString(raw, "${1}"+p.host)
	}
	var o outcome
	if err := o.talk(p.dial, id, strings.ReplaceAll(raw, "@@", id)); err != nil {
		t.Errorf("%s: %v", p.name, err)
	}
	var reached []string
	for _, r := range p.upstreams.received(id) {
		reached = append(reached, r.Upstream)
		o.Content += r.Content
		for _, line := range append([]string{r.Start}, r.Fields...) {
			o.Received = append(o.Received, strings.ReplaceAll(line, id, "@@"))
		}
	}
	if o.Upstream = strings.Join(reached, "+"); o.Upstream == "" {
		o.Upstream = "-"
	}
	return o
}

// dial connects to the proxy, with TLS if there is any.
func (p *proxy) dial() (net.Conn, error) {
	if p.tls != nil {
		return tls.Dial("tcp", p.addr, p.tls)
	}
	return net.Dial("tcp", p.addr)
}

// talk fills in the client's view. An error is the test's own failure only.
func (o *outcome) talk(dial func() (net.Conn, error), id, raw string) error {
	c, err := dial()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, raw); err != nil {
		return nil // closed on us: no answer
	}
	r := bufio.NewReader(c)
	h, err := readHead(r)
	if err != nil {
		return nil
	}
	o.Status = h.status()
	o.Answer = append([]string{h.start}, h.fields...)
	if o.Status == 101 {
		o.Echo = echoes(c, r, "marker of "+id)
		return nil
	}
	if !strings.HasPrefix(raw, "HEAD ") {
		body, err := h.body(r, h.offers("connection", "close"))
		if err != nil {
			return fmt.Errorf("content of the response: %w", err)
		}
		o.Body = string(body)
	}
	return nil
}

// echoes sends the marker and says whether it comes back, behind whatever the
// other side still had to send back.
func echoes(w io.Writer, r io.Reader, marker string) bool {
	if _, err := io.WriteString(w, marker); err != nil {
		return false
	}
	var got []byte
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		if got = append(got, buf[:n]...); bytes.Contains(got, []byte(marker)) {
			return true
		}
		if err != nil {
			return false
		}
	}
}

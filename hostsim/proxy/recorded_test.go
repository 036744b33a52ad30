package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// TestRecorded plays the exchanges in testdata/envoy. Each file holds a
// bootstrap, pairs of a request and what Envoy answered, and the access log
// that Envoy wrote. Dates, request ids, ports and times are masked.
func TestRecorded(t *testing.T) {
	t.Setenv("SOMEVAR", "envvalue")
	files, err := filepath.Glob("testdata/envoy/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no recordings", err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) { playRecording(t, name) })
	}
}

func playRecording(t *testing.T, name string) {
	archive, err := txtar.ParseFile(name)
	if err != nil {
		t.Fatal(err)
	}
	part := map[string]string{}
	for _, f := range archive.Files {
		part[f.Name] = string(f.Data)
	}
	logFile := filepath.Join(t.TempDir(), "access.log")
	text := strings.ReplaceAll(part["bootstrap.yaml"], "LOGFILE", logFile)
	mask := masks{}
	for _, label := range []string{"c", "b"} {
		up := newUpstream(t, mirror(label))
		_, port, _ := net.SplitHostPort(up.Addr().String())
		text = strings.ReplaceAll(text, "UP"+label, port)
		mask.add(port, "UP"+label)
	}
	s, addr := startServer(t, text, Options{})
	_, port, _ := net.SplitHostPort(addr)
	mask.add(port, "PORT")

	lines := strings.Split(strings.TrimSuffix(part["exchanges"], "\n"), "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		request, want := unquote(t, lines[i]), unquote(t, lines[i+1])
		c := dial(t, addr)
		c.send(request)
		got := mask.apply(readAnswer(t, c.Reader, strings.HasPrefix(request, "HEAD")))
		c.Close()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: (-envoy +hostsim)\n%s", request, diff)
		}
	}
	s.Close()
	log, err := os.ReadFile(logFile)
	if err != nil {
		t.Fatal(err)
	}
	// Streams of different connections may be logged in another order.
	if diff := cmp.Diff(sortedLines(part["log"]), sortedLines(mask.apply(string(log)))); diff != "" {
		t.Errorf("access log: (-envoy +hostsim)\n%s", diff)
	}
}

// mirror answers with the head it got; x-resp asks for response headers.
func mirror(label string) func(head string, c net.Conn, r *bufio.Reader) {
	asked, length := regexp.MustCompile(`(?i)\r\nx-resp: ([^\r]*)`), regexp.MustCompile(`(?i)\r\ncontent-length: *(\d+)`)
	return func(head string, c net.Conn, r *bufio.Reader) {
		var content []byte
		if m := length.FindStringSubmatch(head); m != nil {
			n, _ := strconv.Atoi(m[1])
			content = make([]byte, n)
			io.ReadFull(r, content)
		}
		var extra string
		if m := asked.FindStringSubmatch(head); m != nil {
			for f := range strings.SplitSeq(m[1], "|") {
				extra += strings.TrimSpace(f) + "\r\n"
			}
		}
		body := "port-upstream " + label + "\n" + strings.TrimSuffix(head, "\r\n\r\n") + "\n" + string(content)
		if strings.HasPrefix(head, "HEAD") {
			body = ""
		}
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\n%scontent-length: %d\r\n\r\n%s", extra, len(body), body)
	}
}

// readAnswer gives head, an empty line and body, with bare line feeds.
func readAnswer(t *testing.T, r *bufio.Reader, head bool) string {
	t.Helper()
	var b bytes.Buffer
	length := 0
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return b.String() + line + "<EOF>"
		}
		if line == "\r\n" {
			break
		}
		if n, ok := strings.CutPrefix(line, "content-length: "); ok && !head {
			length, _ = strconv.Atoi(strings.TrimSpace(n))
		}
		b.WriteString(line)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		t.Error(err)
	}
	return strings.ReplaceAll(strings.TrimSuffix(b.String(), "\r\n")+"\n\n"+string(body), "\r", "")
}

func sortedLines(s string) []string {
	lines := strings.Split(s, "\n")
	slices.Sort(lines)
	return lines
}

func unquote(t *testing.T, line string) string {
	t.Helper()
	s, err := strconv.Unquote(line)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return s
}

// masks hides what differs from run to run.
type masks struct{ ports []string }

var masked = []struct {
	re *regexp.Regexp
	by string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}`), "UUID"},
	{regexp.MustCompile(`\ndate: .*`), "\ndate: D"},
	{regexp.MustCompile(`(x-envoy-upstream-service-time: )\d+`), "${1}N"},
}

func (m *masks) add(port, name string) { m.ports = append(m.ports, port, name) }

func (m *masks) apply(s string) string {
	for _, x := range masked {
		s = x.re.ReplaceAllString(s, x.by)
	}
	return strings.NewReplacer(m.ports...).Replace(s)
}

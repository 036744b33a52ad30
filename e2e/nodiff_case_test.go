package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A nodiffCase is one conversation with a proxy: what clients send, and what
// the upstream behind the proxy answers. testdata/nodiff/README.md describes
// the text form.
type nodiffCase struct {
	name     string
	line     int
	listener string     // "" is the first one
	raw      bool       // neither side speaks HTTP
	http2    bool       // steps are frames
	bare     bool       // ... without a preface and SETTINGS before them
	tls      []string   // the client speaks TLS: see clientTLS
	whole    bool       // never split its writes: what it shows depends on them
	client   []step     // of all clients, in order
	answers  [][]step   // what an upstream does for the first request, the second, ...
	methods  [][]string // of each client's requests, because a response to HEAD has no content
}

// A step is one thing that a client or an upstream does.
type step struct {
	op     string // send, wait, pause, half-close, close, reset, silent; upstream: early, hang, echo, expect
	client int
	text   string
	n      int
	pause  time.Duration
}

// A nodiffFile is a case file: what its cases have in common, and the cases.
type nodiffFile struct {
	stats  []*regexp.Regexp // names of stats that are compared, beside defaultStats
	guests bool             // what guests log is compared too
	cases  []*nodiffCase
}

var (
	repeated   = regexp.MustCompile(`\{\{([^{}]*)\*([0-9]+)\}\}`)
	methodLine = regexp.MustCompile(`^([A-Z]+) `)
)

// readNodiffFile parses a case file. Errors have its name and the line.
func readNodiffFile(path string) (*nodiffFile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f := &nodiffFile{}
	names := map[string]bool{}
	var c *nodiffCase
	client := 0
	for i, line := range strings.Split(string(data), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		if err := func() error {
			word, rest, _ := strings.Cut(line, " ")
			switch {
			case word == "==":
				if names[rest] || rest == "" {
					return fmt.Errorf("a second case %q", rest)
				}
				names[rest] = true
				c, client = &nodiffCase{name: rest, line: i + 1, methods: make([][]string, 1)}, 0
				f.cases = append(f.cases, c)
			case word == "stats" && c == nil:
				re, err := regexp.Compile(rest)
				f.stats = append(f.stats, re)
				return err
			case word == "include" && c == nil:
				more, err := readNodiffFile(filepath.Join(filepath.Dir(path), rest))
				if err != nil {
					return err
				}
				for _, c := range more.cases {
					names[c.name] = true
				}
				f.cases = append(f.cases, more.cases...)
			case line == "guests log" && c == nil:
				f.guests = true
			case c == nil:
				return fmt.Errorf("%q stands before the first case", line)
			case word == "listener":
				c.listener = rest
			case word == "client":
				n, err := strconv.Atoi(rest)
				if err != nil || n < 1 || n > len(c.methods)+1 {
					return fmt.Errorf("client %q", rest)
				}
				if client = n - 1; client == len(c.methods) {
					c.methods = append(c.methods, nil)
				}
			case word == "http2":
				c.http2, c.bare = true, rest == "bare"
			case word == "raw":
				c.raw = true
			case word == "tls":
				c.tls = strings.Fields(rest)
			case word == ">2":
				c.client = append(c.client, step{op: "frame", client: client, text: rest})
			case word == "whole":
				c.whole = true
			case word == ">":
				text, err := unescape(rest)
				if err != nil {
					return err
				}
				if m := methodLine.FindStringSubmatch(text); m != nil {
					c.methods[client] = append(c.methods[client], m[1])
				}
				// Lines behind one another are one write.
				if n := len(c.client); n > 0 && c.client[n-1].op == "send" && c.client[n-1].client == client {
					c.client[n-1].text += text
				} else {
					c.client = append(c.client, step{op: "send", client: client, text: text})
				}
			case word == ">!":
				s, err := parseStep(rest, "wait pause half-close close reset silent")
				s.client = client
				c.client = append(c.client, s)
				return err
			case word == "<", word == "<!":
				if len(c.answers) == 0 {
					c.answers = append(c.answers, nil)
				}
				last := &c.answers[len(c.answers)-1]
				if line == "<! next" {
					c.answers = append(c.answers, []step{})
					return nil
				}
				var s step
				var err error
				if word == "<" {
					s.op = "send"
					s.text, err = unescape(rest)
				} else {
					s, err = parseStep(rest, "pause half-close close reset early hang echo expect")
				}
				if n := len(*last); s.op == "send" && n > 0 && (*last)[n-1].op == "send" {
					(*last)[n-1].text += s.text
				} else {
					*last = append(*last, s)
				}
				return err
			default:
				return fmt.Errorf("%q is no line of a case", line)
			}
			return nil
		}(); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, i+1, err)
		}
	}
	return f, nil
}

// parseStep parses "wait 2", `wait "text"`, "pause 20ms" or a single word.
func parseStep(text, known string) (step, error) {
	op, arg, _ := strings.Cut(text, " ")
	s := step{op: op, n: 1}
	err := error(nil)
	switch {
	case !strings.Contains(" "+known+" ", " "+op+" "):
		err = fmt.Errorf("%q is none of: %s", op, known)
	case op == "pause":
		s.pause, err = time.ParseDuration(arg)
	case strings.HasPrefix(arg, `"`):
		s.text, err = strconv.Unquote(arg)
	case arg != "":
		s.n, err = strconv.Atoi(arg)
	}
	return s, err
}

// unescape reads text as it stands in a Go string literal, with {{text*n}} for
// n copies of text.
func unescape(s string) (string, error) {
	var out []byte
	text := s
	for repeated.MatchString(text) { // they may be nested
		text = repeated.ReplaceAllStringFunc(text, func(m string) string {
			parts := repeated.FindStringSubmatch(m)
			n, _ := strconv.Atoi(parts[2])
			return strings.Repeat(parts[1], n)
		})
	}
	for text != "" {
		r, multibyte, tail, err := strconv.UnquoteChar(text, 0)
		if err != nil {
			return "", fmt.Errorf("%q: %w", text, err)
		}
		if text = tail; multibyte {
			out = append(out, string(r)...)
		} else {
			out = append(out, byte(r))
		}
	}
	return string(out), nil
}

package proxy

import (
	"regexp"
	"strconv"
	"testing"
	"time"
)

// envoysCommand is the expression by which Envoy finds a command
// (substitution_format_utility.cc).
var envoysCommand = regexp.MustCompile(`\A%((?:[A-Z]|[0-9]|_)+)(?:\((.*?)\))?(?::([0-9]+))?%`)

func FuzzParseFormat(f *testing.F) {
	for _, seed := range []string{
		"", "plain", "100%%", "%", "%%%", "%REQ(a)%", "%REQ(:METHOD):10% x", "%REQ(a?b):0%", "%CEL(f(')') + '%')%", "%A(b)c)%",
		"%A()%", "%A:%", "%A:1", "%A(b", "%A(\n)%", "%a%", "%A_1:99999999999999999999%", "%START_TIME(%Y/%m)%", "%A(b):1)%", "%A%B%",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		got := ""
		rest, err := parseFormat(in, func(literal, name, arg string, hasArg bool, max int) error {
			if name == "" {
				got += "text " + strconv.Quote(literal) + "\n"
			} else {
				got += "command " + name + strconv.Quote(arg) + strconv.FormatBool(hasArg) + strconv.Itoa(max) + "\n"
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		want, wantRest := envoysParse(in)
		if got != want && wantRest == rest || rest != wantRest {
			t.Errorf("%q\ngot  %s rest %q\nwant %s rest %q", in, got, rest, want, wantRest)
		}
	})
}

// envoysParse is what Envoy's parser does, with its regular expression.
func envoysParse(in string) (parsed, rest string) {
	literal := ""
	flush := func() {
		if literal != "" {
			parsed += "text " + strconv.Quote(literal) + "\n"
		}
		literal = ""
	}
	for in != "" {
		switch {
		case in[0] != '%':
			literal, in = literal+in[:1], in[1:]
		case len(in) > 1 && in[1] == '%':
			literal, in = literal+"%", in[2:]
		default:
			m := envoysCommand.FindStringSubmatchIndex(in)
			if m == nil {
				return parsed, in
			}
			max := -1
			if m[6] >= 0 {
				var err error
				if max, err = strconv.Atoi(in[m[6]:m[7]]); err != nil {
					return parsed, in // a number too large is refused
				}
			}
			arg := ""
			if m[4] >= 0 {
				arg = in[m[4]:m[5]]
			}
			flush()
			parsed += "command " + in[m[2]:m[3]] + strconv.Quote(arg) + strconv.FormatBool(m[4] >= 0) + strconv.Itoa(max) + "\n"
			in = in[m[1]:]
		}
	}
	flush()
	return parsed, ""
}

// The expectations are what Envoy 1.40.0 gave for this instant, and strftime
// for the rest.
func TestTimeFormat(t *testing.T) {
	at := time.Date(2026, 11, 24, 7, 25, 19, 331526000, time.UTC)
	for format, want := range map[string]string{
		"":                       "2026-11-24T07:25:19.331Z",
		"%Y/%m/%dT%H:%M:%S%z":    "2026/11/24T07:25:19+0000",
		"%s":                     "1795505119",
		"%s.%3f":                 "1795505119.331",
		"%s.%f":                  "1795505119.331526000",
		"%Y-%m-%dT%H:%M:%E3SZ":   "2026-11-24T07:25:19.331Z",
		"%a %b %e %j %I%p %y %%": "Tue Nov 24 328 07AM 26 %",
		"%1f%6f":                 "3331526",
		"plain":                  "plain",
	} {
		c, err := timeCommand(false, func(*stream) time.Time { return at })(&builder{}, "", format)
		if err != nil {
			t.Errorf("%q: %v", format, err)
			continue
		}
		if got, _ := c(nil, nil); string(got) != want {
			t.Errorf("%q: got %q, want %q", format, got, want)
		}
	}
}

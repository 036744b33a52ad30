package filter

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http/httpguts"
)

func TestElements(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lines []string
		want  []string
	}{
		{"no field has no elements", nil, nil},
		{"an empty field has no elements", []string{""}, nil},
		{"commas and spaces alone are no elements", []string{" , ,\t,,"}, nil},
		{"one element", []string{"Upgrade"}, []string{"Upgrade"}},
		{"spaces and tabs around an element are cut", []string{"\t a \t,\tb "}, []string{"a", "b"}},
		{"a space within an element stays", []string{"keep alive, b"}, []string{"keep alive", "b"}},
		{"vertical tab and no-break space are no OWS", []string{"a\v,\u00a0b"}, []string{"a\v", "\u00a0b"}},
		{"empty elements are skipped", []string{",a,,b,"}, []string{"a", "b"}},
		{"several field lines are one list", []string{"a", "", "b, c"}, []string{"a", "b", "c"}},
		{"a quote does not hide a comma", []string{`"foo, bar"`}, []string{`"foo`, `bar"`}},
		{"a semicolon does not separate", []string{"h2c;websocket"}, []string{"h2c;websocket"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := HeaderMap{{"x", "not, this"}}
			for i, line := range tt.lines {
				h = append(h, Field{[]string{"connection", "Connection"}[i%2], line}, Field{"connectio", "z"})
			}
			if diff := cmp.Diff(tt.want, collect(h, "connection")); diff != "" {
				t.Errorf("elements (-want +got):\n%s", diff)
			}
		})
	}
}

func collect(h HeaderMap, name string) (elements []string) {
	list := h.Elements(name)
	for e, ok := list.Next(); ok; e, ok = list.Next() {
		elements = append(elements, e)
	}
	return elements
}

func TestContainsToken(t *testing.T) {
	for _, tt := range []struct {
		name, value string
		want        bool
	}{
		{"the token itself", "upgrade", true},
		{"in another case", "UPGRADE", true},
		{"in a list", "keep-alive, Upgrade", true},
		{"behind ill-formed elements", `"x, y z;q=1, Upgrade`, true},
		{"as a part of a longer token", "upgrade-insecure-requests", false},
		{"with a parameter", "Upgrade;q=1", false},
		{"in quotes", `"Upgrade"`, false},
		{"with a long s, which Unicode folds to s", "upgrade\u017f", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := (HeaderMap{{"connection", tt.value}}).ContainsToken("Connection", "upgrade"); got != tt.want {
				t.Errorf("ContainsToken(%q) = %v, want %v", tt.value, got, tt.want)
			}
		})
	}
}

func TestOnlyASCIILettersFold(t *testing.T) {
	for i := range 256 {
		for j := range 256 {
			a, b := string([]byte{byte(i)}), string([]byte{byte(j)})
			want := i == j || i < 0x80 && j < 0x80 && strings.EqualFold(a, b) // within ASCII the two agree
			if got := equalFold(a, b); got != want {
				t.Errorf("equalFold(%q, %q) = %v, want %v", a, b, got, want)
			}
		}
	}
}

func TestParseProtocol(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Protocol
		ok   bool
	}{
		{"websocket", Protocol{"websocket", ""}, true},
		{"SPDY/3.1", Protocol{"SPDY", "3.1"}, true},
		{"*", Protocol{"*", ""}, true},
		{"", Protocol{}, false},
		{"/", Protocol{}, false},
		{"foo/", Protocol{}, false},
		{"/13", Protocol{}, false},
		{"a/b/c", Protocol{}, false},
		{"web socket", Protocol{}, false},
		{`"websocket"`, Protocol{}, false},
		{"h2c;websocket", Protocol{}, false},
		{"websoc\u212aet", Protocol{}, false},
		{"websocket\x00", Protocol{}, false},
		{"\u00a0websocket", Protocol{}, false},
	} {
		t.Run(tt.in, func(t *testing.T) {
			got, ok := ParseProtocol(tt.in)
			if got != tt.want || ok != tt.ok {
				t.Errorf("ParseProtocol(%q) = %+v, %v; want %+v, %v", tt.in, got, ok, tt.want, tt.ok)
			}
			if ok && got.String() != tt.in {
				t.Errorf("String() = %q, want %q", got.String(), tt.in)
			}
		})
	}
}

// RFC 9110 5.6.2, written down a second time.
func TestTcharIsTheSetOfTheRFC(t *testing.T) {
	for i := range 256 {
		c := byte(i)
		want := strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0 || '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z' && c < 0x80
		if tchar[i] != want {
			t.Errorf("tchar[%#02x] = %v, want %v", i, tchar[i], want)
		}
	}
}

func FuzzList(f *testing.F) {
	f.Add("keep-alive, Upgrade", "", "upgrade")
	f.Add(",\t,Upgrade", "x", "Upgrade")
	f.Add("a;b, \u212a", "\v,", "k")
	f.Fuzz(func(t *testing.T, one, two, token string) {
		h := HeaderMap{{"connection", one}, {"host", "h"}, {"CONNECTION", two}}
		got := collect(h, "connection")
		for _, e := range got {
			if e == "" || strings.Contains(e, ",") || strings.Trim(e, " \t") != e {
				t.Fatalf("%q is no element", e)
			}
		}
		if diff := cmp.Diff(got, collect(HeaderMap{{"connection", one + "," + two}}, "connection")); diff != "" {
			t.Fatalf("two lines and one differ:\n%s", diff)
		}
		if !isToken(token) {
			return // httpguts speaks of tokens only
		}
		if got, want := h.ContainsToken("connection", token), httpguts.HeaderValuesContainsToken([]string{one, two}, token); got != want {
			t.Fatalf("ContainsToken(%q, %q; %q) = %v, httpguts says %v", one, two, token, got, want)
		}
	})
}

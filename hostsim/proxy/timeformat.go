package proxy

import (
	"strconv"
	"strings"
	"time"
)

// timeCommand is %START_TIME(format)% and its like: strftime(3) with Envoy's
// %f, %1f to %9f for fractions of a second and absl's %E3S, %E*S and %Ez.
func timeCommand(local bool, of func(*stream) time.Time) func(*builder, string, string) (command, error) {
	return func(b *builder, path, arg string) (command, error) {
		in := func(t time.Time) time.Time { return t.UTC() }
		if local {
			in = func(t time.Time) time.Time { return t.Local() }
		}
		if arg == "" {
			layout := "2006-01-02T15:04:05.000Z"
			if local {
				layout = "2006-01-02T15:04:05.000-0700"
			}
			return func(dst []byte, s *stream) ([]byte, kind) { return in(of(s)).AppendFormat(dst, layout), text }, nil
		}
		pieces, err := b.timeFormat(path, arg)
		return func(dst []byte, s *stream) ([]byte, kind) {
			t := in(of(s))
			for _, p := range pieces {
				dst = p(dst, t)
			}
			return dst, text
		}, err
	}
}

type timePiece func(dst []byte, t time.Time) []byte

// timeLayouts are the conversions that package time has a layout for.
var timeLayouts = map[byte]string{
	'a': "Mon", 'A': "Monday", 'b': "Jan", 'h': "Jan", 'B': "January", 'c': "Mon Jan _2 15:04:05 2006", 'd': "02",
	'D': "01/02/06", 'e': "_2", 'F': "2006-01-02", 'H': "15", 'I': "03", 'm': "01", 'M': "04", 'p': "PM",
	'r': "03:04:05 PM", 'R': "15:04", 'S': "05", 'T': "15:04:05", 'x': "01/02/06", 'X': "15:04:05", 'y': "06",
	'Y': "2006", 'z': "-0700", 'Z': "MST",
}

func (b *builder) timeFormat(path, in string) ([]timePiece, error) {
	var pieces []timePiece
	layout := func(l string) {
		pieces = append(pieces, func(dst []byte, t time.Time) []byte { return t.AppendFormat(dst, l) })
	}
	integer := func(width int, get func(time.Time) int) {
		pieces = append(pieces, func(dst []byte, t time.Time) []byte { return appendPadded(dst, get(t), width) })
	}
	fraction := func(digits int) {
		if digits > 0 {
			integer(digits, func(t time.Time) int { return fractionOf(t, digits) })
		}
	}
	literal := func(s string) {
		pieces = append(pieces, func(dst []byte, _ time.Time) []byte { return append(dst, s...) })
	}
	for in != "" {
		i := strings.IndexByte(in, '%')
		if i < 0 || i == len(in)-1 {
			literal(in)
			break
		}
		if i > 0 {
			literal(in[:i])
		}
		c := in[i+1]
		n := 2 // bytes of the conversion
		switch {
		case timeLayouts[c] != "":
			layout(timeLayouts[c])
		case c == '%':
			literal("%")
		case c == 't':
			literal("\t")
		case c == 'n':
			return nil, b.boot.Errorf(path, "invalid header configuration: the time format %q contains a newline", in)
		case c == 's':
			pieces = append(pieces, func(dst []byte, t time.Time) []byte { return strconv.AppendInt(dst, t.Unix(), 10) })
		case c == 'f':
			fraction(9)
		case '1' <= c && c <= '9' && i+2 < len(in) && in[i+2] == 'f':
			n = 3
			fraction(int(c - '0'))
		case c == 'j':
			integer(3, time.Time.YearDay)
		case c == 'C':
			integer(2, func(t time.Time) int { return t.Year() / 100 })
		case c == 'u':
			integer(1, func(t time.Time) int { return (int(t.Weekday())+6)%7 + 1 })
		case c == 'w':
			integer(1, func(t time.Time) int { return int(t.Weekday()) })
		case c == 'k', c == 'l':
			pieces = append(pieces, func(dst []byte, t time.Time) []byte {
				h := t.Hour()
				if c == 'l' {
					h = (h+11)%12 + 1
				}
				if h < 10 {
					dst = append(dst, ' ')
				}
				return strconv.AppendInt(dst, int64(h), 10)
			})
		case strings.HasPrefix(in[i:], "%Ez"):
			n = 3
			layout("-07:00")
		case strings.HasPrefix(in[i:], "%E*S"):
			n = 4
			layout("05.999999999")
		case len(in) > i+3 && c == 'E' && isDigit(in[i+2]) && (in[i+3] == 'S' || in[i+3] == 'f'):
			n = 4
			if in[i+3] == 'S' {
				layout("05")
				if in[i+2] != '0' {
					literal(".")
				}
			}
			fraction(int(in[i+2] - '0'))
		default:
			return nil, b.boot.Unsupported(path, "the conversion in the time format "+strconv.Quote(in[i:]))
		}
		in = in[i+n:]
	}
	return pieces, nil
}

// fractionOf is the first digits of the fraction of the second.
func fractionOf(t time.Time, digits int) int {
	n := t.Nanosecond()
	for ; digits < 9; digits++ {
		n /= 10
	}
	return n
}

func appendPadded(dst []byte, n, width int) []byte {
	for limit := 10; width > 1; width, limit = width-1, limit*10 {
		if n < limit {
			dst = append(dst, '0')
		}
	}
	return strconv.AppendInt(dst, int64(n), 10)
}

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http/httputil"
	"strconv"
	"strings"
)

// A head is the start line and the field lines of an HTTP/1 message, each as
// it came, without its line end: net/http would fold names and lose the order.
type head struct {
	start  string
	fields []string
}

// maxHead bounds what readHead takes: more than any proxy here lets through.
const maxHead = 256 << 10

func readHead(r *bufio.Reader) (head, error) {
	var h head
	for size := 0; ; {
		line, err := r.ReadString('\n')
		if size += len(line); size > maxHead {
			return h, fmt.Errorf("message head longer than %d bytes", maxHead)
		}
		if err != nil {
			if errors.Is(err, io.EOF) && size > 0 {
				err = io.ErrUnexpectedEOF
			}
			return h, err
		}
		line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		switch {
		case h.start == "" && line == "":
			// RFC 9112 2.2: empty lines before the start line are skipped.
		case h.start == "":
			h.start = line
		case line == "":
			return h, nil
		default:
			h.fields = append(h.fields, line)
		}
	}
}

// values returns the values of the field lines of that name, in order.
func (h head) values(name string) []string {
	var values []string
	for _, line := range h.fields {
		n, v, _ := strings.Cut(line, ":")
		if lower(n) == name {
			values = append(values, strings.Trim(v, " \t"))
		}
	}
	return values
}

// offers says whether the lists in the field lines of that name have the
// element, in any ASCII case.
func (h head) offers(name, element string) bool {
	for _, value := range h.values(name) {
		for e := range strings.SplitSeq(value, ",") {
			if lower(strings.Trim(e, " \t")) == element {
				return true
			}
		}
	}
	return false
}

// status returns the status code of a response, 0 where there is none.
func (h head) status() int {
	_, rest, _ := strings.Cut(h.start, " ")
	code, _, _ := strings.Cut(rest, " ")
	n, err := strconv.Atoi(code)
	if err != nil {
		return 0
	}
	return n
}

// body returns the content of the message whose head was just read from r, by
// RFC 9112 6.3. Without a framing field it is empty, unless untilClose.
func (h head) body(r *bufio.Reader, untilClose bool) ([]byte, error) {
	if h.offers("transfer-encoding", "chunked") {
		b, err := io.ReadAll(httputil.NewChunkedReader(r))
		if err != nil {
			return b, err
		}
		_, err = readTrailers(r)
		return b, err
	}
	if lengths := h.values("content-length"); len(lengths) > 0 {
		n, err := strconv.ParseInt(lengths[0], 10, 64)
		if err != nil {
			return nil, err
		}
		return io.ReadAll(io.LimitReader(r, n))
	}
	if untilClose {
		return io.ReadAll(r)
	}
	return nil, nil
}

// readTrailers reads the field lines behind the last chunk.
func readTrailers(r *bufio.Reader) ([]string, error) {
	var trailers []string
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return trailers, err
		}
		if line = strings.TrimRight(line, "\r\n"); line == "" {
			return trailers, nil
		}
		trailers = append(trailers, line)
	}
}

// lower folds ASCII only: strings.ToLower would turn the Kelvin sign into k.
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

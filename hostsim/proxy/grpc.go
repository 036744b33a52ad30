package proxy

import (
	"strconv"
	"strings"
	"time"
)

// isGRPC says whether a request is one of gRPC
// (Grpc::Common::isGrpcRequestHeaders).
func isGRPC(h *Headers) bool {
	rest, ok := strings.CutPrefix(h.value("content-type"), "application/grpc")
	return ok && (rest == "" || rest[0] == '+') && h.has(":path")
}

// grpcReply makes a local reply one that a client of gRPC understands: 200
// without content, and what there is to say in its head.
func (s *stream) grpcReply(r *localReply, status int, body, contentType string) {
	h := &s.response
	h.set(":status", "200")
	h.set("content-type", "application/grpc")
	if h.value("grpc-status") == "" {
		n := s.grpcStatusOf(status)
		if r.guest && r.grpcStatus >= 0 && r.grpcStatus <= 16 { // those there are
			n = int(r.grpcStatus)
		}
		h.set("grpc-status", itoa(n))
	}
	if body != "" && !s.head {
		if contentType == "application/json" {
			body = strings.TrimSuffix(body, "\n")
		}
		h.set("grpc-message", grpcMessage(body))
	}
	h.remove("content-length")
}

// grpcStatus is the status of gRPC for one of HTTP
// (Grpc::Utility::httpToGrpcStatus).
func grpcStatus(status int) int {
	switch status {
	case 400:
		return 13 // INTERNAL
	case 401:
		return 16 // UNAUTHENTICATED
	case 403:
		return 7 // PERMISSION_DENIED
	case 404:
		return 12 // UNIMPLEMENTED
	case 429, 502, 503, 504:
		return 14 // UNAVAILABLE
	}
	return 2 // UNKNOWN
}

// grpcMessage escapes what grpc-message may not contain
// (PercentEncoding::encode).
func grpcMessage(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c >= '~' || c == '%' {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// grpcStatus is what the response says, negative where that is no number, or
// what its status amounts to.
func (s *stream) grpcStatus() int {
	for _, h := range []*Headers{&s.responseTrailers, &s.response} {
		if !h.has("grpc-status") {
			continue
		}
		if n, ok := parseCount(h.value("grpc-status")); ok {
			return n
		}
		return -1
	}
	return grpcStatus(s.status)
}

// grpcNames are the statuses of gRPC as %GRPC_STATUS% writes them.
var grpcNames = [...]struct{ camel, snake string }{
	{"OK", "OK"}, {"Canceled", "CANCELLED"}, {"Unknown", "UNKNOWN"}, {"InvalidArgument", "INVALID_ARGUMENT"},
	{"DeadlineExceeded", "DEADLINE_EXCEEDED"}, {"NotFound", "NOT_FOUND"}, {"AlreadyExists", "ALREADY_EXISTS"},
	{"PermissionDenied", "PERMISSION_DENIED"}, {"ResourceExhausted", "RESOURCE_EXHAUSTED"},
	{"FailedPrecondition", "FAILED_PRECONDITION"}, {"Aborted", "ABORTED"}, {"OutOfRange", "OUT_OF_RANGE"},
	{"Unimplemented", "UNIMPLEMENTED"}, {"Internal", "INTERNAL"}, {"Unavailable", "UNAVAILABLE"},
	{"DataLoss", "DATA_LOSS"}, {"Unauthenticated", "UNAUTHENTICATED"},
}

// grpcStatusCommand is %GRPC_STATUS%, for requests of gRPC only.
func grpcStatusCommand(b *builder, path, arg string) (command, error) {
	switch arg {
	case "", "CAMEL_STRING", "SNAKE_STRING":
	case "NUMBER":
		return grpcNumberCommand(nil, path, "")
	default:
		return nil, b.boot.Errorf(path, "%%GRPC_STATUS(%s)%%: want CAMEL_STRING, SNAKE_STRING or NUMBER", arg)
	}
	return func(dst []byte, s *stream) ([]byte, kind) {
		if !isGRPC(&s.request) {
			return dst, absent
		}
		n := s.grpcStatus()
		switch {
		case n < 0 || n >= len(grpcNames):
			return strconv.AppendInt(dst, int64(n), 10), text
		case arg == "SNAKE_STRING":
			return append(dst, grpcNames[n].snake...), text
		}
		return append(dst, grpcNames[n].camel...), text
	}, nil
}

// grpcNumberCommand is %GRPC_STATUS_NUMBER%.
func grpcNumberCommand(*builder, string, string) (command, error) {
	return func(dst []byte, s *stream) ([]byte, kind) {
		if !isGRPC(&s.request) {
			return dst, absent
		}
		return strconv.AppendInt(dst, int64(s.grpcStatus()), 10), raw
	}, nil
}

// grpcStatusOf is what a local reply has for grpc-status.
func (s *stream) grpcStatusOf(status int) int {
	if s.details == "max_duration_timeout" {
		return 4 // DEADLINE_EXCEEDED
	}
	return grpcStatus(status)
}

// limitGRPC limits the life of the stream by the route, or by the grpc-timeout
// that the client has sent, and tells a gRPC upstream.
func (s *stream) limitGRPC(r *route) {
	limit := r.maxStream
	t, ok := time.Duration(0), false
	if r.grpcMost >= 0 {
		t, ok = grpcTimeout(s.request.value("grpc-timeout"))
	}
	if ok {
		if r.grpcMost > 0 {
			t = min(t, r.grpcMost)
		}
		limit = max(t-r.grpcOffset, 0)
		s.timers.whole = s.start.Add(limit)
	} else if limit >= 0 {
		s.timers.limitWhole(s.start, limit)
	}
	if (ok || limit > 0) && isGRPC(&s.request) {
		ms, unit := limit.Milliseconds(), "m"
		for _, next := range []struct {
			of   int64
			unit string
		}{{1000, "S"}, {60, "M"}, {60, "H"}} {
			if ms <= 99_999_999 {
				break
			}
			ms, unit = ms/next.of, next.unit
		}
		s.request.set("grpc-timeout", s.keepInt(ms)+unit)
	}
}

// grpcTimeout reads a grpc-timeout (Grpc::Common::getGrpcTimeout).
func grpcTimeout(text string) (time.Duration, bool) {
	if len(text) < 2 || len(text) > 9 {
		return 0, false
	}
	n, err := strconv.ParseUint(text[:len(text)-1], 10, 64)
	if err != nil {
		return 0, false
	}
	switch text[len(text)-1] {
	case 'H':
		return time.Duration(min(n, 1<<20)) * time.Hour, true
	case 'M':
		return time.Duration(n) * time.Minute, true
	case 'S':
		return time.Duration(n) * time.Second, true
	case 'm':
		return time.Duration(n) * time.Millisecond, true
	case 'u':
		return (time.Duration(n)*time.Microsecond + time.Millisecond - 1).Truncate(time.Millisecond), true
	case 'n':
		return (time.Duration(n) + time.Millisecond - 1).Truncate(time.Millisecond), true
	}
	return 0, false
}

package proxy

import (
	"errors"
	"strconv"
	"strings"
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
		n := grpcStatus(status)
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
func grpcStatusCommand(_ *builder, path, arg string) (command, error) {
	switch arg {
	case "", "CAMEL_STRING", "SNAKE_STRING":
	case "NUMBER":
		return grpcNumberCommand(nil, path, "")
	default:
		return nil, errors.New("GrpcStatusFormatter only supports CAMEL_STRING, SNAKE_STRING or NUMBER.")
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

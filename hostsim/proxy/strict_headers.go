package proxy

import "strings"

// checkStrictly refuses a request whose wishes cannot be read
// (strict_check_headers of the router).
func (s *stream) checkStrictly() *localReply {
	for _, name := range s.chain.router.GetStrictCheckHeaders() {
		name = lower(name)
		i := s.request.find(name)
		if i < 0 {
			continue
		}
		value, ok := s.request.fields[i].value, false
		switch name {
		case "x-envoy-retry-on":
			_, ok = parseRetryOn(value)
		case "x-envoy-retry-grpc-on":
			ok = knownRetryGRPC(value)
		default:
			_, ok = parseCount(value)
		}
		if !ok {
			return &localReply{
				status: 400, body: "invalid header '" + name + "' with value '" + value + "'",
				details: "request_headers_failed_strict_check{" + name + "}", flags: "IH",
			}
		}
	}
	return nil
}

func knownRetryGRPC(list string) bool {
	for name := range strings.SplitSeq(list, ",") {
		if parseRetryGRPC(name) == 0 {
			return false
		}
	}
	return true
}

package proxy

import (
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// This file is how much of a request or response may wait: where a filter has
// stopped it, and for another attempt to send it again.

// bufferLimit is Envoy's default of per_connection_buffer_limit_bytes.
const bufferLimit = 1 << 20

// limitOf is the limit that the configuration gives, or another one.
func limitOf(c *wrapperspb.UInt32Value, otherwise int) int {
	if c == nil {
		return otherwise
	}
	return int(c.GetValue())
}

// contentLimits are those of a virtual host or route; negative is none.
type contentLimits struct{ content, deprecated int }

// requestLimits reads request_body_buffer_limit and what it takes the place of.
func requestLimits(content *wrapperspb.UInt64Value, deprecated *wrapperspb.UInt32Value, outer contentLimits) contentLimits {
	if content != nil {
		outer.content = int(min(content.GetValue(), 1<<40))
	}
	outer.deprecated = limitOf(deprecated, outer.deprecated)
	return outer
}

func (v *virtualHost) limits(c *routev3.VirtualHost) {
	v.contentLimits = requestLimits(c.GetRequestBodyBufferLimit(), c.GetPerRequestBufferLimitBytes(), contentLimits{-1, -1})
}

// limit is the one that counts; negative is none.
func (l contentLimits) limit() int {
	if l.content >= 0 {
		return l.content
	}
	return l.deprecated
}

// raiseLimit lets a route make room for more than the listener does, in both
// directions.
func (s *stream) raiseLimit(r *route) {
	if r != nil {
		s.bufferLimit = max(s.bufferLimit, r.contentLimits.limit())
	}
}

// mayRetain says whether so much content may be kept for another attempt.
func (s *stream) mayRetain(size int) bool {
	if most := s.route.contentLimits.limit(); most >= 0 {
		return size <= most
	}
	return s.hcm.bufferLimit == 0 || size <= s.hcm.bufferLimit
}

package proxy

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/structpb"
)

// This file is the commands of Envoy's format strings.

// commandSyntax says what stands behind the name of a command.
type commandSyntax int

const (
	bare     commandSyntax = iota // nothing
	optional                      // perhaps an argument
	required                      // an argument
	short    commandSyntax = 8    // and perhaps a length
)

// commandKind is a command of Envoy 1.40 by its syntax and what makes it. One
// without make is valid and not simulated.
type commandKind struct {
	syntax commandSyntax
	make   func(b *builder, path, arg string) (command, error)
}

func (b *builder) command(path, name, arg string, hasArg, hasLength bool) (command, error) {
	c, known := commands[name]
	if name == "REQ_WITHOUT_QUERY" && b.withoutQuery {
		c, known = commandKind{required | short, withoutQueryCommand}, true
	}
	switch syntax := c.syntax &^ short; {
	case !known:
		return nil, b.boot.Errorf(path, "%%%s%% is no format command of Envoy 1.40", name)
	case syntax == bare && (arg != "" || hasLength):
		return nil, b.boot.Errorf(path, "%%%s%% does not take any parameters or length", name)
	case syntax == required && arg == "" && name != "CEL" && name != "TYPED_CEL":
		return nil, b.boot.Errorf(path, "%%%s%% requires parameters", name)
	case hasLength && c.syntax&short == 0:
		return nil, b.boot.Errorf(path, "%%%s%% does not allow length to be specified", name)
	case name == "COALESCE": // not in the table, because it looks there itself
		return coalesceCommand(b, path, arg)
	case c.make == nil:
		return nil, b.boot.Unsupported(path, "the format command %"+name+"%")
	}
	return c.make(b, path, arg)
}

// simple is a command without an argument.
func simple(c command) commandKind {
	return commandKind{bare, func(*builder, string, string) (command, error) { return c, nil }}
}

// word is a command that gives a text, absent where it is empty.
func word(get func(*stream) string) commandKind {
	return simple(func(dst []byte, s *stream) ([]byte, kind) {
		v := get(s)
		if v == "" {
			return dst, absent
		}
		return append(dst, v...), text
	})
}

// number is a command that gives an integer, absent where it is negative.
func number(get func(*stream) int64) commandKind {
	return simple(func(dst []byte, s *stream) ([]byte, kind) {
		n := get(s)
		if n < 0 {
			return dst, absent
		}
		return strconv.AppendInt(dst, n, 10), raw
	})
}

// never is what is not there without TLS, HTTP/2, gRPC or a tracer.
func never(syntax commandSyntax) commandKind {
	return commandKind{syntax, func(*builder, string, string) (command, error) {
		return func(dst []byte, _ *stream) ([]byte, kind) { return dst, absent }, nil
	}}
}

// empty is what is there, but has nothing to say.
var empty = simple(func(dst []byte, _ *stream) ([]byte, kind) { return dst, text })

// commands are all that Envoy 1.40 takes without formatters.
var commands = withTLS(map[string]commandKind{
	"REQ":     {required | short, headerCommand(func(s *stream) *Headers { return &s.request })},
	"RESP":    {required | short, headerCommand(func(s *stream) *Headers { return &s.response })},
	"TRAILER": {required | short, headerCommand(func(s *stream) *Headers { return &s.responseTrailers })},
	// The same in longer words.
	"REQUEST_HEADER":   {required | short, headerCommand(func(s *stream) *Headers { return &s.request })},
	"RESPONSE_HEADER":  {required | short, headerCommand(func(s *stream) *Headers { return &s.response })},
	"RESPONSE_TRAILER": {required | short, headerCommand(func(s *stream) *Headers { return &s.responseTrailers })},

	"PATH":         {optional | short, pathCommand},
	"QUERY_PARAM":  {required | short, queryParamCommand},
	"QUERY_PARAMS": {optional | short, queryParamsCommand},
	"PROTOCOL":     word(func(s *stream) string { return s.protocol }),

	"RESPONSE_CODE": number(func(s *stream) int64 { return int64(s.status) }),
	"RESPONSE_CODE_DETAILS": {optional, func(_ *builder, _, arg string) (command, error) {
		return func(dst []byte, s *stream) ([]byte, kind) {
			if s.details == "" && !s.responseBegun { // a plugin's reply may give empty ones
				return dst, absent
			}
			if arg == "ALLOW_WHITESPACES" {
				return append(dst, s.details...), text
			}
			return append(dst, strings.ReplaceAll(s.details, " ", "_")...), text
		}, nil
	}},
	"RESPONSE_FLAGS":      simple(func(dst []byte, s *stream) ([]byte, kind) { return append(dst, dash(s.flags)...), text }),
	"RESPONSE_FLAGS_LONG": simple(func(dst []byte, s *stream) ([]byte, kind) { return append(dst, dash(longFlags(s.flags))...), text }),

	"BYTES_RECEIVED":          number(func(s *stream) int64 { return s.bytesReceived.Load() }),
	"BYTES_SENT":              number(func(s *stream) int64 { return s.bytesSent.Load() }),
	"REQUEST_HEADERS_BYTES":   number(func(s *stream) int64 { return int64(s.request.byteSize()) }),
	"RESPONSE_HEADERS_BYTES":  number(func(s *stream) int64 { return int64(s.response.byteSize()) }),
	"RESPONSE_TRAILERS_BYTES": number(func(s *stream) int64 { return int64(s.responseTrailers.byteSize()) }),
	"BYTES_RETRANSMITTED":     number(func(*stream) int64 { return 0 }), // known for QUIC only
	"PACKETS_RETRANSMITTED":   number(func(*stream) int64 { return 0 }),

	"DOWNSTREAM_WIRE_BYTES_RECEIVED":                number(func(s *stream) int64 { return s.wireReceived() }),
	"DOWNSTREAM_WIRE_BYTES_SENT":                    number(func(s *stream) int64 { return s.wireSent() }),
	"DOWNSTREAM_HEADER_BYTES_RECEIVED":              number(func(s *stream) int64 { return s.fieldsReceived() }),
	"DOWNSTREAM_HEADER_BYTES_SENT":                  number(func(s *stream) int64 { return s.fieldsSent() }),
	"DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED": number(func(s *stream) int64 { return s.fieldsReceived() }),
	"DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT":     number(func(s *stream) int64 { return s.fieldsSent() }),
	"UPSTREAM_WIRE_BYTES_RECEIVED":                  number(func(s *stream) int64 { received, _ := s.upstreamWire(); return received }),
	"UPSTREAM_WIRE_BYTES_SENT":                      number(func(s *stream) int64 { _, sent := s.upstreamWire(); return sent }),
	"UPSTREAM_HEADER_BYTES_RECEIVED":                number(func(s *stream) int64 { return s.upstreamFieldsReceived() }),
	"UPSTREAM_HEADER_BYTES_SENT":                    number(func(s *stream) int64 { return s.upstreamMeter.fieldsSent }),
	"UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED":   number(func(s *stream) int64 { return s.upstreamMeter.decompressed + s.upstreamMeter.fieldsOfHeads() }),
	"UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT":       number(func(s *stream) int64 { return s.upstreamMeter.fieldsSent }),

	"DURATION":                                number(func(s *stream) int64 { return time.Since(s.start).Milliseconds() }),
	"REQUEST_DURATION":                        number(func(s *stream) int64 { return between(s.start, s.requestComplete) }),
	"REQUEST_TX_DURATION":                     number(func(s *stream) int64 { return between(s.start, s.upstreamMeter.ended) }),
	"RESPONSE_DURATION":                       number(func(s *stream) int64 { return between(s.start, s.upstreamBegun) }),
	"RESPONSE_TX_DURATION":                    number(func(s *stream) int64 { return between(s.upstreamBegun, s.replyEnded) }),
	"ROUNDTRIP_DURATION":                      never(bare),
	"UPSTREAM_CONNECTION_POOL_READY_DURATION": number(func(s *stream) int64 { return between(s.upstreamMeter.asked, s.upstreamMeter.ready) }),
	"COMMON_DURATION":                         {required, commonDurationCommand},

	"START_TIME":       {optional, timeCommand(false, func(s *stream) time.Time { return s.start })},
	"START_TIME_LOCAL": {optional, timeCommand(true, func(s *stream) time.Time { return s.start })},
	"EMIT_TIME":        {optional, timeCommand(false, func(*stream) time.Time { return time.Now() })},
	"EMIT_TIME_LOCAL":  {optional, timeCommand(true, func(*stream) time.Time { return time.Now() })},

	"UPSTREAM_CLUSTER":     word(clusterAlias),
	"UPSTREAM_CLUSTER_RAW": word(func(s *stream) string { return s.clusterName }),
	"UPSTREAM_HOST":        word(func(s *stream) string { return s.upstreamHost }),

	"UPSTREAM_HOST_NAME":                         word(func(s *stream) string { return s.host.namedAs() }),
	"UPSTREAM_HOST_NAME_WITHOUT_PORT":            word(func(s *stream) string { return withoutPort(s.host.namedAs()) }),
	"UPSTREAM_REMOTE_ADDRESS":                    word(func(s *stream) string { return s.upstreamRemote() }),
	"UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT":       word(func(s *stream) string { return withoutPort(s.upstreamRemote()) }),
	"UPSTREAM_REMOTE_PORT":                       number(func(s *stream) int64 { return portOf(s.upstreamRemote()) }),
	"UPSTREAM_LOCAL_ADDRESS":                     word(func(s *stream) string { return s.upstreamLocal() }),
	"UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT":        word(func(s *stream) string { return withoutPort(s.upstreamLocal()) }),
	"UPSTREAM_LOCAL_PORT":                        number(func(s *stream) int64 { return portOf(s.upstreamLocal()) }),
	"UPSTREAM_PROTOCOL":                          word(func(s *stream) string { return s.upstreamProtocol() }),
	"UPSTREAM_REQUEST_ATTEMPT_COUNT":             number(func(s *stream) int64 { return int64(s.attempts) }),
	"UPSTREAM_CONNECTION_ID":                     number(func(s *stream) int64 { return s.upstreamConnectionID() }),
	"UPSTREAM_TRANSPORT_FAILURE_REASON":          word(func(s *stream) string { return strings.ReplaceAll(s.upstreamMeter.failure, " ", "_") }),
	"UPSTREAM_DETECTED_CLOSE_TYPE":               word(func(s *stream) string { return s.upstreamCloseType() }),
	"UPSTREAM_LOCAL_CLOSE_REASON":                word(func(s *stream) string { return s.upstreamReason }),
	"UPSTREAM_HOSTS_ATTEMPTED":                   word(func(s *stream) string { return s.tried(func(h *host) string { return h.address }) }),
	"UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT":      word(func(s *stream) string { return s.tried(func(h *host) string { return withoutPort(h.address) }) }),
	"UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT": word(func(s *stream) string { return s.tried(func(h *host) string { return withoutPort(h.namedAs()) }) }),
	"UPSTREAM_HOST_NAMES_ATTEMPTED":              word(func(s *stream) string { return s.tried((*host).namedAs) }),
	"UPSTREAM_CONNECTION_IDS_ATTEMPTED":          word(func(s *stream) string { return s.connectionIDs() }),
	"UPSTREAM_FILTER_STATE":                      never(required | short),

	"DOWNSTREAM_REMOTE_ADDRESS":                     word(func(s *stream) string { return s.clientAddress() }),
	"DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT":        word(func(s *stream) string { return withoutPort(s.clientAddress()) }),
	"DOWNSTREAM_REMOTE_PORT":                        number(func(s *stream) int64 { return portOf(s.clientAddress()) }),
	"DOWNSTREAM_DIRECT_REMOTE_ADDRESS":              word(func(s *stream) string { return s.conn.remote }),
	"DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT": word(func(s *stream) string { return withoutPort(s.conn.remote) }),
	"DOWNSTREAM_DIRECT_REMOTE_PORT":                 number(func(s *stream) int64 { return portOf(s.conn.remote) }),
	"DOWNSTREAM_LOCAL_ADDRESS":                      word(func(s *stream) string { return s.conn.local }),
	"DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT":         word(func(s *stream) string { return withoutPort(s.conn.local) }),
	"DOWNSTREAM_LOCAL_PORT":                         number(func(s *stream) int64 { return portOf(s.conn.local) }),
	"DOWNSTREAM_DIRECT_LOCAL_ADDRESS":               word(func(s *stream) string { return s.conn.local }),
	"DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT":  word(func(s *stream) string { return withoutPort(s.conn.local) }),
	"DOWNSTREAM_DIRECT_LOCAL_PORT":                  number(func(s *stream) int64 { return portOf(s.conn.local) }),
	"DOWNSTREAM_DETECTED_CLOSE_TYPE":                word(func(s *stream) string { return cmp.Or(s.clientClose, "Normal") }),
	"DOWNSTREAM_LOCAL_CLOSE_REASON":                 word(func(s *stream) string { return s.closeReason }),
	"DOWNSTREAM_TRANSPORT_FAILURE_REASON":           word(func(s *stream) string { return s.downstreamFailure() }),
	"CONNECTION_TERMINATION_DETAILS":                never(bare),
	"DOWNSTREAM_PEER_OTHERNAME_SAN":                 never(bare),
	"DOWNSTREAM_LOCAL_OTHERNAME_SAN":                never(bare),
	"TLS_JA3_FINGERPRINT":                           never(bare),
	"TLS_JA4_FINGERPRINT":                           never(bare),
	"REQUESTED_SERVER_NAME":                         {optional, requestedServerNameCommand},
	"GRPC_STATUS":                                   {optional, grpcStatusCommand},
	"GRPC_STATUS_NUMBER":                            {bare, grpcNumberCommand},
	"TRACE_ID":                                      never(bare),
	"SPAN_ID":                                       never(bare),

	"CONNECTION_ID": number(func(s *stream) int64 { return int64(s.conn.id) }),
	"STREAM_ID": word(func(s *stream) string {
		if s.streamID[0] != 0 {
			return string(s.streamID[:])
		}
		return s.request.value("x-request-id")
	}),
	"UNIQUE_ID": simple(func(dst []byte, _ *stream) ([]byte, kind) {
		id := newRequestID()
		return append(dst, id[:]...), text
	}),
	"HOSTNAME":   word(func(*stream) string { name, _ := os.Hostname(); return name }),
	"ROUTE_NAME": word(func(s *stream) string { return s.routeName() }),
	"VIRTUAL_CLUSTER_NAME": word(func(s *stream) string {
		if c := s.counted[0]; c != nil {
			return c.name
		}
		return ""
	}),
	"LISTENER_NAME":                               word(func(s *stream) string { return s.hcm.listener }),
	"FILTER_CHAIN_NAME":                           word(func(s *stream) string { return s.hcm.filterChain }),
	"ACCESS_LOG_TYPE":                             word((*stream).accessLogType),
	"LOCAL_REPLY_BODY":                            simple(func(dst []byte, s *stream) ([]byte, kind) { return append(dst, s.localBody...), text }),
	"CUSTOM_FLAGS":                                simple(func(dst []byte, _ *stream) ([]byte, kind) { return dst, text }),
	"ROUTE_RESOLUTION_COUNT":                      number(func(s *stream) int64 { return int64(s.routesFound) }),
	"ROUTE_RESOLUTION_TIME_US":                    {bare, nil}, // nobody measures it here
	"DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID":        empty,       // of an Envoy-internal address
	"DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID": empty,
	"UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID": simple(func(dst []byte, s *stream) ([]byte, kind) {
		if s.upstreamMeter.used == nil {
			return dst, absent
		}
		return dst, text
	}),

	"DYNAMIC_METADATA":  {required | short, metadataCommand("DYNAMIC:")},
	"CLUSTER_METADATA":  {required | short, metadataCommand("CLUSTER:")},
	"UPSTREAM_METADATA": {required | short, metadataCommand("UPSTREAM_HOST:")},
	"METADATA":          {required | short, metadataCommand("")},
	"FILTER_STATE":      {required | short, filterStateCommand},
	"ENVIRONMENT":       {required | short, environmentCommand},
	"COALESCE":          {syntax: required | short},
	"CEL":               {required | short, func(b *builder, path, arg string) (command, error) { return b.cel(path, arg, false) }},
	"TYPED_CEL":         {required | short, func(b *builder, path, arg string) (command, error) { return b.cel(path, arg, true) }},
})

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// between is the time from the first to the last in milliseconds, or negative
// if one of them has not come.
func between(times ...time.Time) int64 {
	for _, t := range times {
		if t.IsZero() {
			return -1
		}
	}
	return max(times[len(times)-1].Sub(times[0]).Milliseconds(), 0)
}

func withoutPort(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}

// portOf is the port of an address, or negative.
func portOf(address string) int64 {
	if _, port, err := net.SplitHostPort(address); err == nil {
		if n, err := strconv.ParseInt(port, 10, 64); err == nil {
			return n
		}
	}
	return -1
}

// upstreamProtocol is there once an upstream connection is.
func (s *stream) upstreamProtocol() string {
	switch {
	case s.lastUpstream == nil || s.hcm.tcp != nil:
		return ""
	case s.lastUpstream.http2 != nil:
		return "HTTP/2"
	}
	return "HTTP/1.1"
}

// upstreamLocal is the proxy's address on the connection to the upstream.
func (s *stream) upstreamLocal() string {
	if s.lastUpstream == nil {
		return ""
	}
	return s.lastUpstream.LocalAddr().String()
}

// upstreamRemote is the other end of that connection.
func (s *stream) upstreamRemote() string {
	if s.upstreamMeter.used == nil {
		return ""
	}
	return s.upstreamHost
}

// clientAddress is the address of the client, which may be one behind other
// proxies.
func (s *stream) clientAddress() string {
	if s.client != "" {
		return s.client
	}
	return s.conn.remote
}

// namedAs is what Envoy calls the host: its name, or else its address.
func (h *host) namedAs() string {
	switch {
	case h == nil:
		return ""
	case h.hostname != "":
		return h.hostname
	}
	return h.address
}

// tried is the host of the last attempt, if there was a connection to it.
// Envoy's list begins anew with each.
func (s *stream) tried(name func(*host) string) string {
	if s.hcm.tcp != nil {
		var names []string
		for _, h := range s.retry.tried {
			names = append(names, name(h))
		}
		return strings.Join(names, ",")
	}
	if s.upstreamMeter.used == nil {
		return ""
	}
	return name(s.host)
}

func (s *stream) upstreamConnectionID() int64 {
	if s.upstreamMeter.used == nil {
		return 0
	}
	return int64(s.upstreamMeter.used.id)
}

func (s *stream) connectionIDs() string {
	if s.upstreamMeter.used == nil {
		return ""
	}
	return itoa(int(s.upstreamMeter.used.id))
}

// upstreamCloseType is there once an attempt was made. Envoy tells resets from
// the rest only where TLS or HTTP/2 does.
func (s *stream) upstreamCloseType() string {
	if s.hcm.tcp != nil {
		return cmp.Or(s.upstreamClose, "Normal")
	}
	if s.upstreamMeter.asked.IsZero() {
		return ""
	}
	return "Normal"
}

func (s *stream) routeName() string {
	if s.route == nil || !s.routeKnown {
		return ""
	}
	return s.route.name
}

// responseFlags are Envoy's names of response flags.
var responseFlags = map[string]string{
	"LH": "FailedLocalHealthCheck", "UH": "NoHealthyUpstream", "UT": "UpstreamRequestTimeout", "LR": "LocalReset",
	"UR": "UpstreamRemoteReset", "UF": "UpstreamConnectionFailure", "UC": "UpstreamConnectionTermination",
	"UO": "UpstreamOverflow", "NR": "NoRouteFound", "DI": "DelayInjected", "FI": "FaultInjected", "RL": "RateLimited",
	"UAEX": "UnauthorizedExternalService", "RLSE": "RateLimitServiceError", "DC": "DownstreamConnectionTermination",
	"URX": "UpstreamRetryLimitExceeded", "SI": "StreamIdleTimeout", "IH": "InvalidEnvoyRequestHeaders",
	"DPE": "DownstreamProtocolError", "UMSDR": "UpstreamMaxStreamDurationReached", "RFCF": "ResponseFromCacheFilter",
	"NFCF": "NoFilterConfigFound", "DT": "DurationTimeout", "UPE": "UpstreamProtocolError", "NC": "NoClusterFound",
	"OM": "OverloadManagerTerminated", "DF": "DnsResolutionFailed", "DO": "DropOverload", "DR": "DownstreamRemoteReset",
	"UDO": "UnconditionalDropOverload",
}

// longFlags names flags, which are joined by commas.
func longFlags(flags string) string {
	if long, ok := responseFlags[flags]; ok || flags == "" {
		return long
	}
	names := strings.Split(flags, ",")
	for i, f := range names {
		names[i] = responseFlags[f]
	}
	return strings.Join(names, ",")
}

// headerCommand gives the first value of a header, or of another one.
func headerCommand(of func(*stream) *Headers) func(*builder, string, string) (command, error) {
	return func(b *builder, path, arg string) (command, error) {
		main, alternative, _ := strings.Cut(arg, "?")
		if strings.Contains(alternative, "?") {
			return nil, b.boot.Errorf(path, "%q names more than one alternative header", arg)
		}
		names := []string{canonical(main)}
		if alternative != "" {
			names = append(names, canonical(alternative))
		}
		return func(dst []byte, s *stream) ([]byte, kind) {
			h := of(s)
			for _, name := range names {
				if i := h.find(name); i >= 0 {
					return append(dst, h.fields[i].value...), text
				}
			}
			return dst, absent
		}, nil
	}
}

// withoutQueryCommand is REQ without what follows a question mark in the value.
func withoutQueryCommand(b *builder, path, arg string) (command, error) {
	whole, err := headerCommand(func(s *stream) *Headers { return &s.request })(b, path, arg)
	if err != nil {
		return nil, err
	}
	return func(dst []byte, s *stream) ([]byte, kind) {
		start := len(dst)
		dst, k := whole(dst, s)
		if i := bytes.IndexByte(dst[start:], '?'); i >= 0 {
			dst = dst[:start+i]
		}
		return dst, k
	}, nil
}

// pathCommand is %PATH(query:which)%: with or without a query (WQ, NQ), of
// the request as it is now (PATH), as it came (ORIG), or as it came if that
// is known (ORIG_OR_PATH).
func pathCommand(b *builder, path, arg string) (command, error) {
	query, which, _ := strings.Cut(arg, ":")
	if query != "" && query != "WQ" && query != "NQ" {
		return nil, b.boot.Errorf(path, "%%PATH(%s)%%: found %q, want WQ or NQ", arg, query)
	}
	names := []string{"x-envoy-original-path", ":path"}
	switch which {
	case "", "ORIG_OR_PATH":
	case "ORIG":
		names = names[:1]
	case "PATH":
		names = names[1:]
	default:
		return nil, b.boot.Errorf(path, "%%PATH(%s)%%: found %q, want ORIG, PATH or ORIG_OR_PATH", arg, which)
	}
	return func(dst []byte, s *stream) ([]byte, kind) {
		for _, name := range names {
			if i := s.request.find(name); i >= 0 {
				v := s.request.fields[i].value
				if query == "NQ" {
					v, _, _ = strings.Cut(v, "?")
				}
				return append(dst, v...), text
			}
		}
		return dst, absent
	}, nil
}

func queryParamCommand(_ *builder, _, name string) (command, error) {
	return func(dst []byte, s *stream) ([]byte, kind) {
		for _, p := range decodeQuery(s.request.value(":path")) {
			if p.name == name {
				return append(dst, p.value...), text
			}
		}
		return dst, absent
	}, nil
}

func queryParamsCommand(b *builder, path, arg string) (command, error) {
	if arg != "" && arg != "ORIG" && arg != "DECODED" {
		return nil, b.boot.Errorf(path, "%%QUERY_PARAMS(%s)%%: want ORIG or DECODED", arg)
	}
	if arg == "DECODED" {
		return nil, b.boot.Unsupported(path, "%QUERY_PARAMS(DECODED)%")
	}
	return func(dst []byte, s *stream) ([]byte, kind) {
		_, query, is := strings.Cut(s.request.value(":path"), "?")
		if !is {
			return dst, absent
		}
		return append(dst, query...), text
	}, nil
}

// commonDurationCommand is %COMMON_DURATION(start:end:precision)%. A point in
// time that nobody has set is not an error, there is no value then.
func commonDurationCommand(b *builder, path, arg string) (command, error) {
	parts := strings.Split(arg, ":")
	if len(parts) != 3 {
		return nil, b.boot.Errorf(path, "%%COMMON_DURATION(%s)%%: want start:end:precision", arg)
	}
	precision := map[string]time.Duration{"ms": time.Millisecond, "us": time.Microsecond, "ns": time.Nanosecond}[parts[2]]
	if precision == 0 {
		return nil, b.boot.Errorf(path, "%%COMMON_DURATION(%s)%%: found precision %q, want ms, us or ns", arg, parts[2])
	}
	points := [2]func(*stream) time.Time{}
	for i, name := range parts[:2] {
		switch name {
		case "DS_RX_BEG":
			points[i] = func(s *stream) time.Time { return s.start }
		case "DS_RX_END":
			points[i] = func(s *stream) time.Time { return s.requestComplete }
		case "US_RX_BEG":
			points[i] = func(s *stream) time.Time { return s.upstreamBegun }
		case "DS_TX_BEG":
			points[i] = func(s *stream) time.Time { return s.replyBegun }
		case "DS_TX_END":
			points[i] = func(s *stream) time.Time { return s.replyEnded }
		case "US_CX_BEG":
			points[i] = func(s *stream) time.Time { return s.upstreamMeter.connected().begun }
		case "US_CX_END":
			points[i] = func(s *stream) time.Time { return s.upstreamMeter.connected().made }
		case "US_TX_BEG":
			points[i] = func(s *stream) time.Time { return s.upstreamMeter.begun }
		case "US_TX_END":
			points[i] = func(s *stream) time.Time { return s.upstreamMeter.ended }
		case "US_RX_END":
			points[i] = func(s *stream) time.Time { return s.upstreamMeter.last }
		default:
			points[i] = func(*stream) time.Time { return time.Time{} }
		}
	}
	return func(dst []byte, s *stream) ([]byte, kind) {
		from, to := points[0](s), points[1](s)
		if from.IsZero() || to.IsZero() {
			return dst, absent
		}
		return strconv.AppendInt(dst, int64(to.Sub(from)/precision), 10), raw
	}, nil
}

// requestedServerNameCommand is %REQUESTED_SERVER_NAME(source:host)%. Without
// TLS there is no server name, so all that can be there is the host: as it came
// (ORIG), as it is now (HOST), or as it came if that is known.
func requestedServerNameCommand(b *builder, path, arg string) (command, error) {
	source, host, _ := strings.Cut(arg, ":")
	names := []string{"x-envoy-original-host", ":authority"}
	switch host {
	case "ORIG":
		names = names[:1]
	case "HOST":
		names = names[1:]
	case "", "ORIG_OR_HOST":
	default:
		return nil, b.boot.Errorf(path, "%%REQUESTED_SERVER_NAME(%s)%%: found %q, want ORIG, HOST or ORIG_OR_HOST", arg, host)
	}
	switch source {
	case "", "SNI_ONLY":
		names = nil
	case "SNI_FIRST", "HOST_FIRST":
	default:
		return nil, b.boot.Errorf(path, "%%REQUESTED_SERVER_NAME(%s)%%: found %q, want SNI_ONLY, SNI_FIRST or HOST_FIRST", arg, source)
	}
	return func(dst []byte, s *stream) ([]byte, kind) {
		sni := s.conn.serverName
		if sni != "" && source != "HOST_FIRST" {
			return append(dst, sni...), text
		}
		for _, name := range names {
			if v := s.request.value(name); v != "" {
				return append(dst, v...), text
			}
		}
		if sni != "" {
			return append(dst, sni...), text
		}
		return dst, absent
	}, nil
}

// coalesceCommand is %COALESCE({"operators": [...]})%: the first command that
// gives something. A command is its name, or an object of command, param and
// max_length.
func coalesceCommand(b *builder, path, arg string) (command, error) {
	var list struct {
		Operators []json.RawMessage `json:"operators"`
	}
	if err := json.Unmarshal([]byte(arg), &list); err != nil {
		return nil, b.boot.Errorf(path, "%%COALESCE%%: %q is no JSON object: %v", arg, err)
	}
	if len(list.Operators) == 0 {
		return nil, b.boot.Errorf(path, "%%COALESCE%%: operators has to be a list of at least one command")
	}
	f := &format{}
	for i, raw := range list.Operators {
		var one struct {
			Command string  `json:"command"`
			Param   *string `json:"param"`
			Max     *int    `json:"max_length"`
		}
		if json.Unmarshal(raw, &one.Command) != nil {
			if err := json.Unmarshal(raw, &one); err != nil || one.Command == "" {
				return nil, b.boot.Errorf(path, "%%COALESCE%%: operators[%d] is %s, want the name of a command, or an object with command", i, raw)
			}
		}
		param, max := "", -1
		if one.Param != nil {
			param = *one.Param
		}
		if one.Max != nil {
			max = *one.Max
		}
		c, err := b.command(path, one.Command, param, one.Param != nil, max >= 0)
		if err != nil {
			return nil, err
		}
		f.parts = append(f.parts, formatPart{command: c, max: max})
	}
	return func(dst []byte, s *stream) ([]byte, kind) {
		start := len(dst)
		for i := range f.parts {
			out, k := f.parts[i].command(dst, s)
			if k == absent || len(out) == start {
				dst = out[:start]
				continue
			}
			if max := f.parts[i].max; max >= 0 && len(out)-start > max {
				out = out[:start+max]
			}
			return out, text
		}
		return dst, absent
	}, nil
}

// metadataCommand is %METADATA(type:namespace:key...)%, or a command that
// implies the type.
func metadataCommand(implied string) func(*builder, string, string) (command, error) {
	return func(b *builder, path, arg string) (command, error) {
		parts := strings.Split(implied+arg, ":")
		var from func(*stream, string) *structpb.Struct
		switch parts[0] {
		case "DYNAMIC":
			from = func(s *stream, namespace string) *structpb.Struct { return s.metadata[namespace] }
		case "ROUTE":
			from = func(s *stream, namespace string) *structpb.Struct {
				if s.route == nil {
					return nil
				}
				return s.route.metadata.GetFilterMetadata()[namespace]
			}
		case "VIRTUAL_HOST":
			from = func(s *stream, namespace string) *structpb.Struct {
				if s.route == nil {
					return nil
				}
				return s.route.virtualHost.metadata.GetFilterMetadata()[namespace]
			}
		case "CLUSTER":
			from = func(s *stream, namespace string) *structpb.Struct {
				if c := s.conn.server.clusters[s.clusterName]; c != nil {
					return c.metadata.GetFilterMetadata()[namespace]
				}
				return nil
			}
		case "UPSTREAM_HOST":
			from = func(s *stream, namespace string) *structpb.Struct {
				if s.host != nil {
					return s.host.metadata.GetFilterMetadata()[namespace]
				}
				return nil
			}
		case "LISTENER":
			from = func(s *stream, namespace string) *structpb.Struct {
				return s.hcm.listenerMetadata.GetFilterMetadata()[namespace]
			}
		case "LISTENER_FILTER_CHAIN":
			from = func(s *stream, namespace string) *structpb.Struct {
				return s.hcm.chainMetadata.GetFilterMetadata()[namespace]
			}
		default:
			return nil, b.boot.Errorf(path, "%%METADATA(%s)%%: %s is not a supported type of metadata", arg, parts[0])
		}
		namespace, keys := "", parts[1:]
		if len(keys) > 0 {
			namespace, keys = keys[0], keys[1:]
		}
		return func(dst []byte, s *stream) ([]byte, kind) {
			fields := from(s, namespace)
			if fields == nil {
				return dst, absent
			}
			v := structpb.NewStructValue(fields)
			if len(keys) > 0 {
				v = lookUp(fields, keys)
			}
			return appendValue(dst, v)
		}, nil
	}
}

// appendValue writes text bare and all else as JSON; null counts as absent.
func appendValue(dst []byte, v *structpb.Value) ([]byte, kind) {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		return append(dst, k.StringValue...), text
	case nil, *structpb.Value_NullValue:
		return dst, absent
	}
	return appendJSON(dst, v), raw
}

// filterStateCommand is %FILTER_STATE(key:form)%.
func filterStateCommand(b *builder, path, arg string) (command, error) {
	key, form, _ := strings.Cut(arg, ":")
	switch form {
	case "PLAIN":
		return func(dst []byte, s *stream) ([]byte, kind) {
			if o, ok := s.filterState[key]; ok {
				return append(dst, o.text...), text
			}
			return dst, absent
		}, nil
	case "", "TYPED":
		return func(dst []byte, s *stream) ([]byte, kind) {
			if typed, ok := s.filterState[key].typed(); ok && s.hasState(key) {
				return appendJSONString(dst, typed), raw
			}
			return dst, absent
		}, nil
	}
	if strings.HasPrefix(form, "FIELD:") {
		return nil, b.boot.Unsupported(path, "FIELD in %FILTER_STATE%")
	}
	return nil, b.boot.Errorf(path, "%%FILTER_STATE(%s)%%: found %q, want PLAIN, TYPED or FIELD and the name of one", arg, form)
}

// environmentCommand is %ENVIRONMENT(NAME)%, read once.
func environmentCommand(_ *builder, _, name string) (command, error) {
	value, found := os.LookupEnv(name)
	if !found {
		value = "-"
	}
	return func(dst []byte, _ *stream) ([]byte, kind) { return append(dst, value...), text }, nil
}

// clusterAlias is the name of the stream's cluster for people.
func clusterAlias(s *stream) string {
	if c := s.conn.server.clusters[s.clusterName]; c != nil {
		return c.alias
	}
	return s.clusterName
}

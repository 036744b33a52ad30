package proxy

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// hcm is an HTTP connection manager.
type hcm struct {
	server                *Server
	listener, filterChain string // the names of what it belongs to
	listenerMetadata      *corev3.Metadata
	chainMetadata         *corev3.Metadata
	direction             corev3.TrafficDirection
	admin                 func(AdminRequest) AdminResponse // instead of routes; nil: this is no admin interface
	tcp                   *tcpProxy                        // what it stands in for; nil: it is a connection manager

	codecType hcmv3.HttpConnectionManager_CodecType
	http2     http2Options

	routes     *routeTable
	chain      *filterChain
	upgrades   []upgradeConfig
	early      []mutation
	accessLogs []*accessLog

	ignoreUpgrade []func(protocol string) bool
	acceptHTTP10  bool
	defaultHost   string // of an HTTP/1.0 request without one
	relativeOnly  bool   // no absolute-form targets
	streamErrors  bool   // a bad request may leave the connection open
	codec         codecOptions
	underscores   corev3.HttpProtocolOptions_HeadersWithUnderscoresAction
	maxHeaders    int
	maxHeadBytes  int
	bufferLimit   int // per_connection_buffer_limit_bytes; 0: none

	normalizePath, mergeSlashes bool
	escapedSlashes              hcmv3.HttpConnectionManager_PathWithEscapedSlashesAction

	remoteAddress bool // use_remote_address: this is the edge
	client        clientOptions
	replies       *localReplies // nil: as they are

	serverName          string
	serverHeader        hcmv3.HttpConnectionManager_ServerHeaderTransformation
	stripPort, stripDot bool // of the authority
	skipXFF             bool
	via                 string
	scheme              string // of every request; "": its own
	userAgent           bool   // requests name the node that they come through
	clientCert          clientCert
	stripOwnPort        bool // of the authority, where it is the listener's
	node                *corev3.Node
	proxyContinue       bool // 100 (Continue) comes from the upstream
	preserveID          bool // a client's x-request-id, at the edge
	returnID            bool // x-request-id in responses
	generateID          bool
	idleTimeout         time.Duration // of a connection without a stream; 0: none
	streamIdle          time.Duration // 0: none
	maxStream           time.Duration // 0: none
	maxLife             time.Duration // of a connection; 0: any
	softDrain           bool          // ... which the response to the next request ends
	maxRequests         int           // of a connection; 0: any number
	drainTimeout        time.Duration
	delayedClose        time.Duration // 0: none
	requestTimeout      time.Duration // until the request is complete; 0: none
	headersTimeout      time.Duration // until its head is; 0: none
	stats               hcmStats
}

// localReply is a response that the proxy gives itself.
type localReply struct {
	codec       bool // the codec refused what the client sent
	status      int
	body        string
	details     string // response code details
	guest       bool   // a plugin's, which may have any status, 0 too
	flags       string // response flags
	headers     [][2]string
	direct      bool   // the route's own: a redirect or direct_response
	contentType string // that a direct response asks for

	grpcStatus int32 // a plugin's; none of gRPC's: what stands for that of HTTP
}

// nobody says that there is no reply to send: the client is gone, or must not
// get any.
func (r *localReply) nobody() bool { return r.status == 0 && !r.guest }

// decodeHead is the codec and the connection manager up to the first filter:
// it turns a head into the stream's request headers, finds the initial route
// and makes the filter chain. A non-nil reply ends the stream.
func (s *stream) decodeHead(head []byte) *localReply {
	if r := s.decodeCodec(head); r != nil {
		// What the codec refuses nobody behind it gets to see.
		s.request.reset(requestInline)
		s.protocol = "HTTP/1.1"
		s.http11 = s.http11 || !s.hcm.acceptHTTP10
		s.head = false // the answer has content, whatever the method
		s.closing = true
		return r
	}
	return s.decodeManager()
}

func (s *stream) decodeCodec(head []byte) *localReply {
	m, h := s.hcm, &s.request
	m.codec.noteNames(h, &s.requestNames, head)
	req, err := parseRequest(s.meter.received(s.keep(head)), h, m.maxHeaders, m.codec.anyMethod)
	if err != nil {
		return codecReply(err)
	}
	s.http11 = req.http11()
	s.head = req.method == "HEAD"
	if err := m.judgeUnderscores(h, true); err != nil {
		return codecReply(err)
	}
	s.upgrade = m.sanitizeUpgrade(h)
	if r := s.framing(req.method); r != nil {
		return r
	}
	if !s.upgrade && !sanitizeConnection(h) {
		return codecReply(&codecError{status: 400, details: "http1.connection_header_rejected"})
	}
	if r := s.target(req); r != nil {
		return r
	}
	if s.connect = req.method == "CONNECT"; s.connect {
		s.upgrade = true
	}
	h.insert(":method", req.method)
	if !s.http11 {
		if !m.acceptHTTP10 {
			return codecReply(&codecError{status: 426, details: "low_version"})
		}
		s.protocol = "HTTP/1.0"
	}
	if !validAuthority(h.value(":authority")) {
		return codecReply(&codecError{status: 400, details: "http.invalid_authority"})
	}
	if wantsClose(h, req.http11()) {
		s.closing, s.promptly = true, true
	}
	return nil
}

func (s *stream) decodeManager() *localReply {
	m, h := s.hcm, &s.request
	s.requestHasCome()
	if equalFold(h.value("expect"), "100-continue") && !m.proxyContinue {
		s.sendContinue()
		m.stats.responded(100)
		h.remove("expect")
	}
	if !h.has(":authority") && !s.http11 && m.defaultHost != "" {
		h.insert(":authority", m.defaultHost)
	}
	if !h.has(":authority") {
		return &localReply{status: 400, details: "missing_host_header"}
	}
	if path := h.value(":path"); path != "" && path[0] != '/' {
		s.requestHasCome()
		m.stats.relativePaths.Add(1)
		return &localReply{status: 404, details: "absolute_path_rejected"}
	}
	if r := m.sanitizePath(h); r != nil {
		if r.status == 307 {
			s.requestHasCome()
			m.stats.redirectedPaths.Add(1)
		} else {
			m.stats.badPaths.Add(1)
		}
		return r
	}
	if equalFold(h.value("upgrade"), "connect-udp") && !udpTarget(h) {
		s.requestHasCome()
		return &localReply{status: 404, body: "The path is incorrect for CONNECT-UDP", details: "invalid_path"}
	}
	if m.stripPort || m.stripDot || m.stripOwnPort {
		h.set(":authority", m.stripHost(h.value(":authority"), portOf(s.conn.local)))
	}
	if r := s.mutateRequest(); r != nil {
		return r
	}

	s.findRoute()
	chain := m.chain
	if s.connect && s.route != nil || isUpgrade(h) { // a CONNECT without a route is none of the gate's
		var ok bool
		if chain, ok = m.upgradeChain(s.route, cmp.Or(h.value("upgrade"), "CONNECT")); !ok {
			m.stats.upgradeRefused.Add(1)
			s.conn.drainAfterUpgrade()
			s.makeFiltersLocked(m.chain)
			return &localReply{status: 403, details: "upgrade_failed"}
		}
		m.stats.upgrades.Add(1)
		m.stats.activeUpgrades.Add(1)
		s.upgraded = true
	}
	s.makeFiltersLocked(chain)
	return nil
}

func codecReply(err error) *localReply {
	e, ok := err.(*codecError)
	if !ok {
		e = errParse
	}
	r := &localReply{codec: true, status: e.status, details: e.details, flags: "DPE"}
	if !e.empty {
		r.body = reasonPhrase(itoa(e.status))
	}
	return r
}

// stripHost is strip_trailing_host_dot, strip_any_host_port and
// strip_matching_host_port.
func (m *hcm) stripHost(authority string, own int64) string {
	host, port := authority, ""
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.Contains(host[i:], "]") {
		host, port = host[:i], host[i:]
	}
	if m.stripDot {
		host = strings.TrimSuffix(host, ".")
	}
	if n, ok := parseCount(strings.TrimPrefix(port, ":")); ok && (m.stripPort || m.stripOwnPort && int64(n) == own) {
		return host
	}
	return host + port
}

// judgeUnderscores applies headers_with_underscores_action.
func (m *hcm) judgeUnderscores(h *Headers, count bool) error {
	if m.underscores == corev3.HttpProtocolOptions_ALLOW {
		return nil
	}
	n := int64(0)
	if count {
		n = 1
	}
	for i := 0; i < h.Len(); {
		name, _ := h.At(i)
		if !strings.Contains(name, "_") {
			i++
			continue
		}
		if m.underscores == corev3.HttpProtocolOptions_REJECT_REQUEST {
			m.stats.underscoresRejected.Add(1)
			return &codecError{status: 400, details: "http1.unexpected_underscore"}
		}
		m.stats.underscoresDropped.Add(n)
		h.removeAt(i)
	}
	return nil
}

// framing decides how the request's content ends (RFC 9112 6.3), with Envoy's
// refusals.
func (s *stream) framing(method string) *localReply {
	h := &s.request
	te, length := h.has("transfer-encoding"), h.has("content-length")
	if method == "CONNECT" && length {
		if h.value("content-length") != "0" {
			return codecReply(&codecError{status: 400, details: "http1.body_disallowed"})
		}
		h.remove("content-length")
		length = false
	}
	if te && length && s.hcm.codec.chunkedLength && equalFold(h.value("transfer-encoding"), "chunked") {
		h.remove("content-length")
		length = false
	}
	if te && length {
		return codecReply(&codecError{status: 400, details: "http1.content_length_and_chunked_not_allowed"})
	}
	n := int64(0)
	if length {
		var ok bool
		if n, ok = contentLength(h.value("content-length")); !ok {
			return codecReply(errParse)
		}
	}
	if te && (!equalFold(h.value("transfer-encoding"), "chunked") || method == "CONNECT") {
		return codecReply(&codecError{status: 501, details: "http1.invalid_transfer_encoding"})
	}
	switch in := &s.conn.in; {
	case s.upgrade || method == "CONNECT":
		s.body.reset(in, bodyUntilClose, 0)
	case te:
		s.body.reset(in, bodyChunked, 0)
		s.body.keepTrailers(&s.hcm.codec, &s.requestTrailers, s.hcm.maxHeaders, s.hcm.maxHeadBytes)
		if s.body.trailers != nil && s.hcm.underscores != corev3.HttpProtocolOptions_ALLOW {
			s.body.hcm = s.hcm
		}
	default:
		s.body.reset(in, bodyLength, n)
	}
	return nil
}

// target splits the request target into pseudo headers (handlePath).
func (s *stream) target(req requestHead) *localReply {
	h, t := &s.request, req.target
	switch {
	case req.method == "CONNECT":
		if i := strings.LastIndexByte(t, ':'); i < 0 || i == len(t)-1 || strings.ContainsAny(t, "@/") || !validHostPort(t) {
			return codecReply(&codecError{status: 400, details: "http1.invalid_url"})
		}
		h.set(":authority", t)
		return nil
	case t[0] == '/' || req.method == "OPTIONS" && t[0] == '*', s.hcm.relativeOnly:
		h.insert(":path", t)
		return nil
	}
	scheme, rest, ok := strings.Cut(t, "://")
	if !ok {
		return codecReply(&codecError{status: 400, details: "http1.invalid_url"})
	}
	host, path := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		host, path = rest[:i], rest[i:]
	}
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		host = host[i+1:]
	}
	if !validHostPort(host) {
		return codecReply(&codecError{status: 400, details: "http1.invalid_url"})
	}
	scheme = lower(scheme)
	if scheme != "http" && scheme != "https" {
		return codecReply(&codecError{status: 400, details: "http1.invalid_scheme"})
	}
	if scheme == "https" && s.hcm.remoteAddress {
		return codecReply(&codecError{status: 403, details: "http1.https_url_on_plaintext_connection"})
	}
	if path == "" {
		path = "/"
	}
	// RFC 9112 3.2.2: the host of the target takes the place of Host.
	h.set(":authority", host)
	h.insert(":scheme", scheme)
	h.insert(":path", path)
	return nil
}

// validHostPort says whether a URL may name this host.
func validHostPort(s string) bool {
	host := s
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.Contains(s[i:], "]") {
		n, ok := contentLength(s[i+1:])
		if !ok || n > 65535 {
			return false
		}
		host = s[:i]
	}
	return host != ""
}

// validAuthority holds what a Host may contain (HeaderUtility::authorityIsValid).
func validAuthority(a string) bool {
	for i := 0; i < len(a); i++ {
		c := a[i]
		if !isAlpha(c) && !isDigit(c) && strings.IndexByte("!$%&'()*+,-.:;=@[]_~", c) < 0 {
			return false
		}
	}
	return true
}

// wantsClose says whether the client asked for the end of the connection.
func wantsClose(h *Headers, http11 bool) bool {
	connection := h.value("connection")
	if hasToken(connection, "close") || hasToken(h.value("proxy-connection"), "close") {
		return true
	}
	return !http11 && !hasToken(connection, "keep-alive")
}

// sanitizePath normalises :path as the connection manager is configured to.
func (m *hcm) sanitizePath(h *Headers) *localReply {
	path := h.value(":path")
	if path == "" {
		return nil
	}
	if strings.Contains(path, "#") {
		return &localReply{status: 400, details: "path_normalization_failed"}
	}
	before := path
	if m.escapedSlashes > hcmv3.HttpConnectionManager_KEEP_UNCHANGED && hasEscapedSlash(path) {
		switch m.escapedSlashes {
		case hcmv3.HttpConnectionManager_REJECT_REQUEST:
			h.set(":path", unescapeSlashes(path))
			return &localReply{status: 400, details: "path_normalization_failed"}
		default:
			path = unescapeSlashes(path)
		}
	}
	redirect := path != before && m.escapedSlashes == hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT
	if m.normalizePath {
		var ok bool
		if path, ok = normalizePath(path); !ok {
			return &localReply{status: 400, details: "path_normalization_failed"}
		}
	}
	if m.mergeSlashes {
		path = mergeSlashes(path)
	}
	if redirect {
		h.set(":path", path)
		return &localReply{status: 307, details: "path_normalization_failed", headers: [][2]string{{"location", path}}}
	}
	if path != before {
		h.set(":path", path)
	}
	return nil
}

// mutateRequest is ConnectionManagerUtility::mutateRequestHeaders.
func (s *stream) mutateRequest() *localReply {
	m, h := s.hcm, &s.request
	s.mutateEarly()
	if !isUpgrade(h) {
		h.remove("connection")
		h.remove("upgrade")
		if te := h.value("te"); te != "" {
			if hasToken(te, "trailers") {
				h.set("te", "trailers")
			} else {
				h.remove("te")
			}
		}
	}
	h.remove("x-envoy-internal")
	h.remove("keep-alive")
	h.remove("proxy-connection")
	h.remove("transfer-encoding")
	internal, refusal := s.findClient()
	if refusal != nil {
		return refusal
	}
	edge := m.remoteAddress && !internal
	if internal {
		h.set("x-envoy-internal", "true")
	} else {
		s.cleanInternal(edge)
	}
	if m.userAgent {
		h.set("x-envoy-downstream-service-cluster", m.node.GetCluster())
		if h.value("user-agent") == "" {
			h.set("user-agent", m.node.GetCluster())
		}
		if m.node.GetId() != "" {
			h.set("x-envoy-downstream-service-node", m.node.GetId())
		}
	}
	if h.has("referer") && !validReferer(h.value("referer")) {
		h.remove("referer")
	}
	switch {
	case m.scheme != "":
		h.set(":scheme", m.scheme)
		h.set("x-forwarded-proto", m.scheme)
	case !h.has(":scheme"):
		h.insert(":scheme", schemeOf(h.value("x-forwarded-proto")))
	}
	if m.via != "" {
		addVia(h, m.via)
	}
	if edge {
		h.set("x-envoy-external-address", withoutPort(s.clientAddress()))
	}
	if m.generateID && (edge && !m.preserveID || h.value("x-request-id") == "") {
		id := newRequestID()
		h.set("x-request-id", s.keepString(id[:]))
	}
	m.clientCert.apply(h, s.conn.secure)
	return nil
}

// addVia is Utility::appendVia.
func addVia(h *Headers, name string) {
	if have := h.value("via"); have != "" {
		name = have + ", " + name
	}
	h.set("via", name)
}

// cleanInternal removes what would let clients steer the proxy
// (ConnectionManagerUtility::cleanInternalHeaders): at the edge more than
// behind another proxy.
func (s *stream) cleanInternal(edge bool) {
	if edge {
		for _, name := range edgeHeaders {
			s.request.remove(name)
		}
	}
	for _, name := range externalHeaders {
		s.request.remove(name)
	}
	for _, name := range s.hcm.routes.internalOnly {
		s.request.remove(name)
	}
}

var (
	edgeHeaders = []string{
		"x-envoy-decorator-operation", "x-envoy-downstream-service-cluster", "x-envoy-downstream-service-node",
		"x-envoy-original-path", "x-envoy-original-host",
	}
	externalHeaders = []string{
		"x-envoy-retriable-status-codes", "x-envoy-retriable-header-names", "x-envoy-retry-on", "x-envoy-retry-grpc-on",
		"x-envoy-max-retries", "x-envoy-upstream-alt-stat-name", "x-envoy-upstream-rq-timeout-ms",
		"x-envoy-upstream-rq-per-try-timeout-ms", "x-envoy-upstream-rq-timeout-alt-response", "x-envoy-expected-rq-timeout-ms",
		"x-envoy-force-trace", "x-envoy-ip-tags", "x-envoy-original-url", "x-envoy-hedge-on-per-try-timeout",
		"x-envoy-upstream-stream-duration-ms",
	}
)

// localIP is what Envoy takes for its own address: the first of an interface
// that is no loopback.
func localIP() string {
	addresses, _ := net.InterfaceAddrs()
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			return n.IP.String()
		}
	}
	return "127.0.0.1"
}

func schemeOf(forwardedProto string) string {
	if p := lowered(forwardedProto); p == "https" {
		return p
	}
	return "http"
}

// newRequestID makes a random UUID.
func newRequestID() [36]byte {
	var u [16]byte
	binary.LittleEndian.PutUint64(u[:8], rand.Uint64())
	binary.LittleEndian.PutUint64(u[8:], rand.Uint64())
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	var b [36]byte
	hex.Encode(b[:8], u[:4])
	hex.Encode(b[9:13], u[4:6])
	hex.Encode(b[14:18], u[6:8])
	hex.Encode(b[19:23], u[8:10])
	hex.Encode(b[24:], u[10:])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return b
}

// mutateResponse is what the connection manager does to every response head,
// last of all (ActiveStream::encodeHeaders, mutateResponseHeaders).
func (s *stream) mutateResponse() {
	m, h := s.hcm, &s.response
	if !h.has("date") {
		h.insert("date", s.conn.server.date())
	}
	if m.serverHeader == hcmv3.HttpConnectionManager_OVERWRITE ||
		m.serverHeader == hcmv3.HttpConnectionManager_APPEND_IF_ABSENT && !h.has("server") {
		h.set("server", m.serverName)
	}
	s.cleanResponse()
	if s.conn.http2 != nil { // the end of a stream ends no connection
		if s.conn.server2 != nil {
			s.conn.server2.drainClose()
		}
		return
	}
	if !s.http11 {
		if !h.has("content-length") {
			s.closing, s.promptly = true, true
		}
		if !s.promptly {
			h.set("connection", "keep-alive")
		}
	}
	draining := s.conn.ending(time.Now())
	switch {
	case s.requestComplete.IsZero():
		s.closing = true
	case draining && s.promptly:
		s.closing = false // what ends it is the time to drain
	}
	if (s.closing || draining) && !isUpgrade(h) && !(s.connect && s.status == 200) {
		h.set("connection", "close")
	}
}

// cleanResponse is mutateResponseHeaders: what a response of any status loses
// and gets.
func (s *stream) cleanResponse() {
	m, h := s.hcm, &s.response
	if isUpgrade(&s.request) && isUpgrade(h) {
		if !h.has("transfer-encoding") && !h.has("content-length") && s.status >= 200 {
			h.insert("content-length", "0")
		}
	} else {
		h.remove("connection")
		h.remove("upgrade")
	}
	h.remove("transfer-encoding")
	h.remove("keep-alive")
	h.remove("proxy-connection")
	if m.via != "" {
		addVia(h, m.via)
	}
	if id := s.request.value("x-request-id"); id != "" && (m.returnID || s.request.has("x-envoy-force-trace")) {
		h.set("x-request-id", id)
	}
}

func (b *builder) hcm(path string, c *hcmv3.HttpConnectionManager) (*hcm, error) {
	if c.GetCodecType() == hcmv3.HttpConnectionManager_HTTP3 {
		return nil, b.boot.Errorf(path+".codec_type", "HTTP/3 codec configured on non-QUIC listener: set AUTO, HTTP1 or HTTP2")
	}
	m := &hcm{
		codecType:      c.GetCodecType(),
		http2:          newHTTP2Options(c.GetHttp2ProtocolOptions()),
		server:         b.server,
		serverName:     "envoy",
		serverHeader:   c.GetServerHeaderTransformation(),
		remoteAddress:  c.GetUseRemoteAddress().GetValue(),
		generateID:     c.GetGenerateRequestId() == nil || c.GetGenerateRequestId().GetValue(),
		maxHeaders:     100,
		maxHeadBytes:   60 << 10,
		acceptHTTP10:   c.GetHttpProtocolOptions().GetAcceptHttp_10(),
		defaultHost:    c.GetHttpProtocolOptions().GetDefaultHostForHttp_10(),
		relativeOnly:   c.GetHttpProtocolOptions().GetAllowAbsoluteUrl() != nil && !c.GetHttpProtocolOptions().GetAllowAbsoluteUrl().GetValue(),
		streamErrors:   c.GetStreamErrorOnInvalidHttpMessage().GetValue(),
		userAgent:      c.GetAddUserAgent().GetValue(),
		stripOwnPort:   c.GetStripMatchingHostPort(),
		node:           b.boot.Proto().GetNode(),
		scheme:         c.GetSchemeHeaderTransformation().GetSchemeToOverwrite(),
		proxyContinue:  c.GetProxy_100Continue(),
		maxLife:        c.GetCommonHttpProtocolOptions().GetMaxConnectionDuration().AsDuration(),
		softDrain:      c.GetHttp1SafeMaxConnectionDuration(),
		maxRequests:    int(c.GetCommonHttpProtocolOptions().GetMaxRequestsPerConnection().GetValue()),
		stripPort:      c.GetStripAnyHostPort(),
		stripDot:       c.GetStripTrailingHostDot(),
		clientCert:     clientCert{c.GetForwardClientCertDetails(), c.GetSetCurrentClientCertDetails()},
		skipXFF:        c.GetSkipXffAppend(),
		via:            c.GetVia(),
		preserveID:     c.GetPreserveExternalRequestId(),
		returnID:       c.GetAlwaysSetRequestIdInResponse(),
		underscores:    c.GetCommonHttpProtocolOptions().GetHeadersWithUnderscoresAction(),
		normalizePath:  c.GetNormalizePath().GetValue(),
		mergeSlashes:   c.GetMergeSlashes(),
		escapedSlashes: c.GetPathWithEscapedSlashesAction(),
		idleTimeout:    time.Hour,
		streamIdle:     5 * time.Minute,
		maxStream:      c.GetCommonHttpProtocolOptions().GetMaxStreamDuration().AsDuration(),
		drainTimeout:   5 * time.Second,
		delayedClose:   time.Second,
		requestTimeout: c.GetRequestTimeout().AsDuration(),
		headersTimeout: c.GetRequestHeadersTimeout().AsDuration(),
	}
	if v := c.GetStreamErrorOnInvalidHttpMessage(); v != nil && c.GetHttp2ProtocolOptions().GetOverrideStreamErrorOnInvalidHttpMessage() == nil {
		m.http2.streamErrors = v.GetValue()
	}
	m.http2.resets.streams = b.runtime.number(prematureStreams, m.http2.resets.streams)
	m.http2.resets.seconds = b.runtime.number(prematureSeconds, m.http2.resets.seconds)
	if v := c.GetHttpProtocolOptions().GetOverrideStreamErrorOnInvalidHttpMessage(); v != nil {
		m.streamErrors = v.GetValue()
	}
	if c.GetServerName() != "" {
		m.serverName = c.GetServerName()
	}
	if v := c.GetCommonHttpProtocolOptions().GetMaxHeadersCount(); v != nil {
		m.maxHeaders = int(v.GetValue())
	}
	if v := c.GetMaxRequestHeadersKb(); v != nil {
		m.maxHeadBytes = int(v.GetValue()) << 10
	}
	if v := c.GetCommonHttpProtocolOptions().GetIdleTimeout(); v != nil {
		m.idleTimeout = v.AsDuration()
	}
	if v := c.GetDrainTimeout(); v != nil {
		m.drainTimeout = v.AsDuration()
	}
	if v := c.GetDelayedCloseTimeout(); v != nil {
		m.delayedClose = v.AsDuration()
	}
	if v := c.GetStreamIdleTimeout(); v != nil {
		m.streamIdle = v.AsDuration()
	}
	for i, sm := range c.GetHttpProtocolOptions().GetIgnoreHttp_11Upgrade() {
		match, err := b.stringMatch(at(path+".http_protocol_options", "ignore_http_11_upgrade", i), sm)
		if err != nil {
			return nil, err
		}
		m.ignoreUpgrade = append(m.ignoreUpgrade, match)
	}
	if c.GetHttp2ProtocolOptions().GetStreamErrorOnInvalidHttpMessaging() {
		b.deprecated += 2 // Envoy looks twice
	}
	b.statPrefix = "http." + c.GetStatPrefix() + "."
	var err error
	if m.codec, err = b.codecOptions(path+".http_protocol_options", c.GetHttpProtocolOptions()); err != nil {
		return nil, err
	}
	if err := b.requestIDs(path+".request_id_extension.typed_config", c.GetRequestIdExtension()); err != nil {
		return nil, err
	}
	if m.routes, err = b.routeTable(path+".route_config", c.GetRouteConfig()); err != nil {
		return nil, err
	}
	if m.client, err = b.clientOptions(path, c); err != nil {
		return nil, err
	}
	if m.replies, err = b.localReplies(path+".local_reply_config", c.GetLocalReplyConfig()); err != nil {
		return nil, err
	}
	if m.early, err = b.earlyMutations(path+".early_header_mutation_extensions", c.GetEarlyHeaderMutationExtensions()); err != nil {
		return nil, err
	}
	if m.chain, err = b.filterChain(path+".http_filters", c.GetHttpFilters()); err != nil {
		return nil, err
	}
	if m.upgrades, err = b.upgradeConfigs(path, c.GetUpgradeConfigs()); err != nil {
		return nil, err
	}
	if m.accessLogs, err = b.accessLogs(path, "access_log", c.GetAccessLog()); err != nil {
		return nil, err
	}
	m.stats = newHCMStats(&b.server.Stats, "http."+c.GetStatPrefix()+".", b.listenerPrefix)
	m.stats.withRouter(&b.server.Stats, "http."+c.GetStatPrefix()+".")
	return m, nil
}

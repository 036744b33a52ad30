package proxy

import (
	"math/rand/v2"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"golang.org/x/net/http2"
)

// This file is what Http2ProtocolOptions say, and the limits against floods of
// frames among them (http2/protocol_constraints.cc).

// http2Options are the Http2ProtocolOptions that are simulated.
type http2Options struct {
	maxStreams   uint32 // that the peer may open
	streamWindow int64
	connWindow   int64
	tableSize    uint32 // of the header compression
	allowConnect bool   // extended CONNECT (RFC 8441)
	streamErrors bool   // a malformed message ends its stream only
	custom       []http2.Setting
	keepalive    http2Keepalive
	resets       resetLimits

	mostFrames     int // that wait to be sent
	mostControl    int // frames that answer the peer's, and wait to be sent
	mostEmpty      int // empty frames in a row
	mostPriorities int // PRIORITY frames for each stream
	mostUpdates    int // WINDOW_UPDATE frames for each frame of DATA sent
}

// newHTTP2Options reads Http2ProtocolOptions; its defaults are Envoy 1.40's.
func newHTTP2Options(c *corev3.Http2ProtocolOptions) http2Options {
	o := http2Options{
		maxStreams:   uint32(limitOf(c.GetMaxConcurrentStreams(), 1024)),
		streamWindow: int64(limitOf(c.GetInitialStreamWindowSize(), 16<<20)),
		connWindow:   int64(limitOf(c.GetInitialConnectionWindowSize(), 24<<20)),
		tableSize:    uint32(limitOf(c.GetHpackTableSize(), 4096)),
		allowConnect: c.GetAllowConnect(),
		streamErrors: c.GetStreamErrorOnInvalidHttpMessaging(),
		resets:       resetLimits{streams: 500, seconds: 1, burst: 1000, rate: 33},

		mostFrames:     limitOf(c.GetMaxOutboundFrames(), 10000),
		mostControl:    limitOf(c.GetMaxOutboundControlFrames(), 1000),
		mostEmpty:      limitOf(c.GetMaxConsecutiveInboundFramesWithEmptyPayload(), 1),
		mostPriorities: limitOf(c.GetMaxInboundPriorityFramesPerStream(), 100),
		mostUpdates:    limitOf(c.GetMaxInboundWindowUpdateFramesPerDataFrameSent(), 10),
	}
	if v := c.GetOverrideStreamErrorOnInvalidHttpMessage(); v != nil {
		o.streamErrors = v.GetValue()
	}
	if v := c.GetStreamResetBurst(); v != nil {
		o.resets.burst = v.GetValue()
	}
	if v := c.GetStreamResetRate(); v != nil {
		o.resets.rate = v.GetValue()
	}
	for _, s := range c.GetCustomSettingsParameters() {
		o.custom = append(o.custom, http2.Setting{ID: http2.SettingID(s.GetIdentifier().GetValue()), Val: s.GetValue().GetValue()})
	}
	if k := c.GetConnectionKeepalive(); k != nil {
		o.keepalive = http2Keepalive{interval: k.GetInterval().AsDuration(), timeout: k.GetTimeout().AsDuration(), jitter: 15, idle: k.GetConnectionIdleInterval().AsDuration()}
		if v := k.GetIntervalJitter(); v != nil {
			o.keepalive.jitter = v.GetValue()
		}
	}
	return o
}

// settings are the SETTINGS of a server; a client sends one more before them.
func (o *http2Options) settings() []http2.Setting {
	connect := uint32(0)
	if o.allowConnect {
		connect = 1
	}
	return append(o.custom[:len(o.custom):len(o.custom)],
		http2.Setting{ID: http2.SettingHeaderTableSize, Val: o.tableSize},
		http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: connect},
		http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: o.maxStreams},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(o.streamWindow)})
}

// http2Floods counts what a peer may send only so much of.
type http2Floods struct {
	empty      int // frames without content in a row
	priorities int
	updates    int
	opened     int // streams, as Envoy counts them
	dataSent   int // frames
}

func flood(stat *Stat, details string) *http2Error {
	stat.Add(1)
	return &http2Error{silent: true, flood: true, details: details}
}

// receives counts a frame, and says whether it is one too many. The lock is
// held.
func (h *http2Conn) receives(f http2.FrameHeader) *http2Error {
	n, o := &h.floods, h.options
	switch f.Type {
	case http2.FrameHeaders, http2.FrameContinuation: // DATA when its padding is known
		if f.Length == 0 && !(f.Type == http2.FrameHeaders && f.Flags.Has(http2.FlagHeadersEndStream)) {
			return h.emptyFrame()
		}
		n.empty = 0
	case http2.FramePriority:
		if n.priorities++; n.priorities > o.mostPriorities*(1+n.opened) {
			return flood(h.stats.priorityFlood, "codec_error:Too_many_PRIORITY_frames")
		}
	case http2.FrameWindowUpdate:
		if n.updates++; n.updates > 5+2*(n.opened+o.mostUpdates*n.dataSent) {
			return flood(h.stats.updateFlood, "codec_error:Too_many_WINDOW_UPDATE_frames")
		}
	}
	return nil
}

// emptyFrame counts a frame without content that ends nothing. The lock is held.
func (h *http2Conn) emptyFrame() *http2Error {
	if h.floods.empty++; h.floods.empty > h.options.mostEmpty {
		e := flood(h.stats.emptyFlood, "http2.inbound_empty_frames_flood")
		e.others = "codec_error:Too_many_consecutive_frames_with_an_empty_payload"
		return e
	}
	return nil
}

// http2Keepalive is connection_keepalive.
type http2Keepalive struct {
	interval, timeout time.Duration // 0: none
	jitter            float64       // percent of the interval
	idle              time.Duration // 0: none
}

// next is how long to wait until the next PING.
func (k *http2Keepalive) next() time.Duration {
	more := time.Duration(float64(k.interval) * k.jitter / 100)
	if more <= 0 {
		return k.interval
	}
	return k.interval + rand.N(more)
}

// keepAlive sends PINGs at intervals, and ends the connection if one is not
// answered in time.
func (h *http2Conn) keepAlive() {
	k := &h.options.keepalive
	if k.interval <= 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pingTimer = time.AfterFunc(k.next(), h.sendPing)
}

func (h *http2Conn) sendPing() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pingLocked()
}

// pingLocked sends a PING, unless one is on its way. The lock is held.
func (h *http2Conn) pingLocked() {
	if h.err != nil || h.pinging {
		return
	}
	h.pinging = true
	h.framer.WritePing(false, [8]byte{})
	if h.pongTimer == nil {
		h.pongTimer = time.AfterFunc(h.options.keepalive.timeout, h.pingTimedOut)
	} else {
		h.pongTimer.Reset(h.options.keepalive.timeout)
	}
	h.flushLater()
}

func (h *http2Conn) pingTimedOut() {
	h.mu.Lock()
	if h.err != nil || !h.pinging {
		h.mu.Unlock()
		return
	}
	h.stats.keepaliveTimeouts.Add(1)
	h.pingLost = true
	if h.next != 0 {
		h.end(errHTTP2Closed)
	} else {
		h.end(errPingTimeout)
	}
	h.mu.Unlock()
	h.conn.Close()
}

// ponged takes the answer to a PING, and prolongs the wait for it where anything
// else has come. The lock is held.
func (h *http2Conn) ponged(answer bool) {
	switch {
	case !h.pinging:
	case answer:
		h.pinging = false
		h.pongTimer.Stop()
		if h.pingTimer != nil {
			h.pingTimer.Reset(h.options.keepalive.next())
		}
	default:
		h.pongTimer.Reset(h.options.keepalive.timeout)
	}
}

var errPingTimeout = &http2Error{code: http2.ErrCodeNo, silent: true, details: "downstream_local_disconnect(http2_ping_timeout)"}

// http2Stats are the counters of HTTP/2, by Envoy's names.
type http2Stats struct {
	active, trailers, messagingErrors, resetsReceived, resetsSent *Stat
	streamsRefused, controlFlood, overflow, tooLarge, goAwaysSent *Stat
	underscoresDropped, underscoresRejected, connections          *Stat
	emptyFlood, priorityFlood, updateFlood, keepaliveTimeouts     *Stat
	outboundFlood                                                 *Stat
}

func newHTTP2Stats(stats *Stats, prefix string, client bool) *http2Stats {
	prefix += "http2."
	stats.zero(prefix, "cookies_total_bytes_too_large", "headers_cb_no_stream",
		"metadata_empty_frames", "nghttp2_downstream_connections", "nghttp2_upstream_connections", "oghttp2_downstream_connections",
		"oghttp2_upstream_connections", "tx_flush_timeout")
	stats.zeroGauges(prefix, "deferred_stream_close")
	for _, name := range []string{"outbound_control_frames_active", "outbound_frames_active", "pending_send_bytes"} {
		stats.Gauge(prefix + name).Add(0) // the first frame uses them
	}
	side := "downstream"
	if client {
		side = "upstream"
	} else {
		for _, name := range []string{"cookie_count", "cookie_size", "header_count", "header_list_size"} {
			stats.Histogram(prefix + name)
		}
	}
	return &http2Stats{
		active: stats.Gauge(prefix + "streams_active"), trailers: stats.Stat(prefix + "trailers"),
		messagingErrors: stats.Stat(prefix + "rx_messaging_error"), resetsReceived: stats.Stat(prefix + "rx_reset"),
		resetsSent: stats.Stat(prefix + "tx_reset"), streamsRefused: stats.Stat(prefix + "stream_refused_errors"),
		controlFlood: stats.Stat(prefix + "outbound_control_flood"), overflow: stats.Stat(prefix + "header_overflow"),
		tooLarge:            stats.Stat(prefix + "header_list_size_too_large"),
		outboundFlood:       stats.Stat(prefix + "outbound_flood"),
		emptyFlood:          stats.Stat(prefix + "inbound_empty_frames_flood"),
		priorityFlood:       stats.Stat(prefix + "inbound_priority_frames_flood"),
		updateFlood:         stats.Stat(prefix + "inbound_window_update_frames_flood"),
		keepaliveTimeouts:   stats.Stat(prefix + "keepalive_timeout"),
		goAwaysSent:         stats.Stat(prefix + "goaway_sent"),
		underscoresDropped:  stats.Stat(prefix + "dropped_headers_with_underscores"),
		underscoresRejected: stats.Stat(prefix + "requests_rejected_with_underscores_in_headers"),
		connections:         stats.Stat(prefix + "nghttp2_" + side + "_connections"),
	}
}

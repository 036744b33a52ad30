package proxy

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// This file is what both ends of an HTTP/2 connection share (RFC 9113): frames,
// windows and streams. A stream is a net.Conn, whose bytes are the stream's
// content: so all that knows HTTP/1.1 connections serves streams as well.

// http2Conn is a connection that speaks HTTP/2.
type http2Conn struct {
	conn      net.Conn
	options   *http2Options
	stats     *http2Stats
	bytesSent *Stat
	in        *bufio.Reader
	framer    *http2.Framer
	hpack     *hpack.Decoder
	message   http2Message // what the decoder fills
	onOpen    func(*http2Stream, *http2Message) *http2Error
	onReset   func(*http2Stream) *http2Error // of a stream, nil if it was over
	last      uint32                         // stream that the peer has opened

	mostFields, mostSize int // of a header section that is received
	underscores          corev3.HttpProtocolOptions_HeadersWithUnderscoresAction

	mu           sync.Mutex
	encoder      *hpack.Encoder
	block        bytes.Buffer
	out          http2Out
	shrunk       bool // the peer has to make its table smaller
	writing      bool
	crowded      bool           // streams wait for less in out
	ended        []*http2Stream // which are over when this read's frames are handled
	streams      map[uint32]*http2Stream
	next         uint32 // stream that this end opens
	sendWindow   int64
	unread       int64 // what was received and is not yet given back to the peer's window
	window       int64 // of a new stream, for what this end receives
	recvWindow   int64
	peerWindow   int64 // of a new stream
	peerFrame    int   // the largest frame that the peer takes
	peerStreams  uint32
	peerConnect  bool
	settled      bool // the peer's settings have come
	noPriorities bool // its SETTINGS_NO_RFC7540_PRIORITIES
	unacked      int  // our settings that it has not acknowledged
	control      int  // frames in out that answer the peer's
	batch        bool // more frames have come, and what they lead to is written together
	err          error
	goneAway     bool   // the peer wants no new streams
	peerLast     uint32 // and answers none above this one
	saidGoAway   bool
	parting      bool   // what waits is still written, although the connection has ended
	onEnd        func() // streams have ended
	onChange     func() // settings or a GOAWAY have come
	floods       http2Floods
	doomed       *http2Error // how the connection ends when what has come is handled
	received     time.Time   // when a frame came last, where that is of interest
	pingLost     bool        // that is why the connection has ended
	pinging      bool        // a PING is on its way
	pingTimer    *time.Timer // until the next
	pongTimer    *time.Timer // until its answer must have come
}

// http2Error ends a connection, or a stream.
type http2Error struct {
	code    http2.ErrCode
	text    string // debug data of the GOAWAY
	silent  bool   // the connection ends without a GOAWAY
	details string // of the stream that it is about
	stream  bool   // only a stream ends
	flood   bool   // there was too much of something
	abort   bool   // the connection is closed at once
	others  string // details of streams that it is not about; "": the same
}

func (e *http2Error) Error() string { return e.details }

var (
	errHTTP2Closed = errors.New("the HTTP/2 connection is closed")
	errHTTP2Reset  = errors.New("the HTTP/2 stream was reset")
)

// resetError is the end of a stream by its peer.
type resetError struct{ code http2.ErrCode }

func (e *resetError) Error() string { return "remote reset" }

func (e *resetError) Is(target error) bool { return target == errHTTP2Reset }

// http2Message is a header section as it was received.
type http2Message struct {
	fields []field
	size   int // of the frames that it came in
	end    bool
	// What is wrong with it; the decoder has to see all of it.
	err     *http2Error
	refused bool // for that
	check   messageCheck
}

const (
	minFrame      = 16 << 10
	mostWaiting   = 1 << 20 // bytes of a stream's content beyond which its peer has to wait: Envoy's buffer limit
	mostBuffered  = 1 << 20 // bytes in out beyond which content waits
	firstWindow   = 65535
	largestWindow = math.MaxInt32
)

func newHTTP2Conn(c net.Conn, r *bufio.Reader, options *http2Options, mostFields, mostSize int, stats *http2Stats) *http2Conn {
	h := &http2Conn{
		conn: c, in: r, options: options, stats: stats, streams: map[uint32]*http2Stream{},
		sendWindow: firstWindow, recvWindow: options.connWindow, window: firstWindow, peerWindow: firstWindow, peerFrame: minFrame,
		bytesSent: new(Stat), peerStreams: math.MaxInt32, peerLast: math.MaxInt32, mostFields: mostFields, mostSize: mostSize,
	}
	h.framer = http2.NewFramer(&h.out, r)
	h.framer.AllowIllegalReads = true // their order is judged here
	h.framer.SetReuseFrames()
	h.framer.SetMaxReadFrameSize(1<<24 - 1) // the size too
	h.encoder = hpack.NewEncoder(&h.block)
	h.encoder.SetMaxDynamicTableSizeLimit(min(options.tableSize, 4096))
	h.hpack = hpack.NewDecoder(max(options.tableSize, 4096), h.message.add)
	h.hpack.SetMaxStringLength(64 << 10) // beyond that it is an error of compression
	return h
}

// meteredReader reads from a connection, and counts.
type meteredReader struct{ in *input }

func (r meteredReader) Read(p []byte) (int, error) {
	n, err := r.in.conn.Read(p)
	if n > 0 {
		r.in.noteRead(n)
	}
	return n, err
}

// begin sends this end's settings.
func (h *http2Conn) begin(settings ...http2.Setting) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.framer.WriteSettings(settings...)
	h.unacked++
	if more := h.options.connWindow - firstWindow; more > 0 {
		h.framer.WriteWindowUpdate(0, uint32(more))
	}
	h.out.seal()
}

// flush writes what waits. One goroutine writes at a time, the others leave it
// to that one. The lock is held, but not while it writes.
func (h *http2Conn) flush() {
	if h.writing || h.batch {
		return
	}
	h.writing = true
	for len(h.out.frames) > 0 && (h.err == nil || h.parting) {
		b := h.out.take()
		h.control = 0
		h.mu.Unlock()
		n, err := h.conn.Write(b)
		h.bytesSent.Add(int64(n))
		h.mu.Lock()
		h.out.giveBack(b)
		if err != nil {
			h.parting = false
			h.end(errHTTP2Closed)
		}
		if h.crowded {
			h.crowded = false
			for _, s := range h.streams {
				s.cond.Broadcast()
			}
		}
	}
	h.writing = false
}

// flushLater is flush for the goroutine that reads, which must not wait for a
// peer that does not. The lock is held.
func (h *http2Conn) flushLater() {
	if len(h.out.frames) == 0 || h.writing || h.batch {
		return
	}
	go func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.flush()
	}()
}

// end ends every stream. The lock is held.
func (h *http2Conn) end(err error) {
	if h.err != nil {
		return
	}
	h.err = err
	for _, t := range []*time.Timer{h.pingTimer, h.pongTimer} {
		if t != nil {
			t.Stop()
		}
	}
	for _, s := range h.streams {
		s.fail(err)
	}
}

// close ends everything at once.
func (h *http2Conn) close(err error) {
	h.mu.Lock()
	h.end(err)
	for _, s := range h.streams {
		s.over() // whose end nobody has noticed
	}
	h.mu.Unlock()
	h.conn.Close()
}

// connectionError ends the connection for what its peer did; what the caller
// has to say is written, but the connection left open.
func (h *http2Conn) connectionError(e *http2Error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.batch { // what this read's frames have led to is not written any more
		h.out.drop()
	}
	h.batch = false
	if !e.silent {
		h.parting = true // another goroutine may be writing
		h.framer.WriteGoAway(h.last, e.code, []byte(e.text))
	} else if !h.writing {
		h.out.drop() // Envoy does not come to write in this turn
	}
	h.flush()
	if e.flood {
		others := *e
		others.details = cmp.Or(e.others, e.details)
		h.end(&others)
		return
	}
	h.end(errHTTP2Broken)
}

// ---- reading

// read reads frames until the connection ends. The error is an *http2Error, or
// that of the connection.
func (h *http2Conn) read() error {
	continued := uint32(0) // the stream whose header section is not complete
	for {
		head, err := h.framer.ReadFrameHeader()
		if err != nil {
			return err
		}
		if e := h.checkHeader(head, continued); e != nil {
			h.abandon(continued)
			return e
		}
		h.mu.Lock()
		h.ponged(false)
		if h.options.keepalive.idle > 0 {
			h.received = time.Now()
		}
		e := h.receives(head)
		h.mu.Unlock()
		if e != nil {
			if head.Type == http2.FrameHeaders || head.Type == http2.FrameContinuation {
				h.message.err = e
				h.abandon(cmp.Or(continued, head.StreamID))
			}
			h.blame(head.StreamID, e)
			return e
		}
		if err := h.checkStart(head); err != nil {
			return err
		}
		f, err := h.frame(head)
		if err != nil {
			if errors.As(err, &e) {
				h.blame(head.StreamID, e)
			}
			return err
		}
		more := h.more()
		if more {
			h.mu.Lock()
			h.batch = true
			h.mu.Unlock()
		}
		switch f := f.(type) {
		case *http2.HeadersFrame:
			h.message.begin(f.StreamEnded(), h.checkFor(f.StreamID))
			continued, e = h.fragment(f.StreamID, f.HeaderBlockFragment(), f.HeadersEnded(), int(f.Length))
			if continued != 0 {
				continued = f.StreamID
			}
		case *http2.ContinuationFrame:
			continued, e = h.fragment(f.StreamID, f.HeaderBlockFragment(), f.HeadersEnded(), int(f.Length))
		case *http2.DataFrame:
			e = h.data(f)
		case *http2.SettingsFrame:
			if e = h.settings(f); e == nil {
				h.change()
			}
		case *http2.WindowUpdateFrame:
			e = h.windowUpdate(f)
		case *http2.RSTStreamFrame:
			e = h.resetFrame(f)
		case *http2.PingFrame:
			h.ping(f)
		case *http2.GoAwayFrame:
			if e = h.peerGoesAway(f.LastStreamID); e == nil {
				h.change()
			}
		}
		if e != nil {
			return e
		}
		h.mu.Lock()
		closed := h.err
		h.mu.Unlock()
		if closed != nil {
			return closed
		}
		if !more {
			if e := h.turn(); e != nil {
				return e
			}
			if h.forgetEnded() && h.onEnd != nil {
				h.onEnd()
			}
			if h.deaf() {
				_, err := io.Copy(io.Discard, h.in)
				return cmp.Or(err, io.EOF)
			}
		}
	}
}

// forgetEnded forgets streams that ended while this read's frames were handled,
// and says whether there were any.
func (h *http2Conn) forgetEnded() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	some := len(h.ended) > 0
	for _, s := range h.ended {
		s.over()
	}
	h.ended = h.ended[:0]
	return some
}

// deaf says that nothing that comes matters: a GOAWAY was said, by either end,
// and no stream is left.
func (h *http2Conn) deaf() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return (h.goneAway || h.saidGoAway) && len(h.streams) == 0
}

// more says whether another frame has come already.
func (h *http2Conn) more() bool {
	if h.in.Buffered() < 9 {
		return false
	}
	b, _ := h.in.Peek(3)
	return h.in.Buffered() >= 9+(int(b[0])<<16|int(b[1])<<8|int(b[2]))
}

func (h *http2Conn) change() {
	if h.onChange != nil {
		h.onChange()
	}
}

// turn writes what has gathered while one read's worth of frames was handled,
// unless that are too many answers.
func (h *http2Conn) turn() *http2Error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.batch = false
	e := h.doomed
	switch {
	case e != nil:
	case h.control > h.options.mostControl:
		e = flood(h.stats.controlFlood, "codec_error:Too_many_control_frames_in_the_outbound_queue.")
	case h.out.queued > h.options.mostFrames:
		e = flood(h.stats.outboundFlood, "codec_error:Too_many_frames_in_the_outbound_queue.")
	}
	if e != nil {
		h.flush()
		return e
	}
	h.flushLater()
	return nil
}

// fragment takes a piece of a header section and, behind the last one, the
// whole. It returns the stream while there is more to come.
func (h *http2Conn) fragment(id uint32, b []byte, last bool, size int) (continued uint32, e *http2Error) {
	if first := h.message.size == 0; first {
		h.message.size = 9
		if h.shrunk && len(b) > 0 && b[0]&0xe0 != 0x20 { // the peer has to say that its table is smaller
			return 0, h.compression(id)
		}
		h.shrunk = false
	}
	h.message.size += size // the header of a CONTINUATION does not count for Envoy
	_, err := h.hpack.Write(b)
	if h.message.err != nil && !h.message.refused { // it is refused although more may come
		h.message.refused = true
		if e := h.section(id, &h.message); e != nil {
			return 0, e
		}
	}
	if err != nil {
		return 0, h.compression(id)
	}
	if !last {
		if h.message.size > 8<<20 { // far beyond any limit: a flood
			return 0, &http2Error{code: http2.ErrCodeEnhanceYourCalm, silent: true}
		}
		return id, nil
	}
	if err := h.hpack.Close(); err != nil {
		return 0, h.compression(id)
	}
	if h.message.refused {
		return 0, nil
	}
	return 0, h.section(id, &h.message)
}

func (h *http2Conn) compression(id uint32) *http2Error {
	h.abandon(id)
	return &http2Error{code: http2.ErrCodeCompression}
}

// blame ends the stream that an error of the connection is about, if there is
// one.
func (h *http2Conn) blame(id uint32, e *http2Error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.streams[id]; s != nil && e.details != "" {
		s.fail(e)
	}
}

// abandon notes that the head of a new stream will never be complete, which is
// a stream all the same.
func (h *http2Conn) abandon(id uint32) {
	h.mu.Lock()
	known := id == 0 || h.next != 0 || h.streams[id] != nil || !h.idle(id)
	h.mu.Unlock()
	if !known {
		if h.message.err == nil {
			h.message.err = errHTTP2Broken
		}
		h.open(id, &h.message)
	}
}

var errHTTP2Broken = &http2Error{silent: true, details: "codec_error:The_user_callback_function_failed"}

// section takes a complete header section.
func (h *http2Conn) section(id uint32, m *http2Message) *http2Error {
	h.mu.Lock()
	s := h.streams[id]
	if s == nil {
		idle := h.idle(id)
		h.mu.Unlock()
		if !idle { // it crossed a reset, or its stream is over
			return nil
		}
		return h.open(id, m)
	}
	defer h.mu.Unlock()
	if s.err != nil {
		return nil
	}
	e := m.whole()
	length := m.check.length // of content that is missing if this is the end
	switch {
	case m.check.kind == trailerSection:
		length = s.length
	case s.isHead || m.check.status == "204" || m.check.status == "304":
		length = 0
	}
	if e == nil && m.end && length > 0 {
		e = errHTTP2Message
	}
	if m.check.kind == trailerSection && h.next == 0 {
		h.stats.trailers.Add(1)
	}
	if e == nil {
		s.wireIn += int64(m.size)
	}
	if e == nil && m.check.kind == responseSection {
		s.headBytes += int64(m.size)
	} else if e == nil {
		s.trailerBytes += int64(m.size)
	}
	switch {
	case e != nil:
		return h.messageError(s, e)
	case m.check.kind == trailerSection:
		s.trailers = append(s.trailers[:0], m.fields...)
	default:
		s.heads = append(s.heads, http2Head{fields: append([]field(nil), m.fields...), status: m.check.status, end: m.end})
		if s.headed = !m.informational(); s.headed {
			s.length = length
		}
	}
	if m.end {
		return h.endOf(s)
	}
	s.cond.Broadcast()
	return nil
}

// checkFor says what a header section on the stream has to be.
func (h *http2Conn) checkFor(id uint32) messageCheck {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := messageCheck{most: h.mostFields, mostSize: h.mostSize, connect: h.options.allowConnect, underscores: h.underscores, stats: h.stats}
	switch s := h.streams[id]; {
	case s == nil && h.next == 0:
		c.kind = requestSection
	case s == nil || h.next == 0 || s.headed:
		c.kind = trailerSection
	default:
		c.kind, c.isConnect = responseSection, s.isConnect
	}
	return c
}

// open makes a stream that the peer has opened.
func (h *http2Conn) open(id uint32, m *http2Message) *http2Error {
	h.mu.Lock()
	h.last = id
	s := h.newStream(id)
	s.opened = time.Now()
	refused := uint32(len(h.streams)) > h.options.maxStreams
	if m.err == nil {
		s.headBytes, s.wireIn = int64(m.size), int64(m.size)
	}
	s.remoteEnd, s.length = m.end, m.check.length
	if refused {
		h.stats.streamsRefused.Add(1)
		s.reset(http2.ErrCodeRefusedStream)
		h.flushLater()
		h.mu.Unlock()
		return nil
	}
	h.mu.Unlock()
	return h.onOpen(s, m)
}

// messageError is what a malformed message leads to. The lock is held.
func (h *http2Conn) messageError(s *http2Stream, e *http2Error) *http2Error {
	if !e.stream {
		if e != errHTTP2Broken && !e.flood {
			h.stats.messagingErrors.Add(1)
		}
		if !h.options.streamErrors {
			s.fail(e)
			s.peerReset = true // nothing is said on it any more
			return e
		}
	}
	s.fail(e)
	s.reset(e.code)
	s.wireOut += 13
	h.flushLater()
	return nil
}

// endOf notes the end of what the peer sends on a stream. The lock is held.
func (h *http2Conn) endOf(s *http2Stream) *http2Error {
	if s.length > 0 {
		e := &http2Error{code: http2.ErrCodeProtocol, stream: true, details: "http2.remote_reset"}
		return h.messageError(s, e)
	}
	s.remoteEnd = true
	s.cond.Broadcast()
	s.over()
	s.farewell = s.ours && h.goneAway && len(h.streams) == 0
	return nil
}

func (h *http2Conn) data(f *http2.DataFrame) *http2Error {
	h.mu.Lock()
	defer h.mu.Unlock()
	size := int64(f.Length)
	if h.recvWindow -= size; h.recvWindow < 0 {
		return &http2Error{code: http2.ErrCodeFlowControl}
	}
	s := h.streams[f.StreamID]
	if s == nil || s.err != nil {
		h.giveBack(size)
		return nil
	}
	if size > s.recvWindow {
		return &http2Error{code: http2.ErrCodeFlowControl}
	}
	s.recvWindow -= size
	data := f.Data()
	if pad := size - int64(len(data)); pad > 0 {
		s.giveBack(pad)
	}
	if s.length >= 0 {
		if s.length -= int64(len(data)); s.length < 0 {
			s.length = 0
			h.giveBack(int64(len(data)))
			return h.messageError(s, &http2Error{code: http2.ErrCodeProtocol, stream: true, details: "http2.remote_reset"})
		}
	}
	if h.next != 0 && !s.headed {
		return h.messageError(s, &http2Error{code: http2.ErrCodeProtocol, stream: true})
	}
	if f.StreamEnded() && s.length > 0 {
		return h.messageError(s, &http2Error{code: http2.ErrCodeProtocol, stream: true, details: "http2.remote_reset"})
	}
	if len(data) == 0 && !f.StreamEnded() {
		if e := h.emptyFrame(); e != nil {
			s.fail(e)
			return e
		}
	} else {
		h.floods.empty = 0
	}
	s.wireIn += size + 9
	s.content = append(s.content, data...)
	if s.held += int64(len(data)); len(s.content)-s.consumed <= mostWaiting {
		s.giveBackHeld()
	}
	if f.StreamEnded() {
		s.endAlone = len(data) == 0
		return h.endOf(s)
	}
	s.cond.Broadcast()
	return nil
}

func (h *http2Conn) settings(f *http2.SettingsFrame) *http2Error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.IsAck() {
		if h.unacked == 0 {
			return unknownError(http2.ErrCodeProtocol)
		}
		if h.unacked--; h.unacked == 0 { // until then the peer does not know
			h.hpack.SetAllowedMaxDynamicTableSize(h.options.tableSize)
			h.shrunk = h.options.tableSize < 4096
			more := h.options.streamWindow - h.window
			h.window += more
			for _, s := range h.streams {
				s.recvWindow += more
			}
		}
		return nil
	}
	for i := range f.NumSettings() {
		if e := h.setting(f, i); e != nil {
			return e
		}
	}
	h.settled = true
	h.framer.WriteSettingsAck()
	h.control++
	return nil
}

// setting takes one of the peer's settings. The lock is held.
func (h *http2Conn) setting(f *http2.SettingsFrame, i int) *http2Error {
	s := f.Setting(i)
	for j := i + 1; j < f.NumSettings(); j++ {
		if f.Setting(j).ID == s.ID && s.ID != http2.SettingHeaderTableSize { // for tables the smallest counts too
			return nil
		}
	}
	wrong, client := s.Valid() != nil, h.next != 0
	switch s.ID {
	case http2.SettingHeaderTableSize:
		most := min(s.Val, h.options.tableSize, 4096)
		h.encoder.SetMaxDynamicTableSizeLimit(most)
		h.encoder.SetMaxDynamicTableSize(most)
	case http2.SettingEnablePush:
		wrong = wrong || client && s.Val != 0
	case http2.SettingMaxConcurrentStreams:
		h.peerStreams = s.Val
	case http2.SettingInitialWindowSize:
		if wrong {
			break
		}
		more := int64(s.Val) - h.peerWindow
		h.peerWindow = int64(s.Val)
		for _, st := range h.streams {
			st.sendWindow += more
			wrong = wrong || st.sendWindow > largestWindow
			st.cond.Broadcast()
		}
	case http2.SettingMaxFrameSize:
		h.peerFrame = int(s.Val)
	case http2.SettingEnableConnectProtocol:
		wrong = wrong || client && h.peerConnect && s.Val == 0
		h.peerConnect = s.Val == 1
	case http2.SettingNoRFC7540Priorities: // which may not change (RFC 9218 2.1)
		wrong = s.Val > 1 || h.settled && h.noPriorities != (s.Val == 1)
		h.noPriorities = s.Val == 1
	}
	if wrong {
		return unknownError(http2.ErrCodeProtocol)
	}
	return nil
}

func (h *http2Conn) windowUpdate(f *http2.WindowUpdateFrame) *http2Error {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := unknownError(http2.ErrCodeFlowControl)
	if f.StreamID == 0 {
		none := h.sendWindow <= 0
		if h.sendWindow += int64(f.Increment); h.sendWindow > largestWindow {
			return e
		}
		if none { // somebody may wait
			for _, s := range h.streams {
				s.cond.Broadcast()
			}
		}
		return nil
	}
	s := h.streams[f.StreamID]
	if s == nil {
		if h.idle(f.StreamID) {
			return unknownError(http2.ErrCodeProtocol)
		}
		return nil
	}
	none := s.sendWindow <= 0
	if s.sendWindow += int64(f.Increment); s.sendWindow > largestWindow {
		s.fail(e)
		return e
	}
	if none {
		s.cond.Broadcast()
	}
	return nil
}

func (h *http2Conn) resetFrame(f *http2.RSTStreamFrame) *http2Error {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.streams[f.StreamID]
	switch {
	case s != nil:
		h.stats.resetsReceived.Add(1)
		s.wireIn += int64(f.Length) + 9
		s.peerReset = true
		s.fail(&resetError{f.ErrCode})
		if s.active {
			s.forget()
		}
	case h.idle(f.StreamID):
		return unknownError(http2.ErrCodeProtocol)
	}
	if h.onReset != nil {
		return h.onReset(s)
	}
	return nil
}

// peerGoesAway takes a GOAWAY: the peer will answer none of this end's streams
// above last.
func (h *http2Conn) peerGoesAway(last uint32) *http2Error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ours := h.next != 0 == (last%2 == 1); last > h.peerLast || last > 0 && !ours {
		return unknownError(http2.ErrCodeProtocol)
	}
	h.goneAway, h.peerLast = true, last
	for id, s := range h.streams {
		if id > last && s.ours {
			s.fail(&resetError{http2.ErrCodeRefusedStream})
		}
	}
	return nil
}

func (h *http2Conn) ping(f *http2.PingFrame) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.IsAck() {
		h.ponged(true)
		return
	}
	h.framer.WritePing(true, f.Data)
	h.control++
}

// giveBack lets the peer send as much again on the connection. The lock is
// held.
func (h *http2Conn) giveBack(n int64) {
	if h.unread += n; h.unread < h.options.connWindow/2 || h.err != nil {
		return
	}
	h.framer.WriteWindowUpdate(0, uint32(h.unread))
	h.recvWindow += h.unread
	h.unread = 0
	h.flushLater()
}

// goAway says that no streams above last will be served. The lock is held.
func (h *http2Conn) goAway(last uint32) {
	h.framer.WriteGoAway(last, http2.ErrCodeNo, nil)
}

// ---- streams

// http2Stream is one stream. It implements net.Conn: Read gives its content,
// io.EOF behind END_STREAM, and a *resetError or *http2Error if it broke off;
// Write sends content and waits for windows. All fields belong to the
// connection's lock.
type http2Stream struct {
	http2    *http2Conn
	id       uint32
	ours     bool          // this end opened it
	answered bool          // and the peer has begun to answer
	cond     sync.Cond     // something has come, or may be sent
	active   bool          // is in http2.streams
	opened   time.Time     // by the peer
	served   chan struct{} // closed when it is over; nil: this end opened it

	content  []byte // not read yet
	consumed int    // of it
	held     int64  // received, and not given back to the peer's window
	heads    []http2Head
	headed   bool // the final response head has come
	trailers []field
	length   int64 // of content to come; negative: any

	isHead, isConnect bool // what it is about
	endAlone          bool // END_STREAM came without content

	remoteEnd, localEnd bool
	farewell            bool // with its end the connection is over, which its peer had said
	err                 error
	peerReset           bool
	gone                chan struct{} // closed with err

	sendWindow, recvWindow, unread int64
	readLimit, writeLimit          streamDeadline

	headBytes, trailerBytes, wireIn int64 // received
	headSent, wireOut               int64
}

// http2Head is the head of a response.
type http2Head struct {
	fields []field
	status string
	end    bool
}

// newStream makes a stream; one that this end opens has no id before its head is
// sent, so that heads have the order of their ids. The lock is held.
func (h *http2Conn) newStream(id uint32) *http2Stream {
	s := &http2Stream{http2: h, id: id, length: -1, sendWindow: h.peerWindow, recvWindow: h.window, gone: make(chan struct{}), active: true}
	s.cond.L = &h.mu
	s.readLimit.cond, s.writeLimit.cond = &s.cond, &s.cond
	if id != 0 {
		h.streams[id] = s
	}
	h.stats.active.Add(1)
	return s
}

// fail ends the stream for whoever reads or writes it. The lock is held.
func (s *http2Stream) fail(err error) {
	if s.err != nil {
		return
	}
	s.err = err
	close(s.gone)
	s.cond.Broadcast()
}

// over forgets a stream that has ended both ways. The lock is held.
func (s *http2Stream) over() {
	if !s.active || !(s.remoteEnd && s.localEnd || s.peerReset) {
		return
	}
	h := s.http2
	if h.batch && h.next == 0 { // its end is not written yet
		if !slices.Contains(h.ended, s) {
			h.ended = append(h.ended, s)
		}
		return
	}
	s.forget()
}

// forget takes the stream out of the connection. The lock is held.
func (s *http2Stream) forget() {
	h := s.http2
	s.active = false
	delete(h.streams, s.id)
	h.stats.active.Add(-1)
}

// reset ends the stream with a RST_STREAM. The lock is held.
func (s *http2Stream) reset(code http2.ErrCode) {
	if s.peerReset || !s.active {
		s.over()
		return
	}
	h := s.http2
	if h.err == nil && s.id != 0 {
		h.framer.WriteRSTStream(s.id, code)
		h.stats.resetsSent.Add(1)
	}
	h.giveBack(s.held)
	s.content, s.consumed, s.held = nil, 0, 0
	s.peerReset = true
	s.fail(&http2Error{code: code, details: "http2.local_reset"})
	s.over()
}

// Reset ends the stream with a RST_STREAM.
func (s *http2Stream) Reset(code http2.ErrCode) {
	s.http2.mu.Lock()
	defer s.http2.mu.Unlock()
	s.reset(code)
	s.http2.flush()
}

// giveBack lets the peer send as much again. The lock is held.
func (s *http2Stream) giveBack(n int64) {
	h := s.http2
	h.giveBack(n)
	if s.unread += n; s.unread < h.window/2 || s.remoteEnd || s.err != nil {
		return
	}
	h.framer.WriteWindowUpdate(s.id, uint32(s.unread))
	s.wireOut += 13
	s.recvWindow += s.unread
	s.unread = 0
	h.flushLater()
}

// giveBackHeld is giveBack for what has come. The lock is held.
func (s *http2Stream) giveBackHeld() {
	n := s.held
	s.held = 0
	s.giveBack(n)
}

// Read implements net.Conn.
func (s *http2Stream) Read(p []byte) (int, error) {
	h := s.http2
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		if left := s.content[s.consumed:]; len(left) > 0 {
			n := copy(p, left)
			if s.consumed += n; s.consumed == len(s.content) {
				if s.content, s.consumed = s.content[:0], 0; cap(s.content) > 4*bodyBuffer {
					s.content = nil
				}
			}
			if len(s.content)-s.consumed <= mostWaiting {
				s.giveBackHeld()
			}
			return n, nil
		}
		if s.err != nil {
			return 0, s.err
		}
		if s.remoteEnd {
			return 0, io.EOF
		}
		if s.readLimit.passed() {
			return 0, os.ErrDeadlineExceeded
		}
		s.cond.Wait()
	}
}

// there says what Read would find without waiting: content, or the end.
func (s *http2Stream) there() (content, end bool) {
	s.http2.mu.Lock()
	defer s.http2.mu.Unlock()
	return s.consumed < len(s.content), s.remoteEnd
}

// unreadContent is how much has come that nobody has read.
func (s *http2Stream) unreadContent() int64 {
	s.http2.mu.Lock()
	defer s.http2.mu.Unlock()
	return int64(len(s.content) - s.consumed)
}

// broken is why the stream ended before its time, or nil.
func (s *http2Stream) broken() error {
	s.http2.mu.Lock()
	defer s.http2.mu.Unlock()
	return s.err
}

// complete says whether the peer has sent all that it will.
func (s *http2Stream) complete() bool {
	s.http2.mu.Lock()
	defer s.http2.mu.Unlock()
	return s.remoteEnd
}

// nextHead waits for the head of a response.
func (s *http2Stream) nextHead() (http2Head, error) {
	s.http2.mu.Lock()
	defer s.http2.mu.Unlock()
	for len(s.heads) == 0 {
		if s.err != nil {
			return http2Head{}, s.err
		}
		if s.readLimit.passed() {
			return http2Head{}, os.ErrDeadlineExceeded
		}
		s.cond.Wait()
	}
	head := s.heads[0]
	s.heads = s.heads[1:]
	return head, nil
}

// Write implements net.Conn.
func (s *http2Stream) Write(p []byte) (int, error) {
	return s.send(p, false, nil)
}

// send sends content and, if it is the last, END_STREAM or trailers.
func (s *http2Stream) send(p []byte, end bool, trailers *Headers) (int, error) {
	h := s.http2
	h.mu.Lock()
	defer h.mu.Unlock()
	sent, flushed := 0, false
	for len(p) > 0 {
		if err := s.writable(); err != nil {
			return sent, err
		}
		n := int(min(int64(len(p)), s.sendWindow, h.sendWindow, int64(h.peerFrame)))
		if n <= 0 || len(h.out.frames) > mostBuffered {
			switch {
			case !flushed: // meanwhile more may be allowed
				h.flush()
				flushed = true
			case s.writeLimit.passed():
				return sent, os.ErrDeadlineExceeded
			default:
				h.crowded = h.crowded || n > 0
				s.cond.Wait()
				flushed = false
			}
			continue
		}
		last := end && n == len(p) && (trailers == nil || trailers.Len() == 0)
		h.framer.WriteData(s.id, last, p[:n])
		h.floods.dataSent++
		s.wireOut += int64(n) + 9
		s.sendWindow -= int64(n)
		h.sendWindow -= int64(n)
		if p = p[n:]; last {
			s.localEnd = true
		}
		sent += n
	}
	if err := s.writable(); err != nil && !s.localEnd {
		return sent, err
	}
	if end && !s.localEnd {
		if trailers != nil && trailers.Len() > 0 {
			s.headers(true, func(add func(name, value string)) {
				for _, f := range trailers.fields {
					add(f.name, f.value)
				}
			})
		} else {
			h.framer.WriteData(s.id, true, nil)
			h.floods.dataSent++
			s.wireOut += 9
			s.localEnd = true
		}
	}
	s.over()
	h.flush()
	return sent, nil
}

// writable says why nothing more can be sent. The lock is held.
func (s *http2Stream) writable() error {
	switch {
	case s.err != nil:
		return s.err
	case s.localEnd:
		return io.ErrClosedPipe
	case s.http2.err != nil:
		return s.http2.err
	case s.id == 0 && s.http2.goneAway:
		return &resetError{http2.ErrCodeRefusedStream}
	}
	return nil
}

// writeHeaders sends a header section, which each produces field by field. It
// waits in the connection for more to come, unless it is the end.
func (s *http2Stream) writeHeaders(end bool, each func(add func(name, value string))) error {
	h := s.http2
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := s.writable(); err != nil {
		return err
	}
	s.headers(end, each)
	if end {
		s.over()
		h.flush()
	}
	return nil
}

// headers is writeHeaders with the lock held.
func (s *http2Stream) headers(end bool, each func(add func(name, value string))) {
	h := s.http2
	if s.id == 0 {
		s.id, s.sendWindow = h.next, h.peerWindow
		h.next += 2
		h.streams[s.id] = s
	}
	h.block.Reset()
	each(h.encodeField)
	b := h.block.Bytes()
	n := min(len(b), h.peerFrame)
	h.out.tail = s.wireOut > s.headSent // behind content: trailers
	h.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id, BlockFragment: b[:n], EndStream: end, EndHeaders: n == len(b)})
	size := n + 9
	for b = b[n:]; len(b) > 0; b = b[n:] {
		n = min(len(b), h.peerFrame)
		h.framer.WriteContinuation(s.id, n == len(b), b[:n])
		size += n + 9
	}
	s.headSent += int64(size)
	s.wireOut += int64(size)
	s.localEnd = s.localEnd || end
}

// encodeField adds a field to the block. Which ones do not go into the
// compressor's table is nghttp2's choice.
func (h *http2Conn) encodeField(name, value string) {
	f := hpack.HeaderField{Name: name, Value: value}
	never := name == "authorization" || name == "cookie" && len(value) < 20
	switch name {
	case ":path", "age", "content-length", "etag", "if-modified-since", "if-none-match", "location", "set-cookie":
		f.Sensitive = true
	default:
		f.Sensitive = never || f.Size() > 4096*3/4
	}
	start := h.block.Len()
	h.encoder.WriteField(f)
	if f.Sensitive && !never {
		clearNeverIndexed(h.block.Bytes()[start:])
	}
}

// clearNeverIndexed makes a literal that is never indexed one that is not
// indexed here (RFC 7541 6.2). A change of the table's size may stand before.
func clearNeverIndexed(b []byte) {
	for len(b) > 0 && b[0]&0xe0 == 0x20 {
		n := 1
		if b[0]&0x1f == 0x1f {
			for n < len(b) && b[n]&0x80 != 0 {
				n++
			}
			n++
		}
		b = b[min(n, len(b)):]
	}
	if len(b) > 0 && b[0]&0xf0 == 0x10 {
		b[0] &^= 0x10
	}
}

// flush writes what waits in the connection.
func (s *http2Stream) flush() {
	s.http2.mu.Lock()
	defer s.http2.mu.Unlock()
	s.http2.flush()
}

// Close implements net.Conn: a stream that has not ended is reset.
func (s *http2Stream) Close() error {
	s.Reset(http2.ErrCodeCancel)
	return nil
}

func (s *http2Stream) LocalAddr() net.Addr  { return s.http2.conn.LocalAddr() }
func (s *http2Stream) RemoteAddr() net.Addr { return s.http2.conn.RemoteAddr() }

// SetDeadline implements net.Conn.
func (s *http2Stream) SetDeadline(t time.Time) error {
	s.http2.mu.Lock()
	defer s.http2.mu.Unlock()
	s.readLimit.set(t)
	s.writeLimit.set(t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (s *http2Stream) SetReadDeadline(t time.Time) error {
	s.http2.mu.Lock()
	defer s.http2.mu.Unlock()
	s.readLimit.set(t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (s *http2Stream) SetWriteDeadline(t time.Time) error {
	s.http2.mu.Lock()
	defer s.http2.mu.Unlock()
	s.writeLimit.set(t)
	return nil
}

// streamDeadline wakes who waits for a stream when a time has come.
type streamDeadline struct {
	at    time.Time
	cond  *sync.Cond
	timer *time.Timer
}

func (d *streamDeadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

// set changes the deadline; zero is none. The lock is held.
func (d *streamDeadline) set(t time.Time) {
	if d.at = t; d.timer != nil {
		d.timer.Stop()
	}
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	if wait <= 0 {
		d.cond.Broadcast()
		return
	}
	if d.timer == nil {
		d.timer = time.AfterFunc(wait, func() {
			d.cond.L.Lock()
			defer d.cond.L.Unlock()
			d.cond.Broadcast()
		})
		return
	}
	d.timer.Reset(wait)
}

package proxy

import (
	"errors"

	"golang.org/x/net/http2"
)

// This file judges frames, as Envoy's codec (nghttp2) does: some mistakes show
// in a frame's header, some in its first bytes, and some count only when all of
// it is there. It matters when each is noticed, because what has come by then
// is what a client that is told nothing more has not sent in vain.

// unknownError ends the connection for a frame that has no place there.
func unknownError(code http2.ErrCode) *http2Error {
	return &http2Error{code: code, silent: true, details: "http2.unknown.nghttp2.error"}
}

// mostSettings is how many of them a SETTINGS frame may have.
const mostSettings = 32

// checkHeader judges a frame by its header; continued is the stream whose
// header section is not complete, or 0.
func (h *http2Conn) checkHeader(f http2.FrameHeader, continued uint32) *http2Error {
	protocol := func(text string) *http2Error { return &http2Error{code: http2.ErrCodeProtocol, text: text} }
	switch {
	case !h.settled && (f.Type != http2.FrameSettings || f.Flags.Has(http2.FlagSettingsAck)):
		return protocol("SETTINGS expected")
	case f.Length > minFrame:
		return &http2Error{code: http2.ErrCodeFrameSize, text: "too large frame size"}
	case continued != 0 && (f.Type != http2.FrameContinuation || f.StreamID != continued):
		return protocol("unexpected non-CONTINUATION frame or stream_id is invalid")
	}
	size := true
	switch padded := f.Flags.Has(http2.FlagDataPadded); f.Type { // the flag is the same for all
	case http2.FrameData:
		if e := h.checkData(f); e != nil {
			return e
		}
		if padded && f.Length == 0 && !h.ignored(f.StreamID) {
			return protocol("DATA: insufficient padding space")
		}
	case http2.FrameHeaders:
		if padded && f.Length == 0 {
			return protocol("HEADERS: insufficient padding space")
		}
		size = padded || !f.Flags.Has(http2.FlagHeadersPriority) || f.Length >= 5
	case http2.FramePushPromise:
		if padded && f.Length == 0 {
			return protocol("PUSH_PROMISE: insufficient padding space")
		}
		size = padded || f.Length >= 4
	case http2.FramePriority:
		size = f.Length == 5
	case http2.FrameRSTStream, http2.FrameWindowUpdate:
		size = f.Length == 4
	case http2.FrameSettings:
		if size = f.Length%6 == 0 && !(f.Flags.Has(http2.FlagSettingsAck) && f.Length > 0); size && f.Length > 6*mostSettings {
			return &http2Error{code: http2.ErrCodeEnhanceYourCalm, text: "SETTINGS: too many setting entries"}
		}
	case http2.FramePing:
		size = f.Length == 8
	case http2.FrameGoAway:
		size = f.Length >= 8
	case http2.FrameContinuation:
		if continued == 0 {
			return protocol("CONTINUATION: unexpected")
		}
	}
	if !size {
		return &http2Error{code: http2.ErrCodeFrameSize}
	}
	return nil
}

// checkData judges a DATA frame by the state of its stream.
func (h *http2Conn) checkData(f http2.FrameHeader) *http2Error {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.streams[f.StreamID]
	switch {
	case f.StreamID == 0:
		return &http2Error{code: http2.ErrCodeProtocol, text: "DATA: stream_id == 0"}
	case s == nil && h.idle(f.StreamID):
		return &http2Error{code: http2.ErrCodeProtocol, text: "DATA: stream in idle"}
	case s != nil && s.remoteEnd && s.err == nil:
		return &http2Error{code: http2.ErrCodeStreamClosed, text: "DATA: stream in half-closed(remote)"}
	case s != nil && s.ours && !s.answered && s.err == nil:
		return &http2Error{code: http2.ErrCodeProtocol, text: "DATA: stream not opened"}
	}
	return nil
}

// checkStart judges a frame by the first bytes of its payload, for which it
// waits: the length of the padding, and what the frame is about. Its error may
// also be that of the connection.
func (h *http2Conn) checkStart(f http2.FrameHeader) error {
	padding, fixed := 0, 0
	switch f.Type {
	case http2.FrameData:
	case http2.FrameHeaders:
		if f.Flags.Has(http2.FlagHeadersPriority) {
			fixed = 5
		}
	case http2.FramePushPromise:
		fixed = 4
	default:
		return nil
	}
	if f.Flags.Has(http2.FlagDataPadded) {
		b, err := h.in.Peek(1)
		if err != nil {
			return err
		}
		padding = 1
		if f.Type == http2.FrameData && h.ignored(f.StreamID) {
			return nil
		}
		if int(b[0])+1+fixed > int(f.Length) {
			return &http2Error{code: http2.ErrCodeProtocol, text: f.Type.String() + ": invalid padding"}
		}
	}
	if f.Type == http2.FrameData {
		return nil
	}
	b, err := h.in.Peek(padding + fixed)
	switch {
	case err != nil:
		return err
	case f.Type == http2.FramePushPromise: // nobody may push
		return unknownError(http2.ErrCodeProtocol)
	}
	return h.checkHeaders(f.StreamID, b[padding:])
}

// checkHeaders judges a HEADERS frame by the state of its stream, and by the
// priority that it may have.
func (h *http2Conn) checkHeaders(id uint32, priority []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.streams[id]
	switch {
	case id == 0, s == nil && h.idle(id) && (h.next != 0 || id%2 == 0): // the peer may not open it
		return unknownError(http2.ErrCodeProtocol)
	case s == nil && h.idle(id) && len(priority) > 0 && streamID(priority) == id: // it depends on itself
		return unknownError(http2.ErrCodeProtocol)
	case s != nil && s.remoteEnd && s.err == nil:
		e := unknownError(http2.ErrCodeStreamClosed)
		s.fail(e)
		return e
	case s != nil:
		s.answered = true
	}
	return nil
}

// streamID reads the identifier at the start of b.
func streamID(b []byte) uint32 {
	return (uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])) & (1<<31 - 1)
}

// ignored says that nobody wants the stream's content any more.
func (h *http2Conn) ignored(id uint32) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.streams[id]
	return s == nil || s.err != nil
}

// frame reads the payload of a frame whose header and start are as they should
// be; it is nil where nobody minds what it says.
func (h *http2Conn) frame(head http2.FrameHeader) (http2.Frame, error) {
	if head.Type == http2.FramePriority || head.Type > http2.FrameContinuation {
		_, err := h.in.Discard(int(head.Length))
		return nil, err
	}
	if head.Type == http2.FrameData && h.ignored(head.StreamID) {
		head.Flags &^= http2.FlagDataPadded // whatever it says
	}
	f, err := h.framer.ReadFrameForHeader(head)
	switch {
	case errors.As(err, new(http2.StreamError)) && head.Type == http2.FrameWindowUpdate:
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.streams[head.StreamID] == nil && !h.idle(head.StreamID) {
			return nil, nil
		}
		return nil, unknownError(http2.ErrCodeProtocol)
	case errors.As(err, new(http2.ConnectionError)):
		return nil, unknownError(http2.ErrCodeProtocol)
	}
	return f, err
}

// idle says that nobody has opened the stream yet. The lock is held.
func (h *http2Conn) idle(id uint32) bool {
	if h.next != 0 && id%2 == h.next%2 {
		return id >= h.next
	}
	return id > h.last || id%2 == 0 || h.next != 0
}

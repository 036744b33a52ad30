package proxy

import (
	"bytes"

	"golang.org/x/net/http2"
)

// http2Out is the frames that wait to be written. What is written together has
// the order of Envoy's codec: what acknowledges a frame of the peer's comes
// first, and content last.
type http2Out struct {
	frames []byte
	queued int
	acks   int  // bytes at the start that are acknowledgements
	heads  int  // bytes at the start that heads may not go ahead of
	tail   bool // what is written now has its place at the end
	spare  []byte
}

// Write takes one frame from the framer.
func (o *http2Out) Write(frame []byte) (int, error) {
	o.queued++
	switch kind, ack := http2.FrameType(frame[3]), http2.Flags(frame[4]).Has(http2.FlagPingAck); {
	case (kind == http2.FramePing || kind == http2.FrameSettings) && ack: // the flag is the same for both
		o.insert(o.acks, frame)
		o.acks += len(frame)
		o.heads += len(frame)
	case kind == http2.FrameData, kind == http2.FrameRSTStream:
		o.frames = append(o.frames, frame...)
	case (kind == http2.FrameHeaders || kind == http2.FrameContinuation) && !o.tail:
		o.insert(o.heads, frame)
		o.heads += len(frame)
	default:
		o.frames = append(o.frames, frame...)
		o.heads = len(o.frames)
	}
	return len(frame), nil
}

func (o *http2Out) insert(at int, frame []byte) {
	behind := bytes.Clone(o.frames[at:])
	o.frames = append(append(o.frames[:at], frame...), behind...)
}

// seal ends what starts a connection, which nothing goes ahead of.
func (o *http2Out) seal() { o.acks, o.heads = len(o.frames), len(o.frames) }

// take gives what waits, for the one who writes it and gives it back.
func (o *http2Out) take() []byte {
	b := o.frames
	o.frames, o.spare = o.spare[:0], nil
	o.queued, o.acks, o.heads = 0, 0, 0
	return b
}

func (o *http2Out) giveBack(b []byte) {
	if cap(b) <= 4*bodyBuffer {
		o.spare = b[:0]
	}
}

// drop forgets what waits.
func (o *http2Out) drop() { o.giveBack(o.take()) }

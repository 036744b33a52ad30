package e2e

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// This file is how cases of nodiff are played over HTTP/2 and TLS: steps are
// frames, and what a client received is shown stream by stream, because the
// order between streams is nobody's promise.

// A frameWriter makes frames of the words of a case; it holds the state of the
// header compression.
type frameWriter struct {
	out     bytes.Buffer
	framer  *http2.Framer
	block   bytes.Buffer
	encoder *hpack.Encoder
}

func newFrameWriter() *frameWriter {
	w := &frameWriter{}
	w.framer = http2.NewFramer(&w.out, nil)
	w.framer.AllowIllegalWrites = true
	w.encoder = hpack.NewEncoder(&w.block)
	return w
}

// frame makes a frame of text like "headers 1 end :method=GET :path=/", or of
// several with ;; between them, which are one write.
func (w *frameWriter) frame(text string) (string, error) {
	if first, rest, ok := strings.Cut(text, " ;; "); ok {
		a, err := w.frame(first)
		if err != nil {
			return "", err
		}
		b, err := w.frame(rest)
		return a + b, err
	}
	f := strings.Fields(text)
	number := func(i int) uint32 {
		if i >= len(f) {
			return 0
		}
		n, _ := strconv.ParseUint(f[i], 0, 32)
		return uint32(n)
	}
	id := number(1)
	rest := f[min(2, len(f)):]
	end := len(rest) > 0 && rest[0] == "end"
	if end {
		rest = rest[1:]
	}
	w.out.Reset()
	var err error
	switch f[0] {
	case "preface":
		w.out.WriteString(http2.ClientPreface)
	case "headers", "unfinished": // a header section, or one whose CONTINUATION does not come
		w.block.Reset()
		for _, pair := range rest {
			// The name of a pseudo header begins with a colon; an escaped = is no end of it.
			name, value, _ := strings.Cut(pair, "=")
			if name, err = unescape(name); err != nil {
				return "", err
			}
			if value, err = unescape(value); err != nil {
				return "", err
			}
			w.encoder.WriteField(hpack.HeaderField{Name: name, Value: value})
		}
		b := w.block.Bytes()
		n := min(len(b), 16<<10)
		err = w.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b[:n], EndStream: end, EndHeaders: n == len(b) && f[0] == "headers"})
		for b = b[n:]; len(b) > 0 && err == nil; b = b[n:] {
			n = min(len(b), 16<<10)
			err = w.framer.WriteContinuation(id, n == len(b), b[:n])
		}
	case "data":
		var data string
		if data, err = unescape(strings.Join(rest, " ")); err == nil {
			err = w.framer.WriteData(id, end, []byte(data))
		}
	case "padded":
		err = w.framer.WriteDataPadded(id, end, []byte(strings.Join(rest, " ")), make([]byte, 20))
	case "settings":
		var list []http2.Setting
		for _, pair := range f[1:] {
			name, value, _ := strings.Cut(pair, "=")
			k, _ := strconv.ParseUint(name, 0, 16)
			v, _ := strconv.ParseUint(value, 0, 32)
			list = append(list, http2.Setting{ID: http2.SettingID(k), Val: uint32(v)})
		}
		err = w.framer.WriteSettings(list...)
	case "ack":
		err = w.framer.WriteSettingsAck()
	case "ping":
		err = w.framer.WritePing(false, [8]byte{1, 2, 3})
	case "reset":
		err = w.framer.WriteRSTStream(id, http2.ErrCode(number(2)))
	case "goaway":
		err = w.framer.WriteGoAway(id, http2.ErrCode(number(2)), nil)
	case "window":
		err = w.framer.WriteWindowUpdate(id, number(2))
	case "priority":
		err = w.framer.WritePriority(id, http2.PriorityParam{StreamDep: number(2)})
	case "continuation":
		err = w.framer.WriteContinuation(id, true, nil)
	case "raw":
		var b []byte
		b, err = hex.DecodeString(strings.Join(f[1:], ""))
		w.out.Write(b)
	default:
		err = fmt.Errorf("%q is no frame", f[0])
	}
	return w.out.String(), err
}

// frames takes apart what came over HTTP/2: a line for each thing that a stream
// got, the streams in order, and what is about the connection first. ended is
// how many streams have ended.
func frames(data []byte) (lines []string, ended int) {
	type stream struct {
		lines   []string
		content string
		done    bool
	}
	streams := map[uint32]*stream{}
	of := func(id uint32) *stream {
		if streams[id] == nil {
			streams[id] = &stream{}
		}
		return streams[id]
	}
	over := func(s *stream) {
		if !s.done {
			s.done = true
			ended++
		}
	}
	var current *stream
	decoder := hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		if current != nil {
			current.lines = append(current.lines, f.Name+": "+f.Value)
		}
	})
	framer := http2.NewFramer(nil, bytes.NewReader(data))
	framer.AllowIllegalReads = true
	flush := func(s *stream) {
		if s.content != "" {
			s.lines, s.content = append(s.lines, "content: "+strconv.Quote(s.content)), ""
		}
	}
	for {
		f, err := framer.ReadFrame()
		if err != nil {
			break
		}
		id := f.Header().StreamID
		switch f := f.(type) {
		case *http2.HeadersFrame:
			current = of(id)
			flush(current)
			_, _ = decoder.Write(f.HeaderBlockFragment())
			if f.StreamEnded() {
				current.lines = append(current.lines, "end")
				over(current)
			}
		case *http2.ContinuationFrame:
			_, _ = decoder.Write(f.HeaderBlockFragment())
		case *http2.DataFrame:
			s := of(id)
			s.content += string(f.Data())
			if f.StreamEnded() {
				flush(s)
				s.lines = append(s.lines, "end")
				over(s)
			}
		case *http2.RSTStreamFrame:
			s := of(id)
			flush(s)
			s.lines = append(s.lines, "reset "+f.ErrCode.String())
			over(s)
		case *http2.GoAwayFrame:
			lines = append(lines, fmt.Sprintf("goaway last=%d %v %q", f.LastStreamID, f.ErrCode, f.DebugData()))
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = f.ForeachSetting(func(s http2.Setting) error {
					lines = append(lines, fmt.Sprintf("setting %d=%d", s.ID, s.Val))
					return nil
				})
			}
		case *http2.PingFrame:
			if f.IsAck() {
				lines = append(lines, "pong")
			} else {
				lines = append(lines, "ping")
			}
		}
	}
	ids := make([]uint32, 0, len(streams))
	for id := range streams {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		flush(streams[id])
		for _, line := range streams[id].lines {
			lines = append(lines, fmt.Sprintf("[%d] %s", id, line))
		}
	}
	return lines, ended
}

// serveFrames is the upstream that speaks HTTP/2. What it does is said by the
// path of a request: /reset, /refuse, /goaway, /hang, /early, /trailers,
// /continue, /half, /close, /frames/; anything else gets 200 once it is complete, and an
// extended CONNECT an echo, whose end /finish, /break, /trail and /hangup say.
func (c *upstreamConn) serveFrames() {
	r := bufio.NewReader(c.wire)
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(r, preface); err != nil {
		return
	}
	u := c.upstream.all
	out := newFrameWriter()
	say := func(format string, args ...any) {
		text, err := out.frame(fmt.Sprintf(format, args...))
		if err == nil {
			c.send(text)
		}
	}
	if c.upstream.name == "unconnected" {
		say("settings")
	} else {
		say("settings 8=1")
	}
	framer := http2.NewFramer(nil, r)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	requests := map[uint32]*upstreamRequest{}
	paths := map[uint32]string{}
	has := func(id uint32, word string) bool { return strings.Contains(paths[id], word) }
	answer := func(id uint32) {
		switch {
		case has(id, "/trailers"):
			say("headers %d :status=200 content-type=text/plain", id)
			say("data %d http2", id)
			say("headers %d end x-trailer=1", id)
		case has(id, "/half"):
			say("headers %d :status=200 content-length=10", id)
			say("data %d abc", id)
			say("reset %d 2", id)
		case has(id, "/joined"):
			say("headers %d :status=200 content-length=5", id)
			say("data %d end http2", id)
		case has(id, "/empty"):
			say("headers %d end :status=204", id)
		case has(id, "/continue"):
			say("headers %d :status=100", id)
			say("headers %d end :status=200", id)
		case has(id, "/goaway"):
			say("headers %d end :status=200", id)
			say("goaway %d 0", id)
		case has(id, "/badname"):
			say("headers %d end :status=200 X-Bad=1", id)
		case has(id, "/frames/"): // in hex, one write for each part
			_, frames, _ := strings.Cut(paths[id], "/frames/")
			for part := range strings.SplitSeq(frames, "/") {
				say("raw %s", part)
				time.Sleep(50 * time.Millisecond)
			}
		case has(id, "/hang"):
		default:
			say("headers %d :status=200 content-type=text/plain x-answer=yes", id)
			say("data %d http2", id)
			say("data %d end", id)
		}
	}
	for {
		f, err := framer.ReadFrame()
		if err != nil {
			return
		}
		id := f.Header().StreamID
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				say("ack")
			}
		case *http2.RSTStreamFrame:
			if q := requests[id]; q != nil {
				u.mu.Lock()
				q.ending = append(q.ending, "reset: "+f.ErrCode.String())
				u.mu.Unlock()
			}
		case *http2.GoAwayFrame:
			u.mu.Lock()
			for _, q := range requests {
				q.ending = append(q.ending, fmt.Sprintf("goaway: %v %q", f.ErrCode, f.DebugData()))
			}
			u.mu.Unlock()
		case *http2.MetaHeadersFrame:
			if q := requests[id]; q != nil {
				u.mu.Lock()
				for _, t := range f.Fields {
					q.trailers = append(q.trailers, t.Name+": "+t.Value)
				}
				q.complete = true
				u.mu.Unlock()
				answer(id)
				continue
			}
			q := &upstreamRequest{conn: c, again: c.served > 0, complete: f.StreamEnded()}
			q.head.start = f.PseudoValue("method") + " " + f.PseudoValue("path") + " HTTP/2"
			for _, t := range f.Fields {
				q.head.fields = append(q.head.fields, t.Name+": "+t.Value)
			}
			c.served++
			requests[id], paths[id] = q, f.PseudoValue("path")
			u.mu.Lock()
			if !strings.Contains(paths[id], sentinel) {
				c.counted++
				u.got = append(u.got, q)
			}
			u.mu.Unlock()
			switch tunnel := f.PseudoValue("protocol") != ""; {
			case has(id, "/reset"):
				say("reset %d 8", id)
			case has(id, "/refuse"):
				say("reset %d 7", id)
			case has(id, "/close"):
				_ = c.c.CloseWrite()
				c.until(200*time.Millisecond, func([]byte) bool { return false })
				c.c.Close()
				return
			case tunnel && has(id, "/deny"):
				say("headers %d :status=403", id)
				say("data %d end no", id)
			case tunnel && has(id, "/created"):
				say("headers %d :status=201", id)
			case tunnel && has(id, "/done"):
				say("headers %d end :status=200", id)
			case tunnel && has(id, "/slowdeny"):
				say("headers %d :status=403", id)
			case tunnel && has(id, "/found"):
				say("headers %d end :status=302 location=/", id)
			case tunnel:
				if has(id, "/continue") {
					say("headers %d :status=100", id)
				}
				say("headers %d :status=200 sec-websocket-protocol=chat", id)
			case has(id, "/early"):
				say("headers %d :status=200", id)
				say("data %d end early", id)
			case f.StreamEnded():
				answer(id)
			}
		case *http2.DataFrame:
			q := requests[id]
			if q == nil {
				continue
			}
			u.mu.Lock()
			q.content += string(f.Data())
			q.complete = q.complete || f.StreamEnded()
			u.mu.Unlock()
			switch {
			case slices.Contains(q.head.fields, ":method: CONNECT"):
				if len(f.Data()) > 0 && !has(id, "/finish") {
					say("data %d %s", id, f.Data())
				}
				switch {
				case has(id, "/finish"):
					say("data %d end good bye", id)
				case has(id, "/break"):
					say("reset %d 2", id)
				case has(id, "/trail"):
					say("headers %d end x-trailer=1", id)
				case has(id, "/hangup"):
					_ = c.c.CloseWrite()
				case f.StreamEnded():
					say("data %d end", id)
				}
			case f.StreamEnded() && !has(id, "/early"):
				answer(id)
			}
		}
	}
}

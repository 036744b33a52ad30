package proxy

// This file is Envoy's filter manager (filter_manager.cc): how a request or a
// response goes from filter to filter, where it waits when one has stopped it,
// and how it goes on.

// status is what a filter says of going on.
type status int

const (
	goOn             status = iota
	stopHere                // StopIteration; for data: StopIterationNoBuffer, which drops it
	stopAndBuffer           // StopAllIterationAndBuffer; for data: StopIterationAndBuffer
	stopAndWatermark        // StopAllIterationAndWatermark; for data: StopIterationAndWatermark
)

// iteration is one direction of a stream on its way through the filters. The
// stream's lock guards it. What comes out behind the last filter waits here for
// the goroutine that sends it.
type iteration struct {
	stream   *stream
	response bool
	places   []place // of the filters, in this direction's order

	buffered  []byte // what waits at the filter that has stopped
	holding   bool   // something waits there, be it an empty piece
	streaming bool   // a full buffer makes the sender wait, and is no error
	complete  bool   // the end has come in
	trailers  *Headers
	paused    bool // a filter has stopped it once

	head        bool // has come out
	headOnly    bool // it was the end of the stream
	out, taken  []byte
	end         bool // has come out
	trailersOut bool // have come out, before the end
	closed      bool // the stream has got its response another way
}

// place is a filter's place in an iteration.
type place struct {
	filter   httpFilter
	reached  bool // the filter has been given the head
	stopped  stopped
	passedOn bool // the filter has let the head go on
	ended    bool // the filter has seen the end
	fromHere bool // what waited has to pass the filter itself, too
}

type stopped int

const (
	running      stopped = iota
	stoppedOne           // data still comes to the filter
	stoppedAll           // nothing does
	stoppedWater         // the same, and a full buffer is no error
)

// begin prepares for another stream.
func (it *iteration) begin(s *stream, response bool) {
	places, buffered, out, taken := it.places[:0], it.buffered[:0], it.out[:0], it.taken
	if cap(buffered) > 64<<10 {
		buffered = nil
	}
	*it = iteration{stream: s, response: response, places: places, buffered: buffered, out: out, taken: taken}
	for i := range s.filters {
		f := s.filters[i]
		if response {
			f = s.filters[len(s.filters)-1-i]
		}
		it.places = append(it.places, place{filter: f})
	}
}

// placeOf finds a filter's place.
func (it *iteration) placeOf(f httpFilter) int {
	for i := range it.places {
		if it.places[i].filter == f {
			return i
		}
	}
	return -1
}

// over says that nothing passes any more: the stream has another answer, or
// none.
func (it *iteration) over() bool {
	return it.closed || it.stream.local != nil || it.stream.aborted != nil
}

// headers gives the head to the filters from a place on.
func (it *iteration) headers(from int, end bool) {
	for i := from; i < len(it.places); i++ {
		p := &it.places[i]
		p.reached, p.ended = true, end
		var st status
		if it.response {
			st = p.filter.encodeHeaders(end)
		} else {
			st = p.filter.decodeHeaders(end)
		}
		switch {
		case it.over():
			return
		case st == stopHere:
			it.stop(p, stoppedOne)
			return
		case st == stopAndBuffer:
			it.stop(p, stoppedAll)
			return
		case st == stopAndWatermark:
			it.stop(p, stoppedWater)
			return
		case p.passedOn: // the filter has done it itself
			return
		}
		p.passedOn = true
	}
	it.head, it.headOnly, it.end = true, end, end
}

// data gives a piece to the filters from a place on. held says that it is what
// waited, and not a new one.
func (it *iteration) data(from int, data []byte, end, held bool) {
	added := -1 // the filter that has added trailers
	for i := from; i < len(it.places); i++ {
		p := &it.places[i]
		if it.over() {
			return
		}
		if p.stopped >= stoppedAll {
			it.streaming = p.stopped == stoppedWater
			it.hold(data)
			return
		}
		if p.ended {
			return
		}
		had := it.trailers != nil
		p.ended = end && !had
		var st status
		if it.response {
			st = p.filter.encodeData(&data, p.ended)
		} else {
			st = p.filter.decodeData(&data, p.ended)
		}
		if !had && it.trailers != nil {
			added = i
		}
		switch {
		case it.over():
			return
		case st == goOn && p.stopped == stoppedOne:
			it.hold(data)
			it.resume(i)
			return
		case st == goOn:
			continue
		}
		it.stop(p, stoppedOne)
		switch {
		case st != stopHere:
			it.streaming = st == stopAndWatermark
			it.hold(data)
		case held:
			it.buffered = append(it.buffered, data...)
		case it.complete && it.trailers == nil:
			it.holding = true
		}
		return
	}
	it.out = append(it.out, data...)
	if end && it.trailers == nil {
		it.end = true
	}
	if added >= 0 {
		it.tail(added + 1)
	}
}

// addTrailers makes trailers for a filter that looks at the end of the content.
func (it *iteration) addTrailers() {
	it.trailers = &it.stream.requestTrailers
	if it.response {
		it.trailers = &it.stream.responseTrailers
	}
}

func (it *iteration) stop(p *place, how stopped) {
	p.stopped = how
	if !it.paused {
		it.paused = true
	}
}

// hold keeps a piece where the stream has stopped. Envoy refuses, or resets,
// what does not fit, unless it can make the sender wait.
func (it *iteration) hold(data []byte) {
	it.buffered = append(it.buffered, data...)
	it.holding = true
	if !it.full() || it.streaming {
		return
	}
	s := it.stream
	if it.response {
		s.hcm.stats.responseTooLarge.Add(1)
		s.reply(&localReply{status: 500, body: "Internal Server Error", details: "response_payload_too_large"})
	} else {
		s.hcm.stats.requestTooLarge.Add(1)
		s.reply(&localReply{status: 413, body: "Payload Too Large", details: "request_payload_too_large"})
	}
}

// full says that the sender has to wait.
func (it *iteration) full() bool {
	most := it.stream.bufferLimit
	return most > 0 && len(it.buffered) > most
}

// tail gives the trailers to the filters from a place on.
func (it *iteration) tail(from int) {
	for i := from; i < len(it.places); i++ {
		p := &it.places[i]
		if it.over() || p.stopped >= stoppedAll {
			return
		}
		var st status
		if it.response {
			st = p.filter.encodeTrailers()
		} else {
			st = p.filter.decodeTrailers()
		}
		p.ended = true
		switch {
		case it.over():
			return
		case st != goOn:
			if p.stopped == running {
				it.stop(p, stoppedOne)
			}
			return
		case p.stopped == stoppedOne:
			it.resume(i)
			return
		}
	}
	it.trailersOut, it.end = true, true
}

// finish gives the end of the stream to all filters: trailers, or else an
// empty piece.
func (it *iteration) finish() {
	it.complete = true
	trailers := &it.stream.requestTrailers
	if it.response {
		trailers = &it.stream.responseTrailers
	}
	if trailers.Len() == 0 {
		it.data(0, nil, true, false)
		return
	}
	it.trailers = trailers
	it.tail(0)
}

// resume lets the stream go on behind the filter at a place, with all that has
// waited there (commonContinue).
func (it *iteration) resume(i int) {
	p := &it.places[i]
	if it.over() {
		return
	}
	p.fromHere = p.stopped >= stoppedAll
	p.stopped = running
	if !p.passedOn {
		p.passedOn = true
		it.headers(i+1, it.complete && !it.holding && it.trailers == nil)
	}
	next := i + 1
	if p.fromHere {
		next = i
	}
	trailers := it.trailers != nil
	if it.holding && !it.over() {
		waited := it.buffered
		it.buffered = nil
		it.data(next, waited, it.complete && !trailers, true)
		if it.buffered == nil {
			it.buffered = waited[:0]
		}
	}
	if trailers && !it.over() {
		it.tail(next)
	}
	p.fromHere = false
}

// passes says that no filter looks at content, or ever stopped the stream: a
// piece is out, with the end or without, as soon as it has come in.
func (it *iteration) passes(filtered, end bool) bool {
	if filtered || it.paused {
		return false
	}
	it.complete, it.end = it.complete || end, it.end || end
	return true
}

// feed gives a piece of content to all filters, unless the end has come in.
func (it *iteration) feed(data []byte, end bool) {
	if !it.complete {
		it.complete = end
		it.data(0, data, end, false)
	}
}

// take gives what has come out and was not taken yet. It is valid until the
// next time.
func (it *iteration) take() []byte {
	out := it.out
	it.out, it.taken = it.taken[:0], out
	return out
}

package proxy

import "time"

// ofConnection is the type of those lines, which have none.
const ofConnection = "NotSet"

// logConnection writes the access logs of the listener, which have one line
// for each connection: one that was accepted, whatever became of it. What they
// know is what is known of a stream without a request.
func (c *connection) logConnection(begun time.Time, details, flags string) {
	if len(c.listener.accessLogs) == 0 {
		return
	}
	m := c.hcm
	if m == nil {
		m = &hcm{server: c.server, listener: c.listener.name, listenerMetadata: c.listener.metadata, routes: &routeTable{}}
	}
	s := &stream{conn: c, hcm: m, start: begun, logType: ofConnection, details: details, flags: flags}
	if last := &c.stream; c.served && flags == "" {
		if s.protocol = last.protocol; last.refused {
			s.protocol, s.flags = "", "DPE"
		}
	}
	received, sent := c.in.consumed+int64(len(c.in.buffered())), c.flushed
	if last := &c.stream; last.conn != nil && last.upstreamMeter.tunnel { // what is tunnelled does not go through the buffers
		received, sent = last.meter.consumed+last.wireReceived(), last.meter.sent+last.wireSent()
	}
	s.bytesReceived.Store(received)
	s.bytesSent.Store(sent)
	for _, l := range c.listener.accessLogs {
		l.write(s)
	}
}

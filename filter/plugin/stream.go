package main

import "switchyard/filter"

// requestHeaders decides about a request and carries the decision out. It returns true if the request must not go on.
//
// A request without Upgrade, which most are, costs a get for each of three names and nothing else: for a copy of a routing
// header, which a get shows however often it was sent, and none of the other spellings, which the gate removes. A request
// with Upgrade is read whole, in one hostcall.
//
// ":protocol" is not looked for, as Envoy shows an extended CONNECT (RFC 8441) as a GET with Upgrade.
func (p *plugin) requestHeaders(id uint32) (stop bool) {
	defer func() {
		if r := recover(); r != nil {
			p.recovered(r, p.removeSpoofable)
			stop = false
		}
	}()
	p.seen[id%uint32(len(p.seen))] = id
	if !hasHeader(requestHeaders, "upgrade") {
		p.removeSpoofable()
		return false
	}
	headers, err := readHeaders(requestHeaders, p.headers[:0])
	if err != nil {
		p.warn("read", "cannot read the request's headers: "+err.Error())
		p.removeSpoofable()
		return false
	}
	d := filter.Decide(p.config, filter.Request{Headers: headers, Version: requestVersion})
	clear(headers)
	p.headers = headers
	log(logDebug, "switchyard: "+d.String())
	p.count(d.Counter)
	if d.Status != 0 {
		p.warn(d.Reason, "refused: "+d.String())
		if err := sendResponse(d.Status, d.Headers, d.Body); err != nil {
			p.warn("respond", "cannot refuse a request, which waits for its end now: "+err.Error())
		}
		return true
	}
	if err := apply(d); err != nil {
		// It is better not to be routed than to be routed by half.
		p.warn("apply", "a request goes on unrouted: "+err.Error())
		p.removeSpoofable()
		return false
	}
	if d.Answer.Needed() {
		p.answers[id] = d.Answer
	}
	return false
}

// removeSpoofable takes the routing headers out of the request, where there are any.
func (p *plugin) removeSpoofable() {
	for _, name := range p.spoofable {
		if hasHeader(requestHeaders, name) {
			if err := removeHeader(requestHeaders, name); err != nil {
				p.warn("remove", "cannot remove "+name+": "+err.Error())
			}
		}
	}
}

// apply changes the request as the decision says, until something fails.
func apply(d filter.Decision) error {
	if err := mutate(requestHeaders, d.Mutations); err != nil {
		return err
	}
	if d.SupplyKey {
		var random [16]byte
		if err := readRandom(&random); err != nil {
			return failure{"get random bytes", err}
		}
		if err := setHeader(requestHeaders, filter.KeyHeader, filter.NewKey(random)); err != nil {
			return failure{"set " + filter.KeyHeader, err}
		}
	}
	if d.FilterState == "" {
		return nil
	}
	if err := setProperty(d.FilterState, d.Rule.Name); err != nil {
		return failure{"set the property " + d.FilterState, err}
	}
	// A change of the request's headers makes the host choose the route anew; a property does not.
	if len(d.Mutations) == 0 && !d.SupplyKey {
		if err := callForeign("clear_route_cache"); err != nil {
			return failure{"clear the route cache", err}
		}
	}
	return nil
}

func mutate(m mapType, mutations []filter.Mutation) error {
	for _, c := range mutations {
		switch c.Op {
		case filter.Remove:
			if err := removeHeader(m, c.Name); err != nil {
				return failure{"remove " + c.Name, err}
			}
		case filter.Set:
			if err := setHeader(m, c.Name, c.Value); err != nil {
				return failure{"set " + c.Name, err}
			}
		}
	}
	return nil
}

// failure is a hostcall that failed.
type failure struct {
	what string
	err  error
}

func (f failure) Error() string { return "cannot " + f.what + ": " + f.err.Error() }

// requestVersion returns the HTTP version of the request at hand, as Envoy names it: HTTP/1.1, HTTP/2, HTTP/3.
func requestVersion() string {
	version, err := getProperty("request", "protocol")
	if err != nil {
		return "" // no version that a key is supplied for
	}
	return version
}

// responseHeaders corrects the answer to a handshake, where that is needed.
func (p *plugin) responseHeaders(id uint32) {
	defer func() {
		if r := recover(); r != nil {
			p.recovered(r, nil)
		}
	}()
	answer, ok := p.answers[id]
	if !ok {
		return
	}
	delete(p.answers, id)
	// The common case, in one hostcall: an upstream that speaks HTTP/1 accepted the client's own key.
	if !answer.SuppliedKey() && hasHeader(responseHeaders, "sec-websocket-accept") {
		return
	}
	headers, err := readHeaders(responseHeaders, p.headers[:0])
	if err != nil {
		p.warn("read", "cannot read the response's headers: "+err.Error())
		return
	}
	mutations := answer.Mutations(headers)
	clear(headers)
	p.headers = headers
	if err := mutate(responseHeaders, mutations); err != nil {
		p.warn("answer", err.Error())
	}
}

// end is called when a stream is over. Upgrades that the gate refused, before any filter saw them, come to light here.
func (p *plugin) end(id uint32) {
	defer func() {
		if r := recover(); r != nil {
			p.recovered(r, nil)
		}
	}()
	if len(p.answers) > 0 {
		delete(p.answers, id) // there was no response
	}
	if seen := &p.seen[id%uint32(len(p.seen))]; *seen == id {
		*seen = 0
		return
	}
	if details, err := getProperty("response", "code_details"); err != nil || details != "upgrade_failed" {
		return
	}
	headers, err := readHeaders(requestHeaders, p.headers[:0])
	if err != nil {
		headers = headers[:0]
	}
	d := filter.GateRefused(p.config, headers)
	clear(headers)
	p.headers = headers
	log(logDebug, "switchyard: "+d.String())
	p.count(d.Counter)
	p.warn(d.Reason, "refused by the gate: "+d.String())
}

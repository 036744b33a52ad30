package main

import (
	"hash/fnv"
	"strconv"
	"time"

	"switchyard/filter"
)

// plugin is a plugin context: one configuration, and what its streams share. A VM runs one callback at a time.
type plugin struct {
	config *filter.Config
	// spoofable are the headers whose copies go from every request.
	spoofable []string
	// counters are the metrics that have been needed so far. A rule, a reason and a protocol that the rules name make
	// one, so no client can make them many.
	counters map[filter.Counter]uint32
	panics   uint32
	// warned says when there was a warning last about a reason, in the host's nanoseconds.
	warned map[filter.Reason]int64
	now    func() int64

	// headers is room for one header map.
	headers filter.HeaderMap
	// answers are what is left to do about the responses of open streams: few handshakes, and none for long.
	answers map[uint32]filter.Answer
	// seen has the ids of the latest streams whose request headers came, each at its id modulo the length. A stream that
	// is not there at its end may have been pushed out; the host knows.
	seen [1024]uint32
}

// start reads the configuration. It returns false, and logs why, if there is anything wrong with it.
func (p *plugin) start(text []byte, failed error) (ok bool) {
	defer func() {
		if r := recover(); r != nil {
			log(logCritical, "switchyard: panic at start: "+panicText(r))
			ok = false
		}
	}()
	if failed != nil {
		log(logCritical, "switchyard: configuration: cannot be read: "+failed.Error())
		return false
	}
	config, err := filter.ParseConfig(text)
	if err != nil {
		log(logCritical, "switchyard: configuration: "+err.Error())
		return false
	}
	p.config, p.spoofable = config, config.Spoofable()
	p.counters = map[filter.Counter]uint32{}
	p.answers = map[uint32]filter.Answer{}
	p.warned = map[filter.Reason]int64{}
	if p.now == nil {
		p.now = func() int64 { return time.Now().UnixNano() }
	}
	if p.panics, err = defineCounter("switchyard.panics"); err != nil {
		log(logWarn, "switchyard: cannot define the counter switchyard.panics: "+err.Error())
	}
	digest := fnv.New64a()
	digest.Write(text)
	log(logInfo, "switchyard: started version="+version+" rules="+strconv.Itoa(len(config.Rules))+
		" configuration="+strconv.FormatUint(digest.Sum64(), 16))
	return true
}

// count increments the decision's counter, which is defined when it is first needed.
func (p *plugin) count(c filter.Counter) {
	if c == (filter.Counter{}) {
		return
	}
	id, ok := p.counters[c]
	if !ok {
		var err error
		if id, err = defineCounter(c.Name()); err != nil {
			p.warn("counter", "cannot define the counter "+c.Name()+": "+err.Error())
			return
		}
		p.counters[c] = id
	}
	incrementCounter(id)
}

// warn logs a warning, but not more than one a minute about the same reason: a client must not be able to fill a disk.
// The counters have the whole number.
func (p *plugin) warn(reason filter.Reason, text string) {
	now := p.now()
	if last, ok := p.warned[reason]; ok && now-last < int64(time.Minute) {
		return
	}
	p.warned[reason] = now
	log(logWarn, "switchyard: "+text)
}

// recovered logs and counts a panic of a stream's callback, and then cleans up, if there is anything to clean up.
func (p *plugin) recovered(r any, cleanUp func()) {
	defer func() { _ = recover() }() // the hostcalls below panicked as well; there is nothing left to do
	log(logError, "switchyard: panic: "+panicText(r))
	incrementCounter(p.panics)
	if cleanUp != nil {
		cleanUp()
	}
}

func panicText(r any) string {
	switch r := r.(type) {
	case error:
		return r.Error()
	case string:
		return r
	}
	return "of unknown type"
}

package proxy

import (
	"sync"
	"time"

	"switchyard/hostsim/vm"
)

// ticker calls proxy_on_tick of a plugin on one thread, so long after the last
// time as the plugin wants.
type ticker struct {
	mu     sync.Mutex
	period time.Duration
	timer  *time.Timer
	closed bool
	tick   func()
}

// tickers are those of one plugin, by thread.
type tickers struct {
	server  *Server
	plugin  *vm.Plugin
	threads []ticker
}

func newTickers(s *Server) *tickers {
	t := &tickers{server: s, threads: make([]ticker, len(s.threads))}
	for i := range t.threads {
		t.threads[i].tick = func() { t.call(i - 1) }
	}
	return t
}

// start begins, with the periods that the plugin asked for while it was loaded.
func (t *tickers) start(p *vm.Plugin) {
	t.plugin = p
	for i := range t.threads {
		t.set(i-1, p.TickPeriod(i-1))
	}
}

// set is vm.PluginConfig.OnTickPeriod.
func (t *tickers) set(worker int, period time.Duration) {
	k := &t.threads[1+worker]
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.timer != nil {
		k.timer.Stop()
		k.timer = nil
	}
	k.period = period
	k.arm()
}

// arm starts the timer. The lock is held.
func (k *ticker) arm() {
	if k.period > 0 && !k.closed {
		k.timer = time.AfterFunc(k.period, k.tick)
	}
}

func (t *tickers) call(worker int) {
	thread := t.server.thread(worker)
	thread.Lock()
	defer thread.Unlock()
	k := &t.threads[1+worker]
	k.mu.Lock()
	closed, timer := k.closed, k.timer
	k.mu.Unlock()
	if closed {
		return
	}
	t.plugin.Tick(worker) // what fails here has been logged
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.timer == timer { // it was not set anew meanwhile
		k.arm()
	}
}

// close stops all. No tick runs or begins after it.
func (t *tickers) close() {
	for i := range t.threads {
		thread := t.server.thread(i - 1)
		thread.Lock()
		k := &t.threads[i]
		k.mu.Lock()
		k.closed = true
		if k.timer != nil {
			k.timer.Stop()
		}
		k.mu.Unlock()
		thread.Unlock()
	}
}

package proxy

import "time"

// requestStats are the stats of a virtual cluster, or of a route with a
// stat_prefix; those of single statuses appear when they are needed.
type requestStats struct {
	name                                           string // of the virtual cluster
	total, timeout                                 *Stat
	retry, retryLimit, retryOverflow, retrySuccess *Stat
	codes                                          codeStats
}

func newRequestStats(stats *Stats, prefix, name string) *requestStats {
	rq := func(name string) *Stat { return stats.Stat(prefix + "upstream_rq_" + name) }
	return &requestStats{
		name: name, total: rq("total"), timeout: rq("timeout"), retry: rq("retry"), retryLimit: rq("retry_limit_exceeded"),
		retryOverflow: rq("retry_overflow"), retrySuccess: rq("retry_success"), codes: codeStats{stats: stats, prefix: prefix},
	}
}

// countedFor is what a request is counted for beside its cluster: a virtual
// cluster and a route. Either may be nil.
type countedFor [2]*requestStats

// each counts one, for both, of the stat that get gives.
func (c *countedFor) each(get func(*requestStats) *Stat) {
	for _, r := range c {
		if r != nil {
			get(r).Add(1)
		}
	}
}

func (c *countedFor) sent()       { c.each(func(r *requestStats) *Stat { return r.total }) }
func (c *countedFor) timedOut()   { c.each(func(r *requestStats) *Stat { return r.timeout }) }
func (c *countedFor) retried()    { c.each(func(r *requestStats) *Stat { return r.retry }) }
func (c *countedFor) limited()    { c.each(func(r *requestStats) *Stat { return r.retryLimit }) }
func (c *countedFor) overflowed() { c.each(func(r *requestStats) *Stat { return r.retryOverflow }) }
func (c *countedFor) succeeded()  { c.each(func(r *requestStats) *Stat { return r.retrySuccess }) }

func (c *countedFor) responded(status int) {
	for _, r := range c {
		if r != nil {
			r.codes.count(status)
		}
	}
}

func (c *countedFor) took(d time.Duration) {
	for _, r := range c {
		if r != nil {
			r.codes.took(d)
		}
	}
}

package proxy

import (
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	canaryhostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/omit_canary_hosts/v3"
	hostmetadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/omit_host_metadata/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
)

// This file is Envoy's retry_state_impl.cc: whether a request that failed is
// sent once more.

// retryOn is a set of reasons to retry.
type retryOn uint16

const (
	retryOn5xx retryOn = 1 << iota
	retryOnGatewayError
	retryOnReset
	retryOnResetBeforeRequest
	retryOnConnectFailure
	retryOnRetriable4xx
	retryOnRefusedStream
	retryOnStatusCodes
	retryOnHeaders
	retryOnEnvoyRatelimited
	retryOnCancelled // by the grpc-status of the response head
	retryOnDeadlineExceeded
	retryOnInternal
	retryOnResourceExhausted
	retryOnUnavailable

	retryOnGRPC = retryOnCancelled | retryOnDeadlineExceeded | retryOnInternal | retryOnResourceExhausted | retryOnUnavailable
)

// parseRetryGRPC reads the reasons in a list that are statuses of gRPC.
func parseRetryGRPC(list string) (on retryOn) {
	for name := range strings.SplitSeq(list, ",") {
		switch strings.Trim(name, " \t") {
		case "cancelled":
			on |= retryOnCancelled
		case "deadline-exceeded":
			on |= retryOnDeadlineExceeded
		case "internal":
			on |= retryOnInternal
		case "resource-exhausted":
			on |= retryOnResourceExhausted
		case "unavailable":
			on |= retryOnUnavailable
		}
	}
	return on
}

// ofGRPCStatus is the reason that a status of gRPC gives.
func ofGRPCStatus(status string) retryOn {
	switch status {
	case "1":
		return retryOnCancelled
	case "4":
		return retryOnDeadlineExceeded
	case "13":
		return retryOnInternal
	case "8":
		return retryOnResourceExhausted
	case "14":
		return retryOnUnavailable
	}
	return 0
}

// parseRetryOn reads a list of reasons; ok is false if one is unknown.
func parseRetryOn(list string) (on retryOn, ok bool) {
	ok = true
	for name := range strings.SplitSeq(list, ",") {
		switch strings.Trim(name, " \t") {
		case "5xx":
			on |= retryOn5xx
		case "gateway-error":
			on |= retryOnGatewayError
		case "reset":
			on |= retryOnReset
		case "reset-before-request":
			on |= retryOnResetBeforeRequest
		case "connect-failure":
			on |= retryOnConnectFailure
		case "retriable-4xx":
			on |= retryOnRetriable4xx
		case "refused-stream":
			on |= retryOnRefusedStream
		case "retriable-status-codes":
			on |= retryOnStatusCodes
		case "retriable-headers":
			on |= retryOnHeaders
		case "envoy-ratelimited":
			on |= retryOnEnvoyRatelimited
		default:
			ok = false
		}
	}
	return on, ok
}

// retryPolicy is a retry_policy of a route or virtual host.
type retryPolicy struct {
	on                      retryOn
	retries                 int
	perTry, perTryIdle      time.Duration // 0: none
	codes                   []int
	headers, requestHeaders []headerMatcher
	backOff, backOffMost    time.Duration
	resets                  []resetHeader
	resetMost               time.Duration
	otherHosts              bool // not those that were tried
	unwanted                []func(*host) bool
	otherHostsAttempts      int // to find one
}

// The back-off of a policy that says nothing, and of requests without policy.
const (
	defaultBackOff     = 25 * time.Millisecond
	defaultBackOffMost = 10 * defaultBackOff
)

var noRetryPolicy = retryPolicy{retries: 1, backOff: defaultBackOff, backOffMost: defaultBackOffMost, otherHostsAttempts: 1}

// retryState is what is left of the retries of one request.
type retryState struct {
	policy  *retryPolicy
	breaker *breaker
	stats   *clusterStats
	counted *countedFor
	on      retryOn
	left    int
	codes   []int // of the request, beside the policy's
	headers []string
	armed   bool // a retry is under way, and counted
	backOff time.Duration
	limited time.Duration // what the upstream has asked for
	tried   []*host
}

// begin reads the policy and the request's own wishes, which do not go
// upstream.
func (r *retryState) begin(policy *retryPolicy, h *Headers, b *breaker, stats *clusterStats) {
	*r = retryState{policy: policy, breaker: b, stats: stats, tried: r.tried[:0]}
	if policy == nil {
		r.policy = &noRetryPolicy
	}
	r.on, r.left, r.backOff = r.policy.on, r.policy.retries, r.policy.backOff
	if !hasEnvoyField(h) {
		r.limitByRequest(h)
		return
	}
	if v := h.value("x-envoy-retry-on"); v != "" {
		on, _ := parseRetryOn(v)
		r.on |= on
	}
	r.on |= parseRetryGRPC(h.value("x-envoy-retry-grpc-on"))
	r.limitByRequest(h)
	if n, ok := parseCount(h.value("x-envoy-max-retries")); ok && r.on != 0 {
		r.left = n
	}
	for code := range strings.SplitSeq(h.value("x-envoy-retriable-status-codes"), ",") {
		if n, ok := parseCount(strings.Trim(code, " \t")); ok {
			r.codes = append(r.codes, n)
		}
	}
	for name := range strings.SplitSeq(h.value("x-envoy-retriable-header-names"), ",") {
		if name = strings.Trim(name, " \t"); name != "" {
			r.headers = append(r.headers, lower(name))
		}
	}
	for _, name := range retryFields {
		h.remove(name)
	}
}

func (r *retryState) limitByRequest(h *Headers) {
	if len(r.policy.requestHeaders) == 0 {
		return
	}
	for i := range r.policy.requestHeaders {
		if r.policy.requestHeaders[i].matches(h) {
			return
		}
	}
	r.on = 0
}

// retryFields are what begin takes out of a request.
var retryFields = []string{"x-envoy-retry-on", "x-envoy-retry-grpc-on", "x-envoy-max-retries", "x-envoy-hedge-on-per-try-timeout",
	"x-envoy-retriable-header-names", "x-envoy-retriable-status-codes", "x-envoy-upstream-rq-per-try-timeout-ms"}

// hasEnvoyField says whether a request may have wishes of its own.
func hasEnvoyField(h *Headers) bool {
	for i := range h.fields {
		if strings.HasPrefix(h.fields[i].name, "x-envoy-") {
			return true
		}
	}
	return false
}

// parseCount reads a number as absl::SimpleAtoi does, up to 2^31.
func parseCount(s string) (n int, ok bool) {
	s = strings.Trim(s, " \t")
	for i := 0; i < len(s); i++ {
		if !isDigit(s[i]) || n > 1<<31/10 {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n, s != ""
}

func (r *retryState) enabled() bool { return r.on != 0 }

// abandon gives up retrying: the content is too large to be sent again.
func (r *retryState) abandon() {
	r.stats.retryAbandoned.Add(1)
	r.release()
	r.on = 0
}

// release lets another request's retry take the place of this one's.
func (r *retryState) release() {
	if r.armed {
		r.breaker.retries.Add(-1)
		r.armed = false
	}
}

// onResponse says whether a response head is reason for a retry.
func (r *retryState) onResponse(status int, h *Headers) bool {
	switch {
	case r.on == 0:
		return false
	case h.has("x-envoy-ratelimited"):
		return r.on&retryOnEnvoyRatelimited != 0
	case r.on&retryOn5xx != 0 && 500 <= status && status <= 599,
		r.on&retryOnGatewayError != 0 && 502 <= status && status <= 504,
		r.on&retryOnRetriable4xx != 0 && status == 409,
		r.on&retryOnStatusCodes != 0 && (slices.Contains(r.policy.codes, status) || slices.Contains(r.codes, status)):
		return true
	}
	if r.on&retryOnGRPC != 0 && r.on&ofGRPCStatus(h.value("grpc-status")) != 0 {
		return true
	}
	if r.on&retryOnHeaders != 0 {
		for i := range r.policy.headers {
			if r.policy.headers[i].matches(h) {
				return true
			}
		}
		return slices.ContainsFunc(r.headers, h.has)
	}
	return false
}

// onReset says whether the end of an attempt without a response is reason for
// a retry; sent is false if nothing of the request went upstream.
func (r *retryState) onReset(err error, sent bool) bool {
	_, connecting := err.(*connectError)
	switch {
	case r.on == 0, err == errOverflow, err == errQueueFull:
		return false
	case r.on&(retryOnReset|retryOn5xx|retryOnGatewayError) != 0,
		r.on&retryOnConnectFailure != 0 && connecting,
		r.on&retryOnResetBeforeRequest != 0 && !sent:
		return true
	}
	return false
}

// again counts a retry if there is one left. The flag is the response flag
// for a request that would have deserved one.
func (r *retryState) again(wanted bool) (retry bool, flag string) {
	if r.on == 0 {
		return false, ""
	}
	if r.armed && !wanted {
		r.stats.retrySuccess.Add(1)
		r.counted.succeeded()
	}
	r.release()
	switch {
	case !wanted:
		return false, ""
	case r.left == 0:
		r.stats.retryLimit.Add(1)
		r.counted.limited()
		return false, "URX"
	}
	r.left--
	if !r.breaker.mayRetry() {
		r.stats.retryOverflow.Add(1)
		r.counted.overflowed()
		return false, "UO"
	}
	r.breaker.retries.used.Store(true)
	r.breaker.retries.Add(1)
	r.armed = true
	r.stats.retry.Add(1)
	r.counted.retried()
	if r.limited > 0 {
		r.stats.retryBackoffLimited.Add(1)
	} else {
		r.stats.retryBackoff.Add(1)
	}
	return true, ""
}

// pause is how long to wait before the next attempt.
func (r *retryState) pause() time.Duration {
	if d := r.limited; d > 0 {
		r.limited = 0
		return d + rand.N(d/2)
	}
	most := r.backOff
	r.backOff = min(2*r.backOff, r.policy.backOffMost)
	return rand.N(most)
}

// resetHeader is a field by which an upstream says when to try again: after so
// many seconds, or at a time.
type resetHeader struct {
	name      string
	timestamp bool
}

// askedFor notes how long the upstream wants to be left alone.
func (r *retryState) askedFor(h *Headers) {
	r.limited = 0
	for _, reset := range r.policy.resets {
		n, ok := parseCount(h.value(reset.name))
		if !ok {
			continue
		}
		d := time.Duration(n) * time.Second
		if reset.timestamp {
			d = time.Until(time.Unix(int64(n), 0)).Truncate(time.Second)
		}
		if d > 0 && d <= r.policy.resetMost {
			r.limited = d
			return
		}
	}
}

// refuse returns what says that another host than h is to be found, and how
// often to look.
func (r *retryState) refuse() (refuse func(h *host) bool, attempts int) {
	p := r.policy
	if len(r.tried) == 0 || !p.otherHosts && len(p.unwanted) == 0 {
		return nil, 0
	}
	return func(h *host) bool {
		return p.otherHosts && slices.Contains(r.tried, h) || slices.ContainsFunc(p.unwanted, func(no func(*host) bool) bool { return no(h) })
	}, p.otherHostsAttempts
}

// pauseBeforeRetry waits for as long as the client and the route allow.
func (s *stream) pauseBeforeRetry() error {
	timer := time.NewTimer(s.retry.pause())
	defer timer.Stop()
	gone := s.conn.watch()
	defer s.conn.unwatch()
	var expired <-chan time.Time
	s.timers.try, s.timers.tryIdle = time.Time{}, time.Time{}
	if limit := s.limit(); !limit.IsZero() {
		t := time.NewTimer(time.Until(limit))
		defer t.Stop()
		expired = t.C
	}
	select {
	case <-timer.C:
		return nil
	case <-expired:
		return os.ErrDeadlineExceeded
	case <-gone:
		return errDownstream
	case <-s.conn.server.closing:
		return errClosing
	}
}

func (b *builder) retryPolicy(path string, c *routev3.RetryPolicy) (*retryPolicy, error) {
	if c == nil {
		return nil, nil
	}
	p := noRetryPolicy
	p.backOff = time.Duration(b.runtime.number("upstream.base_retry_backoff_ms", uint64(defaultBackOff/time.Millisecond))) * time.Millisecond
	p.backOff = max(p.backOff, time.Millisecond)
	p.backOffMost = 10 * p.backOff
	p.on, _ = parseRetryOn(c.GetRetryOn()) // Envoy, too, ignores what it does not know
	p.on |= parseRetryGRPC(c.GetRetryOn())
	if v := c.GetNumRetries(); v != nil {
		p.retries = int(v.GetValue())
	}
	p.perTry, p.perTryIdle = c.GetPerTryTimeout().AsDuration(), c.GetPerTryIdleTimeout().AsDuration()
	for _, code := range c.GetRetriableStatusCodes() {
		p.codes = append(p.codes, int(code))
	}
	var err error
	if p.headers, err = b.headerMatchers(path+".retriable_headers", c.GetRetriableHeaders()); err != nil {
		return nil, err
	}
	if p.requestHeaders, err = b.headerMatchers(path+".retriable_request_headers", c.GetRetriableRequestHeaders()); err != nil {
		return nil, err
	}
	if v := c.GetRetryBackOff(); v != nil {
		// Envoy rounds what is below a millisecond up.
		p.backOff = max(v.GetBaseInterval().AsDuration(), time.Millisecond)
		p.backOffMost = 10 * p.backOff
		if m := v.GetMaxInterval(); m != nil {
			p.backOffMost = max(m.AsDuration(), time.Millisecond)
			if p.backOffMost < p.backOff {
				return nil, b.boot.Errorf(path+".retry_back_off.max_interval", "must be greater than or equal to the base_interval")
			}
		}
	}
	if v := c.GetRateLimitedRetryBackOff(); v != nil {
		p.resetMost = 300 * time.Second
		if m := v.GetMaxInterval(); m != nil {
			p.resetMost = m.AsDuration()
		}
		for _, h := range v.GetResetHeaders() {
			p.resets = append(p.resets, resetHeader{canonical(h.GetName()), h.GetFormat() == routev3.RetryPolicy_UNIX_TIMESTAMP})
		}
	}
	for i, predicate := range c.GetRetryHostPredicate() {
		path := at(path, "retry_host_predicate", i) + ".typed_config"
		msg, err := b.boot.Unpack(predicate.GetTypedConfig(), path)
		if err != nil {
			return nil, err
		}
		switch c := msg.(type) {
		case *previoushostsv3.PreviousHostsPredicate:
			p.otherHosts = true
		case *canaryhostsv3.OmitCanaryHostsPredicate:
			p.unwanted = append(p.unwanted, func(h *host) bool { return h.label("canary").GetBoolValue() })
		case *hostmetadatav3.OmitHostMetadataConfig:
			want := labelsOf(c.GetMetadataMatch().GetFilterMetadata()["envoy.lb"])
			p.unwanted = append(p.unwanted, func(h *host) bool {
				return !slices.ContainsFunc(want, func(l label) bool { return h.label(l.key) == nil || !equalValues(h.label(l.key), l.value) })
			})
		default:
			return nil, b.boot.Unsupported(path, string(msg.ProtoReflect().Descriptor().FullName()))
		}
	}
	if n := c.GetHostSelectionRetryMaxAttempts(); n > 0 {
		p.otherHostsAttempts = int(n)
	}
	return &p, nil
}

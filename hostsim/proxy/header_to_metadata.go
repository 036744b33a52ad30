package proxy

import (
	"encoding/base64"
	"math"
	"strconv"
	"strings"

	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_to_metadata/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// headerToMetadata is envoy.filters.http.header_to_metadata.
type headerToMetadata struct {
	passive
	stream  *stream
	factory *headerToMetadataFactory
	rules   *metadataRules // nil: not yet known
}

type headerToMetadataFactory struct {
	headersOnly
	name  string
	rules *metadataRules
}

func (f *headerToMetadataFactory) newFilter(s *stream) httpFilter {
	return &headerToMetadata{stream: s, factory: f}
}

type metadataRules struct {
	request, response []metadataRule
	stats             *metadataStats
}

// metadataStats count what became of rules, for requests and for responses.
type metadataStats struct {
	sides [2]struct{ processed, added, notFound *Stat }

	badBase64, tooLong, badRewrite *Stat
}

func newMetadataStats(stats *Stats, prefix string) *metadataStats {
	prefix = "http_filter_name." + prefix + "."
	m := &metadataStats{badBase64: stats.Stat(prefix + "base64_decode_failed"), tooLong: stats.Stat(prefix + "header_value_too_long"),
		badRewrite: stats.Stat(prefix + "regex_substitution_failed")}
	for i, side := range []string{"request", "response"} {
		s := &m.sides[i]
		s.processed, s.added = stats.Stat(prefix+side+"_rules_processed"), stats.Stat(prefix+side+"_metadata_added")
		s.notFound = stats.Stat(prefix + side + "_header_not_found")
	}
	return m
}

// metadataRule turns one header, or cookie, into metadata.
type metadataRule struct {
	header, cookie   string
	remove           bool
	present, missing *metadataEntry
}

type metadataEntry struct {
	namespace, key string
	value          string              // "": the header's
	rewrite        func(string) string // of the header's value; nil: none
	kind           metadatav3.Config_ValueType
	base64         bool
}

// effective are the rules of the route that was found first.
func (f *headerToMetadata) effective() *metadataRules {
	if f.rules == nil {
		f.rules = f.factory.rules
		if r, ok := f.stream.filterConfig(f.factory.name).(*metadataRules); ok {
			f.rules = r
		}
	}
	return f.rules
}

func (f *headerToMetadata) decodeHeaders(bool) status {
	f.apply(f.effective().request, 0, &f.stream.request)
	return goOn
}

func (f *headerToMetadata) encodeHeaders(bool) status {
	f.apply(f.effective().response, 1, &f.stream.response)
	return goOn
}

func (f *headerToMetadata) apply(rules []metadataRule, side int, h *Headers) {
	stats := f.rules.stats
	counts := &stats.sides[side]
	for i := range rules {
		r := &rules[i]
		value, present := r.take(h)
		entry := r.missing
		counts.processed.Add(1)
		if present {
			entry = r.present
		} else if r.missing != nil { // else Envoy does not count it
			counts.notFound.Add(1)
		}
		if entry == nil {
			continue
		}
		if v := entry.metadata(value, stats); v != nil {
			counts.added.Add(1)
			f.stream.setMetadata(entry.namespace, &structpb.Struct{Fields: map[string]*structpb.Value{entry.key: v}})
		}
	}
}

func (r *metadataRule) take(h *Headers) (value string, present bool) {
	if r.cookie != "" {
		value, _ = cookie(h, r.cookie)
		return value, value != ""
	}
	value, present = h.joined(r.header)
	if present && r.remove {
		h.remove(r.header)
	}
	return value, present
}

// metadata is nil where nothing is to be written: no value, one too long, or
// one that cannot be read.
func (e *metadataEntry) metadata(value string, stats *metadataStats) *structpb.Value {
	if e.value != "" {
		value = e.value
	} else if e.rewrite != nil {
		if value = e.rewrite(value); value == "" {
			stats.badRewrite.Add(1)
		}
	}
	const tooLong = 8 << 10
	switch {
	case value == "":
		return nil
	case len(value) >= tooLong:
		stats.tooLong.Add(1)
		return nil
	}
	if e.base64 {
		decoded, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
		if value = string(decoded); err != nil || value == "" {
			stats.badBase64.Add(1)
			return nil
		}
	}
	switch e.kind {
	case metadatav3.Config_NUMBER:
		digits := strings.Trim(value, " \t\n\v\f\r")
		if strings.Contains(digits, "0x") && !strings.Contains(digits, "p") {
			digits += "p0" // strconv wants an exponent, absl does not
		}
		n, err := strconv.ParseFloat(digits, 64)
		if err != nil && !math.IsInf(n, 0) || strings.Contains(value, "_") {
			return nil
		}
		return structpb.NewNumberValue(n)
	case metadatav3.Config_PROTOBUF_VALUE:
		v := &structpb.Value{}
		if proto.Unmarshal([]byte(value), v) != nil {
			return nil
		}
		return v
	}
	return structpb.NewStringValue(value)
}

// ---- from the configuration

func (b *builder) metadataRules(path string, c *metadatav3.Config) (*metadataRules, error) {
	stats := &b.server.Stats
	if c.GetStatPrefix() == "" {
		stats = &Stats{} // which nobody reads
	}
	rules := &metadataRules{stats: newMetadataStats(stats, c.GetStatPrefix())}
	for _, side := range []struct {
		name string
		from []*metadatav3.Config_Rule
		to   *[]metadataRule
	}{{"request_rules", c.GetRequestRules(), &rules.request}, {"response_rules", c.GetResponseRules(), &rules.response}} {
		for i, c := range side.from {
			r, err := b.metadataRule(at(path, side.name, i), c)
			if err != nil {
				return nil, err
			}
			*side.to = append(*side.to, r)
		}
	}
	return rules, nil
}

func (b *builder) metadataRule(path string, c *metadatav3.Config_Rule) (metadataRule, error) {
	r := metadataRule{header: canonical(c.GetHeader()), cookie: c.GetCookie(), remove: c.GetRemove()}
	switch {
	case (r.header == "") == (r.cookie == ""):
		return r, b.boot.Errorf(path, "give either header or cookie")
	case c.GetOnHeaderPresent() == nil && c.GetOnHeaderMissing() == nil:
		return r, b.boot.Errorf(path, "give on_header_present, on_header_missing or both")
	case r.cookie != "" && r.remove:
		return r, b.boot.Errorf(path+".remove", "a cookie cannot be removed")
	case c.GetOnHeaderMissing() != nil && c.GetOnHeaderMissing().GetValue() == "":
		return r, b.boot.Errorf(path+".on_header_missing.value", "is required")
	case c.GetOnHeaderPresent().GetValue() != "" && c.GetOnHeaderPresent().GetRegexValueRewrite() != nil:
		return r, b.boot.Errorf(path+".on_header_present", "give either value or regex_value_rewrite")
	}
	var err error
	if r.present, err = b.metadataEntry(path+".on_header_present", c.GetOnHeaderPresent()); err == nil {
		r.missing, err = b.metadataEntry(path+".on_header_missing", c.GetOnHeaderMissing())
	}
	return r, err
}

func (b *builder) metadataEntry(path string, c *metadatav3.Config_KeyValuePair) (*metadataEntry, error) {
	if c == nil {
		return nil, nil
	}
	e := &metadataEntry{
		namespace: c.GetMetadataNamespace(), key: c.GetKey(), value: c.GetValue(),
		kind: c.GetType(), base64: c.GetEncode() == metadatav3.Config_BASE64,
	}
	if e.namespace == "" {
		e.namespace = "envoy.filters.http.header_to_metadata"
	}
	var err error
	if c.GetRegexValueRewrite() != nil {
		e.rewrite, err = b.regexRewrite(path+".regex_value_rewrite", c.GetRegexValueRewrite())
	}
	return e, err
}

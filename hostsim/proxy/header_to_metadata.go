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

type metadataRules struct{ request, response []metadataRule }

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
	f.apply(f.effective().request, &f.stream.request)
	return goOn
}

func (f *headerToMetadata) encodeHeaders(bool) status {
	f.apply(f.effective().response, &f.stream.response)
	return goOn
}

func (f *headerToMetadata) apply(rules []metadataRule, h *Headers) {
	for i := range rules {
		r := &rules[i]
		value, present := r.take(h)
		entry := r.missing
		if present {
			entry = r.present
		}
		if entry == nil {
			continue
		}
		if v := entry.metadata(value); v != nil {
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
func (e *metadataEntry) metadata(value string) *structpb.Value {
	if e.value != "" {
		value = e.value
	} else if e.rewrite != nil {
		value = e.rewrite(value)
	}
	const tooLong = 8 << 10
	if value == "" || len(value) >= tooLong {
		return nil
	}
	if e.base64 {
		decoded, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
		if value = string(decoded); err != nil || value == "" {
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
	rules := &metadataRules{}
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

package proxy

import (
	"slices"
	"strings"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	celfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"

	"cel.dev/cel-go/common/types"
)

// logFilter compiles what decides whether a stream is logged; nil is yes.
func (b *builder) logFilter(path string, c *accesslogv3.AccessLogFilter) (condition, error) {
	switch f := c.GetFilterSpecifier().(type) {
	case nil:
		return nil, nil
	case *accesslogv3.AccessLogFilter_StatusCodeFilter:
		holds := b.comparison(f.StatusCodeFilter.GetComparison())
		return func(s *stream) bool { return holds(uint64(s.status)) }, nil
	case *accesslogv3.AccessLogFilter_DurationFilter:
		holds := b.comparison(f.DurationFilter.GetComparison())
		return func(s *stream) bool { return holds(uint64(time.Since(s.start).Milliseconds())) }, nil
	case *accesslogv3.AccessLogFilter_NotHealthCheckFilter:
		return nil, nil // there is no health check filter that could mark one
	case *accesslogv3.AccessLogFilter_HeaderFilter:
		m, err := b.headerMatcher(path+".header_filter.header", f.HeaderFilter.GetHeader())
		return func(s *stream) bool { return m.matches(&s.request) }, err
	case *accesslogv3.AccessLogFilter_ResponseFlagFilter:
		flags := f.ResponseFlagFilter.GetFlags()
		for i, flag := range flags {
			if responseFlags[flag] == "" {
				return nil, b.boot.Errorf(at(path+".response_flag_filter", "flags", i), "%q is no response flag", flag)
			}
		}
		return func(s *stream) bool {
			if len(flags) == 0 {
				return s.flags != ""
			}
			for f := range strings.SplitSeq(s.flags, ",") {
				if slices.Contains(flags, f) {
					return true
				}
			}
			return false
		}, nil
	case *accesslogv3.AccessLogFilter_AndFilter:
		each, err := b.logFilters(path+".and_filter", f.AndFilter.GetFilters())
		return func(s *stream) bool { return all(each, s) }, err
	case *accesslogv3.AccessLogFilter_OrFilter:
		each, err := b.logFilters(path+".or_filter", f.OrFilter.GetFilters())
		return func(s *stream) bool {
			return slices.ContainsFunc(each, func(c condition) bool { return c(s) })
		}, err
	case *accesslogv3.AccessLogFilter_MetadataFilter:
		return b.metadataFilter(path+".metadata_filter", f.MetadataFilter)
	case *accesslogv3.AccessLogFilter_RuntimeFilter:
		share := b.runtime.fraction(f.RuntimeFilter.GetRuntimeKey(), f.RuntimeFilter.GetPercentSampled())
		if share == nil {
			return func(*stream) bool { return false }, nil
		}
		return fraction(share), nil
	case *accesslogv3.AccessLogFilter_LogTypeFilter:
		types, exclude := f.LogTypeFilter.GetTypes(), f.LogTypeFilter.GetExclude()
		return func(s *stream) bool {
			return slices.Contains(types, datav3.AccessLogType(datav3.AccessLogType_value[s.accessLogType()])) != exclude
		}, nil
	case *accesslogv3.AccessLogFilter_GrpcStatusFilter:
		statuses, exclude := f.GrpcStatusFilter.GetStatuses(), f.GrpcStatusFilter.GetExclude()
		return func(s *stream) bool {
			return slices.Contains(statuses, accesslogv3.GrpcStatusFilter_Status(s.grpcStatus())) != exclude
		}, nil
	case *accesslogv3.AccessLogFilter_ExtensionFilter:
		path += ".extension_filter.typed_config"
		msg, err := b.boot.Unpack(f.ExtensionFilter.GetTypedConfig(), path)
		if err != nil {
			return nil, err
		}
		c, ok := msg.(*celfilterv3.ExpressionFilter)
		if !ok {
			return nil, b.boot.Unsupported(path, "this access log filter")
		}
		eval, err := b.expression(path+".expression", "CEL", c.GetExpression())
		return func(s *stream) bool {
			v, ok := eval(s)
			return ok && v == types.True
		}, err
	}
	return nil, b.boot.Unsupported(path, "this access log filter")
}

func (b *builder) logFilters(path string, list []*accesslogv3.AccessLogFilter) ([]condition, error) {
	var each []condition
	for i, c := range list {
		f, err := b.logFilter(at(path, "filters", i), c)
		if err != nil {
			return nil, err
		}
		if f == nil {
			f = func(*stream) bool { return true }
		}
		each = append(each, f)
	}
	return each, nil
}

// comparison compares with a number of the runtime.
func (b *builder) comparison(c *accesslogv3.ComparisonFilter) func(uint64) bool {
	than := b.runtime.number(c.GetValue().GetRuntimeKey(), uint64(c.GetValue().GetDefaultValue()))
	switch c.GetOp() {
	case accesslogv3.ComparisonFilter_GE:
		return func(n uint64) bool { return n >= than }
	case accesslogv3.ComparisonFilter_LE:
		return func(n uint64) bool { return n <= than }
	case accesslogv3.ComparisonFilter_NE:
		return func(n uint64) bool { return n != than }
	}
	return func(n uint64) bool { return n == than }
}

// metadataFilter also says what becomes of a stream without the key.
func (b *builder) metadataFilter(path string, c *accesslogv3.MetadataFilter) (condition, error) {
	absentMatches := c.GetMatchIfKeyNotFound() == nil || c.GetMatchIfKeyNotFound().GetValue()
	m := c.GetMatcher()
	if m == nil {
		return func(*stream) bool { return absentMatches }, nil
	}
	match, err := b.valueMatcher(path+".matcher.value", m.GetValue())
	var keys []string
	for _, p := range m.GetPath() {
		keys = append(keys, p.GetKey())
	}
	return func(s *stream) bool {
		v := lookUp(s.metadata[m.GetFilter()], keys)
		if v.GetKind() == nil {
			return absentMatches
		}
		return match(v) // Envoy 1.40 does not look at invert here
	}, err
}

package proxy

import (
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_metadata/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

// setMetadataFilter is envoy.filters.http.set_metadata.
type setMetadataFilter struct {
	passive
	stream  *stream
	factory *setMetadataFactory
}

type setMetadataFactory struct {
	headersOnly
	entries []setMetadataEntry
	denied  *Stat // a namespace that was there may not be overwritten
}

type setMetadataEntry struct {
	namespace string
	fields    *structpb.Struct
	typed     *anypb.Any // instead of fields
	overwrite bool
}

func (f *setMetadataFactory) newFilter(s *stream) httpFilter {
	return &setMetadataFilter{stream: s, factory: f}
}

func (f *setMetadataFilter) decodeHeaders(bool) status {
	for _, e := range f.factory.entries {
		if e.typed != nil {
			if _, there := f.stream.typedMetadata[e.namespace]; there && !e.overwrite {
				f.factory.denied.Add(1)
				continue
			}
			if f.stream.typedMetadata == nil {
				f.stream.typedMetadata = map[string]*anypb.Any{}
			}
			f.stream.typedMetadata[e.namespace] = e.typed
			continue
		}
		if _, there := f.stream.metadata[e.namespace]; !there || e.overwrite {
			f.stream.mergeMetadata(e.namespace, e.fields)
		} else {
			f.factory.denied.Add(1)
		}
	}
	return goOn
}

func (b *builder) setMetadata(path string, c *metadatav3.Config) (filterFactory, error) {
	f := &setMetadataFactory{denied: b.server.Stats.Stat(b.statPrefix + "set_metadata.overwrite_denied")}
	if c.GetValue() != nil && c.GetMetadataNamespace() != "" {
		f.entries = append(f.entries, setMetadataEntry{c.GetMetadataNamespace(), c.GetValue(), nil, true})
	}
	for _, m := range c.GetMetadata() {
		f.entries = append(f.entries, setMetadataEntry{m.GetMetadataNamespace(), m.GetValue(), m.GetTypedValue(), m.GetAllowOverwrite()})
	}
	return f, nil
}

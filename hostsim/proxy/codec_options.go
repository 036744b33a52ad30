package proxy

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	preserve_casev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/header_formatters/preserve_case/v3"
	uuidv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/request_id/uuid/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// codecOptions are the Http1ProtocolOptions that both sides have, for what
// they read and for what they write.
type codecOptions struct {
	encoding
	anyMethod     bool      // allow_custom_methods
	chunkedLength bool      // allow_chunked_length: Content-Length beside chunked is dropped
	keepNames     *spelling // how to keep the spelling of names that are read; nil: not at all
}

// methodStart says whether a request may begin with c.
func (o *codecOptions) methodStart(c byte) bool { return o.anyMethod || methodStart(c) }

// noteNames has h know the spelling of names in the head that it is going to
// be parsed from.
func (o *codecOptions) noteNames(h *Headers, names *spelling, head []byte) {
	if o.keepNames == nil {
		return
	}
	names.others, names.phrase = o.keepNames.others, o.keepNames.phrase
	names.note(head)
	h.spelling = names
}

// keepTrailers has a reader of chunked content put trailers into h, if the
// codec takes any.
func (b *bodyReader) keepTrailers(o *codecOptions, h *Headers, most, bytes int) {
	b.trailerBytes = bytes
	if o.trailers {
		b.trailers, b.maxTrailers = h, most
	}
}

// responseTrailerInline are the trailers whose repeated lines Envoy joins.
var responseTrailerInline = inlineSet("grpc-message,grpc-status")

// ---- from the configuration

func (b *builder) codecOptions(path string, c *corev3.Http1ProtocolOptions) (o codecOptions, err error) {
	o.anyMethod = c.GetAllowCustomMethods()
	o.chunkedLength = c.GetAllowChunkedLength()
	o.absolute = c.GetSendFullyQualifiedUrl()
	o.trailers = c.GetEnableTrailers()
	switch format := c.GetHeaderKeyFormat().GetHeaderFormat().(type) {
	case *corev3.Http1ProtocolOptions_HeaderKeyFormat_ProperCaseWords_:
		o.names = properCase
	case *corev3.Http1ProtocolOptions_HeaderKeyFormat_StatefulFormatter:
		path += ".header_key_format.stateful_formatter.typed_config"
		msg, err := b.boot.Unpack(format.StatefulFormatter.GetTypedConfig(), path)
		if err != nil {
			return o, err
		}
		keep, ok := msg.(*preserve_casev3.PreserveCaseFormatterConfig)
		if !ok {
			return o, b.boot.Unsupported(path, "a stateful_formatter other than preserve_case")
		}
		o.keepNames = &spelling{phrase: keep.GetForwardReasonPhrase()}
		if keep.GetFormatterTypeOnEnvoyHeaders() == preserve_casev3.PreserveCaseFormatterConfig_PROPER_CASE {
			o.keepNames.others = properCase
		}
	}
	return o, nil
}

// requestIDs reads a request_id_extension. What there is to set about UUIDs
// shows only where requests are traced.
func (b *builder) requestIDs(path string, c interface{ GetTypedConfig() *anypb.Any }) error {
	if c.GetTypedConfig() == nil {
		return nil
	}
	msg, err := b.boot.Unpack(c.GetTypedConfig(), path)
	if _, ok := msg.(*uuidv3.UuidRequestIdConfig); err == nil && !ok {
		err = b.boot.Unsupported(path, "a request_id_extension other than UuidRequestIdConfig")
	}
	return err
}

package proxy

import (
	"math"
	"slices"
	"strconv"
	"strings"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// runtimeValues are the keys of layered_runtime with the values of the last
// layer that has them. Nothing changes them while the server runs, so that
// whoever reads one does it once.
type runtimeValues map[string]*structpb.Value

// ownKeys begin keys by which Envoy steers itself, and which are not
// simulated.
var ownKeys = []string{"envoy.", "re2.", "overload.", "upstream.", "health_check.", "outlier_detection.", "circuit_breakers.", "tracing.", "http.",
	"ratelimit.", "dns.", "ssl."}

// readByEnvoy says that a key is one of those by which Envoy steers itself, and
// that are simulated.
func readByEnvoy(key string) bool {
	listener, limit := strings.CutPrefix(key, "envoy.resource_limits.listener.")
	_, breaker := strings.CutPrefix(key, "circuit_breakers.")
	switch {
	case limit:
		return strings.HasSuffix(listener, ".connection_limit")
	case breaker:
		return slices.Contains([]string{"max_connections", "max_pending_requests", "max_requests", "max_retries"}, key[strings.LastIndexByte(key, '.')+1:])
	}
	return key == prematureStreams || key == prematureSeconds || strings.HasPrefix(key, "upstream.maintenance_mode.") || key == "upstream.base_retry_backoff_ms" || key == "upstream.healthy_panic_threshold"
}

// runtimeLayer is one layer of layered_runtime.
type runtimeLayer struct {
	name   string
	values runtimeValues
}

// Runtime returns the names of the layers, and for each key its value in each
// layer, "" where it has none.
func (s *Server) Runtime() (layers []string, keys map[string][]string) {
	keys = map[string][]string{}
	for i, l := range s.layers {
		layers = append(layers, l.name)
		for key, v := range l.values {
			if keys[key] == nil {
				keys[key] = make([]string, len(s.layers))
			}
			keys[key][i] = runtimeText(v)
		}
	}
	return layers, keys
}

func runtimeText(v *structpb.Value) string {
	switch k := v.GetKind().(type) {
	case *structpb.Value_NumberValue:
		return strconv.FormatFloat(k.NumberValue, 'g', -1, 64)
	case *structpb.Value_StringValue:
		return k.StringValue
	case *structpb.Value_BoolValue:
		return strconv.FormatBool(k.BoolValue)
	}
	text, err := v.MarshalJSON()
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func (b *builder) readRuntime(path string, c *bootstrapv3.LayeredRuntime) error {
	b.runtime = runtimeValues{}
	var names []string
	for i, layer := range c.GetLayers() {
		path := at(path, "layers", i)
		if slices.Contains(names, layer.GetName()) {
			return b.boot.Errorf(path+".name", "duplicate layer name: %q", layer.GetName())
		}
		names = append(names, layer.GetName())
		b.server.layers = append(b.server.layers, runtimeLayer{layer.GetName(), runtimeValues{}})
		for key, v := range layer.GetStaticLayer().GetFields() {
			if err := b.readRuntimeValue(path+".static_layer", key, v); err != nil {
				return err
			}
		}
	}
	return nil
}

// readRuntimeValue takes a struct that is no fraction for more keys.
func (b *builder) readRuntimeValue(path, key string, v *structpb.Value) error {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StructValue:
		fields := k.StructValue.GetFields()
		if len(fields) > 0 && fields["numerator"] == nil && fields["denominator"] == nil {
			for name, v := range fields {
				if err := b.readRuntimeValue(path, key+"."+name, v); err != nil {
					return err
				}
			}
			return nil
		}
	case *structpb.Value_ListValue, *structpb.Value_NullValue, nil:
		return b.boot.Errorf(path, "invalid runtime entry value for %q: give a number, a text, true, false or a fraction", key)
	}
	for _, prefix := range ownKeys {
		if strings.HasPrefix(key, prefix) && !readByEnvoy(key) {
			return b.boot.Unsupported(path, "the runtime key "+strconv.Quote(key))
		}
	}
	b.runtime[key] = v
	b.server.layers[len(b.server.layers)-1].values[key] = v
	return nil
}

// number is Snapshot::getInteger.
func (r runtimeValues) number(key string, otherwise uint64) uint64 {
	n, ok := runtimeNumber(r[key])
	if key == "" || !ok {
		return otherwise
	}
	return n
}

func runtimeNumber(v *structpb.Value) (n uint64, ok bool) {
	f, ok := runtimeDouble(v)
	if !ok || f < 0 || f >= math.MaxUint64 {
		return 0, false
	}
	return uint64(f), true
}

func runtimeDouble(v *structpb.Value) (f float64, ok bool) {
	switch k := v.GetKind().(type) {
	case *structpb.Value_NumberValue:
		f = k.NumberValue
	case *structpb.Value_StringValue:
		var err error
		if f, err = strconv.ParseFloat(strings.TrimSpace(k.StringValue), 64); err != nil {
			return 0, false
		}
	default:
		return 0, false
	}
	return f, true
}

// fraction is the value of a key that holds a share, or the default.
func (r runtimeValues) fraction(key string, otherwise *typev3.FractionalPercent) *typev3.FractionalPercent {
	if fields := r[key].GetStructValue().GetFields(); key != "" && r[key].GetStructValue() != nil {
		name := fields["denominator"].GetStringValue()
		return &typev3.FractionalPercent{
			Numerator:   uint32(fields["numerator"].GetNumberValue()),
			Denominator: typev3.FractionalPercent_DenominatorType(typev3.FractionalPercent_DenominatorType_value[name]),
		}
	}
	if n, ok := runtimeNumber(r[key]); key != "" && ok {
		return &typev3.FractionalPercent{Numerator: uint32(min(n, math.MaxUint32))}
	}
	return otherwise
}

// fraction holds for a share of streams.
func fraction(c *typev3.FractionalPercent) condition {
	of := uint64(100)
	switch c.GetDenominator() {
	case typev3.FractionalPercent_TEN_THOUSAND:
		of = 10_000
	case typev3.FractionalPercent_MILLION:
		of = 1_000_000
	}
	share := uint64(c.GetNumerator())
	return func(s *stream) bool { return s.randomNumber()%of < share }
}

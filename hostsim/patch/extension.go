package patch

import (
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	httpwasmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/wasm/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
)

// extensions puts the extension configurations, which Istio sends by ECDS and without regard to context, in the place of the HTTP
// filters that ask for them by name.
func (a *application) extensions(listeners []*listenerv3.Listener) error {
	patches := a.patches[networking.EnvoyFilter_EXTENSION_CONFIG]
	if len(patches) == 0 {
		return nil
	}
	for _, l := range listeners {
		for _, chain := range slices.Concat(l.GetFilterChains(), []*listenerv3.FilterChain{l.GetDefaultFilterChain()}) {
			for _, f := range chain.GetFilters() {
				manager := &hcmv3.HttpConnectionManager{}
				if f.GetTypedConfig() == nil || f.GetTypedConfig().UnmarshalTo(manager) != nil {
					continue
				}
				for _, h := range manager.GetHttpFilters() {
					if h.GetConfigDiscovery() == nil {
						continue
					}
					at := slices.IndexFunc(patches, func(p *patch) bool {
						return p.is(add) && p.value.(*corev3.TypedExtensionConfig).GetName() == h.GetName()
					})
					if at < 0 {
						continue
					}
					p := patches[at]
					config := proto.Clone(p.value).(*corev3.TypedExtensionConfig).GetTypedConfig()
					wasm := &httpwasmv3.Wasm{}
					if config.MessageIs(wasm) && config.UnmarshalTo(wasm) == nil {
						if err := a.fetch(p.object, p.line, p.path, wasm.GetConfig()); err != nil {
							return err
						}
						config = pack(wasm)
					}
					h.ConfigType = &hcmv3.HttpFilter_TypedConfig{TypedConfig: config}
					p.applied = true
				}
				f.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: pack(manager)}
			}
		}
	}
	for _, p := range patches {
		if p.is(add) && !p.applied {
			p.idle = true
			a.warn(p, "changed nothing: no HTTP filter with config_discovery is named %q", p.value.(*corev3.TypedExtensionConfig).GetName())
		}
	}
	return nil
}

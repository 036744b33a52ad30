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
	var failed error
	eachManager(listeners, func(_ *listenerv3.Listener, _ *listenerv3.FilterChain, manager *hcmv3.HttpConnectionManager) (changed bool) {
		for _, h := range manager.GetHttpFilters() {
			at := slices.IndexFunc(patches, func(p *patch) bool {
				return p.is(add) && p.value.(*corev3.TypedExtensionConfig).GetName() == h.GetName()
			})
			if h.GetConfigDiscovery() == nil || at < 0 {
				continue
			}
			p := patches[at]
			config := proto.CloneOf(p.value.(*corev3.TypedExtensionConfig)).GetTypedConfig()
			wasm := &httpwasmv3.Wasm{}
			if config.MessageIs(wasm) && config.UnmarshalTo(wasm) == nil {
				if err := a.fetch(p.object, p.line, p.path, wasm.GetConfig()); err != nil {
					failed = err
				}
				config = pack(wasm)
			}
			h.ConfigType = &hcmv3.HttpFilter_TypedConfig{TypedConfig: config}
			p.applied, changed = true, true
		}
		return changed
	})
	if failed != nil {
		return failed
	}
	for _, p := range patches {
		if p.is(add) && !p.applied {
			p.idle = true
			a.warn(p, "changed nothing: no HTTP filter with config_discovery is named %q", p.value.(*corev3.TypedExtensionConfig).GetName())
		}
	}
	return nil
}

// localFiles puts the files of the options in the place of those that a filter names.
func (a *application) localFiles(listeners []*listenerv3.Listener) {
	if len(a.options.Wasm) == 0 {
		return
	}
	eachManager(listeners, func(_ *listenerv3.Listener, _ *listenerv3.FilterChain, manager *hcmv3.HttpConnectionManager) (changed bool) {
		for _, h := range manager.GetHttpFilters() {
			wasm := &httpwasmv3.Wasm{}
			if h.GetTypedConfig() == nil || h.GetTypedConfig().UnmarshalTo(wasm) != nil {
				continue
			}
			vm := wasm.GetConfig().GetVmConfig()
			if file, ok := a.options.Wasm[vm.GetCode().GetLocal().GetFilename()]; ok {
				vm.Code = localCode(file)
				h.ConfigType = &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(wasm)}
				changed = true
			}
		}
		return changed
	})
}

package patch

import (
	"cmp"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	httpwasmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/wasm/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	wasmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/wasm/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	extensions "istio.io/api/extensions/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"
	typev1beta1 "istio.io/api/type/v1beta1"

	"switchyard/hostsim/bootstrap"
)

// The variables by which istiod tells the agent about a plugin. The agent takes them away when it has fetched it.
const (
	resourceVersionVariable = "ISTIO_META_WASM_PLUGIN_RESOURCE_VERSION"
	pullPolicyVariable      = "ISTIO_META_WASM_IMAGE_PULL_POLICY"
	pullSecretVariable      = "ISTIO_META_WASM_IMAGE_PULL_SECRET"
)

// plugins puts a filter for each WasmPlugin into the connection managers, before any EnvoyFilter is applied. istiod sends its
// configuration by ECDS; here it stands where the filter is.
func (a *application) plugins(plugins []*wasmPlugin) error {
	type planned struct {
		*wasmPlugin
		filter *hcmv3.HttpFilter
		placed bool
	}
	var selected []*planned
	for _, w := range plugins {
		targets := w.spec.GetTargetRefs()
		if target := w.spec.GetTargetRef(); target != nil && len(targets) == 0 {
			targets = []*typev1beta1.PolicyTargetReference{target}
		}
		if why := a.proxy.rejects(&w.object, w.spec.GetSelector().GetMatchLabels(), targets); why != "" {
			a.warnings = append(a.warnings, Warning{w.file, w.line, w.name(), "is not applied: " + why})
			continue
		}
		filter, err := a.pluginFilter(w)
		if err != nil {
			return err
		}
		selected = append(selected, &planned{wasmPlugin: w, filter: filter})
	}
	// Of one phase the highest priority comes first, then those of the proxy's namespace, then the oldest.
	slices.SortStableFunc(selected, func(x, y *planned) int {
		priority := func(p *planned) int64 {
			if v := p.spec.GetPriority(); v != nil {
				return int64(v.GetValue())
			}
			return math.MinInt32
		}
		if c := cmp.Compare(priority(y), priority(x)); c != 0 {
			return c
		}
		if xRoot, yRoot := x.namespace == rootNamespace, y.namespace == rootNamespace; xRoot != yRoot {
			if xRoot {
				return 1
			}
			return -1
		}
		return cmp.Or(x.created.Compare(y.created), strings.Compare(x.id, y.id), strings.Compare(x.namespace, y.namespace))
	})
	eachManager(a.bootstrap.GetStaticResources().GetListeners(), func(l *listenerv3.Listener, chain *listenerv3.FilterChain, manager *hcmv3.HttpConnectionManager) bool {
		port := l.GetAddress().GetSocketAddress().GetPortValue()
		if destination := chain.GetFilterChainMatch().GetDestinationPort(); destination != nil {
			port = destination.GetValue()
		}
		phases := map[extensions.PluginPhase][]*hcmv3.HttpFilter{}
		for _, p := range selected {
			if matchesTraffic(p.spec.GetMatch(), a.proxy.context(l), port) {
				phases[p.spec.GetPhase()] = append(phases[p.spec.GetPhase()], p.filter)
				p.placed = true
			}
		}
		manager.HttpFilters = placePlugins(manager.GetHttpFilters(), phases)
		return len(phases) > 0
	})
	for _, p := range selected {
		if !p.placed {
			a.warnings = append(a.warnings, Warning{p.file, p.line, p.name(), "is not applied: no connection manager is of a mode and port in spec.match"})
		}
	}
	return nil
}

// matchesTraffic reports whether a plugin is for the listener. A gateway and outbound traffic are CLIENT, inbound traffic is SERVER.
func matchesTraffic(selectors []*extensions.WasmPlugin_TrafficSelector, context networking.EnvoyFilter_PatchContext, port uint32) bool {
	mode := typev1beta1.WorkloadMode_CLIENT
	if context == networking.EnvoyFilter_SIDECAR_INBOUND {
		mode = typev1beta1.WorkloadMode_SERVER
	}
	return len(selectors) == 0 || slices.ContainsFunc(selectors, func(s *extensions.WasmPlugin_TrafficSelector) bool {
		anyMode := s.GetMode() == typev1beta1.WorkloadMode_UNDEFINED || s.GetMode() == typev1beta1.WorkloadMode_CLIENT_AND_SERVER
		return (anyMode || s.GetMode() == mode) && (len(s.GetPorts()) == 0 || slices.ContainsFunc(s.GetPorts(), func(p *typev1beta1.PortSelector) bool {
			return p.GetNumber() != 0 && p.GetNumber() == port
		}))
	})
}

// placePlugins puts the filters where istiod has them: those of AUTHN before the authentication that Istio makes of RequestAuthentication,
// those of AUTHZ before the authorization that it makes of AuthorizationPolicy, the others behind both. What comes before all of these
// (metadata exchange, an external authorization) stays in front.
func placePlugins(filters []*hcmv3.HttpFilter, phases map[extensions.PluginPhase][]*hcmv3.HttpFilter) []*hcmv3.HttpFilter {
	is := func(i int, types ...string) bool {
		name := string(filters[i].GetTypedConfig().MessageName())
		return slices.Contains(types, name)
	}
	const (
		rbac     = "envoy.extensions.filters.http.rbac.v3.RBAC"
		extAuthz = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"
		jwt      = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
	)
	authn := 0
	for i := range filters {
		mx := strings.HasPrefix(filters[i].GetName(), "istio.metadata_exchange") || filters[i].GetName() == "envoy.filters.http.peer_metadata"
		if mx || is(i, extAuthz) {
			authn = i + 1
		}
	}
	authz := authn
	for authz < len(filters) && is(authz, jwt) {
		authz++
	}
	others := authz
	for others < len(filters) && is(others, rbac) {
		others++
	}
	return slices.Concat(
		filters[:authn], phases[extensions.PluginPhase_AUTHN],
		filters[authn:authz], phases[extensions.PluginPhase_AUTHZ],
		filters[authz:others], phases[extensions.PluginPhase_STATS], phases[extensions.PluginPhase_UNSPECIFIED_PHASE],
		filters[others:],
	)
}

// pluginFilter is the filter that Envoy gets for a plugin.
func (a *application) pluginFilter(w *wasmPlugin) (*hcmv3.HttpFilter, error) {
	name := w.namespace + "." + w.id + "~istio-translated-wasmplugin"
	config := &wasmv3.PluginConfig{Name: name, RootId: w.spec.GetPluginName(), Configuration: &anypb.Any{}}
	if fields := w.spec.GetPluginConfig(); len(fields.GetFields()) > 0 {
		text, err := json.Marshal(fields.AsMap())
		if err != nil {
			return nil, &bootstrap.Error{File: w.file, Line: lineOf(w.node, "spec.pluginConfig"), Path: "spec.pluginConfig", Msg: err.Error()}
		}
		config.Configuration = pack(wrapperspb.String(string(text)))
	}
	switch w.spec.GetFailStrategy() {
	case extensions.FailStrategy_FAIL_OPEN:
		config.FailurePolicy = wasmv3.FailurePolicy_FAIL_OPEN
	case extensions.FailStrategy_FAIL_CLOSE:
		config.FailurePolicy = wasmv3.FailurePolicy_FAIL_CLOSED
	case extensions.FailStrategy_FAIL_RELOAD:
		config.FailurePolicy = wasmv3.FailurePolicy_FAIL_RELOAD
	}
	variables := map[string]string{resourceVersionVariable: ""}
	if policy := w.spec.GetImagePullPolicy(); policy != extensions.PullPolicy_UNSPECIFIED_POLICY {
		variables[pullPolicyVariable] = policy.String()
	}
	if secret := w.spec.GetImagePullSecret(); secret != "" {
		variables[pullSecretVariable] = secret
	}
	environment := &wasmv3.EnvironmentVariables{KeyValues: variables}
	for _, v := range w.spec.GetVmConfig().GetEnv() {
		switch v.GetValueFrom() {
		case extensions.EnvValueSource_INLINE:
			variables[v.GetName()] = v.GetValue()
		case extensions.EnvValueSource_HOST:
			environment.HostEnvKeys = append(environment.HostEnvKeys, v.GetName())
		}
	}
	vm := &wasmv3.VmConfig{Runtime: "envoy.wasm.runtime.v8", EnvironmentVariables: environment}
	config.Vm = &wasmv3.PluginConfig_VmConfig{VmConfig: vm}
	uri := w.spec.GetUrl()
	if file, ok := strings.CutPrefix(uri, "file://"); ok {
		vm.Code = localCode(file)
	} else {
		vm.Code = &corev3.AsyncDataSource{Specifier: &corev3.AsyncDataSource_Remote{Remote: &corev3.RemoteDataSource{
			HttpUri: &corev3.HttpUri{Uri: uri}, Sha256: w.spec.GetSha256(),
		}}}
		if err := a.fetch(&w.object, lineOf(w.node, "spec.url"), "spec.url", config); err != nil {
			return nil, err
		}
	}
	return &hcmv3.HttpFilter{
		Name:       "extensions.istio.io/trafficextension/" + name,
		ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(&httpwasmv3.Wasm{Config: config})},
	}, nil
}

func localCode(file string) *corev3.AsyncDataSource {
	return &corev3.AsyncDataSource{Specifier: &corev3.AsyncDataSource_Local{Local: &corev3.DataSource{
		Specifier: &corev3.DataSource_Filename{Filename: file},
	}}}
}

// fetch stands for the agent: code that is remote becomes the local file that the options name, and what was for the agent goes.
func (a *application) fetch(of *object, line int, path string, config *wasmv3.PluginConfig) error {
	vm := config.GetVmConfig()
	remote := vm.GetCode().GetRemote()
	if remote == nil {
		return nil
	}
	uri := remote.GetHttpUri().GetUri()
	file, ok := a.options.Wasm[uri]
	if !ok {
		return &bootstrap.Error{File: of.file, Line: line, Path: path, Msg: "nothing is fetched here: say which file stands for it with --wasm " + uri + "=FILE"}
	}
	vm.Code = localCode(file)
	environment := vm.GetEnvironmentVariables()
	maps.DeleteFunc(environment.GetKeyValues(), func(name, _ string) bool { return strings.HasPrefix(name, "ISTIO_META_") })
	if len(environment.GetKeyValues()) == 0 && len(environment.GetHostEnvKeys()) == 0 {
		vm.EnvironmentVariables = nil
	}
	return nil
}

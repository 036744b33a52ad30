package patch

import (
	"slices"
	"strings"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	networking "istio.io/api/networking/v1alpha3"
)

const (
	add          = networking.EnvoyFilter_Patch_ADD
	remove       = networking.EnvoyFilter_Patch_REMOVE
	merge        = networking.EnvoyFilter_Patch_MERGE
	mergeReplace = networking.EnvoyFilter_Patch_MERGE_AND_REPLACE_LIST
	replace      = networking.EnvoyFilter_Patch_REPLACE
	insertBefore = networking.EnvoyFilter_Patch_INSERT_BEFORE
	insertAfter  = networking.EnvoyFilter_Patch_INSERT_AFTER
	insertFirst  = networking.EnvoyFilter_Patch_INSERT_FIRST
)

// connectionManager is the only name under which Istio looks for HTTP filters.
const connectionManager = "envoy.filters.network.http_connection_manager"

// The two listeners of a sidecar that take what iptables redirects. Istio matches a port with that of their filter chains.
const (
	virtualInbound  = "virtualInbound"
	virtualOutbound = "virtualOutbound"
)

func isVirtual(l *listenerv3.Listener) bool {
	return l.GetName() == virtualInbound || l.GetName() == virtualOutbound
}

// eachManager calls do with each connection manager, and puts it back where do reports that it has changed it.
func eachManager(listeners []*listenerv3.Listener, do func(*listenerv3.Listener, *listenerv3.FilterChain, *hcmv3.HttpConnectionManager) (changed bool)) {
	for _, l := range listeners {
		for _, chain := range slices.Concat(l.GetFilterChains(), []*listenerv3.FilterChain{l.GetDefaultFilterChain()}) {
			for _, f := range chain.GetFilters() {
				manager := &hcmv3.HttpConnectionManager{}
				if f.GetTypedConfig() != nil && f.GetTypedConfig().UnmarshalTo(manager) == nil && do(l, chain, manager) {
					f.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: pack(manager)}
				}
			}
		}
	}
}

// context is that of a listener.
func (p proxy) context(l *listenerv3.Listener) networking.EnvoyFilter_PatchContext {
	switch {
	case !p.sidecar:
		return networking.EnvoyFilter_GATEWAY
	case l.GetTrafficDirection() == corev3.TrafficDirection_INBOUND:
		return networking.EnvoyFilter_SIDECAR_INBOUND
	}
	return networking.EnvoyFilter_SIDECAR_OUTBOUND
}

// contexts are those of the proxy, in Istio's order.
func (p proxy) contexts() []networking.EnvoyFilter_PatchContext {
	if !p.sidecar {
		return []networking.EnvoyFilter_PatchContext{networking.EnvoyFilter_GATEWAY}
	}
	return []networking.EnvoyFilter_PatchContext{networking.EnvoyFilter_SIDECAR_INBOUND, networking.EnvoyFilter_SIDECAR_OUTBOUND}
}

// listeners patches the listeners. Istio patches each virtual listener by itself, and those of a context together: what goes wrong
// in one of them keeps the patches from the others.
func (a *application) listeners(static *bootstrapv3.Bootstrap_StaticResources) {
	var patched []*listenerv3.Listener
	for _, virtual := range []bool{true, false} {
		for _, context := range a.proxy.contexts() {
			var group []*listenerv3.Listener
			for _, l := range static.GetListeners() {
				if a.proxy.context(l) == context && (a.proxy.sidecar && isVirtual(l)) == virtual {
					if l.GetName() == "" {
						a.warnings = append(a.warnings, Warning{a.first.file, a.first.line, a.first.name(),
							"a listener without a name is taken out of the bootstrap, as Istio does with one that it has removed: name it"})
					}
					group = append(group, l)
				}
			}
			if len(group) > 0 || !virtual {
				patched = append(patched, a.listenerPass(context, group, !virtual)...)
			}
		}
	}
	// In the order that they had, with the new ones behind.
	at := map[*listenerv3.Listener]int{}
	for i, l := range static.GetListeners() {
		at[l] = i
	}
	place := func(l *listenerv3.Listener) int {
		if i, ok := at[l]; ok {
			return i
		}
		return len(at)
	}
	slices.SortStableFunc(patched, func(x, y *listenerv3.Listener) int { return place(x) - place(y) })
	static.Listeners = patched
}

// listenerPass is one call of Istio's patching of listeners. If two different types should be merged, it stops there: what has been
// changed in place stays, what follows is lost.
func (a *application) listenerPass(context networking.EnvoyFilter_PatchContext, listeners []*listenerv3.Listener, adds bool) []*listenerv3.Listener {
	for _, l := range listeners {
		if l.GetName() == "" {
			continue
		}
		if !a.listener(context, l) {
			return listeners
		}
	}
	if adds {
		for _, p := range a.patches[networking.EnvoyFilter_LISTENER] {
			if p.is(add) && p.adds(context) {
				listeners = append(listeners, proto.Clone(p.value).(*listenerv3.Listener))
				p.applied = true
			}
		}
	}
	return slices.DeleteFunc(listeners, func(l *listenerv3.Listener) bool { return l.GetName() == "" })
}

// adds reports whether a listener or cluster is added in the context: one for ANY context is not for inbound traffic.
func (p *patch) adds(context networking.EnvoyFilter_PatchContext) bool {
	if p.match.GetContext() == networking.EnvoyFilter_ANY {
		return context != networking.EnvoyFilter_SIDECAR_INBOUND
	}
	return p.inContext(context)
}

// listener patches one listener. It reports false if the pass has to stop.
func (a *application) listener(context networking.EnvoyFilter_PatchContext, l *listenerv3.Listener) bool {
	for _, p := range a.patches[networking.EnvoyFilter_LISTENER] {
		if !p.inContext(context) || !p.matchesListener(l) {
			continue
		}
		switch {
		case p.is(remove):
			l.Name = ""
			p.applied = true
			return true
		case p.is(merge, mergeReplace):
			mergeInto(p.operation, l, p.value)
			p.applied = true
		}
	}
	if !a.listenerFilters(context, l) {
		return false
	}
	for _, chain := range l.GetFilterChains() {
		if chain.Filters != nil && !a.filterChain(context, l, chain) {
			return false
		}
	}
	if chain := l.GetDefaultFilterChain(); chain.GetFilters() != nil {
		if !a.filterChain(context, l, chain) {
			return false
		}
		if chain.Filters == nil {
			l.DefaultFilterChain = nil
		}
	}
	for _, p := range a.patches[networking.EnvoyFilter_FILTER_CHAIN] {
		if p.is(add) && p.inContext(context) && p.matchesListener(l) {
			l.FilterChains = append(l.FilterChains, proto.Clone(p.value).(*listenerv3.FilterChain))
			p.applied = true
		}
	}
	l.FilterChains = slices.DeleteFunc(l.FilterChains, func(chain *listenerv3.FilterChain) bool { return chain.Filters == nil })
	return true
}

func (a *application) listenerFilters(context networking.EnvoyFilter_PatchContext, l *listenerv3.Listener) bool {
	for _, p := range a.patches[networking.EnvoyFilter_LISTENER_FILTER] {
		if !p.inContext(context) || !p.matchesListener(l) {
			continue
		}
		name := p.match.GetListener().GetListenerFilter()
		matches := func(f *listenerv3.ListenerFilter) bool {
			return name == "" || name == f.GetName() || p.miss(noFilter, f.GetName())
		}
		if !p.is(merge) {
			l.ListenerFilters = edit(p, l.ListenerFilters, name != "", matches)
			continue
		}
		if name == "" {
			continue
		}
		for _, f := range l.GetListenerFilters() {
			// Istio does not look whether it is the one that is named.
			value := p.value.(*listenerv3.ListenerFilter)
			if f.GetTypedConfig() == nil {
				continue
			}
			if f.GetName() != name {
				a.warn(p, "MERGE on listener filters takes all of them that have a typed_config, also %q: Istio does not look at listenerFilter there", f.GetName())
			}
			if value.GetName() != "" && value.GetName() != f.GetName() {
				a.warn(p, "the filter %q is not renamed to %q: Istio does not, for listener filters", f.GetName(), value.GetName())
			}
			if config := value.GetTypedConfig(); config != nil {
				merged, ok := a.mergeAny(p, f.GetTypedConfig(), config, "listeners")
				if !ok {
					return false
				}
				f.ConfigType = &listenerv3.ListenerFilter_TypedConfig{TypedConfig: merged}
			}
			p.applied = true
		}
	}
	return true
}

// mergeAny is the function of that name, with the warning about a pass that has to stop.
func (a *application) mergeAny(p *patch, dst, src *anypb.Any, of string) (*anypb.Any, bool) {
	merged, err := mergeAny(dst, src)
	if err != nil {
		p.idle = true
		a.warn(p, "%v: Istio drops this and all that comes later in the pass over the %s", err, of)
		return nil, false
	}
	return merged, true
}

func (a *application) filterChain(context networking.EnvoyFilter_PatchContext, l *listenerv3.Listener, chain *listenerv3.FilterChain) bool {
	for _, p := range a.patches[networking.EnvoyFilter_FILTER_CHAIN] {
		if p.is(add) || !p.inContext(context) || !p.matchesListener(l) || !p.matchesFilterChain(l, chain) {
			continue
		}
		switch {
		case p.is(remove):
			chain.Filters = nil
			p.applied = true
			return true
		case p.is(merge, mergeReplace):
			value := p.value.(*listenerv3.FilterChain)
			there, socket := chain.GetTransportSocket(), value.GetTransportSocket()
			if there == nil || socket == nil || there.GetName() != socket.GetName() {
				mergeInto(p.operation, chain, value)
				p.applied = true
				continue
			}
			merged, ok := a.transportSocket(p, there, socket, "listeners")
			if !ok {
				return false
			}
			p.applied = p.applied || merged
		}
	}
	return a.networkFilters(context, l, chain)
}

// transportSocket merges the configuration of a transport socket; nothing else of the patch is taken then.
func (a *application) transportSocket(p *patch, there, socket *corev3.TransportSocket, of string) (merged, ok bool) {
	if count := populated(p.value); count > 1 {
		a.warn(p, "only transport_socket is merged: Istio takes nothing else of a patch with the transport socket that is there, give it a patch of its own")
	}
	dst, src := there.GetTypedConfig(), socket.GetTypedConfig()
	if dst == nil || src == nil {
		return false, true
	}
	config, ok := a.mergeAny(p, dst, src, of)
	if !ok {
		return false, false
	}
	there.ConfigType = &corev3.TransportSocket_TypedConfig{TypedConfig: config}
	return true, true
}

func (a *application) networkFilters(context networking.EnvoyFilter_PatchContext, l *listenerv3.Listener, chain *listenerv3.FilterChain) bool {
	matching := func(yield func(*patch) bool) {
		for _, p := range a.patches[networking.EnvoyFilter_NETWORK_FILTER] {
			if p.inContext(context) && p.matchesListener(l) && p.matchesFilterChain(l, chain) && !yield(p) {
				return
			}
		}
	}
	for p := range matching {
		if !p.is(merge) {
			chain.Filters = edit(p, chain.Filters, p.namesFilter(), p.matchesFilter)
		}
	}
	for _, f := range chain.Filters {
		for p := range matching {
			if !p.is(merge) || !p.matchesFilter(f) || f.GetTypedConfig() == nil {
				continue
			}
			value := p.value.(*listenerv3.Filter)
			if config := value.GetTypedConfig(); config != nil {
				merged, ok := a.mergeAny(p, f.GetTypedConfig(), config, "listeners")
				if !ok {
					return false
				}
				f.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: merged}
				a.warnOfTwins(p, merged)
			}
			if value.GetName() != "" {
				f.Name = value.GetName()
			}
			p.applied = true
		}
		if f.GetName() != connectionManager {
			for _, p := range a.patches[networking.EnvoyFilter_HTTP_FILTER] {
				if f.GetTypedConfig().MessageIs(&hcmv3.HttpConnectionManager{}) && p.inContext(context) && p.matchesListener(l) && p.matchesFilterChain(l, chain) {
					p.miss(noManager, f.GetName())
				}
			}
		} else if !a.httpFilters(context, l, chain, f) {
			return false
		}
	}
	return true
}

// warnOfTwins warns of a type of upgrade that is there twice: MERGE appends, and Istio has given every manager websocket.
func (a *application) warnOfTwins(p *patch, config *anypb.Any) {
	manager := &hcmv3.HttpConnectionManager{}
	if !config.MessageIs(manager) || config.UnmarshalTo(manager) != nil {
		return
	}
	seen := map[string]bool{}
	for _, u := range manager.GetUpgradeConfigs() {
		if seen[u.GetUpgradeType()] {
			a.warn(p, "upgrade_configs has %q twice, which Envoy refuses: MERGE appends, and one is there already", u.GetUpgradeType())
		}
		seen[u.GetUpgradeType()] = true
	}
}

func (a *application) httpFilters(context networking.EnvoyFilter_PatchContext, l *listenerv3.Listener, chain *listenerv3.FilterChain, f *listenerv3.Filter) bool {
	if len(a.patches[networking.EnvoyFilter_HTTP_FILTER]) == 0 {
		return true
	}
	manager := &hcmv3.HttpConnectionManager{}
	if f.GetTypedConfig() == nil || f.GetTypedConfig().UnmarshalTo(manager) != nil {
		return true
	}
	matching := func(yield func(*patch) bool) {
		for _, p := range a.patches[networking.EnvoyFilter_HTTP_FILTER] {
			if p.inContext(context) && p.matchesListener(l) && p.matchesFilterChain(l, chain) && p.matchesFilter(f) && !yield(p) {
				return
			}
		}
	}
	var changed []*patch // what is lost with the manager if the pass stops
	for p := range matching {
		if p.is(merge) {
			continue
		}
		before := p.applied
		manager.HttpFilters = edit(p, manager.HttpFilters, p.namesHTTPFilter(), p.matchesHTTPFilter)
		if p.applied && !before {
			changed = append(changed, p)
		}
	}
	for _, h := range manager.HttpFilters {
		for p := range matching {
			if !p.is(merge) || !p.matchesHTTPFilter(h) || h.GetTypedConfig() == nil {
				continue
			}
			value := p.value.(*hcmv3.HttpFilter)
			if config := value.GetTypedConfig(); config != nil {
				merged, ok := a.mergeAny(p, h.GetTypedConfig(), config, "listeners")
				if !ok {
					for _, p := range changed {
						p.applied, p.idle = false, true
						a.warn(p, "changed nothing: a MERGE of different types in the same connection manager takes it along")
					}
					return false
				}
				h.ConfigType = &hcmv3.HttpFilter_TypedConfig{TypedConfig: merged}
			}
			if value.GetName() != "" {
				h.Name = value.GetName()
			}
			p.applied = true
		}
	}
	f.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: pack(manager)}
	return true
}

// edit changes a list as a patch that is not a MERGE says. The patch names says whether it names an element; what is added for an
// element that it names, and that is not there, is not added.
func edit[T proto.Message](p *patch, list []T, names bool, matches func(T) bool) []T {
	value := func() T { return proto.Clone(p.value).(T) }
	at := -1
	if names && !p.is(add, insertFirst) {
		if at = slices.IndexFunc(list, matches); at < 0 {
			return list
		}
	}
	switch {
	case p.is(add), p.is(insertAfter) && !names:
		list = append(list, value())
	case p.is(insertFirst), p.is(insertBefore) && !names:
		list = slices.Insert(list, 0, value())
	case p.is(insertAfter):
		list = slices.Insert(list, at+1, value())
	case p.is(insertBefore):
		list = slices.Insert(list, at, value())
	case p.is(replace) && names:
		list[at] = value()
	case p.is(remove) && names:
		list = slices.DeleteFunc(list, matches)
	default:
		return list
	}
	p.applied = true
	return list
}

func (p *patch) matchesListener(l *listenerv3.Listener) bool {
	m := p.match.GetListener()
	if m == nil {
		return true
	}
	if m.GetName() != "" && m.GetName() != l.GetName() {
		return p.miss(noListener, l.GetName())
	}
	if p.applyTo != networking.EnvoyFilter_LISTENER && isVirtual(l) {
		return true
	}
	if m.GetPortNumber() != 0 && m.GetPortNumber() != l.GetAddress().GetSocketAddress().GetPortValue() {
		return p.miss(noListener, l.GetName())
	}
	return true
}

func (p *patch) matchesFilterChain(l *listenerv3.Listener, chain *listenerv3.FilterChain) bool {
	m := p.match.GetListener()
	criteria := chain.GetFilterChainMatch()
	if isVirtual(l) && m.GetPortNumber() > 0 && criteria.GetDestinationPort().GetValue() != m.GetPortNumber() {
		return p.miss(noFilterChain, chain.GetName())
	}
	c := m.GetFilterChain()
	switch {
	case c.GetName() != "" && c.GetName() != chain.GetName(),
		c.GetSni() != "" && !slices.Contains(criteria.GetServerNames(), c.GetSni()),
		c.GetTransportProtocol() != "" && criteria.GetTransportProtocol() != c.GetTransportProtocol(),
		c.GetDestinationPort() > 0 && criteria.GetDestinationPort().GetValue() != c.GetDestinationPort():
		return p.miss(noFilterChain, chain.GetName())
	}
	if protocols := c.GetApplicationProtocols(); protocols != "" {
		for _, protocol := range strings.Split(protocols, ",") {
			if !slices.Contains(criteria.GetApplicationProtocols(), protocol) {
				return p.miss(noFilterChain, chain.GetName())
			}
		}
	}
	return true
}

func (p *patch) namesFilter() bool { return p.match.GetListener().GetFilterChain().GetFilter() != nil }

func (p *patch) matchesFilter(f *listenerv3.Filter) bool {
	return !p.namesFilter() || p.match.GetListener().GetFilterChain().GetFilter().GetName() == f.GetName() || p.miss(noFilter, f.GetName())
}

func (p *patch) namesHTTPFilter() bool {
	return p.match.GetListener().GetFilterChain().GetFilter().GetSubFilter() != nil
}

func (p *patch) matchesHTTPFilter(f *hcmv3.HttpFilter) bool {
	return !p.namesHTTPFilter() || p.match.GetListener().GetFilterChain().GetFilter().GetSubFilter().GetName() == f.GetName() || p.miss(noHTTPFilter, f.GetName())
}

package patch

import (
	"slices"
	"strconv"
	"strings"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
)

// routes patches the route configuration in each connection manager, before the listeners are: what they get by their own patches is
// not among the routes that Istio sends.
func (a *application) routes(listeners []*listenerv3.Listener) {
	eachManager(listeners, func(l *listenerv3.Listener, _ *listenerv3.FilterChain, manager *hcmv3.HttpConnectionManager) bool {
		if manager.GetRouteConfig() == nil {
			return false
		}
		a.routeConfiguration(a.proxy.context(l), manager.GetRouteConfig())
		return true
	})
}

// routeConfiguration patches one route configuration. Nothing in it can be of different types, so no pass stops.
func (a *application) routeConfiguration(context networking.EnvoyFilter_PatchContext, config *routev3.RouteConfiguration) {
	matching := func(of networking.EnvoyFilter_ApplyTo) func(yield func(*patch) bool) {
		return func(yield func(*patch) bool) {
			for _, p := range a.patches[of] {
				if p.inContext(context) && p.matchesRouteConfiguration(context, config) && !yield(p) {
					return
				}
			}
		}
	}
	for p := range matching(networking.EnvoyFilter_ROUTE_CONFIGURATION) {
		if p.is(merge, mergeReplace) {
			mergeInto(p.operation, config, p.value)
			p.applied = true
		}
	}

	removed := map[string]bool{}
hosts:
	for i := range config.GetVirtualHosts() {
		for p := range matching(networking.EnvoyFilter_VIRTUAL_HOST) {
			if p.is(add) || !p.matchesVirtualHost(config.VirtualHosts[i]) {
				continue
			}
			switch {
			case p.is(remove):
				removed[config.VirtualHosts[i].GetName()] = true
				p.applied = true
				continue hosts
			case p.is(merge, mergeReplace):
				mergeInto(p.operation, config.VirtualHosts[i], p.value)
				p.applied = true
			case p.is(replace):
				config.VirtualHosts[i] = proto.Clone(p.value).(*routev3.VirtualHost)
				p.applied = true
			}
		}
		a.hostRoutes(config.VirtualHosts[i], matching(networking.EnvoyFilter_HTTP_ROUTE))
	}
	for p := range matching(networking.EnvoyFilter_VIRTUAL_HOST) {
		if p.is(add) {
			host := proto.Clone(p.value).(*routev3.VirtualHost)
			config.VirtualHosts = append(config.VirtualHosts, host)
			p.applied = true
			if removed[host.GetName()] {
				a.warn(p, "the virtual host %q is not there afterwards: Istio removes by name at the end, and a patch removes one of that name", host.GetName())
			}
		}
	}
	// By name: others of the same name go too, also those that were added.
	config.VirtualHosts = slices.DeleteFunc(config.VirtualHosts, func(h *routev3.VirtualHost) bool { return removed[h.GetName()] })
}

func (a *application) hostRoutes(host *routev3.VirtualHost, matching func(yield func(*patch) bool)) {
	gone := map[int]bool{}
routes:
	for i, r := range host.GetRoutes() {
		for p := range matching {
			if !p.is(remove, merge, mergeReplace) || !p.matchesVirtualHost(host) || !p.matchesRoute(r) {
				continue
			}
			p.applied = true
			if p.is(remove) {
				gone[i] = true
				continue routes
			}
			mergeInto(p.operation, r, p.value)
		}
	}
	// What is removed keeps its place until the end, where nothing but its index matters any more.
	for i := range gone {
		host.Routes[i] = nil
	}
	for p := range matching {
		if !p.is(add, insertAfter, insertBefore, insertFirst) || !p.matchesVirtualHost(host) {
			continue
		}
		names := p.match.GetRouteConfiguration().GetVhost().GetRoute() != nil
		if p.is(insertFirst) && names && !slices.ContainsFunc(host.GetRoutes(), p.matchesRoute) {
			continue
		}
		host.Routes = edit(p, host.Routes, names, p.matchesRoute)
	}
	host.Routes = slices.DeleteFunc(host.Routes, func(r *routev3.Route) bool { return r == nil })
}

func (p *patch) matchesRouteConfiguration(context networking.EnvoyFilter_PatchContext, config *routev3.RouteConfiguration) bool {
	m := p.match.GetRouteConfiguration()
	if m == nil {
		return true
	}
	if m.GetName() != "" && m.GetName() != config.GetName() {
		return p.miss(noRouteConfiguration, config.GetName())
	}
	port := 0
	if context == networking.EnvoyFilter_GATEWAY {
		var portName, gateway string
		port, portName, gateway = gatewayRoute(config.GetName())
		if m.GetPortName() != "" && m.GetPortName() != portName || m.GetGateway() != "" && m.GetGateway() != gateway {
			return p.miss(noRouteConfiguration, config.GetName())
		}
	} else if strings.HasPrefix(config.GetName(), "inbound") {
		port = subsetOf(config.GetName()).port
	} else {
		port, _ = strconv.Atoi(config.GetName())
	}
	if m.GetPortNumber() != 0 && int(m.GetPortNumber()) != port {
		return p.miss(noRouteConfiguration, config.GetName())
	}
	return true
}

// gatewayRoute takes the name of a gateway's route configuration apart: http.PORT or https.PORT.PORTNAME.GATEWAY.NAMESPACE.
func gatewayRoute(name string) (port int, portName, gateway string) {
	parts := strings.Split(name, ".")
	switch {
	case parts[0] == "http" && len(parts) > 1:
		port, _ = strconv.Atoi(strings.TrimPrefix(name, "http."))
	case parts[0] == "https" && len(parts) == 5:
		port, _ = strconv.Atoi(parts[1])
		portName, gateway = parts[2], parts[4]+"/"+parts[3]
	}
	return port, portName, gateway
}

func (p *patch) matchesVirtualHost(h *routev3.VirtualHost) bool {
	m := p.match.GetRouteConfiguration().GetVhost()
	if m.GetName() != "" && m.GetName() != h.GetName() || m.GetDomainName() != "" && !slices.Contains(h.GetDomains(), m.GetDomainName()) {
		return p.miss(noVirtualHost, h.GetName())
	}
	return true
}

func (p *patch) matchesRoute(r *routev3.Route) bool {
	m := p.match.GetRouteConfiguration().GetVhost().GetRoute()
	if m == nil {
		return true
	}
	if r == nil {
		return false
	}
	if m.GetName() != "" && m.GetName() != r.GetName() {
		return p.miss(noRoute, r.GetName())
	}
	want := m.GetAction()
	if want == networking.EnvoyFilter_RouteConfigurationMatch_RouteMatch_ANY {
		return true
	}
	got := want // an action of a kind that a match cannot name
	switch r.GetAction().(type) {
	case *routev3.Route_Route:
		got = networking.EnvoyFilter_RouteConfigurationMatch_RouteMatch_ROUTE
	case *routev3.Route_Redirect:
		got = networking.EnvoyFilter_RouteConfigurationMatch_RouteMatch_REDIRECT
	case *routev3.Route_DirectResponse:
		got = networking.EnvoyFilter_RouteConfigurationMatch_RouteMatch_DIRECT_RESPONSE
	}
	return got == want || p.miss(noRoute, r.GetName())
}

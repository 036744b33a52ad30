// Package patch applies Istio's EnvoyFilter and WasmPlugin objects to a bootstrap, as istiod applies them to what it
// sends to a proxy.
//
//	objects, err := patch.Read(patch.Text{Name: "envoyfilter.yaml", Data: data})
//	warnings, err := objects.Apply(bootstrap, patch.Options{})
//	text, err := patch.Render(bootstrap)
//
// The semantics are those of Istio 1.31, whose own code made the results in testdata/golden: the order of objects and
// of passes, MERGE that appends to lists, INSERT with nothing to insert beside. Where Istio silently does nothing, or
// drops a whole pass, so does this package, with a [Warning] that says so. What Istio's admission webhook refuses is
// an error.
//
// # What stands for what
//
// A bootstrap is what one proxy has, so it stands for what istiod has generated for that proxy. The node says which
// proxy that is: its id starts with router~ or sidecar~ (a bootstrap without an id is a gateway), and metadata has
// NAMESPACE, LABELS and ISTIO_VERSION. Listeners of a sidecar with traffic_direction INBOUND are of the context
// SIDECAR_INBOUND, all others of SIDECAR_OUTBOUND; so are clusters by the prefix "inbound|" of their names. The route
// configuration inside a connection manager stands for what RDS would bring. The root namespace is istio-system.
// Without metadata the objects are taken to be meant for this proxy, whatever their namespace and selector.
//
// Extension configurations, which Istio sends by ECDS, are put in the place of the filter that asks for them. A plugin
// that the Istio agent would fetch is a file here; see [Options].
package patch

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
)

// Warning is something in an object that Istio accepts and that does not do what it says.
type Warning struct {
	File string // as given to Read
	Line int    // counted from 1
	Path string // in the object
	Msg  string // what happens, and what to do
}

// String returns one line, "file:line: path: message".
func (w Warning) String() string { return fmt.Sprintf("%s:%d: %s: %s", w.File, w.Line, w.Path, w.Msg) }

// Options say what the objects and the bootstrap do not.
type Options struct {
	// Wasm has the file that stands for each URL of a plugin that the Istio agent would fetch (oci, http, https), or for a file that is
	// in the container of the proxy only.
	Wasm map[string]string
}

// Apply changes the bootstrap as the objects say. The warnings are in the order of the objects' text.
//
// An error is a plugin without its file, or a bootstrap that cannot be what Istio has made.
func (o *Objects) Apply(b *bootstrapv3.Bootstrap, options Options) ([]Warning, error) {
	p, err := proxyOf(b.GetNode())
	if err != nil {
		return nil, err
	}
	a := &application{proxy: p, options: options, bootstrap: b, patches: map[networking.EnvoyFilter_ApplyTo][]*patch{}}
	a.warnings = slices.Clone(o.warnings)
	a.selectPatches(o.filters)
	if err := a.plugins(o.plugins); err != nil {
		return nil, err
	}
	static := b.GetStaticResources()
	if static == nil {
		static = &bootstrapv3.Bootstrap_StaticResources{}
		b.StaticResources = static
	}
	if a.patching {
		a.routes(static.GetListeners())
		a.listeners(static)
		a.clusters(static)
	}
	if err := a.extensions(static.GetListeners()); err != nil {
		return nil, err
	}
	a.localFiles(static.GetListeners())
	a.sayWhatDidNothing()
	slices.SortStableFunc(a.warnings, func(x, y Warning) int {
		return cmp.Or(cmp.Compare(o.order[x.File], o.order[y.File]), cmp.Compare(x.Line, y.Line))
	})
	return slices.Compact(a.warnings), nil
}

// application is one call of Apply.
type application struct {
	proxy     proxy
	options   Options
	bootstrap *bootstrapv3.Bootstrap
	first     *envoyFilter // the first that is for this proxy
	patching  bool         // an EnvoyFilter is for this proxy, if only with patches that are not
	patches   map[networking.EnvoyFilter_ApplyTo][]*patch
	warnings  []Warning
}

// patch is an element of configPatches.
type patch struct {
	object    *object
	path      string // in the object
	line      int
	applyTo   networking.EnvoyFilter_ApplyTo
	operation networking.EnvoyFilter_Patch_Operation
	match     *networking.EnvoyFilter_EnvoyConfigObjectMatch // never nil
	value     proto.Message                                  // nil without one

	applied bool     // it changed something
	reached stage    // how far its match got
	missed  []string // the names of what was there, at that stage
	idle    bool     // why it changes nothing has been said
}

// stage is how far the match of a patch got before it found nothing.
type stage int

const (
	noContext stage = iota
	noListener
	noFilterChain
	noFilter
	noManager
	noHTTPFilter
	noRouteConfiguration
	noVirtualHost
	noRoute
	noCluster
)

// is reports whether the patch has one of the operations.
func (p *patch) is(operations ...networking.EnvoyFilter_Patch_Operation) bool {
	return slices.Contains(operations, p.operation)
}

// miss notes that the match got as far as to s, where there was only what is named.
func (p *patch) miss(s stage, there string) bool {
	if s > p.reached {
		p.reached, p.missed = s, nil
	}
	if s == p.reached && !slices.Contains(p.missed, there) {
		p.missed = append(p.missed, there)
	}
	return false
}

func (a *application) warn(p *patch, format string, args ...any) {
	a.warnings = append(a.warnings, Warning{p.object.file, p.line, p.path, fmt.Sprintf(format, args...)})
}

// inContext reports whether the patch is meant for the kind of proxy, and direction, at hand.
func (p *patch) inContext(context networking.EnvoyFilter_PatchContext) bool {
	return p.match.GetContext() == context || p.match.GetContext() == networking.EnvoyFilter_ANY
}

// selectPatches takes the patches of the objects that are for this proxy, in the order in which Istio applies them: by priority,
// those of the root namespace first, then by age and by name.
func (a *application) selectPatches(filters []*envoyFilter) {
	var selected []*envoyFilter
	for _, f := range filters {
		if why := a.proxy.rejects(&f.object, f.spec.GetWorkloadSelector().GetLabels(), f.spec.GetTargetRefs()); why != "" {
			a.warnings = append(a.warnings, Warning{f.file, f.line, f.name(), "nothing of it is applied: " + why})
			continue
		}
		selected = append(selected, f)
	}
	slices.SortStableFunc(selected, func(x, y *envoyFilter) int {
		if c := cmp.Compare(x.spec.GetPriority(), y.spec.GetPriority()); c != 0 {
			return c
		}
		if xRoot, yRoot := x.namespace == rootNamespace, y.namespace == rootNamespace; xRoot != yRoot {
			if xRoot {
				return -1
			}
			return 1
		}
		return cmp.Or(x.created.Compare(y.created), strings.Compare(x.object.id+"."+x.namespace, y.object.id+"."+y.namespace))
	})
	if a.patching = len(selected) > 0; a.patching {
		a.first = selected[0]
	}
	for _, f := range selected {
		for _, p := range f.patches {
			p = &patch{object: p.object, path: p.path, line: p.line, applyTo: p.applyTo, operation: p.operation, match: p.match, value: p.value, idle: p.idle}
			if why := a.proxy.rejectsPatch(p.match.GetProxy()); why != "" {
				a.warn(p, "is not applied: %s", why)
				continue
			}
			a.patches[p.applyTo] = append(a.patches[p.applyTo], p)
		}
	}
}

// sayWhatDidNothing warns of each patch that changed nothing.
func (a *application) sayWhatDidNothing() {
	for _, patches := range a.patches {
		for _, p := range patches {
			if !p.applied && !p.idle {
				a.warn(p, "changed nothing: %s", p.why())
			}
		}
	}
}

func (p *patch) why() string {
	there := ""
	if len(p.missed) > 0 {
		quoted := make([]string, len(p.missed))
		for i, name := range p.missed {
			quoted[i] = fmt.Sprintf("%q", name)
		}
		there = ", there is " + strings.Join(quoted, ", ")
	}
	listener := p.match.GetListener()
	route := p.match.GetRouteConfiguration()
	switch p.reached {
	case noListener:
		return "no listener matches" + there
	case noFilterChain:
		return "no filter chain matches" + there
	case noFilter:
		if listener.GetListenerFilter() != "" && p.applyTo == networking.EnvoyFilter_LISTENER_FILTER {
			return fmt.Sprintf("no listener filter is named %q%s", listener.GetListenerFilter(), there)
		}
		return fmt.Sprintf("no network filter is named %q%s", listener.GetFilterChain().GetFilter().GetName(), there)
	case noManager:
		return fmt.Sprintf("no connection manager is named %q%s: Istio finds HTTP filters under that name only", connectionManager, there)
	case noHTTPFilter:
		return fmt.Sprintf("no HTTP filter is named %q%s", listener.GetFilterChain().GetFilter().GetSubFilter().GetName(), there)
	case noRouteConfiguration:
		return "no route configuration matches" + there
	case noVirtualHost:
		return "no virtual host matches" + there
	case noRoute:
		return fmt.Sprintf("no route matches %q%s", route.GetVhost().GetRoute().GetName(), there)
	case noCluster:
		return "no cluster matches" + there
	}
	return fmt.Sprintf("nothing is of the context %s that it could apply to", p.match.GetContext())
}

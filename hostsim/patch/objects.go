package patch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	extensions "istio.io/api/extensions/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"

	"switchyard/hostsim/bootstrap"
)

// Text is one or more Kubernetes objects as YAML.
type Text = bootstrap.Text

// Objects are EnvoyFilters and WasmPlugins that Istio's admission webhook would take. They can be applied to any number of bootstraps.
type Objects struct {
	filters  []*envoyFilter
	plugins  []*wasmPlugin
	warnings []Warning      // about what is wrong whatever the bootstrap
	order    map[string]int // of the files
}

// object is what all of them have.
type object struct {
	file      string
	line      int
	kind      string
	id        string // metadata.name
	namespace string
	created   time.Time
	node      *yaml.Node
}

// name is how messages call the object.
func (o *object) name() string { return o.kind + " " + o.namespace + "/" + o.id }

type envoyFilter struct {
	object
	spec    *networking.EnvoyFilter
	patches []*patch
}

type wasmPlugin struct {
	object
	spec *extensions.WasmPlugin
}

// Read reads objects as kubectl does: YAML 1.1, in which y, on and no are booleans. Documents that are empty are passed over. An error
// is one line with file, line and path, and is about what Kubernetes or Istio's webhook would refuse, or about a kind that is not
// simulated.
func Read(texts ...Text) (*Objects, error) {
	o := &Objects{order: map[string]int{}}
	for i, text := range texts {
		if _, ok := o.order[text.Name]; !ok {
			o.order[text.Name] = i
		}
		decoder := yaml.NewDecoder(bytes.NewReader(text.Data))
		for {
			var doc yaml.Node
			err := decoder.Decode(&doc)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, syntaxError(text.Name, err)
			}
			if len(doc.Content) == 0 || doc.Content[0].Kind == yaml.ScalarNode && doc.Content[0].Tag == "!!null" {
				continue
			}
			if err := o.read(text.Name, doc.Content[0]); err != nil {
				return nil, err
			}
		}
	}
	return o, nil
}

var yamlLine = regexp.MustCompile(`^yaml: line (\d+): `)

func syntaxError(file string, err error) error {
	e := &bootstrap.Error{File: file, Msg: "invalid YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		e.Msg = "invalid YAML: " + err.Error()[len(m[0]):]
	}
	e.Msg, _, _ = strings.Cut(e.Msg, "\n")
	return e
}

// read reads one object.
func (o *Objects) read(file string, n *yaml.Node) error {
	head := object{file: file, line: n.Line, node: n}
	fail := func(path, format string, args ...any) error {
		return &bootstrap.Error{File: file, Line: lineOf(n, path), Path: path, Msg: fmt.Sprintf(format, args...)}
	}
	if n.Kind != yaml.MappingNode {
		return fail("", "found no object, want apiVersion, kind, metadata and spec")
	}
	value, err := jsonOf(n, 0)
	if err != nil {
		var at *nodeError
		if errors.As(err, &at) {
			return &bootstrap.Error{File: file, Line: at.line, Msg: at.msg}
		}
		return fail("", "%v", err)
	}
	root := value.(map[string]any)
	version, _ := root["apiVersion"].(string)
	head.kind, _ = root["kind"].(string)
	if head.kind == "" || version == "" {
		return fail("", "apiVersion or kind is missing, or no string")
	}
	group, _, _ := strings.Cut(version, "/")
	metadata, _ := root["metadata"].(map[string]any)
	head.id, _ = metadata["name"].(string)
	head.namespace, _ = metadata["namespace"].(string)
	if head.id == "" {
		return fail("metadata.name", "is required, and a string: put it in quotes")
	}
	if head.namespace == "" {
		head.namespace = "default"
	}
	if created, ok := metadata["creationTimestamp"].(string); ok {
		if head.created, err = time.Parse(time.RFC3339, created); err != nil {
			return fail("metadata.creationTimestamp", "%q is no time such as 2006-01-02T15:04:05Z", created)
		}
	}
	spec := func(m proto.Message) error {
		text, err := json.Marshal(root["spec"])
		if err != nil {
			return fail("spec", "%v", err)
		}
		if root["spec"] == nil {
			text = []byte("{}")
		}
		if err := protojson.Unmarshal(text, m); err != nil {
			msg := strings.ReplaceAll(err.Error(), "\u00a0", " ")
			msg = strings.TrimPrefix(msg, "proto: ")
			if i := strings.Index(msg, "): "); strings.HasPrefix(msg, "(line 1:") && i >= 0 {
				msg = msg[i+3:]
			}
			return fail("spec", "%s", msg)
		}
		return nil
	}
	switch kind := group + "/" + head.kind; kind {
	case "networking.istio.io/EnvoyFilter":
		f := &envoyFilter{object: head, spec: &networking.EnvoyFilter{}}
		if err := spec(f.spec); err != nil {
			return err
		}
		if err := o.envoyFilter(f, fail); err != nil {
			return err
		}
		o.filters = append(o.filters, f)
	case "extensions.istio.io/WasmPlugin":
		w := &wasmPlugin{object: head, spec: &extensions.WasmPlugin{}}
		if err := spec(w.spec); err != nil {
			return err
		}
		if err := o.wasmPlugin(w, fail); err != nil {
			return err
		}
		o.plugins = append(o.plugins, w)
	default:
		return &bootstrap.UnsupportedError{File: file, Line: n.Line, Path: "kind", What: kind + ", only EnvoyFilter and WasmPlugin of Istio can be applied"}
	}
	return nil
}

type failure func(path, format string, args ...any) error

// envoyFilter checks what the webhook checks, and makes the patches.
func (o *Objects) envoyFilter(f *envoyFilter, fail failure) error {
	if selector := f.spec.GetWorkloadSelector(); selector != nil && len(selector.GetLabels()) == 0 {
		o.warn(&f.object, "spec.workloadSelector", "has no labels: it selects every proxy of the namespace")
	}
	for i, c := range f.spec.GetConfigPatches() {
		at := fmt.Sprintf("spec.configPatches[%d]", i)
		p := &patch{object: &f.object, path: at, line: lineOf(f.node, at), applyTo: c.GetApplyTo(), operation: c.GetPatch().GetOperation(), match: c.GetMatch()}
		if p.match == nil {
			p.match = &networking.EnvoyFilter_EnvoyConfigObjectMatch{}
		}
		if p.match.GetContext() == networking.EnvoyFilter_WAYPOINT {
			o.warn(&f.object, at, "is for waypoints, which are not simulated: it is not applied")
			continue
		}
		switch {
		case p.applyTo == networking.EnvoyFilter_INVALID:
			return fail(at+".applyTo", "is required: what the patch is applied to")
		case c.GetPatch() == nil:
			return fail(at+".patch", "is required")
		case p.operation == networking.EnvoyFilter_Patch_INVALID:
			return fail(at+".patch.operation", "is required")
		case p.operation != remove && c.GetPatch().GetValue() == nil:
			return fail(at+".patch.value", "is required for %s", p.operation)
		}
		if version := p.match.GetProxy().GetProxyVersion(); len(version) <= maxProxyVersion {
			if _, err := regexp.Compile(version); err != nil {
				return fail(at+".match.proxy.proxyVersion", "%q is no regular expression: %v", version, err)
			}
		}
		if err := checkMatch(p, at+".match", fail); err != nil {
			return err
		}
		if value := c.GetPatch().GetValue(); value != nil {
			m := newValue(p.applyTo)
			if m == nil {
				return fail(at+".applyTo", "%s is nothing that a patch can be applied to", p.applyTo)
			}
			r := reader{warn: func(path, format string, args ...any) { o.warn(&f.object, path, format, args...) }, merging: p.is(merge, mergeReplace)}
			if err := r.message(m.ProtoReflect(), value, at+".patch.value"); err != nil {
				return fail(err.path, "%s", err.msg)
			}
			p.value = m
		}
		o.checkOperation(p, at)
		f.patches = append(f.patches, p)
	}
	return nil
}

// checkMatch refuses a match that is not for what the patch is applied to.
func checkMatch(p *patch, at string, fail failure) error {
	listener, route, cluster := p.match.GetListener(), p.match.GetRouteConfiguration(), p.match.GetCluster()
	given := listener != nil || route != nil || cluster != nil
	switch p.applyTo {
	case networking.EnvoyFilter_LISTENER, networking.EnvoyFilter_FILTER_CHAIN, networking.EnvoyFilter_NETWORK_FILTER, networking.EnvoyFilter_HTTP_FILTER:
		if given && listener == nil {
			return fail(at, "%s needs a match on listener", p.applyTo)
		}
		filter := listener.GetFilterChain().GetFilter()
		at += ".listener.filterChain.filter"
		switch {
		case filter == nil:
		case filter.GetName() == "":
			return fail(at, "has no name to match")
		case filter.GetSubFilter() == nil:
		case p.applyTo != networking.EnvoyFilter_HTTP_FILTER:
			return fail(at+".subFilter", "is for HTTP_FILTER only, not for %s", p.applyTo)
		case filter.GetName() != connectionManager && filter.GetName() != "envoy.http_connection_manager":
			return fail(at+".name", "%q has no HTTP filters, want %q", filter.GetName(), connectionManager)
		case filter.GetSubFilter().GetName() == "":
			return fail(at+".subFilter", "has no name to match")
		}
	case networking.EnvoyFilter_ROUTE_CONFIGURATION, networking.EnvoyFilter_VIRTUAL_HOST, networking.EnvoyFilter_HTTP_ROUTE:
		if given && route == nil {
			return fail(at, "%s needs a match on routeConfiguration", p.applyTo)
		}
	case networking.EnvoyFilter_CLUSTER:
		if given && cluster == nil {
			return fail(at, "CLUSTER needs a match on cluster")
		}
	}
	return nil
}

// checkOperation warns of operations that do nothing, or something else, whatever they are applied to.
func (o *Objects) checkOperation(p *patch, at string) {
	listFilter := p.applyTo == networking.EnvoyFilter_LISTENER_FILTER || p.applyTo == networking.EnvoyFilter_NETWORK_FILTER || p.applyTo == networking.EnvoyFilter_HTTP_FILTER
	if p.is(insertBefore, insertAfter, insertFirst) && !listFilter && p.applyTo != networking.EnvoyFilter_HTTP_ROUTE {
		o.warn(p.object, at+".patch.operation", "%s of a %s is ADD: Istio inserts filters and routes only", p.operation, p.applyTo)
		p.operation = add
	}
	filter := p.match.GetListener().GetFilterChain().GetFilter()
	nothing := ""
	switch p.applyTo {
	case networking.EnvoyFilter_BOOTSTRAP:
		nothing = "Istio does not apply patches of BOOTSTRAP"
	case networking.EnvoyFilter_LISTENER, networking.EnvoyFilter_FILTER_CHAIN, networking.EnvoyFilter_CLUSTER:
		if p.is(replace) {
			nothing = "Istio has no REPLACE of a " + p.applyTo.String() + ", use REMOVE and ADD"
		}
	case networking.EnvoyFilter_ROUTE_CONFIGURATION:
		if !p.is(merge, mergeReplace) {
			nothing = "a ROUTE_CONFIGURATION can only be merged into"
		}
	case networking.EnvoyFilter_HTTP_ROUTE:
		if p.is(replace) {
			nothing = "Istio has no REPLACE of an HTTP_ROUTE, use INSERT_FIRST, or REMOVE and ADD"
		}
	case networking.EnvoyFilter_EXTENSION_CONFIG:
		if !p.is(add) {
			nothing = "an EXTENSION_CONFIG can only be added"
		}
	case networking.EnvoyFilter_LISTENER_FILTER:
		if p.is(replace, remove, merge) && p.match.GetListener().GetListenerFilter() == "" {
			nothing = p.operation.String() + " needs match.listener.listenerFilter, the name of a listener filter"
		}
	case networking.EnvoyFilter_NETWORK_FILTER:
		if p.is(replace, remove) && filter == nil {
			nothing = p.operation.String() + " needs match.listener.filterChain.filter.name"
		}
	case networking.EnvoyFilter_HTTP_FILTER:
		if p.is(replace, remove) && filter.GetSubFilter() == nil {
			nothing = p.operation.String() + " needs match.listener.filterChain.filter.subFilter.name"
		}
		if name := filter.GetName(); name != "" && name != connectionManager {
			nothing = fmt.Sprintf("Istio finds HTTP filters under the name %s only, not under %q", connectionManager, name)
		}
	}
	if listFilter && p.is(mergeReplace) {
		nothing = "Istio has no MERGE_AND_REPLACE_LIST of a " + p.applyTo.String() + ": use MERGE, which appends to lists, or REPLACE"
	}
	if nothing != "" {
		o.warn(p.object, at, "does nothing: %s", nothing)
		p.idle = true
	}
	if (p.applyTo == networking.EnvoyFilter_LISTENER || p.applyTo == networking.EnvoyFilter_FILTER_CHAIN) && filter != nil {
		o.warn(p.object, at+".match.listener.filterChain.filter", "is not looked at for %s", p.applyTo)
	}
	if p.match.GetListener().GetPortName() != "" {
		o.warn(p.object, at+".match.listener.portName", "is not looked at: Istio has not implemented it")
	}
	if p.applyTo == networking.EnvoyFilter_HTTP_FILTER && (p.is(add) || p.is(insertAfter) && filter.GetSubFilter() == nil) {
		o.warn(p.object, at+".patch.operation", "%s puts the filter behind the router here, and Envoy refuses that: use INSERT_FIRST or INSERT_BEFORE", p.operation)
	}
}

// wasmPlugin checks what the webhook checks.
func (o *Objects) wasmPlugin(w *wasmPlugin, fail failure) error {
	spec := w.spec
	u, err := url.Parse(spec.GetUrl())
	switch {
	case spec.GetUrl() == "":
		return fail("spec.url", "is required: oci://, https://, http:// or file://")
	case err != nil:
		return fail("spec.url", "%q is no URL", spec.GetUrl())
	case !slices.Contains([]string{"", "oci", "http", "https", "file"}, u.Scheme):
		return fail("spec.url", "%q is of a scheme that Istio does not know, want oci, http, https or file", spec.GetUrl())
	}
	if sum := spec.GetSha256(); sum != "" && !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(sum) {
		return fail("spec.sha256", "%q is not 64 hexadecimal digits in lower case", sum)
	}
	if spec.GetSelector() != nil && (spec.GetTargetRef() != nil || len(spec.GetTargetRefs()) > 0) {
		return fail("spec", "selector and targetRefs cannot both be set")
	}
	if spec.GetType() == extensions.PluginType_NETWORK {
		return &bootstrap.UnsupportedError{File: w.file, Line: lineOf(w.node, "spec.type"), Path: "spec.type", What: "a plugin for a network filter"}
	}
	if spec.GetVerificationKey() != "" {
		o.warn(&w.object, "spec.verificationKey", "is not looked at: Istio has not implemented it")
	}
	return nil
}

func (o *Objects) warn(of *object, path, format string, args ...any) {
	o.warnings = append(o.warnings, Warning{of.file, lineOf(of.node, path), path, fmt.Sprintf(format, args...)})
}

// lineOf is the line of what stands at path, or of its nearest ancestor that there is. A path is made of keys with dots between them,
// and of indices in brackets.
func lineOf(n *yaml.Node, path string) int {
	line := n.Line
	for path != "" {
		if n.Kind == yaml.AliasNode {
			n = n.Alias
		}
		path = strings.TrimPrefix(path, ".")
		var next *yaml.Node
		switch {
		case n.Kind == yaml.SequenceNode && strings.HasPrefix(path, "["):
			text, rest, _ := strings.Cut(path[1:], "]")
			if i, err := strconv.Atoi(text); err == nil && i < len(n.Content) {
				next, path, line = n.Content[i], rest, n.Content[i].Line
			}
		case n.Kind == yaml.MappingNode:
			longest := -1 // a key may have dots in it
			for i := 0; i < len(n.Content); i += 2 {
				key := n.Content[i].Value
				rest, ok := strings.CutPrefix(path, key)
				if ok && len(key) > longest && (rest == "" || rest[0] == '.' || rest[0] == '[') {
					longest, next, line = len(key), n.Content[i+1], n.Content[i].Line
				}
			}
			if next != nil {
				path = path[longest:]
			}
		}
		if next == nil {
			break
		}
		n = next
	}
	return line
}

// nodeError is about a place in the text.
type nodeError struct {
	line int
	msg  string
}

func (e *nodeError) Error() string { return fmt.Sprintf("line %d: %s", e.line, e.msg) }

// maxDepth is how deep lists and objects may be nested.
const maxDepth = 100

// jsonOf turns a node into what encoding/json marshals, in the YAML 1.1 that Kubernetes reads.
func jsonOf(n *yaml.Node, depth int) (any, error) {
	if depth > maxDepth {
		return nil, &nodeError{n.Line, fmt.Sprintf("objects and lists are nested too deeply, more than %d", maxDepth)}
	}
	switch n.Kind {
	case yaml.AliasNode:
		return nil, &nodeError{n.Line, "the alias *" + n.Value + " is not read here: write it out"}
	case yaml.MappingNode:
		m := map[string]any{}
		for i := 0; i < len(n.Content); i += 2 {
			key := n.Content[i]
			if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" {
				return nil, &nodeError{key.Line, "a key that is no string"}
			}
			if _, twice := m[key.Value]; twice {
				return nil, &nodeError{key.Line, fmt.Sprintf("%q is given twice", key.Value)}
			}
			v, err := jsonOf(n.Content[i+1], depth+1)
			if err != nil {
				return nil, err
			}
			m[key.Value] = v
		}
		return m, nil
	case yaml.SequenceNode:
		list := make([]any, 0, len(n.Content))
		for _, e := range n.Content {
			v, err := jsonOf(e, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	}
	if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		return n.Value, nil
	}
	switch n.Value {
	case "y", "Y", "yes", "Yes", "YES", "on", "On", "ON":
		return true, nil
	case "n", "N", "no", "No", "NO", "off", "Off", "OFF":
		return false, nil
	}
	switch n.Tag {
	case "!!null":
		return nil, nil
	case "!!bool", "!!int", "!!float":
		var v any
		if err := n.Decode(&v); err != nil {
			return nil, &nodeError{n.Line, fmt.Sprintf("%q cannot be read: %v", n.Value, err)}
		}
		if f, ok := v.(float64); ok && (math.IsInf(f, 0) || math.IsNaN(f)) {
			return nil, &nodeError{n.Line, fmt.Sprintf("%q is no number in JSON, put it in quotes", n.Value)}
		}
		return v, nil
	}
	return n.Value, nil
}

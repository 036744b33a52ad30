package patch

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"
	networking "istio.io/api/networking/v1alpha3"
	typev1beta1 "istio.io/api/type/v1beta1"
)

// rootNamespace is where objects are for the whole mesh.
const rootNamespace = "istio-system"

// gatewayLabel is on the pods of a gateway that was made for a Gateway of the Gateway API.
const gatewayLabel = "gateway.networking.k8s.io/gateway-name"

// maxProxyVersion is the length of the longest expression that Istio compiles.
const maxProxyVersion = 1024

// proxy is what the node of the bootstrap says about whose bootstrap it is.
type proxy struct {
	sidecar   bool
	namespace string            // "" if not known
	labels    map[string]string // nil if not known
	version   string
	metadata  map[string]*structpb.Value
}

func proxyOf(node *corev3.Node) (proxy, error) {
	p := proxy{metadata: node.GetMetadata().GetFields()}
	kind, rest, _ := strings.Cut(node.GetId(), "~")
	switch {
	case kind == "sidecar":
		p.sidecar = true
	case kind == "waypoint":
		return p, fmt.Errorf("node.id: %q is a waypoint, which is not simulated: want router~ or sidecar~", node.GetId())
	}
	// router~ADDRESS~NAME.NAMESPACE~DOMAIN
	if parts := strings.Split(rest, "~"); len(parts) == 3 {
		if _, namespace, ok := strings.Cut(parts[1], "."); ok {
			p.namespace = namespace
		}
	}
	if namespace := p.metadata["NAMESPACE"].GetStringValue(); namespace != "" {
		p.namespace = namespace
	}
	p.version = p.metadata["ISTIO_VERSION"].GetStringValue()
	if labels := p.metadata["LABELS"].GetStructValue(); labels != nil {
		p.labels = map[string]string{}
		for name, value := range labels.GetFields() {
			p.labels[name] = value.GetStringValue()
		}
	}
	return p, nil
}

// rejects says why an object is not for this proxy, "" if it is.
func (p proxy) rejects(o *object, selector map[string]string, targets []*typev1beta1.PolicyTargetReference) string {
	if p.namespace != "" && o.namespace != rootNamespace && o.namespace != p.namespace {
		return fmt.Sprintf("it is in the namespace %q, and the proxy in %q", o.namespace, p.namespace)
	}
	gateway, isGateway := p.labels[gatewayLabel]
	if len(targets) > 0 {
		if p.labels == nil {
			return ""
		}
		matches := func(t *typev1beta1.PolicyTargetReference) bool {
			return t.GetGroup() == "gateway.networking.k8s.io" && t.GetKind() == "Gateway" && t.GetName() == gateway &&
				(t.GetNamespace() == "" || t.GetNamespace() == p.namespace)
		}
		if !isGateway || o.namespace != p.namespace || !slices.ContainsFunc(targets, matches) {
			return "targetRefs names no Gateway of this proxy, whose label " + gatewayLabel + fmt.Sprintf(" is %q", gateway)
		}
		return ""
	}
	if p.labels == nil {
		return ""
	}
	for name, want := range selector {
		if got, ok := p.labels[name]; !ok || got != want {
			return fmt.Sprintf("its selector wants the label %s: %q, and the proxy's node.metadata.LABELS has %q", name, want, got)
		}
	}
	return ""
}

// rejectsPatch says why a patch is not for this proxy, "" if it is.
func (p proxy) rejectsPatch(m *networking.EnvoyFilter_ProxyMatch) string {
	if version := m.GetProxyVersion(); version != "" {
		switch {
		case len(version) > maxProxyVersion:
			return fmt.Sprintf("proxyVersion is longer than %d characters, which no proxy matches", maxProxyVersion)
		case p.version == "":
			return "it has a proxyVersion, and the bootstrap no node.metadata.ISTIO_VERSION"
		case !regexp.MustCompile(version).MatchString(p.version): // Read has compiled it
			return fmt.Sprintf("proxyVersion %q does not match %q", version, p.version)
		}
	}
	for name, want := range m.GetMetadata() {
		if got, ok := p.metadata[name].GetKind().(*structpb.Value_StringValue); !ok || got.StringValue != want {
			return fmt.Sprintf("the proxy's node.metadata.%s is not %q", name, want)
		}
	}
	return ""
}

package patch

import (
	"bytes"
	"regexp"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
)

// Render writes a bootstrap as YAML that Envoy and hostsim read, its fields in the order of their numbers.
func Render(b *bootstrapv3.Bootstrap) ([]byte, error) {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(b)
	if err != nil {
		return nil, err
	}
	var doc yaml.Node // JSON is YAML, and nodes keep the order of the keys
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	block(&doc)
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(&doc); err != nil {
		return nil, err
	}
	return out.Bytes(), encoder.Close()
}

// plain is what every reader of YAML takes for a string without quotes, if it is none of those words.
var (
	plain = regexp.MustCompile(`^[A-Za-z_/][A-Za-z0-9_./-]*$`)
	words = regexp.MustCompile(`(?i)^(y|n|yes|no|on|off|true|false|null)$`)
)

// block gives the nodes of JSON text the style of YAML.
func block(n *yaml.Node) {
	if n.Kind != yaml.ScalarNode {
		if len(n.Content) > 0 {
			n.Style = 0
		}
		for _, c := range n.Content {
			block(c)
		}
		return
	}
	if n.Style == yaml.DoubleQuotedStyle && plain.MatchString(n.Value) && !words.MatchString(n.Value) {
		n.Style = 0
	}
}

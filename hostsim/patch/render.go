package patch

import (
	"bytes"
	"fmt"
	"regexp"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
)

// Render writes a bootstrap as YAML that Envoy and hostsim read, its fields in the order in which Envoy declares them.
func Render(b *bootstrapv3.Bootstrap) ([]byte, error) {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(b)
	if err != nil {
		return nil, err
	}
	var doc yaml.Node // JSON is YAML but for these, and nodes keep the order of the keys
	text = notPrintable.ReplaceAllFunc(text, func(r []byte) []byte { return fmt.Appendf(nil, `\u%04x`, []rune(string(r))[0]) })
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

// notPrintable is what may stand in a JSON string, and not in YAML.
var notPrintable = regexp.MustCompile(`[\x7f-\x{9f}\x{2028}\x{2029}\x{feff}\x{fffe}\x{ffff}]`)

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

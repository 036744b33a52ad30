// Package bootstrap turns the text of an Envoy bootstrap into checked protocol buffers that know where they came from.
//
// Loading has four steps, each of which reports file, line and path of what it refuses:
//
//	text -> node tree (parse.go) -> messages (convert.go, any.go) -> Envoy's own constraints (validate.go)
//	     -> what the simulator does with it (supported.go)
//
// The text is read in Envoy's dialect, measured on Envoy 1.40.0: an object or scalar where a list is expected is a list of
// one; plain scalars are booleans, integers or strings as yaml-cpp reads them (y, yes and on are true, 010 is eight, 1.5 is
// a string until a field wants a number); there are no merge keys. In three places this package is stricter than Envoy: a
// field given twice, trailing commas in JSON, and aliases that contain themselves are errors.
//
// A path names fields as the protocol buffers do, whatever spelling the text uses, and goes through typed_config as if it
// were an ordinary message:
//
//	static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters[1].name
//	static_resources.clusters[0].typed_extension_protocol_options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
package bootstrap

//go:generate go run types_gen.go
//go:generate go test -run TestTheListInTheDocumentsIsThatOfTheCode -update

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Bootstrap is a checked envoy.config.bootstrap.v3.Bootstrap with the source positions of its fields.
// It is immutable and safe for concurrent use; so must be what Proto and Unpack hand out.
type Bootstrap struct {
	files     []string
	proto     *bootstrapv3.Bootstrap
	positions map[string]position
	messages  map[*anypb.Any]proto.Message
}

// position is a place in one of the texts, line and column counted from 1.
type position struct{ text, line, column int }

// Text is a bootstrap as text.
type Text struct {
	Name string // in errors; what ends in .json is JSON, all else is YAML
	Data []byte
}

// LoadFile reads and loads the bootstrap in the named file.
//
// As in Envoy the extension says what is in it: .yaml and .yml are YAML, .json is JSON. Everything else is refused; Envoy would
// read it as JSON. Errors are those of Load; a file that cannot be read is an *Error without a line.
func LoadFile(name string) (*Bootstrap, error) {
	text, err := ReadFile(name)
	if err != nil {
		return nil, err
	}
	return Load(text.Name, text.Data)
}

// ReadFile reads a bootstrap without loading it.
func ReadFile(name string) (Text, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		var pathErr *fs.PathError
		if errors.As(err, &pathErr) {
			err = pathErr.Err
		}
		return Text{}, &Error{File: name, Msg: err.Error()}
	}
	switch ext := filepath.Ext(name); ext {
	case ".yaml", ".yml", ".json":
		return Text{name, data}, nil
	default:
		return Text{}, &UnsupportedError{File: name, What: "a bootstrap file with the extension " + quote(ext) + ", name it .yaml, .yml or .json"}
	}
}

// Load parses data and refuses what the simulator does not simulate.
//
// The name is used in errors; if it ends in .json, data is JSON, otherwise YAML. What Envoy would refuse too is an *Error, what is
// valid Envoy but not simulated an *UnsupportedError, of which the first in document order is returned.
func Load(name string, data []byte) (*Bootstrap, error) {
	b, err := Parse(Text{name, data})
	if err != nil {
		return nil, err
	}
	if unsupported := b.CheckSupported(); len(unsupported) > 0 {
		return nil, unsupported[0]
	}
	return b, nil
}

// Parse is Load without the last step: the result may hold what the simulator does not simulate, see [Bootstrap.CheckSupported].
//
// Of several texts each is merged into those before, as Envoy merges --config-yaml into the file: a list grows, a message is merged
// field by field, an entry of a map and everything else is replaced. A zero, false or "" replaces nothing.
func Parse(texts ...Text) (*Bootstrap, error) {
	c := converter{
		positions: map[string]position{},
		messages:  map[*anypb.Any]proto.Message{},
	}
	b := &Bootstrap{proto: &bootstrapv3.Bootstrap{}, positions: c.positions, messages: c.messages}
	for i, text := range texts {
		root, err := parse(text.Name, text.Data)
		if err != nil {
			return nil, err
		}
		b.files = append(b.files, text.Name)
		c.file, c.text = text.Name, i
		c.budget = 4*len(text.Data) + 1<<16 // a node without aliases takes a byte and is entered up to four times
		if err := c.message(b.proto.ProtoReflect(), root, "", 0); err != nil {
			return nil, err
		}
	}
	if err := b.validate(c.anys); err != nil {
		return nil, err
	}
	return b, nil
}

// Proto returns the bootstrap message. It must not be changed.
func (b *Bootstrap) Proto() *bootstrapv3.Bootstrap { return b.proto }

// Position returns the line, counted from 1, of the field or list element at path, or of its nearest ancestor that stands in the text.
func (b *Bootstrap) Position(path string) (line int) { return b.position(path).line }

func (b *Bootstrap) position(path string) position {
	for {
		if p, ok := b.positions[path]; ok {
			return p
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			return b.positions[""]
		}
		path = path[:cut]
	}
}

// Unpack returns the message inside a. The path is that of a and is used in the error only.
//
// For an Any that Load made, TypedStructs converted, this is the very message that was checked, not a copy: it must not be changed.
func (b *Bootstrap) Unpack(a *anypb.Any, path string) (proto.Message, error) {
	if m, ok := b.messages[a]; ok {
		return m, nil
	}
	if a.GetTypeUrl() == "" {
		return nil, b.Errorf(path, "is required")
	}
	m, err := a.UnmarshalNew()
	if err != nil {
		return nil, b.Errorf(path, "%q cannot be read: %v", a.GetTypeUrl(), err)
	}
	return m, nil
}

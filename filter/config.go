package filter

import (
	"strconv"
	"strings"
)

// What a configuration that does not say otherwise means.
const (
	DefaultRouteHeader   = "x-upgrade-route"
	DefaultClusterHeader = "x-upgrade-cluster"
	DefaultFilterState   = "switchyard.route"
)

// Config is a checked configuration. Get one from ParseConfig; it is not to be changed afterwards and may be shared.
type Config struct {
	// Rules in order: the first that matches wins. There is at least one.
	Rules    []Rule
	Metadata Metadata
}

// Rule says which upgrades it wants and what their route is called.
type Rule struct {
	// Name is a token (RFC 9110 5.6.2) that no other rule has: the value of the route header and of the filter state.
	Name string
	// Protocol is the protocol wanted; without a version, any version of it.
	Protocol Protocol
	// PathPrefix is the beginning of the paths wanted, compared byte for byte with ":path" without its query, as Envoy's
	// prefix matcher does: "/ws" matches "/wsx" too, and nothing is decoded. Empty for any path.
	PathPrefix string
	// Cluster is the value of the cluster header, or empty for no such header.
	Cluster string
}

// Metadata names what tells the host's routes about a routed upgrade. An empty name switches that one off.
type Metadata struct {
	// RouteHeader and ClusterHeader are names of request header fields, in lower case.
	RouteHeader, ClusterHeader string
	// FilterState is the key given to set_property; Envoy's filter state calls it "wasm." and the key.
	FilterState string
}

// ConfigError says what is wrong with a configuration, and where: a Path such as "rules[2].protocol" to the value, or
// Line and Column (from 1, in characters) where the text is not JSON.
type ConfigError struct {
	Path         string
	Line, Column int
	Problem      string
}

func (e *ConfigError) Error() string {
	switch {
	case e.Line > 0:
		return "line " + strconv.Itoa(e.Line) + ", column " + strconv.Itoa(e.Column) + ": " + e.Problem
	case e.Path != "":
		return e.Path + ": " + e.Problem
	default:
		return e.Problem
	}
}

// ParseConfig reads a configuration; the package comment describes it. Empty text means "{}".
//
// Whatever is wrong, an unknown key included, is a *ConfigError.
func ParseConfig(text []byte) (*Config, error) {
	root := jsonValue{kind: jsonObject}
	if trimmed := strings.Trim(string(text), " \t\r\n"); trimmed != "" {
		var err error
		if root, err = parseJSON(string(text)); err != nil {
			if e, ok := err.(*ConfigError); ok && trimmed[0] != '{' {
				e.Problem += "; a configuration is a JSON object, in Envoy as text in a google.protobuf.StringValue (a Struct arrives in binary)"
			}
			return nil, err
		}
	}
	c := &Config{}
	o := openObject(root, "", "rules", "metadata")
	c.Metadata = readMetadata(o)
	rules := o.array("rules")
	for i, v := range rules {
		path := "rules[" + strconv.Itoa(i) + "]"
		rule, err := readRule(v, path)
		if err != nil {
			o.fail(err)
			break
		}
		for j := range c.Rules {
			if c.Rules[j].Name == rule.Name {
				o.fail(&ConfigError{Path: path + ".name", Problem: strconv.Quote(rule.Name) + " is the name of rules[" +
					strconv.Itoa(j) + "] already; give each rule a name of its own"})
			}
		}
		c.Rules = append(c.Rules, rule)
	}
	if o.err != nil {
		return nil, o.err
	}
	if rules == nil {
		c.Rules = []Rule{{Name: "websocket", Protocol: Protocol{Name: "websocket"}}}
	}
	return c, nil
}

func readRule(v jsonValue, path string) (Rule, error) {
	o := openObject(v, path, "name", "protocol", "path_prefix", "cluster")
	var r Rule
	protocol, given := o.string("protocol")
	if !given {
		o.reject("", `has no "protocol"; name the one it is for, such as "websocket"`)
	} else if p, ok := ParseProtocol(protocol); !ok {
		o.reject("protocol", strconv.Quote(protocol)+` is not a protocol name, optionally with "/" and a version`)
	} else if protocol == "*" {
		o.reject("protocol", `"*" is not a protocol; name the one this rule is for`)
	} else if neverRouted(p) {
		o.reject("protocol", strconv.Quote(protocol)+` is never routed: servers ignore offers of h2c (RFC 9113 3.1) and TLS, and Envoy drops them`)
	} else {
		r.Protocol, r.Name = p, lowerString(p.Name)
	}
	if name, ok := o.string("name"); ok {
		if !isToken(name) {
			o.reject("name", strconv.Quote(name)+" is not a token; use letters, digits, \"-\", \"_\" and \".\"")
		}
		r.Name = name
	}
	if prefix, ok := o.string("path_prefix"); ok {
		if !strings.HasPrefix(prefix, "/") {
			o.reject("path_prefix", strconv.Quote(prefix)+` does not begin with "/"`)
		} else if !isVisible(prefix) || strings.ContainsAny(prefix, "?#") {
			o.reject("path_prefix", strconv.Quote(prefix)+` can match no path: "?", "#", spaces and what is not ASCII do not occur in one`)
		}
		r.PathPrefix = prefix
	}
	if cluster, ok := o.string("cluster"); ok {
		if cluster == "" || !isVisible(cluster) {
			o.reject("cluster", strconv.Quote(cluster)+" is not a cluster name; it is one or more visible ASCII characters")
		}
		r.Cluster = cluster
	}
	return r, o.err
}

// readMetadata reads the member "metadata" of the configuration; what is wrong with it is root's error.
func readMetadata(root *object) Metadata {
	m := Metadata{DefaultRouteHeader, DefaultClusterHeader, DefaultFilterState}
	v, ok := root.get("metadata")
	if !ok {
		return m
	}
	o := openObject(v, "metadata", "route_header", "cluster_header", "filter_state")
	if name, ok := o.string("route_header"); ok {
		o.checkHeaderName("route_header", name)
		m.RouteHeader = name
	}
	if name, ok := o.string("cluster_header"); ok {
		o.checkHeaderName("cluster_header", name)
		m.ClusterHeader = name
	}
	if m.RouteHeader != "" && sameSpelling(m.RouteHeader, m.ClusterHeader) {
		o.reject("cluster_header", strconv.Quote(m.ClusterHeader)+" is the name of route_header too")
	}
	if key, ok := o.string("filter_state"); ok {
		for i := 0; i < len(key); i++ {
			if c := lower(key[i]); !('a' <= c && c <= 'z') && !isDigit(c) && c != '.' && c != '_' && c != '-' {
				o.reject("filter_state", strconv.Quote(key)+` is not a key; use letters, digits, ".", "_" and "-"`)
				break
			}
		}
		m.FilterState = key
	}
	root.fail(o.err)
	return m
}

// checkHeaderName refuses a name that is no field name in lower case, and those of fields that are not ours to remove
// from each request.
func (o *object) checkHeaderName(key, name string) {
	if name == "" {
		return
	}
	if !isToken(name) || lowerString(name) != name {
		o.reject(key, strconv.Quote(name)+" is not a header field name in lower case")
		return
	}
	for _, taken := range [...]string{
		"host", "connection", "upgrade", "keep-alive", "te", "trailer", "transfer-encoding", "http2-settings", "expect",
		"authorization", "cookie", "date", "forwarded", "origin", "via", "user-agent", "accept", "range", "x-request-id",
		OfferedHeader, FramingHeader,
	} {
		if sameSpelling(name, taken) {
			o.reject(key, strconv.Quote(name)+" has a meaning of its own; choose a name that nobody else uses")
			return
		}
	}
	for _, taken := range [...]string{"content-", "proxy-", "sec-", "x-forwarded-"} {
		if len(name) >= len(taken) && sameSpelling(name[:len(taken)], taken) {
			o.reject(key, strconv.Quote(name)+" has a meaning of its own; choose a name that nobody else uses")
			return
		}
	}
}

// object reads the members of a JSON object and keeps the first thing that is wrong with them.
type object struct {
	path    string
	members []jsonMember
	err     error
}

// openObject checks that v is an object with no other keys than these.
func openObject(v jsonValue, path string, keys ...string) *object {
	o := &object{path: path, members: v.members}
	if v.kind != jsonObject {
		o.reject("", "found "+v.kind.String()+", want an object")
	}
members:
	for i := range v.members {
		for _, key := range keys {
			if v.members[i].key == key {
				continue members
			}
		}
		problem := "unknown key"
		if near := nearest(v.members[i].key, keys); near != "" {
			problem += ", did you mean " + strconv.Quote(near) + "?"
		} else {
			problem += `; known are "` + strings.Join(keys, `", "`) + `"`
		}
		o.reject(v.members[i].key, problem)
	}
	return o
}

func (o *object) get(key string) (jsonValue, bool) {
	for i := range o.members {
		if o.members[i].key == key {
			return o.members[i].value, true
		}
	}
	return jsonValue{}, false
}

func (o *object) string(key string) (string, bool) {
	v, ok := o.get(key)
	if ok && v.kind != jsonString {
		o.reject(key, "found "+v.kind.String()+", want a string")
		return "", false
	}
	return v.text, ok
}

// array returns the items of an array that must not be empty, or nil if the key is not there.
func (o *object) array(key string) []jsonValue {
	v, ok := o.get(key)
	if ok && v.kind != jsonArray {
		o.reject(key, "found "+v.kind.String()+", want an array")
	} else if ok && len(v.items) == 0 {
		o.reject(key, "is empty; leave it out for the default")
	}
	return v.items
}

// reject records what is wrong with the member, or with the object itself if key is empty.
func (o *object) reject(key, problem string) {
	path := o.path
	if key != "" {
		if !isPlainKey(key) {
			key = strconv.QuoteToASCII(key)
		}
		if path != "" {
			path += "."
		}
		path += key
	}
	o.fail(&ConfigError{Path: path, Problem: problem})
}

// fail keeps the first error.
func (o *object) fail(err error) {
	if o.err == nil {
		o.err = err
	}
}

// isPlainKey reports whether a key can stand in a path as it is.
func isPlainKey(key string) bool {
	return isToken(key) && len(key) <= 64
}

// isVisible reports whether s is visible ASCII only: no space, no control character, nothing above 0x7e.
func isVisible(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// nearest returns the key that differs from the given one in no more than two characters, or "".
func nearest(key string, keys []string) string {
	best, least := "", 3
	for _, k := range keys {
		if n := distance(lowerString(key), k); n < least {
			best, least = k, n
		}
	}
	return best
}

// distance is how many characters must be inserted, deleted or replaced to make one of the other.
func distance(a, b string) int {
	if len(a) > len(b)+2 || len(b) > len(a)+2 {
		return 3 // further than anybody asks for
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replaced := diagonal
			if a[i-1] != b[j-1] {
				replaced++
			}
			diagonal = row[j]
			row[j] = min(replaced, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}

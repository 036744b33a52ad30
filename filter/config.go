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

// Limits of a configuration, so that neither checking it nor matching a request takes long.
const (
	maxRules   = 256 // rules
	maxEntries = 256 // entries of a list in a rule
	maxName    = 64  // characters of a name or version that becomes part of a counter
)

// Config is a checked configuration. Get one from ParseConfig; it is not to be changed afterwards and may be shared.
type Config struct {
	// Rules in order: the first that matches wins. There is at least one.
	Rules []Rule
	// Default is what an offered upgrade gets that no rule matches: Ignore or Refuse.
	Default Action
	// CheckHandshake says whether routed WebSockets are held to RFC 6455 4.2.1, or that is left to the server.
	CheckHandshake bool
	Metadata       Metadata
}

// Spoofable returns the names of the header fields, in lower case, that only this filter may set. Decide removes a
// client's copies in every spelling that the next server could fold.
func (c *Config) Spoofable() (names []string) {
	for _, name := range [...]string{c.Metadata.RouteHeader, c.Metadata.ClusterHeader} {
		if name != "" {
			names = append(names, name)
		}
	}
	return names
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
	o := openObject(root, "", "rules", "default", "handshake", "metadata")
	c := &Config{Default: Ignore, Metadata: readMetadata(o)}
	if o.word("default", "ignore", "refuse") == "refuse" {
		c.Default = Refuse
	}
	c.CheckHandshake = o.word("handshake", "trust", "check") == "check"
	rules := o.array("rules", maxRules)
	for i, v := range rules {
		path := "rules[" + strconv.Itoa(i) + "]"
		rule, err := readRule(v, path)
		if err == nil {
			err = c.accept(rule, path)
		}
		if err != nil {
			o.fail(err)
			break
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

// accept says what is wrong with a rule behind those that c has already.
func (c *Config) accept(rule Rule, path string) error {
	if rule.Cluster != "" && c.Metadata.ClusterHeader == "" {
		return &ConfigError{Path: path + ".cluster", Problem: "does nothing, as metadata.cluster_header is switched off"}
	}
	for i := range c.Rules {
		if c.Rules[i].Name == rule.Name {
			return &ConfigError{Path: path + ".name", Problem: strconv.Quote(rule.Name) + " is the name of rules[" +
				strconv.Itoa(i) + "] already; give each rule a name of its own"}
		}
	}
	for i := range c.Rules {
		if c.Rules[i].covers(&rule) {
			return &ConfigError{Path: path, Problem: "is never reached: rules[" + strconv.Itoa(i) + "] (" +
				strconv.Quote(c.Rules[i].Name) + ") matches all that it would; put the narrower rule first, or remove one"}
		}
	}
	return nil
}

func readRule(v jsonValue, path string) (Rule, error) {
	o := openObject(v, path, "name", "protocol", "hosts", "path", "path_prefix", "origins", "absent_origin", "subprotocols",
		"action", "cluster", "status")
	var r Rule
	switch o.word("action", "route", "refuse", "ignore") {
	case "refuse":
		r.Action, r.Status = Refuse, 403
	case "ignore":
		r.Action = Ignore
	}
	o.readProtocol(&r)
	if name, ok := o.string("name"); ok {
		if !isRuleName(name) {
			o.reject("name", strconv.Quote(name)+" is no name; use 1 to 64 letters, digits, \"-\" and \"_\", and no \"-\" in front")
		}
		r.Name = name
	} else if !isRuleName(r.Name) {
		o.reject("", "has no \"name\", and that of its protocol is none; use letters, digits, \"-\" and \"_\"")
	}
	for i, host := range o.strings("hosts") {
		if problem := hostProblem(host); problem != "" {
			o.rejectItem("hosts", i, strconv.Quote(host)+problem)
		}
		r.Hosts = append(r.Hosts, lowerString(host))
	}
	r.Path, r.PathPrefix = o.requestPath("path"), o.requestPath("path_prefix")
	if r.Path != "" && r.PathPrefix != "" {
		o.reject("path", `contradicts "path_prefix"; give one of the two`)
	}
	for i, text := range o.strings("origins") {
		origin, problem := readOrigin(text)
		if problem != "" {
			o.rejectItem("origins", i, strconv.Quote(text)+problem)
		}
		r.Origins = append(r.Origins, origin)
	}
	if absent, ok := o.bool("absent_origin"); !ok {
		r.AbsentOrigin = r.Action == Route && len(r.Origins) > 0
	} else if r.AbsentOrigin = absent; len(r.Origins) == 0 {
		o.reject("absent_origin", `does nothing without "origins"`)
	}
	for i, s := range o.strings("subprotocols") {
		if !isToken(s) {
			o.rejectItem("subprotocols", i, strconv.Quote(s)+" is not a token")
		}
		r.Subprotocols = append(r.Subprotocols, s)
	}
	if r.Subprotocols != nil && !r.anyProtocol() && r.Protocol.Name != "websocket" {
		o.reject("subprotocols", "contradicts "+strconv.Quote(r.Protocol.String())+": only a websocket has subprotocols")
	}
	if cluster, ok := o.string("cluster"); ok {
		if cluster == "" || !isVisible(cluster) {
			o.reject("cluster", strconv.Quote(cluster)+" is not a cluster name; it is one or more visible ASCII characters")
		} else if r.Action != Route {
			o.reject("cluster", "contradicts action "+strconv.Quote(r.Action.String())+": only what is routed has a cluster")
		}
		r.Cluster = cluster
	}
	if status, ok := o.number("status"); ok {
		n, err := strconv.Atoi(status)
		if err != nil || n < 400 || n > 599 {
			o.reject("status", status+" is no status of a refusal; it is a whole number from 400 to 599")
		} else if r.Action != Refuse {
			o.reject("status", "contradicts action "+strconv.Quote(r.Action.String())+`: only "refuse" has a status`)
		}
		r.Status = n
	}
	return r, o.err
}

// readProtocol reads a rule's protocol, and its name in case that it is given none.
func (o *object) readProtocol(r *Rule) {
	protocol, given := o.string("protocol")
	p, ok := ParseProtocol(lowerString(protocol))
	switch {
	case !given:
		o.reject("", `has no "protocol"; name the one it is for, such as "websocket", or "*" for any`)
	case !ok || protocol != "*" && (!isProtocolWord(p.Name) || p.Version != "" && !isProtocolWord(p.Version)):
		o.reject("protocol", strconv.Quote(protocol)+` is not a protocol name, optionally with "/" and a version; use letters, digits, ".", "_", "+" and "-", or "*" for any protocol`)
	case neverRouted(p) && r.Action == Route:
		o.reject("protocol", strconv.Quote(protocol)+` is never routed: servers ignore offers of h2c (RFC 9113 3.1) and TLS, and Envoy drops them`)
	default:
		r.Protocol, r.Name = p, p.Name
		if r.anyProtocol() {
			r.Name = "any"
		}
	}
}

// requestPath reads a path or its beginning.
func (o *object) requestPath(key string) string {
	path, ok := o.string(key)
	if !ok {
		return ""
	}
	if !strings.HasPrefix(path, "/") {
		o.reject(key, strconv.Quote(path)+` does not begin with "/"`)
	} else if !isVisible(path) || strings.ContainsAny(path, "?#") {
		o.reject(key, strconv.Quote(path)+` can match no path: "?", "#", spaces and what is not ASCII do not occur in one`)
	}
	return path
}

// hostProblem says what is wrong with an entry of "hosts", or "".
func hostProblem(s string) string {
	name := strings.TrimPrefix(s, "*.")
	switch host, port, ok := parseAuthority(name); {
	case s == "*":
		return ` is any host; leave "hosts" out for that`
	case isHost("[" + s + "]"):
		return " is an IPv6 address, which stands in brackets here"
	case !ok || name != s && name[0] == '[':
		return ` is no host; it is a name, an IP address, or "*." and the end of a name (in ASCII, as "xn--...")`
	case port != "" || name[len(name)-1] == ':':
		return " has a port, which is not compared; leave it out"
	case host != name:
		return " ends with a dot, which is not compared; leave it out"
	}
	return ""
}

// readOrigin reads an entry of "origins", and says what is wrong with it.
func readOrigin(s string) (o Origin, problem string) {
	const shape = ` is no origin; it is scheme://host or scheme://host:port, with "*." and the end of a name for all hosts below it, "*." and that alone for all schemes and ports, "null" or "same-origin"`
	switch {
	case s == "null":
		return nullOrigin, ""
	case s == "same-origin":
		return sameOrigin, ""
	case s == "*":
		return o, ` is any origin; leave "origins" out for that`
	case strings.HasPrefix(s, "*."):
		if hostProblem(s) != "" {
			return o, shape
		}
		return Origin{Host: lowerString(s)}, ""
	}
	s = lowerString(s)
	scheme, authority, _ := strings.Cut(s, "://")
	rest := strings.TrimPrefix(authority, "*.")
	o, ok := parseOrigin(scheme + "://" + rest)
	if !ok || rest != authority && rest[0] == '[' || strings.HasSuffix(rest, ":") {
		return o, shape
	}
	o.Host = authority[:len(authority)-len(rest)] + o.Host
	return o, ""
}

// isRuleName reports whether s can be the name of a rule: of a part of a counter's name as well, so without a dot; and "-"
// is no name.
func isRuleName(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := lower(s[i]); !isDigit(c) && ('a' > c || c > 'z') && c != '_' && (c != '-' || i == 0) {
			return false
		}
	}
	return s != "" && len(s) <= maxName
}

// isProtocolWord reports whether s can be a protocol's name or version in a rule. A token may have further characters,
// but no protocol does, and some mean something to what reads counters.
func isProtocolWord(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := lower(s[i]); !isDigit(c) && ('a' > c || c > 'z') && c != '.' && c != '_' && c != '+' && c != '-' {
			return false
		}
	}
	return s != "" && len(s) <= maxName
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

// array returns the items of an array that has 1 to most of them, or nil if the key is not there.
func (o *object) array(key string, most int) []jsonValue {
	v, ok := o.get(key)
	if ok && v.kind != jsonArray {
		o.reject(key, "found "+v.kind.String()+", want an array")
	} else if ok && len(v.items) == 0 {
		o.reject(key, "is empty; leave it out for the default")
	} else if len(v.items) > most {
		o.reject(key, "has "+strconv.Itoa(len(v.items))+" entries; at most "+strconv.Itoa(most)+" are taken")
		return nil
	}
	return v.items
}

// strings returns the entries of an array of different strings.
func (o *object) strings(key string) (entries []string) {
	for i, item := range o.array(key, maxEntries) {
		if item.kind != jsonString {
			o.rejectItem(key, i, "found "+item.kind.String()+", want a string")
			return nil
		}
		for _, e := range entries {
			if e == item.text {
				o.rejectItem(key, i, strconv.Quote(e)+" stands here a second time")
			}
		}
		entries = append(entries, item.text)
	}
	return entries
}

// word returns a string that is one of the words; the first of them if the key is not there.
func (o *object) word(key string, words ...string) string {
	s, ok := o.string(key)
	if !ok {
		return words[0]
	}
	for _, w := range words {
		if s == w {
			return s
		}
	}
	o.reject(key, "found "+strconv.Quote(s)+", want one of \""+strings.Join(words, `", "`)+`"`)
	return words[0]
}

func (o *object) bool(key string) (value, ok bool) {
	v, ok := o.get(key)
	if ok && v.kind != jsonBool {
		o.reject(key, "found "+v.kind.String()+", want true or false")
		return false, false
	}
	return v.text == "true", ok
}

// number returns a number as it is written.
func (o *object) number(key string) (string, bool) {
	v, ok := o.get(key)
	if ok && v.kind != jsonNumber {
		o.reject(key, "found "+v.kind.String()+", want a number")
		return "", false
	}
	return v.text, ok
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

// rejectItem records what is wrong with an item of the member, an array.
func (o *object) rejectItem(key string, i int, problem string) {
	o.fail(&ConfigError{Path: o.path + "." + key + "[" + strconv.Itoa(i) + "]", Problem: problem})
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

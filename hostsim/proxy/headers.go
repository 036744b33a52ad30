package proxy

import (
	"slices"
	"strings"
)

// field is one entry of a header map.
type field struct{ name, value string }

// Headers is a header map as Envoy keeps it (HeaderMapImpl): lower-case names,
// pseudo headers first, wire order otherwise, and one entry for each inline
// header, whose repeated lines are joined with a bare comma.
//
// It implements vm.HeaderMap. Strings handed to Add and Replace are kept;
// those that come from guest memory are copied by the wasm filter before.
type Headers struct {
	fields []field
	pseudo int             // how many of fields, from the front, are pseudo headers
	inline map[string]bool // names that are joined; shared, never written

	spelling *spelling // of the names, where it is kept
}

// Inline headers of request and response maps, as Envoy 1.40 prints them when
// it starts ("request header map: ...").
var (
	requestInline  = inlineSet(":authority,:method,:path,:protocol,:scheme,accept,accept-encoding,access-control-request-headers,access-control-request-method,access-control-request-private-network,authentication,authorization,cache-control,cdn-loop,connection,content-encoding,content-length,content-type,expect,grpc-accept-encoding,grpc-timeout,if-match,if-modified-since,if-none-match,if-range,if-unmodified-since,keep-alive,origin,pragma,proxy-connection,proxy-status,referer,te,transfer-encoding,upgrade,user-agent,via,x-client-trace-id,x-envoy-attempt-count,x-envoy-decorator-operation,x-envoy-downstream-service-cluster,x-envoy-downstream-service-node,x-envoy-expected-rq-timeout-ms,x-envoy-external-address,x-envoy-force-trace,x-envoy-hedge-on-per-try-timeout,x-envoy-internal,x-envoy-ip-tags,x-envoy-is-timeout-retry,x-envoy-max-retries,x-envoy-original-host,x-envoy-original-path,x-envoy-original-url,x-envoy-retriable-header-names,x-envoy-retriable-status-codes,x-envoy-retry-grpc-on,x-envoy-retry-on,x-envoy-upstream-alt-stat-name,x-envoy-upstream-rq-per-try-timeout-ms,x-envoy-upstream-rq-timeout-alt-response,x-envoy-upstream-rq-timeout-ms,x-envoy-upstream-stream-duration-ms,x-forwarded-client-cert,x-forwarded-for,x-forwarded-host,x-forwarded-port,x-forwarded-proto,x-request-id")
	responseInline = inlineSet(":status,access-control-allow-credentials,access-control-allow-headers,access-control-allow-methods,access-control-allow-origin,access-control-allow-private-network,access-control-expose-headers,access-control-max-age,age,cache-control,connection,content-encoding,content-length,content-type,date,etag,expires,grpc-message,grpc-status,keep-alive,last-modified,location,proxy-connection,proxy-status,server,transfer-encoding,upgrade,vary,via,x-envoy-attempt-count,x-envoy-decorator-operation,x-envoy-degraded,x-envoy-immediate-health-check-fail,x-envoy-ratelimited,x-envoy-upstream-canary,x-envoy-upstream-healthchecked-cluster,x-envoy-upstream-service-time,x-request-id")
)

func inlineSet(names string) map[string]bool {
	set := map[string]bool{}
	for name := range strings.SplitSeq(names, ",") {
		set[name] = true
	}
	return set
}

// reset empties the map and keeps its memory.
func (h *Headers) reset(inline map[string]bool) {
	clear(h.fields)
	h.fields, h.pseudo, h.inline, h.spelling = h.fields[:0], 0, inline, nil
}

func (h *Headers) Len() int { return len(h.fields) }

func (h *Headers) At(i int) (name, value string) {
	f := &h.fields[i]
	return f.name, f.value
}

// find returns the index of the first field with the name, which is
// lower-case, or -1.
func (h *Headers) find(name string) int {
	for i := range h.fields {
		if h.fields[i].name == name {
			return i
		}
	}
	return -1
}

// Get returns the value of the first field with the name.
func (h *Headers) Get(name string) (string, bool) {
	if i := h.find(h.canonical(name)); i >= 0 {
		return h.fields[i].value, true
	}
	return "", false
}

// value is Get for a lower-case name; it returns "" for an absent field.
func (h *Headers) value(name string) string {
	if i := h.find(name); i >= 0 {
		return h.fields[i].value
	}
	return ""
}

func (h *Headers) has(name string) bool { return h.find(name) >= 0 }

// Add appends a field; an inline header that is there already is joined.
func (h *Headers) Add(name, value string) {
	name = h.canonical(name)
	if h.inline[name] {
		if i := h.find(name); i >= 0 {
			f := &h.fields[i]
			switch {
			case value == "":
			case f.value == "":
				f.value = value
			default:
				f.value += "," + value
			}
			return
		}
	}
	h.insert(name, value)
}

func (h *Headers) insert(name, value string) {
	if name == "" || name[0] != ':' {
		h.fields = append(h.fields, field{name, value})
		return
	}
	h.fields = append(h.fields, field{})
	copy(h.fields[h.pseudo+1:], h.fields[h.pseudo:])
	h.fields[h.pseudo] = field{name, value}
	h.pseudo++
}

// Replace removes every field of that name and appends one.
func (h *Headers) Replace(name, value string) {
	name = h.canonical(name)
	h.remove(name)
	h.insert(name, value)
}

// set overwrites the first field of that name where it stands, or appends
// one: what Envoy's own code does to inline headers.
func (h *Headers) set(name, value string) {
	if i := h.find(name); i >= 0 {
		h.fields[i].value = value
		return
	}
	h.insert(name, value)
}

// Remove removes every field of that name.
func (h *Headers) Remove(name string) { h.remove(h.canonical(name)) }

func (h *Headers) remove(name string) {
	i := h.find(name)
	if i < 0 {
		return
	}
	kept := h.fields[:i]
	for _, f := range h.fields[i:] {
		if f.name != name {
			kept = append(kept, f)
		} else if f.name != "" && f.name[0] == ':' {
			h.pseudo--
		}
	}
	clear(h.fields[len(kept):])
	h.fields = kept
}

// removeAt removes one field.
func (h *Headers) removeAt(i int) {
	if i < h.pseudo {
		h.pseudo--
	}
	h.fields = slices.Delete(h.fields, i, i+1)
}

func (h *Headers) Clear() { h.reset(h.inline) }

// byteSize is what Envoy calls the byte size of a map: names and values.
func (h *Headers) byteSize() int {
	n := 0
	for _, f := range h.fields {
		n += len(f.name) + len(f.value)
	}
	return n
}

// canonical gives a field of the map its name; only a request's Host is a
// pseudo header.
func (h *Headers) canonical(name string) string {
	if name == "host" && !h.inline[":authority"] {
		return name
	}
	return canonical(name)
}

// canonical returns the lower-case form of a name, and :authority for host,
// which Envoy maps to it. It allocates only for a name with upper case.
func canonical(name string) string {
	for i := 0; i < len(name); i++ {
		if c := name[i]; 'A' <= c && c <= 'Z' {
			name = lower(name)
			break
		}
	}
	if name == "host" {
		return ":authority"
	}
	return name
}

func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// equalFold compares ASCII without regard to case. strings.EqualFold would
// also fold U+017F and U+212A, which no protocol token may contain.
func equalFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := 0; i < len(a); i++ {
		x, y := a[i], b[i]
		if x == y {
			continue
		}
		if x|0x20 != y|0x20 || x|0x20 < 'a' || x|0x20 > 'z' {
			return false
		}
	}
	return true
}

// nextToken cuts the next comma-separated token from list, trimmed of SP and
// HTAB.
func nextToken(list string) (token, rest string, more bool) {
	token, rest, more = strings.Cut(list, ",")
	return strings.Trim(token, " \t"), rest, more
}

// hasToken says whether a comma-separated list contains the token in any case.
func hasToken(list, token string) bool {
	for more := true; more; {
		var t string
		t, list, more = nextToken(list)
		if equalFold(t, token) {
			return true
		}
	}
	return false
}

// isUpgrade is Envoy's Utility::isUpgrade: Upgrade is present, even empty, and
// Connection nominates it.
func isUpgrade(h *Headers) bool {
	return h.has("upgrade") && hasToken(h.value("connection"), "upgrade")
}

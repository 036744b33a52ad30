package proxy

import (
	"slices"
	"strings"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// headerEdits is what a route configuration, virtual host, route or weighted
// cluster does to the heads that pass it.
type headerEdits struct{ request, response headerEdit }

// headerEdit is headers_to_remove and headers_to_add (Router::HeaderParser).
type headerEdit struct {
	remove []string
	add    []headerOption
}

type headerOption struct {
	name      string
	value     *format
	action    corev3.HeaderValueOption_HeaderAppendAction
	keepEmpty bool
}

// apply removes first. Then it decides what to add, all with the same view of
// the head, and overwrites before it appends.
func (e *headerEdit) apply(h *Headers, s *stream) {
	for _, name := range e.remove {
		h.remove(name)
	}
	if len(e.add) == 0 {
		return
	}
	s.additions = s.additions[:0]
	for i := range e.add {
		o := &e.add[i]
		if value, ok := o.text(h, s); ok {
			s.additions = append(s.additions, field{o.name, value})
		} else {
			s.additions = append(s.additions, field{})
		}
	}
	for i, f := range s.additions {
		if f.name != "" && e.add[i].overwrites() {
			h.Replace(f.name, f.value)
		}
	}
	for i, f := range s.additions {
		if f.name != "" && !e.add[i].overwrites() {
			h.Add(f.name, f.value)
		}
	}
}

func (o *headerOption) overwrites() bool {
	return o.action == corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD || o.action == corev3.HeaderValueOption_OVERWRITE_IF_EXISTS
}

// text is the value to write; ok is false where nothing is to be written.
func (o *headerOption) text(h *Headers, s *stream) (value string, ok bool) {
	switch o.action {
	case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS:
		if !h.has(o.name) {
			return "", false
		}
	case corev3.HeaderValueOption_ADD_IF_ABSENT:
		if h.has(o.name) {
			return "", false
		}
	}
	value = o.value.text(s, "")
	return value, value != "" || o.keepEmpty
}

// apply writes the header at once, as one step of a HeaderMutation.
func (o *headerOption) apply(h *Headers, s *stream) {
	value, ok := o.text(h, s)
	switch {
	case !ok:
	case o.overwrites():
		h.Replace(o.name, value)
	default:
		h.Add(o.name, value)
	}
}

// mutation is one step of a HeaderMutation: exactly one field is set.
type mutation struct {
	remove        string
	removeMatches func(name string) bool
	add           *headerOption
}

func (m *mutation) apply(h *Headers, s *stream) {
	switch {
	case m.add != nil:
		m.add.apply(h, s)
	case m.removeMatches != nil:
		for i := 0; i < h.Len(); {
			if name, _ := h.At(i); m.removeMatches(name) {
				h.remove(name)
			} else {
				i++
			}
		}
	default:
		h.remove(m.remove)
	}
}

// ---- from the configuration

// edited is what route configurations, virtual hosts, routes and weighted
// clusters have in common.
type edited interface {
	GetRequestHeadersToAdd() []*corev3.HeaderValueOption
	GetRequestHeadersToRemove() []string
	GetResponseHeadersToAdd() []*corev3.HeaderValueOption
	GetResponseHeadersToRemove() []string
}

func (b *builder) headerEdits(path string, c edited) (e headerEdits, err error) {
	if e.request, err = b.headerEdit(path+".request_headers_to", c.GetRequestHeadersToAdd(), c.GetRequestHeadersToRemove()); err != nil {
		return e, err
	}
	e.response, err = b.headerEdit(path+".response_headers_to", c.GetResponseHeadersToAdd(), c.GetResponseHeadersToRemove())
	return e, err
}

func (b *builder) headerEdit(path string, add []*corev3.HeaderValueOption, remove []string) (e headerEdit, err error) {
	for i, o := range add {
		path := index(path+"_add", i)
		if name := o.GetHeader().GetKey(); strings.HasPrefix(name, ":") || equalFold(name, "host") {
			return e, b.boot.Errorf(path+".header.key", ":-prefixed or host headers may not be modified, found %q: use the rewrites of the route", name)
		}
		option, err := b.headerOption(path, o)
		if err != nil {
			return e, err
		}
		e.add = append(e.add, option)
	}
	for i, name := range remove {
		if strings.HasPrefix(name, ":") || equalFold(name, "host") {
			return e, b.boot.Errorf(index(path+"_remove", i), ":-prefixed or host headers may not be removed, found %q", name)
		}
		e.remove = append(e.remove, lower(name))
	}
	return e, nil
}

func (b *builder) headerOption(path string, o *corev3.HeaderValueOption) (headerOption, error) {
	action := o.GetAppendAction()
	if append := o.GetAppend(); append != nil {
		if action != corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD {
			return headerOption{}, b.boot.Errorf(path+".append", "append and append_action are both given: keep append_action")
		}
		if !append.GetValue() {
			action = corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD
		}
	}
	value, err := b.format(path+".header.value", o.GetHeader().GetValue())
	return headerOption{name: canonical(o.GetHeader().GetKey()), value: value, action: action, keepEmpty: o.GetKeepEmptyValue()}, err
}

// mutations are the steps of a HeaderMutation.
func (b *builder) mutations(path string, list []*mutationv3.HeaderMutation) ([]mutation, error) {
	var steps []mutation
	for i, m := range list {
		path := index(path, i)
		switch action := m.GetAction().(type) {
		case *mutationv3.HeaderMutation_Remove:
			steps = append(steps, mutation{remove: canonical(action.Remove)})
		case *mutationv3.HeaderMutation_Append:
			add, err := b.headerOption(path+".append", action.Append)
			if err != nil {
				return nil, err
			}
			steps = append(steps, mutation{add: &add})
		case *mutationv3.HeaderMutation_RemoveOnMatch_:
			match, err := b.stringMatch(path+".remove_on_match.key_matcher", action.RemoveOnMatch.GetKeyMatcher())
			if err != nil {
				return nil, err
			}
			steps = append(steps, mutation{removeMatches: match})
		default:
			return nil, b.boot.Unsupported(path, "this header mutation")
		}
	}
	return steps, nil
}

// outwards gives the levels of edits in the order in which Envoy applies
// them: the most specific first, so that the least specific wins, unless
// most_specific_header_mutations_wins.
func outwards(mostSpecificWins bool, levels ...*headerEdits) []*headerEdits {
	levels = slices.DeleteFunc(levels, func(e *headerEdits) bool {
		return len(e.request.add)+len(e.request.remove)+len(e.response.add)+len(e.response.remove) == 0
	})
	if mostSpecificWins {
		slices.Reverse(levels)
	}
	return levels
}

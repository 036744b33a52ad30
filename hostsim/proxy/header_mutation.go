package proxy

import (
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// headerMutation is envoy.filters.http.header_mutation. It does not clear the
// route cache.
type headerMutation struct {
	passive
	stream  *stream
	factory *headerMutationFactory
	steps   []*headMutations // of the filter and then of the route's levels
}

type headerMutationFactory struct {
	headersOnly
	name             string
	mutations        *headMutations
	mostSpecificWins bool
}

// headMutations is what is done to heads.
type headMutations struct {
	request, response []mutation
	// Of trailers, where there are any.
	requestTrailers, responseTrailers []mutation
	query                             []queryMutation
}

type queryMutation struct {
	remove string // "": set
	name   string
	value  *format
	action corev3.KeyValueAppend_KeyValueAppendAction
}

func (f *headerMutationFactory) newFilter(s *stream) httpFilter {
	return &headerMutation{stream: s, factory: f}
}

// levels finds the route once, after the filter's own mutations. Its levels
// come from the most specific to the least, so that the least specific wins.
func (f *headerMutation) levels() []*headMutations {
	if f.steps == nil {
		f.steps = []*headMutations{}
		if r := f.stream.findRoute(); r != nil {
			for _, level := range r.filters {
				if m, ok := level[f.factory.name].config.(*headMutations); ok {
					f.steps = append(f.steps, m)
				}
			}
			if f.factory.mostSpecificWins {
				slices.Reverse(f.steps)
			}
		}
	}
	return f.steps
}

func (f *headerMutation) decodeHeaders(bool) status {
	f.factory.mutations.applyRequest(f.stream)
	for _, m := range f.levels() {
		m.applyRequest(f.stream)
	}
	return goOn
}

func (f *headerMutation) encodeHeaders(bool) status {
	f.mutate(&f.stream.response, func(m *headMutations) []mutation { return m.response })
	return goOn
}

// mutate applies the mutations that get gives, of the filter and of the route.
func (f *headerMutation) mutate(h *Headers, get func(*headMutations) []mutation) {
	apply := func(m *headMutations) {
		steps := get(m)
		for i := range steps {
			steps[i].apply(h, f.stream)
		}
	}
	apply(f.factory.mutations)
	for _, m := range f.levels() {
		apply(m)
	}
}

func (f *headerMutation) decodeTrailers() status {
	f.mutate(f.stream.decoding.trailers, func(m *headMutations) []mutation { return m.requestTrailers })
	return goOn
}

func (f *headerMutation) encodeTrailers() status {
	f.mutate(f.stream.encoding.trailers, func(m *headMutations) []mutation { return m.responseTrailers })
	return goOn
}

func (m *headMutations) applyRequest(s *stream) {
	for i := range m.request {
		m.request[i].apply(&s.request, s)
	}
	if len(m.query) > 0 && s.request.has(":path") {
		s.request.set(":path", m.mutateQuery(s))
	}
}

// mutateQuery writes the query anew, sorted by name. What was there is
// decoded and stays so, as in Envoy; what is added is encoded.
func (m *headMutations) mutateQuery(s *stream) string {
	path := s.request.value(":path")
	list := decodeQuery(path)
	for _, q := range m.query {
		named := func(p parameter) bool { return p.name == q.name }
		if q.remove != "" {
			list = slices.DeleteFunc(list, func(p parameter) bool { return p.name == q.remove })
			continue
		}
		there := slices.ContainsFunc(list, named)
		switch q.action {
		case corev3.KeyValueAppend_ADD_IF_ABSENT:
			if there {
				continue
			}
		case corev3.KeyValueAppend_OVERWRITE_IF_EXISTS:
			if !there {
				continue
			}
			list = slices.DeleteFunc(list, named)
		case corev3.KeyValueAppend_OVERWRITE_IF_EXISTS_OR_ADD:
			list = slices.DeleteFunc(list, named)
		}
		list = append(list, parameter{q.name, percentEncode(q.value.text(s, ""))})
	}
	slices.SortStableFunc(list, func(a, b parameter) int { return strings.Compare(a.name, b.name) })
	path, _, _ = strings.Cut(path, "?")
	for i, p := range list {
		separator := "&"
		if i == 0 {
			separator = "?"
		}
		path += separator + p.name + "=" + p.value
	}
	return path
}

// ---- from the configuration

func (b *builder) headMutations(path string, c *mutationv3.Mutations) (*headMutations, error) {
	m := &headMutations{}
	var err error
	if m.request, err = b.mutations(path+".request_mutations", c.GetRequestMutations()); err != nil {
		return nil, err
	}
	if m.response, err = b.mutations(path+".response_mutations", c.GetResponseMutations()); err != nil {
		return nil, err
	}
	if m.requestTrailers, err = b.mutations(path+".request_trailers_mutations", c.GetRequestTrailersMutations()); err != nil {
		return nil, err
	}
	if m.responseTrailers, err = b.mutations(path+".response_trailers_mutations", c.GetResponseTrailersMutations()); err != nil {
		return nil, err
	}
	for i, q := range c.GetQueryParameterMutations() {
		path := at(path, "query_parameter_mutations", i)
		step := queryMutation{remove: q.GetRemove()}
		if a := q.GetAppend(); a != nil {
			text, ok := a.GetRecord().GetValue().GetKind().(*structpb.Value_StringValue)
			if !ok {
				return nil, b.boot.Errorf(path+".append.record.value", "only a string is allowed")
			}
			step.name, step.action = a.GetRecord().GetKey(), a.GetAction()
			if step.value, err = b.format(path+".append.record.value", text.StringValue); err != nil {
				return nil, err
			}
		} else if step.remove == "" {
			return nil, b.boot.Errorf(path, "give append or remove")
		}
		m.query = append(m.query, step)
	}
	return m, nil
}

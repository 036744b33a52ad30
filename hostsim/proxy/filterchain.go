package proxy

import (
	"fmt"
	"strconv"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	header_mutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	header_to_metadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_to_metadata/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	set_filter_statev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_filter_state/v3"
	set_metadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_metadata/v3"
	wasmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/wasm/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// httpFilter is one filter on one stream. Its methods run one at a time.
type httpFilter interface {
	decodeHeaders(endStream bool) status
	decodeData(data *[]byte, endStream bool) status
	decodeTrailers() status
	encodeHeaders(endStream bool) status
	encodeData(data *[]byte, endStream bool) status
	encodeTrailers() status
	log()
	destroy()
}

// filterFactory makes the filter of a stream.
type filterFactory interface {
	newFilter(s *stream) httpFilter
	// wantsData says whether the filter looks at request and response bodies;
	// where none does, data passes without a copy.
	wantsData() (request, response bool)
}

// filterChain is a list of filters; the router behind them is implied.
type filterChain struct {
	filters                   []chainFilter
	requestData, responseData bool
	router                    *routerv3.Router
	upstreamLogs              []*accessLog
	silentStats               bool // dynamic_stats: false
	atStart                   bool // attempts are logged when they have a connection, too
}

// chainFilter is a filter by the name under which routes configure it.
type chainFilter struct {
	name     string
	disabled bool // unless the route says otherwise
	filterFactory
}

// makeFilters makes the filters of a chain that the initial route leaves
// enabled.
func (s *stream) makeFilters(chain *filterChain) {
	s.chain = chain
	s.filters = s.filters[:0]
	for i := range chain.filters {
		if f := &chain.filters[i]; s.enabled(f) {
			s.filters = append(s.filters, f.newFilter(s))
		}
	}
}

func (s *stream) makeFiltersLocked(chain *filterChain) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.makeFilters(chain)
}

func (s *stream) enabled(f *chainFilter) bool {
	if s.routeKnown && s.route != nil {
		for _, level := range s.route.filters {
			if c, ok := level[f.name]; ok {
				return !c.disabled
			}
		}
	}
	return !f.disabled
}

// passive is a filter that does nothing. Others embed it for what they have
// no use for.
type passive struct{}

func (passive) decodeHeaders(bool) status       { return goOn }
func (passive) decodeData(*[]byte, bool) status { return goOn }
func (passive) decodeTrailers() status          { return goOn }
func (passive) encodeHeaders(bool) status       { return goOn }
func (passive) encodeData(*[]byte, bool) status { return goOn }
func (passive) encodeTrailers() status          { return goOn }
func (passive) log()                            {}
func (passive) destroy()                        {}

// headersOnly is the part of a factory whose filters look at no content.
type headersOnly struct{}

func (headersOnly) wantsData() (request, response bool) { return false, false }

// filterConfigs is a typed_per_filter_config, by the names of filters.
type filterConfigs map[string]filterConfig

type filterConfig struct {
	disabled bool
	config   any // nil: it says no more than enabled or disabled
}

// filterConfig gives the most specific configuration that the route has for a
// filter, or nil. It finds the route, as resolving it does in Envoy: what the
// filter leaves on the stream afterwards does not lead to another one.
func (s *stream) filterConfig(name string) any {
	r := s.findRoute()
	if r == nil {
		return nil
	}
	for _, level := range r.filters {
		if c := level[name].config; c != nil {
			return c
		}
	}
	return nil
}

func (b *builder) filterConfigs(path string, list map[string]*anypb.Any) (filterConfigs, error) {
	configs := filterConfigs{}
	for name, c := range list {
		path := path + ".typed_per_filter_config[" + strconv.Quote(name) + "]"
		msg, err := b.boot.Unpack(c, path)
		if err != nil {
			return nil, err
		}
		var config filterConfig
		if wrapper, ok := msg.(*routev3.FilterConfig); ok {
			config.disabled = wrapper.GetDisabled()
			if msg = nil; wrapper.GetConfig().GetTypeUrl() != "" {
				path += ".config"
				if msg, err = b.boot.Unpack(wrapper.GetConfig(), path); err != nil {
					return nil, err
				}
			}
			if msg == nil && wrapper.GetConfig() == nil && !config.disabled {
				return nil, b.boot.Errorf(path, "%q says neither disabled nor config: give one of them", name)
			}
		}
		if msg != nil {
			if config.config, err = b.routeFilter(path, msg); err != nil {
				return nil, err
			}
		}
		configs[name] = config
	}
	return configs, nil
}

// routeFilter compiles what a route says to a filter.
func (b *builder) routeFilter(path string, msg proto.Message) (any, error) {
	switch c := msg.(type) {
	case *rbacv3.RBACPerRoute:
		return b.rbacRules(path+".rbac", c.GetRbac())
	case *header_to_metadatav3.Config:
		if len(c.GetRequestRules()) == 0 && len(c.GetResponseRules()) == 0 {
			return nil, b.boot.Errorf(path, "header_to_metadata has neither request_rules nor response_rules")
		}
		return b.metadataRules(path, c)
	case *header_mutationv3.HeaderMutationPerRoute:
		return b.headMutations(path+".mutations", c.GetMutations())
	case *set_filter_statev3.Config:
		return b.stateValues(path, c)
	}
	return nil, b.boot.Errorf(path, "the filter of %s doesn't support virtual host or route specific configurations", msg.ProtoReflect().Descriptor().FullName())
}

func (b *builder) filterChain(path string, list []*hcmv3.HttpFilter) (*filterChain, error) {
	chain := &filterChain{}
	for i, c := range list {
		at := index(path, i)
		path := at + ".typed_config"
		msg, err := b.boot.Unpack(c.GetTypedConfig(), path)
		if err != nil {
			return nil, err
		}
		last := i == len(list)-1
		var router bool
		if chain.router, router = msg.(*routerv3.Router); router != last {
			if router {
				return nil, b.boot.Errorf(path, "terminal filter %q must be the last of its chain", c.GetName())
			}
			return nil, b.boot.Errorf(path, "non-terminal filter %q is the last of its chain: put envoy.filters.http.router behind it", c.GetName())
		} else if router {
			if c.GetDisabled() {
				return nil, b.boot.Errorf(at+".disabled", "terminal filter %q cannot be disabled", c.GetName())
			}
			if chain.upstreamLogs, err = b.accessLogs(path, "upstream_log", chain.router.GetUpstreamLog()); err != nil {
				return nil, err
			}
			chain.silentStats = chain.router.GetDynamicStats() != nil && !chain.router.GetDynamicStats().GetValue()
			chain.atStart = chain.router.GetUpstreamLogOptions().GetFlushUpstreamLogOnUpstreamStream()
			break
		}
		f, err := b.filter(path, c.GetName(), msg)
		if err != nil {
			return nil, err
		}
		chain.filters = append(chain.filters, chainFilter{c.GetName(), c.GetDisabled(), f})
		request, response := f.wantsData()
		chain.requestData = chain.requestData || request
		chain.responseData = chain.responseData || response
	}
	return chain, nil
}

// filter compiles a filter; name is what routes call it.
func (b *builder) filter(path, name string, msg proto.Message) (filterFactory, error) {
	switch c := msg.(type) {
	case *wasmv3.Wasm:
		return b.wasm(path+".config", c.GetConfig())
	case *rbacv3.RBAC:
		return b.rbac(path, name, c)
	case *header_to_metadatav3.Config:
		rules, err := b.metadataRules(path, c)
		return &headerToMetadataFactory{name: name, rules: rules}, err
	case *set_metadatav3.Config:
		return b.setMetadata(path, c)
	case *set_filter_statev3.Config:
		values, err := b.stateValues(path, c)
		return &setFilterStateFactory{name: name, values: values}, err
	case *header_mutationv3.HeaderMutation:
		mutations, err := b.headMutations(path+".mutations", c.GetMutations())
		return &headerMutationFactory{name: name, mutations: mutations, mostSpecificWins: c.GetMostSpecificHeaderMutationsWins()}, err
	}
	return nil, b.boot.Unsupported(path, fmt.Sprintf("the HTTP filter %s", msg.ProtoReflect().Descriptor().FullName()))
}

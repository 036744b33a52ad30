package main

import (
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"

	"switchyard/filter"
)

// stream is a stream context. It keeps nothing about the request: all is done within one callback, and the SDK forgets
// the context at proxy_on_delete.
type stream struct {
	types.DefaultHttpContext
	plugin *plugin
}

// OnHttpRequestHeaders implements types.HttpContext: it decides about the request and carries the decision out.
//
// It reads the whole header map in one hostcall, for plain requests too. A get answers less than it seems: it shows one of
// several field lines, a client has eight spellings of x-upgrade-route and x-upgrade-cluster that a get each would have
// to look for, and one more would be needed for ":protocol", which Envoy never shows but other hosts do.
func (s *stream) OnHttpRequestHeaders(int, bool) (action types.Action) {
	defer func() {
		if r := recover(); r != nil {
			s.plugin.recovered(r)
			action = types.ActionContinue
		}
	}()
	pairs, err := proxywasm.GetHttpRequestHeaders()
	if err != nil {
		proxywasm.LogError("switchyard: request headers cannot be read: " + err.Error())
		return types.ActionContinue
	}
	headers := s.plugin.headers[:0]
	for _, pair := range pairs {
		headers = append(headers, filter.Field{Name: pair[0], Value: pair[1]})
	}
	decision := filter.Decide(s.plugin.config, headers)
	clear(headers)
	s.plugin.headers = headers
	return apply(decision)
}

// apply carries a decision out.
func apply(d filter.Decision) types.Action {
	if d.Reason != filter.NoUpgrade {
		proxywasm.LogDebug("switchyard: " + d.String())
	}
	if d.Status != 0 {
		check("refuse the request", proxywasm.SendHttpResponse(uint32(d.Status),
			[][2]string{{"content-type", "text/plain"}}, []byte(d.Body), -1))
		return types.ActionPause
	}
	for _, m := range d.Mutations {
		switch m.Op {
		case filter.Remove:
			check("remove "+m.Name, proxywasm.RemoveHttpRequestHeader(m.Name))
		case filter.Set:
			check("set "+m.Name, proxywasm.ReplaceHttpRequestHeader(m.Name, m.Value))
		}
	}
	if d.FilterState != "" {
		check("set filter state", proxywasm.SetProperty([]string{d.FilterState}, []byte(d.Rule.Name)))
		// A change of the request's headers makes the host choose the route anew; a property does not.
		if len(d.Mutations) == 0 {
			_, err := proxywasm.CallForeignFunction("clear_route_cache", nil)
			check("clear the route cache", err)
		}
	}
	return types.ActionContinue
}

// check logs a hostcall that failed.
func check(what string, err error) {
	if err != nil {
		proxywasm.LogError("switchyard: cannot " + what + ": " + err.Error())
	}
}

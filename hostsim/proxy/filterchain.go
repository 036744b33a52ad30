package proxy

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	wasmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/wasm/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// status is what a filter says of going on.
type status int

const (
	goOn     status = iota
	stopHere        // until Continue; body data waits with the filter
)

// httpFilter is one filter on one stream. Its methods run one at a time.
type httpFilter interface {
	decodeHeaders(endStream bool) status
	decodeData(data *[]byte, endStream bool) status
	encodeHeaders(endStream bool) status
	encodeData(data *[]byte, endStream bool) status
	// takeHeld gives the data that the filter kept while it was stopped.
	takeHeld(data *[]byte)
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

// filterChain is a list of factories; the router behind them is implied.
type filterChain struct {
	factories                 []filterFactory
	requestData, responseData bool
}

func (b *builder) filterChain(path string, list []*hcmv3.HttpFilter) (*filterChain, error) {
	chain := &filterChain{}
	for i, c := range list {
		path := index(path, i) + ".typed_config"
		msg, err := b.boot.Unpack(c.GetTypedConfig(), path)
		if err != nil {
			return nil, err
		}
		last := i == len(list)-1
		if _, router := msg.(*routerv3.Router); router != last {
			if router {
				return nil, b.boot.Errorf(path, "terminal filter %q must be the last of its chain", c.GetName())
			}
			return nil, b.boot.Errorf(path, "non-terminal filter %q is the last of its chain: put envoy.filters.http.router behind it", c.GetName())
		} else if router {
			break
		}
		f, err := b.filter(path, msg)
		if err != nil {
			return nil, err
		}
		chain.factories = append(chain.factories, f)
		request, response := f.wantsData()
		chain.requestData = chain.requestData || request
		chain.responseData = chain.responseData || response
	}
	return chain, nil
}

func (b *builder) filter(path string, msg proto.Message) (filterFactory, error) {
	switch c := msg.(type) {
	case *wasmv3.Wasm:
		return b.wasm(path+".config", c.GetConfig())
	case *rbacv3.RBAC:
		return b.rbac(path, c)
	}
	return nil, b.boot.Unsupported(path, fmt.Sprintf("the HTTP filter %s", msg.ProtoReflect().Descriptor().FullName()))
}

// rbac is the RBAC filter as far as one is needed to see which chain a request
// takes: policies that hold for everybody.
type rbac struct {
	stream *stream
	deny   bool
}

type rbacFactory struct{ deny bool }

func (f *rbacFactory) newFilter(s *stream) httpFilter { return &rbac{s, f.deny} }
func (f *rbacFactory) wantsData() (bool, bool)        { return false, false }

func (b *builder) rbac(path string, c *rbacv3.RBAC) (filterFactory, error) {
	if c.GetRules() == nil {
		return &rbacFactory{}, nil
	}
	any := false
	for _, p := range c.GetRules().GetPolicies() {
		permitted, principal := false, false
		for _, x := range p.GetPermissions() {
			permitted = permitted || x.GetAny()
		}
		for _, x := range p.GetPrincipals() {
			principal = principal || x.GetAny()
		}
		any = any || permitted && principal
	}
	switch c.GetRules().GetAction() {
	case rbacconfigv3.RBAC_ALLOW:
		return &rbacFactory{deny: !any}, nil
	case rbacconfigv3.RBAC_DENY:
		return &rbacFactory{deny: any}, nil
	}
	return nil, b.boot.Unsupported(path+".rules.action", "an RBAC action other than ALLOW and DENY")
}

func (f *rbac) decodeHeaders(bool) status {
	if f.deny {
		f.stream.reply(&localReply{status: 403, body: "RBAC: access denied", details: "rbac_access_denied_matched_policy[none]"})
		return stopHere
	}
	return goOn
}
func (f *rbac) decodeData(*[]byte, bool) status { return goOn }
func (f *rbac) encodeHeaders(bool) status       { return goOn }
func (f *rbac) encodeData(*[]byte, bool) status { return goOn }
func (f *rbac) takeHeld(*[]byte)                {}
func (f *rbac) log()                            {}
func (f *rbac) destroy()                        {}

package proxy

import (
	"slices"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// This file is Envoy's hash_policy.cc: by which hash a route's requests find
// their host.

// hashPolicy is a part of the hash; ok is false where the request has nothing
// to say to it.
type hashPolicy struct {
	of       func(s *stream) (hash uint64, ok bool)
	terminal bool // what follows is not asked once there is a hash
}

// hash computes what the route's policies say.
func (r *route) hash(s *stream) (hash uint64, ok bool) {
	for _, p := range r.hashPolicies {
		if more, found := p.of(s); found {
			hash, ok = (hash<<1|hash>>63)^more, true
		}
		if ok && p.terminal {
			break
		}
	}
	return hash, ok
}

// ---- from the configuration

func (b *builder) hashPolicies(path string, list []*routev3.RouteAction_HashPolicy) ([]hashPolicy, error) {
	var policies []hashPolicy
	for i, c := range list {
		path := index(path, i)
		p := hashPolicy{terminal: c.GetTerminal()}
		switch spec := c.GetPolicySpecifier().(type) {
		case *routev3.RouteAction_HashPolicy_Header_:
			name := canonical(spec.Header.GetHeaderName())
			rewrite := func(v string) string { return v }
			if spec.Header.GetRegexRewrite() != nil {
				var err error
				if rewrite, err = b.regexRewrite(path+".header.regex_rewrite", spec.Header.GetRegexRewrite()); err != nil {
					return nil, err
				}
			}
			p.of = func(s *stream) (uint64, bool) {
				var values []string
				for _, f := range s.request.fields {
					if f.name == name {
						values = append(values, rewrite(f.value))
					}
				}
				slices.Sort(values)
				hash := uint64(0)
				for _, v := range values {
					hash = seededHash(v, hash)
				}
				return hash, len(values) > 0
			}
		case *routev3.RouteAction_HashPolicy_Cookie_:
			p.of = cookieHash(spec.Cookie)
		case *routev3.RouteAction_HashPolicy_ConnectionProperties_:
			if !spec.ConnectionProperties.GetSourceIp() {
				continue
			}
			p.of = func(s *stream) (uint64, bool) { return xxhash.Sum64String(withoutPort(s.clientAddress())), true }
		case *routev3.RouteAction_HashPolicy_QueryParameter_:
			name := spec.QueryParameter.GetName()
			p.of = func(s *stream) (uint64, bool) {
				v, found := queryParameter(s.request.value(":path"), name)
				return xxhash.Sum64String(v), found
			}
		default:
			return nil, b.boot.Unsupported(path, "this hash policy")
		}
		policies = append(policies, p)
	}
	return policies, nil
}

// cookieHash hashes a cookie. With a ttl, a client without it is given one
// that is made of its address.
func cookieHash(c *routev3.RouteAction_HashPolicy_Cookie) func(s *stream) (uint64, bool) {
	return func(s *stream) (uint64, bool) {
		v, _ := cookie(&s.request, c.GetName())
		if v == "" {
			if c.GetTtl() == nil {
				return 0, false
			}
			v = strconv.FormatUint(xxhash.Sum64String(s.clientAddress()+s.conn.local), 16)
			v = strings.Repeat("0", 16-len(v)) + v
			s.setCookies = append(s.setCookies, setCookie(c, v))
		}
		return xxhash.Sum64String(v), true
	}
}

// setCookie is Utility::makeSetCookieValue.
func setCookie(c *routev3.RouteAction_HashPolicy_Cookie, value string) string {
	text := c.GetName() + `="` + value + `"`
	if age := c.GetTtl().GetSeconds(); age != 0 {
		text += "; Max-Age=" + strconv.FormatInt(age, 10)
	}
	if c.GetPath() != "" {
		text += "; Path=" + c.GetPath()
	}
	for _, a := range c.GetAttributes() {
		text += "; " + a.GetName()
		if a.GetValue() != "" {
			text += "=" + a.GetValue()
		}
	}
	return text + "; HttpOnly"
}

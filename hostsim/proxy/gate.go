package proxy

import (
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	earlyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
)

// This file is what Envoy does to an upgrade before any HTTP filter runs, in
// its order: the codec drops h2c and ignored offers, early header mutations
// rewrite, whatever is then no upgrade loses Connection and Upgrade, and the
// whole Upgrade value is compared with the configured types.

// sanitizeUpgrade is the codec's part (http1/codec_impl.cc). It returns
// whether the connection is in upgrade mode now: what follows the head is then
// no HTTP any more.
func (m *hcm) sanitizeUpgrade(h *Headers) (upgrade bool) {
	if !isUpgrade(h) {
		return false
	}
	if equalFold(h.value("upgrade"), "h2c") {
		h.remove("upgrade")
		removeConnectionTokens(h, "upgrade", "http2-settings")
		h.remove("http2-settings")
		return false
	}
	if len(m.ignoreUpgrade) == 0 {
		return true
	}
	var kept []string
	for list, more := h.value("upgrade"), true; more; {
		var t string
		t, list, more = nextToken(list)
		if t != "" && !m.ignores(t) {
			kept = append(kept, t)
		}
	}
	if len(kept) == 0 {
		h.remove("upgrade")
		removeConnectionTokens(h, "upgrade")
		return false
	}
	h.set("upgrade", strings.Join(kept, ","))
	return true
}

func (m *hcm) ignores(protocol string) bool {
	for _, match := range m.ignoreUpgrade {
		if match(protocol) {
			return true
		}
	}
	return false
}

// removeConnectionTokens drops options from Connection, and the field when
// nothing is left.
func removeConnectionTokens(h *Headers, tokens ...string) {
	if !h.has("connection") {
		return
	}
	var kept []string
next:
	for list, more := h.value("connection"), true; more; {
		var t string
		t, list, more = nextToken(list)
		if t == "" {
			continue
		}
		for _, drop := range tokens {
			if equalFold(t, drop) {
				continue next
			}
		}
		kept = append(kept, t)
	}
	if len(kept) == 0 {
		h.remove("connection")
		return
	}
	h.set("connection", strings.Join(kept, ","))
}

// sanitizeConnection is Utility::sanitizeConnectionHeader: headers that
// Connection nominates are removed, and a request that nominates too many of
// them, or one that must not be hidden, is refused.
func sanitizeConnection(h *Headers) bool {
	if !h.has("connection") {
		return true
	}
	const maxNominated = 10
	n := 0
	for list, more := h.value("connection"), true; more; {
		var t string
		t, list, more = strings.Cut(list, ",")
		if t != "" {
			n++
		}
	}
	if n >= maxNominated {
		return false
	}
	var removed []string
	for list, more := h.value("connection"), true; more; {
		var t string
		t, list, more = nextToken(list)
		if t == "" {
			continue
		}
		name := lower(t)
		switch name {
		case "close", "http2-settings", "keep-alive", "upgrade":
			continue
		case "connection":
			removed = append(removed, t)
			continue
		case "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto":
			return false
		case "te":
			te := h.value("te")
			if len(te) >= 256 {
				return false
			}
			if hasToken(te, "trailers") {
				h.set("te", "trailers")
				continue
			}
		}
		if name[0] == ':' {
			return false
		}
		h.Remove(name)
		removed = append(removed, t)
	}
	if len(removed) > 0 {
		removeConnectionTokens(h, removed...)
	}
	return true
}

func (s *stream) mutateEarly() {
	for i := range s.hcm.early {
		s.hcm.early[i].apply(&s.request, s)
	}
}

// upgradeChain finds the filters for an upgrade: those of its upgrade_config,
// or the connection manager's. ok is false where nobody allows the upgrade.
func (m *hcm) upgradeChain(r *route, kind string) (chain *filterChain, ok bool) {
	byRoute, said := r.upgradeAllowed(kind)
	if said && !byRoute {
		return nil, false
	}
	for i := range m.upgrades {
		u := &m.upgrades[i]
		if !equalFold(u.kind, kind) {
			continue
		}
		if !u.enabled && !byRoute {
			return nil, false
		}
		if u.chain != nil {
			return u.chain, true
		}
		return m.chain, true
	}
	return m.chain, byRoute
}

type upgradeConfig struct {
	kind    string
	enabled bool
	chain   *filterChain // nil: the connection manager's
}

// ---- from the configuration

func (b *builder) upgradeConfigs(path string, list []*hcmv3.HttpConnectionManager_UpgradeConfig) ([]upgradeConfig, error) {
	var configs []upgradeConfig
	for i, c := range list {
		path := at(path, "upgrade_configs", i)
		u := upgradeConfig{kind: c.GetUpgradeType(), enabled: c.GetEnabled() == nil || c.GetEnabled().GetValue()}
		for _, other := range configs {
			if equalFold(other.kind, u.kind) {
				return nil, b.boot.Errorf(path+".upgrade_type", "multiple upgrade configs with the same name: %q: keep one", u.kind)
			}
		}
		if len(c.GetFilters()) > 0 {
			chain, err := b.filterChain(path+".filters", c.GetFilters())
			if err != nil {
				return nil, err
			}
			u.chain = chain
		}
		configs = append(configs, u)
	}
	return configs, nil
}

func (b *builder) earlyMutations(path string, list []*corev3.TypedExtensionConfig) ([]mutation, error) {
	var steps []mutation
	for i, ext := range list {
		path := index(path, i) + ".typed_config"
		msg, err := b.boot.Unpack(ext.GetTypedConfig(), path)
		if err != nil {
			return nil, err
		}
		c, ok := msg.(*earlyv3.HeaderMutation)
		if !ok {
			return nil, b.boot.Unsupported(path, "early header mutation "+strconv.Quote(ext.GetName()))
		}
		more, err := b.mutations(path+".mutations", c.GetMutations())
		if err != nil {
			return nil, err
		}
		steps = append(steps, more...)
	}
	return steps, nil
}

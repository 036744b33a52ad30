package proxy

import (
	"net/netip"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	custom_headerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/original_ip_detection/custom_header/v3"
	xffv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/original_ip_detection/xff/v3"
)

// This file finds out who the client is, and whether it is one of us
// (ConnectionManagerUtility::mutateRequestHeaders).

// clientOptions are what a connection manager knows of the proxies in front.
type clientOptions struct {
	trustedHops int
	internal    []netip.Prefix
	detect      []detection // in order, without use_remote_address
	addPort     bool        // append_x_forwarded_port
}

// detection finds the client's address in a request. One that is trusted may
// turn out to be internal. appends says whether the peer is to be added to
// x-forwarded-for.
type detection func(s *stream) (client netip.Addr, trusted, appends bool, refusal *localReply)

// findClient notes the client, what the proxies in front have forwarded, and
// whether the request is internal.
func (s *stream) findClient() (internal bool, refusal *localReply) {
	h, o := &s.request, &s.hcm.client
	var client netip.Addr
	trusted := false
	if s.hcm.remoteAddress {
		trusted = !h.has("x-forwarded-for")
		if o.trustedHops > 0 {
			client, _ = lastForwarded(h, o.trustedHops-1)
		}
		if !s.hcm.skipXFF {
			s.appendPeer()
		}
		if o.trustedHops == 0 || !h.has("x-forwarded-proto") {
			h.set("x-forwarded-proto", s.conn.scheme())
		}
		if o.addPort && (o.trustedHops == 0 || !h.has("x-forwarded-port")) {
			h.set("x-forwarded-port", itoa(int(portOf(s.conn.local))))
		}
	} else {
		for _, detect := range o.detect {
			var appends bool
			if client, trusted, appends, refusal = detect(s); refusal != nil {
				return false, refusal
			}
			if appends {
				s.appendPeer()
			}
			if client.IsValid() {
				break
			}
		}
		if !h.has("x-forwarded-proto") {
			h.set("x-forwarded-proto", s.conn.scheme())
		}
		if o.addPort && !h.has("x-forwarded-port") {
			h.set("x-forwarded-port", itoa(int(portOf(s.conn.local))))
		}
	}
	s.client = ""
	if client.IsValid() {
		s.client = netip.AddrPortFrom(client, 0).String()
	}
	return trusted && s.isInternal(client), nil
}

// isInternal looks at the client, or at the peer where the edge knows of no
// other.
func (s *stream) isInternal(client netip.Addr) bool {
	if len(s.hcm.client.internal) == 0 {
		return false
	}
	if !client.IsValid() && s.hcm.remoteAddress {
		client, _ = netip.ParseAddr(s.conn.remoteIP)
	}
	return within(s.hcm.client.internal, client)
}

func within(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// appendPeer adds who has connected to x-forwarded-for.
func (s *stream) appendPeer() {
	peer := s.conn.remoteIP
	if s.conn.loopback {
		peer = s.hcm.server.localIP // Envoy names itself for a client on its own machine
	}
	s.request.Add("x-forwarded-for", peer)
}

// lastForwarded is the address in x-forwarded-for that so many others follow
// (Utility::getLastAddressFromXFF); alone says that it is the only one.
func lastForwarded(h *Headers, skip int) (a netip.Addr, alone bool) {
	i := h.find("x-forwarded-for")
	if i < 0 {
		return a, false
	}
	list := h.fields[i].value
	for range skip {
		comma := strings.LastIndexByte(list, ',')
		if comma < 0 {
			return a, false
		}
		list = list[:comma]
	}
	comma := strings.LastIndexByte(list, ',')
	if comma+1 < len(list) {
		list = list[comma+1:]
	}
	a, err := netip.ParseAddr(strings.Trim(list, " \t\n\v\f\r"))
	return a, err == nil && comma < 0 && skip == 0
}

// firstUntrusted is the last address in x-forwarded-for that is none of the
// proxies in front, or the first of them.
func firstUntrusted(h *Headers, proxies []netip.Prefix) (found netip.Addr) {
	list, _ := h.Get("x-forwarded-for")
	for list != "" {
		comma := strings.LastIndexByte(list, ',')
		a, err := netip.ParseAddr(strings.Trim(list[comma+1:], " \t\n\v\f\r"))
		if err != nil {
			return found
		}
		if found = a; comma < 0 || !within(proxies, a) {
			return found
		}
		list = list[:comma]
	}
	return found
}

// ---- from the configuration

func (b *builder) clientOptions(path string, c *hcmv3.HttpConnectionManager) (o clientOptions, err error) {
	o.trustedHops, o.addPort = int(c.GetXffNumTrustedHops()), c.GetAppendXForwardedPort()
	if o.internal, err = b.prefixes(path+".internal_address_config.cidr_ranges", c.GetInternalAddressConfig().GetCidrRanges()); err != nil {
		return o, err
	}
	extensions := c.GetOriginalIpDetectionExtensions()
	switch {
	case len(extensions) == 0:
		o.detect = []detection{forwardedBy(o.trustedHops, true)}
		return o, nil
	case c.GetUseRemoteAddress().GetValue():
		return o, b.boot.Errorf(path+".original_ip_detection_extensions", "original IP detection extensions and use_remote_address may not be mixed")
	case o.trustedHops > 0:
		return o, b.boot.Errorf(path+".original_ip_detection_extensions", "original IP detection extensions and xff_num_trusted_hops may not be mixed")
	}
	for i, ext := range extensions {
		d, err := b.detection(at(path, "original_ip_detection_extensions", i)+".typed_config", ext)
		if err != nil {
			return o, err
		}
		o.detect = append(o.detect, d)
	}
	return o, nil
}

// forwardedBy detects the client behind so many trusted proxies.
func forwardedBy(hops int, skipAppend bool) detection {
	return func(s *stream) (netip.Addr, bool, bool, *localReply) {
		a, alone := lastForwarded(&s.request, hops)
		return a, alone, !skipAppend, nil
	}
}

func (b *builder) detection(path string, ext *corev3.TypedExtensionConfig) (detection, error) {
	msg, err := b.boot.Unpack(ext.GetTypedConfig(), path)
	if err != nil {
		return nil, err
	}
	switch c := msg.(type) {
	case *xffv3.XffConfig:
		skipAppend := c.GetSkipXffAppend() == nil || c.GetSkipXffAppend().GetValue()
		if c.GetXffTrustedCidrs() == nil {
			return forwardedBy(int(c.GetXffNumTrustedHops()), skipAppend), nil
		}
		if c.GetXffNumTrustedHops() > 0 {
			return nil, b.boot.Errorf(path, "cannot set both xff_num_trusted_hops and xff_trusted_cidrs")
		}
		proxies, err := b.prefixes(path+".xff_trusted_cidrs.cidrs", c.GetXffTrustedCidrs().GetCidrs())
		return func(s *stream) (a netip.Addr, _, _ bool, _ *localReply) {
			if peer, err := netip.ParseAddr(s.conn.remoteIP); err != nil || !within(proxies, peer) {
				return a, false, true, nil
			}
			return firstUntrusted(&s.request, proxies), false, !skipAppend, nil
		}, err
	case *custom_headerv3.CustomHeaderConfig:
		name := canonical(c.GetHeaderName())
		var refusal *localReply
		if c.GetRejectWithStatus() != nil {
			status := int(c.GetRejectWithStatus().GetCode())
			if status < 400 {
				status = 403
			}
			refusal = &localReply{status: status, details: "rejecting_because_detection_failed"}
		}
		return func(s *stream) (netip.Addr, bool, bool, *localReply) {
			a, err := netip.ParseAddr(s.request.value(name))
			if err != nil {
				return a, false, false, refusal
			}
			return a, c.GetAllowExtensionToSetAddressAsTrusted(), false, nil
		}, nil
	}
	return nil, b.boot.Unsupported(path, "this original IP detection")
}

// prefixes reads a list of CIDR ranges.
func (b *builder) prefixes(path string, list []*corev3.CidrRange) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for i, c := range list {
		p, err := b.prefix(index(path, i), c)
		if err != nil {
			return nil, err
		}
		prefixes = append(prefixes, p)
	}
	return prefixes, nil
}

func (b *builder) prefix(path string, c *corev3.CidrRange) (netip.Prefix, error) {
	a, err := netip.ParseAddr(c.GetAddressPrefix())
	if err != nil {
		return netip.Prefix{}, b.boot.Errorf(path+".address_prefix", "%q is no IP address", c.GetAddressPrefix())
	}
	return a.Prefix(min(int(c.GetPrefixLen().GetValue()), a.BitLen()))
}

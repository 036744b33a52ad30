package proxy

import (
	"regexp"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// This file is what a route does to path and authority, and to where a
// redirect points.

// pathRewrite gives the new path for one without its query; "" leaves it.
type pathRewrite func(s *stream, path string) string

// hostRewrite gives the new authority; "" leaves it.
type hostRewrite func(s *stream) string

// finalizeRequest is what a route does to the request head before it goes
// upstream (RouteEntryImplBase::finalizeRequestHeaders).
func (s *stream) finalizeRequest(r *route) {
	h := &s.request
	if w := r.weight; w != nil {
		w.headers.request.apply(h, s)
		if w.host != "" {
			h.set(":authority", w.host)
		}
	}
	for _, e := range r.levels {
		e.request.apply(h, s)
	}
	if r.rewriteHost != nil {
		if host := r.rewriteHost(s); host != "" {
			s.setAuthority(r, host)
		}
	}
	if r.rewritePath != nil {
		s.setPath(r.rewritePath)
	}
}

// setPath rewrites the path and keeps the old one in x-envoy-original-path.
func (s *stream) setPath(rewrite pathRewrite) {
	old := s.request.value(":path")
	path, query := splitQuery(old)
	if path = rewrite(s, path); path != "" {
		if s.chain == nil || !s.silent() {
			s.request.set("x-envoy-original-path", old)
		}
		s.request.set(":path", path+query)
	}
}

// setAuthority keeps the old authority in x-envoy-original-host and, if asked
// to, in x-forwarded-host (Http::Utility::updateAuthority).
func (s *stream) setAuthority(r *route, host string) {
	h := &s.request
	old := h.value(":authority")
	if s.chain == nil || !s.silent() {
		h.set("x-envoy-original-host", old)
	}
	if r.forwardedHost && old != "" {
		forwarded := h.value("x-forwarded-host")
		if last := forwarded[strings.LastIndexByte(forwarded, ',')+1:]; last != old {
			h.Add("x-forwarded-host", old)
		}
	}
	h.set(":authority", host)
}

// finalizeResponse is what a route does to the head of its upstream's
// response.
func (s *stream) finalizeResponse(r *route) {
	if r.weight != nil {
		r.weight.headers.response.apply(&s.response, s)
	}
	for _, e := range r.levels {
		e.response.apply(&s.response, s)
	}
}

// directResponse is a reply that a route gives itself: a redirect, or a body.
type directResponse struct {
	status   int
	body     string
	format   *substitution // of the body; nil: as it is
	redirect *redirect
}

func (d *directResponse) reply(s *stream) *localReply {
	r := &localReply{status: d.status, body: d.body, details: "direct_response", direct: true}
	if d.format != nil {
		s.localBody = d.body
		r.body = d.format.text(s)
		r.contentType = d.format.contentType
	}
	to := d.redirect
	if to == nil && (d.status == 201 || d.status/100 == 3) {
		to = &redirect{} // Envoy then names what was asked for
	}
	if to != nil {
		r.headers = append(r.headers, [2]string{"location", to.location(s)})
	}
	return r
}

// redirect is a RedirectAction. What is "" stays as the request has it.
type redirect struct {
	scheme, host, port string
	path               string      // with or without a query
	format             *format     // gives path
	rewrite            pathRewrite // of the path; the request gets it too
	stripQuery         bool
}

func (r *redirect) location(s *stream) string {
	h := &s.request
	scheme := r.scheme
	if scheme == "" {
		scheme = h.value(":scheme")
	}
	host := r.host
	if host == "" {
		host = r.requestHost(h, scheme)
	}
	if r.rewrite != nil {
		s.setPath(r.rewrite)
	}
	old, query := splitQuery(h.value(":path"))
	path := r.path
	if r.format != nil {
		path = r.format.text(s, "")
	}
	switch {
	case path == "":
		path = old
	case strings.Contains(path, "?"):
		query = ""
	}
	if path != "" && path[0] != '/' {
		path = "/" + path
	}
	if !r.stripQuery {
		path += query
	} else if r.path == "" {
		path, _, _ = strings.Cut(path, "?")
	}
	return scheme + "://" + host + r.port + path
}

// requestHost is the authority without the port that would be wrong now: one
// that another is put in place of, or the default of a scheme that changes.
func (r *redirect) requestHost(h *Headers, scheme string) string {
	host := h.value(":authority")
	i := strings.LastIndexByte(host, ':')
	if i < 0 || strings.IndexByte(host[i:], ']') >= 0 {
		return host
	}
	was := h.value("x-forwarded-proto")
	if r.port != "" || scheme != was && (was == "https" && host[i:] == ":443" || was == "http" && host[i:] == ":80") {
		return host[:i]
	}
	return host
}

// ---- from the configuration

// prefixRewrite replaces what the route matched: its prefix, or else the
// whole path.
func prefixRewrite(m *routeMatch, to string) pathRewrite {
	n := len(m.prefix)
	return func(_ *stream, path string) string {
		if m.whole || len(path) < n {
			return to
		}
		return to + path[n:]
	}
}

// regexRewrite replaces every match in a text by a substitution in which \1
// is the first group (RE2's).
func (b *builder) regexRewrite(path string, c *matcherv3.RegexMatchAndSubstitute) (func(string) string, error) {
	re, err := b.regexp(path+".pattern", c.GetPattern())
	if err != nil {
		return nil, err
	}
	to, err := b.substitute(path+".substitution", re, c.GetSubstitution())
	if err != nil {
		return nil, err
	}
	return func(text string) string { return re.ReplaceAllString(text, to) }, nil
}

// substitute turns a substitution of RE2 into one of package regexp.
func (b *builder) substitute(path string, re *regexp.Regexp, text string) (string, error) {
	var to strings.Builder
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '$':
			to.WriteString("$$")
		case c != '\\':
			to.WriteByte(c)
		case i+1 < len(text) && text[i+1] == '\\':
			to.WriteByte('\\')
			i++
		case i+1 < len(text) && isDigit(text[i+1]):
			i++
			if n := int(text[i] - '0'); n > re.NumSubexp() {
				return "", b.boot.Errorf(path, "%q refers to group %d, but the expression has %d", text, n, re.NumSubexp())
			}
			to.WriteString("${" + string(text[i]) + "}")
		default:
			return "", b.boot.Errorf(path, `%q: write \\ for a backslash, or \0 to \9 for a group`, text)
		}
	}
	return to.String(), nil
}

// rewrites sets what the route does to path and authority.
func (b *builder) rewrites(path string, r *route, a *routev3.RouteAction) error {
	n := 0
	for _, given := range []bool{a.GetPrefixRewrite() != "", a.GetRegexRewrite() != nil, a.GetPathRewrite() != "", a.GetPathRewritePolicy() != nil} {
		if given {
			n++
		}
	}
	if n > 1 {
		return b.boot.Errorf(path, "only one of prefix_rewrite, regex_rewrite, path_rewrite and path_rewrite_policy may be given")
	}
	switch {
	case a.GetPrefixRewrite() != "":
		r.rewritePath = prefixRewrite(&r.match, a.GetPrefixRewrite())
	case a.GetRegexRewrite() != nil:
		replace, err := b.regexRewrite(path+".regex_rewrite", a.GetRegexRewrite())
		if err != nil {
			return err
		}
		r.rewritePath = func(_ *stream, path string) string { return replace(path) }
	case a.GetPathRewrite() != "":
		f, err := b.format(path+".path_rewrite", a.GetPathRewrite())
		if err != nil {
			return err
		}
		r.rewritePath = func(s *stream, _ string) string { return f.text(s, "") }
	}
	if p := a.GetPathRewritePolicy(); p != nil {
		var err error
		if r.rewritePath, err = b.templateRewrite(path+".path_rewrite_policy.typed_config", r.match.template, p.GetTypedConfig()); err != nil {
			return err
		}
	}
	r.forwardedHost = a.GetAppendXForwardedHost()
	switch spec := a.GetHostRewriteSpecifier().(type) {
	case *routev3.RouteAction_HostRewriteLiteral:
		r.rewriteHost = func(*stream) string { return spec.HostRewriteLiteral }
	case *routev3.RouteAction_HostRewriteHeader:
		name := canonical(spec.HostRewriteHeader)
		r.rewriteHost = func(s *stream) string { return s.request.value(name) }
	case *routev3.RouteAction_HostRewritePathRegex:
		path += ".host_rewrite_path_regex"
		re, err := b.regexp(path+".pattern", spec.HostRewritePathRegex.GetPattern())
		if err != nil {
			return err
		}
		replace := func(path string) string { return path }
		// Envoy does not check this substitution, and RE2 replaces nothing if it names a group that is not there.
		if to, err := b.substitute(path+".substitution", re, spec.HostRewritePathRegex.GetSubstitution()); err == nil {
			replace = func(path string) string { return re.ReplaceAllString(path, to) }
		}
		r.rewriteHost = func(s *stream) string {
			path, _ := splitQuery(s.request.value(":path"))
			return replace(path)
		}
	case *routev3.RouteAction_HostRewrite:
		f, err := b.format(path+".host_rewrite", spec.HostRewrite)
		if err != nil {
			return err
		}
		r.rewriteHost = func(s *stream) string { return f.text(s, "-") }
	case *routev3.RouteAction_AutoHostRewrite:
		r.autoHost = spec.AutoHostRewrite.GetValue()
	}
	return nil
}

func (b *builder) redirect(path string, m *routeMatch, c *routev3.RedirectAction) (*directResponse, error) {
	d := &redirect{host: c.GetHostRedirect(), scheme: c.GetSchemeRedirect(), stripQuery: c.GetStripQuery()}
	if c.GetHttpsRedirect() {
		d.scheme = "https"
	}
	if c.GetPortRedirect() != 0 {
		d.port = ":" + itoa(int(c.GetPortRedirect()))
	}
	switch spec := c.GetPathRewriteSpecifier().(type) {
	case *routev3.RedirectAction_PathRedirect:
		d.path = spec.PathRedirect
	case *routev3.RedirectAction_PrefixRewrite:
		d.rewrite = prefixRewrite(m, spec.PrefixRewrite)
	case *routev3.RedirectAction_RegexRewrite:
		replace, err := b.regexRewrite(path+".regex_rewrite", spec.RegexRewrite)
		if err != nil {
			return nil, err
		}
		d.rewrite = func(_ *stream, path string) string { return replace(path) }
	case *routev3.RedirectAction_PathRewrite:
		f, err := b.format(path+".path_rewrite", spec.PathRewrite)
		if err != nil {
			return nil, err
		}
		d.format = f
	}
	status := map[routev3.RedirectAction_RedirectResponseCode]int{
		routev3.RedirectAction_MOVED_PERMANENTLY: 301, routev3.RedirectAction_FOUND: 302, routev3.RedirectAction_SEE_OTHER: 303,
		routev3.RedirectAction_TEMPORARY_REDIRECT: 307, routev3.RedirectAction_PERMANENT_REDIRECT: 308,
	}[c.GetResponseCode()]
	return &directResponse{status: status, redirect: d}, nil
}

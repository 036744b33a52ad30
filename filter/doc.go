// Package filter decides which requests offer an upgrade (RFC 9110 7.8, RFC 6455, RFC 8441) and what becomes of them: routed
// with metadata, refused, or left alone.
//
// It is pure: header fields and a configuration in, a Decision out. It makes no hostcalls, imports little of the standard
// library (no fmt, encoding/json, reflect or regexp, so that every Go compiler makes a small .wasm of it), and starts no
// goroutines. Package plugin puts it behind the Proxy-Wasm ABI.
//
//	HeaderMap -> Elements -> Classify: Verdict -> Decide: Decision with Mutations -> Answer: Mutations of the response
//
// # What is an upgrade
//
// A request offers an upgrade if it has an Upgrade field with at least one element and a Connection field with the option
// "upgrade" among its elements; several field lines are one list; letters compare without case; spaces and tabs around an
// element do not count; empty elements are skipped. Or if it is an extended CONNECT: ":method" CONNECT with ":protocol".
// Every request that does not is a plain one, whatever else it says, and goes on as it came.
//
// # Configuration
//
// JSON; schema.json beside this file describes it to editors. All of it is optional, except protocol in a rule:
//
//	{
//	  "rules": [
//	    {"name": "live", "protocol": "websocket", "path_prefix": "/liveviewhandler/", "origins": ["same-origin"], "cluster": "live"},
//	    {"name": "exec", "protocol": "spdy/3.1", "hosts": ["api.example"]},
//	    {"name": "guard", "protocol": "*", "path_prefix": "/admin/", "action": "refuse", "status": 404},
//	    {"protocol": "websocket", "origins": ["same-origin"]}
//	  ],
//	  "default": "refuse",
//	  "handshake": "check",
//	  "metadata": {"route_header": "x-upgrade-route", "cluster_header": "x-upgrade-cluster", "filter_state": "switchyard.route"}
//	}
//
// The first rule that matches wins. A rule matches if each of its keys does; one that is not given matches all. No
// configuration, or one without rules, means one rule: {"protocol": "websocket"}.
//
//	rules[].protocol         a protocol's name, for any version, or name/version; "*" for any. What routes takes neither h2c nor TLS
//	rules[].name             value of the route header and of the filter state; letters, digits, "_", "-". Default: the protocol's
//	                         name in lower case, "any" for "*"
//	rules[].hosts            list of hosts without port; "*." and a suffix for all below it
//	rules[].path             the whole path, without query
//	rules[].path_prefix      what the path begins with; not together with path
//	rules[].origins          list of origins; scheme://host[:port], the same with "*." and a suffix for host, "*." and a suffix alone
//	                         for any scheme and port, "null", "same-origin"
//	rules[].absent_origin    whether a request without Origin counts as one of them. Default: true where action is route, else false
//	rules[].subprotocols     list of which Sec-WebSocket-Protocol has to name one; for websocket and "*"
//	rules[].action           "route" (default), "refuse", or "ignore": let it go on as it came
//	rules[].cluster          value of the cluster header; only with route. Default: no such header
//	rules[].status           of the answer, 400 to 599; only with refuse. Default: 403
//	default                  what an upgrade gets that no rule matches: "ignore" (default) or "refuse", with 403
//	handshake                "check" holds routed WebSockets to RFC 6455 4.2.1; "trust" (default) leaves that to the server
//	metadata.route_header    header that a routed upgrade gets, and no client can set. Default: x-upgrade-route; "" for none
//	metadata.cluster_header  the same for the rule's cluster. Default: x-upgrade-cluster; "" for none
//	metadata.filter_state    property with the rule's name; in Envoy the filter state "wasm." + this. Default: switchyard.route;
//	                         "" for none
//
// Hosts are compared without case and port, and without a dot at the end. IPv6 addresses stand in brackets and are compared
// as they are written. "*.a.example" is neither "a.example" nor "xa.example". What is no host, or two, is none of them.
//
// Paths are compared byte for byte with ":path" before the first "?" or "#", as Envoy's matchers path and prefix do: with
// case, and nothing decoded or resolved. "/ws" is a prefix of "/wsx" too; "/ws/" is not one of "/ws". "/ws%2Fa" does not
// begin with "/ws/", and "/ws/../admin" does; the shipped configurations let Envoy resolve dots (normalize_path), merge
// slashes and refuse "%2F" before the filter and the routes see the path, so that no such spelling is left.
//
// Origins guard against cross-site hijacking of WebSockets: a browser lets every page open a socket to every server, with
// the user's cookies, and says in Origin which page it was. Give "origins" to each rule that routes, and "default": "refuse".
// A request without Origin is not from a browser, has no user's cookies, and could make up an Origin: so it passes,
// unless absent_origin is false. It is none of those that a rule refuses or ignores by their origins. same-origin compares
// host and port with the request's own, but no scheme, as TLS may end before Envoy.
//
// Header names in metadata must be in lower case, differ, and mean nothing else. A key that is not known, a key given twice,
// a value of another type, one that contradicts another, and a rule that can never be reached because an earlier one matches
// all that it would, are refused with the path to them: rules[2].protocol: ...
//
// # Reasons
//
// Each decision has one. It begins the body of a refusal, stands in the log line, and is a part of the counter's name (see
// Counter.Name).
//
//	no_upgrade           a page; not counted
//	not_nominated        Upgrade, but no "upgrade" in Connection; a page
//	nothing_offered      Upgrade without elements; a page
//	offered              routed
//	no_rule              goes on unrouted; or 403 if default is refuse
//	ignored_by_rule      goes on unrouted
//	refused_by_rule      the rule's status
//	malformed_upgrade    400: an element of Upgrade, or of the list that the gate kept in x-upgrade-offered, is no protocol
//	too_many_elements    431: more than 100 in Upgrade, or in Sec-WebSocket-Protocol if a rule asks for it
//	upgrade_with_body    400: Content-Length is other than one row of zeros, or there is Transfer-Encoding, or the gate saw one
//	                     and left x-upgrade-framing; but not where only h2c or TLS is offered, as any request may do
//	not_get              400: with handshake check, as all below
//	no_key               400, by HTTP/1
//	several_keys         400
//	invalid_key          400
//	no_version           400
//	invalid_version      400: several, or no number
//	unsupported_version  426, with sec-websocket-version: 13
//	upgrade_failed       403 by Envoy: its gate does not allow the protocol, so that no filter saw the request
//
// # Never
//
// A filter must not make a plain request of an upgrade by removing its fields: the host's codec already treats what follows
// as a tunnel. h2c is never routed. A client's word is never part of a counter's name, and quoted in the log.
package filter

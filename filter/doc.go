// Package filter decides which requests offer an upgrade (RFC 9110 7.8, RFC 6455, RFC 8441) and what routing metadata they
// get.
//
// It is pure: header fields and a configuration in, a Decision out. It makes no hostcalls, imports little of the standard
// library (no fmt, encoding/json, reflect or regexp, so that every Go compiler makes a small .wasm of it), and starts no
// goroutines. Package plugin puts it behind the Proxy-Wasm ABI.
//
//	HeaderMap -> Elements -> Classify: Verdict -> Decide: Decision with Mutations
//
// # What is an upgrade
//
// A request offers an upgrade if it has an Upgrade field with at least one element and a Connection field with the option
// "upgrade" among its elements; several field lines are one list; letters compare without case; spaces and tabs around an
// element do not count; empty elements are skipped. Or if it is an extended CONNECT: ":method" CONNECT with ":protocol".
// Every request that does not is a plain one, whatever else it says, and goes on as it came.
//
// Refused with 400, and a line of text that begins with the reason:
//
//   - malformed_upgrade: an element of Upgrade, or of the list the gate kept in x-upgrade-offered, is no
//     protocol-name ["/" protocol-version].
//   - upgrade_with_body: Content-Length is other than one row of zeros, or there is Transfer-Encoding, or the gate saw one
//     and left x-upgrade-framing; but not where only h2c or TLS is offered, as any request may do.
//
// # Configuration
//
// JSON; all of it is optional except protocol in a rule:
//
//	{
//	  "rules": [
//	    {"name": "live", "protocol": "websocket", "path_prefix": "/liveviewhandler/", "cluster": "live"},
//	    {"protocol": "websocket"}
//	  ],
//	  "metadata": {
//	    "route_header": "x-upgrade-route",
//	    "cluster_header": "x-upgrade-cluster",
//	    "filter_state": "switchyard.route"
//	  }
//	}
//
// The first rule that matches wins. No configuration, or one without rules, means one rule: {"protocol": "websocket"}.
//
//   - name: a token, different in each rule; the protocol's name in lower case if not given.
//   - protocol: a protocol's name, for any version, or name/version for that one. Not h2c and not TLS, which are never
//     routed.
//   - path_prefix: compared byte for byte with the path before "?"; "/ws" is a prefix of "/wsx" too. Any path if not given.
//   - cluster: what the cluster header says; no cluster header if not given.
//   - route_header, cluster_header: header fields that a routed upgrade gets and that no client can set. They must be in
//     lower case, differ, and mean nothing else. "" switches one off.
//   - filter_state: key of the property that holds the rule's name; in Envoy the filter state "wasm." + key. "" switches
//     it off.
//
// A key that is not known, a key given twice, a value of another type and a value that makes no sense are refused with the
// path to them: rules[2].protocol: ...
package filter

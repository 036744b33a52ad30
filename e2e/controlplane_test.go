//go:build istio || gateway

package e2e

// withoutGate is what misses where a control plane configures the plugin alone, with what becomes of it.
var withoutGate = map[string]string{
	"bare-cr-in-value":                  "websocket 101 echo",
	"h2c-smuggle-two-lines":             "- 403",
	"h2c-smuggle-ws-and-h2c":            "- 403",
	"nominated-upgrade-empty-plain-get": "- 403",
	"real-httpclient5-tls12":            "- 403",
	"real-istio29427-doubled":           "- 403",
	"upg-list-nospace":                  "- 403",
	"upg-list-websocket-h2c":            "- 403",
	"upg-two-lines-h2c-then-ws":         "- 403",
	"upg-two-lines-ws-then-h2c":         "- 403",
	"upg-two-lines-ws-twice":            "- 403",
}

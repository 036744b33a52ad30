// Package envoy holds the deployable Envoy configuration.
package envoy

import "embed"

// Files has every deployable file under its path in this directory, such as
// bootstrap/minimal.yaml.
//
//go:embed bootstrap istio gateway
var Files embed.FS

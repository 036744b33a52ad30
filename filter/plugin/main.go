// Command plugin is the switchyard filter as a Proxy-Wasm plugin, ABI 0.2.0: package filter behind hostcalls.
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o switchyard.wasm ./filter/plugin
//
// plugin.go (a configuration) and stream.go (a request and its response) are the adapter. They know the host only through
// the functions that hostcalls_go.go has for the standard Go compiler and hostcalls_tinygo.go for TinyGo and for tests.
//
// It must not trap. A trap closes every tunnel of that worker, so each callback recovers from a panic, logs it, counts it
// in switchyard.panics and lets the request go on unrouted.
package main

// main is never called: the module is a library (reactor), and the host calls _initialize.
func main() {}

// version is what the log line at the start says. The Makefile sets it with -ldflags -X.
var version = "dev"

// mapType is one of the Proxy-Wasm header maps.
type mapType uint32

const (
	requestHeaders  mapType = 0
	responseHeaders mapType = 2
)

// logLevel is a Proxy-Wasm log level.
type logLevel uint32

const (
	logDebug    logLevel = 1
	logInfo     logLevel = 2
	logWarn     logLevel = 3
	logError    logLevel = 4
	logCritical logLevel = 5
)

// Command plugin is the switchyard filter as a Proxy-Wasm plugin, ABI 0.2.0: package filter behind hostcalls.
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o switchyard.wasm ./filter/plugin
//
// It must not trap. A trap closes every tunnel of that worker, so each callback recovers from a panic, logs it, counts it
// in switchyard.panics and lets the request go on unrouted.
package main

import (
	"hash/fnv"
	"strconv"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"

	"switchyard/filter"
)

// main is never called: the module is a library (reactor), and the host calls _initialize.
func main() {}

func init() { proxywasm.SetVMContext(&vm{}) }

type vm struct{ types.DefaultVMContext }

// NewPluginContext implements types.VMContext.
func (*vm) NewPluginContext(uint32) types.PluginContext { return &plugin{} }

// plugin is a plugin context: one configuration.
type plugin struct {
	types.DefaultPluginContext
	config *filter.Config
	panics proxywasm.MetricCounter
	// headers is room for one request's header map. A VM runs one callback at a time, so one is enough.
	headers filter.HeaderMap
}

// OnPluginStart implements types.PluginContext: it reads the configuration, and fails if there is anything wrong with it.
func (p *plugin) OnPluginStart(size int) (status types.OnPluginStartStatus) {
	defer func() {
		if r := recover(); r != nil {
			proxywasm.LogCritical("switchyard: panic at start: " + panicText(r))
			status = types.OnPluginStartStatusFailed
		}
	}()
	p.panics = proxywasm.DefineCounterMetric("switchyard.panics")
	var text []byte
	if size > 0 {
		var err error
		if text, err = proxywasm.GetPluginConfiguration(); err != nil {
			proxywasm.LogCritical("switchyard: configuration: cannot be read: " + err.Error())
			return types.OnPluginStartStatusFailed
		}
	}
	config, err := filter.ParseConfig(text)
	if err != nil {
		proxywasm.LogCritical("switchyard: configuration: " + err.Error())
		return types.OnPluginStartStatusFailed
	}
	p.config = config
	digest := fnv.New64a()
	digest.Write(text)
	proxywasm.LogInfo("switchyard: started rules=" + strconv.Itoa(len(config.Rules)) +
		" configuration=" + strconv.FormatUint(digest.Sum64(), 16))
	return types.OnPluginStartStatusOK
}

// NewHttpContext implements types.PluginContext.
func (p *plugin) NewHttpContext(uint32) types.HttpContext { return &stream{plugin: p} }

// recovered logs and counts a panic. The request's metadata headers go: whoever set them, they cannot be relied on now.
func (p *plugin) recovered(r any) {
	defer func() { _ = recover() }() // the hostcalls below panicked as well; there is nothing left to do
	proxywasm.LogError("switchyard: panic: " + panicText(r))
	p.panics.Increment(1)
	for _, name := range [...]string{p.config.Metadata.RouteHeader, p.config.Metadata.ClusterHeader} {
		if name != "" {
			_ = proxywasm.RemoveHttpRequestHeader(name)
		}
	}
}

func panicText(r any) string {
	switch r := r.(type) {
	case error:
		return r.Error()
	case string:
		return r
	}
	return "of unknown type"
}

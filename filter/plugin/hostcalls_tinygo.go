//go:build tinygo || !wasip1

package main

import (
	"github.com/tetratelabs/proxy-wasm-go-sdk/proxywasm"
	"github.com/tetratelabs/proxy-wasm-go-sdk/proxywasm/types"

	"switchyard/filter"
)

// This file binds the plugin to a Proxy-Wasm host, ABI 0.2.0, through the SDK for TinyGo. Natively the SDK has an emulated
// host, with which the tests of this package run; what TinyGo compiles of it has not been run by them. Where a TinyGo has no
// recover for WebAssembly, a panic traps.

func init() { proxywasm.SetVMContext(&vm{}) }

type vm struct{ types.DefaultVMContext }

func (*vm) NewPluginContext(uint32) types.PluginContext { return &pluginContext{} }

type pluginContext struct {
	types.DefaultPluginContext
	plugin plugin
}

func (c *pluginContext) OnPluginStart(size int) types.OnPluginStartStatus {
	var text []byte
	var err error
	if size > 0 {
		text, err = proxywasm.GetPluginConfiguration()
	}
	return types.OnPluginStartStatus(c.plugin.start(text, err))
}

func (c *pluginContext) NewHttpContext(id uint32) types.HttpContext {
	return &httpContext{plugin: &c.plugin, id: id}
}

type httpContext struct {
	types.DefaultHttpContext
	plugin *plugin
	id     uint32
}

func (c *httpContext) OnHttpRequestHeaders(int, bool) types.Action {
	if c.plugin.requestHeaders(c.id) {
		return types.ActionPause
	}
	return types.ActionContinue
}

func (c *httpContext) OnHttpResponseHeaders(int, bool) types.Action {
	c.plugin.responseHeaders(c.id)
	return types.ActionContinue
}

func (c *httpContext) OnHttpStreamDone() { c.plugin.end(c.id) }

func log(level logLevel, text string) {
	switch level {
	case logDebug:
		proxywasm.LogDebug(text)
	case logInfo:
		proxywasm.LogInfo(text)
	case logWarn:
		proxywasm.LogWarn(text)
	case logError:
		proxywasm.LogError(text)
	default:
		proxywasm.LogCritical(text)
	}
}

func hasHeader(m mapType, name string) bool {
	get := proxywasm.GetHttpRequestHeader
	if m == responseHeaders {
		get = proxywasm.GetHttpResponseHeader
	}
	_, err := get(name)
	return err == nil
}

func readHeaders(m mapType, fields filter.HeaderMap) (filter.HeaderMap, error) {
	get := proxywasm.GetHttpRequestHeaders
	if m == responseHeaders {
		get = proxywasm.GetHttpResponseHeaders
	}
	pairs, err := get()
	for _, pair := range pairs {
		fields = append(fields, filter.Field{Name: pair[0], Value: pair[1]})
	}
	return fields, err
}

func setHeader(m mapType, name, value string) error {
	if m == responseHeaders {
		return proxywasm.ReplaceHttpResponseHeader(name, value)
	}
	return proxywasm.ReplaceHttpRequestHeader(name, value)
}

func removeHeader(m mapType, name string) error {
	if m == responseHeaders {
		return proxywasm.RemoveHttpResponseHeader(name)
	}
	return proxywasm.RemoveHttpRequestHeader(name)
}

func sendResponse(code int, headers []filter.Field, body string) error {
	pairs := make([][2]string, len(headers))
	for i, f := range headers {
		pairs[i] = [2]string{f.Name, f.Value}
	}
	const noGRPCStatus = -1
	return proxywasm.SendHttpResponse(uint32(code), pairs, []byte(body), noGRPCStatus)
}

func getProperty(object, name string) (string, error) {
	value, err := proxywasm.GetProperty([]string{object, name})
	return string(value), err
}

func setProperty(name, value string) error {
	return proxywasm.SetProperty([]string{name}, []byte(value))
}

func callForeign(name string) error {
	_, err := proxywasm.CallForeignFunction(name, nil)
	return err
}

// defineCounter and incrementCounter keep to numbers, which the SDK's counters are; it panics where one fails.
func defineCounter(name string) (uint32, error) {
	return uint32(proxywasm.DefineCounterMetric(name)), nil
}

func incrementCounter(id uint32) { proxywasm.MetricCounter(id).Increment(1) }

//go:build wasip1

// The filter of ../README.md on the SDK for Go, built with stock Go.
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

func main() {}

func init() { proxywasm.SetVMContext(&vm{}) }

type vm struct{ types.DefaultVMContext }

func (*vm) OnVMStart(size int) types.OnVMStartStatus {
	configuration, err := proxywasm.GetVMConfiguration()
	proxywasm.LogInfof("start %d %s %v", size, configuration, err)
	return types.OnVMStartStatusOK
}

func (*vm) NewPluginContext(uint32) types.PluginContext { return &plugin{} }

// What a tick resumes: contexts, and whether their response.
type waiting struct {
	id       uint32
	response bool
}

type plugin struct {
	types.DefaultPluginContext
	configuration string
	waiting       []waiting
	counter       proxywasm.MetricCounter
	gauge         proxywasm.MetricGauge
	histogram     proxywasm.MetricHistogram
	queue         uint32
}

func (p *plugin) OnPluginStart(size int) types.OnPluginStartStatus {
	configuration, err := proxywasm.GetPluginConfiguration()
	p.configuration = string(configuration)
	proxywasm.LogInfof("configure %d %s %v", size, configuration, err)
	p.counter = proxywasm.DefineCounterMetric("sdk_go_counter")
	p.gauge = proxywasm.DefineGaugeMetric("sdk_go_gauge")
	p.histogram = proxywasm.DefineHistogramMetric("sdk_go_histogram")
	if p.queue, err = proxywasm.RegisterSharedQueue("sdk"); err != nil {
		return types.OnPluginStartStatusFailed
	}
	if err := proxywasm.SetTickPeriodMilliSeconds(20); err != nil {
		return types.OnPluginStartStatusFailed
	}
	return types.OnPluginStartStatusOK
}

func (p *plugin) OnTick() {
	for _, w := range p.waiting {
		_ = proxywasm.SetEffectiveContext(w.id)
		proxywasm.LogInfo("tick resumes")
		if w.response {
			_ = proxywasm.ResumeHttpResponse()
		} else {
			proxywasm.LogInfof("added %v", proxywasm.AddHttpRequestHeader("x-tick", "1"))
			_ = proxywasm.ResumeHttpRequest()
		}
	}
	p.waiting = nil
}

func (p *plugin) OnQueueReady(queue uint32) {
	for {
		item, err := proxywasm.DequeueSharedQueue(queue)
		if err != nil {
			return
		}
		proxywasm.LogInfof("queue ready %s", item)
	}
}

func (p *plugin) NewHttpContext(id uint32) types.HttpContext { return &filter{plugin: p, id: id} }

type filter struct {
	types.DefaultHttpContext
	plugin *plugin
	id     uint32
	path   string
}

func list(all [][2]string, err error) string {
	if err != nil {
		return err.Error()
	}
	var words []string
	for _, p := range all {
		switch p[0] {
		case "x-request-id", "x-envoy-upstream-service-time":
		default:
			words = append(words, p[0]+"="+p[1])
		}
	}
	return strings.Join(words, " ")
}

func (f *filter) is(path string) bool {
	return f.path == path || strings.HasPrefix(f.path, path+"/")
}

func (f *filter) OnHttpRequestHeaders(n int, end bool) types.Action {
	path, _ := proxywasm.GetHttpRequestHeader(":path")
	if strings.Contains(path, "sentinel") {
		return types.ActionContinue
	}
	f.path, _, _ = strings.Cut(path, "?")
	proxywasm.LogInfof("request %s %d %v", f.path, n, end)
	switch {
	case f.is("/get"):
		in, err := proxywasm.GetHttpRequestHeader("X-In")
		none, missing := proxywasm.GetHttpRequestHeader("x-none")
		empty, none2 := proxywasm.GetHttpRequestHeader("x-empty")
		proxywasm.LogInfof("x-in %q %v x-none %q %v x-empty %q %v", in, err, none, missing, empty, none2)
		proxywasm.LogInfo("all " + list(proxywasm.GetHttpRequestHeaders()))
	case f.is("/edit"):
		_ = proxywasm.AddHttpRequestHeader("X-Added", "1")
		_ = proxywasm.AddHttpRequestHeader("x-added", "2")
		_ = proxywasm.ReplaceHttpRequestHeader("x-in", "replaced")
		_ = proxywasm.ReplaceHttpRequestHeader("x-new", "set")
		_ = proxywasm.RemoveHttpRequestHeader("x-gone")
		_ = proxywasm.AddHttpRequestHeader("x-empty", "")
		proxywasm.LogInfo("all " + list(proxywasm.GetHttpRequestHeaders()))
	case f.is("/set-all"):
		all, _ := proxywasm.GetHttpRequestHeaders()
		var some [][2]string
		for _, p := range all {
			if p[0] != "x-in" {
				some = append(some, p)
			}
		}
		proxywasm.LogInfof("set %v", proxywasm.ReplaceHttpRequestHeaders(append(some, [2]string{"x-all", "a"}, [2]string{"x-all", "b"})))
	case f.is("/body"):
		_ = proxywasm.RemoveHttpRequestHeader("content-length")
	case f.is("/reply/head"):
		err := proxywasm.SendHttpResponse(403, [][2]string{{"x-reply", "a"}, {"x-reply", "b"}, {"server", "mine"}}, []byte("refused"), -1)
		proxywasm.LogInfof("replied %v", err)
		return types.ActionPause
	case f.is("/reply/grpc"):
		_ = proxywasm.SendHttpResponse(200, [][2]string{{"x-meta", "m"}}, []byte("no such thing"), 5)
		return types.ActionPause
	case f.is("/reply/continue"):
		_ = proxywasm.SendHttpResponse(204, nil, nil, -1)
	case f.is("/call"):
		return f.call()
	case f.is("/shared"):
		f.shared()
	case f.is("/queue"):
		id, err := proxywasm.ResolveSharedQueue("", "sdk")
		_, none := proxywasm.ResolveSharedQueue("", "none")
		proxywasm.LogInfof("resolved %v %v %v", id == f.plugin.queue, err, none)
		proxywasm.LogInfof("enqueued %v %v", proxywasm.EnqueueSharedQueue(id, []byte("item")), proxywasm.EnqueueSharedQueue(4711, []byte("x")))
		_, err = proxywasm.DequeueSharedQueue(4711)
		proxywasm.LogInfof("dequeued %v", err)
	case f.is("/metric"):
		f.plugin.counter.Increment(3)
		f.plugin.gauge.Add(7)
		f.plugin.gauge.Add(-2)
		f.plugin.histogram.Record(250)
		proxywasm.LogInfof("counter %d gauge %d", f.plugin.counter.Value(), f.plugin.gauge.Value())
	case f.is("/property"):
		for _, path := range []string{"request.path", "request.method", "request.headers.x-in", "plugin_name", "plugin_root_id", "plugin_vm_id",
			"xds.route_name", "xds.cluster_name", "response.code", "node", "nothing", "listener_direction"} {
			value, err := proxywasm.GetProperty(strings.Split(path, "."))
			proxywasm.LogInfof("property %s %q %v", path, value, err)
		}
		headers, err := proxywasm.GetPropertyMap([]string{"request", "headers"})
		proxywasm.LogInfof("property map %d %v", len(headers), err)
		proxywasm.LogInfof("set %v", proxywasm.SetProperty([]string{"mine", "own"}, []byte("kept")))
		value, err := proxywasm.GetProperty([]string{"mine", "own"})
		proxywasm.LogInfof("is %q %v", value, err)
	case f.is("/foreign"):
		_ = proxywasm.SetProperty([]string{"k"}, []byte("routed"))
		_, err := proxywasm.CallForeignFunction("clear_route_cache", nil)
		proxywasm.LogInfof("clear %v", err)
		_, err = proxywasm.CallForeignFunction("no_such_function", []byte("x"))
		proxywasm.LogInfof("none %v", err)
		_, err = proxywasm.CallForeignFunction("compress", []byte(strings.Repeat("a", 100)))
		proxywasm.LogInfof("compress %v", err)
	case f.is("/levels"):
		proxywasm.LogTrace("at trace")
		proxywasm.LogDebug("at debug")
		proxywasm.LogInfo("at info, two\nlines")
		proxywasm.LogWarn("at warn")
		proxywasm.LogError("at error")
		proxywasm.LogCritical("at critical")
		fmt.Println("printed")
		fmt.Fprintln(os.Stderr, "printed to stderr")
		fmt.Print("without newline")
		println("built in")
	case f.is("/config"):
		_ = proxywasm.SendHttpResponse(200, nil, fmt.Appendf(nil, "%s %q %v", f.plugin.configuration, os.Getenv("SDK_ENV"), os.Args), -1)
		return types.ActionPause
	case f.is("/time"):
		begin := time.Now()
		time.Sleep(time.Millisecond)
		proxywasm.LogInfof("time %v %v", begin.Year() > 2020, time.Since(begin) < time.Minute)
	case f.is("/grow"):
		var all [][]byte
		for i := range 40 {
			all = append(all, make([]byte, 1<<20))
			all[i][i] = 1
		}
		proxywasm.LogInfof("grown %d", len(all))
	case f.is("/tick/request"):
		return f.wait(false)
	case f.is("/panic/request"):
		panic("in the request")
	case f.is("/panic/bounds"):
		proxywasm.LogInfof("%d", []int{1, 2, 3}[len(f.path)])
	}
	return types.ActionContinue
}

func (f *filter) wait(response bool) types.Action {
	f.plugin.waiting = append(f.plugin.waiting, waiting{f.id, response})
	return types.ActionPause
}

func (f *filter) call() types.Action {
	cluster, milliseconds := "other", uint32(5000)
	switch {
	case f.is("/call/refused"):
		cluster = "refused"
	case f.is("/call/unknown"):
		cluster = "nowhere"
	case f.is("/call/late"):
		milliseconds = 100
	}
	headers := [][2]string{{":method", "POST"}, {":path", "/callee"}, {":authority", "callee"}, {"x-call", f.path}}
	_, err := proxywasm.DispatchHttpCall(cluster, headers, []byte("question"), [][2]string{{"x-asked", "yes"}}, milliseconds, f.called)
	if err != nil {
		proxywasm.LogErrorf("no call: %v", err)
		return types.ActionContinue
	}
	return types.ActionPause
}

func (f *filter) called(headers, size, trailers int) {
	all, err := proxywasm.GetHttpCallResponseHeaders()
	status := "none"
	if len(all) > 0 {
		status = all[0][1]
	}
	body, bodyErr := proxywasm.GetHttpCallResponseBody(0, size)
	proxywasm.LogInfof("called %d %d %d: %s %v %q %v %s", headers, size, trailers, status, err, body, bodyErr, list(proxywasm.GetHttpCallResponseTrailers()))
	if f.is("/call/reply") {
		_ = proxywasm.SendHttpResponse(418, [][2]string{{"x-callee", status}}, body, -1)
		return
	}
	proxywasm.LogInfof("added %v", proxywasm.AddHttpRequestHeader("x-callee", status))
	_ = proxywasm.ResumeHttpRequest()
}

func (f *filter) shared() {
	key := f.path
	value, cas, err := proxywasm.GetSharedData(key)
	proxywasm.LogInfof("was %q %v %v", value, cas != 0, err)
	proxywasm.LogInfof("set %v", proxywasm.SetSharedData(key, []byte("one"), 0))
	value, cas, err = proxywasm.GetSharedData(key)
	proxywasm.LogInfof("is %q %v %v", value, cas != 0, err)
	proxywasm.LogInfof("wrong %v", proxywasm.SetSharedData(key, []byte("two"), cas+1000))
	proxywasm.LogInfof("right %v", proxywasm.SetSharedData(key, []byte("three"), cas))
	value, _, err = proxywasm.GetSharedData(key)
	proxywasm.LogInfof("then %q %v", value, err)
}

func (f *filter) OnHttpRequestBody(size int, end bool) types.Action {
	if f.path == "" {
		return types.ActionContinue
	}
	proxywasm.LogInfof("request body %d %v", size, end)
	switch {
	case f.is("/body"):
		if !end {
			return types.ActionPause
		}
		body, err := proxywasm.GetHttpRequestBody(0, size)
		proxywasm.LogInfof("replaced %v %v", err, proxywasm.ReplaceHttpRequestBody([]byte("<"+strings.ToUpper(string(body))+">")))
	case f.is("/chunks"):
		body, err := proxywasm.GetHttpRequestBody(0, size)
		proxywasm.LogInfof("chunk %q %v", body, err)
		_ = proxywasm.AppendHttpRequestBody([]byte("+"))
		_ = proxywasm.PrependHttpRequestBody([]byte("-"))
	case f.is("/reply/body") && end:
		_ = proxywasm.SendHttpResponse(400, nil, []byte("bad content"), -1)
		return types.ActionPause
	case f.is("/panic/body"):
		panic(fmt.Errorf("in the body"))
	}
	return types.ActionContinue
}

func (f *filter) OnHttpRequestTrailers(n int) types.Action {
	if f.path == "" {
		return types.ActionContinue
	}
	proxywasm.LogInfof("request trailers %d %s", n, list(proxywasm.GetHttpRequestTrailers()))
	if f.is("/trailers") {
		_ = proxywasm.AddHttpRequestTrailer("x-added", "1")
		_ = proxywasm.ReplaceHttpRequestTrailer("x-t", "replaced")
		_ = proxywasm.RemoveHttpRequestTrailer("x-gone")
		value, err := proxywasm.GetHttpRequestTrailer("x-t")
		proxywasm.LogInfof("x-t %q %v", value, err)
	}
	return types.ActionContinue
}

func (f *filter) OnHttpResponseHeaders(n int, end bool) types.Action {
	if f.path == "" {
		return types.ActionContinue
	}
	status, err := proxywasm.GetHttpResponseHeader(":status")
	proxywasm.LogInfof("response %s %v %d %v", status, err, n, end)
	switch {
	case f.is("/get"):
		in, err := proxywasm.GetHttpRequestHeader("x-in")
		proxywasm.LogInfof("all %s, x-in %q %v", list(proxywasm.GetHttpResponseHeaders()), in, err)
	case f.is("/edit"):
		_ = proxywasm.AddHttpResponseHeader("x-added", "1")
		_ = proxywasm.AddHttpResponseHeader("x-added", "2")
		_ = proxywasm.ReplaceHttpResponseHeader("x-out", "replaced")
		_ = proxywasm.ReplaceHttpResponseHeader("content-type", "text/edited")
		_ = proxywasm.RemoveHttpResponseHeader("x-gone")
	case f.is("/set-all"):
		proxywasm.LogInfof("set %v", proxywasm.ReplaceHttpResponseHeaders([][2]string{{":status", "203"}, {"x-only", "1"}}))
	case f.is("/body"):
		_ = proxywasm.RemoveHttpResponseHeader("content-length")
	case f.is("/reply/response"):
		_ = proxywasm.SendHttpResponse(599, [][2]string{{"x-reply", "r"}}, []byte("instead"), -1)
		return types.ActionPause
	case f.is("/property"):
		code, err := proxywasm.GetProperty([]string{"response", "code"})
		if err == nil {
			proxywasm.LogInfof("code %d", binary.LittleEndian.Uint64(code))
		}
		own, err := proxywasm.GetProperty([]string{"mine", "own"})
		cluster, _ := proxywasm.GetProperty([]string{"xds", "cluster_name"})
		proxywasm.LogInfof("own %q %v cluster %s", own, err, cluster)
	case f.is("/tick/response"):
		return f.wait(true)
	case f.is("/panic/response"):
		panic("in the response")
	case f.is("/panic/status"):
		// The SDK ends the program where a property has no path.
		_, _ = proxywasm.GetProperty([]string{""})
	}
	return types.ActionContinue
}

func (f *filter) OnHttpResponseBody(size int, end bool) types.Action {
	if f.path == "" {
		return types.ActionContinue
	}
	proxywasm.LogInfof("response body %d %v", size, end)
	switch {
	case f.is("/body"):
		if !end {
			return types.ActionPause
		}
		body, err := proxywasm.GetHttpResponseBody(0, size)
		proxywasm.LogInfof("replaced %v %v", err, proxywasm.ReplaceHttpResponseBody([]byte("<"+strings.ToUpper(string(body))+">")))
	case f.is("/chunks"):
		body, err := proxywasm.GetHttpResponseBody(0, size)
		proxywasm.LogInfof("chunk %q %v", body, err)
		if end {
			_ = proxywasm.AppendHttpResponseBody([]byte(" the end"))
		}
	}
	return types.ActionContinue
}

func (f *filter) OnHttpResponseTrailers(n int) types.Action {
	if f.path == "" {
		return types.ActionContinue
	}
	proxywasm.LogInfof("response trailers %d %s", n, list(proxywasm.GetHttpResponseTrailers()))
	if f.is("/trailers") {
		_ = proxywasm.AddHttpResponseTrailer("x-added", "1")
		_ = proxywasm.ReplaceHttpResponseTrailer("x-u", "replaced")
		_ = proxywasm.RemoveHttpResponseTrailer("x-gone")
	}
	return types.ActionContinue
}

func (f *filter) OnHttpStreamDone() {
	if f.path == "" {
		return
	}
	status, err := proxywasm.GetHttpResponseHeader(":status")
	in, inErr := proxywasm.GetHttpRequestHeader("x-in")
	proxywasm.LogInfof("done %s %v %q %v", status, err, in, inErr)
	if f.is("/panic/log") {
		panic("in the log")
	}
}

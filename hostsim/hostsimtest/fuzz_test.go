package hostsimtest

import (
	"strings"
	"testing"
)

// What a fuzzed plugin may do, and in which callbacks.
var (
	fuzzCallbacks  = []string{"rqh", "rqb", "rqb#1", "rqt", "rsh", "rsb", "rsb#2", "rst", "call", "tick", "queue", "log"}
	fuzzOperations = []string{"ret 0", "ret 1", "ret 2", "ret 3", "ret 4", "ret 5", "ret -1", "cont 0", "cont 1", "cont 3", "eff self", "eff 1", "eff 2",
		"reply 403 no", "replywith 200 x-a b body", "close 0", "close 1", "add 0 a b", "add 1 a b", "add 2 a b", "add 3 a b", "rem 0 :path", "rep 2 :status 99",
		"setmap 0", "setmap 2 :status 200", "set 0 0 9 X", "set 0 99 0 Y", "set 1 0 0 Z", "set 1 0 99 ", "buf 0 0 9", "buf 1 0 9", "call web GET /called 100",
		"register q", "enqueue 1 x", "dequeue 1", "tick 10", "prop request/path", "prop response/code", "setprop k v", "map 0", "map 2", "done", "foreign clear_route_cache "}
)

// FuzzStreams lets a plugin do anything anywhere, in any order of what a test
// can give it, and looks whether the data plane survives: nothing panics or
// hangs. A byte chooses a callback, the next what is done in it; from the first
// zero on, bytes are what the test does.
func FuzzStreams(f *testing.F) {
	f.Add([]byte{1, 2, 9, 11, 0, 1, 2, 3, 4, 5, 6, 7, 8})
	f.Add([]byte{1, 2, 1, 32, 9, 11, 9, 8, 0, 1, 2, 2, 7, 4, 5, 6})
	f.Add([]byte{5, 2, 6, 2, 10, 11, 10, 9, 1, 36, 0, 1, 2, 3, 4, 5, 5, 6, 8, 8})
	f.Add([]byte{1, 33, 1, 34, 1, 2, 11, 11, 11, 8, 0, 1, 2, 3, 4, 5, 6})
	p := Plugin(f, scripted, Clusters("web"), Env("A", "b"))
	f.Fuzz(func(t *testing.T, program []byte) {
		if len(program) > 200 {
			return
		}
		p.t = t // who fuzzes is not told of a single run
		var script []string
		for len(program) > 1 && program[0] != 0 {
			script = append(script, fuzzCallbacks[int(program[0])%len(fuzzCallbacks)]+":"+fuzzOperations[int(program[1])%len(fuzzOperations)])
			program = program[2:]
		}
		s := p.Stream()
		var calls []*HTTPCall
		note := func(e *Effect) { calls = append(calls, e.HTTPCalls...) }
		note(s.RequestHeaders(head(strings.Join(script, ";")), false))
		for _, b := range program {
			switch {
			case b%9 == 1 && s.request.head && !s.request.end:
				note(s.RequestBody("hello", false))
			case b%9 == 2 && !s.request.end:
				note(s.RequestBody("", true))
			case b%9 == 3 && !s.request.end:
				note(s.RequestTrailers(Headers{{"t", "1"}}))
			case b%9 == 4 && !s.response.head && s.Reply() == nil:
				note(s.ResponseHeaders(Headers{{":status", "200"}}, b > 100))
			case b%9 == 5 && s.response.head && !s.response.end:
				note(s.ResponseBody("content", false))
			case b%9 == 6 && s.response.head && !s.response.end:
				note(s.ResponseTrailers(Headers{{"t", "1"}}))
			case b%9 == 7 && len(calls) > 0:
				if call := calls[0]; !call.Cancelled() {
					note(call.Answer(Headers{{":status", "200"}}, "answer", nil))
				}
				calls = calls[1:]
			case b%9 == 8:
				note(p.Tick())
			}
		}
		note(s.End())
		for _, call := range calls {
			call.Fail()
		}
	})
}

package vm

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"

	"switchyard/hostsim/abi"
)

// many is how often hammer tests do what they do: more often with the race
// detector, which make race runs them with.
func many(n int) int {
	if raceDetector && !testing.Short() {
		return 10 * n
	}
	return n
}

// answering is Callouts that answers each call on a goroutine of its own, as a
// data plane does.
type answering struct {
	threads *[4]sync.Mutex
	calls   sync.WaitGroup
}

func (c *answering) HTTP(worker int, _ HTTPCall, done func(*HTTPResponse)) (func(), abi.Status, string) {
	cancelled := false // the thread's lock guards it
	c.calls.Go(func() {
		runtime.Gosched()
		lock := &c.threads[1+worker]
		lock.Lock()
		defer lock.Unlock()
		if !cancelled {
			done(&HTTPResponse{Headers: abi.Pairs{{":status", "200"}}})
		}
	})
	return func() { cancelled = true }, abi.StatusOK, ""
}

func (c *answering) GRPC(int, GRPCCall, GRPCEvents) (GRPCStream, abi.Status, string) {
	return nil, abi.StatusParseFailure, ""
}

// Streams of many goroutines on several workers, ticks, answers to callouts,
// and queues whose listener is on one of the workers: nothing is lost, nothing
// is done twice, and nothing stays.
func TestHammerWorkers(t *testing.T) {
	const workers, clients = 3, 12
	var threads [1 + workers]sync.Mutex
	registry := &Registry{}
	calls := &answering{threads: &threads}
	var plugin *Plugin
	streams := many(60)
	for round := range many(3) {
		e, err := NewEngine(context.Background(), EngineOptions{Metrics: registry, Callouts: calls,
			Thread: func(worker int) sync.Locker { return &threads[1+worker] }})
		if err != nil {
			t.Fatal(err)
		}
		m, err := loadTestModule(t, e, "hammer")
		if err != nil {
			t.Fatal(err)
		}
		if plugin, err = e.NewPlugin(context.Background(), PluginConfig{Name: "hammer", VMID: "vm", Module: m}, workers); err != nil {
			t.Fatal(err)
		}
		var running sync.WaitGroup
		stop := make(chan struct{})
		for worker := MainThread; worker < workers; worker++ {
			running.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(time.Millisecond):
						threads[1+worker].Lock()
						plugin.Tick(worker)
						threads[1+worker].Unlock()
					}
				}
			})
		}
		var streaming sync.WaitGroup
		for i := range clients {
			streaming.Go(func() {
				worker := i % workers
				for range streams {
					threads[1+worker].Lock()
					s, err := plugin.NewStream(worker, requestStream([2]string{":path", "/"}))
					if err == nil {
						_, err = s.OnRequestHeaders(1, true)
					}
					threads[1+worker].Unlock()
					if err != nil {
						t.Error(err)
						return
					}
					threads[1+worker].Lock()
					s.Close()
					threads[1+worker].Unlock()
				}
			})
		}
		streaming.Wait()
		close(stop)
		running.Wait()
		calls.calls.Wait()
		e.AwaitQueues()

		want := uint64((round + 1) * clients * streams)
		for _, name := range []string{"requests", "items", "answers"} {
			if got, _ := registry.Value(abi.MetricCounter, name); got != want {
				t.Errorf("%d %s, want %d", got, name, want)
			}
		}
		if got, ok := e.shared.get("vm", "number"); !ok || uint64(got.data[0])|uint64(got.data[1])<<8|uint64(got.data[2])<<16 != uint64(clients*streams) {
			t.Errorf("the number is %q, want %d", got.data, clients*streams)
		}
		if err := plugin.Close(); err != nil {
			t.Error(err)
		}
		if e.shared.bytes != 0 || len(e.shared.data) != 0 || len(e.shared.queues) != 0 {
			t.Errorf("shared data of %d bytes is left", e.shared.bytes)
		}
		if active := e.Stats().Active; active != 0 {
			t.Errorf("%d VMs are left", active)
		}
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

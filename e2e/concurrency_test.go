package e2e

import (
	"bytes"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// BenchmarkConcurrency prints how many requests hostsim and Envoy answer in a
// second with one worker and with two, and what each request costs in processor
// time.
//
//	go test ./e2e -run '^$' -bench Concurrency -benchtime 1x
//
// The proxy answers itself, so that most of the time is the proxy's. On two
// cores a second worker still shares its core with the client: the processor
// time that the client needs is printed too, and twice as many requests are not
// to be had here.
func BenchmarkConcurrency(b *testing.B) {
	const (
		rounds   = 8
		requests = 40_000 // a round
	)
	type measured struct{ seconds, cost, client []float64 }
	for b.Loop() {
		all := map[string]*measured{}
		var proxies []*stoppableProxy
		var workers []int
		for _, p := range []peer{envoy140, hostsim} {
			for n := 1; n <= 2; n++ {
				listen := freePort(b)
				text := strings.NewReplacer("LISTEN", listen, "UPSTREAM", "1", "FILTER", "", "route: {cluster: up}",
					"direct_response: {status: 200, body: {inline_string: hello}}").Replace(benchBootstrap)
				proxies, workers = append(proxies, benchPeer(b, p, text, listen, n)), append(workers, n)
			}
		}
		self := &benchProxy{pid: os.Getpid()}
		for range rounds {
			for i, p := range proxies {
				key := p.name + "/" + string(rune('0'+workers[i]))
				if all[key] == nil {
					all[key] = &measured{}
				}
				begun, client := time.Now(), self.cpu(b)
				cost := p.measure(b, requests, func() { ask(b, p.addr, requests) })
				m := all[key]
				m.seconds = append(m.seconds, time.Since(begun).Seconds())
				m.cost = append(m.cost, cost/1000)
				m.client = append(m.client, float64(self.cpu(b)-client)/requests/1000)
			}
		}
		rate := func(name string) float64 { return requests / quartile(all[name].seconds) }
		for _, p := range []peer{envoy140, hostsim} {
			for _, n := range []string{"1", "2"} {
				m := all[p.name+"/"+n]
				b.Logf("%-12s %s workers: %7.0f requests/s, %5.1f us of processor time for each, the client's %.1f us", p.name, n, rate(p.name+"/"+n), quartile(m.cost), quartile(m.client))
			}
			b.ReportMetric(rate(p.name+"/2")/rate(p.name+"/1"), p.name+"-2/1")
		}
		b.ReportMetric(0, "ns/op") // says nothing here
		for _, p := range proxies {
			p.stop()
		}
	}
}

// ask sends n requests over 32 connections.
func ask(b *testing.B, addr string, n int) {
	const connections = 32
	var wg sync.WaitGroup
	for range connections {
		wg.Go(func() {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				b.Error(err)
				return
			}
			defer c.Close()
			buf := make([]byte, 8<<10)
			for range n / connections {
				if _, err := io.WriteString(c, benchRequest); err != nil {
					b.Error(err)
					return
				}
				m, err := c.Read(buf) // a response comes in one piece here
				if err != nil || !bytes.HasSuffix(buf[:m], []byte("hello")) {
					b.Errorf("%q, %v", buf[:m], err)
					return
				}
			}
		})
	}
	wg.Wait()
}

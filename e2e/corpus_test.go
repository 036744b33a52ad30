package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// missed are the corpus cases that do not pass, with the reason. The list is
// exact: a case that starts to pass must leave it.
var missed = map[string]string{
	"bare-cr-in-value": "Envoy's codec drops the CR before any filter can see it, so a plain `websocket` remains",
}

// A handshake is one line of the corpus: a request and what it calls for.
type handshake struct {
	Name      string `json:"name"`
	Raw       string `json:"raw"`       // each character is one byte, @@ in the path is an id
	Class     string `json:"class"`     // such as "real client"
	Route     string `json:"route"`     // ws, web, other or reject
	Handshake string `json:"handshake"` // the status it calls for, or n-a
	Must      string `json:"must"`      // web: a refusal does not count
	Also      string `json:"also"`      // refused or ws: a second outcome that the RFCs allow
	Reason    string `json:"reason"`
}

func readCorpus(t *testing.T) []handshake {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, "filter/testdata/handshakes/handshakes.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var corpus []handshake
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var h handshake
		if err := json.Unmarshal(lines.Bytes(), &h); err != nil {
			t.Fatalf("handshakes.jsonl:%d: %v", len(corpus)+1, err)
		}
		raw := make([]byte, 0, len(h.Raw))
		for _, r := range h.Raw {
			raw = append(raw, byte(r))
		}
		h.Raw = string(raw)
		corpus = append(corpus, h)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if len(corpus) < 117 {
		t.Fatalf("the corpus has %d requests, want at least 117", len(corpus))
	}
	return corpus
}

// passes is the rule of the corpus for a configuration with two clusters.
func (h handshake) passes(o outcome) bool {
	tunnel := o.Upstream == "websocket" && o.Status == 101 && o.Echo
	refused := o.Upstream == "-" && 400 <= o.Status && o.Status < 500
	switch {
	case h.Also == "refused" && refused, h.Also == "ws" && tunnel:
		return true
	case h.Route == "ws" && h.Handshake == "101":
		return tunnel
	case h.Route == "ws":
		return o.Upstream == "websocket" || refused
	case h.Route == "web" && h.Handshake == "n-a", h.Must == "web":
		return o.Upstream == "web" && o.Status == 200
	case h.Route == "web", h.Route == "other":
		return o.Upstream == "web" && o.Status != 0 && o.Status != 101 || refused
	case h.Route == "reject":
		return !strings.Contains(o.Upstream, "websocket") && o.Status != 101
	}
	return false
}

// mayReach says whether the websocket cluster may get the request at all.
func (h handshake) mayReach() bool { return h.Route == "ws" || h.Also == "ws" }

// runCorpus sends every handshake to the proxy, several at a time.
func runCorpus(t *testing.T, p *proxy, corpus []handshake) []outcome {
	t.Helper()
	outcomes := make([]outcome, len(corpus))
	work := make(chan int)
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for i := range work {
				outcomes[i] = p.exchange(t, corpus[i].Raw)
			}
		})
	}
	for i := range corpus {
		work <- i
	}
	close(work)
	workers.Wait()
	return outcomes
}

// testCorpus wants every case to pass by the rule of the corpus, apart from
// those in missed, and nothing to reach websocket that must not.
func testCorpus(t *testing.T, p *proxy) {
	corpus := readCorpus(t)
	outcomes := runCorpus(t, p, corpus)
	misses := map[string]string{}
	for i, h := range corpus {
		o := outcomes[i]
		reason, known := missed[h.Name]
		if !h.passes(o) {
			misses[h.Name] = reason
			if !known {
				t.Errorf("%s: got %s, want route %s, handshake %s (%s)", h.Name, o, h.Route, h.Handshake, h.Reason)
			}
		}
		if !known && !h.mayReach() && strings.Contains(o.Upstream, "websocket") {
			t.Errorf("%s: reached websocket and must not: %s", h.Name, o)
		}
	}
	t.Logf("%s passes %d of %d", p.name, len(corpus)-len(misses), len(corpus))
	if diff := cmp.Diff(missed, misses); diff != "" {
		t.Errorf("misses (-want +got):\n%s", diff)
	}
}

// hostsim gives what Envoy gives: the upstream, the status, the flow of bytes,
// what the upstream received and what the client got.
func TestNodiffCorpus(t *testing.T) {
	for _, file := range bootstraps {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			bootstrap := shipped(t, file)
			testAlike(t, start(t, hostsim, bootstrap), start(t, envoy140, bootstrap))
		})
	}
}

// testAlike lists by cause what the simulator and the real proxy answer in
// another way to the corpus.
func testAlike(t *testing.T, simulated, real *proxy) {
	corpus := readCorpus(t)
	got, want := runCorpus(t, simulated, corpus), runCorpus(t, real, corpus)
	causes := map[string][]string{}
	for i, h := range corpus {
		for _, cause := range differences(got[i], want[i]) {
			causes[cause] = append(causes[cause], h.Name)
		}
	}
	for _, cause := range slices.Sorted(maps.Keys(causes)) {
		t.Errorf("%d cases: %s\n\t%s", len(causes[cause]), cause, strings.Join(causes[cause], " "))
	}
}

// differences names what differs between hostsim's outcome and Envoy's. Equal
// words mean an equal cause, so that cases can be grouped.
func differences(hostsim, envoy outcome) []string {
	var causes []string
	if got, want := hostsim.String(), envoy.String(); got != want {
		causes = append(causes, fmt.Sprintf("hostsim: %s, Envoy: %s", got, want))
	}
	for _, side := range []struct {
		what      string
		got, want []string
	}{
		{"the upstream received", hostsim.Received, envoy.Received},
		{"the upstream received the content", []string{hostsim.Content}, []string{envoy.Content}},
		{"the client got", hostsim.Answer, envoy.Answer},
		{"the client got the content", []string{hostsim.Body}, []string{envoy.Body}},
	} {
		got, want := masked(side.got), masked(side.want)
		if slices.Equal(got, want) {
			continue
		}
		only := len(causes)
		for _, line := range without(got, want) {
			causes = append(causes, fmt.Sprintf("%s from hostsim only: %q", side.what, line))
		}
		for _, line := range without(want, got) {
			causes = append(causes, fmt.Sprintf("%s from Envoy only: %q", side.what, line))
		}
		if only == len(causes) {
			causes = append(causes, fmt.Sprintf("%s the lines in another order: hostsim %q, Envoy %q", side.what, names(got), names(want)))
		}
	}
	return causes
}

// masked hides the values that differ from run to run; that the fields are
// there, and where, still counts.
func masked(lines []string) []string {
	lines = slices.Clone(lines)
	for i, line := range lines {
		name, _, isField := strings.Cut(line, ":")
		switch lower(name) {
		case "x-request-id", "x-envoy-upstream-service-time", "date":
			if isField {
				lines[i] = name + ": *"
			}
		}
	}
	return lines
}

// without returns the lines of a that b does not have, counting copies.
func without(a, b []string) []string {
	b = slices.Clone(b)
	return slices.DeleteFunc(slices.Clone(a), func(line string) bool {
		i := slices.Index(b, line)
		if i < 0 {
			return false
		}
		b = slices.Delete(b, i, i+1)
		return true
	})
}

func names(lines []string) []string {
	var names []string
	for _, line := range lines {
		name, _, _ := strings.Cut(line, ":")
		names = append(names, name)
	}
	return names
}

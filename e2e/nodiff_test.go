package e2e

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unicode"
	"unicode/utf8"

	"switchyard/hostsim/bootstrap"
)

// defaultStats are compared for every case; a case file may add more.
var defaultStats = regexp.MustCompile(`^http\.[a-z0-9_]+\.downstream_(rq_total|rq_[1-5]xx|cx_total)$|^cluster\.[a-z0-9_]+\.upstream_(rq_total|cx_total|rq_[1-5]xx)$`)

// A job is a case in one way of cutting its writes, and what came of it.
type job struct {
	file, name string
	c          *nodiffCase
	split      func(string) []string

	got, want *observation // hostsim's and Envoy's
	causes    []string
	refused   bool     // by hostsim, with the whole bootstrap
	flaky     []string // what differed only the first time
}

// hostsim gives what Envoy gives, on every bootstrap and every case of
// testdata/nodiff: which upstream was chosen and what it received, what the
// client received, what became of the connections, the access log, what guests
// log, and stats.
// Differences are listed by cause.
//
// The subtests only read the cases and so choose what runs: -run
// 'TestNodiff$/framing/size' runs the cases of framing.txt with "size" in
// their names. testdata/nodiff/README.md describes the files.
func TestNodiff(t *testing.T) {
	simulator, real := require(t, hostsim), require(t, envoy140)
	require(t, plugin)
	files, err := filepath.Glob("testdata/nodiff/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no bootstraps in testdata/nodiff", err)
	}
	type suite struct {
		name  string
		file  *nodiffFile
		jobs  []*job
		error string
	}
	var suites []*suite
	number := 0
	for _, path := range files {
		s := &suite{name: strings.TrimSuffix(filepath.Base(path), ".yaml")}
		t.Run(s.name, func(t *testing.T) {
			if s.file, err = readNodiffFile(strings.TrimSuffix(path, ".yaml") + ".txt"); err != nil {
				t.Fatal(err)
			}
			for _, c := range s.file.cases {
				number++
				add := func(name string, split func(string) []string) {
					t.Run(name, func(*testing.T) {
						s.jobs = append(s.jobs, &job{file: s.name, name: name, c: c, split: split})
					})
				}
				add(c.name, asWritten)
				switch {
				case c.whole:
				case number%40 == 0:
					add(c.name+", byte by byte", bytewise)
				case number%5 == 0:
					add(c.name+", split", randomly(c))
				}
			}
		})
		// A bootstrap with many cases runs several times, with some of them each.
		for jobs := range slices.Chunk(s.jobs, 24) {
			suites = append(suites, &suite{name: s.name, file: s.file, jobs: jobs})
		}
	}

	// Almost all of the time is waiting for what does not happen, so many
	// bootstraps run at once; starting is work, so few start at once.
	running, starting := make(chan struct{}, 24), make(chan struct{}, 2)
	var all sync.WaitGroup
	for _, s := range suites {
		all.Go(func() {
			running <- struct{}{}
			defer func() { <-running }()
			text, err := os.ReadFile("testdata/nodiff/" + s.name + ".yaml")
			if err != nil {
				s.error = err.Error()
				return
			}
			stats := append(slices.Clone(s.file.stats), defaultStats)
			starting <- struct{}{}
			var flags []string
			if s.file.guests {
				flags = []string{"--component-log-level", "wasm:trace"}
			}
			envoy, err := startNodiff(envoy140, real, string(text), t.TempDir(), flags...)
			if err != nil {
				<-starting
				s.error = "Envoy does not take the bootstrap: " + err.Error()
				return
			}
			defer envoy.close()
			simulated, refused := startNodiff(hostsim, simulator, string(text), t.TempDir(), flags...)
			<-starting
			if refused == nil {
				defer func() { simulated.close() }()
			}
			for _, j := range s.jobs {
				// A machine that was busy is no difference, nor is what
				// Envoy itself does in one of several ways: hostsim must
				// give what Envoy gave in some attempt, this one or another.
				var wants []*observation
				for range attempts {
					var peers sync.WaitGroup
					var wantErr, gotErr error
					peers.Go(func() { j.want, wantErr = envoy.run(j.c, j.split, stats) })
					if refused == nil {
						peers.Go(func() { j.got, gotErr = simulated.run(j.c, j.split, stats) })
					}
					peers.Wait()
					if wantErr != nil {
						s.error = fmt.Sprintf("%s: Envoy: %v", j.name, wantErr)
						return
					}
					if refused != nil {
						j.causes, j.refused = refusals(refused, text), true
						break
					}
					if gotErr != nil {
						j.causes = []string{"hostsim: " + gotErr.Error()}
						simulated.close()
						if simulated, refused = startNodiff(hostsim, simulator, string(text), t.TempDir(), flags...); refused != nil {
							s.error = "hostsim does not start again: " + refused.Error()
							return
						}
						break
					}
					wants = append(wants, j.want)
					before := j.causes
					j.causes = differing(j.got, j.want)
					if slices.ContainsFunc(wants, func(want *observation) bool { return len(differing(j.got, want)) == 0 }) {
						j.causes, j.flaky = nil, before
						break
					}
					// A stat that is not there does not depend on the machine.
					if !slices.ContainsFunc(j.causes, func(cause string) bool { return !strings.HasSuffix(cause, isMissing) }) {
						break
					}
				}
			}
		})
	}
	all.Wait()

	var jobs []*job
	for _, s := range suites {
		if s.error != "" {
			t.Errorf("%s.yaml: %s", s.name, s.error)
		}
		jobs = append(jobs, s.jobs...)
	}
	report(t, len(files), jobs)
}

// attempts is how often a case is played before a difference counts.
const attempts = 4

const isMissing = "hostsim does not have it"

// report lists differences by cause: first those of the outcome, then the
// details, the most frequent first.
func report(t *testing.T, bootstraps int, jobs []*job) {
	causes := map[string][]string{}
	differ := 0
	refused := map[string]int{}
	for _, j := range jobs {
		if len(j.causes) > 0 {
			differ++
		}
		if j.refused {
			refused[j.file]++
			for _, cause := range j.causes {
				if name := j.file + " (the whole file)"; !slices.Contains(causes[cause], name) {
					causes[cause] = append(causes[cause], name)
				}
			}
			continue
		}
		if j.flaky != nil {
			t.Logf("equal only when tried again: %s/%s: %s", j.file, j.name, printable(strings.Join(j.flaky, "; ")))
		}
		for _, cause := range j.causes {
			causes[cause] = append(causes[cause], j.file+"/"+j.name)
		}
	}
	rank := func(cause string) int {
		return slices.IndexFunc([]string{"outcome", "hostsim", "upstream", "client", "access log", "guest's log", "stat"}, func(s string) bool { return strings.HasPrefix(cause, s) })
	}
	byCount := slices.SortedFunc(maps.Keys(causes), func(a, b string) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(len(causes[b]), len(causes[a])), cmp.Compare(a, b))
	})
	var b strings.Builder
	for _, cause := range byCount {
		what := "cases"
		if strings.HasPrefix(cause, "hostsim refuses") {
			what = "files"
		}
		fmt.Fprintf(&b, "\n%d %s: %s\n", len(causes[cause]), what, printable(cause))
		for i, name := range causes[cause] {
			if i == 12 {
				fmt.Fprintf(&b, "\t... and %d more\n", len(causes[cause])-i)
				break
			}
			fmt.Fprintf(&b, "\t%s\n", name)
		}
	}
	inRefused := 0
	for _, n := range refused {
		inRefused += n
	}
	t.Logf("%d bootstraps, %d cases, %d differ: %d because hostsim refuses %d bootstraps; %d causes",
		bootstraps, len(jobs), differ, inRefused, len(refused), len(causes))
	if differ == 0 {
		return
	}
	if testing.Verbose() {
		b.WriteString("\nWhat was seen in each of them:\n")
		for _, j := range jobs {
			if len(j.causes) > 0 && j.want != nil {
				fmt.Fprintf(&b, "\n%s/%s (%s.txt:%d)\n  Envoy:\n%s", j.file, j.name, j.file, j.c.line, j.want)
				if j.got != nil {
					fmt.Fprintf(&b, "  hostsim:\n%s", j.got)
				}
			}
		}
	}
	t.Error(b.String())
}

// String shows an observation to people.
func (o *observation) String() string {
	var b strings.Builder
	show := func(what string, lines []string) {
		for _, line := range lines {
			if len(line) > 1000 {
				line = fmt.Sprintf("%s... (%d bytes)", line[:1000], len(line))
			}
			fmt.Fprintf(&b, "    %s: %s\n", what, printable(line))
		}
	}
	for i := range o.reached {
		show("upstream", []string{o.reached[i]})
		show("  received", o.received[i])
	}
	show("upstream connection", o.ends)
	for i := range o.clients {
		show("client got", o.clients[i])
		show("client's connection", []string{o.closed[i]})
	}
	show("log", o.log)
	show("guest's log", o.guests)
	for _, name := range slices.Sorted(maps.Keys(o.stats)) {
		show("stat", []string{fmt.Sprintf("%s +%d", name, o.stats[name])})
	}
	return b.String()
}

// printable escapes what is no text.
func printable(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl) {
		return s
	}
	return strings.Trim(strconv.Quote(s), `"`)
}

// place takes the file, the line and the path in the YAML out of an error of
// hostsim's, so that equal causes have equal words.
var place = regexp.MustCompile(`\S*bootstrap\.yaml:[0-9]+: \S+: `)

// refusals names what hostsim does not take. It stops at the first thing, so
// the others are asked for.
func refusals(err error, text []byte) []string {
	var causes []string
	if b, err := bootstrap.Parse(bootstrap.Text{Name: "bootstrap.yaml", Data: text}); err == nil {
		for _, u := range b.CheckSupported() {
			causes = append(causes, "hostsim refuses the bootstrap: "+strings.TrimPrefix(place.ReplaceAllString(u.Error(), ""), "hostsim: "))
		}
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		for part := range strings.SplitSeq(line, "; ") {
			if line := strings.TrimPrefix(place.ReplaceAllString(part, ""), "hostsim: "); place.MatchString(part) {
				causes = append(causes, "hostsim refuses the bootstrap: "+line)
			}
		}
	}
	if len(causes) == 0 {
		causes = []string{"hostsim does not start: " + err.Error()}
	}
	slices.Sort(causes)
	return slices.Compact(causes)
}

// summary is the outcome in a line: upstreams and status codes.
func (o *observation) summary() string {
	var s []string
	for _, r := range o.reached {
		name, _, _ := strings.Cut(r, " ")
		s = append(s, name)
	}
	if s == nil {
		s = []string{"no upstream"}
	}
	for _, lines := range o.clients {
		var statuses []string
		for _, line := range lines {
			if rest, ok := strings.CutPrefix(line, "HTTP/1."); ok && len(rest) > 4 {
				statuses = append(statuses, rest[2:5])
			}
			if _, status, ok := strings.Cut(line, ":status: "); ok {
				statuses = append(statuses, status)
			}
		}
		if statuses == nil {
			statuses = []string{"no response"}
		}
		s = append(s, strings.Join(statuses, " "))
	}
	return strings.Join(s, " ")
}

// differing names what differs between hostsim's observation and Envoy's.
// Equal words mean an equal cause, so that cases can be grouped. Where the
// outcome as a whole differs, the details that follow from it are not listed.
func differing(got, want *observation) []string {
	if g, w := got.summary(), want.summary(); g != w {
		logs := func(o *observation) string {
			var s []string
			for _, line := range o.log {
				for field := range strings.FieldsSeq(line) {
					if strings.HasPrefix(field, "details=") || strings.HasPrefix(field, "flags=") {
						s = append(s, field)
					}
				}
			}
			return strings.Join(s, " ")
		}
		return []string{fmt.Sprintf("outcome: hostsim %s, Envoy %s [hostsim %s, Envoy %s]", g, w, logs(got), logs(want))}
	}
	var causes []string
	compare := func(what string, got, want []string) {
		if slices.Equal(got, want) {
			return
		}
		onlyGot, onlyWant := without(got, want), without(want, got)
		for _, g := range onlyGot {
			// The same field on both sides with another value is one cause.
			if i := slices.IndexFunc(onlyWant, func(w string) bool { return name(w) == name(g) }); i >= 0 {
				causes = append(causes, fmt.Sprintf("%s: hostsim %s, Envoy %s", what, short(g), short(onlyWant[i])))
				onlyWant = slices.Delete(onlyWant, i, i+1)
				continue
			}
			causes = append(causes, fmt.Sprintf("%s: only hostsim has %s", what, short(g)))
		}
		for _, w := range onlyWant {
			causes = append(causes, fmt.Sprintf("%s: only Envoy has %s", what, short(w)))
		}
		if len(without(got, want))+len(without(want, got)) == 0 {
			causes = append(causes, fmt.Sprintf("%s: the lines in another order: hostsim %q, Envoy %q", what, names(got), names(want)))
		}
	}
	compare("upstream", got.reached, want.reached)
	for i := range min(len(got.received), len(want.received)) {
		compare("upstream received", got.received[i], want.received[i])
	}
	compare("upstream connections", got.ends, want.ends)
	for i := range min(len(got.clients), len(want.clients)) {
		if got.closed[i] != want.closed[i] {
			causes = append(causes, fmt.Sprintf("client's connection: hostsim %s, Envoy %s", got.closed[i], want.closed[i]))
		}
		compare("client got", got.clients[i], want.clients[i])
	}
	if len(got.log) != len(want.log) {
		causes = append(causes, fmt.Sprintf("access log: hostsim %d lines %q, Envoy %d lines %q", len(got.log), got.log, len(want.log), want.log))
	}
	for i := range min(len(got.log), len(want.log)) {
		if g, w := strings.Fields(got.log[i]), strings.Fields(want.log[i]); len(g) == len(w) && strings.Contains(got.log[i], "=") {
			for k := range g {
				compare("access log", g[k:k+1], w[k:k+1])
			}
		} else {
			compare("access log", got.log[i:i+1], want.log[i:i+1])
		}
	}
	compare("guest's log at start", got.began, want.began)
	compare("guest's log", got.guests, want.guests)
	for _, stat := range slices.Sorted(maps.Keys(want.stats)) {
		if !got.known[stat] {
			causes = append(causes, fmt.Sprintf("stat %s: %s", stat, isMissing))
		} else if got.stats[stat] != want.stats[stat] {
			causes = append(causes, fmt.Sprintf("stat %s: hostsim %+d, Envoy %+d", stat, got.stats[stat], want.stats[stat]))
		}
	}
	for _, stat := range slices.Sorted(maps.Keys(got.stats)) {
		if _, ok := want.stats[stat]; !ok {
			causes = append(causes, fmt.Sprintf("stat %s: hostsim %+d, Envoy +0", stat, got.stats[stat]))
		}
	}
	slices.Sort(causes)
	return slices.Compact(causes)
}

// name is the part of a line before its value.
func name(line string) string {
	if i := strings.IndexAny(line, ":="); i >= 0 {
		return line[:i]
	}
	if i := strings.IndexByte(line, ' '); i >= 0 {
		return line[:i]
	}
	return line
}

func short(line string) string {
	if len(line) > 200 {
		return fmt.Sprintf("%q... (%d bytes)", line[:200], len(line))
	}
	return fmt.Sprintf("%q", line)
}

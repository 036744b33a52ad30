package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A proxy is hostsim or Envoy as a child process whose log is read along.
type proxy struct {
	cmd    *exec.Cmd
	exited chan struct{}
	err    error // why it exited, once exited is closed

	mu      sync.Mutex
	tail    []string          // the last lines of the log
	reason  map[string]string // path -> reason, of the requests it logged
	changed chan struct{}     // closed and renewed when reason changes
	out     io.Writer         // shows decisions and requests, if not nil
}

func startProxy(binary, config string) (*proxy, error) {
	args := []string{"-c", config, "--concurrency", "1", "-l", "warning", "--component-log-level", "wasm:debug"}
	if filepath.Base(binary) == "hostsim" {
		args = append([]string{"run"}, args...)
	} else {
		// Several Envoys may run on a machine; the access log is not kept back.
		args = append(args, "--use-dynamic-base-id", "--file-flush-interval-msec", "100")
	}
	p := &proxy{
		cmd:     exec.Command(binary, args...),
		exited:  make(chan struct{}),
		reason:  map[string]string{},
		changed: make(chan struct{}),
	}
	// A pipe of our own: StdoutPipe would be closed by Wait before the last
	// line is read.
	log, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout, p.cmd.Stderr = w, w
	// Its own process group: Ctrl-C is for us, and we stop it in our order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = p.cmd.Start()
	w.Close()
	if err != nil {
		log.Close()
		return nil, fmt.Errorf("cannot start the proxy (run make build, or make envoy): %w", err)
	}
	go func() {
		defer close(p.exited)
		defer log.Close()
		lines := bufio.NewReader(log)
		for {
			line, err := lines.ReadString('\n')
			if line != "" {
				p.note(strings.TrimRight(line, "\n"))
			}
			if err != nil {
				break
			}
		}
		p.err = p.cmd.Wait()
	}()
	return p, nil
}

// waitReady waits until the admin interface says that the proxy serves.
func (p *proxy) waitReady(ctx context.Context, admin string) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(60 * time.Second)
	client := http.Client{Timeout: 5 * time.Second}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.exited:
			return p.exitError()
		case <-deadline:
			return fmt.Errorf("%s is not ready after a minute:\n%s", p.cmd.Path, p.lastLines())
		case <-tick.C:
		}
		resp, err := client.Get("http://" + admin + "/ready")
		if err != nil {
			continue
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return nil
		}
	}
}

// reasons waits until each path has a reason, but not for long, and returns
// those that there are.
func (p *proxy) reasons(ctx context.Context, paths []string) map[string]string {
	deadline := time.After(5 * time.Second)
	for {
		got := map[string]string{}
		p.mu.Lock()
		for _, path := range paths {
			if reason, ok := p.reason[path]; ok {
				got[path] = reason
			}
		}
		changed := p.changed
		p.mu.Unlock()
		if len(got) == len(paths) {
			return got
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return got
		case <-p.exited:
			return got
		case <-deadline:
			return got
		}
	}
}

// note takes a line of the log: a decision of the filter, a line of the access
// log, or something else.
func (p *proxy) note(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tail = append(p.tail, line)
	p.tail = p.tail[max(0, len(p.tail)-20):]
	path, reason := decision(line)
	if path != "" {
		p.reason[path] = reason
	} else if path, reason = access(line); path != "" {
		// The filter's word is the better one, and it came before.
		if _, ok := p.reason[path]; !ok {
			p.reason[path] = reason
		}
	}
	if path == "" {
		return
	}
	close(p.changed)
	p.changed = make(chan struct{})
	if p.out != nil {
		if i := strings.Index(line, filterPrefix); i >= 0 {
			line = line[i:]
		}
		fmt.Fprintln(p.out, line)
	}
}

// showTo prints decisions and requests to out from now on.
func (p *proxy) showTo(out io.Writer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out = out
}

// filterPrefix begins each line of the filter about a request.
const filterPrefix = "switchyard: reason="

// decision takes apart a line of the filter, such as
// `... switchyard: reason=offered route=websocket cluster=- protocol=websocket path=/demo/1`.
func decision(line string) (path, reason string) {
	_, rest, ok := strings.Cut(line, filterPrefix)
	if !ok {
		return "", ""
	}
	reason, _, _ = strings.Cut(rest, " ")
	_, path, _ = strings.Cut(rest, " path=")
	return strings.Trim(path, `"`), reason
}

// access takes apart a line of the access log of the shipped files:
// `[TIME] "GET /demo/6 HTTP/1.1" 200 via_upstream - route=web ...`.
func access(line string) (path, details string) {
	_, rest, ok := strings.Cut(line, `] "`)
	if !ok {
		return "", ""
	}
	request, rest, ok := strings.Cut(rest, `" `)
	if !ok || !strings.Contains(rest, " route=") {
		return "", ""
	}
	words, fields := strings.Fields(request), strings.Fields(rest)
	if len(words) != 3 || len(fields) < 2 {
		return "", ""
	}
	return words[1], fields[1]
}

func (p *proxy) lastLines() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.tail, "\n")
}

// exitError says why the proxy ended by itself. It is called once exited is
// closed.
func (p *proxy) exitError() error {
	err := p.err
	if err == nil {
		err = errors.New("exit status 0")
	}
	return fmt.Errorf("%s ended (%v):\n%s", p.cmd.Path, err, p.lastLines())
}

// stop ends the proxy: it may finish what it does, but not for long.
func (p *proxy) stop() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(5 * time.Second):
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.exited
	}
}

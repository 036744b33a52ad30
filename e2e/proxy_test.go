package e2e

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"switchyard/envoy"
)

// root is the repository root as seen from the tests of this package: every
// proxy runs there, because the shipped files name bin/switchyard.wasm.
const root = ".."

// A peer is a program that runs a bootstrap file. A test that needs one which
// is not installed is skipped and names it, unless E2E_REQUIRE (a list of peer
// names) has it.
type peer struct {
	name string
	env  string   // environment variable that names another binary
	path string   // from the repository root, where env is not set
	args []string // before Envoy's own flags
	get  string   // how to get it
}

var (
	envoy140 = peer{name: "envoy", env: "ENVOY", path: ".tools/envoy-1.40.0/envoy", get: "make envoy"}
	envoy136 = peer{name: "envoy-1.36", env: "ENVOY_1_36", path: ".tools/envoy-1.36.2/envoy", get: "make envoy"}
	hostsim  = peer{name: "hostsim", env: "HOSTSIM", path: "bin/hostsim", args: []string{"run"}, get: "make build"}
	plugin   = peer{name: "plugin", path: "bin/switchyard.wasm", get: "make build"}
)

var peers = []peer{envoy140, envoy136, hostsim}

// require returns the absolute path of the peer's file or skips the test.
func require(t *testing.T, p peer) string {
	t.Helper()
	path := filepath.Join(root, p.path)
	if s := os.Getenv(p.env); p.env != "" && s != "" {
		path = s
	}
	if _, err := os.Stat(path); err != nil {
		required := strings.FieldsFunc(os.Getenv("E2E_REQUIRE"), func(r rune) bool { return r == ',' || r == ' ' })
		if slices.Contains(required, p.name) {
			t.Fatalf("%s is required by E2E_REQUIRE and missing: %v (%s)", p.name, err, p.get)
		}
		t.Skipf("%s is not installed: %v (%s)", p.name, err, p.get)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

// A proxy is a running peer with upstreams behind it.
type proxy struct {
	name      string
	addr      string            // of its listener, or of the first one
	listeners map[string]string // addresses by name
	tls       *tls.Config       // for its clients, if it serves TLS
	admin     string            // address of the admin interface
	log       *lockedBuffer     // what it wrote to stdout and stderr
	host      string            // that it has routes for, if not for every one

	// refuses says of a handshake or page with these spoofed fields whether it answers 400, where others pass the fields over.
	refuses   func(fields string, socket bool) bool
	upstreams *upstreams
}

// on returns the proxy as seen through the listener with that name.
func (p *proxy) on(t *testing.T, listener string) *proxy {
	t.Helper()
	q := *p
	if q.addr = p.listeners[listener]; q.addr == "" {
		t.Fatalf("%s has no listener %q", p.name, listener)
	}
	return &q
}

// shipped returns the text of a file of package envoy.
func shipped(t *testing.T, name string) string {
	t.Helper()
	b, err := fs.ReadFile(envoy.Files, name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// replace replaces the one place where text has old: a shipped file that
// changes under a test must not turn the test into a test of nothing.
func replace(t *testing.T, text, old, new string) string {
	t.Helper()
	if n := strings.Count(text, old); n != 1 {
		t.Fatalf("want one %q in the bootstrap, found %d", old, n)
	}
	return strings.Replace(text, old, new, 1)
}

// start runs the peer on a bootstrap whose ports are free ones, waits until it
// listens, and kills it when the test ends. Its log is shown only if the test
// failed.
func start(t *testing.T, p peer, bootstrap string) *proxy {
	t.Helper()
	return startOn(t, p, bootstrap, startUpstreams(t))
}

func startOn(t *testing.T, p peer, bootstrap string, u *upstreams) *proxy {
	t.Helper()
	dir := t.TempDir()
	adminFile := filepath.Join(dir, "admin")
	log, exited := run(t, p, bootstrap, u, dir, "--admin-address-path", adminFile)
	addr, err := adminAddress(adminFile, exited)
	if err != nil {
		t.Fatalf("%s did not start: %v", p.name, err)
	}
	q := &proxy{name: p.name, admin: addr, log: log, upstreams: u, listeners: map[string]string{}}
	if err := q.waitForListeners(exited); err != nil {
		t.Fatalf("%s did not start: %v", p.name, err)
	}
	return q
}

// refuses runs the peer on a bootstrap that it must refuse, and returns what it
// said before it exited.
func refuses(t *testing.T, p peer, bootstrap string) string {
	t.Helper()
	log, exited := run(t, p, bootstrap, startUpstreams(t), t.TempDir())
	select {
	case <-exited:
	case <-time.After(2 * time.Minute):
		t.Errorf("%s started, want it to refuse the bootstrap", p.name)
	}
	return log.tail(200)
}

// run runs the peer. It closes exited when the process is gone.
func run(t *testing.T, p peer, bootstrap string, u *upstreams, dir string, flags ...string) (log *lockedBuffer, exited chan struct{}) {
	t.Helper()
	binary := require(t, p)
	require(t, plugin)
	bootstrap = u.replacePorts(t, bootstrap)
	file := filepath.Join(dir, "bootstrap.yaml")
	if err := os.WriteFile(file, []byte(bootstrap), 0o600); err != nil {
		t.Fatal(err)
	}

	args := append(slices.Clone(p.args), "-c", file,
		"--concurrency", "1", "--use-dynamic-base-id", "-l", "info", "--component-log-level", "wasm:debug")
	cmd := exec.Command(binary, append(args, flags...)...)
	cmd.Dir = root
	return startProcess(t, p.name, cmd)
}

// startProcess starts a command, and kills it and all that it started when the
// test ends. It closes exited when the process is gone.
func startProcess(t *testing.T, name string, cmd *exec.Cmd) (log *lockedBuffer, exited chan struct{}) {
	t.Helper()
	log = &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = log, log
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true // so that the whole group can be killed
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited = make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	t.Cleanup(func() {
		// The group is gone already if the process exited by itself.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-exited
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, log.tail(200))
		}
	})
	return log, exited
}

// errExited ends the wait for a process that will not come up any more.
var errExited = errors.New("it exited")

// await calls f until it returns nil, for two minutes at most and while the
// process runs.
func await(exited <-chan struct{}, f func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(2 * time.Minute)
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-exited:
			return errExited
		case <-deadline:
			return err
		case <-tick.C:
		}
	}
}

// adminAddress reads the address that the peer writes as soon as it has one.
func adminAddress(file string, exited <-chan struct{}) (addr string, err error) {
	err = await(exited, func() error {
		b, err := os.ReadFile(file)
		if err == nil && len(b) == 0 {
			err = errors.New("no admin address yet")
		}
		addr = string(b)
		return err
	})
	return addr, err
}

// waitForListeners fills in the addresses of the listeners.
func (p *proxy) waitForListeners(exited <-chan struct{}) error {
	client := http.Client{Timeout: 5 * time.Second}
	return await(exited, func() error {
		if _, err := get(&client, "http://"+p.admin+"/ready"); err != nil {
			return err
		}
		b, err := get(&client, "http://"+p.admin+"/listeners?format=json")
		if err != nil {
			return err
		}
		var listeners struct {
			Statuses []struct {
				Name    string `json:"name"`
				Address struct {
					Socket struct {
						Address string `json:"address"`
						Port    int    `json:"port_value"`
					} `json:"socket_address"`
				} `json:"local_address"`
			} `json:"listener_statuses"`
		}
		if err := json.Unmarshal(b, &listeners); err != nil {
			return err
		}
		if len(listeners.Statuses) == 0 {
			return fmt.Errorf("no listener yet: %s", b)
		}
		for i, l := range listeners.Statuses {
			if l.Address.Socket.Port == 0 {
				return fmt.Errorf("a listener has no port yet: %s", b)
			}
			addr := fmt.Sprintf("%s:%d", l.Address.Socket.Address, l.Address.Socket.Port)
			if p.listeners[l.Name] = addr; i == 0 {
				p.addr = addr
			}
		}
		return nil
	})
}

func get(client *http.Client, url string) ([]byte, error) {
	resp, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return b, err
}

// A lockedBuffer collects a child's output while the test may read it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) tail(lines int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := strings.SplitAfter(l.b.String(), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "")
}

// String returns all that was written.
func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

//go:build world

package e2e

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// An openQA is Debian's, with a database of its own and one running job.
type openQA struct {
	version     string
	postgres    string      // its version
	certificate certificate // of the daemons and of what stands in front
	ports       map[int]int // of the daemons' TLS, by those in openqa.yaml
}

// runningJob is a job that a worker runs, in the words of openQA's database. The
// live handler asks the worker's command server, whose port stands for %d, for
// what goes on.
const runningJob = `
INSERT INTO workers (id, host, instance, t_created, t_updated) VALUES (1, 'worker.example.com', 1, now(), now());
INSERT INTO worker_properties (worker_id, key, value, t_created, t_updated) VALUES
	(1, 'JOBTOKEN', 'token', now(), now()),
	(1, 'WORKER_HOSTNAME', '127.0.0.1', now(), now()),
	(1, 'CMD_SRV_URL', 'http://127.0.0.1:%d/token', now(), now());
INSERT INTO jobs (id, test, state, assigned_worker_id, distri, version, flavor, arch, build, t_created, t_updated, t_started)
	VALUES (1, 'textmode', 'running', 1, 'example', '1', 'DVD', 'x86_64', '1', now(), now(), now());
INSERT INTO job_modules (job_id, name, script, category, result, t_created, t_updated)
	VALUES (1, 'welcome', 'tests/installation/welcome.pm', 'installation', 'running', now(), now());
UPDATE workers SET job_id = 1;
`

// commandServer stands for the command server of os-autoinst, which runs the
// job: it answers whatever it is asked with the state of the test.
func commandServer(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return // Accept answered
	}
	defer c.CloseNow()
	for {
		if _, _, err := c.Read(r.Context()); err != nil {
			return
		}
		if err := c.Write(r.Context(), websocket.MessageText, []byte(`{"running": "welcome", "type": "info",
			"devel_mode_major_version": 1, "devel_mode_minor_version": 0,
			"current_test_full_name": "installation-welcome", "current_api_function": "assert_screen"}`)); err != nil {
			return
		}
	}
}

// startOpenQA starts PostgreSQL and openQA's three daemons on free ports, until
// the test ends.
func startOpenQA(t *testing.T) *openQA {
	t.Helper()
	const share = "/usr/share/openqa/script/"
	if _, err := os.Stat(share + "openqa"); err != nil {
		missing(t, "openqa", "Debian package openqa")
	}
	bins, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(bins) == 0 {
		missing(t, "postgresql", "Debian package postgresql")
	}
	pg := bins[len(bins)-1]
	q := &openQA{certificate: newCertificate(t, openqaName), ports: map[int]int{}}

	// PostgreSQL listens on a socket in this directory only. It does not run as
	// root, and its directory belongs to whom it runs as.
	dir, err := os.MkdirTemp("", "openqa") // t.TempDir has a name too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	asPostgres := func(cmd *exec.Cmd) *exec.Cmd {
		cmd.Dir = dir
		return cmd
	}
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		for _, d := range []string{dir, data} {
			if err := os.Chown(d, uid, gid); err != nil {
				t.Fatal(err)
			}
		}
		inner := asPostgres
		asPostgres = func(cmd *exec.Cmd) *exec.Cmd {
			cmd = inner(cmd)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
			return cmd
		}
	}
	must := func(cmd *exec.Cmd) {
		t.Helper()
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
		}
	}
	must(asPostgres(exec.Command(pg+"/initdb", "-D", data, "-U", "openqa", "-A", "trust", "-E", "UTF8", "--locale", "C.UTF-8", "--no-sync")))
	postgres := asPostgres(exec.Command(pg+"/postgres", "-D", data, "-k", dir, "-c", "listen_addresses=", "-F"))
	_, exited := startProcess(t, "postgres", postgres)
	t.Cleanup(func() { // gives its shared memory back, which a kill would not
		_ = postgres.Process.Signal(syscall.SIGQUIT)
		<-exited
	})
	psql := func(database, sql string) *exec.Cmd {
		cmd := exec.Command(pg+"/psql", "-h", dir, "-U", "openqa", "-v", "ON_ERROR_STOP=1", "-1", database)
		cmd.Stdin = strings.NewReader(sql)
		return cmd
	}
	if err := await(exited, func() error { return exec.Command(pg+"/pg_isready", "-h", dir, "-U", "openqa", "-d", "postgres").Run() }); err != nil {
		t.Fatalf("postgres did not start: %v", err)
	}
	must(exec.Command(pg+"/createdb", "-h", dir, "-U", "openqa", "openqa"))
	q.postgres = commandVersion(t, pg+"/postgres", "--version")

	// openQA's own files.
	config := t.TempDir()
	base := t.TempDir()
	for path, text := range map[string]string{
		filepath.Join(config, "database.ini"): "[production]\ndsn = DBI:Pg:dbname=openqa;host=" + dir + "\nuser = openqa\n",
		filepath.Join(config, "openqa.ini"):   "[global]\nbase_url = https://" + openqaName + "\n[auth]\nmethod = Fake\n[logging]\nlevel = info\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(base, "openqa/db"), 0o755); err != nil {
		t.Fatal(err)
	}
	command := func(args ...string) *exec.Cmd {
		cmd := exec.Command(share+args[0], args[1:]...)
		cmd.Env = append(cmd.Environ(), "OPENQA_CONFIG="+config, "OPENQA_BASEDIR="+base, "OPENQA_BASE_PORT="+basePort(t), "HOME="+base)
		cmd.Dir = base
		return cmd
	}
	must(command("initdb", "--init_database"))
	must(psql("openqa", fmt.Sprintf(runningJob, serveHTTP(t, http.HandlerFunc(commandServer)))))

	for _, d := range []struct {
		port int // of TLS in openqa.yaml
		args []string
	}{
		{9626, []string{"openqa", "daemon", "-m", "production", "--proxy"}},
		{9627, []string{"openqa-websockets", "daemon", "-m", "production"}},
		{9628, []string{"openqa-livehandler", "daemon", "-m", "production", "--proxy"}},
	} {
		port := freePort(t)
		addr := net.JoinHostPort("127.0.0.1", port)
		_, exited := startProcess(t, d.args[0], command(append(d.args, "-l", "https://"+addr+"?cert="+q.certificate.chain+"&key="+q.certificate.key)...))
		awaitPort(t, d.args[0], addr, exited)
		q.ports[d.port], _ = strconv.Atoi(port)
	}
	out, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", "openqa").Output()
	if err != nil {
		t.Fatal(err)
	}
	q.version = versionNumber.FindString(string(out))
	return q
}

// basePort returns the first of the ports that openQA would use for itself; none
// of them is used here.
func basePort(t *testing.T) string { return freePort(t) }

// openQA's live view works through openqa.yaml, and not without the gate; its
// workers get their socket; and each of its daemons gets what is for it.
func TestOpenQA(t *testing.T) {
	q := startOpenQA(t)
	for _, peer := range []peer{envoy140, hostsim} {
		t.Run(peer.name, func(t *testing.T) {
			u := startUpstreams(t)
			text := openqaBootstrap(t, u, q.ports, q.certificate)
			p := startOn(t, peer, text, u)
			p.tls = q.certificate.client(t, "http/1.1")
			_, port, _ := strings.Cut(p.addr, ":")
			flags := []string{"./openqa.mjs", "--host-resolver-rules=MAP " + openqaName + ":443 127.0.0.1:" + port}

			t.Run("the live view opens its socket", func(t *testing.T) {
				got := browse(t, "chromium", chromium, "https://"+openqaName+"/", "openqa-"+peer.name+".png", flags...)
				socket := liveSocket(t, got)
				if socket.url != "wss://"+openqaName+"/liveviewhandler/tests/1/developer/ws-proxy/status" {
					t.Errorf("the page opened %s", socket.url)
				}
				if !strings.Contains(socket.frames, `"what":"cmdsrvmsg"`) {
					t.Errorf("the socket got %q, want the state of the test", socket.frames)
				}
				if panel := fmt.Sprint(got["panel"]); !strings.Contains(panel, "current module: installation-welcome") {
					t.Errorf("the panel for developers says %q, want the test's module", panel)
				}
				if user := fmt.Sprint(got["user"]); !strings.Contains(user, "Demo") {
					t.Errorf("the page says that the user is %q, want Demo", user)
				}
				note(t, peer, found{"4 application", "openQA", q.version, "live view in Chromium over HTTP/2, TLS in front and behind, PostgreSQL " + q.postgres + ": developer mode follows the test"})
			})

			// Why the head of openqa.yaml says that 443 it must be.
			t.Run("a page with a port in its URL looks for the live handler two ports further", func(t *testing.T) {
				got := browse(t, "chromium", chromium, "https://"+openqaName+":"+port+"/", "openqa-port-"+peer.name+".png",
					flags[0], "--host-resolver-rules=MAP "+openqaName+" 127.0.0.1")
				n, err := strconv.Atoi(port)
				if want := fmt.Sprintf("wss://%s:%d/liveviewhandler/tests/1/developer/ws-proxy/status", openqaName, n+2); err != nil || liveSocket(t, got).url != want {
					t.Errorf("the page opened %s, want %s", liveSocket(t, got).url, want)
				}
			})

			t.Run("a worker gets its socket", func(t *testing.T) {
				const path, key, secret = "/api/v1/ws/1", "1234567890ABCDEF", "1234567890ABCDEF" // of the user Demo, who has logged in
				now := strconv.FormatInt(time.Now().Unix(), 10)
				mac := hmac.New(sha1.New, []byte(secret))
				_, _ = io.WriteString(mac, path+now)
				c, err := p.dial()
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
					t.Fatal(err)
				}
				if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: "+openqaName+"\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"+
					"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nAccept: application/json\r\n"+
					"X-API-Key: "+key+"\r\nX-API-Microtime: "+now+"\r\nX-API-Hash: "+hex.EncodeToString(mac.Sum(nil))+"\r\n\r\n"+
					"\x88\x82\x00\x00\x00\x00\x03\xe8"); err != nil { // a close frame with code 1000 and a mask of zeros
					t.Fatal(err)
				}
				r := bufio.NewReader(c)
				h, err := readHead(r)
				if err != nil || h.status() != http.StatusSwitchingProtocols {
					t.Fatalf("got %q, %v, want a 101", h.start, err)
				}
				// The server may say something before it closes in its turn.
				if frames, err := io.ReadAll(r); err != nil || !bytes.HasSuffix(frames, []byte("\x88\x02\x03\xe8")) {
					t.Errorf("got the frames %q, %v, want a close frame with code 1000 at the end", frames, err)
				}
				note(t, peer, found{"4 application", "openQA", q.version, "a worker's socket, TLS in front and behind"})
			})

			t.Run("the live handler gets what workers post", func(t *testing.T) {
				o := p.exchange(t, "POST /liveviewhandler/api/v1/jobs/1/upload_progress HTTP/1.1\r\nHost: "+openqaName+"\r\nContent-Length: 0\r\n\r\n")
				if o.Status != http.StatusForbidden || !strings.Contains(o.Body, "no api key") {
					t.Errorf("got %d %s, want the live handler's 403 for want of a key", o.Status, o.Body)
				}
			})

			t.Run("without the gate's step 4 the page loses the live handler", func(t *testing.T) {
				p := startOn(t, peer, replace(t, text, "          upgrade_configs:\n          - upgrade_type: websocket\n", ""), u)
				_, port, _ := strings.Cut(p.addr, ":")
				got := browse(t, "chromium", chromium, "https://"+openqaName+"/", "openqa-naive-"+peer.name+".png",
					flags[0], "--host-resolver-rules=MAP "+openqaName+":443 127.0.0.1:"+port)
				if socket := liveSocket(t, got); socket.frames != "" || socket.err == "" {
					t.Errorf("the socket got %+v, want an error", socket)
				}
				if log := fmt.Sprint(got["log"]); !strings.Contains(log, "Connection to livehandler lost") {
					t.Errorf("the console says %s, want it to say that the connection is lost", log)
				}
				if panel := fmt.Sprint(got["panel"]); !strings.Contains(panel, "retrieving status") {
					t.Errorf("the panel for developers says %q, want that it waits for ever", panel)
				}
			})
		})
	}
}

// A liveView is what Chromium's network log says of the live view's first socket.
type liveView struct{ url, frames, err string }

func liveSocket(t *testing.T, result map[string]any) liveView {
	t.Helper()
	sockets, _ := result["sockets"].([]any)
	if len(sockets) == 0 {
		t.Fatalf("the page opened no socket: %v", result)
	}
	first, _ := sockets[0].(map[string]any)
	frames, _ := first["frames"].([]any)
	v := liveView{url: fmt.Sprint(first["url"]), err: fmt.Sprint(first["error"])}
	for _, f := range frames {
		v.frames += fmt.Sprint(f)
	}
	return v
}

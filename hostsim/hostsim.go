// Package hostsim runs Envoy bootstraps and Proxy-Wasm plugins without Envoy,
// and does what Envoy does.
//
//	cfg, err := hostsim.Load("bootstrap.yaml")
//	srv, err := hostsim.New(ctx, cfg, hostsim.Options{})
//	err = srv.Serve(ctx) // until ctx is done; then it closes all
//	srv.Close()
//
// What a bootstrap may contain is in [switchyard/hostsim/bootstrap]; whatever
// is valid for Envoy and not simulated is refused there, with its line.
package hostsim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"google.golang.org/protobuf/proto"

	"switchyard/hostsim/admin"
	"switchyard/hostsim/bootstrap"
	"switchyard/hostsim/patch"
	"switchyard/hostsim/proxy"
)

// Config is a checked bootstrap.
type Config struct {
	boot     *bootstrap.Bootstrap
	ignored  []error
	warnings []patch.Warning
}

// Load reads and checks a bootstrap file. Errors are one line each: file,
// line, path in the YAML, what was found and what to do.
func Load(file string) (*Config, error) { return Source{File: file}.Load() }

// Parse is Load for text; name stands for the file in errors.
func Parse(name string, data []byte) (*Config, error) {
	return load([]bootstrap.Text{{Name: name, Data: data}}, false)
}

// Warnings are about what the objects of [Source.Apply] do not do, in the order of their text.
func (c *Config) Warnings() []patch.Warning { return c.warnings }

// Bootstrap is the bootstrap itself. What is changed in it, addresses for one, counts for those who call New afterwards.
func (c *Config) Bootstrap() *bootstrapv3.Bootstrap { return c.boot.Proto() }

// Source is where a bootstrap comes from, as Envoy's command line says it.
type Source struct {
	// File is a bootstrap file, "" for none.
	File string
	// YAML is a bootstrap, "" for none. It is merged into that of the file.
	YAML string
	// IgnoreUnsupported passes over what is not simulated, as long as the
	// routing decisions are the same without it; see [Config.Ignored].
	IgnoreUnsupported bool
	// Apply are files with EnvoyFilters and WasmPlugins, which are applied to the bootstrap as Istio would; see
	// [switchyard/hostsim/patch].
	Apply []string
	// Wasm has the file that stands for the URL of a plugin, which the Istio agent would fetch, or for a file of the container.
	Wasm map[string]string
}

// Load reads and checks the bootstrap. Where something is applied to it, lines in errors are those of what Render returns.
func (s Source) Load() (*Config, error) {
	texts, err := s.texts()
	if err != nil {
		return nil, err
	}
	if len(s.Apply) == 0 {
		return load(texts, s.IgnoreUnsupported)
	}
	text, warnings, err := s.Render()
	if err != nil {
		return nil, err
	}
	cfg, err := load([]bootstrap.Text{{Name: "rendered " + strings.TrimSuffix(texts[0].Name, ".json"), Data: text}}, s.IgnoreUnsupported)
	if err != nil {
		return nil, err
	}
	cfg.warnings = warnings
	return cfg, nil
}

// Render returns the bootstrap as one YAML text that Envoy reads, with everything merged and applied, also what is not simulated.
func (s Source) Render() ([]byte, []patch.Warning, error) {
	texts, err := s.texts()
	if err != nil {
		return nil, nil, err
	}
	merged, warnings, err := s.merge(texts)
	if err != nil {
		return nil, nil, err
	}
	text, err := patch.Render(merged)
	return text, warnings, err
}

// merge makes one bootstrap of the texts and what is applied to them.
func (s Source) merge(texts []bootstrap.Text) (*bootstrapv3.Bootstrap, []patch.Warning, error) {
	boot, err := bootstrap.Parse(texts...)
	if err != nil {
		return nil, nil, err
	}
	var objects []patch.Text
	for _, name := range s.Apply {
		text, err := bootstrap.ReadFile(name)
		if err != nil {
			return nil, nil, err
		}
		objects = append(objects, text)
	}
	read, err := patch.Read(objects...)
	if err != nil {
		return nil, nil, err
	}
	merged := proto.CloneOf(boot.Proto())
	warnings, err := read.Apply(merged, patch.Options{Wasm: s.Wasm})
	if err != nil {
		return nil, nil, err
	}
	return merged, warnings, nil
}

// texts are what the bootstrap is merged of.
func (s Source) texts() ([]bootstrap.Text, error) {
	var texts []bootstrap.Text
	if s.File != "" {
		text, err := bootstrap.ReadFile(s.File)
		if err != nil {
			return nil, err
		}
		texts = append(texts, text)
	}
	if s.YAML != "" {
		texts = append(texts, bootstrap.Text{Name: "--config-yaml", Data: []byte(s.YAML)})
	}
	if texts == nil {
		return nil, errors.New("no bootstrap")
	}
	return texts, nil
}

func load(texts []bootstrap.Text, ignore bool) (*Config, error) {
	boot, err := bootstrap.Parse(texts...)
	if err != nil {
		return nil, err
	}
	cfg := &Config{boot: boot}
	if ignore {
		for _, u := range boot.Ignore() {
			cfg.ignored = append(cfg.ignored, u)
		}
	}
	if unsupported := boot.CheckSupported(); len(unsupported) > 0 {
		return nil, unsupported[0]
	}
	return cfg, nil
}

// Ignored is what was passed over, in the order of the text.
func (c *Config) Ignored() []error { return c.ignored }

// Options are what Envoy takes from its command line.
type Options struct {
	// Concurrency is the number of workers; 0 means 1.
	Concurrency int
	// DrainTime is how long /drain_listeners?graceful takes; 0 means 10
	// minutes. DrainAtOnce makes each response in that time end its
	// connection, instead of more and more of them.
	DrainTime   time.Duration
	DrainAtOnce bool
	// Levels are those of Logger, for /logging; nil if they cannot be changed.
	Levels Levels
	// CommandLine is what /server_info shows besides.
	CommandLine CommandLine
	// AdminAddressPath is a file that gets the address of the admin listener.
	AdminAddressPath string
	// Logger takes what Envoy writes to its log; nil drops it.
	Logger *slog.Logger
	// CacheDir keeps compiled plugins; "" keeps none.
	CacheDir string
	// Stdout and Stderr take access logs written to /dev/stdout and
	// /dev/stderr; nil drops them.
	Stdout, Stderr io.Writer
	// LogFlushInterval is how often access logs are written out. 0 means
	// each second.
	LogFlushInterval time.Duration
	// WasmMemory is the most memory, in bytes, that a plugin's VM can have:
	// whole pages of 64 KiB, and at most 4 GiB. 0 means 1 GiB, as in Envoy.
	WasmMemory int64
	// WasmDeadline is how long one callback of a plugin may take. A plugin
	// that is longer at it has trapped, and the log says where. 0 means any
	// time, as in Envoy, where an endless loop takes the worker with it. A
	// deadline makes plugins that loop much slower.
	WasmDeadline time.Duration
}

type (
	// Levels are the levels of the log's components, by Envoy's names.
	Levels = admin.Levels
	// CommandLine is what /server_info says of the command line.
	CommandLine = admin.CommandLine
)

// Server is a running simulator.
type Server struct {
	*proxy.Server
	log       *slog.Logger
	admin     net.Listener // nil without an admin block
	config    *Config
	options   Options
	quit      chan struct{}
	quitOnce  sync.Once
	closeOnce sync.Once
}

// New starts plugins and opens the listeners and the admin address. Nothing
// is answered before Serve.
func New(ctx context.Context, cfg *Config, options Options) (*Server, error) {
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	options.DrainTime = cmp.Or(options.DrainTime, defaultDrainTime)
	from, err := proxyOptions(options)
	if err != nil {
		return nil, err
	}
	data, err := proxy.New(ctx, cfg.boot, from)
	if err != nil {
		return nil, err
	}
	s := &Server{Server: data, config: cfg, options: options, log: options.Logger.With("component", "main"), quit: make(chan struct{})}
	if err := s.openAdmin(cfg, options); err != nil {
		data.Close()
		return nil, err
	}
	return s, nil
}

// Validate does all that New does, but opens nothing.
func Validate(ctx context.Context, cfg *Config, options Options) error {
	from, err := proxyOptions(options)
	if err != nil {
		return err
	}
	return proxy.Validate(ctx, cfg.boot, from)
}

// wasmPage is a page of WebAssembly, and mostPages are as many as 32 bits can address.
const wasmPage, mostPages = 64 << 10, 64 << 10

func proxyOptions(o Options) (proxy.Options, error) {
	if o.WasmMemory < 0 || o.WasmMemory%wasmPage != 0 || o.WasmMemory/wasmPage > mostPages {
		return proxy.Options{}, fmt.Errorf("memory of plugins: %d bytes is not a number of pages of 64 KiB, or more than 4 GiB", o.WasmMemory)
	}
	if o.WasmDeadline < 0 {
		return proxy.Options{}, fmt.Errorf("deadline of plugins: %v is no time that a callback can take", o.WasmDeadline)
	}
	return proxy.Options{Concurrency: o.Concurrency, CacheDir: o.CacheDir, Logger: o.Logger, Stdout: o.Stdout, Stderr: o.Stderr,
		LogFlushInterval: o.LogFlushInterval, DrainTime: o.DrainTime, DrainAtOnce: o.DrainAtOnce,
		MemoryLimitPages: uint32(o.WasmMemory / wasmPage), CallbackDeadline: o.WasmDeadline}, nil
}

func (s *Server) openAdmin(cfg *Config, options Options) error {
	sa := cfg.boot.Proto().GetAdmin().GetAddress().GetSocketAddress()
	if sa == nil {
		return nil
	}
	address := net.JoinHostPort(sa.GetAddress(), strconv.Itoa(int(sa.GetPortValue())))
	l, err := net.Listen("tcp", address)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err
		}
		return cfg.boot.Errorf("admin.address.socket_address", "cannot listen on %s: %v", address, err)
	}
	s.admin = l
	if options.AdminAddressPath != "" {
		if err := os.WriteFile(options.AdminAddressPath, []byte(l.Addr().String()), 0o644); err != nil {
			l.Close()
			return fmt.Errorf("admin address file: %w", err)
		}
	}
	return nil
}

// defaultDrainTime is that of --drain-time-s.
const defaultDrainTime = 10 * time.Minute

// Serve answers until ctx is done or /quitquitquit is asked for. Then it
// closes all connections at once, as Envoy does on SIGTERM, and returns nil.
// Who wants clients to go elsewhere first asks for /drain_listeners?graceful or
// /healthcheck/fail and waits.
func (s *Server) Serve(ctx context.Context) error {
	if s.admin != nil {
		c := s.options.CommandLine
		c.Concurrency, c.DrainTime, c.DrainAtOnce = max(s.options.Concurrency, 1), s.options.DrainTime, s.options.DrainAtOnce
		c.FileFlushInterval = cmp.Or(s.options.LogFlushInterval, time.Second)
		c.AdminAddressPath = s.options.AdminAddressPath
		s.ServeAdmin(s.admin, admin.Handler(s.Server, admin.Options{
			Bootstrap: s.config.boot.Proto(), CommandLine: c, Levels: s.options.Levels, Quit: s.stop, Reopen: s.ReopenLogs,
		}))
	}
	s.Start()
	s.log.Info("starting main dispatch loop")
	select {
	case <-ctx.Done():
	case <-s.quit:
	}
	s.log.Info("shutting down server instance")
	s.Close()
	s.log.Info("exiting")
	return nil
}

func (s *Server) stop() { s.quitOnce.Do(func() { close(s.quit) }) }

// AdminAddress is where the admin endpoints are; nil without an admin block.
func (s *Server) AdminAddress() net.Addr {
	if s.admin == nil {
		return nil
	}
	return s.admin.Addr()
}

// Close ends everything at once and frees it. It may be called at any time,
// also more than once.
func (s *Server) Close() {
	s.closeOnce.Do(func() {
		if s.admin != nil {
			s.admin.Close()
		}
		s.Server.Close()
	})
}

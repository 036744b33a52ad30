// Command hostsim runs an Envoy bootstrap, Proxy-Wasm filters included, on the simulator. It takes Envoy's own flags.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"switchyard/hostsim"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// commandLine is what kong reads the arguments into.
type commandLine struct {
	Run    runCommand    `cmd:"" help:"Run a bootstrap until SIGTERM or SIGINT."`
	Render renderCommand `cmd:"" help:"Print the bootstrap with all that is merged and applied, as YAML that Envoy reads."`
}

// source has the flags that say what the bootstrap is: Envoy's, and what Istio would do to it.
type source struct {
	ConfigPath string            `short:"c" placeholder:"FILE" help:"The bootstrap: .yaml, .yml or .json."`
	ConfigYAML string            `name:"config-yaml" placeholder:"TEXT" help:"A bootstrap, merged into that of -c."`
	Apply      []string          `sep:"none" placeholder:"FILE" help:"EnvoyFilters and WasmPlugins to apply as Istio does; may be repeated."`
	Wasm       map[string]string `mapsep:"none" placeholder:"URL=FILE" help:"The file that stands for the URL of a plugin, or for a file of the container; may be repeated."`
}

// renderCommand prints what run would run.
type renderCommand struct {
	source
}

func (r *renderCommand) run(stdout, stderr io.Writer) error {
	s, err := r.source.source()
	if err != nil {
		return err
	}
	text, warnings, err := s.Render()
	if err != nil {
		return err
	}
	for _, w := range warnings {
		fmt.Fprintln(stderr, "warning:", w)
	}
	_, err = stdout.Write(text)
	return err
}

func (s source) source() (hostsim.Source, error) {
	if s.ConfigPath == "" && s.ConfigYAML == "" {
		return hostsim.Source{}, errors.New("no bootstrap, use -c FILE")
	}
	return hostsim.Source{File: s.ConfigPath, YAML: s.ConfigYAML, Apply: s.Apply, Wasm: s.Wasm}, nil
}

// runCommand has the flags of envoy, by Envoy's names.
type runCommand struct {
	source
	IgnoreUnsupported bool   `help:"Warn of what is not simulated and cannot change a routing decision, instead of refusing it."`
	Mode              string `enum:"serve,validate" default:"serve" help:"serve, or validate: check the bootstrap and exit."`
	Concurrency       int    `placeholder:"N" help:"Number of workers, by default one for each CPU."`
	AdminAddressPath  string `placeholder:"FILE" help:"Write the address of the admin server to this file."`
	LogLevel          string `short:"l" default:"info" placeholder:"LEVEL" help:"trace, debug, info, warning, error, critical or off."`
	ComponentLogLevel string `placeholder:"NAME:LEVEL,..." help:"Levels of single components, such as wasm:debug."`
	FileFlushInterval uint   `name:"file-flush-interval-msec" default:"1000" placeholder:"MSEC" help:"How often access logs are written out."`
	LogPath           string `placeholder:"FILE" help:"Write the log to this file instead of stderr."`

	DrainTimeS    uint   `name:"drain-time-s" default:"600" placeholder:"SECONDS" help:"How long /drain_listeners?graceful takes."`
	DrainStrategy string `name:"drain-strategy" enum:"gradual,immediate" default:"gradual" help:"While it drains: gradual ends the more connections the later it is, immediate each with its next response."`

	// What no envoy has a flag for.
	WasmMemory   uint32        `name:"wasm-memory-mib" default:"1024" placeholder:"MIB" help:"The most memory a plugin's VM can have, 1024 in Envoy."`
	WasmDeadline time.Duration `name:"wasm-deadline" placeholder:"TIME" help:"How long one callback of a plugin may take, such as 2s: an endless loop is then a trap, with the place in the log. By default any time, as in Envoy. It makes plugins that loop much slower."`

	// Taken so that an envoy command line works as it is. There is no hot restart, and so nothing for them to do.
	BaseID            uint `name:"base-id" hidden:""`
	UseDynamicBaseID  bool `name:"use-dynamic-base-id" hidden:""`
	DisableHotRestart bool `hidden:""`
	ParentShutdownS   uint `name:"parent-shutdown-time-s" hidden:""`
}

// run is main without the process: it returns the exit code. An error is one line on stderr and exit code 1.
func run(args []string, stdout, stderr io.Writer) int {
	err := func() error {
		var cl commandLine
		exited := -1
		parser, err := kong.New(&cl,
			kong.Name("hostsim"),
			kong.Description("Upgrade-aware Envoy simulator: the same YAML, the same .wasm, the same answers."),
			kong.Writers(stdout, stderr),
			kong.Exit(func(code int) { exited = code }),
		)
		if err != nil {
			return err
		}
		parsed, err := parser.Parse(args)
		if exited >= 0 { // --help
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w, see hostsim run --help", err)
		}
		if parsed.Command() == "render" {
			return cl.Render.run(stdout, stderr)
		}
		return cl.Run.run(stdout, stderr)
	}()
	if err != nil {
		fmt.Fprintln(stderr, "hostsim:", strings.Join(strings.Fields(err.Error()), " "))
		return 1
	}
	return 0
}

func (r *runCommand) run(stdout, stderr io.Writer) error {
	levels, err := parseLevels(r.LogLevel, r.ComponentLogLevel)
	if err != nil {
		return err
	}
	if r.Concurrency < 0 {
		return fmt.Errorf("--concurrency: %d is not a number of workers", r.Concurrency)
	}
	if r.WasmMemory == 0 || r.WasmMemory > 4096 {
		return fmt.Errorf("--wasm-memory-mib: %d is not between 1 and 4096", r.WasmMemory)
	}
	if r.WasmDeadline < 0 {
		return fmt.Errorf("--wasm-deadline: %v is no time that a callback can take", r.WasmDeadline)
	}
	cfg, err := r.load()
	if err != nil {
		return err
	}
	log := stderr
	if r.LogPath != "" {
		f, err := os.OpenFile(r.LogPath, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			return fmt.Errorf("--log-path: %w", err)
		}
		defer f.Close()
		log = f
	}
	if r.Concurrency > 0 {
		runtime.GOMAXPROCS(r.Concurrency) // Envoy has as many threads for requests
	}
	options := hostsim.Options{
		Concurrency:      cmp.Or(r.Concurrency, runtime.NumCPU()),
		AdminAddressPath: r.AdminAddressPath,
		DrainTime:        time.Duration(r.DrainTimeS) * time.Second,
		DrainAtOnce:      r.DrainStrategy == "immediate",
		Logger:           newLogger(log, levels),
		Levels:           levels,
		LogFlushInterval: time.Duration(r.FileFlushInterval) * time.Millisecond,
		CommandLine: hostsim.CommandLine{
			ConfigPath: r.ConfigPath, ConfigYAML: r.ConfigYAML, LogLevel: r.LogLevel, ComponentLogLevel: r.ComponentLogLevel, LogPath: r.LogPath,
			UseDynamicBaseID: r.UseDynamicBaseID, DisableHotRestart: r.DisableHotRestart,
		},
		WasmMemory:   int64(r.WasmMemory) << 20,
		WasmDeadline: r.WasmDeadline,
		CacheDir:     cacheDir(),
		Stdout:       stdout,
		Stderr:       stderr,
	}
	for _, ignored := range cfg.Ignored() {
		options.Logger.With("component", "config").Warn("ignored: " + ignored.Error())
	}
	for _, w := range cfg.Warnings() {
		options.Logger.With("component", "config").Warn(w.String())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	signal.Ignore(syscall.SIGHUP)

	if r.Mode == "validate" {
		if err := hostsim.Validate(ctx, cfg, options); err != nil {
			return err
		}
		fmt.Fprintf(stdout, "configuration '%s' OK\n", r.ConfigPath)
		return nil
	}
	srv, err := hostsim.New(ctx, cfg, options)
	if err != nil {
		return err
	}
	defer srv.Close()
	reopen := make(chan os.Signal, 1)
	signal.Notify(reopen, syscall.SIGUSR1)
	defer signal.Stop(reopen)
	go func() {
		for range reopen {
			srv.ReopenLogs()
		}
	}()
	return srv.Serve(ctx)
}

func (r *runCommand) load() (*hostsim.Config, error) {
	s, err := r.source.source()
	if err != nil {
		return nil, err
	}
	s.IgnoreUnsupported = r.IgnoreUnsupported
	return s.Load()
}

// cacheDir is where compiled plugins are kept between runs, "" if there is no place.
func cacheDir() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "hostsim")
}

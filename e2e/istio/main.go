// Command istio serves the configuration that Istio makes of the given files, by ADS and without Kubernetes: it is Istio's own discovery
// server with an in-memory store in place of the API server.
//
//	istio -address-file FILE CONFIG.yaml ...
//
// Objects of Istio's API groups go to its configuration store, all others (Services, the Gateway API) to a fake of the Kubernetes API,
// which applies no defaults. There is no certificate authority: what needs a certificate never becomes ready. The environment has to
// switch off what a plain Envoy lacks, see istio_test.go in the directory above.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"

	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/config/mesh"
)

func main() {
	addressFile := flag.String("address-file", "", "`file` that gets the address of the discovery server")
	flag.Parse()
	if err := serve(*addressFile, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "istio:", err)
		os.Exit(1)
	}
}

var (
	separator   = regexp.MustCompile(`(?m)^---\s*$`)
	istioObject = regexp.MustCompile(`(?m)^apiVersion:\s*\S*istio\.io/`)
)

func serve(addressFile string, files []string) error {
	var istio, kubernetes []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for _, document := range separator.Split(string(text), -1) {
			switch {
			case strings.TrimSpace(document) == "":
			case istioObject.MatchString(document):
				istio = append(istio, document)
			default:
				kubernetes = append(kubernetes, document)
			}
		}
	}
	config := mesh.DefaultMeshConfig()
	config.AccessLogFile = ""
	config.EnableAutoMtls.Value = false
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	xds.NewFakeDiscoveryServer(process{}, xds.FakeOptions{
		ConfigString:           strings.Join(istio, "\n---\n"),
		KubernetesObjectString: strings.Join(kubernetes, "\n---\n"),
		MeshConfig:             config,
		ListenerBuilder:        func() (net.Listener, error) { return listener, nil },
	})
	if err := os.WriteFile(addressFile, []byte(listener.Addr().String()), 0o644); err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	<-stop
	return nil
}

// process is Istio's test.Failer: a failure ends the process, and so does everything else that a test would clean up.
type process struct{}

func (process) Fail()          { os.Exit(1) }
func (process) FailNow()       { os.Exit(1) }
func (process) Helper()        {}
func (process) Cleanup(func()) {}
func (process) Skip(...any)    {}

func (process) Fatal(args ...any) {
	fmt.Fprintln(os.Stderr, append([]any{"istio:"}, args...)...)
	os.Exit(1)
}

func (process) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "istio: "+format+"\n", args...)
	os.Exit(1)
}

func (process) Log(args ...any)                 { fmt.Fprintln(os.Stderr, args...) }
func (process) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func (process) TempDir() string {
	dir, err := os.MkdirTemp("", "istio")
	if err != nil {
		panic(err)
	}
	return dir
}

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	httpwasmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/wasm/v3"
	wasmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/wasm/v3"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"google.golang.org/protobuf/types/known/anypb"
	"istio.io/istio/pkg/wasm"
)

// pushed is what make image has made, in a registry of this process, with the digest of each image by its name.
func pushed(t *testing.T) (repository string, digests map[string]string, plugin []byte) {
	t.Helper()
	plugin, err := os.ReadFile("../../bin/switchyard.wasm")
	if err != nil {
		t.Fatalf("%v (make image)", err)
	}
	path, err := layout.FromPath("../../bin/image")
	if err != nil {
		t.Fatalf("%v (make image)", err)
	}
	index, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	repository = strings.TrimPrefix(server.URL, "http://") + "/switchyard"
	digests = map[string]string{}
	for _, d := range manifest.Manifests {
		image, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		tag := d.Annotations["org.opencontainers.image.ref.name"]
		reference, err := name.NewTag(repository + ":" + tag)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(reference, image); err != nil {
			t.Fatal(err)
		}
		digests[tag] = d.Digest.Hex
	}
	// What other tools push: a single layer that is the bare module.
	bare, err := mutate.AppendLayers(empty.Image, static.NewLayer(plugin, "application/wasm"))
	if err != nil {
		t.Fatal(err)
	}
	reference, err := name.NewTag(repository + ":bare")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(reference, bare); err != nil {
		t.Fatal(err)
	}
	return repository, digests, plugin
}

// Istio's own fetcher gets the plugin out of every image that make image makes.
func TestIstioFetchesTheImages(t *testing.T) {
	repository, digests, plugin := pushed(t)
	if len(digests) != 3 {
		t.Fatalf("got the images %v, want three", digests)
	}
	for tag, want := range digests {
		t.Run(tag, func(t *testing.T) {
			fetch, digest, err := wasm.NewImageFetcher(context.Background(), wasm.ImageFetcherOption{}).PrepareFetch(repository + ":" + tag)
			if err != nil {
				t.Fatal(err)
			}
			if digest != want {
				t.Errorf("Istio reads the digest %s, make image printed %s", digest, want)
			}
			got, err := fetch()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, plugin) {
				t.Errorf("got %d bytes that are not the plugin's %d", len(got), len(plugin))
			}
		})
	}
}

// agent is what the Istio agent makes of an extension configuration before Envoy sees it.
func agent(t *testing.T, uri, sum string, policy wasmv3.FailurePolicy) *anypb.Any {
	t.Helper()
	filter, err := anypb.New(&httpwasmv3.Wasm{Config: &wasmv3.PluginConfig{
		Name:          "switchyard",
		FailurePolicy: policy,
		Vm: &wasmv3.PluginConfig_VmConfig{VmConfig: &wasmv3.VmConfig{Code: &corev3.AsyncDataSource{Specifier: &corev3.AsyncDataSource_Remote{
			Remote: &corev3.RemoteDataSource{HttpUri: &corev3.HttpUri{Uri: uri}, Sha256: sum}}}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	resource, err := anypb.New(&corev3.TypedExtensionConfig{Name: "switchyard", TypedConfig: filter})
	if err != nil {
		t.Fatal(err)
	}
	cache := wasm.NewLocalFileCache(t.TempDir(), wasm.Options{HTTPRequestTimeout: 5 * time.Second, HTTPRequestMaxRetries: 1})
	t.Cleanup(cache.Cleanup)
	resources := []*anypb.Any{resource}
	if err := wasm.MaybeConvertWasmExtensionConfig(resources, cache); err != nil {
		t.Fatal(err)
	}
	config := &corev3.TypedExtensionConfig{}
	if err := resources[0].UnmarshalTo(config); err != nil {
		t.Fatal(err)
	}
	return config.GetTypedConfig()
}

// What cannot be fetched, or is not what its sum says, becomes a filter that refuses everything; FAIL_OPEN makes it one that lets
// everything past.
func TestTheAgentFailsClosed(t *testing.T) {
	repository, digests, plugin := pushed(t)
	server := httptest.NewServer(registry.New())
	gone := strings.TrimPrefix(server.URL, "http://") + "/switchyard:1"
	server.Close()
	sum := sha256.Sum256(plugin)
	for _, test := range []struct {
		name, uri, sum string
		policy         wasmv3.FailurePolicy
		want           string // wasm, deny or allow
	}{
		{"an image", "oci://" + repository + ":oci", "", 0, "wasm"},
		{"an image by the digest of its manifest", "oci://" + repository + ":oci", digests["oci"], 0, "wasm"},
		{"an image by the sum of the module", "oci://" + repository + ":oci", hex.EncodeToString(sum[:]), 0, "deny"},
		{"an image of another sum", "oci://" + repository + ":oci", strings.Repeat("0", 64), 0, "deny"},
		{"an image that is not there", "oci://" + repository + ":no", "", 0, "deny"},
		{"an image of one bare layer", "oci://" + repository + ":bare", "", 0, "deny"},
		{"a registry that is not there", "oci://" + gone, "", 0, "deny"},
		{"FAIL_CLOSED", "oci://" + gone, "", wasmv3.FailurePolicy_FAIL_CLOSED, "deny"},
		{"FAIL_RELOAD", "oci://" + gone, "", wasmv3.FailurePolicy_FAIL_RELOAD, "deny"},
		{"FAIL_OPEN", "oci://" + gone, "", wasmv3.FailurePolicy_FAIL_OPEN, "allow"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := agent(t, test.uri, test.sum, test.policy)
			config, rbac := &httpwasmv3.Wasm{}, &rbacv3.RBAC{}
			switch {
			case got.UnmarshalTo(config) == nil:
				file := config.GetConfig().GetVmConfig().GetCode().GetLocal().GetFilename()
				if fetched, err := os.ReadFile(file); test.want != "wasm" || err != nil || !bytes.Equal(fetched, plugin) {
					t.Errorf("got the plugin in %q (%v), want %s", file, err, test.want)
				}
			case got.UnmarshalTo(rbac) == nil:
				effect := "deny" // rules that allow nothing
				if rbac.GetRules() == nil {
					effect = "allow"
				}
				if effect != test.want {
					t.Errorf("got %s for everything, want %s", effect, test.want)
				}
			default:
				t.Errorf("got %v, want %s", got, test.want)
			}
		})
	}
}

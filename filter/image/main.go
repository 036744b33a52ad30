// Command image makes the images by which Istio and Envoy Gateway fetch the plugin, without Docker:
//
//	image -wasm bin/switchyard.wasm -out bin/image [-push registry.example/switchyard:1]
//
// The output is an OCI image layout with three images under these names, each of which holds the same bytes:
//
//	oci       an OCI image with one layer, a tar+gzip with plugin.wasm in it: what to use, Istio and Envoy Gateway take it
//	docker    the same with Docker's media types (schema 2), for registries that know no others
//	artifact  an OCI artifact of two layers, the configuration and the bare module, as wasm-to-oci made them: Istio takes it
//
// A .wasm gives the same digests on every machine and at any time, as long as the version of Go, whose gzip it is, stays the same.
package main

import (
	"archive/tar"
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

func main() {
	wasm := flag.String("wasm", "bin/switchyard.wasm", "the plugin, a `file`")
	out := flag.String("out", "bin/image", "`directory` for the image layout; what is there is replaced")
	push := flag.String("push", "", "also push the image named oci as `reference`, with the credentials that docker login or podman login has kept")
	flag.Parse()
	if err := run(*wasm, *out, *push); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(file, out, push string) error {
	wasm, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(wasm, []byte("\x00asm")) {
		return fmt.Errorf("%s is no WebAssembly module, make build makes one", file)
	}
	images, err := build(wasm)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	path, err := layout.Write(out, empty.Index)
	if err != nil {
		return err
	}
	for _, i := range images {
		if err := path.AppendImage(i.image, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": i.name})); err != nil {
			return err
		}
		digest, err := i.image.Digest()
		if err != nil {
			return err
		}
		fmt.Printf("%-9s%s\n", i.name, digest)
	}
	if push == "" {
		return nil
	}
	reference, err := name.ParseReference(push)
	if err != nil {
		return err
	}
	return remote.Write(reference, images[0].image, remote.WithAuthFromKeychain(authn.DefaultKeychain))
}

type named struct {
	name  string
	image v1.Image
}

// build makes the three images of a module.
func build(wasm []byte) ([]named, error) {
	oci, err := single(wasm, types.OCIManifestSchema1, types.OCIConfigJSON, types.OCILayer)
	if err != nil {
		return nil, err
	}
	docker, err := single(wasm, types.DockerManifestSchema2, types.DockerConfigJSON, types.DockerLayer)
	if err != nil {
		return nil, err
	}
	artifact, err := twoLayers(wasm)
	if err != nil {
		return nil, err
	}
	return []named{{"oci", oci}, {"docker", docker}, {"artifact", artifact}}, nil
}

// epoch is when everything in an image was made.
var epoch = time.Unix(0, 0).UTC()

// single is an image with one layer, which has the module under the name that Istio and Envoy Gateway look for.
func single(wasm []byte, manifest, config, layer types.MediaType) (v1.Image, error) {
	archive, err := archiveOf("plugin.wasm", wasm)
	if err != nil {
		return nil, err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil }, tarball.WithMediaType(layer))
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, manifest), config)
	if image, err = mutate.AppendLayers(image, l); err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "wasip1", "wasm"
	file.Created = v1.Time{Time: epoch}
	return mutate.ConfigFile(image, file)
}

// twoLayers is the artifact with the media types of the Wasm artifact specification, version 0.
func twoLayers(wasm []byte) (v1.Image, error) {
	const config, content = "application/vnd.module.wasm.config.v1+json", "application/vnd.module.wasm.content.layer.v1+wasm"
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), config)
	return mutate.AppendLayers(image, static.NewLayer([]byte(`{"type":"envoy_proxy"}`), config), static.NewLayer(wasm, content))
}

func archiveOf(name string, content []byte) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o644, ModTime: epoch, Format: tar.FormatUSTAR}
	if err := w.WriteHeader(header); err != nil {
		return nil, err
	}
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	err := w.Close()
	return b.Bytes(), err
}

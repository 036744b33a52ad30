package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

var module = []byte("\x00asm\x01\x00\x00\x00 and more")

// The media types are those that Istio's and Envoy Gateway's fetchers compare with.
func TestTheImagesAreWhatControlPlanesRead(t *testing.T) {
	type layer struct{ mediaType, content string }
	images, err := build(module)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		name, manifest, config string
		layers                 []layer
	}{
		{"oci", "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.config.v1+json",
			[]layer{{"application/vnd.oci.image.layer.v1.tar+gzip", string(module)}}},
		{"docker", "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.container.image.v1+json",
			[]layer{{"application/vnd.docker.image.rootfs.diff.tar.gzip", string(module)}}},
		{"artifact", "application/vnd.oci.image.manifest.v1+json", "application/vnd.module.wasm.config.v1+json",
			[]layer{{"application/vnd.module.wasm.config.v1+json", `{"type":"envoy_proxy"}`}, {"application/vnd.module.wasm.content.layer.v1+wasm", string(module)}}},
	} {
		t.Run(want.name, func(t *testing.T) {
			if images[i].name != want.name {
				t.Fatalf("image %d is %s, want %s", i, images[i].name, want.name)
			}
			manifest, err := images[i].image.Manifest()
			if err != nil {
				t.Fatal(err)
			}
			if got := string(manifest.MediaType); got != want.manifest {
				t.Errorf("manifest is %s, want %s", got, want.manifest)
			}
			if got := string(manifest.Config.MediaType); got != want.config {
				t.Errorf("configuration is %s, want %s", got, want.config)
			}
			layers, err := images[i].image.Layers()
			if err != nil {
				t.Fatal(err)
			}
			if len(layers) != len(want.layers) {
				t.Fatalf("got %d layers, want %d", len(layers), len(want.layers))
			}
			for j, l := range layers {
				mediaType, err := l.MediaType()
				if err != nil {
					t.Fatal(err)
				}
				if string(mediaType) != want.layers[j].mediaType {
					t.Errorf("layer %d is %s, want %s", j, mediaType, want.layers[j].mediaType)
				}
				if got := contentOf(t, l); got != want.layers[j].content {
					t.Errorf("layer %d has %q, want %q", j, got, want.layers[j].content)
				}
			}
		})
	}
}

// contentOf is what is in a layer: the only file of an archive, or everything.
func contentOf(t *testing.T, l v1.Layer) string {
	t.Helper()
	r, err := l.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	all, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(all))
	if err != nil {
		return string(all)
	}
	archive := tar.NewReader(z)
	header, err := archive.Next()
	if err != nil {
		t.Fatal(err)
	}
	if header.Name != "plugin.wasm" || !header.ModTime.Equal(epoch) || header.Uid != 0 {
		t.Errorf("the file is %s of %v, want plugin.wasm of 1970", header.Name, header.ModTime)
	}
	content, err := io.ReadAll(archive)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Next(); err != io.EOF {
		t.Errorf("there is more than one file: %v", err)
	}
	return string(content)
}

// What is written is the same each time, wherever the module is and whenever it was built, and it is what is pushed.
func TestTheSameModuleGivesTheSameImages(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	reference := strings.TrimPrefix(server.URL, "http://") + "/switchyard:1"
	var indices []string
	for _, file := range []string{"a.wasm", "b.wasm"} {
		dir := t.TempDir()
		wasm, out := filepath.Join(dir, file), filepath.Join(dir, "image")
		if err := os.WriteFile(wasm, module, 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time over the first
			if err := run(wasm, out, reference); err != nil {
				t.Fatal(err)
			}
			index, err := os.ReadFile(filepath.Join(out, "index.json"))
			if err != nil {
				t.Fatal(err)
			}
			indices = append(indices, string(index))
		}
		path, err := layout.FromPath(out)
		if err != nil {
			t.Fatal(err)
		}
		index, err := path.ImageIndex()
		if err != nil {
			t.Fatal(err)
		}
		manifest, err := index.IndexManifest()
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := name.ParseReference(reference)
		if err != nil {
			t.Fatal(err)
		}
		pushed, err := remote.Head(parsed)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := pushed.Digest, manifest.Manifests[0].Digest; got != want {
			t.Errorf("pushed is %s, written %s", got, want)
		}
	}
	for _, index := range indices[1:] {
		if index != indices[0] {
			t.Errorf("got\n%s\nand\n%s", indices[0], index)
		}
	}
}

func TestWhatIsNoModuleIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.wasm")
	if err := os.WriteFile(file, []byte("<html>"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := run(file, filepath.Join(t.TempDir(), "image"), "")
	if want := file + " is no WebAssembly module, make build makes one"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

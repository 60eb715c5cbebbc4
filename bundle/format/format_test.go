package format

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"casemate/bundle"
	"casemate/bundle/canonical"
	"casemate/bundle/digests"
	"casemate/bundle/signing"
)

// store is content by digest, where bundles are made from.
type store map[string][]byte

func (s store) add(content string) string {
	d := digests.SHA256([]byte(content))
	s[d] = []byte(content)
	return d
}

func (s store) add512(content string) string {
	sum := sha512.Sum512([]byte(content))
	d := "sha512:" + hex.EncodeToString(sum[:])
	s[d] = []byte(content)
	return d
}

func (s store) open(digest string) (io.ReadCloser, error) {
	b, ok := s[digest]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

// index is a document that has all blobs of the store.
func (s store) index(images []bundle.Image, files []bundle.File) *bundle.Index {
	ix := &bundle.Index{Version: bundle.IndexVersion, Images: images, Files: files}
	for d, b := range s {
		ix.Blobs = append(ix.Blobs, bundle.Blob{Digest: d, Size: int64(len(b))})
	}
	return ix
}

// sample is a small bundle with everything in it that changes its form: a digest that needs a pax header, sizes around
// a block, an empty file.
func sample() (*bundle.Index, store) {
	s := store{}
	manifest := s.add(`{"schemaVersion":2}`)
	untagged := s.add(`{"schemaVersion":2,"subject":{}}`)
	file := s.add512("#!/bin/sh\n")
	for _, n := range []int{0, 511, 512, 513, 1500} {
		s.add(string(bytes.Repeat([]byte("x"), n)))
	}
	const manifestType = "application/vnd.oci.image.manifest.v1+json"
	return s.index([]bundle.Image{
		{
			Repository: "registry.k8s.io/pause",
			Tag:        "3.10",
			Digest:     manifest,
			MediaType:  manifestType,
			Size:       600,
			Platforms:  []string{"linux/amd64", "linux/arm64/v8"},
			Sparse:     true,
			Provenance: bundle.Provenance{From: "mirror.example/pause", On: "2026-11-24"},
		},
		{Repository: "registry.k8s.io/pause", Digest: untagged, MediaType: manifestType, Size: 40},
	}, []bundle.File{{URL: "https://dl.k8s.io/release/v1.32.0/bin/linux/amd64/" +
		"kubeadm?x=1&y=2", Digest: file, Size: 10, Provenance: bundle.Provenance{On: "2026-11-24"}}}), s
}

// testKey is a key that is the same in every run.
func testKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func publicOf(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

// written writes a bundle and returns its files' content.
func written(t testing.TB, ix *bundle.Index, s store, opt WriteOptions) [][]byte {
	t.Helper()
	files, err := Write(t.Context(), filepath.Join(t.TempDir(), "x.tar"), ix, s.open, opt)
	if err != nil {
		t.Fatal(err)
	}
	var parts [][]byte
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if opt.Split > 0 && int64(len(b)) > opt.Split {
			t.Errorf("%s has %d bytes, more than %d", f, len(b), opt.Split)
		}
		parts = append(parts, b)
	}
	return parts
}

// memoryFile is a regular file in memory.
type memoryFile struct {
	*bytes.Reader
	name string
	mode fs.FileMode
}

func (f *memoryFile) Stat() (fs.FileInfo, error) { return memoryInfo{f}, nil }
func (f *memoryFile) Close() error               { return nil }

type memoryInfo struct{ f *memoryFile }

func (i memoryInfo) Name() string       { return i.f.name }
func (i memoryInfo) Size() int64        { return i.f.Reader.Size() }
func (i memoryInfo) Mode() fs.FileMode  { return i.f.mode }
func (i memoryInfo) ModTime() time.Time { return time.Time{} }
func (i memoryInfo) IsDir() bool        { return false }
func (i memoryInfo) Sys() any           { return nil }

// ways are the two ways in which files are read.
var ways = map[string]func(parts ...[]byte) []bundle.Input{"files": inFiles, "pipes": inPipes}

func inFiles(parts ...[]byte) []bundle.Input { return inputs(0, parts) }
func inPipes(parts ...[]byte) []bundle.Input { return inputs(fs.ModeNamedPipe, parts) }

func inputs(mode fs.FileMode, parts [][]byte) []bundle.Input {
	var ins []bundle.Input
	for i, b := range parts {
		name := fmt.Sprintf("x.tar.%03d", i+1)
		ins = append(ins, bundle.Input{Name: name, File: &memoryFile{bytes.NewReader(b), name, mode}})
	}
	return ins
}

// fakeSink is a strict sink in memory: it fails the test if it is given a blob that it has reported, or asked for one
// that it does not have.
type fakeSink struct {
	t    testing.TB
	mu   sync.Mutex
	has  store
	said map[string]bool
	puts []string // digests, as they were put
}

func newFakeSink(t testing.TB) *fakeSink {
	return &fakeSink{t: t, has: store{}, said: map[string]bool{}}
}

func (s *fakeSink) Has(digest string) (int64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.has[digest]
	s.said[digest] = ok
	return int64(len(b)), ok
}

func (s *fakeSink) Put(_ context.Context, digest string, size int64, r io.Reader) (string, int64, error) {
	b, err := io.ReadAll(r)
	switch {
	case err != nil:
		return "", 0, err
	case int64(len(b)) != size:
		return "", 0, io.ErrUnexpectedEOF
	}
	h := digests.NewHash(digest)
	h.Write(b)
	if digests.Encode(digest, h) != digest {
		return "", 0, fmt.Errorf("sink: %w", syscall.EBADMSG)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.said[digest] {
		s.t.Errorf("%s was put, but the sink has it", digest)
	}
	s.has[digest] = b
	s.puts = append(s.puts, digest)
	return digest, size, nil
}

type memoryBlob struct{ *bytes.Reader }

func (memoryBlob) Close() error { return nil }

func (s *fakeSink) Open(_ context.Context, digest string) (io.ReadSeekCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.has[digest]
	if !ok {
		s.t.Errorf("%s was opened, but the sink does not have it", digest)
		return nil, fs.ErrNotExist
	}
	return memoryBlob{bytes.NewReader(b)}, nil
}

// holds says which blobs of want the sink does not have, byte for byte.
func (s *fakeSink) missing(want store) (lost []string) {
	for _, d := range slices.Sorted(maps.Keys(want)) {
		if b, ok := s.has[d]; !ok || !bytes.Equal(b, want[d]) {
			lost = append(lost, d)
		}
	}
	return lost
}

// splitFor is a split size at which the index makes several parts and cuts its largest blob.
func splitFor(t testing.TB, ix *bundle.Index, signed bool, room int64) int64 {
	t.Helper()
	doc, err := ix.Encode()
	if err != nil {
		t.Fatal(err)
	}
	var sig []byte
	if signed {
		s := signing.Sign(testKey(1), signing.PurposeIndex, doc)
		if sig, err = canonical.Encode(&s); err != nil {
			t.Fatal(err)
		}
		sig = append(sig, '\n')
	}
	c, err := newBundleLayout(ix, doc, sig, 0)
	if err != nil {
		t.Fatal(err)
	}
	return c.fixedSize() + entrySize(bundle.PartDocument, partReserve(1, 4)) + room
}

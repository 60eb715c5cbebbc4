package content

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"casemate/bundle"
	"casemate/bundle/input"
)

// archiveOf is a compressed tar of files at hosts, of which the last lacks bytes.
func archiveOf(t testing.TB, how string, files, size int) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&b)
	if how == "zstd" {
		var err error
		if w, err = zstd.NewWriter(&b); err != nil {
			t.Fatal(err)
		}
	}
	tw := tar.NewWriter(w)
	for i := range files {
		// Bytes that do not compress, so that nothing but damage ends the import.
		data := make([]byte, size)
		for k := range data {
			data[k] = byte((k*k*7 + k*i*13 + i) >> (k % 5))
		}
		h := &tar.Header{Name: fmt.Sprintf("dl.k8s.io/%d", i), Mode: 0o644, Size: int64(size), Typeflag: tar.TypeReg}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tw.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// bombOf is a small archive that decompresses to a lot.
func bombOf(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	tw := tar.NewWriter(w)
	for i := range 200 {
		h := &tar.Header{Name: fmt.Sprintf("dl.k8s.io/%d", i), Mode: 0o644, Size: 1 << 20, Typeflag: tar.TypeReg}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(bytes.Repeat([]byte{byte(i)}, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tw.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// realSite imports real archives and frees what failed.
func realSite(t testing.TB) *site {
	var s *site
	s = newSite(t, func(c *Config) {
		c.Read, c.flushEvery = input.Read, time.Millisecond
		c.Discard = func(ctx context.Context, digests []string) (int64, error) {
			r, err := s.node.Discard(ctx, digests)
			return r.RemovedBytes, err
		}
	})
	return s
}

// onDisk is how many bytes the node's data directory has in blobs and scratch files.
func (s *site) onDisk() (n int64) {
	s.t.Helper()
	err := filepath.WalkDir(filepath.Join(s.cfg.Dir, "blobs"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			info, err := d.Info()
			if err != nil {
				return err
			}
			n += info.Size()
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func inputOf(t testing.TB, b []byte) bundle.Input {
	t.Helper()
	name := filepath.Join(t.TempDir(), "a.tar.zst")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return bundle.Input{Name: "a.tar.zst", File: f}
}

// TestAFailedImportFreesItsBytes: what an import has written whose content is not right is gone when the command ends,
// and what others have stored or are about to name is not.
func TestAFailedImportFreesItsBytes(t *testing.T) {
	t.Parallel()
	cut := func(b []byte) []byte { return b[:len(b)-len(b)/4] }
	flip := func(b []byte) []byte { b = bytes.Clone(b); b[len(b)-len(b)/4] ^= 0xff; return b }
	s := realSite(t)
	// What others have: a push whose blobs have no name yet, and an import that was interrupted.
	w, err := s.node.Tree().CreateBlob("")
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "a layer that is being pushed")
	pushed, err := w.Commit(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.imports("other", pipeOf(cut(archiveOf(t, "gzip", 3, 100<<10)))); err == nil {
		t.Fatal("half a pipe is imported")
	}
	blobs, disk := s.node.Status().Blobs, s.onDisk()
	if blobs < 2 {
		t.Fatalf("%d blobs", blobs)
	}
	for _, c := range []struct {
		what string
		b    []byte
	}{
		{"gzip, cut off", cut(archiveOf(t, "gzip", 20, 100<<10))},
		{"zstd, cut off", cut(archiveOf(t, "zstd", 20, 100<<10))},
		{"gzip, a changed byte", flip(archiveOf(t, "gzip", 20, 100<<10))},
		{"zstd, a changed byte", flip(archiveOf(t, "zstd", 20, 100<<10))},
		{"a bomb", bombOf(t)},
	} {
		var written atomic.Int64 // eight write at once
		s.tree.wrote = func(n int) { written.Add(int64(n)) }
		err := s.imports("x", inputOf(t, c.b))
		if err == nil || written.Load() == 0 {
			t.Errorf("%s: %v, %d bytes written", c.what, err, written.Load())
			continue
		}
		if n := written.Load(); n > 80<<20 {
			t.Errorf("%s: %d bytes written", c.what, n)
		}
		if n := s.node.Status().Blobs; n != blobs {
			t.Errorf("%s: %d blobs are left, %d were there: %v", c.what, n, blobs, err)
		}
		if n := s.onDisk(); n != disk {
			t.Errorf("%s: %d bytes are left on the disk, %d were there", c.what, n, disk)
		}
		if _, list, err := s.Pending(); err != nil || len(list) != 1 || list[0].Name != "other" {
			t.Errorf("%s: pending: %+v, %v", c.what, list, err)
		}
	}
	if _, err := s.node.Tree().HasBlob(t.Context(), pushed); err != nil {
		t.Errorf("the layer of a push under way: %v", err)
	}
	// Whole, it is imported.
	if err := s.imports("x", inputOf(t, archiveOf(t, "zstd", 20, 100<<10))); err != nil {
		t.Error(err)
	}
}

// imports imports one input.
func (s *site) imports(name string, in bundle.Input) error {
	_, err := s.Import(s.t.Context(), Request{Name: name, Inputs: []bundle.Input{in}})
	return err
}

func pipeOf(b []byte) bundle.Input { return bundle.Input{Name: "pipe", File: pipe{bytes.NewReader(b)}} }

type pipe struct{ io.Reader }

func (pipe) Close() error { return nil }
func (pipe) Stat() (fs.FileInfo, error) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Stat()
}

// TestAnInterruptedImportKeepsItsBytes, says until when, and goes on there.
func TestAnInterruptedImportKeepsItsBytes(t *testing.T) {
	t.Parallel()
	whole := archiveOf(t, "zstd", 20, 100<<10)
	for _, c := range []struct {
		what string
		do   func(s *site) error
	}{
		{"the command went away", func(s *site) error {
			ctx, cancel := context.WithCancel(t.Context())
			commits := 0 // of eight at once: at the twelfth some have ended
			s.tree.fail = func(_ int, what string) (error, bool) {
				if what == "commit" {
					if commits++; commits == 12 {
						cancel()
					}
				}
				return nil, false
			}
			_, err := s.Import(ctx, Request{Name: "x", Inputs: []bundle.Input{inputOf(t, whole)}})
			return err
		}},
		{"the tree failed", func(s *site) error {
			commits := 0
			s.tree.fail = func(_ int, what string) (error, bool) {
				if what == "commit" {
					if commits++; commits == 12 {
						return errFault, false
					}
				}
				return nil, false
			}
			return s.imports("x", inputOf(t, whole))
		}},
		{"a pipe was cut off", func(s *site) error {
			return s.imports("x", pipeOf(whole[:len(whole)-len(whole)/4]))
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			s := realSite(t)
			err := c.do(s)
			s.tree.fail = nil
			if err == nil {
				t.Fatal("it is imported")
			}
			_, list, perr := s.Pending()
			if perr != nil || len(list) != 1 || list[0].BytesNew == 0 || !list[0].KeptUntil.After(s.clock()) {
				t.Fatalf("%v: pending %+v, %v", err, list, perr)
			}
			if !strings.Contains(err.Error(), "is kept until 2026-02-01: run the same import again") ||
				!strings.Contains(err.Error(), "casemate import remove x") {
				t.Errorf("it does not say what is kept: %v", err)
			}
			s.gc()
			kept := s.node.Status().Blobs
			if err := s.imports("x", inputOf(t, whole)); err != nil {
				t.Fatal(err)
			}
			if kept == 0 {
				t.Error("nothing was kept")
			}
		})
	}
}

// TestCountsReadNothing: what metrics and status say of imports agrees with the list, and no index is read for it.
func TestCountsReadNothing(t *testing.T) {
	t.Parallel()
	s := realSite(t)
	want := func(complete, incomplete int) {
		t.Helper()
		c, i, err := s.Counts()
		if err != nil || c != complete || i != incomplete {
			t.Errorf("%d complete and %d not, %v, want %d and %d", c, i, err, complete, incomplete)
		}
		if c, list, err := s.Pending(); err != nil || c != complete || len(list) != incomplete {
			t.Errorf("%d complete and %+v not, %v", c, list, err)
		}
		if list, err := s.List(); err != nil || len(list) != complete+incomplete {
			t.Errorf("%d imports, %v", len(list), err)
		}
	}
	want(0, 0)
	whole := archiveOf(t, "gzip", 10, 100<<10)
	if err := s.imports("whole", inputOf(t, whole)); err != nil {
		t.Fatal(err)
	}
	want(1, 0)
	other := archiveOf(t, "gzip", 10, 90<<10)
	if err := s.imports("half", pipeOf(other[:len(other)-len(other)/4])); err == nil {
		t.Fatal("half of it is imported")
	}
	want(1, 1)
}

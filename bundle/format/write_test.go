package format

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"casemate/bundle"
	"casemate/bundle/digests"
)

// bigSample is sample with a blob that a split with splitFor's room cuts.
func bigSample() (*bundle.Index, store) {
	ix, s := sample()
	var b strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&b, "%d.", i)
	}
	s.add(b.String())
	return s.index(ix.Images, ix.Files), s
}

// TestSameBytes holds the format: these are the bundles of the samples, in every run and in every version of this
// program.
func TestSameBytes(t *testing.T) {
	ix, s := sample()
	big, bs := bigSample()
	for _, c := range []struct {
		name string
		ix   *bundle.Index
		s    store
		opt  WriteOptions
		want string
	}{
		{"one file", ix, s, WriteOptions{}, "sha256:d6c2fc943dc464537d61da2b46bacfa0d8b003dbdf851a61729b61c4d9f386c0"},
		{"parts, signed", big, bs, WriteOptions{Key: testKey(1), Split: 16384},
			"sha256:e9156ae0d035d4df06da111dc7707448105e5c4619210ea0e4da058e2ce55232"},
	} {
		var all []byte
		for _, p := range written(t, c.ix, c.s, c.opt) {
			all = append(all, p...)
		}
		if got := digests.SHA256(all); got != c.want {
			t.Errorf("%s: %s, want %s: the format has changed, and no older bundle can be read", c.name, got, c.want)
		}
	}
}

// TestTar reads a bundle's parts as any program would that knows tar.
func TestTar(t *testing.T) {
	ix, s := bigSample()
	parts := written(t, ix, s, WriteOptions{Key: testKey(1), Split: splitFor(t, ix, true, 4096)})
	got, chunks := store{}, store{}
	for n, p := range parts {
		var docs []string
		tr := tar.NewReader(bytes.NewReader(p))
		for {
			h, err := tr.Next()
			if err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			if h.Mode != 0o644 || h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 0 || h.Typeflag != tar.TypeReg {
				t.Errorf("part %d: %+v", n+1, h)
			}
			if rest, ok := strings.CutPrefix(h.Name, "blobs/"); ok {
				got[strings.Replace(rest, "/", ":", 1)] = b
			} else if rest, ok := strings.CutPrefix(h.Name, "casemate/chunks/"); ok {
				chunks[strings.Replace(rest, "/", ":", 1)] = b
			} else {
				docs = append(docs, h.Name)
			}
		}
		if want := []string{bundle.PartDocument, partSumName, indexName, signatureName, ociLayoutName,
			ociIndexName}; !slices.Equal(
			docs,
			want,
		) {
			t.Errorf("part %d has the documents %v, want %v", n+1, docs, want)
		}
	}
	for d, b := range got {
		if !bytes.Equal(b, s[d]) {
			t.Errorf("%s has other bytes", d)
		}
	}
	if len(got) != len(s)-1 || len(chunks) < 2 {
		t.Errorf("%d blobs of %d and %d chunks of the one that is cut", len(got), len(s), len(chunks))
	}
}

// files are the names and contents of a directory.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(b)
	}
	return all
}

// TestWriteAgain interrupts writing at every blob and damages the remaining files in many ways: the final result is
// that of an undisturbed run.
func TestWriteAgain(t *testing.T) {
	ix, s := bigSample()
	for _, split := range []int64{0, splitFor(t, ix, false, 4096)} {
		want := t.TempDir()
		opt := WriteOptions{Split: split}
		if _, err := Write(t.Context(), filepath.Join(want, "x.tar"), ix, s.open, opt); err != nil {
			t.Fatal(err)
		}
		opens := 0
		count := func(d string) (io.ReadCloser, error) { opens++; return s.open(d) }
		if _, err := Write(t.Context(), filepath.Join(t.TempDir(), "x.tar"), ix, count, opt); err != nil {
			t.Fatal(err)
		}
		stop := errors.New("stopped")
		first := 0
		for damageName, hurt := range map[string]func(name string, b []byte) []byte{
			"nothing":      func(_ string, b []byte) []byte { return b },
			"short":        func(_ string, b []byte) []byte { return b[:len(b)*2/3] },
			"zeros":        func(_ string, b []byte) []byte { clear(b[len(b)*2/3:]); return b },
			"long":         func(_ string, b []byte) []byte { return append(b, make([]byte, 3000)...) },
			"sums lost":    func(n string, b []byte) []byte { return keepIf(!strings.Contains(n, ".sha256"), b) },
			"parts lost":   func(n string, b []byte) []byte { return keepIf(strings.Contains(n, ".sha256"), b) },
			"header wrong": func(_ string, b []byte) []byte { return append([]byte("?"), b[min(1, len(b)):]...) },
		} {
			first++ // so that every blob is tried with some damage
			for at := first % every(4); at < opens; at += every(4) {
				dir := t.TempDir()
				n := 0
				failing := func(d string) (io.ReadCloser, error) {
					if n++; n > at {
						return nil, stop
					}
					return s.open(d)
				}
				if _, err := Write(t.Context(), filepath.Join(dir, "x.tar"), ix, failing, opt); !errors.Is(err, stop) {
					t.Fatalf("interrupted at %d: %v", at, err)
				}
				left := files(t, dir)
				for name, b := range left {
					// What is complete was durable before its checksum was noted: its content is not read again.
					if damageName == "zeros" &&
						strings.Contains(left["x.tar.sha256.partial"], strings.TrimSuffix(name, partialSuffix)) {
						continue
					}
					if !strings.HasSuffix(name, partialSuffix) {
						t.Errorf("interrupted at %d: %s has its name before all is complete", at, name)
					}
					if err := os.WriteFile(filepath.Join(dir, name), hurt(name, []byte(b)), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := Write(t.Context(), filepath.Join(dir, "x.tar"), ix, s.open, opt); err != nil {
					t.Fatalf("interrupted at %d, %s: %v", at, damageName, err)
				}
				if !maps.Equal(files(t, dir), files(t, want)) {
					t.Errorf("interrupted at %d, %s: the bundle is not that of an undisturbed run", at, damageName)
				}
			}
		}
	}
}

func keepIf(keep bool, b []byte) []byte {
	if keep {
		return b
	}
	return nil
}

// TestWriteGoesOn: content written by an interrupted run is not fetched and written again.
func TestWriteGoesOn(t *testing.T) {
	ix, s := bigSample()
	path := filepath.Join(t.TempDir(), "x.tar")
	opened := 0
	var stopAt int
	open := func(d string) (io.ReadCloser, error) {
		if opened++; opened == stopAt {
			return nil, io.ErrClosedPipe
		}
		return s.open(d)
	}
	stopAt = len(s)
	if _, err := Write(t.Context(), path, ix, open, WriteOptions{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Fatal(err)
	}
	opened, stopAt = 0, -1
	if _, err := Write(t.Context(), path, ix, open, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if opened != 1 {
		t.Errorf("%d blobs were written again, want only the one that was missing", opened)
	}
}

// TestPublishAgain interrupts between the renames.
func TestPublishAgain(t *testing.T) {
	ix, s := bigSample()
	opt := WriteOptions{Split: splitFor(t, ix, false, 4096)}
	dir := t.TempDir()
	path := filepath.Join(dir, "x.tar")
	names, err := Write(t.Context(), path, ix, s.open, opt)
	if err != nil {
		t.Fatal(err)
	}
	want := files(t, dir)
	for renamed := range len(names) + 1 {
		if err := os.Rename(path+".sha256", path+".sha256.partial"); err != nil {
			t.Fatal(err)
		}
		for _, n := range names[renamed:] {
			if err := os.Rename(n, n+partialSuffix); err != nil {
				t.Fatal(err)
			}
		}
		written := 0
		opts := opt
		hashed := false
		count := func(d string) (io.ReadCloser, error) {
			if hashed { // the first is that which is cut: its chunks are hashed in every run
				written++
			}
			hashed = true
			return s.open(d)
		}
		if _, err := Write(t.Context(), path, ix, count, opts); err != nil {
			t.Fatal(err)
		}
		if written > 0 || !maps.Equal(files(t, dir), want) {
			t.Errorf("%d renamed: %d blobs written again", renamed, written)
		}
	}
}

// TestWriteOver replaces an older bundle, but only when the new one is complete, and leaves none of its parts behind.
func TestWriteOver(t *testing.T) {
	big, bs := bigSample()
	dir := t.TempDir()
	path := filepath.Join(dir, "x.tar")
	old, err := Write(t.Context(), path, big, bs.open, WriteOptions{Split: splitFor(t, big, false, 4096)})
	if err != nil {
		t.Fatal(err)
	}
	foreign := fmt.Sprintf("%s.%03d", path, len(old)+1)
	if err := os.WriteFile(foreign, []byte("not ours"), 0o644); err != nil {
		t.Fatal(err)
	}
	before := files(t, dir)
	ix, s := sample()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Write(ctx, path, ix, s.open, WriteOptions{Split: 1 << 20}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	for name, b := range before {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != b {
			t.Errorf("%s was touched by a run that failed: %v", name, err)
		}
	}
	now, err := Write(t.Context(), path, ix, s.open, WriteOptions{Split: 1 << 20})
	if err != nil || len(now) != 1 {
		t.Fatal(now, err)
	}
	if got, want := slices.Sorted(maps.Keys(files(t, dir))), []string{"x.tar.001", filepath.Base(foreign),
		"x.tar.sha256"}; !slices.Equal(
		got,
		want,
	) {
		t.Errorf("there are %v, want %v", got, want)
	}
	if out, err := command(dir, "sha256sum", "-c", "x.tar.sha256"); err != nil {
		t.Errorf("sha256sum: %v: %s", err, out)
	}
}

func command(dir, name string, arg ...string) (string, error) {
	cmd := exec.Command(name, arg...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestWriteRefuses tests inputs that cannot become a bundle.
func TestWriteRefuses(t *testing.T) {
	ix, s := sample()
	victim := digests.SHA256([]byte(strings.Repeat("x", 513)))
	with := func(b string) func(string) (io.ReadCloser, error) {
		return func(d string) (io.ReadCloser, error) {
			if d == victim {
				return io.NopCloser(strings.NewReader(b)), nil
			}
			return s.open(d)
		}
	}
	dir := t.TempDir()
	for _, c := range []struct {
		name, path string
		open       func(string) (io.ReadCloser, error)
		split      int64
		is         error
		says       string
	}{
		{"changed", "x.tar", with(strings.Repeat("x", 512) + "y"), 0, syscall.EBADMSG, victim},
		{"short", "x.tar", with(strings.Repeat("x", 512)), 0, syscall.EBADMSG, victim},
		{"long", "x.tar", with(strings.Repeat("x", 514)), 0, syscall.EBADMSG, victim},
		{"a directory", "", s.open, 0, nil, "not a regular file"},
		{"no directory", "no/x.tar", s.open, 0, os.ErrNotExist, "no/x.tar"},
		{"small parts", "x.tar", s.open, 4096, errSplitTooSmall, "minimum is"},
		{"negative", "x.tar", s.open, -1, nil, "negative"},
	} {
		t.Run(c.name, func(t *testing.T) {
			files, err := Write(t.Context(), filepath.Join(dir, c.path), ix, c.open, WriteOptions{Split: c.split})
			if err == nil || files != nil || c.is != nil && !errors.Is(err, c.is) ||
				!strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want one that says %q", err, c.says)
			}
		})
	}
	if _, err := os.Stat(filepath.Join(dir, "x.tar")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a bundle was made: %v", err)
	}
}

// TestLeastSplit: the size that the refusal names is enough.
func TestLeastSplit(t *testing.T) {
	ix, s := bigSample()
	var n int64
	_, err := Write(t.Context(), filepath.Join(t.TempDir(), "x.tar"), ix, s.open, WriteOptions{Split: 1000})
	if err == nil {
		t.Fatal("parts of 1000 bytes")
	}
	_, tail, _ := strings.Cut(err.Error(), "minimum is ")
	if _, err := fmt.Sscan(tail, &n); err != nil {
		t.Fatal(err)
	}
	written(t, ix, s, WriteOptions{Split: n})
}

// TestWriteTwice: two runs do not write the same bundle at once.
func TestWriteTwice(t *testing.T) {
	ix, s := sample()
	path := filepath.Join(t.TempDir(), "x.tar")
	var second error
	_, err := Write(t.Context(), path, ix, func(d string) (io.ReadCloser, error) {
		_, second = Write(t.Context(), path, ix, s.open, WriteOptions{})
		return s.open(d)
	}, WriteOptions{})
	if err != nil || second == nil || !strings.Contains(second.Error(), "another run") {
		t.Errorf("first: %v; second: %v", err, second)
	}
}

package foreign_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/klauspost/compress/zstd"

	"casemate/bundle"
	"casemate/bundle/foreign"
	"casemate/bundle/input"
)

// countingSink counts the bytes that it is given, and keeps small blobs.
type countingSink struct {
	*memorySink
	n atomic.Int64
}

func newCountingSink(t testing.TB) *countingSink { return &countingSink{memorySink: newMemorySink(t)} }

func (s *countingSink) Put(ctx context.Context, digest string, size int64, r io.Reader) (string, int64, error) {
	r = io.TeeReader(r, writerFunc(func(p []byte) (int, error) { s.n.Add(int64(len(p))); return len(p), nil }))
	if size < 0 || size > 8<<20 {
		n, err := io.Copy(io.Discard, r)
		if err == nil && size >= 0 && n != size {
			err = io.ErrUnexpectedEOF
		}
		return digestOf(nil), n, err
	}
	return s.memorySink.Put(ctx, digest, size, r)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// zeros yields n of them.
func zeros(n int64) io.Reader { return io.LimitReader(zeroes{}, n) }

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// packed compresses what write writes; "" does not.
func packed(t testing.TB, how string, write func(io.Writer)) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch how {
	case "zstd":
		w, err = zstd.NewWriter(&b)
	case "gzip":
		w = gzip.NewWriter(&b)
	default:
		write(&b)
		return b.Bytes()
	}
	must(err)
	write(w)
	must(w.Close())
	return b.Bytes()
}

// file writes one file of a tar, whose header says size and of which there are have bytes, zeros.
func file(w io.Writer, name string, size, have int64) {
	tw := tar.NewWriter(w)
	must(tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, Typeflag: tar.TypeReg}))
	_, err := io.Copy(w, zeros((have+511)&^511))
	must(err)
}

// TestBombs: the decompressed size of a small archive is bounded by its size, whatever it claims, and the sink gets no
// more than that. Each refusal says what to do.
func TestBombs(t *testing.T) {
	const free, times = 1 << 20, 10
	defer foreign.LowerExpansion(free, times)()
	const large = 16 << 20
	docker := func(layer []byte) []byte {
		config := `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:` +
			strings.Repeat("0", 64) + `"]}}`
		name := strings.TrimPrefix(digestOf([]byte(config)), "sha256:") + ".json"
		return tree{name: config, "a/layer.tar": string(layer),
			"manifest.json": `[{"Config":"` + name + `","RepoTags":["nginx:1"],"Layers":["a/layer.tar"]}]`}.tar()
	}
	for _, how := range []string{"zstd", "gzip"} {
		pack := func(write func(io.Writer)) []byte { return packed(t, how, write) }
		inner := func() []byte {
			return pack(func(w io.Writer) { file(w, "dl.k8s.io/a", large, large) })
		}
		for _, c := range []struct {
			what string
			b    []byte
			most int64 // bytes that the sink may get, of a regular file
		}{
			{"a file of zeros", pack(func(w io.Writer) { file(w, "dl.k8s.io/a", large, large) }), 0},
			{"many files of zeros", pack(func(w io.Writer) {
				for i := range 64 {
					file(w, fmt.Sprint("dl.k8s.io/", i), large/64, large/64)
				}
			}), free + times*(large/200)},
			{"a file that is claimed and does not come", pack(func(w io.Writer) {
				file(w, "dl.k8s.io/a", 1<<40,
					1<<20)
			}), 0},
			{"files that nothing asks for", pack(func(w io.Writer) { file(w, "notes/a", large, large) }), 0},
			{"zeros behind the end", pack(func(w io.Writer) {
				file(w, "dl.k8s.io/a", 10, 10)
				_, err := io.Copy(w, zeros(large))
				must(err)
			}), 10},
			{"directories", pack(func(w io.Writer) {
				for range large / 512 {
					must(tar.NewWriter(w).WriteHeader(&tar.Header{Name: "a/", Typeflag: tar.TypeDir}))
				}
			}), 0},
			{"a bomb in an archive", tree{"images/a.tar.gz": string(inner())}.tar(), free},
			{"a bomb in a compressed archive", pack(func(w io.Writer) {
				_, err := w.Write(tree{"images/a.tar.gz": string(inner())}.tar())
				must(err)
			}), free},
			{"many bombs in an archive", func() []byte {
				all := tree{}
				for i := range 32 {
					all[fmt.Sprintf("images/%d.tar.gz", i)] = string(pack(func(w io.Writer) {
						file(w, "dl.k8s.io/a", 1<<20-1<<10, 1<<20-1<<10)
						must(tar.NewWriter(w).Close())
					}))
				}
				return all.tar()
			}(), 3 * free},
			{"a layer", docker(pack(func(w io.Writer) { file(w, "a", large, large) })), free},
		} {
			for where, in := range map[string]bundle.Input{"file": regular(t, c.b), "pipe": piped(c.b)} {
				s := newCountingSink(t)
				_, err := input.Read(t.Context(), []bundle.Input{in}, s, bundle.ReadOptions{})
				if where == "pipe" && strings.HasSuffix(c.what, "does not come") {
					if !errors.Is(err, io.ErrUnexpectedEOF) {
						t.Errorf("%s, %s, %s: %v", how, where, c.what, err)
					}
				} else if err == nil || !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(),
					"decompress it first") ||
					!strings.Contains(err.Error(), in.Name) {
					t.Errorf("%s, %s, %s (%d bytes): %v", how, where, c.what, len(c.b), err)
				}
				most := c.most
				if where == "pipe" { // the remaining size is unknown
					most = max(most, free+times*int64(len(c.b)))
				}
				if got := s.n.Load(); got > most {
					t.Errorf(
						"%s, %s, %s (%d bytes): %d bytes for the sink, at most %d",
						how,
						where,
						c.what,
						len(c.b),
						got,
						most,
					)
				}
			}
		}
	}
}

// TestASparseBombIsRefused: a sparse file of a tar that is not compressed has bytes that the tar does not have.
func TestASparseBombIsRefused(t *testing.T) {
	// The old GNU format: no bytes of content, and a real size of 1 TiB.
	h := make([]byte, 512)
	copy(h, "dl.k8s.io/a")
	copy(h[100:], "0000644\x00")
	copy(h[124:], "00000000000\x00")
	copy(h[136:], "00000000000\x00")
	h[156] = 'S'
	copy(h[257:], "ustar  \x00")
	copy(h[386+0:], "20000000000000"[:12]) // offset of an empty piece: the end
	copy(h[386:], "\x80\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00")
	copy(h[386+12:], "00000000000\x00")
	copy(h[483:], "\x80\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00")
	sum := 8 * int(' ')
	for i, b := range h {
		if i < 148 || i >= 156 {
			sum += int(b)
		}
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	b := append(h, make([]byte, 1024)...)
	if tr := tar.NewReader(bytes.NewReader(b)); true {
		if got, err := tr.Next(); err != nil || got.Size < 1<<32 {
			t.Fatalf("the tar of the test is none: %+v, %v", got, err)
		}
	}
	for _, in := range []bundle.Input{regular(t, b), piped(b)} {
		s := newCountingSink(t)
		_, err := input.Read(t.Context(), []bundle.Input{in}, s, bundle.ReadOptions{})
		if !errors.Is(err, fs.ErrInvalid) || s.n.Load() > 0 {
			t.Errorf("%d bytes for the sink, %v", s.n.Load(), err)
		}
	}
}

// TestABombOfUsualSize compares the real bounds with refused and accepted archives.
func TestABombOfUsualSize(t *testing.T) {
	b := packed(t, "zstd", func(w io.Writer) { file(w, "dl.k8s.io/a", 256<<20, 256<<20) })
	s := newCountingSink(t)
	_, err := input.Read(t.Context(), []bundle.Input{regular(t, b)}, s, bundle.ReadOptions{})
	if !errors.Is(err, fs.ErrInvalid) || s.n.Load() != 0 {
		t.Errorf("%d bytes of %d: %v", s.n.Load(), len(b), err)
	}
	// A tar of 32 MiB of zeros is small enough for anybody.
	b = packed(t, "zstd", func(w io.Writer) {
		file(w, "dl.k8s.io/a", 32<<20, 32<<20)
		must(tar.NewWriter(w).Close())
	})
	_, err = input.Read(t.Context(), []bundle.Input{regular(t, b)}, newCountingSink(t), bundle.ReadOptions{})
	if err != nil {
		t.Error(err)
	}
}

// nest makes a layout whose image is in so many nested indexes.
func nest(depth int, innermostFirst bool) *layoutFixture {
	l := newLayout()
	at := l.image("amd64", "x")
	for i := range depth {
		text, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ociIndex, "manifests": []any{at, at}})
		must(err)
		at = l.blob(ociIndex, string(text))
		if innermostFirst {
			l.top(at, "io.containerd.image.name", fmt.Sprint("nginx:", i))
		}
	}
	l.top(at, "io.containerd.image.name", "nginx:last")
	return l
}

// TestDeepIndexes: indexes in indexes are bounded, in whatever order they are come by.
func TestDeepIndexes(t *testing.T) {
	for _, c := range []struct {
		depth int
		first bool
		ok    bool
	}{
		{1, false, true}, {32, false, true}, {32, true, true},
		{34, false, false}, {34, true, false}, {3000, false, false}, {3000, true, false},
	} {
		for where, in := range map[string]bundle.Input{"tar": regular(t, nest(c.depth, c.first).tree().tar()),
			"pipe": piped(nest(c.depth, c.first).tree().tar())} {
			_, err := input.Read(t.Context(), []bundle.Input{in}, newMemorySink(t), bundle.ReadOptions{})
			refused := errors.Is(err, fs.ErrInvalid) && strings.Contains(err.Error(), "more than 32 indexes")
			if c.ok && err != nil || !c.ok && !refused {
				t.Errorf("%d deep, innermost first %v, %s: %v", c.depth, c.first, where, err)
			}
		}
	}
}

// TestADeepIndexIsNotReadToItsEnd: content below the depth limit is not even opened.
func TestADeepIndexIsNotReadToItsEnd(t *testing.T) {
	opened := &openedFS{FS: nest(3000, false).tree().mapFS()}
	_, err := input.Read(t.Context(), []bundle.Input{{Name: "dir", FS: opened}}, newMemorySink(t), bundle.ReadOptions{})
	if n := opened.n.Load(); !errors.Is(err, fs.ErrInvalid) || n > 200 {
		t.Errorf("%d of 3000 indexes opened, %v", n, err)
	}
}

// openedFS counts blobs that are opened.
type openedFS struct {
	fs.FS
	n atomic.Int64
}

func (o *openedFS) Open(name string) (fs.File, error) {
	if strings.HasPrefix(name, "blobs/sha256/") {
		o.n.Add(1)
	}
	return o.FS.Open(name)
}

// TestManyEntries: many files and many referrers cost in proportion. The work is counted by Has, which is asked for
// each.
func TestManyEntries(t *testing.T) {
	const many = 20_000
	l := newLayout()
	subject := l.image("amd64", "x")
	l.top(subject, "io.containerd.image.name", "nginx:1")
	config := l.blob("application/vnd.oci.empty.v1+json", "{}")
	// A chain of referrers, the last first: a signature of a signature of a signature.
	chain := subject
	var tops []map[string]any
	for i := range many / 10 {
		text, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ociManifest, "config": config,
			"layers": []any{}, "subject": chain, "annotations": map[string]string{"n": fmt.Sprint(i)}})
		must(err)
		chain = l.blob(ociManifest, string(text))
		tops = append(tops, chain)
	}
	for i := range tops {
		l.top(tops[len(tops)-1-i])
	}
	s := &askedSink{memorySink: newMemorySink(t)}
	c, err := input.Read(t.Context(), []bundle.Input{regular(t, l.tree().tar())}, s, bundle.ReadOptions{})
	if err != nil || len(c.Index.Images) != many/10+1 {
		t.Fatal(err)
	}
	if n := s.asked.Load(); n > 20*many/10 {
		t.Errorf("Has was asked %d times for %d manifests", n, many/10)
	}
	all := tree{}
	for i := range many {
		all[fmt.Sprintf("dl.k8s.io/%d/%d", i%100, i)] = fmt.Sprint(i)
	}
	s = &askedSink{memorySink: newMemorySink(t)}
	if _, err := input.Read(t.Context(), []bundle.Input{regular(t, all.tar())}, s, bundle.ReadOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := s.asked.Load(); n > 5*many {
		t.Errorf("Has was asked %d times for %d files", n, many)
	}
}

type askedSink struct {
	*memorySink
	asked atomic.Int64
}

func (s *askedSink) Has(d string) (int64, bool) { s.asked.Add(1); return s.memorySink.Has(d) }

package blob_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"

	"casemate/cluster/blob"
	"casemate/cluster/blob/blobtest"
)

const block = 4096

// file is an *os.File with that content, open for reading.
func file(t testing.TB, data []byte) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// Whatever it is read from, and in whatever pieces: the bytes are those, and the reader is at its end.
func TestReadFrom(t *testing.T) {
	const large = 600<<10 + 77
	data := random(large)
	from := map[string]func(t *testing.T) (io.Reader, []byte){
		"nothing": func(*testing.T) (io.Reader, []byte) { return bytes.NewReader(nil), nil },
		"small":   func(*testing.T) (io.Reader, []byte) { return bytes.NewReader(data[:100]), data[:100] },
		"memory":  func(*testing.T) (io.Reader, []byte) { return bytes.NewReader(data), data },
		"pieces":  func(*testing.T) (io.Reader, []byte) { return iotest.HalfReader(bytes.NewReader(data)), data },
		"end with data": func(*testing.T) (io.Reader, []byte) {
			return iotest.DataErrReader(bytes.NewReader(data)), data
		},
		"single bytes": func(*testing.T) (io.Reader, []byte) {
			return iotest.OneByteReader(bytes.NewReader(data[:9999])), data[:9999]
		},
		"file":           func(t *testing.T) (io.Reader, []byte) { return file(t, data), data },
		"small file":     func(t *testing.T) (io.Reader, []byte) { return file(t, data[:100]), data[:100] },
		"empty file":     func(t *testing.T) (io.Reader, []byte) { return file(t, nil), nil },
		"rest of a file": func(t *testing.T) (io.Reader, []byte) { return at(t, file(t, data), block), data[block:] },
		"crooked rest":   func(t *testing.T) (io.Reader, []byte) { return at(t, file(t, data), 1000), data[1000:] },
		"behind the end": func(t *testing.T) (io.Reader, []byte) { return at(t, file(t, data), large+5), nil },
		"section": func(t *testing.T) (io.Reader, []byte) {
			return section(t, data, block, 500<<10), data[block : block+500<<10]
		},
		"uneven section": func(t *testing.T) (io.Reader, []byte) {
			return section(t, data, block, 400_001), data[block : block+400_001]
		},
		"crooked section": func(t *testing.T) (io.Reader, []byte) {
			return section(t, data, 77, 400_001), data[77 : 77+400_001]
		},
		"endless section": func(t *testing.T) (io.Reader, []byte) {
			return section(t, data, 2*block, 1<<40), data[2*block:]
		},
		"begun section": func(t *testing.T) (io.Reader, []byte) {
			return at(t, section(t, data, block, 500<<10), block), data[2*block : block+500<<10]
		},
		"section of memory": func(*testing.T) (io.Reader, []byte) {
			return io.NewSectionReader(bytes.NewReader(data), 5, 400_000), data[5 : 5+400_000]
		},
		"pipe": func(t *testing.T) (io.Reader, []byte) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { r.Close() })
			go func() { w.Write(data); w.Close() }()
			return r, data
		},
	}
	power := blobtest.New(1)
	power.SetClone(block)
	for disk, d := range map[string]*blob.Dir{
		"os":       open(t, t.TempDir(), blob.Options{}),
		"clones":   open(t, "/blobs", blob.Options{FS: power}),
		"no clone": open(t, "/blobs", blob.Options{FS: blobtest.New(2)}),
	} {
		for name, make := range from {
			t.Run(disk+"/"+name, func(t *testing.T) {
				r, want := make(t)
				w, err := d.Create("")
				if err != nil {
					t.Fatal(err)
				}
				defer w.Close()
				// io.Copy, as everybody calls it: for an *os.File it hands on a wrapper.
				if n, err := io.Copy(w, r); err != nil || n != int64(len(want)) || w.Size() != n {
					t.Fatalf("%d bytes, %v, size %d", n, err, w.Size())
				}
				if n, err := r.Read([]byte{0}); n != 0 || err != io.EOF {
					t.Errorf("the reader is not at its end: %d, %v", n, err)
				}
				w.Write([]byte("tail"))
				whole := append(bytes.Clone(want), "tail"...)
				digest, size, err := w.Place("")
				if err != nil || size != int64(len(whole)) || digest != sha(whole) {
					t.Fatalf("placed %s with %d bytes, %v", digest, size, err)
				}
				w.Done()
				if !bytes.Equal(read(t, d, digest), whole) {
					t.Error("other bytes")
				}
			})
		}
	}
}

func at[R io.ReadSeeker](t *testing.T, r R, off int64) R {
	t.Helper()
	if _, err := r.Seek(off, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	return r
}

func section(t *testing.T, data []byte, off, n int64) *io.SectionReader {
	return io.NewSectionReader(file(t, data), off, n)
}

// Bytes after other content cannot be cloned, and sha512 is a digest as well.
func TestReadFromGoesOn(t *testing.T) {
	f := blobtest.New(1)
	f.SetClone(block)
	clones := 0
	f.Fault(func(op, _ string) (error, bool) {
		if op == "clone" {
			clones++
		}
		return nil, false
	})
	d := open(t, "/blobs", blob.Options{FS: f})
	data := random(300 << 10)
	w, err := d.Create("id")
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("head"))
	if _, err := io.Copy(w, file(t, data)); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if w, err = d.Resume("id"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, file(t, data)); err != nil {
		t.Fatal(err)
	}
	want := append(append([]byte("head"), data...), data...)
	digest, _, err := w.Place(sha5(want))
	if err != nil || digest != sha5(want) || clones != 0 {
		t.Errorf("%s, %v, %d clones", digest, err, clones)
	}
	w.Done()
}

// Someone writes to the source between the clone and Place. The digest is that of our own bytes.
func TestCloneIsHashedFromOurOwnFile(t *testing.T) {
	f := blobtest.New(1)
	f.SetClone(block)
	d := open(t, "/blobs", blob.Options{FS: f})
	data := random(300 << 10)
	src := file(t, data)
	w, err := d.Create("")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := io.Copy(w, src); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(src.Name(), random(300<<10+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if digest, _, err := w.Place(""); err != nil || digest != sha(data) {
		t.Errorf("%s, %v", digest, err)
	}
	w.Done()
}

// A clone that fails, having happened or not, becomes a copy. Nothing of it is left behind the copy, even if the source
// has become shorter meanwhile.
func TestCloneFails(t *testing.T) {
	data := random(300 << 10)
	for _, happened := range []bool{false, true} {
		for _, truncation := range []error{nil, syscall.EIO} {
			f := blobtest.New(1)
			f.SetClone(block)
			d := open(t, "/blobs", blob.Options{FS: f})
			src := file(t, data)
			f.Fault(func(op, _ string) (error, bool) {
				switch op {
				case "clone":
					if err := os.Truncate(src.Name(), 100_000); err != nil {
						t.Error(err)
					}
					return syscall.EXDEV, happened
				case "truncate":
					return truncation, false
				}
				return nil, false
			})
			w, err := d.Create("")
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			_, err = io.Copy(w, io.NewSectionReader(src, 0, 300<<10))
			if truncation != nil {
				if !errors.Is(err, syscall.EIO) {
					t.Errorf("a truncation that fails: %v", err)
				}
				if _, _, err := w.Place(""); !errors.Is(err, fs.ErrClosed) {
					t.Errorf("the writer goes on: %v", err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			digest, _, err := w.Place("")
			if err != nil || digest != sha(data[:100_000]) {
				t.Fatalf("%s, %v", digest, err)
			}
			if !bytes.Equal(read(t, d, digest), data[:100_000]) {
				t.Error("other bytes")
			}
			w.Done()
		}
	}
}

// An error of the reader keeps the bytes before it, as an interrupted upload requires.
func TestReadFromBreaksOff(t *testing.T) {
	d := open(t, t.TempDir(), blob.Options{})
	data := random(500 << 10)
	w, err := d.Create("id")
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken off")
	n, err := io.Copy(w, io.MultiReader(bytes.NewReader(data[:300_000]), iotest.ErrReader(broken)))
	if n != 300_000 || !errors.Is(err, broken) {
		t.Errorf("%d, %v", n, err)
	}
	w.Close()
	if w, err = d.Resume("id"); err != nil || w.Size() != 300_000 {
		t.Fatalf("resumed at %d, %v", w.Size(), err)
	}
	if n, err := io.Copy(w, bytes.NewReader(data[300_000:])); err != nil || n != int64(len(data)-300_000) {
		t.Errorf("%d, %v", n, err)
	}
	if digest, _, err := w.Place(""); err != nil || digest != sha(data) {
		t.Errorf("%s, %v", digest, err)
	}
	w.Done()
}

func TestReadFromMindsTheReserve(t *testing.T) {
	f := blobtest.New(1)
	f.SetClone(block)
	d := open(t, "/blobs", blob.Options{FS: f, Reserve: 1 << 20})
	w, err := d.Create("")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	f.SetFree(1<<20 + 200<<10)
	if n, err := io.Copy(w, bytes.NewReader(random(8<<20))); !errors.Is(err, syscall.ENOSPC) || n > 200<<10 {
		t.Errorf("wrote %d, %v", n, err)
	}
	f.SetFree(1 << 21)
	c, err := d.Create("")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f.SetFree(1<<20 - 1)
	if _, err := io.Copy(c, file(t, random(300<<10))); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("cloned below the reserve: %v", err)
	}
}

// The client of an upload comes back while the old connection still writes: the old writer ends, and the digest is
// right at any moment.
func TestReadFromBesideOthers(t *testing.T) {
	d := open(t, t.TempDir(), blob.Options{})
	for range 20 {
		old, err := d.Create("id")
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		begun := make(chan struct{})
		once := sync.OnceFunc(func() { close(begun) })
		wg.Go(func() {
			_, err := io.Copy(old, readerFunc(func(p []byte) (int, error) { once(); clear(p); return len(p), nil }))
			if !errors.Is(err, fs.ErrClosed) {
				t.Errorf("the old writer ended by %v", err)
			}
		})
		<-begun
		w, err := d.Resume("id")
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { w.Write([]byte("x")) })
		if _, err := io.Copy(w, bytes.NewReader(make([]byte, 1<<20))); err != nil {
			t.Error(err)
		}
		wg.Wait()
		digest, size, err := w.Place("")
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, d, digest); sha(got) != digest || int64(len(got)) != size {
			t.Errorf("%s has %d bytes with the digest %s", digest, len(got), sha(got))
		}
		w.Done()
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// A power cut at any moment of a clone leaves each digest whole or absent.
func TestPowerCutOfClones(t *testing.T) {
	data := random(400 << 10)
	src := file(t, data)
	for seed := range uint64(100) {
		f := blobtest.New(seed)
		f.SetClone(block)
		r := rand.New(rand.NewPCG(seed, 3))
		d := open(t, "/blobs", blob.Options{FS: f})
		f.CutAfter(r.IntN(30))
		placed := map[string]bool{}
		for range 3 {
			w, err := d.Create("")
			if err != nil {
				break
			}
			if _, err = io.Copy(w, io.NewSectionReader(src, int64(r.IntN(3))*block,
				int64(300<<10+r.IntN(20<<10)))); err == nil {
				var digest string
				if digest, _, err = w.Place(""); err == nil {
					placed[digest] = true
				}
			}
			w.Close()
			if err != nil && !errors.Is(err, blobtest.ErrOff) {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		d = open(t, "/blobs", blob.Options{FS: f.Reboot()})
		for digest := range placed {
			if err := d.Verify(context.Background(), digest); err != nil {
				t.Fatalf("seed %d: placed, and now: %v", seed, err)
			}
		}
		for e, err := range d.Scan() {
			if err == nil {
				err = d.Verify(context.Background(), e.Digest)
			}
			if err != nil {
				t.Fatalf("seed %d: half a blob is visible: %v", seed, err)
			}
		}
	}
}

// BenchmarkReadFrom makes blobs of a file in the page cache. The disk of the temporary directory is written to, and
// synced.
func BenchmarkReadFrom(b *testing.B) {
	for _, size := range []int64{64 << 10, 256 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			src := file(b, make([]byte, size))
			d := open(b, b.TempDir(), blob.Options{})
			b.SetBytes(size)
			for i := 0; b.Loop(); i++ {
				w, err := d.Create("")
				if err != nil {
					b.Fatal(err)
				}
				fmt.Fprintf(w, "%d", i) // so that each is another
				if _, err := io.Copy(w, io.NewSectionReader(src, 0, size)); err != nil {
					b.Fatal(err)
				}
				if _, _, err := w.Place(""); err != nil {
					b.Fatal(err)
				}
				w.Done()
			}
		})
	}
}

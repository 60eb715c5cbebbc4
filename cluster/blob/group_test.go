package blob_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"casemate/cluster/blob"
	"casemate/cluster/blob/blobtest"
)

// written is a group of writers with bytes that differ, and their digests.
func written(d *blob.Dir, r *rand.Rand, n int) (ws []*blob.Writer, digests []string, err error) {
	for range n {
		w, err := d.Create("")
		if err != nil {
			return ws, digests, err
		}
		data := make([]byte, r.IntN(700))
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		ws, digests = append(ws, w), append(digests, sha(data))
		if _, err := w.Write(data); err != nil {
			return ws, digests, err
		}
	}
	return ws, digests, nil
}

func end(ws []*blob.Writer) {
	for _, w := range ws {
		w.Close()
	}
}

// verifyAll compares every blob on disk, and those that must be there.
func verifyAll(t *testing.T, what string, d *blob.Dir, must map[string]bool) {
	t.Helper()
	for digest := range must {
		if err := d.Verify(context.Background(), digest); err != nil {
			t.Fatalf("%s: placed, and now: %v", what, err)
		}
	}
	for e, err := range d.Scan() {
		if err == nil {
			err = d.Verify(context.Background(), e.Digest)
		}
		if err != nil {
			t.Fatalf("%s: half a blob is visible: %v", what, err)
		}
	}
}

func TestPlaceAll(t *testing.T) {
	for _, n := range []int{0, 1, 3, 4, 100} {
		for _, syncer := range []bool{true, false} {
			t.Run(fmt.Sprint(n, syncer), func(t *testing.T) {
				f := blobtest.New(1)
				f.SetSyncer(syncer)
				d := open(t, "/blobs", blob.Options{FS: f})
				ops := map[string]int{}
				f.Fault(func(op, _ string) (error, bool) { ops[op]++; return nil, false })
				ws, digests, err := written(d, rand.New(rand.NewPCG(1, 1)), n)
				if err != nil {
					t.Fatal(err)
				}
				names := make([]string, n) // every other one is not told its digest
				for i := range names {
					if i%2 == 0 {
						names[i] = digests[i]
					}
				}
				must := map[string]bool{}
				for i, p := range d.PlaceAll(ws, names) {
					if p.Err != nil || p.Digest != digests[i] || p.Size != ws[i].Size() || !d.Held(p.Digest) {
						t.Errorf("%d: %+v, want %s", i, p, digests[i])
					}
					must[p.Digest] = true
				}
				for _, p := range d.PlaceAll(ws, names) { // once more is no error
					if p.Err != nil {
						t.Error(p.Err)
					}
				}
				for _, w := range ws {
					w.Done()
				}
				if grouped := syncer && n >= 4; grouped && (ops["syncfs"] != 4 || ops["sync"]+ops["syncdir"] > 0) {
					t.Errorf("syncs: %v, want 2 of everything for each group and no other", ops)
				} else if !grouped && (ops["syncfs"] > 0 || ops["sync"] != n) {
					t.Errorf("syncs: %v", ops)
				}
				d = open(t, "/blobs", blob.Options{FS: f.Reboot()})
				verifyAll(t, "after a power cut", d, must)
			})
		}
	}
}

// One that has no place, wrong bytes, or is closed does not hold up the others.
func TestPlaceAllWithStrayMembers(t *testing.T) {
	f := blobtest.New(1)
	d := open(t, "/blobs", blob.Options{FS: f})
	ws, digests, err := written(d, rand.New(rand.NewPCG(1, 1)), 8)
	if err != nil {
		t.Fatal(err)
	}
	f.Mkdir("/blobs/sha256/"+digests[0][7:9], 0o750)
	f.Mkdir("/blobs/sha256/"+digests[0][7:9]+"/"+digests[0][7:], 0o750) // a directory stands in its place
	file, err := f.OpenFile("/blobs/sha256/"+digests[1][7:9], 0o102, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	file.Close() // a file where its directory should be
	digests[2], digests[3] = sha(nil), "sha256:no"
	ws[4].Close()
	want := []error{nil, nil, syscall.EBADMSG, fs.ErrInvalid, fs.ErrClosed, nil, nil, nil}
	must := map[string]bool{}
	for i, p := range d.PlaceAll(ws, digests) {
		if !errors.Is(p.Err, want[i]) || want[i] == nil && p.Digest != digests[i] {
			t.Errorf("%d: %+v, want %v", i, p, want[i])
		}
		if p.Err == nil {
			must[p.Digest] = true
		}
	}
	end(ws[2:5])
	d = open(t, "/blobs", blob.Options{FS: f.Reboot()})
	verifyAll(t, "after a power cut", d, must)
}

// A power cut at any moment leaves each digest of a group whole or absent, and those that were said to be placed whole.
func TestPowerCutInGroups(t *testing.T) {
	for seed := range uint64(100) {
		f := blobtest.New(seed)
		f.SetSyncer(seed%4 != 3)
		r := rand.New(rand.NewPCG(seed, 2))
		f.CutAfter(r.IntN(200))
		must := map[string]bool{}
		for boot := range 3 {
			d, err := blob.Open("/blobs", blob.Options{FS: f})
			for i := 0; err == nil && i < 4; i++ {
				var ws []*blob.Writer
				var digests []string
				if ws, digests, err = written(d, r, r.IntN(12)); err == nil {
					for i, p := range d.PlaceAll(ws, digests) {
						if err = errors.Join(err, p.Err); p.Err == nil {
							must[digests[i]] = true
						}
					}
				}
				if r.IntN(2) == 0 {
					for _, w := range ws {
						w.Done()
					}
				}
				end(ws)
			}
			if err != nil && !errors.Is(err, blobtest.ErrOff) && !errors.Is(err, fs.ErrClosed) {
				t.Fatalf("seed %d: %v", seed, err)
			}
			f = f.Reboot()
			d = open(t, "/blobs", blob.Options{FS: f})
			verifyAll(t, fmt.Sprintf("seed %d boot %d", seed, boot), d, must)
			f.CutAfter(r.IntN(150))
		}
	}
}

// Each kind of sync fails, with and without effect, at its first or a later call. Blobs that were reported as placed
// are there after a power cut. A failed sync of the file system only fails the writers whose own bytes it has lost, and
// this process does not use it again.
func TestSyncFaultsInGroups(t *testing.T) {
	for seed := range uint64(160) {
		f := blobtest.New(seed)
		op := []string{"syncfs", "sync", "syncdir", "rename"}[seed%4]
		f.SetSyncer(op != "sync" && op != "syncdir")
		d := open(t, "/blobs", blob.Options{FS: f})
		r := rand.New(rand.NewPCG(seed, 2))
		n, after, fault := r.IntN(5), r.IntN(2) == 0 && op != "rename", false
		f.Fault(func(is, _ string) (error, bool) {
			if is == "syncfs" && fault && op == "syncfs" {
				t.Errorf("seed %d: a sync of everything after one that failed", seed)
			}
			if is == op {
				if n--; n == 0 {
					fault = true
					return syscall.EIO, after
				}
			}
			return nil, false
		})
		must := map[string]bool{}
		failed := 0
		for range 3 {
			ws, digests, err := written(d, r, 8)
			if err != nil {
				t.Fatal(err)
			}
			placed := d.PlaceAll(ws, digests)
			for i, p := range placed {
				if p.Err != nil && !errors.Is(p.Err, syscall.EIO) {
					t.Fatalf("seed %d: %v", seed, p.Err)
				}
				if p.Err != nil {
					failed++
					if p.Digest, _, p.Err = ws[i].Place(digests[i]); p.Err != nil && !errors.Is(p.Err, fs.ErrClosed) {
						t.Fatalf("seed %d: again: %v", seed, p.Err)
					}
				}
				if p.Err == nil {
					must[digests[i]] = true
					ws[i].Done()
				}
			}
			end(ws)
		}
		if op == "rename" && failed > 0 {
			t.Errorf("seed %d: %d failed by a rename that is tried again", seed, failed)
		}
		d = open(t, "/blobs", blob.Options{FS: f.Reboot()})
		verifyAll(t, fmt.Sprintf("seed %d, %s", seed, op), d, must)
	}
}

// A disk that becomes full in the middle of a group: completely written blobs are placed, the others report the reason.
func TestDiskFullInAGroup(t *testing.T) {
	f := blobtest.New(1)
	d := open(t, "/blobs", blob.Options{FS: f})
	f.SetFree(10 * 1000)
	var ws []*blob.Writer
	var digests []string
	for i := range 20 {
		w, err := d.Create("")
		if err != nil {
			t.Fatal(err)
		}
		data := bytes.Repeat([]byte{byte(i)}, 1000)
		if _, err := w.Write(data); (err == nil) != (i < 10) || err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("%d: %v", i, err)
		}
		ws, digests = append(ws, w), append(digests, sha(data))
	}
	must := map[string]bool{}
	for i, p := range d.PlaceAll(ws, digests) {
		if (p.Err == nil) != (i < 10) {
			t.Errorf("%d: %v", i, p.Err)
		}
		if p.Err == nil {
			must[p.Digest] = true
		}
	}
	end(ws[10:])
	d = open(t, "/blobs", blob.Options{FS: f.Reboot()})
	verifyAll(t, "after a power cut", d, must)
}

// hanging is a file system whose syncs of everything wait, as they do for what others have written.
type hanging struct {
	*blobtest.FS
	until chan struct{}
	syncs *atomic.Int32
}

func (h hanging) Syncer(string) (blob.Syncer, error) { return h, nil }
func (h hanging) Close() error                       { return nil }
func (h hanging) Sync() error                        { h.syncs.Add(1); <-h.until; return nil }

// A group does not wait long for what others have written: its files are synced one by one then, and those of the next
// group at once, until the sync of everything is over.
func TestOthersDirtyData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hanging{blobtest.New(1), make(chan struct{}), new(atomic.Int32)}
		d := open(t, "/blobs", blob.Options{FS: h})
		r := rand.New(rand.NewPCG(1, 1))
		must := map[string]bool{}
		group := func() time.Duration {
			begun := time.Now()
			ws, digests, err := written(d, r, 8)
			if err != nil {
				t.Fatal(err)
			}
			for i, p := range d.PlaceAll(ws, digests) {
				if p.Err != nil {
					t.Error(p.Err)
				}
				must[digests[i]] = true
				ws[i].Done()
			}
			return time.Since(begun)
		}
		if took := group(); took != 2*time.Second || h.syncs.Load() != 1 {
			t.Errorf("the first group waited for %s and asked %d times", took, h.syncs.Load())
		}
		if took := group(); took != 0 || h.syncs.Load() != 1 {
			t.Errorf("the next one waited for %s and asked %d times", took, h.syncs.Load())
		}
		verifyAll(t, "after a power cut", open(t, "/blobs", blob.Options{FS: h.FS.Image()}), must)
		close(h.until)
		synctest.Wait()
		if took := group(); took != 0 || h.syncs.Load() != 3 {
			t.Errorf("one after it waited for %s and asked %d times", took, h.syncs.Load())
		}
		d.Close()
		if took := group(); took != 0 || h.syncs.Load() != 3 {
			t.Errorf("one after the end waited for %s and asked %d times", took, h.syncs.Load())
		}
	})
}

// BenchmarkSmallBlobs places blobs of 10 KiB on a real disk, one by one and in groups.
func BenchmarkSmallBlobs(b *testing.B) {
	for _, n := range []int{1, 4, 8, 64, 512} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			d := open(b, b.TempDir(), blob.Options{})
			defer d.Close()
			r := rand.New(rand.NewPCG(1, 1))
			for left := b.N; left > 0; left -= n {
				var ws []*blob.Writer
				for range min(n, left) {
					w, err := d.Create("")
					if err != nil {
						b.Fatal(err)
					}
					data := make([]byte, 10<<10)
					for i := range data {
						data[i] = byte(r.Uint32())
					}
					w.Write(data)
					ws = append(ws, w)
				}
				for i, p := range d.PlaceAll(ws, make([]string, len(ws))) {
					if p.Err != nil {
						b.Fatal(p.Err)
					}
					ws[i].Done()
				}
			}
		})
	}
}

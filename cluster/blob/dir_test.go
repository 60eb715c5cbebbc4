package blob_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"casemate/cluster/blob"
	"casemate/cluster/blob/blobtest"
	"casemate/cluster/waittest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { waittest.Main(m, goleak.Find) }

func sha(data []byte) string  { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }
func sha5(data []byte) string { return fmt.Sprintf("sha512:%x", sha512.Sum512(data)) }
func always() bool            { return true }
func random(n int) (out []byte) {
	out = make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n)}).Read(out)
	return
}

func open(t testing.TB, dir string, o blob.Options) *blob.Dir {
	t.Helper()
	d, err := blob.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// place writes data as a blob and ends the writer.
func place(t testing.TB, d *blob.Dir, data []byte) string {
	t.Helper()
	w, err := d.Create("")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	digest, size, err := w.Place("")
	if err != nil || size != int64(len(data)) {
		t.Fatalf("Place: %d, %v", size, err)
	}
	w.Done()
	return digest
}

func read(t testing.TB, d *blob.Dir, digest string) []byte {
	t.Helper()
	f, err := d.Open(digest)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestPlaceBothAlgorithms(t *testing.T) {
	d := open(t, t.TempDir(), blob.Options{})
	data := random(100_000)
	for _, digest := range []string{sha(data), sha5(data)} {
		w, err := d.Create("")
		if err != nil {
			t.Fatal(err)
		}
		w.Write(data[:1000])
		w.Write(data[1000:])
		got, _, err := w.Place(digest)
		if err != nil || got != digest {
			t.Fatalf("Place: %s, %v", got, err)
		}
		w.Done()
		if !bytes.Equal(read(t, d, digest), data) {
			t.Fatal("other bytes came back")
		}
		f, _ := d.Open(digest)
		if _, ok := f.(*os.File); !ok {
			t.Fatalf("a blob on disk is a %T, which cannot be sent by sendfile", f)
		}
		f.Close()
		if err := d.Verify(context.Background(), digest); err != nil {
			t.Fatal(err)
		}
	}
	var all []string
	for e, err := range d.Scan() {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e.Digest)
	}
	if len(all) != 2 || all[0] != sha(data) || all[1] != sha5(data) {
		t.Fatalf("Scan: %v", all)
	}
}

func TestDigestsThatAreNot(t *testing.T) {
	d := open(t, t.TempDir(), blob.Options{})
	good := sha(nil)
	for _, digest := range []string{
		"", "sha256", "sha256:", good[:70], good + "0", strings.ToUpper(good), "sha256:" + strings.Repeat("../", 21) +
			"a",
		"md5:" + good[7:], "sha512:" + good[7:], "sha256:" + strings.Repeat("g", 64), strings.Repeat("x", 100_000),
	} {
		if _, err := d.Stat(digest); !errors.Is(err, fs.ErrInvalid) || len(err.Error()) > 500 {
			t.Errorf("Stat(%.80q): %.300v", digest, err)
		}
		if _, err := d.Open(digest); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Open(%.80q): %.300v", digest, err)
		}
		if _, err := d.Sweep(digest, always); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Sweep(%.80q): %.300v", digest, err)
		}
	}
}

func TestScratchIDsThatAreNot(t *testing.T) {
	d := open(t, t.TempDir(), blob.Options{})
	for _, id := range []string{"a/b", "ä", strings.Repeat("a", 129), "a\x00", " "} {
		if _, err := d.Create(id); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Create(%.20q): %v", id, err)
		}
		if _, err := d.Resume(id); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Resume(%.20q): %v", id, err)
		}
	}
	for _, id := range []string{".", "..", "t-x", strings.Repeat("a", 128)} { // odd, and allowed
		w, err := d.Create(id)
		if err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(id))
		w.Close()
	}
	list, err := d.Scratches()
	if err != nil || len(list) != 4 || list[0].ID != "." || list[0].Size != 1 {
		t.Fatalf("Scratches: %v, %v", list, err)
	}
}

// Promise 5: foreign bytes are hashed before they are believed.
func TestPromise5WrongBytesAreNoBlob(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, blob.Options{})
	for _, want := range []string{sha([]byte("right")), sha5([]byte("right"))} {
		w, _ := d.Create("up")
		w.Write([]byte("wrong"))
		if _, _, err := w.Place(want); !errors.Is(err, syscall.EBADMSG) {
			t.Fatalf("Place of wrong bytes: %v", err)
		}
		if _, err := d.Stat(want); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("the digest is there: %v", err)
		}
		if w.Size() != 5 {
			t.Fatal("the scratch file did not survive")
		}
		w.Close()
	}
	// Bytes that changed on disk between two pieces of an upload are noticed too, after a restart that forgot the hash
	// state.
	if err := os.WriteFile(filepath.Join(dir, "scratch", "u-up"), []byte("wrung"), 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := open(t, dir, blob.Options{}).Resume("up")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, _, err := w.Place(sha([]byte("wrong"))); !errors.Is(err, syscall.EBADMSG) {
		t.Fatalf("Place of changed bytes: %v", err)
	}
}

func TestResume(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, blob.Options{})
	data := random(50_000)
	if _, err := d.Resume("up"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Resume of nothing: %v", err)
	}
	w, err := d.Create("up")
	if err != nil {
		t.Fatal(err)
	}
	w.Write(data[:10])
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w, err = d.Resume("up") // with the hash state in memory
	if err != nil || w.Size() != 10 {
		t.Fatalf("Resume: %v", err)
	}
	w.Write(data[10:1000])
	w2, err := d.Resume("up") // by a client that came back before the server noticed that it was gone
	if err != nil || w2.Size() != 1000 {
		t.Fatalf("Resume of an open one: %v", err)
	}
	if _, err := w.Write([]byte("late")); !errors.Is(err, fs.ErrClosed) {
		t.Fatalf("Write of the old writer: %v", err)
	}
	w2.Write(data[1000:2000])
	w2.Close()
	d = open(t, dir, blob.Options{}) // without it, after a restart
	w, err = d.Resume("up")
	if err != nil {
		t.Fatal(err)
	}
	w.Write(data[2000:])
	if _, _, err := w.Place(sha(data)); err != nil {
		t.Fatal(err)
	}
	w.Done()
	if _, err := d.Resume("up"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Resume after Done: %v", err)
	}
	w, err = d.Create("up")
	if err != nil {
		t.Fatal(err)
	}
	w.Write(data)
	w.Close()
	w, err = d.Create("up") // truncates
	if err != nil || w.Size() != 0 {
		t.Fatalf("Create of an existing id: %d, %v", w.Size(), err)
	}
	if err := w.Cancel(); err != nil {
		t.Fatal(err)
	}
	if list, err := d.Scratches(); len(list) != 0 || err != nil {
		t.Fatalf("Scratches after Cancel: %v, %v", list, err)
	}
}

// A blob that was placed but never became known is used as a scratch file again.
func TestPlacedButNotDone(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, blob.Options{})
	data := random(5000)
	w, _ := d.Create("up")
	w.Write(data)
	digest, _, err := w.Place("")
	if err != nil {
		t.Fatal(err)
	}
	if again, _, err := w.Place(digest); err != nil || again != digest {
		t.Fatalf("Place again: %s, %v", again, err)
	}
	if swept, err := d.Sweep(digest, always); swept || err != nil {
		t.Fatalf("a placed blob was swept: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w, err = d.Resume("up")
	if err != nil || w.Size() != 5000 {
		t.Fatalf("Resume: %v", err)
	}
	w.Write([]byte("more"))
	if !bytes.Equal(read(t, d, digest), data) {
		t.Fatal("writing on has changed the blob")
	}
	if _, _, err := w.Place(sha(append(data, "more"...))); err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("!")) // also while placed
	if got, _, err := w.Place(""); err != nil || got != sha(append(data, "more!"...)) {
		t.Fatalf("%s, %v", got, err)
	}
	w.Cancel()
	for _, b := range []string{digest, sha(append(data, "more"...)), sha(append(data, "more!"...))} {
		if swept, err := d.Sweep(b, always); !swept || err != nil {
			t.Fatalf("sweep of what nobody holds: %v, %v", swept, err)
		}
	}
}

func TestSweepAsksUnderTheLock(t *testing.T) {
	d := open(t, t.TempDir(), blob.Options{})
	digest := place(t, d, []byte("x"))
	release := d.Hold(digest)
	second := d.Hold(digest)
	release()
	release() // twice is once
	if swept, _ := d.Sweep(digest, func() bool { t.Error("asked although held"); return true }); swept {
		t.Fatal("swept although held")
	}
	second()
	if swept, _ := d.Sweep(digest, func() bool { return false }); swept {
		t.Fatal("swept although wanted")
	}
	f, _ := d.Open(digest)
	defer f.Close()
	if swept, err := d.Sweep(digest, always); !swept || err != nil {
		t.Fatalf("Sweep: %v, %v", swept, err)
	}
	if data, err := io.ReadAll(f); string(data) != "x" || err != nil {
		t.Fatalf("an open reader lost its blob: %q, %v", data, err)
	}
	if swept, err := d.Sweep(digest, always); swept || err != nil {
		t.Fatalf("Sweep of nothing: %v, %v", swept, err)
	}
}

func TestVerifyFindsRot(t *testing.T) {
	f := blobtest.New(1)
	d := open(t, "/blobs", blob.Options{FS: f})
	data := random(10_000)
	digest := place(t, d, data)
	if err := f.Flip("/blobs/sha256/"+digest[7:9]+"/"+digest[7:], 7777); err != nil {
		t.Fatal(err)
	}
	if err := d.Verify(context.Background(), digest); !errors.Is(err, blob.ErrDamaged) {
		t.Fatalf("Verify: %v", err)
	}
	place(t, d, data) // pushed again: repaired
	if err := d.Verify(context.Background(), digest); err != nil {
		t.Fatalf("Verify after a second push: %v", err)
	}
}

func TestReserve(t *testing.T) {
	f := blobtest.New(1)
	d := open(t, "/blobs", blob.Options{FS: f, Reserve: 10 << 20})
	f.SetFree(40 << 20)
	w, err := d.Create("up")
	if err != nil {
		t.Fatal(err)
	}
	chunk := make([]byte, 1<<20)
	n := 0
	for ; err == nil && n < 100; n++ {
		_, err = w.Write(chunk)
	}
	if !errors.Is(err, syscall.ENOSPC) || n < 20 {
		t.Fatalf("after %d MiB: %v", n, err)
	}
	if free, _, _ := d.Free(); free < 5<<20 {
		t.Fatalf("only %d bytes left of the reserve", free)
	}
	if _, err := d.Create("other"); err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	f.SetFree(8 << 20)
	if _, err := d.Create("other"); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("Create below the reserve: %v", err)
	}
	if err := d.RoomSmall(4096); err != nil {
		t.Fatalf("a small record is refused above half of the reserve: %v", err)
	}
	if err := w.Cancel(); err != nil {
		t.Fatalf("removing must always work: %v", err)
	}
}

func TestExpireScratch(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, blob.Options{})
	for _, id := range []string{"old", "open", "new"} {
		w, err := d.Create(id)
		if err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(id))
		w.Close()
	}
	past := time.Now().Add(-time.Hour)
	for _, id := range []string{"old", "open"} {
		if err := os.Chtimes(filepath.Join(dir, "scratch", "u-"+id), past, past); err != nil {
			t.Fatal(err)
		}
	}
	w, err := d.Resume("open")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if n, err := d.ExpireScratch(past.Add(time.Minute)); n != 1 || err != nil {
		t.Fatalf("ExpireScratch: %d, %v", n, err)
	}
	list, _ := d.Scratches()
	if len(list) != 2 || list[0].ID != "new" || list[1].ID != "open" {
		t.Fatalf("left: %v", list)
	}
}

func TestAnonymousScratchEndsWithTheProcess(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, blob.Options{})
	w, _ := d.Create("")
	w.Write([]byte("x"))
	open(t, dir, blob.Options{})
	if list, err := os.ReadDir(filepath.Join(dir, "scratch")); len(list) != 0 || err != nil {
		t.Fatalf("left: %v, %v", list, err)
	}
	w.Close()
}

// Many writers of few digests, and a sweeper that removes everything unheld: each writer finds its blob until it
// releases it.
func TestHoldsAgainstASweeper(t *testing.T) {
	d := open(t, t.TempDir(), blob.Options{})
	stop := make(chan struct{})
	var sweeper, writers sync.WaitGroup
	sweeper.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			for i := range 4 {
				if _, err := d.Sweep(sha([]byte{byte(i)}), always); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for g := range 8 {
		writers.Go(func() {
			for i := range 40 {
				w, err := d.Create("")
				if err != nil {
					t.Error(err)
					return
				}
				w.Write([]byte{byte((g + i) % 4)})
				digest, _, err := w.Place("")
				if err != nil {
					t.Error(err)
				} else if err := d.Verify(context.Background(), digest); err != nil {
					t.Errorf("held, and gone: %v", err)
				}
				w.Done()
			}
		})
	}
	writers.Wait()
	close(stop)
	sweeper.Wait()
}

// After a power cut at any change, every placed blob is whole, and every file under a digest has that digest.
func TestPowerCut(t *testing.T) {
	for seed := range uint64(400) {
		f := blobtest.New(seed)
		r := rand.New(rand.NewPCG(seed, 2))
		f.CutAfter(r.IntN(250))
		placed := map[string]bool{}
		for boot := 0; boot < 3; boot++ {
			d, err := blob.Open("/blobs", blob.Options{FS: f})
			for i := 0; err == nil && i < 20; i++ {
				var w *blob.Writer
				id := []string{"", "a", "b"}[r.IntN(3)]
				if w, err = d.Create(id); err != nil {
					break
				}
				for range r.IntN(3) + 1 {
					chunk := make([]byte, r.IntN(2000))
					for i := range chunk {
						chunk[i] = byte(r.Uint32())
					}
					w.Write(chunk)
				}
				var digest string
				if digest, _, err = w.Place(""); err == nil {
					placed[digest] = true
					if r.IntN(2) == 0 {
						w.Done()
					}
				}
				w.Close()
			}
			if err != nil && !errors.Is(err, blobtest.ErrOff) {
				t.Fatalf("seed %d: %v", seed, err)
			}
			f = f.Reboot()
			d = open(t, "/blobs", blob.Options{FS: f})
			for digest := range placed {
				if err := d.Verify(context.Background(), digest); err != nil {
					t.Fatalf("seed %d boot %d: placed, and now: %v", seed, boot, err)
				}
			}
			for e, err := range d.Scan() {
				if err == nil {
					err = d.Verify(context.Background(), e.Digest)
				}
				if err != nil {
					t.Fatalf("seed %d boot %d: half a blob is visible: %v", seed, boot, err)
				}
			}
			f.CutAfter(r.IntN(150))
		}
	}
}

// Faults come in pairs: the n-th sync fails, and has happened or not. What Place said to be there is there after a
// power cut.
func TestSyncFaults(t *testing.T) {
	for seed := range uint64(200) {
		f := blobtest.New(seed)
		d := open(t, "/blobs", blob.Options{FS: f})
		n := int(seed % 12)
		f.Fault(func(op, _ string) (error, bool) {
			if op != "sync" && op != "syncdir" && op != "rename" {
				return nil, false
			}
			n--
			if n == 0 {
				return syscall.EIO, seed%2 == 0
			}
			return nil, false
		})
		var placed []string
		failed := 0
		for i := range 4 {
			w, err := d.Create("up")
			if err != nil {
				t.Fatal(err)
			}
			w.Write(random(3000 + i))
			digest, _, err := w.Place("")
			if err != nil {
				failed++
				if !errors.Is(err, syscall.EIO) {
					t.Fatalf("seed %d: %v", seed, err)
				}
				digest, _, err = w.Place("") // at once again: true, or refused
				if err != nil && !errors.Is(err, fs.ErrClosed) {
					t.Fatalf("seed %d: again: %v", seed, err)
				}
			}
			if err == nil {
				placed = append(placed, digest)
				w.Done()
			}
			w.Close()
		}
		if failed > 1 {
			t.Fatalf("seed %d: %d failed by one fault", seed, failed)
		}
		d = open(t, "/blobs", blob.Options{FS: f.Reboot()})
		for _, digest := range placed {
			if err := d.Verify(context.Background(), digest); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
	}
}

// While everything is held, the files that are found stay, whatever the sweeper had begun before; afterwards they are
// removed.
func TestHoldAllAgainstASweeper(t *testing.T) {
	d := open(t, t.TempDir(), blob.Options{})
	for i := range 50 {
		digest := place(t, d, []byte{byte(i)})
		var sweeper sync.WaitGroup
		sweeper.Go(func() {
			if _, err := d.Sweep(digest, always); err != nil {
				t.Error(err)
			}
		})
		release, again := d.HoldAll(), d.HoldAll()
		_, before := d.Stat(digest)
		if swept, err := d.Sweep(digest, always); swept || err != nil || !d.Held(digest) {
			t.Errorf("swept %v, %v", swept, err)
		}
		sweeper.Wait()
		if _, after := d.Stat(digest); (before == nil) != (after == nil) {
			t.Errorf("there before: %v, after: %v", before, after)
		}
		release()
		release()
		if !d.Held(digest) {
			t.Error("the second hold ended with the first")
		}
		again()
		if _, err := d.Sweep(digest, always); err != nil || d.Held(digest) {
			t.Error(err)
		}
		if _, err := d.Stat(digest); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("still there: %v", err)
		}
	}
}

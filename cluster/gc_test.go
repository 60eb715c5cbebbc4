package cluster

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
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"casemate/cluster/state"
)

// Promise 6: collections run all the time, pins end at once (the clock is hours ahead for them), and writers push,
// link, read and remove the same few blobs. No acknowledged name ever loses its bytes, and no Commit is lost. In the
// end no unnamed blob is left.
func TestPromise6CollectionsAgainstWriters(t *testing.T) {
	t.Parallel()
	c := start(t, testConfig(t, t.TempDir()))
	ctx := context.Background()
	stop := make(chan struct{})
	var collectors, writers sync.WaitGroup
	var rounds, gone atomic.Int64
	collectors.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			// What no clock of a real cluster does: every pin ends the moment it is made.
			if _, err := c.propose(ctx, &state.Expire{Now: time.Now().Add(100 * time.Hour).UnixNano()}); err != nil {
				t.Errorf("expire: %v", err)
			}
			r, err := c.GC(ctx, false)
			if err != nil {
				t.Errorf("GC: %v", err)
				return
			}
			rounds.Add(1)
			gone.Add(int64(r.Removed))
		}
	})
	for g := range 6 {
		writers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 6))
			name := fmt.Sprintf("w/%d", g)
			for i := 0; i < 60; {
				data := fmt.Appendf(nil, "content %d", r.IntN(4))
				d := push(t, c.Tree(), data)
				err := c.Tree().Update(ctx, func(b Batch) error { b.Link(name, d); return nil })
				if errors.Is(err, fs.ErrNotExist) {
					continue // its pin had ended and it was collected: push again, as the contract says
				}
				if err != nil {
					t.Error(err)
					return
				}
				i++
				if got, err := c.Tree().ReadFile(name); !bytes.Equal(got, data) {
					t.Errorf("linked %q and read %q, %v", data, got, err)
					return
				}
				if r.IntN(2) == 0 {
					f, err := c.Tree().OpenBlob(ctx, d)
					if err != nil {
						t.Errorf("linked, and OpenBlob: %v", err)
						return
					}
					update(t, c.Tree(), func(b Batch) { b.Remove(name) })
					got, err := io.ReadAll(f) // a pull that has begun goes on
					f.Close()
					if !bytes.Equal(got, data) {
						t.Errorf("an open blob gave %q, %v", got, err)
					}
				}
			}
			update(t, c.Tree(), func(b Batch) { b.Remove(name) })
		})
	}
	writers.Wait()
	close(stop)
	collectors.Wait()
	if rounds.Load() == 0 || gone.Load() == 0 {
		t.Fatalf("nothing was raced: %d rounds, %d files", rounds.Load(), gone.Load())
	}
	if _, err := c.propose(ctx, &state.Expire{Now: time.Now().Add(100 * time.Hour).UnixNano()}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.GC(ctx, false); err != nil {
		t.Fatal(err)
	}
	for e, err := range c.blobs.Scan() {
		t.Errorf("left on disk: %v, %v", e, err)
	}
	if s := c.Status(); s.Blobs != 0 || s.Bytes != 0 {
		t.Errorf("left in the state: %d blobs, %d bytes", s.Blobs, s.Bytes)
	}
}

// Promise 6: a confirmation that is older than the newest collect does not count. Commit then looks again and comes
// through by itself.
func TestPromise6OldConfirmation(t *testing.T) {
	clock := new(clock)
	c := start(t, clock.config(testConfig(t, t.TempDir())))
	d := push(t, c.Tree(), []byte("x"))
	digest, _ := state.ParseDigest(d)
	confirmed, err := c.replica.Confirm(d)
	if err != nil {
		t.Fatal(err)
	}
	clock.forward(2 * time.Hour)
	if r, err := c.GC(context.Background(), false); err != nil || r.Blobs != 1 || r.Removed != 1 {
		t.Fatalf("GC: %+v, %v", r, err)
	}
	_, err = c.propose(context.Background(), &state.AddBlob{Digest: digest, Size: 1, Confirmed: confirmed})
	if !errors.Is(err, state.ErrCollected) {
		t.Fatalf("AddBlob confirmed before the collect: %v", err)
	}
	if _, err := c.Tree().StatBlob(d); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("bytes that are gone have a name: %v", err)
	}
	push(t, c.Tree(), []byte("x"))
}

// Promise 6: a sweep that is late finds the same bytes pushed again, or confirmed for a push that is under way, and
// leaves them alone, whatever the collect had said that asked for it.
func TestPromise6SweepLooksAtTheNewestState(t *testing.T) {
	c := start(t, testConfig(t, t.TempDir()))
	d, err := state.ParseDigest(push(t, c.Tree(), []byte("pushed, collected, pushed again")))
	if err != nil {
		t.Fatal(err)
	}
	c.replica.Collected([]state.Digest{d}, c.machine.view.Load().Index())
	if files, _, err := c.replica.Sweep([]state.Digest{d}); files != 0 || err != nil {
		t.Errorf("what is known again was swept: %d files, %v", files, err)
	}
	if _, err := c.blobs.Stat(d.String()); err != nil {
		t.Error(err)
	}
	// Not known, but confirmed after the collect.
	text, index, err := c.TakeCopy([]byte("confirmed"))
	if err != nil {
		t.Fatal(err)
	}
	d, _ = state.ParseDigest(text)
	c.replica.Collected([]state.Digest{d}, index)
	if _, err := c.replica.Confirm(text); err != nil {
		t.Fatal(err)
	}
	if files, _, err := c.replica.Sweep([]state.Digest{d}); files != 0 || err != nil {
		t.Errorf("what was confirmed was swept: %d files, %v", files, err)
	}
	// Entries that were not requested since are removed.
	c.replica.Collected([]state.Digest{d}, index)
	if files, _, err := c.replica.Sweep([]state.Digest{d}); files != 1 || err != nil {
		t.Errorf("what is due was not swept: %d files, %v", files, err)
	}
}

func TestGCReport(t *testing.T) {
	clock := new(clock)
	cfg := clock.config(testConfig(t, t.TempDir()))
	c := start(t, cfg)
	kept := push(t, c.Tree(), []byte("kept"))
	push(t, c.Tree(), []byte("loose!"))
	weak := push(t, c.Tree(), []byte("weak"))
	update(t, c.Tree(), func(b Batch) { b.Link("kept", kept); b.LinkWeak("weak", weak) })
	// A file that the tree does not know, as a crash between the rename and the log leaves it.
	w, err := c.blobs.Create("")
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("orphan"))
	if _, _, err := w.Place(""); err != nil {
		t.Fatal(err)
	}
	old, err := c.Tree().CreateBlob("forgotten")
	if err != nil {
		t.Fatal(err)
	}
	old.Close()
	dry, err := c.GC(context.Background(), true)
	if err != nil || dry.Blobs != 0 || dry.Orphans != 0 {
		t.Fatalf("pinned or held, and to be collected: %+v, %v", dry, err)
	}
	w.Close()
	clock.forward(48 * time.Hour)
	watch := c.Tree().Watch(t.Context(), "weak")
	before := snapshotBytes(t, c.machine.view.Load())
	dry, err = c.GC(context.Background(), true)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, snapshotBytes(t, c.machine.view.Load())) {
		t.Error("a dry run has changed the tree")
	}
	if n := len(files(t, filepath.Join(cfg.Dir, "blobs"))); n != 5 {
		t.Errorf("a dry run left %d of 5 files", n)
	}
	wet, err := c.GC(context.Background(), false)
	if err != nil {
		t.Fatal(err)
	}
	if wet.Pins != 3 || wet.Blobs != 2 || wet.Orphans != 1 || wet.Removed != 3 || wet.RemovedBytes != 16 ||
		wet.Scratch != 1 || wet.WeakLinks != 1 {
		t.Errorf("GC: %+v", wet)
	}
	if dry.Pins != wet.Pins || dry.Blobs != wet.Blobs || dry.Orphans != wet.Orphans || dry.Removed != wet.Removed ||
		dry.RemovedBytes != wet.RemovedBytes {
		t.Errorf("the dry run said %+v, the real one %+v", dry, wet)
	}
	if n := len(files(t, filepath.Join(cfg.Dir, "blobs"))); n != 1 {
		t.Errorf("%d files left, not 1", n)
	}
	select {
	case <-watch:
	default:
		t.Error("who watched the weak link was not told that it is gone")
	}
	again, err := c.GC(context.Background(), false)
	if err != nil || again.Blobs+again.Orphans+again.Removed+again.Pins+again.WeakLinks != 0 {
		t.Errorf("a second GC: %+v, %v", again, err)
	}
}

func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestScrub(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	c := start(t, cfg)
	good, bad, lost := push(t, c.Tree(), []byte("good")), push(t, c.Tree(), []byte("bad")),
		push(t, c.Tree(), []byte("lost"))
	path := func(d string) string { return filepath.Join(cfg.Dir, "blobs", "sha256", d[7:9], d[7:]) }
	if err := os.WriteFile(path(bad), []byte("bat"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path(lost)); err != nil {
		t.Fatal(err)
	}
	r, err := c.Scrub(context.Background())
	if err != nil || r.Blobs != 3 || r.Faults != 2 || !slices.Equal(r.Damaged, []string{bad}) ||
		!slices.Equal(r.Missing, []string{lost}) {
		t.Fatalf("Scrub: %+v, %v", r, err)
	}
	_, err = c.Tree().OpenBlob(context.Background(), lost)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a lost blob looks like a miss: %v", err)
	}
	for _, data := range []string{"bad", "lost"} { // pushed again: repaired
		push(t, c.Tree(), []byte(data))
	}
	if r, err = c.Scrub(context.Background()); err != nil || r.Faults != 0 {
		t.Fatalf("Scrub after the repair: %+v, %v", r, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Scrub(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Scrub that was canceled: %v", err)
	}
	_ = good
}

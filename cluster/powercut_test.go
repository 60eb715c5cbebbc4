package cluster

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"casemate/cluster/blob/blobtest"
)

var seeds = flag.Int("seeds", 4, "how many histories the power cut tests play")

// quiet is a configuration on a file system that loses power, with everything small so that segments roll over and
// snapshots matter.
func powerConfig(f *blobtest.FS) Config {
	return Config{
		Dir: "/data/casemate", Node: "n1", FS: f, Log: slog.New(slog.DiscardHandler), LeaderWait: time.Minute,
		SegmentSize: 32 << 10, snapshots: 40, entrySize: 2 << 10,
	}
}

// history is what a test has written: for each pair of names the value that was acknowledged and those that may or may
// not have happened since.
type history struct {
	mu    sync.Mutex
	acked map[string]string
	maybe map[string][]string
}

func (h *history) begin(name, value string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.maybe[name] = append(h.maybe[name], value)
}

func (h *history) ack(name, value string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acked[name], h.maybe[name] = value, nil
}

// write plays one writer until the power goes: blobs, links, records, removals, batches too large for one entry; always
// both names of a pair at once.
func (h *history) write(t *testing.T, c *Cluster, g int, seed uint64, cut *blobtest.FS) {
	r := rand.New(rand.NewPCG(seed, uint64(g)))
	tree := c.Tree()
	for i := 0; ; i++ {
		name := fmt.Sprintf("w%d/%d", g, r.IntN(8))
		value := ""
		var err error
		switch r.IntN(5) {
		case 4:
			value = fmt.Sprintf("blob of a group %d %d %d", seed, g, i)
			var digests []string
			if digests, err = commitGroup(tree, value, 2+r.IntN(8)); err != nil {
				break
			}
			h.begin(name, value)
			err = tree.Update(context.Background(), func(b Batch) error {
				b.Link(name+"/a", digests[0])
				b.Link(name+"/b", digests[0])
				for j, d := range digests[1:] {
					b.Link(fmt.Sprintf("fill%d/%d", g, j), d)
				}
				return nil
			})
		case 0:
			h.begin(name, "")
			err = tree.Update(context.Background(), func(b Batch) error { b.Remove(name); return nil })
		case 1:
			value = fmt.Sprintf("record %d %d %d", seed, g, i)
			h.begin(name, value)
			err = tree.Update(context.Background(), func(b Batch) error {
				b.Put(name+"/a", []byte(value))
				for j := range r.IntN(60) { // sometimes more than an entry takes
					b.Put(fmt.Sprintf("fill%d/%d", g, j), bytes.Repeat([]byte("x"), 100))
				}
				b.Put(name+"/b", []byte(value))
				return nil
			})
		default:
			value = fmt.Sprintf("blob %d %d %d ", seed, g, i)
			value += string(bytes.Repeat([]byte("y"), r.IntN(3000)))
			var w BlobWriter
			if w, err = tree.CreateBlob([]string{"", fmt.Sprint("up", g)}[r.IntN(2)]); err != nil {
				break
			}
			if _, err = io.WriteString(w, value); err != nil {
				w.Close()
				break
			}
			var d string
			d, err = w.Commit(context.Background(), "")
			w.Close()
			if err != nil {
				break
			}
			h.begin(name, value)
			err = tree.Update(context.Background(), func(b Batch) error {
				b.Link(name+"/a", d)
				b.Link(name+"/b", d)
				return nil
			})
		}
		if err != nil {
			if !cut.Off() {
				t.Errorf("seed %d: refused although the power is on: %v", seed, err)
			}
			return
		}
		h.ack(name, value)
	}
}

// commitGroup commits blobs together, of which the first is value.
func commitGroup(tree *Tree, value string, n int) (digests []string, err error) {
	var ws []BlobWriter
	defer func() {
		for _, w := range ws {
			err = errors.Join(err, w.Close())
		}
	}()
	for i := range n {
		w, err := tree.CreateBlob("")
		if err != nil {
			return nil, err
		}
		ws = append(ws, w)
		if _, err := io.WriteString(w, value+strings.Repeat(".", i)); err != nil {
			return nil, err
		}
	}
	return tree.CommitBlobs(context.Background(), ws, make([]string, n))
}

// check compares a tree with the history, and takes what it finds as acknowledged.
func (h *history) check(t *testing.T, c *Cluster, what string) {
	t.Helper()
	tree := c.Tree()
	for g := range 3 {
		for n := range 8 {
			name := fmt.Sprintf("w%d/%d", g, n)
			a, err := tree.ReadFile(name + "/a")
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %s: %v", what, name, err)
			}
			b, err := tree.ReadFile(name + "/b")
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %s: %v", what, name, err)
			}
			if !bytes.Equal(a, b) {
				t.Errorf("%s: %s: half a batch: %.40q and %.40q", what, name, a, b)
			}
			ok := string(a) == h.acked[name]
			for _, m := range h.maybe[name] {
				ok = ok || string(a) == m
			}
			if !ok {
				t.Errorf("%s: %s is %.40q, acknowledged was %.40q, under way %.100q", what, name, a, h.acked[name],
					h.maybe[name])
			}
			h.acked[name], h.maybe[name] = string(a), nil
		}
	}
	r, err := c.Scrub(context.Background())
	if err != nil || r.Faults != 0 {
		t.Errorf("%s: scrub: %+v, %v", what, r, err)
	}
}

// Promises 1, 5, 7 and 9 through power cuts: the power goes at a random change of the disk, unsynced bytes and names
// are lost, kept or torn. Whatever was acknowledged is there afterwards, nothing half-written is visible, and the node
// always starts again.
func TestPowerCuts(t *testing.T) {
	for seed := range uint64(*seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 0))
			f := blobtest.New(seed)
			h := &history{acked: map[string]string{}, maybe: map[string][]string{}}
			if err := Bootstrap(powerConfig(f)); err != nil {
				t.Fatal(err)
			}
			for boot := range 4 {
				f.CutAfter(1 + r.IntN(1500)*r.IntN(4)/3)
				c, err := Open(powerConfig(f))
				if err != nil && !f.Off() {
					t.Fatalf("boot %d: Open: %v", boot, err)
				}
				if err == nil {
					var all sync.WaitGroup
					for g := range 3 {
						all.Go(func() { h.write(t, c, g, seed*100+uint64(boot), f) })
					}
					all.Go(func() {
						for !f.Off() {
							if err := c.raft.Snapshot().Error(); err != nil && f.Off() {
								return
							}
							if _, err := c.GC(context.Background(), false); err != nil && !f.Off() {
								t.Errorf("GC: %v", err)
								return
							}
						}
					})
					all.Wait()
					c.Close() // its errors are the power's
				}
				f = f.Reboot()
				c, err = Open(powerConfig(f))
				if err != nil {
					t.Fatalf("boot %d: Open after the cut: %v", boot, err)
				}
				// from here on all that the log has is applied
				update(t, c.Tree(), func(b Batch) { b.Put("barrier", nil) })
				h.check(t, c, fmt.Sprintf("boot %d", boot))
				if boot%2 == 0 {
					c.Close()
				} else { // a clean stop is a power cut too, to the disk
					f2 := f.Reboot()
					c.Close()
					f = f2
				}
			}
		})
	}
}

func TestPowerCutInBootstrap(t *testing.T) {
	t.Parallel()
	for n := 0; ; n++ {
		f := blobtest.New(uint64(n))
		f.CutAfter(n)
		err := Bootstrap(powerConfig(f))
		done := !f.Off()
		if done != (err == nil) {
			t.Fatalf("cut after %d: %v", n, err)
		}
		f = f.Reboot()
		if err != nil {
			if err := Bootstrap(powerConfig(f)); err != nil && err.Error() != "init: data directory /data/casemate: "+
				"already initialised, start it with `casemate serve`" {
				t.Fatalf("cut after %d, again: %v", n, err)
			}
		}
		c, err := Open(powerConfig(f))
		if err != nil {
			t.Fatalf("cut after %d: %v", n, err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if done {
			return
		}
	}
}

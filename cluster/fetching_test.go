package cluster_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"casemate/cluster"
	"casemate/cluster/clustertest"
)

// plant puts n blobs of one size on the disks of some nodes, and makes them known in this order.
func plant(t *testing.T, at []*clustertest.Node, n, size int, seed uint64) (digests []string) {
	t.Helper()
	base := noise(size, seed)
	digests = make([]string, n)
	var all sync.WaitGroup
	for _, node := range at {
		all.Go(func() {
			data := slices.Clone(base)
			for i := range n {
				binary.LittleEndian.PutUint32(data, uint32(i))
				d, _, err := node.C.TakeCopy(data)
				if err != nil {
					t.Error(err)
					return
				}
				if node == at[0] {
					digests[i] = d
				}
			}
		})
	}
	all.Wait()
	for _, d := range digests {
		if n > 1000 {
			break
		}
		know(t, at[0], []string{d}, size) // each born at an index of its own
	}
	if n > 1000 {
		know(t, at[0], digests, size)
	}
	return digests
}

func know(t *testing.T, n *clustertest.Node, digests []string, size int) {
	t.Helper()
	if err := n.C.Know(context.Background(), digests, int64(size)); err != nil {
		t.Fatal(err)
	}
}

func fileOf(digest string) string {
	return "/data/casemate/blobs/sha256/" + digest[7:9] + "/" + digest[7:]
}

// untilWhole waits for a node to have everything, as long as it gets on.
func untilWhole(cl *clustertest.Cluster, n *clustertest.Node) {
	cl.T.Helper()
	untilMissing(cl, n, 0)
	if r, err := n.C.Scrub(context.Background()); err != nil || r.Faults > 0 {
		cl.T.Errorf("%s: %+v, %v", n.Name, r, err)
	}
}

func untilMissing(cl *clustertest.Cluster, n *clustertest.Node, most int) {
	cl.T.Helper()
	for last := int(^uint(0) >> 1); last > most; {
		cl.Wait(func() error {
			if now := n.C.Missing(); now < 0 || now >= last {
				return fmt.Errorf("it lacks %d", now)
			} else {
				last = now
			}
			return nil
		})
	}
}

// arrivals are the blobs that came to a disk, in their order, and how often a fetch of each was begun from nothing.
type arrivals struct {
	mu    sync.Mutex
	order []string
	begun map[string]int
}

func watchArrivals(n *clustertest.Node) *arrivals {
	a := &arrivals{begun: map[string]int{}}
	n.FS.Fault(func(op, name string) (error, bool) {
		a.mu.Lock()
		defer a.mu.Unlock()
		switch {
		case op == "rename" && strings.Contains(name, "/blobs/sha256/"):
			a.order = append(a.order, "sha256:"+path.Base(name))
		case op == "create" && strings.Contains(name, "/scratch/u-fetch-sha256-"):
			a.begun["sha256:"+name[strings.LastIndex(name, "-")+1:]]++
		}
		return nil, false
	})
	return a
}

func (a *arrivals) list() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.order)
}

func (a *arrivals) tries(digest string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.begun[digest]
}

const nearlyFull = 64 << 20

// full starts a node whose disk is at its reserve, so that it hears of everything and fetches nothing.
func full(cl *clustertest.Cluster, n *clustertest.Node, missing int) *arrivals {
	cl.T.Helper()
	n.FS.SetFree(nearlyFull - 1)
	a := watchArrivals(n)
	n.Start()
	cl.Wait(func() error {
		if got := n.C.Missing(); got != missing {
			return fmt.Errorf("it lacks %d of %d", got, missing)
		}
		return nil
	})
	return a
}

func reserve(c *cluster.Config) { c.Reserve = nearlyFull }

// others are all nodes but one.
func others(cl *clustertest.Cluster, n *clustertest.Node) (list []*clustertest.Node) {
	for _, o := range cl.Nodes {
		if o != n {
			list = append(list, o)
		}
	}
	return list
}

// A node that joins is missing 3 000 tiny blobs (50 000 in a long run), and one of the nodes that have them is down. It
// becomes a voter when it has all.
func TestManyToCome(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, func(c *cluster.Config) { c.Log = slog.New(slog.DiscardHandler) })
		down := cl.Followers()[0]
		down.Stop()
		n := 3_000
		if os.Getenv("CASEMATE_SOAK") != "" {
			n = 50_000
		}
		digests := plant(t, others(cl, down), n, 8, 1)
		late := cl.Join()
		cl.Wait(func() error {
			if !late.C.Knows(digests[n-1]) {
				return fmt.Errorf("it has heard of the log up to %d", late.C.Index())
			}
			return nil
		})
		untilMissing(cl, late, 0)
		cl.WaitVoters(4)
		have, err := late.C.OnDisk()
		if err != nil || len(have) < n {
			t.Fatalf("it votes with %d blobs, %v", len(have), err)
		}
		for _, d := range digests {
			if !late.C.HasFile(d) {
				t.Fatalf("it votes without %s", d)
			}
		}
	})
}

// A full disk fetches nothing, and tries nothing. When there is room, the newest come first.
func TestNewestFirst(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, reserve)
		late := cl.Followers()[0]
		late.Stop()
		digests := plant(t, others(cl, late), 300, 1000, 2)
		a := full(cl, late, len(digests))
		if err := late.Put("meanwhile", "x"); err != nil { // what goes on wakes it up
			t.Fatal(err)
		}
		for _, d := range digests {
			if a.tries(d) > 0 || late.C.Fetching(d) {
				t.Fatal("it fetches although its disk is full")
			}
		}
		late.FS.SetFree(1 << 40)
		untilWhole(cl, late)
		for at, d := range a.list() {
			if age := len(digests) - 1 - slices.Index(digests, d); age >= at+cluster.FillTurns {
				t.Errorf("the %d. to come is the %d. newest", at, age)
			}
			if n := a.tries(d); n != 1 {
				t.Errorf("%s was fetched %d times", d, n)
			}
		}
	})
}

// A blob that a client reads is fetched before all missing ones, by one fetch for all its readers.
func TestReadersFirst(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, func(c *cluster.Config) { reserve(c); c.CatchUp = 1 << 10 }) // all would take hours
		late := cl.Followers()[0]
		late.Stop()
		digests := plant(t, others(cl, late), 300, 64<<10, 3)
		a := full(cl, late, len(digests))
		late.FS.SetFree(1 << 40)
		cl.Wait(func() error {
			if len(a.list()) == 0 {
				return errors.New("it fetches nothing")
			}
			return nil
		})
		var readers sync.WaitGroup
		for range 16 {
			readers.Go(func() {
				r, err := late.C.Tree().OpenBlob(context.Background(), digests[0])
				if err != nil {
					t.Error(err)
					return
				}
				defer r.Close()
				if got, err := io.ReadAll(r); err != nil || digestOf(got) != digests[0] {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			})
		}
		readers.Wait()
		if n := a.tries(digests[0]); n != 1 {
			t.Errorf("it was fetched %d times", n)
		}
		if have := a.list(); len(have) > len(digests)/2 || late.C.Missing() < len(digests)/2 {
			t.Errorf("%d others came first", len(have))
		}
	})
}

// Some copies are damaged, each at one of the two nodes, and some blobs have no copy. The intact ones arrive
// nevertheless, and the rest when a copy exists.
func TestDamagedCopies(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, reserve)
		late := cl.Followers()[0]
		late.Stop()
		have := others(cl, late)
		digests := plant(t, have, 300, 1000, 4)
		gone := digests[280:] // the newest
		for i, d := range digests {
			if i < 280 {
				if err := have[i%2].FS.Flip(fileOf(d), 500); err != nil {
					t.Fatal(err)
				}
				continue
			}
			for _, n := range have {
				if err := n.FS.Remove(fileOf(d)); err != nil {
					t.Fatal(err)
				}
			}
		}
		full(cl, late, len(digests))
		late.FS.SetFree(1 << 40)
		untilMissing(cl, late, len(gone))
		base := noise(1000, 4)
		for i := range gone {
			binary.LittleEndian.PutUint32(base, uint32(280+i))
			if _, _, err := have[i%2].C.TakeCopy(base); err != nil {
				t.Fatal(err)
			}
		}
		untilWhole(cl, late)
	})
}

// In the middle of it one node is cut off, and then this one loses its power.
func TestCutWhileFetching(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, func(c *cluster.Config) { reserve(c); c.CatchUp = 4 << 20 })
		late := cl.Followers()[0]
		late.Stop()
		have := others(cl, late)
		digests := plant(t, have, 1000, 100, 5)
		large := plant(t, have, 3, 4<<20, 6)
		full(cl, late, len(digests)+len(large))
		cl.Net.Slow(late.Name, have[0].Name, 1e6)
		cl.Net.Slow(late.Name, have[1].Name, 1e6)
		late.FS.SetFree(1 << 40)
		untilMissing(cl, late, 800)
		cl.Net.Cut([]string{late.Name}, []string{have[0].Name})
		untilMissing(cl, late, 400)
		late.PowerCut()
		late.Start()
		cl.Wait(func() error {
			if n := late.C.Missing(); n < len(large) {
				return fmt.Errorf("it lacks %d", n)
			}
			return nil
		})
		cl.Net.Heal()
		untilWhole(cl, late)
		// No fetch has left anything behind.
		cl.Wait(func() error {
			list, err := late.FS.ReadDir("/data/casemate/blobs/scratch")
			if errors.Is(err, fs.ErrNotExist) || err == nil && len(list) == 0 {
				return nil
			}
			return fmt.Errorf("%d scratch files, %v", len(list), err)
		})
	})
}

package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"casemate/cluster/clustertest"
)

// Promise 12: damaged blobs are detected, are not served, and are repaired by any write of their bytes.

func blobFile(digest string) string {
	return "/data/casemate/blobs/sha256/" + digest[7:9] + "/" + digest[7:]
}

// overwrite changes a byte of a blob on a node's disk, as a program would.
func overwrite(t *testing.T, n *clustertest.Node, digest string, off int64) {
	t.Helper()
	f, err := n.FS.OpenFile(blobFile(digest), os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt([]byte{0x55, 0xaa}, off)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// held are blobs of all sizes that matter, each with a name.
func held(t *testing.T, n *clustertest.Node) map[string][]byte {
	t.Helper()
	blobs := map[string][]byte{}
	for i, size := range []int{100, 70_000, 600_000} {
		data := noise(size, uint64(i+1))
		var digest string
		clustertest.Wait(t, func() (err error) {
			if digest, err = n.Push(data); err == nil {
				err = n.Link(fmt.Sprint("name", i), digest)
			}
			return err
		})
		blobs[digest] = data
	}
	return blobs
}

// settled is an error other than that a node does not answer now, as where the machine has much else to do.
func settled(cl *clustertest.Cluster, do func() error) (err error) {
	cl.T.Helper()
	cl.Wait(func() error {
		if err = do(); errors.Is(err, syscall.EAGAIN) {
			return err
		}
		return nil
	})
	return err
}

func get(n *clustertest.Node, digest string) ([]byte, error) {
	f, err := n.C.Tree().OpenBlob(context.Background(), digest)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// whole waits until a node has all of them on its disk, verified, and none is known to be lost.
func whole(cl *clustertest.Cluster, n *clustertest.Node, blobs map[string][]byte) {
	cl.T.Helper()
	cl.Wait(func() error {
		if list, all := n.C.Lost(10); all != 0 || n.C.Missing() != 0 {
			return fmt.Errorf("%s: lost %v, lacks %d", n.Name, list, n.C.Missing())
		}
		return nil
	})
	if r, err := n.C.Scrub(context.Background()); err != nil || r.Faults != 0 || r.Blobs < len(blobs) {
		cl.T.Errorf("%s: %+v, %v", n.Name, r, err)
	}
	for digest, data := range blobs {
		if got, err := get(n, digest); err != nil || !bytes.Equal(got, data) || !n.C.HasFile(digest) {
			cl.T.Errorf("%s: %s: %d bytes, %v", n.Name, digest, len(got), err)
		}
	}
}

func TestDamagedOnTheOnlyNode(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 1, nil)
		n := cl.Nodes[0]
		blobs := held(t, n)
		for digest := range blobs {
			overwrite(t, n, digest, 50)
		}
		check := func(when string) {
			t.Helper()
			for digest, data := range blobs {
				_, err := get(n, digest)
				if !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "damaged on this node's disk") {
					t.Errorf("%s: OpenBlob: %v", when, err)
				}
				if _, err := n.C.Tree().HasBlob(context.Background(), digest); !errors.Is(err, syscall.EIO) {
					t.Errorf("%s: HasBlob: %v", when, err)
				}
				if size, err := n.C.Tree().StatBlob(digest); err != nil || size != int64(len(data)) {
					t.Errorf("%s: StatBlob: %d, %v", when, size, err)
				}
			}
			list, all := n.C.Lost(2)
			if all != len(blobs) || len(list) != 2 || !strings.Contains(list[0].Why, "have the digest") {
				t.Errorf("%s: lost: %v of %d", when, list, all)
			}
			cl.Wait(func() error {
				if n.C.Missing() < 0 {
					return errors.New("the node has not yet compared its disk with the state")
				}
				return nil
			})
			if n.C.Missing() != len(blobs) {
				t.Errorf("%s: lacks %d", when, n.C.Missing())
			}
		}
		check("at once")
		n.Stop()
		n.Start()
		check("after a restart")
		if r, err := n.C.Scrub(context.Background()); err != nil || len(r.Damaged) != len(blobs) {
			t.Errorf("Scrub: %+v, %v", r, err)
		}
		for _, data := range blobs {
			if _, err := n.Push(data); err != nil {
				t.Fatal(err)
			}
		}
		whole(cl, n, blobs)
		if s := n.C.ScrubStatus(); s.Repaired != uint64(len(blobs)) {
			t.Errorf("%+v", s)
		}
	})
}

// On one of three nodes clients do not notice it.
func TestDamagedOnOneOfThree(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		blobs := held(t, cl.Nodes[0])
		for _, n := range cl.Nodes {
			whole(cl, n, blobs)
		}
		n := cl.Followers()[0]
		for how, hurt := range map[string]func(digest string){
			"changed": func(digest string) { overwrite(t, n, digest, 50) },
			"removed": func(digest string) {
				if err := n.FS.Remove(blobFile(digest)); err != nil {
					t.Fatal(err)
				}
			},
			"longer": func(digest string) { overwrite(t, n, digest, int64(len(blobs[digest]))) },
		} {
			for digest, data := range blobs {
				hurt(digest)
				if err := settled(cl, func() error {
					_, err := n.C.Tree().HasBlob(t.Context(), digest)
					return err
				}); err != nil {
					t.Errorf("%s: HasBlob: %v", how, err)
				}
				var got []byte
				err := settled(cl, func() (err error) { got, err = get(n, digest); return err })
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s: %d bytes, %v", how, len(got), err)
				}
			}
			whole(cl, n, blobs)
		}
	})
}

// A node that sends wrong bytes without knowing it is told so and repairs its copy.
func TestDoubt(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		blobs := held(t, cl.Nodes[0])
		for _, n := range cl.Nodes {
			whole(cl, n, blobs)
		}
		rotten, without := cl.Followers()[0], cl.Followers()[1]
		third := cl.Leader()
		cl.Net.Cut([]string{without.Name}, []string{third.Name})
		cl.Wait(func() error {
			if without.C.Up(third.Name) {
				return errors.New("not cut yet")
			}
			return nil
		})
		for digest := range blobs {
			if err := errors.Join(rotten.FS.Flip(blobFile(digest), 40),
				without.FS.Remove(blobFile(digest))); err != nil {
				t.Fatal(err)
			}
			if got, err := get(without, digest); err == nil && !bytes.Equal(got, blobs[digest]) {
				t.Errorf("wrong bytes were taken for whole: %d bytes", len(got))
			}
		}
		cl.Wait(func() error {
			if s := rotten.C.ScrubStatus(); s.Repaired != uint64(len(blobs)) {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
		whole(cl, rotten, blobs)
		cl.Net.Heal()
		whole(cl, without, blobs)
	})
}

// On all three it is an error that says why, and a push at any of them repairs all.
func TestDamagedOnAll(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		blobs := held(t, cl.Nodes[0])
		for _, n := range cl.Nodes {
			whole(cl, n, blobs)
		}
		for _, n := range cl.Nodes {
			for digest := range blobs {
				overwrite(t, n, digest, 50)
			}
		}
		for _, n := range cl.Nodes {
			for digest := range blobs {
				if err := settled(cl, func() error { _, err := get(n, digest); return err }); !errors.Is(err,
					syscall.EIO) {
					t.Errorf("%s: %v", n.Name, err)
				}
				err := settled(cl, func() error { _, err := n.C.Tree().HasBlob(t.Context(), digest); return err })
				if !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "nor whole on another node") {
					t.Errorf("%s: HasBlob: %v", n.Name, err)
				}
			}
			if list, all := n.C.Lost(10); all != len(blobs) {
				t.Errorf("%s: lost: %v of %d", n.Name, list, all)
			}
		}
		for _, data := range blobs {
			if err := settled(cl, func() error { _, err := cl.Nodes[1].Push(data); return err }); err != nil {
				t.Fatal(err)
			}
		}
		for _, n := range cl.Nodes {
			whole(cl, n, blobs)
		}
	})
}

const month = 30 * 24 * time.Hour

// The background scrub reads exactly the blobs that are due, also after a restart, and finds damage that only reading
// can detect.
func TestPatrol(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 1, nil)
		n := cl.Nodes[0]
		blobs := held(t, n)
		reads := func(when string, blobs, faults int) {
			t.Helper()
			r, err := n.C.PatrolOnce(context.Background(), month)
			if err != nil || r.Blobs != blobs || r.Faults != faults {
				t.Errorf("%s: %+v, %v", when, r, err)
			}
			if s := n.C.ScrubStatus(); s.Due != 0 || s.Oldest.IsZero() {
				t.Errorf("%s: %+v", when, s)
			}
		}
		all := len(blobs)
		reads("just pushed", 0, 0)
		n.SetForward(month / 3)
		reads("after ten days", 0, 0)
		n.SetForward(month / 4)
		reads("after more than half of it", all, 0)
		reads("just read", 0, 0)
		n.Stop()
		n.Start()
		reads("after a restart", 0, 0)

		var rotten string
		for rotten = range blobs {
		}
		overwrite(t, n, rotten, 50)
		reads("one was changed", 1, 1)
		n.Stop()
		n.Start()
		reads("it still is", 1, 1)
		if _, err := n.Push(blobs[rotten]); err != nil {
			t.Fatal(err)
		}
		reads("and was pushed again", 0, 0)
		if err := n.FS.Flip(blobFile(rotten), 50); err != nil { // what the file's time does not tell
			t.Fatal(err)
		}
		reads("one has rotted", 0, 0)
		n.SetForward(2 * month / 3)
		reads("after half of the interval", all, 1)
		if _, err := get(n, rotten); !errors.Is(err, syscall.EIO) {
			t.Error(err)
		}
		if err := n.FS.Remove(blobFile(rotten)); err != nil {
			t.Fatal(err)
		}
		reads("one is gone", 1, 1)
		n.SetForward(-10 * month) // the clock was wrong
		reads("verified in the future", all, 1)
	})
}

// On three nodes the scrub repairs the damage that it finds.
func TestPatrolRepairs(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		blobs := held(t, cl.Nodes[0])
		for _, n := range cl.Nodes {
			whole(cl, n, blobs)
		}
		n := cl.Followers()[0]
		for digest := range blobs {
			if err := n.FS.Flip(blobFile(digest), 50); err != nil {
				t.Fatal(err)
			}
		}
		n.SetForward(month)
		r, err := n.C.PatrolOnce(context.Background(), month)
		if err != nil || r.Blobs != len(blobs) || r.Faults != len(blobs) {
			t.Errorf("%+v, %v", r, err)
		}
		whole(cl, n, blobs)
	})
}

// Patrol takes up another interval, does nothing without one, and ends with its context.
func TestPatrolOff(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 1, nil)
		n := cl.Nodes[0]
		blobs := held(t, n)
		n.SetForward(month)
		ctx, cancel := context.WithCancel(context.Background())
		asked := make(chan time.Duration)
		done := make(chan bool)
		go func() {
			defer close(done)
			n.C.Patrol(ctx, func() time.Duration { return <-asked })
		}()
		asked <- 0
		cancel()
		<-done
		if s := n.C.ScrubStatus(); s.Blobs != 0 {
			t.Errorf("it is off and reads: %+v", s)
		}
		ctx, cancel = context.WithCancel(context.Background())
		done = make(chan bool)
		go func() {
			defer close(done)
			n.C.Patrol(ctx, func() time.Duration { return month })
		}()
		cl.Wait(func() error {
			if s := n.C.ScrubStatus(); s.Blobs != uint64(len(blobs)) {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
		cancel()
		<-done
	})
}

// A manifest, which is read whole, is hashed each time.
func TestReadFileFindsRot(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		for _, nodes := range []int{1, 3} {
			cl := clustertest.New(t, nodes, nil)
			blobs := held(t, cl.Nodes[0])
			for _, n := range cl.Nodes {
				whole(cl, n, blobs)
			}
			n := cl.Nodes[0]
			for digest := range blobs {
				if err := n.FS.Flip(blobFile(digest), 50); err != nil {
					t.Fatal(err)
				}
			}
			for i := range len(blobs) {
				name := fmt.Sprint("name", i)
				digest, _, _, err := n.C.Tree().Look(name)
				if err != nil {
					t.Fatal(err)
				}
				var got []byte
				err = settled(cl, func() (err error) { got, err = n.C.Tree().ReadFile(name); return err })
				if nodes == 1 && !errors.Is(err, syscall.EIO) || nodes == 3 && !bytes.Equal(got, blobs[digest]) {
					t.Errorf("%d nodes: %d bytes, %v", nodes, len(got), err)
				}
			}
			if nodes == 3 {
				whole(cl, n, blobs)
			}
		}
	})
}

package cluster_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"

	"casemate/cluster"
	"casemate/cluster/clustertest"
)

func noise(n int, seed uint64) []byte {
	data := make([]byte, n)
	rand.NewChaCha8([32]byte(binary.BigEndian.AppendUint64(make([]byte, 24), seed))).Read(data)
	return data
}

// Three nodes: content that is written at any of them is on all, bytes and names.
func TestThreeNodes(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		for i, n := range cl.Nodes {
			if err := n.Put(fmt.Sprintf("record/%d", i), n.Name); err != nil {
				t.Fatalf("write at %s: %v", n.Name, err)
			}
			data := noise(3<<20+i, uint64(i))
			digest, err := n.Push(data)
			if err != nil {
				t.Fatalf("push at %s: %v", n.Name, err)
			}
			if err := n.Link(fmt.Sprintf("blob/%d", i), digest); err != nil {
				t.Fatal(err)
			}
			for _, other := range cl.Nodes {
				var got []byte
				read := func(name string) {
					cl.Wait(func() error { got, err = other.C.Tree().ReadFile(fmt.Sprintf(name, i)); return err })
				}
				if read("record/%d"); string(got) != n.Name {
					t.Errorf("written at %s, read at %s: %q", n.Name, other.Name, got)
				}
				if read("blob/%d"); !bytes.Equal(got, data) {
					t.Errorf("pushed at %s, read at %s: %d bytes", n.Name, other.Name, len(got))
				}
			}
		}
		cl.Wait(func() error {
			for _, n := range cl.Nodes {
				for _, m := range n.C.Members() {
					if m.Missing != 0 {
						return fmt.Errorf("%s says that %s lacks %d", n.Name, m.Node, m.Missing)
					}
				}
			}
			return nil
		})
	})
}

// The leader disappears, twice; writes continue at the others and nothing is lost.
func TestLeaderLost(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		digest, err := cl.Nodes[0].Push([]byte("bytes"))
		if err != nil {
			t.Fatal(err)
		}
		for round := range 3 {
			leader := cl.Leader()
			other := cl.Followers()[0]
			if err := leader.Put(fmt.Sprint("before", round), "x"); err != nil {
				t.Fatal(err)
			}
			leader.PowerCut()
			if err := other.Put(fmt.Sprint("after", round), "y"); err != nil {
				t.Fatalf("write after the leader was lost: %v", err)
			}
			if err := other.Link(fmt.Sprint("link", round), digest); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"before", "after", "link"} {
				if _, err := other.C.Tree().ReadFile(fmt.Sprint(name, round)); err != nil {
					t.Error(err)
				}
			}
			leader.Start()
			cl.WaitVoters(3)
			// A miss is confirmed, so that this is found at once; but on a busy machine that may take longer than
			// anybody waits for it.
			cl.Wait(func() error { _, err := leader.C.Tree().Stat(fmt.Sprint("after", round)); return err })
		}
	})
}

// Without a majority everything can be read, writes are refused, and nothing of them shows.
func TestMajorityLost(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, func(c *cluster.Config) { c.LeaderWait = 1e9 })
		if err := cl.Nodes[1].Put("there", "x"); err != nil {
			t.Fatal(err)
		}
		one := cl.Followers()[0]
		var rest []string
		for _, n := range cl.Nodes {
			if n != one {
				rest = append(rest, n.Name)
			}
		}
		cl.Net.Cut([]string{one.Name}, rest)
		if err := one.Put("refused", "x"); !errors.Is(err, syscall.EAGAIN) {
			t.Errorf("write without a majority: %v", err)
		}
		if _, err := one.Push([]byte("no majority")); !errors.Is(err, syscall.EAGAIN) {
			t.Errorf("push without a majority: %v", err)
		}
		if got, err := one.C.Tree().ReadFile("there"); err != nil || string(got) != "x" {
			t.Errorf("read without a majority: %q, %v", got, err)
		}
		if _, err := one.C.Tree().Stat("nothing"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("miss without a majority: %v", err)
		}
		var other *clustertest.Node
		for _, n := range cl.Nodes {
			if n != one {
				other = n
			}
		}
		if err := other.Put("majority", "y"); err != nil {
			t.Errorf("write on the side of the majority: %v", err)
		}
		cl.Net.Heal()
		cl.WaitVoters(3)
		cl.Wait(func() error {
			if got, err := one.C.Tree().ReadFile("majority"); err != nil || string(got) != "y" {
				return fmt.Errorf("after healing: %q, %w", got, err)
			}
			return nil
		})
	})
}

// A node that is missing a blob streams it from one that has it, and keeps it.
func TestPullThrough(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		// so that nothing comes by itself in time
		cl := clustertest.New(t, 3, func(c *cluster.Config) { c.CatchUp = 1 << 10 })
		one := cl.Followers()[0]
		one.Stop()
		data := noise(5<<20, 9)
		n := cl.Leader()
		digest, err := n.Push(data)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Link("late", digest); err != nil {
			t.Fatal(err)
		}
		one.Start()
		tree := one.C.Tree()
		cl.Wait(func() error { _, err := tree.StatBlob(digest); return err })
		// Many at once, whole and in part, are one fetch.
		var readers sync.WaitGroup
		for i := range 8 {
			readers.Go(func() {
				r, err := tree.OpenBlob(context.Background(), digest)
				if err != nil {
					t.Error(err)
					return
				}
				defer r.Close()
				from := int64(i) << 19
				for _, to := range []struct {
					offset int64
					whence int
				}{{0, io.SeekEnd}, {0, io.SeekStart}, {from, io.SeekStart}} { // as http.ServeContent does for a range
					if _, err := r.Seek(to.offset, to.whence); err != nil {
						t.Error(err)
					}
				}
				if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data[from:]) {
					t.Errorf("from %d: %d bytes, %v", from, len(got), err)
				}
			})
		}
		readers.Wait()
		cl.Wait(func() error {
			for _, m := range one.C.Members() {
				if m.Self && m.Missing != 0 {
					return fmt.Errorf("it lacks %d", m.Missing)
				}
			}
			return nil
		})
	})
}

// A removed node stays out permanently, and a new one joins under another name.
func TestReplaceNode(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		secret, err := cl.Nodes[0].C.Seal([]byte("secret"))
		if err != nil {
			t.Fatal(err)
		}
		if err := cl.Nodes[0].Put("sealed", string(secret)); err != nil {
			t.Fatal(err)
		}
		gone := cl.Followers()[0]
		gone.Stop()
		by := cl.Leader()
		cl.Wait(func() error { return by.C.RemoveMember(context.Background(), gone.Name, false) })
		if err := gone.TryStart(); err != nil {
			t.Fatal(err)
		}
		cl.Wait(func() error {
			select {
			case <-gone.C.Done():
				return nil
			default:
				return errors.New("the removed node goes on")
			}
		})
		t.Log(gone.C.Err())
		gone.PowerCut()
		cl.Join()
		cl.WaitVoters(3)
		for _, n := range cl.Nodes {
			if n.C == nil {
				continue
			}
			data, err := n.C.Tree().ReadFile("sealed")
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(data, secret) {
				t.Error("the secret was not sealed anew")
			}
			if plain, err := n.C.Unseal(data); err != nil || string(plain) != "secret" {
				t.Errorf("%s: %q, %v", n.Name, plain, err)
			}
		}
	})
}

// A node that sends wrong bytes is detected, no client accepts them as complete, and those of another node are used.
func TestWrongBytes(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, func(c *cluster.Config) { c.CatchUp, c.LeaderWait = 1<<10, 2e9 })
		one := cl.Followers()[0]
		one.Stop()
		data := noise(1<<20, 4)
		digest, err := cl.Leader().Push(data)
		if err != nil {
			t.Fatal(err)
		}
		if err := cl.Leader().Link("rotten", digest); err != nil {
			t.Fatal(err)
		}
		name := "/data/casemate/blobs/sha256/" + digest[7:9] + "/" + digest[7:]
		var have []*clustertest.Node
		for _, n := range cl.Nodes {
			if n != one {
				if err := n.FS.Flip(name, 500_000); err != nil {
					t.Fatal(err)
				}
				have = append(have, n)
			}
		}
		one.Start()
		tree := one.C.Tree()
		cl.Wait(func() error { _, err := tree.StatBlob(digest); return err })
		got, err := tree.ReadFile("rotten")
		if err == nil || len(got) == len(data) {
			t.Fatalf("wrong bytes were taken for right: %d bytes, %v", len(got), err)
		}
		r, err := tree.OpenBlob(context.Background(), digest)
		if err == nil {
			n, err := io.Copy(io.Discard, r)
			if r.Close(); err == nil || n >= int64(len(data)) {
				t.Fatalf("a stream of wrong bytes ended as if it were whole: %d bytes, %v", n, err)
			}
		}
		if err := have[1].FS.Flip(name, 500_000); err != nil { // as it was
			t.Fatal(err)
		}
		if _, err := have[1].C.Scrub(context.Background()); err != nil { // which sees that
			t.Fatal(err)
		}
		cl.Wait(func() error {
			got, err := tree.ReadFile("rotten")
			if err == nil && !bytes.Equal(got, data) {
				t.Fatal("wrong bytes")
			}
			return err
		})
		// And the other rotten copy is repaired by itself.
		cl.Wait(func() error {
			got, err := have[0].C.Tree().ReadFile("rotten")
			if err == nil && !bytes.Equal(got, data) {
				err = errors.New("still rotten")
			}
			return err
		})
	})
}

// A node whose disk is full streams what it cannot keep, and pushes continue at the others.
func TestFullDisk(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, func(c *cluster.Config) { c.Reserve = 1 << 20 })
		full := cl.Followers()[0]
		full.FS.SetFree(1 << 20)
		data := noise(3<<20, 5)
		digest, err := cl.Leader().Push(data)
		if err != nil {
			t.Fatalf("push while one of three disks is full: %v", err)
		}
		if err := cl.Leader().Link("large", digest); err != nil {
			t.Fatal(err)
		}
		tree := full.C.Tree()
		cl.Wait(func() error { _, err := tree.Stat("large"); return err })
		read := func() ([]byte, error) {
			r, err := tree.OpenBlob(context.Background(), digest)
			if err != nil {
				return nil, err
			}
			defer r.Close()
			if _, err := r.Seek(0, io.SeekEnd); err != nil {
				return nil, err
			}
			if _, err := r.Seek(0, io.SeekStart); err != nil {
				return nil, err
			}
			return io.ReadAll(r)
		}
		if got, err := read(); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("at the node whose disk is full: %d bytes, %v", len(got), err)
		}
		if _, err := full.Push(data[:2<<20]); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("push at the node whose disk is full: %v", err)
		}
		// Wrong bytes do not pass for whole ones here either.
		name := "/data/casemate/blobs/sha256/" + digest[7:9] + "/" + digest[7:]
		var flipped []*clustertest.Node
		for _, n := range cl.Nodes {
			if n != full && n.FS.Flip(name, 1<<20) == nil {
				flipped = append(flipped, n)
			}
		}
		if got, err := read(); err == nil || len(got) >= len(data) {
			t.Errorf("wrong bytes: %d of them, %v", len(got), err)
		}
		for _, n := range flipped {
			if err := n.FS.Flip(name, 1<<20); err != nil {
				t.Fatal(err)
			}
		}
		full.FS.SetFree(1 << 40)
		cl.Wait(func() error {
			for _, m := range full.C.Members() {
				if m.Self && m.Missing != 0 {
					return fmt.Errorf("it lacks %d", m.Missing)
				}
			}
			return nil
		})
	})
}

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"

	"casemate/cluster/state"
	"casemate/cluster/treetest"
)

func claimed(t *Tree, claim string) (list []string) {
	for name := range t.Claimed(claim) {
		list = append(list, name)
	}
	return list
}

// One batch mixes an import's names with names without a claim, at one log entry.
func TestAs(t *testing.T) {
	c := start(t, testConfig(t, t.TempDir()))
	tree := c.Tree()
	d := push(t, tree, []byte("blob"))
	update(t, tree, func(b Batch) {
		im := As(b, "jan")
		im.Link("files/a", d)
		b.Put("origins/h", []byte("hand"))
		As(im, "").Put("by/hand", nil)
		im.Put("files/b", nil)
		im.LinkWeak("files/c", d)
	})
	if got := fmt.Sprint(claimed(tree, "jan"), claimed(tree.Sub("files"), "jan"),
		claimed(tree.Sub("origins"), "jan")); got != "[files/a files/b files/c] [a b c] []" {
		t.Error(got)
	}
	versions := map[uint64]bool{}
	for _, name := range []string{"files/a", "origins/h", "by/hand"} {
		i, err := tree.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		versions[i.(treetest.Info).Version()] = true
	}
	if len(versions) != 1 {
		t.Errorf("the batch appeared at %d entries", len(versions))
	}
	// The view of a batch of a directory stays in that directory.
	update(t, tree.Sub("files"), func(b Batch) { As(b, "feb").Put("d", nil) })
	if got := claimed(tree, "feb"); !slices.Equal(got, []string{"files/d"}) {
		t.Error(got)
	}
	for claims, n := range tree.Claims() {
		if want := map[string]int{"jan": 3, "feb": 1}[claims]; n != want {
			t.Errorf("%s has %d names, want %d", claims, n, want)
		}
	}
}

func TestAsOfAForeignBatch(t *testing.T) {
	c := start(t, testConfig(t, t.TempDir()))
	// A wrapper of another package: the wrapped file is ours, but its names are not.
	err := c.Tree().Update(context.Background(), func(b Batch) error {
		As(struct{ Batch }{b}, "jan").Put("n", nil)
		return nil
	})
	if !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "cluster.As") {
		t.Errorf("a wrapped batch: %v", err)
	}
	err = treetest.New(t).Update(context.Background(), func(b Batch) error { As(b, "jan").Put("n", nil); return nil })
	if !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("another tree's batch: %v", err)
	}
	err = c.Tree().Update(context.Background(), func(b Batch) error { As(b, "a\nb").Put("n", nil); return nil })
	if !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a bad claim: %v", err)
	}
}

func TestClaimsOf(t *testing.T) {
	c := start(t, testConfig(t, t.TempDir()))
	tree := c.Tree().Sub("s")
	old, new := push(t, tree, []byte("old")), push(t, tree, []byte("newer"))
	update(t, tree.As("jan"), func(b Batch) { b.Link("d/n", old) })
	update(t, tree.As("feb"), func(b Batch) { b.Link("d/n", new) })
	update(t, tree, func(b Batch) { b.Put("d/n", []byte("hand")) })
	say := func() (s string) {
		for _, c := range tree.ClaimsOf("d/n") {
			s += fmt.Sprintf("%q %s %d %s;", c.Claim, c.Name(), c.Size(),
				map[string]string{old: "old", new: "new"}[c.FileInfo.(treetest.Info).Digest()])
		}
		return s
	}
	if got := say(); got != `"" n 4 ;"feb" n 5 new;"jan" n 3 old;` {
		t.Error(got)
	}
	for _, name := range []string{"d", ".", "..", "nothing", "/d/n"} {
		if got := tree.ClaimsOf(name); got != nil {
			t.Errorf("%s has the claims %v", name, got)
		}
	}
	if err := tree.DropClaims(context.Background(), "feb"); err != nil {
		t.Error(err)
	}
	if got := say(); got != `"" n 4 ;"jan" n 3 old;` {
		t.Error(got)
	}
	if err := tree.DropClaims(context.Background(), "never imported"); err != nil {
		t.Error(err)
	}
	if err := tree.DropClaims(context.Background(), ""); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("what is by hand is no claim: %v", err)
	}
}

// Dropping an import while others write: every batch is seen whole, and what the others wrote stays.
func TestDropClaimsBesideUpdates(t *testing.T) {
	c := start(t, testConfig(t, t.TempDir()))
	tree := c.Tree()
	d := push(t, tree, []byte("blob"))
	update(t, tree, func(b Batch) {
		for i := range 200 {
			b.Put(fmt.Sprintf("n/%d", i), []byte("hand"))
		}
	})
	fill := func(claim string) {
		update(t, tree, func(b Batch) {
			for i := range 200 {
				As(b, claim).Link(fmt.Sprintf("n/%d", i), d)
			}
		})
	}
	fill("old")
	var writers sync.WaitGroup
	for g := range 3 {
		writers.Go(func() {
			for range 10 {
				fill(fmt.Sprint("import", g))
			}
		})
	}
	if err := tree.DropClaims(context.Background(), "old"); err != nil {
		t.Error(err)
	}
	writers.Wait()
	for g := range 3 {
		claim := fmt.Sprint("import", g)
		if n := len(claimed(tree, claim)); n != 200 {
			t.Errorf("%s has %d names", claim, n)
		}
		if err := tree.DropClaims(context.Background(), claim); err != nil {
			t.Error(err)
		}
	}
	for range tree.Claims() {
		t.Error("a claim is left")
	}
	for name, i := range tree.Walk("n", "") {
		if i.Size() != 4 {
			t.Errorf("%s is not what the hand wrote", name)
		}
	}
}

// TestWeigh: each blob that visible files below the directories keep counts once; a weak link keeps none.
func TestWeigh(t *testing.T) {
	c := start(t, testConfig(t, t.TempDir()))
	tree := c.Tree()
	linked, held, other := push(t, tree, []byte("1")), push(t, tree, []byte("22")), push(t, tree, []byte("333"))
	weak, hidden, elsewhere := push(t, tree, []byte("4444")), push(t, tree, []byte("55555")),
		push(t, tree, []byte("666666"))
	update(t, tree, func(b Batch) {
		As(b, "jan").Link("d/h", hidden)
		b.Link("d/h", linked)
		b.Link("d/a/n", linked, held)
		b.Link("d/a/o", other, held)
		b.LinkWeak("d/w", weak)
		b.Put("d/r", []byte("a record"))
		b.Link("d2/n", elsewhere, held)
	})
	for _, q := range []struct {
		tree  *Tree
		dirs  []string
		bytes int64
		names string
	}{
		{tree, []string{"d"}, 6, "d/a/n d/a/o d/h d/r d/w"},
		{tree, []string{"d/a", "d2"}, 12, "d/a/n d/a/o d2/n"},
		{tree, []string{"."}, 12, "d/a/n d/a/o d/h d/r d/w d2/n"},
		{tree.Sub("d"), []string{"a"}, 6, "a/n a/o"},
		{tree, []string{"absent", "", "../d", "/d", "d/h"}, 0, ""},
		{tree, nil, 0, ""},
	} {
		var names []string
		bytes := q.tree.Weigh(q.dirs, func(name string) {
			if !strings.HasPrefix(name, "cluster/") {
				names = append(names, name)
			}
		})
		if got := strings.Join(names, " "); bytes != q.bytes || got != q.names {
			t.Errorf("%q: %d bytes of %q, want %d of %q", q.dirs, bytes, got, q.bytes, q.names)
		}
		if again := q.tree.Weigh(q.dirs, nil); again != bytes {
			t.Errorf("%q: %d bytes without names", q.dirs, again)
		}
	}
}

func TestKept(t *testing.T) {
	c := start(t, testConfig(t, t.TempDir()))
	tree := c.Tree()
	linked, held, hidden := push(t, tree, []byte("1")), push(t, tree, []byte("22")), push(t, tree, []byte("333"))
	weak, pinned, staged := push(t, tree, []byte("4444")), push(t, tree, []byte("55555")),
		push(t, tree, []byte("666666"))
	update(t, tree, func(b Batch) {
		As(b, "jan").Link("h", hidden)
		b.Put("h", nil)
		b.Link("n", linked, held)
		b.LinkWeak("w", weak)
	})
	id, _ := state.ParseDigest(staged)
	both, _ := state.ParseDigest(held)
	if _, err := c.propose(context.Background(), &state.Stage{ID: "s", Until: 1 << 62,
		Ops: []state.Op{&state.Link{Name: "x", Digest: id}, &state.Link{Name: "y", Digest: both}}}); err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for d, size := range tree.Sub("s").Kept() {
		got[d] = size
	}
	if len(got) != 3 || got[linked] != 1 || got[held] != 2 || got[hidden] != 3 {
		t.Errorf("kept are %v", got)
	}
	for name, d := range map[string]string{"weak": weak, "pinned": pinned, "staged": staged} {
		if _, ok := got[d]; ok {
			t.Errorf("%s is promised", name)
		}
	}
}

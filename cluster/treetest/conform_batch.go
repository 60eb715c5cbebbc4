package treetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"testing"
)

func testEdits(t *testing.T, tree Tree) {
	d := store(t, tree, []byte("blob"), "")
	data := []byte("mine")
	fill(t, tree, func(b Batch) {
		b.Put("a", data)
		copy(data, "your") // belongs to the caller
		b.Put("b/c", []byte("1"))
		b.Put("b/d/e", []byte("2"))
		b.Put("max", make([]byte, 4096))
	})
	if got := contents(t, tree, "a"); got != "mine" {
		t.Errorf("Put kept the caller's slice: %q", got)
	}
	got, _ := tree.ReadFile("a")
	copy(got, "XXXX")
	if contents(t, tree, "a") != "mine" {
		t.Error("ReadFile gave the tree's own bytes")
	}
	fill(t, tree, func(b Batch) { b.Link("a", d) }) // a record becomes a link, and back
	if contents(t, tree, "a") != "blob" {
		t.Error("Link over a record")
	}
	fill(t, tree, func(b Batch) { b.Put("a", []byte("again")) })
	if i := stat(t, tree, "a"); i.Digest() != "" || contents(t, tree, "a") != "again" {
		t.Error("Put over a link")
	}
	fill(t, tree, func(b Batch) { b.Remove("b/d") }) // a directory
	absent(t, tree, "b/d/e")
	absent(t, tree, "b/d")
	if contents(t, tree, "b/c") != "1" {
		t.Error("Remove took more than it was asked")
	}
	fill(t, tree, func(b Batch) { b.Remove("b/c") }) // the last file of a directory
	absent(t, tree, "b")
	fill(t, tree, func(b Batch) { b.Remove("b/c"); b.Remove("never"); b.Remove("a/below/a/file") })
	if contents(t, tree, "a") != "again" {
		t.Error("removing below a file took the file")
	}
	fill(t, tree, func(b Batch) { // in the order made
		b.Put("order", []byte("1"))
		b.Remove("order")
		b.Put("order/of/things", []byte("2"))
		b.Put("twice", []byte("1"))
		b.Put("twice", []byte("2"))
	})
	if contents(t, tree, "order/of/things") != "2" || contents(t, tree, "twice") != "2" {
		t.Error("edits were not applied in order")
	}
	wantErr(t, "a record of 4097 bytes", try(tree, func(b Batch) { b.Put("big", make([]byte, 4097)) }), fs.ErrInvalid)
	absent(t, tree, "big")
	// p alone, not what begins like it
	fill(t, tree, func(b Batch) { b.Put("p/q", nil); b.Put("p-q", nil); b.Put("pq", nil); b.Remove("p") })
	absent(t, tree, "p")
	stat(t, tree, "p-q")
	stat(t, tree, "pq")
	fill(t, tree, func(b Batch) { b.Remove(".") })
	if got := walked(tree, ".", ""); len(got) != 0 {
		t.Errorf("after Remove of everything: %q", got)
	}
}

func testConflicts(t *testing.T, tree Tree) {
	d := store(t, tree, []byte("x"), "")
	fill(t, tree, func(b Batch) { b.Put("file", nil); b.Put("dir/file", nil) })
	for what, fn := range map[string]func(Batch){
		"Put below a file":           func(b Batch) { b.Put("file/below", nil) },
		"Put far below a file":       func(b Batch) { b.Put("file/a/b/c", nil) },
		"Link below a file":          func(b Batch) { b.Link("dir/file/x", d) },
		"Put over a directory":       func(b Batch) { b.Put("dir", nil) },
		"LinkWeak over a directory":  func(b Batch) { b.LinkWeak("dir", d) },
		"both in one batch":          func(b Batch) { b.Put("new", nil); b.Put("new/below", nil) },
		"both in one, the other way": func(b Batch) { b.Put("new/below", nil); b.Put("new", nil) },
	} {
		wantErr(t, what, try(tree, fn), fs.ErrExist)
	}
	absent(t, tree, "new")
	fill(t, tree, func(b Batch) { b.Remove("file"); b.Put("file/below", nil); b.Remove("dir"); b.Put("dir", nil) })
	if !stat(t, tree, "file").IsDir() || stat(t, tree, "dir").IsDir() {
		t.Error("what was removed in the same batch stood in the way")
	}
}

func testExpect(t *testing.T, tree Tree) {
	fill(t, tree, func(b Batch) { b.Expect("a", 0); b.Put("a", []byte("1")) })
	v := stat(t, tree, "a").Version()
	wantErr(t, "Expect of none", try(tree, func(b Batch) { b.Expect("a", 0); b.Put("a", []byte("2")) }), fs.ErrExist)
	wantErr(t, "Expect of another", try(tree, func(b Batch) { b.Expect("a", v+1); b.Put("a", []byte("2")) }),
		fs.ErrExist)
	wantErr(t, "Expect of what is not there", try(tree, func(b Batch) { b.Expect("b", v); b.Put("b", nil) }),
		fs.ErrExist)
	wantErr(t, "Expect behind the edits", try(tree, func(b Batch) { b.Put("a", []byte("2")); b.Expect("a", v+1) }),
		fs.ErrExist)
	if contents(t, tree, "a") != "1" {
		t.Fatal("a refused batch has written")
	}
	fill(t, tree, func(b Batch) { b.Expect("a", v); b.Put("a", []byte("2")) })
	if stat(t, tree, "a").Version() <= v {
		t.Error("the version did not grow")
	}
	fill(t, tree, func(b Batch) { b.Remove("a") })
	fill(t, tree, func(b Batch) { b.Expect("a", 0) }) // alone
	wantErr(t, "Expect alone", try(tree, func(b Batch) { b.Expect("a", v) }), fs.ErrExist)
	// a directory is no file; as it was before
	fill(t, tree, func(b Batch) { b.Put("d/e", nil); b.Expect("d", 0); b.Expect("d/e", 0) })
}

func testAllOrNone(t *testing.T, tree Tree) {
	fill(t, tree, func(b Batch) { b.Put("keep/a", []byte("1")); b.Put("file", nil) })
	before := stat(t, tree, "keep/a").Version()
	for what, last := range map[string]func(Batch){
		"unknown blob": func(b Batch) { b.Link("l", DigestOf([]byte("never"), "")) },
		"bad name":     func(b Batch) { b.Put("../x", nil) },
		"conflict":     func(b Batch) { b.Put("file/x", nil) },
		"expect":       func(b Batch) { b.Expect("file", 1<<60) },
		"too large":    func(b Batch) { b.Put("x", make([]byte, 5000)) },
	} {
		err := try(tree, func(b Batch) {
			b.Remove("keep")
			for i := range 100 {
				b.Put(fmt.Sprintf("new/%d", i), nil)
			}
			last(b)
			b.Put("behind", nil)
		})
		if err == nil {
			t.Errorf("%s: not refused", what)
		}
		absent(t, tree, "new")
		absent(t, tree, "behind")
		if i := stat(t, tree, "keep/a"); i.Version() != before {
			t.Errorf("%s: a refused batch has touched a file", what)
		}
	}
}

func testUpdate(t *testing.T, tree Tree) {
	mine := errors.New("mine")
	err := tree.Update(context.Background(), func(b Batch) error { b.Put("a", nil); return mine })
	if err != mine {
		t.Errorf("an error of fn came back as %v", err)
	}
	absent(t, tree, "a")
	if err := try(tree, func(Batch) {}); err != nil {
		t.Errorf("an empty batch: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err = tree.Update(ctx, func(b Batch) error { b.Put("a", nil); return nil })
	wantErr(t, "Update with a context that is done", err, context.Canceled)
	absent(t, tree, "a")
}

func testLargeBatch(t *testing.T, tree Tree) {
	const n = 4000
	d := store(t, tree, []byte("x"), "")
	data := bytes.Repeat([]byte("d"), 300)
	fill(t, tree, func(b Batch) {
		for i := range n {
			b.Put(fmt.Sprintf("big/%05d/record", i), data)
			b.Link(fmt.Sprintf("big/%05d/link", i), d)
		}
	})
	if got := len(walked(tree, "big", "")); got != 2*n {
		t.Fatalf("a batch of %d names gave %d", 2*n, got)
	}
	if a, b := stat(t, tree, "big/00000/link").Version(), stat(t, tree, "big/03999/record").Version(); a != b {
		t.Errorf("one batch appeared at two entries, %d and %d", a, b)
	}
	err := try(tree, func(b Batch) {
		b.Remove("big")
		for i := range 2 * n {
			b.Put(fmt.Sprintf("bigger/%05d", i), data)
		}
		b.Expect("big/00000/link", 1<<60)
	})
	wantErr(t, "a large batch with a condition that does not hold", err, fs.ErrExist)
	absent(t, tree, "bigger")
	if got := len(walked(tree, "big", "")); got != 2*n {
		t.Fatalf("a refused batch has left %d of %d names", got, 2*n)
	}
}

func testVersions(t *testing.T, tree Tree) {
	fill(t, tree, func(b Batch) { b.Put("a", nil); b.Put("b", nil) })
	a := stat(t, tree, "a")
	if a.Version() != stat(t, tree, "b").Version() {
		t.Error("one batch, two versions")
	}
	fill(t, tree, func(b Batch) { b.Put("b", nil) })
	if v := stat(t, tree, "b").Version(); v <= a.Version() {
		t.Errorf("written again, and the version went from %d to %d", a.Version(), v)
	}
	if stat(t, tree, "a").Version() != a.Version() {
		t.Error("the version of a file that was not written changed")
	}
	list, err := tree.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		i, err := e.Info()
		if info, ok := i.(Info); err != nil || !ok || info.Version() == 0 {
			t.Errorf("ReadDir gives %T, %v", i, err)
		}
	}
	for name, i := range tree.Walk(".", "") {
		if info, ok := i.(Info); !ok || info.Version() == 0 {
			t.Errorf("Walk gives %T for %s", i, name)
		}
	}
}

// testConcurrent writes and reads at once: each batch writes the same number to two names, and no reader ever sees two
// numbers in one state.
func testConcurrent(t *testing.T, tree Tree) {
	stop := make(chan struct{})
	var readers, writers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				versions := map[uint64]bool{}
				for _, i := range tree.Walk("pair", "") {
					versions[i.(Info).Version()] = true
				}
				if len(versions) > 1 {
					t.Errorf("half a batch is visible: versions %v", versions)
					return
				}
			}
		})
	}
	for g := range 4 {
		writers.Go(func() {
			for i := range 25 {
				n := []byte(fmt.Sprint(g, i))
				if err := try(tree, func(b Batch) {
					b.Put("pair/a", n)
					b.Put("pair/z", n)
					b.Put(fmt.Sprintf("own/%d", g), n)
				}); err != nil {
					t.Error(err)
				}
				if got, err := tree.ReadFile(fmt.Sprintf("own/%d", g)); string(got) != string(n) || err != nil {
					t.Errorf("promise 3: wrote %s and read %s, %v", n, got, err)
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
}

// testExactlyOne lets many writers count by conditional batches: no increment is lost, none happens twice.
func testExactlyOne(t *testing.T, tree Tree) {
	fill(t, tree, func(b Batch) { b.Put("counter", []byte("0")) })
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for done := 0; done < 10; {
				i, err := tree.Stat("counter")
				if err != nil {
					t.Error(err)
					return
				}
				v := i.(Info).Version()
				data, err := tree.ReadFile("counter")
				if err != nil {
					t.Error(err)
					return
				}
				var n int
				fmt.Sscan(string(data), &n)
				err = try(tree, func(b Batch) { b.Expect("counter", v); b.Put("counter", fmt.Append(nil, n+1)) })
				switch {
				case err == nil:
					done++
				case !errors.Is(err, fs.ErrExist):
					t.Error(err)
					return
				}
			}
		})
	}
	writers.Wait()
	if got := contents(t, tree, "counter"); got != "40" {
		t.Errorf("40 increments gave %s", got)
	}
}

package treetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"
)

func testFileSystem(t *testing.T, tree Tree) {
	if i, err := tree.Stat("."); err != nil || !i.IsDir() {
		t.Fatalf("the root of an empty tree: %v, %v", i, err)
	}
	if list, err := tree.ReadDir("."); len(list) != 0 || err != nil {
		t.Fatalf("an empty tree has %v, %v", list, err)
	}
	d := store(t, tree, []byte("blob"), "")
	d5 := store(t, tree, []byte("blob"), "sha512:")
	empty := store(t, tree, nil, "")
	fill(t, tree, func(b Batch) {
		b.Put("record", []byte("data"))
		b.Put("dir/empty", nil)
		b.Put("dir/sub/deep/er", []byte("x"))
		b.Link("dir/link", d)
		b.Link("dir/sub/link512", d5)
		b.Link("nothing", empty)
		b.LinkWeak("dir/weak", d)
	})
	if err := fstest.TestFS(tree, "record", "dir/empty", "dir/sub/deep/er", "dir/link", "dir/sub/link512", "nothing",
		"dir/weak"); err != nil {
		t.Fatal(err)
	}
	if i := stat(t, tree, "dir/link"); i.Size() != 4 || i.Digest() != d || i.Version() == 0 || i.IsDir() ||
		i.Name() != "link" || i.ModTime().IsZero() {
		t.Errorf("link: %v %s %d", i, i.Digest(), i.Version())
	}
	if i := stat(t, tree, "record"); i.Size() != 4 || i.Digest() != "" || i.Version() == 0 {
		t.Errorf("record: %v %s %d", i, i.Digest(), i.Version())
	}
	if i := stat(t, tree, "dir/sub"); !i.IsDir() || i.Digest() != "" || i.Version() != 0 {
		t.Errorf("directory: %v", i)
	}
	_, err := tree.ReadFile("dir")
	wantErr(t, "ReadFile of a directory", err, syscall.EISDIR)
	_, err = tree.ReadDir("record")
	wantErr(t, "ReadDir of a file", err, syscall.ENOTDIR)
	absent(t, tree, "dir/none")
	absent(t, tree, "record/below")
	absent(t, tree, "di")
	f, err := tree.Open("dir/link")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, ok := f.(io.ReadSeeker); !ok {
		t.Errorf("an open file is a %T, which cannot seek", f)
	}
}

func testNames(t *testing.T, tree Tree) {
	d := store(t, tree, []byte("x"), "")
	long := strings.Repeat("n", 1024)
	deep := strings.Repeat("d/", 1999) + "dd" // leaves room for the directory of a part of a tree
	tooDeep := strings.Repeat("d/", 2048) + "d"
	odd := []string{"a:b@c+d", "ä/ö", "%2e%2e", "a b", "...", "..a", "?x=1&y=2", "*", "\\", long, deep}
	fill(t, tree, func(b Batch) {
		for _, name := range odd {
			b.Put(name, []byte("x"))
		}
	})
	for _, name := range odd {
		if contents(t, tree, name) != "x" {
			t.Errorf("%.40q came back otherwise", name)
		}
	}
	for _, name := range []string{"", ".", "..", "/", "/a", "a/", "a//b", "a/./b", "a/../b", "../a", "a/..", "a\x00b",
		"\x00", "\xff/a", long + "n", tooDeep} {
		for what, fn := range map[string]func(Batch){
			"Put":      func(b Batch) { b.Put(name, nil) },
			"Link":     func(b Batch) { b.Link(name, d) },
			"LinkWeak": func(b Batch) { b.LinkWeak(name, d) },
		} {
			err := try(tree, func(b Batch) { b.Put("before", nil); fn(b) })
			wantErr(t, fmt.Sprintf("%s of %.40q", what, name), err, fs.ErrInvalid)
			if err != nil && len(err.Error()) > 5000 {
				t.Errorf("%s of a bad name says %d bytes", what, len(err.Error()))
			}
		}
		if name == "." {
			continue
		}
		wantErr(t, fmt.Sprintf("Remove of %.40q", name), try(tree, func(b Batch) { b.Remove(name) }), fs.ErrInvalid)
		if _, err := tree.Stat(name); !errors.Is(err, fs.ErrInvalid) && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Stat of %.40q: %v", name, err)
		}
		if _, err := tree.Open(name); !errors.Is(err, fs.ErrInvalid) && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open of %.40q: %v", name, err)
		}
	}
	absent(t, tree, "before")
}

func testReadDir(t *testing.T, tree Tree) {
	fill(t, tree, func(b Batch) {
		for _, name := range []string{"d/b", "d/a-", "d/a/x", "d/a/y/z", "d/a.", "d/ä", "d/A", "dd", "d-"} {
			b.Put(name, nil)
		}
	})
	list, err := tree.ReadDir("d")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
		if e.IsDir() != (e.Name() == "a") {
			t.Errorf("%s: IsDir is %v", e.Name(), e.IsDir())
		}
	}
	want := []string{"A", "a", "a-", "a.", "b", "ä"}
	if !slices.Equal(names, want) {
		t.Errorf("ReadDir: %q, want %q", names, want)
	}
}

func testWalk(t *testing.T, tree Tree) {
	all := []string{"A", "a/b", "a/b-c", "a/b.c/d", "a-b", "a-b2/x", "ab", "b/a/a", "b/a-/a", "b/b"}
	fill(t, tree, func(b Batch) {
		for _, i := range []int{3, 7, 1, 0, 9, 2, 5, 8, 6, 4} {
			b.Put(all[i], nil)
		}
	})
	if !slices.IsSortedFunc(all, Order) {
		t.Fatal("the test's own list is not in order")
	}
	for _, dir := range []string{".", "a", "a/b.c", "b", "b/a", "none", "ab", "a-"} {
		for _, after := range append([]string{"", "0", "a", "a/b-", "a/c", "a/b.c", "b/a", "zzz"}, all...) {
			var want []string
			for _, name := range all {
				if below(name, dir) && (after == "" || Order(name, after) > 0) {
					want = append(want, name)
				}
			}
			if got := walked(tree, dir, after); !slices.Equal(got, want) {
				t.Errorf("Walk(%q, %q): %q, want %q", dir, after, got, want)
			}
		}
	}
	n := 0
	for range tree.Walk(".", "") {
		if n++; n == 2 {
			break
		}
	}
}

func testWalkOneState(t *testing.T, tree Tree) {
	fill(t, tree, func(b Batch) {
		for i := range 100 {
			b.Put(fmt.Sprintf("w/%02d", i), nil)
		}
	})
	seq := tree.Walk("w", "")
	n := 0
	for name := range seq {
		if n == 0 {
			fill(t, tree, func(b Batch) { b.Remove("w"); b.Put("w/new", nil) })
		}
		if name == "w/new" {
			t.Error("Walk shows what was written after it began")
		}
		n++
	}
	if n != 100 {
		t.Errorf("Walk yielded %d files of 100 that were there when it began", n)
	}
}

func testFollow(t *testing.T, tree Tree) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	fill(t, tree, func(b Batch) { b.Put("f/before", nil) })
	changed, take := tree.Follow(ctx, "f/d")
	want := func(what string, wantAll bool, wantNames ...string) {
		t.Helper()
		told := false
		select {
		case <-changed:
			told = true
		default:
		}
		if names, all := take(); told != (wantAll || len(wantNames) > 0) || all != wantAll ||
			!slices.Equal(names, wantNames) {
			t.Errorf("%s: told %v, names %q, all %v; want %q, all %v", what, told, names, all, wantNames, wantAll)
		}
	}
	want("nothing yet", false)
	fill(t, tree, func(b Batch) { b.Put("f/d/b", nil); b.Put("f/d/a/x", nil); b.Put("f/dd", nil); b.Put("f/e", nil) })
	fill(t, tree, func(b Batch) { b.Put("f/d/b", []byte("again")) })
	want("written", false, "f/d/a/x", "f/d/b")
	want("taken", false)
	fill(t, tree, func(b Batch) { b.Remove("f/d/a"); b.Remove("f/d/none"); b.Remove("f/e") })
	want("a directory is removed", false, "f/d/a")
	if try(tree, func(b Batch) { b.Put("f/d/b", nil); b.Put("f/d/b/x", nil) }) == nil {
		t.Error("a conflict was taken")
	}
	want("a refused batch", false)
	fill(t, tree, func(b Batch) { b.Put("f/d/c", nil) })
	fill(t, tree, func(b Batch) { b.Remove("f") })
	want("removed from above", true)
	fill(t, tree, func(b Batch) {
		for i := range 4200 { // no tree remembers more than 4096
			b.Put(fmt.Sprintf("f/d/%d", i), nil)
		}
	})
	want("more than anybody remembers", true)
	fill(t, tree, func(b Batch) { b.Put("f/d/0", nil) })
	want("after that", false, "f/d/0")
	cancel()
	for range changed {
	}
}

func testWatch(t *testing.T, tree Tree) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	root, dir, file := tree.Watch(ctx, "."), tree.Watch(ctx, "w/d"), tree.Watch(ctx, "w/d/f")
	expect := func(what string, ch <-chan struct{}) {
		t.Helper()
		select {
		case _, open := <-ch:
			if !open {
				t.Fatalf("%s: closed", what)
			}
		case <-time.After(5 * time.Minute):
			t.Fatalf("%s: not told", what)
		}
	}
	quiet := func(what string, ch <-chan struct{}) {
		t.Helper()
		select {
		case <-ch:
			t.Errorf("%s: told of nothing", what)
		default:
		}
	}
	fill(t, tree, func(b Batch) { b.Put("w/d/f", nil); b.Put("w/d/g", nil) })
	expect("root", root)
	expect("dir", dir)
	expect("file", file)
	fill(t, tree, func(b Batch) { b.Put("w/d/g", nil) })
	fill(t, tree, func(b Batch) { b.Put("w/d/g", nil) })
	expect("root", root)
	expect("dir", dir)
	quiet("root, coalesced", root)
	quiet("dir, coalesced", dir)
	quiet("file", file)
	fill(t, tree, func(b Batch) { b.Put("w/dd", nil); b.Put("w/d-", nil) })
	select {
	case <-root:
	default:
		t.Error("root: the Update returned before the channel was told")
	}
	quiet("dir, at a name that begins like it", dir)
	fill(t, tree, func(b Batch) { b.Remove("w") })
	expect("root", root)
	expect("dir, removed from above", dir)
	expect("file, removed from above", file)
	if try(tree, func(b Batch) { b.Put("w/d/f", nil); b.Put("w/d/f/x", nil) }) == nil {
		t.Error("a conflict was taken")
	}
	quiet("root, at a refused batch", root)
	cancel()
	for what, ch := range map[string]<-chan struct{}{"root": root, "dir": dir, "file": file} {
		select {
		case _, open := <-ch:
			if open {
				t.Errorf("%s: told of nothing when it ended", what)
			}
		case <-time.After(5 * time.Minute):
			t.Errorf("%s: not closed when its context was done", what)
		}
	}
}

package treetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"
)

// Collecting is a Tree whose test can let time pass. Run tests pins and weak links on it.
type Collecting interface {
	Tree
	// Unpin lets every pin end.
	Unpin()
	// Collect removes the blobs that nothing keeps and returns their digests, sorted.
	Collect() []string
}

// Damaging is a Tree whose test can damage a blob. Run tests on it what becomes of one.
type Damaging interface {
	Tree
	Damage(digest string)
}

// Run checks that a tree keeps its contract. open returns an empty tree each time, and cleans up with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) Tree) {
	for name, test := range map[string]func(*testing.T, Tree){
		"FileSystem":      testFileSystem,
		"Names":           testNames,
		"Edits":           testEdits,
		"Conflicts":       testConflicts,
		"Expect":          testExpect,
		"AllOrNone":       testAllOrNone,
		"Update":          testUpdate,
		"LargeBatch":      testLargeBatch,
		"Versions":        testVersions,
		"ReadDir":         testReadDir,
		"Walk":            testWalk,
		"WalkOneState":    testWalkOneState,
		"Blobs":           testBlobs,
		"WrongBytes":      testWrongBytes,
		"Damage":          testDamage,
		"Resume":          testResume,
		"Links":           testLinks,
		"Watch":           testWatch,
		"Follow":          testFollow,
		"Concurrent":      testConcurrent,
		"ExactlyOne":      testExactlyOne,
		"Collect":         testCollect,
		"WeakLinks":       testWeakLinks,
		"WeakLinkRebirth": testWeakLinkRebirth,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func fill(t *testing.T, tree Tree, fn func(Batch)) {
	t.Helper()
	if err := try(tree, fn); err != nil {
		t.Fatalf("Update: %v", err)
	}
}

func try(tree Tree, fn func(Batch)) error {
	return tree.Update(context.Background(), func(b Batch) error { fn(b); return nil })
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

// store makes a blob and returns its digest, in the algorithm of like.
func store(t *testing.T, tree Tree, data []byte, like string) string {
	t.Helper()
	w, err := tree.CreateBlob("")
	if err != nil {
		t.Fatalf("CreateBlob: %v", err)
	}
	defer w.Close()
	if n, err := w.Write(data); n != len(data) || err != nil {
		t.Fatalf("Write: %d, %v", n, err)
	}
	want := DigestOf(data, like)
	ask := ""
	if like != "" {
		ask = want
	}
	got, err := w.Commit(context.Background(), ask)
	if err != nil || got != want {
		t.Fatalf("Commit: %s, %v; want %s", got, err, want)
	}
	return got
}

func contents(t *testing.T, tree Tree, name string) string {
	t.Helper()
	data, err := tree.ReadFile(name)
	if err != nil {
		t.Fatalf("ReadFile(%q): %v", name, err)
	}
	return string(data)
}

func stat(t *testing.T, tree Tree, name string) Info {
	t.Helper()
	i, err := tree.Stat(name)
	if err != nil {
		t.Fatalf("Stat(%q): %v", name, err)
	}
	info, ok := i.(Info)
	if !ok {
		t.Fatalf("Stat(%q): %T does not implement Info", name, i)
	}
	return info
}

func absent(t *testing.T, tree Tree, name string) {
	t.Helper()
	_, err := tree.Stat(name)
	wantErr(t, "Stat "+name, err, fs.ErrNotExist)
	_, err = tree.Open(name)
	wantErr(t, "Open "+name, err, fs.ErrNotExist)
	_, err = tree.ReadFile(name)
	wantErr(t, "ReadFile "+name, err, fs.ErrNotExist)
	_, err = tree.ReadDir(name)
	wantErr(t, "ReadDir "+name, err, fs.ErrNotExist)
}

func walked(tree Tree, dir, after string) (names []string) {
	for name := range tree.Walk(dir, after) {
		names = append(names, name)
	}
	return names
}

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

func testBlobs(t *testing.T, tree Tree) {
	ctx := context.Background()
	data := bytes.Repeat([]byte("0123456789"), 20_000)
	for _, like := range []string{"", "sha512:"} {
		d := store(t, tree, data, like)
		if n, err := tree.StatBlob(d); n != int64(len(data)) || err != nil {
			t.Errorf("StatBlob: %d, %v", n, err)
		}
		f, err := tree.OpenBlob(ctx, d)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Seek(199_995, io.SeekStart); err != nil {
			t.Error(err)
		}
		rest, err := io.ReadAll(f)
		if string(rest) != "56789" || err != nil {
			t.Errorf("after Seek: %q, %v", rest, err)
		}
		if end, err := f.Seek(0, io.SeekEnd); end != int64(len(data)) || err != nil {
			t.Errorf("Seek to the end: %d, %v", end, err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		store(t, tree, data, like) // again
	}
	for _, d := range []string{DigestOf([]byte("never"), ""), DigestOf([]byte("never"), "sha512:"), "", "x", "sha256:",
		"sha256:../../../etc/passwd", "md5:d41d8cd98f00b204e9800998ecf8427e"} {
		_, err := tree.StatBlob(d)
		wantErr(t, "StatBlob "+d, err, fs.ErrNotExist)
		_, err = tree.OpenBlob(ctx, d)
		wantErr(t, "OpenBlob "+d, err, fs.ErrNotExist)
		wantErr(t, "Link to "+d, try(tree, func(b Batch) { b.Link("l", d) }), fs.ErrNotExist)
		wantErr(t, "LinkWeak to "+d, try(tree, func(b Batch) { b.LinkWeak("l", d) }), fs.ErrNotExist)
		wantErr(t, "Link that holds "+d, try(tree, func(b Batch) { b.Link("l", DigestOf(data, ""), d) }),
			fs.ErrNotExist)
	}
	absent(t, tree, "l")
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	w, err := tree.CreateBlob("up")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Cancel()
	w.Write([]byte("canceled"))
	_, err = w.Commit(canceled, "")
	wantErr(t, "Commit with a context that is done", err, context.Canceled)
	if _, err := w.Commit(ctx, ""); err != nil {
		t.Errorf("Commit after one that was canceled: %v", err)
	}
}

func testDamage(t *testing.T, tree Tree) {
	ctx := context.Background()
	d, ok := tree.(Damaging)
	if !ok {
		t.Skip("its blobs cannot be damaged")
	}
	for size, like := range map[int]string{1: "", 3000: "sha512:", 400_000: ""} {
		data := bytes.Repeat([]byte("x"), size)
		digest := store(t, tree, data, like)
		fill(t, tree, func(b Batch) { b.Link("file", digest) })
		has := func(want error) {
			t.Helper()
			n, err := tree.HasBlob(ctx, digest)
			wantErr(t, "HasBlob", err, want)
			if err == nil && n != int64(size) {
				t.Errorf("HasBlob: %d bytes, want %d", n, size)
			}
			f, err := tree.OpenBlob(ctx, digest)
			if wantErr(t, "OpenBlob", err, want); err == nil {
				f.Close()
			}
			_, err = tree.ReadFile("file")
			wantErr(t, "ReadFile", err, want)
			file, err := tree.Open("file")
			if wantErr(t, "Open", err, want); err == nil {
				file.Close()
			}
			if n, err := tree.StatBlob(digest); n != int64(size) || err != nil {
				t.Errorf("StatBlob: %d, %v", n, err)
			}
			if i, err := tree.Stat("file"); err != nil || i.Size() != int64(size) {
				t.Errorf("Stat: %v, %v", i, err)
			}
		}
		has(nil)
		d.Damage(digest)
		has(syscall.EIO)
		store(t, tree, data, like)
		has(nil)
	}
	for _, digest := range []string{DigestOf([]byte("never"), ""), "", "x"} {
		_, err := tree.HasBlob(ctx, digest)
		wantErr(t, "HasBlob "+digest, err, fs.ErrNotExist)
	}
}

func testWrongBytes(t *testing.T, tree Tree) {
	ctx := context.Background()
	w, err := tree.CreateBlob("up")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	w.Write([]byte("wrong"))
	for _, want := range []string{DigestOf([]byte("right"), ""), DigestOf([]byte("right"), "sha512:")} {
		_, err := w.Commit(ctx, want)
		wantErr(t, "Commit of wrong bytes", err, syscall.EBADMSG)
		_, err = tree.StatBlob(want)
		wantErr(t, "StatBlob of what was refused", err, fs.ErrNotExist)
	}
	if w.Size() != 5 {
		t.Errorf("the scratch file has %d bytes after a refusal", w.Size())
	}
	if _, err := w.Commit(ctx, DigestOf([]byte("wrong"), "")); err != nil {
		t.Errorf("Commit under the right digest after a refusal: %v", err)
	}
}

func testResume(t *testing.T, tree Tree) {
	ctx := context.Background()
	_, err := tree.ResumeBlob("never")
	wantErr(t, "ResumeBlob of nothing", err, fs.ErrNotExist)
	for _, id := range []string{"a/b", "ä", "a b", strings.Repeat("a", 129)} {
		_, err := tree.CreateBlob(id)
		wantErr(t, "CreateBlob "+id, err, fs.ErrInvalid)
	}
	w, err := tree.CreateBlob("up.1_-A")
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("one "))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for i, piece := range []string{"two ", "three "} {
		w, err := tree.ResumeBlob("up.1_-A")
		if err != nil {
			t.Fatal(err)
		}
		if want := int64(4 + 4*i); w.Size() != want {
			t.Fatalf("resumed at %d, not %d", w.Size(), want)
		}
		w.Write([]byte(piece))
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	w, err = tree.ResumeBlob("up.1_-A")
	if err != nil {
		t.Fatal(err)
	}
	d, err := w.Commit(ctx, "")
	if err != nil || d != DigestOf([]byte("one two three "), "") {
		t.Fatalf("Commit: %s, %v", d, err)
	}
	if err := w.Close(); err != nil {
		t.Errorf("Close after Commit: %v", err)
	}
	_, err = tree.ResumeBlob("up.1_-A")
	wantErr(t, "ResumeBlob after Commit", err, fs.ErrNotExist)

	w, _ = tree.CreateBlob("up")
	w.Write([]byte("long ago"))
	w.Close()
	w, err = tree.CreateBlob("up")
	if err != nil || w.Size() != 0 {
		t.Fatalf("CreateBlob of an existing id: %d bytes, %v", w.Size(), err)
	}
	w.Write([]byte("new"))
	if err := w.Cancel(); err != nil {
		t.Fatal(err)
	}
	_, err = tree.ResumeBlob("up")
	wantErr(t, "ResumeBlob after Cancel", err, fs.ErrNotExist)
}

func testLinks(t *testing.T, tree Tree) {
	d := store(t, tree, []byte("one"), "")
	e := store(t, tree, []byte("other"), "")
	fill(t, tree, func(b Batch) { b.Link("a", d, e, e, d); b.Link("b", d) })
	fill(t, tree, func(b Batch) { b.Link("a", e) })
	if contents(t, tree, "a") != "other" || contents(t, tree, "b") != "one" {
		t.Error("a link does not show its blob")
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

func collecting(t *testing.T, tree Tree) Collecting {
	c, ok := tree.(Collecting)
	if !ok {
		t.Skip("this tree cannot let time pass")
	}
	return c
}

func testCollect(t *testing.T, tree Tree) {
	c := collecting(t, tree)
	named, held, loose := store(t, c, []byte("named"), ""), store(t, c, []byte("held"), "sha512:"),
		store(t, c, []byte("loose"), "")
	if got := c.Collect(); len(got) != 0 {
		t.Fatalf("pinned, and collected: %q", got)
	}
	fill(t, c, func(b Batch) { b.Link("a", named, held); b.Link("b", held) })
	c.Unpin()
	if got := c.Collect(); !slices.Equal(got, []string{loose}) {
		t.Fatalf("collected %q, want %q", got, loose)
	}
	_, err := c.StatBlob(loose)
	wantErr(t, "StatBlob of a collected blob", err, fs.ErrNotExist)
	_, err = c.OpenBlob(context.Background(), loose)
	wantErr(t, "OpenBlob of a collected blob", err, fs.ErrNotExist)
	wantErr(t, "Link to a collected blob", try(c, func(b Batch) { b.Link("l", loose) }), fs.ErrNotExist)
	fill(t, c, func(b Batch) { b.Remove("b") })
	if got := c.Collect(); len(got) != 0 {
		t.Fatalf("held, and collected: %q", got)
	}
	fill(t, c, func(b Batch) { b.Link("a", named) }) // holds no more
	if got := c.Collect(); !slices.Equal(got, []string{held}) {
		t.Fatalf("collected %q, want %q", got, held)
	}
	fill(t, c, func(b Batch) { b.Remove("a") })
	if got := c.Collect(); !slices.Equal(got, []string{named}) {
		t.Fatalf("collected %q, want %q", got, named)
	}
	store(t, c, []byte("loose"), "") // and it can come back
	fill(t, c, func(b Batch) { b.Link("l", loose) })
	c.Unpin()
	c.Collect()
	if contents(t, c, "l") != "loose" {
		t.Error("a blob that came back is not there")
	}
}

func testWeakLinks(t *testing.T, tree Tree) {
	c := collecting(t, tree)
	d, e := store(t, c, []byte("weak"), ""), store(t, c, []byte("both"), "")
	fill(t, c, func(b Batch) { b.LinkWeak("w/a", d); b.LinkWeak("w/b", e); b.Link("strong", e); b.Put("w/rec", nil) })
	c.Unpin()
	fill(t, c, func(b Batch) { b.LinkWeak("w/again", d) }) // pins anew
	if got := c.Collect(); len(got) != 0 {
		t.Fatalf("LinkWeak does not pin: %q collected", got)
	}
	c.Unpin()
	if got := c.Collect(); !slices.Equal(got, []string{d}) {
		t.Fatalf("collected %q, want %q", got, d)
	}
	absent(t, c, "w/a")
	absent(t, c, "w/again")
	if contents(t, c, "w/b") != "both" {
		t.Error("a weak link went although its blob is held by another name")
	}
	if got := walked(c, "w", ""); !slices.Equal(got, []string{"w/b", "w/rec"}) {
		t.Errorf("Walk shows %q", got)
	}
	if list, err := c.ReadDir("w"); len(list) != 2 || err != nil {
		t.Errorf("ReadDir shows %v, %v", list, err)
	}
	fill(t, c, func(b Batch) { b.Remove("w/rec"); b.Remove("w/b"); b.Expect("w/a", 0) })
	absent(t, c, "w")
	fill(t, c, func(b Batch) { b.Put("w", nil) }) // nothing stands in the way
}

func testWeakLinkRebirth(t *testing.T, tree Tree) {
	c := collecting(t, tree)
	d := store(t, c, []byte("weak"), "")
	fill(t, c, func(b Batch) { b.LinkWeak("old", d) })
	c.Unpin()
	c.Collect()
	store(t, c, []byte("weak"), "")
	absent(t, c, "old") // does not come back with the bytes
	fill(t, c, func(b Batch) { b.LinkWeak("new", d) })
	if contents(t, c, "new") != "weak" {
		t.Error("a new weak link does not show")
	}
	absent(t, c, "old")
}

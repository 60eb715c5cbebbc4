package treetest

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"
)

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

package treetest

import (
	"context"
	"testing"
	"testing/fstest"
)

func TestMemIsAFileSystem(t *testing.T) {
	m := New(t)
	ctx := context.Background()
	w, _ := m.CreateBlob("")
	w.Write([]byte("hello"))
	d, err := w.Commit(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := m.Update(ctx, func(b Batch) error {
		b.Put("a/b/c", []byte("1"))
		b.Link("a/d", d)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(m, "a/b/c", "a/d"); err != nil {
		t.Fatal(err)
	}
}

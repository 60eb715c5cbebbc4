package tree_test

import (
	"context"
	"errors"
	"io/fs"
	"testing"

	"casemate/cluster/tree"
	"casemate/cluster/treetest"
)

// named is a tree whose writers are NamedCommitters, like those of a cluster.
type named struct {
	*treetest.Mem
	commits int
}

type namedWriter struct {
	tree.BlobWriter
	t *named
}

func (n *named) CreateBlob(id string) (tree.BlobWriter, error) {
	w, err := n.Mem.CreateBlob(id)
	return namedWriter{w, n}, err
}

func (w namedWriter) Commit(context.Context, string) (string, error) {
	return "", errors.New("blob and name must be committed together")
}

func (w namedWriter) CommitNamed(
	ctx context.Context, digest string, names func(tree.Batch, string) error,
) (string, error) {
	w.t.commits++
	got, err := w.BlobWriter.Commit(ctx, digest)
	if err != nil {
		return "", err
	}
	return got, w.t.Mem.Update(ctx, func(b tree.Batch) error { return names(b, got) })
}

// A file is written and replaced, in one step where the tree can do that; where a step fails, the file stays.
func TestWriteFile(t *testing.T) {
	broken := errors.New("broken")
	for _, tt := range []struct {
		name string
		open func(m *treetest.Mem) tree.Writable
	}{
		{"in two steps", func(m *treetest.Mem) tree.Writable { return m }},
		{"in one step", func(m *treetest.Mem) tree.Writable { return &named{Mem: m} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := treetest.New(t)
			w := tt.open(m)
			want := func(text string) {
				t.Helper()
				if got, err := m.ReadFile("dir/n1"); err != nil || string(got) != text {
					t.Errorf("got %q, %v, want %q", got, err, text)
				}
			}
			if err := tree.WriteFile(t.Context(), w, "dir/n1", []byte("first")); err != nil {
				t.Fatal(err)
			}
			want("first")
			for _, what := range []string{"blob", "update"} {
				m.Fail = func(now string) (error, bool) {
					if now == what {
						return broken, false
					}
					return nil, false
				}
				if err := tree.WriteFile(t.Context(), w, "dir/n1", []byte("lost")); !errors.Is(err, broken) {
					t.Errorf("%s failed: got %v", what, err)
				}
				want("first")
			}
			m.Fail = nil
			large := make([]byte, 1<<16) // too large for a record
			if err := tree.WriteFile(t.Context(), w, "dir/n1", large); err != nil {
				t.Fatal(err)
			}
			want(string(large))
			if err := tree.WriteFile(t.Context(), w, "../n1", nil); !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("a wrong name: got %v", err)
			}
			if n, ok := w.(*named); ok && n.commits != 5 {
				t.Errorf("%d commits together, want 5", n.commits)
			}
		})
	}
}

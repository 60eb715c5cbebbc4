package cluster

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"casemate/cluster/waittest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// Raft never answers commands that it had queued when a failing disk has ended its goroutine; the process ends
	// then.
	waittest.Main(m, goleak.Find, goleak.IgnoreAnyFunction("github.com/hashicorp/raft.(*deferError).Error"))
}

// testConfig logs to the test.
func testConfig(t testing.TB, dir string) Config {
	return Config{
		Dir: dir, Node: "n1", SegmentSize: 1 << 20, LeaderWait: 10 * time.Minute, // a busy machine is slow
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

// start opens a node in cfg.Dir, and bootstraps it if it is new. It is closed when the test ends.
func start(t testing.TB, cfg Config) *Cluster {
	t.Helper()
	c, err := Open(cfg)
	if err != nil {
		if !strings.Contains(err.Error(), "not initialised") {
			t.Fatal(err)
		}
		if err := Bootstrap(cfg); err != nil {
			t.Fatal(err)
		}
		if c, err = Open(cfg); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return c
}

func push(t testing.TB, tree *Tree, data []byte) string {
	t.Helper()
	w, err := tree.CreateBlob("")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	d, err := w.Commit(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func update(t testing.TB, tree *Tree, fn func(Batch)) {
	t.Helper()
	if err := tree.Update(context.Background(), func(b Batch) error { fn(b); return nil }); err != nil {
		t.Fatal(err)
	}
}

func TestTreeIsAFileSystem(t *testing.T) {
	t.Parallel()
	c := start(t, testConfig(t, t.TempDir()))
	tree := c.Tree()
	d := push(t, tree, []byte("hello"))
	update(t, tree, func(b Batch) {
		b.Put("a/b/c", []byte("1"))
		b.Put("a/b-c", nil)
		b.Link("a/d", d)
	})
	if err := fstest.TestFS(tree, "a/b/c", "a/d", "a/b-c"); err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(tree.Sub("a"), "b/c", "d", "b-c"); err != nil {
		t.Fatal(err)
	}
	f, err := tree.OpenBlob(context.Background(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if data, err := io.ReadAll(f); string(data) != "hello" || err != nil {
		t.Fatalf("%q, %v", data, err)
	}
}

func TestReopen(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	c := start(t, cfg)
	d := push(t, c.Tree(), []byte("hello"))
	update(t, c.Tree(), func(b Batch) { b.Link("x/y", d); b.Put("z", []byte("1")) })
	c.Close()
	c = start(t, cfg)
	if data, err := c.Tree().ReadFile("x/y"); string(data) != "hello" || err != nil {
		t.Fatalf("%q, %v", data, err)
	}
	update(t, c.Tree(), func(b Batch) { b.Remove("x") })
	if _, err := c.Tree().Stat("x"); err == nil {
		t.Fatal("removed, and there")
	}
}

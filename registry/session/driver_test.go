package session

import (
	"context"
	"errors"
	"flag"
	"io"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"time"

	"casemate/cluster/treetest"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/testsuites"
)

// forgiving closes at the end what distribution's suite leaves open, so that only what the driver leaves open fails the
// strict tree.
type forgiving struct {
	*treetest.Mem
	mu   sync.Mutex
	open []*onceCloser
}

type onceCloser struct {
	io.ReadSeekCloser
	once sync.Once
}

func (c *onceCloser) Close() (err error) {
	c.once.Do(func() { err = c.ReadSeekCloser.Close() })
	return err
}

func (f *forgiving) OpenBlob(ctx context.Context, d string) (io.ReadSeekCloser, error) {
	r, err := f.Mem.OpenBlob(ctx, d)
	if err != nil {
		return nil, err
	}
	c := &onceCloser{ReadSeekCloser: r}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open = append(f.open, c)
	return c, nil
}

// TestDriver is distribution's own test of a storage driver. It is run in its short form, because the tree is in memory
// here and the long one writes 5 GiB (and it sleeps a quarter of a minute for a modification time, so not with -short).
func TestDriver(t *testing.T) {
	if testing.Short() {
		t.Skip("distribution's suite sleeps")
	}
	if err := flag.Set("test.short", "true"); err != nil {
		t.Fatal(err)
	}
	defer flag.Set("test.short", "false")
	tree := &forgiving{Mem: treetest.New(t)}
	sessions := open(t, Config{Tree: tree})
	testsuites.Driver(t, func() (storagedriver.StorageDriver, error) {
		return driverFactory{}.Create(context.Background(), map[string]any{driverParameter: sessions})
	}, false)
	for _, c := range tree.open {
		c.Close()
	}
}

func TestDriverPaths(t *testing.T) {
	tree := treetest.New(t)
	d := &driver{tree: tree, sessions: newTable(tree, time.Now)}
	ctx := context.Background()
	hex := strings.Repeat("ab", 32)
	for _, p := range []string{
		"", "a", "//a", "/a/../b", "/a/", "/a\x00b", `/a\b`, "/.", "/..",
		driverRoot + "/repositories/a/_uploads/../../b", driverRoot + "/repositories/a/_uploads/x;y/data",
		driverRoot + "/repositories/a/_layers/sha256/short/link",
		driverRoot + "/repositories/a/_layers/md5/" + hex + "/link",
	} {
		var invalid storagedriver.InvalidPathError
		if err := d.PutContent(ctx, p, []byte("x")); !errors.As(err, &invalid) {
			t.Errorf("put %q: %v, want an InvalidPathError", p, err)
		}
		if _, err := d.Writer(ctx, p, false); !errors.As(err, &invalid) {
			t.Errorf("write %q: %v, want an InvalidPathError", p, err)
		}
	}
	for range tree.Walk(".", "") {
		t.Fatal("a bad path left something in the tree")
	}
	// A link to bytes that are nowhere is an error and leaves nothing.
	err := d.PutContent(ctx, driverRoot+"/repositories/a/_layers/sha256/"+hex+"/link", []byte("sha256:"+hex))
	var missing storagedriver.PathNotFoundError
	if !errors.As(err, &missing) {
		t.Errorf("a link to nothing: %v", err)
	}
	if err := d.Delete(ctx, driverRoot+"/blobs/sha256/ab/"+hex+"/data"); !errors.As(err,
		new(storagedriver.ErrUnsupportedMethod)) {
		t.Errorf("distribution may delete blobs: %v", err)
	}
	if _, err := tree.Stat("repositories"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a refused link made a directory: %v", err)
	}
}

package cluster

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"casemate/cluster/state"
	"casemate/cluster/treetest"
)

// clock is a clock that a test sets forward.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time           { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) forward(d time.Duration)  { c.ahead.Add(int64(d)) }
func (c *clock) config(cfg Config) Config { cfg.Now = c.now; return cfg }

// collector is a Tree whose pins can end.
type collector struct {
	*Tree
	t     testing.TB
	clock *clock
}

// Damage changes a byte of a blob on the disk.
func (c collector) Damage(digest string) {
	algorithm, digits, _ := strings.Cut(digest, ":")
	f, err := os.OpenFile(filepath.Join(c.c.cfg.Dir, blobDir, algorithm, digits[:2], digits), os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt([]byte{0}, 0)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c collector) Unpin() { c.clock.forward(2 * time.Hour) }

func (c collector) Collect() []string {
	before := known(c.c)
	if _, err := c.c.GC(context.Background(), false); err != nil {
		c.t.Fatalf("GC: %v", err)
	}
	after := known(c.c)
	return slices.DeleteFunc(before, func(d string) bool { return slices.Contains(after, d) })
}

// known lists the blobs that the tree knows, sorted.
func known(c *Cluster) (list []string) {
	for d := range c.machine.view.Load().Blobs(state.Digest("")) {
		list = append(list, d.String())
	}
	slices.Sort(list)
	return list
}

func TestConformance(t *testing.T) {
	t.Parallel()
	for name, sub := range map[string]string{"Whole": ".", "Sub": "some/where"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			treetest.Run(t, func(t *testing.T) treetest.Tree {
				clock := new(clock)
				c := start(t, clock.config(testConfig(t, t.TempDir())))
				tree := c.Tree().Sub(sub)
				if sub != "." { // neighbours, to be neither seen nor touched
					update(t, c.Tree(), func(b Batch) { b.Put("some/one", nil); b.Put("some/where-else", nil) })
					t.Cleanup(func() {
						for _, name := range []string{"some/one", "some/where-else"} {
							if _, err := c.Tree().Stat(name); err != nil {
								t.Errorf("the neighbour is gone: %v", err)
							}
						}
					})
				}
				return collector{tree, t, clock}
			})
		})
	}
}

var _ treetest.Tree = (*Tree)(nil)

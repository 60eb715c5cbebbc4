package content

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"golang.org/x/sync/errgroup"
)

// putMany puts n blobs, eight at a time, each of them twice.
func putMany(t *testing.T, k *sink, n int) (digests []string, err error) {
	digests = make([]string, n)
	var puts errgroup.Group
	puts.SetLimit(8)
	for i := range 2 * n {
		data := fmt.Appendf(nil, "blob %d", i/2)
		puts.Go(func() error {
			got, _, err := k.Put(t.Context(), "", int64(len(data)), bytes.NewReader(data))
			if i%2 == 0 {
				digests[i/2] = got
			}
			return err
		})
	}
	return digests, puts.Wait()
}

// Small blobs come in groups: few log entries and few open files, however many blobs there are, and each once.
func TestSmallBlobsComeInGroups(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(c *Config) { c.groupAt = 50; c.flushEvery = 1 << 40 })
	k := newSink(s.Engine)
	defer k.small.drop()
	most := 0
	before, commits := s.node.Status().Applied, 0
	s.tree.fail = func(_ int, what string) (error, bool) {
		k.small.mu.Lock()
		defer k.small.mu.Unlock()
		most = max(most, len(k.small.by))
		if what == "commit" {
			commits++
		}
		return nil, false
	}
	digests, err := putMany(t, k, 1000)
	if err = errors.Join(err, k.small.finish(t.Context())); err != nil {
		t.Fatal(err)
	}
	for _, d := range digests {
		if _, err := s.node.Tree().HasBlob(t.Context(), d); err != nil {
			t.Error(err)
		}
	}
	if took := s.node.Status().Applied - before; took > 60 { // 20 and more groups, since the last ones are not full
		t.Errorf("%d log entries for 1000 blobs", took)
	}
	if commits != 1000 {
		t.Errorf("%d commits for 1000 blobs", commits)
	}
	if len(k.small.by) > 0 {
		t.Errorf("%d blobs are remembered", len(k.small.by))
	}
	if most > 2*(50+8) { // one group is committed, one waits, and each Put may have one more
		t.Errorf("%d files were open", most)
	}
}

// The disk fills up: committed blobs stay, the import ends with the reason, and nothing more is written.
func TestDiskFullAmongSmallBlobs(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(c *Config) { c.groupAt = 10 })
	commits := 0
	s.tree.fail = func(_ int, what string) (error, bool) {
		if what != "commit" {
			return nil, false
		}
		if commits++; commits > 25 {
			return fmt.Errorf("no room: %w", syscall.ENOSPC), false
		}
		return nil, false
	}
	k := newSink(s.Engine)
	digests, err := putMany(t, k, 100)
	err = errors.Join(err, k.small.finish(t.Context()))
	if !errors.Is(err, syscall.ENOSPC) || !errors.As(err, new(ours)) {
		t.Errorf("it ends with %v", err)
	}
	k.small.drop()
	if _, _, err := k.Put(t.Context(), "", 4, bytes.NewReader([]byte("more"))); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("one more: %v", err)
	}
	k.small.drop()
	there := 0
	for _, d := range digests {
		if _, err := s.node.Tree().HasBlob(t.Context(), d); d != "" && err == nil {
			there++
		}
	}
	if there != 25 || len(k.wrote) != 25 {
		t.Errorf("%d blobs are there, and %d are said to be", there, len(k.wrote))
	}
	if list, err := s.node.Tree().ReadDir("imports"); len(list) > 0 {
		t.Errorf("%v, %v", list, err)
	}
}

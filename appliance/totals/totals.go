// Package totals counts what is stored of each origin: images, files, and the bytes of their blobs.
//
// It promises: content is counted when somebody asks for the list and something has changed, never on its own. Counting
// takes at most a tenth of the time; a list that is asked for more often than that is a little old.
package totals

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"
)

// Directories of the tree.
const (
	imagesDir = "registry/repositories"
	filesDir  = "files"
)

const (
	countAtOnce = time.Second // how long counting may take without a pause
	countShare  = 10          // and then one part in so many of the time
)

// Tree is the part of the tree that is counted.
type Tree interface {
	fs.ReadDirFS
	Watch(ctx context.Context, dir string) <-chan struct{}
	// Weigh returns the bytes of the blobs that the files below dirs keep, each blob once, and calls file with each
	// file's name.
	Weigh(dirs []string, file func(name string)) (bytes int64)
}

// Config configures Totals. Tree and IsTag are required.
type Config struct {
	Tree Tree
	// IsTag reports whether a name below registry/ is that of a tag.
	IsTag func(name []byte) bool
	Now   func() time.Time // nil: time.Now
}

// Origin is what is stored of one origin.
type Origin struct {
	// Origin is the host, "" for images that belong to none: those that were pushed under a name of one's own.
	Origin string `json:"origin"`
	Images int    `json:"images"` // tags
	Files  int    `json:"files"`
	// Bytes are those of all blobs that these names need, each blob once. What two origins share counts for both.
	Bytes int64 `json:"bytes"`
}

// Totals counts. Its methods are safe for concurrent use.
type Totals struct {
	cfg     Config
	changed []<-chan struct{}
	ctx     context.Context // done when it is closed
	stop    context.CancelFunc
	running sync.WaitGroup // the goroutine that counts

	mu       sync.Mutex
	dirty    bool          // something has changed since the last count began
	counting chan struct{} // closed when the count that goes on has ended; nil: none does
	counts   uint64        // that have ended
	current  []Origin      // of the last count
	err      error
	spent    time.Duration // time of counting that was not paid back
	last     time.Time     // when spent was updated
}

// Open returns Totals; nothing is counted yet.
func Open(cfg Config) *Totals {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	ctx, stop := context.WithCancel(context.Background())
	return &Totals{cfg: cfg, ctx: ctx, stop: stop, dirty: true,
		changed: []<-chan struct{}{cfg.Tree.Watch(ctx, imagesDir), cfg.Tree.Watch(ctx, filesDir)}}
}

// Close ends counting and watching the tree.
func (t *Totals) Close() error {
	t.stop()
	t.running.Wait()
	return nil
}

// List returns the origins of which something is stored, the one with most bytes first. If something has changed and
// counting has not taken its share of the time, it is counted again: with wait the answer is as of now, without it
// that of the last count, if there was one.
func (t *Totals) List(ctx context.Context, wait bool) ([]Origin, error) {
	// A count that goes on may have begun before what the caller knows of, so there may have to be another.
	for range 2 {
		counting, began, counted := t.next()
		if counting == nil || counted && !wait {
			break
		}
		select {
		case <-counting:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-t.ctx.Done():
			return nil, context.Cause(t.ctx)
		}
		if began {
			break
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.current), t.err
}

// Changed returns a number that is another one after each count.
func (t *Totals) Changed() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts
}

// next returns the count that goes on, nil if none does, after it has begun one if that is necessary and allowed.
// counted reports that there was one before.
func (t *Totals) next() (counting chan struct{}, began, counted bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.changed {
		select {
		case <-c:
			t.dirty = true
		default:
		}
	}
	counted = t.counts > 0
	if t.counting != nil || !t.dirty || t.ctx.Err() != nil {
		return t.counting, false, counted
	}
	now := t.cfg.Now()
	t.spent = max(0, t.spent-now.Sub(t.last)/countShare)
	t.last = now
	if t.spent >= countAtOnce {
		return nil, false, counted
	}
	t.dirty = false // before counting: a change meanwhile makes it dirty again
	t.counting = make(chan struct{})
	t.running.Go(t.run)
	return t.counting, true, counted
}

// run counts once.
func (t *Totals) run() {
	begin := t.cfg.Now()
	list, err := t.count()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = t.cfg.Now()
	t.spent += t.last.Sub(begin)
	if t.err = err; err == nil {
		t.current = list
	} else {
		t.dirty = true
	}
	t.counts++
	close(t.counting)
	t.counting = nil
}

// count counts everything.
func (t *Totals) count() ([]Origin, error) {
	dirs := map[string][]string{} // by origin
	for _, root := range []string{imagesDir, filesDir} {
		entries, err := t.cfg.Tree.ReadDir(root)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("content by origin: %w", err)
		}
		for _, e := range entries {
			host := e.Name()
			if root == imagesDir && !strings.ContainsAny(host, ".:") { // as the registry tells hosts from names
				host = ""
			}
			dirs[host] = append(dirs[host], root+"/"+e.Name())
		}
	}
	list := make([]Origin, 0, len(dirs))
	var buffer []byte
	for host, below := range dirs {
		if err := t.ctx.Err(); err != nil {
			return nil, err
		}
		o := Origin{Origin: host}
		o.Bytes = t.cfg.Tree.Weigh(below, func(name string) {
			image, ok := strings.CutPrefix(name, "registry/")
			if !ok {
				o.Files++
				return
			}
			if buffer = append(buffer[:0], image...); t.cfg.IsTag(buffer) {
				o.Images++
			}
		})
		if o.Images > 0 || o.Files > 0 || o.Bytes > 0 {
			list = append(list, o)
		}
	}
	slices.SortFunc(list, func(a, b Origin) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Origin, b.Origin))
	})
	return list, nil
}

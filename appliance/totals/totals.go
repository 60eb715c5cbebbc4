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

// Totals counts. List is safe for concurrent use.
type Totals struct {
	cfg     Config
	changed []<-chan struct{}
	stop    context.CancelFunc

	mu      sync.Mutex // held while counting; guards the fields below
	dirty   bool
	current []Origin
	spent   time.Duration // time of counting that was not paid back
	last    time.Time     // when spent was updated
}

// Open returns Totals; nothing is counted yet.
func Open(cfg Config) *Totals {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	ctx, stop := context.WithCancel(context.Background())
	return &Totals{cfg: cfg, stop: stop, dirty: true,
		changed: []<-chan struct{}{cfg.Tree.Watch(ctx, imagesDir), cfg.Tree.Watch(ctx, filesDir)}}
}

// Close ends watching the tree.
func (t *Totals) Close() error {
	t.stop()
	return nil
}

// List returns the origins of which something is stored, the one with most bytes first. It is as of now, or as of the
// last count if counting has taken its share of the time.
func (t *Totals) List() ([]Origin, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.changed {
		select {
		case <-c:
			t.dirty = true
		default:
		}
	}
	if !t.dirty {
		return slices.Clone(t.current), nil
	}
	begin := t.cfg.Now()
	t.spent = max(0, t.spent-begin.Sub(t.last)/countShare)
	t.last = begin
	if t.spent >= countAtOnce {
		return slices.Clone(t.current), nil
	}
	t.dirty = false // before counting: a change meanwhile makes it dirty again
	list, err := t.count()
	if err != nil {
		t.dirty = true
		return nil, err
	}
	t.current, t.last = list, t.cfg.Now()
	t.spent += t.last.Sub(begin)
	return slices.Clone(list), nil
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

package cluster

import (
	"context"
	"strings"
	"sync"
)

// hub tells watchers of names that changed. Its zero value is ready.
type hub struct {
	mu      sync.Mutex
	watches map[*watch]struct{}
}

type watch struct {
	dir string
	ch  chan struct{} // closed under hub.mu

	follows bool
	names   map[string]struct{} // below dir, changed since they were taken
	all     bool                // names are too many, or not known
}

// maxFollowed is how many changed names a watch remembers.
const maxFollowed = 4096

// concerns reports whether a change of name is one at or below dir, or of a removed directory that dir was in.
func concerns(name, dir string) bool {
	return dir == "." || name == "." || name == dir || strings.HasPrefix(name, dir) && name[len(dir)] == '/' ||
		strings.HasPrefix(dir, name) && dir[len(name)] == '/'
}

func (w *watch) tell() {
	select {
	case w.ch <- struct{}{}:
	default:
	}
}

// note remembers that name has changed, which concerns w.
func (w *watch) note(name string) {
	switch {
	case w.all:
	case w.dir != "." && len(name) <= len(w.dir), name == ".", len(w.names) >= maxFollowed:
		w.all, w.names = true, nil // the directory itself was removed, or one that it is in
	default:
		if w.names == nil {
			w.names = map[string]struct{}{}
		}
		w.names[name] = struct{}{}
	}
}

func (h *hub) notify(names []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watches {
		told := false
		for _, name := range names {
			if !concerns(name, w.dir) {
				continue
			}
			if told = true; !w.follows {
				break
			}
			w.note(name)
		}
		if told {
			w.tell()
		}
	}
}

func (h *hub) notifyAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watches {
		if w.follows {
			w.all, w.names = true, nil
		}
		w.tell()
	}
}

// take returns what w has noted, and begins anew.
func (h *hub) take(w *watch) (names map[string]struct{}, all bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	names, all = w.names, w.all
	w.names, w.all = nil, false
	return names, all
}

// watchUntil is watch until done is called.
func (h *hub) watchUntil(dir string) (changed <-chan struct{}, done context.CancelFunc) {
	ctx, done := context.WithCancel(context.Background())
	return h.watch(ctx, dir), done
}

func (h *hub) watch(ctx context.Context, dir string) <-chan struct{} {
	w := &watch{dir: dir, ch: make(chan struct{}, 1)}
	h.add(ctx, w)
	return w.ch
}

// add makes w a watch until ctx is done.
func (h *hub) add(ctx context.Context, w *watch) {
	h.mu.Lock()
	if h.watches == nil {
		h.watches = map[*watch]struct{}{}
	}
	h.watches[w] = struct{}{}
	h.mu.Unlock()
	context.AfterFunc(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.watches, w)
		close(w.ch)
	})
}

// Package watch notifies watchers of directories of changed names.
package watch

import (
	"context"
	"strings"
	"sync"
)

// Hub notifies watchers of changed names. Its zero value is ready, and it is safe for concurrent use.
type Hub struct {
	mu      sync.Mutex
	watches map[*watcher]struct{}
}

type watcher struct {
	dir string
	ch  chan struct{} // closed while Hub.mu is held

	follows bool
	names   map[string]struct{} // changed names below dir since the last take
	all     bool                // names are too many or unknown
}

// maxFollowed is how many changed names a watcher remembers.
const maxFollowed = 4096

// concerns reports whether a changed name is at or below dir, or is a removed directory above dir.
func concerns(name, dir string) bool {
	return dir == "." || name == "." || name == dir || strings.HasPrefix(name, dir) && name[len(dir)] == '/' ||
		strings.HasPrefix(dir, name) && dir[len(name)] == '/'
}

func (w *watcher) notify() {
	select {
	case w.ch <- struct{}{}:
	default:
	}
}

// record adds a changed name that concerns w.
func (w *watcher) record(name string) {
	switch {
	case w.all:
	case w.dir != "." && len(name) <= len(w.dir), name == ".", len(w.names) >= maxFollowed:
		w.all, w.names = true, nil // dir or a directory above it was removed, or the names are too many
	default:
		if w.names == nil {
			w.names = map[string]struct{}{}
		}
		w.names[name] = struct{}{}
	}
}

// Notify notifies watchers that these names have changed.
func (h *Hub) Notify(names []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watches {
		concerned := false
		for _, name := range names {
			if !concerns(name, w.dir) {
				continue
			}
			if concerned = true; !w.follows {
				break
			}
			w.record(name)
		}
		if concerned {
			w.notify()
		}
	}
}

// NotifyAll notifies all watchers that any name may have changed.
func (h *Hub) NotifyAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watches {
		if w.follows {
			w.all, w.names = true, nil
		}
		w.notify()
	}
}

// take returns the recorded names of w and resets them.
func (h *Hub) take(w *watcher) (names map[string]struct{}, all bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	names, all = w.names, w.all
	w.names, w.all = nil, false
	return names, all
}

// Watch returns a channel that receives (capacity 1) after a name at or below dir has changed, or a directory above dir
// was removed. It is closed when ctx is done.
func (h *Hub) Watch(ctx context.Context, dir string) <-chan struct{} {
	w := &watcher{dir: dir, ch: make(chan struct{}, 1)}
	h.add(ctx, w)
	return w.ch
}

// Follow is Watch with the names: take returns the changed names below dir since its last call; all reports that they
// are too many or unknown.
func (h *Hub) Follow(
	ctx context.Context, dir string,
) (changed <-chan struct{}, take func() (names map[string]struct{}, all bool)) {
	w := &watcher{dir: dir, ch: make(chan struct{}, 1), follows: true}
	h.add(ctx, w)
	return w.ch, func() (map[string]struct{}, bool) { return h.take(w) }
}

// add registers w until ctx is done.
func (h *Hub) add(ctx context.Context, w *watcher) {
	h.mu.Lock()
	if h.watches == nil {
		h.watches = map[*watcher]struct{}{}
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

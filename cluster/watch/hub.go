// Package watch tells watchers of directories about names that have changed.
package watch

import (
	"context"
	"strings"
	"sync"
)

// Hub tells watchers of names that changed. Its zero value is ready, and it is safe for concurrent use.
type Hub struct {
	mu      sync.Mutex
	watches map[*watcher]struct{}
}

type watcher struct {
	dir string
	ch  chan struct{} // closed under Hub.mu

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

func (w *watcher) tell() {
	select {
	case w.ch <- struct{}{}:
	default:
	}
}

// note remembers that name has changed, which concerns w.
func (w *watcher) note(name string) {
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

// Notify tells watchers that these names have changed.
func (h *Hub) Notify(names []string) {
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

// NotifyAll tells all watchers that anything may have changed.
func (h *Hub) NotifyAll() {
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
func (h *Hub) take(w *watcher) (names map[string]struct{}, all bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	names, all = w.names, w.all
	w.names, w.all = nil, false
	return names, all
}

// Watch receives (capacity 1) after a name at or below dir has changed, or a directory that dir was in has been
// removed, until ctx is done; then it is closed.
func (h *Hub) Watch(ctx context.Context, dir string) <-chan struct{} {
	w := &watcher{dir: dir, ch: make(chan struct{}, 1)}
	h.add(ctx, w)
	return w.ch
}

// Follow is Watch with the names: take returns those below dir that have changed since it was last called; all says
// that they are too many, or not known.
func (h *Hub) Follow(
	ctx context.Context, dir string,
) (changed <-chan struct{}, take func() (names map[string]struct{}, all bool)) {
	w := &watcher{dir: dir, ch: make(chan struct{}, 1), follows: true}
	h.add(ctx, w)
	return w.ch, func() (map[string]struct{}, bool) { return h.take(w) }
}

// add makes w a watcher until ctx is done.
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

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
}

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

func (h *hub) notify(names []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watches {
		for _, name := range names {
			if concerns(name, w.dir) {
				w.tell()
				break
			}
		}
	}
}

func (h *hub) notifyAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watches {
		w.tell()
	}
}

// watchUntil is watch until done is called.
func (h *hub) watchUntil(dir string) (changed <-chan struct{}, done context.CancelFunc) {
	ctx, done := context.WithCancel(context.Background())
	return h.watch(ctx, dir), done
}

func (h *hub) watch(ctx context.Context, dir string) <-chan struct{} {
	w := &watch{dir: dir, ch: make(chan struct{}, 1)}
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
	return w.ch
}

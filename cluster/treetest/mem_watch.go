package treetest

import (
	"context"
	"maps"
	"slices"
)

type memWatch struct {
	dir   string
	ch    chan struct{}
	names map[string]bool // below dir, changed since they were taken
	all   bool
}

// maxFollowed is how many changed names a tree remembers for Follow, at most.
const maxFollowed = 4096

// note remembers what changed and tells of it.
func (w *memWatch) note(changed []string) {
	told := false
	for _, name := range changed {
		switch {
		case name == w.dir || name == "." || below(w.dir, name):
			w.all = true
		case below(name, w.dir):
			w.names[name] = true
		default:
			continue
		}
		told = true
	}
	if w.all = w.all || len(w.names) > maxFollowed; w.all {
		clear(w.names)
	}
	if told {
		select {
		case w.ch <- struct{}{}:
		default:
		}
	}
}

func (m *Mem) Watch(ctx context.Context, dir string) <-chan struct{} { return m.watch(ctx, dir).ch }

func (m *Mem) Follow(ctx context.Context, dir string) (<-chan struct{}, func() ([]string, bool)) {
	w := m.watch(ctx, dir)
	return w.ch, func() (names []string, all bool) {
		m.mu.Lock()
		defer m.mu.Unlock()
		names, all = slices.Sorted(maps.Keys(w.names)), w.all
		clear(w.names)
		w.all = false
		return names, all
	}
}

func (m *Mem) watch(ctx context.Context, dir string) *memWatch {
	w := &memWatch{dir: dir, ch: make(chan struct{}, 1), names: map[string]bool{}}
	m.mu.Lock()
	m.watches[w] = true
	m.mu.Unlock()
	context.AfterFunc(ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.watches, w)
		close(w.ch)
	})
	return w
}

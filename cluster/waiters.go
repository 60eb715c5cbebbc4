package cluster

import (
	"context"
	"sync"

	"casemate/cluster/state"
	"casemate/cluster/wake"
)

// waiters are the goroutines that wait for this node to apply an entry. Its zero value is ready.
type waiters struct {
	mu    sync.Mutex
	index uint64
	moved wake.Broadcast             // index has grown
	by    map[name]chan state.Result // of this node's commands, capacity 1
	node  string
}

// of sets the node whose commands are waited for.
func (w *waiters) of(node string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.node, w.by = node, map[name]chan state.Result{}
}

// expect returns the channel that receives the result of a command once it is applied here; forget must follow.
func (w *waiters) expect(n name) <-chan state.Result {
	w.mu.Lock()
	defer w.mu.Unlock()
	ch := make(chan state.Result, 1)
	w.by[n] = ch
	return ch
}

func (w *waiters) forget(n name) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.by, n)
}

// answer passes a result to the goroutine that waits for it. That goroutine receives it only after reached was called
// with its index or a later one.
func (w *waiters) answer(r state.Result) {
	if r.Node == "" || r.Node != w.node {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if ch := w.by[name{r.Boot, r.Seq}]; ch != nil {
		select {
		case ch <- r:
		default: // a repeat: the first result is complete
		}
	}
}

// reached reports that the state at index is visible.
func (w *waiters) reached(index uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index = index
	w.moved.Wake()
}

// after reports whether the state at index, or a later one, is visible; if not, moved is closed when that may have
// changed.
func (w *waiters) after(index uint64) (reached bool, moved <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.index >= index {
		return true, nil
	}
	return false, w.moved.Next()
}

// wait returns when the state at index, or a later one, is visible.
func (w *waiters) wait(ctx context.Context, index uint64) error {
	for {
		reached, moved := w.after(index)
		if reached {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

package fileserver

import (
	"context"
	"sync"
)

// memo remembers values that are computed from the bytes of blobs, by a key that contains a digest. The values are in
// memory and not in the tree: a read must not write, least of all without a quorum, and a value lost at a restart costs
// one reading of the blob.
type memo[V any] struct {
	most int // values remembered
	busy int // values computed at a time

	mu      sync.Mutex
	running map[string]chan struct{} // closed when that computation ends, with or without error
	known   map[string]V
}

func newMemo[V any](most, busy int) *memo[V] {
	return &memo[V]{most: most, busy: busy, running: map[string]chan struct{}{}, known: map[string]V{}}
}

// get returns the value of a key, which compute computes if it is not known. It is computed once for all who wait.
func (m *memo[V]) get(ctx context.Context, key string, compute func(context.Context) (V, error)) (V, error) {
	done := make(chan struct{})
	for {
		m.mu.Lock()
		if v, ok := m.known[key]; ok {
			m.mu.Unlock()
			return v, nil
		}
		wait, running := m.running[key]
		if !running && len(m.running) >= m.busy {
			for _, wait = range m.running {
				break // any of them: a slot is free when it ends
			}
			running = true
		}
		if !running {
			m.running[key] = done
			m.mu.Unlock()
			break
		}
		m.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			var none V
			return none, ctx.Err()
		}
	}
	// A client that gives up does not stop the computation: it will ask again, and a file that takes longer to hash
	// than the client waits would never get its checksum.
	v, err := compute(context.WithoutCancel(ctx))
	m.mu.Lock()
	delete(m.running, key)
	if err == nil {
		for old := range m.known {
			if len(m.known) < m.most {
				break
			}
			delete(m.known, old)
		}
		m.known[key] = v
	}
	m.mu.Unlock()
	close(done)
	return v, err
}

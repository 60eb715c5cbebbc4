package download

import "sync"

// keyedMutex has a mutex for every key.
type keyedMutex struct {
	mu   sync.Mutex
	held map[string]*keyHolders
}

type keyHolders struct {
	sync.Mutex
	n int
}

// lock locks a key and returns the function that unlocks it.
func (k *keyedMutex) lock(key string) (unlock func()) {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[string]*keyHolders{}
	}
	h := k.held[key]
	if h == nil {
		h = &keyHolders{}
		k.held[key] = h
	}
	h.n++
	k.mu.Unlock()
	h.Lock()
	return func() {
		h.Unlock()
		k.mu.Lock()
		if h.n--; h.n == 0 {
			delete(k.held, key)
		}
		k.mu.Unlock()
	}
}

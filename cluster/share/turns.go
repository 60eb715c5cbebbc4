package share

import (
	"container/list"
	"sync"
)

// Turns lets large copies run a few at a time, so that what is small finds a core at once however many copies there
// are. A turn is for a piece of work that takes under a millisecond and waits for nobody: who has to wait, for a client
// or a disk, gives its turn back first. Clients take turns one after the other: one with a hundred copies gets as many
// as one with a single copy. It reads no clock. All methods are safe for concurrent use.
type Turns struct {
	mu     sync.Mutex
	free   int
	queues map[string]*queue
	next   *list.List // of *queue that have somebody waiting, the client whose turn comes first in front
}

// queue is those of one client that wait for a turn, the first that came in front.
type queue struct {
	client  string
	waiting []chan struct{}
}

// NewTurns makes n turns, at least one.
func NewTurns(n int) *Turns {
	return &Turns{free: max(1, n), queues: map[string]*queue{}, next: list.New()}
}

// Take waits for a turn.
func (t *Turns) Take(client string) {
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return
	}
	q := t.queues[client]
	if q == nil {
		q = &queue{client: client}
		t.queues[client] = q
		t.next.PushBack(q)
	}
	mine := make(chan struct{})
	q.waiting = append(q.waiting, mine)
	t.mu.Unlock()
	<-mine
}

// Free gives a turn back, to whoever is next.
func (t *Turns) Free() {
	t.mu.Lock()
	defer t.mu.Unlock()
	front := t.next.Front()
	if front == nil {
		t.free++
		return
	}
	q := front.Value.(*queue)
	close(q.waiting[0])
	q.waiting = q.waiting[1:]
	if len(q.waiting) == 0 {
		t.next.Remove(front)
		delete(t.queues, q.client)
		return
	}
	t.next.MoveToBack(front)
}

// Waiting is how many wait for a turn.
func (t *Turns) Waiting() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, q := range t.queues {
		n += len(q.waiting)
	}
	return n
}

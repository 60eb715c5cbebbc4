package share

import (
	"container/list"
	"sync"
)

// Turns bounds how many large copies run at a time, so that small work finds a core at once however many copies there
// are. A turn is for work that takes under a millisecond and does not block: a copy that has to wait for a client or a
// disk frees its turn first. Clients take turns in rotation: a client with a hundred copies gets as many turns as one
// with a single copy. It reads no clock. All methods are safe for concurrent use.
type Turns struct {
	mu     sync.Mutex
	free   int
	queues map[string]*queue
	next   *list.List // of non-empty *queue; the next client is in front
}

// queue holds the waiting copies of one client, in order of arrival.
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

// Free frees a turn for the next waiting copy.
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

// Waiting is the number of calls of Take that wait.
func (t *Turns) Waiting() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, q := range t.queues {
		n += len(q.waiting)
	}
	return n
}

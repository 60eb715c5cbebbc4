// Package wake tells goroutines that something has changed, over channels, so that they can wait for it beside other
// things.
package wake

import "time"

// Within is how long to wait for the next whole multiple of d on the clock, at most d. A processor that is woken for one
// of those who wait like this is awake for all of them.
func Within(d time.Duration) time.Duration {
	now := time.Now()
	return d - now.Sub(now.Truncate(d))
}

// Broadcast wakes everybody who waits for the next change. The lock that guards what changes guards the Broadcast too.
// Its zero value is ready.
type Broadcast struct{ next chan struct{} } // nil until somebody waits

// Next is closed at the next Wake.
func (b *Broadcast) Next() <-chan struct{} {
	if b.next == nil {
		b.next = make(chan struct{})
	}
	return b.next
}

// Wake reports a change to all who wait.
func (b *Broadcast) Wake() {
	if b.next != nil {
		close(b.next)
		b.next = nil
	}
}

// Flag tells one goroutine, which receives from it, that there is something to do. Raised twice before it is received,
// it is received once.
type Flag chan struct{}

// NewFlag returns a flag that is not raised.
func NewFlag() Flag { return make(Flag, 1) }

// Raise sets the flag. It does not wait.
func (f Flag) Raise() {
	select {
	case f <- struct{}{}:
	default:
	}
}

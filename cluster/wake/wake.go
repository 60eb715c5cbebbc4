// Package wake wakes goroutines after a change, through channels, so that they can wait for other events too.
package wake

import "time"

// Within returns how long to wait for the next whole multiple of d on the clock, at most d. A processor that wakes for
// one goroutine that waits like this is awake for all of them.
func Within(d time.Duration) time.Duration {
	now := time.Now()
	return d - now.Sub(now.Truncate(d))
}

// Broadcast wakes all goroutines that wait for the next change. The lock that guards the changing value guards the
// Broadcast too. Its zero value is ready.
type Broadcast struct{ next chan struct{} } // nil if no goroutine waits

// Next returns a channel that the next Wake closes.
func (b *Broadcast) Next() <-chan struct{} {
	if b.next == nil {
		b.next = make(chan struct{})
	}
	return b.next
}

// Wake wakes all waiting goroutines.
func (b *Broadcast) Wake() {
	if b.next != nil {
		close(b.next)
		b.next = nil
	}
}

// Flag wakes the one goroutine that receives from it. If it is raised twice before it is received, it is received once.
type Flag chan struct{}

// NewFlag returns a flag that is not raised.
func NewFlag() Flag { return make(Flag, 1) }

// Raise sets the flag. It does not block.
func (f Flag) Raise() {
	select {
	case f <- struct{}{}:
	default:
	}
}

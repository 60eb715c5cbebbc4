package wake

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Callers that wait within the same interval wake at the same moment, which is never later than it.
func TestWithin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const d = 200 * time.Millisecond
		began := time.Now()
		var all sync.WaitGroup
		for _, after := range []time.Duration{d, d + 1, d + d/4, 2*d - 1} {
			all.Go(func() {
				time.Sleep(after)
				time.Sleep(Within(d))
				if woke := time.Since(began); woke != 2*d {
					t.Errorf("who began to wait after %s woke after %s, not %s", after, woke, 2*d)
				}
			})
		}
		all.Wait()
	})
}

func TestBroadcast(t *testing.T) {
	var b Broadcast
	b.Wake() // nobody waits
	first, again := b.Next(), b.Next()
	if first != again {
		t.Error("two who wait for the same change have two channels")
	}
	select {
	case <-first:
		t.Fatal("woken before the change")
	default:
	}
	b.Wake()
	<-first
	select {
	case <-b.Next():
		t.Error("a change that is over wakes who waits for the next one")
	default:
	}
}

func TestFlag(t *testing.T) {
	f := NewFlag()
	f.Raise()
	f.Raise()
	<-f
	select {
	case <-f:
		t.Error("raised twice before it was received, it is received twice")
	default:
	}
	f.Raise()
	<-f
}

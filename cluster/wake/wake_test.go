package wake

import "testing"

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

package appliance

import (
	"iter"
	"testing"
	"time"
)

// patience is after how long a wait ends that nothing will end. It judges nothing: no machine is so busy.
const patience = 5 * time.Minute

// wait returns when it is so, at which it looks again and again.
func wait(t testing.TB, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !so(); time.Sleep(time.Millisecond) { // between two looks
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// until yields what comes out of a channel.
func until[T any](t testing.TB, c <-chan T, what string) iter.Seq[T] {
	return func(yield func(T) bool) {
		t.Helper()
		end := time.After(patience)
		for {
			select {
			case x, ok := <-c:
				if !ok {
					t.Fatalf("it ended before %s", what)
				}
				if !yield(x) {
					return
				}
			case <-end:
				t.Fatalf("waited in vain until %s", what)
			}
		}
	}
}

package appliance

import (
	"iter"
	"testing"
	"time"
)

// patience is the timeout of a wait whose condition never becomes true. It is longer than any delay of a busy
// machine.
const patience = 5 * time.Minute

// wait polls until so returns true.
func wait(t testing.TB, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !so(); time.Sleep(time.Millisecond) { // poll interval
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// until yields the values received from a channel.
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

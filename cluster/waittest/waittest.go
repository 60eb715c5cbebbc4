// Package waittest waits in tests for conditions, not for times: a verdict does not depend on how busy the machine is.
package waittest

import (
	"iter"
	"testing"
	"time"
)

// patience ends a wait whose condition never becomes true. It is longer than any delay of a busy machine.
const patience = 5 * time.Minute

// Until polls until so returns true.
func Until(t testing.TB, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !so(); time.Sleep(time.Millisecond) { // poll interval
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// Each yields the values received from a channel. what is what a caller that goes on to the next value waits for.
func Each[T any](t testing.TB, c <-chan T, what string) iter.Seq[T] {
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

// Next receives the next value from a channel.
func Next[T any](t testing.TB, c <-chan T, what string) (x T) {
	t.Helper()
	for x = range Each(t, c, what) {
		break
	}
	return x
}

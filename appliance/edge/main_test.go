package edge

import (
	"iter"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
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

// next receives the next value from a channel.
func next[T any](t testing.TB, c <-chan T, what string) (x T) {
	t.Helper()
	for x = range until(t, c, what) {
		break
	}
	return x
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testLog writes to the test's log.
func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

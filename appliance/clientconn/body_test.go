package clientconn

import (
	"io"
	"strings"
	"testing"
	"time"
)

// After a body was read whole or closed, its deadline must not end what follows on the connection: a long answer, the
// next request.
func TestADeadlineEndsWithItsBody(t *testing.T) {
	for _, end := range []func(io.ReadCloser){
		func(b io.ReadCloser) { io.Copy(io.Discard, b) },
		func(b io.ReadCloser) { b.Read(make([]byte, 1)); b.Close() },
	} {
		var last time.Time
		set := false
		deadline := func(at time.Time) error {
			set = set || !at.IsZero()
			last = at
			return nil
		}
		b := &Body{ReadCloser: io.NopCloser(strings.NewReader("hello")), deadline: deadline}
		b.budget.Wait = time.Minute
		end(b)
		if !set || !last.IsZero() {
			t.Errorf("a deadline was set: %v, and is left: %v", set, last)
		}
	}
}

package transport

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"
)

// TestDoBody: broken bodies are repeated until the attempts are used up, and wrong ones until they are wrong twice in
// the same way; every other error is final.
func TestDoBody(t *testing.T) {
	broken, wrong := BrokenError{Err: errors.New("cut")}, WrongError{Err: errors.New("sum a")}
	other := WrongError{Err: errors.New("sum b")}
	final := errors.New("404")
	for _, tt := range []struct {
		name string
		errs []error // of the attempts, the last one again and again
		want error
		n    int // attempts
	}{
		{"success", []error{nil}, nil, 1},
		{"final", []error{final}, final, 1},
		{"broken once", []error{broken, nil}, nil, 2},
		{"broken always", []error{broken}, broken, MaxAttempts},
		{"wrong once", []error{wrong, nil}, nil, 2},
		{"wrong twice in the same way", []error{wrong, wrong, nil}, wrong, 2},
		{"wrong in two ways", []error{wrong, other, nil}, nil, 3},
	} {
		n, waits := 0, 0
		r := Retry{Log: slog.New(slog.DiscardHandler), Wait: func(context.Context, time.Duration) error {
			waits++
			return nil
		}}
		err := r.DoBody(t.Context(), func() error {
			n++
			return tt.errs[min(n, len(tt.errs))-1]
		})
		if err != tt.want || n != tt.n || waits != n-1 {
			t.Errorf("%s: got %v after %d attempts and %d pauses, want %v after %d", tt.name, err, n, waits,
				tt.want, tt.n)
		}
	}
	// A pause that ends early ends the retries.
	stop := errors.New("stop")
	r := Retry{Log: slog.New(slog.DiscardHandler), Wait: func(context.Context, time.Duration) error { return stop }}
	if err := r.DoBody(t.Context(), func() error { return broken }); err != stop {
		t.Errorf("got %v", err)
	}
}

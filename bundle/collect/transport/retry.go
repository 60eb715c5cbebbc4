package transport

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"
)

const (
	// MaxAttempts is the number of attempts for one request, and for a body that makes no progress.
	MaxAttempts = 6

	minBackoff = 500 * time.Millisecond // doubles with every attempt
	maxBackoff = 30 * time.Second
)

// Retry repeats what can succeed the next time. It is the only retry loop of the collector: requests, bodies and wrong
// content wait by the same backoff.
type Retry struct {
	Wait func(ctx context.Context, d time.Duration) error // nil: Sleep
	Log  *slog.Logger
}

// Do runs op until it succeeds, ctx ends or again refuses another attempt. again returns how many attempts have failed
// in a row, which determines the pause. attrs are added to the log line of each retry.
func (r Retry) Do(ctx context.Context, op func() error, again func(err error) (failures int, ok bool),
	attrs ...any) error {
	for {
		err := op()
		if err == nil || ctx.Err() != nil {
			return err
		}
		failures, ok := again(err)
		if !ok {
			return err
		}
		if err := r.Pause(ctx, failures, 0, err, attrs...); err != nil {
			return err
		}
	}
}

// Pause logs why an operation is repeated, and waits: at least for least, longer after more failures.
func (r Retry) Pause(ctx context.Context, failures int, least time.Duration, err error, attrs ...any) error {
	pause := max(least, backoff(max(1, failures)))
	r.Log.Warn("retrying", append(attrs, "in", pause.Round(100*time.Millisecond), "err", err)...)
	return r.wait(ctx, pause)
}

func (r Retry) wait(ctx context.Context, pause time.Duration) error {
	if r.Wait == nil {
		return sleep(ctx, pause)
	}
	return r.Wait(ctx, pause)
}

// RepeatedError remembers the previous error of a retry. Content that is wrong in the same way twice is what the server
// has; content that is wrong once may have been damaged in transit.
type RepeatedError struct{ previous string }

// Seen reports whether err is the same as the previous one, and remembers it.
func (r *RepeatedError) Seen(err error) bool {
	same := err.Error() == r.previous
	r.previous = err.Error()
	return same
}

// BrokenError is a body that ended early or in an error; the next attempt may bring the rest.
type BrokenError struct{ Err error }

func (e BrokenError) Error() string { return e.Err.Error() }
func (e BrokenError) Unwrap() error { return e.Err }

// WrongError is a body that is complete and not what was asked for: damaged in transit, or wrong on the server.
type WrongError struct{ Err error }

func (e WrongError) Error() string { return e.Err.Error() }
func (e WrongError) Unwrap() error { return e.Err }

// DoBody is Do for an operation that reads a whole body: a BrokenError is repeated, and a WrongError until it occurs
// twice in the same way.
func (r Retry) DoBody(ctx context.Context, op func() error) error {
	var last RepeatedError
	failures := 0
	return r.Do(ctx, op, func(err error) (int, bool) {
		var (
			broken BrokenError
			wrong  WrongError
		)
		failures++
		switch {
		case failures == MaxAttempts:
			return 0, false
		case errors.As(err, &wrong):
			return failures, !last.Seen(err)
		}
		return failures, errors.As(err, &broken)
	})
}

// backoff is the pause after that many failures in a row: twice as long as the pause before, and a random value in the
// upper half of that, so that clients that were refused together do not return together.
func backoff(failures int) time.Duration {
	d := min(minBackoff<<(min(failures, 16)-1), maxBackoff)
	return d/2 + rand.N(d/2+1)
}

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

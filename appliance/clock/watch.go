package clock

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

const (
	// look is the interval at which the clock is compared with the time that has passed.
	look = time.Second
	// leap is the smallest difference that counts as a jump. Time servers correct less by running the clock faster or
	// slower, by at most a two thousandth.
	leap = 2 * time.Second
	// matters is how long a jump is reported.
	matters = time.Hour
)

// Watch notices when the clock jumps: somebody or a time server has set it, or the machine was suspended. Its zero
// value is ready. It compares the clock with monotonic time, which no one sets.
type Watch struct {
	mu     sync.Mutex
	began  bool
	offset time.Duration // of the clock before monotonic time, when it was last compared
	jumps  []jump        // those that still matter, the oldest first; at most maxJumps
}

type jump struct {
	by   time.Duration
	to   time.Time     // what the clock showed after it
	when time.Duration // monotonic
}

const maxJumps = 5

// See compares the clock with the monotonic time since any fixed moment. It returns by how much the clock has jumped
// since the last call, 0 if it has not.
func (w *Watch) See(clock time.Time, passed time.Duration) (by time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	offset := time.Duration(clock.UnixNano()) - passed
	if w.began {
		by = offset - w.offset
	}
	w.began, w.offset = true, offset
	for len(w.jumps) > 0 && passed-w.jumps[0].when >= matters {
		w.jumps = w.jumps[1:]
	}
	if by.Abs() < leap {
		return 0
	}
	if w.jumps = append(w.jumps, jump{by, clock, passed}); len(w.jumps) > maxJumps {
		w.jumps = w.jumps[1:]
	}
	return by
}

// Sentences describes the jumps of the last hour, for status.
func (w *Watch) Sentences() (list []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, j := range w.jumps {
		list = append(list, fmt.Sprintf("the clock of this node jumped %s to %s: it was set, or the machine was "+
			"suspended; if nobody meant to, check what sets it (timedatectl)", direction(j.by), show(j.to)))
	}
	return list
}

func direction(by time.Duration) string {
	if by < 0 {
		return "back by " + (-by).Round(time.Second).String()
	}
	return "ahead by " + by.Round(time.Second).String()
}

// Run watches the system's clock until ctx is done, and logs each jump.
func (w *Watch) Run(ctx context.Context, log *slog.Logger) {
	start := time.Now()
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		now := time.Now()
		if by := w.See(now.Round(0), now.Sub(start)); by != 0 {
			log.Warn("the clock of this node jumped: it was set, or the machine was suspended", "by", by.String(), "to",
				show(now))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

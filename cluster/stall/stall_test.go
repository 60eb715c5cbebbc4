package stall

import (
	"testing"
	"testing/synctest"
	"time"
)

// A transfer of pieces, each after a wait, gets as far as the budget allows.
func TestBudget(t *testing.T) {
	const wait, chunk = 16 * time.Second, 100
	for _, tt := range []struct {
		name  string
		piece int64         // bytes of each read
		each  time.Duration // for which it waits
		idle  time.Duration // between reads
		want  int           // reads that are made of 1000
	}{
		{"quick", 50, time.Second, 0, 1000},
		{"slow and steady", 10, time.Second, 0, 1000},
		{"as slow as it may be", 10, 1600*time.Millisecond - 1, 0, 1000},
		{"too slow", 10, 1601 * time.Millisecond, 0, 9},
		{"a byte now and then", 1, time.Second, 0, 16},
		{"nothing", 0, time.Second, 0, 16},
		{"one read waits for too long", 100, wait, 0, 0},
		{"one read waits long", 100, wait * 7 / 8, 0, 1000},
		{"time between reads does not count", 10, time.Second, time.Hour, 1000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, d := Budget{Wait: wait, Chunk: chunk}, Deadline{}
				var end time.Time
				set := func(at time.Time) error { end = at; return nil }
				reads := 0
				for ; reads < 1000; reads++ {
					start := d.Extend(set, b.Left())
					if !start.Add(tt.each).Before(end) {
						break // it would fail at its deadline
					}
					time.Sleep(tt.each)
					b.Spend(start, tt.piece)
					time.Sleep(tt.idle)
				}
				// A deadline may be a sixteenth of what is left earlier.
				if reads > tt.want || reads < tt.want-tt.want/8 {
					t.Errorf("%d reads, want %d", reads, tt.want)
				}
			})
		})
	}
}

// A deadline is set when the one before would come too early, or too late, or is not known.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Deadline
		var end time.Time
		sets := 0
		set := func(at time.Time) error { end, sets = at, sets+1; return nil }
		for _, step := range []struct {
			name   string
			pass   time.Duration
			extend time.Duration
			forget bool
			set    bool
		}{
			{"the first", 0, 16 * time.Second, false, true},
			{"at once again", 0, 16 * time.Second, false, false},
			{"nearly the same", time.Second - 1, 16 * time.Second, false, false},
			{"a sixteenth has passed", time.Second, 16 * time.Second, false, true},
			{"another has set one", 0, 16 * time.Second, true, true},
			{"a shorter one", 0, 8 * time.Second, false, true},
			{"a longer one", 0, 16 * time.Second, false, true},
			{"it has passed", time.Minute, 16 * time.Second, false, true},
			{"no time is left", 0, 0, false, true},
			{"no time is left, again", 0, 0, false, true},
			{"less than none", 0, -time.Second, false, true},
		} {
			time.Sleep(step.pass)
			if step.forget {
				l.Forget()
			}
			before := sets
			if now := l.Extend(set, step.extend); !now.Equal(time.Now()) {
				t.Errorf("%s: it is %v, not %v", step.name, time.Now(), now)
			}
			if sets > before != step.set {
				t.Errorf("%s: set %v, want %v", step.name, sets > before, step.set)
			}
			if left := time.Until(end); left > step.extend || step.extend > 0 && left <= step.extend*15/16 {
				t.Errorf("%s: %v are left of %v", step.name, left, step.extend)
			}
		}
	})
}

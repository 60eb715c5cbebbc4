package series

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"casemate/cluster/waittest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { waittest.Main(m, goleak.Find) }

// world is one source with a clock.
type world struct {
	now    time.Time
	counts []uint64
	s      *Series
}

func newWorld() *world {
	w := &world{now: time.Date(2026, 5, 4, 12, 0, 10, 0, time.UTC), counts: []uint64{100, 0}}
	w.s = New(Config{Now: func() time.Time { return w.now }, Sources: []Source{{
		Lines: []Line{{"requests", "requests"}, {"bytes", "bytes"}},
		Read:  func() []uint64 { return slices.Clone(w.counts) },
	}}})
	w.s.Tick()
	return w
}

// grow lets time pass, and the first counter grow, between two ticks.
func (w *world) grow(passes time.Duration, by uint64) {
	w.now = w.now.Add(passes)
	w.counts[0] += by
	w.s.Tick()
}

func (w *world) text(t *testing.T, span string) string {
	t.Helper()
	r, ok := w.s.Report(span)
	if !ok {
		t.Fatalf("there is no span %s", span)
	}
	return fmt.Sprint(r.Start.Format("15:04"), " ", r.Series[0].Values)
}

// What a counter had before the first tick does not count; afterwards each step has what it has grown by, also after it
// has begun again at 0.
func TestSteps(t *testing.T) {
	w := newWorld()
	w.grow(10*time.Second, 5)
	w.grow(40*time.Second, 7)  // 12:01:00
	w.grow(5*time.Second, 1)   // the same minute
	w.grow(2*time.Minute, 2)   // 12:03:05, nothing in between
	w.counts[0] = 0            // it begins again
	w.grow(20*time.Second, 3)  // 12:03:25
	w.grow(15*time.Minute, 11) // 12:18:25
	want := "12:00 [5 8 0 5" + zeros(14) + " 11]"
	if got := w.text(t, Hour); got != want {
		t.Errorf("hour: %s, want %s", got, want)
	}
	if got := w.text(t, Day); got != "12:00 [18 11]" {
		t.Errorf("day: %s", got)
	}
}

func zeros(n int) (s string) {
	for range n {
		s += " 0"
	}
	return s
}

// The steps that are older than a span are forgotten, at once after a long pause.
func TestBounds(t *testing.T) {
	w := newWorld()
	for range 200 {
		w.grow(time.Minute, 1)
	}
	r, _ := w.s.Report(Hour)
	if n := len(r.Series[0].Values); n != 60 || !r.Start.Equal(time.Date(2026, 5, 4, 14, 21, 0, 0, time.UTC)) {
		t.Errorf("%d values since %s", n, r.Start)
	}
	for _, v := range r.Series[0].Values {
		if v != 1 {
			t.Errorf("%v", r.Series[0].Values)
			break
		}
	}
	w.grow(59*time.Minute, 1)
	if got, want := w.text(t, Hour), "15:20 [1"+zeros(58)+" 1]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	w.grow(100*24*time.Hour, 9)
	if got := w.text(t, Hour) + w.text(t, Day); got != "16:19 [9]16:15 [9]" {
		t.Errorf("after a pause: %s", got)
	}
	w.now = w.now.AddDate(300, 0, 0) // more than a duration can be
	w.grow(0, 4)
	if got := w.text(t, Hour); got != "16:19 [4]" {
		t.Errorf("after a jump: %s", got)
	}
}

// A clock that is corrected by seconds loses nothing; one that was far ahead leaves nothing that is in the future.
func TestClockIsSetBack(t *testing.T) {
	w := newWorld()
	w.grow(52*time.Second, 1) // 12:01:02
	w.grow(-5*time.Second, 2) // 12:00:57
	w.grow(5*time.Second, 4)  // 12:01:02
	if got := w.text(t, Hour); got != "12:00 [0 7]" {
		t.Errorf("%s", got)
	}
	w.grow(24*time.Hour, 1)
	w.grow(-24*time.Hour, 5)
	if got := w.text(t, Hour) + w.text(t, Day); got != "12:01 [5]12:00 [5]" {
		t.Errorf("%s", got)
	}
}

// Counters that are not known now do not change what is known, and the first known ones are a beginning.
func TestUnknownCounters(t *testing.T) {
	var counts []uint64
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	s := New(Config{Now: func() time.Time { return now }, Sources: []Source{
		{[]Line{{"dns", "answers"}}, func() []uint64 { return counts }},
		{[]Line{{"requests", "requests"}}, func() []uint64 { return []uint64{1} }},
	}})
	for _, counts = range [][]uint64{nil, {1000}, {1003}, nil, {1005}} {
		s.Tick()
	}
	if r, _ := s.Report(Hour); fmt.Sprint(r.Series) != "[{dns answers [5]} {requests requests [0]}]" {
		t.Errorf("%v", r.Series)
	}
	if _, ok := s.Report("week"); ok {
		t.Error("a span that there is not")
	}
}

// Whoever waits for changes is told once a minute, and not at all while nothing grows.
func TestChanged(t *testing.T) {
	w := newWorld()
	for _, c := range []struct {
		passes time.Duration
		by     uint64
		want   uint64
	}{{5 * time.Second, 0, 0}, {5 * time.Second, 3, 0}, {5 * time.Second, 1, 0}, {time.Minute, 0, 1},
		{time.Minute, 0, 1}, {time.Hour, 0, 1}, {time.Minute, 1, 1}, {time.Minute, 1, 2}, {time.Minute, 0, 3}} {
		if w.grow(c.passes, c.by); w.s.Changed() != c.want {
			t.Errorf("after %s: %d, want %d", w.now.Format(time.TimeOnly), w.s.Changed(), c.want)
		}
	}
}

// Before the first tick a report is empty, and memory does not grow with time.
func TestEmptyAndFixed(t *testing.T) {
	s := New(Config{Sources: []Source{{[]Line{{"a", "b"}}, func() []uint64 { return []uint64{1} }}}})
	if r, ok := s.Report(Day); !ok || !r.Start.IsZero() || r.Series[0].Values == nil || len(r.Series[0].Values) != 0 {
		t.Errorf("%+v", r)
	}
	w := newWorld()
	if n := testing.AllocsPerRun(100, func() { w.s.hour.add(w.now, []uint64{1, 1}) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Run reads the counters at its interval and ends with its context.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reads := 0
		read := func() []uint64 { reads++; return []uint64{uint64(reads)} }
		s := New(Config{Sources: []Source{{[]Line{{"a", "b"}}, read}}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { s.Run(ctx); close(done) }()
		time.Sleep(10*Every + time.Second)
		cancel()
		<-done
		if reads != 11 {
			t.Errorf("%d reads", reads)
		}
	})
}

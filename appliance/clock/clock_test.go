package clock

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const day = 24 * time.Hour

// TestEvidence: which clocks are refused, which are doubted, and which are neither.
func TestEvidence(t *testing.T) {
	built := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		what          string
		e             Evidence
		wrong, doubts string // "": none
	}{
		{"nothing is known", Evidence{}, "", ""},
		{"as built", Evidence{Now: built, Built: built}, "", ""},
		{"in another zone", Evidence{Now: built.Add(-14 * time.Hour), Built: built}, "", ""},
		{"days before", Evidence{Now: built.Add(-2 * day), Built: built}, "was made on 2027-03-01T12:00:00Z", ""},
		{"1970", Evidence{Now: time.Unix(60, 0), Built: built}, "shows 1970-01-01T00:01:00Z", ""},
		{"1970, with a program that has no date", Evidence{Now: time.Unix(60, 0)}, "was made on 2026-01-01", ""},
		{"two years later", Evidence{Now: built.Add(2 * 365 * day), Built: built}, "", ""},
		{"ten years later", Evidence{Now: built.Add(10 * 365 * day), Built: built}, "", "10 years before"},
		{"days ahead of the hardware", Evidence{Now: built.Add(9 * day), Built: built, Hardware: built.Add(5 * day)},
			"", "hardware clock shows 2027-03-06"},
		{"days behind the hardware", Evidence{Now: built.Add(5 * day), Built: built, Hardware: built.Add(9 * day)}, "",
			"hardware clock shows 2027-03-10"},
		{"a hardware clock in local time", Evidence{Now: built.Add(day), Built: built,
			Hardware: built.Add(day + 14*time.Hour)}, "", ""},
		{"a dead battery, and a clock that was set", Evidence{Now: built.Add(day), Built: built,
			Hardware: time.Unix(99, 0)}, "", ""},
		{"files of the future", Evidence{Now: built.Add(day), Built: built, Written: built.Add(40 * day), File: "/f"},
			"", "/f was written on 2027-04-10"},
		{"files of yesterday", Evidence{Now: built.Add(9 * day), Built: built, Written: built.Add(8 * day)}, "", ""},
		{"no time server", Evidence{Now: built.Add(day), Built: built, Free: true}, "", "no time server"},
	} {
		wrong, doubts := "", strings.Join(c.e.Doubts(), "\n")
		if err := c.e.Wrong(); err != nil {
			wrong = err.Error()
		}
		if (wrong == "") != (c.wrong == "") || !strings.Contains(wrong, c.wrong) {
			t.Errorf("%s: Wrong %q, want %q", c.what, wrong, c.wrong)
		}
		if wrong != "" && !strings.Contains(wrong, "--clock-is-right") {
			t.Errorf("%s: no way out: %q", c.what, wrong)
		}
		if wrong == "" && ((doubts == "") != (c.doubts == "") || !strings.Contains(doubts, c.doubts)) {
			t.Errorf("%s: Doubts %q, want %q", c.what, doubts, c.doubts)
		}
	}
}

func TestGather(t *testing.T) {
	root := t.TempDir()
	now := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	put := func(name, text string, at time.Time) {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, at, at); err != nil {
			t.Fatal(err)
		}
	}
	put("sys/class/rtc/rtc0/since_epoch", strconv.FormatInt(now.Add(3*day).Unix(), 10)+"\n", now)
	put("var/log/wtmp", "", now.Add(-day))
	put("var/lib/dpkg/status", "", now.Add(5*day))
	e := gather(root, now, now)
	if !e.Hardware.Equal(now.Add(3*day)) || !e.Written.Equal(now.Add(5*day)) || !strings.HasSuffix(e.File, "status") {
		t.Errorf("%+v", e)
	}
	if got := gather(filepath.Join(root, "empty"), now, now); got.Hardware != (time.Time{}) || got.File != "" {
		t.Errorf("of nothing: %+v", got)
	}
}

// TestWatch: steps of the clock of every size and direction, with the time that passes between two looks.
func TestWatch(t *testing.T) {
	begin := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		step, pause time.Duration
		noticed     string
	}{
		{0, time.Second, ""}, {time.Second, time.Second, ""}, {-time.Second, time.Second, ""},
		{0, 10 * time.Minute, ""}, // this process did not run; the clock did not jump
		{3 * time.Second, time.Second, "ahead by 3s"}, {-3 * time.Second, time.Second, "back by 3s"},
		{10 * 365 * day, time.Second, "ahead by 87600h0m0s"}, {-56 * 365 * day, 5 * time.Minute, "back by 490560h0m0s"},
	} {
		var w Watch
		clock, passed := begin, time.Duration(0)
		see := func(step, pause time.Duration) time.Duration {
			clock, passed = clock.Add(step+pause), passed+pause
			return w.See(clock, passed)
		}
		see(0, 0)
		see(0, time.Second)
		by := see(c.step, c.pause)
		text := strings.Join(w.Sentences(), "\n")
		if (by != 0) != (c.noticed != "") || (by != 0 && by != c.step) || !strings.Contains(text, c.noticed) ||
			(text == "") != (c.noticed == "") {
			t.Errorf("%+v: by %s, %q", c, by, text)
		}
		// Slow corrections are no jumps, and the sentence goes away.
		for range 3700 {
			if by := see(500*time.Microsecond, time.Second); by != 0 {
				t.Fatalf("%+v: later %s", c, by)
			}
		}
		if list := w.Sentences(); len(list) > 0 {
			t.Errorf("%+v: after an hour %q", c, list)
		}
	}
}

// TestWatchBounded: a clock that jumps all the time is reported a few times.
func TestWatchBounded(t *testing.T) {
	var w Watch
	for i := range 100 {
		w.See(time.Unix(int64(1e9+i*3600), 0), time.Duration(i)*time.Second)
	}
	if n := len(w.Sentences()); n != maxJumps {
		t.Errorf("%d sentences", n)
	}
}

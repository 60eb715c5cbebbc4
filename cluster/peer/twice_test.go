package peer

import (
	"strings"
	"testing"
	"time"
)

// TestTwins: which sequences of instances are copies.
func TestTwins(t *testing.T) {
	for _, c := range []struct {
		ids   string // one announcement a letter
		twice bool
	}{
		{"", false}, {"aaaaaaaa", false}, {"aaab", false}, {"abcdefgh", false},
		{"aabab", false}, // an announcement of the ended process came late
		{"ababa", true}, {"abababab", true}, {"aabbaabbaa", true}, {"abcabcabc", true},
		{"abababab" + strings.Repeat("a", heardIDs), false}, // one was stopped
		{"abababab" + strings.Repeat("c", heardIDs), false}, // both were, and one was started
	} {
		var tw twins
		twice := false
		for _, id := range c.ids {
			twice, _ = tw.saw("n2", string(id), "10.0.0."+string(id))
		}
		if twice != c.twice || (len(tw.list()["n2"]) > 1) != c.twice {
			t.Errorf("%q: %v %v", c.ids, twice, tw.list())
		}
		if a := tw.by["n2"]; a != nil && (len(a.ids) > heardIDs || len(a.from) > heardIDs) {
			t.Errorf("%q: %d ids are kept", c.ids, len(a.ids))
		}
		for range silent {
			if ended := tw.check(); len(ended) > 0 {
				t.Errorf("%q: ended early", c.ids)
			}
		}
		if ended := tw.check(); (len(ended) > 0) != c.twice || tw.list() != nil {
			t.Errorf("%q: after silence %v %v", c.ids, ended, tw.list())
		}
	}
	var tw twins
	if twice, _ := tw.saw("n2", strings.Repeat("x", maxInstance+1), "a"); twice || tw.by["n2"] != nil {
		t.Error("an id of any size is kept")
	}
}

// TestSkew: the way of a beat, however slow, does not look like a clock that is behind.
func TestSkew(t *testing.T) {
	here := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, apart := range []time.Duration{0, 3 * time.Hour, -3 * time.Hour} {
		var s skew
		if _, known := s.ahead(); known {
			t.Error("known before the first beat")
		}
		for i := range 100 {
			way := time.Duration(i%skewBeats) * time.Second // one of a window is quick
			s.add(here.Add(apart), here.Add(way))
			here = here.Add(400 * time.Millisecond)
			if by, known := s.ahead(); !known || by != apart {
				t.Fatalf("beat %d: %s, want %s", i, by, apart)
			}
		}
		if s.add(time.Time{}, here); len(s.by) > 0 {
			t.Error("an older version's beats keep what was known")
		}
	}
}

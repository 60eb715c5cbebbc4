package lograte

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// lines is a log without times.
func lines(level slog.Level) (*slog.Logger, *Limit, func() []string) {
	var out bytes.Buffer
	timeless := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}
	h, limit := Handler(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level, ReplaceAttr: timeless}))
	return slog.New(h), limit, func() []string {
		limit.mu.Lock() // the counts are written under it
		defer limit.mu.Unlock()
		defer out.Reset()
		list := strings.Split(strings.TrimSpace(out.String()), "\n")
		slices.Sort(list) // the counts come in no order
		return list
	}
}

func TestTheFirstIsLoggedAndTheOthersCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, limit, got := lines(slog.LevelInfo)
		room := log.With("room", "x")
		want := func(list ...string) {
			t.Helper()
			if g := got(); fmt.Sprint(g) != fmt.Sprint(list) {
				t.Errorf("got %q\nwant %q", g, list)
			}
		}
		for i := range 1000 {
			room.Warn("refused", "client", fmt.Sprint("10.0.0.1:", i), "n", i)
			log.Info("not let in", "client", "[fd00::1]:7", "n", i)
		}
		for range 3 {
			log.Info("our own line")
			log.With("client", "10.0.0.9").Info("marked before")
			log.Debug("not shown", "client", "10.0.0.1:1")
		}
		want(`level=INFO msg="marked before" client=10.0.0.9`,
			`level=INFO msg="not let in" client=[fd00::1]:7 n=0`,
			`level=INFO msg="our own line"`, `level=INFO msg="our own line"`, `level=INFO msg="our own line"`,
			`level=WARN msg=refused room=x client=10.0.0.1:0 n=0`)
		time.Sleep(Interval)
		synctest.Wait()
		want(`level=INFO msg="marked before" client=10.0.0.9 more=2 in=1m0s`,
			`level=INFO msg="not let in" more=999 in=1m0s`,
			`level=WARN msg=refused room=x more=999 in=1m0s`)
		time.Sleep(10 * Interval)
		synctest.Wait()
		want("") // nothing happened, nothing is said
		for i := range 100 {
			log.Warn("refused", "client", fmt.Sprintf("10.0.1.%d:1", i))
		}
		if g := got(); len(g) != Lines {
			t.Errorf("%d lines of 100 clients, want %d", len(g), Lines)
		}
		limit.Close()
		limit.Close()
		want(`level=WARN msg=refused more=90 in=1m0s`)
		log.Info("refused", "client", "10.0.1.1:1")
		want(`level=INFO msg=refused client=10.0.1.1:1`)
	})
}

// A host that uses many addresses of its /64 is one client: it does not use up the lines of the others.
func TestAHostsAddressesAreOneClient(t *testing.T) {
	log, limit, got := lines(slog.LevelInfo)
	defer limit.Close()
	for i := range 100 {
		log.Info("refused", "client", fmt.Sprintf("[2001:db8::%x]:%d", i+1, i))
		log.Info("refused", "client", fmt.Sprintf("2001:db8::%x", i+1))
	}
	log.Info("refused", "client", "10.0.0.1:1")
	if g := got(); fmt.Sprint(g) != "[level=INFO msg=refused client=10.0.0.1:1 "+
		"level=INFO msg=refused client=[2001:db8::1]:0]" {
		t.Errorf("got %q", g)
	}
}

func TestMessagesAreBounded(t *testing.T) {
	log, limit, got := lines(slog.LevelInfo)
	defer limit.Close()
	for i := range 2 * maxMessages {
		log.Info(fmt.Sprint("message ", i), "client", "10.0.0.1")
	}
	if n := len(got()); n != maxMessages || len(limit.kinds) != maxMessages {
		t.Errorf("%d lines, %d messages", n, len(limit.kinds))
	}
	if h := log.WithGroup("g").Handler(); !h.Enabled(context.Background(), slog.LevelInfo) {
		t.Error("a group hides the level")
	}
}

package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
)

// at is some moment.
var at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func command(out io.Writer) *cobra.Command {
	cmd := &cobra.Command{}
	cmd.SetErr(out)
	return cmd
}

func TestLines(t *testing.T) {
	var out bytes.Buffer
	m := newMeter(command(&out), false)
	if got := m.line(at); got != "" {
		t.Errorf("nothing is under way: %q", got)
	}
	g := m.start("reading", -1)
	g.set("reading", 0, 100<<20)
	m.line(at)
	g.set("reading", 50<<20, 100<<20)
	if got, want := m.line(at.Add(10*time.Second)),
		"reading: 50.0 MiB of 100.0 MiB (50 %), 5.0 MiB/s, 10s left"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	g.set("publishing", 0, -1) // another phase has another rate
	if got, want := m.line(at.Add(20*time.Second)), "publishing: 0 B"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	g.end()
	m.close()
	if out.Len() > 0 {
		t.Errorf("before ten seconds have gone there was written %q", out.String())
	}
}

func TestCollecting(t *testing.T) {
	m := newMeter(command(io.Discard), false)
	defer m.close()
	c := &collecting{meter: m}
	c.Resolved(1, 3)
	c.Resolved(2, 3)
	if got, want := m.line(at), "names: 2 of 3"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	c.Plan(5, 1000)
	a := c.Start("registry.k8s.io/kube-apiserver-with-a-long-name:v1.35.4", 600)
	b := c.Start("b\x1b[2J", -1)
	for _, n := range []string{"x", "y", "z"} {
		c.Start(n, 1)
	}
	a.Add(300)
	b.Total(400)
	b.Add(400)
	b.Add(-200) // begins anew
	want := "fetching: 500 B of 1000 B (50 %); under way: …8s.io/kube-apiserver-with-a-long-name:v1.35.4, b?[2J, x, " +
		"and 2 more"
	if got := m.line(at); got != want && !strings.HasPrefix(got, "fetching: 500 B of 1000 B (50 %)") {
		t.Errorf("got %q, want %q", got, want)
	}
	a.Done(nil)
	b.Done(errors.New("gone"))
	if got, want := m.line(at), "fetching: 500 B of 1000 B (50 %); under way: x, y, z"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	m.clear()
	if got := m.line(at); got != "" {
		t.Errorf("after clear: %q", got)
	}
}

func TestQuiet(t *testing.T) {
	var out bytes.Buffer
	m := newMeter(command(&out), true)
	m.say("something")
	m.log().Warn("tried again")
	m.start("x", 1).add(1)
	m.close()
	if out.Len() > 0 {
		t.Errorf("quiet wrote %q", out.String())
	}
}

func TestSaid(t *testing.T) {
	var out bytes.Buffer
	m := newMeter(command(&out), false)
	m.log().Warn("tried again", "url", "https://x/\x1b")
	m.log().Info("not that much")
	m.close()
	if got, want := out.String(), "msg=\"tried again\" url=\"https://x/\\x1b\"\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A terminal shows a bar for each task with its progress, and at the end only the printed lines remain.
func TestBars(t *testing.T) {
	var mu sync.Mutex
	var out bytes.Buffer
	m := &meter{stop: make(chan struct{}), out: os.Stderr}
	m.bars = mpb.New(mpb.WithOutput(locked{&mu, &out}), mpb.WithAutoRefresh(), mpb.WithWidth(120),
		mpb.WithRefreshRate(time.Millisecond))
	shown := func(what string) {
		t.Helper()
		for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			mu.Lock()
			last := out.String()
			mu.Unlock()
			if strings.Contains(last, what) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%q is not shown, last is %q", what, last[max(0, len(last)-200):])
			}
		}
	}
	g := m.start("reading", -1)
	g.set("reading", 512, 1024)
	shown("512 B of 1.0 KiB (50 %)")
	g.set("reading", 1024, 1024) // full, and not at its end
	shown("1.0 KiB of 1.0 KiB (100 %)")
	g.set("publishing", 0, -1)
	shown("publishing")
	m.say("a note")
	shown("a note\n")
	other := m.start("another", 10)
	other.add(5)
	shown("another")
	other.end()
	g.end()
	m.close()
}

type locked struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func TestSpeed(t *testing.T) {
	var s speed
	if got := s.at(at, 0); got != 0 {
		t.Errorf("at the beginning %v", got)
	}
	if got := s.at(at.Add(time.Second), 100); got != 100 {
		t.Errorf("after a second %v", got)
	}
	if got := s.at(at.Add(time.Second+time.Millisecond), 1e9); got != 100 {
		t.Errorf("a millisecond says nothing, got %v", got)
	}
	if got := s.at(at.Add(2*time.Second), 100); got <= 0 || got >= 100 {
		t.Errorf("a pause of a second shows, but not at once: %v", got)
	}
	if got := s.at(at.Add(60*time.Second), 100); got != 0 {
		t.Errorf("a long pause: %v", got)
	}
	if got := s.at(at.Add(120*time.Second), 0); got != 0 {
		t.Errorf("begun anew: %v", got)
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{
		"": 0, "1": 1, "4096": 4096, "4K": 4096, "4KiB": 4096, "4kb": 4000, "650MB": 650_000_000, "4G": 4 << 30,
		"4GiB": 4 << 30, "4gib": 4 << 30, "16GB": 16_000_000_000, "1T": 1 << 40, "1B": 1,
	} {
		if got, err := parseSize(s); got != want || err != nil {
			t.Errorf("%q is %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"0", "-1", "1.5G", "G", "iB", "4 GiB", "4X", "4GG", "4KM", "99999999999999999999",
		"9999999999T", "0x10", "GiB"} {
		if got, err := parseSize(s); err == nil {
			t.Errorf("%q is taken as %d", s, got)
		}
	}
}

func TestNumbers(t *testing.T) {
	for want, list := range map[string][]int{"": nil, "3": {3}, "1-3": {1, 2, 3}, "1, 3-4, 9": {1, 3, 4, 9}} {
		if got := numbers(list); got != want {
			t.Errorf("%v is %q, want %q", list, got, want)
		}
	}
}

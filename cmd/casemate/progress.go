package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"casemate/bundle/collect/download"
)

// lineEvery is how often a command that is no terminal's says how far it is.
const lineEvery = 10 * time.Second

// meter shows on standard error how far a long command is: on a terminal a bar for each thing under way, elsewhere (a
// log, a pipe) a line now and then. The first gauge is that of the whole. Its methods and those of its gauges are safe
// for concurrent use.
type meter struct {
	out  io.Writer     // nil: quiet
	bars *mpb.Progress // nil: lines

	mu      sync.Mutex
	running []*gauge // in the order of their start

	stop chan struct{}
	wg   sync.WaitGroup
}

// gauge is one thing under way.
type gauge struct {
	meter *meter
	bar   *mpb.Bar // nil without bars

	mu     sync.Mutex
	name   string
	done   int64
	total  int64 // -1: not known
	counts bool  // things, not bytes
	speed  speed
}

// newMeter makes the meter of a command; close must be called.
func newMeter(cmd *cobra.Command, quiet bool) *meter {
	m := &meter{stop: make(chan struct{})}
	if quiet {
		return m
	}
	m.out = cmd.ErrOrStderr()
	if f, ok := m.out.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		m.bars = mpb.New(mpb.WithOutput(f), mpb.WithRefreshRate(200*time.Millisecond))
		return m
	}
	tick := time.NewTicker(lineEvery)
	m.wg.Go(func() {
		defer tick.Stop()
		for {
			select {
			case <-m.stop:
				return
			case now := <-tick.C:
				if s := m.line(now); s != "" {
					m.say(s)
				}
			}
		}
	})
	return m
}

// say prints a line, above the bars if there are any.
func (m *meter) say(line string) {
	switch {
	case m.bars != nil:
		m.bars.Write([]byte(printable(line) + "\n"))
	case m.out != nil:
		fmt.Fprintln(m.out, printable(line))
	}
}

// log is a logger whose lines are said.
func (m *meter) log() *slog.Logger {
	short := func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}
	opt := &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: short}
	return slog.New(slog.NewTextHandler(lines{m}, opt))
}

// lines says what is written to it, which is whole lines.
type lines struct{ m *meter }

func (l lines) Write(p []byte) (int, error) {
	l.m.say(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

// clear takes the gauges away.
func (m *meter) clear() {
	m.mu.Lock()
	running := m.running
	m.running = nil
	m.mu.Unlock()
	for _, g := range running {
		g.drop()
	}
}

// close takes the gauges away and ends.
func (m *meter) close() {
	close(m.stop)
	m.wg.Wait()
	m.clear()
	if m.bars != nil {
		m.bars.Wait()
		// A terminal shows ^C where the cursor is, below the bars, and the bars go away from there upwards. What comes
		// next begins at the start of an empty line.
		io.WriteString(m.out, "\r\x1b[K")
	}
}

// start adds something of total bytes, -1 when that is not known.
func (m *meter) start(name string, total int64) *gauge {
	g := &gauge{meter: m, name: name, total: total}
	if m.bars != nil {
		line := decor.Any(func(s decor.Statistics) string { return g.draw(s.AvailableWidth, time.Now()) })
		g.bar = m.bars.New(max(total, 0), mpb.NopStyle(), mpb.BarFillerTrim(), mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(line))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.running = append(m.running, g)
	return g
}

// add says that n more bytes are done, or fewer when something begins anew.
func (g *gauge) add(n int64) { g.update(func() { g.done += n }) }

// count says how many things of all are done.
func (g *gauge) count(done, of int) {
	g.update(func() { g.counts, g.done, g.total = true, int64(done), int64(of) })
}

// set says what is done in which phase; a new phase begins with its own rate.
func (g *gauge) set(phase string, done, total int64) {
	g.update(func() {
		if phase != g.name {
			g.name, g.speed = phase, speed{}
		}
		g.done, g.total = done, total
	})
}

func (g *gauge) update(change func()) {
	g.mu.Lock()
	change()
	done, total := g.done, g.total
	g.mu.Unlock()
	if g.bar != nil {
		g.bar.SetTotal(max(total, done+1), false) // a bar that is full would end by itself
		g.bar.SetCurrent(done)
	}
}

// end takes the gauge away.
func (g *gauge) end() {
	m := g.meter
	m.mu.Lock()
	for i, r := range m.running {
		if r == g {
			m.running = append(m.running[:i:i], m.running[i+1:]...)
			break
		}
	}
	m.mu.Unlock()
	g.drop()
}

func (g *gauge) drop() {
	if g.bar != nil {
		g.bar.Abort(true)
		g.bar.Wait()
	}
}

const labelWidth = 40

// label is the name, its end if it is long: that says more of an image than its host.
func (g *gauge) label() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return tail(printable(g.name), labelWidth)
}

// tail is the end of a text that may be so wide.
func tail(s string, width int) string {
	if text := []rune(s); len(text) > width {
		return "…" + string(text[len(text)-max(width, 1)+1:])
	}
	return s
}

// far is how far a gauge is, in the pieces of which there is room for more or fewer.
type far struct {
	fraction float64 // -1: not known
	amount   string  // "3.0 GiB of 4.0 GiB", "2 of 3"
	rate     string  // "5.0 MiB/s"
	left     string  // "10s left"
}

func (g *gauge) far(now time.Time) far {
	g.mu.Lock()
	defer g.mu.Unlock()
	f := far{fraction: -1, amount: size(g.done)}
	if g.counts {
		f.amount = fmt.Sprintf("%d of %d", g.done, g.total)
		return f
	}
	rate := g.speed.at(now, g.done)
	if g.total > 0 {
		f.amount += " of " + size(g.total)
		f.fraction = min(float64(g.done)/float64(g.total), 1)
	}
	if rate >= 1 {
		f.rate = size(int64(rate)) + "/s"
		if left := g.total - g.done; g.total > 0 && left > 0 && float64(left)/rate < 1e6 {
			f.left = fmt.Sprintf("%s left", time.Duration(float64(left)/rate*float64(time.Second)).Round(time.Second))
		}
	}
	return f
}

func (f far) percent() string {
	if f.fraction < 0 {
		return ""
	}
	return fmt.Sprintf("%d %%", int(100*f.fraction))
}

// state is how far it is, the rate and the time that remains.
func (g *gauge) state(now time.Time) string {
	f := g.far(now)
	s := f.amount
	if p := f.percent(); p != "" {
		s += " (" + p + ")"
	}
	for _, more := range []string{f.rate, f.left} {
		if more != "" {
			s += ", " + more
		}
	}
	return s
}

// draw is the gauge as one line of a terminal. The narrower that is, the less it has: first the bar goes, then the
// rate, then the amount, then the beginning of the name. Percent and the time that remains stay to the last.
func (g *gauge) draw(width int, now time.Time) string {
	if width <= 0 {
		width = 80
	}
	f := g.far(now)
	g.mu.Lock()
	name := printable(g.name)
	g.mu.Unlock()
	joined := func(parts ...string) string {
		return strings.Join(slices.DeleteFunc(parts, isEmpty), ", ")
	}
	amount := f.amount
	if p := f.percent(); p != "" {
		amount += " (" + p + ")"
	}
	most := []string{ // from the widest to the narrowest
		bar(f.fraction) + joined(amount, f.rate, f.left),
		joined(amount, f.rate, f.left),
		joined(amount, f.left),
		joined(f.percent(), f.left),
	}
	if f.fraction < 0 {
		most[3] = amount
	}
	const enough, least = 24, 12 // of the name
	for i, state := range most {
		label := min(utf8.RuneCountInString(name), labelWidth)
		room := width - 2 - utf8.RuneCountInString(state)
		switch {
		case i < 2 && room >= min(label, enough), i >= 2 && room >= min(label, least):
			return pad(tail(name, min(label, room)), min(labelWidth, room)) + "  " + state
		case i == len(most)-1 && room >= 1:
			return tail(name, room) + "  " + state
		}
	}
	return tail(most[len(most)-1], width)
}

// bar is a bar of 20 characters and a blank; "" if the fraction is not known.
func bar(fraction float64) string {
	if fraction < 0 {
		return ""
	}
	full := int(20 * fraction)
	return "[" + strings.Repeat("=", full) + strings.Repeat("-", 20-full) + "] "
}

// line says how far the first gauge is, which is that of the whole, and what else is under way; "" when there is
// nothing to say.
func (m *meter) line(now time.Time) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.running) == 0 {
		return ""
	}
	line := m.running[0].label() + ": " + m.running[0].state(now)
	var names []string
	for _, g := range m.running[1:] {
		names = append(names, g.label())
	}
	if n := len(names); n > 3 {
		names = append(names[:3:3], fmt.Sprintf("and %d more", n-3))
	}
	if len(names) > 0 {
		line += "; under way: " + strings.Join(names, ", ")
	}
	return line
}

// speed is a rate in bytes a second, newer ones weighing more.
type speed struct {
	last time.Time
	done int64
	rate float64
}

// memory is how long ago a rate counts still: half a minute's pauses of a disk or a line shall be seen, single hiccups
// not.
const memory = 10 * time.Second

// at takes what is done at a time and returns the rate.
func (s *speed) at(now time.Time, done int64) float64 {
	if s.last.IsZero() {
		s.last, s.done = now, done
		return 0
	}
	d := now.Sub(s.last)
	if d < 100*time.Millisecond {
		return s.rate
	}
	rate := max(float64(done-s.done), 0) / d.Seconds()
	if s.rate == 0 {
		s.rate = rate
	} else {
		weight := min(d.Seconds()/memory.Seconds(), 1)
		s.rate += weight * (rate - s.rate)
	}
	s.last, s.done = now, done
	return s.rate
}

// collecting shows what a bundle.Collect does.
type collecting struct {
	meter *meter

	mu    sync.Mutex
	names *gauge // until the plan is made
	all   *gauge // from then on
}

// Resolved shows how many names were looked up.
func (c *collecting) Resolved(names, of int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.names == nil {
		c.names = c.meter.start("names", int64(of))
	}
	c.names.count(names, of)
}

// Plan shows what there is to fetch.
func (c *collecting) Plan(transfers int, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.names != nil {
		c.names.end()
	}
	c.all = c.meter.start("fetching", bytes)
}

// Start shows one transfer.
func (c *collecting) Start(name string, total int64) download.Transfer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &transfer{all: c.all, own: c.meter.start(name, total)}
}

// transfer is one thing that is fetched. all is nil before there is a plan, when manifests are fetched.
type transfer struct{ all, own *gauge }

func (t *transfer) Total(n int64) { t.own.update(func() { t.own.total = n }) }

func (t *transfer) Add(n int64) {
	t.own.add(n)
	if t.all != nil {
		t.all.add(n)
	}
}

func (t *transfer) Done(error) { t.own.end() }

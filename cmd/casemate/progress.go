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

// lineEvery is the interval of progress lines where the output is not a terminal.
const lineEvery = 10 * time.Second

// meter shows the progress of a long command on standard error: on a terminal a bar for each task in progress,
// elsewhere (a log, a pipe) a line now and then. The first gauge is that of the whole. Its methods and those of its
// gauges are safe for concurrent use.
type meter struct {
	out  io.Writer     // nil: quiet
	bars *mpb.Progress // nil: lines

	mu      sync.Mutex
	running []*gauge // in the order of their start

	stop chan struct{}
	wg   sync.WaitGroup
}

// gauge is one task in progress.
type gauge struct {
	meter *meter
	bar   *mpb.Bar // nil without bars

	mu     sync.Mutex
	name   string
	done   int64
	total  int64 // -1: unknown
	counts bool  // counts things, not bytes
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

// log returns a logger that prints its lines with say.
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

// lines prints whole lines written to it with say.
type lines struct{ m *meter }

func (l lines) Write(p []byte) (int, error) {
	l.m.say(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

// clear removes the gauges.
func (m *meter) clear() {
	m.mu.Lock()
	running := m.running
	m.running = nil
	m.mu.Unlock()
	for _, g := range running {
		g.drop()
	}
}

// close removes the gauges and ends the meter.
func (m *meter) close() {
	close(m.stop)
	m.wg.Wait()
	m.clear()
	if m.bars != nil {
		m.bars.Wait()
		// A terminal shows ^C at the cursor, below the bars, and the bars are removed upwards from there. The next
		// output begins at the start of an empty line.
		io.WriteString(m.out, "\r\x1b[K")
	}
}

// start adds a task of total bytes, -1 if unknown.
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

// add adds n to the bytes done; n is negative when a transfer restarts.
func (g *gauge) add(n int64) { g.update(func() { g.done += n }) }

// count sets how many things of all are done.
func (g *gauge) count(done, of int) {
	g.update(func() { g.counts, g.done, g.total = true, int64(done), int64(of) })
}

// set sets the progress within a phase; a new phase begins with a new rate.
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
		g.bar.SetTotal(max(total, done+1), false) // a full bar would end by itself
		g.bar.SetCurrent(done)
	}
}

// end removes the gauge.
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

// label is the name, or its end if it is long: the end of an image's name tells more than its host.
func (g *gauge) label() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return tail(printable(g.name), labelWidth)
}

// tail is the end of a text, at most width wide.
func tail(s string, width int) string {
	if text := []rune(s); len(text) > width {
		return "…" + string(text[len(text)-max(width, 1)+1:])
	}
	return s
}

// far is the progress of a gauge, in pieces of which more or fewer fit a line.
type far struct {
	fraction float64 // -1: unknown
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

// state returns the progress, the rate and the remaining time.
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

// draw returns the gauge as one line of a terminal. On narrower terminals it omits first the bar, then the rate, then
// the amount, then the beginning of the name. Percent and remaining time always stay.
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

// bar is a bar of 20 characters and a blank; "" if the fraction is unknown.
func bar(fraction float64) string {
	if fraction < 0 {
		return ""
	}
	full := int(20 * fraction)
	return "[" + strings.Repeat("=", full) + strings.Repeat("-", 20-full) + "] "
}

// line describes the progress of the first gauge, which is that of the whole, and the other tasks; "" if there is none.
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

// speed is a rate in bytes a second, a moving average.
type speed struct {
	last time.Time
	done int64
	rate float64
}

// memory is the time constant of the average: pauses of half a minute become visible, single hiccups do not.
const memory = 10 * time.Second

// at records what is done at a time and returns the rate.
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

// collecting shows the progress of a bundle.Collect.
type collecting struct {
	meter *meter

	mu    sync.Mutex
	names *gauge // until the plan is made
	all   *gauge // afterwards
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

// Plan shows the total to be fetched.
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

// transfer is one download. all is nil before there is a plan, when manifests are fetched.
type transfer struct{ all, own *gauge }

func (t *transfer) Total(n int64) { t.own.update(func() { t.own.total = n }) }

func (t *transfer) Add(n int64) {
	t.own.add(n)
	if t.all != nil {
		t.all.add(n)
	}
}

func (t *transfer) Done(error) { t.own.end() }

package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

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
	return slog.New(slog.NewTextHandler(lines{m}, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}}))
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
	}
}

// start adds something of total bytes, -1 when that is not known.
func (m *meter) start(name string, total int64) *gauge {
	g := &gauge{meter: m, name: name, total: total}
	if m.bars != nil {
		g.bar = m.bars.New(max(total, 0), mpb.BarStyle().Rbound("]").Lbound("["), mpb.BarWidth(20), mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return g.label() }, decor.WCSyncSpaceR)),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return g.state(time.Now()) })))
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
	name := []rune(printable(g.name))
	if n := len(name); n > labelWidth {
		name = append([]rune{'…'}, name[n-labelWidth+1:]...)
	}
	return string(name)
}

// state is how far it is, the rate and the time that remains.
func (g *gauge) state(now time.Time) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.counts {
		return fmt.Sprintf("%d of %d", g.done, g.total)
	}
	rate := g.speed.at(now, g.done)
	s := size(g.done)
	if g.total > 0 {
		s = fmt.Sprintf("%s of %s (%d %%)", size(g.done), size(g.total), int(100*min(float64(g.done)/float64(g.total), 1)))
	}
	if rate >= 1 {
		s += fmt.Sprintf(", %s/s", size(int64(rate)))
		if left := g.total - g.done; g.total > 0 && left > 0 && float64(left)/rate < 1e6 {
			s += fmt.Sprintf(", %s left", time.Duration(float64(left)/rate*float64(time.Second)).Round(time.Second))
		}
	}
	return s
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

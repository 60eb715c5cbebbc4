// Package series remembers how counters have grown: the last hour by minute, the last day by quarter of an hour.
//
// It promises: counters are read at a tick, so what counts does no work for it. Memory is fixed when the series are
// opened. Nothing is stored: the series begin with the process.
package series

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Every is the interval at which Run reads the counters.
const Every = 5 * time.Second

// The spans of reports.
const (
	Hour = "hour" // 60 steps of a minute
	Day  = "day"  // 96 steps of a quarter of an hour
)

// A Line is one counter.
type Line struct {
	Name string // for programs: "requests_images"
	Unit string // what one of it is, in the plural: "requests", "bytes"
}

// A Source is a group of counters that are read together.
type Source struct {
	Lines []Line
	// Read returns the counters in the order of Lines; nil if they are not known now. A counter that is lower than
	// before has begun again at 0.
	Read func() []uint64
}

// Config configures Series. Sources is required.
type Config struct {
	Sources []Source
	Now     func() time.Time // nil: time.Now
}

// Series are the counters of a node. Report is safe for concurrent use.
type Series struct {
	cfg  Config
	last [][]uint64 // by source; nil until it was known once. Owned by Tick

	mu    sync.Mutex
	lines []Line
	ended uint64 // minutes in which something has grown
	hour  *ring
	day   *ring
}

// New returns empty series; it reads no counter.
func New(cfg Config) *Series {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Series{cfg: cfg, last: make([][]uint64, len(cfg.Sources))}
	for _, source := range cfg.Sources {
		s.lines = append(s.lines, source.Lines...)
	}
	s.hour, s.day = newRing(time.Minute, 60, len(s.lines)), newRing(15*time.Minute, 96, len(s.lines))
	return s
}

// Run reads the counters until ctx is done.
func (s *Series) Run(ctx context.Context) {
	tick := time.NewTicker(Every)
	defer tick.Stop()
	for {
		s.Tick()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Tick reads the counters. What they have grown by since the last tick belongs to the step of now. The first values of
// a source are where it begins. Tick is called from one goroutine.
func (s *Series) Tick() {
	grown := make([]uint64, 0, len(s.lines))
	for i, source := range s.cfg.Sources {
		values, last := source.Read(), s.last[i]
		for j := range source.Lines {
			switch {
			case values == nil || last == nil:
				grown = append(grown, 0)
			case values[j] < last[j]:
				grown = append(grown, values[j])
			default:
				grown = append(grown, values[j]-last[j])
			}
		}
		if values != nil {
			s.last[i] = values
		}
	}
	now := s.cfg.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hour.ends(now) {
		s.ended++
	}
	s.hour.add(now, grown)
	s.day.add(now, grown)
}

// Changed returns a number that is another one after each minute in which a counter has grown.
func (s *Series) Changed() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// Report is what is known of a span.
type Report struct {
	Span        string `json:"span"`
	StepSeconds int    `json:"step_seconds"`
	// Start is when the first value's step begins; later than the beginning of the span if this process is younger.
	Start  time.Time `json:"start,omitzero"`
	Series []Values  `json:"series"`
}

// Values are those of one counter: by how much it has grown in each step. The last step is not over.
type Values struct {
	Name   string   `json:"name"`
	Unit   string   `json:"unit"`
	Values []uint64 `json:"values"`
}

// Report returns what is known of a span, as of the last tick; ok is false if there is no such span.
func (s *Series) Report(span string) (out Report, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var r *ring
	switch span {
	case Hour:
		r = s.hour
	case Day:
		r = s.day
	default:
		return Report{}, false
	}
	out = Report{Span: span, StepSeconds: int(r.step / time.Second), Series: make([]Values, 0, len(s.lines))}
	if r.used > 0 {
		out.Start = r.newest.Add(-time.Duration(r.used-1) * r.step).UTC()
	}
	for i, l := range s.lines {
		out.Series = append(out.Series, Values{l.Name, l.Unit, r.of(i)})
	}
	return out, true
}

// ring is the newest steps of all lines.
type ring struct {
	step   time.Duration
	newest time.Time // when the newest step begins
	used   int       // how many steps are known
	head   int       // the place of the newest
	steps  [][]uint64
}

func newRing(step time.Duration, size, lines int) *ring {
	r := &ring{step: step, steps: make([][]uint64, size)}
	for i := range r.steps {
		r.steps[i] = make([]uint64, lines)
	}
	return r
}

// add adds to the step of now. A clock that was set back by no more than a step adds to the newest one until it has
// caught up; after a longer way back everything begins again, because the steps would overlap.
func (r *ring) add(now time.Time, grown []uint64) {
	at := now.Truncate(r.step)
	ahead := at.Sub(r.newest) / r.step
	switch {
	case r.used == 0, ahead < -1, int64(ahead) >= int64(len(r.steps)):
		r.used, r.newest = 1, at
		clear(r.steps[r.head])
	case ahead > 0:
		for range ahead {
			r.head = (r.head + 1) % len(r.steps)
			clear(r.steps[r.head])
		}
		r.used, r.newest = min(r.used+int(ahead), len(r.steps)), at
	}
	for i, n := range grown {
		r.steps[r.head][i] += n
	}
}

// ends reports whether the newest step ends before now and something has grown in it.
func (r *ring) ends(now time.Time) bool {
	return r.used > 0 && !now.Truncate(r.step).Equal(r.newest) &&
		slices.ContainsFunc(r.steps[r.head], func(n uint64) bool { return n > 0 })
}

// of returns the values of a line, the oldest first.
func (r *ring) of(line int) []uint64 {
	values := make([]uint64, r.used)
	for i := range values {
		values[i] = r.steps[(r.head-r.used+1+i+len(r.steps))%len(r.steps)][line]
	}
	return values
}

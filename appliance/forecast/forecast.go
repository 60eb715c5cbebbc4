// Package forecast remembers the free space of the nodes' disks, and says when a disk will be full at the rate of the
// last week.
//
// It promises: each node is sampled about once an hour for eight days, so the file on this node's disk is bounded. A
// damaged file does not keep a node from starting. What is not known well enough is not said: a forecast needs a day.
package forecast

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"casemate/appliance/notebook"
)

const (
	lookEvery   = 5 * time.Minute
	sampleEvery = time.Hour
	keep        = 8 * 24 * time.Hour
	week        = 7 * 24 * time.Hour
	atLeast     = 24 * time.Hour            // what must be known for a forecast
	furthest    = 10 * 366 * 24 * time.Hour // a forecast beyond it is none
	maxNodes    = 64                        // in the file
	maxSamples  = int(keep/sampleEvery) + 2 // of a node
	resized     = 100                       // a size that changes by more than one part of so many is another disk
	slack       = sampleEvery + 2*lookEvery // by how much the oldest sample may be younger than what is asked for
)

// A Disk is a node's disk as it is now. Sizes are in bytes.
type Disk struct {
	Node                 string
	Up                   bool // the sizes are those of now
	Free, Total, Reserve int64
}

// Config configures a Book. File and Disks are required.
type Config struct {
	// File is the book's file on the node's own disk.
	File string
	// Disks returns the disks of all members; what is known of other nodes is forgotten. None: the members are not
	// known now.
	Disks func() []Disk
	Now   func() time.Time // nil: time.Now
	Log   *slog.Logger     // nil: nothing is logged
}

// Book is what one node knows of all disks. Of is safe for concurrent use.
type Book struct {
	cfg   Config
	notes notebook.Notebook // owned by Run

	mu      sync.Mutex
	nodes   map[string][]sample // the oldest first
	changed uint64
}

// sample is one observation of a disk.
type sample struct {
	At    int64 `json:"at"` // Unix seconds
	Free  int64 `json:"free"`
	Total int64 `json:"total"`
}

func (s sample) time() time.Time { return time.Unix(s.At, 0).UTC() }

// file is the format of the book on disk.
type file struct {
	Nodes map[string][]sample `json:"nodes"`
}

// Open reads the book from disk.
func Open(cfg Config) (*Book, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	b := &Book{cfg: cfg, nodes: map[string][]sample{}}
	b.notes = notebook.Notebook{What: "book of disks", File: cfg.File, Log: cfg.Log,
		Snapshot: func(bool) (any, uint64) { return b.snapshot() }}
	var f file
	if _, err := b.notes.Load(&f); err != nil {
		return nil, err
	}
	for node, list := range f.Nodes {
		list = slices.DeleteFunc(list, func(s sample) bool { return s.At <= 0 || s.Free < 0 || s.Total <= 0 })
		slices.SortFunc(list, func(x, y sample) int { return int(max(-1, min(1, x.At-y.At))) })
		if len(list) > 0 && len(b.nodes) < maxNodes {
			b.nodes[node] = list[max(0, len(list)-maxSamples):]
		}
	}
	return b, nil
}

func (b *Book) snapshot() (file, uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := file{Nodes: map[string][]sample{}}
	for node, list := range b.nodes {
		f.Nodes[node] = slices.Clone(list)
	}
	return f, b.changed
}

// Run samples the disks, and saves the book, until ctx is done.
func (b *Book) Run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		b.Look()
		if err := b.notes.WriteDisk(); err != nil {
			b.cfg.Log.Warn("the book of disks cannot be saved on disk", "file", b.cfg.File, "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Look samples the disks whose last sample is an hour old, and forgets what no forecast needs.
func (b *Book) Look() {
	disks, now := b.cfg.Disks(), b.cfg.Now()
	if len(disks) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, node := range slices.Sorted(maps.Keys(b.nodes)) {
		list := b.nodes[node]
		// The clock may have been ahead when a sample was taken.
		useless := func(s sample) bool { return s.time().After(now) || now.Sub(s.time()) > keep }
		if list = slices.DeleteFunc(slices.Clone(list), useless); len(list) != len(b.nodes[node]) {
			b.changed++
		}
		member := slices.ContainsFunc(disks, func(d Disk) bool { return d.Node == node })
		if b.nodes[node] = list; len(list) == 0 || !member {
			delete(b.nodes, node)
			b.changed++
		}
	}
	for _, d := range disks {
		list := b.nodes[d.Node]
		if !d.Up || d.Total <= 0 || list == nil && len(b.nodes) >= maxNodes {
			continue
		}
		if n := len(list); n > 0 {
			if last := list[n-1]; abs(last.Total-d.Total) > last.Total/resized {
				list = nil // it says nothing about the new disk
			} else if now.Sub(last.time()) < sampleEvery {
				continue
			}
		}
		list = append(list, sample{now.Unix(), max(0, d.Free), d.Total})
		b.nodes[d.Node] = slices.Clone(list[max(0, len(list)-maxSamples):])
		b.changed++
	}
}

func abs(n int64) int64 { return max(n, -n) }

// A Forecast says when a disk will be full.
type Forecast struct {
	// BytesPerDay is by how much the free space has shrunk a day since Since, at most a week ago.
	BytesPerDay int64     `json:"bytes_per_day"`
	Since       time.Time `json:"since"`
	// Full is when only the reserve will be free at this rate, and nothing can be written any more; Days is how many
	// days that is from now.
	Full time.Time `json:"full"`
	Days float64   `json:"days"`
	// Sure reports that the forecast reaches no further than what is known, or that a week is known: one import soon
	// after the installation must not alarm anybody.
	Sure bool `json:"sure"`
}

// Of returns the forecast for a disk; nil if it does not become fuller, if less than a day of it is known, if its node
// is down, or if it will take more than ten years.
func (b *Book) Of(d Disk) *Forecast {
	if !d.Up {
		return nil
	}
	now := b.cfg.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	list := b.nodes[d.Node]
	i := slices.IndexFunc(list, func(s sample) bool { return now.Sub(s.time()) <= week })
	if i < 0 {
		return nil
	}
	first := list[i]
	known := now.Sub(first.time())
	shrunk := first.Free - d.Free
	if known < atLeast || shrunk <= 0 {
		return nil
	}
	perDay := float64(shrunk) / (known.Hours() / 24)
	days := max(0, float64(d.Free-d.Reserve)/perDay)
	if days > furthest.Hours()/24 {
		return nil
	}
	left := time.Duration(days * 24 * float64(time.Hour))
	return &Forecast{BytesPerDay: int64(perDay), Since: first.time(), Full: now.Add(left).UTC().Truncate(time.Second),
		Days: float64(int64(days*10)) / 10, Sure: left <= known || known >= week-slack}
}

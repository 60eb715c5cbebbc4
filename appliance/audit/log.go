// Package audit is the daemon's side of the audit log: reading it, its checkpoints, moving old events into files, and
// events that accompany no change.
//
// The events themselves are appended by cluster/state, with the commands that they tell. The newest ones are in memory;
// segments of proof.SegmentEvents are files of the tree at audit/segments/NUMBER, named by their first event. Of
// segments that were dropped, the hashes of the events are at audit/hashes/NUMBER.
package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"

	"casemate/appliance/audit/proof"
	"casemate/appliance/secret"
	"casemate/cluster"
	"casemate/cluster/tree"
)

// Cluster is the part of the cluster that the log needs.
type Cluster interface {
	EventLog() cluster.EventLog
	SealEvents(ctx context.Context, name string, first, count uint64) error
	Record(ctx context.Context, list []cluster.Occurrence) error
	Status() cluster.Status
}

// Tree is the part of the tree that the log needs.
type Tree interface {
	secret.Tree
	CreateBlob(id string) (tree.BlobWriter, error)
}

// Config is what a Log needs.
type Config struct {
	Cluster Cluster
	Tree    Tree // the whole one
	Sealer  secret.Sealer
	// Origin is the name of the log, "<domain>/audit".
	Origin string
	// Retain returns for how long events are kept; 0 is for ever.
	Retain func() time.Duration
	Now    func() time.Time
	Log    *slog.Logger
}

// Log is the audit log of the cluster, as this node sees it.
type Log struct {
	cfg Config

	mu     sync.Mutex
	signer *proof.Signer // nil until it is needed
}

// New returns the log; it does no I/O.
func New(cfg Config) *Log { return &Log{cfg: cfg} }

// segmentName is the file of the segment whose first event has the number first.
func segmentName(first uint64) string { return fmt.Sprintf("audit/segments/%016d", first) }

// hashesName is the file of the hashes of a segment that was dropped.
func hashesName(first uint64) string { return fmt.Sprintf("audit/hashes/%016d", first) }

// part reads what there is of the segment that begins with the event first: its events or, if it is before dropped,
// their hashes.
func (l *Log) part(first, dropped uint64) ([]byte, error) {
	if first < dropped {
		return l.cfg.Tree.ReadFile(hashesName(first))
	}
	data, err := l.segment(first)
	if err != nil && first < l.dropped() {
		return nil, fmt.Errorf("old events were dropped while the log was exported: export it again: %w",
			syscall.EAGAIN)
	}
	return data, err
}

// segment reads the segment that begins with the event first.
func (l *Log) segment(first uint64) ([]byte, error) {
	data, err := l.cfg.Tree.ReadFile(segmentName(first))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the events %d to %d of the audit log were removed: its file is missing: %w", first,
			first+proof.SegmentEvents-1, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("the events %d to %d of the audit log cannot be read: %w", first,
			first+proof.SegmentEvents-1, err)
	}
	return data, nil
}

// secretName is the seed of the key that signs checkpoints.
const secretName = "audit"

// Signer returns the signer of checkpoints, whose key is made at its first use.
func (l *Log) Signer(ctx context.Context) (*proof.Signer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.signer == nil {
		// Whoever asks for the first checkpoint, it is the node that makes the key.
		ctx = tree.WithActor(ctx, tree.Actor{})
		seed, err := secret.ReadOrMake(ctx, l.cfg.Tree, l.cfg.Sealer, secretName)
		if err != nil {
			return nil, err
		}
		if l.signer, err = proof.NewSigner(l.cfg.Origin, seed); err != nil {
			return nil, err
		}
	}
	return l.signer, nil
}

// Checkpoint is the log's signed checkpoint.
type Checkpoint struct {
	Size       uint64 `json:"size"`
	Checkpoint string `json:"checkpoint"` // C2SP tlog-checkpoint, lines
	Key        string `json:"key"`        // public key, in the form of a signed note's
}

// Checkpoint returns the checkpoint of all events that are readable on this node.
func (l *Log) Checkpoint(ctx context.Context) (c Checkpoint, err error) {
	s, err := l.Signer(ctx)
	if err != nil {
		return c, err
	}
	at := l.cfg.Cluster.EventLog().Tree()
	signed, err := s.Checkpoint(at)
	return Checkpoint{at.Size(), string(signed), s.PublicKey().String()}, err
}

// Export writes the whole log in the form of package proof.
func (l *Log) Export(ctx context.Context, w io.Writer) error {
	s, err := l.Signer(ctx)
	if err != nil {
		return err
	}
	dropped := l.dropped() // before the log, which then has the event about it
	log := l.cfg.Cluster.EventLog()
	for first := uint64(0); first < log.First(); first += proof.SegmentEvents {
		if err := ctx.Err(); err != nil {
			return err
		}
		data, err := l.part(first, dropped)
		if err == nil {
			_, err = w.Write(data)
		}
		if err != nil {
			return err
		}
	}
	for _, line := range log.Lines(log.First()) {
		if _, err := io.WriteString(w, line+"\n"); err != nil {
			return err
		}
	}
	signed, err := s.Checkpoint(log.Tree())
	if err == nil {
		_, err = w.Write(proof.End(signed, s.PublicKey()))
	}
	return err
}

// Filter selects events. Its zero value selects all.
type Filter struct {
	Since, Until time.Time // Until itself is not included
	Actor        string    // the whole actor
	Verb         string    // the whole verb, or its first word: "image" for "image.push"
	Object       string    // a part of the object
	Before       uint64    // only events with a smaller number; 0 is no limit
	Limit        int       // the newest so many; 0 is DefaultLimit
}

// Limits of a list.
const (
	DefaultLimit = 100
	MaxLimit     = 10_000
)

// Match reports whether the filter selects an event.
func (f Filter) Match(e proof.Event) bool {
	return (f.Since.IsZero() || !e.Time.Before(f.Since)) && (f.Until.IsZero() || e.Time.Before(f.Until)) &&
		(f.Actor == "" || e.Actor == f.Actor) &&
		(f.Verb == "" || e.Verb == f.Verb || strings.HasPrefix(e.Verb, f.Verb+".")) &&
		strings.Contains(e.Object, f.Object) && (f.Before == 0 || e.N < f.Before)
}

// Page is a part of the log.
type Page struct {
	Events []proof.Event `json:"events"` // the newest last
	// Before is where the next page with older events begins; 0: there are none, or they were dropped.
	Before uint64 `json:"before,omitempty"`
}

// skew is how far the clocks of nodes may differ when segments are skipped by time.
const skew = time.Hour

// List returns the newest events that the filter selects.
func (l *Log) List(ctx context.Context, f Filter) (p Page, err error) {
	limit := f.Limit
	if limit <= 0 {
		limit = DefaultLimit
	}
	limit = min(limit, MaxLimit)
	log := l.cfg.Cluster.EventLog()
	// take prepends the selected events of a part of the log.
	take := func(lines [][]byte) error {
		for i := len(lines) - 1; i >= 0; i-- {
			e, err := proof.Parse(lines[i])
			if err != nil {
				return err
			}
			if !f.Match(e) {
				continue
			}
			if len(p.Events) == limit {
				p.Before = p.Events[limit-1].N
				return nil
			}
			p.Events = append(p.Events, e)
		}
		return nil
	}
	defer func() { // they were collected from the newest to the oldest
		for i, j := 0, len(p.Events)-1; i < j; i, j = i+1, j-1 {
			p.Events[i], p.Events[j] = p.Events[j], p.Events[i]
		}
	}()
	var newest [][]byte
	for n, line := range log.Lines(log.First()) {
		if f.Before > 0 && n >= f.Before {
			break
		}
		newest = append(newest, []byte(line))
	}
	if err := take(newest); err != nil || p.Before > 0 {
		return p, err
	}
	dropped := l.dropped()
	for first := log.First(); first > dropped && p.Before == 0; {
		first -= proof.SegmentEvents
		if f.Before > 0 && first >= f.Before {
			continue
		}
		if err := ctx.Err(); err != nil {
			return p, err
		}
		skip, old := l.outside(first, f)
		if old {
			break
		}
		if skip {
			continue
		}
		data, err := l.segment(first)
		if err != nil {
			return p, err
		}
		if err := take(splitLines(data)); err != nil {
			return p, err
		}
	}
	return p, nil
}

// outside reports whether the times of a segment's events cannot be those of the filter, from the times at which
// segments were written, without reading them; old: nor those of the segments before it.
func (l *Log) outside(first uint64, f Filter) (skip, old bool) {
	if info, err := l.cfg.Tree.Stat(segmentName(first)); err == nil && !f.Since.IsZero() &&
		info.ModTime().Add(skew).Before(f.Since) {
		return true, true
	}
	// When a segment was written, there were as many newer events in memory: this segment's are newer still.
	const newer = 2 * proof.SegmentEvents
	if first < newer || f.Until.IsZero() {
		return false, false
	}
	info, err := l.cfg.Tree.Stat(segmentName(first - newer))
	return err == nil && info.ModTime().After(f.Until.Add(skew)), false
}

func splitLines(data []byte) (lines [][]byte) {
	for line := range strings.Lines(string(data)) {
		lines = append(lines, []byte(strings.TrimSuffix(line, "\n")))
	}
	return lines
}

// At returns the events of one entry of the replicated log, which is the version of every name that it wrote; none if
// they were dropped, or recorded before there was a log.
func (l *Log) At(ctx context.Context, index uint64) (list []proof.Event, err error) {
	log := l.cfg.Cluster.EventLog()
	// collect returns the events of the entry among lines, and the entry of the first line.
	collect := func(lines [][]byte) (first uint64, err error) {
		for i, line := range lines {
			e, err := proof.Parse(line)
			if err != nil {
				return 0, err
			}
			if i == 0 {
				first = e.Index
			}
			if e.Index == index {
				list = append(list, e)
			}
		}
		return first, nil
	}
	var newest [][]byte
	for _, line := range log.Lines(log.First()) {
		newest = append(newest, []byte(line))
	}
	first, err := collect(newest)
	if err != nil || len(newest) > 0 && first < index {
		return list, err
	}
	// The last segment that does not begin after the entry has its events. Segments are in the order of entries.
	low, high := int(l.dropped()/proof.SegmentEvents), int(log.First()/proof.SegmentEvents)
	read := func(i int) (first uint64, err error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		data, err := l.segment(uint64(i) * proof.SegmentEvents)
		if err != nil {
			return 0, err
		}
		list = nil
		return collect(splitLines(data))
	}
	had := list
	at := low + sort.Search(high-low, func(i int) bool {
		first, e := read(low + i)
		err = errors.Join(err, e)
		return first > index
	})
	if list = nil; err != nil || at == low {
		return had, err
	}
	_, err = read(at - 1)
	return append(list, had...), err
}

package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sort"
	"strings"
	"time"

	"casemate/appliance/audit/proof"
	"casemate/cluster"
	"casemate/cluster/tree"
)

const (
	keepEvery = 5 * time.Second
	dropEvery = time.Hour
	// dropAtOnce is how many segments are dropped in one step.
	dropAtOnce = 64
)

// Run moves events from memory into files and drops old ones, on the node that leads, until ctx is done.
func (l *Log) Run(ctx context.Context) error {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	var dropped time.Time
	for last := ""; ; {
		var err error
		if s := l.cfg.Cluster.Status(); s.Leader == s.Node {
			if err = l.Seal(ctx); err == nil && l.cfg.Now().Sub(dropped) > dropEvery {
				if err = l.Drop(ctx); err == nil {
					dropped = l.cfg.Now()
				}
			}
		}
		switch {
		case err == nil:
			last = ""
		case ctx.Err() == nil && err.Error() != last:
			last = err.Error()
			l.cfg.Log.Warn("old events of the audit log stay where they are, retrying", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Seal moves events from memory into files until between one and two segments are left.
//
// The state computes the digest of the events that it gives away, so a file with others is refused. If this node were
// to crash between the two steps, the blob would have no name, and would be collected.
func (l *Log) Seal(ctx context.Context) error {
	for {
		log := l.cfg.Cluster.EventLog()
		first := log.First()
		if log.Tree().Size()-first < 2*proof.SegmentEvents {
			return nil
		}
		var text strings.Builder
		for n, line := range log.Lines(first) {
			if n == first+proof.SegmentEvents {
				break
			}
			text.WriteString(line)
			text.WriteByte('\n')
		}
		if _, err := l.blob(ctx, []byte(text.String())); err != nil {
			return err
		}
		err := l.cfg.Cluster.SealEvents(ctx, segmentName(first), first, proof.SegmentEvents)
		if err != nil && !errors.Is(err, fs.ErrExist) { // another node has done it
			return fmt.Errorf("events from %d on: %w", first, err)
		}
	}
}

// blob commits bytes, without a name.
func (l *Log) blob(ctx context.Context, data []byte) (digest string, err error) {
	w, err := l.cfg.Tree.CreateBlob("")
	if err != nil {
		return "", err
	}
	defer w.Close()
	if _, err := w.Write(data); err != nil {
		return "", err
	}
	return w.Commit(ctx, "")
}

// Drop replaces segments that are older than Retain by the hashes of their events, so that every checkpoint can still
// be verified.
func (l *Log) Drop(ctx context.Context) error {
	retain := time.Duration(0)
	if l.cfg.Retain != nil {
		retain = l.cfg.Retain()
	}
	if retain == 0 {
		return nil
	}
	limit := l.cfg.Now().Add(-retain)
	for {
		begin := l.dropped()
		var digests []string
		end := l.cfg.Cluster.EventLog().First()
		for first := begin; first < end && len(digests) < dropAtOnce; first += proof.SegmentEvents {
			info, err := l.cfg.Tree.Stat(segmentName(first))
			if err != nil {
				return err
			}
			if info.ModTime().After(limit) {
				break
			}
			data, err := l.segment(first)
			if err != nil {
				return err
			}
			digest, err := l.blob(ctx, proof.Hashes(first, data))
			if err != nil {
				return err
			}
			digests = append(digests, digest)
		}
		if len(digests) == 0 {
			return nil
		}
		last := begin + uint64(len(digests))*proof.SegmentEvents - 1
		told := tree.Event{
			Verb: proof.DropVerb, Object: fmt.Sprintf(proof.DropObject, begin, last),
			Old: fmt.Sprintf("older than %d days", retain/(24*time.Hour)),
		}
		err := l.cfg.Tree.Update(tree.WithEvent(ctx, told), func(b cluster.Batch) error {
			for i, d := range digests {
				first := begin + uint64(i)*proof.SegmentEvents
				b.Link(hashesName(first), d)
				b.Remove(segmentName(first))
			}
			return nil
		})
		if err != nil {
			return err
		}
		l.cfg.Log.Info("old events of the audit log dropped", "first", begin, "last", last)
	}
}

// dropped returns the number of the first event that was not dropped.
func (l *Log) dropped() uint64 {
	segments := int(l.cfg.Cluster.EventLog().First() / proof.SegmentEvents)
	n := sort.Search(segments, func(i int) bool {
		_, err := l.cfg.Tree.Stat(hashesName(uint64(i) * proof.SegmentEvents))
		return err != nil
	})
	return uint64(n) * proof.SegmentEvents
}

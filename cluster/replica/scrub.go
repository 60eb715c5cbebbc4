package replica

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"casemate/cluster/blob"
	"casemate/cluster/peer"
	"casemate/cluster/state"
)

// ScrubReport is the result of a scrub.
type ScrubReport struct {
	Blobs    int           `json:"blobs"`
	Bytes    int64         `json:"bytes"`
	Missing  []string      `json:"missing"` // digests that the tree knows and this disk does not have; at most 1000
	Damaged  []string      `json:"damaged"` // digests whose bytes are wrong; at most 1000
	Faults   int           `json:"faults"`  // of both kinds
	Repaired int           `json:"mended"`  // of them, by fetching the bytes from another node
	Took     time.Duration `json:"took_ns"`
}

// Scrub reads every blob that the tree knows from this disk, at full speed, and compares the bytes with the digest.
// Damaged and missing blobs are fetched from another node; if no node has one, importing or pushing it again repairs
// it. It reads one file at a time, so it uses one core.
func (s *Store) Scrub(ctx context.Context) (r ScrubReport, err error) {
	start := time.Now()
	defer func() {
		r.Took = time.Since(start)
		s.log.Info("scrub", "blobs", r.Blobs, "bytes", r.Bytes, "faults", r.Faults, "took", r.Took, "err", err)
	}()
	for d, b := range s.state.View().Blobs("") {
		text := d.String()
		if err := s.scrubOne(ctx, &r, d, b, s.dir.Verify(ctx, text)); err != nil {
			return r, err
		}
	}
	return r, nil
}

// scrubOne counts one blob and its fault, and repairs it. An error that it returns is not about the blob.
func (s *Store) scrubOne(ctx context.Context, r *ScrubReport, d state.Digest, b state.Blob, fault error) error {
	text := d.String()
	list := &r.Damaged
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case fault == nil:
	case errors.Is(fault, fs.ErrNotExist):
		if _, known := s.state.View().Blob(d); !known {
			return nil // collected meanwhile
		}
		list = &r.Missing
	case !errors.Is(fault, blob.ErrDamaged):
		return fault
	}
	r.Blobs++
	r.Bytes += b.Size
	s.scrubs.blobs.Add(1)
	s.scrubs.bytes.Add(uint64(b.Size))
	if fault == nil {
		return nil
	}
	r.Faults++
	if err := s.repair(ctx, d, b); err == nil {
		r.Repaired++
		s.log.Warn("scrub repaired a blob from another node", "blob", text, "was", fault)
		return nil
	}
	s.log.Error("scrub", "blob", text, "err", fault)
	if len(*list) < 1000 {
		*list = append(*list, text)
	}
	return ctx.Err()
}

// repair fetches a blob from another node and replaces the one on this disk.
func (s *Store) repair(ctx context.Context, d state.Digest, b state.Blob) error {
	if s.fetcher != nil {
		s.fetcher.markMissing(d, b)
	}
	if s.fetcher == nil || len(s.state.Others()) == 0 {
		return peer.ErrDown
	}
	var err error
	for range s.state.Others() {
		var f *fetch
		if f, err = s.fetcher.start(d, nil); err != nil {
			return err
		}
		err = f.wait(ctx, f.size, true)
		f.leave()
		if !errors.Is(err, syscall.EBADMSG) {
			break // EBADMSG: that node's copy was damaged too; ask the next one
		}
	}
	return err
}

// scrubs counts the results of this process's scrubs. Its zero value is ready.
type scrubs struct {
	blobs, bytes, faults, repaired atomic.Uint64

	mu     sync.Mutex
	oldest time.Time // owned by mu
	due    int       // owned by mu
}

// ScrubStatus is the progress of the background scrub. The counters include all scrubs since the process began.
type ScrubStatus struct {
	Blobs    uint64 `json:"blobs"`    // read
	Bytes    uint64 `json:"bytes"`    // read
	Faults   uint64 `json:"faults"`   // blobs found to be damaged, by a scrub or a read
	Repaired uint64 `json:"repaired"` // of them, from another node or by an import or a push
	// Oldest is a time after which every blob on this disk was verified; zero until it is known.
	Oldest time.Time `json:"oldest,omitzero"`
	Due    int       `json:"due"` // blobs that are due to be read
}

// ScrubStatus returns the progress of the background scrub.
func (s *Store) ScrubStatus() ScrubStatus {
	c := &s.scrubs
	c.mu.Lock()
	defer c.mu.Unlock()
	return ScrubStatus{c.blobs.Load(), c.bytes.Load(), c.faults.Load(), c.repaired.Load(), c.oldest, c.due}
}

const (
	patrolLook  = time.Minute // how soon a changed interval takes effect
	patrolLeast = 4 << 20     // minimum rate, in bytes a second
	patrolPiece = 128 << 10
	patrolBlob  = 64 << 10 // fixed cost of a blob, in bytes: a seek or two
)

// Patrol scrubs in the background until ctx is done: every blob is read at least once in what interval returns (0:
// never), slowly enough not to disturb other reads. Blobs that may have changed since they were last hashed come first.
// The file's time tells when a blob was last read, so a restart does not repeat the work.
func (s *Store) Patrol(ctx context.Context, interval func() time.Duration) {
	tick := time.NewTicker(patrolLook)
	defer tick.Stop()
	var next time.Time
	last := time.Duration(-1)
	for ctx.Err() == nil {
		every := interval()
		if every > 0 && (every != last || !s.cfg.Options.Now().Before(next)) {
			last = every
			next = s.cfg.Options.Now().Add(every / 64)
			r, err := s.PatrolOnce(ctx, every, interval)
			if err != nil && ctx.Err() == nil {
				s.log.Warn("the background scrub stopped and is retried", "err", err)
			}
			if r.Blobs > 0 {
				s.log.Info("scrub", "blobs", r.Blobs, "bytes", r.Bytes, "faults", r.Faults, "repaired", r.Repaired)
			}
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// PatrolOnce reads the blobs that are due, once. A blob is due after half of the interval, and the rate is such that
// all of them are read in a quarter of it.
func (s *Store) PatrolOnce(
	ctx context.Context, every time.Duration, interval func() time.Duration,
) (r ScrubReport, err error) {
	view := s.state.View()
	st := view.Stats()
	all := float64(st.Bytes) + patrolBlob*float64(st.Blobs)
	limit := rate.NewLimiter(rate.Limit(max(patrolLeast, all/(every.Seconds()/4))), patrolPiece)
	pace := func(ctx context.Context, n int, hurry <-chan struct{}) {
		wait := time.NewTimer(limit.ReserveN(time.Now(), min(n, patrolPiece)).Delay())
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-hurry:
		case <-ctx.Done():
		}
	}
	var suspect, old []state.Digest
	now := s.cfg.Options.Now()
	oldest := now
	for d := range view.Blobs("") {
		at, err := s.dir.Verified(d.String())
		switch {
		case ctx.Err() != nil:
			return r, ctx.Err()
		case err != nil && !errors.Is(err, blob.ErrDamaged) && !errors.Is(err, fs.ErrNotExist):
			return r, err
		case err != nil, at.IsZero():
			suspect = append(suspect, d)
		case now.Sub(at) > every/2, at.Sub(now) > every: // the second: the clock was wrong
			old = append(old, d)
		default:
			oldest = earlier(oldest, at)
		}
	}
	report := func(oldest time.Time, due int) {
		s.scrubs.mu.Lock()
		defer s.scrubs.mu.Unlock()
		s.scrubs.oldest, s.scrubs.due = oldest, due
	}
	list := append(suspect, old...)
	for i, d := range list {
		report(s.ScrubStatus().Oldest, len(list)-i)
		if interval() != every {
			return r, nil // Patrol starts over
		}
		b, known := s.state.View().Blob(d)
		if !known {
			continue
		}
		pace(ctx, patrolBlob, nil)
		if err := s.scrubOne(ctx, &r, d, b, s.dir.VerifySlowly(ctx, d.String(), pace)); err != nil {
			return r, err
		}
	}
	report(oldest, 0)
	return r, nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

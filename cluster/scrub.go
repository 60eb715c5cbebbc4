package cluster

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
	"casemate/cluster/state"
)

// ScrubReport is what a scrub found.
type ScrubReport struct {
	Blobs   int           `json:"blobs"`
	Bytes   int64         `json:"bytes"`
	Missing []string      `json:"missing"` // digests that the tree knows and this disk has not; at most 1000
	Damaged []string      `json:"damaged"` // digests whose bytes are other ones; at most 1000
	Faults  int           `json:"faults"`  // of both kinds
	Mended  int           `json:"mended"`  // of them, by fetching the bytes from another node
	Took    time.Duration `json:"took_ns"`
}

// Scrub reads every blob that the tree knows from this disk, now and as fast as it goes, and compares the bytes with
// the digest. What is wrong or missing is fetched from another node; where there is none that has it, importing or
// pushing the blob again repairs it. One file at a time, so it takes one core and as much of the disk as is idle.
func (c *Cluster) Scrub(ctx context.Context) (r ScrubReport, err error) {
	start := time.Now()
	defer func() {
		r.Took = time.Since(start)
		c.log.Info("scrub", "blobs", r.Blobs, "bytes", r.Bytes, "faults", r.Faults, "took", r.Took, "err", err)
	}()
	for d, b := range c.machine.view.Load().Blobs("") {
		text := d.String()
		if err := c.scrubOne(ctx, &r, d, b, c.blobs.Verify(ctx, text)); err != nil {
			return r, err
		}
	}
	return r, nil
}

// scrubOne counts one blob and its fault, and mends it. An error is not the blob's.
func (c *Cluster) scrubOne(ctx context.Context, r *ScrubReport, d state.Digest, b state.Blob, fault error) error {
	text := d.String()
	list := &r.Damaged
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case fault == nil:
	case errors.Is(fault, fs.ErrNotExist):
		if _, known := c.machine.view.Load().Blob(d); !known {
			return nil // collected meanwhile
		}
		list = &r.Missing
	case !errors.Is(fault, blob.ErrDamaged):
		return fault
	}
	r.Blobs++
	r.Bytes += b.Size
	c.scrubs.blobs.Add(1)
	c.scrubs.bytes.Add(uint64(b.Size))
	if fault == nil {
		return nil
	}
	r.Faults++
	if err := c.mend(ctx, d, b); err == nil {
		r.Mended++
		c.log.Warn("scrub mended a blob from another node", "blob", text, "was", fault)
		return nil
	}
	c.log.Error("scrub", "blob", text, "err", fault)
	if len(*list) < 1000 {
		*list = append(*list, text)
	}
	return ctx.Err()
}

// mend fetches a blob from another node, over what is on this disk.
func (c *Cluster) mend(ctx context.Context, d state.Digest, b state.Blob) error {
	if c.stock != nil {
		c.stock.lose(d, b)
	}
	if c.stock == nil || len(c.others()) == 0 {
		return errDown
	}
	var err error
	for range c.others() {
		var f *fetch
		if f, err = c.stock.start(d, nil); err != nil {
			return err
		}
		err = f.wait(ctx, f.size, true)
		f.leave()
		if !errors.Is(err, syscall.EBADMSG) {
			break // of several that had it one was damaged as well: the next one is asked
		}
	}
	return err
}

// scrubs is what the scrubs of this process have come to. Its zero value is ready.
type scrubs struct {
	blobs, bytes, faults, repaired atomic.Uint64

	mu     sync.Mutex
	oldest time.Time // owned by mu
	due    int       // owned by mu
}

// ScrubStatus is how the scrub that runs by itself stands. The counters are of all scrubs since the process began.
type ScrubStatus struct {
	Blobs    uint64 `json:"blobs"`    // read
	Bytes    uint64 `json:"bytes"`    // read
	Faults   uint64 `json:"faults"`   // blobs found to be damaged, by whomever
	Repaired uint64 `json:"repaired"` // of them, by another node, an import or a push
	// Oldest is a time before which no blob on this disk was verified last; zero until that is known.
	Oldest time.Time `json:"oldest,omitzero"`
	Due    int       `json:"due"` // blobs that are to be read now
}

// ScrubStatus returns what is so now.
func (c *Cluster) ScrubStatus() ScrubStatus {
	s := &c.scrubs
	s.mu.Lock()
	defer s.mu.Unlock()
	return ScrubStatus{s.blobs.Load(), s.bytes.Load(), s.faults.Load(), s.repaired.Load(), s.oldest, s.due}
}

const (
	patrolLook  = time.Minute // how soon another interval is taken up
	patrolLeast = 4 << 20     // bytes a second at which it reads at least
	patrolPiece = 128 << 10
	patrolBlob  = 64 << 10 // bytes that a blob costs besides its own: a seek or two
)

// Patrol scrubs by itself until ctx is done: every blob is read at least once in what interval returns, 0 for never,
// and so slowly that nobody notices. What may have been changed since it was last hashed comes first. When a blob was
// last read says its file, so a restart costs nothing.
func (c *Cluster) Patrol(ctx context.Context, interval func() time.Duration) {
	tick := time.NewTicker(patrolLook)
	defer tick.Stop()
	var next time.Time
	last := time.Duration(-1)
	for ctx.Err() == nil {
		every := interval()
		if every > 0 && (every != last || !c.cfg.Now().Before(next)) {
			last = every
			next = c.cfg.Now().Add(every / 64)
			r, err := c.patrol(ctx, every, interval)
			if err != nil && ctx.Err() == nil {
				c.log.Warn("scrubbing by itself stopped, it is tried again", "err", err)
			}
			if r.Blobs > 0 {
				c.log.Info("scrub", "blobs", r.Blobs, "bytes", r.Bytes, "faults", r.Faults, "mended", r.Mended)
			}
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// patrol reads what is due, once. A blob is due when half of the interval is over, and the rate is such that all of
// them are read in a quarter of it.
func (c *Cluster) patrol(
	ctx context.Context, every time.Duration, interval func() time.Duration,
) (r ScrubReport, err error) {
	s := c.machine.view.Load()
	st := s.Stats()
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
	now := c.cfg.Now()
	oldest := now
	for d := range s.Blobs("") {
		at, err := c.blobs.Verified(d.String())
		switch {
		case ctx.Err() != nil:
			return r, ctx.Err()
		case err != nil && !errors.Is(err, blob.ErrDamaged) && !errors.Is(err, fs.ErrNotExist):
			return r, err
		case err != nil, at.IsZero():
			suspect = append(suspect, d)
		case now.Sub(at) > every/2, at.Sub(now) > every: // or the clock was wrong
			old = append(old, d)
		default:
			oldest = earlier(oldest, at)
		}
	}
	note := func(oldest time.Time, due int) {
		c.scrubs.mu.Lock()
		defer c.scrubs.mu.Unlock()
		c.scrubs.oldest, c.scrubs.due = oldest, due
	}
	list := append(suspect, old...)
	for i, d := range list {
		note(c.ScrubStatus().Oldest, len(list)-i)
		if interval() != every {
			return r, nil // it begins anew
		}
		b, known := c.machine.view.Load().Blob(d)
		if !known {
			continue
		}
		pace(ctx, patrolBlob, nil)
		if err := c.scrubOne(ctx, &r, d, b, c.blobs.VerifySlowly(ctx, d.String(), pace)); err != nil {
			return r, err
		}
	}
	note(oldest, 0)
	return r, nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

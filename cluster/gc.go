package cluster

import (
	"context"
	"maps"
	"slices"
	"time"

	"casemate/cluster/state"
)

// GCReport is the result of a collection; with DryRun, of the one that would happen.
type GCReport struct {
	DryRun       bool          `json:"dry_run"`
	Pins         int           `json:"pins_expired"`     // expired pins
	Stages       int           `json:"stages_expired"`   // batches that were never published
	Blobs        int           `json:"blobs_collected"`  // unreferenced blobs
	Orphans      int           `json:"orphans"`          // files on this disk that the tree does not know
	Removed      int           `json:"files_removed"`    // of both kinds, from this disk
	RemovedBytes int64         `json:"bytes_removed"`    // on this disk
	Scratch      int           `json:"uploads_removed"`  // abandoned uploads
	WeakLinks    int           `json:"weak_links_swept"` // names that were removed with their blob
	Took         time.Duration `json:"took_ns"`
}

// collectChunk is how many digests one Collect carries: about 130 KiB as sha512.
const collectChunk = 2000

// GC ends expired pins, collects unreferenced blobs, and removes files from this disk that the tree does not know
// (promise 6). Pushes and pulls continue meanwhile: the log decides the order of their commands and a collect, and a
// file is unlinked only under its digest's lock after a check of the newest state. One collection runs at a time;
// another one waits. If ctx ends it, the report has what was done.
func (c *Cluster) GC(ctx context.Context, dryRun bool) (GCReport, error) {
	return c.collectUnnamed(ctx, dryRun, c.cfg.Now())
}

// GCNow is GC that ends all pins. A push or a large batch that is not finished is refused with a clear error and has to
// be repeated, so GCNow is for an operator who needs the space of deleted content at once.
func (c *Cluster) GCNow(ctx context.Context, dryRun bool) (GCReport, error) {
	return c.collectUnnamed(ctx, dryRun, c.cfg.Now().Add(c.cfg.PinTime))
}

// maxProlonged bounds how many other blobs' pins Discard prolongs in one command.
const maxProlonged = 4000

// Discard collects the unnamed blobs among digests without waiting for their pins, which last up to an hour. It is for
// the blobs of a failed import. Pins of other blobs are kept; those that would have ended first now end just after the
// last of the given ones. A blob with a weak name belongs to a push and is kept, too. Discard reports the blobs that it
// removed and deletes their files on this node; the other nodes delete theirs by themselves. While batches are staged,
// or thousands of other pins would have to be prolonged, it leaves the pins to expire.
func (c *Cluster) Discard(ctx context.Context, digests []string) (r GCReport, err error) {
	done, err := c.replica.Collect(ctx)
	if err != nil {
		return r, err
	}
	defer done()
	s := c.machine.view.Load()
	unnamed := map[state.Digest]bool{}
	var last time.Time // end of their last pin
	for _, text := range digests {
		d, err := state.ParseDigest(text)
		if err != nil {
			return r, err
		}
		if b, ok := s.Blob(d); ok && b.Strong == 0 && b.Weak == 0 {
			unnamed[d] = true
			if b.Until.After(last) {
				last = b.Until
			}
		}
	}
	for st := range s.Stages() {
		if !st.Until.After(last) {
			return r, nil
		}
	}
	var ops []state.Op
	for d, until := range s.Pins() {
		if until.After(last) {
			break
		}
		if unnamed[d] {
			r.Pins++
			continue
		}
		// For a known blob this only prolongs its pin. A blob that is collected meanwhile makes the state refuse the
		// command.
		b, _ := s.Blob(d)
		ops = append(ops, &state.AddBlob{Digest: d, Size: b.Size, Until: last.UnixNano() + 1})
		if len(ops) > maxProlonged {
			return r, nil
		}
	}
	if r.Pins > 0 {
		if _, err := c.propose(ctx, append(ops, &state.Expire{Now: last.UnixNano()})...); err != nil {
			return r, err
		}
	}
	for chunk := range slices.Chunk(slices.Sorted(maps.Keys(unnamed)), collectChunk) {
		result, err := c.propose(ctx, &state.Collect{Digests: chunk})
		if err != nil {
			return r, err
		}
		r.Blobs += len(result.Collected)
		if err := c.sweepFor(&r, result.Collected); err != nil {
			return r, err
		}
	}
	return r, nil
}

// collectUnnamed is GC that treats pins and stages as expired at the given time.
func (c *Cluster) collectUnnamed(ctx context.Context, dryRun bool, now time.Time) (r GCReport, err error) {
	done, err := c.replica.Collect(ctx)
	if err != nil {
		return r, err
	}
	defer done()
	start := time.Now()
	defer func() {
		r.Took = time.Since(start)
		c.log.Info("gc", "dry_run", dryRun, "blobs", r.Blobs, "orphans", r.Orphans, "bytes", r.RemovedBytes, "took",
			r.Took, "err", err)
	}()
	r.DryRun = dryRun
	s := c.machine.view.Load()
	ended := map[state.Digest]bool{}
	for d, until := range s.Pins() {
		if until.After(now) {
			break
		}
		ended[d] = true
	}
	r.Pins = len(ended)
	for st := range s.Stages() {
		if !st.Until.After(now) {
			r.Stages++
		}
	}
	if !dryRun && r.Pins+r.Stages > 0 {
		if _, err := c.propose(ctx, &state.Expire{Now: now.UnixNano()}); err != nil {
			return r, err
		}
		s = c.machine.view.Load()
	}
	if err := c.collect(ctx, &r, s, ended); err != nil {
		return r, err
	}
	if err := c.collectOrphans(ctx, &r); err != nil {
		return r, err
	}
	if dryRun {
		r.WeakLinks = s.Stats().Stale
		return r, nil
	}
	// One round over all names is enough: names become stale only by a collect, and only one runs at a time.
	names := s.Stats().Entries
	for before := c.machine.view.Load().Stats().Stale; before > 0 && names >= 0; names -= sweepChunk {
		if _, err := c.propose(ctx, &state.Sweep{Limit: sweepChunk}); err != nil {
			return r, err
		}
		after := c.machine.view.Load().Stats().Stale
		r.WeakLinks += max(0, before-after)
		before = after
	}
	r.Scratch, err = c.blobs.ExpireScratch(c.cfg.Now().Add(-c.cfg.ScratchAge))
	return r, err
}

const sweepChunk = 10_000

// collect proposes to collect unreferenced blobs and removes the files of those that were collected.
func (c *Cluster) collect(ctx context.Context, r *GCReport, s *state.State, ended map[state.Digest]bool) error {
	var candidates []state.Digest
	for d, b := range s.Blobs("") {
		if r.DryRun && b.Strong == 0 && (b.Until.IsZero() || ended[d]) {
			r.Blobs++
			r.Removed++
			r.RemovedBytes += b.Size
		}
		if !r.DryRun && b.Collectable() {
			candidates = append(candidates, d)
		}
	}
	for chunk := range slices.Chunk(candidates, collectChunk) {
		result, err := c.propose(ctx, &state.Collect{Digests: chunk})
		if err != nil {
			return err
		}
		r.Blobs += len(result.Collected)
		if err := c.sweepFor(r, result.Collected); err != nil {
			return err
		}
	}
	return nil
}

// collectOrphans removes files that the tree does not know: a crash between the rename and the log left them, or a
// power cut restored them after a sweep.
func (c *Cluster) collectOrphans(ctx context.Context, r *GCReport) error {
	var orphans []state.Digest
	flush := func() error {
		defer func() { orphans = orphans[:0] }()
		if len(orphans) == 0 {
			return nil
		}
		// An unknown digest is collected too: that leaves a tombstone, so an AddBlob that was confirmed before it must
		// be confirmed again.
		if _, err := c.propose(ctx, &state.Collect{Digests: orphans}); err != nil {
			return err
		}
		return c.sweepFor(r, orphans)
	}
	for e, err := range c.blobs.Scan() {
		if err != nil {
			return err
		}
		d, err := state.ParseDigest(e.Digest)
		if err != nil {
			return err
		}
		if _, known := c.machine.view.Load().Blob(d); known || c.blobs.Held(e.Digest) {
			continue
		}
		r.Orphans++
		if r.DryRun {
			r.Removed++
			r.RemovedBytes += e.Size
			continue
		}
		if orphans = append(orphans, d); len(orphans) == collectChunk {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// sweepFor unlinks collected blobs at once and counts them in the report. The other nodes sweep by themselves.
func (c *Cluster) sweepFor(r *GCReport, digests []state.Digest) error {
	files, bytes, err := c.replica.Sweep(digests)
	r.Removed += files
	r.RemovedBytes += bytes
	return err
}

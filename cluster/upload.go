package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"

	"casemate/cluster/blob"
	"casemate/cluster/state"
	"casemate/cluster/tree"
)

// BlobWriter is a scratch file of this node that becomes a blob.
type BlobWriter = tree.BlobWriter

// upload is a scratch file of this node on its way to being a blob of the cluster. io.Copy into it is blob.Writer's
// ReadFrom.
type upload struct {
	c *Cluster
	t *Tree // that it is from, and whose names CommitNamed gives it
	*blob.Writer

	mu    sync.Mutex
	tails map[string]*tail // nil before they began; those of other nodes, by name. The map is replaced, never written to.
}

var (
	_ io.ReaderFrom       = (*upload)(nil)
	_ tree.NamedCommitter = (*upload)(nil)
	_ tree.Summer         = (*upload)(nil)
	_ tree.Doubter        = (*Tree)(nil)
	_ tree.Info           = info{}
)

// CreateBlob opens a new scratch file on this node; id is [A-Za-z0-9._-]{1,128}, or "" for one that cannot be resumed.
// An existing id is truncated, and a writer that still has it open is closed.
func (t *Tree) CreateBlob(id string) (BlobWriter, error) {
	w, err := t.c.blobs.Create(id)
	if err != nil {
		return nil, err
	}
	return &upload{c: t.c, t: t, Writer: w}, nil
}

// ResumeBlob opens the scratch file of that id to go on at its end, else fs.ErrNotExist. It survives restarts of the
// node.
func (t *Tree) ResumeBlob(id string) (BlobWriter, error) {
	w, err := t.c.blobs.Resume(id)
	if err != nil {
		return nil, err
	}
	return &upload{c: t.c, t: t, Writer: w}, nil
}

// tries bounds how often Commit starts again after a collection came in between. Each needs a whole GC to have run.
const tries = 10

// Commit implements the contract: bytes before names (promise 1).
func (u *upload) Commit(ctx context.Context, digest string) (string, error) {
	got, _, err := u.commit(ctx, digest, nil)
	return got, err
}

// CommitNamed is Commit and, with the blob's digest, an Update of the tree that the writer is from, at one entry of the
// log: so there is one wait for a majority instead of two, and none of the names without the blob or, unless the batch
// is too large for one entry, the blob without its names. After an error the writer is as after one of Commit, and
// CommitNamed may be called again.
func (u *upload) CommitNamed(ctx context.Context, digest string, names func(Batch, string) error) (string, error) {
	got, index, err := u.commit(ctx, digest, func(got string) ([]state.Op, error) {
		return u.t.edits(func(b Batch) error { return names(b, got) })
	})
	if err == nil && u.c.peers != nil {
		u.c.peers.shared(ctx, index)
	}
	return got, err
}

// commit makes the bytes a blob, and commits what names returns with it. It returns the index of the newest entry.
func (u *upload) commit(
	ctx context.Context, digest string, names func(got string) ([]state.Op, error),
) (string, uint64, error) {
	c := u.c
	if digest != "" {
		if _, _, err := blob.ParseDigest(digest); err != nil {
			return "", 0, fmt.Errorf("commit: %w (%w)", err, syscall.EBADMSG)
		}
	}
	// Before anything is moved: without a majority the scratch file stays as it is.
	if err := c.readyFor(ctx, u.t.patient); err != nil {
		return "", 0, err
	}
	named := u.name(digest)
	got, size, err := u.Place(digest) // held from here until Done or Close, so that the sweeper passes it over
	if err != nil {
		if named {
			u.endTails(true) // what was copied has this name, and the next try may be for another
		}
		return "", 0, err
	}
	d, err := state.ParseDigest(got)
	if err != nil {
		return "", 0, err
	}
	for _, t := range u.copies() {
		t.grown(size, got)
	}
	var ops []state.Op
	if names != nil {
		if ops, err = names(got); err != nil {
			u.endTails(true)
			return "", 0, err
		}
	}
	index, err := u.enter(ctx, d, size, ops)
	if err != nil {
		return "", 0, err
	}
	return got, index, nil
}

// enter makes a placed blob durable elsewhere and known to the tree, and commits names with it. It returns the index of
// the newest entry.
func (u *upload) enter(ctx context.Context, d state.Digest, size int64, names []state.Op) (uint64, error) {
	for range tries {
		confirmed, err := u.c.spread(ctx, d.String(), size, u.copies())
		u.endTails(err != nil)
		if err != nil {
			return 0, err
		}
		index, err := u.c.commitBlob(ctx, u.t.patient, u.c.addBlob(d, size, confirmed), names)
		if err == nil {
			u.Done()
			return index, nil
		}
		if !errors.Is(err, state.ErrCollected) {
			return 0, err
		}
	}
	return 0, fmt.Errorf("commit %s: collected %d times while it was committed: %w", d, tries, syscall.EAGAIN)
}

func (c *Cluster) addBlob(d state.Digest, size int64, confirmed uint64) state.Op {
	until := c.cfg.Now().Add(c.cfg.PinTime).UnixNano()
	return &state.AddBlob{Digest: d, Size: size, Confirmed: confirmed, Until: until}
}

// commitBlob commits a blob and its names at one entry, or one after the other where the names do not fit in.
func (c *Cluster) commitBlob(ctx context.Context, patient bool, add state.Op, names []state.Op) (uint64, error) {
	all := append([]state.Op{add}, names...)
	if len(names) == 0 || c.fits(all) {
		r, err := c.proposeAll(ctx, patient, all)
		return r.Index, err
	}
	if _, err := c.proposeAll(ctx, patient, []state.Op{add}); err != nil {
		return 0, err
	}
	return c.commit(ctx, patient, names)
}

// name tells the copies what they will be called, and begins them if the upload was too small for that, or a file's
// bytes: so the other disks sync while this one does. If ours fails they have an orphan. It reports whether it did so;
// spread does what it does not.
func (u *upload) name(digest string) bool {
	if u.c.peers == nil || digest != "" && !strings.HasPrefix(digest, "sha256:") {
		return false
	}
	got, size, err := u.Sum()
	if err != nil || digest != "" && got != digest {
		return false // Place says why
	}
	for _, t := range u.begun(got) {
		t.grown(size, got)
	}
	return true
}

// Write also lets copies to other nodes begin.
func (u *upload) Write(p []byte) (int, error) {
	n, err := u.Writer.Write(p)
	u.tell()
	return n, err
}

// ReadFrom does so too, unless the bytes are those of a file, which may be shared with it instead of copied: they are
// here at once.
func (u *upload) ReadFrom(r io.Reader) (int64, error) {
	switch r.(type) {
	case *os.File, *io.SectionReader:
		return u.Writer.ReadFrom(r)
	}
	return u.Writer.ReadFrom(&telling{r, u})
}

// telling reads for an upload. When it is asked for more, what it gave before is in the scratch file.
type telling struct {
	io.Reader
	u *upload
}

func (t *telling) Read(p []byte) (int, error) {
	t.u.tell()
	return t.Reader.Read(p)
}

// tell lets the copies go on, once the upload is large enough for them to be worth it: then they are nearly done when
// the upload is.
func (u *upload) tell() {
	if u.c.peers == nil {
		return
	}
	size := u.Writer.Size()
	copies := u.copies()
	if copies == nil && size >= tailFrom {
		copies = u.begun("")
	}
	for _, t := range copies {
		t.grown(size, "")
	}
}

func (u *upload) copies() map[string]*tail {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.tails
}

// begun begins the copies if they have not begun.
func (u *upload) begun(digest string) map[string]*tail {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.tails == nil {
		u.tails = u.c.follow(u.Writer, digest)
	}
	return u.tails
}

// endTails forgets the copies. Those that go on are spread's, unless all are to be given up. As Close it may come while
// another goroutine writes.
func (u *upload) endTails(giveUp bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, t := range u.tails {
		if giveUp {
			t.stop()
		}
	}
	u.tails = map[string]*tail{} // not nil: another Commit copies the whole
}

// Close implements the contract.
func (u *upload) Close() error {
	u.endTails(true)
	return u.Writer.Close()
}

// Cancel implements the contract.
func (u *upload) Cancel() error {
	u.endTails(true)
	return u.Writer.Cancel()
}

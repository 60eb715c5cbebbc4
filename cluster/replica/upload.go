package replica

import (
	"context"
	"io"
	"os"
	"strings"
	"sync"

	"casemate/cluster/blob"
)

// Upload is a scratch file of this node that is copied to the other voters while it is written. io.Copy into it uses
// blob.Writer's ReadFrom.
type Upload struct {
	s *Store
	*blob.Writer

	mu sync.Mutex
	// By node; nil before they begin. The map is replaced, never modified.
	copies map[string]*streamingCopy
}

var _ io.ReaderFrom = (*Upload)(nil)

// Create opens a new scratch file; see blob.Dir.
func (s *Store) Create(id string) (*Upload, error) {
	w, err := s.dir.Create(id)
	if err != nil {
		return nil, err
	}
	return &Upload{s: s, Writer: w}, nil
}

// Resume opens the scratch file of that id to append to it; fs.ErrNotExist if there is none.
func (s *Store) Resume(id string) (*Upload, error) {
	w, err := s.dir.Resume(id)
	if err != nil {
		return nil, err
	}
	return &Upload{s: s, Writer: w}, nil
}

// Place makes the bytes a blob of this disk, as blob.Writer does, while the other voters do the same. The blob is held
// until Done or Close, so the sweeper skips it.
func (u *Upload) Place(digest string) (got string, size int64, err error) {
	announced := u.announce(digest)
	got, size, err = u.Writer.Place(digest)
	if err != nil {
		if announced {
			u.StopCopies() // the copies have this name, and the next attempt may have another
		}
		return "", 0, err
	}
	for _, c := range u.started() {
		c.grown(size, got)
	}
	return got, size, nil
}

// announce gives the copies the digest, and begins them if the upload was too small for that, or came from a file. So
// the other disks sync while this one does; if the sync here fails, they have an orphan. It reports whether it did so;
// otherwise Replicate copies the blob.
func (u *Upload) announce(digest string) bool {
	if u.s.peers == nil || digest != "" && !strings.HasPrefix(digest, "sha256:") {
		return false
	}
	got, size, err := u.Sum()
	if err != nil || digest != "" && got != digest {
		return false // Place returns the error
	}
	for _, c := range u.begin(got) {
		c.grown(size, got)
	}
	return true
}

// Replicate makes a placed blob durable on a majority of the voters, and returns the lowest index at which one of them
// confirmed it (promises 1 and 6).
func (u *Upload) Replicate(ctx context.Context, digest string, size int64) (confirmed uint64, err error) {
	confirmed, err = u.s.replicate(ctx, digest, size, u.started())
	u.endCopies(err != nil)
	return confirmed, err
}

// Write also starts the copies to other nodes, and lets them continue.
func (u *Upload) Write(p []byte) (int, error) {
	n, err := u.Writer.Write(p)
	u.written()
	return n, err
}

// ReadFrom does the same, unless the bytes are a file's: its blocks may be shared instead of copied, so all bytes are
// here at once.
func (u *Upload) ReadFrom(r io.Reader) (int64, error) {
	switch r.(type) {
	case *os.File, *io.SectionReader:
		return u.Writer.ReadFrom(r)
	}
	return u.Writer.ReadFrom(&uploadReader{r, u})
}

// uploadReader reads for an upload. At each call, the bytes that it returned before are in the scratch file.
type uploadReader struct {
	io.Reader
	u *Upload
}

func (r *uploadReader) Read(p []byte) (int, error) {
	r.u.written()
	return r.Reader.Read(p)
}

// written lets the copies continue, and starts them once the upload is large enough to be worth it. So they are nearly
// done when the upload is.
func (u *Upload) written() {
	if u.s.peers == nil {
		return
	}
	size := u.Writer.Size()
	copies := u.started()
	if copies == nil && size >= streamFrom {
		copies = u.begin("")
	}
	for _, c := range copies {
		c.grown(size, "")
	}
}

func (u *Upload) started() map[string]*streamingCopy {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.copies
}

// begin begins the copies if they have not begun.
func (u *Upload) begin(digest string) map[string]*streamingCopy {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.copies == nil {
		u.copies = u.s.startCopies(u.Writer, digest)
	}
	return u.copies
}

// StopCopies cancels all copies.
func (u *Upload) StopCopies() { u.endCopies(true) }

// endCopies detaches the copies from the upload. replicate owns those that continue, unless giveUp cancels all. Like
// Close it may be called while another goroutine writes.
func (u *Upload) endCopies(giveUp bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, c := range u.copies {
		if giveUp {
			c.stop()
		}
	}
	u.copies = map[string]*streamingCopy{} // not nil: another Replicate copies the whole
}

// Close closes the scratch file and keeps it if it has an id.
func (u *Upload) Close() error {
	u.StopCopies()
	return u.Writer.Close()
}

// Cancel removes the scratch file.
func (u *Upload) Cancel() error {
	u.StopCopies()
	return u.Writer.Cancel()
}

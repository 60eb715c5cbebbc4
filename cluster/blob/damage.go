package blob

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// ErrDamaged reports that the file of a digest has wrong bytes or cannot be read. An error of this kind gives the
// reason, and is also syscall.EIO.
var ErrDamaged = errors.New("damaged on this disk")

// Damage describes a damaged blob.
type Damage struct {
	Digest string
	Why    string // in words
}

// Error implements error.
func (d *Damage) Error() string { return "blob " + d.Digest + " is damaged on this disk: " + d.Why }

// Is makes the error ErrDamaged, and syscall.EIO for callers that know nothing of blobs.
func (d *Damage) Is(target error) bool { return target == ErrDamaged || target == syscall.EIO }

// stamp is the size and time of a file when its bytes were last checked. A file with another stamp is checked again.
type stamp struct {
	size int64
	mod  time.Time
}

func stampOf(i fs.FileInfo) stamp { return stamp{i.Size(), i.ModTime()} }

func (s stamp) of(i fs.FileInfo) bool { return s.size == i.Size() && s.mod.Equal(i.ModTime()) }

// fault is the record of a damaged blob.
type fault struct {
	stamp
	err  *Damage
	open bool // the file could not be opened, which is retried each time; the bytes were not checked
}

// check is one running verification.
type check struct {
	done     chan struct{} // closed when err is set
	hurry    chan struct{} // closed when a reader waits
	hurried  bool          // owned by Dir.mu
	replaced bool          // owned by Dir.mu: the blob was placed meanwhile
	err      error
}

// maxSeen bounds the records of verified files that could not be sealed, such as those of another owner.
const maxSeen = 1 << 16

// errSuspect reports that a file may have changed since it was last hashed.
var errSuspect = errors.New("not verified since it was changed")

// look checks a blob without reading it: nil, fs.ErrNotExist, ErrDamaged or errSuspect, or an error that leaves its
// state unknown. The FileInfo is set unless there is no file.
func (d *Dir) look(digest string) (fs.FileInfo, error) {
	algorithm, digits, err := ParseDigest(digest)
	if err != nil {
		return nil, err
	}
	i, err := d.fs.Stat(d.path(algorithm, digits))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.whole(digest)
		return nil, err
	case unusable(err):
		return nil, d.damage(digest, fault{err: &Damage{digest, "it cannot be looked at: " + reason(err)}, open: true})
	case err != nil:
		return nil, err
	case !i.Mode().IsRegular():
		why := "there is no file in its place but " + kindOf(i)
		return i, d.damage(digest, fault{stamp: stampOf(i), err: &Damage{digest, why}, open: true})
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if f, ok := d.faults[digest]; ok && !f.open && f.of(i) {
		return i, f.err
	}
	if s, ok := d.seen[digest]; !sealed(digest, i) && !(ok && s.of(i)) {
		return i, errSuspect
	}
	return i, nil
}

// judge is look, and hashes a suspect blob. The verification ends with the Dir and not with the caller, because other
// callers need its result too.
func (d *Dir) judge(digest string) (fs.FileInfo, error) {
	i, err := d.look(digest)
	for try := 0; errors.Is(err, errSuspect) && try < 3; try++ {
		if err = d.Verify(d.life, digest); err == nil {
			i, err = d.look(digest)
		}
	}
	return i, err
}

// prove records that the bytes of a blob were hashed. A record has 8 bytes, since there may be millions; a collision is
// as unlikely as an undetected bit error. d.mu is held.
func (d *Dir) prove(digest string) { d.proven[maphash.String(d.seed, digest)] = struct{}{} }

// disprove undoes prove. d.mu is held.
func (d *Dir) disprove(digest string) { delete(d.proven, maphash.String(d.seed, digest)) }

// Proven reports whether this process has hashed the bytes of an intact blob after the given time.
func (d *Dir) Proven(digest string, after time.Time) bool {
	d.mu.Lock()
	_, ok := d.proven[maphash.String(d.seed, digest)]
	d.mu.Unlock()
	if !ok {
		return false
	}
	i, err := d.look(digest)
	return err == nil && (!sealed(digest, i) || i.ModTime().After(after)) // some files cannot be sealed
}

// damage records that a blob is damaged, calls d.damaged if that is new, and returns the error.
func (d *Dir) damage(digest string, f fault) error {
	d.mu.Lock()
	old, known := d.faults[digest]
	d.faults[digest] = f
	d.mu.Unlock()
	if d.damaged != nil && (!known || old.err.Why != f.err.Why) {
		d.damaged(f.err)
	}
	return f.err
}

// opened removes the record that a blob could not be opened.
func (d *Dir) opened(digest string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.faults[digest].open {
		delete(d.faults, digest)
	}
}

// whole removes the record that a blob is damaged.
func (d *Dir) whole(digest string) {
	d.mu.Lock()
	delete(d.faults, digest)
	d.mu.Unlock()
}

// Damaged lists the blobs that are known to be damaged, ordered by digest.
func (d *Dir) Damaged() []Damage {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make([]Damage, 0, len(d.faults))
	for _, f := range d.faults {
		list = append(list, *f.err)
	}
	slices.SortFunc(list, func(a, b Damage) int { return strings.Compare(a.Digest, b.Digest) })
	return list
}

// Verify reads a blob and compares its bytes with its digest: ErrDamaged if they differ or cannot be read,
// fs.ErrNotExist if there is none. An intact blob is sealed; a damaged one is recorded, for this process and the next.
// Concurrent calls for one blob share one read.
func (d *Dir) Verify(ctx context.Context, digest string) error { return d.verify(ctx, digest, nil) }

// Pace is called after each piece of n bytes that were read. It should wait, but at most until hurry is closed: then a
// reader needs the blob.
type Pace func(ctx context.Context, n int, hurry <-chan struct{})

// VerifySlowly is Verify that reads the disk itself instead of the page cache.
func (d *Dir) VerifySlowly(ctx context.Context, digest string, pace Pace) error {
	return d.verify(ctx, digest, pace)
}

func (d *Dir) verify(ctx context.Context, digest string, pace Pace) error {
	for {
		d.mu.Lock()
		c, under := d.checks[digest]
		if under {
			if pace == nil && !c.hurried {
				c.hurried = true
				close(c.hurry)
			}
			d.mu.Unlock()
			select {
			case <-c.done:
			case <-ctx.Done():
				return ctx.Err()
			}
			if errors.Is(c.err, context.Canceled) || errors.Is(c.err, context.DeadlineExceeded) {
				continue // the reading goroutine was cancelled
			}
			return c.err
		}
		c = &check{done: make(chan struct{}), hurry: make(chan struct{})}
		d.checks[digest] = c
		d.mu.Unlock()
		c.err = d.compare(ctx, digest, c, pace)
		d.mu.Lock()
		delete(d.checks, digest)
		d.mu.Unlock()
		close(c.done)
		return c.err
	}
}

// compare reads a blob, again if it changes meanwhile, and records the outcome.
func (d *Dir) compare(ctx context.Context, digest string, c *check, pace Pace) error {
	for range 3 {
		i, err := d.look(digest)
		if err != nil && !errors.Is(err, errSuspect) && (i == nil || !i.Mode().IsRegular()) {
			return err
		}
		f, err := d.openFile(digest, i)
		if err != nil {
			return err
		}
		before := stampOf(i)
		why, err := d.sum(ctx, digest, f, i.Size(), c, pace)
		f.Close()
		if err != nil {
			return err
		}
		if settled, err := d.settle(digest, c, before, why); settled {
			return err
		}
	}
	i, err := d.look(digest)
	if i == nil {
		return err
	}
	return d.damage(digest, fault{stamp: stampOf(i), err: &Damage{digest, "it is being written to"}, open: true})
}

// sum hashes an open file, and returns what is wrong with it; "" if it is intact.
func (d *Dir) sum(ctx context.Context, digest string, f File, size int64, c *check, pace Pace) (string, error) {
	if pace != nil {
		d.fs.Drop(f)
		defer d.fs.Drop(f)
	}
	h, have := NewSum(digest)
	buf := chunks.Get().(*[chunk]byte)
	defer chunks.Put(buf)
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := f.Read(buf[:])
		h.Write(buf[:n])
		if err == io.EOF {
			break
		}
		if unusable(err) {
			return "it cannot be read: " + reason(err), nil
		}
		if err != nil {
			return "", fmt.Errorf("verify %s: %w", digest, err)
		}
		if pace != nil {
			pace(ctx, n, c.hurry)
		}
	}
	if got := have(); got != digest {
		return fmt.Sprintf("its %d bytes have the digest %s", size, got), nil
	}
	return "", nil
}

// settle records the outcome for the file with the stamp before, unless the file has changed. It takes the digest's
// lock, as placing does.
func (d *Dir) settle(digest string, c *check, before stamp, why string) (settled bool, err error) {
	algorithm, digits, err := ParseDigest(digest)
	if err != nil {
		return true, err
	}
	path := d.path(algorithm, digits)
	n := d.slot(digest)
	d.locks[n].Lock()
	d.mu.Lock()
	replaced := c.replaced
	d.mu.Unlock()
	if replaced { // with bytes that were hashed
		d.locks[n].Unlock()
		return true, nil
	}
	i, err := d.fs.Stat(path)
	if err != nil || !before.of(i) {
		d.locks[n].Unlock()
		return errors.Is(err, fs.ErrNotExist), err
	}
	if why == "" {
		err = d.fs.Chtimes(path, sealAt(digest, i.Size(), d.now()))
		d.mu.Lock()
		delete(d.faults, digest)
		delete(d.seen, digest)
		d.prove(digest)
		if err != nil && !sealed(digest, i) && len(d.seen) < maxSeen {
			d.seen[digest] = before
		}
		d.mu.Unlock()
		d.locks[n].Unlock()
		return true, nil
	}
	if sealed(digest, i) && d.fs.Chtimes(path, broken) == nil {
		if after, err := d.fs.Stat(path); err == nil {
			i = after
		}
	}
	d.mu.Lock()
	delete(d.seen, digest)
	d.disprove(digest)
	d.mu.Unlock()
	d.locks[n].Unlock()
	return true, d.damage(digest, fault{stamp: stampOf(i), err: &Damage{digest, why}})
}

// openFile opens the file of a blob that look has found.
func (d *Dir) openFile(digest string, seen fs.FileInfo) (File, error) {
	algorithm, digits, err := ParseDigest(digest)
	if err != nil {
		return nil, err
	}
	f, err := d.fs.OpenFile(d.path(algorithm, digits), os.O_RDONLY, 0)
	if unusable(err) {
		why := "it cannot be opened: " + reason(err)
		return nil, d.damage(digest, fault{stamp: stampOf(seen), err: &Damage{digest, why}, open: true})
	}
	return f, err
}

// unusable reports whether an error means that this file is damaged, rather than that it cannot be read at the moment.
func unusable(err error) bool {
	if err == nil {
		return false
	}
	return slices.ContainsFunc([]error{
		syscall.EIO, fs.ErrPermission, syscall.EISDIR, syscall.ENOTDIR, syscall.ELOOP, syscall.ENXIO, syscall.ENODATA,
		syscall.EBADMSG, errUnclean,
	}, func(e error) bool { return errors.Is(err, e) })
}

// errUnclean is EUCLEAN, with which file systems report damaged metadata of a file.
const errUnclean = syscall.Errno(117)

// reason returns the cause of an error, without the path.
func reason(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return err.Error()
}

func kindOf(i fs.FileInfo) string {
	if i.IsDir() {
		return "a directory"
	}
	return "something else"
}

// makeWay moves anything aside that is in the way of a blob's name; it may not be ours to delete. It reports whether
// the way is free now.
func (d *Dir) makeWay(target string) bool {
	way := false
	for _, dir := range []string{filepath.Dir(filepath.Dir(target)), filepath.Dir(target)} {
		i, err := d.fs.Stat(dir)
		switch {
		case err == nil && i.IsDir():
			continue
		case err == nil && d.setAside(dir) != nil:
			return false
		}
		d.mu.Lock()
		delete(d.made, dir)
		d.mu.Unlock()
		if d.mkdir(dir) != nil {
			return false
		}
		way = true
	}
	if i, err := d.fs.Stat(target); err == nil && !i.Mode().IsRegular() {
		way = d.setAside(target) == nil
	}
	return way
}

// setAside moves a foreign file or directory below aside/.
func (d *Dir) setAside(name string) error {
	dir := filepath.Join(d.dir, "aside")
	if err := d.mkdir(dir); err != nil {
		return err
	}
	return d.fs.Rename(name, filepath.Join(dir, strings.TrimPrefix(randomName(), anonymous)+"-"+filepath.Base(name)))
}

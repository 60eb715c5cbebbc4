// Package blob manages a directory of immutable files, each named by the digest of its bytes.
//
// What it promises:
//
//   - A file has the name of its digest only after its bytes were hashed here and are durable: hashed while written,
//     file synced, renamed, directory synced, in this order. For a group of blobs one sync of the file system replaces
//     those of all files, and another those of all directories. After a crash at any moment each digest is whole or
//     absent.
//   - Bytes being written are scratch files. One with an id survives its writer, and the process, and can be resumed.
//   - A file is removed only by Sweep, under the lock of its digest, never while the digest is held.
//   - Writes are refused with syscall.ENOSPC before the disk's reserve is touched.
//   - A blob that is known to be damaged is not opened, and one that may have changed since it was last hashed is
//     hashed before it is opened. Placing a blob repairs it.
//
// It does not know which blobs are wanted.
package blob

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"iter"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Options are the settings of a Dir; the zero value is usable.
type Options struct {
	// FS is the file system, OS{} if nil.
	FS FS
	// Reserve is the number of bytes that stay free on the disk: writes that would leave less are syscall.ENOSPC. 0:
	// none.
	Reserve int64
	// Now is the clock; nil is time.Now. It gives the time at which a blob was verified.
	Now func() time.Time
	// Damaged is called for each blob that is found to be damaged, by the goroutine that found it; it may be nil. It
	// must not block.
	Damaged func(*Damage)
	// Repaired is called for each damaged blob that is placed again; it may be nil. It must not block.
	Repaired func(digest string)
}

// Dir is a directory of blobs: <dir>/sha256/ab/<hex>, <dir>/sha512/ab/<hex>, and <dir>/scratch/. It is safe for
// concurrent use.
type Dir struct {
	dir     string
	fs      FS
	reserve int64

	now      func() time.Time
	damaged  func(*Damage)
	repaired func(digest string)
	life     context.Context // of verifications that an Open waits for; ends with Close
	end      context.CancelFunc

	volume volume // the file system, to sync groups of blobs

	seed  maphash.Seed
	locks [64]sync.Mutex // by digest; a lock guards the digest's holds and its removal
	holds [64]map[string]int
	all   atomic.Int64 // holds on all digests

	mu      sync.Mutex
	made    map[string]bool     // directories that are known to be durable
	stable  map[string]bool     // directories in which all names are durable
	placing map[string]int      // how many writers are between a rename into a directory and its sync
	writers map[string]*Writer  // open writers by id
	sums    map[string]savedSum // hash states of scratch files that no writer has open, by id
	faults  map[string]fault    // blobs that are known to be damaged
	seen    map[string]stamp    // blobs that were verified and could not be sealed
	checks  map[string]*check   // verifications under way
	proven  map[uint64]struct{} // hashes, by seed, of the digests whose bytes were hashed by this process
}

// Open opens the directory and creates missing parts of it. Scratch files without an id, which a crash has left, are
// removed.
func Open(dir string, o Options) (*Dir, error) {
	if o.FS == nil {
		o.FS = OS{}
	}
	d := &Dir{
		dir: dir, fs: o.FS, reserve: o.Reserve, seed: maphash.MakeSeed(),
		made: map[string]bool{}, stable: map[string]bool{}, placing: map[string]int{}, writers: map[string]*Writer{},
		sums: map[string]savedSum{},
		now:  o.Now, damaged: o.Damaged, repaired: o.Repaired, faults: map[string]fault{}, seen: map[string]stamp{},
		checks: map[string]*check{},
		proven: map[uint64]struct{}{},
	}
	if d.now == nil {
		d.now = time.Now
	}
	d.life, d.end = context.WithCancel(context.Background())
	d.volume.patience = volumePatience
	for i := range d.holds {
		d.holds[i] = map[string]int{}
	}
	for _, sub := range []string{"", "sha256", "sha512", "scratch"} {
		if err := d.mkdir(filepath.Join(dir, sub)); err != nil {
			return nil, err
		}
	}
	list, err := d.fs.ReadDir(d.scratchPath(""))
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		if strings.HasPrefix(e.Name(), anonymous) {
			if err := d.fs.Remove(d.scratchPath(e.Name())); err != nil {
				return nil, err
			}
		}
	}
	if s, err := d.fs.Syncer(dir); err == nil { // otherwise files are synced one by one
		d.volume.s = s
	}
	return d, nil
}

// Close ends running verifications for an Open, and waits for a running sync of the whole file system. Blobs that are
// not suspect can still be opened.
func (d *Dir) Close() {
	d.end()
	d.volume.close()
}

// mkdir makes a directory and its name durable, once.
func (d *Dir) mkdir(name string) error {
	d.mu.Lock()
	done := d.made[name]
	d.mu.Unlock()
	if done {
		return nil
	}
	if err := d.fs.Mkdir(name, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// Also if the directory exists: it may have been made just before a crash, or by a writer that has not synced yet.
	if err := d.fs.SyncDir(filepath.Dir(name)); err != nil {
		return err
	}
	d.mu.Lock()
	d.made[name] = true
	d.mu.Unlock()
	return nil
}

// rename makes a file the blob of a digest, durably.
func (d *Dir) rename(from, to, digest string) error {
	dir := filepath.Dir(to)
	d.enter(dir)
	err := d.move(from, to, digest)
	if err == nil {
		if err = d.fs.SyncDir(dir); err != nil {
			err = errors.Join(errNotSynced, err)
		}
	}
	d.entered(dir, err)
	return err
}

// enter reports that a name is going to be created in a directory, which is not durable yet; entered must follow when
// it is durable or has failed.
func (d *Dir) enter(dir string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.placing[dir]++
	d.stable[dir] = false
}

func (d *Dir) entered(dir string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.placing[dir]--
	if d.placing[dir] == 0 {
		delete(d.placing, dir)
		d.stable[dir] = err == nil
	}
}

// move renames a file to the blob of a digest; the caller syncs the directory. Records of the previous file are
// deleted, because the bytes of this one were hashed.
func (d *Dir) move(from, to, digest string) error {
	n := d.slot(digest)
	d.locks[n].Lock() // so that no verification of the previous file counts for this one
	err := d.fs.Rename(from, to)
	damaged := false
	if err == nil {
		d.mu.Lock()
		_, damaged = d.faults[digest]
		delete(d.faults, digest)
		delete(d.seen, digest)
		d.prove(digest)
		if c := d.checks[digest]; c != nil {
			c.replaced = true
		}
		d.mu.Unlock()
	}
	d.locks[n].Unlock()
	if damaged && d.repaired != nil {
		d.repaired(digest)
	}
	return err
}

// errNotSynced reports that a name exists but may not be durable.
var errNotSynced = errors.New("the directory was not synced")

// Durable returns the size of an intact blob, with the same checks as Open, and makes sure that its name is durable:
// the sync of a visible name may have failed, may not have happened yet, or the process may have ended before it.
func (d *Dir) Durable(digest string) (int64, error) {
	i, err := d.judge(digest)
	if err != nil {
		return 0, err
	}
	size := i.Size()
	algorithm, digits, err := ParseDigest(digest)
	if err != nil {
		return 0, err
	}
	dir := filepath.Dir(d.path(algorithm, digits))
	d.mu.Lock()
	done := d.stable[dir]
	d.mu.Unlock()
	if done {
		return size, nil
	}
	if err := d.mkdir(dir); err != nil { // the directory's own name, too
		return 0, err
	}
	if err := d.fs.SyncDir(dir); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.placing[dir] == 0 {
		d.stable[dir] = true
	}
	return size, nil
}

func (d *Dir) path(algorithm, digits string) string {
	return filepath.Join(d.dir, algorithm, digits[:2], digits)
}

// target is the path of a valid digest's blob.
func (d *Dir) target(digest string) string {
	algorithm, digits, _ := ParseDigest(digest)
	return d.path(algorithm, digits)
}

// Stat returns the size of a blob; otherwise the error is fs.ErrNotExist or ErrDamaged. It reads no bytes: a blob that
// may have changed since it was hashed counts as intact.
func (d *Dir) Stat(digest string) (int64, error) {
	i, err := d.look(digest)
	var size int64
	if i != nil {
		size = i.Size()
	}
	if errors.Is(err, errSuspect) {
		err = nil
	}
	return size, err
}

// Verified returns when a blob was last hashed, or a little earlier; the zero time if it may have changed since.
// Otherwise it returns the errors of Stat.
func (d *Dir) Verified(digest string) (time.Time, error) {
	i, err := d.look(digest)
	if errors.Is(err, errSuspect) {
		return time.Time{}, nil
	}
	if err != nil || !sealed(digest, i) {
		return time.Time{}, err
	}
	return i.ModTime(), nil
}

// Open opens a blob for reading; otherwise the error is fs.ErrNotExist or ErrDamaged. A blob that may have changed
// since it was hashed is hashed first. On disk the File is an *os.File; it stays readable when the blob is swept
// meanwhile.
func (d *Dir) Open(digest string) (File, error) {
	i, err := d.judge(digest)
	if err != nil {
		return nil, err
	}
	f, err := d.openFile(digest, i)
	if err == nil {
		d.opened(digest)
	}
	return f, err
}

// Scan yields every blob on disk with its size, in the order of algorithm and digest. It skips files that are not
// blobs. An error ends it and is yielded with an empty Entry.
func (d *Dir) Scan() iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for _, algorithm := range []string{"sha256", "sha512"} {
			prefixes, err := d.fs.ReadDir(filepath.Join(d.dir, algorithm))
			if err != nil {
				yield(Entry{}, err)
				return
			}
			for _, p := range prefixes {
				if !p.IsDir() {
					continue
				}
				list, err := d.fs.ReadDir(filepath.Join(d.dir, algorithm, p.Name()))
				if err != nil {
					yield(Entry{}, err)
					return
				}
				for _, e := range list {
					digest := algorithm + ":" + e.Name()
					if _, _, err := ParseDigest(digest); err != nil || !strings.HasPrefix(e.Name(), p.Name()) {
						continue
					}
					i, err := e.Info()
					if errors.Is(err, fs.ErrNotExist) {
						continue // swept since
					}
					if err != nil {
						yield(Entry{}, err)
						return
					}
					if !yield(Entry{digest, i.Size()}, nil) {
						return
					}
				}
			}
		}
	}
}

// Entry is one blob on disk.
type Entry struct {
	Digest string
	Size   int64 // bytes
}

func (d *Dir) slot(digest string) int {
	return int(maphash.String(d.seed, digest) % uint64(len(d.locks)))
}

// Hold prevents Sweep of a digest, present or not, until release is called (once).
func (d *Dir) Hold(digest string) (release func()) {
	n := d.slot(digest)
	d.locks[n].Lock()
	d.holds[n][digest]++
	d.locks[n].Unlock()
	return sync.OnceFunc(func() {
		d.locks[n].Lock()
		defer d.locks[n].Unlock()
		if d.holds[n][digest]--; d.holds[n][digest] == 0 {
			delete(d.holds[n], digest)
		}
	})
}

// HoldAll prevents Sweep of every digest until release is called (once). When it returns, no Sweep is running. Its cost
// does not depend on the number of digests.
func (d *Dir) HoldAll() (release func()) {
	d.all.Add(1)
	for n := range d.locks {
		d.locks[n].Lock() // waits for a Sweep that began before
		//lint:ignore SA2001 nothing is to be done in between
		d.locks[n].Unlock()
	}
	return sync.OnceFunc(func() { d.all.Add(-1) })
}

// Held reports whether the digest is held now.
func (d *Dir) Held(digest string) bool {
	n := d.slot(digest)
	d.locks[n].Lock()
	defer d.locks[n].Unlock()
	return d.holds[n][digest] > 0 || d.all.Load() > 0
}

// Sweep removes a blob if it is not held and unwanted, which is called with the digest's lock held, returns true. It
// reports whether there was a blob to remove. The removal is not synced: a file that a power cut restores is swept
// again.
func (d *Dir) Sweep(digest string, unwanted func() bool) (bool, error) {
	algorithm, digits, err := ParseDigest(digest)
	if err != nil {
		return false, err
	}
	n := d.slot(digest)
	d.locks[n].Lock()
	defer d.locks[n].Unlock()
	if d.holds[n][digest] > 0 || d.all.Load() > 0 || !unwanted() {
		return false, nil
	}
	path := d.path(algorithm, digits)
	err = d.fs.Remove(path)
	if i, serr := d.fs.Stat(path); err != nil && serr == nil && !i.Mode().IsRegular() {
		err = d.setAside(path)
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		d.mu.Lock()
		delete(d.faults, digest)
		delete(d.seen, digest)
		d.disprove(digest)
		d.mu.Unlock()
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Room returns syscall.ENOSPC, with the numbers, if writing n more bytes would leave less than the reserve.
func (d *Dir) Room(n int64) error { return d.room(n, d.reserve) }

// RoomSmall is Room with half the reserve, for small records: names for content that was uploaded up to the reserve can
// still be written.
func (d *Dir) RoomSmall(n int64) error { return d.room(n, d.reserve/2) }

func (d *Dir) room(n, reserve int64) error {
	if reserve <= 0 {
		return nil
	}
	free, _, err := d.fs.Free(d.dir)
	if err != nil {
		return err
	}
	if free-n < reserve {
		return fmt.Errorf("disk of %s: %d MiB free and %d MiB kept in reserve, delete content and run `casemate gc "+
			"--now`: %w", d.dir, free>>20, reserve>>20, syscall.ENOSPC)
	}
	return nil
}

// Free returns the number of bytes that can still be written to the disk, including the reserve, and the size of the
// disk.
func (d *Dir) Free() (free, total int64, err error) { return d.fs.Free(d.dir) }

// Scratch describes a scratch file with an id.
type Scratch struct {
	ID      string
	Size    int64 // bytes
	ModTime time.Time
}

// Scratches lists the scratch files with an id, including open ones, ordered by id.
func (d *Dir) Scratches() ([]Scratch, error) {
	list, err := d.fs.ReadDir(d.scratchPath(""))
	if err != nil {
		return nil, err
	}
	var out []Scratch
	for _, e := range list {
		id, ok := strings.CutPrefix(e.Name(), named)
		if !ok {
			continue
		}
		i, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, Scratch{ID: id, Size: i.Size(), ModTime: i.ModTime()})
	}
	return out, nil
}

// ExpireScratch removes the scratch files that are not open and were last written before the given time; it returns
// their number.
func (d *Dir) ExpireScratch(before time.Time) (int, error) {
	list, err := d.Scratches()
	if err != nil {
		return 0, err
	}
	n := 0
	for _, s := range list {
		if !s.ModTime.Before(before) {
			continue
		}
		d.mu.Lock()
		if d.writers[s.ID] == nil {
			if err = d.fs.Remove(d.scratchPath(named + s.ID)); err == nil {
				delete(d.sums, s.ID)
				n++
			}
		}
		d.mu.Unlock()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return n, err
		}
	}
	return n, nil
}

const (
	named     = "u-" // prefixes of scratch file names, because an id may begin with a dot
	anonymous = "t-"
)

func (d *Dir) scratchPath(name string) string { return filepath.Join(d.dir, "scratch", name) }

func randomName() string { return anonymous + rand.Text() }

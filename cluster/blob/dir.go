// Package blob keeps a directory of immutable files, each named by the digest of its bytes.
//
// What it promises:
//
//   - A file stands under its digest only after its bytes were hashed here and are durable: hashed while written, file synced, renamed,
//     directory synced, in this order. After a crash at any moment each digest is whole or absent.
//   - Bytes being written are scratch files. One with an id survives its writer, and the process, and can be resumed.
//   - A file is removed only by Sweep, under the lock of its digest, never while someone holds the digest.
//   - Writes are refused with syscall.ENOSPC before the disk's reserve is touched.
//
// Which blobs are wanted is not known here.
package blob

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"iter"
	"os"
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
	// Reserve is the number of bytes that stay free on the disk: writes that would go below are syscall.ENOSPC. 0 for none.
	Reserve int64
}

// Dir is a directory of blobs: <dir>/sha256/ab/<hex>, <dir>/sha512/ab/<hex>, and <dir>/scratch/. It is safe for concurrent use.
type Dir struct {
	dir     string
	fs      FS
	reserve int64

	seed  maphash.Seed
	locks [64]sync.Mutex // by digest; a lock guards the digest's holds and its removal
	holds [64]map[string]int
	all   atomic.Int64 // holds on everything

	mu      sync.Mutex
	made    map[string]bool     // directories that are known to be durable
	stable  map[string]bool     // directories in which all names are
	placing map[string]int      // how many writers are between a rename into a directory and its sync
	writers map[string]*Writer  // open writers by id
	sums    map[string]savedSum // hash states of scratch files that no writer has open, by id
}

// Open opens the directory and makes what is missing in it. Scratch files without an id, left by a crash, are removed.
func Open(dir string, o Options) (*Dir, error) {
	if o.FS == nil {
		o.FS = OS{}
	}
	d := &Dir{
		dir: dir, fs: o.FS, reserve: o.Reserve, seed: maphash.MakeSeed(),
		made: map[string]bool{}, stable: map[string]bool{}, placing: map[string]int{}, writers: map[string]*Writer{}, sums: map[string]savedSum{},
	}
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
	return d, nil
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
	// Also when it was there: it may have been made just before a crash, or by a writer that has not synced yet.
	if err := d.fs.SyncDir(filepath.Dir(name)); err != nil {
		return err
	}
	d.mu.Lock()
	d.made[name] = true
	d.mu.Unlock()
	return nil
}

// rename gives a file its name, durably.
func (d *Dir) rename(from, to string) error {
	dir := filepath.Dir(to)
	d.mu.Lock()
	d.placing[dir]++
	d.stable[dir] = false
	d.mu.Unlock()
	err := d.fs.Rename(from, to)
	if err == nil {
		if err = d.fs.SyncDir(dir); err != nil {
			err = errors.Join(errNotSynced, err)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.placing[dir]--
	if d.placing[dir] == 0 {
		delete(d.placing, dir)
		d.stable[dir] = err == nil
	}
	return err
}

// errNotSynced says that the name is there, but perhaps not for ever.
var errNotSynced = errors.New("the directory was not synced")

// Durable is Stat that also sees to it that a power cut does not take the blob away. A name that can be seen may be one whose sync failed, or has not come yet, or of a
// process that ended before it.
func (d *Dir) Durable(digest string) (int64, error) {
	size, err := d.Stat(digest)
	if err != nil {
		return 0, err
	}
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

// Stat returns the size of a blob, else fs.ErrNotExist.
func (d *Dir) Stat(digest string) (int64, error) {
	algorithm, digits, err := ParseDigest(digest)
	if err != nil {
		return 0, err
	}
	i, err := d.fs.Stat(d.path(algorithm, digits))
	if err != nil {
		return 0, err
	}
	return i.Size(), nil
}

// Open opens a blob for reading, else fs.ErrNotExist. On disk it is an *os.File; it stays readable when the blob is swept meanwhile.
func (d *Dir) Open(digest string) (File, error) {
	algorithm, digits, err := ParseDigest(digest)
	if err != nil {
		return nil, err
	}
	return d.fs.OpenFile(d.path(algorithm, digits), os.O_RDONLY, 0)
}

// Verify reads a blob and compares its bytes with its name: syscall.EBADMSG if they differ.
func (d *Dir) Verify(ctx context.Context, digest string) error {
	algorithm, _, err := ParseDigest(digest)
	if err != nil {
		return err
	}
	f, err := d.Open(digest)
	if err != nil {
		return err
	}
	defer f.Close()
	h := newHash(algorithm)
	buf := make([]byte, 256<<10)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("verify %s: %w", digest, err)
		}
	}
	if got := digestOf(algorithm, h); got != digest {
		return fmt.Errorf("verify %s: its bytes have the digest %s: %w", digest, got, syscall.EBADMSG)
	}
	return nil
}

// Scan yields every blob on disk with its size, in the order of algorithm and digest. Files that are not blobs are passed over.
// An error ends it, yielded with an empty Entry.
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

// Hold keeps Sweep away from a digest, present or not, until release is called (once).
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

// HoldAll keeps Sweep away from every digest until release is called (once). When it returns, no Sweep is under way any more. It costs nothing per digest.
func (d *Dir) HoldAll() (release func()) {
	d.all.Add(1)
	for n := range d.locks {
		d.locks[n].Lock() // until a Sweep that has not seen it is over
		//lint:ignore SA2001 nothing is to be done in between
		d.locks[n].Unlock()
	}
	return sync.OnceFunc(func() { d.all.Add(-1) })
}

// Held reports whether someone holds the digest now.
func (d *Dir) Held(digest string) bool {
	n := d.slot(digest)
	d.locks[n].Lock()
	defer d.locks[n].Unlock()
	return d.holds[n][digest] > 0 || d.all.Load() > 0
}

// Sweep removes a blob if nobody holds it and unwanted, asked under the lock of the digest, says so. It reports whether there was one to remove.
// The removal is not synced: a file that a power cut brings back is swept again.
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
	err = d.fs.Remove(d.path(algorithm, digits))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Room returns syscall.ENOSPC, with the numbers, if writing n more bytes would leave less than the reserve.
func (d *Dir) Room(n int64) error { return d.room(n, d.reserve) }

// RoomSmall is Room with half the reserve: for small records, so that what was uploaded up to the reserve can still be named.
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
		return fmt.Errorf("disk of %s: %d MiB free and %d MiB kept in reserve, delete content and run `casemate gc --now`: %w", d.dir, free>>20, reserve>>20, syscall.ENOSPC)
	}
	return nil
}

// Free returns the bytes that can still be written to the disk (the reserve included) and the size of the disk.
func (d *Dir) Free() (free, total int64, err error) { return d.fs.Free(d.dir) }

// Scratch describes a scratch file that has an id.
type Scratch struct {
	ID      string
	Size    int64 // bytes
	ModTime time.Time
}

// Scratches lists the scratch files that have an id, open ones included, ordered by id.
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

// ExpireScratch removes the scratch files that nobody has open and that were last written before the given time; it returns their number.
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
	named     = "u-" // prefixes of scratch file names: an id may begin with a dot, or be one
	anonymous = "t-"
)

func (d *Dir) scratchPath(name string) string { return filepath.Join(d.dir, "scratch", name) }

func randomName() string { return anonymous + rand.Text() }

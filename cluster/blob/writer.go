package blob

import (
	"encoding"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// Writer is a scratch file that becomes a blob. Its methods may be called from several goroutines; calls after the end
// of the writer return fs.ErrClosed.
type Writer struct {
	d    *Dir
	id   string // "" for a writer that cannot be resumed
	path string

	mu      sync.Mutex
	f       File // nil when the writer is closed or placed
	closed  bool
	size    int64
	sum     hash.Hash // sha256 of the first summed bytes, once lag is closed
	summed  int64
	lag     <-chan struct{} // nil, or closed when sum has caught up: see settle
	checked int64           // size up to which the free space was checked
	flushed int64           // bytes that were passed to Flush
	placed  string
	release func() // the hold on placed
}

// savedSum is the hash state of a scratch file between two writers, so that an upload in many pieces is not hashed
// again from its beginning.
type savedSum struct {
	state []byte
	size  int64
}

const (
	// roomStep is how many bytes are written between two checks of the free space.
	roomStep = 4 << 20
	// flushStep is how many bytes are written before they are flushed to the disk, so that the sync at the end does not
	// wait for all of them.
	flushStep = 8 << 20
)

// maxSums bounds the hash states that are kept for scratch files that are not open. One costs about 200 bytes; losing
// one costs a rehash.
const maxSums = 4096

func validID(id string) error {
	if id == "" || len(id) > 128 || strings.Trim(id,
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" {
		return fmt.Errorf("scratch id must be 1 to 128 of A-Z a-z 0-9 . _ -, got %.140q: %w", id, fs.ErrInvalid)
	}
	return nil
}

// Create opens a new scratch file; id is [A-Za-z0-9._-]{1,128}, or "" for one that cannot be resumed. An existing file
// of that id is truncated, and a writer that has it open is closed: its client has reconnected, and the old connection
// is dead.
func (d *Dir) Create(id string) (*Writer, error) {
	w := &Writer{d: d, id: id, sum: newHash("sha256")}
	if d.Room(roomStep) == nil {
		w.checked = roomStep
	} else if err := d.Room(0); err != nil {
		return nil, err
	}
	if id == "" {
		w.path = d.scratchPath(randomName())
		f, err := d.fs.OpenFile(w.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o640)
		w.f = f
		return w, err
	}
	return w, d.open(w, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
}

// Resume opens the scratch file of that id to append to it; fs.ErrNotExist if there is none. A writer that has it open
// is closed, as by Create. Unsynced bytes may be wrong after a power cut: the digest is checked over all bytes at the
// end.
func (d *Dir) Resume(id string) (*Writer, error) {
	w := &Writer{d: d, id: id, sum: newHash("sha256")}
	return w, d.open(w, os.O_RDWR)
}

func (d *Dir) open(w *Writer, flag int) error {
	if err := validID(w.id); err != nil {
		return err
	}
	w.path = d.scratchPath(named + w.id)
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		d.mu.Lock()
		old := d.writers[w.id]
		if old == nil {
			d.writers[w.id] = w // other callers wait for w.mu until it is open
			d.mu.Unlock()
			break
		}
		d.mu.Unlock()
		old.mu.Lock()
		old.close() // the error does not matter: a lost scratch file is found below
		old.mu.Unlock()
	}
	f, err := d.fs.OpenFile(w.path, flag, 0o640)
	if err == nil {
		w.size, err = f.Seek(0, io.SeekEnd)
		if err != nil {
			f.Close()
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s, ok := d.sums[w.id]
	delete(d.sums, w.id)
	if err != nil {
		w.closed = true
		delete(d.writers, w.id)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("scratch file %s: %w", w.id, fs.ErrNotExist)
		}
		return err
	}
	w.f = f
	if ok && s.size == w.size && w.sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(s.state) == nil {
		w.summed = s.size
	}
	return nil
}

// Size is the number of bytes in the scratch file.
func (w *Writer) Size() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.size
}

// OpenScratch opens the scratch file again, to read it while it grows. It stays readable when the file has become a
// blob.
func (w *Writer) OpenScratch() (File, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f == nil {
		return nil, fs.ErrClosed
	}
	return w.d.fs.OpenFile(w.path, os.O_RDONLY, 0)
}

// Write appends p and hashes it. syscall.ENOSPC means that the reserve is reached; earlier bytes are kept.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settle()
	whole := w.summed == w.size
	n, err := w.append(p)
	if whole {
		w.sum.Write(p[:n])
		w.summed += int64(n)
	}
	return n, err
}

// append writes at the end. The caller hashes. w.mu is held.
func (w *Writer) append(p []byte) (int, error) {
	if w.placed != "" {
		if err := w.unplace(); err != nil {
			return 0, err
		}
	}
	if w.f == nil {
		return 0, fs.ErrClosed
	}
	if w.size+int64(len(p)) > w.checked {
		if err := w.d.Room(int64(len(p))); err != nil {
			return 0, err
		}
		w.checked = w.size + int64(len(p)) + roomStep
	}
	n, err := w.f.Write(p)
	w.size += int64(n)
	if w.size-w.flushed >= flushStep {
		w.d.fs.Flush(w.f, w.flushed, w.size-w.flushed)
		w.flushed = w.size
	}
	return n, err
}

// settle waits until the sum is up to date: ReadFrom hashes after it writes. It must precede any use of w.sum. w.mu is
// held.
func (w *Writer) settle() {
	if w.lag != nil {
		<-w.lag
		w.lag = nil
	}
}

// Sum is the sha256 digest that Place would give the bytes now, and their size. It costs little if they were hashed
// while they were written.
func (w *Writer) Sum() (string, int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f == nil {
		return "", 0, fs.ErrClosed
	}
	digest, err := w.digest("sha256")
	return digest, w.size, err
}

// Place makes the bytes a blob on this disk, and holds its digest until the writer ends. With digest "" the blob is
// named by sha256. Otherwise the bytes must have that digest; if not, the error is syscall.EBADMSG and nothing has
// changed. It returns the digest and the size. Placing a placed blob again is no error. Done must follow when the blob
// is known to the state; until then Write or Close may turn the blob back into the scratch file.
func (w *Writer) Place(digest string) (string, int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	got, done, err := w.prepare(digest)
	if err != nil {
		return "", 0, err
	}
	if done {
		return got, w.size, nil
	}
	// The hold begins before the name exists, so that the sweeper never finds an unwanted blob.
	release := w.d.Hold(got)
	if err := w.install(w.d.target(got), got); err != nil {
		release()
		return "", 0, fmt.Errorf("place %s: %w", got, err)
	}
	w.become(got, release)
	return got, w.size, nil
}

// prepare determines the digest under which the bytes are placed; done reports that they are already. w.mu is held.
func (w *Writer) prepare(digest string) (got string, done bool, err error) {
	algorithm := "sha256"
	if digest != "" {
		if algorithm, _, err = ParseDigest(digest); err != nil {
			return "", false, err
		}
	}
	if w.placed != "" && (w.placed == digest || digest == "" && strings.HasPrefix(w.placed, "sha256:")) {
		return w.placed, true, nil
	}
	if w.placed != "" {
		if err := w.unplace(); err != nil {
			return "", false, err
		}
	}
	if w.f == nil {
		return "", false, fs.ErrClosed
	}
	if got, err = w.digest(algorithm); err != nil {
		return "", false, err
	}
	if digest != "" && got != digest {
		return "", false, fmt.Errorf("the bytes have the digest %s, not %s: %w", got, digest, syscall.EBADMSG)
	}
	return got, false, nil
}

// become records that the bytes are durably the blob of a digest, so an error of Close does not matter. w.mu is held.
func (w *Writer) become(digest string, release func()) {
	w.f.Close()
	w.f, w.placed, w.release = nil, digest, release
}

// install must keep this order: if the name were durable before the bytes, a power cut could leave a blob with wrong
// bytes. If we were to crash after any step, there is a scratch file (removed, or resumed and hashed again) or a whole
// blob.
func (w *Writer) install(target, digest string) error {
	w.seal(digest)
	if err := w.f.Sync(); err != nil {
		return w.unsynced(err)
	}
	if err := w.d.mkdir(filepath.Dir(target)); err != nil && !w.d.makeWay(target) {
		return err
	}
	// An existing blob is replaced too: the bytes are the same, and if they have rotted, this repairs them.
	err := w.d.rename(w.path, target, digest)
	if err != nil && !errors.Is(err, errNotSynced) && w.d.makeWay(target) {
		err = w.d.rename(w.path, target, digest)
	}
	if errors.Is(err, errNotSynced) {
		return w.notNamed(err, target)
	}
	return err
}

// seal sets the time of the file to a seal of its digest, which is synced with the bytes. If that fails, the blob is
// hashed once more later.
func (w *Writer) seal(digest string) {
	_ = w.d.fs.Chtimes(w.path, sealAt(digest, w.size, w.d.now()))
}

// unsynced ends a writer whose file could not be synced: the kernel has dropped the bytes that it could not write and
// would report success for the next sync, so these bytes cannot be made durable any more. w.mu is held.
func (w *Writer) unsynced(err error) error {
	w.cancel()
	return err
}

// notNamed handles a rename that happened but may not be durable. The scratch file is restored by a copy, so that the
// caller can try again. w.mu is held.
func (w *Writer) notNamed(err error, target string) error {
	if back := w.copyBack(target); back != nil {
		return errors.Join(err, back)
	}
	return err
}

// unplace turns a placed blob back into the scratch file. The blob is kept: another writer may have placed the same
// bytes, and otherwise it is swept. w.mu is held.
func (w *Writer) unplace() error {
	algorithm, digits, _ := ParseDigest(w.placed)
	err := w.copyBack(w.d.path(algorithm, digits))
	w.release()
	w.placed, w.release = "", nil
	return err
}

// copyBack writes the scratch file again from a blob and continues at its end. It is a copy and not a link, because the
// scratch file is written to.
func (w *Writer) copyBack(from string) error {
	src, err := w.d.fs.OpenFile(from, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	if w.f != nil {
		w.f.Close() // it is the blob's file now
		w.f = nil
	}
	f, err := w.d.fs.OpenFile(w.path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, src); err != nil {
		f.Close()
		return err
	}
	w.f = f
	return nil
}

// digest hashes the bytes that were not hashed while they were written. w.mu is held.
func (w *Writer) digest(algorithm string) (string, error) {
	w.settle()
	if algorithm == "sha256" {
		if w.summed != w.size {
			w.sum.Reset()
			w.summed = 0
			if err := w.rehash(w.sum); err != nil {
				return "", err
			}
			w.summed = w.size
		}
		return digestOf(algorithm, w.sum), nil
	}
	h := newHash(algorithm)
	if err := w.rehash(h); err != nil {
		return "", err
	}
	return digestOf(algorithm, h), nil
}

// Done ends the writer after its blob has become known: the hold ends.
func (w *Writer) Done() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.release != nil {
		w.release()
	}
	w.placed, w.release = "", nil
	w.forget()
}

// Close ends the writer. The scratch file is kept if it has an id.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.close()
}

func (w *Writer) close() error {
	if w.closed {
		return nil
	}
	if w.id == "" {
		return w.cancel()
	}
	var err error
	if w.placed != "" {
		err = w.unplace()
	}
	if w.f != nil {
		w.settle()
		if state, merr := w.sum.(encoding.BinaryMarshaler).MarshalBinary(); merr == nil && w.summed == w.size {
			w.d.mu.Lock()
			if len(w.d.sums) < maxSums {
				w.d.sums[w.id] = savedSum{state, w.size}
			}
			w.d.mu.Unlock()
		}
		err = errors.Join(err, w.f.Close())
		w.f = nil
	}
	w.forget()
	return err
}

// Cancel ends the writer and removes the scratch file.
func (w *Writer) Cancel() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cancel()
}

func (w *Writer) cancel() error {
	if w.closed {
		return nil
	}
	if w.placed != "" { // the sweeper removes the blob
		w.release()
		w.placed, w.release = "", nil
	}
	var err error
	if w.f != nil {
		err = errors.Join(w.f.Close(), w.d.fs.Remove(w.path))
		w.f = nil
	}
	w.forget()
	return err
}

// forget frees the id. w.mu is held.
func (w *Writer) forget() {
	w.closed = true
	if w.id == "" {
		return
	}
	w.d.mu.Lock()
	defer w.d.mu.Unlock()
	if w.d.writers[w.id] == w {
		delete(w.d.writers, w.id)
	}
}

package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"syscall"
	"time"

	"casemate/cluster/blob"
	"casemate/cluster/state"
)

// Error reports what is wrong with a backup that cannot be restored.
type Error struct {
	what  string
	cause error
}

// Error implements error.
func (e *Error) Error() string {
	s := "the backup cannot be restored, " + e.what
	if e.cause != nil {
		s += fmt.Sprintf(" (%v)", e.cause)
	}
	if strings.Contains(s, "newer casemate") {
		return s + ": restore it with that version"
	}
	return s + ": take another one"
}

// Unwrap implements errors.Unwrap.
func (e *Error) Unwrap() error { return e.cause }

// Reader reads a backup from its beginning to its end: State, Blobs and End, in this order. If the bytes of the backup
// are wrong, the error is an *Error.
type Reader struct {
	ctx      context.Context
	raw      *lagReader
	tar      *tar.Reader
	manifest manifest
	key      []byte
	left     int64 // unread bytes of the entry
}

// Open reads the head of a backup and unwraps its key, with either the passphrase or the text of an age identity file.
// A wrong one is ErrWrongKey.
func Open(ctx context.Context, r io.Reader, passphrase, identities string) (*Reader, error) {
	b := &Reader{ctx: ctx, raw: &lagReader{r: r, sum: sha256.New()}}
	b.tar = tar.NewReader(b.raw)
	return b, b.begin(passphrase, identities)
}

// Key returns the sealing keys.
func (b *Reader) Key() []byte { return b.key }

// Origin returns which cluster and node wrote the backup and when, and whether it was written without blobs.
func (b *Reader) Origin() (cluster, node string, created time.Time, noBlobs bool) {
	m := b.manifest
	return m.Cluster, m.Node, m.Created, m.NoBlobs
}

// Names is the number of names in the backup, according to its manifest.
func (b *Reader) Names() int { return b.manifest.Names }

// next advances to the next entry.
func (b *Reader) next() (name string, size int64, err error) {
	h, err := b.tar.Next()
	if err != nil {
		return "", 0, b.wrong(err)
	}
	if h.Typeflag != tar.TypeReg || h.Size < 0 {
		return "", 0, &Error{fmt.Sprintf("its entry %.200q is not a regular file", h.Name), nil}
	}
	for k := range h.PAXRecords {
		if k != "path" && k != "size" { // in particular no sparse files
			return "", 0, &Error{fmt.Sprintf("the header of %.200q was not written by casemate", h.Name), nil}
		}
	}
	b.left = h.Size
	return h.Name, h.Size, nil
}

// expect advances to the next entry, which must have this name and be small.
func (b *Reader) expect(name string, most int64) ([]byte, error) {
	got, size, err := b.next()
	if err != nil {
		return nil, err
	}
	if got != name || size > most {
		return nil, b.unexpected(got, name)
	}
	data := make([]byte, size)
	_, err = io.ReadFull(b, data)
	return data, err
}

func (b *Reader) unexpected(got, want string) error {
	return &Error{fmt.Sprintf("it has %.200q in place of %s", got, want), nil}
}

// Read implements io.Reader for the current entry.
func (b *Reader) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := b.tar.Read(p)
	b.left -= int64(n)
	if err == io.EOF && b.left == 0 {
		return n, io.EOF
	}
	if err != nil {
		err = b.wrong(err)
	}
	return n, err
}

// wrong tells errors of the source from wrong bytes.
func (b *Reader) wrong(err error) error {
	switch {
	case b.raw.err != nil:
		return fmt.Errorf("read the backup: %w", b.raw.err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &Error{"it is cut short", nil}
	}
	return &Error{"it is damaged", err}
}

func (b *Reader) begin(passphrase, identities string) error {
	name, size, err := b.next()
	var bad *Error
	if errors.As(err, &bad) && bad.cause != nil || err == nil && (name != manifestEntry || size > maxManifest) {
		return &Error{"it was not written by casemate backup, or its first block is damaged", nil}
	}
	if err != nil {
		return err
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(b, data); err != nil {
		return err
	}
	// The version alone comes first: a newer program may have written the rest in another form.
	var head struct {
		Version int `json:"casemate_backup"`
	}
	if err := json.Unmarshal(data, &head); err != nil || head.Version < 1 {
		return &Error{"its manifest is damaged", err}
	}
	if head.Version > version {
		what := "it was written by a newer casemate (version %d, this one reads up to %d)"
		return &Error{fmt.Sprintf(what, head.Version, version), nil}
	}
	if err := json.Unmarshal(data, &b.manifest); err != nil {
		return &Error{"its manifest is damaged", err}
	}
	wrapped, err := b.expect(keyEntry, maxKey)
	if err != nil {
		return err
	}
	b.key, err = unwrap(wrapped, passphrase, identities)
	return err
}

// State reads the cluster's state.
func (b *Reader) State() (*state.State, error) {
	name, size, err := b.next()
	if err != nil {
		return nil, err
	}
	if name != stateEntry || size != b.manifest.StateSize {
		return nil, b.unexpected(name, stateEntry)
	}
	sum := sha256.New()
	r := bufio.NewReaderSize(io.TeeReader(b, sum), 256<<10)
	st, err := state.Restore(r)
	if err == nil {
		var n int64
		if n, err = io.Copy(io.Discard, r); err == nil && n > 0 {
			err = fmt.Errorf("%d bytes after the state", n)
		}
	}
	var bad *Error
	switch {
	case errors.As(err, &bad), b.raw.err != nil, b.ctx.Err() != nil:
		return nil, err
	case err != nil:
		return nil, &Error{"its state cannot be read", err}
	}
	stats := st.Stats()
	if m := b.manifest; hex.EncodeToString(sum.Sum(nil)) != m.StateSum || stats.Index != m.Index ||
		stats.Entries != m.Names || stats.Blobs != m.Blobs || stats.Bytes != m.Bytes {
		return nil, &Error{"its state is not the one that its manifest describes", nil}
	}
	return st, nil
}

// Count is the content of a backup.
type Count struct {
	Blobs            int   // intact ones
	Bytes            int64 // of those
	Damaged, Missing int
}

// Blobs stores the backup's blobs in the directory, and counts them for End.
func (b *Reader) Blobs(st *state.State, dir *blob.Dir) (end Count, err error) {
	if b.manifest.NoBlobs {
		return end, nil
	}
	for d, known := range st.Blobs("") {
		digest := d.String()
		want := blobEntry(blobsDir, digest)
		name, size, err := b.next()
		switch {
		case err != nil:
			return end, err
		case name == blobEntry(missingDir, digest) && size == 0:
			end.Missing++
			continue
		case name != want || size != known.Size:
			return end, b.unexpected(name, want)
		}
		whole, err := b.place(dir, digest)
		if err != nil {
			return end, err
		}
		if whole {
			end.Blobs++
			end.Bytes += size
			continue
		}
		// The bytes are wrong: the next entry must say that they were wrong already when the backup was made.
		want = blobEntry(damagedDir, digest)
		if name, size, err = b.next(); err != nil {
			return end, err
		}
		if name != want || size != 0 {
			return end, &Error{"its blob " + digest + " is damaged", nil}
		}
		end.Damaged++
	}
	return end, nil
}

// place makes the entry a blob. It returns false if the bytes do not have the digest.
func (b *Reader) place(dir *blob.Dir, digest string) (whole bool, err error) {
	w, err := dir.Create("")
	if err != nil {
		return false, err
	}
	defer w.Cancel()
	if _, err := io.Copy(w, b); err != nil {
		return false, err
	}
	if _, _, err := w.Place(digest); errors.Is(err, syscall.EBADMSG) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	w.Done()
	return true, nil
}

// End reads the last entry and the rest of the file, and compares every byte with its expected value.
func (b *Reader) End(counted Count) error {
	name, size, err := b.next()
	if err != nil {
		return err
	}
	if name != endEntry || size > maxEnd {
		return b.unexpected(name, endEntry)
	}
	want, err := ending{
		Blobs: counted.Blobs, Bytes: counted.Bytes, Damaged: counted.Damaged, Missing: counted.Missing,
	}.bytes(b.raw.sum.Sum(nil), b.key)
	if err != nil {
		return err
	}
	if !bytes.Equal(b.raw.tail, headerBlock(endEntry, int64(len(want)), b.manifest.Created)) {
		return &Error{"it is damaged near its end", nil}
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(b, data); err != nil {
		return err
	}
	if !bytes.Equal(data, want) {
		return &Error{"its content differs from the description at its end", nil}
	}
	const block = 512
	// padding, the end of a tar, and one byte to detect trailing data
	rest := make([]byte, (block-size%block)%block+2*block+1)
	n, err := io.ReadFull(b.raw, rest)
	switch {
	case b.raw.err != nil:
		return fmt.Errorf("read the backup: %w", b.raw.err)
	case n < len(rest)-1:
		return &Error{"it is cut short", nil}
	case n == len(rest) || len(bytes.Trim(rest[:n], "\x00")) > 0:
		return &Error{"it has data after its end", err}
	}
	return nil
}

// lagReader hashes all bytes that were read except the last 512: when a tar reader has read a header of one block, that
// is everything before the header.
type lagReader struct {
	r    io.Reader
	sum  hash.Hash
	tail []byte
	err  error // of r, except io.EOF
}

// Read implements io.Reader.
func (l *lagReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	l.tail = append(l.tail, p[:n]...)
	if over := len(l.tail) - 512; over > 0 {
		l.sum.Write(l.tail[:over])
		l.tail = append(l.tail[:0], l.tail[over:]...)
	}
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		l.err = err
	}
	return n, err
}

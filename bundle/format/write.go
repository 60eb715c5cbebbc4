package format

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"casemate/bundle"
	"casemate/bundle/canonical"
	"casemate/bundle/digests"
	"casemate/bundle/signing"
)

// WriteOptions configure Write. The zero value writes one unsigned file.
type WriteOptions struct {
	// Key signs the index document; nil: the bundle is not signed.
	Key ed25519.PrivateKey
	// Split is the maximum size of a file in bytes; 0 writes one file of any size.
	Split int64
	// Progress is called occasionally with the bytes that are done.
	Progress func(done, total int64)
}

// partialSuffix marks files that are not complete.
const partialSuffix = ".partial"

// Write writes the bundle of ix to path, or with Split to path.001, path.002 and so on, and path.sha256 in the format
// of sha256sum. open opens a blob; it is not called for omitted ones. Write returns the bundle's files, without
// path.sha256.
//
// Files are named .partial until all of them are complete and durable; then they replace what was at path, and parts of
// an older bundle that had more of them are removed. After an interruption the same call resumes: it keeps the parts
// that are complete, and the correct beginning of the part that was being written. A blob that does not have its digest
// or size is an error that is syscall.EBADMSG and names the blob.
func Write(
	ctx context.Context,
	path string,
	ix *bundle.Index,
	open func(digest string) (io.ReadCloser, error),
	opt WriteOptions,
) (files []string, err error) {
	if opt.Split < 0 {
		return nil, fmt.Errorf("split size must not be negative, got %d", opt.Split)
	}
	c, err := layoutOf(ix, opt)
	if err != nil {
		return nil, err
	}
	w := newWriter(c, open)
	w.path = path
	defer w.closeBlob()
	if err := w.prepare(ctx, opt.Progress); err != nil {
		return nil, err
	}
	if w.checksums, err = openChecksumFile(path + ".sha256" + partialSuffix); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.checksums.close()) }()
	if err := w.findCompleteParts(); err != nil {
		return nil, err
	}
	for n := range w.partition.parts {
		if err := w.writePart(ctx, n+1); err != nil {
			return nil, fmt.Errorf("%w (what was written is kept: the same command resumes there)", err)
		}
	}
	return w.publish()
}

// layoutOf computes the layout of the bundle of ix.
func layoutOf(ix *bundle.Index, opt WriteOptions) (*bundleLayout, error) {
	indexJSON, err := ix.Encode()
	if err != nil {
		return nil, err
	}
	var sigJSON []byte
	if opt.Key != nil {
		sig := signing.Sign(opt.Key, signing.PurposeIndex, indexJSON)
		if sigJSON, err = canonical.Encode(&sig); err != nil {
			return nil, err
		}
		sigJSON = append(sigJSON, '\n')
	}
	c, err := newBundleLayout(ix, indexJSON, sigJSON, opt.Split)
	if errors.Is(err, errSplitTooSmall) {
		return nil, fmt.Errorf(
			"parts of %d bytes are too small, the minimum is %d: %w",
			opt.Split,
			minSplit(ix.Blobs, c.fixedSize()),
			err,
		)
	} else if err != nil {
		return nil, err
	}
	return c, nil
}

// WriteTo writes the bundle of ix in one part, as Write does, to a writer that cannot be read again: a pipe.
func WriteTo(
	ctx context.Context,
	out io.Writer,
	ix *bundle.Index,
	open func(digest string) (io.ReadCloser, error),
	opt WriteOptions,
) error {
	if opt.Split != 0 {
		return errors.New("a bundle in parts needs files")
	}
	c, err := layoutOf(ix, opt)
	if err != nil {
		return err
	}
	w := newWriter(c, open)
	defer w.closeBlob()
	docs, err := w.documents(1)
	if err != nil {
		return err
	}
	w.count = progressCounter(w.partSize(documentsSize(docs), w.partition.parts[0]), opt.Progress)
	to := bufio.NewWriterSize(out, len(w.buf))
	if err := writeDocuments(to, docs); err != nil {
		return err
	}
	w.count(documentsSize(docs))
	if err := w.writePieces(ctx, to, w.partition.parts[0], 0); err != nil {
		return err
	}
	return to.Flush()
}

func newWriter(c *bundleLayout, open func(digest string) (io.ReadCloser, error)) *writer {
	return &writer{bundleLayout: c, openBlob: open, buf: make([]byte, 256<<10)}
}

// writer writes the parts of one bundle.
type writer struct {
	*bundleLayout
	path      string
	openBlob  func(digest string) (io.ReadCloser, error)
	count     func(int64)
	buf       []byte
	checksums *checksumFile
	complete  map[int]bool // parts that an earlier run completed

	// The blob that was opened last stays open between its chunks.
	blob    io.ReadCloser
	blobNum int
	blobAt  int64
}

// file returns the name of part n when it is complete.
func (w *writer) file(n int) string {
	if w.split == 0 {
		return w.path
	}
	return fmt.Sprintf("%s.%03d", w.path, n)
}

// prepare checks that every file can be created, and hashes the chunks of cut blobs, because every part names all of
// them.
func (w *writer) prepare(ctx context.Context, progress func(done, total int64)) error {
	w.chunks = make([][]string, len(w.partition.cuts))
	var total int64
	for i, b := range w.partition.cuts {
		size := w.index.Blobs[b].Size
		total += size
		for n := (size + w.partition.chunk - 1) / w.partition.chunk; n > 0; n-- {
			w.chunks[i] = append(w.chunks[i], emptyChunk)
		}
	}
	for n, pieces := range w.partition.parts {
		docs, err := w.documents(n + 1)
		if err != nil {
			return err
		}
		total += w.partSize(documentsSize(docs), pieces)
		info, err := os.Stat(w.file(n + 1))
		if err == nil && !info.Mode().IsRegular() {
			return fmt.Errorf("%s exists and is not a regular file; choose another name", w.file(n+1))
		} else if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	w.count = progressCounter(total, progress)
	for i, b := range w.partition.cuts {
		left := w.index.Blobs[b].Size
		for n := range w.chunks[i] {
			h := sha256.New()
			size := min(left, w.partition.chunk)
			if err := w.copyBlob(ctx, h, b, int64(n)*w.partition.chunk, size); err != nil {
				return err
			}
			w.chunks[i][n] = digests.Encode(emptyChunk, h)
			left -= size
		}
	}
	return nil
}

// findCompleteParts finds the parts that an earlier run completed: it recorded their checksums after they were durable.
// Their size and documents are checked again.
func (w *writer) findCompleteParts() error {
	w.complete = map[int]bool{}
	known := w.checksums.sum
	w.checksums.sum = map[string]string{}
	for n := range w.partition.parts {
		base := filepath.Base(w.file(n + 1))
		sum, ok := known[base]
		if !ok {
			continue
		}
		for _, name := range []string{w.file(n+1) + partialSuffix, w.file(n + 1)} {
			if ok, err := w.isComplete(name, n+1); err != nil {
				return err
			} else if ok {
				w.complete[n+1], w.checksums.sum[base] = true, sum
				break
			}
		}
	}
	// What is written from here on must not be taken for complete because of an older line.
	return w.checksums.save(w.names())
}

func (w *writer) names() []string {
	var names []string
	for n := range w.partition.parts {
		names = append(names, filepath.Base(w.file(n+1)))
	}
	return names
}

// isComplete reports whether a file has the size, the documents and the headers of part n.
func (w *writer) isComplete(name string, n int) (bool, error) {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	docs, err := w.documents(n)
	if err != nil {
		return false, err
	}
	s := &stream{r: bufio.NewReaderSize(f, 64<<10), input: name, end: -1}
	err = writeDocuments(&comparer{stream: s}, docs)
	if err == nil {
		p := &openPart{
			name:     name,
			number:   n,
			pieces:   w.partition.parts[n-1],
			start:    documentsSize(docs),
			readerAt: f,
			fileSize: info.Size(),
			stream:   s,
		}
		p.size = w.partSize(p.start, p.pieces)
		err = (&openBundle{bundleLayout: w.bundleLayout}).checkFrames(p)
	}
	if errors.Is(err, ErrDamaged) {
		return false, nil
	}
	return err == nil, err
}

// writePart writes one part from the point that an earlier run reached.
func (w *writer) writePart(ctx context.Context, n int) (err error) {
	docs, err := w.documents(n)
	if err != nil {
		return err
	}
	pieces, start := w.partition.parts[n-1], documentsSize(docs)
	size := w.partSize(start, pieces)
	if w.complete[n] {
		w.count(size)
		return nil
	}
	f, err := os.OpenFile(w.file(n)+partialSuffix, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum, done, at, err := w.resume(ctx, f, docs, pieces)
	if err != nil {
		return err
	}
	if err := f.Truncate(at); err != nil {
		return err
	}
	if _, err := f.Seek(at, io.SeekStart); err != nil {
		return err
	}
	out := bufio.NewWriterSize(io.MultiWriter(f, sum), len(w.buf))
	if at == 0 {
		if err := writeDocuments(out, docs); err != nil {
			return err
		}
		w.count(start)
	}
	if err := w.writePieces(ctx, out, pieces, done); err != nil {
		_ = out.Flush() // the correct bytes so far, for the next run; err already reports a failed write
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	w.checksums.sum[filepath.Base(w.file(n))] = strings.TrimPrefix(digests.Encode(emptyChunk, sum), "sha256:")
	return w.checksums.save(w.names())
}

// writePieces writes the pieces of a part beginning with one of them, and the end of the part.
func (w *writer) writePieces(ctx context.Context, out io.Writer, pieces []piece, from int) error {
	for i := from; i <= len(pieces); i++ {
		frame := w.frame(pieces, i)
		if _, err := out.Write(frame); err != nil {
			return err
		}
		w.count(int64(len(frame)))
		if i == len(pieces) {
			break
		}
		if err := w.writePiece(ctx, out, &pieces[i]); err != nil {
			return err
		}
	}
	return nil
}

// writePiece writes the content of a blob or chunk and checks it.
func (w *writer) writePiece(ctx context.Context, out io.Writer, e *piece) error {
	if e.chunk < 0 {
		return w.copyBlob(ctx, out, e.blob, 0, e.size)
	}
	h := sha256.New()
	if err := w.copyBlob(ctx, io.MultiWriter(out, h), e.blob, int64(e.chunk)*w.partition.chunk, e.size); err != nil {
		return err
	}
	if got, want := digests.Encode(emptyChunk, h), w.digestOf(e); got != want {
		return fmt.Errorf("blob %s changed while it was read: %w", w.index.Blobs[e.blob].Digest, syscall.EBADMSG)
	}
	return nil
}

// resume examines what an earlier run left: how many pieces of the part are right, where they end, and the hash of
// everything before that point.
//
// Everything is hashed again: after a power failure the end of a file may have its length and not its bytes.
func (w *writer) resume(
	ctx context.Context,
	f *os.File,
	docs []document,
	pieces []piece,
) (sum hash.Hash, done int, at int64, err error) {
	sum = sha256.New()
	s := &stream{r: io.TeeReader(bufio.NewReaderSize(f, len(w.buf)), sum), input: f.Name(), end: -1}
	if err := writeDocuments(&comparer{stream: s}, docs); errors.Is(err, ErrDamaged) {
		return sha256.New(), 0, 0, nil
	} else if err != nil {
		return nil, 0, 0, err
	}
	w.count(s.off)
	for i := range pieces {
		at = s.off
		before, err := sum.(hash.Cloner).Clone()
		if err != nil {
			return nil, 0, 0, err
		}
		_, err = (&comparer{stream: s}).Write(w.frame(pieces, i))
		if err == nil {
			e := &pieces[i]
			_, _, err = verifySink{func(int64) {}}.Put(ctx, w.digestOf(e), e.size, io.LimitReader(s, e.size))
		}
		if errors.Is(err, syscall.EBADMSG) || errors.Is(err, io.ErrUnexpectedEOF) {
			return before, i, at, nil
		} else if err != nil {
			return nil, 0, 0, err
		}
		w.count(s.off - at)
	}
	return sum, len(pieces), s.off, nil
}

// copyBlob copies size bytes of a blob from an offset. A copy from 0 to the blob's end verifies the digest.
func (w *writer) copyBlob(ctx context.Context, out io.Writer, blob int, from, size int64) error {
	b := &w.index.Blobs[blob]
	if w.blob == nil || w.blobNum != blob || w.blobAt > from {
		w.closeBlob()
		f, err := w.openBlob(b.Digest)
		if err != nil {
			return fmt.Errorf("blob %s: %w", b.Digest, err)
		}
		w.blob, w.blobNum, w.blobAt = &blobReader{digests.NewReader(f, b.Digest), f}, blob, 0
	}
	for w.blobAt < from+size || from+size == b.Size {
		if err := ctx.Err(); err != nil {
			return err
		}
		want := int64(len(w.buf))
		if w.blobAt < from {
			want = min(want, from-w.blobAt)
		} else if from+size < b.Size {
			want = min(want, from+size-w.blobAt)
		}
		n, err := w.blob.Read(w.buf[:want])
		if w.blobAt+int64(n) > b.Size {
			return fmt.Errorf(
				"blob %s: it has more than the %d bytes that it must have: %w",
				b.Digest,
				b.Size,
				syscall.EBADMSG,
			)
		}
		if w.blobAt >= from {
			if _, err := out.Write(w.buf[:n]); err != nil {
				return err
			}
			w.count(int64(n))
		}
		w.blobAt += int64(n)
		switch {
		case err == io.EOF && w.blobAt < b.Size:
			return fmt.Errorf(
				"blob %s: it has %d bytes and must have %d: %w",
				b.Digest,
				w.blobAt,
				b.Size,
				syscall.EBADMSG,
			)
		case err == io.EOF:
			w.closeBlob()
			return nil
		case err != nil:
			return fmt.Errorf("blob %s: %w", b.Digest, err)
		}
	}
	return nil
}

// blobReader verifies a blob's digest at its end.
type blobReader struct {
	*digests.Reader
	io.Closer
}

func (w *writer) closeBlob() {
	if w.blob != nil {
		_ = w.blob.Close() // opened for reading only
		w.blob = nil
	}
}

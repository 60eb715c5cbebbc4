package foreign

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"golang.org/x/sync/errgroup"

	"casemate/bundle"
	"casemate/bundle/oci"
)

// errSparse reports that a tar has sparse files, whose content is not contiguous: it must be read in order.
var errSparse = errors.New("a sparse file in the tar")

// smallFile is the size up to which files of a streamed tar are read into memory, so that several can be put at once.
const smallFile = 256 << 10

// scanTar reads the headers of an uncompressed tar and none of its content. at opens the tar; it is called again for
// every file that is read.
func (r *Reader) scanTar(name string, at func() (io.ReaderAt, func() error, error), size int64) (*archive, error) {
	a := newArchive(name)
	a.open = func(e *entry) (io.Reader, func() error, error) {
		file, closing, err := at()
		if err != nil {
			return nil, nil, err
		}
		return io.NewSectionReader(file, e.offset, e.size), closing, nil
	}
	file, closing, err := at()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer closing()
	section := io.NewSectionReader(file, 0, size)
	position := func() int64 {
		at, _ := section.Seek(0, io.SeekCurrent) // this cannot fail for a SectionReader
		return at
	}
	t := &tarScan{a: a, tr: tar.NewReader(section)}
	for {
		e, err := t.next(r, position)
		if errors.Is(err, io.EOF) {
			return a, t.end(section)
		} else if err != nil {
			return nil, err
		}
		if t.sparse {
			return nil, errSparse
		}
		if e.link == "" && (e.size < 0 || e.offset > size-e.size) {
			return nil, t.readError(io.ErrUnexpectedEOF)
		}
		if err := a.add(r, e); err != nil {
			return nil, err
		}
	}
}

// tarScan iterates over a tar.
type tarScan struct {
	a      *archive
	tr     *tar.Reader
	sparse bool  // the entry is a sparse file
	after  int64 // where the next header must begin
}

// next returns the next entry that is a file or a link, io.EOF at the end. position is the number of bytes read from
// the tar.
func (t *tarScan) next(r *Reader, position func() int64) (*entry, error) {
	for {
		h, err := t.tr.Next()
		if errors.Is(err, io.EOF) {
			t.a.truncated = !t.sparse && position() <= t.after
			return nil, io.EOF
		} else if err != nil {
			return nil, t.readError(err)
		}
		e := &entry{size: h.Size, offset: position()}
		t.after, t.sparse = e.offset, h.Typeflag == tar.TypeGNUSparse
		for key := range h.PAXRecords {
			t.sparse = t.sparse || strings.HasPrefix(key, "GNU.sparse.")
		}
		var inside bool
		why := "its path leads outside"
		switch e.name, inside = cleanName(h.Name); h.Typeflag {
		case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
			t.after += (h.Size + 511) &^ 511
		case tar.TypeSymlink, tar.TypeLink:
			var ok bool
			if e.link, ok = cleanName(h.Linkname); h.Typeflag == tar.TypeSymlink {
				e.link, ok = linkTarget(e.name, h.Linkname)
			}
			if e.size = 0; !ok {
				inside, why = false, "a link that leads outside"
			}
		case tar.TypeXGlobalHeader, tar.TypeDir:
			inside, why = false, ""
		default:
			inside, why = false, "not a regular file"
		}
		if inside {
			return e, nil
		}
		if why != "" {
			t.a.skip(h.Name, why)
		}
		if err := r.count(0); err != nil {
			return nil, t.readError(err)
		}
	}
}

func (t *tarScan) readError(err error) error { return explainReadError(t.a.name, err) }

// end checks the bytes after a tar's end marker. Zeros are padding; anything else is a second archive that would be
// lost.
func (t *tarScan) end(rest io.Reader) error {
	buf := make([]byte, 64<<10)
	for n := int64(0); n < maxMemory; {
		m, err := rest.Read(buf)
		if len(bytes.Trim(buf[:m], "\x00")) > 0 {
			return fmt.Errorf(
				"%s: there is data after the end of the tar; are several archives joined in it? Import them one by one",
				t.a.name,
			)
		}
		if n += int64(m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return t.readError(err)
		}
	}
	return fmt.Errorf("%s: more than %d MiB of zeros follow the end of the tar", t.a.name, maxMemory>>20)
}

// streamTar reads a tar in order and stores possible blobs as it reads them. depth counts the archives around it.
// expanded says that a decompressor produces src.
func (r *Reader) streamTar(ctx context.Context, name string, src io.Reader, depth int, expanded bool) (*archive,
	error) {
	a := newArchive(name)
	a.expanded = expanded
	counting := &countingReader{r: src}
	t := &tarScan{a: a, tr: tar.NewReader(counting)}
	content := bufio.NewReaderSize(nil, headSize)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(putWorkers)
	next := func() error {
		for {
			e, err := t.next(r, func() int64 { return counting.n })
			if errors.Is(err, io.EOF) {
				return t.end(counting)
			} else if err != nil {
				return err
			}
			if err := gctx.Err(); err != nil {
				return err
			}
			if e.link == "" {
				if err := r.checkClaimedSize(a, e, t.sparse); err != nil {
					return err
				}
				content.Reset(t.tr)
				if err := r.streamEntry(gctx, g, a, e, content, depth); err != nil {
					return err
				}
			}
			if err := a.add(r, e); err != nil {
				return err
			}
		}
	}
	err := next()
	if failed := g.Wait(); failed != nil {
		return nil, failed // it cancelled the context, which is all that err says
	}
	return a, err
}

// checkClaimedSize checks the size in a header: in a decompressed archive it must fit into the limit, and a sparse file
// has bytes that the archive does not have.
func (r *Reader) checkClaimedSize(a *archive, e *entry, sparse bool) error {
	var err error
	if sparse {
		err = r.expanded.add(e.size)
	} else if a.expanded {
		err = r.expanded.claim(e.size)
	}
	if err != nil {
		return a.failed(e.name, err)
	}
	return nil
}

// streamEntry reads one file of a streamed tar: documents are kept in memory, archives are opened, blobs are stored,
// the rest is ignored.
func (r *Reader) streamEntry(
	ctx context.Context,
	g *errgroup.Group,
	a *archive,
	e *entry,
	content *bufio.Reader,
	depth int,
) error {
	head, err := content.Peek(int(min(e.size, 512)))
	if err != nil {
		return a.failed(e.name, err)
	}
	e.format = sniff(head)
	_, host := hostPath(e.name)
	digest := blobDigest(e.name)
	switch {
	case digest != "" && !host:
		if size, ok := r.sink.Has(digest); ok && size == e.size {
			e.digest = digest
			return nil
		}
	case isDocument(e.name) && !host && e.size <= oci.MaxDocument:
		e.data = make([]byte, e.size)
		_, err := io.ReadFull(content, e.data)
		if err != nil {
			return a.failed(e.name, err)
		}
		return nil
	case !host && depth < maxArchiveDepth && !isLayerName(e.name) && (e.format == plainTar || e.format == gzipped ||
		e.format == zstandard):
		if head, err = content.Peek(int(min(e.size, headSize))); err != nil {
			return a.failed(e.name, err)
		}
		if looksNested(head, e.format) {
			inner, closing, err := decompress(content, e.format)
			if err != nil {
				return a.failed(e.name, err)
			}
			defer closing()
			expanded := a.expanded
			if e.format != plainTar {
				inner, expanded = r.expanded.reader(inner), true
			}
			e.nested, err = r.streamTar(ctx, a.name+": "+e.name, inner, depth+1, expanded)
			return err
		}
	case !host && !isConfigOrLayer(e):
		return nil // nothing can refer to it
	}
	if e.size > smallFile {
		if e.digest, _, err = r.sink.Put(ctx, digest, e.size, content); err != nil {
			return a.failed(e.name, err)
		}
		return nil
	}
	data := make([]byte, e.size)
	if _, err := io.ReadFull(content, data); err != nil {
		return a.failed(e.name, err)
	}
	g.Go(func() (err error) {
		if e.digest, _, err = r.sink.Put(ctx, digest, e.size, bytes.NewReader(data)); err != nil {
			return a.failed(e.name, err)
		}
		return nil
	})
	return nil
}

// isConfigOrLayer reports whether a docker-archive's manifest.json, which often comes last, may refer to a file, or it
// is a Python package.
func isConfigOrLayer(e *entry) bool {
	switch e.format {
	case zipFormat:
		return isWheel(e.name)
	case plainTar, gzipped, zstandard:
		return true
	case jsonText:
		return e.size <= oci.MaxDocument &&
			path.Base(e.name) != "json" // written by old versions of docker beside each layer.tar
	}
	return false
}

// isDocument reports whether a file of an image archive is kept in memory while the archive is streamed.
func isDocument(name string) bool {
	switch path.Base(name) {
	case "oci-layout", "index.json", "manifest.json", "repositories", "container-images.txt":
		return strings.Count(name, "/") < 2
	}
	return false
}

// countingReader counts what was read.
type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// errNoSeek tells the tar reader that it has to read what it wants to seek over.
var errNoSeek = errors.New("this reader does not seek")

// Seek is for the tar reader, which seeks over the files that nobody has read: a Skipper skips them.
func (c *countingReader) Seek(offset int64, whence int) (int64, error) {
	s, ok := c.r.(bundle.Skipper)
	if !ok || whence != io.SeekCurrent || offset < 0 {
		return -1, errNoSeek
	}
	if offset > 0 {
		if err := s.Skip(offset); err != nil {
			return -1, err
		}
	}
	c.n += offset
	return c.n, nil
}

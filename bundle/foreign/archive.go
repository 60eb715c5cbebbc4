package foreign

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"casemate/bundle"
	"casemate/bundle/oci"
)

// archive holds the files of a directory or a tar. The blobs of an archive that can only be read once (streamed) are in
// the sink already.
type archive struct {
	name    string // for messages: the input, and the path of a nested archive in it
	entries []*entry
	byName  map[string]*entry
	// open opens a file; the caller closes it. nil for a streamed archive.
	open      func(*entry) (r io.Reader, close func() error, err error)
	truncated bool // the tar has no end marker
	// expanded says that a decompressor produced it.
	expanded bool
	skipped  []bundle.Skipped
}

// entry is one file of an archive. While several workers put entries, each belongs to one of them.
type entry struct {
	name   string // clean, relative, with slashes
	link   string // the entry that a symbolic or hard link leads to, likewise; "" for a file
	size   int64
	offset int64  // of the content in a tar that is read at several offsets
	digest string // "" until the sink has it
	data   []byte // a document that a streamed archive keeps
	format format // of a streamed archive's file
	nested *archive
}

func newArchive(name string) *archive { return &archive{name: name, byName: map[string]*entry{}} }

// add adds an entry. A later one of the same name replaces the earlier one, as tar does when it unpacks.
func (a *archive) add(r *Reader, e *entry) error {
	if err := r.count(len(e.name) + len(e.link) + len(e.data)); err != nil {
		return fmt.Errorf("%s: %w", a.name, err)
	}
	a.entries = append(a.entries, e)
	a.byName[e.name] = e
	return nil
}

// maxSkipped bounds the skipped files that are recorded of an archive.
const maxSkipped = 100_000

// skip records a file that is not imported.
func (a *archive) skip(name, why string) {
	switch n := len(a.skipped); {
	case n < maxSkipped:
		a.skipped = append(a.skipped, bundle.Skipped{Name: name[:min(len(name), 1000)], Why: why})
	case n == maxSkipped:
		a.skipped = append(
			a.skipped,
			bundle.Skipped{Name: "…", Why: fmt.Sprintf("after %d files the others are not recorded", maxSkipped)},
		)
	}
}

// cleanName normalises a path in an archive; it returns false if the path leads outside or is empty.
func cleanName(name string) (string, bool) {
	if name == "" || strings.HasPrefix(name, "/") || strings.ContainsRune(name, 0) {
		return "", false
	}
	name = path.Clean(name)
	return name, name != "." && name != ".." && !strings.HasPrefix(name, "../")
}

// linkTarget returns the target of a symbolic link called name, and false if that is outside the archive.
func linkTarget(name, to string) (string, bool) {
	if to == "" || strings.HasPrefix(to, "/") {
		return "", false
	}
	return cleanName(path.Join(path.Dir(name), to))
}

// file returns the file of that name, following links, or nil.
func (a *archive) file(name string) *entry {
	for range 16 { // cycles do not end
		e := a.byName[name]
		if e == nil || e.link == "" {
			return e
		}
		name = e.link
	}
	return nil
}

// roots returns the directories in which an image archive may begin: the top, and a directory that contains everything.
func (a *archive) roots() []string {
	wrapper := ""
	for _, e := range a.entries {
		if isEditorFile(e.name) {
			continue // tar on a Mac puts ._DIR beside DIR
		}
		top, _, inside := strings.Cut(e.name, "/")
		if wrapper == "" {
			wrapper = top
		}
		if !inside || top != wrapper || isTreeHost(top) {
			return []string{""}
		}
	}
	if wrapper == "" {
		return []string{""}
	}
	return []string{"", wrapper + "/"}
}

// document returns the content of a small file.
func (r *Reader) document(ctx context.Context, a *archive, e *entry) ([]byte, error) {
	if e.data != nil {
		return e.data, nil
	}
	if e.size > oci.MaxDocument {
		return nil, fmt.Errorf(
			"%s: %s has %d bytes, more than the %d of a document",
			a.name,
			e.name,
			e.size,
			oci.MaxDocument,
		)
	}
	content, closing, err := r.content(ctx, a, e)
	if err != nil {
		return nil, err
	}
	defer closing()
	data, err := io.ReadAll(io.LimitReader(content, oci.MaxDocument+1))
	if err != nil {
		return nil, a.failed(e.name, err)
	}
	if len(data) > oci.MaxDocument {
		return nil, fmt.Errorf("%s: %s has more than the %d bytes of a document", a.name, e.name, oci.MaxDocument)
	}
	return data, nil
}

// content opens a file, which may be in the archive, in memory or in the sink.
func (r *Reader) content(ctx context.Context, a *archive, e *entry) (io.Reader, func() error, error) {
	var content io.Reader
	closing := noClose
	var err error
	switch {
	case e.data != nil:
		content = bytes.NewReader(e.data)
	case a.open != nil:
		content, closing, err = a.open(e)
	case e.digest != "":
		var f io.ReadSeekCloser
		if f, err = r.sink.Open(ctx, e.digest); err == nil {
			content, closing = f, f.Close
		}
	default:
		err = errors.New("it was not stored, because nothing in the archive needs a file of this kind")
	}
	if err != nil {
		return nil, nil, a.failed(e.name, err)
	}
	return content, closing, nil
}

// put puts a file into the sink unless the sink has it. digest is the digest that it must have, "" if it is not known.
func (r *Reader) put(ctx context.Context, a *archive, e *entry, digest string) error {
	if e.digest != "" {
		if digest != "" && digest != e.digest {
			return fmt.Errorf(
				"%s: %s should have %s and has %s: the archive is damaged: %w",
				a.name,
				e.name,
				digest,
				e.digest,
				syscall.EBADMSG,
			)
		}
		return nil
	}
	if digest != "" {
		if size, ok := r.sink.Has(digest); ok {
			if size != e.size {
				return fmt.Errorf(
					"%s: %s has %d bytes, but the blob with its digest has %d: the archive is damaged: %w",
					a.name,
					e.name,
					e.size,
					size,
					syscall.EBADMSG,
				)
			}
			e.digest = digest
			r.progress(e.size)
			return nil
		}
	}
	content, closing, err := r.content(ctx, a, e)
	if err != nil {
		return err
	}
	defer closing()
	if e.digest, _, err = r.sink.Put(ctx, digest, e.size, content); err != nil {
		return a.failed(e.name, err)
	}
	if a.open != nil {
		r.progress(e.size)
	}
	return nil
}

// failed adds the name of a file of the archive to an error.
func (a *archive) failed(name string, err error) error {
	return explainReadError(a.name+": "+name, err)
}

// explainReadError explains the errors with which reading an input can end.
func explainReadError(name string, err error) error {
	why := ""
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		why = "it is truncated, or one of several parts, which must be joined first: "
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		why = fmt.Sprintf(
			"it needs more than %d MiB of memory to decompress; compress it with --long=27 or less: ",
			maxWindow>>20,
		)
	case errors.Is(err, syscall.EBADMSG),
		errors.Is(err, tar.ErrHeader),
		errors.Is(err, gzip.ErrChecksum),
		errors.Is(err, gzip.ErrHeader),
		errors.Is(
			err,
			zstd.ErrCRCMismatch,
		),
		errors.Is(err, zstd.ErrMagicMismatch),
		errors.As(err, new(flate.CorruptInputError)):
		why = "it is damaged: "
	}
	return fmt.Errorf("%s: %s%w", name, why, err)
}

// head returns the first n bytes of a file, or fewer.
func (r *Reader) head(ctx context.Context, a *archive, e *entry, n int) ([]byte, error) {
	content, closing, err := r.content(ctx, a, e)
	if err != nil {
		return nil, err
	}
	defer closing()
	head := make([]byte, min(int64(n), e.size))
	got, err := io.ReadFull(content, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, a.failed(e.name, err)
	}
	return head[:got], nil
}

// skipFiles reports files that are not imported: each in Contents.Skipped, and some in a note.
func (r *Reader) skipFiles(a *archive, others []bundle.Skipped) {
	all := slices.Concat(a.skipped, others)
	if len(all) == 0 {
		return
	}
	for _, l := range all {
		r.skipped = append(r.skipped, bundle.Skipped{Name: a.name + ": " + l.Name, Why: l.Why})
	}
	var shown []string
	for _, l := range all[:min(len(all), 5)] {
		shown = append(shown, fmt.Sprintf("%q (%s)", l.Name, l.Why))
	}
	more := ""
	if n := len(all) - len(shown); n > 0 {
		more = fmt.Sprintf(" and %d more, which --verbose and -o json list", n)
	}
	r.note("%s: left out %s%s", a.name, strings.Join(shown, ", "), more)
}

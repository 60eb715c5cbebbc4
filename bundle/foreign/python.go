package foreign

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"

	"casemate/bundle"
	"casemate/bundle/lists"
	"casemate/bundle/python"
)

// pythonPart is a directory of Python packages, as pip download leaves it. Their names here are those of an index:
// INDEX/PROJECT/FILE, and FILE.metadata for what a package says of itself.
type pythonPart struct {
	a     *archive
	files []*entry
}

func (p *pythonPart) kind() string { return bundle.KindPython }

func (p *pythonPart) need(*Reader) int64 {
	var n int64
	for _, e := range p.files {
		if e.digest == "" {
			n += e.size
		}
	}
	return n
}

// isSdist reports whether a file is a source distribution: other archives have names like one.
func (r *Reader) isSdist(ctx context.Context, a *archive, e *entry) bool {
	name := path.Base(e.name)
	if _, err := python.ParseFile(name); err != nil || strings.HasSuffix(name, ".whl") {
		return false
	}
	content, closing, err := r.content(ctx, a, e)
	if err != nil {
		return false
	}
	defer closing()
	at, ok := readerAt(content)
	if !ok {
		return false
	}
	_, _, err = python.Metadata(name, at, e.size)
	return err == nil
}

// newPython returns the packages among the files of an archive, nil if there are none.
func newPython(a *archive, files []*entry) *pythonPart {
	if len(files) == 0 {
		return nil
	}
	return &pythonPart{a, files}
}

func (p *pythonPart) load(ctx context.Context, r *Reader) error {
	if r.opt.PythonIndex == "" {
		return fmt.Errorf("%s has Python packages: name the index that clients use with --python-index", p.a.name)
	}
	return parallel(ctx, len(p.files), func(ctx context.Context, i int) error {
		e := p.files[i]
		if err := r.put(ctx, p.a, e, ""); err != nil {
			return err
		}
		content, err := r.sink.Open(ctx, e.digest)
		if err != nil {
			return p.a.failed(e.name, err)
		}
		defer content.Close()
		at, _ := readerAt(content)
		name := path.Base(e.name)
		f, metadata, err := python.Metadata(name, at, e.size)
		if err != nil {
			r.refuse(p.a.name+": "+e.name, err)
			return nil
		}
		digest, _, err := r.sink.Put(ctx, "", int64(len(metadata)), strings.NewReader(string(metadata)))
		if err != nil {
			return p.a.failed(e.name, err)
		}
		url := r.opt.PythonIndex + f.Project + "/" + escapePath(name)
		if _, err := lists.PlaceURL(url + ".metadata"); err != nil {
			r.refuse(p.a.name+": "+e.name, err)
			return nil
		}
		r.nameLock.Lock()
		defer r.nameLock.Unlock()
		r.addFile(url, e.digest, e.size, p.a.name)
		r.addFile(url+".metadata", digest, int64(len(metadata)), p.a.name)
		return nil
	})
}

// refuse reports a name that cannot be imported.
func (r *Reader) refuse(name string, err error) {
	r.nameLock.Lock()
	defer r.nameLock.Unlock()
	r.refused.Add(name, err)
}

// inspectPackage returns the part of an input that is a single package, nil if it is none.
func (r *Reader) inspectPackage(ctx context.Context, in bundle.Input, f *File) part {
	name := path.Base(in.Name)
	if _, err := python.ParseFile(name); err != nil || f.at == nil {
		return nil
	}
	a := newArchive(in.Name)
	a.open = func(*entry) (io.Reader, func() error, error) { return f.reader(), noClose, nil }
	e := &entry{name: name, size: f.size}
	if !isWheel(name) && !r.isSdist(ctx, a, e) {
		return nil
	}
	return newPython(a, []*entry{e})
}

// isWheel reports whether a file has the name of a wheel. pip download also leaves what is no package; a wheel with a
// wrong name is reported when it is loaded.
func isWheel(name string) bool { return strings.HasSuffix(name, ".whl") }

// readerAt reads at offsets what can do it, or can seek.
func readerAt(r io.Reader) (io.ReaderAt, bool) {
	switch r := r.(type) {
	case io.ReaderAt:
		return r, true
	case io.ReadSeeker:
		return &seekingReader{r: r}, true
	}
	return nil, false
}

// seekingReader reads at offsets by seeking.
type seekingReader struct {
	mu sync.Mutex
	r  io.ReadSeeker
}

func (s *seekingReader) ReadAt(p []byte, offset int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.r.Seek(offset, io.SeekStart); err != nil {
		return 0, err
	}
	n, err := io.ReadFull(s.r, p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

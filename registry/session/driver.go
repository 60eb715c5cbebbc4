package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"casemate/cluster/tree"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/factory"
	"github.com/opencontainers/go-digest"
)

// driverName is the driver's name in distribution's factory and the prefix of its errors. driverParameter is the
// parameter that carries the *Sessions.
const (
	driverName      = "casemate"
	driverParameter = "sessions"
)

// driverRoot is the root of distribution's paths (registry/storage/paths.go).
const driverRoot = "/docker/registry/v2"

// driver is distribution's storage over the tree. Paths fall into four classes:
//
//   - blobs/ALG/AA/HEX/data: synthesised; the tree knows blobs by digest and stores no such name.
//   - repositories/…/link: a link in the tree at the same path whose bytes are the blob itself; distribution reads and
//     writes the digest.
//   - repositories/REPO/_uploads/ID/…: an upload session, on this node only.
//   - anything else: a plain file below "driver/", small ones as records. distribution uses none; its conformance test
//     does.
type driver struct {
	tree     Tree
	sessions *table
	holds    func(ctx context.Context, repository, manifest string) ([]string, error)
}

type driverFactory struct{}

// registerDriver registers the factory once per process: distribution's registry of drivers panics the second time.
var registerDriver = sync.OnceFunc(func() { factory.Register(driverName, driverFactory{}) })

// Create makes a driver over the *Sessions in the parameters.
func (driverFactory) Create(_ context.Context, parameters map[string]any) (storagedriver.StorageDriver, error) {
	s, ok := parameters[driverParameter].(*Sessions)
	if !ok || s == nil || s.cfg.Tree == nil {
		return nil, errors.New("the storage driver is given no tree")
	}
	return &driver{tree: s.cfg.Tree, sessions: s.table, holds: s.cfg.Holds}, nil
}

var _ storagedriver.StorageDriver = (*driver)(nil)

type pathClass int

const (
	classFile pathClass = iota
	classBlob
	classLink
	classUpload
)

// driverPath is a parsed path.
type driverPath struct {
	class  pathClass
	path   string        // as requested
	name   string        // in the tree
	digest digest.Digest // of a blob; of a link's name, "" for a tag
	repo   string        // of a link or an upload
	key    string        // of an upload
	rest   string        // below the upload's directory: "", "data", "startedat", "hashstates/sha256/108"
}

// parse parses p; a path that is not absolute, clean and of plain elements is an InvalidPathError.
func (d *driver) parse(p string) (driverPath, error) {
	if p == "/" {
		return driverPath{path: p, name: "driver"}, nil
	}
	if !strings.HasPrefix(p, "/") || p == "/." || !fs.ValidPath(p[1:]) || strings.ContainsAny(p, "\x00\\") {
		return driverPath{}, storagedriver.InvalidPathError{Path: p, DriverName: driverName}
	}
	rest, ok := strings.CutPrefix(p, driverRoot+"/")
	if !ok {
		return driverPath{path: p, name: "driver" + p}, nil
	}
	parts := strings.Split(rest, "/")
	if parts[0] == "blobs" {
		if len(parts) == 5 && parts[4] == "data" {
			dg := digest.NewDigestFromEncoded(digest.Algorithm(parts[1]), parts[3])
			if dg.Validate() == nil {
				return driverPath{class: classBlob, path: p, digest: dg}, nil
			}
		}
		return driverPath{path: p, name: "driver" + p}, nil
	}
	if parts[0] != "repositories" {
		return driverPath{path: p, name: "driver" + p}, nil
	}
	pl := driverPath{path: p, name: rest}
	for i, e := range parts {
		if i < 2 || !strings.HasPrefix(e, "_") {
			continue
		}
		pl.repo = strings.Join(parts[1:i], "/")
		if e == "_uploads" && len(parts) > i+1 {
			pl.class, pl.key, pl.rest = classUpload, ID{pl.repo, parts[i+1]}.key(), strings.Join(parts[i+2:], "/")
			if !ValidUpload(parts[i+1]) {
				return driverPath{}, storagedriver.InvalidPathError{Path: p, DriverName: driverName}
			}
			return pl, nil
		}
		n := len(parts)
		if parts[n-1] != "link" {
			return pl, nil
		}
		pl.class = classLink
		if parts[n-2] != "current" {
			pl.digest = digest.NewDigestFromEncoded(digest.Algorithm(parts[n-3]), parts[n-2])
			if pl.digest.Validate() != nil {
				return driverPath{}, storagedriver.InvalidPathError{Path: p, DriverName: driverName}
			}
		}
		return pl, nil
	}
	return pl, nil
}

// history reports whether the link is in a tag's index (every manifest that the tag ever pointed to). The tree does not
// store these: nothing reads them, and they would hold every image that a tag ever pointed to.
func (pl driverPath) history() bool {
	return strings.Contains(pl.name, "/_manifests/tags/") && pl.digest != ""
}

// fail converts the tree's errors to the driver's, and records the others for the request (see call).
func fail(ctx context.Context, p string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return storagedriver.PathNotFoundError{Path: p, DriverName: driverName}
	case errors.Is(err, fs.ErrInvalid):
		return storagedriver.InvalidPathError{Path: p, DriverName: driverName}
	}
	recordError(ctx, err)
	return storagedriver.Error{DriverName: driverName, Detail: err}
}

// Name is "casemate".
func (d *driver) Name() string { return driverName }

// GetContent returns the bytes of a file; of a link, the digest that it points to.
func (d *driver) GetContent(ctx context.Context, p string) ([]byte, error) {
	pl, err := d.parse(p)
	if err != nil {
		return nil, err
	}
	if p == "/" {
		return nil, storagedriver.InvalidPathError{Path: p, DriverName: driverName}
	}
	switch pl.class {
	case classLink:
		dg, err := d.link(pl)
		return []byte(dg), fail(ctx, p, err)
	case classBlob:
		r, err := d.tree.OpenBlob(ctx, pl.digest.String())
		if err != nil {
			return nil, fail(ctx, p, err)
		}
		defer r.Close()
		b, err := io.ReadAll(r)
		return b, fail(ctx, p, err)
	case classUpload:
		_, started, err := d.sessions.state(pl.key)
		if err != nil {
			return nil, fail(ctx, p, err)
		}
		if pl.rest == "startedat" {
			return []byte(started), nil
		}
		if b, ok := d.sessions.getStates(pl.key)[pl.rest]; ok {
			return b, nil
		}
		return nil, fail(ctx, p, fs.ErrNotExist)
	}
	b, err := d.tree.ReadFile(pl.name)
	return b, fail(ctx, p, err)
}

// link returns the digest that a link points to.
func (d *driver) link(pl driverPath) (string, error) {
	fi, err := d.tree.Stat(pl.name)
	if err != nil {
		return "", err
	}
	if dg := tree.DigestOf(fi); dg != "" {
		return dg, nil
	}
	return "", fs.ErrNotExist
}

// PutContent writes a whole file. A link is written by its kind: layers weakly, tags and revisions strongly, a revision
// with what it holds.
func (d *driver) PutContent(ctx context.Context, p string, content []byte) error {
	pl, err := d.parse(p)
	if err != nil {
		return err
	}
	if p == "/" {
		return storagedriver.InvalidPathError{Path: p, DriverName: driverName}
	}
	switch pl.class {
	case classLink:
		return fail(ctx, p, d.putLink(ctx, pl, string(content)))
	case classBlob:
		return fail(ctx, p, d.putBlob(ctx, content, pl.digest.String(), nil))
	case classUpload:
		if pl.rest == "startedat" {
			err = d.sessions.begin(userOf(ctx), pl.key, string(content))
		} else {
			d.sessions.putState(pl.key, pl.rest, bytes.Clone(content))
		}
		return fail(ctx, p, err)
	}
	if len(content) <= 4096 {
		return fail(ctx, p, d.tree.Update(ctx, func(b Batch) error { b.Put(pl.name, content); return nil }))
	}
	return fail(ctx, p, d.putBlob(ctx, content, "", func(b Batch, dg string) { b.Link(pl.name, dg) }))
}

func (d *driver) putLink(ctx context.Context, pl driverPath, dg string) error {
	if _, _, err := tree.ParseDigest(dg); err != nil {
		return fmt.Errorf("link %s: %w", pl.name, err)
	}
	if pl.history() {
		return nil
	}
	return d.tree.Update(ctx, func(b Batch) error {
		switch {
		case strings.Contains(pl.name, "/_layers/"):
			b.LinkWeak(pl.name, dg)
		case strings.Contains(pl.name, "/_manifests/revisions/"):
			holds, err := d.holds(ctx, pl.repo, dg)
			if err != nil {
				return err
			}
			b.Link(pl.name, dg, holds...)
		default:
			b.Link(pl.name, dg)
		}
		return nil
	})
}

// putBlob commits content under dg ("": sha256) and then makes the edits of link with its digest.
func (d *driver) putBlob(ctx context.Context, content []byte, dg string, link func(b Batch, dg string)) error {
	w, err := d.tree.CreateBlob("")
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := w.Write(content); err != nil {
		return err
	}
	dg, err = w.Commit(ctx, dg)
	if err != nil || link == nil {
		return err
	}
	return d.tree.Update(ctx, func(b Batch) error { link(b, dg); return nil })
}

// Reader opens a file at offset; a negative one is InvalidOffsetError.
func (d *driver) Reader(ctx context.Context, p string, offset int64) (io.ReadCloser, error) {
	pl, err := d.parse(p)
	if err != nil {
		return nil, err
	}
	if offset < 0 {
		return nil, storagedriver.InvalidOffsetError{Path: p, Offset: offset, DriverName: driverName}
	}
	switch pl.class {
	case classBlob:
	case classFile:
		fi, err := d.tree.Stat(pl.name)
		if err != nil {
			return nil, fail(ctx, p, err)
		}
		dg := tree.DigestOf(fi)
		if dg == "" {
			b, err := d.tree.ReadFile(pl.name)
			if err != nil {
				return nil, fail(ctx, p, err)
			}
			return io.NopCloser(bytes.NewReader(b[min(offset, int64(len(b))):])), nil
		}
		pl.digest = digest.Digest(dg)
	case classLink:
		b, err := d.GetContent(ctx, p)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(bytes.NewReader(b[min(offset, int64(len(b))):])), nil
	default: // a scratch file cannot be read
		return nil, fail(ctx, p, fs.ErrNotExist)
	}
	r, err := d.tree.OpenBlob(ctx, pl.digest.String())
	if err != nil {
		return nil, fail(ctx, p, err)
	}
	if _, err := r.Seek(offset, io.SeekStart); err != nil {
		r.Close()
		return nil, fail(ctx, p, err)
	}
	return r, nil
}

// Writer opens a file for writing; with append it continues at the end of a file that was not committed or is empty.
func (d *driver) Writer(ctx context.Context, p string, append bool) (storagedriver.FileWriter, error) {
	pl, err := d.parse(p)
	if err != nil {
		return nil, err
	}
	switch {
	case pl.class == classUpload && pl.rest == "data":
		w, err := d.sessions.acquire(pl.key, !append)
		if err != nil {
			return nil, fail(ctx, p, err)
		}
		u := &uploadWriter{ctx: ctx, d: d, key: pl.key, w: w}
		recordWriter(ctx, u)
		return u, nil
	case pl.class != classFile || p == "/":
		return nil, storagedriver.InvalidPathError{Path: p, DriverName: driverName}
	}
	id := "file-" + digest.FromString(pl.name).Encoded()
	var w BlobWriter
	if append {
		w, err = d.tree.ResumeBlob(id)
		if errors.Is(err, fs.ErrNotExist) {
			var fi fs.FileInfo
			if fi, err = d.tree.Stat(pl.name); err == nil && fi.Size() != 0 {
				return nil, storagedriver.Error{DriverName: driverName,
					Detail: fmt.Errorf("append to the committed file %s", p)}
			}
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				w, err = d.tree.CreateBlob(id)
			}
		}
	} else {
		w, err = d.tree.CreateBlob(id)
	}
	if err != nil {
		return nil, fail(ctx, p, err)
	}
	return &fileWriter{d: d, name: pl.name, path: p, w: w}, nil
}

// Stat describes a file or a synthesised directory.
func (d *driver) Stat(ctx context.Context, p string) (storagedriver.FileInfo, error) {
	pl, err := d.parse(p)
	if err != nil {
		return nil, err
	}
	info := storagedriver.FileInfoFields{Path: p}
	switch pl.class {
	case classBlob:
		info.Size, err = d.tree.StatBlob(pl.digest.String())
	case classUpload:
		var started string
		info.Size, started, err = d.sessions.state(pl.key)
		info.ModTime, _ = time.Parse(time.RFC3339, started)
		if info.IsDir = pl.rest != "data"; info.IsDir {
			info.Size = 0
		}
	default:
		var fi fs.FileInfo
		if fi, err = d.tree.Stat(pl.name); err == nil {
			info.Size, info.IsDir, info.ModTime = fi.Size(), fi.IsDir(), fi.ModTime()
			if pl.class == classLink {
				info.Size = int64(len(tree.DigestOf(fi)))
			}
			if info.IsDir {
				info.Size = 0
			}
		} else if p == "/" {
			info.IsDir, err = true, nil
		}
	}
	if err != nil {
		return nil, fail(ctx, p, err)
	}
	return storagedriver.FileInfoInternal{FileInfoFields: info}, nil
}

// List returns the paths directly below p.
func (d *driver) List(ctx context.Context, p string) ([]string, error) {
	pl, err := d.parse(p)
	if err != nil {
		return nil, err
	}
	list := []string{}
	switch pl.class {
	case classUpload:
		if _, _, err := d.sessions.state(pl.key); err != nil {
			return nil, fail(ctx, p, err)
		}
		for name := range d.sessions.getStates(pl.key) {
			if path.Dir(name) == pl.rest {
				list = append(list, path.Join(p, path.Base(name)))
			}
		}
		return list, nil
	case classBlob:
		return nil, fail(ctx, p, fs.ErrNotExist)
	}
	entries, err := d.tree.ReadDir(pl.name)
	if err != nil && !(p == "/" && errors.Is(err, fs.ErrNotExist)) {
		return nil, fail(ctx, p, err)
	}
	for _, e := range entries {
		list = append(list, path.Join(p, e.Name()))
	}
	return list, nil
}

// Move renames a file. A finished upload that is moved to a blob becomes that blob: this step stores its bytes on a
// majority of nodes.
func (d *driver) Move(ctx context.Context, from, to string) error {
	src, err := d.parse(from)
	if err != nil {
		return err
	}
	dst, err := d.parse(to)
	if err != nil {
		return err
	}
	switch {
	case src.class == classUpload && src.rest == "data" && dst.class == classBlob:
		w, err := d.sessions.acquire(src.key, false)
		if err != nil {
			return fail(ctx, from, err)
		}
		if _, err := w.Commit(ctx, dst.digest.String()); err != nil {
			d.sessions.release(src.key, w)
			return fail(ctx, from, err)
		}
		d.sessions.end(src.key)
		return fail(ctx, from, w.Close())
	case src.class != classFile || dst.class != classFile:
		return storagedriver.ErrUnsupportedMethod{DriverName: driverName}
	}
	fi, err := d.tree.Stat(src.name)
	if err != nil {
		return fail(ctx, from, err)
	}
	if fi.IsDir() {
		return storagedriver.ErrUnsupportedMethod{DriverName: driverName}
	}
	var data []byte
	dg := tree.DigestOf(fi)
	if dg == "" {
		if data, err = d.tree.ReadFile(src.name); err != nil {
			return fail(ctx, from, err)
		}
	}
	return fail(ctx, from, d.tree.Update(ctx, func(b Batch) error {
		b.Remove(src.name)
		if dg != "" {
			b.Link(dst.name, dg)
		} else {
			b.Put(dst.name, data)
		}
		return nil
	}))
}

// Delete removes a file, or a directory with everything below it. Blobs are not deleted: they are collected when no
// name refers to them.
func (d *driver) Delete(ctx context.Context, p string) error {
	pl, err := d.parse(p)
	if err != nil {
		return err
	}
	switch pl.class {
	case classUpload:
		return fail(ctx, p, d.sessions.cancel(pl.key))
	case classBlob:
		return storagedriver.ErrUnsupportedMethod{DriverName: driverName}
	}
	if _, err := d.tree.Stat(pl.name); err != nil {
		return fail(ctx, p, err)
	}
	return fail(ctx, p, d.tree.Update(ctx, func(b Batch) error { b.Remove(pl.name); return nil }))
}

// RedirectURL never redirects.
func (d *driver) RedirectURL(*http.Request, string) (string, error) { return "", nil }

// Walk visits everything below p, directories before their content, in the order of elements.
func (d *driver) Walk(
	ctx context.Context, p string, f storagedriver.WalkFn, options ...func(*storagedriver.WalkOptions),
) error {
	return storagedriver.WalkFallback(ctx, d, p, f, options...)
}

// uploadWriter fills an upload session. The bytes become a blob in Move, not in Commit.
type uploadWriter struct {
	ctx  context.Context // of the request; io.Writer has none
	d    *driver
	key  string
	w    BlobWriter // nil once closed
	size int64
}

func (u *uploadWriter) Write(p []byte) (int, error) {
	if u.w == nil {
		return 0, fs.ErrClosed
	}
	n, err := u.w.Write(p)
	if err != nil {
		recordError(u.ctx, err)
	}
	return n, err
}

func (u *uploadWriter) Size() int64 {
	if u.w != nil {
		u.size = u.w.Size()
	}
	return u.size
}

// Close may be called again: distribution does, at the end of a request that it has closed before.
func (u *uploadWriter) Close() error {
	if u.w == nil {
		return nil
	}
	u.Size()
	w := u.w
	u.w = nil
	return u.d.sessions.release(u.key, w)
}

func (u *uploadWriter) Cancel(context.Context) error {
	if u.w == nil {
		return u.d.sessions.cancel(u.key)
	}
	u.Size()
	err := u.w.Cancel()
	u.w = nil
	u.d.sessions.end(u.key)
	return err
}

func (u *uploadWriter) Commit(context.Context) error { return u.Close() }

// fileWriter writes a plain file.
type fileWriter struct {
	d          *driver
	name, path string
	w          BlobWriter // nil once closed
	size       int64
}

func (w *fileWriter) Write(p []byte) (int, error) {
	if w.w == nil {
		return 0, fs.ErrClosed
	}
	return w.w.Write(p)
}

func (w *fileWriter) Size() int64 {
	if w.w != nil {
		w.size = w.w.Size()
	}
	return w.size
}

func (w *fileWriter) Close() error {
	if w.w == nil {
		return nil
	}
	w.Size()
	err := w.w.Close()
	w.w = nil
	return err
}

func (w *fileWriter) Cancel(context.Context) error {
	if w.w == nil {
		return nil
	}
	w.Size()
	err := w.w.Cancel()
	w.w = nil
	return err
}

func (w *fileWriter) Commit(ctx context.Context) error {
	if w.w == nil {
		return fs.ErrClosed
	}
	w.Size()
	dg, err := w.w.Commit(ctx, "")
	if err != nil {
		return fail(ctx, w.path, err)
	}
	err = w.w.Close()
	w.w = nil
	if err != nil {
		return err
	}
	return fail(ctx, w.path, w.d.tree.Update(ctx, func(b Batch) error { b.Link(w.name, dg); return nil }))
}

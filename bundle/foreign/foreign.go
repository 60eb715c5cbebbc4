package foreign

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"casemate/bundle"
)

// Limits for foreign archives. Blobs have none: the sink limits what it stores.
const (
	maxArchiveDepth = 2 // archives in an archive or directory, and archives in those
	putWorkers      = 8 // blobs that are put at once
)

// Limits that take seconds to reach; tests lower them.
var (
	maxEntries       = 1_000_000 // files of all inputs together, and references of all manifests together
	maxMemory  int64 = 64 << 20  // bytes of names and documents of all inputs together
)

// supportedInputs ends the sentence that refuses an input.
const supportedInputs = "import takes bundles, OCI layouts, docker-archives, hauls, trees of HOST/PATH files, " +
	"Python packages and Kubespray's offline archives, " +
	"as directories or as tars (plain, gzip, zstd)"

// Reader reads the inputs of one import.
type Reader struct {
	sink    bundle.Sink
	opt     bundle.ReadOptions
	unnamed naming // the name of images without a name, from ReadOptions.Repository
	graph   graph
	names   names
	kinds   []string
	notes   []string
	refused bundle.NameErrors
	skipped []bundle.Skipped
	// nameLock guards names and refused where several workers add to them.
	nameLock sync.Mutex

	entries, memory int64     // used of maxEntries and maxMemory
	expanded        expansion // of archives that are read
	verified        expansion // of layers that are compared with their config
	done            atomic.Int64
	total           int64
}

// naming is a repository and perhaps a tag.
type naming struct{ repository, tag string }

func New(sink bundle.Sink, opt bundle.ReadOptions) (*Reader, error) {
	r := &Reader{sink: sink, opt: opt}
	r.expanded.free, r.expanded.times = freeExpansion, maxExpansion
	r.verified.free, r.verified.times = freeVerified, maxVerified
	if opt.Repository != "" {
		n, err := r.parseName(nil, opt.Repository)
		if err != nil {
			return nil, fmt.Errorf("--repository: %w", err)
		}
		if !strings.Contains(opt.Repository[strings.LastIndexByte(opt.Repository, '/')+1:], ":") {
			n.tag = "" // it has no tag, and "latest" was not requested
		}
		r.unnamed = n
	}
	return r, nil
}

// part is something in an input that has names.
type part interface {
	// kind returns its Kind.
	kind() string
	// need returns the maximum number of bytes that load puts.
	need(r *Reader) int64
	// load puts its blobs and adds its names.
	load(ctx context.Context, r *Reader) error
}

func (r *Reader) Read(ctx context.Context, inputs []bundle.Input, files []*File) (*bundle.Contents, error) {
	var parts []part
	for i, in := range inputs {
		p, err := r.inspect(ctx, in, files[i])
		if err != nil {
			return nil, err
		}
		parts = append(parts, p...)
		if f := files[i]; f != nil && (f.at != nil || f.claims > 0) && r.total >= 0 {
			r.total += f.size + f.claims
		} else {
			r.total = -1
		}
	}
	if err := r.refused.Err(); err != nil && !r.opt.Partial {
		return nil, err // the names that are known by now; reading finds the others
	}
	var need int64
	for _, p := range parts {
		n := p.need(r)
		if n < 0 || need < 0 {
			need = -1
			continue
		}
		need += n
		r.kinds = append(r.kinds, p.kind())
	}
	if r.opt.Plan != nil {
		c := &bundle.Contents{Kind: r.kind(), Notes: slices.Clone(r.notes)}
		if err := r.opt.Plan(c, need); errors.Is(err, bundle.ErrStop) {
			return c, nil
		} else if err != nil {
			return nil, err
		}
	}
	r.kinds = nil
	for _, p := range parts {
		if err := p.load(ctx, r); err != nil {
			return nil, err
		}
		r.kinds = append(r.kinds, p.kind())
	}
	if err := r.refused.Err(); err != nil && !r.opt.Partial {
		return nil, err
	}
	r.progress(max(0, r.total-r.done.Load()))
	return r.contents(ctx)
}

// inspect finds out what an input is, without reading content if possible.
func (r *Reader) inspect(ctx context.Context, in bundle.Input, f *File) ([]part, error) {
	if in.FS != nil {
		a, err := r.scanDir(ctx, in.Name, in.FS)
		if err != nil {
			return nil, err
		}
		return r.interpret(ctx, a, 0, "")
	}
	if p := r.inspectPackage(ctx, in, f); p != nil {
		return []part{p}, nil
	}
	if f.format == plainTar && f.at != nil {
		a, err := r.scanTar(in.Name, func() (io.ReaderAt, func() error, error) { return f.at, noClose, nil }, f.size)
		if err == nil {
			return r.interpret(ctx, a, 0, "")
		} else if !errors.Is(err, errSparse) {
			return nil, err
		}
	}
	switch f.format {
	case plainTar, gzipped, zstandard:
		p := &streamPart{name: in.Name, format: f.format, size: -1}
		if f.at != nil {
			p.size = f.size
		} else {
			p.claims = f.claims
			r.expanded.stream = true
		}
		p.open = func() (io.Reader, func() error, error) { return f.reader(), noClose, nil }
		return []part{p}, nil
	}
	return nil, fmt.Errorf("%s is %s; %s", in.Name, f.format.what(), supportedInputs)
}

// interpret finds out what an archive contains. depth counts the archives around it, listed is the image's name in the
// list beside it.
func (r *Reader) interpret(ctx context.Context, a *archive, depth int, listed string) ([]part, error) {
	for _, root := range a.roots() {
		if a.file(root+bundle.PartDocument) != nil {
			return nil, fmt.Errorf(
				"%s is a bundle that was unpacked or compressed, so that it cannot be verified: import the file as "+
					"bundle create wrote it: %w",
				a.name,
				fs.ErrInvalid,
			)
		}
		if a.isLayout(root) {
			p, err := r.newLayout(ctx, a, root, r.unnamed)
			if err != nil {
				return nil, err
			}
			return []part{p}, nil
		}
		if a.open != nil && a.isDir(root, a.digestDirs()) {
			p, err := r.newDir(ctx, a, root, r.unnamed)
			if err != nil {
				return nil, err
			}
			return []part{p}, nil
		}
		docker, err := r.isDocker(ctx, a, root)
		if err != nil {
			return nil, err
		}
		if docker {
			p, err := r.newDocker(ctx, a, root, listed)
			if err != nil {
				return nil, err
			}
			p.collected = depth > 0
			return []part{p}, nil
		}
	}
	return r.collection(ctx, a, depth)
}

// kind returns the kinds of the inputs, joined by "+".
func (r *Reader) kind() string {
	kinds := slices.DeleteFunc(slices.Clone(r.kinds), func(k string) bool { return k == "" })
	slices.Sort(kinds)
	return strings.Join(slices.Compact(kinds), "+")
}

func (r *Reader) note(format string, args ...any) {
	n := fmt.Sprintf(format, args...)
	if len(r.notes) < 1000 && !slices.Contains(r.notes, n) {
		r.notes = append(r.notes, n)
	}
}

// count subtracts one entry and the bytes kept of it from the limits.
func (r *Reader) count(kept int) error {
	r.entries++
	r.memory += int64(kept)
	switch {
	case r.entries > int64(maxEntries):
		return fmt.Errorf("more than %d files; import them in several runs", maxEntries)
	case r.memory > maxMemory:
		return fmt.Errorf("more than %d MiB of names and documents; import them in several runs", maxMemory>>20)
	}
	return nil
}

func (r *Reader) progress(n int64) {
	if done := r.done.Add(n); r.opt.Progress != nil && n > 0 {
		r.opt.Progress(done, r.total)
	}
}

// parallel does n things, several at once, and returns the first error. Each goroutine does many of them: a new one
// would begin with a small stack and grow it in every Put.
func parallel(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	g, gctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range min(n, putWorkers) {
		g.Go(func() error {
			for gctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					break
				}
				if err := do(gctx, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

func noClose() error { return nil }

// errIncomplete reports that an archive does not contain one of its own files.
func errIncomplete(a *archive, name string) error {
	return fmt.Errorf("%s: it names %q and does not contain it; it is incomplete: %w", a.name, name, fs.ErrNotExist)
}

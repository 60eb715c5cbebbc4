package collect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"casemate/bundle"
	"casemate/bundle/collect/cache"
	"casemate/bundle/collect/download"
	"casemate/bundle/collect/transport"
	"casemate/bundle/digests"
	"casemate/bundle/lists"
	"casemate/bundle/oci"
)

// Options say how is collected. The zero value collects every platform, with signatures, into the user's cache.
type Options struct {
	// Platforms are those that are taken of an index, as "linux/arm64" or "linux/arm/v7"; without a variant all of its
	// variants are. The index stays as it is, so that its digest and its signature stay right. None: every platform,
	// because who does not say it has a reason to be careful; it is several times as much.
	Platforms []string
	// Cache is a directory; "": casemate below the user's cache directory. One run uses it at a time.
	Cache string
	// Parallel is how many names and blobs are fetched at once; 0 is 4.
	Parallel int
	// DryRun fetches manifests, image configs and the indexes of chart repositories, and asks for the sizes of all
	// else.
	DryRun bool
	// KeepGoing makes a collection of what can be had although other names cannot; they are its Absent, and stand in
	// its index.
	KeepGoing bool
	// RegistryOverrides are mirrors to ask instead of registries, each UPSTREAM=MIRROR, where both are a host or a host
	// and a path below it; the longest UPSTREAM wins. Names stay those of the upstream.
	RegistryOverrides []string
	// NoReferrers leaves out signatures, attestations, SBOMs and what else refers to an image, and the provenance of
	// charts.
	NoReferrers bool
	// Have says that a blob is on the far side already: it is not fetched, and marked Omitted. Nil: none is.
	Have func(digest string) bool
	// Since is the digest of the inventory that Have reads, for the index. It is required with Have.
	Since string
	// Other says what known thing has a digest ("kubelet arm64 1.35.4"), "" if none has. Nil: nothing is known.
	Other func(digest string) string
	// Progress is told what is fetched; nil: nobody is.
	Progress Progress
	// Log gets what is tried again; nil: nobody does.
	Log *slog.Logger
	// Transport sends requests, once each; nil is one with the environment's proxies and the system's roots.
	Transport http.RoundTripper
	// Now is the clock; nil is time.Now. Its day is what Taken.On says of what is new.
	Now func() time.Time

	stall time.Duration                                        // 0: the default
	wait  func(ctx context.Context, pause time.Duration) error // nil: sleeping
	clock func() time.Time                                     // of pauses; nil: time.Now
}

// Progress is told what a Collect does. Its methods are safe for concurrent use.
type Progress interface {
	// Resolved is called when it is known what a name is, or that it cannot be had; of are all names.
	Resolved(names, of int)
	// Plan is called once, when all names are known: how many layers and files there are to fetch, and how many bytes
	// as far as that is known. What was needed to know the names, image configs and chart indexes, has been fetched by
	// then.
	Plan(transfers int, bytes int64)
	// Start is called when something begins to be fetched: an image's layer, a file. total is its bytes, -1 if that is
	// not known yet.
	Start(name string, total int64) download.Transfer
}

// Collection is what was collected. Its Index has everything; the blobs are in the cache, which is its own until Close.
type Collection struct {
	// Index lists it. After a DryRun, files whose digest nobody knows have none and no blob, and those whose size
	// nobody knows have -1.
	Index *bundle.Index
	// Absent are the names that could not be had, with KeepGoing.
	Absent []Failure
	// Notes say what was left out or is remarkable, one sentence each.
	Notes []string
	// Fetched is how many bytes of blobs and files came over the network; after a DryRun, how many would.
	Fetched int64

	cache *cache.Cache
}

// Open opens a blob. The read of its last bytes fails with syscall.EBADMSG if the cache was damaged; the next Collect
// fetches it again.
func (c *Collection) Open(digest string) (io.ReadCloser, error) { return c.cache.Open(digest) }

// Close gives the cache to the next run.
func (c *Collection) Close() error { return c.cache.Close() }

// Error lists everything that could not be collected.
type Error struct {
	Names  int // that were asked for
	Failed []Failure
}

// Failure is one name that could not be collected.
type Failure struct {
	Name  string // as it was asked for
	Where string // FILE:LINE
	Err   error
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d names could not be collected; what came is kept, so that running again fetches only the rest:", len(e.Failed), e.Names)
	for _, f := range e.Failed {
		b.WriteString("\n  ")
		if f.Where != "" {
			b.WriteString(f.Where + ": ")
		}
		fmt.Fprintf(&b, "%s: %v", f.Name, f.Err)
	}
	return b.String()
}

// Unwrap returns the reasons.
func (e *Error) Unwrap() []error {
	errs := make([]error, len(e.Failed))
	for i, f := range e.Failed {
		errs[i] = f.Err
	}
	return errs
}

// collector is one call of Collect.
type collector struct {
	opt           Options
	platforms     []oci.Platform
	cache         *cache.Cache
	registries    *registries
	transport     http.RoundTripper
	retry         transport.Retry
	now           func() time.Time
	downloads     *download.Downloader
	chartLock     sync.Mutex                   // one index is read at a time
	charts        map[string]*lists.ChartIndex // by URL; guarded by chartLock
	neededIndexes map[string]bool              // by URL: it has a chart that was asked for, or was asked for itself; guarded by chartLock

	requests []request // by their numbers: images, files, charts

	mu          sync.Mutex // guards what follows
	notes       []string
	failed      map[int]Failure // by the name's number
	skipped     map[int]bool    // optional names that cannot be had, by number
	units       []*unit
	images      map[string]string      // digests by reference
	files       map[string]bundle.File // files by URL
	blobs       map[string]*wantedBlob
	statedSizes map[statedSize]string // what descriptors state, by the manifest that has them
	resolved    int
	cancel      context.CancelCauseFunc // of a run that cannot go on
}

// request is one name that lists ask for.
type request struct {
	name, where string
	optional    bool
}

// unit is what one name brings, or one thing that hangs on it: manifests, and the blobs that they need. It comes whole
// or not at all.
type unit struct {
	request    int    // the name's number
	attachedTo string // says what it is if it hangs on what was asked for: then it is left out if it cannot be had
	images     []bundle.Image
	blobs      map[string]int64 // size by digest, manifests too
	// elsewhere are the URLs of layers that the registry does not have, by digest.
	alternateURLs map[string]string
	dropped       bool // guarded by collector.mu
}

// wantedBlob is a blob of images.
type wantedBlob struct {
	size  int64
	from  []*repository // where it can be had
	urls  []string      // and where else
	units []*unit       // that need it
}

// Collect fetches what w lists into the cache. Everything is tried; when something cannot be had the error is a *CollectError
// that lists all of that, and there is no Collection, unless KeepGoing says otherwise and at least one name can be had.
// A disk that is full, or ctx, ends it at once.
func Collect(ctx context.Context, w *lists.Wanted, opt Options) (*Collection, error) {
	c, err := newCollector(opt)
	if err != nil {
		return nil, err
	}
	collection, err := c.collect(ctx, w)
	if err != nil {
		return nil, errors.Join(err, c.cache.Close())
	}
	return collection, nil
}

func newCollector(opt Options) (*collector, error) {
	c := &collector{opt: opt, failed: map[int]Failure{}, skipped: map[int]bool{}, images: map[string]string{}, files: map[string]bundle.File{}, charts: map[string]*lists.ChartIndex{}, neededIndexes: map[string]bool{}, blobs: map[string]*wantedBlob{}}
	if opt.Have != nil && digests.Check(opt.Since) != nil {
		return nil, fmt.Errorf("the inventory's digest must be known, got %q", opt.Since)
	}
	for _, s := range opt.Platforms {
		p, err := oci.ParsePlatform(s)
		if err != nil {
			return nil, err
		}
		c.platforms = append(c.platforms, p)
	}
	c.opt.Parallel = cmp.Or(max(0, opt.Parallel), 4)
	if opt.Progress == nil {
		c.opt.Progress = noProgress{}
	}
	if opt.Log == nil {
		c.opt.Log = slog.New(slog.DiscardHandler)
	}
	if c.now = opt.Now; c.now == nil {
		c.now = time.Now
	}
	c.retry = transport.Retry{Wait: opt.wait, Log: c.opt.Log}
	if opt.Transport == nil {
		c.opt.Transport = transport.New()
	}
	c.transport = &transport.Retrying{Inner: c.opt.Transport, Stall: opt.stall, Clock: opt.clock, Retry: c.retry}
	c.registries = &registries{inner: c.transport, repos: map[string]*repository{}}
	var err error
	if c.registries.overrides, err = parseOverrides(opt.RegistryOverrides); err != nil {
		return nil, err
	}
	if c.cache, err = cache.Open(opt.Cache); err != nil {
		return nil, err
	}
	c.downloads = &download.Downloader{Cache: c.cache, Progress: c.opt.Progress, Retry: c.retry}
	return c, nil
}

// collect does it in two passes: first it finds out what every name is, then it fetches each blob and file once.
func (c *collector) collect(ctx context.Context, w *lists.Wanted) (*Collection, error) {
	ctx, c.cancel = context.WithCancelCause(ctx)
	defer c.cancel(nil)
	if t, ok := c.opt.Transport.(*http.Transport); ok {
		defer t.CloseIdleConnections()
	}
	for _, i := range w.Images {
		c.requests = append(c.requests, request{i.Ref(), i.Where, i.Optional})
	}
	for _, f := range w.Files {
		c.requests = append(c.requests, request{f.URL, f.Where, f.Optional})
	}
	for _, ch := range w.Charts {
		c.requests = append(c.requests, request{ch.Label(), ch.Where, ch.Optional})
	}
	files := c.wantedFiles(w)
	var jobs []func()
	for i, image := range w.Images {
		jobs = append(jobs, func() { c.resolveImage(ctx, i, image) })
	}
	for i, chart := range w.Charts {
		n := len(w.Images) + len(w.Files) + i
		jobs = append(jobs, func() { c.resolveChart(ctx, n, chart, files) })
	}
	c.run(ctx, jobs)
	jobs = nil
	var plan int64
	for digest, b := range c.blobs {
		if c.cache.Has(digest, b.size) || c.isOnFarSide(digest) {
			continue
		}
		plan += b.size
		jobs = append(jobs, func() { c.blob(ctx, digest, b) })
	}
	if c.opt.DryRun {
		c.downloads.Fetched.Store(plan)
		jobs = nil
	}
	for _, f := range files.list {
		jobs = append(jobs, func() { c.wantedFile(ctx, f) })
	}
	c.opt.Progress.Plan(len(jobs), plan)
	c.run(ctx, jobs)
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	var failed []Failure
	for _, n := range slices.Sorted(maps.Keys(c.failed)) {
		failed = append(failed, c.failed[n])
	}
	if len(failed) > 0 && (!c.opt.KeepGoing || len(failed)+len(c.skipped) >= len(c.requests)) {
		return nil, &Error{Names: len(c.requests), Failed: failed}
	}
	c.noteWrongSizes()
	slices.Sort(c.notes)
	return &Collection{Index: c.index(failed), Absent: failed, Notes: slices.Compact(c.notes), Fetched: c.downloads.Fetched.Load(), cache: c.cache}, nil
}

// run does jobs, some at a time.
func (c *collector) run(ctx context.Context, jobs []func()) {
	next := make(chan func())
	var wg sync.WaitGroup
	for range min(c.opt.Parallel, len(jobs)) {
		wg.Go(func() {
			for job := range next {
				job()
			}
		})
	}
	for _, job := range jobs {
		if ctx.Err() != nil {
			break
		}
		next <- job
	}
	close(next)
	wg.Wait()
}

// note remembers a sentence for the operator.
func (c *collector) note(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notes = append(c.notes, fmt.Sprintf(format, args...))
}

// fail remembers that a name cannot be had. The first reason counts. What is optional is left out with a note, whatever
// the reason, unless it ends the run.
func (c *collector) fail(n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if isFatal(err) {
		c.cancel(err)
	}
	name := c.requests[n]
	if _, ok := c.failed[n]; ok || c.skipped[n] {
		return
	}
	if !name.optional {
		c.failed[n] = Failure{Name: name.name, Where: name.where, Err: err}
		return
	}
	c.skipped[n] = true
	c.notes = append(c.notes, fmt.Sprintf("%s is left out, it is optional: %v", name.name, err))
}

// dropUnit is fail for one share of a name. One that only hangs on it is left out with a note.
func (c *collector) dropUnit(s *unit, err error) {
	if s.attachedTo == "" || isFatal(err) {
		c.fail(s.request, err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.dropped {
		s.dropped = true
		c.notes = append(c.notes, fmt.Sprintf("%s is left out: %v", s.attachedTo, err))
	}
}

// isFatal says whether an error ends the run: everything else would fail of it too.
func isFatal(err error) bool {
	var local cache.DiskError
	return errors.As(err, &local)
}

func (c *collector) isOnFarSide(digest string) bool { return c.opt.Have != nil && c.opt.Have(digest) }

// noProgress is a Progress for nobody.
type noProgress struct{}

func (noProgress) Resolved(int, int)                     {}
func (noProgress) Plan(int, int64)                       {}
func (noProgress) Start(string, int64) download.Transfer { return noProgress{} }
func (noProgress) Total(int64)                           {}
func (noProgress) Add(int64)                             {}
func (noProgress) Done(error)                            {}

package collect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
	"casemate/bundle/collect/remote"
	"casemate/bundle/collect/transport"
	"casemate/bundle/digests"
	"casemate/bundle/lists"
	"casemate/bundle/oci"
)

// Options configure Collect. The zero value collects every platform, with signatures, into the user's cache.
type Options struct {
	// Platforms are the platforms that are fetched of an index, as "linux/arm64" or "linux/arm/v7"; without a variant
	// all variants are. The index itself does not change, so that its digest and its signature stay valid. None: every
	// platform, the safe default, at several times the size.
	Platforms []string
	// Cache is a directory; "": casemate below the user's cache directory. Only one run can use it at a time.
	Cache string
	// Parallel is the number of names and blobs that are fetched at once; 0 is 4.
	Parallel int
	// DryRun fetches manifests, image configs and the indexes of chart repositories, and requests the sizes of
	// everything else.
	DryRun bool
	// KeepGoing returns a collection of what could be fetched although other names failed; the failed names are its
	// Absent, and are listed in its index.
	KeepGoing bool
	// RegistryOverrides are mirrors that are used instead of registries, each UPSTREAM=MIRROR, where both are a host or
	// a host and a path; the longest matching UPSTREAM is used. Names stay those of the upstream.
	RegistryOverrides []string
	// NoReferrers leaves out signatures, attestations, SBOMs and everything else that refers to an image, and the
	// provenance of charts.
	NoReferrers bool
	// Have reports whether a blob is on the far side already: it is not fetched, and marked Omitted. Nil: no blob is.
	Have func(digest string) bool
	// Since is the digest of the inventory behind Have, for the index. It is required with Have.
	Since string
	// Other returns the known artifact that has a digest ("kubelet arm64 1.35.4"), or "". Nil: nothing is known.
	Other func(digest string) string
	// Progress is told what is fetched; nil: no progress is reported.
	Progress Progress
	// Log reports retries; nil: nothing is logged.
	Log *slog.Logger
	// Transport sends requests, once each; nil: one with the environment's proxies and the system's roots.
	Transport http.RoundTripper
	// Now is the clock; nil is time.Now. Its day is the Provenance.On of new content.
	Now func() time.Time

	stall time.Duration                                        // 0: the default
	wait  func(ctx context.Context, pause time.Duration) error // nil: sleep
	clock func() time.Time                                     // for pauses; nil: time.Now
}

// Progress is told what a Collect does. Its methods are safe for concurrent use.
type Progress interface {
	// Resolved is called when a name has been resolved or has failed; of is the number of all names.
	Resolved(names, of int)
	// Plan is called once, when all names are resolved: the number of layers and files to fetch, and their bytes as far
	// as known. Image configs and chart indexes, which are needed to resolve names, have been fetched by then.
	Plan(transfers int, bytes int64)
	// Start is called when the transfer of a layer or a file begins. total is its size, -1 if that is not known yet.
	Start(name string, total int64) download.Transfer
}

// Collection is the result of Collect. Its Index lists everything; the blobs are in the cache, which it holds until
// Close.
type Collection struct {
	// Index lists the collection. After a DryRun, files of unknown digest have no digest and no blob, and files of
	// unknown size have size -1.
	Index *bundle.Index
	// Absent are the names that failed, with KeepGoing.
	Absent []Failure
	// Notes say what was left out or is remarkable, one sentence each.
	Notes []string
	// Fetched is the number of bytes of blobs and files that came over the network; after a DryRun, that would come.
	Fetched int64

	cache *cache.Cache
}

// Open opens a blob. The read of its last bytes fails with syscall.EBADMSG if the cached blob is damaged; the next
// Collect fetches it again.
func (c *Collection) Open(digest string) (io.ReadCloser, error) { return c.cache.Open(digest) }

// Close releases the cache for the next run.
func (c *Collection) Close() error { return c.cache.Close() }

// Error lists everything that could not be collected.
type Error struct {
	Names  int // number of requested names
	Failed []Failure
}

// Failure is one name that could not be collected.
type Failure struct {
	Name  string // as it was requested
	Where string // FILE:LINE
	Err   error
}

func (e *Error) Error() string {
	var b strings.Builder
	names := "1 name"
	if e.Names != 1 {
		names = fmt.Sprintf("%d names", e.Names)
	}
	fmt.Fprintf(
		&b,
		"%d of %s could not be collected; what was fetched is kept, so that running again fetches only the rest:",
		len(e.Failed), names,
	)
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

// collector is the state of one Collect.
type collector struct {
	opt        Options
	platforms  []oci.Platform
	cache      *cache.Cache
	registries *remote.Registries
	// noReferrers are the hosts that answered 404 to a request for referrers: they do not have the API (OCI
	// distribution 1.1, "Listing referrers").
	noReferrers sync.Map
	transport   http.RoundTripper
	retry       transport.Retry
	now         func() time.Time
	downloads   *download.Downloader
	chartLock   sync.Mutex                   // one index is read at a time
	charts      map[string]*lists.ChartIndex // by URL; guarded by chartLock
	// by URL: it has a requested chart, or was requested itself; guarded by chartLock
	neededIndexes map[string]bool

	requests   []request // by number: images, files, charts, repositories, unavailable names
	redirects  []lists.Redirect
	unverified []lists.Unverified

	mu          sync.Mutex // guards the fields below
	notes       []string
	failed      map[int]Failure // by number of the name
	skipped     map[int]bool    // optional names that failed, by number
	units       []*unit
	images      map[string]string      // digests by reference
	files       map[string]bundle.File // files by URL
	blobs       map[string]*wantedBlob
	statedSizes map[statedSize]string // sizes that descriptors state, with the manifest that states them
	resolved    int
	cancel      context.CancelCauseFunc // ends a run that cannot continue
}

// request is one name in the lists.
type request struct {
	name, where string
	optional    bool
}

// unit is what one name needs, or one thing that is attached to it: manifests and their blobs. It is collected
// completely or not at all.
type unit struct {
	request    int    // number of the name
	attachedTo string // describes it if it is attached to a requested name: then it is left out if it cannot be fetched
	images     []bundle.Image
	blobs      map[string]int64 // size by digest, manifests too
	// alternateURLs are the URLs of layers that the registry does not have, by digest.
	alternateURLs map[string]string
	dropped       bool // guarded by collector.mu
}

// wantedBlob is a blob of images.
type wantedBlob struct {
	size  int64
	from  []*remote.Repository // repositories that have it
	urls  []string             // other places that have it
	units []*unit              // units that need it
}

// Collect fetches what w lists into the cache. It tries everything; if names failed, the error is an *Error that lists
// all of them, and there is no Collection, unless KeepGoing is set and at least one name succeeded. A full disk, or the
// end of ctx, ends it at once.
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
	c := &collector{
		opt:           opt,
		failed:        map[int]Failure{},
		skipped:       map[int]bool{},
		images:        map[string]string{},
		files:         map[string]bundle.File{},
		charts:        map[string]*lists.ChartIndex{},
		neededIndexes: map[string]bool{},
		blobs:         map[string]*wantedBlob{},
	}
	if opt.Have != nil && digests.Check(opt.Since) != nil {
		return nil, fmt.Errorf("the digest of the inventory must be known, got %q", opt.Since)
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
	if c.now = opt.Now; c.now == nil {
		c.now = time.Now
	}
	c.connect()
	overrides, err := parseOverrides(opt.RegistryOverrides)
	if err != nil {
		return nil, err
	}
	c.registries = &remote.Registries{
		Transport: c.transport, Retry: c.retry,
		At: func(canonical string) string { return mirrorOf(overrides, canonical) },
	}
	if c.cache, err = cache.Open(opt.Cache); err != nil {
		return nil, err
	}
	c.downloads = &download.Downloader{Cache: c.cache, Progress: c.opt.Progress, Retry: c.retry}
	return c, nil
}

// connect sets what sends requests.
func (c *collector) connect() {
	if c.opt.Log == nil {
		c.opt.Log = slog.New(slog.DiscardHandler)
	}
	c.retry = transport.Retry{Wait: c.opt.wait, Log: c.opt.Log}
	if c.opt.Transport == nil {
		c.opt.Transport = transport.New()
	}
	c.transport = &transport.Retrying{Inner: c.opt.Transport, Stall: c.opt.stall, Clock: c.opt.clock, Retry: c.retry}
}

// Document fetches a small document, of at most limit bytes, and returns it with the URL at which redirects ended. It
// is not kept. Of the options Transport and Log count. fs.ErrNotExist: the server does not have it.
func Document(ctx context.Context, url string, limit int64, opt Options) (content []byte, end string, err error) {
	c := &collector{opt: opt}
	c.connect()
	if t, ok := c.opt.Transport.(*http.Transport); ok {
		defer t.CloseIdleConnections()
	}
	err = c.retry.DoBody(ctx, func() error {
		content, end, err = c.textOnce(ctx, url, limit+1)
		return err
	})
	switch {
	case transport.HasStatus(err, http.StatusNotFound, http.StatusGone):
		return nil, "", is{err, fs.ErrNotExist}
	case err == nil && int64(len(content)) > limit:
		return nil, "", fmt.Errorf("more than %d bytes", limit)
	}
	return content, end, err
}

// collect works in two passes: the first resolves every name, the second fetches each blob and file once.
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
	for _, r := range w.Git {
		c.requests = append(c.requests, request{r.URL, r.Where, false})
	}
	for _, u := range w.Unavailable {
		c.requests = append(c.requests, request{u.Name, u.Where, false})
		c.fail(len(c.requests)-1, u.Err)
	}
	c.redirects, c.unverified = w.Redirects, w.Unverified
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
	for i, r := range w.Git {
		n := len(w.Images) + len(w.Files) + len(w.Charts) + i
		jobs = append(jobs, func() { c.repository(ctx, n, r) })
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
	return &Collection{
		Index:   c.index(failed),
		Absent:  failed,
		Notes:   slices.Compact(c.notes),
		Fetched: c.downloads.Fetched.Load(),
		cache:   c.cache,
	}, nil
}

// run executes jobs, Parallel at a time.
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

// note adds a sentence for the operator.
func (c *collector) note(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notes = append(c.notes, fmt.Sprintf(format, args...))
}

// fail records that a name failed. The first reason counts. An optional name is left out with a note, whatever the
// reason, unless the error ends the run.
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
	c.notes = append(c.notes, fmt.Sprintf("%s is left out because it is optional: %v", name.name, err))
}

// dropUnit is fail for one unit. A unit that is only attached to a name is left out with a note.
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

// isFatal reports whether an error ends the run because everything else would fail too.
func isFatal(err error) bool {
	var local cache.DiskError
	return errors.As(err, &local)
}

func (c *collector) isOnFarSide(digest string) bool { return c.opt.Have != nil && c.opt.Have(digest) }

// noProgress ignores all progress.
type noProgress struct{}

func (noProgress) Resolved(int, int)                     {}
func (noProgress) Plan(int, int64)                       {}
func (noProgress) Start(string, int64) download.Transfer { return noProgress{} }
func (noProgress) Total(int64)                           {}
func (noProgress) Add(int64)                             {}
func (noProgress) Done(error)                            {}

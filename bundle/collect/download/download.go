package download

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"casemate/bundle/collect/cache"
	"casemate/bundle/collect/diagnose"
	"casemate/bundle/collect/transport"
	"casemate/bundle/digests"
)

// Request is one piece of content to be fetched into the cache.
type Request struct {
	Client *http.Client
	URL    string
	// Name identifies it in progress and messages.
	Name string
	// Digest is the digest that the bytes must have; "" if it is not known.
	Digest string
	// Size is the number of bytes, -1 if it is not known.
	Size int64
	// Blob says that it is a registry's blob, which is cached by its digest whatever the algorithm is. Files are cached
	// by their sha256.
	Blob bool
	// Header is sent with a request for the whole content; nil: nothing more is.
	Header http.Header
	// Diagnose, if it is not nil, adds details to the error for content that does not have the digest.
	Diagnose func(m *diagnose.Mismatch, content *os.File)
}

// Downloader fetches content into the cache. Its methods are safe for concurrent use.
type Downloader struct {
	Cache    *cache.Cache
	Progress Progress
	Retry    transport.Retry
	Fetched  atomic.Int64 // bytes that came over the network
	parts    keyedMutex   // by the key of the part
}

// Progress is told when a transfer begins.
type Progress interface {
	Start(name string, total int64) Transfer
}

// Result is what was fetched.
type Result struct {
	Digest       string // its digest in the cache
	SHA512       string // if the requested digest is one
	Size         int64
	From         string // the URL that answered, after redirects
	ETag         string
	LastModified string // Last-Modified
}

// partState is what must be known of a part in order to resume it.
type partState struct {
	URL          string `json:"url"`
	ETag         string `json:"etag,omitempty"`
	LastModified string `json:"last_modified,omitempty"`
	Size         int64  `json:"size"` // of the complete content, -1 if the server did not say
}

// validator returns what a server compares so that a range of newer content is not taken for one of the same: a strong
// ETag, or the modification time (RFC 9110, 13.1.5). "" if there is none.
func (s partState) validator() string {
	if s.ETag != "" && !strings.HasPrefix(s.ETag, "W/") {
		return s.ETag
	}
	return s.LastModified
}

// Fetch fetches d into the cache. It resumes broken bodies with Range requests as long as each brings some KiB, and
// restarts if the content changed meanwhile. Memory does not grow with the size.
func (c *Downloader) Fetch(ctx context.Context, d Request) (got Result, err error) {
	key := cmp.Or(d.Digest, d.URL)
	defer c.parts.lock(key)()
	if n, ok := c.Cache.Stat(d.Digest); ok && (d.Size < 0 || n == d.Size) &&
		(d.Blob || strings.HasPrefix(d.Digest, "sha256:")) {
		return Result{Digest: d.Digest, Size: n}, nil // another worker fetched it meanwhile
	}
	f, err := c.Cache.Part(key)
	if err != nil {
		return got, err
	}
	defer func() {
		if fi, serr := f.Stat(); err != nil && serr == nil && fi.Size() == 0 {
			c.Cache.Discard(f)
		}
		f.Close()
	}()
	t := c.Progress.Start(d.Name, d.Size)
	defer func() { t.Done(err) }()
	g := newGetter(d, c.Retry, &part{f: f, t: t, fetched: &c.Fetched})
	if err := g.resume(f); err != nil {
		return got, err
	}
	if err := g.fetchVerified(ctx); err != nil {
		var m *diagnose.Mismatch
		if errors.As(err, &m) {
			if d.Diagnose != nil {
				d.Diagnose(m, f)
			}
			c.Cache.Discard(f)
		}
		return got, err
	}
	return g.got, c.Cache.Commit(f, g.got.Digest)
}

// Stream fetches d into sink, and returns once the content is complete and right. It resumes broken bodies as Fetch
// does. If the first answer is no success, it returns that at once; whether to repeat it is up to d.Client.
func Stream(ctx context.Context, d Request, retry transport.Retry, sink Sink) (Result, error) {
	g := newGetter(d, retry, sink)
	if s, ok := sink.(Summer); ok {
		g.sha256, g.summer = nil, s
	}
	g.live = true
	g.length, g.state = -1, partState{URL: d.URL, Size: -1}
	if err := g.fetchVerified(ctx); err != nil {
		return Result{}, err
	}
	return g.got, nil
}

// Sink takes the bytes of a download, in order.
type Sink interface {
	io.Writer
	// Begin is called before the bytes of each answer. url is where redirects ended, total the number of bytes of the
	// complete content, -1 if it is not known.
	Begin(url string, total int64) error
	// Restart discards all bytes: the content begins again.
	Restart() error
}

// Summer is a Sink that hashes what it gets, so that large content is not hashed twice.
type Summer interface {
	// Sum is the sha256 digest of the bytes since the last Restart.
	Sum() (digest string, err error)
}

// getter is a download in progress.
type getter struct {
	d         Request
	retry     transport.Retry
	sink      Sink
	live      bool      // somebody waits for the first answer, see Stream
	summer    Summer    // hashes instead of sha256; nil: it does not
	sha256    hash.Hash // nil if summer hashes
	sha512    hash.Hash // nil if it is not needed
	offset    int64     // bytes in the sink and in the sums
	mostBytes int64     // the highest offset so far: repeating bytes after a restart is no progress
	state     partState
	from      string
	length    int64 // of the complete content as the server said, -1
	end       int64 // of the body that is being read, as the server said: an offset, -1
	resumed   bool  // the content consists of more than one body
	got       Result
}

func newGetter(d Request, retry transport.Retry, sink Sink) *getter {
	g := &getter{d: d, retry: retry, sink: sink, sha256: sha256.New()}
	if strings.HasPrefix(d.Digest, "sha512:") {
		g.sha512 = sha512.New()
	}
	if p, ok := sink.(*part); ok {
		p.g = g
	}
	return g
}

// part is the sink of a download into the cache.
type part struct {
	g       *getter
	f       *os.File
	t       Transfer
	fetched *atomic.Int64
}

// Begin records what must be known in order to resume.
func (p *part) Begin(_ string, total int64) error {
	b, err := json.Marshal(p.g.state)
	if err != nil {
		return err
	}
	if err := os.WriteFile(p.f.Name()+".json", b, 0o644); err != nil {
		return cache.DiskError{Err: err}
	}
	p.t.Total(total)
	return nil
}

func (p *part) Write(b []byte) (int, error) {
	n, err := p.f.Write(b)
	p.fetched.Add(int64(n))
	p.t.Add(int64(n))
	if err != nil {
		err = cache.DiskError{Err: err}
	}
	return n, err
}

func (p *part) Restart() error {
	if err := p.f.Truncate(0); err != nil {
		return cache.DiskError{Err: err}
	}
	if _, err := p.f.Seek(0, io.SeekStart); err != nil {
		return cache.DiskError{Err: err}
	}
	p.t.Add(-p.g.offset)
	return nil
}

// resume continues with a part of an earlier run, if possible.
func (g *getter) resume(f *os.File) error {
	fi, err := f.Stat()
	if err != nil {
		return cache.DiskError{Err: err}
	}
	g.length = -1
	g.state = partState{URL: g.d.URL, Size: -1}
	var s partState
	known := cache.ReadRecord(f.Name()+".json", &s)
	if fi.Size() == 0 || !known ||
		g.d.Digest == "" && (s.URL != g.d.URL || s.validator() == "" || fi.Size() == s.Size) ||
		g.d.Size >= 0 && fi.Size() > g.d.Size {
		return g.restart()
	}
	if s.URL != g.d.URL { // the same content at another URL: the validators are of the old one
		s = partState{URL: g.d.URL, Size: s.Size}
	}
	n, err := io.Copy(io.MultiWriter(g.sums()...), f)
	if err != nil {
		return cache.DiskError{Err: err}
	}
	g.offset, g.mostBytes, g.state, g.resumed = n, n, s, true
	g.length = s.Size
	g.sink.(*part).t.Add(n)
	return nil
}

// sums returns what hashes the bytes here.
func (g *getter) sums() (list []io.Writer) {
	for _, h := range []hash.Hash{g.sha256, g.sha512} {
		if h != nil {
			list = append(list, h)
		}
	}
	return list
}

// restart discards what was fetched so far.
func (g *getter) restart() error {
	if err := g.sink.Restart(); err != nil {
		return err
	}
	g.offset, g.length = 0, -1
	g.state = partState{URL: g.d.URL, Size: -1}
	for _, h := range []hash.Hash{g.sha256, g.sha512} {
		if h != nil {
			h.Reset()
		}
	}
	return nil
}

// maxWrongBodies is the maximum number of attempts for content that is wrong in a different way each time.
const maxWrongBodies = 3

// fetchVerified fetches until the content is right. Wrong content is fetched once more: it may have been damaged in
// transit, or consist of parts of two versions. If it is wrong in the same way twice, that is what the server has.
func (g *getter) fetchVerified(ctx context.Context) error {
	var last transport.RepeatedError
	failures := 0
	err := g.retry.Do(ctx, func() error {
		if failures > 0 {
			if err := g.restart(); err != nil {
				return err
			}
			g.mostBytes, g.resumed = 0, false
		}
		if err := g.fetchAll(ctx); err != nil {
			return err
		}
		return g.verify()
	}, func(err error) (int, bool) {
		var wrong transport.WrongError
		failures++
		if !errors.As(err, &wrong) || failures == maxWrongBodies {
			return 0, false
		}
		return failures, g.resumed || !last.Seen(err)
	}, "name", g.d.Name)
	var wrong transport.WrongError
	if errors.As(err, &wrong) {
		return wrong.Err
	}
	return err
}

// fetchAll fetches until the content is complete. It gives up after several attempts without progress.
func (g *getter) fetchAll(ctx context.Context) error {
	failures := 0
	return g.retry.Do(ctx, func() error { return g.request(ctx) }, func(err error) (int, bool) {
		var (
			broken transport.BrokenError
			local  cache.DiskError
		)
		if errors.As(err, &local) || !errors.As(err, &broken) {
			return 0, false
		}
		failures++
		if more := g.offset - g.mostBytes; more > 0 {
			g.mostBytes = g.offset
			if more >= transport.Slowest { // a byte with each answer would take years
				failures = 0
			}
		}
		return failures, failures < transport.MaxAttempts
	}, "name", g.d.Name)
}

// total returns the final number of bytes, -1 if it is not known.
func (g *getter) total() int64 {
	if g.d.Size >= 0 {
		return g.d.Size
	}
	return g.length
}

// request sends one request and appends its body.
func (g *getter) request(ctx context.Context) error {
	if g.offset > 0 && g.offset == g.total() {
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.d.URL, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept-Encoding", "identity")
	if g.offset > 0 {
		span := fmt.Sprintf("bytes=%d-", g.offset)
		if total := g.total(); total > 0 { // some servers accept only ranges with an end
			span += strconv.FormatInt(total-1, 10)
		}
		req.Header.Set("Range", span)
		if v := g.state.validator(); v != "" {
			req.Header.Set("If-Range", v)
		}
	}
	if g.offset == 0 {
		maps.Copy(req.Header, g.d.Header)
	}
	resp, err := g.d.Client.Do(req)
	if err != nil && g.live && g.offset > 0 {
		return transport.BrokenError{Err: transport.WithoutURL(err)}
	}
	if err != nil {
		return transport.WithoutURL(err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		if g.offset > 0 { // the server does not support ranges, or the content has changed
			if err := g.restart(); err != nil {
				return err
			}
		}
		if err := g.checkEncoding(resp); err != nil {
			return err
		}
		g.length, g.end = resp.ContentLength, resp.ContentLength
		g.state.ETag, g.state.LastModified = resp.Header.Get("ETag"), resp.Header.Get("Last-Modified")
	case http.StatusPartialContent:
		from, end, whole, ok := contentRange(resp.Header.Get("Content-Range"))
		etag := resp.Header.Get("ETag")
		switch {
		case !ok || g.offset == 0 || from != g.offset:
			err = fmt.Errorf(
				"the server sent another range than requested (Content-Range %.100q)",
				resp.Header.Get("Content-Range"),
			)
		case whole >= 0 && g.total() >= 0 && whole != g.total(),
			g.state.ETag != "" && etag != "" && etag != g.state.ETag:
			err = errors.New("it changed on the server while it was fetched")
		}
		if err != nil {
			return errors.Join(transport.BrokenError{Err: err}, g.restart())
		}
		g.length, g.end = max(g.length, whole), end
		g.resumed = true
	case http.StatusRequestedRangeNotSatisfiable:
		if g.offset == 0 {
			return transport.ResponseError(resp)
		}
		return errors.Join(
			transport.BrokenError{
				Err: fmt.Errorf("truncated: the server has no more than the %d bytes that were received", g.offset),
			},
			g.restart(),
		)
	default:
		return transport.ResponseError(resp)
	}
	if g.d.Size >= 0 && g.length >= 0 && g.length != g.d.Size {
		other := fmt.Errorf("the server has %d bytes of it, but it must have %d", g.length, g.d.Size)
		return errors.Join(transport.WrongError{Err: SizeError{other, g.length}}, g.restart())
	}
	return g.appendBody(resp)
}

// checkEncoding refuses a body that the server compressed although it was asked not to, unless a digest can confirm the
// bytes: the stored bytes would not be those on the server. Some servers announce an encoding for an archive that is
// merely sent as it is.
func (g *getter) checkEncoding(resp *http.Response) error {
	how := resp.Header.Get("Content-Encoding")
	if how == "" || how == "identity" || g.d.Digest != "" {
		return nil
	}
	for _, ext := range []string{".gz", ".tgz", ".bz2", ".xz", ".zst", ".br"} {
		if strings.HasSuffix(resp.Request.URL.Path, ext) {
			return nil
		}
	}
	return fmt.Errorf(
		"the server compresses it (Content-Encoding %.40q) although it was asked not to; give its checksum with "+
			"--checksums to accept it",
		how,
	)
}

// appendBody appends a body to the sink.
func (g *getter) appendBody(resp *http.Response) error {
	g.from = resp.Request.URL.String()
	g.state.Size = g.total()
	if err := g.sink.Begin(g.from, g.total()); err != nil {
		return err
	}
	body := io.Reader(resp.Body)
	most := g.d.Size
	if most < 0 {
		most = g.end
	}
	if most >= 0 {
		body = io.LimitReader(body, most-g.offset)
	}
	w := &sinkWriter{g: g, w: io.MultiWriter(append([]io.Writer{g.sink}, g.sums()...)...)}
	_, err := io.CopyBuffer(w, body, make([]byte, 256<<10))
	more := 0
	if w.err == nil && err == nil && most >= 0 { // one byte more is enough to see that the content is wrong
		more, _ = io.ReadFull(resp.Body, make([]byte, 1))
	}
	switch {
	case w.err != nil:
		return w.err
	case err != nil:
		if want := g.total(); errors.Is(err, io.ErrUnexpectedEOF) && want >= 0 {
			err = fmt.Errorf("truncated: received %d of %d bytes: %w", g.offset, want, err)
		}
		return transport.BrokenError{Err: err}
	case g.d.Size >= 0 && more > 0:
		return errors.Join(
			transport.WrongError{
				Err: fmt.Errorf("the server sends more than the %d bytes that it must have", g.d.Size),
			},
			g.restart(),
		)
	case more > 0:
		return errors.Join(
			transport.WrongError{Err: errors.New("the server sends more than it has announced")},
			g.restart(),
		)
	case g.total() >= 0 && g.offset < g.total():
		return transport.BrokenError{Err: fmt.Errorf("truncated: received %d of %d bytes", g.offset, g.total())}
	}
	return nil
}

// sinkWriter counts bytes, and distinguishes errors of the sink from errors of the network.
type sinkWriter struct {
	g   *getter
	w   io.Writer
	err error
}

func (w *sinkWriter) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	w.g.offset += int64(n)
	w.err = err
	return n, err
}

// verify compares the sums with the required digest, and keeps the result.
func (g *getter) verify() (err error) {
	got := Result{Size: g.offset, From: g.from, ETag: g.state.ETag, LastModified: g.state.LastModified}
	if g.summer == nil {
		got.Digest = digests.Encode("sha256:", g.sha256)
	} else if got.Digest, err = g.summer.Sum(); err != nil {
		return err
	}
	if g.sha512 != nil {
		got.SHA512 = digests.Encode("sha512:", g.sha512)
		if g.d.Blob {
			got.Digest = got.SHA512
		}
	}
	g.got = got
	if g.d.Digest == "" || g.d.Digest == got.Digest || g.d.Digest == got.SHA512 {
		return nil
	}
	return transport.WrongError{Err: &diagnose.Mismatch{
		Want:  g.d.Digest,
		Got:   cmp.Or(got.SHA512, got.Digest),
		Size:  g.offset,
		Looks: diagnose.Changed,
	}}
}

// contentRange parses "bytes FROM-TO/WHOLE" (RFC 9110, 14.4); end is the offset behind the range, whole is -1 for "*".
func contentRange(h string) (from, end, whole int64, ok bool) {
	h, ok = strings.CutPrefix(strings.TrimSpace(h), "bytes ")
	span, all, ok2 := strings.Cut(h, "/")
	first, last, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, 0, false
	}
	from, err := strconv.ParseInt(first, 10, 64)
	to, err2 := strconv.ParseInt(last, 10, 64)
	whole = -1
	var err3 error
	if all != "*" {
		whole, err3 = strconv.ParseInt(all, 10, 64)
	}
	if err != nil || err2 != nil || err3 != nil || from < 0 || to < from || to == math.MaxInt64 ||
		all != "*" && whole <= to {
		return 0, 0, 0, false
	}
	return from, to + 1, whole, true
}

// SizeError is the error for content that has another size on the server than it must have.
type SizeError struct {
	error
	Has int64
}

// Transfer is one download.
type Transfer interface {
	// Total says how many bytes there will be, -1 if it is not known.
	Total(n int64)
	// Add says that n more bytes were received. It is negative when a transfer restarts.
	Add(n int64)
	// Done ends it; err is nil if it is complete and right.
	Done(err error)
}

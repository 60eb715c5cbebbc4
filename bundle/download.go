package bundle

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
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// download is one piece of content to be brought into the cache.
type download struct {
	client *http.Client
	url    string
	// name says what it is in progress and messages.
	name string
	// digest is what the bytes must have; "" if nobody knows.
	digest string
	// size is how many bytes there must be, -1 if nobody knows.
	size int64
	// blob says that it is a registry's, which is known by digest whatever its algorithm is. Files are known by their
	// sha256.
	blob bool
	// judge, if there is one, says more about content that does not have the digest.
	judge func(m *Mismatch, content *os.File)
}

// downloader brings content into the cache. Its methods are safe for concurrent use.
type downloader struct {
	cache    *cache
	progress starter
	log      *slog.Logger
	wait     func(ctx context.Context, pause time.Duration) error
	fetched  atomic.Int64 // bytes that came over the network
	parts    keyedMutex   // by what a part is of
}

// starter is told when a transfer begins.
type starter interface {
	Start(name string, total int64) Transfer
}

// downloaded is what came.
type downloaded struct {
	digest string // under which it is in the cache
	sha512 string // if the digest asked for is one
	size   int64
	from   string // the URL that answered in the end
	etag   string
	since  string // Last-Modified
}

// partState is what must be known of a part in order to go on with it.
type partState struct {
	URL          string `json:"url"`
	ETag         string `json:"etag,omitempty"`
	LastModified string `json:"last_modified,omitempty"`
	Size         int64  `json:"size"` // of the whole, -1 if it was not said
}

// validator is what a server compares so that a range of something newer is not taken for one of the same: a strong
// ETag, or the time of change (RFC 9110, 13.1.5). "" if there is none.
func (s partState) validator() string {
	if s.ETag != "" && !strings.HasPrefix(s.ETag, "W/") {
		return s.ETag
	}
	return s.LastModified
}

// fetch brings d into the cache and returns what came. Broken bodies are gone on with by Range for as long as that
// brings something; content that changed meanwhile is begun anew. Memory does not grow with the size.
func (c *downloader) fetch(ctx context.Context, d download) (got downloaded, err error) {
	key := cmp.Or(d.digest, d.url)
	defer c.parts.lock(key)()
	if n, ok := c.cache.stat(d.digest); ok && (d.size < 0 || n == d.size) && (d.blob || strings.HasPrefix(d.digest, "sha256:")) {
		return downloaded{digest: d.digest, size: n}, nil // somebody else fetched it meanwhile
	}
	f, err := c.cache.part(key)
	if err != nil {
		return got, err
	}
	defer func() {
		if fi, serr := f.Stat(); err != nil && serr == nil && fi.Size() == 0 {
			c.cache.drop(f)
		}
		f.Close()
	}()
	t := c.progress.Start(d.name, d.size)
	defer func() { t.Done(err) }()
	g := &getter{d: d, c: c, f: f, t: t, sha256: sha256.New()}
	if strings.HasPrefix(d.digest, "sha512:") {
		g.sha512 = sha512.New()
	}
	if err := g.rewind(); err != nil {
		return got, err
	}
	if err := g.right(ctx); err != nil {
		var m *Mismatch
		if errors.As(err, &m) {
			if d.judge != nil {
				d.judge(m, f)
			}
			c.cache.drop(f)
		}
		return got, err
	}
	got = g.result()
	return got, c.cache.keep(f, got.digest)
}

// getter is a download on its way.
type getter struct {
	d      download
	c      *downloader
	f      *os.File
	t      Transfer
	sha256 hash.Hash
	sha512 hash.Hash // nil if it is not asked for
	at     int64     // bytes that are in the part and in the sums
	best   int64     // the most that there were: begun anew is no progress
	state  partState
	from   string
	length int64 // the whole's size as the server said, -1
	pieced bool  // it came in more than one piece
}

// rewind goes on with a part of an earlier run, if there is one that can be gone on with.
func (g *getter) rewind() error {
	fi, err := g.f.Stat()
	if err != nil {
		return localError{err}
	}
	g.length = -1
	g.state = partState{URL: g.d.url, Size: -1}
	var s partState
	known := readRecord(g.f.Name()+".json", &s)
	if fi.Size() == 0 || !known || g.d.digest == "" && (s.URL != g.d.url || s.validator() == "" || fi.Size() == s.Size) || g.d.size >= 0 && fi.Size() > g.d.size {
		return g.begin()
	}
	if s.URL != g.d.url { // the same content elsewhere: validators are of the other place
		s = partState{URL: g.d.url, Size: s.Size}
	}
	n, err := io.Copy(g.sums(), g.f)
	if err != nil {
		return localError{err}
	}
	g.at, g.best, g.state, g.pieced = n, n, s, true
	g.length = s.Size
	g.t.Add(n)
	return nil
}

func (g *getter) sums() io.Writer {
	if g.sha512 != nil {
		return io.MultiWriter(g.sha256, g.sha512)
	}
	return g.sha256
}

// begin throws away what came so far.
func (g *getter) begin() error {
	if err := g.f.Truncate(0); err != nil {
		return localError{err}
	}
	if _, err := g.f.Seek(0, io.SeekStart); err != nil {
		return localError{err}
	}
	g.t.Add(-g.at)
	g.at, g.length = 0, -1
	g.state = partState{URL: g.d.url, Size: -1}
	g.sha256.Reset()
	if g.sha512 != nil {
		g.sha512.Reset()
	}
	return nil
}

// mostWrong is how often content that is wrong in other ways each time is fetched.
const mostWrong = 3

// right fetches until what is here is right. What is wrong is fetched once more: it may have been damaged on the way,
// or pieces of two contents were put together. The same twice is what the server has.
func (g *getter) right(ctx context.Context) error {
	last := ""
	for try := 1; ; try++ {
		err := g.run(ctx)
		if err == nil {
			m := g.check()
			if m == nil {
				return nil
			}
			err = wrongBody{m}
		}
		var wrong wrongBody
		if !errors.As(err, &wrong) || ctx.Err() != nil {
			return err
		}
		if try == mostWrong || !g.pieced && err.Error() == last {
			return wrong.err
		}
		if !g.pieced {
			last = err.Error()
		}
		pause := backoff(max(1, try))
		g.c.log.Warn("trying again", "with", g.d.name, "in", pause.Round(100*time.Millisecond), "error", err)
		if err := g.c.wait(ctx, pause); err != nil {
			return err
		}
		if err := g.begin(); err != nil {
			return err
		}
		g.best, g.pieced = 0, false
	}
}

// run fetches until everything is here. It gives up after some tries that brought nothing new.
func (g *getter) run(ctx context.Context) error {
	for try := 1; ; {
		err := g.once(ctx)
		if err == nil {
			return nil
		}
		var (
			broken brokenBody
			local  localError
		)
		if ctx.Err() != nil || errors.As(err, &local) || !errors.As(err, &broken) {
			return err
		}
		if g.at > g.best {
			g.best, try = g.at, 0
		}
		if try++; try > tries {
			return err
		}
		pause := backoff(max(1, try-1))
		g.c.log.Warn("going on", "with", g.d.name, "at", g.at, "in", pause.Round(100*time.Millisecond), "error", err)
		if err := g.c.wait(ctx, pause); err != nil {
			return err
		}
	}
}

// brokenBody is a body that ended early or wrongly; the next try may bring the rest.
type brokenBody struct{ err error }

func (e brokenBody) Error() string { return e.err.Error() }
func (e brokenBody) Unwrap() error { return e.err }

// wrongBody is a body that is whole and not what was asked for: damaged on the way, or wrong on the server.
type wrongBody struct{ err error }

func (e wrongBody) Error() string { return e.err.Error() }
func (e wrongBody) Unwrap() error { return e.err }

// total is how many bytes there must be in the end, -1 if that is not known.
func (g *getter) total() int64 {
	if g.d.size >= 0 {
		return g.d.size
	}
	return g.length
}

// once sends one request and takes what its answer brings.
func (g *getter) once(ctx context.Context) error {
	if g.at > 0 && g.at == g.total() {
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.d.url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept-Encoding", "identity")
	if g.at > 0 {
		span := fmt.Sprintf("bytes=%d-", g.at)
		if total := g.total(); total > 0 { // some servers know only ranges with an end
			span += strconv.FormatInt(total-1, 10)
		}
		req.Header.Set("Range", span)
		if v := g.state.validator(); v != "" {
			req.Header.Set("If-Range", v)
		}
	}
	resp, err := g.d.client.Do(req)
	if err != nil {
		return withoutURL(err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		if g.at > 0 { // the server knows no ranges, or the content is another one now
			if err := g.begin(); err != nil {
				return err
			}
		}
		if err := g.encoded(resp); err != nil {
			return err
		}
		g.length = resp.ContentLength
		g.state.ETag, g.state.LastModified = resp.Header.Get("ETag"), resp.Header.Get("Last-Modified")
	case http.StatusPartialContent:
		from, whole, ok := contentRange(resp.Header.Get("Content-Range"))
		etag := resp.Header.Get("ETag")
		switch {
		case !ok || g.at == 0 || from != g.at:
			err = fmt.Errorf("the server sent another range than it was asked for (Content-Range %.100q)", resp.Header.Get("Content-Range"))
		case whole >= 0 && g.total() >= 0 && whole != g.total(), g.state.ETag != "" && etag != "" && etag != g.state.ETag:
			err = errors.New("it changed on the server while it was fetched")
		}
		if err != nil {
			return errors.Join(brokenBody{err}, g.begin())
		}
		g.length = max(g.length, whole)
		g.pieced = true
	case http.StatusRequestedRangeNotSatisfiable:
		if g.at == 0 {
			return failed(resp)
		}
		return errors.Join(brokenBody{fmt.Errorf("truncated: the server has no more than the %d bytes that came", g.at)}, g.begin())
	default:
		return failed(resp)
	}
	if g.d.size >= 0 && g.length >= 0 && g.length != g.d.size {
		other := fmt.Errorf("the server has %d bytes of it, but it must have %d", g.length, g.d.size)
		return errors.Join(wrongBody{otherSize{other, g.length}}, g.begin())
	}
	return g.take(resp)
}

// encoded refuses what a server compressed although it was asked not to, unless a digest says that these are the right
// bytes: what lies there would not be what is kept. Some servers say it of an archive that is no more compressed than
// it always is.
func (g *getter) encoded(resp *http.Response) error {
	how := resp.Header.Get("Content-Encoding")
	if how == "" || how == "identity" || g.d.digest != "" {
		return nil
	}
	for _, ext := range []string{".gz", ".tgz", ".bz2", ".xz", ".zst", ".br"} {
		if strings.HasSuffix(resp.Request.URL.Path, ext) {
			return nil
		}
	}
	return fmt.Errorf("the server compresses it (Content-Encoding %.40q) although it was asked not to; name its checksum with --checksums to take it so", how)
}

// take appends a body to the part.
func (g *getter) take(resp *http.Response) error {
	g.from = resp.Request.URL.String()
	g.state.Size = g.total()
	if b, err := json.Marshal(g.state); err != nil {
		return err
	} else if err := os.WriteFile(g.f.Name()+".json", b, 0o644); err != nil {
		return localError{err}
	}
	g.t.Total(g.total())
	body := io.Reader(resp.Body)
	if g.d.size >= 0 { // one byte more than it may have is enough to know that it is wrong
		body = io.LimitReader(body, g.d.size-g.at+1)
	}
	w := &partWriter{g: g, w: io.MultiWriter(g.f, g.sums())}
	_, err := io.CopyBuffer(w, body, make([]byte, 256<<10))
	switch {
	case w.err != nil:
		return localError{w.err}
	case err != nil:
		if want := g.total(); errors.Is(err, io.ErrUnexpectedEOF) && want >= 0 {
			err = fmt.Errorf("truncated: %d of %d bytes came: %w", g.at, want, err)
		}
		return brokenBody{err}
	case g.d.size >= 0 && g.at > g.d.size:
		return errors.Join(wrongBody{fmt.Errorf("the server sends more than the %d bytes that it must have", g.d.size)}, g.begin())
	case g.d.size >= 0 && g.at < g.d.size:
		return brokenBody{fmt.Errorf("truncated: %d of %d bytes came", g.at, g.d.size)}
	}
	return nil
}

// partWriter counts, and tells the disk's errors from the network's.
type partWriter struct {
	g   *getter
	w   io.Writer
	err error
}

func (w *partWriter) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	w.g.at += int64(n)
	w.g.c.fetched.Add(int64(n))
	w.g.t.Add(int64(n))
	w.err = err
	return n, err
}

// check compares the sums with the digest that must be.
func (g *getter) check() *Mismatch {
	got := g.result()
	if g.d.digest == "" || g.d.digest == got.digest || g.d.digest == got.sha512 {
		return nil
	}
	return &Mismatch{Want: g.d.digest, Got: cmp.Or(got.sha512, got.digest), Size: g.at, Looks: Changed}
}

func (g *getter) result() downloaded {
	r := downloaded{digest: sumString("sha256:", g.sha256), size: g.at, from: g.from, etag: g.state.ETag, since: g.state.LastModified}
	if g.sha512 != nil {
		r.sha512 = sumString("sha512:", g.sha512)
		if g.d.blob {
			r.digest = r.sha512
		}
	}
	return r
}

// contentRange reads "bytes FROM-TO/WHOLE" (RFC 9110, 14.4); whole is -1 for "*".
func contentRange(h string) (from, whole int64, ok bool) {
	h, ok = strings.CutPrefix(strings.TrimSpace(h), "bytes ")
	span, all, ok2 := strings.Cut(h, "/")
	first, last, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, false
	}
	from, err := strconv.ParseInt(first, 10, 64)
	to, err2 := strconv.ParseInt(last, 10, 64)
	whole = -1
	var err3 error
	if all != "*" {
		whole, err3 = strconv.ParseInt(all, 10, 64)
	}
	if err != nil || err2 != nil || err3 != nil || from < 0 || to < from || all != "*" && whole <= to {
		return 0, 0, false
	}
	return from, whole, true
}

// otherSize is the error for content of which the server has other than the bytes that it must have.
type otherSize struct {
	error
	has int64
}

// Transfer is one thing that is fetched.
type Transfer interface {
	// Total says how many bytes there will be, -1 if nobody knows.
	Total(n int64)
	// Add says that n more bytes are here. It is negative when a transfer begins anew.
	Add(n int64)
	// Done ends it; err is nil when it is complete and right.
	Done(err error)
}

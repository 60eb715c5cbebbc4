package collect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"sync"

	"casemate/bundle"
	"casemate/bundle/collect/cache"
	"casemate/bundle/collect/diagnose"
	"casemate/bundle/collect/download"
	"casemate/bundle/collect/remote"
	"casemate/bundle/collect/transport"
	"casemate/bundle/lists"
)

// fileList are the files to fetch: those of the lists and those that charts need. It is safe for concurrent use.
type fileList struct {
	mu    sync.Mutex
	list  []*fileJob
	byURL map[string]*fileJob
}

// fileJob is one file to fetch.
type fileJob struct {
	lists.File
	n    int    // number of the name
	name string // the name that needs it: its URL, or a chart
	// plain says that no checksum file is looked for.
	plain bool
	// optional files are left out if they do not exist.
	optional bool
}

// source is the URL that the file is fetched from.
func (f *fileJob) source() string { return cmp.Or(f.From, f.URL) }

// add adds a file; one that is already listed gets the digest if it had none.
func (l *fileList) add(f *fileJob) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.byURL[f.URL]
	if old == nil {
		l.byURL[f.URL] = f
		l.list = append(l.list, f)
		return nil
	}
	if old.Digest != "" && f.Digest != "" && old.Digest != f.Digest {
		return fmt.Errorf(
			"%s must be %s according to %s, and %s according to %s",
			f.URL,
			old.Digest,
			old.Known,
			f.Digest,
			f.Known,
		)
	}
	if old.Digest == "" {
		old.Digest, old.Known = f.Digest, f.Known
	}
	if old.Check == nil {
		old.Check = f.Check
	}
	old.optional = old.optional && f.optional
	return nil
}

func (c *collector) wantedFiles(w *lists.Wanted) *fileList {
	l := &fileList{byURL: map[string]*fileJob{}}
	for i, f := range w.Files {
		job := &fileJob{File: f, n: len(w.Images) + i, name: f.URL}
		if err := l.add(job); err != nil {
			c.fail(job.n, err)
		}
	}
	return l
}

// wantedFile fetches a file and, if the lists have no checksum for it, the checksum file beside it.
func (c *collector) wantedFile(ctx context.Context, f *fileJob) {
	var err error
	if c.opt.DryRun {
		err = c.sizeOf(ctx, f)
	} else {
		err = c.file(ctx, f)
	}
	if f.optional && err != nil && !isFatal(err) && ctx.Err() == nil {
		if !transport.HasStatus(err, http.StatusNotFound, http.StatusForbidden, http.StatusGone) {
			c.note("%s is left out because it is optional: %v", f.URL, err)
		}
		return
	}
	if err != nil && f.name != f.URL {
		err = fmt.Errorf("%s: %w", f.URL, err)
	}
	if err != nil {
		c.fail(f.n, err)
	}
}

func (c *collector) file(ctx context.Context, f *fileJob) error {
	if err := checkURL(f.source()); err != nil {
		return err
	}
	r, known := c.cache.URL(f.URL)
	known = known && c.cache.Has(r.Digest, r.Size)
	switch {
	case f.Digest != "" && known && (f.Digest == r.Digest || f.Digest == r.SHA512):
		return c.acceptFile(ctx, f, r) // a pinned file is not requested again
	case f.Digest != "":
		if size, ok := c.cache.Stat(f.Digest); ok && strings.HasPrefix(f.Digest, "sha256:") {
			return c.recordFile(
				ctx,
				f,
				cache.URLRecord{URL: f.URL, Digest: f.Digest, Size: size},
			) // the same content was fetched from another URL
		}
		if c.isOnFarSide(f.Digest) {
			if size, err := c.size(ctx, f); err != nil {
				return err
			} else if size >= 0 {
				return c.addFile(ctx, cache.URLRecord{URL: f.URL, Digest: f.Digest, Size: size, On: day(c.now())})
			}
		}
	case known:
		if same, err := c.revalidated(ctx, r); err != nil {
			return err
		} else if same {
			return c.acceptFile(ctx, f, r)
		}
	}
	d := download.Request{
		Client: c.fileClient(f.Digest != ""), URL: f.source(), Name: f.URL, Digest: f.Digest, Size: -1,
	}
	if f.Digest != "" && f.Size > 0 {
		d.Size = f.Size
	}
	sums := ""
	by := f.Known
	if d.Digest == "" && !f.plain {
		var err error
		if d.Digest, sums, err = c.sidecarChecksum(ctx, f.URL); err != nil {
			return err
		}
		by = sums
	}
	d.Diagnose = func(m *diagnose.Mismatch, content *os.File) {
		m.Diagnose(f.URL, by, content, c.opt.Other)
		if m.Looks == diagnose.Changed && r.Digest == d.Digest && r.On != "" {
			m.Detail = "it was right on " + r.On
		}
	}
	got, err := c.downloads.Fetch(ctx, d)
	if err != nil {
		return err
	}
	if d.Digest == "" {
		if err := c.checkUnverified(f.URL, got.Digest); err != nil {
			return err
		}
	}
	return c.recordFile(
		ctx,
		f,
		cache.URLRecord{
			URL:          f.URL,
			Digest:       got.Digest,
			SHA512:       got.SHA512,
			Size:         got.Size,
			ETag:         got.ETag,
			LastModified: got.LastModified,
			From:         cmp.Or(got.From, f.From),
			Sums:         sums,
		},
	)
}

// checkUnverified examines content without a known checksum: archives must look like archives, and a note says if
// anything else looks like an error page.
func (c *collector) checkUnverified(rawURL, digest string) error {
	f, err := os.Open(c.cache.BlobPath(digest))
	if err != nil {
		return cache.DiskError{Err: err}
	}
	defer f.Close()
	head := make([]byte, 1024)
	n, err := io.ReadFull(f, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return cache.DiskError{Err: err}
	}
	name := path.Base(rawURL)
	if u, err := url.Parse(rawURL); err == nil {
		name = path.Base(u.Path)
	}
	what := diagnose.DescribeErrorPage(head[:n], name)
	switch {
	case what == "":
		return nil
	case diagnose.ArchiveMagic[path.Ext(name)] != "":
		return errors.New(what)
	}
	c.note("%s: no checksum is known, and %s", rawURL, what)
	return nil
}

// recordFile records what a URL returned, and adds the file. The day stays that of the first time as long as the
// content does not change.
func (c *collector) recordFile(ctx context.Context, f *fileJob, r cache.URLRecord) error {
	r.On = day(c.now())
	if old, ok := c.cache.URL(r.URL); ok && old.Digest == r.Digest {
		r.On = old.On
		r.From = cmp.Or(old.From, r.From)
	}
	r.From = origin(r.URL, r.From)
	if err := c.cache.PutURL(r); err != nil {
		return err
	}
	return c.acceptFile(ctx, f, r)
}

// acceptFile adds a file that is in the cache, if its own check accepts it.
func (c *collector) acceptFile(ctx context.Context, f *fileJob, r cache.URLRecord) error {
	if f.Check != nil {
		content, err := c.cache.Open(r.Digest)
		if err != nil {
			return err
		}
		defer content.Close()
		if err := f.Check(content); err != nil {
			return err
		}
	}
	return c.addFile(ctx, r)
}

// addFile adds a file that is in the cache, and its checksum file.
func (c *collector) addFile(ctx context.Context, r cache.URLRecord) error {
	c.mu.Lock()
	c.files[r.URL] = bundle.File{
		URL:        r.URL,
		Digest:     r.Digest,
		Size:       r.Size,
		Provenance: bundle.Provenance{From: r.From, On: r.On},
	}
	c.mu.Unlock()
	if r.Sums == "" {
		return nil
	}
	err := c.file(ctx, &fileJob{File: lists.File{URL: r.Sums}, plain: true})
	if err != nil && !isFatal(err) && ctx.Err() == nil {
		c.note("%s is left out, it is only the checksum beside a file that was collected: %v", r.Sums, err)
		return nil
	}
	return err
}

// origin is the Provenance.From of a file: the URL that answered, without its query, which is often a signature that
// changes with every request. "" if it is the requested URL.
func origin(asked, answered string) string {
	u, err := url.Parse(answered)
	if err != nil || answered == "" || answered == asked {
		return ""
	}
	u.RawQuery, u.Fragment, u.User = "", "", nil
	if a, err := url.Parse(asked); err == nil && a.Host == u.Host && a.Path == u.Path {
		return ""
	}
	return u.String()
}

// checkURL returns an error if a file's URL cannot be fetched.
func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil {
		return fmt.Errorf("not a URL: %w", err)
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" {
		return errors.New("not an http or https URL")
	}
	if u.User != nil {
		return errors.New("a URL with a user name would carry it into the bundle; remove it")
	}
	return nil
}

// fileClient is the client for files. A redirect from https to http is followed only for content with a checksum.
func (c *collector) fileClient(checked bool) *http.Client {
	return &http.Client{Transport: c.transport, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if !checked && req.URL.Scheme == "http" && via[0].URL.Scheme == "https" {
			return errors.New(
				"it is redirected to plain http, where anybody can change the content; give its checksum with " +
					"--checksums",
			)
		}
		return remote.LimitRedirects(req, via)
	}}
}

// revalidated reports whether a URL still returns the recorded content. It is false if the server cannot tell.
func (c *collector) revalidated(ctx context.Context, r cache.URLRecord) (bool, error) {
	if r.ETag == "" && r.LastModified == "" {
		return false, nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URL, nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("Accept-Encoding", "identity")
	if r.ETag != "" {
		req.Header.Set("If-None-Match", r.ETag)
	}
	if r.LastModified != "" {
		req.Header.Set("If-Modified-Since", r.LastModified)
	}
	resp, err := c.fileClient(false).Do(req)
	if err != nil {
		return false, transport.WithoutURL(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return resp.StatusCode == http.StatusNotModified, nil
	}
	// Some servers do not compare but return validators. A weak ETag does not promise equal bytes.
	etag, since := resp.Header.Get("ETag"), resp.Header.Get("Last-Modified")
	same := etag == r.ETag && since == r.LastModified && !strings.HasPrefix(etag, "W/")
	return same && resp.ContentLength == r.Size, nil
}

// size returns the size of a file, from the lists or from the server; -1 if neither knows.
func (c *collector) size(ctx context.Context, f *fileJob) (int64, error) {
	if f.Digest != "" && f.Size > 0 {
		return f.Size, nil
	}
	return c.head(ctx, f.source())
}

// head requests the size of a file, -1 if the server does not tell. GET may work even if HEAD does not.
func (c *collector) head(ctx context.Context, url string) (size int64, err error) {
	for _, method := range []string{http.MethodHead, http.MethodGet} {
		if size, err = c.sizeByMethod(ctx, method, url); err == nil || ctx.Err() != nil {
			return size, err
		}
	}
	return -1, err
}

func (c *collector) sizeByMethod(ctx context.Context, method, url string) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return -1, err
	}
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := c.fileClient(true).Do(req)
	if err != nil {
		return -1, transport.WithoutURL(err)
	}
	defer resp.Body.Close() // for GET too: the connection is closed before the content is read
	if resp.StatusCode != http.StatusOK {
		return -1, transport.ResponseError(resp)
	}
	return resp.ContentLength, nil
}

// sizeOf replaces fetching a file in a dry run.
func (c *collector) sizeOf(ctx context.Context, f *fileJob) error {
	if err := checkURL(f.URL); err != nil {
		return err
	}
	file := bundle.File{URL: f.URL, Digest: f.Digest, Provenance: bundle.Provenance{On: day(c.now())}}
	if r, ok := c.cache.URL(f.URL); ok && c.cache.Has(r.Digest, r.Size) &&
		(f.Digest == "" || f.Digest == r.Digest || f.Digest == r.SHA512) {
		file.Digest, file.Size, file.Provenance = r.Digest, r.Size, bundle.Provenance{From: r.From, On: r.On}
	} else {
		size, err := c.size(ctx, f)
		if err != nil {
			return err
		}
		file.Size = size
		if _, cached := c.cache.Stat(f.Digest); !cached && (f.Digest == "" || !c.isOnFarSide(f.Digest)) {
			c.downloads.Fetched.Add(max(0, size))
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.files[f.URL] = file
	return nil
}

// text fetches the beginning of a small file that is not collected.
func (c *collector) text(ctx context.Context, url string, limit int64) (b []byte, err error) {
	err = c.retry.DoBody(ctx, func() error {
		b, _, err = c.textOnce(ctx, url, limit)
		return err
	})
	return b, err
}

func (c *collector) textOnce(ctx context.Context, url string, limit int64) (b []byte, end string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, "", err
	}
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := c.fileClient(false).Do(req)
	if err != nil {
		return nil, "", transport.WithoutURL(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, "", transport.ResponseError(resp)
	}
	if b, err = io.ReadAll(io.LimitReader(resp.Body, limit)); err != nil {
		return nil, "", transport.BrokenError{Err: err}
	}
	return b, resp.Request.URL.String(), nil
}

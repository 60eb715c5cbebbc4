package collect

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"syscall"

	"casemate/bundle/collect/diagnose"
	"casemate/bundle/collect/download"
	"casemate/bundle/collect/transport"
)

// Documents fetches documents that say what has to be collected, such as the indices of package repositories, into the
// cache; so Collect does not fetch them again. It holds the cache until Close.
type Documents struct {
	c *collector
}

// OpenDocuments opens the cache. Of the options those about the cache and the network count.
func OpenDocuments(opt Options) (*Documents, error) {
	c, err := newCollector(opt)
	if err != nil {
		return nil, err
	}
	return &Documents{c}, nil
}

// Close releases the cache for Collect.
func (d *Documents) Close() error {
	if t, ok := d.c.opt.Transport.(*http.Transport); ok {
		t.CloseIdleConnections()
	}
	return d.c.cache.Close()
}

// Document fetches a document of unknown content, of at most limit bytes, and returns it with its digest.
// fs.ErrNotExist: the server does not have it. What the URL returned is recorded by Collect, when the caller has
// verified it and wants it.
func (d *Documents) Document(ctx context.Context, url string, limit int64) (b []byte, digest string, err error) {
	if b, err = d.c.text(ctx, url, limit+1); err != nil {
		return nil, "", missing(err)
	}
	if int64(len(b)) > limit {
		return nil, "", fmt.Errorf("it is larger than %d bytes", limit)
	}
	digest = fmt.Sprintf("sha256:%x", sha256.Sum256(b))
	return b, digest, d.c.cache.Put(digest, b)
}

// Content fetches content of known digest and size, and opens it. syscall.EBADMSG: the server has other content;
// fs.ErrNotExist: it has none.
func (d *Documents) Content(ctx context.Context, url, digest string, size int64) (io.ReadCloser, error) {
	if !d.c.cache.Has(digest, size) {
		got, err := d.c.downloads.Fetch(ctx, download.Request{
			Client: d.c.fileClient(true), URL: url, Name: url, Digest: digest, Size: size,
			Diagnose: func(m *diagnose.Mismatch, content *os.File) { m.Diagnose(url, "", content, nil) },
		})
		if err != nil {
			return nil, missing(err)
		}
		digest = got.Digest
	}
	return d.c.cache.Open(digest)
}

// Last returns what was collected from a URL in an earlier run, at most limit bytes; nil if nothing was.
func (d *Documents) Last(url string, limit int64) []byte {
	r, ok := d.c.cache.URL(url)
	if !ok {
		return nil
	}
	b, err := d.c.cache.Read(r.Digest, limit)
	if err != nil {
		return nil
	}
	return b
}

// Put keeps a document that was made here in the cache, and returns its digest.
func (d *Documents) Put(content []byte) (digest string, err error) {
	digest = fmt.Sprintf("sha256:%x", sha256.Sum256(content))
	return digest, d.c.cache.Put(digest, content)
}

// missing gives errors of servers their identity: absent content is fs.ErrNotExist (object stores answer 403 for it),
// other content syscall.EBADMSG.
func missing(err error) error {
	var mismatch *diagnose.Mismatch
	var size download.SizeError
	switch {
	case transport.HasStatus(err, http.StatusNotFound, http.StatusGone, http.StatusForbidden):
		return is{err, fs.ErrNotExist}
	case errors.As(err, &mismatch), errors.As(err, &size):
		return is{err, syscall.EBADMSG}
	}
	return err
}

// is is an error that is also another one.
type is struct {
	error
	also error
}

func (e is) Is(target error) bool { return target == e.also }
func (e is) Unwrap() error        { return e.error }

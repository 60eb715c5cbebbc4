package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"casemate/bundle/digests"
)

// storedContent reads what nodes get for URLs, over the admin socket. It has the methods of collect.Documents, so that
// a check finds the files of packages like bundle create does.
type storedContent struct {
	client *client
}

// open opens what a node gets for a URL, and returns it with its digest and with the URL at which redirects ended.
// fs.ErrNotExist: a node gets nothing.
func (s *storedContent) open(ctx context.Context, at string) (body io.ReadCloser, digest, end string, err error) {
	resp, err := s.client.do(ctx, "GET", "files/content", url.Values{"url": {at}}, nil)
	if e := (*apiError)(nil); errors.As(err, &e) && e.status == http.StatusNotFound {
		return nil, "", "", fmt.Errorf("%s: %w", at, fs.ErrNotExist)
	}
	if err != nil {
		return nil, "", "", err
	}
	return resp.Body, strings.Trim(resp.Header.Get("ETag"), `"`), resp.Header.Get("Content-Location"), nil
}

// Page returns a document of at most limit bytes, with the URL at which redirects ended. fs.ErrNotExist: it is not
// stored.
func (s *storedContent) Page(ctx context.Context, at string, limit int64) (text []byte, end string, err error) {
	body, _, end, err := s.open(ctx, at)
	if err != nil {
		return nil, "", err
	}
	defer body.Close()
	text, err = io.ReadAll(io.LimitReader(body, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", at, limit)
	}
	return text, end, err
}

// Document is Page with the digest of the document.
func (s *storedContent) Document(ctx context.Context, at string, limit int64) (text []byte, digest string, err error) {
	text, _, err = s.Page(ctx, at, limit)
	return text, digests.SHA256(text), err
}

// Content opens a file that must have a digest. syscall.EBADMSG: another one is stored; fs.ErrNotExist: none is.
func (s *storedContent) Content(ctx context.Context, at, digest string, _ int64) (io.ReadCloser, error) {
	body, got, _, err := s.open(ctx, at)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(digest, "sha256:") {
		if got == digest {
			return body, nil
		}
		body.Close()
		return nil, fmt.Errorf("stored is %s, not %s: %w", got, digest, syscall.EBADMSG)
	}
	// The store knows the SHA-256 only.
	defer body.Close()
	text, err := io.ReadAll(io.LimitReader(body, maxStoredIndex))
	if err == nil && digests.Like(digest, text) != digest {
		err = fmt.Errorf("stored is %s, not %s: %w", digests.Like(digest, text), digest, syscall.EBADMSG)
	}
	return io.NopCloser(bytes.NewReader(text)), err
}

// maxStoredIndex is the most of an index with a SHA-512 that is read, in bytes.
const maxStoredIndex = 256 << 20

// Last returns nil: nothing is known of earlier runs.
func (s *storedContent) Last(string, int64) []byte { return nil }

// Put returns the digest of a document that is made here. The daemon compares it with the stored one.
func (s *storedContent) Put(content []byte) (digest string, err error) {
	return digests.SHA256(content), nil
}

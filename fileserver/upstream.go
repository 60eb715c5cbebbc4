package fileserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"time"

	"casemate/cluster/byterange"
	"casemate/cluster/tree"
)

// Upstream brings files that an origin has and this server does not. URLs are canonical, without credentials: those of
// the client are in its request. An error may be a Refusal; fs.ErrNotExist means that the origin does not have it
// either.
type Upstream interface {
	// For reports whether files of this origin are fetched.
	For(host string) bool
	// File fetches the file at a URL, which is kept (KeepFile). here means that there is an answer already: then it is
	// fetched only if the upstream brought that answer and has a newer one. plain means that the client asked without
	// TLS. The content can be read while it arrives; nil: the answer is here by now, a redirect perhaps. With here an
	// error means that the client must not get that answer.
	File(req *http.Request, url string, plain, here bool) (Incoming, error)
	// FileSize returns the number of bytes of a file, -1 if that is not known. here: the answer is here by now.
	FileSize(req *http.Request, url string, plain bool) (size int64, here bool, err error)
	// Target returns the address to send a client to that is redirected to a URL: with the credentials that the origin
	// has given for it a moment ago, if it is not here.
	Target(url string) string
}

// Incoming is content that is being fetched. A read waits until its bytes are there.
type Incoming interface {
	io.ReadSeekCloser
	// Size is the number of bytes, -1 if it is not known and the request has no range.
	Size() int64
}

// Refusal is an error of an upstream that a client can be told: an HTTP status, and the time after which it should ask
// again (0: unknown).
type Refusal interface {
	error
	Refusal() (status int, retryAfter time.Duration)
}

// NewFile opens a scratch file for KeepFile. It is removed when it is closed.
func (s *Server) NewFile() (BlobWriter, error) { return s.cfg.Tree.CreateBlob("") }

// KeepFile stores what was written to a scratch file as the file at url, and returns its digest. It may be called again
// after syscall.EAGAIN or syscall.EINPROGRESS. The other errors are those of Put.
func (s *Server) KeepFile(ctx context.Context, blob BlobWriter, url string) (digest string, err error) {
	key, err := s.Key(url)
	if err != nil {
		return "", err
	}
	size := blob.Size()
	ctx = tree.WithEvent(ctx, tree.Event{Verb: "file.fetch", Object: URL(key)})
	digest, err = tree.CommitNamed(ctx, s.cfg.Tree, blob, "", func(b Batch, digest string) error {
		b.Link(key, digest)
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("put %s: %w", URL(key), err)
	}
	s.cfg.Log.Info("file put", "url", URL(key), "digest", digest, "size", size)
	return digest, nil
}

// fetch asks the upstream for a read of an address whose own answer is here or not, and reports whether it has answered
// the request. Otherwise the address is to be looked up again.
func (s *Server) fetch(w http.ResponseWriter, r *http.Request, a address, plain, here bool) (answered bool) {
	url := a.url()
	if r.Method == http.MethodHead && !here {
		size, here, err := s.cfg.Upstream.FileSize(r, url, plain)
		if err != nil || here {
			return s.refused(w, r, url, err)
		}
		media := mediaType(a.base())
		if a.slash {
			media = octets
		}
		w.Header().Set("Content-Type", media)
		if size >= 0 {
			w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		}
		w.WriteHeader(http.StatusOK)
		return true
	}
	in, err := s.cfg.Upstream.File(r, url, plain, here)
	if err != nil || in == nil {
		return s.refused(w, r, url, err)
	}
	defer in.Close()
	media := mediaType(a.base())
	if a.slash {
		if media, err = pageType(in); err != nil {
			s.fail(w, r, err)
			return true
		}
	}
	w.Header().Set("Content-Type", media)
	if active(media) {
		w.Header().Set("Content-Security-Policy", "sandbox")
	}
	content := &stream{ReadSeekCloser: in, server: s, key: a.key(a.query), client: r.RemoteAddr}
	if in.Size() >= 0 {
		http.ServeContent(w, byterange.Bound(r, in.Size()), "", time.Time{}, content)
		return true
	}
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return true
	}
	if _, err := io.Copy(w, content); err != nil {
		panic(http.ErrAbortHandler) // the client must not take it for complete
	}
	return true
}

// refused answers with what an upstream said, and records that the file was not delivered. A file that the origin does
// not have either is a miss like every other one.
func (s *Server) refused(w http.ResponseWriter, r *http.Request, url string, err error) (answered bool) {
	var no Refusal
	switch {
	case err == nil, errors.Is(err, fs.ErrNotExist):
		return false
	case r.Context().Err() != nil:
		return true // the client is gone
	case !errors.As(err, &no):
		s.fail(w, r, err)
		return true
	}
	s.cfg.Miss(r, "file", url, no.Error())
	status, after := no.Refusal()
	if after > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((after+time.Second-1)/time.Second)))
	}
	answer(w, status, no.Error()+".")
	return true
}

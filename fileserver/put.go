package fileserver

import (
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"syscall"

	"casemate/cluster/tree"
)

// Put stores the bytes of body as the file at url, replacing an existing one. With digest ("sha256:<hex>" or
// "sha512:<hex>") the bytes must have it. It returns when the bytes are durable on a majority and this node serves
// them. If it fails nothing has changed, except that an error after the last step may leave the file in place (the
// answer of the cluster was lost); putting it again is harmless.
//
// fs.ErrInvalid: url or digest is malformed. fs.ErrPermission: its host is not an origin, or it is a file of a
// repository of packages. syscall.EBADMSG: body has
// another digest. syscall.ENOSPC: the disk's reserve is reached. syscall.EAGAIN: no majority now. Errors of body are
// returned wrapped.
func (s *Server) Put(ctx context.Context, url string, body io.Reader, digest string) (Info, error) {
	key, err := s.Key(url)
	if err != nil {
		return Info{}, err
	}
	if s.Managed(key) {
		return Info{}, fmt.Errorf("put %s: %s: %w", URL(key), isManaged, fs.ErrPermission)
	}
	var expect []string
	if digest != "" {
		if _, _, err := tree.ParseDigest(digest); err != nil {
			return Info{}, err
		}
		expect = []string{digest}
	}
	return s.put(ctx, key, body, expect, nil)
}

// put stores body under a key. version, if not nil, is the version that must be replaced (0: no file), else
// fs.ErrExist.
func (s *Server) put(ctx context.Context, key string, body io.Reader, expect []string, version *uint64) (Info, error) {
	blob, err := s.cfg.Tree.CreateBlob("")
	if err != nil {
		return Info{}, fmt.Errorf("put %s: %w", URL(key), err)
	}
	defer blob.Close()
	// Files are linked by sha256, so that equal bytes are stored once; a sha512 is compared here.
	var digest string
	var wide hash.Hash
	var out io.Writer = blob
	for _, d := range expect {
		if strings.HasPrefix(d, "sha256:") {
			digest = d
		} else {
			wide = sha512.New()
			out = io.MultiWriter(blob, wide)
		}
	}
	if _, err := io.Copy(out, body); err != nil {
		return Info{}, errors.Join(fmt.Errorf("put %s: %w", URL(key), err), blob.Cancel())
	}
	if wide != nil {
		got := "sha512:" + hex.EncodeToString(wide.Sum(nil))
		for _, d := range expect {
			if strings.HasPrefix(d, "sha512:") && d != got {
				err := fmt.Errorf("put %s: the bytes have the digest %s, not %s: %w", URL(key), got, d, syscall.EBADMSG)
				return Info{}, errors.Join(err, blob.Cancel())
			}
		}
	}
	size := blob.Size()
	name := func(b Batch, digest string) error {
		if version != nil {
			b.Expect(key, *version)
		}
		b.Link(key, digest)
		return nil
	}
	if digest, err = tree.CommitNamed(ctx, s.cfg.Tree, blob, digest, name); err != nil {
		return Info{}, errors.Join(fmt.Errorf("put %s: %w", URL(key), err), blob.Cancel())
	}
	s.cfg.Log.Info("file put", "url", URL(key), "digest", digest, "size", size)
	info := Info{URL: URL(key), Digest: digest, Size: size}
	if h, err := s.stat(key); err == nil && h.digest == digest {
		info.Time = h.mod
	}
	return info, nil
}

// Delete removes the file at exactly this URL, its query included; its bytes are collected when no other name refers to
// them. The host need not be an origin any more. fs.ErrPermission: it is a file of a repository of packages, which only
// changes with its metadata. fs.ErrNotExist: there is none. syscall.EAGAIN: no majority now.
func (s *Server) Delete(ctx context.Context, url string) error {
	key, err := s.removable(url)
	if err != nil {
		return err
	}
	return s.delete(ctx, key, nil)
}

// Removable returns the file that Delete would delete, or the error that it would return.
func (s *Server) Removable(url string) (Info, error) {
	key, err := s.removable(url)
	if err != nil {
		return Info{}, err
	}
	h, err := s.stat(key)
	if errors.Is(err, fs.ErrNotExist) {
		return Info{}, fmt.Errorf("there is no file %s: %w", URL(key), fs.ErrNotExist)
	}
	if err != nil {
		return Info{}, fmt.Errorf("delete %s: %w", URL(key), err)
	}
	return h.info(), nil
}

// removable returns the key of a file that people may delete.
func (s *Server) removable(url string) (string, error) {
	a, err := parseURL(url)
	if err != nil {
		return "", err
	}
	if s.Managed(a.key(a.query)) {
		return "", fmt.Errorf("delete %s: %s: %w", a.url(), isManaged, fs.ErrPermission)
	}
	a, _ = s.canonical(a)
	if _, err := s.stat(a.key(a.signed)); err == nil && a.signed != "" {
		a.query = a.signed // stored by an earlier version
	}
	return a.key(a.query), nil
}

func (s *Server) delete(ctx context.Context, key string, version *uint64) error {
	h, err := s.stat(key)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no file %s: %w", URL(key), fs.ErrNotExist)
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", URL(key), err)
	}
	err = s.cfg.Tree.Update(ctx, func(b Batch) error {
		if version != nil {
			b.Expect(key, *version)
		}
		b.Remove(key)
		return nil
	})
	if err != nil {
		return fmt.Errorf("delete %s: %w", URL(key), err)
	}
	s.cfg.Log.Info("file deleted", "url", URL(key), "digest", h.digest, "size", h.size)
	return nil
}

// write answers PUT and DELETE under the server's own name over TLS.
func (s *Server) write(w http.ResponseWriter, r *http.Request, a address, isOrigin bool) {
	action := "push"
	if r.Method == http.MethodDelete {
		action = "delete"
	}
	c, known := s.canonical(a)
	ctx, err := s.cfg.Allow(r, action, c.url())
	switch {
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		s.fail(w, r, err)
		return
	case errors.Is(err, fs.ErrPermission):
		answer(w, http.StatusForbidden, err.Error()+".")
		return
	case err != nil:
		w.Header().Set("WWW-Authenticate", `Basic realm="casemate", charset="UTF-8"`)
		answer(w, http.StatusUnauthorized, "writing files needs a user and the password, see `casemate user add`.")
		return
	}
	if !isOrigin {
		answer(w, http.StatusForbidden, "a file is put under its upstream URL: /<origin>/<path>.")
		return
	}
	if s.Managed(a.key(a.query)) {
		answer(w, http.StatusForbidden, isManaged+".")
		return
	}
	key := a.key(a.query)
	if tooLong(key) {
		answer(w, http.StatusBadRequest, "the URL is too long.")
		return
	}
	r = r.WithContext(ctx)
	version, ok := s.precondition(w, r, key)
	if !ok {
		return
	}
	if r.Method == http.MethodDelete {
		if err := s.delete(r.Context(), key, version); err != nil {
			s.failWrite(w, r, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if !known {
		answer(w, http.StatusForbidden, a.host+" is not an origin here, add it with `casemate origin add "+a.host+"`.")
		return
	}
	switch {
	case r.Header.Get("Content-Range") != "": // RFC 9110, section 14.5
		answer(w, http.StatusBadRequest, "a file is put whole, not in ranges.")
		return
	case r.Header.Get("Content-Encoding") != "":
		answer(w, http.StatusUnsupportedMediaType, "a file is put as it is, without Content-Encoding.")
		return
	}
	expect, err := digests(r.Header)
	if err != nil {
		answer(w, http.StatusBadRequest, err.Error()+".")
		return
	}
	_, missing := s.stat(key)
	info, err := s.put(r.Context(), key, r.Body, expect, version)
	if err != nil {
		s.failWrite(w, r, err)
		return
	}
	w.Header().Set("ETag", `"`+info.Digest+`"`)
	code := http.StatusOK
	if missing != nil {
		code = http.StatusCreated
	}
	answer(w, code, info.Digest+"  "+info.URL)
}

// precondition reads If-Match and If-None-Match of a write (RFC 9110, section 13.1). version is nil if there are none.
// If the condition does not hold, or cannot be evaluated, precondition answers the request and ok is false.
func (s *Server) precondition(w http.ResponseWriter, r *http.Request, key string) (version *uint64, ok bool) {
	match, none := r.Header.Get("If-Match"), r.Header.Get("If-None-Match")
	if match == "" && none == "" {
		return nil, true
	}
	h, err := s.stat(key)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.fail(w, r, err)
		return nil, false
	}
	has := func(list string) bool {
		if err != nil {
			return false
		}
		for tag := range strings.SplitSeq(list, ",") {
			if tag = strings.TrimSpace(tag); tag == "*" || tag == `"`+h.digest+`"` {
				return true
			}
		}
		return false
	}
	if match != "" && !has(match) || none != "" && has(none) {
		answer(w, http.StatusPreconditionFailed,
			"the file does not match the request's If-Match or If-None-Match.")
		return nil, false
	}
	return &h.version, true
}

func (s *Server) failWrite(w http.ResponseWriter, r *http.Request, err error) {
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		answer(w, http.StatusRequestEntityTooLarge, "the file is larger than this server takes.")
	case errors.Is(err, fs.ErrExist):
		answer(w, http.StatusPreconditionFailed, "another client changed the file at this moment.")
	default:
		s.fail(w, r, err)
	}
}

// digests reads the digests that the sender of a file expects: Content-Digest and Repr-Digest (RFC 9530), Digest (RFC
// 3230), X-Checksum-Sha256 and X-Checksum-Sha512 (hex, as Artifactory's clients send them). All that are given must
// hold. Other algorithms are ignored.
func digests(h http.Header) ([]string, error) {
	var found []string
	add := func(where, algorithm string, sum []byte, err error) error {
		digest := algorithm + ":" + hex.EncodeToString(sum)
		if err == nil {
			_, _, err = tree.ParseDigest(digest)
		}
		if err != nil {
			return fmt.Errorf("the header %s has no valid %s", where, algorithm)
		}
		for _, d := range found {
			if strings.HasPrefix(d, algorithm+":") && d != digest {
				return fmt.Errorf("the header %s contradicts another digest", where)
			}
		}
		found = append(found, digest)
		return nil
	}
	names := map[string]string{"sha-256": "sha256", "sha-512": "sha512"}
	for _, where := range []string{"Content-Digest", "Repr-Digest", "Digest"} {
		for item := range strings.SplitSeq(strings.Join(h.Values(where), ","), ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(item), "=")
			algorithm, known := names[strings.ToLower(name)]
			if !known {
				continue
			}
			if where != "Digest" { // RFC 8941: a byte sequence is between colons
				if len(value) < 2 || value[0] != ':' || value[len(value)-1] != ':' {
					return nil, fmt.Errorf("the header %s has no valid %s", where, algorithm)
				}
				value = value[1 : len(value)-1]
			}
			sum, err := base64.StdEncoding.DecodeString(value)
			if err := add(where, algorithm, sum, err); err != nil {
				return nil, err
			}
		}
	}
	for where, algorithm := range map[string]string{"X-Checksum-Sha256": "sha256", "X-Checksum-Sha512": "sha512"} {
		if value := h.Get(where); value != "" {
			sum, err := hex.DecodeString(value)
			if err := add(where, algorithm, sum, err); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

package fileserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"casemate/cluster/byterange"
)

// View is the way in which a request names files.
type View struct {
	// Origin is the origin of the request's host: then the path is the path at that origin, and writes are refused. ""
	// is the server's own name: the path is /<origin>/<path> or one of the short layout, without any prefix.
	Origin string
	// Index is the server's name for packages: the path is one below /simple/, the index of the Python packages of
	// every origin, or of a repository's files, and writes are refused.
	Index bool
	// Plain means that the request came over a plain connection: writes and credentials are refused.
	Plain bool
}

// Serve answers one request.
//
// 200, 206, 304, 412 and 416 are as in RFC 9110. 302: a setting's target, or a directory with its slash. 400: an
// impossible path or wrong bytes. 401: PUT and DELETE need a user. 403: not over plain http, or not an origin. 404: not
// stored here. 405: not at an origin. 503 with Retry-After: no majority, or the bytes are unavailable now. 507: the
// disk is full.
func (s *Server) Serve(w http.ResponseWriter, r *http.Request, v View) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	read := r.Method == http.MethodGet || r.Method == http.MethodHead
	write := r.Method == http.MethodPut || r.Method == http.MethodDelete
	switch {
	case v.Origin != "" && !read:
		w.Header().Set("Allow", "GET, HEAD")
		answer(w, http.StatusMethodNotAllowed,
			"files at "+v.Origin+" are read-only here: put them under the bastion's own name.")
		return
	case v.Index && !read:
		w.Header().Set("Allow", "GET, HEAD")
		answer(w, http.StatusMethodNotAllowed,
			"packages are read-only here: put them under the bastion's name for files.")
		return
	case !read && !write:
		w.Header().Set("Allow", "GET, HEAD, PUT, DELETE")
		answer(w, http.StatusMethodNotAllowed, "files support GET, HEAD, PUT and DELETE.")
		return
	case v.Plain && write:
		answer(w, http.StatusForbidden, "files are not written over plain http; use https.")
		return
	case v.Plain && r.Header.Get("Authorization") != "":
		answer(w, http.StatusForbidden, "credentials are refused over plain http: use https, or read without them, "+
			"and change the password that was just sent in the clear.")
		return
	}
	a, err := parsePath(r.URL.EscapedPath(), r.URL.RawQuery)
	if err != nil {
		answer(w, http.StatusBadRequest, "this path is not served: "+err.Error()+".")
		return
	}
	if v.Index {
		s.getPackage(w, r, a)
		return
	}
	if v.Origin != "" {
		a.host = v.Origin
		s.get(w, r, a, v)
		return
	}
	own, isOrigin := s.ownAddress(a)
	switch {
	case write:
		s.write(w, r, own, isOrigin)
	case len(a.elems) == 0:
		s.listOrigins(w, r)
	case !isOrigin:
		s.getAlias(w, r, a)
	case len(a.elems) == 1 && !a.slash:
		if _, known := s.canonical(own); !known && !s.isDir(own.host) {
			s.miss(w, r, "/"+a.elems[0], "not an origin here; see /") // not the URL https://favicon.ico/
			return
		}
		redirect(w, "./"+a.elems[0]+"/")
	default:
		s.get(w, r, own, v)
	}
}

// ownAddress removes the origin from a path of the own-name view; it reports whether the first element is a host at
// all: one with a dot always is, known or not.
func (s *Server) ownAddress(a address) (address, bool) {
	if len(a.elems) == 0 {
		return a, false
	}
	host, err := cleanHost(a.elems[0])
	if err != nil {
		return a, false
	}
	own, _ := s.canonical(address{host: host, elems: a.elems[1:], slash: a.slash || len(a.elems) == 1, query: a.query,
		signed: a.signed})
	return own, strings.Contains(host, ".")
}

// get answers a read of an address: the result of lookup, then listings, then pages that are no files.
func (s *Server) get(w http.ResponseWriter, r *http.Request, a address, v View) {
	rules, own, plain := s.rules(), v.Origin == "", v.Plain
	rp, err := s.lookup(r.Context(), rules, a, own)
	if s.cfg.Upstream != nil && (err == nil || errors.Is(err, fs.ErrNotExist)) && s.cfg.Upstream.For(a.host) {
		if err != nil && tooLong(a.key(a.query)) {
			answer(w, http.StatusRequestURITooLong, "this address is too long to be stored, so it is not fetched.")
			return
		}
		if s.fetch(w, r, a, plain, err == nil) {
			return
		}
		rules = s.rules()
		rp, err = s.lookup(r.Context(), rules, a, own)
	}
	switch {
	case err == nil && rp.setting:
		s.follow(w, r, rp.to, own)
		return
	case err == nil && rp.sumOf != "":
		s.sendSum(w, r, rp.file, rp.sumOf, rp.sum)
		return
	case err == nil && rp.mirrors != "":
		s.sendMirrors(w, r, rp.file, rp.mirrors, plain)
		return
	case err == nil && rp.slash:
		to := "./" + a.elems[len(a.elems)-1] + "/"
		if a.query != "" {
			to += "?" + a.query
		}
		redirect(w, to)
		return
	case err == nil:
		s.send(w, r, rp.file)
		return
	case !errors.Is(err, fs.ErrNotExist):
		s.fail(w, r, err)
		return
	}
	if (!own || asksIndex(r)) && s.pythonPage(w, r, a) {
		return
	}
	if a.slash && asksIndex(r) && s.pythonRoot(w, r, a) {
		return
	}
	if a.slash && (own || asksListing(r)) && s.list(w, r, a, own) {
		return
	}
	if rules.landing(a) {
		answer(w, http.StatusOK, a.base())
		return
	}
	s.miss(w, r, a.url(), s.unknown(a))
}

// reply is the answer to an address: a file, unless another field is set.
type reply struct {
	file    storedFile
	setting bool // the target of a setting
	to      target
	sumOf   string // the checksum, as sum says, of the file, under this name
	sum     sumKind
	mirrors string // the metalink or mirrorlist of the repository with this repomd.xml, by its name
	slash   bool   // a redirect to the same address with a trailing slash
}

// lookup finds the answer to an address, except listings: settings, then files, then generated files. fs.ErrNotExist:
// none.
func (s *Server) lookup(ctx context.Context, rules *redirects, a address, own bool) (reply, error) {
	if to, ok := rules.exact[a.key(a.query)]; ok {
		return reply{setting: true, to: to}, nil
	}
	if to, ok := rules.exact[a.key("")]; ok {
		if h, err := s.stat(a.key(a.query)); err == nil { // of exactly this query
			return reply{file: h}, nil
		}
		return reply{setting: true, to: to}, nil
	}
	h, err := s.find(a)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return reply{file: h}, err
	}
	if of, sum, ok := sumOf(a.base()); ok && !a.slash {
		if h, err := s.find(a.withBase(of)); err == nil {
			return reply{file: h, sumOf: of, sum: sum}, nil
		}
	}
	if of, ok := repositoryOf(a); ok {
		if h, err := s.find(of); err == nil {
			return reply{file: h, mirrors: a.base()}, nil
		}
	}
	if h, err := s.byHash(ctx, a); !errors.Is(err, fs.ErrNotExist) {
		return reply{file: h}, err
	}
	for _, query := range []string{a.query, ""} {
		if to, ok := rules.late[a.key(query)]; ok {
			return reply{setting: true, to: to}, nil
		}
	}
	if twin, ok := gitTwin(a); ok {
		if h, err := s.find(twin); err == nil {
			return reply{file: h}, nil
		}
	}
	if to, ok := rules.wildcard(a); ok {
		return reply{setting: true, to: to}, nil
	}
	if !a.slash && s.leadsToSlash(a, own) {
		return reply{slash: true}, nil
	}
	return reply{}, fs.ErrNotExist
}

// unknown returns a sentence if the address belongs to no origin, otherwise "".
func (s *Server) unknown(a address) string {
	if _, ok := s.canonical(a); ok {
		return ""
	}
	return a.host + " is not an origin here, see `casemate origin add`"
}

// find looks a file up: with its query, then by its path alone; for a directory its index.html, the name that mirroring
// tools give it. fs.ErrNotExist: there is none.
func (s *Server) find(a address) (storedFile, error) {
	keys := make([]string, 0, 5)
	if a.signed != "" {
		keys = append(keys, a.key(a.signed))
	}
	if a.query != "" {
		keys = append(keys, a.key(a.query))
	}
	keys = append(keys, a.key(""))
	if a.slash {
		keys = append(keys, a.dir()+"/index.html?")
	}
	for _, key := range keys {
		h, err := s.stat(key)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return h, err
		}
	}
	return storedFile{}, fs.ErrNotExist
}

func (s *Server) stat(key string) (storedFile, error) {
	if tooLong(key) {
		return storedFile{}, fs.ErrNotExist // no file has a name that long
	}
	fi, err := s.cfg.Tree.Stat(key)
	if err != nil {
		return storedFile{}, err
	}
	h, ok := storedFileOf(key, fi)
	if !ok {
		return storedFile{}, fs.ErrNotExist
	}
	return h, nil
}

// Stat describes the file at a URL, in any spelling, as a GET at its origin would find it: the query first, then the
// path alone. Neither settings nor generated checksums count. fs.ErrNotExist: it is not stored here. fs.ErrInvalid: it
// is not such a URL.
func (s *Server) Stat(rawURL string) (Info, error) {
	a, err := parseURL(rawURL)
	if err != nil {
		return Info{}, err
	}
	a, _ = s.canonical(a)
	h, err := s.find(a)
	if err != nil {
		return Info{}, fmt.Errorf("file %s: %w", a.url(), err)
	}
	return h.info(), nil
}

// leadsToSlash reports whether the address with a trailing slash would be answered. A plain miss costs one look-up in
// the tree here.
func (s *Server) leadsToSlash(a address, own bool) bool {
	if !s.isDir(a.dir()) {
		return false
	}
	a.slash, a.query, a.signed = true, "", ""
	_, err := s.find(a)
	return own || err == nil
}

func (s *Server) isDir(name string) bool {
	fi, err := s.cfg.Tree.Stat(name)
	return err == nil && fi.IsDir()
}

// send answers with a file's bytes.
func (s *Server) send(w http.ResponseWriter, r *http.Request, h storedFile) {
	name, _, _ := strings.Cut(h.key, "?")
	name = name[strings.LastIndexByte(name, '/')+1:]
	if plain, err := url.PathUnescape(name); err == nil {
		name = plain
	}
	var content io.ReadSeeker
	media := mediaType(name)
	if r.Method == http.MethodHead && name != "" {
		if _, err := s.cfg.Tree.HasBlob(r.Context(), h.digest); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.fail(w, r, err)
			return
		}
		content = io.NewSectionReader(nil, 0, h.size) // ServeContent asks it for the size and reads nothing
	} else {
		blob, err := s.open(r.Context(), &h)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				s.miss(w, r, URL(h.key), "its bytes went away at this moment")
				return
			}
			s.fail(w, r, err)
			return
		}
		defer blob.Close()
		content = blob
		if _, local := blob.(*os.File); !local {
			// Bytes that are still being fetched from a peer can stop. A local file is not wrapped: that would prevent
			// sendfile.
			content = &stream{ReadSeekCloser: blob, server: s, key: h.key, client: r.RemoteAddr}
		}
		if name == "" {
			// A URL that ends in a slash is a page or a script, and only its first bytes tell. Package indexes need
			// text/html.
			if media, err = pageType(content); err != nil {
				s.fail(w, r, err)
				return
			}
		}
	}
	s.cfg.Pulled(h.key, h.digest)
	w.Header().Set("Content-Type", media)
	if active(media) {
		w.Header().Set("Content-Security-Policy", "sandbox")
	}
	w.Header().Set("ETag", `"`+h.digest+`"`)
	http.ServeContent(w, byterange.Bound(r, h.size), "", s.validDate(w, h), content)
}

// validDate returns the date that Last-Modified gives and If-Modified-Since is compared with, or the zero time if
// there is none to compare with yet: a file that was put in this second can be replaced in the same one, and its date,
// which has seconds only, would then be that of two contents (RFC 9110, section 8.8.2.2). apt sends no other condition
// and would keep the older one. Such an answer has the date of the second before: without any, apt would later send the
// time at which it wrote the file, which can be that of the next change. A date in the future, of a node whose clock is
// ahead, is not sent (section 8.8.2.1).
func (s *Server) validDate(w http.ResponseWriter, h storedFile) time.Time {
	switch now := s.cfg.Now().Unix(); {
	case now < h.mod.Unix():
		return time.Time{}
	case now == h.mod.Unix():
		w.Header().Set("Last-Modified", h.mod.Add(-time.Second).UTC().Format(http.TimeFormat))
		return time.Time{}
	}
	return h.mod
}

// open opens the bytes of a file. If they were collected since h was looked up, because the file was replaced just now,
// h becomes the new one.
func (s *Server) open(ctx context.Context, h *storedFile) (io.ReadSeekCloser, error) {
	blob, err := s.cfg.Tree.OpenBlob(ctx, h.digest)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return blob, err
	}
	again, statErr := s.stat(h.key)
	if statErr != nil || again.digest == h.digest {
		return nil, err
	}
	*h = again
	return s.cfg.Tree.OpenBlob(ctx, h.digest)
}

// stream logs why a blob that is not a local file stopped; ServeContent cannot report it, and the client only sees the
// connection close.
type stream struct {
	io.ReadSeekCloser
	server *Server
	key    string
	client string
}

func (t *stream) Read(p []byte) (int, error) {
	n, err := t.ReadSeekCloser.Read(p)
	if err != nil && err != io.EOF && !errors.Is(err, context.Canceled) {
		t.server.cfg.Log.Warn("file broke off", "client", t.client, "url", URL(t.key), "err", err)
	}
	return n, err
}

// pageType reads the beginning of a page and rewinds it.
func pageType(content io.ReadSeeker) (string, error) {
	head := make([]byte, 512)
	n, err := io.ReadFull(content, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return "", err
	}
	if _, err := content.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	switch media := http.DetectContentType(head[:n]); {
	case strings.HasPrefix(media, "text/html"):
		return "text/html; charset=utf-8", nil
	case strings.HasPrefix(media, "text/plain"):
		return "text/plain; charset=utf-8", nil
	}
	return octets, nil
}

// miss answers 404 and records the miss.
func (s *Server) miss(w http.ResponseWriter, r *http.Request, name, detail string) {
	s.cfg.Miss(r, "file", name, detail)
	text := "not kept here: " + name
	if detail != "" {
		text += " (" + detail + ")"
	}
	answer(w, http.StatusNotFound, text+"; noted in the missing book.")
}

// fail answers an error of the tree by its kind.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	code, text := http.StatusInternalServerError, "an internal error, see the bastion's log."
	switch {
	case errors.Is(err, syscall.EBADMSG):
		code, text = http.StatusBadRequest, err.Error()+"."
	case errors.Is(err, fs.ErrInvalid), errors.Is(err, io.ErrUnexpectedEOF):
		code, text = http.StatusBadRequest, err.Error()+"."
	case errors.Is(err, syscall.ENOSPC):
		code = http.StatusInsufficientStorage
		text = "the bastion's disk is full: remove content and run `casemate gc --now`."
	case errors.Is(err, fs.ErrPermission):
		code, text = http.StatusForbidden, err.Error()+"."
	case errors.Is(err, fs.ErrNotExist):
		code, text = http.StatusNotFound, err.Error()+"."
	case errors.Is(err, syscall.EIO):
		code = http.StatusServiceUnavailable
		text = "its bytes on this bastion are damaged or lost: import or put it again (" + err.Error() + ")."
	case errors.Is(err, syscall.EINPROGRESS):
		code = http.StatusServiceUnavailable
		text = "it is not known whether this was done: send the same request again, which does no harm."
		w.Header().Set("Retry-After", "5")
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		code, text = http.StatusServiceUnavailable, "not possible at this moment, try again."
		w.Header().Set("Retry-After", "5")
	}
	if code >= 500 && r.Context().Err() == nil {
		s.cfg.Log.Warn("file request failed", "client", r.RemoteAddr, "method", r.Method, "path", clip(r.URL.Path),
			"status", code, "err", err)
	}
	answer(w, code, text)
}

// answer writes one sentence.
func answer(w http.ResponseWriter, code int, text string) {
	body(w, code, "text/plain; charset=utf-8", text+"\n")
}

func body(w http.ResponseWriter, code int, media, text string) {
	h := w.Header()
	h.Set("Content-Type", media)
	h.Set("Content-Length", strconv.Itoa(len(text)))
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	io.WriteString(w, text) // for HEAD, net/http drops it
}

package packages

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"slices"
	"strings"
	"syscall"

	"casemate/appliance/reply"
	"casemate/appliance/usage"
)

// Write answers the requests that change a repository at https://packages.<domain>/<repository>/, over TLS and with a
// user and the password (RFC 7617):
//
//	PUT /<repository>/<file>      the body is a package; "curl --upload-file" with the repository's URL sends this
//	POST /<repository>/           multipart/form-data (RFC 7578): all of its files in one step
//	DELETE /<repository>/<path>   the path of a package's file, as package list shows it
//
// With the query force=true a package with other content is replaced. 201: done. 400: not a package. 401: PUT, POST and
// DELETE need a user. 403: the user may not. 404: no such repository or package. 409: the package is there with other
// content. 503 with Retry-After: no majority. 507: the disk is full.
func (s *Store) Write(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	repo, file, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	action := "push"
	if r.Method == http.MethodDelete {
		action = "delete"
	}
	ctx, err := s.cfg.Allow(r, action, "https://"+s.cfg.Host+"/"+repo)
	switch {
	case errors.Is(err, fs.ErrPermission):
		reply.Refuse(w, r, http.StatusForbidden, "", err.Error())
		return
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		s.refuse(w, r, err)
		return
	case err != nil:
		w.Header().Set("WWW-Authenticate", `Basic realm="casemate", charset="UTF-8"`)
		reply.Refuse(w, r, http.StatusUnauthorized, "", "changing a repository of packages needs a user and the "+
			"password, see casemate user add")
		return
	}
	r = r.WithContext(ctx)
	force := slices.Contains([]string{"1", "true"}, r.URL.Query().Get("force"))
	var list []Package
	switch r.Method {
	case http.MethodPut:
		if why := notWhole(r.Header); why != "" {
			reply.Refuse(w, r, http.StatusBadRequest, "", why)
			return
		}
		list, err = s.Put(r.Context(), repo, force, one(file, r.Body))
	case http.MethodPost:
		var next Source
		if next, err = Multipart(r); err == nil {
			list, err = s.Put(r.Context(), repo, force, next)
		}
	case http.MethodDelete:
		_, err = s.removePackages(r.Context(), repo, file, func(e *entry) bool { return e.File == file })
	default:
		w.Header().Set("Allow", "GET, HEAD, PUT, POST, DELETE")
		reply.Refuse(w, r, http.StatusMethodNotAllowed, "", "a repository of packages supports GET, HEAD, PUT, POST "+
			"and DELETE")
		return
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	if list == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	var lines strings.Builder
	for _, p := range list {
		lines.WriteString(p.Digest + "  " + p.URL + "\n")
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusCreated)
	io.WriteString(w, lines.String())
}

// notWhole says why a body is not that of a file.
func notWhole(h http.Header) string {
	switch {
	case h.Get("Content-Range") != "": // RFC 9110, section 14.5
		return "a package is put whole, not in ranges"
	case h.Get("Content-Encoding") != "":
		return "a package is put as it is, without Content-Encoding"
	}
	return ""
}

// one is a source of one file.
func one(name string, body io.Reader) Source {
	sent := false
	return func() (string, io.Reader, error) {
		if sent {
			return "", nil, io.EOF
		}
		sent = true
		return nameOr(name), body, nil
	}
}

func nameOr(name string) string {
	if name == "" {
		return "the package"
	}
	return name
}

// Multipart are the files of a request of the form multipart/form-data. Fields that are no files are left out.
func Multipart(r *http.Request) (Source, error) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "multipart/form-data" {
		return nil, usage.Errorf("packages are posted as multipart/form-data: curl --form file=@NAME, or one with PUT")
	}
	parts, err := r.MultipartReader()
	if err != nil {
		return nil, usage.Errorf("the request cannot be read: %w", err)
	}
	return func() (string, io.Reader, error) {
		for {
			part, err := parts.NextPart()
			switch {
			case err == io.EOF:
				return "", nil, io.EOF
			case err != nil:
				return "", nil, usage.Errorf("the request cannot be read: %w", err)
			case part.FileName() != "":
				return part.FileName(), part, nil
			}
		}
	}, nil
}

// refuse answers with an error by its class.
func (s *Store) refuse(w http.ResponseWriter, r *http.Request, err error) {
	code, text := http.StatusInternalServerError, "an internal error, see the bastion's log"
	var mistake *usage.Error
	switch {
	case errors.As(err, &mistake), errors.Is(err, io.ErrUnexpectedEOF):
		code, text = http.StatusBadRequest, reply.Sentence(err)
	case errors.Is(err, fs.ErrNotExist):
		code, text = http.StatusNotFound, reply.Sentence(err)
	case errors.Is(err, fs.ErrExist):
		code, text = http.StatusConflict, reply.Sentence(err)
	case errors.Is(err, syscall.ENOSPC):
		code = http.StatusInsufficientStorage
		text = "the bastion's disk is full: remove content and run casemate gc --now"
	case errors.Is(err, syscall.EINPROGRESS):
		code = http.StatusServiceUnavailable
		text = "it is not known whether this was done: send the same request again, which does no harm"
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		code, text = http.StatusServiceUnavailable, "not possible at this moment, try again"
	}
	if code == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "5")
	}
	if code >= 500 && r.Context().Err() == nil {
		s.cfg.Log.Warn("package request failed", "client", r.RemoteAddr, "method", r.Method,
			"path", reply.Clip(r.URL.Path), "status", code, "err", err)
	}
	reply.Refuse(w, r, code, "", text)
}

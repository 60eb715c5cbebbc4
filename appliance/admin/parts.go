package admin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"casemate/appliance/access"
	"casemate/appliance/content"
	"casemate/appliance/handover"
	"casemate/appliance/parts"
	"casemate/appliance/reply"
	"casemate/appliance/usage"
	"casemate/bundle"
)

// stateWait is how long an answer waits for a part to be wanted, so that a command need not ask again and again.
const stateWait = 20 * time.Second

// partRoutes serves imports whose files arrive in parts, over https.
func (a *API) partRoutes(on *routes) {
	on.json("POST /v1/imports/parts", to(access.Import), a.postParts)
	on.json("GET /v1/imports/parts", to(access.Import), a.listParts)
	on.json("POST /v1/imports/form", to(access.Import), a.postForm)
	on.json("GET /v1/imports/parts/{id}", to(access.Import), a.atHolder(func(r *http.Request) (any, error) {
		s, err := a.Parts.Find(subject(r).Name, r.PathValue("id"))
		if err != nil {
			return nil, err
		}
		return partsState(r, s)
	}))
	on.json("PATCH /v1/imports/parts/{id}", to(access.Import), a.atHolder(a.patchParts))
	on.json("DELETE /v1/imports/parts/{id}", to(access.Import), a.atHolder(func(r *http.Request) (any, error) {
		s, err := a.Parts.Find(subject(r).Name, r.PathValue("id"))
		if err == nil {
			s.End()
		}
		return nil, err
	}))
}

func partsState(r *http.Request, s *parts.Session) (any, error) {
	ctx, cancel := context.WithTimeout(r.Context(), stateWait)
	defer cancel()
	return s.State(ctx)
}

// postParts begins an import. It goes on when the request has ended, until its files have arrived or no part comes for
// a while.
func (a *API) postParts(r *http.Request) (any, error) {
	var q handover.Request
	if err := read(r, &q); err != nil {
		return nil, err
	}
	var files []parts.File
	for _, in := range q.Inputs {
		if in.Dir {
			return nil, usage.Errorf("%.200q is a directory, which cannot be sent over https: pack it with tar",
				in.Name)
		}
		files = append(files, parts.File{Name: in.Name, Size: in.Size, Modified: in.Modified})
	}
	run, err := a.newImport(q)
	if err != nil {
		return nil, err
	}
	by := subject(r)
	about := parts.About{Name: q.Name, Hold: q.Hold, Partial: q.Partial, DryRun: q.DryRun}
	s, err := a.Parts.Open(by.Name, about, files)
	if err != nil {
		return nil, err
	}
	for i, f := range s.Files() {
		run.Inputs = append(run.Inputs, bundle.Input{Name: files[i].Name, File: f})
	}
	run.Progress = func(p content.Progress) { s.Progress(p.Done, p.Phase) }
	stop := context.AfterFunc(a.Imports.Context(), func() { s.Close(errStopping) })
	a.imports.Go(func() {
		defer stop()
		res, err := a.Imports.Import(WithSubject(s.Context(), by), run)
		switch {
		case err != nil && a.Imports.Context().Err() != nil: // the sender goes on when the bastion is back
			s.Close(errStopping)
			return
		case err != nil:
			s.Finish(importStatus(err), nil, errors.New(reply.Sentence(err)))
			return
		}
		s.Finish(http.StatusOK, res, nil)
	})
	return partsState(r, s)
}

var errStopping = fmt.Errorf("the bastion is stopping: import the same again: %w", syscall.EAGAIN)

// patchParts takes a part: ?file=N&offset=N&last=true with the SHA-256 of the body in Content-Digest (RFC 9530).
func (a *API) patchParts(r *http.Request) (any, error) {
	s, err := a.Parts.Find(subject(r).Name, r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	q := r.URL.Query()
	index, err1 := strconv.Atoi(q.Get("file"))
	offset, err2 := strconv.ParseInt(q.Get("offset"), 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return nil, usage.Errorf("file and offset are numbers: %w", err)
	}
	sum, err := contentDigest(r.Header.Get("Content-Digest"))
	if err != nil {
		return nil, err
	}
	done, err := s.Receive(index, offset) // before the body, so that none is kept in vain
	if err != nil {
		return nil, err
	}
	defer done()
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, parts.MaxPart))
	if large := new(http.MaxBytesError); errors.As(err, &large) {
		return nil, usage.Errorf("a part has at most %d bytes", parts.MaxPart)
	}
	if err != nil {
		return nil, usage.Errorf("the part has not arrived whole: %w", err)
	}
	if got := sha256.Sum256(body); !bytes.Equal(got[:], sum) {
		return nil, errSum
	}
	if err := s.Put(index, offset, body, q.Get("last") == "true"); err != nil {
		return nil, err
	}
	done()
	return partsState(r, s)
}

var errSum = fmt.Errorf("the bytes of the part do not have the SHA-256 in Content-Digest, send it again: %w",
	syscall.EAGAIN)

// contentDigest returns the SHA-256 of a header Content-Digest (RFC 9530): sha-256=:BASE64:
func contentDigest(header string) ([]byte, error) {
	value, ok := strings.CutPrefix(strings.TrimSpace(header), "sha-256=:")
	value, closed := strings.CutSuffix(value, ":")
	sum, err := base64.StdEncoding.DecodeString(value)
	if !ok || !closed || err != nil || len(sum) != sha256.Size {
		return nil, usage.Errorf("a part needs Content-Digest: sha-256=:BASE64:, got %.100q", header)
	}
	return sum, nil
}

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"casemate/appliance/handover"
	"casemate/appliance/parts"
)

// Of sending an import over https.
const (
	sendTries = 30              // in a row without a part that arrives
	sendPause = 2 * time.Second // between two of them
	maxBegun  = 30              // times that the bastion may lose an import
)

// sender sends the files of an import over https, in the parts that the bastion wants.
type sender struct {
	c      *client
	files  []*window
	total  int64                     // bytes of all files, -1 if unknown
	report func(p handover.Progress) // called after each part
	pause  func(context.Context)     // between two tries
	// begin begins the import, again if the bastion does not know it any more.
	begin func(context.Context) (parts.State, error)
}

// sendImport runs an import whose files are sent to a server, and returns its result.
func (c *client) sendImport(ctx context.Context, req handover.Request, paths []string,
	report func(handover.Progress)) (json.RawMessage, error) {
	s := &sender{c: c, report: report, pause: func(ctx context.Context) {
		select {
		case <-time.After(sendPause):
		case <-ctx.Done():
		}
	}}
	defer s.close()
	if err := s.open(&req, paths); err != nil {
		return nil, err
	}
	s.begin = func(ctx context.Context) (parts.State, error) { return c.beginImport(ctx, &req) }
	state, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	req.Wait = true // should it begin again: what the bastion still does of it comes first
	err = s.send(ctx, &state)
	// The bastion need not wait for more; if it cannot be told, it stops waiting by itself.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendPause)
	defer cancel()
	c.call(end, "DELETE", "imports/parts/"+seg(state.ID), nil, nil, nil)
	if err != nil {
		return nil, err
	}
	if state.Error != "" {
		return nil, &apiError{state.Status, state.Error}
	}
	return state.Result, nil
}

// beginImport begins an import on the server.
func (c *client) beginImport(ctx context.Context, req *handover.Request) (state parts.State, err error) {
	err = c.call(ctx, "POST", "imports/parts", nil, req, &state)
	if refused := new(apiError); errors.As(err, &refused) && refused.status == http.StatusBadRequest && !req.Hold {
		// A bastion of an older version refuses what it does not know: the sizes of files.
		for i := range req.Inputs {
			req.Inputs[i] = handover.Named{Name: req.Inputs[i].Name}
		}
		if c.call(ctx, "POST", "imports/parts", nil, req, &state) == nil {
			err = nil
		}
	}
	return state, err
}

// open opens the files, and names them in the request.
func (s *sender) open(req *handover.Request, paths []string) error {
	for _, path := range paths {
		f := os.Stdin
		if path != "-" {
			var err error
			if f, err = os.Open(path); err != nil {
				return err
			}
		}
		w := &window{f: f}
		s.files = append(s.files, w)
		info, err := f.Stat()
		switch {
		case err != nil:
			return err
		case info.IsDir():
			return usageError{fmt.Errorf("%s is a directory, which cannot be sent with --server: pack it, as in "+
				"tar -C %s -c . | casemate import - --name NAME", path, path)}
		}
		named := handover.Named{Name: path}
		switch regular := info.Mode().IsRegular(); {
		case regular && path != "-":
			w.again, named.Size, named.Modified = true, info.Size(), info.ModTime().UTC()
			fallthrough
		case regular:
			if s.total >= 0 {
				s.total += info.Size()
			}
		default:
			s.total = -1
		}
		req.Inputs = append(req.Inputs, named)
	}
	return nil
}

func (s *sender) close() {
	for _, w := range s.files {
		if w.f != os.Stdin {
			w.f.Close()
		}
	}
}

// send sends parts until the import has finished. A part whose answer is lost is sent again if the bastion still wants
// it; a bastion that does not answer is asked again for a minute. One that has lost the import, because it was started
// again or because another bastion answers now, gets the same files again, of which it wants only what is not stored.
func (s *sender) send(ctx context.Context, state *parts.State) error {
	failed, begun := 0, 1
	for !state.Finished {
		s.report(handover.Progress{Done: state.Done, Total: s.total, Phase: state.Phase})
		path := "imports/parts/" + seg(state.ID)
		var err error
		if state.File < 0 {
			err = s.c.call(ctx, "GET", path, nil, nil, state)
		} else {
			p, unread := s.read(state)
			if unread != nil {
				return unread
			}
			if err = s.put(ctx, path, p, state); err == nil {
				failed = 0
			}
		}
		if statusOf(err) == http.StatusNotFound && begun < maxBegun {
			begun++
			var again parts.State
			if again, err = s.begin(ctx); err == nil {
				*state = again
				continue
			}
			if statusOf(err) == http.StatusNotFound {
				return err
			}
		}
		switch code := statusOf(err); {
		case err == nil:
			continue
		case ctx.Err() != nil:
			return ctx.Err()
		case code != 0 && code < 500 && code != http.StatusConflict && code != http.StatusNotFound,
			code == http.StatusNotFound && begun >= maxBegun:
			return err // it would answer the same again
		}
		if failed++; failed == sendTries {
			return err
		}
		s.pause(ctx)
		state.File = -1 // ask where to go on
	}
	return nil
}

// statusOf returns the HTTP status of a bastion's answer that is an error, 0 for other errors and for none.
func statusOf(err error) int {
	var answer *apiError
	if errors.As(err, &answer) {
		return answer.status
	}
	return 0
}

// part is a part of a file.
type part struct {
	file   int
	offset int64
	bytes  []byte
	last   bool
}

// window reads parts of one file. It keeps the last part until one further on is wanted, because standard input cannot
// be read again.
type window struct {
	f     *os.File
	again bool   // it can be read at any offset
	at    int64  // offset of buf
	buf   []byte // bytes that were read
	ended bool   // buf ends where the file ends
}

// read returns the part at offset, of most bytes, and whether the file ends with it. What is before offset is not
// wanted any more.
func (w *window) read(offset int64, most int) ([]byte, bool, error) {
	if offset < w.at && w.again {
		w.at, w.buf, w.ended = offset, nil, false
	}
	if offset < w.at {
		return nil, false, fmt.Errorf("the bastion wants byte %d of %s again: import the same again", offset,
			w.f.Name())
	}
	kept := min(offset-w.at, int64(len(w.buf)))
	rest := w.buf[kept:]
	if skip := offset - w.at - kept; skip > 0 && !w.again && !w.ended {
		if _, err := io.CopyN(io.Discard, w.f, skip); errors.Is(err, io.EOF) {
			w.ended = true
		} else if err != nil {
			return nil, false, fmt.Errorf("read %s: %w", w.f.Name(), err)
		}
	}
	if n := most + 1; len(rest) < n && !w.ended { // one byte more, to learn whether the file ends
		buf := make([]byte, n)
		have := copy(buf, rest)
		var from io.Reader = w.f
		if w.again {
			from = io.NewSectionReader(w.f, offset+int64(have), int64(n))
		}
		more, err := io.ReadFull(from, buf[have:])
		w.ended = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !w.ended {
			return nil, false, fmt.Errorf("read %s: %w", w.f.Name(), err)
		}
		rest = buf[:have+more]
	}
	w.at, w.buf = offset, rest
	part := rest[:min(len(rest), most)]
	return part, w.ended && len(part) == len(rest), nil
}

// read reads the part that is wanted.
func (s *sender) read(state *parts.State) (*part, error) {
	if state.File >= len(s.files) || state.Most < 1 || state.Most > parts.MaxPart {
		return nil, fmt.Errorf("the bastion wants %d bytes of the file %d of %d", state.Most, state.File, len(s.files))
	}
	p := &part{file: state.File, offset: state.Offset}
	var err error
	p.bytes, p.last, err = s.files[state.File].read(state.Offset, state.Most)
	return p, err
}

// put sends a part.
func (s *sender) put(ctx context.Context, path string, p *part, state *parts.State) error {
	query := url.Values{"file": {strconv.Itoa(p.file)}, "offset": {strconv.FormatInt(p.offset, 10)}}
	if p.last {
		query.Set("last", "true")
	}
	sum := sha256.Sum256(p.bytes)
	header := map[string]string{"Content-Type": "application/octet-stream",
		"Content-Digest": "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"}
	resp, err := s.c.sendWith(ctx, "PATCH", path, query, bytes.NewReader(p.bytes), header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return decode(resp.Body, state)
}

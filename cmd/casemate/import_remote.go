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
)

// sender sends the files of an import over https, in the parts that the bastion wants.
type sender struct {
	c      *client
	files  []*os.File
	total  int64                     // bytes of all files, -1 if unknown
	report func(p handover.Progress) // called after each part
	pause  func(context.Context)     // between two tries
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
	var state parts.State
	if err := c.call(ctx, "POST", "imports/parts", nil, req, &state); err != nil {
		return nil, err
	}
	err := s.send(ctx, &state)
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
		s.files = append(s.files, f)
		info, err := f.Stat()
		switch {
		case err != nil:
			return err
		case info.IsDir():
			return usageError{fmt.Errorf("%s is a directory, which cannot be sent with --server: pack it, as in "+
				"tar -C %s -c . | casemate import - --name NAME", path, path)}
		case info.Mode().IsRegular() && s.total >= 0:
			s.total += info.Size()
		default:
			s.total = -1
		}
		req.Inputs = append(req.Inputs, handover.Named{Name: path})
	}
	return nil
}

func (s *sender) close() {
	for _, f := range s.files {
		if f != os.Stdin {
			f.Close()
		}
	}
}

// send sends parts until the import has finished. A part whose answer is lost is sent again if the bastion still wants
// it; a bastion that does not answer is asked again for a minute.
func (s *sender) send(ctx context.Context, state *parts.State) error {
	path := "imports/parts/" + seg(state.ID)
	var p part
	failed := 0
	for !state.Finished {
		s.report(handover.Progress{Done: state.Done, Total: s.total, Phase: state.Phase})
		var err error
		if state.File < 0 {
			err = s.c.call(ctx, "GET", path, nil, nil, state)
		} else {
			if err := s.read(&p, state); err != nil {
				return err
			}
			err = s.put(ctx, path, &p, state)
		}
		var answer *apiError
		switch {
		case err == nil:
			failed = 0
			continue
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &answer) && answer.status < 500 && answer.status != 409:
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

// part is the last part that was read. It is kept until another is wanted, because standard input cannot be read
// again.
type part struct {
	file   int
	offset int64
	bytes  []byte
	last   bool
	read   bool
	ahead  map[int]byte // of each file, the byte that was read to learn whether the file ends
}

// read reads the part that is wanted, unless it has been read.
func (s *sender) read(p *part, state *parts.State) error {
	if p.read && p.file == state.File && p.offset == state.Offset {
		return nil
	}
	if state.File >= len(s.files) {
		return fmt.Errorf("the bastion wants the file %d of %d", state.File, len(s.files))
	}
	if p.ahead == nil {
		p.ahead = map[int]byte{}
	}
	f := s.files[state.File]
	buf := make([]byte, state.Most+1)
	n := 0
	if b, ok := p.ahead[state.File]; ok {
		buf[0], n = b, 1
		delete(p.ahead, state.File)
	}
	more, err := io.ReadFull(f, buf[n:])
	n += more
	last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	if err != nil && !last {
		return fmt.Errorf("read %s: %w", f.Name(), err)
	}
	if !last {
		n--
		p.ahead[state.File] = buf[n]
	}
	p.file, p.offset, p.bytes, p.last, p.read = state.File, state.Offset, buf[:n], last, true
	return nil
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

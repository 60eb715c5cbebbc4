package replica

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"sync"

	"casemate/cluster/blob"
)

// streamFrom is the size from which on an upload is copied before it is complete.
const streamFrom = 1 << 20

// unasked is the size up to which a blob is sent without asking whether the other node has it. If it has, its server
// still reads so many bytes without closing the connection. Such a blob is read once for all copies and sent from
// memory in one piece with its header: net/http sends the header of a request with an unknown body by itself, which
// wakes the other side for it.
const unasked = 64 << 10

// streamingCopy copies a growing scratch file to one node. It is the body of the request, unless the blob is sent from
// memory.
type streamingCopy struct {
	ctx     context.Context
	cancel  context.CancelFunc
	file    blob.File   // nil if the blob is sent from memory
	trailer http.Header // of the request: written before Read returns io.EOF
	off     int64       // owned by Read
	moved   chan struct{}
	done    chan struct{} // closed when index or err is set
	index   uint64
	err     error

	mu     sync.Mutex
	size   int64
	digest string // set when the file is complete
}

// startCopies begins copies of an upload to the voters that are up. With a digest the upload is complete, and nodes
// that have its bytes already are not sent them.
func (s *Store) startCopies(w *blob.Writer, digest string) map[string]*streamingCopy {
	copies := map[string]*streamingCopy{}
	size := w.Size()
	small := digest != "" && size <= unasked
	var data []byte
	if small {
		var err error
		if data, err = readScratch(w, size); err != nil {
			return copies // Replicate reads it again, and says why
		}
	}
	voters, _ := s.state.Voters()
	for node := range voters {
		if node == s.cfg.Node {
			continue
		}
		ctx, cancel, ok := s.peers.Alive(s.life, node)
		if !ok {
			continue
		}
		t := &streamingCopy{
			ctx: ctx, cancel: cancel, trailer: http.Header{digestTrailer: nil},
			moved: make(chan struct{}, 1), done: make(chan struct{}), size: size, digest: digest,
		}
		var body io.Reader = bytes.NewReader(data)
		if !small {
			file, err := w.OpenScratch()
			if err != nil {
				cancel()
				continue
			}
			t.file, body = file, t
		}
		url := "http://" + node + "/blob"
		if digest != "" {
			url += "/" + digest
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, url, body)
		if err != nil {
			cancel()
			t.Close()
			continue
		}
		switch {
		case digest == "":
			req.ContentLength, req.Trailer = -1, t.trailer
		case !small:
			req.ContentLength = size
		}
		if !s.tasks.Background(func() {
			defer close(t.done)
			defer cancel()
			if digest != "" && !small {
				a, err := s.peers.Ask(ctx, http.MethodPost, node, "/confirm/"+digest, http.NoBody)
				if err != nil || a.Kind == "" {
					t.index, t.err = a.Index, err
					t.Close()
					return
				}
			}
			t.index, t.err = s.confirmedBy(req)
		}) {
			cancel()
			t.Close()
			continue
		}
		copies[node] = t
	}
	return copies
}

// readScratch reads the first size bytes of a scratch file.
func readScratch(w *blob.Writer, size int64) ([]byte, error) {
	file, err := w.OpenScratch()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data := make([]byte, size)
	_, err = io.ReadFull(io.NewSectionReader(file, 0, size), data)
	return data, err
}

// grown reports the current size and, with a digest, that the file is complete.
func (t *streamingCopy) grown(size int64, digest string) {
	t.mu.Lock()
	t.size, t.digest = size, digest
	t.mu.Unlock()
	select {
	case t.moved <- struct{}{}:
	default:
	}
}

// finish waits for the reply.
func (t *streamingCopy) finish(ctx context.Context) (uint64, error) {
	stop := context.AfterFunc(ctx, t.cancel)
	defer stop()
	<-t.done
	return t.index, t.err
}

// stop cancels the copy, unless it has ended, and waits for its end.
func (t *streamingCopy) stop() {
	t.cancel()
	<-t.done
}

// Close implements io.Closer: the request no longer needs its body.
func (t *streamingCopy) Close() error {
	if t.file == nil {
		return nil
	}
	return t.file.Close()
}

// Read implements io.Reader: it waits for the upload to grow.
func (t *streamingCopy) Read(p []byte) (int, error) {
	for {
		t.mu.Lock()
		size, digest := t.size, t.digest
		t.mu.Unlock()
		if t.off < size {
			n, err := t.file.ReadAt(p[:min(int64(len(p)), size-t.off)], t.off)
			t.off += int64(n)
			if n > 0 {
				err = nil
			}
			return n, err
		}
		if digest != "" {
			t.trailer.Set(digestTrailer, digest)
			return 0, io.EOF
		}
		select {
		case <-t.moved:
		case <-t.ctx.Done():
			return 0, t.ctx.Err()
		}
	}
}

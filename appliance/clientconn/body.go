package clientconn

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Body bounds how long reading a request's body may wait for the client, over the whole request: as for writes, it
// is the time in which somebody waited for it, over stallChunk bytes. It lies around the body, not the connection,
// because the server reads the connection on its own while a handler sends, and a deadline there would end a download.
type Body struct {
	io.ReadCloser
	deadline func(time.Time) error // http.ResponseController's SetReadDeadline
	stall    time.Duration
	expects  bool // the client waits for 100 Continue, which reading sends

	mu      sync.Mutex // of whoever reads
	waited  time.Duration
	got     int
	touched bool
	done    bool // all of it was read, or it was closed
}

// NewBody returns the body of r, whose answer goes to w.
func NewBody(w http.ResponseWriter, r *http.Request, stall time.Duration) *Body {
	return &Body{
		ReadCloser: r.Body, deadline: http.NewResponseController(w).SetReadDeadline, stall: stall,
		expects: strings.EqualFold(r.Header.Get("Expect"), "100-continue"),
	}
}

// What a server reads of a body that nobody wants, so that the connection can be used again.
const (
	DrainTime  = 10 * time.Second
	drainBytes = 256 << 10
)

func (b *Body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	start := time.Now()
	b.deadline(start.Add(b.stall - b.waited))
	b.touched = true
	n, err := b.ReadCloser.Read(p)
	b.waited += time.Since(start)
	if b.got += n; b.got >= stallChunk {
		b.got, b.waited = 0, 0
	}
	if err == io.EOF {
		b.done = true
		b.deadline(time.Time{})
	}
	return n, err
}

func (b *Body) Close() error {
	b.deadline(time.Now().Add(DrainTime))
	err := b.ReadCloser.Close()
	b.deadline(time.Time{})
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done = true
	return err
}

// Drain reads what is left of the body before an answer begins, as the server does, but for a bounded time. It reports
// whether the connection can be used again.
func (b *Body) Drain() bool {
	if !b.mu.TryLock() {
		return true // somebody reads it
	}
	defer b.mu.Unlock()
	if b.done || b.expects && !b.touched {
		return true // there is nothing, or the server closes the connection
	}
	b.deadline(time.Now().Add(DrainTime))
	if _, err := io.CopyN(io.Discard, b.ReadCloser, drainBytes); err != io.EOF {
		return false
	}
	b.done = true
	b.deadline(time.Time{})
	return true
}

// Finish bounds what the server itself reads after the handler.
func (b *Body) Finish() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.done {
		b.deadline(time.Now().Add(DrainTime))
	}
}

package clientconn

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"casemate/cluster/stall"
)

// Body limits how long reading a request's body may wait for the client, over the whole request: it has a budget for
// each stallChunk bytes, as writes do. It wraps the body, not the connection, because the
// server reads the connection on its own while a handler sends, and a deadline there would end a download.
type Body struct {
	io.ReadCloser
	deadline func(time.Time) error // http.ResponseController's SetReadDeadline
	budget   stall.Budget
	expects  bool // the client waits for 100 Continue, which the first read sends

	mu      sync.Mutex // held by a reader
	touched bool
	done    bool // read completely, or closed
}

// NewBody returns the body of r, whose response is w.
func NewBody(w http.ResponseWriter, r *http.Request, wait time.Duration) *Body {
	return &Body{
		ReadCloser: r.Body, deadline: http.NewResponseController(w).SetReadDeadline,
		budget:  stall.Budget{Wait: wait, Chunk: stallChunk},
		expects: strings.EqualFold(r.Header.Get("Expect"), "100-continue"),
	}
}

// How much a server reads of a body that the handler did not read, to reuse the connection.
const (
	DrainTime  = 10 * time.Second
	drainBytes = 256 << 10
)

func (b *Body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	start := time.Now()
	b.deadline(start.Add(b.budget.Left()))
	b.touched = true
	n, err := b.ReadCloser.Read(p)
	b.budget.Spend(start, int64(n))
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

// Drain reads the rest of the body before a response begins, like the server, but for a limited time. It reports
// whether the connection can be reused.
func (b *Body) Drain() bool {
	if !b.mu.TryLock() {
		return true // a reader is active
	}
	defer b.mu.Unlock()
	if b.done || b.expects && !b.touched {
		return true // there is no rest, or the server closes the connection
	}
	b.deadline(time.Now().Add(DrainTime))
	if _, err := io.CopyN(io.Discard, b.ReadCloser, drainBytes); err != io.EOF {
		return false
	}
	b.done = true
	b.deadline(time.Time{})
	return true
}

// Finish limits what the server itself reads after the handler.
func (b *Body) Finish() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.done {
		b.deadline(time.Now().Add(DrainTime))
	}
}

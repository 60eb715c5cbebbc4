package upstream

import (
	"context"
	"errors"
	"fmt"
	"path"
	"sync"
	"syscall"

	"casemate/bundle/collect/diagnose"
	"casemate/cluster/tree"
)

// headSize is how many bytes are looked at before any of them is passed on.
const headSize = 1024

// errRestarted ends reads of content that began again: the origin does not continue where it broke off.
var errRestarted = errors.New("the origin sends it from the beginning again")

// flight is one fetch, which any number of clients wait for. It does not end with them: the next one finds it. As the
// sink of a download it writes to a scratch file of the tree, from which clients read.
type flight struct {
	u      *Upstream
	client string                          // who asked first
	host   string                          // the origin
	name   string                          // of the file, for a look at its beginning; "" for content with a digest
	create func() (tree.BlobWriter, error) // nil: nothing is read while it arrives
	done   chan struct{}                   // closed when it is here, or err is set
	event  Event
	tags   []string // of a list; readable when done is closed

	mu       sync.Mutex // guards the fields below
	changed  chan struct{}
	w        tree.BlobWriter
	round    int   // how often it began again
	n        int64 // bytes in w
	size     int64 // of the whole, -1 if it is not known
	reserved int64 // bytes that are still to come, see Upstream.waiting
	head     []byte
	begun    bool // the beginning looks right
	right    bool // all bytes are there, and right
	err      error
}

// fly joins the fetch of key, or begins it: run does the work. kept, if it is not nil, reports whether a fetch that has
// just ended has brought what is asked for; then there is no flight.
func (u *Upstream) fly(key, client string, of Event, kept func() bool,
	run func(ctx context.Context, f *flight) error) (*flight, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if f := u.flights[key]; f != nil {
		return f, nil
	}
	switch {
	case kept != nil && kept():
		return nil, nil
	case u.closed:
		return nil, fmt.Errorf("this node is stopping: %w", syscall.EAGAIN)
	case len(u.flights) >= maxFlights:
		return nil, errBusy
	}
	switch byClient, fromHost := u.running(client, of.Host); {
	case byClient >= maxOfOne:
		return nil, errBusy
	case fromHost >= maxOfHost:
		return nil, errHostBusy
	}
	f := &flight{u: u, client: client, host: of.Host, event: of, done: make(chan struct{}), changed: make(chan struct{}), size: -1}
	u.flights[key] = f
	u.wg.Go(func() {
		err := run(u.ctx, f)
		f.end(err)
		u.mu.Lock()
		delete(u.flights, key)
		u.mu.Unlock()
		u.finished(f, err)
		close(f.done)
	})
	return f, nil
}

// running counts the fetches that a client began, and those from an origin. u.mu is held.
func (u *Upstream) running(client, host string) (byClient, fromHost int) {
	for _, f := range u.flights {
		if f.client == client {
			byClient++
		}
		if f.host == host {
			fromHost++
		}
	}
	return byClient, fromHost
}

// notify wakes all readers. f.mu is held.
func (f *flight) notify() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// end closes the scratch file, which removes what was not kept.
func (f *flight) end(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
	f.reserve(0)
	if f.w != nil {
		f.w.Close()
		f.w = nil
	}
	f.notify()
}

// reserve accounts for the bytes that are still to come. f.mu is held.
func (f *flight) reserve(left int64) {
	f.u.mu.Lock()
	f.u.waiting += left - f.reserved
	f.u.mu.Unlock()
	f.reserved = left
}

// Begin implements download.Sink.
func (f *flight) Begin(_ string, total int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.size = total
	if total >= 0 {
		f.reserve(max(0, total-f.n))
		f.u.mu.Lock()
		waiting := f.u.waiting
		f.u.mu.Unlock()
		if free := f.u.cfg.Free(); waiting > free {
			return fmt.Errorf("%d bytes are being fetched, and %d can be stored: %w", waiting, free, syscall.ENOSPC)
		}
	}
	if f.w == nil {
		w, err := f.create()
		if err != nil {
			return err
		}
		f.w = w
	}
	return nil
}

// Write implements download.Sink.
func (f *flight) Write(p []byte) (int, error) {
	f.mu.Lock()
	w, unsized := f.w, f.size < 0
	f.mu.Unlock()
	// Only this goroutine writes.
	if most := f.u.cfg.MaxUnsized; unsized && w.Size()+int64(len(p)) > most {
		return 0, fmt.Errorf("it is sent without its length, and is larger than %d bytes", most)
	}
	n, err := w.Write(p)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n += int64(n)
	if f.reserved > 0 {
		f.reserve(max(0, f.reserved-int64(n)))
	}
	if !f.begun {
		f.head = append(f.head, p[:min(n, headSize-len(f.head))]...)
		if len(f.head) == headSize {
			if err := f.look(); err != nil {
				return n, err
			}
		}
	}
	f.notify()
	return n, err
}

// Sum implements download.Summer: the scratch file hashes what is written.
func (f *flight) Sum() (string, error) {
	f.mu.Lock()
	w := f.w
	f.mu.Unlock()
	s, ok := w.(tree.Summer)
	if !ok {
		return "", fmt.Errorf("a scratch file without a sum: %w", errors.ErrUnsupported)
	}
	digest, _, err := s.Sum()
	return digest, err
}

// look refuses what looks like an error page instead of an archive. f.mu is held.
func (f *flight) look() error {
	if what := diagnose.DescribeErrorPage(f.head, f.name); f.name != "" && what != "" &&
		diagnose.ArchiveMagic[path.Ext(f.name)] != "" {
		return errors.New(what)
	}
	f.begun, f.head = true, nil
	return nil
}

// Restart implements download.Sink.
func (f *flight) Restart() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.w == nil || f.n == 0 {
		return nil
	}
	err := f.w.Cancel()
	f.w, f.n, f.head, f.begun = nil, 0, nil, false
	f.round++
	f.notify()
	return err
}

// keep stores what was fetched. It waits for a majority, within bounds.
func (f *flight) keep(ctx context.Context, store func(ctx context.Context, w tree.BlobWriter) error) error {
	f.mu.Lock()
	if !f.begun {
		if err := f.look(); err != nil {
			f.mu.Unlock()
			return err
		}
	}
	f.right = true
	f.notify()
	w := f.w
	f.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, keepFor)
	defer cancel()
	return f.u.patiently(ctx, func() error { return store(ctx, w) })
}

// patiently repeats a write until there is a majority.
func (u *Upstream) patiently(ctx context.Context, write func() error) error {
	failures := 0
	return u.retry().Do(ctx, write, func(err error) (int, bool) {
		failures++
		return failures, errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINPROGRESS)
	})
}

// wait waits until the fetch has ended.
func (f *flight) wait(ctx context.Context) error {
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// open waits until the content begins and returns a reader; nil if it is here by now. Without sized it does so too if
// the number of bytes is not known before the end.
func (f *flight) open(ctx context.Context, sized bool) (*reader, error) {
	for {
		f.mu.Lock()
		changed := f.changed
		r := f.reader(ctx, sized)
		f.mu.Unlock()
		if r != nil {
			return r, nil
		}
		select {
		case <-f.done:
			return nil, f.err
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// reader returns a reader if there is something to read. f.mu is held.
func (f *flight) reader(ctx context.Context, sized bool) *reader {
	s, ok := f.w.(tree.Scratcher)
	if !ok || !f.begun || sized && f.size < 0 {
		return nil
	}
	scratch, err := s.OpenScratch()
	if err != nil {
		return nil // it is a blob by now
	}
	return &reader{f: f, ctx: ctx, scratch: scratch, round: f.round, size: f.size}
}

// Stat counts what was fetched from one origin.
type Stat struct {
	Host                     string
	Fetches, Failures, Bytes uint64
}

// finished counts and reports the end of a fetch.
func (u *Upstream) finished(f *flight, err error) {
	e := f.event
	f.mu.Lock()
	e.Size = f.n
	f.mu.Unlock()
	e.Client, e.Err = f.client, err
	if e.Status == 0 {
		e.Status = statusOf(err)
	}
	u.mu.Lock()
	s := u.stats[e.Host]
	if s == nil {
		s = &Stat{Host: e.Host}
		u.stats[e.Host] = s
	}
	s.Fetches++
	s.Bytes += uint64(e.Size)
	if err != nil {
		s.Failures++
	}
	u.mu.Unlock()
	if err != nil {
		u.cfg.Log.Warn("fetch failed", "kind", e.Kind, "name", e.Name, "client", e.Client, "err", err)
	} else {
		u.cfg.Log.Info("fetched", "kind", e.Kind, "name", e.Name, "client", e.Client, "digest", e.Digest,
			"size", e.Size, "redirect", withoutQuery(e.Target))
	}
	u.cfg.Observe(e)
}

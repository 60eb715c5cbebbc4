// Package content imports content that crossed the gap into the tree, each import as a whole, and reports what an
// import brought, what it would change and what it hides.
//
// It promises: the names of an import appear in one log entry, after every byte is durable, or not at all. What was
// read before an interruption need not be read again. Importing the same content again writes nothing. Removing an
// import leaves the content of older imports and of pushes.
//
// An import NAME has the following entries, all under the claim NAME, so that dropping the claim removes all of them:
//
//	imports/NAME/record    Record, JSON
//	imports/NAME/index     a link to its index document
//
// An incomplete import has, without a claim:
//
//	imports/pending/KEY/record        pending, JSON
//	imports/pending/KEY/index         a link to its index document, once it is known
//	imports/pending/KEY/new/DIGEST    links that retain the blobs that came with it
//	imports/pending/KEY/held/DIGEST   links that retain the blobs that were stored before
//
// A staged import has no names of its own: the tree holds the batch that publishes it, until it is approved.
//
// KEY is the bundle's id, or else derived from the import's name. A DIGEST is written with "-" for ":".
package content

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"casemate/bundle"
	"casemate/bundle/input"
	"casemate/cluster"
	"casemate/registry"
)

// Tree is what the engine needs of the tree; *cluster.Tree implements it. The contract, errors included, is
// documented there and in cluster/treetest.
type Tree interface {
	Stat(name string) (fs.FileInfo, error)
	ReadFile(name string) ([]byte, error)
	ReadDir(name string) ([]fs.DirEntry, error)
	Walk(dir, after string) iter.Seq2[string, fs.FileInfo]
	Update(ctx context.Context, fn func(cluster.Batch) error) error
	StatBlob(digest string) (int64, error)
	HasBlob(ctx context.Context, digest string) (int64, error)
	OpenBlob(ctx context.Context, digest string) (io.ReadSeekCloser, error)
	// The writers of CreateBlob must have the method Sum, which returns the sha256 digest of what was written, and
	// its size.
	CreateBlob(id string) (cluster.BlobWriter, error)
	CommitBlobs(ctx context.Context, writers []cluster.BlobWriter, digests []string) ([]string, error)
	ResumeBlob(id string) (cluster.BlobWriter, error)
	DropClaims(ctx context.Context, claim string) error
	ApprovalRequired() bool
	Hold(ctx context.Context, h cluster.Held, held, now func(cluster.Batch) error) error
	Reject(ctx context.Context, id string) error
	Held() []cluster.Held
	HeldEdits(id string) iter.Seq[cluster.HeldEdit]
	HeldEffect(id string) (diff string, edits iter.Seq[cluster.HeldEdit], ok bool)
	Claims() iter.Seq2[string, int]
	Claimed(claim string) iter.Seq2[string, fs.FileInfo]
	ClaimsOf(name string) []cluster.Claim
	Kept() iter.Seq2[string, int64]
}

// Images is what the engine needs of the registry. Batches and names are relative to the registry's part of the tree,
// registry/.
type Images interface {
	Link(b registry.Batch, im registry.Import) error
	NameOf(treeName string) (repository, tag, digest string, ok bool)
	TreeName(repository, tag, digest string) (string, error)
	LayerName(repository, digest string) (string, error)
	Referrers(repository, digest string) iter.Seq[string]
}

// Host is one host whose content is in an import.
type Host struct {
	Name     string // canonical
	Registry bool   // it serves images
}

// Origins reports what happened to the hosts of an import that were not enabled origins before.
type Origins struct {
	// Enabled hosts are served from now on: DNS, certificates.
	Enabled []string `json:"enabled,omitempty"`
	// NotPermitted hosts are stored and recorded, but the CA's root permits no certificate for them.
	NotPermitted []string `json:"not_permitted,omitempty"`
	// Removed are built-in origins that the operator removed; they stay removed.
	Removed []string `json:"removed,omitempty"`
	// Refused hosts cannot be origins: addresses, names without a dot, names in the own zone.
	Refused []string `json:"refused,omitempty"`
}

// Config is the engine's configuration. Tree and Images are required.
type Config struct {
	Tree   Tree
	Images Images
	// Canonical maps a host to its origin if it is an alias, else to its normalized form. Nil: hosts are used as they
	// are.
	Canonical func(host string) string
	// Managed reports whether a key of the file server is written by others, and so by no import. Nil: none is.
	Managed func(key string) bool
	// Read reads inputs; nil is bundle.Read.
	Read func(context.Context, []bundle.Input, bundle.Sink, bundle.ReadOptions) (*bundle.Contents, error)
	// Policy is called at the start of each import. Nil: no signature is required.
	Policy func() Policy
	// Origins returns what Publish would do with hosts. Nil: nothing.
	Origins func([]Host) (Origins, error)
	// Publish commits the changes that write adds to a batch, and makes hosts origins, in one log entry. It may call
	// write several times, with the resulting state of the hosts. Nil: hosts are ignored.
	Publish func(ctx context.Context, hosts []Host, write func(cluster.Batch, Origins) error) error
	// Room returns how many bytes may still be written. Nil: unlimited.
	Room func() int64
	// Discard frees the unreferenced blobs among digests at once and returns the number of bytes freed. Nil: they are
	// collected when their pins expire.
	Discard func(ctx context.Context, digests []string) (freed int64, err error)
	// Behind returns who has created the API key that an actor is, "" if the actor is none. Nil: no actor is.
	Behind func(actor string) string
	// Node is this node's name, which is stored in records.
	Node string
	// Checkpoint returns the signed checkpoint of the audit log, "" if there is none; nil: there is no log.
	Checkpoint func(ctx context.Context) string
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Log gets a line for each import; nil: nothing is logged.
	Log *slog.Logger

	flushEvery time.Duration // how often stored blobs are linked below pending; 0 is ten seconds
	flushAt    int           // number of blobs after which they are linked at once; 0 is 512
	groupAt    int           // number of small blobs committed together, with their files open until then; 0 is 512
	largeAt    int64         // size in bytes from which a blob can be resumed; 0 is 64 MiB
}

// Engine runs imports. Its methods are safe for concurrent use; one import runs at a time. Close must be called.
type Engine struct {
	cfg  Config
	base context.Context // ends with Close
	stop context.CancelCauseFunc
	wg   sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	running *job

	read, took atomic.Int64 // bytes of blobs read, and nanoseconds of imports, for metrics
}

// errStopping ends imports when the node stops.
var errStopping = errors.New("this node is stopping: run the same import again; it continues where it stopped")

// New returns an engine; it does no I/O.
func New(cfg Config) *Engine {
	if cfg.Read == nil {
		cfg.Read = input.Read
	}
	if cfg.Canonical == nil {
		cfg.Canonical = func(host string) string { return host }
	}
	if cfg.Policy == nil {
		cfg.Policy = func() Policy { return Policy{} }
	}
	if cfg.Origins == nil {
		cfg.Origins = func([]Host) (Origins, error) { return Origins{}, nil }
	}
	if cfg.Publish == nil {
		cfg.Publish = func(ctx context.Context, _ []Host, write func(cluster.Batch, Origins) error) error {
			return cfg.Tree.Update(ctx, func(b cluster.Batch) error { return write(b, Origins{}) })
		}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.flushEvery == 0 {
		cfg.flushEvery = 10 * time.Second
	}
	if cfg.flushAt == 0 {
		cfg.flushAt = 512
	}
	if cfg.groupAt == 0 {
		cfg.groupAt = groupBlobs
	}
	if cfg.largeAt == 0 {
		cfg.largeAt = 64 << 20
	}
	e := &Engine{cfg: cfg}
	e.base, e.stop = context.WithCancelCause(context.Background())
	return e
}

// Close ends a running import, whose progress is retained for the next run, and waits for it. It is safe to call more
// than once.
func (e *Engine) Close() {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.stop(errStopping)
	e.wg.Wait()
}

// Context is done when Close is called.
func (e *Engine) Context() context.Context { return e.base }

// Running returns the requested name of the running import, "" if none is running.
func (e *Engine) Running() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running == nil {
		return ""
	}
	return e.running.base
}

// Totals returns the bytes of blobs that this process's imports read and the time that they ran, for metrics.
func (e *Engine) Totals() (bytes int64, took time.Duration) {
	return e.read.Load(), time.Duration(e.took.Load())
}

// begin makes j the running import. fs.ErrExist: another import is running. Every begin must be followed by end.
//
// If the running import's command has gone away, begin waits for that import to end, which takes a moment: a user who
// interrupts an import is told to run the same command again. With Request.Wait it waits for any running import.
func (e *Engine) begin(ctx context.Context, j *job) error {
	j.ctx, j.ended = ctx, make(chan struct{})
	for {
		e.mu.Lock()
		before := e.running
		if j.dry || before == nil || before.ctx.Err() == nil && !j.req.Wait {
			defer e.mu.Unlock()
			return e.beginNow(j)
		}
		e.mu.Unlock()
		j.req.Progress(Progress{Phase: PhaseWaiting, Total: -1})
		select {
		case <-before.ended:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// beginNow is begin without waiting. The caller holds the lock.
func (e *Engine) beginNow(j *job) error {
	switch {
	case e.closed:
		return errStopping
	case j.dry:
	case e.running != nil:
		return fmt.Errorf("the import %s is running since %s: wait until it ends: %w", e.running.base,
			e.running.started.UTC().Format(time.RFC3339), fs.ErrExist)
	default:
		e.running = j
	}
	e.wg.Add(1)
	return nil
}

func (e *Engine) end(j *job) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running == j {
		e.running = nil
	}
	close(j.ended)
	e.took.Add(int64(e.cfg.Now().Sub(j.started)))
	e.wg.Done()
}

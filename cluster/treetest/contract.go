// Package treetest holds the contract of the tree, written down once in standard library types,
// an in-memory tree that keeps it strictly, and the conformance test that every tree passes.
//
// Services do not import this package: each declares the few methods that it needs in its own package, in terms of
// cluster/tree, so that *cluster.Tree satisfies them as it is. Their tests run on Mem.
package treetest

import (
	"context"
	"io"
	"io/fs"
	"iter"

	"casemate/cluster/tree"
)

// Batch and BlobWriter are what the contract's methods take and give.
type (
	Batch      = tree.Batch
	BlobWriter = tree.BlobWriter
)

// Info is what every fs.FileInfo of the tree implements besides.
type Info = tree.Info

// Tree is the whole contract.
//
// Errors of writes, all to be tested with errors.Is: fs.ErrInvalid (bad name, record too large), fs.ErrExist (an Expect
// does not hold, or a file stands where a directory must be, or the other way round), fs.ErrNotExist (a Link to an
// unknown blob), syscall.EBADMSG (bytes do not have the digest), syscall.ENOSPC (the disk's reserve is reached),
// syscall.EAGAIN (no majority now: try again later; answered as 503). An error that is syscall.EINPROGRESS, too, says
// that it is not known whether the write has happened or will: the same once more does no harm.
type Tree interface {
	// Open, Stat, ReadFile and ReadDir are local and see the newest state applied on this node. A weak link whose blob
	// is gone does not exist. Open and ReadFile of a link are syscall.EIO when the bytes of its blob are damaged or
	// lost; Stat and ReadDir do not look at them. A directory exists while a file is below it; the root always does.
	// ReadDir is sorted by name.
	fs.StatFS
	fs.ReadFileFS
	fs.ReadDirFS
	// Walk yields the files below dir (no directories) with names relative to the tree's root, ordered component by
	// component ("a/b" before "a-b"), beginning behind after ("" for all; it need not exist), from one consistent
	// state.
	Walk(dir, after string) iter.Seq2[string, fs.FileInfo]
	// Update runs fn to fill a batch and commits it; when it returns nil this node has applied it (promise 3). An error
	// of fn is returned as it is and nothing is written. An empty batch is nil at once. A batch of any size is taken.
	Update(ctx context.Context, fn func(Batch) error) error
	// StatBlob returns the size of a blob that the tree knows, else fs.ErrNotExist.
	StatBlob(digest string) (int64, error)
	// HasBlob returns the size of a blob whose bytes can be had, whole, as far as can be known without reading them.
	// fs.ErrNotExist: the tree does not know it. syscall.EIO: its bytes are damaged or lost, the error says which;
	// storing them once more repairs it. syscall.EAGAIN: not now.
	HasBlob(ctx context.Context, digest string) (int64, error)
	// OpenBlob opens a blob by digest; errors are those of HasBlob. What it returns may be an *os.File, and then it
	// goes to a socket by sendfile when it is not wrapped.
	OpenBlob(ctx context.Context, digest string) (io.ReadSeekCloser, error)
	// CreateBlob opens a new scratch file; id is [A-Za-z0-9._-]{1,128}, or "" for one that cannot be resumed. An
	// existing id is truncated.
	CreateBlob(id string) (BlobWriter, error)
	// ResumeBlob opens the scratch file of that id to go on at its end, else fs.ErrNotExist.
	ResumeBlob(id string) (BlobWriter, error)
	// Watch returns a channel that receives (coalesced, capacity 1) after any change at or below dir, until ctx is
	// done; then it is closed. A change made here is on the channel before its Update returns: who keeps something
	// derived from the tree can ask the channel without waiting and is never behind a write that was answered.
	Watch(ctx context.Context, dir string) <-chan struct{}
	// Follow is Watch for who takes up changes one by one. take returns the names below dir that were written or
	// removed since it was called last, or since Follow, sorted, relative to the tree's root; a removed directory is
	// its name alone. all says that they are more than 4096 or not known: anything below dir may have changed, and
	// names is empty. After take the tree shows the changes that it told, or newer ones.
	Follow(ctx context.Context, dir string) (changed <-chan struct{}, take func() (names []string, all bool))
}

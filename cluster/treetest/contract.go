// Package treetest holds the contract of the tree, written down once in standard library types,
// an in-memory tree that keeps it strictly, and the conformance test that every tree passes.
//
// Services do not import this package: each declares the few methods that it needs in its own package
// (with Batch and BlobWriter as aliases of the same literal interfaces, so that *cluster.Tree satisfies them as it is).
// Their tests run on Mem.
package treetest

import (
	"context"
	"io"
	"io/fs"
	"iter"
)

// Batch collects edits that appear at one log entry, all or none (promise 9). Names are slash-separated as in io/fs
// (fs.ValidPath) and relative to the tree that was asked; a name has at most 4096 bytes (from the whole tree's root),
// an element of it at most 1024, none of them NUL. Edits apply in the order they were made; what Expect says is about
// the state before the first of them. Nothing is checked when an edit is added; Update returns the first error.
type Batch = interface {
	// Put writes a record of at most 4096 bytes; it lives in the log and in memory.
	Put(name string, data []byte)
	// Link makes name a file whose bytes are the blob called digest. The link keeps that blob and those in holds from
	// being collected. A blob that the tree does not know is fs.ErrNotExist.
	Link(name, digest string, holds ...string)
	// LinkWeak makes name a file as Link does but does not keep the blob beyond the pin time (one hour from now,
	// renewed by every LinkWeak). Once the blob is collected the name is gone too, and does not come back when the same
	// bytes do.
	LinkWeak(name, digest string)
	// Remove removes the file, or the directory with all that is below it. It is no error if there is nothing.
	Remove(name string)
	// Expect refuses the whole batch with fs.ErrExist unless the file is at this version now; 0 means that there is no
	// such file.
	Expect(name string, version uint64)
}

// BlobWriter is a node-local scratch file that becomes a blob. It is not safe for concurrent use.
// It may be an io.ReaderFrom, which takes over from io.Copy what it can do better with files, and it may have
//
//	CommitNamed(ctx context.Context, digest string, names func(Batch, string) error) (string, error)
//
// which is Commit and, with the digest, an Update of the tree that the writer is from, at one log entry unless the batch
// is too large for one. After an error it is as after one of Commit and may be called again.
type BlobWriter = interface {
	io.Writer
	// Size is the number of bytes written so far, those before a resume included.
	Size() int64
	// Commit makes the bytes a blob: durable on a majority of voters, known to the tree, and pinned for one hour so
	// that it can be linked. With digest "" it is named by sha256; otherwise by the algorithm of digest (sha256 or
	// sha512), and bytes that do not have this digest are syscall.EBADMSG. It returns the digest. The scratch file is
	// gone after a Commit without error.
	Commit(ctx context.Context, digest string) (string, error)
	// Close ends the use of the writer. What was not committed stays if the writer has an id and is removed if it has
	// none.
	Close() error
	// Cancel closes the writer and removes the scratch file.
	Cancel() error
}

// Info is what every fs.FileInfo of the tree implements besides.
type Info interface {
	fs.FileInfo
	// Digest is the digest of the linked blob ("sha256:…"), "" for a record or a directory.
	Digest() string
	// Version is the index of the log entry that wrote the file; 0 for a directory.
	Version() uint64
}

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
	// Follow is Watch for who takes up changes one by one. take returns the names below dir that were written or removed
	// since it was called last, or since Follow, sorted, relative to the tree's root; a removed directory is its name
	// alone. all says that they are more than 4096 or not known: anything below dir may have changed, and names is empty.
	// After take the tree shows the changes that it told, or newer ones.
	Follow(ctx context.Context, dir string) (changed <-chan struct{}, take func() (names []string, all bool))
}

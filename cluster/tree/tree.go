// Package tree holds the types that every room shares about the replicated tree: the batch of a write, the writer of a
// blob, the additional information of an fs.FileInfo, and the form of a digest.
//
// It implements no tree. Each service declares, in its own package, an interface with the few methods that it needs
// (conventionally called Tree); *cluster.Tree satisfies all of them, because the parameter types are those of this
// package. The interface Tree of cluster/treetest is the whole contract, with the errors.
package tree

import (
	"context"
	"io"
	"io/fs"
)

// Batch collects edits that appear at one log entry, all or none (promise 9). Names are slash-separated as in io/fs
// (fs.ValidPath) and relative to the tree that the batch belongs to; a name has at most 4096 bytes (from the whole
// tree's root), an element of it at most 1024, none of them NUL. Edits apply in the order in which they were made;
// Expect refers to the state before the first of them. Adding an edit checks nothing; Update returns the first error.
type Batch interface {
	// Put writes a record of at most 4096 bytes; it lives in the log and in memory.
	Put(name string, data []byte)
	// Link makes name a file whose bytes are the blob called digest. The link keeps that blob and those in holds from
	// being collected. A blob that the tree does not know is fs.ErrNotExist.
	Link(name, digest string, holds ...string)
	// LinkWeak makes name a file as Link does but does not keep the blob beyond the pin time (one hour from now,
	// renewed by every LinkWeak). Once the blob is collected the name is gone too, and does not come back when the same
	// bytes do.
	LinkWeak(name, digest string)
	// Remove removes the file, or the directory with everything below it. It is no error if there is none.
	Remove(name string)
	// Expect refuses the whole batch with fs.ErrExist unless the file is at this version now; 0 means that there is no
	// such file.
	Expect(name string, version uint64)
}

// BlobWriter is a node-local scratch file that becomes a blob. It is not safe for concurrent use. It may also be an
// io.ReaderFrom, which io.Copy uses, a NamedCommitter, a Scratcher and a Summer.
type BlobWriter interface {
	io.Writer
	// Size is the number of bytes written so far, including those before a resume.
	Size() int64
	// Commit makes the bytes a blob: durable on a majority of voters, known to the tree, and pinned for one hour so
	// that it can be linked. With digest "" the blob is named by sha256. Otherwise it is named by the algorithm of
	// digest (sha256 or sha512), and the error is syscall.EBADMSG if the bytes do not have this digest. Commit returns
	// the digest. After a Commit without error the scratch file is gone.
	Commit(ctx context.Context, digest string) (string, error)
	// Close ends the use of the writer. An uncommitted scratch file is kept if the writer has an id and removed if it
	// has none.
	Close() error
	// Cancel closes the writer and removes the scratch file.
	Cancel() error
}

// NamedCommitter is a BlobWriter that can commit its blob together with the names that refer to it.
type NamedCommitter interface {
	// CommitNamed is Commit and an Update of the writer's tree, at one log entry unless the batch is too large for one.
	// names fills the batch; it receives the blob's digest, and may be called again. After an error the writer is as
	// after an error of Commit, and CommitNamed may be called again.
	CommitNamed(ctx context.Context, digest string, names func(Batch, string) error) (string, error)
}

// Summer is a BlobWriter that can return the digest of its bytes without committing them.
type Summer interface {
	// Sum returns the sha256 of the written bytes, as a digest, and their number. No write may follow.
	Sum() (string, int64, error)
}

// Scratcher is a BlobWriter whose bytes can be read while they are written.
type Scratcher interface {
	// OpenScratch opens the bytes that were written so far, and those that follow. It stays readable when they have
	// become a blob. fs.ErrClosed: the writer has ended.
	OpenScratch() (Scratch, error)
}

// Scratch are the bytes of a Scratcher. ReadAt returns io.EOF where there are none yet.
type Scratch interface {
	io.ReaderAt
	io.Closer
}

// Doubter is a tree that accepts reports of wrong bytes of a blob.
type Doubter interface {
	// DoubtBlob hashes this node's bytes of a blob. If they are wrong, HasBlob and OpenBlob treat the blob as damaged
	// from then on.
	DoubtBlob(ctx context.Context, digest string)
}

// Info is what every fs.FileInfo of the tree implements.
type Info interface {
	fs.FileInfo
	// Digest is the digest of the linked blob ("sha256:…"), "" for a record or a directory.
	Digest() string
	// Version is the index of the log entry that wrote the file; 0 for a directory.
	Version() uint64
}

// DigestOf returns the digest of the blob that a file links; "" for a record, a directory, and a file of no tree.
func DigestOf(fi fs.FileInfo) string {
	if i, ok := fi.(interface{ Digest() string }); ok {
		return i.Digest()
	}
	return ""
}

// VersionOf returns the index of the log entry that wrote a file; 0 for a directory and for a file of no tree. 0 in
// Batch.Expect means that there is no such file.
func VersionOf(fi fs.FileInfo) uint64 {
	if i, ok := fi.(interface{ Version() uint64 }); ok {
		return i.Version()
	}
	return 0
}

// ClaimOf returns the name of the import whose claim on the name is visible; "" for a file written without a claim, and
// for a tree without claims.
func ClaimOf(fi fs.FileInfo) string {
	if i, ok := fi.(interface{ Claim() string }); ok {
		return i.Claim()
	}
	return ""
}

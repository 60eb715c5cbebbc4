package bundle

import (
	"context"
	"io"
	"io/fs"
)

// IndexVersion is the version of the index document that this program writes and the newest it reads.
const IndexVersion = 1

// Index is the one document of a bundle that says what is in it: every name, and every blob. Its lists are sorted (by
// name, URL, digest) and have no doubles, and its JSON has one form, so that the same content gives the same bytes.
// Digests are "sha256:<hex>" or "sha512:<hex>", sizes bytes.
type Index struct {
	Version int     `json:"version"`
	Images  []Image `json:"images"`
	Files   []File  `json:"files"`
	Blobs   []Blob  `json:"blobs"`
	// Since is the digest of the inventory that the bundle was made against; the blobs that it left out are marked
	// Omitted.
	Since string `json:"since,omitempty"`
	// Absent are the names that were asked for and could not be had, sorted: the collector was told to go on without
	// them.
	Absent []Absent `json:"absent,omitempty"`
}

// Absent is one name that a bundle lacks.
type Absent struct {
	Name string `json:"name"` // as it was asked for
	Why  string `json:"why"`
}

// Image is one manifest or index under one name. What hangs on it (children, configs, layers) follows from the
// manifests themselves; a child or a referrer that has no tag is an Image of its own, with Tag "".
type Image struct {
	// Repository is host and path in canonical form ("docker.io/library/nginx"); a local one has no host ("team/app").
	Repository string `json:"repository"`
	Tag        string `json:"tag,omitempty"`
	Digest     string `json:"digest"`
	MediaType  string `json:"media_type"`
	Size       int64  `json:"size"` // of the manifest with all that it names and the bundle has, each blob once
	// Platforms are those that are here ("linux/amd64", "linux/arm64/v8"); Sparse says that the index lists others that
	// are not.
	Platforms []string `json:"platforms,omitempty"`
	Sparse    bool     `json:"sparse,omitempty"`
	Provenance
}

// File is one file under the URL that was asked for.
type File struct {
	URL    string `json:"url"`
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
	Provenance
}

// Provenance says where and when something was taken.
type Provenance struct {
	// From is where the bytes came from in the end: a mirror, or what a redirect led to. "": the name itself.
	From string `json:"from,omitempty"`
	// On is the day (2006-01-02, UTC) on which it was taken; a day, so that the same content of the same day is the
	// same bundle.
	On string `json:"on,omitempty"`
}

// Blob is one piece of content: manifests, configs, layers and files.
type Blob struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
	// Omitted says that the bundle does not carry it because the far side's inventory says that it is held.
	Omitted bool `json:"omitted,omitempty"`
}

// Input is one thing that an operator named to be read: a file or pipe, or a directory.
type Input struct {
	Name string  // as it was named, for messages
	FS   fs.FS   // a directory; nil for a file. Its files may be *os.File
	File fs.File // nil for a directory. A regular file that is an io.ReaderAt is read at several places at once
}

// Sink takes the blobs of what is read. Its methods are safe for concurrent use.
type Sink interface {
	// Has returns the size of a blob that need not be sent, and keeps it from being collected as if it had been Put.
	Has(digest string) (size int64, ok bool)
	// Put stores what r yields and returns its digest and size. digest is what the bytes must have (else
	// syscall.EBADMSG), or "" when it is not known: then it is a sha256. size is the number of bytes, or -1; fewer or
	// more are io.ErrUnexpectedEOF. r is read to its end unless an error ends it. When r is an *os.File or an *io.SectionReader
	// of one, the sink may read the file itself.
	Put(ctx context.Context, digest string, size int64, r io.Reader) (string, int64, error)
	// Open opens a blob that was Put or that it Has.
	Open(ctx context.Context, digest string) (io.ReadSeekCloser, error)
}

// Contents is what was read: the names that it brings. Every blob that they need has gone to the Sink, or the Sink had
// it.
type Contents struct {
	// Kind is what the inputs turned out to be: KindBundle and the other constants; several kinds are joined by "+".
	Kind string `json:"kind"`
	// ID is the digest of the index document for a bundle; for everything else the digest of the canonical JSON of the
	// names, so that reading the same content again gives the same ID.
	ID string `json:"id"`
	// Names are images and files as in an Index; Blobs has everything that they need.
	Index *Index `json:"index"`
	// Absent are blobs that names need and that neither the inputs nor the Sink has, by digest: of lost parts, or left
	// out by --since.
	Absent []string `json:"absent,omitempty"`
	// Parts and Have count a split bundle's parts: all, and those that were read. Both are 0 when it is no split
	// bundle.
	Parts int `json:"parts,omitempty"`
	Have  int `json:"have,omitempty"`
	// Numbers are those of the parts that were read, from 1 and sorted; a split bundle may come part by part on
	// different days.
	Numbers []int `json:"numbers,omitempty"`
	// Refused are names that could not be taken, and were left out because ReadOptions.Partial allows it.
	Refused []Skipped `json:"refused,omitempty"`
	// Left are files of the inputs that nobody meant to be imported: an editor's, under no host's name.
	Skipped []Skipped `json:"left_out,omitempty"`
	// Signer is the public key (base64 of its 32 bytes) whose signature of the index was verified; "" if it is not
	// signed.
	Signer string `json:"signer,omitempty"`
	// Notes say what was left out or understood in a special way, one sentence each.
	Notes []string `json:"notes,omitempty"`
}

// Kinds of input.
const (
	KindBundle    = "bundle"
	KindLayout    = "oci-layout"
	KindDocker    = "docker-archive"
	KindHaul      = "haul"
	KindTree      = "tree"      // of host/path files, as a directory or a tar
	KindKubespray = "kubespray" // container-images.tar.gz of contrib/offline: docker-archives in a tar
)

package bundle

import (
	"context"
	"io"
	"io/fs"
)

// IndexVersion is the newest version of the index document that this program writes and reads. Version 2 has redirects,
// version 3 repositories whose signature was not checked, version 4 a transcript; an index without these is written
// as an older version, which older programs read.
const IndexVersion = 4

// MaxRedirects bounds the redirects of an index: every node keeps them in memory.
const MaxRedirects = 20_000

// Index is the document of a bundle that lists its contents: every name and every blob. Its lists are sorted (by name,
// URL, digest) without repeated entries, and its JSON has one form, so that the same content gives the same bytes.
// Digests are "sha256:<hex>" or "sha512:<hex>", sizes are bytes.
type Index struct {
	// Version is that of the document. Encode sets the oldest one that has everything.
	Version int     `json:"version"`
	Images  []Image `json:"images"`
	Files   []File  `json:"files"`
	Blobs   []Blob  `json:"blobs"`
	// Since is the digest of the inventory against which the bundle was made; blobs that the inventory lists are marked
	// Omitted.
	Since string `json:"since,omitempty"`
	// Absent are the requested names that could not be collected, sorted, if the collector was told to continue without
	// them.
	Absent []Absent `json:"absent,omitempty"`
	// Redirects are URLs that lead elsewhere, sorted: a channel to its newest release.
	Redirects []Redirect `json:"redirects,omitempty"`
	// Unverified are repositories of packages that are signed, but whose signature the collector was told not to check,
	// sorted.
	Unverified []Unverified `json:"unverified,omitempty"`
	// Questions are the transcript of a rehearsal, sorted.
	Questions []Question `json:"questions,omitempty"`
}

// Unverified is one repository of packages with a signature that nobody has checked.
type Unverified struct {
	URL string `json:"url"` // of the signed document
	Why string `json:"why"` // what was wrong with it, with the IDs of the keys
}

// Absent is one name that is missing from a bundle.
type Absent struct {
	Name string `json:"name"` // as it was requested
	Why  string `json:"why"`
}

// Redirect is one URL that is answered with 302 and another address. Neither is a file of the index.
type Redirect struct {
	From string `json:"from"` // http or https, as it is requested
	To   string `json:"to"`   // http or https
}

// Image is one manifest or index under one name. Its children, configs and layers follow from the manifests themselves;
// a child or a referrer without a tag is an Image of its own, with Tag "".
type Image struct {
	// Repository is host and path in canonical form ("docker.io/library/nginx"); a local repository has no host
	// ("team/app").
	Repository string `json:"repository"`
	Tag        string `json:"tag,omitempty"`
	Digest     string `json:"digest"`
	MediaType  string `json:"media_type"`
	// of the manifest and everything that it references and the bundle contains, each blob once
	Size int64 `json:"size"`
	// Platforms are those that the bundle contains ("linux/amd64", "linux/arm64/v8"); Sparse says that the index lists
	// others.
	Platforms []string `json:"platforms,omitempty"`
	Sparse    bool     `json:"sparse,omitempty"`
	Provenance
}

// File is one file under the URL that was requested.
type File struct {
	URL    string `json:"url"`
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
	Provenance
}

// Provenance says where and when something was fetched.
type Provenance struct {
	// From is where the bytes came from: a mirror, or the target of a redirect. "": from the name itself.
	From string `json:"from,omitempty"`
	// On is the day (2006-01-02, UTC) on which it was fetched; not the time, so that the same content of the same day
	// gives the same bundle.
	On string `json:"on,omitempty"`
}

// Blob is one piece of content: a manifest, config, layer or file.
type Blob struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
	// Omitted says that the bundle does not contain the blob because the far side's inventory lists it.
	Omitted bool `json:"omitted,omitempty"`
}

// Input is one thing that an operator named for reading: a file, a pipe or a directory.
type Input struct {
	Name string  // as it was named, for messages
	FS   fs.FS   // a directory; nil for a file. Its files may be *os.File
	File fs.File // nil for a directory. A regular file that is an io.ReaderAt is read at several offsets at once
}

// Sink stores the blobs that are read. Its methods are safe for concurrent use.
type Sink interface {
	// Has returns the size of a blob that need not be put, and protects it from garbage collection as if it had been
	// put.
	Has(digest string) (size int64, ok bool)
	// Put stores the content of r and returns its digest and size. digest is the digest that the bytes must have (else
	// syscall.EBADMSG), or "" if it is not known; then the result is a sha256. size is the number of bytes, or -1;
	// fewer or more are io.ErrUnexpectedEOF. Put reads r to its end unless an error ends it. If r is an *os.File or an
	// *io.SectionReader of one, the sink may read the file itself.
	Put(ctx context.Context, digest string, size int64, r io.Reader) (string, int64, error)
	// Open opens a blob that was put or that Has reports.
	Open(ctx context.Context, digest string) (io.ReadSeekCloser, error)
}

// Contents describes what was read: the names in the inputs. Every blob that they need has been put into the Sink, or
// was there before.
type Contents struct {
	// Kind is the kind of the inputs: KindBundle or one of the other constants; several kinds are joined by "+".
	Kind string `json:"kind"`
	// ID is the digest of the index document for a bundle; otherwise the digest of the canonical JSON of the names, so
	// that reading the same content again gives the same ID.
	ID string `json:"id"`
	// Index has the images and files; its Blobs are everything that they need.
	Index *Index `json:"index"`
	// Absent are the digests of blobs that names need and that neither the inputs nor the Sink have: of missing parts,
	// or omitted by --since.
	Absent []string `json:"absent,omitempty"`
	// Parts and Have count the parts of a split bundle: all, and those that were read. Both are 0 if it is not split.
	Parts int `json:"parts,omitempty"`
	Have  int `json:"have,omitempty"`
	// Numbers are those of the parts that were read, from 1 and sorted; the parts of a split bundle may come on
	// different days.
	Numbers []int `json:"numbers,omitempty"`
	// Refused are names that could not be imported and were left out because ReadOptions.Partial allows it.
	Refused []Skipped `json:"refused,omitempty"`
	// Skipped are files of the inputs that are not meant to be imported: editors' files, files that are under no host's
	// name.
	Skipped []Skipped `json:"left_out,omitempty"`
	// Signer is the public key (base64 of its 32 bytes) whose signature of the index was verified; "" if the index is
	// not signed.
	Signer string `json:"signer,omitempty"`
	// Notes say what was left out or interpreted in a special way, one sentence each.
	Notes []string `json:"notes,omitempty"`
}

// Kinds of input.
const (
	KindBundle    = "bundle"
	KindLayout    = "oci-layout"
	KindDocker    = "docker-archive"
	KindHaul      = "haul"
	KindTree      = "tree"      // files under HOST/PATH, as a directory or a tar
	KindPython    = "python"    // wheels and source distributions of Python
	KindKubespray = "kubespray" // container-images.tar.gz of contrib/offline: docker-archives in a tar
)

// Package fileserver stores files under their real upstream URLs and serves them by HTTP.
//
// It promises:
//
//   - A file that was put under its published URL is found under every spelling of that URL that clients use (see Key).
//   - Files are served byte for byte as they were put; the ETag is the digest, and nothing is ever compressed,
//     converted or sniffed into HTML.
//   - A plain socket gets the *os.File of the blob itself (sendfile). Memory depends neither on the size of files nor
//     on the number of slow clients.
//   - A miss is a quick 404 with one sentence, and Config.Miss is called.
package fileserver

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"casemate/cluster/tree"
	"casemate/fileserver/ospackages"
)

// Batch collects edits that are applied at one log entry.
type Batch = tree.Batch

// BlobWriter is a node-local scratch file that becomes a blob.
type BlobWriter = tree.BlobWriter

// Tree is the interface to the file server's own subtree. Other writers must use names made by Server.Key.
//
// The fs.FileInfo of a file has a method Digest() string (the linked blob, "sha256:…") and a method Version() uint64.
// Errors, to be tested with errors.Is: fs.ErrNotExist, fs.ErrExist (an Expect does not hold), syscall.EBADMSG (wrong
// digest), syscall.ENOSPC (the disk's reserve is reached), syscall.EAGAIN (no majority now, try again).
type Tree interface {
	// Stat describes a file or directory, from memory.
	fs.StatFS
	// Walk yields the files below dir, component by component, beginning after after (which need not exist), from one
	// consistent state.
	Walk(dir, after string) iter.Seq2[string, fs.FileInfo]
	// Update commits a batch, all or nothing, and returns once this node has applied it.
	Update(ctx context.Context, fn func(Batch) error) error
	// HasBlob returns the size of a blob whose bytes are available; syscall.EIO if they are damaged or lost.
	HasBlob(ctx context.Context, digest string) (int64, error)
	// OpenBlob opens a blob; an *os.File if this node has it.
	OpenBlob(ctx context.Context, digest string) (io.ReadSeekCloser, error)
	// CreateBlob opens a scratch file; with id "" it is removed when it is closed without a commit.
	CreateBlob(id string) (BlobWriter, error)
}

// Config configures a Server. Functions may be called from any goroutine at any time; each field documents the meaning
// of nil.
type Config struct {
	// Tree is the server's own subtree. Required.
	Tree Tree
	// Origins returns the enabled origins; nil: none. It is only used for the listing of all origins.
	Origins func() []string
	// OwnIndex returns the host whose /simple is the server's own index of Python packages (see View.Index); nil or "":
	// none.
	OwnIndex func() string
	// Claims returns the files that all imports have at a name of the tree, the visible one first, from memory; nil:
	// the visible file is the only one.
	Claims func(name string) []fs.FileInfo
	// Canonical returns the origin that a host is, or is an alias of ("registry-1.docker.io" → "docker.io"), and
	// whether there is one; it is given lower-case names without a port. nil: every host is its own origin.
	Canonical func(host string) (string, bool)
	// Redirects is the cluster's setting files.redirects; CheckRedirect documents its syntax. nil: none. It returns the
	// same map until the setting changes, and then a new one; a returned map must not be changed.
	Redirects func() map[string]string
	// Defaults are answers, one URL each, for URLs without an entry in Redirects and without a file; syntax and rules
	// are those of Redirects. nil: none.
	Defaults func() map[string]string
	// AliasArch is the setting files.alias_arch ("amd64"); nil or "": none.
	AliasArch func() string
	// Allow decides whether the sender of a request may "push" or "delete" the file at url, and returns the context of
	// the change. fs.ErrPermission is answered with 403, syscall.EAGAIN and a context's errors with 503, every other
	// error with 401. nil: writing is disabled.
	Allow func(r *http.Request, action, url string) (context.Context, error)
	// Miss is called for every request that was answered with 404: kind is "file", name the URL that would have to be
	// put (or the path of an alias for which there is no single URL), detail the reason, or "". nil: nothing is called.
	Miss func(r *http.Request, kind, name, detail string)
	// Luck is called when an alias without an architecture was answered; served is the URL. nil: nothing is called.
	Luck func(r *http.Request, asked, served string)
	// Pulled is called when the file of a name of the tree is sent to a client. It must not block. nil: nothing is
	// called.
	Pulled func(name, digest string)
	// Upstream is asked for what an origin may have and is not here. nil: nothing is fetched.
	Upstream Upstream
	// Log gets a line for each change of content and for each answer that was interrupted. nil: slog.Default().
	Log *slog.Logger
	// Now is the clock that modification times are compared with; nil: time.Now.
	Now func() time.Time
}

// Server serves files by URL. Its methods are safe for concurrent use. It starts no goroutines and needs no closing.
type Server struct {
	cfg       Config
	sums      *memo[string]              // of checksum files
	releases  *memo[*ospackages.Release] // for by-hash names
	repomds   *memo[*ospackages.Repomd]  // for metalinks
	facts     facts
	redirects atomic.Pointer[redirects]
	queries   queries
}

// New makes a server; it does no I/O.
func New(cfg Config) *Server {
	if cfg.Origins == nil {
		cfg.Origins = func() []string { return nil }
	}
	if cfg.OwnIndex == nil {
		cfg.OwnIndex = func() string { return "" }
	}
	if cfg.Claims == nil {
		cfg.Claims = visible(cfg.Tree)
	}
	if cfg.Canonical == nil {
		cfg.Canonical = func(host string) (string, bool) { return host, true }
	}
	if cfg.Redirects == nil {
		cfg.Redirects = func() map[string]string { return nil }
	}
	if cfg.Defaults == nil {
		cfg.Defaults = func() map[string]string { return nil }
	}
	if cfg.AliasArch == nil {
		cfg.AliasArch = func() string { return "" }
	}
	if cfg.Allow == nil {
		cfg.Allow = func(*http.Request, string, string) (context.Context, error) { return nil, errors.New("no users") }
	}
	if cfg.Miss == nil {
		cfg.Miss = func(*http.Request, string, string, string) {}
	}
	if cfg.Luck == nil {
		cfg.Luck = func(*http.Request, string, string) {}
	}
	if cfg.Pulled == nil {
		cfg.Pulled = func(string, string) {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Server{
		cfg: cfg, sums: newMemo[string](maxSums, maxHashing),
		releases: newMemo[*ospackages.Release](maxReleases, maxParsing),
		repomds:  newMemo[*ospackages.Repomd](maxReleases, maxParsing),
		facts:    facts{known: map[string]string{}},
	}
}

// Info describes one file.
type Info struct {
	URL    string    `json:"url"`    // "https://host/path?query" in its canonical spelling
	Digest string    `json:"digest"` // "sha256:…"
	Size   int64     `json:"size"`   // bytes
	Time   time.Time `json:"time"`   // when it was put
}

// storedFile is a file in the tree.
type storedFile struct {
	key     string
	digest  string
	size    int64
	mod     time.Time
	version uint64
}

func (h storedFile) info() Info {
	return Info{URL: URL(h.key), Digest: h.digest, Size: h.size, Time: h.mod}
}

// storedFileOf converts what the tree reports of a file; ok is false if it is not a file of this server.
func storedFileOf(key string, fi fs.FileInfo) (h storedFile, ok bool) {
	digest := tree.DigestOf(fi)
	if digest == "" {
		return storedFile{}, false
	}
	return storedFile{key: key, digest: digest, size: fi.Size(), mod: fi.ModTime(), version: tree.VersionOf(fi)}, true
}

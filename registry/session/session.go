// Package session serves the upload sessions of the registry (distribution-spec, "Pushing a blob in chunks"). It is the
// only package of the registry that uses distribution.
//
// distribution's handlers answer POST, GET, PATCH and DELETE; a storage driver maps what they store to the tree. What
// this package promises on top of them:
//
//   - A session is a scratch file of the tree, named by repository and upload ID. It is known in its own repository
//     only and survives a restart.
//   - Sessions are bounded, in total and for each user.
//   - The bytes of a PATCH go from the client to the scratch file. distribution neither reads nor hashes them.
//   - An error of the tree is returned as it is, and a refusal of distribution's as a *Refusal. Neither is written to
//     the client, so the caller decides how an error looks.
//
// The caller finishes a session: Acquire returns its scratch file.
package session

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"casemate/cluster/tree"
)

// Batch and BlobWriter are the tree's types.
type (
	Batch      = tree.Batch
	BlobWriter = tree.BlobWriter
)

// Tree is the part of the registry's subtree that sessions and the storage driver use. The contract, errors included,
// is in cluster/treetest.
type Tree interface {
	fs.StatFS
	fs.ReadFileFS
	fs.ReadDirFS
	Update(ctx context.Context, fn func(Batch) error) error
	StatBlob(digest string) (int64, error)
	OpenBlob(ctx context.Context, digest string) (io.ReadSeekCloser, error)
	CreateBlob(id string) (BlobWriter, error)
	ResumeBlob(id string) (BlobWriter, error)
}

// Config is what Open needs. Tree is required.
type Config struct {
	Tree Tree
	// Secret signs the state that a session's address carries; the same on all nodes and after a restart.
	Secret []byte
	// Holds returns the digests that a stored manifest of a repository must hold against collection. It is called when
	// distribution itself stores a manifest, which only tests of the layout do. Nil: none.
	Holds func(ctx context.Context, repository, manifest string) ([]string, error)
	// Log receives distribution's log lines, those of the newest Sessions of the process. Nil: nothing is logged.
	Log *slog.Logger
	// Now is the clock by which sessions are idle. Nil: time.Now.
	Now func() time.Time
}

// Sessions are the upload sessions of this node. All methods are safe for concurrent use.
type Sessions struct {
	*table
	cfg      Config
	app      http.Handler // distribution's
	shutdown func() error
}

// Open makes the sessions over cfg.Tree. Close must be called.
func Open(cfg Config) (*Sessions, error) {
	if cfg.Tree == nil {
		return nil, errors.New("upload sessions: config has no tree")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Holds == nil {
		cfg.Holds = func(context.Context, string, string) ([]string, error) { return nil, nil }
	}
	s := &Sessions{table: newTable(cfg.Tree, cfg.Now), cfg: cfg}
	var err error
	if s.app, s.shutdown, err = embed(s); err != nil {
		return nil, err
	}
	return s, nil
}

// Close ends the background work; requests must have ended. Sessions can be continued after the next Open.
func (s *Sessions) Close() error { return s.shutdown() }

// ID identifies a session.
type ID struct {
	Repository string // canonical
	Upload     string // made by distribution: a UUID
}

// ValidUpload reports whether an upload ID is well-formed: distribution makes UUIDs.
func ValidUpload(id string) bool {
	return id != "" && len(id) <= 64 && strings.Trim(id, "0123456789abcdef-") == ""
}

// key returns the name of the session's scratch file. It is a valid ID for CreateBlob whatever the repository is, and
// differs between repositories, so that an upload is known in its own repository only.
func (id ID) key() string {
	sum := sha256.Sum256([]byte(id.Repository))
	return "upload-" + id.Upload + "-" + hex.EncodeToString(sum[:8])
}

// ErrBusy means that another request is using the session. The same request may be sent again.
var ErrBusy = errors.New("another request is writing this upload")

// ErrBody means that the client's request ended before its body did.
var ErrBody = errors.New("the body ended early")

// TooManyError means that a bound on unfinished uploads is reached. Its text says which.
type TooManyError struct{ reason string }

func (e *TooManyError) Error() string { return e.reason }

// Refusal is an error with which distribution refuses a request: a client's mistake.
type Refusal struct {
	Status int // 4xx
	// Code and Message are those of the first error in distribution's answer (distribution-spec, "Error Codes"); "" if
	// it gave none.
	Code, Message string
	// Reason is the error's detail if that is a text, otherwise "".
	Reason string
}

func (e *Refusal) Error() string { return "distribution refused: " + e.Code + " " + e.Message }

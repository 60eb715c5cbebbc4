// Package handover passes the files that an operator names on the command line to the daemon. The daemon runs as its
// own user in a sandbox and may not be able to open them, so the command opens files for the daemon as long as an
// import runs: it passes files and pipes as descriptors, and the files of a directory one by one as the daemon
// requests them.
//
// The command sends POST /v1/imports to the admin socket with "Connection: Upgrade" and "Upgrade: casemate-import"
// (RFC 9110, 7.8). After the 101 both sides send frames: a length of 4 bytes, big-endian, followed by that many bytes
// of JSON (message). A descriptor travels as SCM_RIGHTS with the first byte of its frame. The command sends the first
// frame, and only after the 101: the bytes that the HTTP server reads ahead could not carry descriptors.
//
// It promises: a descriptor that the daemon accepts is open for reading only and is a regular file or a pipe. No file
// outside a directory is opened through it, wherever its symbolic links lead. When one side goes away, the other
// side's calls end. Files that were not given to the caller are closed with the session. Nothing is ever linked: the
// files remain the operator's, who may continue to write them.
package handover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// Protocol is the name in the Upgrade header, Path the request's path.
const (
	Protocol = "casemate-import"
	Path     = "/v1/imports"
)

// Limits on what one side accepts from the other.
const (
	maxAsk     = 1 << 20  // bytes of a frame from the command
	maxAnswer  = 64 << 20 // bytes of a frame from the daemon: the result of a dry run names every change
	maxInputs  = 1024     // descriptors that one import may hold open
	maxFlight  = 16       // requests to the command in flight
	pageSize   = 512      // entries of a directory in one frame, each a name of at most 255 bytes (NAME_MAX)
	helloWait  = 30 * time.Second
	finishWait = 30 * time.Second // for a command that is stopped (SIGSTOP) when its import ends
	everyTick  = 200 * time.Millisecond
)

// Request is the operator's import request.
type Request struct {
	// Name is the import's name; "": the daemon derives one.
	Name string `json:"name,omitempty"`
	// Keys are trusted public keys, each the base64 of 32 bytes, in addition to those of the settings.
	Keys []string `json:"keys,omitempty"`
	// Repository is the repository for images without a name.
	Repository string `json:"repository,omitempty"`
	// PythonIndex is the URL of the index that Python packages belong to; "": that of the bastions' own name.
	PythonIndex string `json:"python_index,omitempty"`
	// DryRun reports what would change, and changes nothing.
	DryRun bool `json:"dry_run,omitempty"`
	// Partial leaves out names that cannot be imported, with their reasons.
	Partial bool `json:"partial,omitempty"`
	// Hold stages the import, so that somebody can look at what it would do before it is published.
	Hold bool `json:"hold,omitempty"`
	// Wait makes the import wait until the one that is running has ended. Without it, it is refused then.
	Wait bool `json:"wait,omitempty"`
	// Inputs are in the operator's order. Run sets them.
	Inputs []Named `json:"inputs"`
}

// Named is one input as the operator named it.
type Named struct {
	Name string `json:"name"` // as typed; "-" is standard input
	Dir  bool   `json:"dir,omitempty"`
	// Size in bytes and Modified (RFC 3339) are what whoever sends a file over https knows of it, 0 and the zero time
	// if nothing is known.
	Size     int64     `json:"size,omitempty"`
	Modified time.Time `json:"modified,omitzero"`
	// Relayed reports that the command copies the input into its own pipe, because it is neither a regular file nor a
	// pipe (ssh provides a socket). Such a pipe also ends when the command dies, so its end is valid only if the
	// command confirms it.
	Relayed bool `json:"relayed,omitempty"`
}

// Progress is the progress of an import.
type Progress struct {
	Done  int64  `json:"done"`  // bytes
	Total int64  `json:"total"` // bytes; -1 if unknown
	Phase string `json:"phase,omitempty"`
}

// Error is an unsuccessful answer of the daemon.
type Error struct {
	Status  int // HTTP status; docs/admin-api.md lists the meanings
	Message string
}

func (e *Error) Error() string { return e.Message }

// ErrGone means that the command of a session went away.
var ErrGone = errors.New("the command that passes the files went away")

// message is one frame: exactly one of its pointers is set.
type message struct {
	// From the command.
	Hello *Request `json:"hello,omitempty"`
	Input *int     `json:"input,omitempty"` // brings the descriptor of Hello.Inputs[Input]
	Reply *reply   `json:"reply,omitempty"`
	// From the daemon.
	Ask   *ask   `json:"ask,omitempty"`
	Final *final `json:"final,omitempty"`
	// Descriptors that come with it: 0 or 1.
	Descriptors int `json:"descriptors,omitempty"`
}

// Requests of the daemon to the command.
const (
	opOpen     = "open"      // Path: returns a descriptor of a regular file, or Dir of a directory
	opStat     = "stat"      // Path: returns its Entry
	opLstat    = "lstat"     // Path: returns its Entry, of a link itself
	opReadLink = "read-link" // Path: returns an Entry with the link's target as its name
	opReadDir  = "read-dir"  // Dir: returns the next Entries, none at the end
	opCloseDir = "close-dir" // Dir: closes it
	opEnd      = "end"       // Input: returns the error with which a relayed input ended, if any
	// shows Progress; acknowledged, so that the buffer of a command that does not read does not fill up
	opProgress = "progress"
)

type ask struct {
	ID       uint64    `json:"id"`
	Op       string    `json:"op"`
	Input    int       `json:"input,omitempty"`
	Path     string    `json:"path,omitempty"` // as in fs.ValidPath
	Dir      uint64    `json:"dir,omitempty"`
	Progress *Progress `json:"progress,omitempty"`
}

type reply struct {
	ID      uint64     `json:"id"` // of the ask
	Err     *wireError `json:"error,omitempty"`
	Entry   *entry     `json:"entry,omitempty"`
	Dir     uint64     `json:"dir,omitempty"`
	Entries []entry    `json:"entries,omitempty"`
}

type final struct {
	Status int             `json:"status"`
	Error  string          `json:"error,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

// entry is an fs.FileInfo. The name is bytes: a file system may have names that are not UTF-8, which must be listed
// unchanged.
type entry struct {
	Base []byte      `json:"name"`
	Len  int64       `json:"size"`
	Bits fs.FileMode `json:"mode"`
	Time int64       `json:"time"` // nanoseconds since 1970
}

func entryOf(i fs.FileInfo) entry {
	return entry{[]byte(i.Name()), i.Size(), i.Mode(), i.ModTime().UnixNano()}
}

// info presents an entry as fs.FileInfo and fs.DirEntry.
type info struct{ e entry }

func (i info) Name() string               { return string(i.e.Base) }
func (i info) Size() int64                { return i.e.Len }
func (i info) Mode() fs.FileMode          { return i.e.Bits }
func (i info) ModTime() time.Time         { return time.Unix(0, i.e.Time) }
func (i info) IsDir() bool                { return i.e.Bits.IsDir() }
func (i info) Sys() any                   { return nil }
func (i info) Type() fs.FileMode          { return i.e.Bits.Type() }
func (i info) Info() (fs.FileInfo, error) { return i, nil }
func (i info) String() string             { return fs.FormatDirEntry(i) }

// wireError preserves an error's identity across the connection: errors.Is finds the same sentinel on the other side.
type wireError struct {
	Code    string `json:"code,omitempty"`
	Message string `json:"message"`
}

// sentinels are the errors that retain their identity, by code.
var sentinels = map[string]error{"not-exist": fs.ErrNotExist, "permission": fs.ErrPermission, "invalid": fs.ErrInvalid}

func wire(err error) *wireError {
	if err == nil {
		return nil
	}
	w := &wireError{Message: err.Error()}
	for code, s := range sentinels {
		if errors.Is(err, s) {
			w.Code = code
		}
	}
	return w
}

func (w *wireError) Error() string { return w.Message }
func (w *wireError) Unwrap() error { return sentinels[w.Code] }

func protocolError(format string, args ...any) error {
	return fmt.Errorf("file passing protocol: "+format, args...)
}

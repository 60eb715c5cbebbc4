// Package handover brings what an operator names to the daemon. The daemon runs as its own user in a sandbox and may
// not be able to open it, so the command stays its file opener for as long as an import lasts: files and pipes go over
// as descriptors, and of a directory each file when it is asked for.
//
// The command sends POST /v1/imports to the admin socket with "Connection: Upgrade" and "Upgrade: casemate-import" (RFC
// 9110, 7.8). After the 101 both sides speak frames: a length of 4 bytes, big-endian, and so many bytes of JSON
// (message). A descriptor travels as SCM_RIGHTS with the first byte of its frame. The command speaks first, and only
// after the 101: whatever the HTTP server read ahead could not bring descriptors.
//
// It promises: a descriptor that the daemon gets is open for reading only and is a regular file or a pipe; of a
// directory nothing is opened that lies outside it, wherever its symbolic links lead; when one side goes away, the
// other side's calls end; and what was not given out as a file is closed with the session. Nothing is ever linked: what
// is handed over stays the operator's, who may go on writing it.
package handover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// Protocol is the name in the Upgrade header, Path where it is asked for.
const (
	Protocol = "casemate-import"
	Path     = "/v1/imports"
)

// Limits of what one side takes from the other.
const (
	maxAsk     = 1 << 20  // bytes of a frame from the command
	maxAnswer  = 64 << 20 // bytes of a frame from the daemon: the result of a dry run names every change
	maxInputs  = 1024     // descriptors that one import may hold open
	maxFlight  = 16       // questions to the command under way
	pageSize   = 512      // entries of a directory in one frame, each a name of at most 255 bytes (NAME_MAX)
	helloWait  = 30 * time.Second
	finishWait = 30 * time.Second // for a command that is stopped (SIGSTOP) when its import is done
	everyTick  = 200 * time.Millisecond
)

// Request is what the operator asked for.
type Request struct {
	// Name is the import's; "": the daemon finds one.
	Name string `json:"name,omitempty"`
	// Keys are trusted public keys, each the base64 of 32 bytes, beside those that the settings name.
	Keys []string `json:"keys,omitempty"`
	// Repository names the images that name none themselves.
	Repository string `json:"repository,omitempty"`
	// DryRun asks what would change, and changes nothing.
	DryRun bool `json:"dry_run,omitempty"`
	// Partial leaves out names that cannot be taken, with their reasons.
	Partial bool `json:"partial,omitempty"`
	// Inputs are in the operator's order. Run fills them.
	Inputs []Named `json:"inputs"`
}

// Named is one thing that the operator named.
type Named struct {
	Name string `json:"name"` // as it was typed; "-" is standard input
	Dir  bool   `json:"dir,omitempty"`
	// Relayed says that the command copies it into a pipe of its own, because it is neither a regular file nor a pipe
	// (ssh gives a socket). Such a pipe also ends when the command dies, so its end counts only when the command
	// confirms it.
	Relayed bool `json:"relayed,omitempty"`
}

// Progress is how far an import is.
type Progress struct {
	Done  int64  `json:"done"`  // bytes
	Total int64  `json:"total"` // bytes; -1 when it is not known
	Phase string `json:"phase,omitempty"`
}

// Error is the daemon's answer that is no success.
type Error struct {
	Status  int // of HTTP, docs/admin-api.md says which means what
	Message string
}

func (e *Error) Error() string { return e.Message }

// ErrGone ends a session whose command went away.
var ErrGone = errors.New("the command that hands over the files went away")

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

// What the daemon asks of the command.
const (
	opOpen     = "open"      // Path: a descriptor of a regular file, or Dir of a directory
	opStat     = "stat"      // Path: its Entry
	opLstat    = "lstat"     // Path: its Entry, of a link itself
	opReadLink = "read-link" // Path: an Entry with what the link says as its name
	opReadDir  = "read-dir"  // Dir: the next Entries, none at its end
	opCloseDir = "close-dir" // Dir: forget it
	opEnd      = "end"       // Input: the error with which a relayed input ended, if any
	opProgress = "progress"  // show Progress; answered, so that a command which does not read is not written full
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

// entry is a fs.FileInfo. The name is bytes: a file system may hold names that are no UTF-8, which a list must show and
// JSON would change.
type entry struct {
	Base []byte      `json:"name"`
	Len  int64       `json:"size"`
	Bits fs.FileMode `json:"mode"`
	Time int64       `json:"time"` // nanoseconds since 1970
}

func entryOf(i fs.FileInfo) entry {
	return entry{[]byte(i.Name()), i.Size(), i.Mode(), i.ModTime().UnixNano()}
}

// info shows an entry as fs.FileInfo and fs.DirEntry.
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

// wireError keeps an error's identity on the way: errors.Is finds the same sentinel on the other side.
type wireError struct {
	Code    string `json:"code,omitempty"`
	Message string `json:"message"`
}

// sentinels are the errors that keep their identity, by code.
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
	return fmt.Errorf("hand-over protocol: "+format, args...)
}

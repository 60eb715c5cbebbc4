package state

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// Sentinels beyond those of io/fs.
var (
	// ErrCollected refuses an AddBlob whose majority was confirmed before the digest's newest collect: the bytes may be
	// gone and must be copied again.
	ErrCollected = errors.New("the blob was collected after its copies were confirmed: copy it again")
	// ErrOldBoot refuses a command of a process of the node that a newer one has replaced. It was not applied.
	ErrOldBoot = errors.New("a newer process of this node has taken over")
	// ErrFinished refuses a repeat of a command whose outcome the node has reported as received. Nothing was applied
	// now.
	ErrFinished = errors.New("the command was already answered and its outcome is no longer remembered")
	// ErrApproval refuses what needs the approval of a second person.
	ErrApproval = errors.New("it needs the approval of somebody else")
)

// Code is an Error's identity on the wire and in snapshots; codes are never reused.
type Code uint8

// The codes, each with the sentinel that errors.Is finds.
const (
	// fs.ErrInvalid: bad name, digest or id, record too large, an edit that is not allowed there
	CodeInvalid   Code = 1
	CodeConflict  Code = 2  // fs.ErrExist: there is a file in place of a directory, or vice versa
	CodeVersion   Code = 3  // fs.ErrExist: an Expect does not hold
	CodeNoBlob    Code = 4  // fs.ErrNotExist: a link to a blob that is not known
	CodeNoStage   Code = 5  // fs.ErrNotExist: the stage was published, dropped or has expired, wholly or in between
	CodeCollected Code = 6  // ErrCollected
	CodeOldBoot   Code = 7  // ErrOldBoot
	CodeFinished  Code = 8  // ErrFinished
	CodeBusy      Code = 9  // syscall.EAGAIN: too many commands of the node are under way
	CodeLimit     Code = 10 // fs.ErrInvalid: a limit of the state
	CodeApproval  Code = 11 // ErrApproval
)

var sentinels = map[Code]error{
	CodeInvalid: fs.ErrInvalid, CodeConflict: fs.ErrExist, CodeVersion: fs.ErrExist, CodeNoBlob: fs.ErrNotExist,
	CodeNoStage:   fs.ErrNotExist,
	CodeCollected: ErrCollected, CodeOldBoot: ErrOldBoot, CodeFinished: ErrFinished, CodeBusy: syscall.EAGAIN,
	CodeLimit: fs.ErrInvalid, CodeApproval: ErrApproval,
}

// Error is the reason why a command was refused. A refused command changes nothing. It has plain fields so that it can
// be sent in any encoding.
type Error struct {
	_      struct{} `cbor:",toarray"`
	Code   Code
	Op     string // "put", "link", "expect", …
	Name   string // the name, digest, stage or claim, shortened if it is very long
	Detail string // the rule and what it got
}

func (e *Error) Error() string {
	switch {
	case e.Detail == "":
		return fmt.Sprintf("%s %s: %v", e.Op, e.Name, e.Unwrap())
	default:
		return fmt.Sprintf("%s %s: %s: %v", e.Op, e.Name, e.Detail, e.Unwrap())
	}
}

// Unwrap returns the sentinel of the code.
func (e *Error) Unwrap() error {
	if err, ok := sentinels[e.Code]; ok {
		return err
	}
	return fmt.Errorf("error code %d", e.Code)
}

func refuse(code Code, op, name, format string, args ...any) *Error {
	return &Error{Code: code, Op: op, Name: short(name), Detail: fmt.Sprintf(format, args...)}
}

// short bounds the foreign input in an error, since outcomes are stored.
func short(s string) string {
	const most = 256
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}

package peer

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"syscall"
)

// Answer is what one node answers another.
type Answer struct {
	Index uint64 `json:"index,omitempty"`
	Error string `json:"error,omitempty"`
	Kind  string `json:"kind,omitempty"`
	// Leader is where to ask instead, "" if that is not known.
	Leader string `json:"leader,omitempty"`
}

// The kinds of errors that keep their identity between nodes. Refusals of the state need none: they are read from the
// state.
const (
	KindNotLeader = "not-leader" // nothing was done
	KindLost      = "lost"       // it is not known whether it was done
	KindRemoved   = "removed"
	KindNotExist  = "not-exist"
	KindBadBytes  = "bad-bytes"
	KindNoSpace   = "no-space"
	KindCollected = "collected"
	KindInvalid   = "invalid"
	KindExist     = "exist"
	KindFailed    = "failed" // anything else
)

var statusOf = map[string]int{
	"": http.StatusOK, KindNotLeader: http.StatusMisdirectedRequest, KindLost: http.StatusBadGateway,
	KindRemoved: http.StatusGone, KindNotExist: http.StatusNotFound,
	KindBadBytes: http.StatusUnprocessableEntity, KindNoSpace: http.StatusInsufficientStorage,
	KindCollected: http.StatusConflict, KindInvalid: http.StatusBadRequest,
	KindExist: http.StatusConflict, KindFailed: http.StatusInternalServerError,
}

// Reply sends an answer with the HTTP status of its kind.
func Reply(w http.ResponseWriter, a Answer) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(statusOf[a.Kind])
	json.NewEncoder(w).Encode(a)
}

var (
	// ErrDown says that a member cannot be reached now.
	ErrDown = fmt.Errorf("cannot be reached: %w", syscall.EAGAIN)
	// ErrSent says that a request may have been carried out: its answer was lost.
	ErrSent = errors.New("the answer was lost")
	// ErrNoMajority says that writing has to wait for more nodes.
	ErrNoMajority = fmt.Errorf("no majority of the voters can be reached now, try again later: %w", syscall.EAGAIN)
)

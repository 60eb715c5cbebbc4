package peer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"syscall"
)

// Answer is the reply of one node to another.
type Answer struct {
	Index uint64 `json:"index,omitempty"`
	Error string `json:"error,omitempty"`
	Kind  string `json:"kind,omitempty"`
	// Leader is the leader's name, for the next attempt; "" if it is unknown.
	Leader string `json:"leader,omitempty"`
	// Term is the term in which the node is, if it was asked for that.
	Term uint64 `json:"term,omitempty"`
}

// The kinds of errors that keep their identity between nodes. Refusals by the state need none: the caller reads them
// from the state.
const (
	KindNotLeader = "not-leader" // nothing was done
	KindLost      = "lost"       // it is unknown whether it was done
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

// shortAnswer is the length up to which the rest of an answer is read: reading it costs less than a connection.
const shortAnswer = 4 << 10

// Finish ends the use of another node's answer. A connection whose answer was not read to its end is closed, and the
// next request costs a handshake at both ends, so it reads the rest of a short answer.
func Finish(res *http.Response) {
	if res.ContentLength >= 0 && res.ContentLength <= shortAnswer {
		io.Copy(io.Discard, res.Body)
	}
	res.Body.Close()
}

var (
	// ErrDown reports that a member cannot be reached now.
	ErrDown = fmt.Errorf("cannot be reached: %w", syscall.EAGAIN)
	// ErrSent reports that a request may have been carried out: its answer was lost.
	ErrSent = errors.New("the answer was lost")
	// ErrNoMajority reports that writes have to wait for more nodes.
	ErrNoMajority = fmt.Errorf("no majority of the voters can be reached now, try again later: %w", syscall.EAGAIN)
)

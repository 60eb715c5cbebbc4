package admin

import (
	"bytes"
	"encoding/json"
	"iter"
	"net/http"
)

// streamed is a response that is a JSON array, written while it is generated: its memory cost does not depend on its
// length, and it ends with the client's request, whose context the sequence follows.
type streamed iter.Seq2[any, error]

// streamOf converts a sequence; convert returns an element of the array, or !ok to leave it out.
func streamOf[T any](list iter.Seq2[T, error], convert func(T) (any, bool)) streamed {
	return func(yield func(any, error) bool) {
		for v, err := range list {
			if err != nil {
				yield(nil, err)
				return
			}
			if out, ok := convert(v); ok && !yield(out, nil) {
				return
			}
		}
	}
}

// streamChunk is how many bytes of an array are collected before they are sent.
const streamChunk = 64 << 10

// sendStream writes the array. An error before the first chunk is answered like any other. After it the status has
// been sent: the connection is aborted, so that the client never takes an incomplete array for a complete one.
func (a *API) sendStream(w http.ResponseWriter, r *http.Request, list streamed) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	b.WriteByte('[')
	n, sent := 0, false
	for v, err := range list {
		if err == nil {
			if n++; n > 1 {
				b.WriteByte(',')
			}
			err = e.Encode(v)
		}
		if err != nil && !sent {
			a.adminError(w, r, err)
			return
		}
		if err != nil {
			if r.Context().Err() == nil {
				a.Log.Warn("admin request failed", "method", r.Method, "path", r.URL.Path, "err", err)
			}
			panic(http.ErrAbortHandler)
		}
		if b.Len() >= streamChunk {
			w.Header().Set("Content-Type", "application/json")
			if _, err := w.Write(b.Bytes()); err != nil {
				return // the client has gone
			}
			sent = true
			b.Reset()
		}
	}
	b.WriteString("]\n")
	w.Header().Set("Content-Type", "application/json")
	w.Write(b.Bytes())
}

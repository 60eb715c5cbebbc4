package admin

import (
	"bytes"
	"encoding/json"
	"iter"
	"net/http"
)

// streamed is an answer of the admin API that is a JSON array, written while it is made: what it costs in memory does
// not depend on how long it is, and it ends with the client, whose context the sequence follows.
type streamed iter.Seq2[any, error]

// streamOf makes one of a sequence; convert makes an element of the array, !ok leaves one out.
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

// streamChunk is how many bytes of an array are made before they are sent.
const streamChunk = 64 << 10

// sendStream writes the array. An error before the first chunk is answered like any other. After it there is no status
// any more: the connection is cut, so that the client sees half an array and never takes it for a whole one.
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
				return // nobody reads it any more
			}
			sent = true
			b.Reset()
		}
	}
	b.WriteString("]\n")
	w.Header().Set("Content-Type", "application/json")
	w.Write(b.Bytes())
}

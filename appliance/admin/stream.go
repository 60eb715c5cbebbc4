package admin

import (
	"bytes"
	"encoding/json"
	"net/http"
)

// streamChunk is how many bytes of an array are collected before they are sent.
const streamChunk = 64 << 10

// sendStream writes the array, or the object that contains it, while it is made: its memory cost does not depend on its
// length, and it ends with the client's request, whose context the list follows. An error before the first chunk is
// answered like any other. After it the status has been sent: the connection is aborted, so that the client never takes
// an incomplete array for a complete one.
func (a *API) sendStream(w http.ResponseWriter, r *http.Request, answer pagedAnswer) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	end, err := answer.open(&b)
	if err != nil {
		a.adminError(w, r, err)
		return
	}
	n, sent := 0, false
	for v, err := range answer.list {
		if err == nil {
			if n++; n > 1 {
				b.WriteByte(',')
			}
			err = e.Encode(v.value)
		}
		if err != nil && !sent {
			w.Header().Del("Link")
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
	b.WriteString(end)
	w.Header().Set("Content-Type", "application/json")
	w.Write(b.Bytes())
}

// open writes what precedes the first element, and returns what follows the last.
func (p pagedAnswer) open(b *bytes.Buffer) (end string, err error) {
	if p.around == nil {
		b.WriteByte('[')
		return "]\n", nil
	}
	head, err := json.Marshal(p.around)
	if err != nil {
		return "", err
	}
	b.Write(bytes.TrimSuffix(head, []byte("}")))
	if b.Len() > 1 {
		b.WriteByte(',')
	}
	b.WriteString(`"` + p.field + `":[`)
	return "]}\n", nil
}

// Package reply writes the short answers that several rooms give over HTTP: refusals and whole documents.
package reply

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// Refuse answers with one sentence: as the registry's error where a registry's client reads it, else as text.
func Refuse(w http.ResponseWriter, r *http.Request, status int, code, sentence string) {
	body := sentence + "\n"
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.URL.Path == "/v2" || strings.HasPrefix(r.URL.Path, "/v2/") || r.URL.Path == "/token" {
		w.Header().Set("Content-Type", "application/json")
		quoted, _ := json.Marshal(sentence) // a string can always be written
		body = fmt.Sprintf("{\"errors\":[{\"code\":%q,\"message\":%s}]}\n", code, quoted)
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		io.WriteString(w, body)
	}
}

// Clip keeps what a client sent short in an answer.
func Clip(s string) string {
	if len(s) > 120 {
		return s[:120] + "…"
	}
	return s
}

// Send answers with a whole document that must be fetched anew each time.
func Send(w http.ResponseWriter, r *http.Request, kind string, body []byte) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method != http.MethodHead {
		w.Write(body)
	}
}

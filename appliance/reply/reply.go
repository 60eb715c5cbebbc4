// Package reply writes short HTTP responses: refusals and whole documents.
package reply

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// Refuse responds with one sentence: in the registry's error format if the client is a registry client, else as text.
func Refuse(w http.ResponseWriter, r *http.Request, status int, code, sentence string) {
	body := sentence + "\n"
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.URL.Path == "/v2" || strings.HasPrefix(r.URL.Path, "/v2/") || r.URL.Path == "/token" {
		w.Header().Set("Content-Type", "application/json")
		quoted, _ := json.Marshal(sentence) // marshalling a string cannot fail
		body = fmt.Sprintf("{\"errors\":[{\"code\":%q,\"message\":%s}]}\n", code, quoted)
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		io.WriteString(w, body)
	}
}

// Clip truncates text from a client for a response.
func Clip(s string) string {
	if len(s) > 120 {
		return s[:120] + "…"
	}
	return s
}

// Send responds with a whole document that must not be cached.
func Send(w http.ResponseWriter, r *http.Request, kind string, body []byte) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method != http.MethodHead {
		w.Write(body)
	}
}

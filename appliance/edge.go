package appliance

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"casemate/appliance/missing"
	"casemate/appliance/origin"
	"casemate/fileserver"
	"casemate/registry"
)

const (
	maxHeader = 64 << 10
	maxURI    = 8 << 10
)

// place is what a host name means here.
type place int

const (
	placeUnknown  place = iota
	placeOrigin         // an origin or an alias of one
	placeRegistry       // registry.<domain>
	placeFiles          // files.<domain>
	placeSelf           // <domain>, <node>.<domain>, an address
)

// hosts tells what host names mean. It is immutable; a change of origins or nodes makes a new one.
type hosts struct {
	domain  string
	nodes   map[string]bool
	origins *origin.Set
}

// find says what host means, as a client wrote it; for an origin it gives the canonical one.
func (h *hosts) find(host string) (place, string) {
	host = origin.Fold(host)
	if o, ok := h.origins.Canonical(host); ok {
		return placeOrigin, o
	}
	switch host {
	case h.domain, "", "localhost": // HTTP/1.0 has no host
		return placeSelf, ""
	case "registry." + h.domain:
		return placeRegistry, ""
	case "files." + h.domain:
		return placeFiles, ""
	}
	if node, ok := strings.CutSuffix(host, "."+h.domain); ok && h.nodes[node] {
		return placeSelf, ""
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return placeSelf, ""
	}
	return placeUnknown, ""
}

// names returns every host name that this node answers for.
func (h *hosts) names() []string {
	names := append([]string{h.domain, "registry." + h.domain, "files." + h.domain}, h.origins.Names()...)
	for n := range h.nodes {
		names = append(names, n+"."+h.domain)
	}
	return names
}

// edge takes every request apart by its host and hands it to the room that it is for.
type edge struct {
	hosts    *atomic.Pointer[hosts]
	registry func(http.ResponseWriter, *http.Request, registry.View)
	files    func(http.ResponseWriter, *http.Request, fileserver.View)
	pages    http.Handler // of placeSelf: what is neither the registry nor files
	miss     func(kind, name, detail string, client netip.Addr)
	seen     func(service string, r *http.Request, status int, bytes int64, took time.Duration)
	stall    time.Duration
	node     string
	pass     http.RoundTripper // to other nodes; nil: there are none
	roomier  func() string     // another node that takes what this one has no room for, "" if this one has room or none has
	log      *slog.Logger
}

// handler returns the handler of one port; plain says that it has no TLS: the same content for reading, no writes and no credentials.
func (e *edge) handler(plain bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := &recorder{ResponseWriter: w}
		start := time.Now()
		service := "none"
		defer func() { e.seen(service, r, rec.status, rec.bytes, time.Since(start)) }()
		service = e.serve(rec, r, plain)
	})
}

func (e *edge) serve(w *recorder, r *http.Request, plain bool) (service string) {
	// Nobody stands between us and the client: who says so lies, and distribution would believe it.
	for name := range r.Header {
		if name == "Forwarded" || strings.HasPrefix(name, "X-Forwarded-") || name == "X-Real-Ip" {
			delete(r.Header, name)
		}
	}
	if len(r.RequestURI) > maxURI {
		refuse(w, r, http.StatusRequestURITooLong, "DENIED", fmt.Sprintf("the address is longer than %d bytes", maxURI))
		return "none"
	}
	h := e.hosts.Load()
	at, o := h.find(r.Host)
	if r.TLS != nil && r.TLS.ServerName != "" && !strings.EqualFold(r.TLS.ServerName, origin.Fold(r.Host)) {
		// The certificate was for another name than the request (RFC 9110 section 7.4).
		if sniAt, sniOrigin := h.find(r.TLS.ServerName); sniAt != at || sniOrigin != o {
			refuse(w, r, http.StatusMisdirectedRequest, "DENIED", fmt.Sprintf("the connection is for %s and the request for %s: use a connection of its own", clip(r.TLS.ServerName), clip(r.Host)))
			return "none"
		}
	}
	if at == placeUnknown {
		e.miss(missing.Host, origin.Fold(r.Host), clip(r.Method+" "+r.URL.Path), clientOf(r))
		refuse(w, r, http.StatusMisdirectedRequest, "DENIED", fmt.Sprintf("this is casemate, which does not answer for %s: casemate origin add %s changes that", clip(r.Host), clip(origin.Fold(r.Host))))
		return "none"
	}
	read := r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions
	if plain && !read {
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, r, http.StatusMethodNotAllowed, "UNSUPPORTED", "nothing is written over plain http: use https")
		return "none"
	}
	if a := r.Header.Get("Authorization"); plain && a != "" && !bearer(a) {
		refuse(w, r, http.StatusForbidden, "DENIED", "credentials are not taken over plain http: use https, or read without them, and change the password that was just sent in the clear")
		return "none"
	}
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &stallBody{ReadCloser: r.Body, deadline: http.NewResponseController(w).SetReadDeadline, stall: e.stall}
	}
	images := r.URL.Path == "/v2" || strings.HasPrefix(r.URL.Path, "/v2/")
	token := r.URL.Path == "/token"
	if node := registry.UploadNode(r); node != "" && node != e.node && images && h.nodes[node] && e.pass != nil {
		e.passOn(w, r, node)
		return "registry"
	}
	if images && !read && r.Header.Get(passedHeader) == "" && r.Method != http.MethodDelete && e.roomier != nil && registry.UploadNode(r) == "" {
		// A client does not know that it had better ask another of the addresses that DNS gave it.
		if node := e.roomier(); node != "" {
			e.passOn(w, r, node)
			return "registry"
		}
	}
	view := registry.View{Origin: o, Plain: plain, Host: r.Host}
	switch {
	case at == placeOrigin && images:
		e.registry(w, r, view)
		return "registry"
	case at == placeOrigin && token && origin.Fold(r.Host) == "auth.docker.io":
		// Clients come here only if they were sent by something else than us; an anonymous token is what they want.
		e.registry(w, r, registry.View{Plain: plain, Host: r.Host})
		return "registry"
	case at == placeOrigin:
		e.files(w, r, fileserver.View{Origin: o, Plain: plain})
		return "files"
	case at == placeFiles:
		e.files(w, r, fileserver.View{Plain: plain})
		return "files"
	case images || token:
		e.registry(w, r, view)
		return "registry"
	case at == placeSelf && (r.URL.Path == "/files" || strings.HasPrefix(r.URL.Path, "/files/")):
		if r.URL.Path == "/files" {
			w.Header().Set("Location", "/files/")
			w.WriteHeader(http.StatusMovedPermanently)
			return "files"
		}
		e.files(w, below(r, "/files"), fileserver.View{Plain: plain})
		return "files"
	case at == placeSelf:
		e.pages.ServeHTTP(w, r)
		return "pages"
	}
	refuse(w, r, http.StatusNotFound, "NAME_UNKNOWN", "images are below /v2/ here")
	return "none"
}

// passedHeader says which node has passed a request on. It is passed on once.
const passedHeader = "Casemate-Passed"

// passOn lets another node answer, which has the bytes of the upload. If it does not answer, they are out of reach: the client begins that upload again.
func (e *edge) passOn(w http.ResponseWriter, r *http.Request, node string) {
	proxy := httputil.ReverseProxy{
		Transport: e.pass,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = "http", node
			p.Out.Host = p.In.Host
			p.Out.Header.Set(passedHeader, e.node)
		},
		ErrorLog: slog.NewLogLogger(e.log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			e.log.Warn("upload not passed on", "peer", node, "error", err)
			refuse(w, r, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", fmt.Sprintf("node %s, which has this upload, does not answer: begin it again", node))
		},
	}
	proxy.ServeHTTP(w, r)
}

// bearer reports a token, which the registry judges itself: over plain http it takes those for reading.
func bearer(authorization string) bool {
	scheme, _, _ := strings.Cut(authorization, " ")
	return strings.EqualFold(scheme, "Bearer")
}

// below returns r with prefix taken off its path, in both forms.
func below(r *http.Request, prefix string) *http.Request {
	sub := new(http.Request)
	*sub = *r
	sub.URL = new(url.URL)
	*sub.URL = *r.URL
	sub.URL.Path = strings.TrimPrefix(r.URL.Path, prefix)
	sub.URL.RawPath = strings.TrimPrefix(r.URL.RawPath, prefix)
	return sub
}

// refuse answers with one sentence: as the registry's error where a registry's client reads it, else as text.
func refuse(w http.ResponseWriter, r *http.Request, status int, code, sentence string) {
	body := sentence + "\n"
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.URL.Path == "/v2" || strings.HasPrefix(r.URL.Path, "/v2/") || r.URL.Path == "/token" {
		w.Header().Set("Content-Type", "application/json")
		body = fmt.Sprintf("{\"errors\":[{\"code\":%q,\"message\":%s}]}\n", code, jsonString(sentence))
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		io.WriteString(w, body)
	}
}

// clip keeps what a client sent short in an answer.
func clip(s string) string {
	if len(s) > 120 {
		return s[:120] + "…"
	}
	return s
}

// recorder remembers the status and counts the bytes of an answer. It passes ReadFrom on, so that a file still goes to the socket by sendfile.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// ReadFrom is what io.Copy calls.
func (w *recorder) ReadFrom(r io.Reader) (int64, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	rf, ok := w.ResponseWriter.(io.ReaderFrom)
	if !ok {
		return io.Copy(writerOnly{w}, r)
	}
	n, err := rf.ReadFrom(r)
	w.bytes += n
	return n, err
}

type writerOnly struct{ io.Writer }

// Unwrap is for http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

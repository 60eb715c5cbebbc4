package appliance

import (
	"crypto/tls"
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
	"syscall"
	"time"

	"casemate/appliance/missing"
	"casemate/appliance/origin"
	"casemate/appliance/user"
	"casemate/cluster/share"
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
	homes   map[string]bool // the nodes' addresses, as share.Of gives them
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
	large    *share.Places     // for large answers; nil: there is no bound
	log      *slog.Logger
}

// handler returns the handler of one port; plain says that it has no TLS: the same content for reading, no writes and
// no credentials.
func (e *edge) handler(plain bool) http.Handler {
	return e.recorded(func(rec *recorder, r *http.Request) string {
		// Nobody stands between us and the client: who says so lies, and distribution would believe it. What nodes tell
		// each other is theirs to tell.
		for name := range r.Header {
			if name == "Forwarded" || strings.HasPrefix(name, "X-Forwarded-") || name == "X-Real-Ip" ||
				strings.HasPrefix(name, passedHeaders) {
				delete(r.Header, name)
			}
		}
		if c, ok := r.Context().Value(placeKey{}).(*progressConn); ok {
			c.place.Begin()
			defer func() { c.place.End(rec.status >= 200 && rec.status < 400) }()
			if r.TLS != nil && r.ProtoMajor == 1 && c.turns != nil {
				rec.conn = c
			}
			if e.large != nil {
				rec.take = func() (*share.Place, bool) { return e.large.Take(share.Of(clientOf(r)), c.abort) }
			}
		}
		if r.Body != nil && r.Body != http.NoBody {
			rec.body = &stallBody{
				ReadCloser: r.Body, deadline: http.NewResponseController(rec.ResponseWriter).SetReadDeadline, stall: e.stall,
				expects: strings.EqualFold(r.Header.Get("Expect"), "100-continue"),
			}
			defer rec.body.end()
		}
		// A copy, since the server looks at the body that it made itself.
		in := r.WithContext(user.WithClient(r.Context(), clientOf(r)))
		if rec.body != nil {
			in.Body = rec.body
		}
		return e.serve(rec, in, plain)
	})
}

// recorded tells seen what became of each request.
func (e *edge) recorded(serve func(*recorder, *http.Request) (service string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := &recorder{ResponseWriter: w}
		start := time.Now()
		service := "none"
		defer func() { e.seen(service, r, rec.status, rec.bytes, time.Since(start)) }()
		service = serve(rec, r)
	})
}

func (e *edge) serve(w *recorder, r *http.Request, plain bool) (service string) {
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
	images := r.URL.Path == "/v2" || strings.HasPrefix(r.URL.Path, "/v2/")
	token := r.URL.Path == "/token"
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

// What one node tells another about a request that it passes on. A client's own headers of these names are dropped.
const (
	passedHeaders = "Casemate-"
	passedBy      = "Casemate-Passed" // the node that has passed it on: once, and no further
	passedClient  = "Casemate-Client" // the client's address and port, for limits and the log
	passedPlain   = "Casemate-Plain"  // "1": it came over plain http
)

// passOn lets another node answer a request of a push, which the registry has found to be one that may be made: the
// node that has the bytes of the upload or, with "", one that has room if this one has none. If it does not answer,
// they are out of reach: the client begins that upload again.
func (e *edge) passOn(w http.ResponseWriter, r *http.Request, node string) bool {
	if node == "" && e.roomier != nil {
		// A client does not know that it had better ask another of the addresses that DNS gave it.
		node = e.roomier()
	}
	if e.pass == nil || node == "" || node == e.node || !e.hosts.Load().nodes[node] {
		return false
	}
	proxy := httputil.ReverseProxy{
		Transport: e.pass,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = "http", node
			p.Out.Host = p.In.Host
			p.Out.Header.Set(passedBy, e.node)
			p.Out.Header.Set(passedClient, r.RemoteAddr)
			if r.TLS == nil {
				p.Out.Header.Set(passedPlain, "1")
			}
		},
		ErrorLog: slog.NewLogLogger(e.log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			e.log.Warn("upload not passed on", "client", r.RemoteAddr, "peer", node, "error", err)
			refuse(w, r, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", fmt.Sprintf("node %s, which has this upload, does not answer: begin it again", node))
		},
	}
	proxy.ServeHTTP(w, r)
	return true
}

// passedOn answers what other nodes pass on. It knows pushes and nothing else, and sees the client: its address, and
// whether it came by TLS.
func (e *edge) passedOn() http.Handler {
	return e.recorded(func(w *recorder, r *http.Request) string {
		if !registry.Pushes(r) {
			refuse(w, r, http.StatusNotFound, "UNSUPPORTED", "nodes pass on requests of pushes only")
			return "none"
		}
		h := e.hosts.Load()
		at, o := h.find(r.Host)
		if at == placeUnknown {
			refuse(w, r, http.StatusMisdirectedRequest, "DENIED",
				fmt.Sprintf("this is casemate, which does not answer for %s", clip(r.Host)))
			return "none"
		}
		plain := r.Header.Get(passedPlain) != ""
		in := *r
		in.TLS = nil
		if !plain {
			in.TLS = &tls.ConnectionState{} // the other node's; here it says what addresses in answers begin with
		}
		if at, err := netip.ParseAddrPort(r.Header.Get(passedClient)); err == nil {
			in.RemoteAddr = at.String()
		}
		in.Header = r.Header.Clone()
		for _, name := range []string{passedBy, passedClient, passedPlain} {
			in.Header.Del(name)
		}
		e.registry(w, in.WithContext(user.WithClient(r.Context(), clientOf(&in))),
			registry.View{Origin: o, Plain: plain, Host: r.Host, Passed: true})
		return "registry"
	})
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

// recorder remembers the status and counts the bytes of an answer. It passes ReadFrom on, so that a file still goes to
// the socket by sendfile.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
	body   *stallBody                  // the request's; nil if it has none
	take   func() (*share.Place, bool) // takes a place for a large answer; nil: it needs none
	conn   *progressConn               // has files copied in turns before they are encrypted; nil: it does that itself
}

func (w *recorder) WriteHeader(status int) {
	w.begin(status)
	w.ResponseWriter.WriteHeader(status)
}

// begin is called before the first byte of an answer.
func (w *recorder) begin(status int) {
	if w.status != 0 || status < 200 {
		return
	}
	w.status = status
	if w.body != nil && !w.body.settle() {
		w.Header().Set("Connection", "close")
	}
}

func (w *recorder) Write(p []byte) (int, error) {
	w.begin(http.StatusOK)
	if w.take != nil && len(p) > largeAnswer {
		place, ok := w.take()
		if !ok {
			return 0, syscall.EAGAIN
		}
		defer place.Free()
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// ReadFrom is what io.Copy calls.
func (w *recorder) ReadFrom(r io.Reader) (int64, error) {
	w.begin(http.StatusOK)
	if w.conn != nil {
		if f, limit := fileOf(r); f != nil && limit >= largeWrite {
			n, err := w.conn.copyInTurns(w.ResponseWriter, r, f, limit)
			w.bytes += n
			return n, err
		}
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

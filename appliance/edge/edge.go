// Package edge takes clients' requests: it finds out by TLS name and Host which view of which service a request is for,
// and refuses what may not be asked over plain HTTP.
package edge

import (
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"casemate/appliance/clientconn"
	"casemate/appliance/missing"
	"casemate/appliance/origin"
	"casemate/appliance/reply"
	"casemate/appliance/routing"
	"casemate/appliance/user"
	"casemate/cluster/share"
	"casemate/fileserver"
	"casemate/registry"
)

const (
	MaxHeader = 64 << 10
	maxURI    = 8 << 10
)

// An Edge takes every request apart by its host and hands it to the room that it is for.
type Edge struct {
	Hosts    func() *routing.Hosts
	Registry func(http.ResponseWriter, *http.Request, registry.View)
	Files    func(http.ResponseWriter, *http.Request, fileserver.View)
	// Pages are what the bastions' own names show besides images and files.
	Pages http.Handler
	Miss  func(kind, name, detail string, client netip.Addr)
	// Observe is told what became of each request.
	Observe func(service string, r *http.Request, status int, bytes int64, took time.Duration)
	Stall   time.Duration // see clientconn.StallTimeout
	Node    string
	// Pass reaches other nodes; nil: there are none.
	Pass http.RoundTripper
	// MostFree names another node that takes what this one has no room for, "" if this one has room or none has.
	MostFree func() string
	// Large divides large answers; nil: there is no bound.
	Large *share.Places
	Log   *slog.Logger

	requests requests
}

// handler returns the handler of one port; plain says that it has no TLS: the same content for reading, no writes and
// no credentials.
func (e *Edge) handler(plain bool) http.Handler {
	return e.recorded(func(rec *recorder, r *http.Request) string {
		// Nobody stands between us and the client: who says so lies, and distribution would believe it. What nodes tell
		// each other is theirs to tell.
		for name := range r.Header {
			if name == "Forwarded" || strings.HasPrefix(name, "X-Forwarded-") || name == "X-Real-Ip" ||
				strings.HasPrefix(name, passedHeaders) {
				delete(r.Header, name)
			}
		}
		if c := clientconn.Of(r.Context()); c != nil {
			end := c.Begin()
			defer func() { end(rec.status >= 200 && rec.status < 400) }()
			if r.TLS != nil && r.ProtoMajor == 1 && c.InTurns() {
				rec.conn = c
			}
			if e.Large != nil {
				rec.take = func() (*share.Place, bool) { return e.Large.Take(share.Of(clientconn.AddrOf(r)), c.Abort) }
			}
		}
		if r.Body != nil && r.Body != http.NoBody {
			rec.body = clientconn.NewBody(rec.ResponseWriter, r, e.Stall)
			defer rec.body.Finish()
		}
		// A copy, since the server looks at the body that it made itself.
		in := r.WithContext(user.WithClient(r.Context(), clientconn.AddrOf(r)))
		if rec.body != nil {
			in.Body = rec.body
		}
		return e.serve(rec, in, plain)
	})
}

// recorded tells Observe what became of each request.
func (e *Edge) recorded(serve func(*recorder, *http.Request) (service string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := &recorder{ResponseWriter: w}
		start := time.Now()
		service := "none"
		defer func() { e.Observe(service, r, rec.status, rec.bytes, time.Since(start)) }()
		service = serve(rec, r)
	})
}

func (e *Edge) serve(w *recorder, r *http.Request, plain bool) (service string) {
	if len(r.RequestURI) > maxURI {
		reply.Refuse(w, r, http.StatusRequestURITooLong, "DENIED", fmt.Sprintf("the address is longer than %d bytes", maxURI))
		return "none"
	}
	h := e.Hosts()
	at, o := h.Find(r.Host)
	if r.TLS != nil && r.TLS.ServerName != "" && !strings.EqualFold(r.TLS.ServerName, origin.Fold(r.Host)) {
		// The certificate was for another name than the request (RFC 9110 section 7.4).
		if sniAt, sniOrigin := h.Find(r.TLS.ServerName); sniAt != at || sniOrigin != o {
			reply.Refuse(w, r, http.StatusMisdirectedRequest, "DENIED",
				fmt.Sprintf("the connection is for %s and the request for %s: use a connection of its own",
					reply.Clip(r.TLS.ServerName), reply.Clip(r.Host)))
			return "none"
		}
	}
	if at == routing.Unknown {
		e.Miss(missing.Host, origin.Fold(r.Host), reply.Clip(r.Method+" "+r.URL.Path), clientconn.AddrOf(r))
		reply.Refuse(w, r, http.StatusMisdirectedRequest, "DENIED",
			fmt.Sprintf("this is casemate, which does not answer for %s: casemate origin add %s changes that",
				reply.Clip(r.Host), reply.Clip(origin.Fold(r.Host))))
		return "none"
	}
	read := r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions
	if plain && !read {
		w.Header().Set("Allow", "GET, HEAD")
		reply.Refuse(w, r, http.StatusMethodNotAllowed, "UNSUPPORTED", "plain http is read-only: use https")
		return "none"
	}
	if a := r.Header.Get("Authorization"); plain && a != "" && !bearer(a) {
		reply.Refuse(w, r, http.StatusForbidden, "DENIED", "credentials are not taken over plain http: use https, or read "+
			"without them, and change the password that was just sent in the clear")
		return "none"
	}
	images := r.URL.Path == "/v2" || strings.HasPrefix(r.URL.Path, "/v2/")
	token := r.URL.Path == "/token"
	view := registry.View{Origin: o, Plain: plain, Host: r.Host}
	switch {
	case at == routing.Origin && images:
		e.Registry(w, r, view)
		return "registry"
	case at == routing.Origin && token && origin.Fold(r.Host) == "auth.docker.io":
		// Clients come here only if they were sent by something else than us; an anonymous token is what they want.
		e.Registry(w, r, registry.View{Plain: plain, Host: r.Host})
		return "registry"
	case at == routing.Origin:
		e.Files(w, r, fileserver.View{Origin: o, Plain: plain})
		return "files"
	case at == routing.Files:
		e.Files(w, r, fileserver.View{Plain: plain})
		return "files"
	case images || token:
		e.Registry(w, r, view)
		return "registry"
	case at == routing.Self && (r.URL.Path == "/files" || strings.HasPrefix(r.URL.Path, "/files/")):
		if r.URL.Path == "/files" {
			w.Header().Set("Location", "/files/")
			w.WriteHeader(http.StatusMovedPermanently)
			return "files"
		}
		e.Files(w, below(r, "/files"), fileserver.View{Plain: plain})
		return "files"
	case at == routing.Self:
		e.Pages.ServeHTTP(w, r)
		return "pages"
	}
	reply.Refuse(w, r, http.StatusNotFound, "NAME_UNKNOWN", "images are below /v2/ here")
	return "none"
}

// What one node tells another about a request that it passes on. A client's own headers of these names are dropped.
const (
	passedHeaders = "Casemate-"
	passedBy      = "Casemate-Passed" // the node that has passed it on: once, and no further
	passedClient  = "Casemate-Client" // the client's address and port, for limits and the log
	passedPlain   = "Casemate-Plain"  // "1": it came over plain http
)

// PassOn lets another node answer a request of a push, which the registry has found to be one that may be made: the
// node that has the bytes of the upload or, with "", one that has room if this one has none. If it does not answer,
// they are out of reach: the client begins that upload again.
func (e *Edge) PassOn(w http.ResponseWriter, r *http.Request, node string) bool {
	if node == "" && e.MostFree != nil {
		// A client does not know that it had better ask another of the addresses that DNS gave it.
		node = e.MostFree()
	}
	if e.Pass == nil || node == "" || node == e.Node || !e.Hosts().Nodes[node] {
		return false
	}
	proxy := httputil.ReverseProxy{
		Transport: e.Pass,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = "http", node
			p.Out.Host = p.In.Host
			p.Out.Header.Set(passedBy, e.Node)
			p.Out.Header.Set(passedClient, r.RemoteAddr)
			if r.TLS == nil {
				p.Out.Header.Set(passedPlain, "1")
			}
		},
		ErrorLog: slog.NewLogLogger(e.Log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			e.Log.Warn("upload not forwarded", "client", r.RemoteAddr, "peer", node, "err", err)
			reply.Refuse(w, r, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN",
				fmt.Sprintf("node %s, which has this upload, does not answer: begin it again", node))
		},
	}
	proxy.ServeHTTP(w, r)
	return true
}

// PassedOn answers what other nodes pass on. It knows pushes and nothing else, and sees the client: its address, and
// whether it came by TLS.
func (e *Edge) PassedOn() http.Handler {
	return e.recorded(func(w *recorder, r *http.Request) string {
		if !registry.Pushes(r) {
			reply.Refuse(w, r, http.StatusNotFound, "UNSUPPORTED", "nodes pass on requests of pushes only")
			return "none"
		}
		h := e.Hosts()
		at, o := h.Find(r.Host)
		if at == routing.Unknown {
			reply.Refuse(w, r, http.StatusMisdirectedRequest, "DENIED",
				fmt.Sprintf("this is casemate, which does not answer for %s", reply.Clip(r.Host)))
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
		e.Registry(w, in.WithContext(user.WithClient(r.Context(), clientconn.AddrOf(&in))),
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

// recorder remembers the status and counts the bytes of an answer. It passes ReadFrom on, so that a file still goes to
// the socket by sendfile.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
	body   *clientconn.Body            // the request's; nil if it has none
	take   func() (*share.Place, bool) // takes a place for a large answer; nil: it needs none
	conn   *clientconn.Conn            // has files copied in turns before they are encrypted; nil: it does that itself
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
	if w.body != nil && !w.body.Drain() {
		w.Header().Set("Connection", "close")
	}
}

func (w *recorder) Write(p []byte) (int, error) {
	w.begin(http.StatusOK)
	if w.take != nil && len(p) > clientconn.LargeAnswer {
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
		if f, limit := clientconn.FileOf(r); f != nil && limit >= clientconn.LargeWrite {
			n, err := w.conn.CopyInTurns(w.ResponseWriter, r, f, limit)
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

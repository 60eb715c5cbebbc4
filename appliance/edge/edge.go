// Package edge receives clients' requests: it determines by TLS name and Host which view of which service a request
// is for, and refuses requests that are not allowed over plain HTTP.
package edge

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strconv"
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
	"casemate/cluster/tree"
	"casemate/fileserver"
	"casemate/registry"
)

const (
	MaxHeader = 64 << 10
	maxURI    = 8 << 10
)

// An Edge routes every request by its host to a service.
type Edge struct {
	Hosts    func() *routing.Hosts
	Registry func(http.ResponseWriter, *http.Request, registry.View)
	Files    func(http.ResponseWriter, *http.Request, fileserver.View)
	// Packages answers the writes to repositories of packages.
	Packages func(http.ResponseWriter, *http.Request)
	// Pages serves the bastions' own names, except for images, files and the admin API.
	Pages http.Handler
	// Admin serves /v1/ of the bastions' own names, over TLS only.
	Admin http.Handler
	// Login serves /login/oidc and /callback of the bastions' own names, over TLS only.
	Login http.Handler
	// PassedParts serves requests about uploads of imports that other nodes forward; nil: they forward none.
	PassedParts http.Handler
	// Page serves the paths of the bastions' own names that it has, over TLS; without TLS the client is sent to the
	// port HTTPS.
	Page interface {
		http.Handler
		Has(path string) bool
	}
	HTTPS func() uint16
	Miss  func(kind, name, detail string, client netip.Addr)
	// Observe is called with the outcome of each request.
	Observe func(service string, r *http.Request, status int, bytes int64, took time.Duration)
	// Answered is called with the header of each response; nil: it is not.
	Answered func(service string, r *http.Request, status int, header http.Header)
	// Unasked is called at the end of a connection on which a client has named a host that is served, in the TLS
	// handshake, and has requested nothing; nil: it is not.
	Unasked func(name string, client netip.Addr)
	Stall   time.Duration // see clientconn.StallTimeout
	Node    string
	// Pass connects to other nodes; nil: there are none.
	Pass http.RoundTripper
	// MostFree names another node that accepts uploads for which this one has no room, "" if this one has room or
	// none has.
	MostFree func() string
	// Large limits large responses; nil: unlimited.
	Large *share.Places
	Log   *slog.Logger

	requests requests
}

// handler returns the handler of one port; plain means without TLS: the same content for reading, no writes and no
// credentials.
func (e *Edge) handler(plain bool) http.Handler {
	return e.recorded(func(rec *recorder, r *http.Request) string {
		// There is no proxy between us and the client, so these headers are forged, and distribution would trust
		// them. The headers between nodes are removed from clients' requests too.
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
		// A copy, since the server inspects the body that it created itself.
		in := r.WithContext(fromClient(r.Context(), clientconn.AddrOf(r)))
		if rec.body != nil {
			in.Body = rec.body
		}
		return e.serve(rec, in, plain)
	})
}

// fromClient adds the client's address to the context of its request: for the delays of passwords, and as where changes
// come from. Who makes them is known when its credentials have been checked.
func fromClient(ctx context.Context, addr netip.Addr) context.Context {
	var actor tree.Actor
	if addr.IsValid() {
		actor.From = addr.String()
	}
	return tree.WithActor(user.WithClient(ctx, addr), actor)
}

// recorded calls Observe with the outcome of each request.
func (e *Edge) recorded(serve func(*recorder, *http.Request) (service string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := &recorder{ResponseWriter: w}
		start := time.Now()
		service := "none"
		defer func() {
			e.Observe(service, r, rec.status, rec.bytes, time.Since(start))
			if e.Answered != nil {
				e.Answered(service, r, rec.status, rec.Header())
			}
		}()
		service = serve(rec, r)
	})
}

func (e *Edge) serve(w *recorder, r *http.Request, plain bool) (service string) {
	if len(r.RequestURI) > maxURI {
		reply.Refuse(w, r, http.StatusRequestURITooLong, "DENIED",
			fmt.Sprintf("the address is longer than %d bytes", maxURI))
		return "none"
	}
	h := e.Hosts()
	at, o := h.Find(r.Host)
	if r.TLS != nil && r.TLS.ServerName != "" && !strings.EqualFold(r.TLS.ServerName, origin.Fold(r.Host)) {
		// The certificate was for another name than the request (RFC 9110 section 7.4).
		if sniAt, sniOrigin := h.Find(r.TLS.ServerName); sniAt != at || sniOrigin != o {
			reply.Refuse(w, r, http.StatusMisdirectedRequest, "DENIED",
				fmt.Sprintf("the connection is for %s, but the request is for %s: use another connection",
					reply.Clip(r.TLS.ServerName), reply.Clip(r.Host)))
			return "none"
		}
	}
	if at == routing.Unknown {
		e.Miss(missing.Host, origin.Fold(r.Host), reply.Clip(r.Method+" "+r.URL.Path), clientconn.AddrOf(r))
		reply.Refuse(w, r, http.StatusMisdirectedRequest, "DENIED",
			fmt.Sprintf("casemate does not serve %s: to add it: casemate origin add %s",
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
		reply.Refuse(w, r, http.StatusForbidden, "DENIED",
			"credentials are not accepted over plain http: use https, or read "+
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
		// Clients only request this if another host referred them here; they want an anonymous token.
		e.Registry(w, r, registry.View{Plain: plain, Host: r.Host})
		return "registry"
	case at == routing.Origin:
		e.Files(w, r, fileserver.View{Origin: o, Plain: plain})
		return "files"
	case at == routing.Files:
		e.Files(w, r, fileserver.View{Plain: plain})
		return "files"
	case at == routing.Packages && !read:
		e.Packages(w, r)
		return "files"
	case at == routing.Packages:
		e.Files(w, r, fileserver.View{Index: true, Plain: plain})
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
	case at == routing.Self && strings.HasPrefix(r.URL.Path, "/v1/"):
		if plain {
			reply.Refuse(w, r, http.StatusForbidden, "DENIED", "the admin API is served over https only")
			return "none"
		}
		e.Admin.ServeHTTP(w, r)
		return "admin"
	case at == routing.Self && (r.URL.Path == "/login/oidc" || r.URL.Path == "/callback"):
		if plain {
			reply.Refuse(w, r, http.StatusForbidden, "DENIED", "logins are served over https only")
			return "none"
		}
		e.Login.ServeHTTP(w, r)
		return "login"
	case at == routing.Self && e.Page.Has(r.URL.Path):
		if plain {
			e.toTLS(w, r)
			return "page"
		}
		e.Page.ServeHTTP(w, r)
		return "page"
	case at == routing.Self:
		e.Pages.ServeHTTP(w, r)
		return "pages"
	}
	reply.Refuse(w, r, http.StatusNotFound, "NAME_UNKNOWN", "images are below /v2/ here")
	return "none"
}

// toTLS sends a client to the same address over TLS. Not permanently: a client that remembers it could not come back
// when the port has changed.
func (e *Edge) toTLS(w http.ResponseWriter, r *http.Request) {
	name := r.Host
	if host, _, err := net.SplitHostPort(name); err == nil {
		name = host
	}
	if strings.Contains(name, ":") && !strings.HasPrefix(name, "[") {
		name = "[" + name + "]"
	}
	if port := e.HTTPS(); port != 443 {
		name = net.JoinHostPort(strings.Trim(name, "[]"), strconv.Itoa(int(port)))
	}
	to := url.URL{Scheme: "https", Host: name, Path: r.URL.Path, RawQuery: r.URL.RawQuery}
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, to.String(), http.StatusFound)
}

// Headers that a node adds to a request that it forwards to another. They are removed from clients' requests.
const (
	passedHeaders = "Casemate-"
	passedBy      = "Casemate-Passed" // the node that has forwarded it: a request is forwarded only once
	passedClient  = "Casemate-Client" // the client's address and port, for limits and the log
	passedPlain   = "Casemate-Plain"  // "1": it came over plain http
)

// PassOn forwards an upload request to another node, after the registry has authorized it: to the node that has the
// bytes of the upload or, with "", to one that has room if this one has none. If that node does not answer, the bytes
// are out of reach: the client starts that upload again.
func (e *Edge) PassOn(w http.ResponseWriter, r *http.Request, node string) bool {
	if node == "" && e.MostFree != nil {
		// A client cannot know that it should use another of the addresses that DNS returned.
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
			MarkPassed(p.Out, e.Node, r)
		},
		ErrorLog: slog.NewLogLogger(e.Log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			e.Log.Warn("upload not forwarded", "client", r.RemoteAddr, "peer", node, "err", err)
			reply.Refuse(w, r, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN",
				fmt.Sprintf("node %s, which has this upload, does not answer: start it again", node))
		},
	}
	proxy.ServeHTTP(w, r)
	return true
}

// MarkPassed says in a request that node forwards to another one what the other one has to know of the client's.
func MarkPassed(out *http.Request, node string, client *http.Request) {
	out.Header.Set(passedBy, node)
	out.Header.Set(passedClient, client.RemoteAddr)
	if client.TLS == nil {
		out.Header.Set(passedPlain, "1")
	}
}

// PassedOn serves requests that other nodes forward. It accepts requests of pushes and about uploads of imports only,
// and sees the client: its address, and whether it used TLS.
func (e *Edge) PassedOn() http.Handler {
	return e.recorded(func(w *recorder, r *http.Request) string {
		if e.PassedParts != nil && strings.HasPrefix(r.URL.Path, "/v1/imports/parts") {
			var client netip.Addr
			if at, err := netip.ParseAddrPort(r.Header.Get(passedClient)); err == nil {
				client = at.Addr()
			}
			e.PassedParts.ServeHTTP(w, r.WithContext(fromClient(r.Context(), client)))
			return "admin"
		}
		if !registry.Pushes(r) {
			reply.Refuse(w, r, http.StatusNotFound, "UNSUPPORTED", "nodes forward only requests of pushes")
			return "none"
		}
		h := e.Hosts()
		at, o := h.Find(r.Host)
		if at == routing.Unknown {
			reply.Refuse(w, r, http.StatusMisdirectedRequest, "DENIED",
				fmt.Sprintf("casemate does not serve %s", reply.Clip(r.Host)))
			return "none"
		}
		plain := r.Header.Get(passedPlain) != ""
		in := *r
		in.TLS = nil
		if !plain {
			// not this connection's state; here it determines the scheme of URLs in responses
			in.TLS = &tls.ConnectionState{}
		}
		if at, err := netip.ParseAddrPort(r.Header.Get(passedClient)); err == nil {
			in.RemoteAddr = at.String()
		}
		in.Header = r.Header.Clone()
		for _, name := range []string{passedBy, passedClient, passedPlain} {
			in.Header.Del(name)
		}
		e.Registry(w, in.WithContext(fromClient(r.Context(), clientconn.AddrOf(&in))),
			registry.View{Origin: o, Plain: plain, Host: r.Host, Passed: true})
		return "registry"
	})
}

// Passed reports whether another node has forwarded the request that Observe was called for.
func Passed(r *http.Request) bool { return r.Header.Get(passedBy) != "" }

// bearer reports a token, which the registry verifies itself: over plain http it accepts tokens for reading.
func bearer(authorization string) bool {
	scheme, _, _ := strings.Cut(authorization, " ")
	return strings.EqualFold(scheme, "Bearer")
}

// below returns r with prefix removed from its path, in both forms.
func below(r *http.Request, prefix string) *http.Request {
	sub := new(http.Request)
	*sub = *r
	sub.URL = new(url.URL)
	*sub.URL = *r.URL
	sub.URL.Path = strings.TrimPrefix(r.URL.Path, prefix)
	sub.URL.RawPath = strings.TrimPrefix(r.URL.RawPath, prefix)
	return sub
}

// recorder records the status and counts the bytes of a response. It forwards ReadFrom, so that a file is still sent
// by sendfile.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
	body   *clientconn.Body            // the request's body; nil if it has none
	take   func() (*share.Place, bool) // takes a place for a large response; nil: not needed
	conn   *clientconn.Conn            // copies files in turns before they are encrypted; nil: it does that itself
}

func (w *recorder) WriteHeader(status int) {
	w.begin(status)
	w.ResponseWriter.WriteHeader(status)
}

// begin is called before the first byte of a response.
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

// oneWrite is the size in bytes of a body up to which it is copied into the buffer of net/http, which has 4 KiB, to
// leave with its header. net/http's ReadFrom sends the header first, which costs a small answer a second system call
// and wakes its reader twice.
const oneWrite = 3 << 10

// ReadFrom is called by io.Copy.
func (w *recorder) ReadFrom(r io.Reader) (int64, error) {
	w.begin(http.StatusOK)
	if l, ok := r.(*io.LimitedReader); ok && l.N <= oneWrite {
		return io.Copy(writerOnly{w}, r)
	}
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

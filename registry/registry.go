// Package registry is an OCI registry over a replicated tree: every image is stored under its real upstream name.
//
// It promises that bytes are never converted (what was pushed is what is pulled, under the same digest, sha256 or
// sha512), that a manifest appears at once with its tag and referrers or not at all, and that a read needs only this
// node. Upload sessions are in registry/session, which embeds distribution; everything else is answered here.
package registry

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"casemate/cluster/tree"
	"casemate/registry/session"

	"github.com/opencontainers/go-digest"
)

// Batch collects edits that are applied at one log entry.
type Batch = tree.Batch

// BlobWriter is a node-local scratch file that becomes a blob.
type BlobWriter = tree.BlobWriter

// Tree is the interface to the registry's subtree. The contract, errors included, is in cluster/treetest.
type Tree interface {
	fs.StatFS
	fs.ReadFileFS
	fs.ReadDirFS
	Walk(dir, after string) iter.Seq2[string, fs.FileInfo]
	Update(ctx context.Context, fn func(Batch) error) error
	StatBlob(digest string) (int64, error)
	HasBlob(ctx context.Context, digest string) (int64, error)
	OpenBlob(ctx context.Context, digest string) (io.ReadSeekCloser, error)
	CreateBlob(id string) (BlobWriter, error)
	ResumeBlob(id string) (BlobWriter, error)
	Watch(ctx context.Context, dir string) <-chan struct{}
}

// Config configures a Registry. Tree is required; every other field has a usable zero value.
type Config struct {
	// Tree is the registry's own subtree.
	Tree Tree
	// Origins returns the enabled origins in the order of resolution. Nil: none.
	Origins func() []string
	// Canonical maps aliases and ports of a host to its origin ("registry-1.docker.io", "docker.io:443" → "docker.io");
	// ok is false for an unknown origin.
	Canonical func(host string) (origin string, ok bool)
	// Domain is the appliance's own domain, which is the audience of tokens. "": "casemate.internal".
	Domain string
	// Authenticate returns whose user name and password these are; the password may be a key, whatever the name is,
	// and without a name it must be one.
	// Nil: nobody has an account.
	Authenticate func(ctx context.Context, user, password string) (*Account, error)
	// Account returns the account of a token that was issued here, as it is now; an error if it has ended. Nil: it has.
	Account func(ctx context.Context, id string) (*Account, error)
	// TokenKey signs tokens, the same on all nodes. Empty: random, so that tokens end with the process.
	TokenKey []byte
	// Node is the name of this node. The address of an upload session carries it, because the session's bytes are on
	// this node alone: a node that gets a request with another node's name must pass it on to that node. "": there is
	// one node.
	Node string
	// PassOn lets another node answer a request of a push, and reports whether it did. node has the upload session; ""
	// if any node may answer, and then PassOn decides whether another one is better. It is called after all checks of
	// path, name and user. Nil: nothing is passed on.
	PassOn func(w http.ResponseWriter, r *http.Request, node string) bool
	// Secret signs the state of upload sessions, the same on all nodes. Empty: random.
	Secret []byte
	// Anonymous reports whether reading needs no user (registry.anonymous is "pull"). Nil: true.
	Anonymous func() bool
	// LocalFallback reports whether a local repository answers where an origin lacks a reference. Nil: true.
	LocalFallback func() bool
	// Namesakes says which repositories may answer by their last path element alone: NamesakesOff, NamesakesLocal
	// (a flat name by those without an origin) or NamesakesAll (an origin's by others of that origin, flat names by
	// all). Nil: NamesakesLocal.
	Namesakes func() string
	// Miss records a miss in the missing book: kind is "image", or "blob" for a layer that was requested by itself,
	// name "origin/repo:tag" or "origin/repo@digest", detail the reason, or "".
	Miss func(r *http.Request, kind, name, detail string)
	// Luck is called when a tolerance was used: asked was answered by served.
	Luck func(r *http.Request, asked, served string)
	// Pulled is called when a manifest of a canonical repository was found for a client. It must not block. Nil:
	// nothing is called.
	Pulled func(repository, digest string)
	// Upstream is asked for what an origin may have and is not here. Nil: nothing is fetched.
	Upstream Upstream
	// Log receives one line for each change of state. Nil: nothing is logged.
	Log *slog.Logger
}

// View is the way in which a client names content; the edge derives it from the host and the port.
type View struct {
	// Origin is the canonical origin that the client used as host; "" for the appliance's own names.
	Origin string
	// Plain means that the request came over the plain HTTP port: writes and credentials are refused.
	Plain bool
	// Host is the host (with the port, if any) in the client's request.
	Host string
	// Passed means that another node has passed the request on: this one answers it.
	Passed bool
}

// Registry serves /v2/ and /token. All methods are safe for concurrent use.
type Registry struct {
	cfg  Config
	tree Tree
	log  *slog.Logger

	read     *reader // state of reads besides the tree
	sessions *session.Sessions
	pins     pins
	closing  sync.Once
	now      func() time.Time
}

// Open makes a registry over cfg.Tree. Close must be called.
func Open(cfg Config) (*Registry, error) {
	if cfg.Tree == nil {
		return nil, errors.New("registry: config has no tree")
	}
	if cfg.Origins == nil {
		cfg.Origins = func() []string { return nil }
	}
	if cfg.Canonical == nil {
		cfg.Canonical = func(string) (string, bool) { return "", false }
	}
	if cfg.Domain == "" {
		cfg.Domain = "casemate.internal"
	}
	if cfg.Authenticate == nil {
		cfg.Authenticate = func(context.Context, string, string) (*Account, error) { return nil, errNoUsers }
	}
	if cfg.Account == nil {
		cfg.Account = func(context.Context, string) (*Account, error) { return nil, errNoUsers }
	}
	if cfg.Anonymous == nil {
		cfg.Anonymous = func() bool { return true }
	}
	if cfg.LocalFallback == nil {
		cfg.LocalFallback = func() bool { return true }
	}
	if cfg.Namesakes == nil {
		cfg.Namesakes = func() string { return NamesakesLocal }
	}
	if cfg.Miss == nil {
		cfg.Miss = func(*http.Request, string, string, string) {}
	}
	if cfg.Luck == nil {
		cfg.Luck = func(*http.Request, string, string) {}
	}
	if cfg.Pulled == nil {
		cfg.Pulled = func(string, string) {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if len(cfg.TokenKey) == 0 {
		cfg.TokenKey = []byte(rand.Text())
	}
	if len(cfg.Secret) == 0 {
		cfg.Secret = []byte(rand.Text())
	}
	r := &Registry{cfg: cfg, tree: cfg.Tree, log: cfg.Log, now: time.Now}
	var err error
	r.sessions, err = session.Open(session.Config{Tree: cfg.Tree, Secret: cfg.Secret, Log: cfg.Log, Holds: r.holdsOf,
		Now: func() time.Time { return r.now() }})
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	r.read = newReader(cfg)
	return r, nil
}

var errNoUsers = errors.New("there are no users")

// Close ends the background work; requests must have ended. Upload sessions can be continued after the next Open.
func (r *Registry) Close() error {
	var err error
	r.closing.Do(func() {
		err = r.sessions.Close()
		r.read.close()
	})
	return err
}

// kind is the kind of a request.
type kind int

const (
	kindPing kind = iota
	kindCatalog
	kindTags
	kindManifest
	kindBlob
	kindUploads // the collection: POST opens a session
	kindUpload  // one session
	kindReferrers
	kindToken
)

// route is a request after its path has been parsed and bounded, and its name resolved for this view.
type route struct {
	kind kind
	view View
	// asked is the repository as the client wrote it in the path, for Location headers, listings and token scopes.
	asked string
	// ns is the value of the query parameter ns, "" if absent.
	ns string
	// place is the meaning of the name in this view; reads look there (resolve.go).
	place place
	// repo is the canonical repository ("registry.k8s.io/pause", "team/app") that the name denotes literally; writes go
	// there.
	repo string
	// reference is the last element of a manifest's path: a tag or a digest.
	reference string
	// digest is set if the client requested content by digest (blob, referrers, or a manifest's reference).
	digest digest.Digest
	// upload is the id of a session.
	upload string
	// account is whose credentials the request carries; nil where none were needed.
	account *Account
	// reads reports whether the account may read a canonical repository; nil: it may read all.
	reads func(repo string) bool
}

// Paths in the tree, one to one with distribution's (registry/storage/paths.go) below its "repositories". A link's file
// is the blob itself, so that reading it needs no second look-up.
func repoDir(repo string) string      { return "repositories/" + repo }
func revisionsDir(repo string) string { return repoDir(repo) + "/_manifests/revisions" }
func tagsDir(repo string) string      { return repoDir(repo) + "/_manifests/tags" }

// tagPath is the link of a tag: strong, to the manifest.
func tagPath(repo, tag string) string { return tagsDir(repo) + "/" + tag + "/current/link" }

// IsTag reports whether a name of the registry's tree is that of a tag. It is NameOf without allocations, for counting.
func IsTag(name []byte) bool {
	dir, ok := bytes.CutSuffix(name, []byte("/current/link"))
	return ok && bytes.HasPrefix(dir, []byte("repositories/")) &&
		bytes.HasSuffix(dir[:bytes.LastIndexByte(dir, '/')], []byte("/_manifests/tags"))
}

// revisionPath is the link of a manifest in a repository: strong, holding those of its parts that are here.
func revisionPath(repo string, d digest.Digest) string {
	return revisionsDir(repo) + "/" + d.Algorithm().String() + "/" + d.Encoded() + "/link"
}

// layerPath is the link of a blob in a repository: weak.
func layerPath(repo string, d digest.Digest) string {
	return repoDir(repo) + "/_layers/" + d.Algorithm().String() + "/" + d.Encoded() + "/link"
}

// referrersDir has a strong link for each manifest of the repository whose subject is d.
func referrersDir(repo string, d digest.Digest) string {
	return repoDir(repo) + "/_referrers/" + d.Algorithm().String() + "/" + d.Encoded()
}

// awaitedDir has a strong link to each manifest of the repository that refers to d and was stored before d.
func awaitedDir(repo string, d digest.Digest) string {
	return repoDir(repo) + "/_awaited/" + d.Algorithm().String() + "/" + d.Encoded()
}

func awaitedPath(repo string, d, by digest.Digest) string {
	return awaitedDir(repo, d) + "/" + by.Algorithm().String() + "/" + by.Encoded() + "/link"
}

func referrerPath(repo string, subject, d digest.Digest) string {
	return referrersDir(repo, subject) + "/" + d.Algorithm().String() + "/" + d.Encoded() + "/link"
}

// link is a name in the tree whose bytes are the blob with that digest.
type link struct {
	digest digest.Digest
	size   int64 // of the blob, in bytes
	mod    time.Time
}

// statLink returns the link at name in the newest local state; fs.ErrNotExist if there is none.
func statLink(t fs.StatFS, name string) (link, error) {
	fi, err := t.Stat(name)
	if err != nil {
		return link{}, err
	}
	d := tree.DigestOf(fi)
	if d == "" {
		return link{}, fmt.Errorf("%s is not a link: %w", name, fs.ErrNotExist)
	}
	return link{digest.Digest(d), fi.Size(), fi.ModTime()}, nil
}

// hasLink reports whether there is a link at name.
func hasLink(t fs.StatFS, name string) bool {
	_, err := statLink(t, name)
	return err == nil
}

// Serve answers a request for /v2/… or /token in view v.
func (r *Registry) Serve(w http.ResponseWriter, req *http.Request, v View) {
	if v.Host == "" {
		v.Host = req.Host
	}
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	rt, fail := parseRequest(req)
	var c *claims
	if fail == nil {
		rt.view = v
		c, fail = r.authorize(w, req, &rt)
	}
	if fail == nil && rt.asked != "" {
		rt.place, fail = r.locate(rt.asked, rt.ns, v)
		rt.repo = rt.place.canonical()
	}
	if fail == nil && rt.writes(req.Method) {
		fail = r.checkWritable(rt)
	}
	if fail == nil {
		fail = r.permit(w, req, &rt, c)
	}
	if fail != nil {
		writeError(w, req, fail)
		return
	}
	if rt.account != nil {
		req = req.WithContext(tree.WithActor(req.Context(), rt.account.Actor))
	}
	if !v.Passed && r.cfg.PassOn != nil && rt.pushes(req.Method) {
		// A session without a node's name is on this node.
		node := sessionNode(req, rt)
		if node != r.cfg.Node && (node != "" || rt.kind != kindUpload) && r.cfg.PassOn(w, req, node) {
			return
		}
	}
	r.serve(w, req, rt)
}

// pushes reports whether a request is part of a push: of an upload session, or the manifest at its end.
func (rt route) pushes(method string) bool {
	switch rt.kind {
	case kindUploads:
		return method == http.MethodPost
	case kindUpload:
		return true
	case kindManifest:
		return method == http.MethodPut
	}
	return false
}

// Pushes reports whether a request is part of a push. Only such requests are passed on between nodes.
func Pushes(req *http.Request) bool {
	rt, fail := parseRequest(req)
	return fail == nil && rt.pushes(req.Method)
}

// sessionNode returns the node that has the request's upload session, "" if the request has none or does not name a
// node.
func sessionNode(req *http.Request, rt route) string {
	if rt.kind != kindUpload || !strings.Contains(req.URL.RawQuery, nodeParam+"=") {
		return ""
	}
	return req.URL.Query().Get(nodeParam)
}

func (r *Registry) serve(w http.ResponseWriter, req *http.Request, rt route) {
	read := req.Method == http.MethodGet || req.Method == http.MethodHead
	switch {
	case rt.kind == kindToken:
		r.serveToken(w, req, rt)
	case rt.kind == kindPing && read:
		r.servePing(w, req)
	case rt.kind == kindCatalog && read:
		r.serveCatalog(w, req, rt)
	case rt.kind == kindTags && read:
		r.serveTags(w, req, rt)
	case rt.kind == kindReferrers && read:
		r.serveReferrers(w, req, rt)
	case rt.kind == kindManifest && read:
		r.serveManifest(w, req, rt)
	case rt.kind == kindManifest && req.Method == http.MethodPut:
		r.putManifest(w, req, rt)
	case rt.kind == kindManifest && req.Method == http.MethodDelete:
		r.deleteManifest(w, req, rt)
	case rt.kind == kindBlob && read:
		if req.Method == http.MethodHead {
			r.pinForPush(req, &rt)
		}
		r.serveBlob(w, req, rt)
	case rt.kind == kindBlob && req.Method == http.MethodDelete:
		r.deleteBlob(w, req, rt)
	case rt.kind == kindUploads && req.Method == http.MethodPost:
		r.startUpload(w, req, rt)
	case rt.kind == kindUpload:
		r.serveUpload(w, req, rt)
	default:
		w.Header().Set("Allow", allow(rt.kind))
		writeError(w, req, errUnsupported.with(wrongMethod))
	}
}

const wrongMethod = "this method is not allowed for this path, the Allow header lists those that are"

func allow(k kind) string {
	switch k {
	case kindManifest:
		return "GET, HEAD, PUT, DELETE"
	case kindBlob:
		return "GET, HEAD, DELETE"
	case kindUploads:
		return "POST"
	case kindToken:
		return "GET, POST"
	}
	return "GET, HEAD"
}

func (r *Registry) servePing(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", "2")
	if req.Method != http.MethodHead {
		io.WriteString(w, "{}")
	}
}

// Package admin is the admin API, docs/admin-api.md. Everyone who can connect to its socket has full access: the
// socket's mode is the access control.
package admin

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"sync"

	"casemate/appliance/audit"
	"casemate/appliance/change"
	"casemate/appliance/content"
	"casemate/appliance/current"
	"casemate/appliance/egress"
	"casemate/appliance/lookup"
	"casemate/appliance/missing"
	"casemate/appliance/nodeconf"
	"casemate/appliance/packages"
	"casemate/appliance/pages"
	"casemate/appliance/repositories"
	"casemate/appliance/rotation"
	"casemate/appliance/status"
	"casemate/appliance/upstream"
	"casemate/appliance/user"
	"casemate/cluster"
	"casemate/fileserver"
	"casemate/pki"
	"casemate/registry"
)

// API serves /v1/.
type API struct {
	Node         string
	Cluster      *cluster.Cluster
	Tree         *cluster.Tree
	CA           *pki.CA
	Users        *user.Users
	Registry     *registry.Registry
	Files        *fileserver.Server
	Imports      *content.Engine
	Repositories *repositories.Index
	Upstream     *upstream.Upstream
	Packages     *packages.Store
	Book         *missing.Book
	Egress       *egress.Book
	Rotation     *rotation.Book
	Current      *current.Reader
	Changes      *change.Changes
	Lookup       *lookup.Lookup
	Audit        *audit.Log
	// Transcript is what was rehearsed here; nil: nothing was.
	Transcript Transcript
	Status     *status.Page
	Executable *pages.Executable
	// Site returns what the tree says about the bastions.
	Site func() (nodeconf.Site, error)
	// RefreshNames applies a change of names before the request is answered.
	RefreshNames func() error
	// Reload reads the config again; the notes list what needs a restart.
	Reload func() (notes []string, err error)
	// PeerAddrs returns where other nodes find this one.
	PeerAddrs func() []string
	Log       *slog.Logger

	imports sync.WaitGroup // hijacked connections, which the server no longer tracks
}

// Wait waits until the commands of all imports have been answered.
func (a *API) Wait() { a.imports.Wait() }

// Handler returns the handler of the admin socket.
func (a *API) Handler() http.Handler {
	on := routes{a, http.NewServeMux()}
	for _, add := range []func(routes){
		a.statusRoutes,
		a.settingRoutes,
		a.certRoutes,
		a.userRoutes,
		a.upstreamRoutes,
		a.imageRoutes,
		a.fileRoutes,
		a.importRoutes,
		a.enrollRoutes,
		a.originRoutes,
		a.nameRoutes,
		a.missingRoutes,
		a.egressRoutes,
		a.repositoryRoutes,
		a.packageRoutes,
		a.checkRoutes,
		a.bundleRoutes,
		a.memberRoutes,
		a.upkeepRoutes,
		a.auditRoutes,
	} {
		add(on)
	}
	on.stream("/", func(w http.ResponseWriter, r *http.Request) {
		a.adminError(w, r, fmt.Errorf("the admin API does not support %s %s: %w", r.Method, r.URL.Path, fs.ErrNotExist))
	})
	return on.mux
}

// routes are the requests that the API answers.
type routes struct {
	a   *API
	mux *http.ServeMux
}

// stream adds a handler that writes its own response.
func (on routes) stream(pattern string, h http.HandlerFunc) { on.mux.HandleFunc(pattern, h) }

// json adds a handler whose result is sent as JSON: nil as 204, a streamed list while it is made.
func (on routes) json(pattern string, h func(r *http.Request) (any, error)) {
	on.stream(pattern, func(w http.ResponseWriter, r *http.Request) {
		out, err := h(r)
		if err != nil {
			on.a.adminError(w, r, err)
			return
		}
		if out == nil {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		if list, ok := out.(streamed); ok {
			on.a.sendStream(w, r, list)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(out)
	})
}

// statusRoutes serves the state of this node.
func (a *API) statusRoutes(on routes) {
	on.json("GET /v1/status", func(r *http.Request) (any, error) { return a.Status.Report(r.Context()) })
	on.json("POST /v1/reload", func(*http.Request) (any, error) {
		notes, err := a.Reload()
		return map[string]any{"notes": append([]string{}, notes...)}, err
	})
}

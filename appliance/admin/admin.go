// Package admin is the admin API, docs/admin-api.md. Whoever can connect to its socket is an administrator: the
// socket's mode is the access control. Over https an account and its roles decide. Every route says what it asks for
// (asks), and is answered only if appliance/access allows that.
package admin

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"

	"casemate/appliance/access"
	"casemate/appliance/audit"
	"casemate/appliance/change"
	"casemate/appliance/clients"
	"casemate/appliance/content"
	"casemate/appliance/current"
	"casemate/appliance/directory"
	"casemate/appliance/egress"
	"casemate/appliance/lookup"
	"casemate/appliance/missing"
	"casemate/appliance/nodeconf"
	"casemate/appliance/oidc"
	"casemate/appliance/packages"
	"casemate/appliance/pages"
	"casemate/appliance/parts"
	"casemate/appliance/pulls"
	"casemate/appliance/repositories"
	"casemate/appliance/rotation"
	"casemate/appliance/search"
	"casemate/appliance/series"
	"casemate/appliance/status"
	"casemate/appliance/totals"
	"casemate/appliance/upstream"
	"casemate/appliance/usage"
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
	Access       *access.Access
	Directory    *directory.Directory
	OIDC         *oidc.Provider
	Registry     *registry.Registry
	Files        *fileserver.Server
	Imports      *content.Engine
	Parts        *parts.Sessions
	Repositories *repositories.Index
	Upstream     *upstream.Upstream
	Packages     *packages.Store
	Book         *missing.Book
	Egress       *egress.Book
	Clients      *clients.Book
	ClientNames  *clients.Names
	Pulls        *pulls.Book
	Search       *search.Search
	Rotation     *rotation.Book
	Current      *current.Reader
	Changes      *change.Changes
	Lookup       *lookup.Lookup
	DNS          DNS
	Audit        *audit.Log
	Forwarder    *audit.Forwarder
	// Transcript is what was rehearsed here; nil: nothing was.
	Transcript Transcript
	Status     *status.Page
	Series     *series.Series
	Totals     *totals.Totals
	Executable *pages.Executable
	// Site returns what the tree says about the bastions.
	Site func() (nodeconf.Site, error)
	// RefreshNames applies a change of names before the request is answered.
	RefreshNames func() error
	// Reload reads the config again; the notes list what needs a restart.
	Reload func() (notes []string, err error)
	// MarkPassed says in a request for another bastion that it is a client's request which is passed on.
	MarkPassed func(out, client *http.Request)
	// PeerAddrs returns where other nodes find this one.
	PeerAddrs func() []string
	Log       *slog.Logger

	misses  misses
	imports sync.WaitGroup // hijacked connections, which the server no longer tracks
}

// Wait waits until the commands of all imports have been answered.
func (a *API) Wait() { a.imports.Wait() }

// Handler returns the handler of all routes; who asks is in each request's context (WithSubject).
func (a *API) Handler() http.Handler {
	on := routes{a, http.NewServeMux(), nil}
	a.register(&on)
	return on.mux
}

// register adds all routes.
func (a *API) register(on *routes) {
	for _, add := range []func(*routes){
		a.statusRoutes,
		a.settingRoutes,
		a.certRoutes,
		a.accountRoutes,
		a.directoryRoutes,
		a.upstreamRoutes,
		a.imageRoutes,
		a.fileRoutes,
		a.importRoutes,
		a.approvalRoutes,
		a.partRoutes,
		a.openapiRoutes,
		a.enrollRoutes,
		a.originRoutes,
		a.nameRoutes,
		a.explainRoutes,
		a.missingRoutes,
		a.egressRoutes,
		a.clientRoutes,
		a.repositoryRoutes,
		a.packageRoutes,
		a.checkRoutes,
		a.bundleRoutes,
		a.memberRoutes,
		a.upkeepRoutes,
		a.auditRoutes,
		a.showRoutes,
		a.browseRoutes,
		a.searchRoutes,
	} {
		add(on)
	}
	on.stream("/", anyAccount, func(w http.ResponseWriter, r *http.Request) {
		a.adminError(w, r, fmt.Errorf("the admin API does not support %s %s: %w", r.Method, r.URL.Path, fs.ErrNotExist))
	})
}

// routes are the requests that the API answers.
type routes struct {
	a   *API
	mux *http.ServeMux
	all []route
}

type route struct {
	pattern string
	asks    asks
	planned bool // it answers ?dry-run=1
	paged   bool // it answers ?limit=N&after=CURSOR
}

// stream adds a handler that writes its own response.
func (on *routes) stream(pattern string, asks asks, h http.HandlerFunc) {
	on.all = append(on.all, route{pattern: pattern, asks: asks})
	on.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if err := asks.allow(on.a.Access, r); err != nil {
			on.a.adminError(w, r, err)
			return
		}
		h(w, r)
	})
}

// json adds a handler whose result is sent as JSON: nil as 204.
func (on *routes) json(pattern string, asks asks, h func(r *http.Request) (any, error)) {
	on.stream(pattern, asks, func(w http.ResponseWriter, r *http.Request) {
		out, err := h(r)
		if err != nil {
			on.a.adminError(w, r, err)
			return
		}
		if out == nil {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(out)
	})
}

// A Route is a request that the API answers, and what it asks for.
type Route struct {
	Method, Path string // the path as in http.ServeMux: /v1/names/{name}
	Verb         access.Verb
	Local        string // why only the admin socket answers it; "": https does, too
	Public       string // why it needs no account; "": it needs one
	Open         bool   // it needs no account where registry.anonymous is pull
	Paged        bool   // it answers ?limit=N&after=CURSOR
}

// Routes returns all requests that the API answers, in the order of their registration.
func (a *API) Routes() []Route {
	on := routes{a, http.NewServeMux(), nil}
	a.register(&on)
	var list []Route
	for _, r := range on.all {
		if method, path, ok := strings.Cut(r.pattern, " "); ok {
			list = append(list, Route{method, path, r.asks.verb, r.asks.local, r.asks.public, r.asks.open, r.paged})
		}
	}
	return list
}

// statusRoutes serves the state of this node.
func (a *API) statusRoutes(on *routes) {
	on.json("GET /v1/status", to(access.List),
		func(r *http.Request) (any, error) {
			return a.Status.Report(r.Context(), subject(r).May(access.Inspect, access.Object{}))
		})
	on.json("GET /v1/series", to(access.List), a.getSeries)
	on.json("GET /v1/content", to(access.List), func(r *http.Request) (any, error) {
		return a.Totals.List(r.Context(), r.URL.Query().Get("wait") != "false")
	})
	on.json("POST /v1/reload", to(access.Administer).here("the config is a file of this node"),
		func(*http.Request) (any, error) {
			notes, err := a.Reload()
			return map[string]any{"notes": append([]string{}, notes...)}, err
		})
}

// getSeries is GET /v1/series?span=hour|day.
func (a *API) getSeries(r *http.Request) (any, error) {
	span := cmp.Or(r.URL.Query().Get("span"), series.Hour)
	report, ok := a.Series.Report(span)
	if !ok {
		return nil, usage.Errorf("span must be %s or %s, got %.20q", series.Hour, series.Day, span)
	}
	return report, nil
}

// MayOverHTTPS reports whether an account with the role, for everything, gets more than a refusal over https.
func (r Route) MayOverHTTPS(role access.Role) bool {
	switch {
	case r.Public != "":
		return true
	case r.Local != "":
		return false
	}
	return r.Verb == "" || slices.Contains(role.Verbs, r.Verb)
}

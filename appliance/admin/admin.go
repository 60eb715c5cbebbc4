// Package admin is the admin API, docs/admin-api.md. Everyone who can connect to its socket has full access: the
// socket's mode is the access control.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"casemate/appliance/change"
	"casemate/appliance/content"
	"casemate/appliance/current"
	"casemate/appliance/handover"
	"casemate/appliance/lookup"
	"casemate/appliance/missing"
	"casemate/appliance/names"
	"casemate/appliance/nodeconf"
	"casemate/appliance/origin"
	"casemate/appliance/pages"
	"casemate/appliance/reply"
	"casemate/appliance/rotation"
	"casemate/appliance/settings"
	"casemate/appliance/status"
	"casemate/appliance/usage"
	"casemate/appliance/user"
	"casemate/bundle"
	"casemate/cluster"
	"casemate/dnssrv"
	"casemate/fileserver"
	"casemate/pki"
	"casemate/registry"
)

// API serves /v1/.
type API struct {
	Node       string
	Cluster    *cluster.Cluster
	Tree       *cluster.Tree
	CA         *pki.CA
	Users      *user.Users
	Registry   *registry.Registry
	Files      *fileserver.Server
	Imports    *content.Engine
	Book       *missing.Book
	Rotation   *rotation.Book
	Current    *current.Reader
	Changes    *change.Changes
	Lookup     *lookup.Lookup
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

// maxAdminBody limits a JSON request body; files are streamed and not limited by it.
const maxAdminBody = 1 << 20

// Handler returns the handler of the admin socket.
func (a *API) Handler() http.Handler {
	mux := http.NewServeMux()
	on := func(pattern string, h func(r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			out, err := h(r)
			if err != nil {
				a.adminError(w, r, err)
				return
			}
			if out == nil {
				w.WriteHeader(http.StatusNoContent)
				return
			}
			if list, ok := out.(streamed); ok {
				a.sendStream(w, r, list)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			json.NewEncoder(w).Encode(out)
		})
	}
	on("GET /v1/status", func(r *http.Request) (any, error) { return a.Status.Report(r.Context()) })

	on("GET /v1/settings", func(*http.Request) (any, error) { return a.getSettings() })
	on("GET /v1/settings/{key}", func(r *http.Request) (any, error) {
		list, err := a.getSettings()
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(list, func(s settings.Setting) bool { return s.Key == r.PathValue("key") })
		if i < 0 {
			return nil, settings.Unknown(r.PathValue("key"))
		}
		return list[i], nil
	})
	on("PUT /v1/settings/{key}", func(r *http.Request) (any, error) {
		var in struct{ Value *string }
		if err := read(r, &in); err != nil {
			return nil, err
		}
		if in.Value == nil {
			return nil, usage.Errorf("value is missing")
		}
		return nil, a.Changes.SetSetting(r.Context(), r.PathValue("key"), in.Value)
	})
	on("DELETE /v1/settings/{key}", func(r *http.Request) (any, error) {
		return nil, a.Changes.SetSetting(r.Context(), r.PathValue("key"), nil)
	})

	mux.HandleFunc("GET /v1/ca",
		func(w http.ResponseWriter, r *http.Request) { reply.Send(w, r, "application/x-pem-file", a.CA.Roots()) })
	on("POST /v1/ca/rotate", func(r *http.Request) (any, error) {
		var in rotateRequest
		if err := read(r, &in); err != nil {
			return nil, err
		}
		return a.rotate(r.Context(), in)
	})
	on("GET /v1/certs", a.getCerts)
	on("POST /v1/certs", a.postCert)
	on("POST /v1/certs/{serial}/revoke", func(r *http.Request) (any, error) {
		return nil, a.CA.Revoke(r.Context(), r.PathValue("serial"))
	})

	on("GET /v1/users", func(*http.Request) (any, error) { return a.Users.List() })
	on("POST /v1/users", func(r *http.Request) (any, error) {
		var in struct{ Name, Password string }
		if err := read(r, &in); err != nil {
			return nil, err
		}
		return nil, a.Users.Add(r.Context(), in.Name, in.Password)
	})
	on("PUT /v1/users/{name}", func(r *http.Request) (any, error) {
		var in struct{ Password string }
		if err := read(r, &in); err != nil {
			return nil, err
		}
		return nil, a.Users.SetPassword(r.Context(), r.PathValue("name"), in.Password)
	})
	on("DELETE /v1/users/{name}", func(r *http.Request) (any, error) {
		return nil, a.Users.Remove(r.Context(), r.PathValue("name"))
	})

	on("GET /v1/images", a.getImages)
	on("DELETE /v1/images",
		func(r *http.Request) (any, error) { return nil, a.deleteImage(r.Context(), r.FormValue("ref")) })

	on("GET /v1/files", a.getFiles)
	mux.HandleFunc("GET /v1/files/content", a.getFileContent)
	on("PUT /v1/files", func(r *http.Request) (any, error) {
		q := r.URL.Query()
		i, err := a.Files.Put(r.Context(), q.Get("url"), r.Body, q.Get("digest"))
		if err != nil {
			return nil, err
		}
		return File{i.URL, i.Digest, i.Size, i.Time}, nil
	})
	on("DELETE /v1/files", func(r *http.Request) (any, error) {
		return nil, a.Files.Delete(r.Context(), r.URL.Query().Get("url"))
	})

	mux.HandleFunc("POST "+handover.Path, a.postImport)
	on("GET /v1/imports", func(r *http.Request) (any, error) { return a.Imports.ListFor(r.Context()) })
	on("GET /v1/imports/{name}", func(r *http.Request) (any, error) { return a.Imports.Show(r.PathValue("name")) })
	on("DELETE /v1/imports/{name}", func(r *http.Request) (any, error) {
		removed, err := a.Imports.Remove(r.Context(), r.PathValue("name"))
		if err == nil {
			err = a.Changes.Refresh() // its redirects no longer exist
		}
		return removed, err
	})

	on("POST /v1/reload", func(*http.Request) (any, error) {
		notes, err := a.Reload()
		return map[string]any{"notes": append([]string{}, notes...)}, err
	})
	on("GET /v1/site", func(*http.Request) (any, error) { return a.Site() })
	on("GET /v1/mirrors", a.getMirrors)
	on("GET /v1/kubespray", a.getKubespray)
	on("POST /v1/kubespray", a.postKubespray)
	on("GET /v1/executable", a.getExecutable)
	on("GET /v1/enroll", a.getEnroll)
	on("GET /v1/origins", a.getOrigins)
	on("PUT /v1/origins/{host}", func(r *http.Request) (any, error) {
		var in struct{ Aliases []string }
		if err := read(r, &in); err != nil {
			return nil, err
		}
		return a.addOrigin(r.Context(), r.PathValue("host"), in.Aliases)
	})
	on("DELETE /v1/origins/{host}", func(r *http.Request) (any, error) {
		return nil, a.Changes.RemoveOrigin(r.Context(), r.PathValue("host"))
	})

	on("GET /v1/names", a.getNames)
	on("PUT /v1/names/{name}/{type}", func(r *http.Request) (any, error) {
		var in names.Record
		if err := read(r, &in); err != nil {
			return nil, err
		}
		return nil, a.changeName(names.Set(r.Context(), a.Tree, r.PathValue("name"), r.PathValue("type"), in))
	})
	on("DELETE /v1/names/{name}/{type}", func(r *http.Request) (any, error) {
		return nil, a.changeName(names.Delete(r.Context(), a.Tree, r.PathValue("name"), r.PathValue("type")))
	})
	on("DELETE /v1/names/{name}", func(r *http.Request) (any, error) {
		return nil, a.changeName(names.Delete(r.Context(), a.Tree, r.PathValue("name"), ""))
	})

	on("GET /v1/missing", a.getMissing)
	on("DELETE /v1/missing", func(r *http.Request) (any, error) { return nil, a.Book.Clear(r.Context()) })
	on("DELETE /v1/missing/entries", a.forgetMissing)

	on("POST /v1/check", a.postCheck)
	mux.HandleFunc("GET /v1/inventory", a.getInventory)
	mux.HandleFunc("GET /v1/inventory/key", a.getInventoryKey)

	on("GET /v1/members", a.getMembers)
	on("GET /v1/format", func(*http.Request) (any, error) { return a.format(), nil })
	on("POST /v1/format", func(r *http.Request) (any, error) {
		_, newest := a.Cluster.Format()
		return a.format(), a.Cluster.RaiseFormat(r.Context(), newest)
	})
	on("POST /v1/tokens", a.postToken)
	on("DELETE /v1/members/{name}", func(r *http.Request) (any, error) {
		return a.removeMember(r.Context(), r.PathValue("name"), r.URL.Query().Get("force") == "1")
	})

	on("PUT /v1/members/{name}/address", func(r *http.Request) (any, error) {
		var in struct{ Addr string }
		if err := read(r, &in); err != nil {
			return nil, err
		}
		return nil, a.setAddress(r.PathValue("name"), in.Addr)
	})

	on("POST /v1/gc", a.postGC)
	on("POST /v1/scrub", a.postScrub)
	mux.HandleFunc("POST /v1/backup", a.postBackup)

	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		a.adminError(w, r, fmt.Errorf("the admin API does not support %s %s: %w", r.Method, r.URL.Path, fs.ErrNotExist))
	})
	return mux
}

// read decodes a JSON request, strictly.
func read(r *http.Request, into any) error { return readUpTo(r, into, maxAdminBody) }

// readUpTo is read with a limit for the body in bytes.
func readUpTo(r *http.Request, into any, most int64) error {
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, most))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return usage.Errorf("the request cannot be read: %w", err)
	}
	return nil
}

// adminError answers with the status of the error's class, and the error as one sentence.
func (a *API) adminError(w http.ResponseWriter, r *http.Request, err error) {
	status := statusOf(err)
	switch status {
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	case http.StatusInternalServerError:
		a.Log.Warn("admin request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"error": reply.Sentence(err)})
}

// statusOf returns the HTTP status for the error's class.
func statusOf(err error) int {
	var mistake *usage.Error
	switch {
	case errors.As(err, &mistake),
		errors.Is(err, fs.ErrInvalid),
		errors.Is(err, pki.ErrNotPermitted),
		errors.Is(err, fs.ErrPermission),
		errors.Is(err, syscall.EBADMSG):
		return http.StatusBadRequest
	case errors.Is(err, fs.ErrNotExist):
		return http.StatusNotFound
	case errors.Is(err, fs.ErrExist), errors.Is(err, pki.ErrRotating):
		return http.StatusConflict
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EINPROGRESS):
		return http.StatusServiceUnavailable
	case errors.Is(err, syscall.ENOSPC):
		return http.StatusInsufficientStorage
	}
	return http.StatusInternalServerError
}

func (a *API) getSettings() ([]settings.Setting, error) {
	values, err := settings.Read(a.Tree.Sub("settings"))
	if err != nil {
		return nil, err
	}
	return settings.List(values), nil
}

type File struct {
	URL    string    `json:"url"`
	Digest string    `json:"digest"`
	Size   int64     `json:"size"`
	Time   time.Time `json:"time"`
}

func (a *API) getFiles(r *http.Request) (any, error) {
	list := a.Files.List(r.Context(), r.URL.Query().Get("prefix"))
	return streamOf(list, func(i fileserver.Info) (any, bool) {
		return File{i.URL, i.Digest, i.Size, i.Time}, true
	}), nil
}

// getFileContent sends what a node gets for a URL, if it is a stored file. It does not record a miss.
func (a *API) getFileContent(w http.ResponseWriter, r *http.Request) {
	info, _, err := a.Files.Resolve(r.Context(), r.FormValue("url"))
	if err != nil {
		a.adminError(w, r, err)
		return
	}
	blob, err := a.Tree.OpenBlob(r.Context(), info.Digest)
	if err != nil {
		a.adminError(w, r, fmt.Errorf("file %s: %w", info.URL, err))
		return
	}
	defer blob.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Location", info.URL)
	http.ServeContent(w, r, "", info.Time, blob)
}

type Cert struct {
	Serial    string    `json:"serial"`
	Names     []string  `json:"names"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Revoked   time.Time `json:"revoked,omitzero"`
}

func (a *API) getCerts(*http.Request) (any, error) {
	certs, err := a.CA.List()
	if err != nil {
		return nil, err
	}
	list := []Cert{}
	for _, c := range certs {
		list = append(list, Cert{c.Serial, c.Names, c.NotBefore, c.NotAfter, c.Revoked})
	}
	return list, nil
}

func (a *API) postCert(r *http.Request) (any, error) {
	var in struct {
		Names []string
		CSR   string
	}
	if err := read(r, &in); err != nil {
		return nil, err
	}
	req := pki.Request{Names: in.Names}
	if in.CSR != "" {
		req.CSR = []byte(in.CSR)
	}
	c, err := a.CA.Issue(r.Context(), req)
	if err != nil {
		return nil, err
	}
	return struct {
		Serial      string `json:"serial"`
		Certificate string `json:"certificate"`
		Chain       string `json:"chain"`
		Key         string `json:"key,omitempty"`
	}{c.Serial, string(c.Cert), string(c.Chain), string(c.Key)}, nil
}

type Origin struct {
	Host    string   `json:"host"`
	Aliases []string `json:"aliases"`
	Enabled bool     `json:"enabled"`
	Builtin bool     `json:"builtin"`
	Reason  string   `json:"reason,omitempty"`
}

func (a *API) addOrigin(ctx context.Context, host string, aliases []string) (any, error) {
	o, err := a.Changes.AddOrigin(ctx, host, aliases)
	if err != nil {
		return nil, err
	}
	return infoOf(o), nil
}

func infoOf(o origin.Origin) Origin {
	return Origin{o.Host, append([]string{}, o.Aliases...), o.Disabled == "", o.Builtin, o.Disabled}
}

func (a *API) getOrigins(*http.Request) (any, error) {
	list := []Origin{}
	for _, o := range a.Current.State().Origins.All() {
		info := infoOf(o)
		if o.Disabled == origin.NotPermitted {
			info.Reason = a.Changes.NotPermitted(o.Names()...)
		}
		list = append(list, info)
	}
	return list, nil
}

type Name struct {
	Name   string   `json:"name"`
	Type   string   `json:"type"`
	Values []string `json:"values"`
	TTL    string   `json:"ttl,omitempty"`
}

func (a *API) getNames(*http.Request) (any, error) {
	return streamOf(names.All(a.Tree), func(r dnssrv.Record) (any, bool) {
		i := Name{Name: r.Name, Type: r.Type, Values: r.Values}
		if r.TTL != 0 {
			i.TTL = r.TTL.String()
		}
		return i, true
	}), nil
}

func (a *API) postGC(r *http.Request) (any, error) {
	dry := r.URL.Query().Get("dry_run") == "true"
	collect := a.Cluster.GC
	if r.URL.Query().Get("now") == "true" {
		collect = a.Cluster.GCNow
	}
	rep, err := collect(r.Context(), dry)
	if err != nil {
		return nil, err
	}
	return struct {
		Blobs  int   `json:"blobs"`
		Bytes  int64 `json:"bytes"`
		Kept   int   `json:"kept"`
		DryRun bool  `json:"dry_run"`
		cluster.GCReport
	}{
		Blobs: rep.Blobs + rep.Orphans, Bytes: rep.RemovedBytes, Kept: a.Cluster.Status().Blobs, DryRun: dry,
		GCReport: rep,
	}, nil
}

func (a *API) postScrub(r *http.Request) (any, error) {
	rep, err := a.Cluster.Scrub(r.Context())
	if err != nil {
		return nil, err
	}
	return struct {
		Checked  int      `json:"checked"`
		Bytes    int64    `json:"bytes"`
		Damaged  []string `json:"damaged"`
		Repaired int      `json:"mended"`
		Missing  []string `json:"missing"`
	}{rep.Blobs, rep.Bytes, append([]string{}, rep.Damaged...), rep.Repaired, append([]string{}, rep.Missing...)}, nil
}

// changeName answers a change of names after applying it.
func (a *API) changeName(err error) error {
	if err != nil {
		return err
	}
	return a.RefreshNames()
}

func (a *API) getExecutable(*http.Request) (any, error) { return a.Executable.Info() }

// getEnroll is GET /v1/enroll: the script in one of its formats.
func (a *API) getEnroll(r *http.Request) (any, error) {
	s, err := a.Site()
	if err != nil {
		return nil, err
	}
	return s.Enroll(r.FormValue("format"))
}

// MaxCheckBody limits the body of a check request, in bytes: about half a million names.
const MaxCheckBody = 64 << 20

func (a *API) postCheck(r *http.Request) (any, error) {
	var req content.CheckRequest
	if err := readUpTo(r, &req, MaxCheckBody); err != nil {
		return nil, err
	}
	for _, p := range req.Platforms {
		if !bundle.KnownPlatform(p) {
			return nil, usage.Errorf("a platform is a system and an architecture, like linux/amd64 or "+
				"linux/arm64/v8, got %q",
				p)
		}
	}
	return a.Lookup.Check(r.Context(), req)
}

func (a *API) getMissing(r *http.Request) (any, error) {
	list := a.Book.List
	if all, _ := strconv.ParseBool(r.URL.Query().Get("all")); all {
		list = a.Book.All
	}
	entries, err := list()
	if err != nil {
		return nil, err
	}
	return missing.Solve(entries, a.Lookup.Answered(r.Context()), a.Lookup.Enabling), r.Context().Err()
}

// forgetMissing removes the entries with these names from the missing book.
func (a *API) forgetMissing(r *http.Request) (any, error) {
	names := r.URL.Query()["name"]
	if len(names) == 0 {
		return nil, usage.Errorf("name is missing")
	}
	for _, name := range names {
		if err := a.Book.Forget(r.Context(), name); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

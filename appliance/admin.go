package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"casemate/appliance/handover"
	"casemate/appliance/missing"
	"casemate/appliance/origin"
	"casemate/cluster"
	"casemate/dnssrv"
	"casemate/fileserver"
	"casemate/pki"
	"casemate/registry"
)

// The admin API is docs/admin-api.md. Who reaches the socket may do everything: its mode is the access control.

// maxAdminBody bounds a request in JSON; files are streamed and not bounded by it.
const maxAdminBody = 1 << 20

// admin returns the handler of the admin socket.
func (a *Appliance) admin() http.Handler {
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
	on("GET /v1/status", a.getStatus)

	on("GET /v1/settings", func(*http.Request) (any, error) { return a.getSettings() })
	on("GET /v1/settings/{key}", func(r *http.Request) (any, error) {
		list, err := a.getSettings()
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(list, func(s Setting) bool { return s.Key == r.PathValue("key") })
		if i < 0 {
			return nil, unknownSetting(r.PathValue("key"))
		}
		return list[i], nil
	})
	on("PUT /v1/settings/{key}", func(r *http.Request) (any, error) {
		var in struct{ Value *string }
		if err := read(r, &in); err != nil {
			return nil, err
		}
		if in.Value == nil {
			return nil, usage("value is missing")
		}
		return nil, a.setSetting(r.Context(), r.PathValue("key"), in.Value)
	})
	on("DELETE /v1/settings/{key}", func(r *http.Request) (any, error) {
		return nil, a.setSetting(r.Context(), r.PathValue("key"), nil)
	})

	mux.HandleFunc("GET /v1/ca", func(w http.ResponseWriter, r *http.Request) { send(w, r, "application/x-pem-file", a.ca.Roots()) })
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
		return nil, a.ca.Revoke(r.Context(), r.PathValue("serial"))
	})

	on("GET /v1/users", func(*http.Request) (any, error) { return a.users.List() })
	on("POST /v1/users", func(r *http.Request) (any, error) {
		var in struct{ Name, Password string }
		if err := read(r, &in); err != nil {
			return nil, err
		}
		return nil, a.users.Add(r.Context(), in.Name, in.Password)
	})
	on("PUT /v1/users/{name}", func(r *http.Request) (any, error) {
		var in struct{ Password string }
		if err := read(r, &in); err != nil {
			return nil, err
		}
		return nil, a.users.SetPassword(r.Context(), r.PathValue("name"), in.Password)
	})
	on("DELETE /v1/users/{name}", func(r *http.Request) (any, error) {
		return nil, a.users.Remove(r.Context(), r.PathValue("name"))
	})

	on("GET /v1/images", a.getImages)
	on("DELETE /v1/images", func(r *http.Request) (any, error) { return nil, a.deleteImage(r.Context(), r.FormValue("ref")) })

	on("GET /v1/files", a.getFiles)
	on("PUT /v1/files", func(r *http.Request) (any, error) {
		q := r.URL.Query()
		i, err := a.files.Put(r.Context(), q.Get("url"), r.Body, q.Get("digest"))
		if err != nil {
			return nil, err
		}
		return fileInfo{i.URL, i.Digest, i.Size, i.Time}, nil
	})
	on("DELETE /v1/files", func(r *http.Request) (any, error) {
		return nil, a.files.Delete(r.Context(), r.URL.Query().Get("url"))
	})

	mux.HandleFunc("POST "+handover.Path, a.postImport)
	on("GET /v1/imports", func(r *http.Request) (any, error) { return a.imports.ListFor(r.Context()) })
	on("GET /v1/imports/{name}", func(r *http.Request) (any, error) { return a.imports.Show(r.PathValue("name")) })
	on("DELETE /v1/imports/{name}", func(r *http.Request) (any, error) {
		return a.imports.Remove(r.Context(), r.PathValue("name"))
	})

	on("POST /v1/reload", func(*http.Request) (any, error) {
		notes, err := a.Reread()
		return map[string]any{"notes": append([]string{}, notes...)}, err
	})
	on("GET /v1/site", func(*http.Request) (any, error) { return a.site() })
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
		return nil, a.removeOrigin(r.Context(), r.PathValue("host"))
	})

	on("GET /v1/names", a.getNames)
	on("PUT /v1/names/{name}/{type}", func(r *http.Request) (any, error) {
		var in nameRecord
		if err := read(r, &in); err != nil {
			return nil, err
		}
		return nil, a.setName(r.Context(), r.PathValue("name"), r.PathValue("type"), in)
	})
	on("DELETE /v1/names/{name}/{type}", func(r *http.Request) (any, error) {
		return nil, a.deleteName(r.Context(), r.PathValue("name"), r.PathValue("type"))
	})
	on("DELETE /v1/names/{name}", func(r *http.Request) (any, error) {
		return nil, a.deleteName(r.Context(), r.PathValue("name"), "")
	})

	on("GET /v1/missing", a.getMissing)
	on("DELETE /v1/missing", func(r *http.Request) (any, error) { return nil, a.book.Clear(r.Context()) })

	on("POST /v1/check", a.postCheck)
	mux.HandleFunc("GET /v1/inventory", a.getInventory)
	mux.HandleFunc("GET /v1/inventory/key", a.getInventoryKey)

	on("GET /v1/members", a.getMembers)
	on("GET /v1/format", func(*http.Request) (any, error) { return a.format(), nil })
	on("POST /v1/format", func(r *http.Request) (any, error) {
		_, newest := a.cluster.Format()
		return a.format(), a.cluster.RaiseFormat(r.Context(), newest)
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
		return nil, a.tellAddress(r.PathValue("name"), in.Addr)
	})

	on("POST /v1/gc", a.postGC)
	on("POST /v1/scrub", a.postScrub)
	mux.HandleFunc("POST /v1/backup", a.postBackup)

	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		a.adminError(w, r, fmt.Errorf("the admin API has no %s %s: %w", r.Method, r.URL.Path, fs.ErrNotExist))
	})
	return mux
}

// read reads a request in JSON, strictly.
func read(r *http.Request, into any) error { return readUpTo(r, into, maxAdminBody) }

// readUpTo is read for a body of at most so many bytes.
func readUpTo(r *http.Request, into any, most int64) error {
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, most))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return usage("the request cannot be read: %w", err)
	}
	return nil
}

// adminError answers with the status that says what class of error it is, and its one sentence.
func (a *Appliance) adminError(w http.ResponseWriter, r *http.Request, err error) {
	status := statusOf(err)
	switch status {
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	case http.StatusInternalServerError:
		a.log.Warn("admin request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"error": Sentence(err)})
}

// statusOf is the status of HTTP that says what class of error it is.
func statusOf(err error) int {
	var mistake *UsageError
	switch {
	case errors.As(err, &mistake), errors.Is(err, fs.ErrInvalid), errors.Is(err, pki.ErrNotPermitted), errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EBADMSG):
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

func unknownSetting(key string) error {
	return fmt.Errorf("there is no setting %q, the settings are %s: %w", key, strings.Join(settingKeys(), ", "), fs.ErrNotExist)
}

func (a *Appliance) getSettings() ([]Setting, error) {
	values, err := readSettings(a.tree.Sub("settings"))
	if err != nil {
		return nil, err
	}
	return listSettings(values), nil
}

type fileInfo struct {
	URL    string    `json:"url"`
	Digest string    `json:"digest"`
	Size   int64     `json:"size"`
	Time   time.Time `json:"time"`
}

func (a *Appliance) getFiles(r *http.Request) (any, error) {
	list := a.files.List(r.Context(), r.URL.Query().Get("prefix"))
	return streamOf(list, func(i fileserver.Info) (any, bool) {
		return fileInfo{i.URL, i.Digest, i.Size, i.Time}, true
	}), nil
}

type certInfo struct {
	Serial    string    `json:"serial"`
	Names     []string  `json:"names"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Revoked   time.Time `json:"revoked,omitzero"`
}

func (a *Appliance) getCerts(*http.Request) (any, error) {
	certs, err := a.ca.List()
	if err != nil {
		return nil, err
	}
	list := []certInfo{}
	for _, c := range certs {
		list = append(list, certInfo{c.Serial, c.Names, c.NotBefore, c.NotAfter, c.Revoked})
	}
	return list, nil
}

func (a *Appliance) postCert(r *http.Request) (any, error) {
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
	c, err := a.ca.Issue(r.Context(), req)
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

type originInfo struct {
	Host    string   `json:"host"`
	Aliases []string `json:"aliases"`
	Enabled bool     `json:"enabled"`
	Builtin bool     `json:"builtin"`
	Reason  string   `json:"reason,omitempty"`
}

func infoOf(o origin.Origin) originInfo {
	return originInfo{o.Host, append([]string{}, o.Aliases...), o.Disabled == "", o.Builtin, o.Disabled}
}

func (a *Appliance) getOrigins(*http.Request) (any, error) {
	list := []originInfo{}
	for _, o := range a.now.Load().origins.All() {
		info := infoOf(o)
		if o.Disabled == origin.NotPermitted {
			info.Reason = a.notPermitted(o.Names()...)
		}
		list = append(list, info)
	}
	return list, nil
}

type nameInfo struct {
	Name   string   `json:"name"`
	Type   string   `json:"type"`
	Values []string `json:"values"`
	TTL    string   `json:"ttl,omitempty"`
}

func (a *Appliance) getNames(*http.Request) (any, error) {
	return streamOf(allNames(a.tree), func(r dnssrv.Record) (any, bool) {
		i := nameInfo{Name: r.Name, Type: r.Type, Values: r.Values}
		if r.TTL != 0 {
			i.TTL = r.TTL.String()
		}
		return i, true
	}), nil
}

func (a *Appliance) setName(ctx context.Context, name, kind string, in nameRecord) error {
	name, kind = origin.Fold(name), strings.ToUpper(kind)
	rec := dnssrv.Record{Name: name, Type: kind, Values: in.Values}
	if in.TTL != "" {
		var err error
		if rec.TTL, err = time.ParseDuration(in.TTL); err != nil {
			return usage("ttl must be a duration like 1m, got %q", in.TTL)
		}
	}
	if err := dnssrv.ValidateRecord(rec); err != nil {
		return &UsageError{err}
	}
	data, err := json.Marshal(in)
	if err != nil {
		return err
	}
	if len(data) > 4096 {
		return usage("name %s %s: all values together must have at most 4096 bytes, got %d", name, kind, len(data))
	}
	err = a.tree.Update(ctx, func(b cluster.Batch) error { b.Put("names/"+name+"/"+kind, data); return nil })
	if err != nil {
		return err
	}
	return a.refreshNames()
}

func (a *Appliance) deleteName(ctx context.Context, name, kind string) error {
	path := origin.Fold(name)
	if kind != "" {
		path += "/" + strings.ToUpper(kind)
	}
	if !fs.ValidPath(path) {
		return usage("name must be a host name, got %q", name)
	}
	if _, err := a.tree.Stat("names/" + path); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no name %s is set: %w", strings.TrimSpace(name+" "+kind), fs.ErrNotExist)
	} else if err != nil {
		return fmt.Errorf("name %s cannot be read: %w", strings.TrimSpace(name+" "+kind), err)
	}
	if err := a.tree.Update(ctx, func(b cluster.Batch) error { b.Remove("names/" + path); return nil }); err != nil {
		return err
	}
	return a.refreshNames()
}

func (a *Appliance) postGC(r *http.Request) (any, error) {
	dry := r.URL.Query().Get("dry_run") == "true"
	collect := a.cluster.GC
	if r.URL.Query().Get("now") == "true" {
		collect = a.cluster.GCNow
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
	}{Blobs: rep.Blobs + rep.Orphans, Bytes: rep.RemovedBytes, Kept: a.cluster.Status().Blobs, DryRun: dry, GCReport: rep}, nil
}

func (a *Appliance) postScrub(r *http.Request) (any, error) {
	rep, err := a.cluster.Scrub(r.Context())
	if err != nil {
		return nil, err
	}
	return struct {
		Checked int      `json:"checked"`
		Bytes   int64    `json:"bytes"`
		Damaged []string `json:"damaged"`
		Mended  int      `json:"mended"`
		Missing []string `json:"missing"`
	}{rep.Blobs, rep.Bytes, append([]string{}, rep.Damaged...), rep.Mended, append([]string{}, rep.Missing...)}, nil
}

type missInfo struct {
	Kind  string    `json:"kind"`
	Name  string    `json:"name"`
	Count uint64    `json:"count"`
	Last  time.Time `json:"last"`
}

// shapeWarning says what a thief of the CA's keys is not bound by, and what changes that.
func shapeWarning(s pki.Shape) string {
	cure := "casemate ca rotate makes a root of the present shape, which clients must trust before " +
		"casemate ca rotate --finish"
	if s.Name == pki.ShapeKept {
		cure = "casemate ca rotate, if its path length leaves room for three CA certificates below it; " +
			"else have it signed anew and give it to casemate config set pki.issuer"
	}
	return fmt.Sprintf("whoever takes a bastion's keys is not bound by %s: %s", strings.Join(s.Missing, "; "), cure)
}

func (a *Appliance) getStatus(r *http.Request) (any, error) {
	v := a.now.Load()
	st := a.cluster.Status()
	problems := a.problems.list()
	if st.Failure != "" {
		problems = append(problems, "the tree has stopped, see the log and start casemate anew: "+st.Failure)
	} else if st.Leader == "" {
		problems = append(problems, noLeader(a.cluster.Members()))
	}
	if st.DiskFree < st.DiskReserve {
		problems = append(problems, "the disk is full up to its reserve: nothing can be written; delete images or files and run casemate gc --now, or give it a larger disk")
	}
	problems = append(problems, a.cluster.Problems()...)
	problems = append(problems, a.dnsProblems()...)
	scrub, lost := a.scrubInfo()
	if lost != "" {
		problems = append(problems, lost)
	}
	warnings := a.luck.sentences(20)
	for _, c := range a.registry.Conflicts() {
		warnings = append(warnings, fmt.Sprintf("the flat name %s is answered by several repositories with different content: %s", c.Name, strings.Join(c.Candidates, ", ")))
	}
	if s := a.rotationSentence(); s != "" {
		warnings = append(warnings, s)
	}
	shape := a.ca.Shape()
	if len(shape.Missing) > 0 {
		warnings = append(warnings, shapeWarning(shape))
	}
	type cert struct {
		Name     string    `json:"name"`
		NotAfter time.Time `json:"not_after"`
	}
	certs := []cert{}
	for _, e := range a.ca.Expiries() {
		if e.Kind == "root" || e.Kind == "intermediate" || time.Until(e.NotAfter) < 7*24*time.Hour {
			certs = append(certs, cert{strings.TrimSpace(e.Kind + " " + e.Name), e.NotAfter})
		}
	}
	for _, o := range v.origins.All() {
		if o.Disabled == origin.NotPermitted {
			warnings = append(warnings, fmt.Sprintf("origin %s is stored but not enabled: %s", o.Host, a.notPermitted(o.Names()...)))
		}
	}
	uploads := a.registry.Uploads()
	warnings = append(warnings, uploadWarnings(uploads)...)
	complete, pending, err := a.imports.Pending()
	if err != nil {
		return nil, err
	}
	warnings = append(warnings, importWarnings(pending)...)
	warnings = append(warnings, a.clusterWarnings()...)
	images, files := a.counts()
	entries, err := a.book.List()
	if err != nil {
		return nil, err
	}
	misses := []missInfo{}
	for _, e := range missing.Unsolved(entries, 10, a.answered(r.Context())) {
		misses = append(misses, missInfo{e.Kind, e.Name, e.Count, e.Last})
	}
	return map[string]any{
		"node": a.cfg.Node, "version": Version, "started": a.started.UTC(), "domain": v.settings.Domain, "advertise": a.cfg.Advertise,
		"serving": a.ready() == nil, "problems": append([]string{}, problems...),
		"leader": st.Leader, "role": st.Role, "members": a.cluster.Members(), "term": st.Term, "applied": st.Applied, "commit": st.Commit,
		"entries": st.Entries, "images": images, "files": files, "blobs": st.Blobs, "bytes": st.Bytes,
		"imports":      map[string]any{"complete": complete, "incomplete": len(pending), "running": a.imports.Running()},
		"disk":         map[string]int64{"total": st.DiskTotal, "free": st.DiskFree, "reserve": st.DiskReserve},
		"certificates": certs, "ca": shape, "warnings": append([]string{}, warnings...), "misses": misses, "scrub": scrub,
		"uploads": uploads,
	}, nil
}

// uploadWarnings are sentences for status about users who have as many unfinished uploads as one may.
func uploadWarnings(u registry.Uploads) (list []string) {
	for _, of := range u.Users {
		if of.User == "" || of.Open < u.Share && of.Ended == 0 {
			continue
		}
		list = append(list, fmt.Sprintf("the user %s has %d unfinished uploads on this node, one user may have %d: "+
			"a new one ends the one that lies idle longest, %d so far; what does that user's client do?",
			of.User, of.Open, u.Share, of.Ended))
	}
	return list
}

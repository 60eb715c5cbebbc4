package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"casemate/appliance/access"
	"casemate/appliance/content"
	"casemate/appliance/handover"
	"casemate/appliance/reply"
	"casemate/appliance/usage"
	"casemate/bundle/python"
	"casemate/cluster"
)

// importRoutes serves imports.
func (a *API) importRoutes(on *routes) {
	on.stream("POST "+handover.Path,
		to(access.Import).here("the command passes the files that it has opened; import --server sends them"),
		a.postImport)
	on.pages("GET /v1/imports", to(access.List), a.getImports)
	on.json("POST /v1/imports/{name}/publish", to(access.Import).named("import", "name"),
		func(r *http.Request) (any, error) {
			diff, err := seenDiff(r)
			if err != nil {
				return nil, err
			}
			return a.Imports.PublishStaged(r.Context(), r.PathValue("name"), diff)
		})
	on.pages("GET /v1/imports/{name}", to(access.List).named("import", "name"), a.getImport)
	on.removes("DELETE /v1/imports/{name}", to(access.Import).named("import", "name"), a.importToRemove,
		func(r *http.Request) (any, error) {
			removed, err := a.Imports.Remove(r.Context(), r.PathValue("name"))
			if err == nil {
				err = a.Changes.Refresh() // its redirects no longer exist
			}
			return removed, err
		})
}

// approvalRoutes serves the approval of staged imports.
func (a *API) approvalRoutes(on *routes) {
	on.json("GET /v1/approvals", to(access.List),
		func(*http.Request) (any, error) { return a.Imports.Waiting(), nil })
	on.pages("GET /v1/approvals/{name}", to(access.List).named("import", "name"), a.getDiff)
	on.json("POST /v1/approvals/{name}", to(access.Approve).named("import", "name"), a.approveImport)
	on.json("POST /v1/approvals/{name}/reject", to(access.Approve).named("import", "name"),
		func(r *http.Request) (any, error) { return nil, a.Imports.Reject(r.Context(), r.PathValue("name")) })
}

// getImports is GET /v1/imports: complete ones first, each by time; with order=newest by time alone, the newest first.
func (a *API) getImports(r *http.Request, p page) (pagedAnswer, error) {
	all, err := a.Imports.ListFor(r.Context())
	if err != nil {
		return pagedAnswer{}, err
	}
	at := func(i content.Import) string { return position(i.State, i.Time.UTC().Format(time.RFC3339Nano), i.Name) }
	order := func(a, b content.Import) int {
		return cmp.Or(cmp.Compare(a.State, b.State), a.Time.Compare(b.Time), cmp.Compare(a.Name, b.Name))
	}
	switch text := r.URL.Query().Get("order"); text {
	case "":
	case "newest":
		order = func(a, b content.Import) int {
			return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(b.Name, a.Name), cmp.Compare(a.State, b.State))
		}
		slices.SortFunc(all, order)
	default:
		return pagedAnswer{}, usage.Errorf("order is newest or absent, got %.40q", text)
	}
	if p.after == "" {
		return pagedAnswer{list: slice(all, func(content.Import) bool { return true }, at)}, nil
	}
	var last content.Import
	var when string
	if err := positioned(p, &last.State, &when, &last.Name); err != nil {
		return pagedAnswer{}, err
	}
	if last.Time, err = timeAt(when); err != nil {
		return pagedAnswer{}, err
	}
	behind := func(i content.Import) bool { return order(i, last) > 0 }
	return pagedAnswer{list: slice(all, behind, at)}, nil
}

// getImport is GET /v1/imports/NAME: an import with its names, in their order.
func (a *API) getImport(r *http.Request, p page) (pagedAnswer, error) {
	d, err := a.Imports.Show(r.PathValue("name"))
	if err != nil {
		return pagedAnswer{}, err
	}
	names, err := numbered(p, d.Names)
	return pagedAnswer{list: names, field: "names", around: struct {
		content.Import
		Intact bool `json:"intact"`
	}{d.Import, d.Intact}}, err
}

// getDiff is GET /v1/approvals/NAME: what publishing a staged import would do; with changed=1 without the names that
// stay the same.
func (a *API) getDiff(r *http.Request, p page) (pagedAnswer, error) {
	e, err := a.Imports.Diff(r.PathValue("name"))
	if err != nil {
		return pagedAnswer{}, err
	}
	if r.URL.Query().Get("changed") != "" {
		e.Changes = slices.DeleteFunc(e.Changes, func(c content.Change) bool { return c.What == content.ChangeNone })
	}
	changes, err := numbered(p, e.Changes)
	return pagedAnswer{list: changes, field: "changes", around: struct {
		content.Import
		Diff string `json:"diff"`
	}{e.Import, e.Diff}}, err
}

// approveImport is POST /v1/approvals/NAME. Who approves is a person: whoever may create an API key could else
// approve an import of their own with it.
func (a *API) approveImport(r *http.Request) (any, error) {
	diff, err := seenDiff(r)
	if err != nil {
		return nil, err
	}
	if key, ok := strings.CutPrefix(subject(r).Name, "key/"); ok {
		return nil, fmt.Errorf("an API key cannot approve, and %s is one: log in as a user: %w", key,
			cluster.ErrApproval)
	}
	return a.Imports.Approve(r.Context(), r.PathValue("name"), diff)
}

// seenDiff reads {"diff"}: the digest of what somebody has seen before they publish it.
func seenDiff(r *http.Request) (string, error) {
	var in diffBody
	if err := read(r, &in); err != nil {
		return "", err
	}
	if in.Diff == "" {
		return "", usage.Errorf("diff is missing: it is the digest that casemate import diff shows")
	}
	return in.Diff, nil
}

// postImport takes over the connection: the command passes the files that it opened, and waits for the end of the
// import.
func (a *API) postImport(w http.ResponseWriter, r *http.Request) {
	a.imports.Add(1)
	defer a.imports.Done()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(a.Imports.Context(), cancel)()
	s, err := handover.Accept(w, r.WithContext(ctx))
	if err != nil {
		a.Log.Info("an import could not start", "err", err)
		return
	}
	res, err := a.runImport(s, subject(r))
	status, text := http.StatusOK, error(nil)
	if err != nil {
		status, text = importStatus(err), errors.New(reply.Sentence(err))
	}
	if err := s.Finish(res, text, status); err != nil {
		a.Log.Info("the result of an import could not be sent to its command", "err", err)
	}
}

// importStatus is statusOf, except that invalid content is not an invalid request.
func importStatus(err error) int {
	status := statusOf(err)
	if status == http.StatusInternalServerError && errors.Is(err, content.ErrUnreadable) {
		return http.StatusUnprocessableEntity
	}
	if status == http.StatusBadRequest && !errors.As(err, new(*usage.Error)) || status == http.StatusNotFound {
		return http.StatusUnprocessableEntity
	}
	return status
}

func (a *API) runImport(s *handover.Session, by access.Subject) (*content.Result, error) {
	run, err := a.newImport(s.Request())
	if err != nil {
		return nil, err
	}
	run.Inputs = s.Inputs()
	run.Progress = func(p content.Progress) { s.Progress(p.Done, p.Total, p.Phase) }
	return a.Imports.Import(WithSubject(s.Context(), by), run)
}

// newImport checks an operator's request for an import, and returns it without inputs.
func (a *API) newImport(q handover.Request) (content.Request, error) {
	keys, err := content.ParseKeys(strings.Join(q.Keys, "\n"))
	if err != nil {
		return content.Request{}, &usage.Error{Err: err}
	}
	if q.Name != "" {
		if err := content.CheckNewName(q.Name); err != nil {
			return content.Request{}, &usage.Error{Err: err}
		}
	}
	index := q.PythonIndex
	if index == "" {
		index = "https://" + a.Current.State().Settings.PackagesHost() + "/simple/"
	}
	if index, err = python.CheckIndex(index); err != nil {
		return content.Request{}, &usage.Error{Err: err}
	}
	if q.Hold && q.DryRun {
		return content.Request{}, usage.Errorf("hold and dry_run exclude each other: a dry run stores nothing that " +
			"could wait")
	}
	return content.Request{
		Name: q.Name, Keys: keys, Repository: q.Repository, PythonIndex: index, DryRun: q.DryRun, Partial: q.Partial,
		Hold: q.Hold, Wait: q.Wait,
	}, nil
}

// importToRemove lists the names that removing an import would make vanish or change.
func (a *API) importToRemove(r *http.Request) (*Removal, error) {
	plan, bytes, err := a.Imports.WouldRemove(r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	out := &Removal{}
	out.add("import", plan.Name, bytes)
	for _, n := range plan.Vanished {
		out.add(n.Kind, n.Name, 0)
	}
	for _, n := range plan.Back {
		out.Notes = append(out.Notes, n.Name.Name+" shows again what it was: "+n.By)
		if len(out.Notes) == maxNotes {
			out.Notes = append(out.Notes, fmt.Sprintf("and so do %d more", len(plan.Back)-maxNotes))
			break
		}
	}
	return out, nil
}

// maxNotes is how many names with older content a Removal lists.
const maxNotes = 20

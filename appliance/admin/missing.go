package admin

import (
	"net/http"
	"strconv"

	"casemate/appliance/access"
	"casemate/appliance/missing"
	"casemate/appliance/usage"
)

// missingRoutes serves the missing book.
func (a *API) missingRoutes(on *routes) {
	on.json("GET /v1/missing", to(access.List), a.getMissing)
	on.removes("DELETE /v1/missing", to(access.Operate), a.missesToRemove,
		func(r *http.Request) (any, error) { return nil, a.Book.Clear(r.Context()) })
	on.json("DELETE /v1/missing/entries", to(access.Operate), a.forgetMissing)
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
	return missing.Solve(entries, missing.Known{Answered: a.Lookup.Answered(r.Context()),
		Reach: a.Lookup.Enabling, Package: a.Repositories.Package}), r.Context().Err()
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

// missesToRemove lists what the missing book has.
func (a *API) missesToRemove(*http.Request) (*Removal, error) {
	entries, err := a.Book.All()
	out := &Removal{}
	for _, e := range entries {
		out.add("missed "+e.Kind, e.Name, 0)
	}
	return out, err
}

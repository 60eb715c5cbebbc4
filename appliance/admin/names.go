package admin

import (
	"net/http"
	"strings"

	"casemate/appliance/access"
	"casemate/appliance/names"
	"casemate/dnssrv"
)

// nameRoutes serves DNS records.
func (a *API) nameRoutes(on *routes) {
	on.pages("GET /v1/names", to(access.List), a.getNames)
	on.json("PUT /v1/names/{name}/{type}", to(access.Operate).named("name", "name"),
		func(r *http.Request) (any, error) {
			var in names.Record
			if err := read(r, &in); err != nil {
				return nil, err
			}
			return nil, a.changeName(names.Set(r.Context(), a.Tree, r.PathValue("name"), r.PathValue("type"), in))
		})
	on.removes("DELETE /v1/names/{name}/{type}", to(access.Operate).named("name", "name"), a.namesToRemove,
		func(r *http.Request) (any, error) {
			return nil, a.changeName(names.Delete(r.Context(), a.Tree, r.PathValue("name"), r.PathValue("type")))
		})
	on.removes("DELETE /v1/names/{name}", to(access.Operate).named("name", "name"), a.namesToRemove,
		func(r *http.Request) (any, error) {
			return nil, a.changeName(names.Delete(r.Context(), a.Tree, r.PathValue("name"), ""))
		})
}

type Name struct {
	Name   string   `json:"name"`
	Type   string   `json:"type"`
	Values []string `json:"values"`
	TTL    string   `json:"ttl,omitempty"`
}

func (a *API) getNames(_ *http.Request, p page) (pagedAnswer, error) {
	return pagedAnswer{list: listOf(names.AllAfter(a.Tree, p.after), func(r dnssrv.Record) (any, string, bool) {
		return nameOf(r), names.Path(r), true
	})}, nil
}

func nameOf(r dnssrv.Record) Name {
	i := Name{Name: r.Name, Type: r.Type, Values: r.Values}
	if r.TTL != 0 {
		i.TTL = r.TTL.String()
	}
	return i
}

// changeName answers a change of names after applying it.
func (a *API) changeName(err error) error {
	if err != nil {
		return err
	}
	return a.RefreshNames()
}

// namesToRemove lists the records that a request would delete. One that cannot be read is listed by its name.
func (a *API) namesToRemove(r *http.Request) (*Removal, error) {
	path, err := names.Deleted(a.Tree, r.PathValue("name"), r.PathValue("type"))
	if err != nil {
		return nil, err
	}
	out := &Removal{}
	if r.PathValue("type") != "" {
		out.add("DNS record", nameOfRecord(path), 0)
		return out, nil
	}
	for file := range a.Tree.Walk(path, "") {
		out.add("DNS record", nameOfRecord(file), 0)
	}
	return out, nil
}

// nameOfRecord returns the name and the type of names/NAME/TYPE.
func nameOfRecord(file string) string {
	return strings.ReplaceAll(strings.TrimPrefix(file, "names/"), "/", " ")
}

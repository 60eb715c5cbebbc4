package admin

import (
	"net/http"

	"casemate/appliance/access"
	"casemate/appliance/names"
	"casemate/dnssrv"
)

// nameRoutes serves DNS records.
func (a *API) nameRoutes(on *routes) {
	on.json("GET /v1/names", to(access.List), a.getNames)
	on.json("PUT /v1/names/{name}/{type}", to(access.Operate).named("name", "name"),
		func(r *http.Request) (any, error) {
			var in names.Record
			if err := read(r, &in); err != nil {
				return nil, err
			}
			return nil, a.changeName(names.Set(r.Context(), a.Tree, r.PathValue("name"), r.PathValue("type"), in))
		})
	on.json("DELETE /v1/names/{name}/{type}", to(access.Operate).named("name", "name"),
		func(r *http.Request) (any, error) {
			return nil, a.changeName(names.Delete(r.Context(), a.Tree, r.PathValue("name"), r.PathValue("type")))
		})
	on.json("DELETE /v1/names/{name}", to(access.Operate).named("name", "name"), func(r *http.Request) (any, error) {
		return nil, a.changeName(names.Delete(r.Context(), a.Tree, r.PathValue("name"), ""))
	})
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

// changeName answers a change of names after applying it.
func (a *API) changeName(err error) error {
	if err != nil {
		return err
	}
	return a.RefreshNames()
}

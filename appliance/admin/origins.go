package admin

import (
	"context"
	"net/http"

	"casemate/appliance/access"
	"casemate/appliance/origin"
)

// originRoutes serves origins.
func (a *API) originRoutes(on *routes) {
	on.json("GET /v1/origins", to(access.List), a.getOrigins)
	on.json("PUT /v1/origins/{host}", to(access.Operate).named("origin", "host"), func(r *http.Request) (any, error) {
		var in originBody
		if err := read(r, &in); err != nil {
			return nil, err
		}
		return a.addOrigin(r.Context(), r.PathValue("host"), in.Aliases)
	})
	on.removes("DELETE /v1/origins/{host}", to(access.Operate).named("origin", "host"), a.originToRemove,
		func(r *http.Request) (any, error) {
			return nil, a.Changes.RemoveOrigin(r.Context(), r.PathValue("host"))
		})
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

// originToRemove lists the origin that a request would remove, with its aliases.
func (a *API) originToRemove(r *http.Request) (*Removal, error) {
	o, err := a.Changes.RemovableOrigin(r.PathValue("host"))
	if err != nil {
		return nil, err
	}
	out := &Removal{Notes: []string{"its images and files stay stored; clients no longer reach them by its names"}}
	out.add("origin", o.Host, 0)
	for _, alias := range o.Aliases {
		out.add("alias", alias, 0)
	}
	return out, nil
}

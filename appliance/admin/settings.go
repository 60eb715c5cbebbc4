package admin

import (
	"net/http"
	"slices"

	"casemate/appliance/access"
	"casemate/appliance/settings"
	"casemate/appliance/usage"
)

// settingRoutes serves the cluster's settings.
func (a *API) settingRoutes(on *routes) {
	on.json("GET /v1/settings", to(access.Inspect), func(*http.Request) (any, error) { return a.getSettings() })
	on.json("GET /v1/settings/{key}", to(access.Inspect).named("setting", "key"), func(r *http.Request) (any, error) {
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
	on.json("PUT /v1/settings/{key}", to(access.Administer).named("setting", "key"),
		func(r *http.Request) (any, error) {
			var in settingBody
			if err := read(r, &in); err != nil {
				return nil, err
			}
			if in.Value == nil {
				return nil, usage.Errorf("value is missing")
			}
			return nil, a.Changes.SetSetting(r.Context(), r.PathValue("key"), in.Value)
		})
	on.json("DELETE /v1/settings/{key}", to(access.Administer).named("setting", "key"),
		func(r *http.Request) (any, error) {
			return nil, a.Changes.SetSetting(r.Context(), r.PathValue("key"), nil)
		})
}

func (a *API) getSettings() ([]settings.Setting, error) {
	values, err := settings.Read(a.Tree.Sub("settings"))
	if err != nil {
		return nil, err
	}
	return settings.List(values), nil
}

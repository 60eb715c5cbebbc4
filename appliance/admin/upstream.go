package admin

import (
	"casemate/appliance/access"
	"net/http"
)

// upstreamRoutes serves the credentials for origins. Passwords are never sent back.
func (a *API) upstreamRoutes(on *routes) {
	on.json("GET /v1/upstream/logins", to(access.Inspect),
		func(*http.Request) (any, error) { return a.Upstream.Logins() })
	on.json("PUT /v1/upstream/logins/{host}", to(access.Operate).named("origin", "host"),
		func(r *http.Request) (any, error) {
			var in upstreamLoginBody
			if err := read(r, &in); err != nil {
				return nil, err
			}
			return nil, a.Upstream.SetLogin(r.Context(), r.PathValue("host"), in.User, in.Password)
		})
	on.json("DELETE /v1/upstream/logins/{host}", to(access.Operate).named("origin", "host"),
		func(r *http.Request) (any, error) {
			return nil, a.Upstream.RemoveLogin(r.Context(), r.PathValue("host"))
		})
}

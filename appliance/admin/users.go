package admin

import "net/http"

// userRoutes serves users.
func (a *API) userRoutes(on routes) {
	on.json("GET /v1/users", func(*http.Request) (any, error) { return a.Users.List() })
	on.json("POST /v1/users", func(r *http.Request) (any, error) {
		var in struct{ Name, Password string }
		if err := read(r, &in); err != nil {
			return nil, err
		}
		return nil, a.Users.Add(r.Context(), in.Name, in.Password)
	})
	on.json("PUT /v1/users/{name}", func(r *http.Request) (any, error) {
		var in struct{ Password string }
		if err := read(r, &in); err != nil {
			return nil, err
		}
		return nil, a.Users.SetPassword(r.Context(), r.PathValue("name"), in.Password)
	})
	on.json("DELETE /v1/users/{name}", func(r *http.Request) (any, error) {
		return nil, a.Users.Remove(r.Context(), r.PathValue("name"))
	})
}

package admin

import (
	"net/http"
	"time"

	"casemate/appliance/access"
	"casemate/appliance/usage"
)

// accountRoutes serves users, roles and API keys. What an account may do about others is decided by the room access,
// which compares what both may do.
func (a *API) accountRoutes(on *routes) {
	on.json("GET /v1/whoami", anyAccount, a.getWhoami)
	on.json("GET /v1/users", to(access.Inspect), a.getUsers)
	on.json("POST /v1/users", to(access.Manage), func(r *http.Request) (any, error) {
		var in struct {
			Name, Password string
			Roles          []access.Grant
		}
		if err := read(r, &in); err != nil {
			return nil, err
		}
		return nil, a.Access.AddUser(r.Context(), subject(r), in.Name, in.Password, in.Roles)
	})
	on.json("PUT /v1/users/{name}", anyAccount, func(r *http.Request) (any, error) {
		var in struct{ Password string }
		if err := read(r, &in); err != nil {
			return nil, err
		}
		return nil, a.Access.SetPassword(r.Context(), subject(r), r.PathValue("name"), in.Password)
	})
	on.json("DELETE /v1/users/{name}", to(access.Manage).named("user", "name"), func(r *http.Request) (any, error) {
		return nil, a.Access.RemoveUser(r.Context(), subject(r), r.PathValue("name"))
	})
	on.json("GET /v1/roles", anyAccount, func(*http.Request) (any, error) { return rolesOf(access.Roles()), nil })
	on.json("GET /v1/accounts", to(access.Inspect), func(*http.Request) (any, error) { return a.Access.Accounts() })
	on.json("POST /v1/accounts/{name}/roles", to(access.Manage).named("account", "name"),
		func(r *http.Request) (any, error) {
			var in access.Grant
			if err := read(r, &in); err != nil {
				return nil, err
			}
			return a.Access.GrantRole(r.Context(), subject(r), r.PathValue("name"), in)
		})
	on.json("DELETE /v1/accounts/{name}/roles/{role}", to(access.Manage).named("account", "name"),
		func(r *http.Request) (any, error) {
			return a.Access.RevokeRole(r.Context(), subject(r), r.PathValue("name"), r.PathValue("role"))
		})
	on.json("GET /v1/apikeys", to(access.Inspect), func(*http.Request) (any, error) { return a.Access.Keys() })
	on.json("POST /v1/apikeys", to(access.Manage), a.postKey)
	on.json("DELETE /v1/apikeys/{name}", anyAccount, func(r *http.Request) (any, error) {
		return nil, a.Access.RevokeKey(r.Context(), subject(r), r.PathValue("name"))
	})
	on.json("POST /v1/login", anyAccount, a.postLogin)
}

// Whoami is who sends a request, and what it may do.
type Whoami struct {
	Name    string         `json:"name"`
	How     string         `json:"how"` // "password", "key" or "socket"
	Roles   []access.Grant `json:"roles"`
	Expires time.Time      `json:"expires,omitzero"` // of the key
}

func (a *API) getWhoami(r *http.Request) (any, error) {
	s := subject(r)
	return Whoami{s.Name, s.How, append([]access.Grant{}, s.Grants...), s.Expires}, nil
}

// User is a user and the roles.
type User struct {
	Name    string         `json:"name"`
	Changed time.Time      `json:"changed"`
	Roles   []access.Grant `json:"roles"`
}

func (a *API) getUsers(*http.Request) (any, error) {
	list, err := a.Access.Accounts()
	if err != nil {
		return nil, err
	}
	users := []User{}
	for _, u := range list {
		if !u.Changed.IsZero() {
			users = append(users, User{u.Name, u.Changed, u.Roles})
		}
	}
	return users, nil
}

// Role is a built-in role.
type Role struct {
	Name    string   `json:"name"`
	What    string   `json:"what"`
	Verbs   []string `json:"verbs"`
	Limited bool     `json:"limited"` // it can be limited to prefixes
}

func rolesOf(all []access.Role) []Role {
	list := []Role{}
	for _, r := range all {
		role := Role{Name: r.Name, What: r.What, Limited: r.Limits}
		for _, v := range r.Verbs {
			role.Verbs = append(role.Verbs, string(v))
		}
		list = append(list, role)
	}
	return list
}

// NewKey is an API key that was created; Key is shown this once.
type NewKey struct {
	access.Key
	Text string `json:"key"`
}

// lifeOf parses how long a key is valid; "" is 0.
func lifeOf(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	life, err := time.ParseDuration(text)
	if err != nil || life <= 0 {
		return 0, usage.Errorf("ttl is a time like 12h, got %.100q", text)
	}
	return life, nil
}

func (a *API) postKey(r *http.Request) (any, error) {
	var in struct {
		Name  string
		Roles []access.Grant
		TTL   string
	}
	if err := read(r, &in); err != nil {
		return nil, err
	}
	life, err := lifeOf(in.TTL)
	if err != nil {
		return nil, err
	}
	text, k, err := a.Access.CreateKey(r.Context(), subject(r), in.Name, in.Roles, life)
	if err != nil {
		return nil, err
	}
	return NewKey{k, text}, nil
}

// postLogin is POST /v1/login: an API key of the user's own for a password.
func (a *API) postLogin(r *http.Request) (any, error) {
	var in struct{ TTL string }
	if err := read(r, &in); err != nil {
		return nil, err
	}
	life, err := lifeOf(in.TTL)
	if err != nil {
		return nil, err
	}
	text, k, err := a.Access.Login(r.Context(), subject(r), life)
	if err != nil {
		return nil, err
	}
	return NewKey{k, text}, nil
}

package admin

import (
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strings"
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
		var in newUserBody
		if err := read(r, &in); err != nil {
			return nil, err
		}
		return nil, a.Access.AddUser(r.Context(), subject(r), in.Name, in.Password, in.Roles)
	})
	on.json("PUT /v1/users/{name}", anyAccount, func(r *http.Request) (any, error) {
		var in passwordBody
		if err := read(r, &in); err != nil {
			return nil, err
		}
		return nil, a.Access.SetPassword(r.Context(), subject(r), r.PathValue("name"), in.Password)
	})
	on.removes("DELETE /v1/users/{name}", to(access.Manage).named("user", "name"), a.userToRemove,
		func(r *http.Request) (any, error) {
			return nil, a.Access.RemoveUser(r.Context(), subject(r), r.PathValue("name"))
		})
	on.json("GET /v1/roles", anyAccount, func(*http.Request) (any, error) { return rolesOf(access.Roles()), nil })
	on.json("GET /v1/accounts", to(access.Inspect), func(*http.Request) (any, error) { return a.Access.Accounts() })
	on.json("POST /v1/accounts/{name}/roles", to(access.Manage).named("account", "name"),
		func(r *http.Request) (any, error) {
			var in roleBody
			if err := read(r, &in); err != nil {
				return nil, err
			}
			return a.Access.GrantRole(r.Context(), subject(r), r.PathValue("name"), in.Grant)
		})
	on.removes("DELETE /v1/accounts/{name}/roles/{role}", to(access.Manage).named("account", "name"), a.roleToRevoke,
		func(r *http.Request) (any, error) {
			return a.Access.RevokeRole(r.Context(), subject(r), r.PathValue("name"), r.PathValue("role"))
		})
	on.json("GET /v1/apikeys", to(access.Inspect), func(*http.Request) (any, error) { return a.Access.Keys() })
	on.json("POST /v1/apikeys", to(access.Manage), a.postKey)
	on.removes("DELETE /v1/apikeys/{name}", anyAccount, a.keyToRevoke, func(r *http.Request) (any, error) {
		return nil, a.Access.RevokeKey(r.Context(), subject(r), r.PathValue("name"))
	})
	on.json("POST /v1/login", anyAccount, a.postLogin)
}

// Whoami is who sends a request, and what it may do.
type Whoami struct {
	Name    string         `json:"name"`
	How     string         `json:"how"` // "password", "key" or "socket"
	Roles   []access.Grant `json:"roles"`
	Groups  []string       `json:"groups,omitempty"` // of a directory, those that give roles
	Expires time.Time      `json:"expires,omitzero"` // of the key
	// Verbs are what it may do with something, without regard to prefixes of its roles.
	Verbs []access.Verb `json:"verbs"`
	// Key is the name of the API key that was used.
	Key string `json:"key,omitempty"`
}

func (a *API) getWhoami(r *http.Request) (any, error) {
	s := subject(r)
	key, _ := strings.CutPrefix(s.ID, "key/")
	if s.How != "key" {
		key = ""
	}
	return Whoami{s.Name, s.How, append([]access.Grant{}, s.Grants...), s.Groups, s.Expires, s.Verbs(), key}, nil
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
	var in newKeyBody
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
	var in loginBody
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

// account returns the user or group of that name.
func (a *API) account(name string) (access.Account, error) {
	list, err := a.Access.Accounts()
	if err != nil {
		return access.Account{}, err
	}
	i := slices.IndexFunc(list, func(u access.Account) bool { return u.Name == name })
	if i < 0 {
		return access.Account{}, fmt.Errorf("there is no user or group %s: %w", name, fs.ErrNotExist)
	}
	return list[i], nil
}

// keys adds the API keys for which match holds.
func (a *API) keys(out *Removal, match func(access.Key) bool) error {
	list, err := a.Access.Keys()
	for _, k := range list {
		if match(k) {
			out.add("API key", k.Name, 0)
		}
	}
	return err
}

// userToRemove lists the user that a request would remove, with roles and logins.
func (a *API) userToRemove(r *http.Request) (*Removal, error) {
	name := r.PathValue("name")
	u, err := a.account(name)
	if err != nil {
		return nil, err
	}
	out := &Removal{}
	out.add("user", name, 0)
	for _, g := range u.Roles {
		out.add("role", g.Role, 0)
	}
	list, err := a.Access.Keys()
	if err != nil {
		return nil, err
	}
	for _, k := range list {
		switch {
		case k.Owner == name:
			out.add("API key", k.Name, 0)
		case k.Owner == "" && a.Access.Behind("key/"+k.Name) == name && len(out.Notes) < maxNotes:
			out.Notes = append(out.Notes, fmt.Sprintf("the API key %s, which %s has created, stays: casemate apikey "+
				"revoke %s ends it", k.Name, name, k.Name))
		}
	}
	return out, nil
}

// roleToRevoke lists the role that a request would take from an account.
func (a *API) roleToRevoke(r *http.Request) (*Removal, error) {
	account, role := r.PathValue("name"), r.PathValue("role")
	u, err := a.account(account)
	if err != nil {
		return nil, err
	}
	out := &Removal{Notes: []string{account + " can no longer use what only this role allows"}}
	for _, g := range u.Roles {
		if g.Role == role {
			out.add("role", role+" of "+account, 0)
		}
	}
	if out.Count == 0 {
		return nil, fmt.Errorf("%s does not have the role %s: %w", account, role, fs.ErrNotExist)
	}
	return out, nil
}

// keyToRevoke lists the API key that a request would revoke.
func (a *API) keyToRevoke(r *http.Request) (*Removal, error) {
	name, out := r.PathValue("name"), &Removal{}
	if err := a.keys(out, func(k access.Key) bool { return k.Name == name }); err != nil {
		return nil, err
	}
	if out.Count == 0 {
		return nil, fmt.Errorf("there is no API key %s: %w", name, fs.ErrNotExist)
	}
	return out, nil
}

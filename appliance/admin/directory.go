package admin

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"

	"casemate/appliance/access"
	"casemate/appliance/oidc"
	"casemate/appliance/secret"
	"casemate/appliance/usage"
	"casemate/cluster/tree"
)

// directoryRoutes serves the LDAP directory and the OpenID provider, whose users may log in. Passwords and secrets are
// never sent back.
func (a *API) directoryRoutes(on *routes) {
	on.json("GET /v1/directory", to(access.Inspect), a.getDirectory)
	on.json("GET /v1/directory/users/{name}", to(access.Inspect).named("user", "name"), a.getDirectoryUser)
	on.json("PUT /v1/directory/{source}/secret", to(access.Administer).named("directory", "source"),
		func(r *http.Request) (any, error) {
			var in secretBody
			if err := read(r, &in); err != nil {
				return nil, err
			}
			if in.Secret == "" {
				return nil, usage.Errorf("the secret is empty")
			}
			return nil, a.setSecret(r, in.Secret)
		})
	on.json("DELETE /v1/directory/{source}/secret", to(access.Administer).named("directory", "source"),
		func(r *http.Request) (any, error) { return nil, a.setSecret(r, "") })
	on.json("POST /v1/login/oidc", nobody("it begins a login"), func(r *http.Request) (any, error) {
		return a.OIDC.Begin(r.Context())
	})
	on.json("POST /v1/login/oidc/finish", nobody("the OpenID provider says who it is"), a.finishLogin)
}

// Source is where users come from that the cluster does not have itself.
type Source struct {
	Source     string `json:"source"` // "ldap" or "oidc"
	Configured bool   `json:"configured"`
	Server     string `json:"server,omitempty"` // that answered, or the issuer
	Secret     bool   `json:"secret"`           // a password or secret is stored
	Problem    string `json:"problem,omitempty"`
}

func (a *API) getDirectory(r *http.Request) (any, error) {
	ldap, openID := Source{Source: secret.LDAP}, Source{Source: secret.OIDC}
	for _, s := range []*Source{&ldap, &openID} {
		text, err := secret.Given(a.Tree, a.Cluster, s.Source)
		if err != nil {
			return nil, err
		}
		s.Secret = text != ""
	}
	if ldap.Configured = a.Directory.Realm() != ""; ldap.Configured {
		a.Directory.Retry()
		server, err := a.Directory.Ping(r.Context())
		if ldap.Server = server; err != nil {
			ldap.Problem = err.Error()
		}
	}
	if openID.Configured = a.OIDC.Configured(); openID.Configured {
		openID.Server = a.Current.State().Settings.OIDC.Issuer
		if err := a.OIDC.Ping(r.Context()); err != nil {
			openID.Problem = err.Error()
		}
	}
	return []Source{ldap, openID}, nil
}

// DirectoryUser is what the directory knows of a user, and what that means here.
type DirectoryUser struct {
	Name  string `json:"name"` // as the directory writes it
	DN    string `json:"dn"`
	Local bool   `json:"local"` // a user of the cluster has this name, and its password is asked for instead
	// Groups are all groups; Cut says that there are more.
	Groups []DirectoryGroup `json:"groups"`
	Cut    bool             `json:"cut"`
	// Roles are what the user may do here.
	Roles []access.Grant `json:"roles"`
}

// DirectoryGroup is a group of a user.
type DirectoryGroup struct {
	Name   string         `json:"name"`
	DN     string         `json:"dn"`
	Nested bool           `json:"nested"` // the user is in it through another group
	Roles  []access.Grant `json:"roles"`
}

func (a *API) getDirectoryUser(r *http.Request) (any, error) {
	a.Directory.Retry()
	u, err := a.Directory.Look(r.Context(), r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	out := DirectoryUser{Name: u.Name, DN: u.DN, Groups: []DirectoryGroup{}, Cut: u.Cut, Roles: []access.Grant{}}
	accounts, err := a.Access.Accounts()
	if err != nil {
		return nil, err
	}
	for _, other := range accounts {
		out.Local = out.Local || other.Name == u.Name || other.Name == r.PathValue("name")
	}
	for _, g := range u.Groups {
		grants, _, err := a.Access.GroupRoles([]string{g.Name})
		if err != nil {
			return nil, err
		}
		out.Groups = append(out.Groups, DirectoryGroup{g.Name, g.DN, g.Nested, append([]access.Grant{}, grants...)})
	}
	grants, _, err := a.Access.GroupRoles(u.GroupNames())
	out.Roles = append(out.Roles, grants...)
	return out, err
}

// setSecret stores the password of the bind DN, or the secret of the client at the OpenID provider; "" removes it.
func (a *API) setSecret(r *http.Request, text string) error {
	source := r.PathValue("source")
	if source != secret.LDAP && source != secret.OIDC {
		return fmt.Errorf("the sources of users are %s and %s, got %.64q: %w", secret.LDAP, secret.OIDC, source,
			fs.ErrNotExist)
	}
	event := tree.Event{Verb: "directory.secret", Object: source, New: "set"}
	if text == "" {
		event.New = "removed"
	}
	err := secret.Set(tree.WithEvent(r.Context(), event), a.Tree, a.Cluster, source, text)
	if err == nil && source == secret.LDAP {
		a.Directory.Retry()
	}
	return err
}

// LoginStep is the answer to the question whether a login at the OpenID provider is finished.
type LoginStep struct {
	Pending bool    `json:"pending"` // it is not: ask again
	Login   *NewKey `json:"login,omitempty"`
}

// finishLogin is POST /v1/login/oidc/finish: an API key of the user's own, once the user has logged in at the provider.
func (a *API) finishLogin(r *http.Request) (any, error) {
	var in handleBody
	if err := read(r, &in); err != nil {
		return nil, err
	}
	u, err := a.OIDC.Finish(r.Context(), in.Handle)
	switch {
	case errors.Is(err, oidc.ErrPending):
		return LoginStep{Pending: true}, nil
	case err != nil:
		return nil, err
	}
	text, k, err := a.Access.Enter(r.Context(), u.Name, u.Groups)
	if err != nil {
		return nil, err
	}
	return LoginStep{Login: &NewKey{k, text}}, nil
}

package appliance

import (
	"context"
	"net"
	"net/http"
	"strings"

	"casemate/appliance/access"
	"casemate/appliance/admin"
	"casemate/appliance/audit"
	"casemate/appliance/user"
	"casemate/cluster/tree"
	"casemate/registry"
)

// openAccess opens the accounts, and what they may do.
func (a *Appliance) openAccess() {
	a.journal = &audit.Journal{Cluster: a.cluster, Now: a.opt.Now}
	a.users = user.New(a.tree)
	a.users.Sealer, a.users.MaySeal = a.cluster, a.oneVersion
	a.users.Log = a.log.With("room", "users")
	a.access = access.New(access.Config{
		Tree: a.tree, Users: a.users, MayStore: a.oneVersion, Now: a.opt.Now,
		Anonymous: func() bool { return a.current.State().Settings.Anonymous },
		Event:     a.occurred,
		Log:       a.log.With("room", "access"),
	})
}

// occurred notes a login or a refusal for the audit log.
func (a *Appliance) occurred(e access.Event) {
	told := tree.Event{Verb: "user.login", Outcome: e.Refused}
	if e.Verb != access.Login {
		told.Verb, told.Object = "access.refuse", strings.TrimSpace(string(e.Verb)+" "+e.Object.String())
	}
	a.journal.Note(e.Actor, told)
}

// accountOf converts a subject for the registry.
func (a *Appliance) accountOf(s access.Subject, err error) (*registry.Account, error) {
	if err != nil {
		return nil, err
	}
	object := func(repository string) access.Object {
		if repository == "" {
			return access.Object{}
		}
		return access.Image(repository)
	}
	return &registry.Account{
		Actor: s.Actor, ID: s.ID, Version: s.Version, Expires: s.Expires,
		May: func(action, repository string) bool { return s.May(access.Verb(action), object(repository)) },
		Allow: func(action, repository string) error {
			return a.access.Allow(s, access.Verb(action), object(repository))
		},
	}, nil
}

func (a *Appliance) authenticate(ctx context.Context, name, password string) (*registry.Account, error) {
	return a.accountOf(a.access.Authenticate(ctx, name, password))
}

func (a *Appliance) account(ctx context.Context, id string) (*registry.Account, error) {
	return a.accountOf(a.access.Find(ctx, id))
}

// allowFile decides about a request that changes files.
func (a *Appliance) allowFile(r *http.Request, action, url string) (context.Context, error) {
	return a.access.AllowRequest(r, access.Verb(action), access.File(url))
}

// serveAdmin serves the admin API over https.
func (a *Appliance) serveAdmin(w http.ResponseWriter, r *http.Request) { a.remote.ServeHTTP(w, r) }

// withPeer adds to a connection of the admin socket who has opened it. Somebody whose name cannot be found out is
// nobody, and gets no answer but that.
func (a *Appliance) withPeer(ctx context.Context, c net.Conn) context.Context {
	name, err := access.Peer(c)
	if err != nil {
		a.log.Warn("a connection to the admin socket has no user", "err", err)
		return ctx
	}
	return admin.WithSubject(ctx, access.Socket(name))
}

package appliance

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"strings"
	"time"

	"casemate/appliance/access"
	"casemate/appliance/admin"
	"casemate/appliance/audit"
	"casemate/appliance/audit/syslog"
	"casemate/appliance/directory"
	"casemate/appliance/oidc"
	"casemate/appliance/secret"
	"casemate/appliance/user"
	"casemate/cluster/tree"
	"casemate/registry"
)

// openAccess opens the accounts, and what they may do.
func (a *Appliance) openAccess() {
	a.users = user.New(a.tree)
	a.users.Sealer, a.users.MaySeal = a.cluster, a.oneVersion
	a.users.Log = a.log.With("room", "users")
	a.directory = directory.New(directory.Config{
		Settings: func() directory.Settings { return a.current.State().Settings.Directory },
		Password: func() (string, error) { return secret.Given(a.tree, a.cluster, secret.LDAP) },
		Now:      a.opt.Now, Log: a.log.With("room", "directory"),
	})
	a.oidc = oidc.New(oidc.Config{
		Settings: func() oidc.Settings { return a.current.State().Settings.OIDC },
		Secret:   func() (string, error) { return secret.Given(a.tree, a.cluster, secret.OIDC) },
		Sealer:   a.cluster, Domain: a.current.State().Settings.Domain, Enter: a.enter,
		Now: a.opt.Now, Log: a.log.With("room", "oidc"),
	})
	a.access = access.New(access.Config{
		Tree: a.tree, Users: a.users, Directory: groupsOf{a.directory}, MayStore: a.oneVersion, Now: a.opt.Now,
		Anonymous: func() bool { return a.current.State().Settings.Anonymous },
		Lifetime:  func() time.Duration { return a.current.State().Settings.SessionLifetime },
		Idle:      func() time.Duration { return a.current.State().Settings.SessionIdle },
		Event:     a.occurred,
		Log:       a.log.With("room", "access"),
	})
}

// groupsOf is the directory as the room access needs it.
type groupsOf struct{ *directory.Directory }

func (g groupsOf) Find(ctx context.Context, name string) (canonical string, groups []string, err error) {
	u, err := g.Directory.Find(ctx, name)
	return u.Name, u.GroupNames(), err
}

// enter logs in with a browser whom the OpenID provider vouches for.
func (a *Appliance) enter(ctx context.Context, u oidc.User) (oidc.Login, error) {
	text, k, err := a.access.Enter(ctx, u.Name, u.Groups)
	return oidc.Login{Key: text, Expires: k.Expires}, err
}

// occurred notes a login or a refusal for the audit log.
func (a *Appliance) occurred(e access.Event) {
	told := tree.Event{Verb: "user.login"}
	if e.Refused != "" {
		told.Outcome = "refused: " + e.Refused
	}
	if e.Verb != access.Login {
		told.Verb, told.Object = "access.refuse", strings.TrimSpace(string(e.Verb)+" "+e.Object.String())
	}
	a.journal.Note(e.Actor, told)
}

// openAudit opens the audit log.
func (a *Appliance) openAudit() {
	set := a.current.State().Settings
	a.journal = &audit.Journal{Cluster: a.cluster, Now: a.opt.Now}
	a.audit = audit.New(audit.Config{
		Cluster: a.cluster, Tree: a.tree, Sealer: a.cluster, Origin: set.Domain + "/audit", Now: a.opt.Now,
		Retain: func() time.Duration { return a.current.State().Settings.Audit.Retain },
		Log:    a.log.With("room", "audit"),
	})
	a.forwarder = &audit.Forwarder{
		Log: a.audit,
		Target: func() (syslog.Target, bool) {
			if t := a.current.State().Settings.Audit.Forward; t != nil {
				return *t, true
			}
			return syslog.Target{}, false
		},
		Roots: func() *x509.CertPool {
			roots, err := x509.SystemCertPool()
			if err != nil {
				roots = x509.NewCertPool()
			}
			roots.AppendCertsFromPEM(a.ca.Roots())
			roots.AppendCertsFromPEM([]byte(a.current.State().Settings.Audit.ForwardCA))
			return roots
		},
	}
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

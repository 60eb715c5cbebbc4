// Package access decides who may do what: an account, or whoever has opened the admin socket, wants to do something
// (a verb) with something (an object), and one table of roles says whether it may.
//
// It promises: there is one decision (Allow), which every entry point asks, and it reads the newest state that this
// node has. So what an account may do ends on every node as soon as the node has heard of it, also for tokens that
// were issued before. Without a role nothing is allowed. An account can give others only what it may do itself. An API
// key is stored as a hash.
//
// Clusters of earlier versions had users without roles, who could push everything and do nothing else. A user without
// a record of roles is that: a pusher of everything.
package access

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"casemate/appliance/user"
	"casemate/cluster/tree"
)

// Tree is the part of the tree that is used, from its root.
type Tree interface {
	fs.StatFS
	fs.ReadFileFS
	fs.ReadDirFS
	Update(ctx context.Context, fn func(tree.Batch) error) error
}

// Directories of the tree: an account's roles, and API keys.
const (
	usersDir  = "access/users"  // NAME: record of a user
	groupsDir = "access/groups" // NAME: record of a directory's group
	keysDir   = "access/keys"   // NAME: keyRecord
	usedDir   = "access/used"   // NAME: when the key was last used, RFC 3339
)

// ErrCredentials is the error of Authenticate for credentials that are wrong, expired or revoked. It does not tell
// which.
var ErrCredentials = errors.New("wrong user, password or API key")

// Config configures an Access.
type Config struct {
	Tree  Tree
	Users *user.Users
	// Directory has users besides those of the cluster. Nil: there is none.
	Directory Directory
	// Anonymous reports whether images may be read without an account. Nil: true.
	Anonymous func() bool
	// Lifetime is how long a login lasts; nil, zero or more than LoginLife: LoginLife.
	Lifetime func() time.Duration
	// Idle is how long a login lasts without being used; nil or zero: that does not end it.
	Idle func() time.Duration
	// MayStore reports whether every node of the cluster knows roles. Nil: true.
	MayStore func() bool
	// Event receives logins, failed logins and refusals. It must not block. Nil: they are not reported.
	Event func(Event)
	Now   func() time.Time // nil: time.Now
	Log   *slog.Logger     // nil: nothing is logged
}

// An Event is something that changed nothing but that an auditor wants to see: a login, a failed one, or a refusal.
type Event struct {
	Actor   tree.Actor // of a failed login: the name that was given, without How
	Verb    Verb       // Login, or what was refused
	Object  Object
	Refused string // why; "" for a login that succeeded
}

// Login is the verb of events about logins; no role gives it.
const Login Verb = "login"

// Access decides. It is safe for concurrent use.
type Access struct {
	cfg Config

	mu   sync.Mutex
	used map[string]use       // keys by name, when they were last used here; owned by mu
	seen map[string]time.Time // logins that were reported, by account and address; owned by mu
}

// New returns an Access; it does no I/O.
func New(cfg Config) *Access {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Anonymous == nil {
		cfg.Anonymous = func() bool { return true }
	}
	if cfg.MayStore == nil {
		cfg.MayStore = func() bool { return true }
	}
	if cfg.Lifetime == nil {
		cfg.Lifetime = func() time.Duration { return LoginLife }
	}
	if cfg.Idle == nil {
		cfg.Idle = func() time.Duration { return 0 }
	}
	if cfg.Event == nil {
		cfg.Event = func(Event) {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Access{cfg: cfg, used: map[string]use{}, seen: map[string]time.Time{}}
}

// A Subject is somebody who asks, and what it may do.
type Subject struct {
	tree.Actor
	// ID names the account for Find: a user's name or "key/NAME"; "" for whoever has no account.
	ID string
	// Groups are those of its groups in a directory that have roles.
	Groups []string
	// Grants are what it may do.
	Grants []Grant
	// Version changes with the account's password, roles or key: what was issued for another version is void.
	Version string
	// Expires is when the account ends; zero: it does not.
	Expires time.Time
	// record is the version of the user's record, which a new password changes; 0 for who is no user of the cluster.
	record uint64
}

// May reports whether the subject may do something. Callers use Allow, which reports refusals; May is for choosing what
// to offer.
func (s Subject) May(v Verb, o Object) bool {
	return slices.ContainsFunc(s.Grants, func(g Grant) bool { return g.gives(v, o) })
}

// Verbs returns what the subject may do with something, sorted: a role that is limited to prefixes counts.
func (s Subject) Verbs() []Verb {
	verbs := []Verb{}
	for _, g := range s.Grants {
		if role, ok := roleOf(g.Role); ok {
			verbs = append(verbs, role.Verbs...)
		}
	}
	slices.Sort(verbs)
	return slices.Compact(verbs)
}

// Covers reports whether the subject may do everything that the grants allow.
func (s Subject) Covers(grants []Grant) bool {
	for _, g := range grants {
		role, ok := roleOf(g.Role)
		if !ok {
			return false
		}
		for _, v := range role.Verbs {
			if !slices.ContainsFunc(s.Grants, func(own Grant) bool { return own.covers(v, g) }) {
				return false
			}
		}
	}
	return true
}

// Describe returns the subject as a sentence's subject.
func (s Subject) Describe() string {
	switch {
	case s.Name == "":
		return "a client without an account"
	case strings.Contains(s.Name, "/"):
		return s.Name
	}
	return "user " + s.Name
}

// ErrRefused is what refusals are: an account may not do what it wants to. They are fs.ErrPermission, too.
var ErrRefused = errors.New("refused")

func isRefused(target error) bool { return target == ErrRefused || target == fs.ErrPermission }

// A Refusal is the error of Allow.
type Refusal struct {
	Who    string
	Verb   Verb
	Object Object
}

func (e *Refusal) Error() string {
	what := string(e.Verb)
	if o := e.Object.String(); o != "" {
		what += " " + o
	}
	var able []string
	for _, r := range roles {
		if slices.Contains(r.Verbs, e.Verb) {
			able = append(able, r.Name)
		}
	}
	return fmt.Sprintf("%s may not %s: the roles that may are %s (see casemate role list)", e.Who, what,
		strings.Join(able, ", "))
}

// Is reports ErrRefused and fs.ErrPermission.
func (*Refusal) Is(target error) bool { return isRefused(target) }

// Allow is the one decision: nil, or a *Refusal.
func (a *Access) Allow(s Subject, v Verb, o Object) error {
	if s.May(v, o) {
		return nil
	}
	err := &Refusal{s.Describe(), v, o}
	a.cfg.Event(Event{s.Actor, v, o, err.Error()})
	return err
}

// Anyone returns the subject of a request without credentials.
func (a *Access) Anyone(ctx context.Context) Subject {
	s := Subject{Actor: tree.Actor{From: tree.ActorIn(ctx).From}}
	if a.cfg.Anonymous() {
		s.Grants = []Grant{{Role: "reader"}}
	}
	return s
}

// Socket returns the subject of somebody who has opened the admin socket: an administrator.
func Socket(name string) Subject {
	return Subject{Actor: tree.Actor{Name: name, How: "socket"}, Grants: []Grant{{Role: "admin"}}}
}

// Authenticate returns who has these credentials: a user's name and password, or any name and an API key. The address
// of the client is in ctx (user.WithClient), and in its actor. ErrCredentials: they are wrong. syscall.EAGAIN: too many
// passwords are being checked.
func (a *Access) Authenticate(ctx context.Context, name, password string) (Subject, error) {
	if len(name) > 255 || len(password) > 1024 {
		return Subject{}, ErrCredentials
	}
	if key, secret, ok := splitKey(password); ok {
		return a.byKey(ctx, key, secret)
	}
	if name == "" {
		return Subject{}, ErrCredentials
	}
	s, err := a.byPassword(ctx, name, password)
	switch {
	case errors.Is(err, user.ErrDenied):
		from := tree.ActorIn(ctx).From
		a.cfg.Event(Event{tree.Actor{Name: clip(name), From: from}, Login, Object{}, ErrCredentials.Error()})
		return Subject{}, ErrCredentials
	case err != nil:
		return Subject{}, err
	}
	s.How = "password"
	a.loggedIn(s)
	return s, nil
}

// byPassword returns who has a name and a password: a user of the cluster, and only if there is none of this name, one
// of the directory. So users of the cluster need no directory.
func (a *Access) byPassword(ctx context.Context, name, password string) (Subject, error) {
	realm := a.realm()
	own, err := a.cfg.Users.Exists(name)
	if err != nil {
		return Subject{}, err
	}
	if realm != "" && !own {
		return a.byDirectory(ctx, realm, name, password)
	}
	if err := a.cfg.Users.Authenticate(ctx, name, password); err != nil {
		return Subject{}, err
	}
	return a.Find(ctx, name)
}

// Bearer returns who has an API key.
func (a *Access) Bearer(ctx context.Context, token string) (Subject, error) {
	key, secret, ok := splitKey(token)
	if !ok {
		return Subject{}, ErrCredentials
	}
	return a.byKey(ctx, key, secret)
}

// Find returns an account as it is now, for a token that was issued to it. ErrCredentials: there is no such account any
// more. syscall.EAGAIN: the directory that has it does not answer.
func (a *Access) Find(ctx context.Context, id string) (Subject, error) {
	if name, ok := strings.CutPrefix(id, ldapPrefix); ok {
		return a.inDirectory(ctx, name)
	}
	if name, ok := strings.CutPrefix(id, "key/"); ok {
		k, _, err := a.key(name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
			err = ErrCredentials
		}
		if err != nil {
			return Subject{}, err
		}
		s, err := a.subjectOf(ctx, k)
		if err == nil {
			a.note(ctx, name)
		}
		return s, err
	}
	if user.CheckName(id) != nil {
		return Subject{}, ErrCredentials
	}
	info, err := a.cfg.Tree.Stat(user.Dir + "/" + id)
	if errors.Is(err, fs.ErrNotExist) {
		return Subject{}, ErrCredentials
	}
	if err != nil {
		return Subject{}, fmt.Errorf("user %s: %w", id, err)
	}
	grants, version, err := a.grantsOf(usersDir, id)
	if err != nil {
		return Subject{}, err
	}
	return Subject{Actor: tree.Actor{Name: id, How: "token", From: tree.ActorIn(ctx).From}, ID: id, Grants: grants,
		Version: fmt.Sprintf("%d.%d", tree.VersionOf(info), version), record: tree.VersionOf(info)}, nil
}

// clip bounds a name that was given by a client.
func clip(s string) string { return fmt.Sprintf("%.64s", s) }

// Logins are reported once in loginEvery for an account at an address; at most maxSeen are remembered.
const (
	loginEvery = 10 * time.Minute
	maxSeen    = 4096
)

func (a *Access) loggedIn(s Subject) {
	now := a.cfg.Now()
	id := s.ID + " " + s.From
	a.mu.Lock()
	last, ok := a.seen[id]
	due := !ok || now.Sub(last) >= loginEvery || now.Before(last)
	if due {
		if len(a.seen) >= maxSeen {
			clear(a.seen)
		}
		a.seen[id] = now
	}
	a.mu.Unlock()
	if due {
		a.cfg.Event(Event{Actor: s.Actor, Verb: Login})
	}
}

// errMixed refuses records that a node of an earlier version would not apply.
var errMixed = fmt.Errorf("a node of the cluster runs another version, which may not know roles: upgrade it first, "+
	"see casemate member list: %w", syscall.EAGAIN)

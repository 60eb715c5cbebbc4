// Package directory asks an LDAP directory (RFC 4511) who a user is, whether a password is right, and in which groups
// the user is.
//
// It promises: passwords go over TLS only (ldaps, or StartTLS before anything else), to a server whose certificate is
// verified. An empty password is never sent, because directories accept it as anonymous (RFC 4513 section 5.1.2). What
// a client types is never part of a filter's syntax. Referrals are not followed. Every question ends within a few
// seconds, and reads a bounded answer; a directory that did not answer is not asked again for a while, so that it holds
// up nobody. It writes nothing.
package directory

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-ldap/ldap/v3"
)

const (
	// fresh is how long what is known of a user is not asked for again: who is removed from the directory, or from a
	// group, has lost the rights after that time on every node.
	fresh = time.Minute
	// stale is how long it counts while the directory does not answer, so that pushes in progress go on.
	stale      = 15 * time.Minute
	maxUsers   = 4096 // that are remembered
	maxName    = 128  // bytes of a user's or a group's name
	maxSession = 8    // connections at the same time
	patience   = 5 * time.Second
)

// Config configures a Directory.
type Config struct {
	// Settings returns the settings as they are now.
	Settings func() Settings
	// Password returns the password of the bind DN.
	Password func() (string, error)
	Now      func() time.Time // nil: time.Now
	Log      *slog.Logger     // nil: nothing is logged
}

// Directory asks the directory. It is safe for concurrent use, and has no goroutines of its own.
type Directory struct {
	cfg      Config
	sessions chan struct{} // one element for each connection

	mu      sync.Mutex
	users   map[string]*known // by realm and the name that was asked for; owned by mu
	circuit circuit           // owned by mu
}

// known is what was learnt of a user.
type known struct {
	user   User
	at     time.Time
	asking bool // somebody is asking again
}

// A User is somebody whom the directory knows.
type User struct {
	Name   string  // as the directory writes it
	DN     string  // the distinguished name
	Groups []Group // by name
	// Cut says that groups are missing, because they are nested too deeply or too many.
	Cut bool
}

// GroupNames returns the names of the user's groups.
func (u *User) GroupNames() []string {
	var names []string
	for _, g := range u.Groups {
		names = append(names, g.Name)
	}
	return names
}

// A Group is a group that a user is in.
type Group struct {
	Name string
	DN   string
	// Nested says that the user is in the group through another one.
	Nested bool
}

// Errors of a Directory.
var (
	// ErrNone: no directory is configured.
	ErrNone = fmt.Errorf("no directory is configured, see the settings ldap.url and ldap.users: %w", fs.ErrNotExist)
	// ErrUnknown: the directory does not have the user, the user is disabled, or several entries match the name.
	ErrUnknown = fmt.Errorf("the directory does not have this user: %w", fs.ErrNotExist)
	// ErrDenied: the password is wrong, or the directory does not let the user in.
	ErrDenied = fmt.Errorf("the directory refuses this password: %w", fs.ErrPermission)
)

// unavailable is the error of a directory that could not answer. It is syscall.EAGAIN.
type unavailable struct {
	err error
	// one says that this question is not answered. It is no reason not to ask others: somebody could lock out everybody
	// with a name that the directory cannot search for.
	one bool
}

func (e *unavailable) Error() string   { return "the directory cannot be asked: " + e.err.Error() }
func (e *unavailable) Unwrap() []error { return []error{e.err, syscall.EAGAIN} }

// New returns a Directory; it does no I/O.
func New(cfg Config) *Directory {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Directory{cfg: cfg, sessions: make(chan struct{}, maxSession), users: map[string]*known{}}
}

// CheckName returns why a text cannot be the name of a directory's user or group. Characters that nobody sees are not
// allowed, because two names could look like one.
func CheckName(name string) error {
	if len(name) < 1 || len(name) > maxName || !utf8.ValidString(name) || strings.TrimSpace(name) != name ||
		strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsGraphic(r) }) {
		return fmt.Errorf("a name in a directory has 1 to %d bytes, no invisible characters and no space at its ends, "+
			"got %.140q: %w", maxName, name, fs.ErrInvalid)
	}
	return nil
}

// Realm identifies the directory and where its users are; "" if there is none. What was learnt in one realm says
// nothing about another.
func (d *Directory) Realm() string {
	s := d.cfg.Settings()
	if !s.configured() {
		return ""
	}
	sum := sha256.Sum256([]byte(s.text()))
	return hex.EncodeToString(sum[:8])
}

// Check returns nil if the password is the user's. ErrDenied, ErrUnknown; syscall.EAGAIN if the directory could not be
// asked.
func (d *Directory) Check(ctx context.Context, name, password string) error {
	if CheckName(name) != nil {
		return ErrUnknown
	}
	if password == "" {
		return ErrDenied
	}
	u, err := d.ask(ctx, name, password)
	if err == nil {
		d.remember(d.Realm(), name, u)
	}
	return err
}

// Find returns a user as the directory knew it at most a minute ago; while it does not answer, at most a quarter of an
// hour ago. ErrUnknown; syscall.EAGAIN if the directory could not be asked.
func (d *Directory) Find(ctx context.Context, name string) (User, error) {
	realm := d.Realm()
	if realm == "" {
		return User{}, ErrNone
	}
	if CheckName(name) != nil {
		return User{}, ErrUnknown
	}
	key := realm + " " + name
	d.mu.Lock()
	k := d.users[key]
	if k != nil {
		age := d.cfg.Now().Sub(k.at)
		if age < fresh || k.asking && age < stale {
			u := k.user
			d.mu.Unlock()
			return u, nil
		}
		k.asking = true
	}
	d.mu.Unlock()
	u, err := d.ask(ctx, name, "")
	switch {
	case err == nil:
		d.remember(realm, name, u)
		return u, nil
	case k == nil:
		return User{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	k.asking = false
	if errors.Is(err, syscall.EAGAIN) && d.cfg.Now().Sub(k.at) < stale {
		return k.user, nil
	}
	if d.users[key] == k {
		delete(d.users, key)
	}
	return User{}, err
}

func (d *Directory) remember(realm, name string, u User) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.users) >= maxUsers {
		clear(d.users)
	}
	d.users[realm+" "+name] = &known{user: u, at: d.cfg.Now()}
}

// Look asks the directory now, and remembers nothing: to explain what it knows.
func (d *Directory) Look(ctx context.Context, name string) (User, error) {
	if err := CheckName(name); err != nil {
		return User{}, err
	}
	return d.ask(ctx, name, "")
}

// Ping connects and binds: nil if the directory can be asked, with the server that answered.
func (d *Directory) Ping(ctx context.Context) (server string, err error) {
	err = d.session(ctx, func(s *session) error { server = s.server; return nil })
	return server, err
}

// ask finds a user; with a password it also verifies that, and asks for the groups only if it is right.
func (d *Directory) ask(ctx context.Context, name, password string) (u User, err error) {
	err = d.session(ctx, func(s *session) error {
		if u, err = s.user(name); err != nil {
			return err
		}
		if password != "" {
			if err := s.verify(u.DN, password); err != nil {
				return err
			}
			if err := s.bind(); err != nil { // groups are read as whoever may read them
				return err
			}
		}
		u.Groups, u.Cut, err = s.groups(u)
		slices.SortFunc(u.Groups, func(a, b Group) int {
			return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.DN, b.DN))
		})
		return err
	})
	return u, err
}

// codeOf returns the LDAP result code of an error, of ldap.ErrorNetwork and above for those of the library.
func codeOf(err error) uint16 {
	var e *ldap.Error
	if errors.As(err, &e) {
		return e.ResultCode
	}
	return ldap.ErrorNetwork
}

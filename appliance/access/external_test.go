package access

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"casemate/appliance/user"
	"casemate/cluster/tree"
	"casemate/cluster/treetest"

	"golang.org/x/crypto/bcrypt"
)

// directory is one of the interface's kind: users with their groups, all with the password "right password".
type directory struct {
	mu      sync.Mutex
	realm   string
	users   map[string][]string
	down    bool
	hangs   chan struct{} // not nil: Check waits for it
	checked int
}

func (d *directory) Realm() string { return d.realm }

func (d *directory) Check(ctx context.Context, name, password string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.checked++
	if hangs := d.hangs; hangs != nil {
		d.mu.Unlock()
		<-hangs
		d.mu.Lock()
	}
	switch _, ok := d.users[strings.ToLower(name)]; {
	case d.down:
		return fmt.Errorf("down: %w", syscall.EAGAIN)
	case !ok:
		return fs.ErrNotExist
	case password != "right password":
		return fs.ErrPermission
	}
	return nil
}

func (d *directory) Find(_ context.Context, name string) (string, []string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = strings.ToLower(name)
	groups, ok := d.users[name]
	if d.down {
		return "", nil, fmt.Errorf("down: %w", syscall.EAGAIN)
	}
	if !ok {
		return "", nil, fs.ErrNotExist
	}
	return name, groups, nil
}

func openWith(t *testing.T) (*house, *directory) {
	d := &directory{realm: "r", users: map[string][]string{
		"ada": {"builders", "Site Admins", "others"}, "bob": {"others"}, "ops": {"Site Admins"}}}
	h := open(t)
	h.cfg.Directory = d
	grant := func(group string, g Grant) {
		t.Helper()
		if _, err := h.GrantRole(t.Context(), root, "group:"+group, g); err != nil {
			t.Fatal(err)
		}
	}
	grant("builders", Grant{Role: "pusher", Images: []string{"team"}})
	grant("Site Admins", Grant{Role: "auditor"})
	grant("/realm/a%b", Grant{Role: "reader"})
	return h, d
}

func TestUsersOfTheDirectory(t *testing.T) {
	h, d := openWith(t)
	ctx := t.Context()
	h.add("ops")
	s, err := h.Authenticate(ctx, "ADA", "right password")
	h.must(err)
	if s.Name != "ldap/ada" || s.ID != "ldap/ada" || s.How != "password" ||
		!slices.Equal(s.Groups, []string{"Site Admins", "builders"}) {
		t.Errorf("%+v", s)
	}
	for _, c := range []struct {
		v    Verb
		o    Object
		want bool
	}{
		{Push, Image("team/app"), true}, {Push, Image("other"), false}, {Inspect, Object{}, true},
		{Administer, Object{}, false}, {Manage, Object{}, false},
	} {
		if s.May(c.v, c.o) != c.want {
			t.Errorf("%s %s: %v", c.v, c.o, !c.want)
		}
	}
	if err := h.Allow(s, Push, Image("other")); err == nil || !strings.HasPrefix(err.Error(), "ldap/ada may not push") {
		t.Error(err)
	}
	if bob, err := h.Authenticate(ctx, "bob", "right password"); err != nil || len(bob.Grants) != 0 ||
		bob.May(Pull, Object{}) {
		t.Errorf("without a group that has a role: %+v, %v", bob, err)
	}
	for name, password := range map[string]string{"ada": "wrong password", "eve": "right password",
		"ops":      "right password",
		"ldap/ada": "right password", "": "right password"} {
		if s, err := h.Authenticate(ctx, name, password); !errors.Is(err, ErrCredentials) {
			t.Errorf("%q with %q is %+v, %v", name, password, s, err)
		}
	}
	if local, err := h.Authenticate(ctx, "ops", "correct horse"); err != nil || local.Name != "ops" ||
		local.May(Inspect, Object{}) {
		t.Errorf("a user of the cluster is %+v, %v", local, err)
	}
	// A token of the user is what the groups are now.
	found, err := h.Find(ctx, "ldap/ada")
	if err != nil || found.Version != s.Version || !found.May(Push, Image("team/x")) {
		t.Errorf("%+v, %v", found, err)
	}
	if _, err := h.RevokeRole(ctx, root, "group:builders", "pusher"); err != nil {
		t.Fatal(err)
	}
	if found, err := h.Find(ctx, "ldap/ada"); err != nil || found.May(Push, Image("team/x")) {
		t.Errorf("after the group's role was taken: %+v, %v", found, err)
	}
	// A login of the command line ends with the user.
	text, k, err := h.Login(ctx, s, 0)
	h.must(err)
	if me, err := h.Bearer(ctx, text); err != nil || me.Name != "ldap/ada" || !me.May(Inspect, Object{}) {
		t.Errorf("%+v, %v", me, err)
	}
	if err := h.RevokeKey(ctx, s, k.Name); err != nil {
		t.Errorf("one's own login: %v", err)
	}
	text, k, err = h.Login(ctx, s, 0)
	h.must(err)
	d.mu.Lock()
	delete(d.users, "ada")
	d.mu.Unlock()
	if me, err := h.Bearer(ctx, text); !errors.Is(err, ErrCredentials) {
		t.Errorf("removed from the directory: %+v, %v", me, err)
	}
	h.must(h.RevokeKey(ctx, root, k.Name))
	// Another directory's users are others.
	before := found.Version
	d.realm = "another"
	if bob, err := h.Find(ctx, "ldap/bob"); err != nil || bob.Version == before {
		t.Errorf("%+v, %v", bob, err)
	}
	d.realm = ""
	if _, err := h.Find(ctx, "ldap/bob"); !errors.Is(err, ErrCredentials) {
		t.Errorf("without a directory: %v", err)
	}
}

// A correct password is sent to the directory once a minute, and a directory that is down is no wrong password.
func TestTheDirectoryIsAskedRarely(t *testing.T) {
	h, d := openWith(t)
	for range 50 {
		if _, err := h.Authenticate(t.Context(), "ada", "right password"); err != nil {
			t.Fatal(err)
		}
	}
	if d.checked != 1 {
		t.Errorf("asked %d times", d.checked)
	}
	d.realm = "another"
	if _, err := h.Authenticate(t.Context(), "ada", "right password"); err != nil || d.checked != 2 {
		t.Errorf("another directory: %v, asked %d times", err, d.checked)
	}
	d.down = true
	h.events = nil
	for range 10 {
		if _, err := h.Authenticate(t.Context(), "bob", "right password"); !errors.Is(err, syscall.EAGAIN) {
			t.Errorf("down: %v", err)
		}
	}
	if len(h.events) != 0 {
		t.Errorf("reported: %q", h.events)
	}
	d.down = false
	if _, err := h.Authenticate(t.Context(), "bob", "right password"); err != nil {
		t.Errorf("back: %v", err)
	}
}

// Guesses at the directory delay a client as guesses at users of the cluster do, also at the others; and a directory
// that hangs holds up nobody of the cluster.
func TestGuessingAtTheDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := treetest.New(t)
		users := user.New(mem)
		users.Cost = bcrypt.MinCost
		d := &directory{realm: "r", users: map[string][]string{"ada": nil}}
		a := New(Config{Tree: mem, Users: users, Directory: d})
		if err := a.AddUser(t.Context(), root, "local", "correct horse", nil); err != nil {
			t.Fatal(err)
		}
		from := func(addr string) context.Context {
			return tree.WithActor(user.WithClient(t.Context(), netip.MustParseAddr(addr)), tree.Actor{From: addr})
		}
		start := time.Now()
		for range 10 {
			if _, err := a.Authenticate(from("10.0.0.1"), "ada", "guess guess"); !errors.Is(err, ErrCredentials) {
				t.Error(err)
			}
		}
		if took := time.Since(start); took < 10*time.Second {
			t.Errorf("ten guesses take %s", took)
		}
		start = time.Now()
		if _, err := a.Authenticate(from("10.0.0.1"), "local", "guess guess"); !errors.Is(err, ErrCredentials) ||
			time.Since(start) < 5*time.Second {
			t.Errorf("the next guess, at a user of the cluster: %v after %s", err, time.Since(start))
		}
		start = time.Now()
		if _, err := a.Authenticate(from("10.0.0.2"), "ada", "right password"); err != nil || time.Since(start) > 0 {
			t.Errorf("somebody else: %v after %s", err, time.Since(start))
		}
		d.mu.Lock()
		d.hangs = make(chan struct{})
		d.mu.Unlock()
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() { a.Authenticate(from(fmt.Sprintf("10.1.0.%d", i)), "bob", "right password") })
		}
		synctest.Wait()
		if _, err := a.Authenticate(from("10.0.0.2"), "local", "correct horse"); err != nil || time.Since(start) > 0 {
			t.Errorf("a user of the cluster while the directory hangs: %v after %s", err, time.Since(start))
		}
		close(d.hangs)
		wg.Wait()
	})
}

// A login at the OpenID provider is a key with the roles of the groups that the provider has named.
func TestEnter(t *testing.T) {
	h, _ := openWith(t)
	ctx := tree.WithActor(t.Context(), tree.Actor{From: "10.0.0.7"})
	text, k, err := h.Enter(ctx, "ada@example.com", []string{"builders", "/realm/a%b", "unknown"})
	h.must(err)
	if k.Owner != "oidc/ada@example.com" || !slices.Equal(k.Groups, []string{"/realm/a%b", "builders"}) ||
		!k.Expires.Equal(h.now.Add(LoginLife)) {
		t.Errorf("%+v", k)
	}
	s, err := h.Bearer(ctx, text)
	if err != nil || s.Name != "oidc/ada@example.com" || !s.May(Push, Image("team/app")) ||
		s.May(Push, Image("other")) {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := h.RevokeRole(ctx, root, "group:builders", "pusher"); err != nil {
		t.Fatal(err)
	}
	if s, err := h.Bearer(ctx, text); err != nil || s.May(Push, Image("team/app")) || !s.May(Pull, Object{}) {
		t.Errorf("after the group's role was taken: %+v, %v", s, err)
	}
	// Who may do no more than it does not end it; whoever manages accounts does.
	eve := h.add("eve", Grant{Role: "pusher"})
	if err := h.RevokeKey(ctx, eve, k.Name); !errors.Is(err, ErrRefused) {
		t.Errorf("by another: %v", err)
	}
	if err := h.RevokeKey(ctx, h.add("boss", Grant{Role: "operator"}), k.Name); err != nil {
		t.Errorf("by an operator: %v", err)
	}
	if _, err := h.Bearer(ctx, text); !errors.Is(err, ErrCredentials) {
		t.Errorf("revoked: %v", err)
	}
	if _, err := h.Find(ctx, "oidc/ada@example.com"); !errors.Is(err, ErrCredentials) {
		t.Errorf("without a key: %v", err)
	}
	text, _, err = h.Enter(ctx, "ada@example.com", []string{"/realm/a%b"})
	h.must(err)
	h.now = h.now.Add(LoginLife)
	if _, err := h.Bearer(ctx, text); !errors.Is(err, ErrCredentials) {
		t.Errorf("expired: %v", err)
	}
	// The next login of anybody removes what has ended.
	_, k, err = h.Enter(ctx, "eve@example.com", []string{"/realm/a%b"})
	h.must(err)
	if keys, err := h.Keys(); err != nil || len(keys) != 1 || keys[0].Name != k.Name {
		t.Errorf("%+v, %v", keys, err)
	}
	h.events = nil
	for _, groups := range [][]string{nil, {"unknown"}} {
		if _, _, err := h.Enter(ctx, "bob", groups); !errors.Is(err, ErrRefused) ||
			!strings.Contains(err.Error(), "casemate role grant") {
			t.Errorf("%q: %v", groups, err)
		}
	}
	if len(h.events) != 2 || !strings.HasPrefix(h.events[0], "oidc/bob login") {
		t.Errorf("%q", h.events)
	}
}

// Names of groups are whatever directories have, and never another's, nor a place outside.
func FuzzGroupFiles(f *testing.F) {
	for _, name := range []string{"a", "Domain Admins", "/realm/x", "..", "a%2fb", "ä", "", " a", "a\n", "."} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		file, err := groupFile(name)
		if err != nil {
			return
		}
		if !fs.ValidPath(file) || strings.Contains(file, "/") || file == "." {
			t.Errorf("%q is stored at %q", name, file)
		}
		if back, err := groupName(file); err != nil || back != name {
			t.Errorf("%q is %q, %v", name, back, err)
		}
	})
}

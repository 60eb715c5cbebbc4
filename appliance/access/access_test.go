package access

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"casemate/appliance/user"
	"casemate/cluster/tree"
	"casemate/cluster/treetest"
	"casemate/cluster/waittest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { waittest.Main(m, goleak.Find) }

// house is an Access over a tree, with a clock and the events that it reported.
type house struct {
	*Access
	t    *testing.T
	tree *treetest.Mem
	now  time.Time

	mu     sync.Mutex
	events []string
}

var root = Socket("root")

func open(t *testing.T) *house {
	h := &house{t: t, tree: treetest.New(t), now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	users := user.New(h.tree)
	users.Cost = bcrypt.MinCost
	h.Access = New(Config{Tree: h.tree, Users: users, Now: func() time.Time { return h.now },
		Event: func(e Event) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.events = append(h.events, fmt.Sprintf("%s %s %s %s", e.Actor.Name, e.Verb, e.Object, e.Refused))
		}})
	return h
}

func (h *house) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) add(name string, grants ...Grant) Subject {
	h.t.Helper()
	h.must(h.AddUser(h.t.Context(), root, name, "correct horse", grants))
	s, err := h.Find(h.t.Context(), name)
	h.must(err)
	return s
}

// TestTheTable: the table in the documentation is the one that decides, and every role does what its row says.
func TestTheTable(t *testing.T) {
	text, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), rolesTable()) {
		t.Errorf("docs/security.md must have this table:\n%s", rolesTable())
	}
	for _, r := range roles {
		s := Subject{Grants: []Grant{{Role: r.Name}}}
		for _, v := range verbs {
			if got, want := s.May(v.verb, Object{}), slices.Contains(r.Verbs, v.verb); got != want {
				t.Errorf("%s may %s: %v", r.Name, v.verb, got)
			}
		}
	}
	if (Subject{}).May(List, Object{}) || (Subject{Grants: []Grant{{Role: "king"}}}).May(List, Object{}) {
		t.Error("no role, or one that is unknown, gives something")
	}
	auditor := Subject{Grants: []Grant{{Role: "auditor"}}}
	for _, v := range []Verb{Push, Delete, Import, Approve, Operate, Manage, Administer} {
		if auditor.May(v, Object{}) {
			t.Errorf("an auditor may %s", v)
		}
	}
}

func TestPrefixes(t *testing.T) {
	g := Grant{Role: "pusher", Images: []string{"team/app"}, Files: []string{"dl.example.com/tools"}}
	s := Subject{Grants: []Grant{g, {Role: "reader"}}}
	for _, c := range []struct {
		verb Verb
		o    Object
		want bool
	}{
		{Push, Image("team/app"), true}, {Push, Image("team/app/sub"), true}, {Push, Image("team/apples"), false},
		{Push, Image("team"), false}, {Push, Image("other"), false}, {Push, Image(""), false}, {Push, Object{}, false},
		{Push, Image("team/app/../other"), false},
		{Delete, Image("team/app"), true}, {Import, Image("team/app"), false},
		{Push, File("https://dl.example.com/tools/x"), true}, {Push, File("dl.example.com/tools"), true},
		{Push, File("https://dl.example.com/toolsx"), false}, {Push, File("team/app"), false},
		{Push, File("https://dl.example.com/tools/../x"), false},
		{Push, Object{"name", "team/app"}, false},
		{Pull, Image("other"), true}, {List, Object{}, true},
	} {
		if got := s.May(c.verb, c.o); got != c.want {
			t.Errorf("%s %v: %v", c.verb, c.o, got)
		}
	}
	onlyFiles := Subject{Grants: []Grant{{Role: "pusher", Files: []string{"dl.example.com"}}}}
	if onlyFiles.May(Push, Image("dl.example.com")) || onlyFiles.May(List, Object{}) {
		t.Error("a grant for files gives images or everything")
	}
}

// TestAccounts: users without a record are pushers of everything; roles are given and taken, and end at once.
func TestAccounts(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	old := h.add("old")
	if !old.May(Push, Image("any")) || old.May(Import, Object{}) {
		t.Errorf("a user without a role: %+v", old)
	}
	ada := h.add("ada", Grant{Role: "pusher", Images: []string{"https/../x"[:5], "team/"}})
	if !ada.May(Push, Image("team/a")) || ada.May(Push, Image("any")) {
		t.Errorf("%+v", ada)
	}
	if _, err := h.GrantRole(ctx, root, "ada", Grant{Role: "pusher", Images: []string{"lab"}}); err != nil {
		t.Fatal(err)
	}
	again, err := h.Find(ctx, "ada")
	h.must(err)
	if !again.May(Push, Image("lab")) || !again.May(Push, Image("team")) || again.Version == ada.Version {
		t.Errorf("%+v, before %+v", again, ada)
	}
	if _, err := h.GrantRole(ctx, root, "ada", Grant{Role: "pusher"}); err != nil {
		t.Fatal(err)
	}
	if s, _ := h.Find(ctx, "ada"); !s.May(Push, Object{}) || len(s.Grants) != 1 {
		t.Errorf("%+v", s)
	}
	if left, err := h.RevokeRole(ctx, root, "ada", "pusher"); err != nil || len(left) != 0 {
		t.Errorf("%v %v", left, err)
	}
	if s, _ := h.Find(ctx, "ada"); s.May(Pull, Image("x")) {
		t.Errorf("an account without roles may do something: %+v", s)
	}
	if _, err := h.RevokeRole(ctx, root, "ada", "pusher"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("taken twice: %v", err)
	}
	// The role of users without roles can be taken, and the first role that is given takes its place.
	if got, err := h.GrantRole(ctx, root, "old", Grant{Role: "reader"}); err != nil || len(got) != 1 {
		t.Errorf("%v %v", got, err)
	}
	if got, err := h.GrantRole(ctx, root, "group:ops", Grant{Role: "operator"}); err != nil || len(got) != 1 {
		t.Errorf("%v %v", got, err)
	}
	list, err := h.Accounts()
	h.must(err)
	if got := fmt.Sprint(list[0].Name, list[1].Name, list[1].Roles, list[2].Name); got !=
		"adaold[reader]group:ops" {
		t.Errorf("%s", got)
	}
	// The next user of that name has nothing of the first.
	h.must(h.RemoveUser(ctx, root, "old"))
	if _, err := h.Find(ctx, "old"); !errors.Is(err, ErrCredentials) {
		t.Errorf("a removed user: %v", err)
	}
	if s := h.add("old"); !s.May(Push, Object{}) {
		t.Errorf("%+v", s)
	}
	for _, g := range []Grant{{Role: "king"}, {Role: "operator", Images: []string{"a"}},
		{Role: "pusher", Images: []string{""}}, {Role: "pusher", Images: []string{"/a"}},
		{Role: "pusher", Files: []string{"a/../b"}}, {Role: "pusher", Images: []string{strings.Repeat("x", 256)}},
		{Role: "pusher", Images: strings.Split(strings.Repeat("a,", 16)+"a", ",")}} {
		if _, err := h.GrantRole(ctx, root, "ada", g); err == nil {
			t.Errorf("%+.80v is taken", g)
		}
	}
	for _, account := range []string{"nobody", "../x", "group:", "group:..", ""} {
		if _, err := h.GrantRole(ctx, root, account, Grant{Role: "reader"}); err == nil {
			t.Errorf("%q is taken", account)
		}
	}
}

// TestNobodyGivesMoreThanItHas walks granter × role: what an account may give is what it may do.
func TestNobodyGivesMoreThanItHas(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	wants := map[string]string{
		"admin":    "reader pusher importer approver auditor operator admin",
		"operator": "reader pusher importer auditor operator",
	}
	for by, want := range wants {
		s := h.add("by-"+by, Grant{Role: by})
		var given []string
		for _, r := range roles {
			name := by + "-" + r.Name
			err := h.AddUser(ctx, s, name, "correct horse", []Grant{{Role: r.Name}})
			switch {
			case err == nil:
				given = append(given, r.Name)
			case !errors.Is(err, ErrRefused) || !errors.Is(err, fs.ErrPermission):
				t.Errorf("%s gives %s: %v", by, r.Name, err)
			}
		}
		if got := strings.Join(given, " "); got != want {
			t.Errorf("%s gives %s, want %s", by, got, want)
		}
	}
	boss := h.add("boss", Grant{Role: "admin"})
	op := h.add("op", Grant{Role: "operator"})
	for what, err := range map[string]error{
		"password": h.SetPassword(ctx, op, "boss", "another horse"),
		"remove":   h.RemoveUser(ctx, op, "boss"),
		"grant":    second(h.GrantRole(ctx, op, "op", Grant{Role: "admin"})),
		"revoke":   second(h.RevokeRole(ctx, op, "boss", "admin")),
		"reader":   second(h.GrantRole(ctx, op, "boss", Grant{Role: "reader"})),
		"key":      third(h.CreateKey(ctx, op, "k", []Grant{{Role: "approver"}}, 0)),
	} {
		if !errors.Is(err, ErrRefused) {
			t.Errorf("%s by an operator: %v", what, err)
		}
	}
	_, _, err := h.CreateKey(ctx, boss, "boss-key", []Grant{{Role: "admin"}}, 0)
	h.must(err)
	if err := h.RevokeKey(ctx, op, "boss-key"); !errors.Is(err, ErrRefused) {
		t.Errorf("an operator revokes an administrator's key: %v", err)
	}
	// Users change their own password, with the password and not with a key.
	reader := h.add("reader", Grant{Role: "reader"})
	reader.How = "password"
	h.must(h.SetPassword(ctx, reader, "reader", "my own horse"))
	reader.How = "key"
	if err := h.SetPassword(ctx, reader, "reader", "my own horse"); !errors.Is(err, ErrRefused) {
		t.Errorf("with a key: %v", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.ContainsFunc(h.events, func(e string) bool { return strings.HasPrefix(e, "op manage role admin ") }) {
		t.Errorf("refusals are not reported: %q", h.events)
	}
}

func second[T any](_ T, err error) error        { return err }
func third[T, U any](_ T, _ U, err error) error { return err }

func from(ctx context.Context, addr string) context.Context {
	return tree.WithActor(ctx, tree.Actor{From: addr})
}

func TestKeys(t *testing.T) {
	h := open(t)
	ctx := from(t.Context(), "10.0.0.9")
	text, k, err := h.CreateKey(ctx, root, "ci", []Grant{{Role: "pusher", Images: []string{"team"}}}, time.Hour)
	h.must(err)
	if !strings.HasPrefix(text, "cmk_ci_") || k.Expires.Sub(k.Created) != time.Hour || k.By != "root" {
		t.Errorf("%q %+v", text, k)
	}
	data, err := h.tree.ReadFile("access/keys/ci")
	h.must(err)
	if strings.Contains(string(data), text[len(text)-64:]) {
		t.Error("the secret is in the tree")
	}
	for _, user := range []string{"ci", "anything", "ada", ""} {
		s, err := h.Authenticate(ctx, user, text)
		if err != nil || s.Name != "key/ci" || s.How != "key" || s.From != "10.0.0.9" ||
			!s.May(Push, Image("team/x")) || s.May(Push, Image("other")) {
			t.Errorf("as %q: %+v, %v", user, s, err)
		}
	}
	if s, err := h.Bearer(ctx, text); err != nil || s.ID != "key/ci" {
		t.Errorf("%+v %v", s, err)
	}
	for _, bad := range []string{"", "cmk_", text + "0", text[:len(text)-1], strings.Replace(text, "ci", "cj", 1),
		text[:len(text)-1] + map[bool]string{true: "1", false: "0"}[text[len(text)-1] == '0'],
		"cmk_../users/ada_" + strings.Repeat("0", 64)} {
		if s, err := h.Bearer(ctx, bad); !errors.Is(err, ErrCredentials) {
			t.Errorf("%q: %+v %v", bad, s, err)
		}
	}
	if _, _, err := h.CreateKey(ctx, root, "ci", []Grant{{Role: "reader"}}, 0); !errors.Is(err, fs.ErrExist) {
		t.Errorf("twice: %v", err)
	}
	for _, c := range []struct {
		name   string
		grants []Grant
		life   time.Duration
	}{{"A", []Grant{{Role: "reader"}}, 0}, {"", []Grant{{Role: "reader"}}, 0}, {"x_y", []Grant{{Role: "reader"}}, 0},
		{"x", nil, 0}, {"x", []Grant{{Role: "king"}}, 0}, {"x", []Grant{{Role: "reader"}}, -1},
		{"x", []Grant{{Role: "reader"}}, 2 * maxLife}} {
		if _, _, err := h.CreateKey(ctx, root, c.name, c.grants, c.life); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
	// The last use is recorded at most once an hour, and does not change the version, which would end tokens.
	before, err := h.Find(ctx, "key/ci")
	h.must(err)
	h.flush(ctx)
	h.flush(ctx)
	list, err := h.Keys()
	h.must(err)
	if !list[0].Used.Equal(h.now) {
		t.Errorf("used %v", list[0].Used)
	}
	if after, err := h.Find(ctx, "key/ci"); err != nil || after.Version != before.Version {
		t.Errorf("%v %v", after, err)
	}
	h.now = h.now.Add(59 * time.Minute)
	_, err = h.Bearer(ctx, text)
	h.must(err)
	h.flush(ctx)
	if list, _ = h.Keys(); !list[0].Used.Equal(h.now.Add(-59 * time.Minute)) {
		t.Errorf("used %v", list[0].Used)
	}
	h.now = h.now.Add(time.Minute)
	for what, err := range map[string]error{"the key": second(h.Bearer(ctx, text)),
		"a token of it": second(h.Find(ctx, "key/ci"))} {
		if !errors.Is(err, ErrCredentials) {
			t.Errorf("%s after its end: %v", what, err)
		}
	}
	h.must(h.RevokeKey(ctx, root, "ci"))
	if err := h.RevokeKey(ctx, root, "ci"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("revoked twice: %v", err)
	}
}

// TestLogins: the key of a login may do what its user may now, and ends with the user.
func TestLogins(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	h.add("ada", Grant{Role: "importer"})
	ada, err := h.Authenticate(ctx, "ada", "correct horse")
	h.must(err)
	text, k, err := h.Login(ctx, ada, 0)
	h.must(err)
	s, err := h.Bearer(ctx, text)
	if err != nil || s.Name != "ada" || s.How != "key" || !s.May(Import, Object{}) ||
		k.Expires.Sub(k.Created) != LoginLife {
		t.Errorf("%+v %v", s, err)
	}
	if _, _, err := h.Login(ctx, s, 0); err == nil {
		t.Error("a login prolongs itself")
	}
	if _, err := h.GrantRole(ctx, root, "ada", Grant{Role: "approver"}); err != nil {
		t.Fatal(err)
	}
	if s, err = h.Bearer(ctx, text); err != nil || !s.May(Approve, Object{}) {
		t.Errorf("%+v %v", s, err)
	}
	for range maxLogins + 3 {
		h.now = h.now.Add(time.Second)
		_, _, err := h.Login(ctx, ada, time.Hour)
		h.must(err)
	}
	if list, _ := h.Keys(); len(list) != maxLogins {
		t.Errorf("%d logins", len(list))
	}
	if _, err := h.Bearer(ctx, text); !errors.Is(err, ErrCredentials) {
		t.Errorf("the oldest login: %v", err)
	}
	text, k, err = h.Login(ctx, ada, 0)
	h.must(err)
	s, err = h.Bearer(ctx, text)
	h.must(err)
	h.must(h.RevokeKey(ctx, s, k.Name)) // logging out needs no role
	text, _, err = h.Login(ctx, ada, 0)
	h.must(err)
	h.must(h.RemoveUser(ctx, root, "ada"))
	if _, err := h.Bearer(ctx, text); !errors.Is(err, ErrCredentials) {
		t.Errorf("a login of a removed user: %v", err)
	}
	if list, _ := h.Keys(); len(list) != 0 {
		t.Errorf("%+v are left", list)
	}
}

// TestALoginIsOfOnePassword: what was issued before a user's password was changed, or before the user was removed, ends
// with that, also what is issued at the same moment; and nobody who is added later under the same name inherits it.
func TestALoginIsOfOnePassword(t *testing.T) {
	for what, c := range map[string]func(h *house, ada Subject) error{
		"an administrator sets a password": func(h *house, _ Subject) error {
			return h.SetPassword(h.t.Context(), root, "ada", "better horse")
		},
		"the user sets a password": func(h *house, ada Subject) error {
			return h.SetPassword(h.t.Context(), ada, "ada", "better horse")
		},
		"the user is removed": func(h *house, _ Subject) error { return h.RemoveUser(h.t.Context(), root, "ada") },
		"the user is removed and added again": func(h *house, _ Subject) error {
			err := h.RemoveUser(h.t.Context(), root, "ada")
			h.add("ada")
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			h := open(t)
			h.add("ada")
			h.add("bob")
			ada, err := h.Authenticate(t.Context(), "ada", "correct horse")
			h.must(err)
			bob, err := h.Authenticate(t.Context(), "bob", "correct horse")
			h.must(err)
			text, _, err := h.Login(t.Context(), ada, 0)
			h.must(err)
			other, _, err := h.Login(t.Context(), bob, 0)
			h.must(err)
			h.must(c(h, ada))
			if _, err := h.Bearer(t.Context(), text); !errors.Is(err, ErrCredentials) {
				t.Errorf("the login: %v", err)
			}
			if _, _, err := h.Login(t.Context(), ada, 0); !errors.Is(err, ErrCredentials) {
				t.Errorf("a login with the former password: %v", err)
			}
			if err := h.SetPassword(t.Context(), ada, "ada", "worse horse"); err == nil {
				t.Error("whoever had the former password sets another one")
			}
			if s, err := h.Find(t.Context(), "ada"); err == nil && s.Version == ada.Version {
				t.Error("the tokens stay valid")
			}
			_, err = h.Bearer(t.Context(), other)
			h.must(err)
		})
	}
	// A login that was stored after the removal had listed the logins.
	h := open(t)
	h.add("ada")
	ada, err := h.Authenticate(t.Context(), "ada", "correct horse")
	h.must(err)
	text, k, err := h.Login(t.Context(), ada, 0)
	h.must(err)
	data, err := h.tree.ReadFile(keysDir + "/" + k.Name)
	h.must(err)
	h.must(h.RemoveUser(t.Context(), root, "ada"))
	h.must(h.tree.Update(t.Context(), func(b tree.Batch) error { b.Put(keysDir+"/"+k.Name, data); return nil }))
	h.add("ada", Grant{Role: "admin"})
	if _, err := h.Bearer(t.Context(), text); !errors.Is(err, ErrCredentials) {
		t.Errorf("a login of another user of that name: %v", err)
	}
}

// TestBehind: a key that a key has created is that of who has created the first one.
func TestBehind(t *testing.T) {
	h := open(t)
	create := func(by Subject, name string) Subject {
		text, _, err := h.CreateKey(t.Context(), by, name, []Grant{{Role: "admin"}}, 0)
		h.must(err)
		s, err := h.Bearer(t.Context(), text)
		h.must(err)
		return s
	}
	one := create(h.add("ada", Grant{Role: "admin"}), "one")
	two := create(one, "two")
	create(two, "three")
	check := func(want map[string]string) {
		t.Helper()
		for actor, who := range want {
			if got := h.Behind(actor); got != who {
				t.Errorf("%s is of %q, want %q", actor, got, who)
			}
		}
	}
	check(map[string]string{"key/one": "ada", "key/two": "ada", "key/three": "ada", "ada": "", "": "", "key/none": "",
		"key/../x": "", "ldap/ada": ""})
	h.must(h.RevokeKey(t.Context(), root, "two"))
	check(map[string]string{"key/one": "ada", "key/three": ""})
}

// TestLoginsAndFailuresAreReported, each once in a while.
func TestLoginsAndFailuresAreReported(t *testing.T) {
	h := open(t)
	h.add("ada")
	ctx := from(t.Context(), "10.0.0.9")
	for range 3 {
		_, err := h.Authenticate(ctx, "ada", "correct horse")
		h.must(err)
	}
	h.Authenticate(ctx, "ada", "wrong horse")
	h.Authenticate(ctx, "ada", "cmk_x_"+strings.Repeat("0", 64))
	if got := strings.Join(h.events, "|"); got !=
		"ada login  |ada login  wrong user, password or API key|key/x login  wrong user, password or API key" {
		t.Errorf("%s", got)
	}
}

// TestMixedClusters: what a node of an earlier version would not apply is not stored while there may be one.
func TestMixedClusters(t *testing.T) {
	h := open(t)
	h.cfg.MayStore = func() bool { return false }
	h.add("ada") // as earlier versions do
	for what, err := range map[string]error{
		"role": second(h.GrantRole(t.Context(), root, "ada", Grant{Role: "reader"})),
		"user": h.AddUser(t.Context(), root, "bob", "correct horse", []Grant{{Role: "reader"}}),
		"key":  third(h.CreateKey(t.Context(), root, "k", []Grant{{Role: "reader"}}, 0)),
	} {
		if err == nil || !strings.Contains(err.Error(), "upgrade it first") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzKey(f *testing.F) {
	f.Add("cmk_ci_" + strings.Repeat("0", 64))
	f.Add("cmk_a_b_c")
	f.Fuzz(func(t *testing.T, text string) {
		name, secret, ok := splitKey(text)
		if ok && (checkKeyName(name) != nil || len(secret) != secretLen || strings.ContainsAny(name, "/._")) {
			t.Errorf("%q: %q", text, name)
		}
	})
}

func FuzzPrefix(f *testing.F) {
	f.Add("team/app", "team/app/x")
	f.Add("a/../b", "a/../b")
	f.Fuzz(func(t *testing.T, prefix, name string) {
		g := Grant{Role: "pusher", Images: []string{prefix}}
		if g.Check() != nil {
			return
		}
		p := g.Images[0]
		if g.gives(Push, Image(name)) != (!hasDots(name) && (name == p || strings.HasPrefix(name, p+"/"))) {
			t.Errorf("%q of %q", prefix, name)
		}
	})
}

// FuzzIdentify: whatever a client sends as its credentials, it is nobody, or has a key that is valid, or is refused,
// and the events about it are bounded.
func FuzzIdentify(f *testing.F) {
	users := user.New(treetest.New(f))
	users.Cost = bcrypt.MinCost
	store := treetest.New(f)
	var events []Event
	a := New(Config{Tree: store, Users: users, Event: func(e Event) { events = append(events, e) }})
	key, _, err := a.CreateKey(f.Context(), root, "ci", []Grant{{Role: "reader"}}, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("Bearer " + key)
	f.Add("Bearer " + key[:len(key)-1] + "g")
	f.Add("Basic " + base64.StdEncoding.EncodeToString([]byte("x:"+key)))
	f.Add("Basic " + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", 300)+":y")))
	f.Add("bearer cmk_../users/ada_" + strings.Repeat("0", 64))
	f.Add("Negotiate x")
	f.Fuzz(func(t *testing.T, header string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Authorization", header)
		if _, password, ok := r.BasicAuth(); ok {
			if _, _, ok := splitKey(password); !ok {
				return // a password, whose checks take turns and pauses
			}
		}
		events = nil
		s, err := a.Identify(r)
		switch {
		case err == nil && s.ID == "" && header == "":
		case err == nil && s.ID == "key/ci" && s.How == "key":
			if !bytes.Contains(bytes.ToLower(decoded(header)), []byte(key)) {
				t.Errorf("%q is the key", header)
			}
		case !errors.Is(err, ErrCredentials):
			t.Errorf("%q: %+v, %v", header, s, err)
		}
		for _, e := range events {
			if text := fmt.Sprint(e); len(text) > 500 || strings.Contains(text, key) {
				t.Errorf("%q: event %s", header, text)
			}
		}
	})
}

// decoded returns a header with what it has in base64.
func decoded(header string) []byte {
	_, value, _ := strings.Cut(header, " ")
	plain, _ := base64.StdEncoding.DecodeString(value)
	return append([]byte(header), plain...)
}

// rolesTable returns the table of roles and verbs for docs/security.md.
func rolesTable() string {
	var b strings.Builder
	b.WriteString("| may |")
	for _, r := range roles {
		fmt.Fprintf(&b, " %s |", r.Name)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(roles)) + "\n")
	for _, v := range verbs {
		fmt.Fprintf(&b, "| %s: %s |", v.verb, v.what)
		for _, r := range roles {
			mark := ""
			if slices.Contains(r.Verbs, v.verb) {
				mark = "yes"
			}
			fmt.Fprintf(&b, " %s |", mark)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// TestSessionsEnd: a login ends when its lifetime is over, also if that was shortened since, and when nobody uses it
// for the idle time. What a page fetches by itself is no use, and a use of an ended login does not revive it.
func TestSessionsEnd(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	h.add("ada", Grant{Role: "importer"})
	ada, err := h.Authenticate(ctx, "ada", "correct horse")
	h.must(err)
	lifetime, idle := LoginLife, time.Duration(0)
	h.cfg.Lifetime = func() time.Duration { return lifetime }
	h.cfg.Idle = func() time.Duration { return idle }
	other := New(h.cfg) // another node, which learns of uses from the tree
	login := func() (string, string) {
		t.Helper()
		text, k, err := h.Login(ctx, ada, 0)
		h.must(err)
		return text, k.Name
	}
	check := func(what string, valid bool, on *Access, ctx context.Context, text string) {
		t.Helper()
		if _, err := on.Bearer(ctx, text); (err == nil) != valid || !valid && !errors.Is(err, ErrCredentials) {
			t.Errorf("%s: %v", what, err)
		}
	}
	sleep := func(d time.Duration) { h.now = h.now.Add(d) }
	away := Unattended(ctx)

	text, _ := login()
	sleep(LoginLife - time.Second)
	check("idle is off", true, h.Access, ctx, text)
	sleep(time.Second)
	check("after its lifetime", false, h.Access, ctx, text)

	text, _ = login()
	sleep(31 * time.Minute)
	check("within its lifetime", true, h.Access, ctx, text)
	lifetime = 30 * time.Minute
	check("after a lifetime that was shortened", false, h.Access, ctx, text)
	text, _ = login()
	if s, err := h.Bearer(ctx, text); err != nil || !s.Expires.Equal(h.now.Add(lifetime)) {
		t.Errorf("%v %v", s.Expires, err)
	}
	lifetime = LoginLife

	idle = 10 * time.Minute
	text, name := login()
	for range 5 {
		sleep(idle - time.Second)
		check("used in time", true, h.Access, ctx, text)
	}
	sleep(idle - time.Second)
	check("a page that keeps itself new", true, h.Access, away, text)
	sleep(time.Second)
	check("only a page was fetched", false, h.Access, ctx, text)
	check("an ended login is used again", false, h.Access, ctx, text)
	if _, err := h.Find(ctx, "key/"+name); !errors.Is(err, ErrCredentials) {
		t.Errorf("a token of an idle login: %v", err)
	}

	text, name = login()
	sleep(idle - time.Second)
	if _, err := h.Find(ctx, "key/"+name); err != nil {
		t.Errorf("a token of a login: %v", err)
	}
	sleep(time.Minute)
	check("a token of it was used", true, h.Access, ctx, text)

	// Another node knows of the use what was recorded.
	text, _ = login()
	sleep(idle - time.Second)
	check("used here", true, h.Access, ctx, text)
	h.flush(ctx)
	sleep(idle/2 - time.Second)
	check("used here", true, h.Access, ctx, text)
	check("used there", true, other, away, text)
	h.flush(ctx)
	sleep(idle/2 + 2*time.Second)
	check("used on another node", true, other, away, text)
	sleep(idle)
	check("idle on both", false, other, ctx, text)

	// API keys are used by programs, whenever they run.
	key, _, err := h.CreateKey(ctx, root, "ci", []Grant{{Role: "reader"}}, 0)
	h.must(err)
	sleep(100 * idle)
	check("an API key", true, h.Access, ctx, key)
	h.flush(ctx)
	sleep(LoginLife + time.Second)
	h.flush(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.used) != 0 {
		t.Errorf("uses are kept: %v", h.used)
	}
}

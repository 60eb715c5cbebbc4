package directory

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"casemate/cluster/waittest"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { waittest.Main(m, goleak.Find) }

// open returns a directory that asks the fakes, at a time that tests set, and what it logs.
func open(t *testing.T, fakes ...*fake) (d *Directory, s *Settings, clock *time.Time, log *quiet) {
	s = &Settings{BindDN: reader, Member: "member"}
	var urls []string
	for _, f := range fakes {
		urls = append(urls, f.url())
		s.CA += f.CA
		f.set(func() { f.passwords[reader] = "bind secret" })
	}
	var err error
	if s.Servers, err = ParseServers(strings.Join(urls, " ")); err != nil {
		t.Fatal(err)
	}
	if s.Users, err = ParsePlace(userBase+"?uid??(objectClass=person)", "uid"); err != nil {
		t.Fatal(err)
	}
	if s.Groups, err = ParsePlace(inGroup, "cn"); err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	log = &quiet{}
	d = New(Config{Settings: func() Settings { return *s }, Now: func() time.Time { return now },
		Password: func() (string, error) { return "bind secret", nil },
		Log:      slog.New(slog.NewTextHandler(log, nil))})
	return d, s, &now, log
}

// An error of the directory that is not about the user.
func isDown(err error) bool {
	return errors.Is(err, syscall.EAGAIN) && !errors.Is(err, ErrUnknown) && !errors.Is(err, ErrDenied)
}

func TestPasswords(t *testing.T) {
	for _, secure := range []bool{true, false} {
		f := newFake(t, secure)
		d, _, _, log := open(t, f)
		ada := f.user("ada", "correct horse")
		f.user(`star*`, "star secret")
		f.group("builders", ada)
		for _, c := range []struct {
			name, password string
			want           error
		}{
			{"ada", "correct horse", nil},
			{"ADA", "correct horse", nil}, // directories ignore case
			{"ada", "wrong horse", ErrDenied},
			{"ada", "", ErrDenied},
			{"bob", "correct horse", ErrUnknown},
			{"", "correct horse", ErrUnknown},
			{"*", "correct horse", ErrUnknown},
			{"a*", "correct horse", ErrUnknown},
			{"star*", "star secret", nil},
			{"ada)(uid=*", "correct horse", ErrUnknown},
			{"*)(objectClass=*", "correct horse", ErrUnknown},
			{"ada)(|(uid=*", "correct horse", ErrUnknown},
			{`\61da`, "correct horse", ErrUnknown},
			{"ada\x00", "correct horse", ErrUnknown},
			{"ada\n", "correct horse", ErrUnknown},
			{strings.Repeat("a", maxName+1), "correct horse", ErrUnknown},
		} {
			if err := d.Check(t.Context(), c.name, c.password); !errors.Is(err, c.want) {
				t.Errorf("TLS from the start %v: %.40q with %q: %v, want %v", secure, c.name, c.password, err, c.want)
			}
		}
		u, err := d.Find(t.Context(), "ADA")
		if err != nil || u.Name != "ada" || u.DN != ada || !slices.Equal(u.GroupNames(), []string{"builders"}) {
			t.Errorf("%+v, %v", u, err)
		}
		if d.State() != nil || strings.Contains(log.String(), "horse") || strings.Contains(log.String(), "secret") {
			t.Errorf("%v %s", d.State(), log)
		}
	}
}

// What somebody types never changes the form of a filter.
func FuzzNames(f *testing.F) {
	for _, name := range []string{"ada", "*", "a)(b=c", "\\", "\\2a", "ä\u0000", "(((", " "} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if CheckName(name) != nil {
			return
		}
		p, err := ldap.CompileFilter("(uid=" + ldap.EscapeFilter(name) + ")")
		if err != nil || p.Tag != ldap.FilterEqualityMatch || p.Children[1].Data.String() != name {
			t.Errorf("%q: %v", name, err)
		}
	})
}

func TestGroups(t *testing.T) {
	f := newFake(t, true)
	d, s, _, _ := open(t, f)
	ada := f.user("ada", "correct horse")
	one := f.group("one", ada)
	two := f.group("two (spaces, too)", one)
	f.group("three", two, ada)
	f.group("others", "uid=bob,"+userBase)
	f.set(func() { // a circle
		f.entries[1].attributes["member"] = append(f.entries[1].attributes["member"], two)
	})
	last := f.group("level2", one)
	for i := 3; i < maxLevels+3; i++ {
		last = f.group(fmt.Sprint("level", i), last)
	}
	u, err := d.Look(t.Context(), "ada")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"level2", "level3", "level4", "level5", "level6", "level7", "level8", "one", "three",
		"two (spaces, too)"}
	if !slices.Equal(u.GroupNames(), want) || !u.Cut {
		t.Errorf("%q, cut %v", u.GroupNames(), u.Cut)
	}
	for _, g := range u.Groups {
		if g.Nested != (g.Name != "one" && g.Name != "three") {
			t.Errorf("%+v", g)
		}
	}
	t.Run("names of members (RFC 2307)", func(t *testing.T) {
		s.Member = "memberUid"
		f.set(func() {
			f.entries = append(f.entries, entry{"cn=unix," + inGroup,
				map[string][]string{"cn": {"unix"}, "memberuid": {"ada"}, "objectclass": {"posixGroup"}}})
		})
		if u, err := d.Look(t.Context(), "ada"); err != nil || !slices.Equal(u.GroupNames(), []string{"unix"}) {
			t.Errorf("%+v, %v", u, err)
		}
	})
	t.Run("too many", func(t *testing.T) {
		s.Member = "member"
		for i := range maxGroups {
			f.group(fmt.Sprint("more", i), ada)
		}
		if u, err := d.Look(t.Context(), "ada"); err != nil || len(u.Groups) != maxGroups || !u.Cut {
			t.Errorf("%d, cut %v, %v", len(u.Groups), u.Cut, err)
		}
	})
	t.Run("none are asked for", func(t *testing.T) {
		s.Groups = Place{}
		if u, err := d.Look(t.Context(), "ada"); err != nil || len(u.Groups) != 0 {
			t.Errorf("%+v, %v", u, err)
		}
	})
}

// Two entries of one name are nobody, and neither is an entry whose password would be anybody's.
func TestTwoOfOneName(t *testing.T) {
	f := newFake(t, true)
	d, _, _, _ := open(t, f)
	f.user("ada", "correct horse")
	f.set(func() {
		f.entries = append(f.entries, entry{"uid=ada,ou=former," + userBase,
			map[string][]string{"uid": {"ada"}, "objectclass": {"person"}}})
	})
	if err := d.Check(t.Context(), "ada", "correct horse"); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
}

// What is known is a minute old at most, and a quarter of an hour while the directory is down.
func TestFindRemembers(t *testing.T) {
	f := newFake(t, true)
	d, s, now, log := open(t, f)
	ada := f.user("ada", "correct horse")
	f.group("one", ada)
	find := func() ([]string, error) {
		u, err := d.Find(t.Context(), "ada")
		return u.GroupNames(), err
	}
	if err := d.Check(t.Context(), "ada", "correct horse"); err != nil {
		t.Fatal(err)
	}
	f.group("two", ada)
	*now = now.Add(fresh - time.Second)
	if groups, err := find(); err != nil || len(groups) != 1 {
		t.Errorf("before it is asked again: %q, %v", groups, err)
	}
	*now = now.Add(time.Second)
	if groups, err := find(); err != nil || len(groups) != 2 {
		t.Errorf("a minute later: %q, %v", groups, err)
	}
	f.set(func() { f.answer = func(ber.Tag) (int, bool) { return hangUp, true } })
	*now = now.Add(stale - time.Second)
	if groups, err := find(); err != nil || len(groups) != 2 || d.State() == nil {
		t.Errorf("while it is down: %q, %v, %v", groups, err, d.State())
	}
	*now = now.Add(time.Second)
	if _, err := find(); !isDown(err) {
		t.Errorf("when it is down for long: %v", err)
	}
	if n := strings.Count(log.String(), "cannot be asked"); n != 1 {
		t.Errorf("logged %d times: %s", n, log)
	}
	f.set(func() { f.answer = nil })
	*now = now.Add(maxPause)
	if groups, err := find(); err != nil || len(groups) != 2 || d.State() != nil ||
		!strings.Contains(log.String(), "answers again") {
		t.Errorf("when it is back: %q, %v, %v", groups, err, d.State())
	}
	f.set(func() { f.entries = f.entries[1:] })
	*now = now.Add(fresh)
	if _, err := find(); !errors.Is(err, ErrUnknown) {
		t.Errorf("removed: %v", err)
	}
	realm := d.Realm()
	s.Users.Filter = "(objectClass=*)"
	if d.Realm() == realm {
		t.Error("another filter is the same realm")
	}
	s.Servers = nil
	if _, err := find(); d.Realm() != "" || !errors.Is(err, ErrNone) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a directory: %v", err)
	}
}

// Faults of a directory are nobody's wrong password, and hold nobody up.
func TestFaults(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(op ber.Tag) (int, bool)
		says   string
		opens  bool // the circuit
	}{
		"hangs up":       {func(ber.Tag) (int, bool) { return hangUp, true }, "", true},
		"busy":           {only(ldap.ApplicationSearchRequest, ldap.LDAPResultBusy), "Busy", true},
		"referral":       {only(ldap.ApplicationSearchRequest, ldap.LDAPResultReferral), "referral", false},
		"cannot search":  {only(ldap.ApplicationSearchRequest, ldap.LDAPResultOther), "search ou=people", false},
		"bind DN denied": {only(ldap.ApplicationBindRequest, ldap.LDAPResultInvalidCredentials), "bind DN", true},
		"unknown code":   {only(ldap.ApplicationBindRequest, 77), "", true},
		"nonsense":       {only(ldap.ApplicationSearchRequest, nonsense), "not LDAP", true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, true)
			d, _, now, _ := open(t, f)
			f.user("ada", "correct horse")
			f.set(func() { f.answer = c.answer })
			if err := d.Check(t.Context(), "ada", "correct horse"); !isDown(err) ||
				!strings.Contains(err.Error(), c.says) {
				t.Error(err)
			}
			f.set(func() { f.answer = nil })
			err := d.Check(t.Context(), "ada", "correct horse")
			if c.opens != isDown(err) || !c.opens && err != nil {
				t.Errorf("the next question: %v", err)
			}
			*now = now.Add(firstPause)
			if err := d.Check(t.Context(), "ada", "correct horse"); err != nil {
				t.Errorf("after the pause: %v", err)
			}
		})
	}
}

func only(op ber.Tag, code int) func(ber.Tag) (int, bool) {
	return func(got ber.Tag) (int, bool) {
		return code, got == op
	}
}

// A password goes only to a server that proves who it is; the second server answers where the first does not.
func TestServers(t *testing.T) {
	f, other := newFake(t, false), newFake(t, true)
	d, s, now, _ := open(t, f)
	f.user("ada", "correct horse")
	s.CA = other.CA
	if err := d.Check(t.Context(), "ada", "correct horse"); !isDown(err) || f.binds != 0 {
		t.Errorf("with another CA: %v, %d binds", err, f.binds)
	}
	s.CA = f.CA
	f.set(func() { f.answer = only(ldap.ApplicationExtendedRequest, ldap.LDAPResultProtocolError) })
	*now = now.Add(maxPause)
	if err := d.Check(t.Context(), "ada", "correct horse"); !isDown(err) || f.binds != 0 ||
		!strings.Contains(err.Error(), "StartTLS") {
		t.Errorf("without StartTLS: %v, %d binds", err, f.binds)
	}
	f.set(func() { f.answer = nil })
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	if s.Servers, err = ParseServers("ldaps://" + dead.Addr().String() + " " + f.url()); err != nil {
		t.Fatal(err)
	}
	*now = now.Add(maxPause)
	if err := d.Check(t.Context(), "ada", "correct horse"); err != nil {
		t.Errorf("the second server: %v", err)
	}
	if server, err := d.Ping(t.Context()); err != nil || server != f.url() {
		t.Errorf("%s, %v", server, err)
	}
}

// A client that goes away says nothing about the directory, and many at once are a few connections.
func TestManyAtOnce(t *testing.T) {
	f := newFake(t, true)
	d, _, _, _ := open(t, f)
	f.user("ada", "correct horse")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Check(gone, "ada", "correct horse"); err == nil || d.State() != nil {
		t.Errorf("%v, %v", err, d.State())
	}
	var mu sync.Mutex
	var now, most int
	f.set(func() {
		f.answer = func(ber.Tag) (int, bool) {
			mu.Lock()
			defer mu.Unlock()
			now++ // until the answer of this request is sent, its connection is one of the few
			most = max(most, now)
			mu.Unlock()
			runtime.Gosched()
			mu.Lock()
			now--
			return 0, false
		}
	})
	var wg sync.WaitGroup
	for range 3 * maxSession {
		wg.Go(func() {
			if err := d.Check(t.Context(), "ada", "correct horse"); err != nil && !isDown(err) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most > maxSession || len(d.sessions) != 0 {
		t.Errorf("%d questions at a time, %d connections left", most, len(d.sessions))
	}
}

func TestSettings(t *testing.T) {
	for text, ok := range map[string]bool{
		"": true, "ldaps://dc1.example.com": true, "ldap://dc1 ldaps://[2001:db8::1]:636": true,
		"http://x": false, "ldap://": false, "dc1.example.com": false, "ldapi:///run/x": false,
		"ldap://u:p@x": false, "ldaps://x/dc=example": false, "ldaps://x?y": false,
		"ldaps://a ldaps://b ldaps://c ldaps://d ldaps://e": false,
	} {
		if _, err := ParseServers(text); (err == nil) != ok || err != nil && !strings.HasPrefix(err.Error(), "must ") {
			t.Errorf("%q: %v", text, err)
		}
	}
	for text, want := range map[string]string{
		"":                     "",
		"dc=x":                 "dc=x?uid?sub?(objectClass=*)",
		"dc=x?mail?one":        "dc=x?mail?one?(objectClass=*)",
		"dc=x???(&(a=b)(c=?))": "dc=x?uid?sub?(&(a=b)(c=?))",
		"?uid":                 "no", "nonsense": "no", "dc=x?a b": "no", "dc=x?uid?base": "no",
		"dc=x?uid?sub?(a":  "no",
		"dc=x?uid?sub?a=b": "no", "dc=x?uid,cn": "no", "dc=x?uid:dn:": "no",
	} {
		p, err := ParsePlace(text, "uid")
		if (err != nil) != (want == "no") || err == nil && p.String() != want {
			t.Errorf("%q: %q, %v", text, p.String(), err)
		}
		if again, err := ParsePlace(p.String(), "uid"); err != nil || again != p {
			t.Errorf("%q: %+v, %v", p.String(), again, err)
		}
	}
	for text, ok := range map[string]bool{"member": true, "member:1.2.840.113556.1.4.1941:": true, "": false,
		"a)(b": false, "a b": false, "member:dn": false} {
		if err := CheckMember(text); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
	if CheckDN("cn=a,dc=b") != nil || CheckDN("") != nil || CheckDN("a") == nil ||
		CheckCA("") != nil || CheckCA("x") == nil {
		t.Error("DN or CA")
	}
}

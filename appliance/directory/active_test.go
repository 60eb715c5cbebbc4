package directory

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
)

// What Active Directory does in another way than OpenLDAP: names with an @, DNs with escaped characters, groups in
// groups by a matching rule, groups of thousands, answers that end at a limit, and references to other domains beside
// the entries (the fake always sends one).
func TestActiveDirectory(t *testing.T) {
	f := newFake(t, true)
	d, s, _, _ := open(t, f)
	const domain = "dc=corp,dc=example"
	var err error
	s.Users, err = ParsePlace(domain+"?userPrincipalName?sub?(&(objectClass=user)"+
		"(!(userAccountControl:1.2.840.113556.1.4.803:=2)))", "uid")
	if err != nil {
		t.Fatal(err)
	}
	if s.Groups, err = ParsePlace(domain+"?cn?sub?(objectClass=group)", "cn"); err != nil {
		t.Fatal(err)
	}
	s.Member = "member:" + inChain + ":"
	add := func(dn, class string, attributes map[string][]string) string {
		attributes["objectclass"] = []string{class}
		f.set(func() { f.entries = append(f.entries, entry{dn + "," + domain, attributes}) })
		return dn + "," + domain
	}
	person := func(rdn, principal, password, control string) string {
		dn := add(rdn+",OU=People", "user", map[string][]string{"userprincipalname": {principal},
			"useraccountcontrol": {control}})
		f.set(func() { f.passwords[strings.ToLower(dn)] = password })
		return dn
	}
	group := func(name string, members ...string) string {
		return add("CN="+ldap.EscapeDN(name)+",OU=Groups", "group",
			map[string][]string{"cn": {name}, "member": members})
	}
	ada := person(`CN=Lovelace\, Ada \"Countess\" \#1 (UK)*\\`, "ada@corp.example", "correct horse", "512")
	person("CN=Bob", "bob@corp.example", "correct horse", "514")
	one := group("App, Admins+1", ada)
	two := group("two", one)
	group("three", two)
	group("others", "CN=Bob,OU=People,"+domain)
	large := make([]string, 5000) // more than AD returns of an attribute: nobody asks for the members
	for i := range large {
		large[i] = fmt.Sprintf("CN=u%d,OU=People,%s", i, domain)
	}
	group("everybody", append(large, ada)...)
	if err := d.Check(t.Context(), "ada@corp.example", "correct horse"); err != nil {
		t.Fatal(err)
	}
	want := []string{"App, Admins+1", "everybody", "three", "two"}
	f.set(func() { f.searches = nil })
	u, err := d.Look(t.Context(), "ADA@corp.example")
	if err != nil || u.DN != ada || u.Name != "ada@corp.example" || !slices.Equal(u.GroupNames(), want) || u.Cut {
		t.Errorf("%+v, %v", u, err)
	}
	if len(f.searches) != 2 || strings.Count(strings.Join(f.searches, ""), inChain) != 1 {
		t.Errorf("the directory was asked %q", f.searches)
	}
	s.Member = "member" // without the rule the groups are the same
	if u, err := d.Look(t.Context(), "ada@corp.example"); err != nil || !slices.Equal(u.GroupNames(), want) {
		t.Errorf("%+v, %v", u, err)
	}
	s.Member = "member:" + inChain + ":"
	if err := d.Check(t.Context(), "bob@corp.example", "correct horse"); !errors.Is(err, ErrUnknown) {
		t.Errorf("an account that the filter leaves out: %v", err)
	}
	for i := range maxGroups { // the answer ends at the limit
		group(fmt.Sprint("more", i), ada)
	}
	if u, err := d.Look(t.Context(), "ada@corp.example"); err != nil || len(u.Groups) != maxGroups || !u.Cut {
		t.Errorf("%d groups, cut %v, %v", len(u.Groups), u.Cut, err)
	}
	// A base that another domain has: its server is not asked, and the error says what to do.
	f.set(func() { f.answer = only(ldap.ApplicationSearchRequest, ldap.LDAPResultReferral) })
	if err := d.Check(t.Context(), "ada@corp.example", "correct horse"); !isDown(err) ||
		!strings.Contains(err.Error(), "name that server in ldap.url") {
		t.Errorf("a referral: %v", err)
	}
	// What AD answers to a right password of an account that is locked, expired or must change it is no other answer.
	f.set(func() {
		binds := 0
		f.answer = func(op ber.Tag) (int, bool) {
			if op == ldap.ApplicationBindRequest {
				binds++
			}
			return ldap.LDAPResultInvalidCredentials, op == ldap.ApplicationBindRequest && binds == 2
		}
	})
	if err := d.Check(t.Context(), "ada@corp.example", "correct horse"); !errors.Is(err, ErrDenied) {
		t.Errorf("a locked account: %v", err)
	}
}

// An account that is disabled in the directory is unknown a minute later, also for logins that go on with a token or a
// key and never send the password again. ldap.users need not leave such accounts out.
func TestDisabledAccounts(t *testing.T) {
	fileTime := func(at time.Time) string { return fmt.Sprint((at.Unix() + sinceFileTime) * 1e7) }
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		attribute, value string
		disabled         bool
	}{
		{"userAccountControl", "512", false},
		{"userAccountControl", "514", true},
		{"userAccountControl", "66050", true},
		{"userAccountControl", "x", false},
		{"accountExpires", "0", false},
		{"accountExpires", "9223372036854775807", false},
		{"accountExpires", fileTime(start.Add(-time.Hour)), true},
		{"accountExpires", fileTime(start.Add(fresh)), true},
		{"accountExpires", fileTime(start.Add(time.Hour)), false},
		{"nsAccountLock", "TRUE", true},
		{"nsAccountLock", "false", false},
		{"pwdAccountLockedTime", "000001010000Z", true},
		{"pwdAccountLockedTime", "20260102030405Z", false}, // for a while, by wrong passwords of anybody
	} {
		f := newFake(t, true)
		d, _, now, _ := open(t, f)
		f.user("ada", "correct horse")
		if err := d.Check(t.Context(), "ada", "correct horse"); err != nil {
			t.Fatal(err)
		}
		f.set(func() { f.entries[0].attributes[strings.ToLower(c.attribute)] = []string{c.value} })
		*now = now.Add(fresh)
		if _, err := d.Find(t.Context(), "ada"); errors.Is(err, ErrUnknown) != c.disabled ||
			err != nil && !c.disabled {
			t.Errorf("%s %s: %v, disabled: %v", c.attribute, c.value, err, c.disabled)
		}
		if err := d.Check(t.Context(), "ada", "correct horse"); (err != nil) != c.disabled {
			t.Errorf("%s %s: %v with the password", c.attribute, c.value, err)
		}
	}
}

// An entry with several names has one account, whichever name is typed and in whichever order the directory has them:
// with two, somebody could approve an import of their own.
func TestOneAccountOfSeveralNames(t *testing.T) {
	for _, c := range []struct {
		rdn, attribute string
		values         []string
		want           string
	}{
		{"uid=ada", "uid", []string{"lovelace", "ada", "Countess"}, "ada"},
		{"uid=ADA", "uid", []string{"lovelace", "ada"}, "ada"},
		{"cn=Ada Lovelace", "uid", []string{"lovelace", "ada", "Countess"}, "ada"},
		{"cn=ada+uid=lovelace", "uid", []string{"ada", "lovelace"}, "lovelace"},
		{"cn=ada", "uid", []string{"Bea", "bea", "carl"}, "Bea"},
	} {
		f := newFake(t, true)
		d, _, _, _ := open(t, f)
		dn := c.rdn + "," + userBase
		for range len(c.values) {
			c.values = append(c.values[1:], c.values[0])
			f.set(func() {
				f.entries = []entry{{dn, map[string][]string{"uid": slices.Clone(c.values), "objectclass": {"person"}}}}
				f.passwords[strings.ToLower(dn)] = "correct horse"
			})
			for _, typed := range append(c.values, strings.ToUpper(c.values[0])) {
				u, err := d.Look(t.Context(), typed)
				if err != nil || u.Name != c.want {
					t.Errorf("%s, typed %s: %q, %v, want %s", c.rdn, typed, u.Name, err, c.want)
				}
			}
		}
	}
	for _, name := range []string{"ad\u200ba", "\u202eada", "ada\u00ad", "\ufeffada"} {
		if CheckName(name) == nil {
			t.Errorf("%+q looks like another name", name)
		}
	}
}

package state

import (
	"fmt"
	"maps"
	"testing"
)

func TestClaims(t *testing.T) {
	l := newLog(t)
	l.blob("one", "two", "four")
	l.must(&Link{Name: "n", Digest: dg("one"), Claim: "jan"}, &Put{Name: "only-jan", Claim: "jan"})
	l.must(&Link{Name: "n", Digest: dg("two"), Claim: "feb", Holds: []Digest{dg("four")}})
	l.must(&Put{Name: "n", Data: []byte("hand")})
	see := func(want string, claims string) {
		t.Helper()
		if got := names(l.s); got != want {
			t.Errorf("seen %q, want %q", got, want)
		}
		var ids []string
		for _, e := range l.s.ClaimsOf("n") {
			ids = append(ids, e.Claim)
		}
		if got := fmt.Sprintf("%q", ids); got != claims {
			t.Errorf("claims %s, want %s", got, claims)
		}
	}
	see("n=hand only-jan=", `["" "feb" "jan"]`)
	version := func() uint64 { e, _ := l.s.Get("n"); return e.Version }
	hand := version()
	// Hidden claims keep their blobs.
	if r := l.must(&Collect{Digests: []Digest{dg("one"), dg("two"), dg("four")}}); r.Collected != nil {
		t.Errorf("collected %v", r.Collected)
	}
	// Dropping a hidden claim is not seen; the version stays.
	before := l.s.Clone()
	if r := l.must(&DropClaims{Claim: "feb"}); r.Changed != nil || version() != hand {
		t.Errorf("told of %v", r.Changed)
	}
	see("n=hand only-jan=", `["" "jan"]`)
	if n := len(before.ClaimsOf("n")); n != 3 {
		t.Errorf("a clone made before lost a claim: %d", n)
	}
	if r := l.must(&Collect{Digests: []Digest{dg("one"), dg("two"), dg("four")}}); len(r.Collected) != 2 {
		t.Errorf("collected %v", r.Collected)
	}
	// The same claim again replaces its own and becomes the newest.
	l.must(&Put{Name: "n", Data: []byte("again"), Claim: "jan"})
	see("n=again only-jan=", `["jan" ""]`)
	// Dropping the one that is seen uncovers the next, at the version it had.
	if r := l.must(&DropClaims{Claim: "jan"}); fmt.Sprint(r.Changed) != "[n only-jan]" || version() != hand {
		t.Errorf("told of %v, version %d", r.Changed, version())
	}
	see("n=hand", `[""]`)
	l.must(&DropClaims{Claim: "jan"}) // nothing left of it
	l.must(&Put{Name: "n", Claim: "mar"}, &Put{Name: "m", Claim: "mar"}, &Put{Name: "n", Claim: "apr"})
	// By hand a name goes with all of its claims.
	l.must(&Remove{Name: "n"})
	if got := maps.Collect(l.s.Claims()); !maps.Equal(got, map[string]int{"mar": 1}) {
		t.Errorf("claims left: %v", got)
	}
}

func TestClaimed(t *testing.T) {
	l := newLog(t)
	l.blob("one")
	l.must(&Put{Name: "a", Data: []byte("1"), Claim: "i"}, &Put{Name: "b", Claim: "j"},
		&Put{Name: "c", Data: []byte("2"), Claim: "i"}, &LinkWeak{Name: "d", Digest: dg("one"), Claim: "i"})
	l.must(&Put{Name: "a", Data: []byte("over"), Claim: "j"})
	list := func(claim string) (got []string) {
		for n, e := range l.s.Claimed(claim) {
			got = append(got, n+"="+what(e))
		}
		return got
	}
	if got := fmt.Sprint(list("i")); got != "[a=1 c=2 d=<one>]" {
		t.Error(got)
	}
	l.must(&Collect{Digests: []Digest{dg("one")}})
	if got := fmt.Sprint(list("i"), list("nobody")); got != "[a=1 c=2] []" {
		t.Error(got)
	}
	for range l.s.Claimed("i") {
		break
	}
}

// A weak link whose blob is gone does not hide the claim behind it.
func TestStaleClaimUncoversTheNext(t *testing.T) {
	l := newLog(t)
	l.blob("one")
	l.must(&Put{Name: "n", Data: []byte("old"), Claim: "i"})
	l.must(&LinkWeak{Name: "n", Digest: dg("one")})
	if got := names(l.s); got != "n=<one>" {
		t.Error(got)
	}
	l.must(&Collect{Digests: []Digest{dg("one")}})
	if got := names(l.s); got != "n=old" {
		t.Error(got)
	}
	l.refused(CodeConflict, &Put{Name: "n/x"})
	l.must(&Sweep{Limit: 10})
	if got := names(l.s); got != "n=old" || l.s.Stats().Stale != 0 {
		t.Error(got, l.s.Stats())
	}
}

func TestClaimsOfANameAreBounded(t *testing.T) {
	s := New()
	apply := func(claim string) error {
		r := s.Apply(s.Index()+1, unchecked(t, &Put{Name: "n", Claim: claim}))
		if r.Fatal != nil {
			t.Fatal(r.Fatal)
		}
		return r.Err
	}
	for i := range MaxClaims {
		if err := apply(fmt.Sprint("import", i)); err != nil {
			t.Fatal(err)
		}
	}
	e, ok := apply("one too many").(*Error)
	if !ok || e.Code != CodeLimit {
		t.Errorf("got %v", e)
	}
	if err := apply("import7"); err != nil {
		t.Errorf("a claim that it has already: %v", err)
	}
	if err := audit(s); err != nil {
		t.Error(err)
	}
}

package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestDigest(t *testing.T) {
	for _, text := range []string{"sha256:" + strings.Repeat("0f", 32), "sha512:" + strings.Repeat("a9", 64)} {
		d, err := ParseDigest(text)
		if err != nil || d.String() != text || !d.valid() || !digests(d+d).valid() {
			t.Errorf("%s: %s, %v", text, d, err)
		}
	}
	for _, text := range []string{"", "sha256:", "sha256:" + strings.Repeat("0F", 32),
		"sha256:" + strings.Repeat("0g", 32), "sha256:" + strings.Repeat("0", 63),
		"sha512:" + strings.Repeat("0f", 32), "md5:" + strings.Repeat("0f", 16), strings.Repeat("0f", 32),
		"sha256:" + strings.Repeat("0f", 33)} {
		if d, err := ParseDigest(text); err == nil {
			t.Errorf("%q was read as %s", text, d)
		}
	}
	for _, d := range []Digest{"", "\x01", "\x03", Digest("\x01" + strings.Repeat("x", 31)),
		Digest("\x02" + strings.Repeat("x", 32))} {
		if d.valid() {
			t.Errorf("%q is valid", string(d))
		}
		if text := d.String(); strings.HasPrefix(text, "sha") {
			t.Errorf("%q is written %s", string(d), text)
		}
		if d != "" && digests(d).valid() {
			t.Errorf("%q is a valid list", string(d))
		}
	}
}

func TestAddBlob(t *testing.T) {
	l := newLog(t)
	r := l.must(&AddBlob{Digest: dg("one"), Size: 7, Until: 50})
	if len(r.Added) != 1 || r.Added[0] != dg("one") {
		t.Errorf("added %v", r.Added)
	}
	r = l.must(&AddBlob{Digest: dg("one"), Size: 7, Until: 40})
	if b, _ := l.s.Blob(dg("one")); r.Added != nil || b.Born != 1 || b.Until.UnixNano() != 50 || b.Size != 7 {
		t.Errorf("again: added %v, %+v", r.Added, b)
	}
	l.must(&AddBlob{Digest: dg("one"), Size: 7, Until: 60})
	if b, _ := l.s.Blob(dg("one")); b.Until.UnixNano() != 60 {
		t.Errorf("the pin was not renewed: %+v", b)
	}
	l.refused(CodeInvalid, &AddBlob{Digest: dg("one"), Size: 8})
	l.refused(CodeInvalid, &AddBlob{Digest: dg("two"), Size: 8, Confirmed: 6})
	l.must(&AddBlob{Digest: dg("two"), Size: 1<<63 - 8})
	l.refused(CodeLimit, &AddBlob{Digest: dg("three"), Size: 8})
	n := 0
	for d := range l.s.Blobs("") {
		for after := range l.s.Blobs(d) {
			if after <= d {
				t.Error("blobs are out of order")
			}
		}
		n++
	}
	if n != 2 || l.s.Stats().Bytes != 1<<63-1 {
		t.Errorf("%d blobs, %+v", n, l.s.Stats())
	}
}

func TestPinsOnlyExpireByCommand(t *testing.T) {
	l := newLog(t)
	l.must(&AddBlob{Digest: dg("one"), Until: 20}, &AddBlob{Digest: dg("two"), Until: 10}, &AddBlob{Digest: dg("four")})
	// The command's own time is far behind the pins and changes nothing.
	if r := l.must(&Collect{Digests: []Digest{dg("one"), dg("two")}}); r.Collected != nil {
		t.Errorf("collected %v", r.Collected)
	}
	var got []string
	for d, until := range l.s.Pins() {
		got = append(got, fmt.Sprint(d == dg("one"), until.UnixNano()))
	}
	if fmt.Sprint(got) != "[false 10 true 20]" {
		t.Error(got)
	}
	l.must(&Expire{Now: 9})
	l.must(&Expire{Now: 10})
	if r := l.must(&Collect{Digests: []Digest{dg("one"), dg("two")}}); fmt.Sprint(r.Collected) != fmt.Sprint(
		[]Digest{dg("two")}) {
		t.Errorf("collected %v", r.Collected)
	}
	if b, _ := l.s.Blob(dg("four")); !b.Collectable() {
		t.Error("a blob that was never pinned is kept")
	}
}

func TestWeakLinks(t *testing.T) {
	l := newLog(t)
	l.blob("one", "two")
	l.must(&LinkWeak{Name: "r/l1", Digest: dg("one"), Until: 10}, &LinkWeak{Name: "r/l2", Digest: dg("one"), Until: 30},
		&Link{Name: "q/m", Digest: dg("two")})
	version := l.s.Index()
	if b, _ := l.s.Blob(dg("one")); b.Strong != 0 || b.Weak != 2 || b.Until.UnixNano() != 30 {
		t.Errorf("%+v", b)
	}
	if r := l.must(&Collect{Digests: []Digest{dg("one")}}); r.Collected != nil {
		t.Error("collected under a pin")
	}
	l.must(&Expire{Now: 30})
	l.must(&Collect{Digests: []Digest{dg("one")}})
	gone := func(when string) {
		t.Helper()
		if _, ok := l.s.Get("r/l1"); ok || names(l.s) != "q/m=<two>" || l.s.IsDir("r") || l.s.ClaimsOf("r/l1") != nil {
			t.Errorf("%s: the weak link is seen: %s", when, names(l.s))
		}
		for d := range l.s.ReadDir(".", "") {
			if d.Name == "r" {
				t.Errorf("%s: its directory is seen", when)
			}
		}
		l.must(&Expect{Name: "r/l1", Version: 0})
		l.refused(CodeVersion, &Expect{Name: "r/l1", Version: version})
	}
	gone("collected")
	l.must(&AddBlob{Digest: dg("one"), Size: 3, Confirmed: l.s.Index()})
	gone("the same bytes came back")
	if st := l.s.Stats(); st.Weak != 2 || st.Stale != 2 {
		t.Errorf("%+v", st)
	}
	// A file may stand where only stale links stood, above and below.
	l.must(&Put{Name: "r"})
	if st := l.s.Stats(); st.Stale != 0 || st.Entries != 2 {
		t.Errorf("what stood in the way was not swept: %+v", st)
	}
	l.must(&LinkWeak{Name: "s", Digest: dg("one")})
	l.must(&Collect{Digests: []Digest{dg("one")}})
	l.must(&Put{Name: "s/t/u"})
	if got := names(l.s); got != "q/m=<two> r= s/t/u=" {
		t.Error(got)
	}
	// The link made again is a new one.
	l.must(&AddBlob{Digest: dg("one"), Size: 3, Confirmed: l.s.Index()}, &LinkWeak{Name: "v", Digest: dg("one")})
	if e, ok := l.s.Get("v"); !ok || !e.Weak || e.Size != 3 {
		t.Errorf("%+v", e)
	}
	l.refused(CodeNoBlob, &LinkWeak{Name: "v", Digest: dg("five")})
}

func TestRemoveOfStaleLinksTellsNobody(t *testing.T) {
	l := newLog(t)
	l.blob("one")
	l.must(&LinkWeak{Name: "r/l", Digest: dg("one")})
	l.must(&Collect{Digests: []Digest{dg("one")}})
	if r := l.must(&Remove{Name: "r"}); r.Changed != nil || l.s.Stats().Entries != 0 {
		t.Errorf("%v, %+v", r.Changed, l.s.Stats())
	}
}

func TestSweep(t *testing.T) {
	l := newLog(t)
	l.blob("one", "two")
	var ops []Op
	for i := range 100 {
		ops = append(ops, &LinkWeak{Name: fmt.Sprintf("n/%02d", i), Digest: dg(seeds[i%2])})
	}
	l.must(append(ops, &Put{Name: "n/50", Data: []byte("hand"), Claim: "i"})...)
	if r := l.must(&Sweep{Limit: 1000}); r.Changed != nil {
		t.Errorf("swept what lives: %v", r.Changed)
	}
	l.must(&Collect{Digests: []Digest{dg("one")}})
	told := map[string]bool{}
	rounds := 0
	for ; l.s.Stats().Stale > 0; rounds++ {
		if rounds > 20 {
			t.Fatalf("still %+v", l.s.Stats())
		}
		before := names(l.s)
		for _, n := range l.must(&Sweep{Limit: 10}).Changed {
			told[n] = true
		}
		if names(l.s) != before {
			t.Fatal("a sweep changed what is seen")
		}
	}
	if rounds != 10 || len(told) != 50 || l.s.Stats().Entries != 51 {
		t.Errorf("%d rounds told of %d names and left %+v", rounds, len(told), l.s.Stats())
	}
	if e, _ := l.s.Get("n/50"); e.Data != "hand" || len(l.s.ClaimsOf("n/50")) != 1 {
		t.Errorf("a living claim beside a stale link: %+v", e)
	}
	l.must(&Sweep{}) // nothing to do, and no limit
}

func TestTombstones(t *testing.T) {
	l := newLog(t)
	l.blob("one")
	confirmed := l.s.Index()
	collect := l.must(&Collect{Digests: []Digest{dg("one"), dg("two")}})
	if len(collect.Collected) != 2 {
		t.Fatalf("collected %v: an orphan on disk counts too", collect.Collected)
	}
	for _, d := range []Digest{dg("one"), dg("two")} {
		if l.s.Tombstone(d) != collect.Index {
			t.Errorf("tombstone of %s at %d", d, l.s.Tombstone(d))
		}
		e := l.refused(CodeCollected, &AddBlob{Digest: d, Confirmed: confirmed})
		if !errors.Is(e, ErrCollected) {
			t.Error(e)
		}
		l.must(&AddBlob{Digest: d, Size: 3, Confirmed: collect.Index})
		if l.s.Tombstone(d) != 0 {
			t.Error("a living blob has a tombstone")
		}
		// A confirmation from before the collect adds nothing to a blob that is known, and harms nothing.
		l.must(&AddBlob{Digest: d, Size: 3, Confirmed: confirmed, Until: 5})
	}
}

func TestTombstonesAreBounded(t *testing.T) {
	l := newLog(t)
	numbered := func(i int) Digest {
		return Digest("\x01" + string(binary.BigEndian.AppendUint64(make([]byte, 24), uint64(i))))
	}
	i := 0
	collect := func(n int) uint64 {
		var o Collect
		for range n {
			o.Digests = append(o.Digests, numbered(i))
			i++
		}
		return l.must(&o).Index
	}
	for range MaxTombstones / MaxCollect {
		collect(MaxCollect)
	}
	if l.s.Floor() != 0 || l.s.Stats().Tombstones != MaxTombstones {
		t.Fatalf("floor %d, %+v", l.s.Floor(), l.s.Stats())
	}
	l.must(&AddBlob{Digest: dg("one"), Confirmed: 1}) // never collected, nothing forgotten: an old confirmation is good
	last := collect(1)
	floor := l.s.Floor()
	if n := l.s.Stats().Tombstones; floor == 0 || floor >= last || n > MaxTombstones/2+MaxCollect {
		t.Fatalf("floor %d, %d tombstones", floor, n)
	}
	// What was forgotten may have been any digest, so every confirmation from below the floor is refused.
	l.refused(CodeCollected, &AddBlob{Digest: numbered(0), Confirmed: floor - 1})
	l.refused(CodeCollected, &AddBlob{Digest: dg("two"), Confirmed: floor - 1})
	l.must(&AddBlob{Digest: dg("two"), Confirmed: floor})
	l.must(&AddBlob{Digest: numbered(0), Confirmed: floor})
	l.refused(CodeCollected, &AddBlob{Digest: numbered(i - 1), Confirmed: last - 1})
}

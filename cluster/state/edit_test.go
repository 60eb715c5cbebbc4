package state

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"
)

func TestNames(t *testing.T) {
	long := strings.Repeat("e", MaxElement)
	for name, ok := range map[string]bool{
		"a": true, "a/b": true, "é/ü": true, "a b": true, "a?x=y&z=%2F..": true, "a\x01": true, "...": true, long: true,
		strings.Repeat(long+"/", 3) + strings.Repeat("e", MaxElement-3): true,
		"": false, ".": false, "/": false, "/a": false, "a/": false, "a//b": false, "..": false, "a/../b": false,
		"a/./b": false, "./a": false,
		"a\x00b": false, "\x00": false, "a\xffb": false, long + "e": false, "a/" + long + "e": false,
		strings.Repeat("e/", MaxName/2) + "e": false,
	} {
		if validName(name) != ok {
			t.Errorf("validName(%.40q…, %d bytes) is %v", name, len(name), !ok)
		}
		for _, op := range []Op{&Put{Name: name}, &Link{Name: name, Digest: dg("one")},
			&LinkWeak{Name: name, Digest: dg("one")}, &Remove{Name: name}, &Expect{Name: name}} {
			err := op.check()
			if want := ok || name == "." && (op.kind() == kindRemove || op.kind() == kindExpect); (err == nil) != want {
				t.Errorf("%T of %.40q: %v", op, name, err)
			}
			if err != nil && !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%T of %.40q: %v is not fs.ErrInvalid", op, name, err)
			}
			if err != nil && len(err.Error()) > 600 {
				t.Errorf("%T: the error has %d bytes", op, len(err.Error()))
			}
		}
	}
}

func TestIDs(t *testing.T) {
	for id, ok := range map[string]bool{
		"a": true, "import 2026/11": true, strings.Repeat("x", MaxID): true,
		"": false, strings.Repeat("x", MaxID+1): false, "a\x00": false, "a\n": false, "\xff": false,
	} {
		if ValidID(id) != ok {
			t.Errorf("ValidID(%.20q) is %v", id, !ok)
		}
	}
}

func TestPut(t *testing.T) {
	l := newLog(t)
	l.must(&Put{Name: "a/b", Data: []byte("x")})
	at := l.now
	l.must(&Put{Name: "other"})
	e, ok := l.s.Get("a/b")
	if want := (Entry{Version: 1, ModTime: time.Unix(0, at).UTC(), Data: "x", Size: 1}); !ok || e != want {
		t.Errorf("got %+v, want %+v", e, want)
	}
	l.must(&Put{Name: "a/b", Data: make([]byte, MaxRecord)})
	if e, _ := l.s.Get("a/b"); e.Version != 3 || e.Size != MaxRecord {
		t.Errorf("rewritten: version %d, %d bytes", e.Version, e.Size)
	}
	// An edit that Encode would refuse is refused, not fatal, when it is in the log nevertheless.
	for _, op := range []Op{&Put{Name: "a", Data: make([]byte, MaxRecord+1)}, &Put{Name: "../a"}, &Put{Name: "a\xff"},
		&Put{Name: "b", Claim: "\x00"},
		&Link{Name: "b", Digest: "\x01short"}, &Link{Name: "b", Digest: dg("one"), Holds: []Digest{"\x03"}},
		&LinkWeak{Name: "b"}, &AddBlob{Digest: dg("one"), Size: -1},
		&AddBlob{}, &Collect{Digests: []Digest{""}}, &Publish{}, &DropStage{ID: "\x00"}, &DropClaims{}, &Stage{},
		&Stage{ID: "s", Ops: []Op{&Expire{}}}} {
		if _, err := (&Command{Ops: []Op{op}}).Encode(); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("encode %+v: %v", op, err)
		}
		if r := l.s.Clone().Apply(9, unchecked(t, op)); r.Fatal != nil || !errors.Is(r.Err, fs.ErrInvalid) {
			t.Errorf("apply %+v: %v, fatal %v", op, r.Err, r.Fatal)
		}
	}
}

// unchecked encodes a command without asking whether it makes sense.
func unchecked(t testing.TB, ops ...Op) []byte {
	t.Helper()
	h, err := encMode.Marshal(&header{Ops: uint64(len(ops))})
	if err != nil {
		t.Fatal(err)
	}
	data, err := appendOps(append([]byte{version}, h...), ops)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestFilesNeverStandWhereDirectoriesMust(t *testing.T) {
	for _, c := range []struct{ first, second string }{{"a", "a/b"}, {"a", "a/b/c/d"}, {"a/b/c", "a"}, {
		"a/b/c", "a/b"}, {"a/b", "a/b/c"}} {
		l := newLog(t)
		l.blob("one")
		l.must(&Put{Name: c.first})
		for _, op := range []Op{&Put{Name: c.second}, &Link{Name: c.second, Digest: dg("one")},
			&LinkWeak{Name: c.second, Digest: dg("one")}} {
			if e := l.refused(CodeConflict, op); !errors.Is(e, fs.ErrExist) {
				t.Error(e)
			}
		}
		// In one batch a name makes way for the other.
		l.must(&Remove{Name: c.first}, &Put{Name: c.second, Data: []byte("x")})
		if got := names(l.s); got != c.second+"=x" {
			t.Error(got)
		}
	}
	// Names that only look alike do not meet.
	l := newLog(t)
	l.must(&Put{Name: "a/b"}, &Put{Name: "a-b"}, &Put{Name: "a.b/c"}, &Put{Name: "a/bc"}, &Put{Name: "a/b\x01"},
		&Put{Name: "ab"})
	if got, want := names(l.s), "a/b= a/b\x01= a/bc= a-b= a.b/c= ab="; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLinkHolds(t *testing.T) {
	l := newLog(t)
	l.blob("one", "two", "three")
	l.refused(CodeNoBlob, &Link{Name: "m", Digest: dg("six")})
	e := l.refused(CodeNoBlob, &Link{Name: "m", Digest: dg("one"), Holds: []Digest{dg("two"), dg("six")}})
	if !errors.Is(e, fs.ErrNotExist) {
		t.Error(e)
	}
	l.must(&Link{Name: "m", Digest: dg("one"), Holds: []Digest{dg("three"), dg("two"), dg("three"), dg("one")}})
	for _, seed := range seeds[:3] {
		if b, _ := l.s.Blob(dg(seed)); b.Strong != 1 {
			t.Errorf("%s has %d references, want 1: doubles count once", seed, b.Strong)
		}
	}
	if e, _ := l.s.Get("m"); e.Digest != dg("one") || e.Size != 3 || e.Weak {
		t.Errorf("%+v", e)
	}
	if r := l.must(&Collect{Digests: []Digest{dg("one"), dg("two"), dg("three")}}); r.Collected != nil {
		t.Errorf("collected what is held: %v", r.Collected)
	}
	l.must(&Put{Name: "m"})
	if r := l.must(&Collect{Digests: []Digest{dg("one"), dg("two"), dg("three")}}); len(r.Collected) != 3 {
		t.Errorf("collected %v after the name was written over", r.Collected)
	}
}

// What Get returns is a copy of what lies in the table, made at once.
func TestGetAllocatesOnce(t *testing.T) {
	l := newLog(t)
	l.blob("one")
	l.must(&Link{Name: "a", Digest: dg("one"), Claim: "i"}, &Link{Name: "b", Digest: dg("one"), Claim: "i"})
	l.must(&Link{Name: "c", Digest: dg("one"), Claim: "i"})
	if n := testing.AllocsPerRun(10, func() { l.s.Get("a") }); n > 1 {
		t.Errorf("Get allocates %v times", n)
	}
}

func TestRemove(t *testing.T) {
	l := newLog(t)
	l.must(&Put{Name: "a/b"}, &Put{Name: "a/c/d"}, &Put{Name: "a-b"}, &Put{Name: "b"})
	for _, c := range []struct{ name, changed, left string }{
		{"nowhere", "[]", "a/b= a/c/d= a-b= b="},
		{"a/b/c", "[]", "a/b= a/c/d= a-b= b="},
		{"a/b", "[a/b]", "a/c/d= a-b= b="},
		{"a", "[a]", "a-b= b="},
		{".", "[.]", ""},
		{".", "[]", ""},
	} {
		r := l.must(&Remove{Name: c.name})
		if got := fmt.Sprint(r.Changed); got != c.changed || names(l.s) != c.left {
			t.Errorf("remove %s: told of %s, left %q", c.name, got, names(l.s))
		}
	}
}

func TestExpect(t *testing.T) {
	l := newLog(t)
	l.must(&Put{Name: "a/b"})
	l.must(&Put{Name: "c"})
	l.must(&Expect{Name: "a/b", Version: 1}, &Expect{Name: "a", Version: 0}, &Expect{Name: ".", Version: 0},
		&Expect{Name: "c", Version: 2}, &Expect{Name: "d", Version: 0})
	for _, op := range []Op{&Expect{Name: "a/b"}, &Expect{Name: "a/b", Version: 2}, &Expect{Name: "d", Version: 1},
		&Expect{Name: "a", Version: 1}} {
		if e := l.refused(CodeVersion, &Put{Name: "e"}, op); !errors.Is(e, fs.ErrExist) {
			t.Error(e)
		}
	}
	// An expectation is compared with the state before the command, wherever it is in the command.
	l.must(&Put{Name: "a/b"}, &Expect{Name: "a/b", Version: 1})
	l.must(&Remove{Name: "."}, &Expect{Name: "c", Version: 2}, &Put{Name: "c"})
	l.refused(CodeVersion, &Remove{Name: "."}, &Expect{Name: "c", Version: 0})
}

func TestReadDirSeeksOverSubtrees(t *testing.T) {
	l := newLog(t)
	var ops []Op
	for i := range 2000 {
		ops = append(ops, &Put{Name: fmt.Sprintf("big/%04d", i)})
	}
	l.must(append(ops, &Put{Name: "small"})...)
	var got []string
	for d := range l.s.ReadDir(".", "") {
		got = append(got, fmt.Sprint(d.Name, " ", d.Dir))
	}
	if fmt.Sprint(got) != "[big true small false]" {
		t.Error(got)
	}
	n := 0
	for range l.s.ReadDir("big", "0009") {
		if n++; n == 5 {
			break
		}
	}
	for range l.s.Walk("big", "big/0009") {
		if n++; n == 10 {
			break
		}
	}
	if n != 10 {
		t.Errorf("stopped after %d", n)
	}
}

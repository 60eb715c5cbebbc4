package state

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"
)

func TestStage(t *testing.T) {
	l := newLog(t)
	l.blob("one", "two", "four")
	l.must(&Put{Name: "old"})
	if r := l.must(&Stage{ID: "s", Until: 100, Ops: []Op{
		&Link{Name: "m", Digest: dg("one"), Holds: []Digest{dg("two")}, Claim: "i"}, &Expect{Name: "m", Version: 0},
		&Remove{Name: "old"}}}); r.Changed != nil {
		t.Errorf("staging told watchers of %v", r.Changed)
	}
	l.must(&Stage{ID: "s", Until: 50, Ops: []Op{&LinkWeak{Name: "w", Digest: dg("four"), Until: 7, Claim: "i"},
		&Put{Name: "p", Claim: "i"}}})
	l.must(&Stage{ID: "empty", Until: 100})
	if got := names(l.s); got != "old=" {
		t.Errorf("staged names are seen: %s", got)
	}
	if r := l.must(&Collect{Digests: []Digest{dg("one"), dg("two"), dg("four")}}); r.Collected != nil {
		t.Errorf("collected what is staged: %v", r.Collected)
	}
	var got []string
	for st := range l.s.Stages() {
		got = append(got, fmt.Sprintf("%s %d %d", st.ID, st.Edits, st.Until.UnixNano()))
	}
	if fmt.Sprint(got) != "[empty 0 100 s 5 100]" {
		t.Error(got)
	}
	r := l.must(&Publish{ID: "s", Until: 200})
	if got := names(l.s); got != "m=<one> p= w=<four>" || fmt.Sprint(r.Changed) != "[m old w p]" {
		t.Errorf("%s, told of %v", got, r.Changed)
	}
	for n, e := range l.s.Walk(".", "") {
		if e.Version != r.Index || e.Claim != "i" || e.ModTime.UnixNano() != l.now {
			t.Errorf("%s: %+v; published names are of the entry that published them", n, e)
		}
	}
	if b, _ := l.s.Blob(dg("four")); b.Strong != 0 || b.Weak != 1 || b.Until.UnixNano() != 200 {
		t.Errorf("the weak link's blob: %+v", b)
	}
	if e := l.refused(CodeNoStage, &Publish{ID: "s"}); !errors.Is(e, fs.ErrNotExist) {
		t.Error(e)
	}
	l.must(&DropStage{ID: "s"})
}

func TestStageRefusals(t *testing.T) {
	l := newLog(t)
	l.blob("one")
	l.refused(CodeNoBlob, &Stage{ID: "s", Ops: []Op{&Put{Name: "a"},
		&Link{Name: "b", Digest: dg("one"), Holds: []Digest{dg("six")}}}})
	for i := range MaxStages {
		if r := l.s.Apply(l.s.Index()+1, unchecked(t, &Stage{ID: fmt.Sprint(i), Until: 9})); r.Err != nil ||
			r.Fatal != nil {
			t.Fatal(r)
		}
	}
	if r := l.s.Apply(l.s.Index()+1, unchecked(t, &Stage{ID: "more", Until: 9})); r.Fatal != nil ||
		!errors.Is(r.Err, fs.ErrInvalid) {
		t.Error(r)
	}
	if r := l.s.Apply(l.s.Index()+1, unchecked(t, &Stage{ID: "7", Until: 9})); r.Fatal != nil || r.Err != nil {
		t.Error(r)
	}
}

func TestPublishIsAllOrNothing(t *testing.T) {
	for _, c := range []struct {
		what  string
		code  Code
		ops   []Op // in the stage, behind two that are good
		after []Op // in the log between stage and publish
		with  []Op // in the command that publishes
	}{
		{"conflict", CodeConflict, []Op{&Put{Name: "a/b/c"}}, []Op{&Put{Name: "a/b"}}, nil},
		{"staged expectation", CodeVersion, []Op{&Expect{Name: "x", Version: 0}}, []Op{&Put{Name: "x"}}, nil},
		{"expectation beside publish", CodeVersion, nil, []Op{&Put{Name: "x"}}, []Op{&Expect{Name: "x", Version: 0}}},
		{"edit beside publish", CodeNoBlob, nil, nil, []Op{&Link{Name: "l", Digest: dg("six")}}},
		{"staged and published at once", CodeVersion, nil, nil,
			[]Op{&Stage{ID: "s", Ops: []Op{&Expect{Name: "x", Version: 1}}}}},
	} {
		t.Run(c.what, func(t *testing.T) {
			l := newLog(t)
			l.blob("one")
			l.must(&Stage{ID: "s", Until: 9, Ops: append(
				[]Op{&Put{Name: "first"}, &Link{Name: "second", Digest: dg("one")}}, c.ops...)})
			if c.after != nil {
				l.must(c.after...)
			}
			before := names(l.s)
			l.refused(c.code, append(c.with, &Publish{ID: "s"})...)
			if names(l.s) != before || l.s.Stats().Stages != 1 {
				t.Errorf("seen %q, before %q, %+v", names(l.s), before, l.s.Stats())
			}
			l.must(&DropStage{ID: "s"})
			if r := l.must(&Collect{Digests: []Digest{dg("one")}}); len(r.Collected) != 1 {
				t.Error("a dropped stage keeps its blobs")
			}
		})
	}
}

func TestStagesExpire(t *testing.T) {
	l := newLog(t)
	l.blob("one")
	l.must(&Stage{ID: "a", Until: 10, Ops: []Op{&Link{Name: "n", Digest: dg("one")}}},
		&Stage{ID: "a\x7e", Until: 20, Ops: []Op{&Put{Name: "p"}}})
	l.must(&Expire{Now: 9})
	if l.s.Stats().Stages != 2 {
		t.Error("expired too early")
	}
	l.must(&Expire{Now: 10})
	if st := l.s.Stats(); st.Stages != 1 || st.Staged != 1 {
		t.Errorf("%+v", st)
	}
	if r := l.must(&Collect{Digests: []Digest{dg("one")}}); len(r.Collected) != 1 {
		t.Error("an expired stage keeps its blobs")
	}
	l.refused(CodeNoStage, &Publish{ID: "a"})
	l.must(&Publish{ID: "a\x7e"})
	if got := names(l.s); got != "p=" {
		t.Error(got)
	}
}

package state

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// waiting requires approvals and has a held stage "s" of the claim "i", made by alice, which would write m, w and r. m
// is there already.
func waiting(t *testing.T) *log {
	l := newLog(t)
	l.must(&SetFormat{Version: holdFormat})
	l.blob("one", "two", "four")
	l.must(&Put{Name: "m", Data: []byte("old")}, &Put{Name: "gone"})
	l.must(&RequireApproval{On: true})
	l.must(&Stage{ID: "s", Until: 1, Ops: []Op{
		&Link{Name: "m", Digest: dg("one"), Holds: []Digest{dg("two")}, Claim: "i"},
		&LinkWeak{Name: "w", Digest: dg("four"), Until: 7, Claim: "i"},
		&Put{Name: "r", Data: []byte("record"), Claim: "i"},
		&Remove{Name: "gone"}, &Expect{Name: "r", Version: 0}}})
	l.must(aliceHolds())
	return l
}

const expiry = int64(1) << 60

func aliceHolds() *Hold {
	return &Hold{ID: "s", Claim: "i", Content: "sha256:1", Maker: "alice", Until: expiry}
}

// approval is the approval by bob of what the held stage does now.
func (l *log) approval() *Approve {
	diff, ok := l.s.Diff("s")
	if !ok {
		l.tb.Fatal("nothing is held")
	}
	return &Approve{ID: "s", By: "bob", Diff: diff[:], Until: 9}
}

func TestApprove(t *testing.T) {
	l := waiting(t)
	if got := names(l.s); got != "gone= m=old" {
		t.Errorf("what is held is seen: %s", got)
	}
	l.must(&Expire{Now: expiry - 1})
	if r := l.must(&Collect{Digests: []Digest{dg("one"), dg("two"), dg("four")}}); r.Collected != nil {
		t.Errorf("collected what is held: %v", r.Collected)
	}
	for range l.s.Kept() {
		t.Error("an inventory would promise what is held")
	}
	r := l.must(l.approval(), &Put{Name: "r", Data: []byte("approved by bob"), Claim: "i"}, &Put{Name: "origin"})
	if got := names(l.s); got != "m=<one> origin= r=approved by bob w=<four>" {
		t.Errorf("%s, told of %v", got, r.Changed)
	}
	if b, _ := l.s.Blob(dg("four")); b.Until.UnixNano() != 9 {
		t.Errorf("the weak link's blob: %+v", b)
	}
	if s := l.s.Stats(); s.Held != 0 || s.Stages != 0 || s.Staged != 0 {
		t.Errorf("%+v", s)
	}
	l.must(&DropClaims{Claim: "i"}) // undoing needs no approval
	if got := names(l.s); got != "m=old origin=" {
		t.Error(got)
	}
}

// Every way to make a held stage appear without the approval of somebody else is refused, and changes nothing.
func TestWaysRoundAnApproval(t *testing.T) {
	link := &Link{Name: "m", Digest: dg("one"), Claim: "i"}
	for name, c := range map[string]struct {
		code Code
		ops  func(l *log) []Op
	}{
		"publish it": {CodeApproval, func(*log) []Op { return []Op{&Publish{ID: "s"}} }},
		"drop it":    {CodeApproval, func(*log) []Op { return []Op{&DropStage{ID: "s"}} }},
		"add to it": {CodeApproval, func(*log) []Op {
			return []Op{&Stage{ID: "s", Until: 1, Ops: []Op{link}}}
		}},
		"hold it again":       {CodeApproval, func(*log) []Op { return []Op{aliceHolds()} }},
		"a name of its claim": {CodeApproval, func(*log) []Op { return []Op{link} }},
		"a record":            {CodeApproval, func(*log) []Op { return []Op{&Put{Name: "x", Claim: "i"}} }},
		"a name of no import": {CodeApproval, func(*log) []Op { return []Op{&Put{Name: "x", Claim: "j"}} }},
		"a weak name": {CodeApproval, func(*log) []Op {
			return []Op{&LinkWeak{Name: "x", Digest: dg("four"), Claim: "i"}}
		}},
		"another stage": {CodeApproval, func(*log) []Op {
			return []Op{&Stage{ID: "t", Until: 1, Ops: []Op{link}}, &Publish{ID: "t"}}
		}},
		"the same claim twice": {CodeVersion, func(*log) []Op {
			h := aliceHolds()
			h.ID = "t"
			return []Op{&Stage{ID: "t", Until: 1}, h}
		}},
		"the maker": {CodeApproval, func(l *log) []Op {
			a := l.approval()
			a.By = "alice"
			return []Op{a}
		}},
		"nobody": {CodeApproval, func(l *log) []Op { a := l.approval(); a.By = ""; return []Op{a} }},
		"another effect": {CodeVersion, func(l *log) []Op {
			a := l.approval()
			a.Diff[0] ^= 1
			return []Op{a}
		}},
		"expired": {CodeNoStage, func(l *log) []Op { l.now = expiry; return []Op{l.approval()} }},
		"the expiry was collected": {CodeNoStage, func(l *log) []Op {
			a := l.approval()
			l.must(&Expire{Now: expiry})
			return []Op{a}
		}},
		"rejected": {CodeNoStage, func(l *log) []Op {
			a := l.approval()
			l.must(&Reject{ID: "s"})
			return []Op{a}
		}},
		"used twice":           {CodeNoStage, func(l *log) []Op { a := l.approval(); l.must(a); return []Op{a} }},
		"twice in one command": {CodeNoStage, func(l *log) []Op { a := l.approval(); return []Op{a, a} }},
		"a name changed": {CodeVersion, func(l *log) []Op {
			a := l.approval()
			l.must(&Put{Name: "m"})
			return []Op{a}
		}},
		"a name appeared": {CodeVersion, func(l *log) []Op {
			a := l.approval()
			l.must(&Put{Name: "r"})
			return []Op{a}
		}},
		"a name went": {CodeVersion, func(l *log) []Op {
			a := l.approval()
			l.must(&Remove{Name: "m"})
			return []Op{a}
		}},
		"the content was replaced": {CodeVersion, func(l *log) []Op {
			a := l.approval()
			l.must(&Reject{ID: "s"})
			l.must(&Stage{ID: "s", Until: 1, Ops: []Op{&Link{Name: "m", Digest: dg("two"), Claim: "i"}}})
			l.must(aliceHolds())
			return []Op{a}
		}},
		"another bundle with the same names": {CodeVersion, func(l *log) []Op {
			a := l.approval()
			l.must(&Reject{ID: "s"})
			l.must(&Stage{ID: "s", Until: 1})
			h := aliceHolds()
			h.Content = "sha256:2"
			l.must(h)
			return []Op{a}
		}},
		"more names in the approval": {CodeApproval, func(l *log) []Op {
			return []Op{l.approval(), &Put{Name: "more", Claim: "i"}}
		}},
		"other claims in the approval": {CodeApproval, func(l *log) []Op {
			return []Op{l.approval(), &Put{Name: "r", Claim: "j"}}
		}},
		"a stage with other claims": {CodeInvalid, func(l *log) []Op {
			h := aliceHolds()
			h.ID, h.Claim = "t", "j"
			return []Op{&Stage{ID: "t", Until: 1, Ops: []Op{link}}, h}
		}},
		"nothing is held": {CodeNoStage, func(l *log) []Op { a := l.approval(); a.ID = "t"; return []Op{a} }},
	} {
		t.Run(name, func(t *testing.T) {
			l := waiting(t)
			ops := c.ops(l)
			l.refused(c.code, ops...)
		})
	}
	// No approval is required any more: what is held stays held, other imports appear at once.
	l := waiting(t)
	l.must(&RequireApproval{})
	l.refused(CodeApproval, &Publish{ID: "s"})
	l.must(&Put{Name: "x", Claim: "j"})
	l.must(l.approval())
	if e := l.refused(CodeNoStage, &Reject{ID: "s"}); !strings.Contains(e.Error(), "approved") {
		t.Error(e)
	}
}

// Of two approvals one wins, whatever their order, and the diff is the same on every replica.
func TestTwoApprovers(t *testing.T) {
	l := waiting(t)
	a, b := l.approval(), l.approval()
	b.By = "carol"
	l.must(a)
	if e := l.refused(CodeNoStage, b); errors.Is(e, ErrApproval) {
		t.Error(e)
	}
}

// The diff says what the stage does: a change elsewhere leaves it, a repeat of the same content too.
func TestDiff(t *testing.T) {
	l := waiting(t)
	first, _ := l.s.Diff("s")
	l.must(&Put{Name: "elsewhere"})
	l.must(&Put{Name: "m", Data: []byte("old")})
	l.must(&LinkWeak{Name: "w", Digest: dg("four"), Until: 1})
	if now, _ := l.s.Diff("s"); now != first {
		t.Error("the effect is the same, and the diff is another")
	}
	if _, ok := l.s.Diff("t"); ok {
		t.Error("a diff of nothing")
	}
}

// A snapshot keeps what waits, and that approvals are required; the replica that reads it decides alike.
func TestHeldInSnapshots(t *testing.T) {
	l := waiting(t)
	copied, err := Restore(strings.NewReader(string(snapshot(t, l.s))))
	if err != nil {
		t.Fatal(err)
	}
	var held []string
	for h := range copied.Held() {
		held = append(held, fmt.Sprintf("%s %s %s %s %d", h.ID, h.Claim, h.Content, h.Maker, h.Edits))
	}
	if fmt.Sprint(held) != "[s i sha256:1 alice 5]" || !copied.ApprovalRequired() {
		t.Errorf("%v, required %v", held, copied.ApprovalRequired())
	}
	l.s = copied
	l.refused(CodeApproval, &Publish{ID: "s"})
	l.must(l.approval())
	ops := 0
	for range copied.HeldOps("s") {
		ops++
	}
	if ops != 0 {
		t.Error("an approved stage is listed")
	}
}

// A snapshot of older formats is that of older programs.
func TestHeldNeedsTheFormat(t *testing.T) {
	approve := &Approve{ID: "s", Diff: make([]byte, 32)}
	for _, op := range []Op{&RequireApproval{On: true}, aliceHolds(), approve, &Reject{ID: "s"}} {
		l := newLog(t)
		l.must(&SetFormat{Version: holdFormat - 1})
		if r := l.s.Apply(l.s.Index()+1, unchecked(t, op)); r.Fatal == nil ||
			!strings.Contains(r.Fatal.Error(), "needs format 4") {
			t.Errorf("%T: %+v", op, r)
		}
	}
}

func TestHeldForms(t *testing.T) {
	long := strings.Repeat("x", MaxID+1)
	for _, op := range []Op{
		&Hold{ID: "", Claim: "i", Content: "c", Maker: "m"}, &Hold{ID: "s", Content: "c", Maker: "m"},
		&Hold{ID: "s", Claim: "i", Maker: "m"}, &Hold{ID: "s", Claim: "i", Content: "c"},
		&Hold{ID: "s", Claim: "i", Content: "c", Maker: long}, &Approve{ID: "s", Diff: []byte("short")},
		&Approve{ID: long, Diff: make([]byte, 32)}, &Reject{},
	} {
		var e *Error
		if err := op.check(); !errors.As(err, &e) || e.Code != CodeInvalid {
			t.Errorf("%+v: %v", op, err)
		}
	}
}

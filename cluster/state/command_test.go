package state

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// everyOp has one edit of each kind.
func everyOp() []Op {
	return []Op{
		&Put{Name: "a/b", Data: []byte("x\x00\xff"), Claim: "i"},
		&AddBlob{Digest: dg("one"), Size: 3, Confirmed: 0, Until: 1 << 62},
		&AddBlob{Digest: dg("three"), Size: 5},
		&Link{Name: "l", Digest: dg("one"), Holds: []Digest{dg("three")}, Claim: "i"},
		&LinkWeak{Name: "w", Digest: dg("three"), Until: 77, Claim: "j"},
		&Remove{Name: "nowhere"},
		&Expect{Name: "a/b", Version: 0},
		&Expire{Now: -5},
		&Collect{Digests: []Digest{dg("five")}},
		&Sweep{Limit: 9},
		&Stage{ID: "s", Until: 9, Ops: []Op{&Put{Name: "p", Data: []byte("y")}, &Link{Name: "q", Digest: dg("one")},
			&LinkWeak{Name: "r", Digest: dg("one")}, &Remove{Name: "p"}, &Expect{Name: "z"}}},
		&Stage{ID: "s", From: 5, Ops: []Op{&Put{Name: "o"}}},
		&Publish{ID: "s", Until: 8},
		&DropStage{ID: "t"},
		&DropClaims{Claim: "k"},
		&SetFormat{Version: 1},
	}
}

// laterOps are the edits of newer formats than the first.
func laterOps() []Op {
	return []Op{
		&Event{Time: 9, Actor: "alice", How: "password", From: "10.0.0.1", Verb: "file.put", Object: "a", Old: "b",
			New: "c", Outcome: "d"},
		&Event{Verb: "gc"},
		&Quiet{},
		&SealEvents{Name: "s", First: 3, Count: 4},
		&RequireApproval{On: true},
		&Hold{ID: "s", Claim: "i", Content: "c", Maker: "m", Until: 9},
		&Approve{ID: "s", By: "b", Diff: make([]byte, 32), Until: 9},
		&Reject{ID: "s"},
	}
}

func TestCommandRoundTrip(t *testing.T) {
	ops := everyOp()
	seen := map[opKind]bool{}
	size := 0
	for _, op := range ops {
		seen[op.kind()] = true
		size += Size(op)
	}
	for _, op := range laterOps() {
		seen[op.kind()] = true
		data, err := (&Command{Ops: []Op{op}}).Encode()
		if err != nil {
			t.Fatal(err)
		}
		_, since := newOp(op.kind())
		if out, err := Decode(data, since); err != nil || !reflect.DeepEqual(out.Ops[0], op) {
			t.Errorf("%+v: %+v, %v", op, out, err)
		}
		if _, err := Decode(data, since-1); err == nil ||
			!strings.Contains(err.Error(), fmt.Sprintf("needs format %d", since)) {
			t.Errorf("%T before its format: %v", op, err)
		}
	}
	for k := opKind(0); k < 64; k++ {
		op, _ := newOp(k)
		if (op != nil) != seen[k] || op != nil && op.kind() != k {
			t.Errorf("kind %d is %T, in this test: %v", k, op, seen[k])
		}
	}
	in := &Command{Node: "n1", Boot: 1 << 63, Seq: 12, Finished: 11, Time: -4, Ops: ops}
	data, err := in.Encode()
	if err != nil {
		t.Fatal(err)
	}
	out, err := Decode(data, 1)
	if err != nil || !reflect.DeepEqual(in, out) {
		t.Errorf("%v:\n%+v\n%+v", err, in, out)
	}
	if over := len(data) - size; over < 1 || over > 40 {
		t.Errorf("Size is off by %d bytes", over)
	}
	l := newLog(t)
	if r := l.command(in); r.Err != nil {
		t.Error(r.Err)
	}
	if _, err := (&Command{Ops: []Op{nil}}).Encode(); err == nil {
		t.Error("a nil edit was encoded")
	}
	// Links do not show in the bytes of a command what they do in memory: digests are binary.
	if n := Size(&Link{Name: "x", Digest: dg("one")}); n > 45 {
		t.Errorf("a link takes %d bytes", n)
	}
}

// notUnderstood are commands that this program cannot know the meaning of, each with what the error must say.
func notUnderstood(t testing.TB) map[string][]byte {
	good := unchecked(t, &Put{Name: "a"})
	body, err := encMode.Marshal(&Put{Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	h := func(ops uint64) []byte {
		b, err := encMode.Marshal(&header{Ops: ops})
		if err != nil {
			t.Fatal(err)
		}
		return append([]byte{version}, b...)
	}
	stage := func(inner string, n uint64) []byte {
		b, err := encMode.Marshal(&stageBody{ID: "s", Count: n, Ops: []byte(inner)})
		if err != nil {
			t.Fatal(err)
		}
		return append(append(h(1), byte(kindStage)), b...)
	}
	five := append([]byte{0x85}, append(bytes.Clone(body[1:]), 0x00, 0x00)...)
	return map[string][]byte{
		"command is empty":         {},
		"command version 2":        append([]byte{2}, good[1:]...),
		"command header":           {version, 0xff},
		"1 edits in 0 bytes":       h(1),
		"2 edits in 1 bytes":       append(h(2), 0x01),
		"kind of edit 1":           append(h(2), good[len(h(1)):]...),
		"kind of edit 0":           append(h(1), 0xff),
		"is of kind 99":            append(append(h(1), 0x18, 99), body...),
		"is of kind 0":             append(append(h(1), 0x00), body...),
		"edit 0 of kind 1:":        append(append(h(1), byte(kindPut)), five...),
		"edit 0 of kind 2:":        append(append(h(1), byte(kindLink)), body...),
		"after its last edit":      append(bytes.Clone(good), 0x01),
		"edit 0 of kind 1: ":       good[:len(good)-1],
		"stage: kind of edit":      stage("\xff", 1),
		"stage: command has":       stage("\x01", 0),
		"stage: edit 0 is a stage": stage(string(stage("", 0)[len(h(1)):]), 1),
	}
}

func TestFatalLeavesTheStateAlone(t *testing.T) {
	l := newLog(t)
	l.must(everyOp()...)
	before := snapshot(t, l.s)
	cases := notUnderstood(t)
	cases["the cluster went to format 5"] = unchecked(t, &Put{Name: "before"}, &SetFormat{Version: MaxFormat + 1})
	for want, data := range cases {
		r := l.s.Apply(l.s.Index()+1, data)
		if r.Fatal == nil || !strings.Contains(r.Fatal.Error(), want) || r.Err != nil || r.Changed != nil {
			t.Errorf("want %q, got %v (%v)", want, r.Fatal, r.Err)
		}
		if !bytes.Equal(snapshot(t, l.s), before) {
			t.Errorf("%q changed the state", want)
		}
	}
	for _, index := range []uint64{0, l.s.Index()} {
		if r := l.s.Apply(index, unchecked(t, &Put{Name: "a"})); r.Fatal == nil ||
			!bytes.Equal(snapshot(t, l.s), before) {
			t.Errorf("index %d was applied again: %+v", index, r)
		}
	}
}

func TestAFatalCommandLeavesNoSession(t *testing.T) {
	s := New()
	data, err := (&Command{Node: "n", Boot: 3, Seq: 1, Ops: []Op{&SetFormat{Version: MaxFormat + 1}}}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if r := s.Apply(1, data); r.Fatal == nil {
		t.Fatal(r)
	}
	if !bytes.Equal(snapshot(t, s), snapshot(t, New())) {
		t.Error("the state moved")
	}
}

func TestSetFormatOnlyRaises(t *testing.T) {
	l := newLog(t)
	if l.s.Format() != 1 {
		t.Fatal(l.s.Format())
	}
	l.must(&SetFormat{Version: 1})
	l.refused(CodeInvalid, &SetFormat{Version: 0})
	// What a later format brings is not understood before it is agreed on.
	if _, err := Decode(unchecked(t, &Put{Name: "a"}), 0); err == nil ||
		!strings.Contains(err.Error(), "needs format 1") {
		t.Error(err)
	}
}

// FuzzApply holds that no entry, whatever its bytes, makes the state panic or lose count, that what is refused or fatal
// changes nothing, and that everything decoded can be encoded again.
func FuzzApply(f *testing.F) {
	for _, data := range notUnderstood(f) {
		f.Add(data, data)
	}
	all := unchecked(f, everyOp()...)
	f.Add(all, unchecked(f, &DropClaims{Claim: "i"}, &Sweep{Limit: 3}, &Remove{Name: "."}))
	f.Add(unchecked(f, &AddBlob{Digest: dg("one")}, &LinkWeak{Name: "a/b", Digest: dg("one")}),
		unchecked(f, &Collect{Digests: []Digest{dg("one")}}, &Put{Name: "a"}))
	for _, op := range everyOp() {
		f.Add(all, unchecked(f, op))
	}
	base := New()
	if r := base.Apply(1, all); r.Fatal != nil || r.Err != nil {
		f.Fatal(r)
	}
	whole := snapshot(f, base)
	f.Fuzz(func(t *testing.T, first, second []byte) {
		s := base.Clone()
		for i, data := range [][]byte{first, second} {
			index := uint64(i + 2)
			before := snapshot(t, s)
			r := s.Apply(index, data)
			if err := audit(s); err != nil {
				t.Fatal(err)
			}
			if r.Fatal != nil && (r.Err != nil || !bytes.Equal(before, snapshot(t, s))) {
				t.Fatalf("fatal, and yet: %+v", r)
			}
			if r.Fatal == nil {
				c, err := Decode(data, 1)
				if err != nil {
					t.Fatalf("applied and not decoded: %v", err)
				}
				if again, err := c.Encode(); err == nil {
					if _, err := Decode(again, 1); err != nil {
						t.Fatalf("encoded and not decoded: %v", err)
					}
				} else if r.Err == nil {
					t.Fatalf("applied, and not to be encoded: %v", err)
				}
			}
		}
		restored, err := Restore(bytes.NewReader(snapshot(t, s)))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(snapshot(t, restored), snapshot(t, s)) {
			t.Fatal("the restored state is another")
		}
		if !bytes.Equal(snapshot(t, base), whole) {
			t.Fatal("the original of a clone changed")
		}
	})
}

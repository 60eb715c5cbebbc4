package state

import (
	"errors"
	"io/fs"
	"syscall"
	"testing"
)

func TestRepeatsAreAnsweredWithTheFirstOutcome(t *testing.T) {
	l := newLog(t)
	put := &Command{Node: "n1", Boot: 5, Seq: 1, Ops: []Op{&Put{Name: "a", Data: []byte("mine")}, &Expect{Name: "a"}}}
	fails := &Command{Node: "n1", Boot: 5, Seq: 3, Ops: []Op{&Link{Name: "l", Digest: dg("one")}}}
	if r := l.command(put); r.Err != nil || r.Repeat || r.Index != 1 {
		t.Fatal(r)
	}
	if r := l.command(fails); r.Err == nil || r.Repeat {
		t.Fatal(r)
	}
	l.must(&Put{Name: "a", Data: []byte("what came between")})
	l.blob("one")
	if r := l.command(put); r.Err != nil || !r.Repeat || r.Index != 1 || r.Changed != nil {
		t.Errorf("%+v", r)
	}
	r := l.command(fails) // it would succeed now
	var e *Error
	if !errors.As(r.Err, &e) || e.Code != CodeNoBlob || !r.Repeat || r.Index != 2 {
		t.Errorf("%+v", r)
	}
	if got := names(l.s); got != "a=what came between" {
		t.Error(got)
	}
	// The same number of another node, and of another boot, is another command.
	if r := l.command(&Command{Node: "n2", Boot: 5, Seq: 1, Ops: []Op{&Put{Name: "b"}}}); r.Err != nil || r.Repeat {
		t.Errorf("%+v", r)
	}
	if l.s.Boot("n1") != 5 || l.s.Boot("nobody") != 0 {
		t.Error(l.s.Boot("n1"))
	}
	if r := l.command(&Command{Node: "n1", Boot: 6, Seq: 1, Ops: []Op{&Put{Name: "c"}}}); r.Err != nil || r.Repeat {
		t.Errorf("%+v", r)
	}
	if n := l.s.Stats().Outcomes; n != 2 {
		t.Errorf("%d outcomes: those of the old boot are no use to anybody", n)
	}
	for _, c := range []*Command{put, {Node: "n1", Boot: 5, Seq: 9, Ops: []Op{&Put{Name: "late"}}}} {
		if r := l.command(c); !errors.Is(r.Err, ErrOldBoot) {
			t.Errorf("from a process that is gone: %+v", r)
		}
	}
	if got := names(l.s); got != "a=what came between b= c=" {
		t.Error(got)
	}
}

func TestFinishedBoundsWhatIsRemembered(t *testing.T) {
	l := newLog(t)
	send := func(seq, finished uint64) Result {
		return l.command(&Command{Node: "n", Boot: 1, Seq: seq, Finished: finished, Ops: []Op{&Put{Name: "a"}}})
	}
	for seq := uint64(1); seq <= 100; seq++ {
		send(seq, max(seq, 5)-5)
	}
	if n := l.s.Stats().Outcomes; n != 5 {
		t.Errorf("%d outcomes are remembered", n)
	}
	if r := send(95, 0); !errors.Is(r.Err, ErrFinished) {
		t.Errorf("%+v", r)
	}
	if r := send(96, 0); !r.Repeat {
		t.Errorf("%+v", r)
	}
	// A gap: a command that comes late but was never finished is applied.
	if r := send(105, 100); r.Err != nil || r.Repeat {
		t.Errorf("%+v", r)
	}
	if r := send(103, 100); r.Err != nil || r.Repeat {
		t.Errorf("%+v", r)
	}
	for _, c := range []*Command{{Node: "n", Boot: 1, Seq: 0}, {Node: "n", Boot: 1, Seq: 200, Finished: 200}, {
		Node: "n\x00", Boot: 1, Seq: 1}} {
		if _, err := c.Encode(); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("encoded %+v: %v", c, err)
		}
		h, err := encMode.Marshal(&header{Node: c.Node, Boot: c.Boot, Seq: c.Seq, Finished: c.Finished})
		if err != nil {
			t.Fatal(err)
		}
		before := l.s.Stats()
		r := l.s.Apply(l.s.Index()+1, append([]byte{version}, h...))
		l.entries = append(l.entries, nil)
		before.Index++
		if e, ok := r.Err.(*Error); !ok || e.Code != CodeInvalid || l.s.Stats() != before {
			t.Errorf("%+v", r)
		}
	}
}

func TestANodeThatNeverFinishesIsHeldBack(t *testing.T) {
	s := New()
	send := func(seq, finished uint64) Result {
		c := &Command{Node: "n", Boot: 1, Seq: seq, Finished: finished,
			Ops: []Op{&Put{Name: "a", Data: []byte{byte(seq)}}}}
		data, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return s.Apply(s.Index()+1, data)
	}
	for seq := uint64(1); seq <= MaxOutcomes; seq++ {
		if r := send(seq, 0); r.Err != nil {
			t.Fatal(r)
		}
	}
	r := send(MaxOutcomes+1, 0)
	if !errors.Is(r.Err, syscall.EAGAIN) || s.Stats().Outcomes != MaxOutcomes {
		t.Fatalf("%+v, %+v", r, s.Stats())
	}
	// A refusal for want of room is no outcome: the repeat is applied when there is room, once.
	if r := send(MaxOutcomes+2, 1); r.Err != nil || r.Repeat {
		t.Fatalf("%+v", r)
	}
	if r := send(MaxOutcomes+1, 2); r.Err != nil || r.Repeat {
		t.Fatalf("%+v", r)
	}
	if r := send(MaxOutcomes+1, 2); r.Err != nil || !r.Repeat {
		t.Fatalf("%+v", r)
	}
	if err := audit(s); err != nil {
		t.Error(err)
	}
}

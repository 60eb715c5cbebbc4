package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"casemate/cluster/merkle"
)

// eventful is the log of summed, followed by the format with events, events, and some of them sealed.
func eventful(t testing.TB) *log {
	l := summed(t)
	l.must(&SetFormat{Version: eventFormat})
	for i := range 20 {
		l.must(&Put{Name: fmt.Sprintf("e/%d", i)}, &Event{Actor: "alice", Verb: "put", Object: fmt.Sprintf("e/%d", i)})
	}
	l.refusedButRecorded(&Put{Name: "e"}, &Event{Actor: "bob", Verb: "put", Object: "e"})
	l.seal("segments/0", 8)
	l.must(&Event{Verb: "login", Actor: "carol"}, &Event{Verb: "login", Actor: "dave"})
	return l
}

// refusedButRecorded is refused for a command with events, which are recorded all the same.
func (l *log) refusedButRecorded(ops ...Op) {
	l.tb.Helper()
	if r := l.do(ops...); r.Err == nil {
		l.tb.Fatal("it is accepted")
	}
}

// seal seals the oldest events.
func (l *log) seal(name string, count uint64) {
	l.tb.Helper()
	first := l.s.Events().First
	var file []byte
	for i, line := range l.s.EventLines(first) {
		if i < first+count {
			file = append(append(file, line...), '\n')
		}
	}
	l.must(&AddBlob{Digest: sum256(file), Size: int64(len(file)), Confirmed: l.s.Index()},
		&SealEvents{Name: name, First: first, Count: count})
}

func events(s *State) (list []string) {
	for _, line := range s.EventLines(0) {
		list = append(list, line)
	}
	return list
}

// TestEventsAreRecordedWithTheirCommand: an event is in the log exactly if its command is, once, and with the outcome.
func TestEventsAreRecordedWithTheirCommand(t *testing.T) {
	l := newLog(t)
	l.must(&Put{Name: "old"})
	if got := l.s.Events(); got.Tree.Size() != 0 {
		t.Fatalf("events before their format: %+v", got)
	}
	l.must(&SetFormat{Version: eventFormat})
	l.must(&SetFormat{Version: eventFormat}) // nothing new begins
	alice := &Event{Actor: "alice", How: "password", From: "10.0.0.1", Verb: "file.put", Object: `a "b" \c`, Old: "é",
		New: "n"}
	cmd := &Command{Node: "n1", Boot: 1, Seq: 1, Time: 1e18 + 1, Ops: []Op{&Put{Name: "a"}, alice}}
	l.command(cmd)
	l.command(cmd) // a repeat
	cmd = &Command{Node: "n1", Boot: 1, Seq: 2, Time: 1e18, Ops: []Op{&Put{Name: "a/b"}, alice}}
	l.command(cmd)
	l.command(cmd)
	// what a node tries, and tries again after a refusal
	own := *alice
	own.How = ByNode
	l.command(&Command{Node: "n1", Boot: 1, Seq: 3, Time: 1e18, Ops: []Op{&Put{Name: "a/b"}, &own}})
	// an old command is not applied, and is nobody's act
	l.command(&Command{Node: "n1", Boot: 0, Seq: 9, Time: 1e18, Ops: []Op{&Put{Name: "c"}, alice}})
	l.command(&Command{Node: "n1", Boot: 1, Seq: 4, Finished: 3, Ops: []Op{
		&Event{Time: 5e8, Actor: "bob", Verb: "login", Outcome: "wrong password"}}})
	who := `"node":"n1","actor":"alice","how":"password","from":"10.0.0.1","verb":"file.put","object":"a \"b\" \\c",` +
		`"old":"é","new":"n"`
	want := []string{
		`{"n":0,"time":"1970-01-01T00:00:02Z","index":2,"how":"node","verb":"audit.begin"}`,
		`{"n":1,"time":"2001-09-09T01:46:40.000000001Z","index":4,` + who + `}`,
		`{"n":2,"time":"2001-09-09T01:46:40Z","index":6,` + who +
			`,"outcome":"refused: a file is in place of a directory"}`,
		`{"n":3,"time":"1970-01-01T00:00:00.5Z","index":10,"node":"n1","actor":"bob","verb":"login",` +
			`"outcome":"wrong password"}`,
	}
	if got := strings.Join(events(l.s), "\n"); got != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

// TestUntoldChangesAreTold: a command whose proposer did not know of events is told by its first name. Only what
// declares itself bookkeeping, or shows nothing, is not.
func TestUntoldChangesAreTold(t *testing.T) {
	l := newLog(t)
	l.must(&SetFormat{Version: eventFormat})
	one := l.blob("one")[0]
	long := strings.Repeat(strings.Repeat("é", 500)+"/", 4) + "x\x01y"
	for i, tt := range []struct {
		ops    []Op
		object string // "-": no event
	}{
		{[]Op{&Put{Name: "a"}, &Put{Name: "b"}}, "a"},
		{[]Op{&Link{Name: "c", Digest: one}}, "c"},
		{[]Op{&Remove{Name: "c"}}, "c"},
		{[]Op{&DropClaims{Claim: "k"}}, "k"},
		{[]Op{&Put{Name: long}}, strings.Repeat("é", 500) + "/" + strings.Repeat("é", 11)},
		{[]Op{&Put{Name: "a"}, &Quiet{}}, "-"},
		{[]Op{&LinkWeak{Name: "w", Digest: one}}, "-"},
		{[]Op{&Stage{ID: "s", Ops: []Op{&Put{Name: "d"}}}}, "-"},
		{[]Op{&Publish{ID: "s"}}, ""},
		{[]Op{&Expect{Name: "none"}}, "-"},
		{[]Op{&Collect{Digests: []Digest{dg("two")}}}, ""},
	} {
		before := len(events(l.s))
		l.must(tt.ops...)
		got := strings.Join(events(l.s)[before:], "\n")
		if (got == "") != (tt.object == "-") || got != "" && (!strings.Contains(got, `"how":"node","verb":"change"`) ||
			tt.object != "" && !strings.Contains(got, `"object":"`+tt.object+`"`)) {
			t.Errorf("%d: %s", i, got)
		}
	}
	if r := l.do(&Put{Name: "a/b"}); r.Err == nil || strings.Contains(strings.Join(events(l.s), ""), "a/b") {
		t.Error("a refused one is told")
	}
}

// TestBadEventsAreRefused: what could not be written as a line of JSON is refused, and leaves no event.
func TestBadEventsAreRefused(t *testing.T) {
	for what, e := range map[string]*Event{
		"no verb":        {},
		"a long verb":    {Verb: strings.Repeat("x", MaxEventWord+1)},
		"a long actor":   {Verb: "v", Actor: strings.Repeat("x", MaxEventActor+1)},
		"a long object":  {Verb: "v", Object: strings.Repeat("x", MaxEventText+1)},
		"a newline":      {Verb: "v", Object: "a\nb"},
		"not UTF-8":      {Verb: "v", New: "\xff"},
		"a long outcome": {Verb: "v", Outcome: strings.Repeat("x", MaxEventText+1)},
	} {
		l := newLog(t)
		l.must(&SetFormat{Version: eventFormat})
		if _, err := (&Command{Ops: []Op{e}}).Encode(); !errors.Is(err, sentinels[CodeInvalid]) {
			t.Errorf("%s: Encode: %v", what, err)
		}
		r := l.s.Apply(2, unchecked(t, &Put{Name: "a"}, e))
		if !errors.Is(r.Err, sentinels[CodeInvalid]) || len(events(l.s)) != 1 {
			t.Errorf("%s: %v, %d events", what, r.Err, len(events(l.s)))
		}
	}
}

// TestSealedEventsLeaveTheState: only into a file whose bytes are the events, in their order, and each once.
func TestSealedEventsLeaveTheState(t *testing.T) {
	l := newLog(t)
	l.must(&SetFormat{Version: eventFormat})
	for i := range 9 {
		l.must(&Event{Verb: "v", Object: fmt.Sprint(i)})
	}
	before := l.s.Events()
	all := events(l.s)
	for what, op := range map[string]*SealEvents{
		"a file that is not here": {Name: "s", Count: 4},
		"too many":                {Name: "s", Count: 11},
		"the wrong ones":          {Name: "s", First: 1, Count: 4},
		"overflow":                {Name: "s", First: 1, Count: 1<<64 - 1},
	} {
		if r := l.do(op); r.Err == nil {
			t.Errorf("%s: sealed", what)
		}
	}
	other := []byte(strings.Join(all[1:5], "\n") + "\n")
	if r := l.do(&AddBlob{Digest: sum256(other), Size: 1}, &SealEvents{Name: "s", Count: 4}); r.Err == nil {
		t.Error("sealed into a file with other events")
	}
	l.seal("s/0", 4)
	after := l.s.Events()
	if after.First != 4 || after.Tree.Root() != before.Tree.Root() || after.Tree.Size() != 10 {
		t.Errorf("%+v, before %+v", after, before)
	}
	e, ok := l.s.Get("s/0")
	if want := sum256([]byte(strings.Join(all[:4], "\n") + "\n")); !ok || e.Digest != want {
		t.Errorf("the file is %v, want %v", e.Digest, want)
	}
	if got := events(l.s); strings.Join(got, "\n") != strings.Join(all[4:], "\n") {
		t.Errorf("left are %q", got)
	}
	l.must(&Event{Verb: "v"})
	tree := merkle.Frontier{}
	for _, line := range append(all[:4], events(l.s)...) {
		tree = tree.Add(merkle.LeafHash([]byte(line)))
	}
	if got := l.s.Events().Tree; got.Root() != tree.Root() {
		t.Errorf("the root is %s, want %s", got.Root(), tree.Root())
	}
	l.seal("s/1", 7)
	if got := events(l.s); len(got) != 0 {
		t.Errorf("left are %q", got)
	}
}

// TestEventsInSnapshots: a damaged section of events is found although the checksums are right.
func TestEventsInSnapshots(t *testing.T) {
	l := eventful(t)
	data := snapshot(t, l.s)
	if data[len(magic)] != eventVersion {
		t.Errorf("version %d", data[len(magic)])
	}
	again := restore(t, data)
	if err := audit(again); err != nil || again.Events().Tree.Root() != l.s.Events().Tree.Root() {
		t.Errorf("%v", err)
	}
	if !bytes.Equal(snapshot(t, again), data) {
		t.Error("it is written again differently")
	}
	lines, one := &snapEvents{Size: 1}, `{"n":0,"time":""}`
	head := (&snapHead{Index: 9, Format: eventFormat}).with(Sum{1})
	for what, sections := range map[string][]any{
		"no section":     {secHead, head, secEnd},
		"no header":      {secHead, head, secEvents, secEnd},
		"wrong peaks":    {secHead, head, secEvents, &snapEvents{Sealed: 3, Peaks: make([]byte, 32), Size: 3}, secEnd},
		"too few":        {secHead, head, secEvents, lines, secEnd},
		"too many":       {secHead, head, secEvents, lines, one, `{"n":1,"time":""}`, secEnd},
		"too long":       {secHead, head, secEvents, lines, strings.Repeat("x", maxEventLine+1), secEnd},
		"after the end":  {secHead, head, secEnd, secEvents, lines, one},
		"not a snapshot": {secEvents, lines, one},
	} {
		data := forge(t, sections...)
		data[len(magic)] = eventVersion
		if s, err := Restore(bytes.NewReader(data)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v, %v", what, s, err)
		}
	}
	good := forge(t, secHead, head, secEvents, lines, one, secEnd)
	good[len(magic)] = eventVersion
	restore(t, good)
	good[len(magic)] = sumVersion
	if _, err := Restore(bytes.NewReader(good)); !errors.Is(err, ErrDamaged) {
		t.Errorf("of an older version: %v", err)
	}
}

// FuzzEventLine: whatever an accepted event has, its line is one JSON object with these texts.
func FuzzEventLine(f *testing.F) {
	f.Add("v", "o", `"\`, int64(0))
	f.Add("é", "\u2028", "</script>", int64(-1))
	f.Fuzz(func(t *testing.T, verb, object, outcome string, at int64) {
		e := &Event{Verb: verb, Object: object, Outcome: outcome, Time: at}
		if e.check() != nil {
			return
		}
		line := e.line(7, 8, "n1", at, outcome)
		var got struct{ Verb, Object, Outcome string }
		if err := json.Unmarshal(line, &got); err != nil || got.Verb != verb || got.Object != object ||
			got.Outcome != outcome || bytes.ContainsAny(line, "\n\r") || !utf8.Valid(line) || len(line) > maxEventLine {
			t.Errorf("%+v: %q, %v", e, line, err)
		}
	})
}

func sum256(b []byte) Digest {
	sum := sha256.Sum256(b)
	return Digest(append([]byte{sha256Tag}, sum[:]...))
}

package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// full is a log after which every table of the state has something in it.
func full(t testing.TB) *log {
	l := newLog(t)
	l.blob("one", "two", "three", "four")
	l.must(&Put{Name: "a/b", Data: []byte("x"), Claim: "i"}, &Put{Name: "a/bc", Data: []byte("y")},
		&Link{Name: "a/b", Digest: dg("one"), Holds: []Digest{dg("three")}, Claim: "j"},
		&LinkWeak{Name: "w/live", Digest: dg("two"), Until: 1 << 60, Claim: "i"},
		&LinkWeak{Name: "w/stale", Digest: dg("four"), Claim: "i"}, &LinkWeak{Name: "w/x", Digest: dg("four")})
	l.must(&Collect{Digests: []Digest{dg("four"), dg("six")}})
	l.must(&Sweep{Limit: 4})
	l.must(&AddBlob{Digest: dg("four"), Size: 4, Confirmed: l.s.Index(), Until: 7})
	l.must(&Stage{ID: "s", Until: 9, Ops: everyOp()[10].(*Stage).Ops[:1]},
		&Stage{ID: "s", Until: 9, Ops: []Op{&Link{Name: "q", Digest: dg("one"), Holds: []Digest{dg("two")}}}})
	l.command(&Command{Node: "n", Boot: 3, Seq: 4, Finished: 2, Time: l.now, Ops: []Op{&Put{Name: "p"}}})
	l.command(&Command{Node: "n", Boot: 3, Seq: 5, Finished: 3, Time: l.now,
		Ops: []Op{&Link{Name: "p", Digest: dg("five")}}})
	l.command(&Command{Node: "m", Boot: 1, Seq: 1, Time: l.now})
	return l
}

func restore(t testing.TB, data []byte) *State {
	t.Helper()
	s, err := Restore(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSnapshotRoundTrip(t *testing.T) {
	l := summed(t)
	st := l.s.Stats()
	if st.Pins == 0 || st.Tombstones == 0 || st.Stale == 0 || st.Claims < 2 || st.Staged < 2 || st.Outcomes < 3 ||
		l.s.cursor == "" {
		t.Fatalf("the state of this test is not full: %+v", st)
	}
	data := snapshot(t, l.s)
	// However the bytes come, and with more behind them that are left alone.
	r := io.MultiReader(iotest.OneByteReader(bytes.NewReader(data)), strings.NewReader("more"))
	s, err := Restore(r)
	if err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(r); err != nil || string(rest) != "more" {
		t.Errorf("left %q, %v", rest, err)
	}
	if err := audit(s); err != nil {
		t.Error(err)
	}
	if s.Stats() != st || describe(s) != describe(l.s) || !bytes.Equal(snapshot(t, s), data) {
		t.Errorf("restored %+v\n%s", s.Stats(), describe(s))
	}
	if !bytes.Equal(snapshot(t, restore(t, snapshot(t, New()))), snapshot(t, New())) {
		t.Error("an empty state does not survive")
	}
}

// TestSnapshotMidLog cuts a log everywhere: snapshot, restore, continue, and compare the end with an uninterrupted run.
func TestSnapshotMidLog(t *testing.T) {
	l := full(t)
	want := snapshot(t, l.s)
	for cut := range l.entries {
		s := New()
		for i, e := range l.entries {
			if i == cut {
				s = restore(t, snapshot(t, s))
			}
			if r := s.Apply(uint64(i+1), e); r.Fatal != nil {
				t.Fatal(r.Fatal)
			}
		}
		if !bytes.Equal(snapshot(t, s), want) {
			t.Errorf("cut at %d", cut)
		}
	}
}

func TestSnapshotIsOfTheMomentItWasTaken(t *testing.T) {
	l := full(t)
	want := snapshot(t, l.s)
	snap := l.s.Snapshot()
	l.must(&Remove{Name: "."}, &DropStage{ID: "s"})
	l.must(&Expire{Now: 1 << 62}, &Collect{Digests: []Digest{dg("one"), dg("two"), dg("three")}})
	var buf bytes.Buffer
	if _, err := snap.WriteTo(&buf); err != nil || !bytes.Equal(buf.Bytes(), want) {
		t.Errorf("%v", err)
	}
}

func TestSnapshotOfManyFrames(t *testing.T) {
	s := New()
	fill(t, s, 10_000)
	data := snapshot(t, s)
	if len(data) < 3*frameWanted {
		t.Fatalf("only %d bytes", len(data))
	}
	if !bytes.Equal(snapshot(t, restore(t, data)), data) {
		t.Error("the restored state is another")
	}
	// Whole frames left out, doubled or exchanged have right lengths, and wrong sums.
	frames := split(t, data)
	i := 2
	for name, changed := range map[string][][]byte{
		"left out":  slices.Concat(frames[:i], frames[i+1:]),
		"doubled":   slices.Concat(frames[:i+1], frames[i:]),
		"exchanged": slices.Concat(frames[:i], [][]byte{frames[i+1], frames[i]}, frames[i+2:]),
	} {
		if _, err := Restore(bytes.NewReader(slices.Concat(changed...))); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// split returns the head and the frames of a snapshot.
func split(t testing.TB, data []byte) [][]byte {
	n := len(magic) + 1
	list := [][]byte{data[:n]}
	for data = data[n:]; len(data) > 0; data = data[n:] {
		n = 8 + int(binary.BigEndian.Uint32(data))
		list = append(list, data[:n])
	}
	return list
}

func TestDamagedSnapshots(t *testing.T) {
	data := snapshot(t, summed(t).s)
	for n := range data {
		s, err := Restore(bytes.NewReader(data[:n]))
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "cut short") || s != nil {
			t.Fatalf("%d of %d bytes: %v", n, len(data), err)
		}
	}
	for i := range data {
		changed := bytes.Clone(data)
		changed[i] ^= 0x10
		s, err := Restore(bytes.NewReader(changed))
		if err == nil || s != nil || !errors.Is(err, ErrDamaged) && i != len(magic) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
	broken := errors.New("the disk is broken")
	if _, err := Restore(io.MultiReader(bytes.NewReader(data[:100]), iotest.ErrReader(broken))); !errors.Is(err,
		broken) || errors.Is(err, ErrDamaged) {
		t.Errorf("a reader's error became %v", err)
	}
	for n := range 3 {
		if _, err := full(t).s.WriteTo(&fails{after: n, err: broken}); !errors.Is(err, broken) {
			t.Errorf("a writer's error became %v", err)
		}
	}
}

type fails struct {
	after int
	err   error
}

func (f *fails) Write(p []byte) (int, error) {
	if f.after--; f.after < 0 {
		return 0, f.err
	}
	return len(p), nil
}

// forge writes a snapshot with right checksums of records that it is given.
func forge(t testing.TB, sections ...any) []byte {
	f := &frames{}
	var buf bytes.Buffer
	f.w = &buf
	f.write([]byte(magic + "\x01"))
	for _, v := range sections {
		switch v := v.(type) {
		case byte:
			f.section(v)
		case []byte:
			f.buf = append(f.buf, v...)
		default:
			f.record(v)
		}
	}
	f.flush()
	if f.err != nil {
		t.Fatal(f.err)
	}
	return buf.Bytes()
}

// TestForgedSnapshots holds that right checksums are not enough: what does not fit together is refused.
func TestForgedSnapshots(t *testing.T) {
	head := func(h snapHead) *snapHead { h.Index, h.Format = 9, 1; return &h }
	one := &snapBlob{Digest: dg("one"), Size: 3, Born: 1}
	link := func(rest string) *snapNode {
		return &snapNode{Rest: rest, Kind: 2, Version: 2, Body: string(dg("one"))}
	}
	good := []any{secHead, head(snapHead{Blobs: 1, Names: 1, Nodes: 1}), secBlobs, one, secNames, link("a"), secEnd}
	if s := restore(t, forge(t, good...)); names(s) != "a=<one>" {
		t.Fatal(names(s))
	}
	names := func(list ...any) []any {
		return slices.Concat([]any{secHead, head(snapHead{Blobs: 1, Names: 2, Nodes: 2}), secBlobs, one, secNames},
			list, []any{secEnd})
	}
	claimed := func(n *snapNode, claim string) *snapNode { n.Claim = claim; return n }
	for what, sections := range map[string][]any{
		"no header":         {secBlobs, one, secEnd},
		"header later":      {secBlobs, secHead, head(snapHead{}), secEnd},
		"two headers":       {secHead, head(snapHead{}), head(snapHead{}), secEnd},
		"no format":         {secHead, &snapHead{Index: 9}, secEnd},
		"floor above index": {secHead, head(snapHead{Floor: 10}), secEnd},
		"too few blobs":     {secHead, head(snapHead{Blobs: 2}), secBlobs, one, secEnd},
		"too many claims": {secHead, head(snapHead{Blobs: 1, Names: 1}), secBlobs, one, secNames, link("a"),
			secEnd},
		"sections out of order": {secHead, head(snapHead{Blobs: 1}), secNames, secBlobs, one, secEnd},
		"unknown section":       {secHead, head(snapHead{}), secEnd + 1},
		"something in the end":  {secHead, head(snapHead{}), secEnd, one},
		"no CBOR":               {secHead, head(snapHead{Blobs: 1}), secBlobs, []byte{0xff}, secEnd},
		"another record":        {secHead, head(snapHead{Blobs: 1}), secBlobs, link("a"), secEnd},
		"blob of the future": {secHead, head(snapHead{Blobs: 1}), secBlobs, &snapBlob{Digest: dg("one"), Born: 10},
			secEnd},
		"blob of no size": {secHead, head(snapHead{Blobs: 1}), secBlobs, &snapBlob{Digest: dg("one"), Size: -1},
			secEnd},
		"blob of no digest": {secHead, head(snapHead{Blobs: 1}), secBlobs, &snapBlob{Digest: "\x01"}, secEnd},
		"blob of a negative pin": {secHead, head(snapHead{Blobs: 1}), secBlobs, &snapBlob{Digest: dg("one"), Pin: -1},
			secEnd},
		"blob twice": {secHead, head(snapHead{Blobs: 2}), secBlobs, one, one, secEnd},
		"tombstone of the known": {secHead, head(snapHead{Blobs: 1, Tombs: 1}), secBlobs, one, secTombs,
			&snapTomb{Digest: dg("one"), Index: 1}, secEnd},
		"tombstone to come": {secHead, head(snapHead{Tombs: 1}), secTombs, &snapTomb{Digest: dg("one"), Index: 10},
			secEnd},
		"names out of order":  names(link("b"), link("a")),
		"name twice":          names(link("a"), link("a")),
		"file in a file":      names(link("a"), link("a\x00b")),
		"bad name":            names(link("a"), link("b\x00..")),
		"no name":             names(link(""), link("b")),
		"shares too much":     names(link("a"), &snapNode{Shared: 2, Kind: 1, Version: 1}),
		"name of the future":  names(link("a"), &snapNode{Rest: "b", Kind: 1, Version: 10}),
		"link to the unknown": names(link("a"), &snapNode{Rest: "b", Kind: 2, Version: 1, Body: string(dg("two"))}),
		"hold of the unknown": names(link("a"), &snapNode{Rest: "b", Kind: 2, Version: 1, Body: string(dg("one")),
			Holds: string(dg("two"))}),
		"hold of no digest": names(link("a"), &snapNode{Rest: "b", Kind: 2, Version: 1, Body: string(dg("one")),
			Holds: "\x02x"}),
		"link to no digest": names(link("a"), &snapNode{Rest: "b", Kind: 3, Version: 1, Body: "x"}),
		"long record": names(link("a"), &snapNode{Rest: "b", Kind: 1, Version: 1,
			Body: strings.Repeat("x", MaxRecord+1)}),
		"unknown kind": names(link("a"), &snapNode{Rest: "b", Kind: 9, Version: 1}),
		"bad claim":    names(link("a"), claimed(link("b"), "\x00")),
		"claim twice":  names(claimed(link("a"), "i"), &snapNode{Shared: 1, Kind: 1, Version: 1, Claim: "i"}),
		"bad stage":    {secHead, head(snapHead{Stages: 1}), secStages, &snapStage{}, secEnd},
		"edit without a stage": {secHead, head(snapHead{Staged: 1}), secStaged,
			&snapStaged{ID: "s", Op: unchecked(t, &Put{Name: "a"})[8:]}, secEnd},
		"edit out of number": {secHead, head(snapHead{Stages: 1, Staged: 1}), secStages, &snapStage{ID: "s"},
			secStaged, &snapStaged{ID: "s"}, secEnd},
		"edits left out": {secHead, head(snapHead{Stages: 1}), secStages, &snapStage{ID: "s", Next: 1}, secEnd},
		"version 0":      names(link("a"), &snapNode{Rest: "b", Kind: 1}),
		"bad node":       {secHead, head(snapHead{Sessions: 1}), secSessions, &snapSession{}, secEnd},
		"outcome alone": {secHead, head(snapHead{Outcome: 1}), secOutcomes, &snapOutcome{Node: "n", Seq: 1},
			secEnd},
		"outcome finished": {secHead, head(snapHead{Sessions: 1, Outcome: 1}), secSessions,
			&snapSession{Node: "n", Finished: 1}, secOutcomes, &snapOutcome{Node: "n", Seq: 1}, secEnd},
		"outcome of no error": {secHead, head(snapHead{Sessions: 1, Outcome: 1}), secSessions, &snapSession{Node: "n"},
			secOutcomes, &snapOutcome{Node: "n", Seq: 1, Err: &Error{}}, secEnd},
	} {
		if s, err := Restore(bytes.NewReader(forge(t, sections...))); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v, %v", what, s, err)
		}
	}
	for _, op := range []Op{&Expire{}, &Link{Name: "a", Digest: dg("two")}, &Put{Name: "../a"}} {
		body, err := appendOps(nil, []Op{op})
		if err != nil {
			t.Fatal(err)
		}
		data := forge(t, secHead, head(snapHead{Stages: 1, Staged: 1}), secStages, &snapStage{ID: "s", Next: 1},
			secStaged, &snapStaged{ID: "s", Op: body}, secEnd)
		if s, err := Restore(bytes.NewReader(data)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%T staged: %v, %v", op, s, err)
		}
	}
}

// TestForgedEvents holds that an event which cannot be one is refused, although its checksum is right: each reader of
// the log parses it.
func TestForgedEvents(t *testing.T) {
	data := snapshot(t, eventful(t).s)
	for what, change := range map[string][2]string{
		"another number":  {`{"n":21,`, `{"n":22,`},
		"no object":       {`{"n":21,`, `["n":21,`},
		"no time":         {`{"n":21,"time":"`, `{"n":21,"tame":"`},
		"a string open":   {`Z","index":35,`, `Z,,,index":35,`},
		"two values":      {`"object":"e","outcome"`, `"object":"e"}"outcome"`},
		"a control byte":  {`"actor":"bob"`, "\"actor\":\"b\x00b\""},
		"an open bracket": {`a directory"}`, `a directory"]`},
	} {
		forged := bytes.Replace(data, []byte(change[0]), []byte(change[1]), 1)
		if len(forged) != len(data) || bytes.Equal(forged, data) {
			t.Fatalf("%s: the snapshot has no %q", what, change[0])
		}
		if s, err := Restore(bytes.NewReader(resum(forged))); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v, %v", what, s, err)
		}
	}
}

func TestNewerSnapshotsAreRefused(t *testing.T) {
	data := snapshot(t, New())
	data[len(magic)] = holdVersion + 1
	for what, data := range map[string][]byte{
		"snapshot version 5": data,
		"format 5":           forge(t, secHead, &snapHead{Index: 1, Format: MaxFormat + 1}, secEnd),
	} {
		_, err := Restore(bytes.NewReader(data))
		if err == nil || errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), what) ||
			!strings.Contains(err.Error(), "install the newer casemate") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// FuzzRestore changes snapshots, once with checksums left wrong and once with checksums made right again: no bytes may
// make it panic, and what is accepted keeps every rule of the state and is written again as it was read.
func FuzzRestore(f *testing.F) {
	data := snapshot(f, full(f).s)
	f.Add(data)
	f.Add(snapshot(f, New()))
	f.Add(snapshot(f, eventful(f).s))
	for _, frame := range split(f, data) {
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, data := range [][]byte{data, resum(data)} {
			s, err := Restore(bytes.NewReader(data))
			if err != nil {
				continue
			}
			if err := audit(s); err != nil {
				t.Fatal(err)
			}
			again := restore(t, snapshot(t, s))
			if describe(again) != describe(s) {
				t.Fatal(fmt.Sprintln(describe(again), describe(s)))
			}
			s.Apply(s.Index()+1, unchecked(t, &DropClaims{Claim: "i"}, &Sweep{Limit: 100}, &Expire{Now: 1 << 62},
				&Remove{Name: "."}))
			if err := audit(s); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// resum makes the checksums of a snapshot right.
func resum(data []byte) []byte {
	data = bytes.Clone(data)
	var crc uint32
	for p := len(magic) + 1; p+8 <= len(data); {
		n := int(binary.BigEndian.Uint32(data[p:]))
		if n > len(data)-p-8 {
			break
		}
		crc = crc32.Update(crc, crcTable, data[p+4:p+4+n])
		binary.BigEndian.PutUint32(data[p+4+n:], crc)
		p += 8 + n
	}
	return data
}

// Restoring a snapshot makes little garbage: a start collects often, to stay small, and so pays for each allocation.
func TestRestoreAllocatesLittle(t *testing.T) {
	const names = 20_000
	s := New()
	fill(t, s, names)
	var snapshot bytes.Buffer
	if _, err := s.WriteTo(&snapshot); err != nil {
		t.Fatal(err)
	}
	per := testing.AllocsPerRun(2, func() {
		if _, err := Restore(bytes.NewReader(snapshot.Bytes())); err != nil {
			t.Fatal(err)
		}
	}) / names
	// The key of a name, the digest of a blob, and a share of their blocks, which hold a dozen or two each.
	if per > 3 {
		t.Errorf("%.1f allocations for a name and its blob, want at most 3", per)
	}
}

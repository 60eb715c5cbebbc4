package state

import (
	"bytes"
	"testing"
)

// summed is full in a cluster that has gone to the format with sums before anything else.
func summed(t testing.TB) *log {
	l := newLog(t)
	l.must(&SetFormat{Version: sumFormat})
	for _, e := range full(t).entries {
		c, err := Decode(e, 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, op := range c.Ops {
			if a, ok := op.(*AddBlob); ok && a.Confirmed > 0 {
				a.Confirmed++ // one entry more
			}
		}
		l.command(c)
	}
	return l
}

// The sum differs exactly if an entry, its outcome or the state before it differs.
func TestSumTellsReplicasApart(t *testing.T) {
	l := summed(t)
	feed := func(entries [][]byte) []Sum {
		s := New()
		var sums []Sum
		for i, e := range entries {
			if r := s.Apply(uint64(i+1), e); r.Fatal != nil {
				t.Fatal(r.Fatal)
			}
			sums = append(sums, s.Sum())
		}
		return sums
	}
	whole := feed(l.entries)
	seen := map[Sum]bool{{}: true}
	for i, sum := range whole {
		if seen[sum] {
			t.Errorf("entry %d has the sum of another or none", i+1)
		}
		seen[sum] = true
	}
	// One bit of a record's bytes, which nothing else minds.
	changed := append([][]byte{}, l.entries...)
	at := -1
	for i, e := range changed {
		if j := bytes.Index(e, []byte("a/bc\x41y")); at < 0 && j >= 0 {
			at, changed[i] = i, bytes.Clone(e)
			changed[i][j+5] ^= 1
		}
	}
	if at < 0 {
		t.Fatal("no record to change")
	}
	for i, sum := range feed(changed) {
		if (sum == whole[i]) != (i < at) {
			t.Errorf("entry %d of a log whose entry %d was changed: the same sum %v", i+1, at+1, sum == whole[i])
		}
	}
	// Of what differed before, the first sum knows.
	a, b := newLog(t), newLog(t)
	a.must(&Put{Name: "x", Data: []byte("1")})
	b.must(&Put{Name: "x", Data: []byte("2")})
	for _, l := range []*log{a, b} {
		if l.s.Sum() != (Sum{}) {
			t.Error("a sum before its format")
		}
		l.must(&SetFormat{Version: sumFormat})
	}
	if a.s.Sum() == b.s.Sum() {
		t.Error("states that differed before have the same sum")
	}
}

// A snapshot carries the sum on, and one of a cluster that is at format 1 stays as an older program knows it.
func TestSumInSnapshots(t *testing.T) {
	l := summed(t)
	half := len(l.entries) / 2
	whole, again := New(), New()
	for i, e := range l.entries {
		whole.Apply(uint64(i+1), e)
		again.Apply(uint64(i+1), e)
		if i == half {
			again = restore(t, snapshot(t, again))
		}
	}
	if whole.Sum() != again.Sum() || whole.Sum() == (Sum{}) {
		t.Errorf("sums %s and, over a snapshot, %s", whole.Sum(), again.Sum())
	}
	if data := snapshot(t, whole); data[len(magic)] != sumVersion {
		t.Error("a snapshot with a sum says the old version")
	}
	if data := snapshot(t, full(t).s); data[len(magic)] != plainVersion {
		t.Error("a snapshot of format 1 says a version that an older program does not know")
	}
}

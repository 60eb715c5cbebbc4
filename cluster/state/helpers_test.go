package state

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"casemate/cluster/merkle"
)

// log is a log that feeds one state.
type log struct {
	tb      testing.TB
	s       *State
	entries [][]byte
	now     int64
}

func newLog(tb testing.TB) *log { return &log{tb: tb, s: New()} }

// do appends a command without a session and applies it; it must be understood.
func (l *log) do(ops ...Op) Result {
	l.tb.Helper()
	l.now += int64(time.Second)
	return l.command(&Command{Time: l.now, Ops: ops})
}

func (l *log) command(c *Command) Result {
	l.tb.Helper()
	data, err := c.Encode()
	if err != nil {
		l.tb.Fatalf("encode: %v", err)
	}
	l.entries = append(l.entries, data)
	r := l.s.Apply(uint64(len(l.entries)), data)
	if r.Fatal != nil {
		l.tb.Fatalf("fatal: %v", r.Fatal)
	}
	if err := audit(l.s); err != nil {
		l.tb.Fatalf("after entry %d: %v", len(l.entries), err)
	}
	return r
}

// must is do for a command that has to succeed.
func (l *log) must(ops ...Op) Result {
	l.tb.Helper()
	r := l.do(ops...)
	if r.Err != nil {
		l.tb.Fatalf("refused: %v", r.Err)
	}
	return r
}

// refused is do for a command that has to be refused with the code, and must leave everything but the index as it was.
func (l *log) refused(code Code, ops ...Op) *Error {
	l.tb.Helper()
	before := l.s.Clone()
	r := l.do(ops...)
	var e *Error
	if !errors.As(r.Err, &e) || e.Code != code {
		l.tb.Fatalf("got %v, want code %d (%v)", r.Err, code, sentinels[code])
	}
	before.index, before.sum = l.s.index, l.s.sum
	if !bytes.Equal(snapshot(l.tb, before), snapshot(l.tb, l.s)) {
		l.tb.Fatalf("a refused command changed the state: %v", e)
	}
	if r.Changed != nil || r.Appeared != nil || r.Vanished != nil || r.Added != nil || r.Collected != nil {
		l.tb.Fatalf("a refused command reports changes: %+v", r)
	}
	return e
}

// blob makes blobs known, unpinned, and returns their digests.
func (l *log) blob(seeds ...string) []Digest {
	l.tb.Helper()
	var list []Digest
	for _, seed := range seeds {
		l.must(&AddBlob{Digest: dg(seed), Size: int64(len(seed)), Confirmed: l.s.Index()})
		list = append(list, dg(seed))
	}
	return list
}

// names returns the visible files as "name=what", in the order of Walk.
func names(s *State) string {
	var list []string
	for n, e := range s.Walk(".", "") {
		list = append(list, n+"="+what(e))
	}
	return strings.Join(list, " ")
}

// what is the content of an entry made by these tests: the record, or the seed of the blob.
func what(e Entry) string {
	if e.Digest == "" {
		return e.Data
	}
	for _, seed := range seeds {
		if dg(seed) == e.Digest {
			return "<" + seed + ">"
		}
	}
	return e.Digest.String()
}

var seeds = []string{"one", "two", "three", "four", "five", "six"}

// dg is the digest of seed; every third one of the seeds is a sha512.
func dg(seed string) Digest {
	if i := slices.Index(seeds, seed); i >= 0 && i%3 == 2 {
		sum := sha512.Sum512([]byte(seed))
		return Digest("\x02" + string(sum[:]))
	}
	sum := sha256.Sum256([]byte(seed))
	return Digest("\x01" + string(sum[:]))
}

func snapshot(tb testing.TB, s *State) []byte {
	tb.Helper()
	var buf bytes.Buffer
	n, err := s.WriteTo(&buf)
	if err != nil || n != int64(buf.Len()) {
		tb.Fatalf("snapshot: %d bytes of %d: %v", n, buf.Len(), err)
	}
	return buf.Bytes()
}

// audit counts everything that the state keeps count of again, from the names up.
func audit(s *State) error {
	type refs struct{ strong, weak uint32 }
	want := map[Digest]refs{}
	claims := map[string]int{}
	weaks, stale := 0, 0
	keep := func(d Digest) {
		r := want[d]
		r.strong++
		want[d] = r
	}
	var bad error
	fail := func(format string, args ...any) {
		if bad == nil {
			bad = fmt.Errorf("audit: "+format, args...)
		}
	}
	last := ""
	s.names.from("", func(k string, n *node) bool {
		if !validName(nameOf(k)) || last != "" && strings.HasPrefix(k, last+"\x00") {
			fail("key %q behind %q", k, last)
		}
		last = k
		seen := map[string]bool{}
		for ; n != nil; n = n.older {
			if seen[n.claim] {
				fail("%q has the claim %q twice", k, n.claim)
			}
			seen[n.claim] = true
			if n.version == 0 || n.version > s.index {
				fail("%q is at version %d", k, n.version)
			}
			if n.claim != "" {
				claims[n.claim]++
			}
			switch n.kind {
			case strong:
				keep(Digest(n.body))
				n.holds.each(keep)
			case weak:
				weaks++
				if s.alive(n) {
					r := want[Digest(n.body)]
					r.weak++
					want[Digest(n.body)] = r
				} else {
					stale++
				}
			}
		}
		return true
	})
	edits := map[string]uint64{}
	s.staged.from("", func(k string, op Op) bool {
		id, number := splitKey(k)
		edits[id]++
		if st, ok := s.stages.get(id); !ok || number >= st.next {
			fail("edit %d of stage %q", number, id)
		}
		op.(staging).keeps(keep)
		return true
	})
	s.stages.from("", func(id string, st stage) bool {
		if edits[id] != st.next {
			fail("stage %q has %d edits and says %d", id, edits[id], st.next)
		}
		return true
	})
	seenClaims := map[string]bool{}
	for id, h := range s.holds() {
		if _, ok := s.stages.get(id); !ok || seenClaims[h.claim] || s.format < holdFormat {
			fail("stage %q is held for %q", id, h.claim)
		}
		seenClaims[h.claim] = true
	}
	tree, n := s.sealed, s.sealed.Size()
	s.events.from("", func(k, line string) bool {
		begin := fmt.Sprintf(`{"n":%d,"time":"`, n)
		if k != eventKey(n) || !strings.HasPrefix(line, begin) || !json.Valid([]byte(line)) ||
			len(line) > maxEventLine {
			fail("event %d is %q at %q", n, line, k)
		}
		tree, n = tree.Add(merkle.LeafHash([]byte(line))), n+1
		return true
	})
	if tree.Root() != s.recorded.Root() || n != s.recorded.Size() || s.format < eventFormat && n > 0 {
		fail("%d events have the root %s, the state says %d and %s", n, tree.Root(), s.recorded.Size(),
			s.recorded.Root())
	}
	var bytes int64
	pins := 0
	s.blobs.from("", func(d Digest, b blob) bool {
		bytes += b.size
		if r := want[d]; r.strong != b.strong || r.weak != b.weak {
			fail("blob %s has %d strong and %d weak references and says %d and %d", d, r.strong, r.weak,
				b.strong, b.weak)
		}
		delete(want, d)
		if b.pin != 0 {
			pins++
			if _, ok := s.pins.get(pinKey(b.pin, d)); !ok {
				fail("the pin of %s is not listed", d)
			}
		}
		if _, ok := s.tombs.get(d); ok {
			fail("%s is known and has a tombstone", d)
		}
		return true
	})
	if len(want) != 0 {
		fail("%d blobs are needed and not known", len(want))
	}
	if weaks != s.weak || stale != s.stale || bytes != s.bytes || pins != s.pins.len() {
		fail("weak %d, stale %d, bytes %d, pins %d; the state says %d, %d, %d, %d", weaks, stale, bytes, pins, s.weak,
			s.stale, s.bytes, s.pins.len())
	}
	if got := maps.Collect(s.Claims()); !maps.Equal(got, claims) {
		fail("claims %v, the state says %v", claims, got)
	}
	open := map[string]int{}
	s.outcomes.from("", func(k string, _ *outcome) bool {
		node, seq := splitKey(k)
		open[node]++
		if se, ok := s.sessions.get(node); !ok || seq <= se.finished {
			fail("outcome %d of %q", seq, node)
		}
		return true
	})
	s.sessions.from("", func(node string, se session) bool {
		if se.open != open[node] || se.open > MaxOutcomes {
			fail("node %q has %d outcomes and says %d", node, open[node], se.open)
		}
		return true
	})
	for _, undo := range []int{len(s.names.blocks.undo), len(s.blobs.blocks.undo), len(s.pins.blocks.undo),
		len(s.tombs.blocks.undo), len(s.claims.undo),
		len(s.stages.undo), len(s.staged.undo), len(s.held.undo), len(s.sessions.undo), len(s.outcomes.undo)} {
		if undo != 0 {
			fail("an undo list was left behind")
		}
	}
	return bad
}

package state

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"

	"casemate/cluster/merkle"
)

// loader builds a state from the records of a snapshot. They come in the order of the tables, so each table is packed
// from its beginning to its end. Only the blobs are kept aside first, to count their references, which follow with the
// names.
type loader struct {
	s        *State
	version  byte
	head     snapHead
	sec      byte
	blobs    [2]ranks // by algorithm
	tombs    packer[Digest, uint64]
	names    packer[string, *node]
	key      string   // of the current name
	chain    []*node  // its claims so far, newest first; behind its end are nodes to use again
	whole    string   // the current frame
	scan     scan     // of a record
	readBlob snapBlob // buffers for a record
	readNode snapNode
	claims   map[string]int
	edits    map[string]uint64 // of each stage so far
	events   *snapEvents       // nil before the section of events
	approval *snapApproval     // nil before the section of held stages
}

func newLoader(version byte) *loader {
	l := &loader{s: New(), version: version, claims: map[string]int{}, edits: map[string]uint64{}}
	l.blobs[0].width, l.blobs[1].width = sha256Len, sha512Len
	l.tombs.t, l.names.t = &l.s.tombs, &l.s.names
	return l
}

// ranks are the blobs of one algorithm in the order of their digests. They are stored on shelves, each of which is
// filled before the next one begins, so no data is copied to grow a slice, and memory is not allocated by an unverified
// count in the header.
type ranks struct {
	width   int // of a sum
	n       int
	shelves []shelf
	first   []int // index of the first sum with these two leading bytes; made at the first look-up
}

type shelf struct {
	sums  []byte
	blobs []blob
}

const shelfLen = 1 << 14

func (r *ranks) sum(i int) []byte {
	at := i % shelfLen * r.width
	return r.shelves[i/shelfLen].sums[at : at+r.width]
}

func (r *ranks) at(i int) *blob { return &r.shelves[i/shelfLen].blobs[i%shelfLen] }

// add reports whether the digest is greater than all before it.
func (r *ranks) add(d Digest, b blob) bool {
	if r.n > 0 && string(r.sum(r.n-1)) >= string(d[1:]) {
		return false
	}
	if r.n%shelfLen == 0 {
		r.shelves = append(r.shelves, shelf{})
	}
	s := &r.shelves[len(r.shelves)-1]
	s.sums, s.blobs = append(s.sums, d[1:]...), append(s.blobs, b)
	r.n++
	return true
}

func (r *ranks) find(sum string) *blob {
	if r.first == nil && r.n > 0 {
		r.first = make([]int, 1, 1<<16+1)
		for i := range r.n {
			for s := r.sum(i); len(r.first) <= int(s[0])<<8|int(s[1]); {
				r.first = append(r.first, i)
			}
		}
		for len(r.first) < cap(r.first) {
			r.first = append(r.first, r.n)
		}
	}
	if r.n == 0 {
		return nil
	}
	prefix := int(sum[0])<<8 | int(sum[1])
	low, high := r.first[prefix], r.first[prefix+1]
	for low < high {
		if middle := (low + high) / 2; string(r.sum(middle)) < sum {
			low = middle + 1
		} else {
			high = middle
		}
	}
	if low == r.n || string(r.sum(low)) != sum {
		return nil
	}
	return r.at(low)
}

// blob returns the current record of a valid digest, nil if the blob is unknown.
func (l *loader) blob(d Digest) *blob { return l.blobs[d[0]-sha256Tag].find(string(d[1:])) }

// keep counts a strong reference and reports whether the blob is known.
func (l *loader) keep(d Digest) bool {
	b := l.blob(d)
	if b == nil {
		return false
	}
	b.strong++
	return true
}

func (l *loader) frame(p []byte) error {
	l.whole = string(p) // one copy for the texts of all records; what outlives the frame's records is copied again
	sec, p := p[0], p[1:]
	if place(sec) < place(l.sec) || sec > secHeld || sec == secEvents && l.version < eventVersion ||
		sec == secHeld && l.version < holdVersion || l.sec == 0 && sec != secHead || sec == secEnd && len(p) != 0 {
		return damaged("section %d after section %d", sec, l.sec)
	}
	l.sec = sec
	for len(p) > 0 {
		rest, err := l.record(sec, p)
		if err != nil {
			return err
		}
		p = rest
	}
	return nil
}

// place is a section's position in the order of the sections.
func place(sec byte) int {
	if sec == secEnd {
		return 1 << 8
	}
	return int(sec)
}

// read reads a record at p, the end of the current frame.
func read[T any](l *loader, p []byte, v *T, use func(*T) string) (rest []byte, err error) {
	s := &l.scan
	*s = scan{p: p, whole: l.whole, odd: true}
	if short, ok := any(v).(interface{ scan(*scan) }); ok {
		s.odd = false
		short.scan(s)
	}
	if s.odd {
		*v = *new(T)
		if s.p, err = decMode.UnmarshalFirst(p, v); err != nil {
			return nil, damaged("%v", err)
		}
	}
	if wrong := use(v); wrong != "" {
		return nil, damaged("%s", wrong)
	}
	return s.p, nil
}

func (l *loader) record(sec byte, p []byte) ([]byte, error) {
	s := l.s
	switch sec {
	case secHead:
		rest, err := l.readHead(p)
		if err == nil && l.head.Format > MaxFormat {
			return nil, fmt.Errorf("the snapshot is of format %d, this program understands up to %d: install the "+
				"newer casemate on this node", l.head.Format, MaxFormat)
		}
		return rest, err
	case secBlobs:
		return read(l, p, &l.readBlob, l.useBlob)
	case secTombs:
		return read(l, p, new(snapTomb), func(t *snapTomb) string {
			if !t.Digest.valid() || l.blob(t.Digest) != nil || t.Index > s.index || l.tombs.t.len() > 0 &&
				l.tombs.last >= string(t.Digest) {
				return "a tombstone that cannot be"
			}
			l.tombs.add(t.Digest, t.Index)
			return ""
		})
	case secNames:
		return read(l, p, &l.readNode, l.useNode)
	case secStages:
		return read(l, p, new(snapStage), func(st *snapStage) string {
			if !ValidID(st.ID) {
				return "the id of a stage"
			}
			s.stages.m.Set(st.ID, stage{until: st.Until, next: st.Next})
			return ""
		})
	case secStaged:
		return read(l, p, new(snapStaged), l.useStaged)
	case secSessions:
		return read(l, p, new(snapSession), func(se *snapSession) string {
			if !ValidID(se.Node) {
				return "the name of a node"
			}
			s.sessions.m.Set(se.Node, session{boot: se.Boot, finished: se.Finished})
			return ""
		})
	case secOutcomes:
		return read(l, p, new(snapOutcome), l.useOutcome)
	case secEvents:
		if l.events == nil {
			return read(l, p, new(snapEvents), l.beginEvents)
		}
		return read(l, p, new(string), l.useEvent)
	case secHeld:
		if l.approval == nil {
			return read(l, p, new(snapApproval), l.useApproval)
		}
		return read(l, p, new(snapHold), l.useHold)
	}
	return nil, damaged("section %d", sec)
}

func (l *loader) useApproval(g *snapApproval) string {
	l.approval, l.s.approval = g, g.On
	return ""
}

func (l *loader) useHold(h *snapHold) string {
	if _, ok := l.s.stages.get(h.ID); !ok || !ValidID(h.Claim) || !ValidID(h.Content) || !ValidID(h.Maker) {
		return "a held stage that cannot be"
	}
	l.s.held.m.Set(h.ID, hold{claim: h.Claim, content: h.Content, maker: h.Maker, made: h.Made})
	return ""
}

func (l *loader) readHead(p []byte) ([]byte, error) {
	if l.version == plainVersion {
		return read(l, p, &l.head, l.useHead)
	}
	return read(l, p, new(snapHeadSum), func(h *snapHeadSum) string {
		l.head = h.plain()
		if len(h.Sum) != len(l.s.sum) || bytes.Equal(h.Sum, make([]byte, len(h.Sum))) || h.Format < sumFormat {
			return "a header with a wrong sum"
		}
		copy(l.s.sum[:], h.Sum)
		return l.useHead(&l.head)
	})
}

func (l *loader) useHead(h *snapHead) string {
	if l.s.index != 0 || h.Format == 0 || h.Floor > h.Index ||
		h.Format <= MaxFormat && l.version != versionOf(h.Format) {
		return "a second or wrong header"
	}
	l.s.index, l.s.format, l.s.floor, l.s.cursor = h.Index, h.Format, h.Floor, h.Cursor
	return ""
}

func (l *loader) useBlob(b *snapBlob) string {
	s := l.s
	if !b.Digest.valid() || b.Size < 0 || b.Size > math.MaxInt64-s.bytes || b.Born > s.index || b.Pin < 0 {
		return "a blob that cannot be"
	}
	if !l.blobs[b.Digest[0]-sha256Tag].add(b.Digest, blob{size: b.Size, born: b.Born, pin: b.Pin}) {
		return "a blob out of order"
	}
	s.bytes += b.Size
	return ""
}

func (l *loader) useNode(r *snapNode) string {
	s := l.s
	if r.Shared > uint64(len(l.key)) {
		return "a name that shares more than the previous name has"
	}
	key := l.key[:r.Shared] + r.Rest
	if key != l.key || len(l.chain) == 0 {
		l.flushName()
		if !validKey(key, int(r.Shared)) || key <= l.key || below(key, l.key) {
			return fmt.Sprintf("the name %q at that place", short(nameOf(key)))
		}
		l.key = key
	}
	if r.Version == 0 || r.Version > s.index || r.Born > s.index || r.Claim != "" && !ValidID(r.Claim) {
		return fmt.Sprintf("a wrong record of the name %q", short(nameOf(key)))
	}
	n := l.next()
	*n = node{version: r.Version, mod: r.Mod, body: r.Body, holds: digests(r.Holds), claim: r.Claim, born: r.Born,
		kind: kind(r.Kind)}
	ok := false
	switch n.kind {
	case record:
		ok = len(n.body) <= MaxRecord && n.holds == "" && n.born == 0
	case strong:
		ok = Digest(n.body).valid() && n.holds.valid() && n.born == 0 && l.keep(Digest(n.body))
		if ok {
			n.holds.each(func(d Digest) { ok = l.keep(d) && ok })
		}
	case weak:
		if ok = Digest(n.body).valid() && n.holds == ""; !ok {
			break
		}
		s.weak++
		if b := l.blob(Digest(n.body)); b != nil && b.born == n.born {
			b.weak++
		} else {
			s.stale++
		}
	}
	for _, c := range l.chain {
		ok = ok && c.claim != n.claim
	}
	if !ok || len(l.chain) >= MaxClaims {
		return fmt.Sprintf("a wrong record of the name %q", short(nameOf(key)))
	}
	if _, known := l.claims[n.claim]; known {
		l.claims[n.claim]++
	} else if n.claim != "" {
		l.claims[strings.Clone(n.claim)] = 1
	}
	s.nodes++
	l.chain = append(l.chain, n)
	return ""
}

// next returns the node that the chain is to be extended with. The table copies what a node holds, so that a few nodes
// serve for all names.
func (l *loader) next() *node {
	if n := len(l.chain); n < cap(l.chain) {
		if old := l.chain[:n+1][n]; old != nil {
			return old
		}
	}
	return new(node)
}

// below reports whether key is that of a name in the directory dir.
func below(key, dir string) bool {
	return dir != "" && len(key) > len(dir) && key[len(dir)] == 0 && key[:len(dir)] == dir
}

// flushName puts the completed name into the table.
func (l *loader) flushName() {
	if len(l.chain) == 0 {
		return
	}
	for i, n := range l.chain[1:] {
		l.chain[i].older = n
	}
	l.names.add(l.key, l.chain[0])
	l.chain = l.chain[:0]
}

func (l *loader) useStaged(r *snapStaged) string {
	s := l.s
	st, ok := s.stages.get(r.ID)
	if !ok || r.Number >= st.next || r.Number != l.edits[r.ID] {
		return "a staged edit that does not follow the one before"
	}
	l.edits[r.ID]++
	ops, err := decodeOps(r.Op, 1, s.format, true)
	if err != nil {
		return err.Error()
	}
	op, ok := ops[0].(staging)
	if !ok || op.check() != nil {
		return "an edit that cannot be staged"
	}
	op.keeps(func(d Digest) { ok = l.keep(d) && ok })
	if !ok {
		return "a staged edit of an unknown blob"
	}
	s.staged.m.Set(stagedKey(r.ID, r.Number), op)
	return ""
}

func (l *loader) useOutcome(r *snapOutcome) string {
	s := l.s
	se, ok := s.sessions.get(r.Node)
	if !ok || r.Seq <= se.finished || r.Index > s.index {
		return "an outcome without its session"
	}
	if r.Err != nil && sentinels[r.Err.Code] == nil {
		return "an unknown error code"
	}
	if se.open++; se.open > MaxOutcomes {
		return "too many outcomes"
	}
	s.sessions.m.Set(r.Node, se)
	s.outcomes.m.Set(outcomeKey(r.Node, r.Seq), &outcome{index: r.Index, err: r.Err})
	return ""
}

func (l *loader) beginEvents(e *snapEvents) string {
	sealed, err := merkle.Parse(e.Sealed, e.Peaks)
	if err != nil {
		return err.Error()
	}
	l.events, l.s.sealed, l.s.recorded = e, sealed, sealed
	return ""
}

// useEvent hashes the event again, like references are counted again.
func (l *loader) useEvent(line *string) string {
	s := l.s
	if !isEventLine(*line, s.recorded.Size()) {
		return fmt.Sprintf("an event %d that is no event", s.recorded.Size())
	}
	s.events.m.Set(eventKey(s.recorded.Size()), *line)
	s.recorded = s.recorded.Add(merkle.LeafHash([]byte(*line)))
	return ""
}

// finish compares the tables with the counts in the header.
func (l *loader) finish() error {
	l.flushName()
	l.names.flush()
	l.tombs.flush()
	l.packBlobs()
	for id, names := range l.claims {
		l.s.claims.m.Set(id, claim{names: names})
	}
	s, h := l.s, l.head
	for _, c := range []struct {
		what string
		want uint64
		got  int
	}{
		{"blobs", h.Blobs, s.blobs.len()}, {"tombstones", h.Tombs, s.tombs.len()}, {"names", h.Names, s.names.len()}, {
			"claims", h.Nodes, s.nodes},
		{"stages", h.Stages, s.stages.len()}, {"staged edits", h.Staged, s.staged.len()}, {
			"sessions", h.Sessions, s.sessions.len()},
		{"outcomes", h.Outcome, s.outcomes.len()},
	} {
		if c.want != uint64(c.got) {
			return damaged("it has %d %s instead of %d", c.got, c.what, c.want)
		}
	}
	if (l.events != nil) != (l.version >= eventVersion) {
		return damaged("it has no events")
	}
	if l.events != nil && l.events.Size != s.recorded.Size() {
		return damaged("it has %d events instead of %d", s.recorded.Size(), l.events.Size)
	}
	if (l.approval != nil) != (l.version >= holdVersion) ||
		l.approval != nil && l.approval.Held != uint64(s.held.len()) {
		return damaged("it has %d held stages, which are not those that it counts", s.held.len())
	}
	var err error
	s.stages.from("", func(id string, st stage) bool {
		if st.next != l.edits[id] {
			err = damaged("stage %s has %d edits instead of %d", id, l.edits[id], st.next)
		}
		return err == nil
	})
	return err
}

// packBlobs packs the blobs, whose references are counted now, and their pins.
func (l *loader) packBlobs() {
	blobs := packer[Digest, blob]{t: &l.s.blobs}
	type pin struct {
		until    int64
		tag, row int
	}
	var list []pin
	for tag := range l.blobs {
		r := &l.blobs[tag]
		for row := range r.n {
			b := r.at(row)
			blobs.add(l.digest(tag, row), *b)
			if b.pin != 0 {
				list = append(list, pin{b.pin, tag, row})
			}
		}
	}
	blobs.flush()
	// pins that end at the same time stay in the order of their digests
	slices.SortStableFunc(list, func(a, b pin) int {
		switch {
		case a.until < b.until:
			return -1
		case a.until > b.until:
			return 1
		}
		return 0
	})
	pins := packer[string, struct{}]{t: &l.s.pins}
	for _, p := range list {
		pins.add(pinKey(p.until, l.digest(p.tag, p.row)), struct{}{})
	}
	pins.flush()
}

func (l *loader) digest(tag, row int) Digest {
	return Digest(sha256Tag+byte(tag)) + Digest(l.blobs[tag].sum(row))
}

package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"strings"
)

// A snapshot is the magic, a byte for the version of what follows, and frames. A frame is the length of its payload (4
// bytes, big endian), the payload, and the CRC-32C of all payloads so far, so that a frame left out or put elsewhere is
// found as a damaged one is. A payload is a section byte and a CBOR sequence of that section's records; sections come
// in the order below and the last frame is secEnd with nothing in it.
//
// References are not written: Restore counts them again from the names, and so finds out whether what it read fits
// together.
const (
	magic = "CMSTATE"
	// The version says how the header looks: 2 adds the sum, and is written from format 2 on only, so that what an
	// older program may have to read stays as it knows it.
	plainVersion, sumVersion = 1, 2

	frameWanted = 256 << 10 // bytes at which a frame is closed
	frameMost   = 32 << 20  // the largest possible record (a stage's edit with all of its holds) is far below
)

const (
	secHead byte = iota + 1
	secBlobs
	secTombs
	secNames
	secStages
	secStaged
	secSessions
	secOutcomes
	secEnd
)

type (
	snapHead struct {
		_                                                             struct{} `cbor:",toarray"`
		Index, Format, Floor                                          uint64
		Cursor                                                        string
		Blobs, Tombs, Names, Nodes, Stages, Staged, Sessions, Outcome uint64
	}
	// snapHeadSum is the header from format 2 on.
	snapHeadSum struct {
		_                                                             struct{} `cbor:",toarray"`
		Index, Format, Floor                                          uint64
		Cursor                                                        string
		Blobs, Tombs, Names, Nodes, Stages, Staged, Sessions, Outcome uint64
		Sum                                                           []byte
	}
	snapBlob struct {
		_      struct{} `cbor:",toarray"`
		Digest Digest
		Size   int64
		Born   uint64
		Pin    int64
	}
	snapTomb struct {
		_      struct{} `cbor:",toarray"`
		Digest Digest
		Index  uint64
	}
	// snapNode is one claim of a name. Keys are front-coded: Shared bytes of the key before, then Rest. Older claims of
	// the same key follow newer ones.
	snapNode struct {
		_       struct{} `cbor:",toarray"`
		Shared  uint64
		Rest    string
		Kind    uint8
		Version uint64
		Mod     int64
		Body    string
		Holds   string
		Claim   string
		Born    uint64
	}
	snapStage struct {
		_     struct{} `cbor:",toarray"`
		ID    string
		Until int64
		Next  uint64
	}
	snapStaged struct {
		_      struct{} `cbor:",toarray"`
		ID     string
		Number uint64
		Op     []byte
	}
	snapSession struct {
		_        struct{} `cbor:",toarray"`
		Node     string
		Boot     uint64
		Finished uint64
	}
	snapOutcome struct {
		_     struct{} `cbor:",toarray"`
		Node  string
		Seq   uint64
		Index uint64
		Err   *Error
	}
)

var crcTable = crc32.MakeTable(crc32.Castagnoli)

// ErrDamaged is a snapshot that is not what WriteTo wrote: cut short, changed, or something else altogether.
var ErrDamaged = errors.New("the snapshot is damaged")

// Snapshot returns the state as of now as a stream, in constant time. The same state always gives the same bytes.
func (s *State) Snapshot() io.WriterTo { return s.Clone() }

// WriteTo writes a snapshot of s, which nobody may apply to meanwhile (Snapshot makes a clone for that). It holds one
// frame in memory.
func (s *State) WriteTo(w io.Writer) (int64, error) {
	f := &frames{w: w}
	f.write([]byte(magic))
	version := byte(plainVersion)
	if s.format >= sumFormat {
		version = sumVersion
	}
	f.write([]byte{version})
	nodes := uint64(0)
	s.names.from("", func(_ string, n *node) bool {
		for ; n != nil; n = n.older {
			nodes++
		}
		return true
	})
	f.section(secHead)
	head := snapHead{
		Index: s.index, Format: s.format, Floor: s.floor, Cursor: s.cursor,
		Blobs: uint64(s.blobs.len()), Tombs: uint64(s.tombs.len()), Names: uint64(s.names.len()), Nodes: nodes,
		Stages: uint64(s.stages.len()), Staged: uint64(s.staged.len()), Sessions: uint64(s.sessions.len()), Outcome: uint64(s.outcomes.len()),
	}
	if version == plainVersion {
		f.record(&head)
	} else {
		f.record(head.with(s.sum))
	}
	f.section(secBlobs)
	s.blobs.from("", func(d Digest, b blob) bool {
		return f.record(&snapBlob{Digest: d, Size: b.size, Born: b.born, Pin: b.pin})
	})
	f.section(secTombs)
	s.tombs.from("", func(d Digest, i uint64) bool { return f.record(&snapTomb{Digest: d, Index: i}) })
	f.section(secNames)
	last := ""
	s.names.from("", func(k string, n *node) bool {
		for ; n != nil; n = n.older {
			shared := commonPrefix(last, k)
			if !f.record(&snapNode{
				Shared: uint64(shared), Rest: k[shared:], Kind: uint8(n.kind), Version: n.version, Mod: n.mod,
				Body: n.body, Holds: string(n.holds), Claim: n.claim, Born: n.born,
			}) {
				return false
			}
			last = k
		}
		return true
	})
	f.section(secStages)
	s.stages.from("", func(id string, st stage) bool { return f.record(&snapStage{ID: id, Until: st.until, Next: st.next}) })
	f.section(secStaged)
	s.staged.from("", func(k string, op Op) bool {
		id, number := splitKey(k)
		body, err := appendOps(nil, []Op{op})
		if err != nil {
			f.err = err
			return false
		}
		return f.record(&snapStaged{ID: id, Number: number, Op: body})
	})
	f.section(secSessions)
	s.sessions.from("", func(node string, se session) bool {
		return f.record(&snapSession{Node: node, Boot: se.boot, Finished: se.finished})
	})
	f.section(secOutcomes)
	s.outcomes.from("", func(k string, o *outcome) bool {
		node, seq := splitKey(k)
		return f.record(&snapOutcome{Node: node, Seq: seq, Index: o.index, Err: o.err})
	})
	f.section(secEnd)
	f.flush()
	return f.n, f.err
}

func (h *snapHead) with(sum Sum) *snapHeadSum {
	return &snapHeadSum{
		Index: h.Index, Format: h.Format, Floor: h.Floor, Cursor: h.Cursor, Blobs: h.Blobs, Tombs: h.Tombs, Names: h.Names, Nodes: h.Nodes,
		Stages: h.Stages, Staged: h.Staged, Sessions: h.Sessions, Outcome: h.Outcome, Sum: sum[:],
	}
}

// plain is the header without the sum.
func (h *snapHeadSum) plain() snapHead {
	return snapHead{
		Index: h.Index, Format: h.Format, Floor: h.Floor, Cursor: h.Cursor, Blobs: h.Blobs, Tombs: h.Tombs, Names: h.Names, Nodes: h.Nodes,
		Stages: h.Stages, Staged: h.Staged, Sessions: h.Sessions, Outcome: h.Outcome,
	}
}

// splitKey takes a key of a stage's edit or of an outcome apart.
func splitKey(k string) (id string, number uint64) {
	cut := len(k) - 9
	return k[:cut], binary.BigEndian.Uint64([]byte(k[cut+1:]))
}

func commonPrefix(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// frames writes frames; after an error it writes nothing more.
type frames struct {
	w   io.Writer
	buf bytes.Buffer
	sec byte
	crc uint32
	n   int64
	err error
}

func (f *frames) write(p []byte) {
	if f.err != nil {
		return
	}
	n, err := f.w.Write(p)
	f.n += int64(n)
	f.err = err
}

func (f *frames) section(sec byte) {
	f.flush()
	f.sec = sec
	f.buf.WriteByte(sec)
}

func (f *frames) record(v any) bool {
	b, err := encMode.Marshal(v)
	if err != nil && f.err == nil {
		f.err = err
	}
	f.buf.Write(b)
	if f.buf.Len() >= frameWanted {
		f.section(f.sec)
	}
	return f.err == nil
}

func (f *frames) flush() {
	p := f.buf.Bytes()
	if len(p) == 0 {
		return
	}
	f.crc = crc32.Update(f.crc, crcTable, p)
	f.write(binary.BigEndian.AppendUint32(nil, uint32(len(p))))
	f.write(p)
	f.write(binary.BigEndian.AppendUint32(nil, f.crc))
	f.buf.Reset()
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

// Restore reads what WriteTo wrote and leaves r behind its last byte. Input that is cut short or changed is ErrDamaged
// and says what was found; a snapshot of a newer version or format is another error that says so.
func Restore(r io.Reader) (*State, error) {
	head := make([]byte, len(magic)+1)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, cut(err)
	}
	if string(head[:len(magic)]) != magic {
		return nil, damaged("it does not begin as a snapshot does")
	}
	v := head[len(magic)]
	if v != plainVersion && v != sumVersion {
		return nil, fmt.Errorf("snapshot version %d is not understood, only up to %d: install the newer casemate on this node", v, sumVersion)
	}
	l := &loader{s: New(), version: v, edits: map[string]uint64{}}
	var buf bytes.Buffer
	var crc uint32
	for l.sec != secEnd {
		var size [4]byte
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return nil, cut(err)
		}
		n := binary.BigEndian.Uint32(size[:])
		if n == 0 || n > frameMost {
			return nil, damaged("a frame of %d bytes", n)
		}
		buf.Reset()
		if _, err := io.CopyN(&buf, r, int64(n)); err != nil { // grows as the bytes come, whatever the length says
			return nil, cut(err)
		}
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return nil, cut(err)
		}
		crc = crc32.Update(crc, crcTable, buf.Bytes())
		if binary.BigEndian.Uint32(size[:]) != crc {
			return nil, damaged("the checksum of a frame in section %d is wrong", l.sec)
		}
		if err := l.frame(buf.Bytes()); err != nil {
			return nil, err
		}
	}
	if err := l.finish(); err != nil {
		return nil, err
	}
	return l.s, nil
}

func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return damaged("it is cut short")
	}
	return fmt.Errorf("read snapshot: %w", err)
}

// loader builds a state from the records of a snapshot.
type loader struct {
	s       *State
	version byte
	head    snapHead
	sec     byte
	nodes   uint64
	key     string            // of the name being read
	chain   []*node           // its claims so far, newest first
	edits   map[string]uint64 // of each stage so far
}

func (l *loader) frame(p []byte) error {
	sec, p := p[0], p[1:]
	if sec < l.sec || sec > secEnd || l.sec == 0 && sec != secHead || sec == secEnd && len(p) != 0 {
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

func read[T any](p []byte, v *T, use func(*T) string) (rest []byte, err error) {
	rest, err = decMode.UnmarshalFirst(p, v)
	if err != nil {
		return nil, damaged("%v", err)
	}
	if wrong := use(v); wrong != "" {
		return nil, damaged("%s", wrong)
	}
	return rest, nil
}

func (l *loader) record(sec byte, p []byte) ([]byte, error) {
	s := l.s
	switch sec {
	case secHead:
		rest, err := l.readHead(p)
		if err == nil && l.head.Format > MaxFormat {
			return nil, fmt.Errorf("the snapshot is of format %d, this program understands up to %d: install the newer casemate on this node", l.head.Format, MaxFormat)
		}
		return rest, err
	case secBlobs:
		return read(p, new(snapBlob), l.useBlob)
	case secTombs:
		return read(p, new(snapTomb), func(t *snapTomb) string {
			if _, there := s.blobs.get(t.Digest); there || !t.Digest.valid() || t.Index > s.index {
				return "a tombstone that cannot be"
			}
			s.tombs.m.Set(t.Digest, t.Index)
			return ""
		})
	case secNames:
		return read(p, new(snapNode), l.useNode)
	case secStages:
		return read(p, new(snapStage), func(st *snapStage) string {
			if !ValidID(st.ID) {
				return "the id of a stage"
			}
			s.stages.m.Set(st.ID, stage{until: st.Until, next: st.Next})
			return ""
		})
	case secStaged:
		return read(p, new(snapStaged), l.useStaged)
	case secSessions:
		return read(p, new(snapSession), func(se *snapSession) string {
			if !ValidID(se.Node) {
				return "the name of a node"
			}
			s.sessions.m.Set(se.Node, session{boot: se.Boot, finished: se.Finished})
			return ""
		})
	case secOutcomes:
		return read(p, new(snapOutcome), l.useOutcome)
	}
	return nil, damaged("section %d", sec)
}

func (l *loader) readHead(p []byte) ([]byte, error) {
	if l.version == plainVersion {
		return read(p, &l.head, l.useHead)
	}
	return read(p, new(snapHeadSum), func(h *snapHeadSum) string {
		l.head = h.plain()
		if len(h.Sum) != len(l.s.sum) || bytes.Equal(h.Sum, make([]byte, len(h.Sum))) || h.Format < sumFormat {
			return "a header with a wrong sum"
		}
		copy(l.s.sum[:], h.Sum)
		return l.useHead(&l.head)
	})
}

func (l *loader) useHead(h *snapHead) string {
	if l.s.index != 0 || h.Format == 0 || h.Floor > h.Index || l.version == plainVersion && h.Format == sumFormat {
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
	s.blobs.m.Load(b.Digest, blob{size: b.Size, born: b.Born, pin: b.Pin})
	s.bytes += b.Size
	if b.Pin != 0 {
		s.pins.m.Set(pinKey(b.Pin, b.Digest), struct{}{})
	}
	return ""
}

func (l *loader) useNode(r *snapNode) string {
	s := l.s
	if r.Shared > uint64(len(l.key)) {
		return "a name that shares more than there is"
	}
	key := l.key[:r.Shared] + r.Rest
	if key != l.key || len(l.chain) == 0 {
		l.flushName()
		if !validName(nameOf(key)) || key <= l.key || l.key != "" && strings.HasPrefix(key, l.key+"\x00") {
			return fmt.Sprintf("the name %q at that place", short(nameOf(key)))
		}
		l.key = key
	}
	if r.Version == 0 || r.Version > s.index || r.Born > s.index || r.Claim != "" && !ValidID(r.Claim) {
		return fmt.Sprintf("what stands under the name %q", short(nameOf(key)))
	}
	n := &node{version: r.Version, mod: r.Mod, body: r.Body, holds: digests(r.Holds), claim: r.Claim, born: r.Born, kind: kind(r.Kind)}
	ok := false
	switch n.kind {
	case record:
		ok = len(n.body) <= MaxRecord && n.holds == "" && n.born == 0
	case strong:
		var id Digest
		if id, _, ok = s.blobs.find(Digest(n.body)); !ok || !n.holds.valid() || n.born != 0 {
			ok = false
			break
		}
		n.body = string(id)
		n.holds.each(func(d Digest) {
			_, known := s.blobs.get(d)
			ok = ok && known
		})
	case weak:
		ok = Digest(n.body).valid() && n.holds == ""
		n.body = string(s.blobs.shared(Digest(n.body)))
	}
	for _, c := range l.chain {
		ok = ok && c.claim != n.claim
	}
	if !ok || len(l.chain) >= MaxClaims {
		return fmt.Sprintf("what stands under the name %q", short(nameOf(key)))
	}
	if n.claim != "" {
		n.claim = s.claims.shared(n.claim)
	}
	l.nodes++
	(&tx{s: s}).retain(n)
	s.commit()
	l.chain = append(l.chain, n)
	return ""
}

// flushName puts the name that has been read into the table.
func (l *loader) flushName() {
	if len(l.chain) == 0 {
		return
	}
	for i, n := range l.chain[1:] {
		l.chain[i].older = n
	}
	l.s.names.m.Load(l.key, l.chain[0])
	clear(l.chain)
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
	tx := &tx{s: s}
	op.keeps(func(d Digest) {
		if _, known := s.blobs.get(d); known {
			tx.keep(d, 1)
		} else {
			ok = false
		}
	})
	if !ok {
		return "a staged edit of a blob that is not known"
	}
	s.commit()
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
		return "an error that is not known"
	}
	if se.open++; se.open > MaxOutcomes {
		return "more outcomes than are remembered"
	}
	s.sessions.m.Set(r.Node, se)
	s.outcomes.m.Set(outcomeKey(r.Node, r.Seq), &outcome{index: r.Index, err: r.Err})
	return ""
}

// finish compares what was read with what the header says there is.
func (l *loader) finish() error {
	l.flushName()
	s, h := l.s, l.head
	for _, c := range []struct {
		what string
		want uint64
		got  int
	}{
		{"blobs", h.Blobs, s.blobs.len()}, {"tombstones", h.Tombs, s.tombs.len()}, {"names", h.Names, s.names.len()}, {"claims", h.Nodes, int(l.nodes)},
		{"stages", h.Stages, s.stages.len()}, {"staged edits", h.Staged, s.staged.len()}, {"sessions", h.Sessions, s.sessions.len()},
		{"outcomes", h.Outcome, s.outcomes.len()},
	} {
		if c.want != uint64(c.got) {
			return damaged("it has %d %s and says %d", c.got, c.what, c.want)
		}
	}
	var err error
	s.stages.from("", func(id string, st stage) bool {
		if st.next != l.edits[id] {
			err = damaged("stage %s has %d edits and says %d", id, l.edits[id], st.next)
		}
		return err == nil
	})
	return err
}

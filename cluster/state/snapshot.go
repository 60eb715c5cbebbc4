package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// A snapshot is the magic, a byte for the version of the rest, and frames. A frame is the length of its payload (4
// bytes, big endian), the payload, and the CRC-32C of all payloads so far, so that a missing or moved frame is found
// like a damaged one. A payload is a section byte and a CBOR sequence of that section's records; sections come in the
// order below, and the last frame is an empty secEnd.
//
// References are not written: Restore counts them again from the names, and so verifies that the snapshot is
// consistent.
const (
	magic = "CMSTATE"
	// Version 2 adds the sum to the header, version 3 the section of events, version 4 that of held stages. They are
	// written from the formats 2, 3 and 4 on only, so that older programs can read the snapshots of older formats.
	plainVersion, sumVersion, eventVersion, holdVersion = 1, 2, 3, 4

	frameWanted = 256 << 10 // bytes at which a frame is closed
	frameMost   = 32 << 20  // far above the largest possible record (a stage's edit with all of its holds)
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
	secEvents // these are before secEnd, whose number is older
	secHeld
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
	// snapEvents is the first record of the section of events: the tree of those that are in files, and the number of
	// all. The lines of the others follow.
	snapEvents struct {
		_      struct{} `cbor:",toarray"`
		Sealed uint64
		Peaks  []byte
		Size   uint64
	}
	// snapApproval is the first record of the section of held stages; they follow.
	snapApproval struct {
		_    struct{} `cbor:",toarray"`
		On   bool
		Held uint64
	}
	snapHold struct {
		_                         struct{} `cbor:",toarray"`
		ID, Claim, Content, Maker string
		Made                      int64
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

// ErrDamaged reports a snapshot that differs from what WriteTo wrote: incomplete, changed, or not a snapshot.
var ErrDamaged = errors.New("the snapshot is damaged")

// Snapshot returns the current state as a stream, in constant time. The same state always gives the same bytes.
func (s *State) Snapshot() io.WriterTo { return s.Clone() }

// versionOf is the version of the snapshots of a format.
func versionOf(format uint64) byte {
	switch {
	case format >= holdFormat:
		return holdVersion
	case format >= eventFormat:
		return eventVersion
	case format >= sumFormat:
		return sumVersion
	}
	return plainVersion
}

// WriteTo writes a snapshot of s, to which nothing may be applied meanwhile (Snapshot makes a clone for that). It holds
// one frame in memory.
func (s *State) WriteTo(w io.Writer) (int64, error) {
	f := &frames{w: w}
	f.write([]byte(magic))
	version := versionOf(s.format)
	f.write([]byte{version})
	f.section(secHead)
	head := snapHead{
		Index: s.index, Format: s.format, Floor: s.floor, Cursor: s.cursor,
		Blobs: uint64(s.blobs.len()), Tombs: uint64(s.tombs.len()), Names: uint64(s.names.len()),
		Nodes:  uint64(s.nodes),
		Stages: uint64(s.stages.len()), Staged: uint64(s.staged.len()), Sessions: uint64(s.sessions.len()),
		Outcome: uint64(s.outcomes.len()),
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
	s.stages.from("", func(id string, st stage) bool {
		return f.record(&snapStage{ID: id, Until: st.until, Next: st.next})
	})
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
	if version >= eventVersion {
		f.section(secEvents)
		f.record(&snapEvents{Sealed: s.sealed.Size(), Peaks: s.sealed.Append(nil), Size: s.recorded.Size()})
		s.events.from("", func(_, line string) bool { return f.record(line) })
	}
	if version >= holdVersion {
		f.section(secHeld)
		f.record(&snapApproval{On: s.approval, Held: uint64(s.held.len())})
		for id, h := range s.holds() {
			f.record(&snapHold{ID: id, Claim: h.claim, Content: h.content, Maker: h.maker, Made: h.made})
		}
	}
	f.section(secEnd)
	f.flush()
	return f.n, f.err
}

func (h *snapHead) with(sum Sum) *snapHeadSum {
	return &snapHeadSum{
		Index: h.Index, Format: h.Format, Floor: h.Floor, Cursor: h.Cursor, Blobs: h.Blobs, Tombs: h.Tombs,
		Names: h.Names, Nodes: h.Nodes,
		Stages: h.Stages, Staged: h.Staged, Sessions: h.Sessions, Outcome: h.Outcome, Sum: sum[:],
	}
}

// plain is the header without the sum.
func (h *snapHeadSum) plain() snapHead {
	return snapHead{
		Index: h.Index, Format: h.Format, Floor: h.Floor, Cursor: h.Cursor, Blobs: h.Blobs, Tombs: h.Tombs,
		Names: h.Names, Nodes: h.Nodes,
		Stages: h.Stages, Staged: h.Staged, Sessions: h.Sessions, Outcome: h.Outcome,
	}
}

// splitKey splits a key of a stage's edit or of an outcome.
func splitKey(k string) (id string, number uint64) {
	cut := len(k) - 9
	return k[:cut], binary.BigEndian.Uint64([]byte(k[cut+1:]))
}

func commonPrefix(a, b string) int {
	n, i := min(len(a), len(b)), 0
	for i+8 <= n && a[i:i+8] == b[i:i+8] {
		i += 8
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}

// frames writes frames; after an error it writes nothing more.
type frames struct {
	w   io.Writer
	buf []byte
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
	f.buf = append(f.buf, sec)
}

func (f *frames) record(v any) bool {
	switch v := v.(type) {
	case *snapBlob:
		f.buf = v.append(f.buf)
	case *snapNode:
		f.buf = v.append(f.buf)
	default:
		b, err := encMode.Marshal(v)
		if err != nil && f.err == nil {
			f.err = err
		}
		f.buf = append(f.buf, b...)
	}
	if len(f.buf) >= frameWanted {
		f.section(f.sec)
	}
	return f.err == nil
}

func (f *frames) flush() {
	p := f.buf
	if len(p) == 0 {
		return
	}
	f.crc = crc32.Update(f.crc, crcTable, p)
	f.write(binary.BigEndian.AppendUint32(nil, uint32(len(p))))
	f.write(p)
	f.write(binary.BigEndian.AppendUint32(nil, f.crc))
	f.buf = f.buf[:0]
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

// Restore reads the output of WriteTo and leaves r after its last byte. For incomplete or changed input the error is
// ErrDamaged with the details; for a snapshot of a newer version or format it is another error that says so.
func Restore(r io.Reader) (*State, error) {
	head := make([]byte, len(magic)+1)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, cut(err)
	}
	if string(head[:len(magic)]) != magic {
		return nil, damaged("it does not begin like a snapshot")
	}
	v := head[len(magic)]
	if v < plainVersion || v > holdVersion {
		return nil, fmt.Errorf("snapshot version %d is not understood, only up to %d: install the newer casemate on "+
			"this node", v, holdVersion)
	}
	l := newLoader(v)
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
		// buf grows as bytes arrive, so a wrong length allocates nothing
		if _, err := io.CopyN(&buf, r, int64(n)); err != nil {
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

package state

import (
	"encoding/binary"
	"iter"
	"math"
	"slices"
	"strings"
	"time"
)

// MaxTombstones bounds the tombstones. When there are more, the older half is deleted and the floor rises.
const MaxTombstones = 1 << 16

// blob is the record of a blob.
type blob struct {
	size   int64
	born   uint64 // the log index at which it became known
	pin    int64  // Unix nanoseconds; 0 is no pin
	strong uint32 // links, holds, hidden claims and staged edits that need it
	weak   uint32 // weak links to this birth of it
}

var (
	blobCodec = codec[blob]{append: appendBlob, read: readBlob}
	pinCodec  = codec[struct{}]{
		append: func(b []byte, _ struct{}) []byte { return b },
		read:   func(string) (none struct{}) { return none },
	}
	tombCodec = codec[uint64]{append: appendUvarint, read: func(s string) uint64 { v, _ := uvarint(s, 0); return v }}
)

func appendBlob(b []byte, x blob) []byte {
	b = appendUvarint(b, uint64(x.size))
	b = appendUvarint(b, x.born)
	b = appendUvarint(b, uint64(x.pin))
	b = appendUvarint(b, uint64(x.strong))
	return appendUvarint(b, uint64(x.weak))
}

func readBlob(s string) blob {
	size, at := uvarint(s, 0)
	born, at := uvarint(s, at)
	pin, at := uvarint(s, at)
	strong, at := uvarint(s, at)
	weak, _ := uvarint(s, at)
	return blob{size: int64(size), born: born, pin: int64(pin), strong: uint32(strong), weak: uint32(weak)}
}

// Blob is a blob as readers see it.
type Blob struct {
	Size   int64     // in bytes
	Born   uint64    // the log index at which it became known
	Until  time.Time // when its pin ends; zero for no pin
	Strong int       // number of links, holds, claims and staged edits that keep it
	Weak   int       // number of weak links to it
}

// Collectable reports whether nothing keeps the blob.
func (b Blob) Collectable() bool { return b.Strong == 0 && b.Until.IsZero() }

func (b blob) public() Blob {
	p := Blob{Size: b.size, Born: b.born, Strong: int(b.strong), Weak: int(b.weak)}
	if b.pin != 0 {
		p.Until = time.Unix(0, b.pin).UTC()
	}
	return p
}

// Blob returns the record of a blob.
func (s *State) Blob(d Digest) (Blob, bool) {
	b, ok := s.blobs.get(d)
	return b.public(), ok
}

// Blobs yields all blobs after the given digest ("" for all), ordered by algorithm and sum.
func (s *State) Blobs(after Digest) iter.Seq2[Digest, Blob] {
	return func(yield func(Digest, Blob) bool) {
		s.blobs.from(after, func(d Digest, b blob) bool { return d == after || yield(d, b.public()) })
	}
}

// Kept yields, in the order of Blobs, the blobs that a published link or hold keeps, with their sizes; not those that
// only a staged edit or a pin keeps.
func (s *State) Kept() iter.Seq2[Digest, int64] {
	return func(yield func(Digest, int64) bool) {
		staged := map[Digest]uint32{}
		s.staged.from("", func(_ string, op Op) bool {
			op.(staging).keeps(func(d Digest) { staged[d]++ })
			return true
		})
		s.blobs.from("", func(d Digest, b blob) bool { return b.strong <= staged[d] || yield(d, b.size) })
	}
}

// Weigh returns the sum of the sizes of all blobs that visible files below dirs keep, by a link or its holds, each blob
// once however many files keep it. It calls file, if it is not nil, with the name of each visible file below dirs, weak
// links included. Its memory grows with the number of these blobs.
func (s *State) Weigh(dirs []string, file func(name string)) (bytes int64) {
	counted := map[Digest]struct{}{}
	add := func(d Digest) {
		if _, again := counted[d]; again {
			return
		}
		counted[d] = struct{}{}
		b, _ := s.blobs.get(d)
		bytes += b.size
	}
	for _, dir := range dirs {
		if dir != "." && !validName(dir) {
			continue
		}
		prefix := belowKey(dir)
		s.names.from(prefix, func(k string, n *node) bool {
			if !strings.HasPrefix(k, prefix) {
				return false
			}
			if n = s.visible(n); n == nil {
				return true
			}
			if file != nil {
				file(nameOf(k))
			}
			if n.kind == strong {
				add(Digest(n.body))
				n.holds.each(add)
			}
			return true
		})
	}
	return bytes
}

// Pins yields the pinned blobs in the order in which their pins end.
func (s *State) Pins() iter.Seq2[Digest, time.Time] {
	return func(yield func(Digest, time.Time) bool) {
		s.pins.from("", func(k string, _ struct{}) bool {
			return yield(Digest(k[8:]), time.Unix(0, int64(binary.BigEndian.Uint64([]byte(k[:8])))).UTC())
		})
	}
}

// Tombstone returns the index of the newest collect of a digest that is unknown now; 0 if there is none, or if the
// tombstone was at or below Floor and was deleted.
func (s *State) Tombstone(d Digest) uint64 {
	index, _ := s.tombs.get(d)
	return index
}

// Floor is the index up to which tombstones have been deleted: an AddBlob confirmed below it is refused.
func (s *State) Floor() uint64 { return s.floor }

// AddBlob makes a blob known and pins it until Until (Unix nanoseconds).
//
// Confirmed is the lowest log index that a node of the confirming majority had applied when it found the bytes durable.
// A later collect may have removed them: then the command is refused with ErrCollected and the proposer copies the
// bytes again (promise 6).
type AddBlob struct {
	_         struct{} `cbor:",toarray"`
	Digest    Digest
	Size      int64
	Confirmed uint64
	Until     int64
}

// Expire ends the pins and the stages that end at or before Now (Unix nanoseconds). No other edit depends on time.
type Expire struct {
	_   struct{} `cbor:",toarray"`
	Now int64
}

// Collect removes the records of those blobs that nothing keeps and leaves a tombstone for each; it skips the others.
// An unknown digest gets a tombstone too: its bytes may be on disks without a record, and an AddBlob that was confirmed
// before must not revive them.
type Collect struct {
	_       struct{} `cbor:",toarray"`
	Digests []Digest
}

// Sweep removes stale weak links among the next Limit names; several commands together go around the tree. It does
// nothing while there are none (Stats.Stale). The removed names were invisible already; Sweep frees memory and reports
// the names that a collect removed to watchers, in Result.Changed.
type Sweep struct {
	_     struct{} `cbor:",toarray"`
	Limit uint32
}

// MaxCollect is the maximum number of digests in one Collect.
const MaxCollect = 16384

func (o *AddBlob) check() error {
	if o.Size < 0 {
		return refuse(CodeInvalid, "add blob", o.Digest.String(), "a size must not be negative, got %d", o.Size)
	}
	return checkDigest("add blob", o.Digest)
}

func (o *Expire) check() error { return nil }

func (o *Collect) check() error {
	if len(o.Digests) > MaxCollect {
		return refuse(CodeInvalid, "collect", "blobs", "at most %d at a time, got %d", MaxCollect, len(o.Digests))
	}
	for _, d := range o.Digests {
		if err := checkDigest("collect", d); err != nil {
			return err
		}
	}
	return nil
}

func (o *Sweep) check() error { return nil }

func (o *AddBlob) apply(tx *tx) error {
	s := tx.s
	if b, ok := s.blobs.get(o.Digest); ok {
		if b.size != o.Size {
			return refuse(CodeInvalid, "add blob", o.Digest.String(), "it has %d bytes, not %d", b.size, o.Size)
		}
		tx.pin(o.Digest, b, o.Until)
		return nil
	}
	if o.Confirmed >= tx.index {
		// No node has applied this entry yet. The check also prevents that a blob is born twice at one index.
		return refuse(CodeInvalid, "add blob", o.Digest.String(),
			"confirmed at index %d, which is not before this one, %d", o.Confirmed, tx.index)
	}
	tomb, buried := s.tombs.get(o.Digest)
	if buried && o.Confirmed < tomb || o.Confirmed < s.floor {
		return refuse(CodeCollected, "add blob", o.Digest.String(), "confirmed at index %d, collected at %d",
			o.Confirmed, max(tomb, s.floor))
	}
	if o.Size > math.MaxInt64-s.bytes {
		return refuse(CodeLimit, "add blob", o.Digest.String(), "the sum of all sizes is too large")
	}
	s.tombs.del(o.Digest)
	s.blobs.set(o.Digest, tx.pinned(o.Digest, blob{size: o.Size, born: tx.index}, o.Until))
	s.bytes += o.Size
	tx.result.Added = append(tx.result.Added, o.Digest)
	return nil
}

func pinKey(until int64, d Digest) string {
	return string(binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(d)), uint64(until))) + string(d)
}

// pin extends the pin of a known blob.
func (tx *tx) pin(d Digest, b blob, until int64) {
	if until > b.pin {
		tx.s.blobs.set(d, tx.pinned(d, b, until))
	}
}

// pinned returns the blob with its pin extended, and lists the pin; it never shortens a pin. A time before 1970 is no
// pin.
func (tx *tx) pinned(d Digest, b blob, until int64) blob {
	if until <= b.pin {
		return b
	}
	if b.pin != 0 {
		tx.s.pins.del(pinKey(b.pin, d))
	}
	b.pin = until
	tx.s.pins.set(pinKey(until, d), struct{}{})
	return b
}

func (o *Expire) apply(tx *tx) error {
	s := tx.s
	var due []string
	s.pins.from("", func(k string, _ struct{}) bool {
		if int64(binary.BigEndian.Uint64([]byte(k[:8]))) > o.Now {
			return false
		}
		due = append(due, k)
		return true
	})
	for _, k := range due {
		d := Digest(k[8:])
		s.blobs.update(d, func(b *blob) { b.pin = 0 })
		s.pins.del(k)
	}
	var ids []string
	s.stages.from("", func(id string, st stage) bool {
		if st.until <= o.Now {
			ids = append(ids, id)
		}
		return true
	})
	for _, id := range ids {
		tx.dropStage(id)
	}
	return nil
}

func (o *Collect) apply(tx *tx) error {
	s := tx.s
	for _, d := range o.Digests {
		if b, ok := s.blobs.get(d); ok {
			if b.strong != 0 || b.pin != 0 {
				continue
			}
			s.blobs.del(d)
			s.bytes -= b.size
			s.stale += int(b.weak)
		}
		s.tombs.set(d, tx.index)
		tx.result.Collected = append(tx.result.Collected, d)
	}
	tx.forgetTombs()
	return nil
}

// forgetTombs bounds the tombstones by deleting the older half. Proposers that confirmed before the newest deleted one
// must confirm again. This may cost an unnecessary copy, but is never wrong.
func (tx *tx) forgetTombs() {
	s := tx.s
	if s.tombs.len() <= MaxTombstones {
		return
	}
	indexes := make([]uint64, 0, s.tombs.len())
	s.tombs.from("", func(_ Digest, i uint64) bool {
		indexes = append(indexes, i)
		return true
	})
	slices.Sort(indexes)
	s.floor = indexes[len(indexes)/2]
	var old []Digest
	s.tombs.from("", func(d Digest, i uint64) bool {
		if i <= s.floor {
			old = append(old, d)
		}
		return true
	})
	for _, d := range old {
		s.tombs.del(d)
	}
}

func (o *Sweep) apply(tx *tx) error {
	s := tx.s
	if s.stale == 0 {
		s.cursor = ""
		return nil
	}
	var keys []string
	left, next := o.Limit, ""
	s.names.from(s.cursor, func(k string, n *node) bool {
		if left == 0 {
			next = k
			return false
		}
		left--
		for ; n != nil; n = n.older {
			if !s.alive(n) {
				keys = append(keys, k)
				break
			}
		}
		return true
	})
	s.cursor = next
	for _, k := range keys {
		n, _ := s.names.get(k)
		var chain *node
		last := &chain
		for ; n != nil; n = n.older {
			if s.alive(n) {
				*last, last = n, &n.older
			} else {
				tx.release(n)
			}
		}
		if *last = nil; chain == nil {
			tx.forget(k)
		} else {
			s.names.set(k, chain)
		}
		tx.changed(nameOf(k))
	}
	return nil
}

// retain counts the references of a node that is added to the tree, release subtracts those of a removed one. A weak
// link is stale when it is added only if it comes from a snapshot.
func (tx *tx) retain(n *node) {
	s := tx.s
	s.nodes++
	if n.claim != "" {
		c, ok := s.claims.get(n.claim)
		if c.names++; ok {
			s.claims.set(n.claim, c)
		} else {
			s.claims.set(strings.Clone(n.claim), c)
		}
	}
	switch n.kind {
	case strong:
		tx.keep(Digest(n.body), 1)
		n.holds.each(func(d Digest) { tx.keep(d, 1) })
	case weak:
		s.weak++
		if !s.alive(n) {
			s.stale++
			return
		}
		s.blobs.update(Digest(n.body), func(b *blob) { b.weak++ })
	}
}

func (tx *tx) release(n *node) {
	s := tx.s
	s.nodes--
	if n.claim != "" {
		c, _ := s.claims.get(n.claim)
		if c.names--; c.names == 0 {
			s.claims.del(n.claim)
		} else {
			s.claims.set(n.claim, c)
		}
	}
	switch n.kind {
	case strong:
		tx.keep(Digest(n.body), -1)
		n.holds.each(func(d Digest) { tx.keep(d, -1) })
	case weak:
		s.weak--
		if !s.alive(n) {
			s.stale--
			return
		}
		s.blobs.update(Digest(n.body), func(b *blob) { b.weak-- })
	}
}

// keep adds to the strong references of a known blob.
func (tx *tx) keep(d Digest, by int) {
	tx.s.blobs.update(d, func(b *blob) { b.strong = uint32(int64(b.strong) + int64(by)) })
}

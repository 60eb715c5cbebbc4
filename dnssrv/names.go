package dnssrv

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"iter"
	"strings"
)

// names maps names in lower-case wire form to their entries. It is a trie over the names' hashes whose leaves are pages
// of packed bytes, so it costs the garbage collector nothing, and a name needs some ten bytes more than its data. It is
// persistent: an [edit] copies the pages that it changes and the branches above them, and readers of another copy of
// names see no change. The zero value is empty.
type names struct{ root *node }

const (
	fanBits = 3
	fan     = 1 << fanBits
	// leafMax is the largest number of names in a page. A change of a name copies its page.
	leafMax = 32
	// maxShift ends the splitting of pages whose names have the same hash.
	maxShift = 54
)

// node is a branch (kids) or a leaf (page). Only the edit that made it may change it.
type node struct {
	by   edit
	kids *[fan]*node
	// page has the count (2 bytes), a byte of each name's hash, the end of each entry (4 bytes, relative to the first
	// entry), and the entries: length of the name, name, entry.
	page []byte
}

// edit is the number of a change of names.
type edit uint64

var (
	seed      = maphash.MakeSeed()
	emptyPage = []byte{0, 0}
)

func hashOf(name []byte) uint64 { return maphash.Bytes(seed, name) }

func tagOf(hash uint64) byte { return byte(hash >> 56) }

// get returns the entry of name, nil if there is none.
func (t *names) get(name []byte) entry {
	n := t.root
	if n == nil {
		return nil
	}
	hash := hashOf(name)
	for shift := 0; n.kids != nil; shift += fanBits {
		n = n.kids[hash>>shift&(fan-1)]
	}
	_, h := find(n.page, tagOf(hash), name)
	return h
}

// find returns the index and the entry of name in a page; -1 if it is not there.
func find(page []byte, tag byte, name []byte) (int, entry) {
	count := pageCount(page)
	tags := page[2 : 2+count]
	for i := 0; ; i++ {
		k := bytes.IndexByte(tags[i:], tag)
		if k < 0 {
			return -1, nil
		}
		i += k
		e := entryAt(page, count, i)
		if l := int(e[0]); l == len(name) && string(e[1:1+l]) == string(name) {
			return i, entry(e[1+l:])
		}
	}
}

func pageCount(page []byte) int { return int(binary.LittleEndian.Uint16(page)) }

// entryAt returns entry i of a page with count entries.
func entryAt(page []byte, count, i int) []byte {
	ends, begin := page[2+count:], uint32(0)
	if i > 0 {
		begin = binary.LittleEndian.Uint32(ends[4*(i-1):])
	}
	return ends[4*count:][begin:binary.LittleEndian.Uint32(ends[4*i:])]
}

// all yields every name and its entry, in no particular order.
func (t *names) all() iter.Seq2[[]byte, entry] {
	return func(yield func([]byte, entry) bool) { t.root.each(yield) }
}

func (n *node) each(yield func([]byte, entry) bool) bool {
	switch {
	case n == nil:
	case n.kids != nil:
		for _, kid := range n.kids {
			if !kid.each(yield) {
				return false
			}
		}
	default:
		page := n.page // the consumer may change the node
		for i, count := 0, pageCount(page); i < count; i++ {
			e := entryAt(page, count, i)
			if l := int(e[0]); !yield(e[1:1+l], entry(e[1+l:])) {
				return false
			}
		}
	}
	return true
}

// own returns the leaf for a hash, which e may change, and how many bits of the hash lead to it.
func (t *names) own(e edit, hash uint64) (leaf *node, shift int) {
	if t.root == nil {
		t.root = &node{by: e, page: emptyPage}
	}
	for at := &t.root; ; shift += fanBits {
		n := *at
		if n.by != e {
			n = &node{by: e, kids: n.kids, page: bytes.Clone(n.page)}
			if n.kids != nil {
				kids := *n.kids
				n.kids = &kids
			}
			*at = n
		}
		if n.kids == nil {
			return n, shift
		}
		at = &n.kids[hash>>shift&(fan-1)]
	}
}

// put sets the entry of name.
func (t *names) put(e edit, name []byte, h entry) {
	hash := hashOf(name)
	n, shift := t.own(e, hash)
	i, _ := find(n.page, tagOf(hash), name)
	n.page = rewrite(n.page, i, tagOf(hash), name, h)
	for pageCount(n.page) > leafMax && shift <= maxShift {
		n.split(shift)
		n = n.kids[hash>>shift&(fan-1)]
		shift += fanBits
	}
}

// del removes name, if it exists.
func (t *names) del(e edit, name []byte) {
	hash := hashOf(name)
	n, _ := t.own(e, hash)
	if i, _ := find(n.page, tagOf(hash), name); i >= 0 {
		n.page = rewrite(n.page, i, 0, nil, nil)
	}
}

// rewrite returns the page without entry i (-1: none removed) and with name appended (nil: none).
func rewrite(page []byte, i int, tag byte, name []byte, h entry) []byte {
	count := pageCount(page)
	size := len(page) + 1 + 4 + 1 + len(name) + len(h)
	var w pageWriter
	if i >= 0 {
		size -= 5 + len(entryAt(page, count, i))
	}
	if name == nil {
		size -= 6
	}
	left := count
	if i >= 0 {
		left--
	}
	if name != nil {
		left++
	}
	w.begin(left, size)
	for k := range count {
		if k != i {
			w.add(page[2+k], entryAt(page, count, k))
		}
	}
	if name != nil {
		w.addName(tag, name, h)
	}
	return w.page
}

// pageWriter makes a page; begin sets its number of entries.
type pageWriter struct {
	page     []byte
	count, i int
}

func (w *pageWriter) begin(count, size int) {
	w.page = make([]byte, 2+5*count, size)
	w.count = count
	binary.LittleEndian.PutUint16(w.page, uint16(count))
}

func (w *pageWriter) end(tag byte) {
	w.page[2+w.i] = tag
	binary.LittleEndian.PutUint32(w.page[2+w.count+4*w.i:], uint32(len(w.page)-2-5*w.count))
	w.i++
}

func (w *pageWriter) add(tag byte, entry []byte) {
	w.page = append(w.page, entry...)
	w.end(tag)
}

func (w *pageWriter) addName(tag byte, name []byte, h entry) {
	w.page = append(append(append(w.page, byte(len(name))), name...), h...)
	w.end(tag)
}

// split turns a leaf into a branch: the next bits of the hash select a name's page.
func (n *node) split(shift int) {
	count := pageCount(n.page)
	var counts, sizes [fan]int
	to := make([]byte, count)
	for i := range count {
		e := entryAt(n.page, count, i)
		k := hashOf(e[1:1+int(e[0])]) >> shift & (fan - 1)
		to[i] = byte(k)
		counts[k]++
		sizes[k] += 5 + len(e)
	}
	n.kids = new([fan]*node)
	for k := range n.kids {
		var w pageWriter
		w.begin(counts[k], 2+sizes[k])
		for i := range count {
			if int(to[i]) == k {
				w.add(n.page[2+i], entryAt(n.page, count, i))
			}
		}
		n.kids[k] = &node{by: n.by, page: w.page}
	}
	n.page = nil
}

// entry is the value of a name: flags (1 byte), the number of existing names directly below it (4 bytes), and its
// RRsets. nil is a name that does not exist.
type entry []byte

// Flags of a name.
const (
	isHere    = 1 << iota // the name has an entry, maybe without data; otherwise it exists for the names below it
	isNodes               // A and AAAA are the addresses of every live node
	isHost                // a name that we answer for, even if the operator set other addresses
	isApex                // the apex of a zone of ours: it has SOA records
	isSpecial             // a special zone that is ours
	isWild                // its wildcard exists
)

const entryHeader = 5

func (h entry) has(flag byte) bool { return h != nil && h[0]&flag != 0 }
func (h entry) below() uint32 {
	if h == nil {
		return 0
	}
	return binary.LittleEndian.Uint32(h[1:])
}

// exists reports whether the name exists, if only as an empty non-terminal (RFC 8020).
func (h entry) exists() bool { return h.has(isHere) || h.below() > 0 }

func (h entry) sets() iter.Seq[set] {
	return func(yield func(set) bool) {
		if h == nil {
			return
		}
		for b := h[entryHeader:]; len(b) > 0; {
			var s set
			if s, b = cutSet(b); !yield(s) {
				return
			}
		}
	}
}

// set returns the RRset of a type, an empty set if there is none.
func (h entry) set(qtype uint16) set {
	if h == nil {
		return set{}
	}
	for b := h[entryHeader:]; len(b) > 0; {
		var s set
		if s, b = cutSet(b); s.qtype == qtype && s.flags&setLeftOut == 0 {
			return s
		}
	}
	return set{}
}

// set is an RRset, packed as answers to the name at offset 12; names in its data are not compressed.
type set struct {
	qtype uint16
	flags byte
	n     int // records
	rrs   []byte
}

// Flags of an RRset.
const (
	setOurs    = 1 << iota // not set by the operator
	setLeftOut             // set by the operator and not answered: see conflicts
	setTTL                 // set by the operator, with the TTL of the settings
)

const setHeader = 8

// cutSet cuts the first RRset off.
func cutSet(b []byte) (s set, rest []byte) {
	end := setHeader + int(binary.LittleEndian.Uint32(b[4:]))
	return set{binary.LittleEndian.Uint16(b), b[2], int(b[3]), b[setHeader:end]}, b[end:]
}

func (s set) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, s.qtype)
	b = append(b, s.flags, byte(s.n))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s.rrs)))
	return append(b, s.rrs...)
}

// add adds a record, unless it is there (RFC 2181 §5).
func (s *set) add(ttl uint32, rdata []byte) {
	for rd := range s.rdatas() {
		if bytes.Equal(rd, rdata) {
			return
		}
	}
	s.n++
	b := append(s.rrs, 0xc0, headerLen)
	b = binary.BigEndian.AppendUint16(b, s.qtype)
	b = append(b, 0, 1)
	b = binary.BigEndian.AppendUint32(b, ttl)
	b = binary.BigEndian.AppendUint16(b, uint16(len(rdata)))
	s.rrs = append(b, rdata...)
}

const rrHeader = 12

func (s set) rdatas() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for b := s.rrs; len(b) > 0; {
			end := rrHeader + int(binary.BigEndian.Uint16(b[10:]))
			if !yield(b[rrHeader:end]) {
				return
			}
			b = b[end:]
		}
	}
}

// withTTL returns the set with another TTL.
func (s set) withTTL(ttl uint32) set {
	s.rrs = bytes.Clone(s.rrs)
	for b := s.rrs; len(b) > 0; b = b[rrHeader+int(binary.BigEndian.Uint16(b[10:])):] {
		binary.BigEndian.PutUint32(b[6:], ttl)
	}
	return s
}

// wireOf packs a canonical name. Such a name needs no escapes.
func wireOf(name string) string {
	if name == "." {
		return "\x00"
	}
	b := make([]byte, 0, len(name)+1)
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		b = append(append(b, byte(len(label))), label...)
	}
	return string(append(b, 0))
}

// textOf is the inverse of wireOf.
func textOf(wire string) string {
	if wire == "\x00" {
		return "."
	}
	var b strings.Builder
	for wire[0] != 0 {
		l := int(wire[0])
		b.WriteString(wire[1 : 1+l])
		b.WriteByte('.')
		wire = wire[1+l:]
	}
	return b.String()
}

// parentOf removes the first label. The root has no parent.
func parentOf[T ~string | ~[]byte](wire T) (T, bool) {
	if wire[0] == 0 {
		return wire, false
	}
	return wire[1+int(wire[0]):], true
}

// wildcard is the first label of a wildcard name, in wire form.
const wildcard = "\x01*"

// place sets the flags and RRsets of a name, retains the count of names below it, and updates the counts above it.
func (t *names) place(e edit, name []byte, flags byte, sets []byte) {
	old := t.get(name)
	h := make(entry, entryHeader, entryHeader+len(sets))
	h[0] = flags
	binary.LittleEndian.PutUint32(h[1:], old.below())
	t.store(e, name, old, append(h, sets...))
}

// store replaces old, the entry of name, by h.
func (t *names) store(e edit, name []byte, old, h entry) {
	before, after := old.exists(), h.exists()
	if after || h[0] != 0 {
		t.put(e, name, h)
	} else if old != nil {
		t.del(e, name)
	}
	if up, ok := parentOf(name); ok && before != after {
		t.count(e, up, after)
	}
}

// count records that a name directly below was added or removed.
func (t *names) count(e edit, name []byte, come bool) {
	hash := hashOf(name)
	leaf, _ := t.own(e, hash)
	_, old := find(leaf.page, tagOf(hash), name)
	n := old.below() - 1
	if come {
		n = old.below() + 1
	}
	if old != nil && (old.has(isHere) || old.below() > 0 && n > 0) {
		binary.LittleEndian.PutUint32(old[1:], n) // in the page, which this edit may change
		return
	}
	h := make(entry, entryHeader)
	if old != nil {
		h = entry(bytes.Clone(old))
	}
	binary.LittleEndian.PutUint32(h[1:], n)
	t.store(e, name, old, h)
}

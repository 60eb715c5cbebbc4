package state

// packed is a table for millions of entries. They are adjacent in blocks, which are strings, so a million entries are
// some ten thousand objects without pointers: they cost few allocations and little work of the garbage collector. Keys
// are front-coded, as in snapshots.
//
// The blocks are in a table under their separators: a block holds the keys from its separator up to the next one. So
// clone and rollback are the table's, and a write replaces one block.
type packed[K ~string, V any] struct {
	blocks table[string, string]
	n      int // entries
	was    int // entries at the last commit
	codec  codec[V]

	// Buffers of the writer; not shared with clones.
	room, block []byte
}

// codec encodes the values in a block. The result of read may share the block's bytes, so it must be copied to be
// retained.
type codec[V any] struct {
	append func(buf []byte, v V) []byte
	read   func(data string) V
}

// maxBlock is the size in bytes above which a block is split: a write copies a block, and small blocks need more
// separators. DESIGN.md has the numbers.
const maxBlock = 1024

func newPacked[K ~string, V any](c codec[V]) packed[K, V] {
	return packed[K, V]{blocks: newTable[string, string](), codec: c}
}

func (t *packed[K, V]) len() int { return t.n }

func (t *packed[K, V]) clone() packed[K, V] {
	return packed[K, V]{blocks: t.blocks.clone(), n: t.n, was: t.n, codec: t.codec}
}

func (t *packed[K, V]) commit() {
	t.blocks.commit()
	t.was = t.n
}

func (t *packed[K, V]) rollback() {
	t.blocks.rollback()
	t.n = t.was
}

// An entry in a block is the number of bytes that its key shares with the previous key (the first one: with the
// separator), the length of the rest of the key, the length of the value, the rest, the value.
type entryAt struct {
	shared      int
	rest, value string
	end         int // where the next entry begins
}

func appendEntry[B string | []byte](b []byte, shared int, rest, more string, value B) []byte {
	b = appendLen(b, shared)
	b = appendLen(b, len(rest)+len(more))
	b = appendLen(b, len(value))
	b = append(b, rest...)
	b = append(b, more...)
	return append(b, value...)
}

func appendLen(b []byte, n int) []byte { return appendUvarint(b, uint64(n)) }

func appendUvarint(b []byte, v uint64) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

// uvarint reads the output of appendUvarint at s[at:] and returns its end.
func uvarint(s string, at int) (v uint64, end int) {
	for shift := 0; ; shift += 7 {
		c := s[at]
		at++
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return v, at
		}
	}
}

func readEntry(block string, at int) (e entryAt) {
	shared, at := uvarint(block, at)
	rest, at := uvarint(block, at)
	value, at := uvarint(block, at)
	e.shared = int(shared)
	e.rest = block[at : at+int(rest)]
	at += int(rest)
	e.value = block[at : at+int(value)]
	e.end = at + int(value)
	return e
}

// spot is the position of a key in a block, existing or not.
type spot struct {
	at     int // start of its entry, or of the first entry after it
	found  bool
	shared int // bytes that the key shares with the previous key
	common int // if not found: bytes that the next key shares with the key in addition to those with the previous key
}

// search finds key in a block without assembling the keys in it: the previous key is known to be less, and the length
// that it shares with key nearly always decides how the next one compares.
func search(separator, block, key string) spot {
	same := commonPrefix(separator, key)
	for at := 0; at < len(block); {
		e := readEntry(block, at)
		if e.shared < same {
			return spot{at: at, shared: same}
		}
		if e.shared == same {
			n := commonPrefix(e.rest, key[same:])
			switch {
			case n == len(e.rest) && same+n == len(key):
				return spot{at: at, found: true}
			case n < len(e.rest) && (same+n == len(key) || e.rest[n] > key[same+n]):
				return spot{at: at, shared: same, common: n}
			}
			same += n
		}
		at = e.end
	}
	return spot{at: len(block), shared: same}
}

// blockOf returns the block that key belongs to; an empty one if there is no block yet.
func (t *packed[K, V]) blockOf(key string) (separator, block string) {
	t.blocks.m.Descend(key, func(k, b string) bool {
		separator, block = k, b
		return false
	})
	return separator, block
}

func (t *packed[K, V]) get(key K) (v V, ok bool) {
	value, ok := t.raw(key)
	if ok {
		v = t.codec.read(value)
	}
	return v, ok
}

// raw returns the encoded value in its block.
func (t *packed[K, V]) raw(key K) (value string, ok bool) {
	separator, block := t.blockOf(string(key))
	s := search(separator, block, string(key))
	if !s.found {
		return "", false
	}
	return readEntry(block, s.at).value, true
}

// from calls fn for the keys at or after pivot, in order, until it returns false. fn must not write to the table.
func (t *packed[K, V]) from(pivot K, fn func(K, V) bool) {
	first, _ := t.blockOf(string(pivot))
	var key []byte
	t.blocks.m.Ascend(first, func(separator, block string) bool {
		key = append(key[:0], separator...)
		for at := 0; at < len(block); {
			e := readEntry(block, at)
			key = append(key[:e.shared], e.rest...)
			at = e.end
			if string(key) >= string(pivot) && !fn(K(key), t.codec.read(e.value)) {
				return false
			}
		}
		return true
	})
}

// keys calls fn for all keys, in order, until it returns false, with the number of leading bytes that are the same as
// in the previous call. So fn may convert the bytes in place, one to one.
func (t *packed[K, V]) keys(fn func(key []byte, same int) bool) {
	var key []byte
	t.blocks.m.Scan(func(separator, block string) bool {
		key = append(key[:0], separator...)
		same := 0
		for at := 0; at < len(block); {
			e := readEntry(block, at)
			key = append(key[:e.shared], e.rest...)
			if at > 0 {
				same = e.shared
			}
			if !fn(key, same) {
				return false
			}
			at = e.end
		}
		return true
	})
}

// look is the position of a key in its table, existing or not, valid until the next write to the table.
type look struct {
	separator, block, key string
	spot
}

func (t *packed[K, V]) look(key K) look {
	separator, block := t.blockOf(string(key))
	return look{separator, block, string(key), search(separator, block, string(key))}
}

// value returns the value at a position; the zero value if there is none.
func (t *packed[K, V]) value(l look) (v V) {
	if l.found {
		v = t.codec.read(readEntry(l.block, l.at).value)
	}
	return v
}

// beside returns how many bytes a missing key shares with the previous and the next key; -1 if only another look-up
// could tell.
func (l look) beside() (before, behind int) {
	before, behind = l.shared, -1
	if l.at == 0 {
		before = -1
	}
	if l.at < len(l.block) {
		behind = min(l.shared, readEntry(l.block, l.at).shared) + l.common
	}
	return before, behind
}

func (t *packed[K, V]) set(key K, v V) { t.put(t.look(key), v) }

// update changes the value of a key; a missing key has the zero value.
func (t *packed[K, V]) update(key K, change func(*V)) {
	l := t.look(key)
	v := t.value(l)
	change(&v)
	t.put(l, v)
}

// put sets the value of the key at a position.
func (t *packed[K, V]) put(l look, v V) {
	block, key, s := l.block, l.key, l.spot
	t.room = t.codec.append(t.room[:0], v)
	b := append(t.block[:0], block[:s.at]...)
	end := s.at
	if s.found {
		old := readEntry(block, s.at)
		b = appendEntry(b, old.shared, old.rest, "", t.room)
		end = old.end
	} else {
		t.n++
		b = appendEntry(b, s.shared, key[s.shared:], "", t.room)
		if s.common > 0 {
			next := readEntry(block, s.at)
			b = appendEntry(b, next.shared+s.common, next.rest[s.common:], "", next.value)
			end = next.end
		}
	}
	b = append(b, block[end:]...)
	t.block = b
	t.store(l.separator, string(b), end == len(block) && !s.found)
}

func (t *packed[K, V]) del(key K) {
	separator, block := t.blockOf(string(key))
	s := search(separator, block, string(key))
	if !s.found {
		return
	}
	t.n--
	old := readEntry(block, s.at)
	b := append(t.block[:0], block[:s.at]...)
	end := old.end
	if end < len(block) {
		// The next entry needs the bytes that it shared with the removed key but not with the one before.
		if next := readEntry(block, end); next.shared > old.shared {
			b = appendEntry(b, old.shared, old.rest[:next.shared-old.shared], next.rest, next.value)
			end = next.end
		}
	}
	b = append(b, block[end:]...)
	t.block = b
	switch {
	case len(b) == 0:
		t.blocks.del(separator)
	case len(b) > maxBlock/4 || !t.join(separator, string(b)):
		t.store(separator, string(b), false)
	}
}

// join merges a block that has become small with a small enough neighbour, if there is one.
func (t *packed[K, V]) join(separator, block string) bool {
	fits := func(other string) bool { return other != "" && len(block)+len(other) <= maxBlock*3/4 }
	var name, other string
	t.blocks.m.Ascend(separator+"\x00", func(k, b string) bool {
		name, other = k, b
		return false
	})
	if fits(other) {
		t.append(separator, block, name, other)
		return true
	}
	other = ""
	t.blocks.m.Descend(separator, func(k, b string) bool {
		name, other = k, b
		return k == separator
	})
	if name == separator || !fits(other) {
		return false
	}
	t.append(name, other, separator, block)
	return true
}

// append appends the content of the second block to the first one.
func (t *packed[K, V]) append(first, block, second, next string) {
	last := []byte(first)
	for at := 0; at < len(block); {
		e := readEntry(block, at)
		last = append(last[:e.shared], e.rest...)
		at = e.end
	}
	e := readEntry(next, 0)
	key := second[:e.shared] + e.rest
	shared := commonPrefix(string(last), key)
	t.blocks.del(second)
	t.store(first, string(append(appendEntry([]byte(block), shared, key[shared:], "", e.value), next[e.end:]...)),
		false)
}

// store puts a block in its place. It splits a block that is too large: in the middle, or before its last entry if that
// one is new, because keys that come in order should leave full blocks.
func (t *packed[K, V]) store(separator, block string, last bool) {
	if len(block) > maxBlock {
		var key, before []byte
		key = append(key, separator...)
		for at := 0; at < len(block); {
			e := readEntry(block, at)
			before = append(before[:0], key...)
			key = append(key[:e.shared], e.rest...)
			if at > 0 && (!last && e.end > len(block)/2 || e.end == len(block)) {
				second := string(key[:commonPrefix(string(before), string(key))+1])
				right := appendEntry(nil, len(second), string(key[len(second):]), "", e.value)
				t.store(separator, block[:at], false)
				t.store(second, string(append(right, block[e.end:]...)), false)
				return
			}
			at = e.end
		}
	}
	// Of several writes to one block in a command, only the first needs an undo record.
	if u := t.blocks.undo; len(u) > 0 && u[len(u)-1].key == separator {
		t.blocks.m.Set(separator, block)
		return
	}
	t.blocks.set(separator, block)
}

// packer fills an empty table with entries in the order of their keys.
type packer[K ~string, V any] struct {
	t         *packed[K, V]
	separator string
	last      string // the previous key
	value     []byte
	block     []byte
}

func (p *packer[K, V]) add(key K, v V) {
	p.value = p.t.codec.append(p.value[:0], v)
	shared := commonPrefix(p.last, string(key))
	if len(p.block) > 0 && len(p.block)+len(key)-shared+len(p.value)+6 > maxBlock {
		p.flush()
		p.separator = string(key[:shared+1])
		shared++
	}
	p.block = appendEntry(p.block, shared, string(key[shared:]), "", p.value)
	p.last = string(key)
	p.t.n++
}

// flush puts the last block into the table.
func (p *packer[K, V]) flush() {
	if len(p.block) > 0 {
		p.t.blocks.m.Load(p.separator, string(p.block))
		p.block = p.block[:0]
	}
	p.t.was = p.t.n
}

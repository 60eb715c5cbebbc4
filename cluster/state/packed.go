package state

// packed is a table for what there are millions of. Its entries lie next to each other in blocks, which are strings, so
// a million of them are some ten thousand objects with no pointer inside: little to allocate, and next to nothing for
// the garbage collector to look at. Keys are front-coded, as in snapshots.
//
// The blocks stand in a table under their separators: a block holds the keys from its separator up to the next one. So
// clones and rollbacks are those of the table, and a write replaces one block.
type packed[K ~string, V any] struct {
	blocks table[string, string]
	n      int // entries
	was    int // entries at the last commit
	codec  codec[V]

	// Room of the one who writes; not shared with clones.
	room, block []byte
}

// codec says how a value looks in a block. What read returns may share the block's bytes, so whoever keeps it for long
// copies what is needed of it.
type codec[V any] struct {
	append func(buf []byte, v V) []byte
	read   func(data string) V
}

// maxBlock is the size in bytes above which a block is split: a write copies one, and small ones need more separators.
// DESIGN.md has the numbers.
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

// An entry in a block is how many bytes its key shares with the key before (the first one: with the separator), the
// length of the rest of the key, the length of the value, the rest, the value.
type entryAt struct {
	shared      int
	rest, value string
	end         int // where the next one begins
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

// uvarint reads what appendUvarint wrote at s[at:] and returns where it ends.
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

// spot is where a key stands in a block, or would.
type spot struct {
	at     int // where its entry, or the first one behind it, begins
	found  bool
	shared int // bytes that the key shares with the one before
	common int // if not found: bytes by which the one behind shares more with the key than with the one before
}

// search finds key in a block, without putting together the keys in it: of the key before it is known that it is less
// and how much it shares with key, and that tells nearly always how the next one compares.
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

// blockOf returns the block that key belongs into. With no block so far that is an empty one.
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

// raw returns the value as it lies in its block.
func (t *packed[K, V]) raw(key K) (value string, ok bool) {
	separator, block := t.blockOf(string(key))
	s := search(separator, block, string(key))
	if !s.found {
		return "", false
	}
	return readEntry(block, s.at).value, true
}

// from calls fn for the keys at or behind pivot, in order, until it returns false. fn must not write to the table.
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

// keys calls fn for all keys, in order, until it returns false, with how many of the first bytes are as in the call
// before; so fn may keep its own version of these in place, byte for byte.
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

// look is where a key stands in its table, or would, as long as nobody writes to the table.
type look struct {
	separator, block, key string
	spot
}

func (t *packed[K, V]) look(key K) look {
	separator, block := t.blockOf(string(key))
	return look{separator, block, string(key), search(separator, block, string(key))}
}

// value returns what stands there; the zero value if nothing does.
func (t *packed[K, V]) value(l look) (v V) {
	if l.found {
		v = t.codec.read(readEntry(l.block, l.at).value)
	}
	return v
}

// beside returns how many bytes a key that is not there shares with the key before it and the one behind it, -1 for
// what another look would be needed to know.
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

// update changes the value of a key; one that is not there has the zero value.
func (t *packed[K, V]) update(key K, change func(*V)) {
	l := t.look(key)
	v := t.value(l)
	change(&v)
	t.put(l, v)
}

// put makes v the value of the key that was looked up.
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
		// What the next one shared with the one that goes and not with the one before it has to have itself.
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

// join makes one of a block that has become small and one beside it, if there is one that is small enough.
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

// append puts what is in the second block behind what is in the first one.
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
	t.store(first, string(append(appendEntry([]byte(block), shared, key[shared:], "", e.value), next[e.end:]...)), false)
}

// store puts a block in its place, split if it is too large: in the middle, or before its last entry if that one is
// new, because keys that come in order shall leave full blocks behind.
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
	// Of several writes to one block in a command only the first has something to take back.
	if u := t.blocks.undo; len(u) > 0 && u[len(u)-1].key == separator {
		t.blocks.m.Set(separator, block)
		return
	}
	t.blocks.set(separator, block)
}

// packer fills an empty table with entries that come in the order of their keys.
type packer[K ~string, V any] struct {
	t         *packed[K, V]
	separator string
	last      []byte
	value     []byte
	block     []byte
}

func (p *packer[K, V]) add(key K, v V) {
	p.value = p.t.codec.append(p.value[:0], v)
	shared := commonPrefix(string(p.last), string(key))
	if len(p.block) > 0 && len(p.block)+len(key)-shared+len(p.value)+6 > maxBlock {
		p.flush()
		p.separator = string(key[:shared+1])
		shared++
	}
	p.block = appendEntry(p.block, shared, string(key[shared:]), "", p.value)
	p.last = append(p.last[:0], key...)
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

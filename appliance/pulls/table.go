package pulls

import (
	"sync/atomic"
	"time"
)

// Dimensions of a table: buckets of a few slots each, 256 KiB.
const (
	bucketBits = 13
	ways       = 4
	idBits     = 49 // of an ID: its bucket and the key in its slot
	keyBits    = idBits - bucketBits
	minuteBits = 64 - keyBits // minutes since 1970 fit until the year 2480
)

// id identifies the content under a name, in idBits bits: FNV-1a of both with a zero byte between. Two of them are the
// same by chance once in 10^14 pairs.
func id(name, digest string) uint64 {
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset)
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * prime
	}
	h *= prime // the zero byte
	for i := range len(digest) {
		h = (h ^ uint64(digest[i])) * prime
	}
	return (h ^ h>>idBits) & (1<<idBits - 1)
}

// A table has the minute of the last pull of each ID, as long as its bucket has room: a new ID takes the place of the
// one that was pulled least lately. A slot is one word, so no reader sees a half-written one and nobody waits. When two
// requests write a slot at once, one of them is not recorded.
type table struct {
	slots   [1 << bucketBits][ways]atomic.Uint64 // key, then minute; 0: free
	changed atomic.Uint64
}

func minuteOf(t time.Time) uint64 { return uint64(max(t.Unix()/60, 1)) & (1<<minuteBits - 1) }

// set records a pull. Within a minute only the first of an ID writes.
func (t *table) set(id, minute uint64) {
	bucket := &t.slots[id&(1<<bucketBits-1)]
	key := id >> bucketBits << minuteBits
	oldest, least := &bucket[0], ^uint64(0)
	var seen uint64 // what the oldest slot had
	for i := range bucket {
		slot := &bucket[i]
		v := slot.Load()
		at := v & (1<<minuteBits - 1)
		if v != 0 && v&^(1<<minuteBits-1) == key {
			oldest, seen = slot, v
			break
		}
		if at < least {
			oldest, seen, least = slot, v, at
		}
	}
	if seen != key|minute && oldest.CompareAndSwap(seen, key|minute) {
		t.changed.Add(1)
	}
}

// get returns the minute of the last pull, 0 if it is not known.
func (t *table) get(id uint64) (minute uint64) {
	for i := range ways {
		v := t.slots[id&(1<<bucketBits-1)][i].Load()
		if v != 0 && v>>minuteBits == id>>bucketBits {
			minute = max(minute, v&(1<<minuteBits-1))
		}
	}
	return minute
}

// all yields every ID with its minute.
func (t *table) all(yield func(id, minute uint64) bool) {
	for b := range t.slots {
		for i := range ways {
			v := t.slots[b][i].Load()
			if v != 0 && !yield(v>>minuteBits<<bucketBits|uint64(b), v&(1<<minuteBits-1)) {
				return
			}
		}
	}
}

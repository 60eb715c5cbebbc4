package state

import (
	"encoding/binary"
	"iter"
	"strings"
	"time"
)

// kind is the kind of a node. The numbers are used in snapshots.
type kind uint8

const (
	record kind = 1 // body is the data
	strong kind = 2 // body is the digest; keeps its blob and those in holds
	weak   kind = 3 // body is the digest; visible while the blob that was born at born lives
)

// node is one claim's content of a name, as read from the table; its strings share the table's bytes.
type node struct {
	version uint64 // the log index that wrote it
	mod     int64  // Unix nanoseconds
	body    string
	holds   digests
	claim   string // "" is by hand
	born    uint64
	older   *node // the claim that shows when this one goes; nil in the common case
	kind    kind
}

// nodeCodec writes the claims of a name one after the other. A node that it reads shares the bytes of the block.
var nodeCodec = codec[*node]{append: appendNodes, read: readNodes}

// The first byte of a node in a block is its kind, and flags for the less frequent fields.
const (
	hasClaim  = 1 << 2
	hasHolds  = 1 << 3
	kindBits  = 1<<2 - 1
	modLength = 8
)

func appendNodes(b []byte, n *node) []byte {
	for ; n != nil; n = n.older {
		head := byte(n.kind)
		if n.claim != "" {
			head |= hasClaim
		}
		if n.holds != "" {
			head |= hasHolds
		}
		b = append(b, head)
		b = appendUvarint(b, n.version)
		b = binary.BigEndian.AppendUint64(b, uint64(n.mod))
		b = appendText(b, n.body)
		if n.kind == weak {
			b = appendUvarint(b, n.born)
		}
		if n.claim != "" {
			b = appendText(b, n.claim)
		}
		if n.holds != "" {
			b = appendText(b, string(n.holds))
		}
	}
	return b
}

func appendText(b []byte, s string) []byte { return append(appendLen(b, len(s)), s...) }

func readText(s string, at int) (text string, end int) {
	n, at := uvarint(s, at)
	return s[at : at+int(n)], at + int(n)
}

func readNodes(s string) (newest *node) {
	next := &newest
	for at := 0; at < len(s); {
		n := new(node)
		at = n.read(s, at)
		*next, next = n, &n.older
	}
	return newest
}

// read reads the node at s[at:] and returns the position of the next one.
func (n *node) read(s string, at int) (end int) {
	head := s[at]
	n.kind = kind(head & kindBits)
	n.version, at = uvarint(s, at+1)
	for _, c := range []byte(s[at : at+modLength]) {
		n.mod = n.mod<<8 | int64(c)
	}
	n.body, at = readText(s, at+modLength)
	if n.kind == weak {
		n.born, at = uvarint(s, at)
	}
	if head&hasClaim != 0 {
		n.claim, at = readText(s, at)
	}
	if head&hasHolds != 0 {
		var holds string
		holds, at = readText(s, at)
		n.holds = digests(holds)
	}
	return at
}

// Entry is a file as readers see it.
type Entry struct {
	Version uint64 // the log index that wrote it
	ModTime time.Time
	Digest  Digest // of the linked blob, "" for a record
	Data    string // of a record
	Size    int64  // of the blob or the record, in bytes
	Weak    bool
	Claim   string // the visible claim; "" for none
}

// alive is false for a weak link whose blob was collected, even if the same bytes have come back since.
func (s *State) alive(n *node) bool {
	if n.kind != weak {
		return true
	}
	b, ok := s.blobs.get(Digest(n.body))
	return ok && b.born == n.born
}

// visible returns the newest claim that is alive, nil if there is none.
func (s *State) visible(n *node) *node {
	for n != nil && !s.alive(n) {
		n = n.older
	}
	return n
}

// entry is a node for readers, who may retain it: it copies the strings, which would otherwise retain whole blocks.
func (s *State) entry(n *node) Entry {
	var own strings.Builder
	own.Grow(len(n.body) + len(n.claim))
	own.WriteString(n.body)
	own.WriteString(n.claim)
	body, claim := own.String()[:len(n.body)], own.String()[len(n.body):]
	e := Entry{Version: n.version, ModTime: time.Unix(0, n.mod).UTC(), Claim: claim, Weak: n.kind == weak}
	if n.kind == record {
		e.Data, e.Size = body, int64(len(body))
		return e
	}
	e.Digest = Digest(body)
	b, _ := s.blobs.get(e.Digest)
	e.Size = b.size
	return e
}

// Get returns the file of that name.
func (s *State) Get(name string) (Entry, bool) {
	if strings.IndexByte(name, 0) >= 0 {
		return Entry{}, false
	}
	claims, _ := s.names.raw(keyOf(name))
	for at := 0; at < len(claims); {
		var n node
		if at = n.read(claims, at); s.alive(&n) {
			return s.entry(&n), true
		}
	}
	return Entry{}, false
}

// IsDir reports whether a file is below name. The root, ".", always is a directory.
func (s *State) IsDir(name string) bool {
	if name == "." {
		return true
	}
	if !validName(name) {
		return false
	}
	_, found := s.firstBelow(belowKey(name))
	return found
}

// firstBelow returns the first visible key that begins with prefix.
func (s *State) firstBelow(prefix string) (key string, found bool) {
	s.names.from(prefix, func(k string, n *node) bool {
		if !strings.HasPrefix(k, prefix) {
			return false
		}
		key, found = k, s.visible(n) != nil
		return !found
	})
	return key, found
}

// DirEntry is one line of a directory.
type DirEntry struct {
	Name  string // the last element
	Dir   bool
	Entry Entry // zero for a directory
}

// ReadDir yields the entries of the directory, sorted by name, beginning after the element after ("" for all). Its cost
// depends on the number of entries, not on what is below them. It yields nothing for a file and for a name that does
// not exist; see IsDir.
func (s *State) ReadDir(dir, after string) iter.Seq[DirEntry] {
	return func(yield func(DirEntry) bool) {
		if dir != "." && !validName(dir) {
			return
		}
		prefix := belowKey(dir)
		pivot := prefix
		if after != "" {
			pivot = prefix + after + "\x01" // after the element's own subtree, whose keys continue with NUL
		}
		for again := true; again; {
			again = false
			s.names.from(pivot, func(k string, n *node) bool {
				if !strings.HasPrefix(k, prefix) {
					return false
				}
				n = s.visible(n)
				if n == nil {
					return true
				}
				elem, _, deep := strings.Cut(k[len(prefix):], "\x00")
				if deep {
					// One seek over the whole subtree.
					again = yield(DirEntry{Name: elem, Dir: true})
					pivot = prefix + elem + "\x01"
					return false
				}
				return yield(DirEntry{Name: elem, Entry: s.entry(n)})
			})
		}
	}
}

// Walk yields the files below dir with their whole names, ordered component by component ("a/b" before "a-b"),
// beginning after the name after, which need not exist ("" for all).
func (s *State) Walk(dir, after string) iter.Seq2[string, Entry] {
	return func(yield func(string, Entry) bool) {
		if dir != "." && !validName(dir) {
			return
		}
		prefix := belowKey(dir)
		pivot := prefix
		if after != "" {
			pivot = max(prefix, keyOf(after)+"\x00") // the lowest key after after's own
		}
		s.names.from(pivot, func(k string, n *node) bool {
			if !strings.HasPrefix(k, prefix) {
				return false
			}
			n = s.visible(n)
			return n == nil || yield(nameOf(k), s.entry(n))
		})
	}
}

// Names yields all names, including stale weak links, like Result.Appeared and Vanished. The bytes are valid until the
// next name, so a million names cost no memory.
func (s *State) Names() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		s.names.keys(func(key []byte, same int) bool {
			for i, c := range key[same:] {
				if c == 0 {
					key[same+i] = '/'
				}
			}
			return yield(key)
		})
	}
}

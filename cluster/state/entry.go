package state

import (
	"iter"
	"strings"
	"time"
)

// kind says what a node is. The numbers stand in snapshots.
type kind uint8

const (
	record kind = 1 // body is the data
	strong kind = 2 // body is the digest; keeps its blob and those in holds
	weak   kind = 3 // body is the digest; visible while the blob that was born at born lives
)

// node is one claim's content of a name. It is never changed once it is in the table: clones share it.
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

// Entry is a file as readers see it.
type Entry struct {
	Version uint64 // the log index that wrote it
	ModTime time.Time
	Digest  Digest // of the linked blob, "" for a record
	Data    string // of a record; it is shared, which is why it is no slice
	Size    int64  // of the blob or the record, in bytes
	Weak    bool
	Claim   string // which claim is seen, "" is by hand
}

// alive is false for a weak link whose blob was collected, even when the same bytes have come back since.
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

func (s *State) entry(n *node) Entry {
	e := Entry{Version: n.version, ModTime: time.Unix(0, n.mod).UTC(), Claim: n.claim, Weak: n.kind == weak}
	if n.kind == record {
		e.Data, e.Size = n.body, int64(len(n.body))
		return e
	}
	e.Digest = Digest(n.body)
	b, _ := s.blobs.get(e.Digest)
	e.Size = b.size
	return e
}

// Get returns the file of that name.
func (s *State) Get(name string) (Entry, bool) {
	n, _ := s.names.get(keyOf(name))
	if n = s.visible(n); n == nil || strings.IndexByte(name, 0) >= 0 {
		return Entry{}, false
	}
	return s.entry(n), true
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

// ReadDir yields what stands in the directory, sorted by name, beginning behind the element after ("" for all). It
// costs what it yields, not what lies below. It yields nothing for a file and for what does not exist; IsDir tells.
func (s *State) ReadDir(dir, after string) iter.Seq[DirEntry] {
	return func(yield func(DirEntry) bool) {
		if dir != "." && !validName(dir) {
			return
		}
		prefix := belowKey(dir)
		pivot := prefix
		if after != "" {
			pivot = prefix + after + "\x01" // behind the element's own subtree, whose keys go on with NUL
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
					again = yield(DirEntry{Name: strings.Clone(elem), Dir: true})
					pivot = prefix + elem + "\x01"
					return false
				}
				return yield(DirEntry{Name: elem, Entry: s.entry(n)})
			})
		}
	}
}

// Walk yields the files below dir with their whole names, ordered component by component ("a/b" before "a-b"),
// beginning behind after, which need not exist ("" for all).
func (s *State) Walk(dir, after string) iter.Seq2[string, Entry] {
	return func(yield func(string, Entry) bool) {
		if dir != "." && !validName(dir) {
			return
		}
		prefix := belowKey(dir)
		pivot := prefix
		if after != "" {
			pivot = max(prefix, keyOf(after)+"\x00") // the least key behind after's own
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

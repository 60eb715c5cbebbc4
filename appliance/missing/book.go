// Package missing maintains the missing book: every image, file, DNS name, TLS name and host that a client requested
// and did not get. Requests that do not show a need (a probe, a search list) are counted separately, with the reason.
//
// It promises: the book has a fixed size, however many distinct things are requested. Each kind has its own places,
// so that no flood of one kind evicts another, and they are divided among the clients: a client that requests much
// loses its own oldest entries first. Recording a miss never waits for a disk or the network. The book is on the
// node's own disk and survives a restart (a crash loses at most the last few seconds). The other nodes see it through
// one bounded file of the tree, written at most once a minute and only if something changed.
package missing

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"casemate/appliance/notebook"
)

// The kinds of things that can be missing.
const (
	Image = "image" // origin/repository:tag or origin/repository@digest
	Blob  = "blob"  // origin/repository@digest: a layer or config by itself, which a list of images cannot contain
	File  = "file"  // the URL
	DNS   = "dns"   // the queried name
	TLS   = "tls"   // the SNI of a handshake that got no certificate
	Host  = "host"  // the Host of a request that is not served here
)

// Kinds are all kinds, in the order of their importance to operators.
var Kinds = []string{Image, Blob, File, DNS, TLS, Host}

// shares are each kind's share of the book, in twentieths; "" is noise of any kind, and kinds that a newer version
// may have written.
var shares = map[string]int{Image: 6, Blob: 2, File: 6, DNS: 2, TLS: 1, Host: 1, "": 2}

const (
	maxClients   = 8    // addresses per entry
	maxName      = 1024 // bytes of a name
	maxDetail    = 256
	publishLimit = 1000 // entries in the file in the tree
	publishNoise = 100  // of these, entries of noise
)

// An Entry is one missed name.
type Entry struct {
	Kind   string    `json:"kind"`
	Name   string    `json:"name"`
	Detail string    `json:"detail,omitempty"` // the newest reason, or what exists instead
	Count  uint64    `json:"count"`
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
	// Clients are addresses or USER@ADDRESS; the newest last, at most 8. Earlier versions recorded the /64 of an IPv6
	// address.
	Clients []string `json:"clients"`
	// Asked is when each of the clients last asked, in minutes since 1970; 0 if an earlier version has recorded it.
	Asked []int64  `json:"asked,omitempty"`
	Nodes []string `json:"nodes,omitempty"`
	// Noise is the reason why the entry does not show a need, one of Reasons; "" if it does.
	Noise string `json:"noise,omitempty"`
	// Mark is what an operator has noted; nil in a node's own book.
	Mark *Mark `json:"mark,omitempty"`

	// askers are the clients of all nodes' entries and when they asked; nil: they are Clients.
	askers map[string]int64
}

// A Question is one request that was a miss.
type Question struct {
	Kind, Name string
	Detail     string // the reason, or what exists instead; for DNS the query type
	Client     netip.Addr
	User       string // the authenticated user, "" if none
	Expanded   bool   // DNS detected that it is a known name with a suffix that a search list added

	// Of an HTTP request; "" for other protocols.
	Method, Agent, Accept string
}

// Tree is the directory of the tree in which each node has one file.
type Tree = notebook.Tree

// Config configures a Book.
type Config struct {
	// File is the book's file on the node's own disk. Required.
	File string
	// Node is the name of the node's file in the tree.
	Node string
	// Tree is where the book is published; nil: not published.
	Tree Tree
	// Facts are used to decide whether a question shows a need. nil: nothing is known.
	Facts Facts
	// Max is the number of entries; 0: 10000.
	Max int
	// Save and Publish are the intervals for writing a changed book to disk and to the tree; 0: 5 s and 1 min.
	Save, Publish time.Duration
	// Log gets a line when the book cannot be saved. nil: nothing is logged.
	Log *slog.Logger
}

// Book is the missing book of one node. Add, Note and the readers are safe for concurrent use.
type Book struct {
	cfg Config

	mu      sync.Mutex
	shelves map[string]*shelf // by kind; "" is noise
	changed uint64            // counts changes
	cleared time.Time
	dropped uint64 // entries that a full book dropped

	notes notebook.Notebook // owned by Run
}

// file is the format of a book on disk and in the tree. Earlier versions leave out Noise.
type file struct {
	Cleared time.Time `json:"cleared,omitzero"`
	Dropped uint64    `json:"dropped,omitempty"`
	Entries []Entry   `json:"entries"`
	Noise   []Entry   `json:"noise,omitempty"`
}

// Open reads the book from disk. It renames a damaged file, with the suffix .damaged, and logs that: a damaged book
// does not keep a node from starting.
func Open(cfg Config) (*Book, error) {
	if cfg.Max == 0 {
		cfg.Max = 10000
	}
	if cfg.Save == 0 {
		cfg.Save = 5 * time.Second
	}
	if cfg.Publish == 0 {
		cfg.Publish = time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Facts == nil {
		cfg.Facts = nothingKnown{}
	}
	b := &Book{cfg: cfg, shelves: map[string]*shelf{}}
	for kind, part := range shares {
		b.shelves[kind] = newShelf(max(1, cfg.Max*part/20))
	}
	b.notes = notebook.Notebook{
		What: "missing book", File: cfg.File, Node: cfg.Node, Tree: cfg.Tree, Save: cfg.Save, Publish: cfg.Publish,
		Log: cfg.Log, Follow: b.followTree,
		Snapshot: func(bounded bool) (any, uint64) {
			if bounded {
				return b.snapshot(publishLimit)
			}
			return b.snapshot(0)
		},
	}
	var f file
	if ok, err := b.notes.Load(&f); err != nil || !ok {
		if err != nil {
			return nil, err
		}
		return b, nil
	}
	b.cleared, b.dropped = f.Cleared, f.Dropped
	entries := slices.Concat(f.Entries, f.Noise)
	slices.SortStableFunc(entries, func(x, y Entry) int { return x.Last.Compare(y.Last) })
	for _, e := range entries {
		e.align()
		if have, _ := b.find(key{e.Kind, e.Name}); len(e.Clients) > 0 && have == nil {
			b.dropped += b.shelf(e).insert(e)
		}
	}
	return b, nil
}

// Add records that client requested something of that kind and did not get it; detail says more, or is "". It only
// touches memory.
func (b *Book) Add(kind, name, detail string, client netip.Addr) {
	b.Note(Question{Kind: kind, Name: name, Detail: detail, Client: client})
}

// Note records a question, and returns the reason why it is noise, "" if it shows a need. It only touches memory.
func (b *Book) Note(q Question) (noise string) { return b.note(q, time.Now().UTC()) }

func (b *Book) note(q Question, now time.Time) (noise string) {
	q.Name, q.Detail = clean(q.Name, maxName), clean(q.Detail, maxDetail)
	noise = Judge(q, b.cfg.Facts)
	from := q.Client.Unmap().WithZone("").String()
	if q.User != "" {
		from = clean(q.User, maxDetail) + "@" + from
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changed++
	k := key{q.Kind, q.Name}
	e, on := b.find(k)
	if e != nil && e.Noise != "" && noise == "" {
		on.drop(e) // noise before, needed now
		e = nil
	}
	if e == nil {
		fresh := Entry{
			Kind: q.Kind, Name: q.Name, Detail: q.Detail, Count: 1, First: now, Last: now, Clients: []string{from},
			Asked: []int64{minuteOf(now)}, Noise: noise,
		}
		b.dropped += b.shelf(fresh).insert(fresh)
		return noise
	}
	if e.Noise == "" && noise != "" {
		return noise // the entry already records who needs it
	}
	e.Count++
	e.Last, e.Noise = now, noise
	if q.Detail != "" {
		e.Detail = q.Detail
	}
	e.again(from, minuteOf(now))
	return noise
}

// shelf returns the shelf of an entry. The caller holds b.mu, or owns b.
func (b *Book) shelf(e Entry) *shelf {
	if s := b.shelves[e.Kind]; s != nil && e.Noise == "" {
		return s
	}
	return b.shelves[""]
}

// find returns an entry and its shelf; nil if there is none. The caller holds b.mu, or owns b.
func (b *Book) find(k key) (*entry, *shelf) {
	for _, kind := range []string{k.kind, ""} {
		if s := b.shelves[kind]; s != nil && s.entries[k] != nil {
			return s.entries[k], s
		}
	}
	return nil, nil
}

// clean truncates s to n bytes and makes it one printable line: text from clients is shown on an operator's terminal
// and in lists.
func clean(s string, n int) string {
	if len(s) > n {
		s = s[:n]
		for len(s) > 0 && !utf8.RuneStart(s[len(s)-1]) {
			s = s[:len(s)-1]
		}
		if r, size := utf8.DecodeLastRuneInString(s); r == utf8.RuneError && size == 1 {
			s = s[:len(s)-1]
		}
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' ||
			r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069' {
			return '?'
		}
		return r
	}, s)
}

// Len returns the number of entries that show a need, and how many entries of any kind a full book dropped.
func (b *Book) Len() (n int, dropped uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for kind, s := range b.shelves {
		if kind != "" {
			n += len(s.entries)
		}
	}
	return n, b.dropped
}

// Changed returns a number that is another one after each change of this node's book.
func (b *Book) Changed() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

// snapshot returns this node's entries, newest first. limit is the maximum number, 0 for all. With a limit each kind
// has its share, and within a kind each client, so that a flood does not hide other clients' misses from the other
// nodes.
func (b *Book) snapshot(limit int) (f file, changed uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f = file{Cleared: b.cleared, Dropped: b.dropped, Entries: []Entry{}}
	left := limit
	rest := []Entry{}
	for _, kind := range Kinds {
		all := b.shelves[kind].fairest(limit == 0)
		n := len(all)
		if limit > 0 {
			n = min(n, limit*shares[kind]/20)
		}
		f.Entries, rest, left = append(f.Entries, all[:n]...), append(rest, all[n:]...), left-n
	}
	f.Noise = b.shelves[""].fairest(limit == 0)
	if limit > 0 {
		f.Entries = append(f.Entries, rest[:min(len(rest), left)]...)
		f.Noise = f.Noise[:min(len(f.Noise), publishNoise)]
	}
	slices.SortFunc(f.Entries, newest)
	slices.SortFunc(f.Noise, newest)
	return f, b.changed
}

func newest(x, y Entry) int {
	if c := y.Last.Compare(x.Last); c != 0 {
		return c
	}
	if c := strings.Compare(x.Kind, y.Kind); c != 0 {
		return c
	}
	return strings.Compare(x.Name, y.Name)
}

// Run saves and publishes the book periodically until ctx is done, and then saves it once more.
func (b *Book) Run(ctx context.Context) { b.notes.Run(ctx) }

// followTree applies what other nodes have cleared or forgotten.
func (b *Book) followTree() {
	if dir, err := b.cfg.Tree.ReadDir("."); err == nil {
		b.follow(dir)
	}
}

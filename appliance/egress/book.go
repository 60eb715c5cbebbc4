// Package egress records which names clients used, and what became of each: answered here, forwarded to the site's
// resolvers, or refused. It is the evidence that nothing inside reaches the outside.
//
// It promises: the book has a fixed size, whoever asks for how much. Its places are divided among the clients: a client
// with many names loses its own oldest ones first, and questions with forged addresses push out no name of a request. Recording only touches memory. The book survives a restart and is
// visible on every node, with the delay of notebook.
//
// It cannot show what does not pass the bastions: connections to addresses, other resolvers, DNS over HTTPS. Unseen
// says so, and the doctor tries them on a node.
package egress

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"casemate/appliance/notebook"
	"casemate/cluster/share"
)

// Kinds of uses of a name.
const (
	DNS       = "dns"       // a question
	TLS       = "tls"       // the name in a TLS handshake, counted by requests, or by refused handshakes
	Handshake = "handshake" // the name in a TLS handshake that no request followed
	HTTP      = "http"      // the Host of a request without TLS
)

// Verdicts.
const (
	Answered  = "answered"  // from what is here; for DNS also that the name has no such record
	Forwarded = "forwarded" // to resolvers of the site (dns.forward), whatever they said
	Refused   = "refused"   // the name does not exist here
)

// Unseen are the ways out that no name shows.
var Unseen = []string{
	"connections to addresses without a name",
	"names that clients ask other resolvers for",
	"DNS over HTTPS and over TLS at addresses outside",
	"questions of clients that dns.allow does not permit",
}

const (
	maxEntries   = 20000
	publishLimit = 2000 // entries in the file in the tree
	maxName      = 256  // bytes
)

// Entry is what became of the uses of one name by one client.
type Entry struct {
	Client  string    `json:"client"` // an address, or the /64 of an IPv6 address
	Kind    string    `json:"kind"`
	Name    string    `json:"name"`
	Verdict string    `json:"verdict"`
	Count   uint64    `json:"count"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	// Class is what the name is known for, such as Telemetry; "" if it is not known.
	Class string   `json:"class,omitempty"`
	Nodes []string `json:"nodes,omitempty"`
}

// Config configures a Book. File is required.
type Config struct {
	// File is the book's file on the node's own disk, Node the name of its copy in Tree; a nil Tree has none.
	File, Node string
	Tree       notebook.Tree
	// Max is the number of entries; 0: 20000.
	Max int
	// Save and Publish are the intervals for writing a changed book to disk and to the tree; 0: 10 s and 15 min. Nearly
	// every book has changed after a minute, and each copy is a file that all nodes store.
	Save, Publish time.Duration
	Now           func() time.Time // nil: time.Now
	Log           *slog.Logger     // nil: nothing is logged
}

// Book is the book of one node. Note and List are safe for concurrent use.
type Book struct {
	cfg   Config
	notes notebook.Notebook // owned by Run

	mu      sync.Mutex
	places  *shelves
	changed uint64
	dropped uint64 // entries that a full book dropped
}

// file is the format of a book on disk and in the tree.
type file struct {
	Dropped uint64  `json:"dropped,omitempty"`
	Entries []Entry `json:"entries"`
}

// Open reads the book from disk.
func Open(cfg Config) (*Book, error) {
	cfg.Max = cmp.Or(cfg.Max, maxEntries)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	b := &Book{cfg: cfg, places: newShelves(cfg.Max)}
	b.notes = notebook.Notebook{
		What: "egress book", File: cfg.File, Node: cfg.Node, Tree: cfg.Tree,
		Save: cmp.Or(cfg.Save, 10*time.Second), Publish: cmp.Or(cfg.Publish, 15*time.Minute), Log: cfg.Log,
		Snapshot: func(bounded bool) (any, uint64) {
			if bounded {
				return b.snapshot(publishLimit)
			}
			return b.snapshot(0)
		},
	}
	var f file
	if ok, err := b.notes.Load(&f); err != nil || !ok {
		return b, err
	}
	slices.SortStableFunc(f.Entries, func(x, y Entry) int { return x.Last.Compare(y.Last) })
	for _, e := range f.Entries {
		if k, ok := keyOf(e); ok {
			b.dropped += b.places.add(k, record{e.Count, e.First, e.Last})
		}
	}
	b.dropped += f.Dropped
	return b, nil
}

// Run saves and publishes the book until ctx is done.
func (b *Book) Run(ctx context.Context) { b.notes.Run(ctx) }

// Note records that a client used a name n times. Uses of invalid addresses and of no name are ignored.
func (b *Book) Note(client netip.Addr, kind, name, verdict string, n uint64) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if !client.IsValid() || name == "" || n == 0 {
		return
	}
	now := b.cfg.Now().UTC()
	k := key{share.Net(client), kind, clean(name), verdict}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changed++
	b.dropped += b.places.add(k, record{n, now, now})
}

// clean truncates a name, and makes it one printable word: it is shown on an operator's terminal.
func clean(name string) string {
	odd := func(r rune) bool { return r <= ' ' || r > '~' }
	if len(name) <= maxName && !strings.ContainsFunc(name, odd) {
		return name
	}
	return strings.Map(func(r rune) rune {
		if odd(r) {
			return '?'
		}
		return r
	}, name[:min(len(name), maxName)])
}

// snapshot returns this node's entries, the newest first; with a limit the newest of each client first.
func (b *Book) snapshot(limit int) (file, uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := file{Dropped: b.dropped, Entries: b.places.list(limit)}
	slices.SortFunc(f.Entries, Order)
	return f, b.changed
}

// Order compares entries as List sorts them.
func Order(x, y Entry) int {
	return cmp.Or(y.Last.Compare(x.Last), cmp.Compare(x.Client, y.Client), cmp.Compare(x.Name, y.Name),
		cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Verdict, y.Verdict))
}

// Filter selects entries.
type Filter struct {
	Since   time.Time    // the last use is not before it
	Clients netip.Prefix // the zero Prefix: all
}

// List returns the entries in the books of all nodes, merged and the newest first, and how many entries full books
// have dropped. The other nodes' part may be as old as the interval of publication.
func (b *Book) List(by Filter) (entries []Entry, dropped uint64, err error) {
	own, _ := b.snapshot(0)
	m := merger{at: map[key]int{}, by: by}
	m.add(own, b.cfg.Node)
	others, err := notebook.Others[file](&b.notes, nil)
	if err != nil {
		return nil, 0, err
	}
	for _, o := range others {
		m.add(o.Book, o.Node)
	}
	slices.SortFunc(m.entries, Order)
	return m.entries, m.dropped, nil
}

// merger merges the books of several nodes.
type merger struct {
	entries []Entry
	at      map[key]int
	dropped uint64
	by      Filter
}

func (m *merger) add(f file, node string) {
	m.dropped += f.Dropped
	for _, e := range f.Entries {
		k, ok := keyOf(e)
		if !ok || e.Last.Before(m.by.Since) || m.by.Clients.IsValid() && !m.by.Clients.Overlaps(k.client) {
			continue
		}
		e.Nodes, e.Class = []string{node}, classOf(e.Name)
		i, known := m.at[k]
		if !known {
			m.at[k] = len(m.entries)
			m.entries = append(m.entries, e)
			continue
		}
		have := &m.entries[i]
		have.Count += e.Count
		have.Nodes = append(have.Nodes, node)
		if e.First.Before(have.First) {
			have.First = e.First
		}
		if e.Last.After(have.Last) {
			have.Last = e.Last
		}
	}
}

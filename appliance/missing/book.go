// Package missing keeps the missing book: every image, file, DNS name, TLS name and host that a client asked for and
// did not get.
//
// It promises: the book has a fixed size however many distinct things are asked for, and when it is full the noisiest
// client's entries go first, so that a scan by one client does not push out what the others really miss; noting a miss
// never waits for a disk or the network; the book lies on the node's own disk and survives a restart (a crash loses at
// most the last few seconds); and the other nodes see it through one bounded file of the tree, written at most once a
// minute and only if something changed.
package missing

import (
	"container/heap"
	"container/list"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"casemate/cluster/tree"
)

// The kinds of things that can be missing.
const (
	Image = "image" // origin/repository:tag or origin/repository@digest
	Blob  = "blob"  // origin/repository@digest: a layer or config that was asked for by itself, so that no list of images can name it
	File  = "file"  // the URL
	DNS   = "dns"   // the name asked for
	TLS   = "tls"   // the SNI of a handshake that got no certificate
	Host  = "host"  // the Host of a request that we do not answer for
)

// Kinds are all of them, in the order in which people care.
var Kinds = []string{Image, Blob, File, DNS, TLS, Host}

const (
	maxClients   = 8    // addresses kept with an entry
	maxName      = 1024 // bytes of a name
	maxDetail    = 256
	publishLimit = 1000 // entries in the tree's file
)

// An Entry is one thing that was missed.
type Entry struct {
	Kind    string    `json:"kind"`
	Name    string    `json:"name"`
	Detail  string    `json:"detail,omitempty"` // the newest: why, or what else was there
	Count   uint64    `json:"count"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	Clients []string  `json:"clients"` // the newest last, at most 8
	Nodes   []string  `json:"nodes,omitempty"`
}

// Tree is what the book needs of the tree: the directory in which each node has one file.
type Tree interface {
	fs.ReadFileFS
	fs.ReadDirFS
	Update(ctx context.Context, fn func(tree.Batch) error) error
	CreateBlob(id string) (tree.BlobWriter, error)
}

// Config says where the book lies.
type Config struct {
	// File is where the book is kept on the node's own disk. Required.
	File string
	// Node is the name of the file in the tree.
	Node string
	// Tree is where the book is published; nil: it is not.
	Tree Tree
	// Max is the number of entries; 0: 10000.
	Max int
	// Save and Publish are how often a changed book goes to the disk and to the tree; 0: 5 s and 1 min.
	Save, Publish time.Duration
	// Log gets a line when the book cannot be kept. nil: nothing is logged.
	Log *slog.Logger
}

type key struct{ kind, name string }

type entry struct {
	Entry
	owner *client
	at    *list.Element // in owner.entries
}

// client is one that missed something: an address, or the /64 of an IPv6 address.
type client struct {
	name    string
	entries *list.List // of *entry, the one asked for longest ago first
	index   int        // in Book.noisy
}

// Book is the missing book of one node. Add and the readers are safe for concurrent use.
type Book struct {
	cfg Config

	mu      sync.Mutex
	entries map[key]*entry
	clients map[string]*client
	noisy   noisy  // a heap, the client with most entries first
	changed uint64 // counts changes
	cleared time.Time
	dropped uint64 // entries that a full book let go

	saved     uint64 // the change that is on disk; owned by Run and Close
	published uint64 // the change that is in the tree; owned by Run and Close
}

type noisy []*client

func (h noisy) Len() int           { return len(h) }
func (h noisy) Less(i, j int) bool { return h[i].entries.Len() > h[j].entries.Len() }
func (h noisy) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *noisy) Push(x any) {
	c := x.(*client)
	c.index = len(*h)
	*h = append(*h, c)
}
func (h *noisy) Pop() any {
	old := *h
	c := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return c
}

type file struct {
	Cleared time.Time `json:"cleared,omitzero"`
	Dropped uint64    `json:"dropped,omitempty"`
	Entries []Entry   `json:"entries"`
}

// clearedName is the tree's file that says up to when the books of all nodes were cleared; no node can be called so.
const clearedName = "_cleared"

// Open reads the book from disk. A damaged file is put aside with the name's end .damaged and said so in the log: the
// book is an aid, it does not keep a node from starting.
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
	b := &Book{cfg: cfg, entries: map[key]*entry{}, clients: map[string]*client{}}
	data, err := os.ReadFile(cfg.File)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err != nil {
		return nil, fmt.Errorf("missing book: %w", err)
	}
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		cfg.Log.Warn("the missing book is damaged and begins anew", "file", cfg.File, "error", err)
		if err := os.Rename(cfg.File, cfg.File+".damaged"); err != nil {
			return nil, fmt.Errorf("missing book: %w", err)
		}
		return b, nil
	}
	b.cleared, b.dropped = f.Cleared, f.Dropped
	slices.SortFunc(f.Entries, func(x, y Entry) int { return x.Last.Compare(y.Last) })
	for _, e := range f.Entries[max(0, len(f.Entries)-cfg.Max):] {
		if len(e.Clients) > 0 {
			b.insert(e)
		}
	}
	b.changed = 0
	return b, nil
}

// Add notes that client asked for something of that kind and did not get it; detail says more, or "". It only touches
// memory.
func (b *Book) Add(kind, name, detail string, client netip.Addr) {
	b.add(kind, clean(name, maxName), clean(detail, maxDetail), client, time.Now().UTC())
}

func (b *Book) add(kind, name, detail string, from netip.Addr, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changed++
	group := clientName(from)
	e := b.entries[key{kind, name}]
	if e == nil {
		b.insert(Entry{Kind: kind, Name: name, Detail: detail, Count: 1, First: now, Last: now, Clients: []string{group}})
		for len(b.entries) > b.cfg.Max {
			b.evict()
		}
		return
	}
	e.Count++
	e.Last = now
	if detail != "" {
		e.Detail = detail
	}
	if i := slices.Index(e.Clients, group); i < 0 || i != len(e.Clients)-1 {
		if i >= 0 {
			e.Clients = slices.Delete(e.Clients, i, i+1)
		} else if len(e.Clients) == maxClients {
			e.Clients = slices.Delete(e.Clients, 0, 1)
		}
		e.Clients = append(e.Clients, group)
	}
	e.owner.entries.MoveToBack(e.at)
}

// clientName is the address, or for IPv6 its /64: a host there has as many addresses as it wants.
func clientName(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if a.Is6() && !a.IsLoopback() {
		p, _ := a.Prefix(64)
		return p.String()
	}
	return a.String()
}

// clean cuts s to n bytes and makes it one printable line: what clients send ends up on an operator's terminal and in
// lists.
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
		if r == utf8.RuneError || r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069' {
			return '?'
		}
		return r
	}, s)
}

// b.mu is held in what follows.

func (b *Book) insert(e Entry) {
	n := &entry{Entry: e}
	b.entries[key{e.Kind, e.Name}] = n
	b.own(b.client(e.Clients[len(e.Clients)-1]), n)
}

func (b *Book) client(name string) *client {
	c := b.clients[name]
	if c == nil {
		c = &client{name: name, entries: list.New()}
		b.clients[name] = c
		heap.Push(&b.noisy, c)
	}
	return c
}

func (b *Book) forget(c *client) {
	if c.entries.Len() == 0 {
		heap.Remove(&b.noisy, c.index)
		delete(b.clients, c.name)
	}
}

func (b *Book) own(c *client, e *entry) {
	e.owner, e.at = c, c.entries.PushBack(e)
	heap.Fix(&b.noisy, c.index)
}

func (b *Book) disown(e *entry) {
	e.owner.entries.Remove(e.at)
	heap.Fix(&b.noisy, e.owner.index)
	b.forget(e.owner)
}

// evict lets the oldest entry of the noisiest client go. If a much quieter client asked for it too, it is that client's
// from now on and the next one goes: what a scan happens to share with an honest client stays. It ends, because every
// turn makes the noisiest client smaller.
func (b *Book) evict() {
	for {
		worst := b.noisy[0]
		e := worst.entries.Front().Value.(*entry)
		heir := ""
		for _, name := range e.Clients {
			if c := b.clients[name]; name != worst.name && (c == nil && worst.entries.Len() > 1 || c != nil && c.entries.Len()+1 < worst.entries.Len()) {
				heir = name
			}
		}
		if heir == "" {
			b.drop(e)
			b.dropped++
			return
		}
		b.disown(e)
		b.own(b.client(heir), e)
	}
}

func (b *Book) drop(e *entry) {
	b.disown(e)
	delete(b.entries, key{e.Kind, e.Name})
}

// Len is the number of entries, and dropped how many a full book has let go.
func (b *Book) Len() (n int, dropped uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.entries), b.dropped
}

// snapshot returns this node's entries, the newest first.
func (b *Book) snapshot() (entries []Entry, changed uint64, f file) {
	b.mu.Lock()
	entries = make([]Entry, 0, len(b.entries))
	for _, e := range b.entries {
		c := e.Entry
		c.Clients = slices.Clone(c.Clients)
		entries = append(entries, c)
	}
	changed, f = b.changed, file{Cleared: b.cleared, Dropped: b.dropped}
	b.mu.Unlock()
	slices.SortFunc(entries, newest)
	f.Entries = entries
	return entries, changed, f
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

// List returns the books of all nodes as one, the newest entry first. The other nodes' part may be a minute old.
func (b *Book) List() ([]Entry, error) {
	if b.cfg.Tree != nil {
		b.follow()
	}
	own, _, _ := b.snapshot()
	for i := range own {
		own[i].Nodes = []string{b.cfg.Node}
	}
	if b.cfg.Tree == nil {
		return own, nil
	}
	dir, err := b.cfg.Tree.ReadDir(".")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("missing books of the other nodes: %w", err)
	}
	at := map[key]int{}
	for i, e := range own {
		at[key{e.Kind, e.Name}] = i
	}
	cleared := b.clearedAt()
	for _, d := range dir {
		if d.Name() == b.cfg.Node || d.Name() == clearedName {
			continue
		}
		data, err := b.cfg.Tree.ReadFile(d.Name())
		var f file
		if err != nil || json.Unmarshal(data, &f) != nil {
			b.cfg.Log.Warn("the missing book of another node cannot be read", "node", d.Name(), "error", err)
			continue
		}
		for _, e := range f.Entries {
			if !e.Last.After(cleared) {
				continue
			}
			i, ok := at[key{e.Kind, e.Name}]
			if !ok {
				e.Nodes = []string{d.Name()}
				at[key{e.Kind, e.Name}] = len(own)
				own = append(own, e)
				continue
			}
			o := &own[i]
			o.Count += e.Count
			o.Nodes = append(o.Nodes, d.Name())
			if e.First.Before(o.First) {
				o.First = e.First
			}
			if e.Last.After(o.Last) {
				o.Last, o.Detail = e.Last, e.Detail
			}
			for _, c := range e.Clients {
				if !slices.Contains(o.Clients, c) && len(o.Clients) < maxClients {
					o.Clients = append(o.Clients, c)
				}
			}
		}
	}
	slices.SortFunc(own, newest)
	return own, nil
}

// Clear empties the book on every node: here at once, on the others when they next look.
func (b *Book) Clear(ctx context.Context) error {
	now := time.Now().UTC()
	if b.cfg.Tree != nil {
		err := b.cfg.Tree.Update(ctx, func(batch tree.Batch) error {
			batch.Put(clearedName, []byte(now.Format(time.RFC3339Nano)))
			batch.Remove(b.cfg.Node)
			return nil
		})
		if err != nil {
			return fmt.Errorf("missing book: %w", err)
		}
	}
	b.clear(now)
	return nil
}

func (b *Book) clear(upto time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changed++
	b.cleared = upto
	b.dropped = 0
	for _, e := range b.entries {
		if !e.Last.After(upto) {
			b.drop(e)
		}
	}
}

func (b *Book) clearedAt() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cleared
}

// follow clears this node's book if another node was told to clear all.
func (b *Book) follow() {
	data, err := b.cfg.Tree.ReadFile(clearedName)
	if err != nil {
		return
	}
	if t, err := time.Parse(time.RFC3339Nano, string(data)); err == nil && t.After(b.clearedAt()) {
		b.clear(t)
	}
}

// Run keeps the book on disk and in the tree until ctx is done, and then once more on disk.
func (b *Book) Run(ctx context.Context) {
	save, publish := time.NewTicker(b.cfg.Save), time.NewTicker(b.cfg.Publish)
	defer save.Stop()
	defer publish.Stop()
	for {
		select {
		case <-ctx.Done():
			b.keep()
			return
		case <-save.C:
			b.keep()
		case <-publish.C:
			if b.cfg.Tree == nil {
				continue
			}
			b.follow()
			if err := b.publish(ctx); err != nil && ctx.Err() == nil {
				b.cfg.Log.Warn("the missing book cannot be published", "error", err)
			}
		}
	}
}

func (b *Book) keep() {
	if err := b.save(); err != nil {
		b.cfg.Log.Warn("the missing book cannot be kept on disk", "file", b.cfg.File, "error", err)
	}
}

// save writes the book beside the old one and renames it: a crash leaves one of the two. It is not synced, a power cut
// may lose the last seconds.
func (b *Book) save() error {
	_, changed, f := b.snapshot()
	if changed == b.saved {
		return nil
	}
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(b.cfg.File), 0o750); err != nil {
		return err
	}
	tmp := b.cfg.File + ".new"
	if err := os.WriteFile(tmp, data, 0o640); err != nil {
		os.Remove(tmp)
		return err
	}
	if err := os.Rename(tmp, b.cfg.File); err != nil {
		return err
	}
	b.saved = changed
	return nil
}

// publish writes the newest entries as this node's file in the tree.
func (b *Book) publish(ctx context.Context) (err error) {
	entries, changed, f := b.snapshot()
	if changed == b.published {
		return nil
	}
	f.Entries = entries[:min(len(entries), publishLimit)]
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	w, err := b.cfg.Tree.CreateBlob("")
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := w.Write(data); err != nil {
		return err
	}
	digest, err := w.Commit(ctx, "")
	if err != nil {
		return err
	}
	if err := b.cfg.Tree.Update(ctx, func(batch tree.Batch) error { batch.Link(b.cfg.Node, digest); return nil }); err != nil {
		return err
	}
	b.published = changed
	return nil
}

// Package rotation decides whether a rotation of the CA's root may be finished: whether the overlap has been long
// enough, and whether the clients that use this cluster have fetched the new root.
//
// It promises:
//
//   - Outside of an overlap nothing is recorded, and a request costs one atomic load.
//   - The record is bounded: MaxClients addresses on each node, with a resolution of one hour.
//   - Each node shares its record in the tree, so every node's answer counts the clients of all.
//
// It records that a client downloaded the enroll script or the root certificates from a bastion, not that it
// installed them. Clients behind one address count as one client.
package rotation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"casemate/cluster/share"
	"casemate/cluster/tree"
)

// MaxClients is how many addresses a node records in one overlap; later ones are only counted.
const MaxClients = 4096

// Lately is the time since its last request in which a client counts as in use.
const Lately = 24 * time.Hour

// Tree is a directory of the replicated tree, with one file per node.
type Tree interface {
	fs.ReadFileFS
	fs.ReadDirFS
	tree.Writable
}

// Config configures a Book. Node, Tree and Overlap are required.
type Config struct {
	Node string
	Tree Tree
	// Overlap reports whether two roots overlap now, and since when.
	Overlap func() (since time.Time, overlap bool)
	// Publish is the interval for writing a changed record to the tree; 0: a minute.
	Publish time.Duration
	Log     *slog.Logger     // nil: slog.Default
	Now     func() time.Time // nil: time.Now
}

// Book records which clients made requests in an overlap, on one node. All methods are safe for concurrent use.
type Book struct {
	cfg Config
	on  atomic.Bool // whether there is an overlap, as last seen by Run or Fetched

	mu        sync.Mutex
	since     int64 // start of the recorded overlap, seconds since 1970; 0: none
	clients   map[netip.Addr]*client
	more      int  // requests of clients beyond MaxClients
	changed   bool // since the record was published
	published bool // the tree has a file of this node
}

type client struct {
	last    int64 // hours since 1970
	fetched bool
}

// record is the format of a node's file in the tree.
type record struct {
	Since   int64    `json:"since"`
	Clients []seenBy `json:"clients"`
	More    int      `json:"more,omitempty"`
}

type seenBy struct {
	Addr    netip.Addr `json:"addr"`
	Last    int64      `json:"last"` // hours since 1970
	Fetched bool       `json:"fetched,omitempty"`
}

// Open returns a book that continues this node's record from before a restart.
func Open(cfg Config) *Book {
	if cfg.Publish <= 0 {
		cfg.Publish = time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	b := &Book{cfg: cfg, clients: map[netip.Addr]*client{}}
	old, err := b.read(cfg.Node)
	b.published = err == nil
	since, overlap := cfg.Overlap()
	if overlap {
		b.since = since.Unix()
	}
	if err == nil && overlap && old.Since == b.since {
		b.more = old.More
		for _, c := range old.Clients {
			b.clients[c.Addr] = &client{c.Last, c.Fetched}
		}
	}
	b.on.Store(overlap)
	return b
}

func (b *Book) read(node string) (r record, err error) {
	data, err := b.cfg.Tree.ReadFile(node)
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	return r, err
}

// Seen records a request over TLS: its client trusts one of the roots. Loopback addresses are the bastion's own
// programs and do not count.
func (b *Book) Seen(addr netip.Addr) {
	if b.on.Load() {
		b.note(addr, false)
	}
}

// Fetched records a client that downloaded the roots.
func (b *Book) Fetched(addr netip.Addr) {
	_, overlap := b.cfg.Overlap()
	b.on.Store(overlap)
	if overlap {
		b.note(addr, true)
	}
}

func (b *Book) note(addr netip.Addr, fetched bool) {
	addr = share.Plain(addr) // each host has to fetch the root by itself: no /64 here
	if !addr.IsValid() || addr.IsLoopback() {
		return
	}
	hour := b.cfg.Now().Unix() / 3600
	b.mu.Lock()
	defer b.mu.Unlock()
	if fetched {
		b.follow() // Run may not have noticed yet that the overlap began
	}
	c := b.clients[addr]
	if c == nil {
		if len(b.clients) >= MaxClients {
			b.more, b.changed = b.more+1, true
			return
		}
		c = &client{}
		b.clients[addr] = c
	}
	if hour > c.last || fetched && !c.fetched {
		c.last, c.fetched, b.changed = max(hour, c.last), c.fetched || fetched, true
	}
}

// follow resets the record when another overlap has begun, or the overlap has ended. The caller holds mu.
func (b *Book) follow() (overlap bool) {
	since, overlap := b.cfg.Overlap()
	now := int64(0)
	if overlap {
		now = since.Unix()
	}
	if now != b.since {
		b.since, b.clients, b.more, b.changed = now, map[netip.Addr]*client{}, 0, false
	}
	b.on.Store(overlap)
	return overlap
}

// Run keeps this node's record in the tree current until ctx is done.
func (b *Book) Run(ctx context.Context) {
	tick := time.NewTicker(b.cfg.Publish)
	defer tick.Stop()
	for {
		if err := b.publish(ctx); err != nil && ctx.Err() == nil {
			b.cfg.Log.Warn("the record of clients that have the new root cannot be shared with the other nodes",
				"err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// publish writes a changed record, and removes it when the overlap has ended.
func (b *Book) publish(ctx context.Context) error {
	b.mu.Lock()
	overlap, changed, published := b.follow(), b.changed, b.published
	r := b.record()
	b.changed = false
	b.mu.Unlock()
	var err error
	switch {
	case overlap && changed:
		err = b.write(ctx, r)
	case !overlap && published:
		err = b.cfg.Tree.Update(ctx, func(t tree.Batch) error { t.Remove(b.cfg.Node); return nil })
	default:
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.changed = b.changed || changed
		return err
	}
	b.published = overlap
	return nil
}

// record returns the current record. The caller holds mu.
func (b *Book) record() record {
	r := record{Since: b.since, More: b.more}
	for addr, c := range b.clients {
		r.Clients = append(r.Clients, seenBy{addr, c.last, c.fetched})
	}
	slices.SortFunc(r.Clients, func(x, y seenBy) int { return x.Addr.Compare(y.Addr) })
	return r
}

func (b *Book) write(ctx context.Context, r record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return tree.WriteFile(ctx, b.cfg.Tree, b.cfg.Node, data)
}

// Progress is what all nodes have recorded about clients in the current overlap.
type Progress struct {
	// Fetched is how many clients have fetched the new root.
	Fetched int `json:"fetched"`
	// Waiting are the addresses of clients that made requests lately and have not fetched it, sorted.
	Waiting []netip.Addr `json:"waiting"`
	// More reports that there are further clients, beyond MaxClients of a node.
	More bool `json:"more"`
}

// Progress reads all nodes' records; another node's may be Config.Publish old.
func (b *Book) Progress() (Progress, error) {
	p := Progress{Waiting: []netip.Addr{}}
	b.mu.Lock()
	overlap := b.follow()
	all := []record{b.record()}
	b.mu.Unlock()
	if !overlap {
		return p, nil
	}
	nodes, err := b.cfg.Tree.ReadDir(".")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return p, err
	}
	for _, n := range nodes {
		if n.Name() == b.cfg.Node {
			continue
		}
		r, err := b.read(n.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return p, fmt.Errorf("the record of node %s about clients that have the new root cannot be read: %w",
				n.Name(), err)
		}
		if r.Since == all[0].Since {
			all = append(all, r)
		}
	}
	clients := map[netip.Addr]client{}
	for _, r := range all {
		p.More = p.More || r.More > 0
		for _, c := range r.Clients {
			have := clients[c.Addr]
			clients[c.Addr] = client{max(have.last, c.Last), have.fetched || c.Fetched}
		}
	}
	oldest := b.cfg.Now().Add(-Lately).Unix() / 3600
	for addr, c := range clients {
		switch {
		case c.fetched:
			p.Fetched++
		case c.last >= oldest:
			p.Waiting = append(p.Waiting, addr)
		}
	}
	slices.SortFunc(p.Waiting, netip.Addr.Compare)
	return p, nil
}

// Early is the error for a rotation that must not be finished yet. errors.Is(err, fs.ErrExist): the state forbids it,
// the request is valid.
type Early string

func (e Early) Error() string        { return string(e) }
func (e Early) Is(target error) bool { return target == fs.ErrExist }

// named is how many addresses a sentence lists.
const named = 10

// Ready returns nil if an overlap that began at since may be finished now: it has lasted at least overlap, and every
// client that made requests lately has fetched the new root. Otherwise it returns an Early with the time and the
// clients.
func (p Progress) Ready(since, now time.Time, overlap time.Duration) error {
	var why []string
	if end := since.Add(overlap); now.Before(end) {
		why = append(why, fmt.Sprintf("the overlap lasts until %s (setting pki.overlap)",
			end.UTC().Format(time.RFC3339)))
	}
	if s := p.waiting(); s != "" {
		why = append(why, s)
	}
	if len(why) == 0 {
		return nil
	}
	return Early("nodes without the new root would no longer trust the bastions: " + strings.Join(why, "; ") +
		"; on such a node run the line of casemate enroll again; to finish anyway: casemate ca rotate --finish --yes")
}

func (p Progress) waiting() string {
	if len(p.Waiting) == 0 {
		return ""
	}
	var list []string
	for _, a := range p.Waiting[:min(named, len(p.Waiting))] {
		list = append(list, a.String())
	}
	if n := len(p.Waiting) - len(list); n > 0 || p.More {
		list = append(list, "…")
	}
	count, verb := "1 client that was", "has"
	if n := len(p.Waiting); n > 1 {
		count, verb = fmt.Sprintf("%d clients that were", n), "have"
	}
	return fmt.Sprintf("%s here within %d hours %s not fetched the new root: %s",
		count, int(Lately.Hours()), verb, strings.Join(list, ", "))
}

// Sentence describes the state of the rotation, for status.
func (p Progress) Sentence(since, now time.Time, overlap time.Duration) string {
	s := fmt.Sprintf("two roots are in use since %s; clients that have fetched the new one: %d",
		since.UTC().Format(time.RFC3339), p.Fetched)
	if w := p.waiting(); w != "" {
		s += "; " + w
	}
	if p.Ready(since, now, overlap) == nil {
		return s + "; when every node trusts the new one: casemate ca rotate --finish"
	}
	return s + fmt.Sprintf("; casemate ca rotate --finish from %s on", since.Add(overlap).UTC().Format(time.RFC3339))
}

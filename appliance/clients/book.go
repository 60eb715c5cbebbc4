// Package clients records which clients use this node: when, how, with which programs, whether they trust the
// bastions' root, and their last error.
//
// It promises: the book has a fixed size, however many addresses are used. Clients that have completed a TCP connection
// have places of their own: questions of DNS, whose source address can be forged, do not displace them. The places are
// divided among networks (a /24, or a /48 of IPv6): the network with most clients loses its least recent one first.
// Recording only touches memory. The book survives a restart (a crash loses the last half minute) and is visible on
// every node, with the delay of Config.Publish.
//
// Whether a client is enrolled is not known but concluded from what it does, see Client.Why. Clients behind one address
// are one client.
package clients

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

// Ways in which a client asks.
const (
	DNS   = "dns"
	HTTP  = "http"  // requests without TLS
	HTTPS = "https" // requests, and handshakes
)

// Protocols are all of them, in the order in which they are listed.
var Protocols = []string{DNS, HTTP, HTTPS}

const (
	maxClients   = 4096 // with a TCP connection
	maxHeard     = 1024 // that have only asked DNS
	publishLimit = 1000 // clients in the file in the tree
	publishHeard = 100  // of these, clients that have only asked DNS, if there are more of the others
	maxPrograms  = 6    // of one client
	maxProgram   = 64   // bytes
	maxWhat      = 256  // bytes of an error
	// quiet is how long the copy in the tree may be without later times of clients that do nothing new.
	quiet = 15 * time.Minute
)

// An Error is something that a client asked for and did not get.
type Error struct {
	Time time.Time `json:"time"`
	What string    `json:"what"`             // one line: "GET https://quay.io/v2/: 404"
	Code int       `json:"status,omitempty"` // the HTTP status; 0 if it was no request
}

// Client is what is known of one client.
type Client struct {
	Client string `json:"client"` // an address, or the /64 of an IPv6 address
	// Address is the newest address of a /64 that connected; "" for IPv4 and for clients that have only asked DNS.
	Address   string    `json:"address,omitempty"`
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
	Protocols []string  `json:"protocols"`
	// Programs are product/version of the User-Agent, the newest last, at most 6.
	Programs []string `json:"programs"`
	// Enrolled is Yes, No or Unknown, and Why the evidence as one sentence.
	Enrolled  string   `json:"enrolled"`
	Why       string   `json:"why"`
	LastError *Error   `json:"last_error,omitempty"`
	Nodes     []string `json:"nodes"` // that it has used
}

// record is a client as it is stored.
type record struct {
	Client    string    `json:"client"`
	Address   string    `json:"address,omitempty"`
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
	Protocols []string  `json:"protocols"`
	Programs  []string  `json:"programs,omitempty"`
	LastError *Error    `json:"last_error,omitempty"`
	evidence

	net   netip.Prefix
	agent string // the last User-Agent that Programs has, or which has no product
}

// Config configures a Book. File is required.
type Config struct {
	// File is the book's file on the node's own disk, Node the name of its copy in Tree; a nil Tree has none.
	File, Node string
	Tree       notebook.Tree
	// Max and MaxHeard are the numbers of clients with a TCP connection, and of those that have only asked DNS; 0:
	// 4096 and 1024.
	Max, MaxHeard int
	// Save and Publish are the intervals for writing a changed book to disk and to the tree; 0: 30 s and 2 min. Clients
	// that only go on as before are published every quarter of an hour.
	Save, Publish time.Duration
	Now           func() time.Time // nil: time.Now
	Log           *slog.Logger     // nil: nothing is logged
}

// Book is the book of one node. Its methods are safe for concurrent use.
type Book struct {
	cfg   Config
	notes notebook.Notebook // owned by Run

	mu      sync.Mutex
	sure    *shelf // clients with a TCP connection
	heard   *shelf // clients that have only asked DNS
	changed uint64
	news    uint64    // counts changes that the other nodes should see soon
	newsAt  time.Time // when it last did
}

// file is the format of a book on disk and in the tree.
type file struct {
	Clients []record `json:"clients"`
}

// Open reads the book from disk.
func Open(cfg Config) (*Book, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	b := &Book{cfg: cfg, sure: newShelf(cmp.Or(cfg.Max, maxClients)), heard: newShelf(cmp.Or(cfg.MaxHeard, maxHeard))}
	b.notes = notebook.Notebook{
		What: "book of clients", File: cfg.File, Node: cfg.Node, Tree: cfg.Tree,
		Save: cmp.Or(cfg.Save, 30*time.Second), Publish: cmp.Or(cfg.Publish, 2*time.Minute), Log: cfg.Log,
		Snapshot: func(bounded bool) (any, uint64) { return b.snapshot(bounded) },
	}
	var f file
	if ok, err := b.notes.Load(&f); err != nil || !ok {
		return b, err
	}
	slices.SortStableFunc(f.Clients, func(x, y record) int { return x.Last.Compare(y.Last) })
	for _, r := range f.Clients {
		if r.valid() {
			b.shelf(r).add(&r)
		}
	}
	return b, nil
}

// shelf returns where a client belongs. The caller holds b.mu, or owns b.
func (b *Book) shelf(r record) *shelf {
	if slices.ContainsFunc(r.Protocols, func(p string) bool { return p != DNS }) {
		return b.sure
	}
	return b.heard
}

// valid completes a record that was read, and reports whether it is one.
func (r *record) valid() bool {
	p, err := netip.ParsePrefix(r.Client)
	if a, aerr := netip.ParseAddr(r.Client); aerr == nil {
		p, err = share.Net(a), nil
	}
	if err != nil || p != share.Net(p.Addr()) {
		return false
	}
	r.net, r.Client = p, share.Of(p.Addr())
	if a, err := netip.ParseAddr(r.Address); err != nil || share.Net(a) != p || p.IsSingleIP() {
		r.Address = ""
	}
	r.Protocols = slices.DeleteFunc(r.Protocols, func(s string) bool { return !slices.Contains(Protocols, s) })
	r.Programs = slices.DeleteFunc(r.Programs, func(s string) bool { return program(s) != s })
	r.Programs = r.Programs[max(0, len(r.Programs)-maxPrograms):]
	if r.LastError != nil {
		r.LastError.What = clean(r.LastError.What)
	}
	return len(r.Protocols) > 0 && len(r.Protocols) <= len(Protocols)
}

// Run saves and publishes the book until ctx is done.
func (b *Book) Run(ctx context.Context) { b.notes.Run(ctx) }

// Changed returns a number that grows with each change of this node's book.
func (b *Book) Changed() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

// News returns a number that grows when something is new about the clients of this node: another client, program,
// protocol or error, or whether one is enrolled. That clients go on as before counts every quarter of an hour.
func (b *Book) News() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.news
}

// Asked records that a client asked DNS.
func (b *Book) Asked(client netip.Addr) { b.note(client, DNS, nil) }

// Request is one request of HTTP.
type Request struct {
	Client netip.Addr
	TLS    bool
	Agent  string // its User-Agent
	// Content says that it was answered by the registry or as a file, Enrol that it fetched the root certificates or
	// the script that enrols nodes.
	Content, Enrol bool
	// Status is the answer's. What names the request in an error; it is called only if Status is one.
	Status int
	What   func() string
}

// Requested records a request.
func (b *Book) Requested(q Request) {
	protocol := HTTP
	if q.TLS {
		protocol = HTTPS
	}
	b.note(q.Client, protocol, func(r *record, now time.Time) (news bool) {
		if q.Agent != r.agent {
			r.agent = q.Agent
			news = r.uses(program(q.Agent))
		}
		if q.TLS && q.Content {
			news = r.Trusted.IsZero() || r.Untrusting.After(r.Trusted) || news
			r.Trusted = now
		}
		if q.Enrol {
			news = r.Fetched.IsZero() || news
			r.Fetched = now
		}
		if q.Status >= 400 {
			r.LastError = &Error{now, clean(q.What()), q.Status}
			news = true
		}
		return news
	})
}

// Untrusting records a handshake that a client has ended because it does not trust the certificate; alert is what it
// said.
func (b *Book) Untrusting(client netip.Addr, alert string) {
	b.note(client, HTTPS, func(r *record, now time.Time) bool {
		r.Untrusting = now
		r.LastError = &Error{Time: now, What: clean("TLS handshake: " + alert)}
		return true
	})
}

// Failed records that a client did not get what it asked for by a protocol, other than by a request.
func (b *Book) Failed(client netip.Addr, protocol, what string) {
	b.note(client, protocol, func(r *record, now time.Time) bool {
		r.LastError = &Error{Time: now, What: clean(what)}
		return true
	})
}

// Handshake records a TLS handshake that no request followed.
func (b *Book) Handshake(client netip.Addr) { b.note(client, HTTPS, nil) }

// note records that a client asked; change changes its record, and reports whether the other nodes should know soon.
func (b *Book) note(client netip.Addr, protocol string, change func(r *record, now time.Time) (news bool)) {
	if !client.IsValid() {
		return
	}
	client = share.Plain(client)
	now := b.cfg.Now().UTC()
	net := share.Net(client)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changed++
	r, on := b.sure.get(net), b.sure
	if r == nil {
		r, on = b.heard.get(net), b.heard
	}
	news := r == nil || now.Sub(b.newsAt) > quiet
	if r == nil {
		r = &record{Client: share.Of(client), First: now, net: net}
	}
	if !slices.Contains(r.Protocols, protocol) {
		news = true
		r.Protocols = append(r.Protocols, protocol)
		slices.SortFunc(r.Protocols, func(x, y string) int {
			return slices.Index(Protocols, x) - slices.Index(Protocols, y)
		})
	}
	r.Last = now
	if !net.IsSingleIP() && protocol != DNS && (r.Address == "" || netip.MustParseAddr(r.Address) != client) {
		r.Address = client.String()
	}
	if change != nil && change(r, now) {
		news = true
	}
	if to := b.shelf(*r); to != on {
		on.drop(net)
		on = to
	}
	on.add(r)
	if news {
		b.news, b.newsAt = b.news+1, now
	}
}

// uses adds a program, and reports whether it was not there.
func (r *record) uses(program string) bool {
	if program == "" {
		return false
	}
	i := slices.Index(r.Programs, program)
	if i >= 0 {
		r.Programs = slices.Delete(r.Programs, i, i+1)
	} else if len(r.Programs) == maxPrograms {
		r.Programs = slices.Delete(r.Programs, 0, 1)
	}
	r.Programs = append(r.Programs, program)
	return i < 0
}

// snapshot returns this node's clients; bounded, those for the tree.
func (b *Book) snapshot(bounded bool) (file, uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !bounded {
		return file{slices.Concat(b.sure.list(true), b.heard.list(true))}, b.changed
	}
	sure, heard := b.sure.list(false), b.heard.list(false)
	n := min(len(heard), max(publishHeard, publishLimit-len(sure)))
	sure = sure[:min(len(sure), publishLimit-n)]
	return file{slices.Concat(sure, heard[:n])}, b.news
}

// List returns the clients in the books of all nodes, merged, the newest first. The other nodes' part may be as old as
// the interval of publication.
func (b *Book) List() ([]Client, error) {
	own, _ := b.snapshot(false)
	m := merger{at: map[string]int{}}
	m.add(own, b.cfg.Node)
	others, err := notebook.Others[file](&b.notes, nil)
	if err != nil {
		return nil, err
	}
	for _, o := range others {
		m.add(o.Book, o.Node)
	}
	list := make([]Client, 0, len(m.list))
	for _, r := range m.list {
		c := Client{Client: r.Client, Address: r.Address, First: r.First, Last: r.Last, Protocols: r.Protocols,
			Programs: append([]string{}, r.Programs...), LastError: r.LastError, Nodes: r.nodes}
		c.Enrolled, c.Why = r.evidence.judge(r.Protocols)
		list = append(list, c)
	}
	slices.SortFunc(list, Compare)
	return list, nil
}

// Compare orders clients, the newest first.
func Compare(x, y Client) int {
	return cmp.Or(y.Last.Compare(x.Last), strings.Compare(x.Client, y.Client))
}

// merger merges the books of several nodes.
type merger struct {
	list []merged
	at   map[string]int
}

type merged struct {
	record
	nodes []string
}

func (m *merger) add(f file, node string) {
	for _, r := range f.Clients {
		if !r.valid() {
			continue
		}
		i, known := m.at[r.Client]
		if !known {
			m.at[r.Client] = len(m.list)
			m.list = append(m.list, merged{r, []string{node}})
			continue
		}
		m.list[i].merge(r, node)
	}
}

func (m *merged) merge(r record, node string) {
	m.nodes = append(m.nodes, node)
	if r.First.Before(m.First) {
		m.First = r.First
	}
	older, newer := m.Programs, r.Programs
	if r.Last.After(m.Last) {
		m.Last, m.Address = r.Last, cmp.Or(r.Address, m.Address)
	} else {
		older, newer = newer, older
		m.Address = cmp.Or(m.Address, r.Address)
	}
	var programs []string
	for _, p := range older {
		if !slices.Contains(newer, p) {
			programs = append(programs, p)
		}
	}
	programs = append(programs, newer...)
	m.Programs = programs[max(0, len(programs)-maxPrograms):]
	m.Protocols = slices.DeleteFunc(slices.Clone(Protocols), func(p string) bool {
		return !slices.Contains(m.Protocols, p) && !slices.Contains(r.Protocols, p)
	})
	if r.LastError != nil && (m.LastError == nil || r.LastError.Time.After(m.LastError.Time)) {
		m.LastError = r.LastError
	}
	m.Trusted, m.Untrusting = later(m.Trusted, r.Trusted), later(m.Untrusting, r.Untrusting)
	m.Fetched = later(m.Fetched, r.Fetched)
}

func later(x, y time.Time) time.Time {
	if y.After(x) {
		return y
	}
	return x
}

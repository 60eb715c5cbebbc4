package dnssrv

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Base is the settings of a [Server], without names. Names are given with or without a trailing dot, in any case, here
// and in an [Update].
type Base struct {
	// Domain is the own zone, such as casemate.internal.
	Domain string
	// Node is this node's name. It is sent only to clients that request it (NSID, RFC 5001).
	Node string
	// Site names this node's cluster, the same on every node and different from other clusters': questions that come
	// back to any node of it were forwarded in a loop. "": this server alone.
	Site string
	// TTL of our own answers, positive and negative; 0 means DefaultTTL; between 1s and 1h.
	TTL time.Duration
	// Forward lists the resolvers for names that are not ours. The longest matching zone counts. Empty: NXDOMAIN at
	// once.
	Forward []Forward
	// ResponseRate is how many identical answers a second one address gets over UDP before it is sent to TCP, up to
	// 10000; five seconds' worth may be used at once. Its NXDOMAIN answers may be ten times as many, all answers to its
	// network (/24, /56) twenty times. 0: no limit.
	ResponseRate int
	// Families is the addresses that answers contain, whoever they come from: BothFamilies (or ""), OnlyIPv4 or
	// OnlyIPv6. A name that has only others exists and has no data of that type (NODATA).
	Families string `json:",omitempty"`
	// Allow lists the clients that may ask. Empty allows none.
	Allow []netip.Prefix
}

func (b Base) clone() *Base {
	b.Forward = slices.Clone(b.Forward)
	for i, f := range b.Forward {
		b.Forward[i].Resolvers = slices.Clone(f.Resolvers)
	}
	b.Allow = slices.Clone(b.Allow)
	return &b
}

// Update is a change of a [Server]'s table. The zero value changes nothing.
type Update struct {
	// Reset drops everything before: the table consists of Base, Nodes, Origins and Records.
	Reset bool
	// Base replaces the settings.
	Base *Base
	// Nodes replaces the members of the cluster and their health, at least one and at most 16. Node.Name becomes
	// <name>.<domain>. nil leaves them unchanged.
	Nodes []Node
	// Origins replaces the overridden names: origins and their aliases. Each is answered as a separate zone, with
	// nothing below it. nil leaves them unchanged.
	Origins []string
	// Records replaces the operator's records, by owner name as in [Record]. An empty list removes the owner. Where an
	// A, AAAA or CNAME has the name of an origin or of the own zone's fixed names, the operator's record wins; see
	// [Server.Apply].
	Records map[string][]Record
	// More means that the change continues in the next Update: answers do not change until one without More has been
	// applied. So a table of any size can be sent in parts. A part that fails ends the whole change.
	More bool
}

// Apply changes the table for all questions read from now on. On an error nothing has changed. Its cost depends on u,
// not on the size of the table, except that another Domain or TTL rewrites all records.
//
// conflicts lists the contradictions in the whole table and how each was settled, one sentence each. The rules: fixed
// names of the own zone stay; an operator's A, AAAA or CNAME replaces the addresses that we would answer at that name;
// of a CNAME and other data at one name the other data stays (RFC 1034 §3.6.2); a resolver that is a node of this
// cluster is left out, because two nodes would forward to each other; localhost means the client's own host, and some
// special zones are never forwarded.
func (s *Server) Apply(u Update) (conflicts []string, err error) {
	s.applying.Lock()
	defer s.applying.Unlock()
	from := s.applied
	if s.coming != nil {
		from = *s.coming
	}
	s.coming = nil
	next, err := from.with(u)
	if err != nil {
		return nil, err
	}
	if u.More {
		s.coming = &next
		return slices.Clone(s.applied.sentences), nil
	}
	t := next.table()
	s.applied = next
	s.applied.edit++
	s.table.Store(t)
	s.forward.retain(t)
	return slices.Clone(t.conflicts), nil
}

// Abandon drops the applied parts of an unfinished change ([Update].More).
func (s *Server) Abandon() {
	s.applying.Lock()
	defer s.applying.Unlock()
	s.coming = nil
}

// content is the sum of the updates so far. Its parts are never changed, only replaced.
type content struct {
	base    *Base
	nodes   []Node
	origins []string

	edit      edit   // of the names that no reader sees yet
	frame     *frame // built from the three above; nil until all are set
	names     names
	conflicts map[string][]string // by owner (wire name)
	sentences []string            // all conflicts, those of the frame too, in order
}

func (c *content) table() *Table { return &Table{c.frame, c.names, c.sentences} }

// with returns the content after u.
func (c content) with(u Update) (content, error) {
	if u.Reset {
		c = content{edit: c.edit}
	}
	// Everything that can fail runs first.
	before := c.frame
	if err := c.reframe(u); err != nil {
		return c, err
	}
	changed := make(map[string][]set, len(u.Records))
	for key, list := range u.Records {
		owner, sets, err := packAll(key, list, c.frame.ttl)
		if err != nil {
			return c, err
		}
		if owner == "" {
			continue
		}
		if _, twice := changed[owner]; twice {
			return c, fmt.Errorf("dns table: records of %s must be given once", trimDot(textOf(owner)))
		}
		changed[owner] = sets
	}
	e := &editor{content: &c}
	if before != c.frame {
		e.reframed(before, changed)
	}
	for owner, sets := range changed {
		e.set(owner, sets)
	}
	if e.conflicted || before != c.frame {
		c.sentences = slices.Clone(c.frame.conflicts)
		for _, list := range c.conflicts {
			c.sentences = append(c.sentences, list...)
		}
		slices.Sort(c.sentences)
	}
	return c, nil
}

// reframe applies the parts of u that concern our own names.
func (c *content) reframe(u Update) error {
	same := c.frame != nil
	if u.Base != nil {
		same = same && reflect.DeepEqual(*c.base, *u.Base)
		c.base = u.Base.clone()
	}
	if u.Nodes != nil {
		same = same && reflect.DeepEqual(c.nodes, u.Nodes)
		c.nodes = slices.Clone(u.Nodes)
		for i, n := range c.nodes {
			c.nodes[i].Addrs = slices.Clone(n.Addrs)
		}
	}
	if u.Origins != nil {
		same = same && slices.Equal(c.origins, u.Origins)
		c.origins = slices.Clone(u.Origins)
	}
	if same {
		return nil
	}
	var base Base
	if c.base != nil {
		base = *c.base
	}
	f, err := newFrame(base, c.nodes, c.origins)
	c.frame = f
	return err
}

// packAll packs the records of one owner. The owner is "" if the name is invalid and no records are given.
func packAll(key string, list []Record, ttl uint32) (owner string, sets []set, err error) {
	name, err := canonical(key, true)
	if err != nil {
		if len(list) == 0 {
			return "", nil, nil
		}
		return "", nil, fmt.Errorf("dns record: name %w", err)
	}
	for _, rec := range list {
		of, rrs, err := rec.pack(ttl)
		if err != nil {
			return "", nil, err
		}
		if of != name {
			return "", nil, fmt.Errorf("dns table: record %s %s must not be given among those of %s", trimDot(of),
				strings.ToUpper(rec.Type), trimDot(name))
		}
		if slices.ContainsFunc(sets, func(s set) bool { return s.qtype == rrs.qtype }) {
			return "", nil, fmt.Errorf("dns table: record %s %s must be given once, with all its values", trimDot(of),
				dns.Type(rrs.qtype))
		}
		sets = append(sets, rrs)
	}
	return wireOf(name), sets, nil
}

// editor changes the names of a content that no reader sees yet.
type editor struct {
	*content
	cloned     bool // this edit may change conflicts
	conflicted bool // conflicts has changed
	buf        []byte
}

// reframed updates the names to a new frame, except those in changed, which are set afterwards.
func (e *editor) reframed(before *frame, changed map[string][]set) {
	if before != nil && (before.domain != e.frame.domain || before.ttl != e.frame.ttl) {
		all := e.names
		for name, h := range all.all() {
			if _, again := changed[string(name)]; again {
				continue
			}
			sets := operators(h)
			for i, s := range sets {
				if s.flags&setTTL != 0 {
					sets[i] = s.withTTL(e.frame.ttl)
				}
			}
			e.set(string(name), sets)
		}
	}
	if before != nil {
		for name, old := range before.own {
			if !old.equal(e.frame.own[name]) {
				e.renew(name, changed)
			}
		}
	}
	for name, f := range e.frame.own {
		if before == nil || before.own[name] == nil && f != nil {
			e.renew(name, changed)
		}
	}
}

// renew recombines the operator's data at name with our new data there.
func (e *editor) renew(name string, changed map[string][]set) {
	if _, again := changed[name]; !again {
		e.set(name, operators(e.names.get([]byte(name))))
	}
}

// operators returns the operator's RRsets of a name.
func operators(h entry) (sets []set) {
	for s := range h.sets() {
		if s.flags&setOurs == 0 {
			sets = append(sets, s)
		}
	}
	return sets
}

// set replaces the operator's data at owner by sets.
func (e *editor) set(owner string, sets []set) {
	flags, all, conflicts := e.frame.merged(owner, sets)
	if len(conflicts) > 0 || len(e.conflicts[owner]) > 0 {
		e.setConflicts(owner, conflicts)
	}
	e.put(owner, flags, all)
	if up, ok := strings.CutPrefix(owner, wildcard); ok {
		e.place(up)
	}
}

// place is set for a name whose records stay, while its wildcard may have changed.
func (e *editor) place(name string) {
	flags, all, _ := e.frame.merged(name, operators(e.names.get([]byte(name))))
	e.put(name, flags, all)
}

func (e *editor) put(owner string, flags byte, sets []set) {
	name := []byte(owner)
	if e.names.get(name).below() > 0 {
		var buf [260]byte
		wild := e.names.get(append(append(buf[:0], wildcard...), name...))
		if wild.has(isHere) {
			flags |= isWild
		}
		for s := range wild.sets() {
			if s.flags&(setOurs|setLeftOut) == 0 && !within(textOf(owner), e.frame.domain) {
				flags |= isApex
			}
		}
	}
	e.buf = e.buf[:0]
	for _, s := range sets {
		e.buf = s.append(e.buf)
	}
	e.names.place(e.edit, name, flags, e.buf)
}

// setConflicts replaces the conflicts of an owner.
func (e *editor) setConflicts(owner string, list []string) {
	if !e.cloned {
		e.content.conflicts = maps.Clone(e.conflicts)
		if e.conflicts == nil {
			e.content.conflicts = map[string][]string{}
		}
		e.cloned = true
	}
	e.conflicted = true
	if len(list) == 0 {
		delete(e.conflicts, owner)
		return
	}
	e.conflicts[owner] = list
}

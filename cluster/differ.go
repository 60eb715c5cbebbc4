package cluster

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"casemate/cluster/disk"
	"casemate/cluster/peer"
	"casemate/cluster/state"
)

// sums are the running digests at the newest entries that this node has applied. Its zero value is ready.
type sums struct {
	mu   sync.Mutex
	ring [4096]struct {
		index uint64
		sum   state.Sum
	}
}

// record stores the sum of a state.
func (s *sums) record(st *state.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := &s.ring[st.Index()%uint64(len(s.ring))]
	at.index, at.sum = st.Index(), st.Sum()
}

// clear removes all sums, because the state was replaced.
func (s *sums) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.ring[:])
}

// at returns the sum at an entry; "" if it is unknown.
func (s *sums) at(index uint64) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := s.ring[index%uint64(len(s.ring))]; at.index == index {
		return at.sum.String()
	}
	return ""
}

// Difference reports another node whose state differs from this node's at the same log entry.
type Difference struct {
	Node  string    `json:"node"`
	Same  uint64    `json:"same"`  // newest entry at which both were equal; 0 if none is known
	At    uint64    `json:"at"`    // oldest entry at which they differed
	Here  uint64    `json:"here"`  // newest entry in the state of this node
	There uint64    `json:"there"` // newest known entry in the state of the other
	Since time.Time `json:"since"` // when it was detected
}

// neighbours are the results of comparing this node with the others. Its zero value is ready.
type neighbours struct {
	mu      sync.Mutex
	same    map[string]uint64     // by node: newest entry at which both were equal
	differs map[string]Difference // by node
	heard   map[string]uint64     // by node: newest entry that it has ever reported
	older   map[string]Older      // by node, including this one
}

func (n *neighbours) init() {
	if n.same == nil {
		n.same, n.differs = map[string]uint64{}, map[string]Difference{}
		n.heard, n.older = map[string]uint64{}, map[string]Older{}
	}
}

// olderTime is how long a node that came back older is reported after it has caught up.
const olderTime = 24 * time.Hour

// judge evaluates the beat of another node.
func (c *Cluster) judge(node string, b peer.Beat) {
	own := ""
	if b.Sum != "" {
		own = c.machine.sums.at(b.At)
	}
	now := c.cfg.Now()
	n := &c.neighbours
	n.mu.Lock()
	defer n.mu.Unlock()
	n.init()
	d, differed := n.differs[node]
	switch {
	case own != "" && own != b.Sum && !differed, b.Differs > 0 && !differed:
		d = Difference{Node: node, Same: n.same[node], At: b.At, Since: now}
		if own == "" || own == b.Sum {
			d.At = b.Differs
		}
		d.There = b.At
		n.differs[node] = d
		c.log.Error("this node and another one hold different content: see \"Nodes that differ\" in "+
			"docs/troubleshooting.md",
			"peer", node, "same", d.Same, "differs", d.At)
	case own != "" && own == b.Sum && b.Differs == 0:
		n.same[node] = max(n.same[node], b.At)
		if differed {
			delete(n.differs, node)
			c.log.Info("this node and another one hold the same content again", "peer", node, "index", b.At)
		}
	case differed:
		d.There = b.At
		n.differs[node] = d
	}
	if b.Applied < n.heard[node] {
		if o, known := n.older[node]; !known || o.Was < n.heard[node] {
			n.older[node] = Older{Node: node, Was: n.heard[node], Is: b.Applied, Time: now}
			c.log.Error("a node came back older than it was: its disk was put back, or its log was damaged",
				"peer", node, "was", n.heard[node], "is", b.Applied)
		}
	}
	n.heard[node] = max(n.heard[node], b.Applied)
	if o := b.Older; o != nil && o.Was > n.older[node].Was {
		n.older[node] = Older{Node: node, Was: o.Was, Is: o.Is, Time: o.Time}
		c.log.Error("a node reports that it came back older than it was", "peer", node, "was", o.Was, "is", o.Is)
	}
	if b.Heard > 0 && c.lost(b.Heard) {
		self := c.cfg.Node
		if o, known := n.older[self]; !known || o.Was < b.Heard {
			n.older[self] = Older{Node: self, Was: b.Heard, Is: c.shown(), Time: now}
			c.log.Error("this node came back older than it was: its disk was put back, or its log was damaged",
				"was", b.Heard, "is", c.shown(), "says", node)
		}
		c.floor.raise(floorMark{b.Heard, c.raft.CurrentTerm()})
	}
}

// lost reports whether this node's log ends before an entry that it has shown to another node.
func (c *Cluster) lost(shown uint64) bool {
	last, err := c.wal.LastIndex()
	return err == nil && max(last, c.snaps.Newest()) < shown
}

// of returns what this node reports to another one about it: the newest entry that it has received from it, and the
// entry at which they differ.
func (n *neighbours) of(node string) (heard, differs uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.heard[node], n.differs[node].At
}

// self returns this node's own report of having come back older, or nil.
func (n *neighbours) self(node string) *Older {
	n.mu.Lock()
	defer n.mu.Unlock()
	if o, ok := n.older[node]; ok {
		return &o
	}
	return nil
}

// Differences lists the nodes whose content differs from this node's, ordered by name.
func (c *Cluster) Differences() (list []Difference) {
	members := c.others()
	here := c.machine.view.Load().Index()
	n := &c.neighbours
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, d := range n.differs {
		if slices.Contains(members, d.Node) {
			d.Here = here
			list = append(list, d)
		}
	}
	slices.SortFunc(list, func(a, b Difference) int { return strings.Compare(a.Node, b.Node) })
	return list
}

// Older lists the nodes, including this one, that came back with less than they had shown, as far as this process has
// seen it within a day, ordered by name.
func (c *Cluster) Older() (list []Older) {
	members := append(c.others(), c.cfg.Node)
	n := &c.neighbours
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, o := range n.older {
		if slices.Contains(members, o.Node) && c.cfg.Now().Sub(o.Time) < olderTime {
			list = append(list, o)
		}
	}
	slices.SortFunc(list, func(a, b Older) int { return strings.Compare(a.Node, b.Node) })
	return list
}

// Problems are sentences for an operator: problems between this node and the others, or with its disk, and what to do.
func (c *Cluster) Problems() (list []string) {
	if wait := c.watch.Waits(); wait >= disk.HangTime {
		list = append(list, fmt.Sprintf("the disk of this node has not answered for %s: another node takes over its "+
			"leadership if there is "+
			"one, and writes at this node fail until it answers; check the storage of %s", wait.Round(time.Second),
			c.cfg.Dir))
	}
	differences := c.Differences()
	for _, d := range differences {
		alike := len(c.others()) > 1 && len(differences) == 1
		list = append(list, d.sentence(c.cfg.Node, alike))
	}
	list = append(list, c.twiceSentences()...)
	clocks, _ := c.clockSentences()
	return append(list, clocks...)
}

func (d Difference) sentence(self string, alike bool) string {
	same := "and it is unknown since when"
	if d.Same > 0 {
		same = fmt.Sprintf("and were equal up to entry %d", d.Same)
	}
	which := fmt.Sprintf("if %s differs from the other nodes too, its copy is wrong, otherwise this node's is", d.Node)
	if alike {
		which = fmt.Sprintf("this node differs from no other, so the copy of %s is wrong", d.Node)
	}
	return fmt.Sprintf("node %s and node %s hold different content at entry %d %s (%s is at entry %d, %s at %d): a "+
		"disk was put back to an "+
		"older state, or is damaged; %s; before you remove that node with casemate member remove and join it again "+
		"under another name, "+
		"save what only it has: \"Nodes that differ\" in docs/troubleshooting.md",
		self, d.Node, d.At, same, self, d.Here, d.Node, d.There, which)
}

// Warnings are sentences about conditions that the cluster repairs by itself and that an operator should check.
func (c *Cluster) Warnings() (list []string) {
	_, list = c.clockSentences()
	for _, o := range c.Older() {
		list = append(list, fmt.Sprintf("node %s came back at %s with entry %d as its newest, after it had shown "+
			"entry %d: its disk was put "+
			"back to an older state, or loses data that it has confirmed, or its log was damaged; it fetches what is "+
			"missing from the other nodes; "+
			"if this happens again, replace its disk", o.Node, o.Time.UTC().Format(time.RFC3339), o.Is, o.Was))
	}
	if len(c.others()) > 0 {
		if gone := c.replica.Disappeared(); gone > 0 {
			list = append(list, fmt.Sprintf("%d blobs that this node had were not on its disk when it started: %s "+
				"was put back to an older state, "+
				"or files were removed from it; it fetches them from the other nodes", gone,
				filepath.Join(c.cfg.Dir, blobDir)))
		}
	}
	return list
}

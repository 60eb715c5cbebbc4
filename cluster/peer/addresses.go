package peer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"casemate/cluster/disk"
)

// addresses are the places where this node looks for other nodes besides their records. Any of them may be wrong: the
// node that answers must prove its identity.
type addresses struct {
	mu     sync.Mutex
	heard  map[string][]string  // by node: those that the node itself reports, directly or through another member
	told   map[string]string    // by node: the address that the operator has set; also in Config.AddressFile
	worked map[string]string    // by node: where it answered last
	asked  map[string]time.Time // by node: when its name was last resolved
}

const (
	addressHeader = "Casemate-Address" // of a request for beats: an address of the requesting node, one header each
	maxAddress    = 300                // bytes
	askEvery      = 10 * time.Second   // minimum between two lookups of a node's name

	// MaxAddrs is how many addresses of one node are used at most.
	MaxAddrs = 16
)

func (a *addresses) open(cfg Config) {
	a.heard, a.told, a.worked = map[string][]string{}, map[string]string{}, map[string]string{}
	a.asked = map[string]time.Time{}
	data, err := disk.ReadFile(cfg.FS, cfg.AddressFile)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		err = json.Unmarshal(data, &a.told)
	}
	if err != nil || a.told == nil {
		// The operator can set the addresses again.
		cfg.Log.Warn("the addresses that the operator set cannot be read", "file", filepath.Base(cfg.AddressFile),
			"err", err)
		a.told = map[string]string{}
	}
}

// CheckAddress returns an error unless addr is host:port, with a port that can be dialed.
func CheckAddress(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || n == 0 || host == "" || len(addr) > maxAddress {
		return fmt.Errorf("the address of a node's peer port must be host:port, got %.100q: %w", addr, fs.ErrInvalid)
	}
	return nil
}

// hear records the addresses that a node reports for itself.
func (p *Port) hear(node string, addrs []string) {
	record, known := p.cfg.Members.Addresses(node)
	if !known || node == p.cfg.Node {
		return
	}
	var list []string
	for _, addr := range addrs {
		if CheckAddress(addr) == nil && !slices.Contains(list, addr) && len(list) < MaxAddrs {
			list = append(list, addr)
		}
	}
	if list == nil {
		return
	}
	a := &p.addresses
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case slices.Equal(record, list):
		delete(a.heard, node)
	case !slices.Equal(a.heard[node], list):
		a.heard[node] = list
		p.log.Info("a node reports new addresses", "peer", node, "addrs", list, "were", record)
	}
}

// gossip returns the addresses that this node tells other nodes because they are not in the records yet, by node: all,
// and the first of each.
func (p *Port) gossip() (all map[string][]string, firsts map[string]string) {
	a := &p.addresses
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.heard) == 0 {
		return nil, nil
	}
	all, firsts = map[string][]string{}, map[string]string{}
	for node, list := range a.heard {
		if record, known := p.cfg.Members.Addresses(node); !known || slices.Equal(record, list) {
			delete(a.heard, node) // the record has them now
		} else {
			all[node], firsts[node] = list, list[0]
		}
	}
	return all, firsts
}

// listenTo records the gossip of another node. Addresses that were reported here before take precedence.
func (p *Port) listenTo(all map[string][]string, firsts map[string]string) {
	hear := func(node string, addrs []string) {
		p.addresses.mu.Lock()
		_, known := p.addresses.heard[node]
		p.addresses.mu.Unlock()
		if !known {
			p.hear(node, addrs)
		}
	}
	for node, addrs := range all {
		hear(node, addrs)
	}
	for node, addr := range firsts {
		if all[node] == nil {
			hear(node, []string{addr})
		}
	}
}

// answered records where a node has answered.
func (p *Port) answered(node, addr string) {
	p.addresses.mu.Lock()
	defer p.addresses.mu.Unlock()
	p.addresses.worked[node] = addr
}

// TellAddress sets the address of a member's peer port, host:port, for when the nodes cannot find each other any more.
// This node dials it, also after a restart, until the member's record has the same address. The error is fs.ErrNotExist
// if there is no such member.
func (p *Port) TellAddress(node, addr string) error {
	if err := CheckAddress(addr); err != nil {
		return err
	}
	if node == p.cfg.Node {
		return fmt.Errorf("node %s is this node: its address is listen.peer in its config: %w", node, fs.ErrInvalid)
	}
	if !slices.Contains(p.cfg.Members.Others(), node) {
		return fmt.Errorf("there is no node %s: %w", node, fs.ErrNotExist)
	}
	a := &p.addresses
	a.mu.Lock()
	defer a.mu.Unlock()
	a.told[node] = addr
	return p.writeTold()
}

// writeTold stores the operator's addresses. addresses.mu is held.
func (p *Port) writeTold() error {
	data, err := json.Marshal(p.addresses.told)
	if err != nil {
		return err
	}
	return disk.WriteFile(p.cfg.FS, p.cfg.AddressFile, data, 0o640)
}

// ForgetTold deletes the operator's addresses that the records now have, and those of removed nodes.
func (p *Port) ForgetTold() error {
	a := &p.addresses
	a.mu.Lock()
	defer a.mu.Unlock()
	n := len(a.told)
	for node, addr := range a.told {
		record, known := p.cfg.Members.Addresses(node)
		if !known && p.cfg.Members.Removed(node) || slices.Contains(record, addr) {
			delete(a.told, node)
		}
	}
	if len(a.told) == n {
		return nil
	}
	return p.writeTold()
}

// addressesOf lists the possible addresses of a member, the most likely first: the one that answered last; those that
// it reports, the operator's, the config's, its record's and those that were known when this node joined, families in
// turns; and from time to time, while it does not answer, its name as a host name.
func (p *Port) addressesOf(node string) (list []string) {
	add := func(addrs ...string) {
		for _, addr := range addrs {
			if addr != "" && !slices.Contains(list, addr) {
				list = append(list, addr)
			}
		}
	}
	record, _ := p.cfg.Members.Addresses(node)
	a := &p.addresses
	a.mu.Lock()
	defer a.mu.Unlock()
	add(a.heard[node]...)
	add(a.told[node], p.cfg.Peers[node])
	add(record...)
	add(p.cfg.Members.JoinAddresses(node)...)
	if i := slices.Index(list, a.worked[node]); i > 0 {
		list = slices.Insert(slices.Delete(list, i, i+1), 0, a.worked[node])
	}
	list = alternate(list)
	if now := time.Now(); len(list) > 0 && !p.Up(node) && now.Sub(a.asked[node]) >= askEvery {
		a.asked[node] = now
		if _, port, err := net.SplitHostPort(list[len(list)-1]); err == nil {
			add(net.JoinHostPort(node, port))
		}
	}
	return list
}

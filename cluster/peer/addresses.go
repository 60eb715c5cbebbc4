package peer

import (
	"context"
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
	mu    sync.Mutex
	heard map[string]string    // by node: the address that the node itself reports, directly or through another member
	told  map[string]string    // by node: the address that the operator has set; also in Config.AddressFile
	asked map[string]time.Time // by node: when its name was last resolved
}

const (
	addressHeader = "Casemate-Address" // of a request for beats: the address of the requesting node
	maxAddress    = 300                // bytes
	dialStagger   = 150 * time.Millisecond
	askEvery      = 10 * time.Second // minimum between two lookups of a node's name
)

func (a *addresses) open(cfg Config) {
	a.heard, a.told, a.asked = map[string]string{}, map[string]string{}, map[string]time.Time{}
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

func checkAddress(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || n == 0 || host == "" || len(addr) > maxAddress {
		return fmt.Errorf("the address of a node's peer port must be host:port, got %.100q: %w", addr, fs.ErrInvalid)
	}
	return nil
}

// hear records an address that a node reports for itself.
func (p *Port) hear(node, addr string) {
	record, known := p.cfg.Members.Address(node)
	if !known || node == p.cfg.Node || checkAddress(addr) != nil {
		return
	}
	a := &p.addresses
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case record == addr:
		delete(a.heard, node)
	case a.heard[node] != addr:
		a.heard[node] = addr
		p.log.Info("a node reports a new address", "peer", node, "addr", addr, "was", record)
	}
}

// gossip returns the addresses that this node tells other nodes because they are not in the records yet.
func (p *Port) gossip() map[string]string {
	a := &p.addresses
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.heard) == 0 {
		return nil
	}
	out := map[string]string{}
	for node, addr := range a.heard {
		if record, known := p.cfg.Members.Address(node); !known || record == addr {
			delete(a.heard, node) // the record has it now
		} else {
			out[node] = addr
		}
	}
	return out
}

// listenTo records the gossip of another node. An address that was reported here before takes precedence.
func (p *Port) listenTo(gossip map[string]string) {
	for node, addr := range gossip {
		p.addresses.mu.Lock()
		_, known := p.addresses.heard[node]
		p.addresses.mu.Unlock()
		if !known {
			p.hear(node, addr)
		}
	}
}

// TellAddress sets the address of a member's peer port, host:port, for when the nodes cannot find each other any more.
// This node dials it, also after a restart, until the member's record has the same address. The error is fs.ErrNotExist
// if there is no such member.
func (p *Port) TellAddress(node, addr string) error {
	if err := checkAddress(addr); err != nil {
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
		if record, known := p.cfg.Members.Address(node); !known && p.cfg.Members.Removed(node) || record == addr {
			delete(a.told, node)
		}
	}
	if len(a.told) == n {
		return nil
	}
	return p.writeTold()
}

// addressesOf lists the possible addresses of a member, the most likely first: the one that it reports, the operator's,
// the config's, its record's, the one that was known when this node joined, and from time to time, while it does not
// answer, its name as a host name.
func (p *Port) addressesOf(node string) (list []string) {
	add := func(addr string) {
		if addr != "" && !slices.Contains(list, addr) {
			list = append(list, addr)
		}
	}
	a := &p.addresses
	a.mu.Lock()
	add(a.heard[node])
	add(a.told[node])
	a.mu.Unlock()
	add(p.cfg.Peers[node])
	record, _ := p.cfg.Members.Address(node)
	add(record)
	add(p.cfg.Members.JoinAddress(node))
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := time.Now(); len(list) > 0 && !p.Up(node) && now.Sub(a.asked[node]) >= askEvery {
		a.asked[node] = now
		if _, port, err := net.SplitHostPort(list[len(list)-1]); err == nil {
			add(net.JoinHostPort(node, port))
		}
	}
	return list
}

// first tries addresses, dialStagger apart, until one succeeds, and closes later connections. The error is that of the
// first address.
func first(
	ctx context.Context, addrs []string, try func(ctx context.Context, addr string) (net.Conn, error),
) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	type outcome struct {
		n    int
		conn net.Conn
		err  error
	}
	outcomes := make(chan outcome)
	begun, ended := 0, 0
	begin := func() {
		n, addr := begun, addrs[begun]
		begun++
		go func() {
			conn, err := try(ctx, addr)
			outcomes <- outcome{n, conn, err}
		}()
	}
	defer func() {
		cancel() // which ends the others at once
		for range begun - ended {
			if o := <-outcomes; o.conn != nil {
				o.conn.Close()
			}
		}
	}()
	begin()
	next := time.NewTimer(dialStagger)
	defer next.Stop()
	var err error
	for {
		select {
		case o := <-outcomes:
			ended++
			if o.err == nil {
				return o.conn, nil
			}
			if o.n == 0 || err == nil {
				err = o.err
			}
			if begun < len(addrs) {
				begin()
				next.Reset(dialStagger)
			} else if ended == begun {
				return nil, err
			}
		case <-next.C:
			if begun < len(addrs) {
				begin()
				next.Reset(dialStagger)
			}
		}
	}
}

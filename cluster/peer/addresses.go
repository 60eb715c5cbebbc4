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

// addresses is where this node looks for others besides where their records say that they are. Any of them may be
// wrong: who answers there has to prove which node it is.
type addresses struct {
	mu    sync.Mutex
	heard map[string]string    // by node: what it says itself, or what another member has heard it say
	told  map[string]string    // by node: what the operator says, in Config.AddressFile too
	asked map[string]time.Time // by node: when its name was last looked up
}

const (
	addressHeader = "Casemate-Address" // of a request for beats: where who asks is reached
	maxAddress    = 300                // bytes
	dialStagger   = 150 * time.Millisecond
	askEvery      = 10 * time.Second // the least between two look-ups of a node's name
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
		// Nothing that the operator could not say again.
		cfg.Log.Warn("the addresses that were told cannot be read", "file", filepath.Base(cfg.AddressFile), "err", err)
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

// hear takes an address that a node says of itself.
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
		p.log.Info("a node says that it is elsewhere", "peer", node, "addr", addr, "was", record)
	}
}

// gossip is what this node tells others of addresses that are not in the records yet.
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
			delete(a.heard, node) // it stands in its record now
		} else {
			out[node] = addr
		}
	}
	return out
}

// listenTo takes the gossip of another node. What a node has said here itself counts more.
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

// TellAddress says where a member's peer port is, host:port, for the day on which no node finds the others any more.
// This node looks there too, also after a restart, until the member's record says the same. fs.ErrNotExist: there is no
// such member.
func (p *Port) TellAddress(node, addr string) error {
	if err := checkAddress(addr); err != nil {
		return err
	}
	if node == p.cfg.Node {
		return fmt.Errorf("node %s is this one: its address is listen.peer in its config: %w", node, fs.ErrInvalid)
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

// writeTold needs addresses.mu.
func (p *Port) writeTold() error {
	data, err := json.Marshal(p.addresses.told)
	if err != nil {
		return err
	}
	return disk.WriteFile(p.cfg.FS, p.cfg.AddressFile, data, 0o640)
}

// ForgetTold forgets what the operator has said and what stands in the records by now.
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

// addressesOf lists where a member may be, the likeliest first: what it says itself, what the operator says, the
// config, its record, what a joiner was told, and now and then, while it does not answer, the host of its name.
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

// first tries addresses, a moment after one another, until one succeeds, and closes what comes later. The error is that
// of the first address.
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

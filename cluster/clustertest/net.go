// Package clustertest runs a cluster of several nodes in one process, on disks that lose power and a network that can
// be cut.
//
// Disks and network are in memory, so a test runs in a synctest bubble (see [Run]): times pass when nothing else is
// left to do, and no verdict depends on how busy the machine is. Raft, blobs and forwarded writes share the wires, so
// they are cut together. Like TCP over a dead wire a cut connection says nothing: reads and writes wait, until the wire
// is whole again or a deadline passes. Where only one direction is cut, what goes in the other one arrives and its
// acknowledgments do not: as TCP does, a connection sends a first window more, and then nothing.
package clustertest

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	window = 14600 // bytes that a connection sends before it needs an acknowledgment (RFC 6928: ten segments)
	// bytes of one direction that were written and not read: then writes wait, as for a full buffer of a kernel
	maxSent = 64 << 10
)

// Net is the wires between nodes. Addresses are "NAME:7443", and those of Net.Also.
type Net struct {
	mu    sync.Mutex
	at    map[string]*listener        // by node
	cut   map[[2]string]bool          // from, to
	off   map[string]bool             // nodes without power
	slow  map[[2]string]time.Duration // from, to
	hosts map[string]string           // by node that has moved: where it is
	also  map[string][]string         // by node: further hosts that lead to it
	dead  map[string]bool             // hosts at which nothing arrives
	moved chan struct{}               // closed at the next change
	ports int                         // of dialers, so that each connection has an address of its own
}

// NewNet returns whole wires.
func NewNet() *Net {
	return &Net{at: map[string]*listener{}, off: map[string]bool{}, cut: map[[2]string]bool{},
		slow: map[[2]string]time.Duration{}, hosts: map[string]string{}, also: map[string][]string{},
		dead: map[string]bool{}, moved: make(chan struct{})}
}

// Addr is what other nodes dial.
func Addr(node string) string { return node + ":7443" }

// Move gives a node that is down another host. At the one before nobody answers any more.
func (n *Net) Move(node, host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[node] = host
}

// AddrOf is what other nodes have to dial for a node now.
func (n *Net) AddrOf(node string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if host, ok := n.hosts[node]; ok {
		return host + ":7443"
	}
	return Addr(node)
}

// Also gives a node that is down further hosts, as addresses of another family are.
func (n *Net) Also(node string, hosts ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.also[node] = hosts
}

// AddrsOf is all that other nodes may dial for a node.
func (n *Net) AddrsOf(node string) []string {
	list := []string{n.AddrOf(node)}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, host := range n.also[node] {
		list = append(list, host+":7443")
	}
	return list
}

// liveAddr is the first of AddrsOf at which something arrives.
func (n *Net) liveAddr(node string) string {
	for _, addr := range n.AddrsOf(node) {
		host, _, _ := net.SplitHostPort(addr)
		n.mu.Lock()
		dead := n.dead[host]
		n.mu.Unlock()
		if !dead {
			return addr
		}
	}
	return n.AddrOf(node)
}

// Kill lets nothing arrive at hosts any more, nor come back from there; connections there stay open and say nothing.
func (n *Net) Kill(hosts ...string) {
	n.change(func() {
		for _, h := range hosts {
			n.dead[h] = true
		}
	})
}

// nodeAt returns the node that is at a host, "" if there is none.
func (n *Net) nodeAt(host string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	for node, also := range n.also {
		if slices.Contains(also, host) {
			return node
		}
	}
	for node, at := range n.hosts {
		if at == host {
			return node
		}
	}
	if _, moved := n.hosts[host]; moved {
		return ""
	}
	return host
}

// Listen opens a node's port.
func (n *Net) Listen(node string) (net.Listener, error) {
	l := &listener{net: n, node: node, conns: make(chan net.Conn), closed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.at[node] != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Addr: l.Addr(), Err: syscall.EADDRINUSE}
	}
	n.at[node] = l
	return l, nil
}

// Dialer returns the dial function of a node.
func (n *Net) Dialer(from string) func(ctx context.Context, addr string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		to := n.nodeAt(host)
		if to == "" {
			<-ctx.Done() // what is sent there comes to nobody
			return nil, fmt.Errorf("dial %s: %w", addr, ctx.Err())
		}
		for _, way := range [][2]string{{from, to}, {to, from}} {
			if err := n.travel(ctx, way, host); err != nil {
				return nil, fmt.Errorf("dial %s: %w", addr, err)
			}
		}
		n.mu.Lock()
		l := n.at[to]
		n.ports++
		local := address(fmt.Sprintf("%s:%d", from, 10_000+n.ports%50_000))
		n.mu.Unlock()
		refused := fmt.Errorf("dial %s: %w", addr, syscall.ECONNREFUSED)
		if l == nil {
			return nil, refused
		}
		there, back := newHalf(n, from, to, host), newHalf(n, to, from, host)
		select {
		case l.conns <- &wire{in: there, out: back, local: l.Addr(), remote: local}:
			return &wire{in: back, out: there, local: local, remote: l.Addr()}, nil
		case <-l.closed:
			return nil, refused
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// travel waits until one packet of a connection to a host has gone a way.
func (n *Net) travel(ctx context.Context, way [2]string, host string) error {
	for {
		n.mu.Lock()
		cut, slow, moved := n.blocked(way, host), n.slow[way], n.moved
		n.mu.Unlock()
		var late <-chan time.Time
		if !cut {
			if slow == 0 {
				return ctx.Err()
			}
			late, moved = time.After(slow), nil
		}
		select {
		case <-moved:
		case <-late:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (n *Net) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	close(n.moved)
	n.moved = make(chan struct{})
}

// Cut cuts the wire between each of a and each of b, in both directions.
func (n *Net) Cut(a, b []string) {
	n.change(func() {
		for _, x := range a {
			for _, y := range b {
				n.cut[[2]string{x, y}], n.cut[[2]string{y, x}] = true, true
			}
		}
	})
}

// CutOneWay cuts what goes from one node to the other.
func (n *Net) CutOneWay(from, to string) {
	n.change(func() { n.cut[[2]string{from, to}] = true })
}

// Off silences a node, or ends that.
func (n *Net) Off(node string, off bool) {
	n.change(func() { n.off[node] = off })
}

// Slow lets each piece that goes between two nodes take a time.
func (n *Net) Slow(a, b string, d time.Duration) {
	n.change(func() { n.slow[[2]string{a, b}], n.slow[[2]string{b, a}] = d, d })
}

// Heal makes all wires whole and quick.
func (n *Net) Heal() {
	n.change(func() { clear(n.cut); clear(n.slow); clear(n.dead) })
}

// blocked says that nothing of a connection to a host may go this way now. n.mu is held.
func (n *Net) blocked(way [2]string, host string) bool {
	return n.cut[way] || n.off[way[0]] || n.off[way[1]] || n.dead[host]
}

type listener struct {
	net    *Net
	node   string
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.net.mu.Lock()
		defer l.net.mu.Unlock()
		delete(l.net.at, l.node)
	})
	return nil
}

func (l *listener) Addr() net.Addr { return address(Addr(l.node)) }

type address string

func (a address) Network() string { return "tcp" }
func (a address) String() string  { return string(a) }

// half is one direction of a connection: the bytes that were written and not read yet.
type half struct {
	net  *Net
	way  [2]string
	host string // that was dialed

	mu      sync.Mutex
	data    []byte
	unacked int           // bytes read while the other direction was cut
	ended   bool          // the writer has closed: what was written arrives, then io.EOF
	reset   bool          // the reader has closed: writes fail
	changed chan struct{} // closed at the next change of any of these, or of a deadline
	read    time.Time     // deadlines
	write   time.Time
}

func newHalf(n *Net, from, to, host string) *half {
	return &half{net: n, way: [2]string{from, to}, host: host, changed: make(chan struct{})}
}

// set changes a half and wakes who waits for it.
func (h *half) set(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	h.wake()
}

// wake needs h.mu.
func (h *half) wake() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// passes returns how many bytes may arrive now, whether news of the other end do, and what changes that. h.mu is held;
// lock order: before net.mu.
func (h *half) passes() (n int, news bool, slow time.Duration, moved <-chan struct{}) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	back := [2]string{h.way[1], h.way[0]}
	switch n, news = len(h.data), !h.net.blocked(h.way, h.host) && !h.net.blocked(back, h.host); {
	case h.net.blocked(h.way, h.host):
		n = 0
	case h.net.blocked(back, h.host):
		n = max(0, min(n, window-h.unacked))
	default:
		h.unacked = 0
	}
	return n, news, h.net.slow[h.way], h.net.moved
}

// take reads. It waits for bytes, the wire, the writer's end, or the deadline.
func (h *half) take(p []byte) (int, error) {
	var arrives time.Time // on a slow wire
	for {
		h.mu.Lock()
		n, news, slow, moved := h.passes()
		changed, deadline := h.changed, h.read
		most := time.Duration(0)
		if n > 0 && slow > 0 {
			if arrives.IsZero() {
				arrives = time.Now().Add(slow)
			}
			if most = time.Until(arrives); most > 0 {
				n, news = 0, false
			}
		}
		var err error
		switch {
		case h.reset:
			err = net.ErrClosed
		case passed(deadline):
			err = os.ErrDeadlineExceeded
		case n > 0:
			n = copy(p[:min(n, len(p))], h.data)
			h.data = h.data[n:]
			h.unacked += n
			h.wake()
		case h.ended && news && len(h.data) == 0:
			err = io.EOF
		}
		h.mu.Unlock()
		if n > 0 && err == nil {
			return n, nil
		}
		if err != nil || len(p) == 0 {
			return 0, err
		}
		wait(moved, changed, deadline, most)
	}
}

// put writes what fits, waiting for the reader where nothing does.
func (h *half) put(p []byte) (done int, err error) {
	for {
		h.mu.Lock()
		_, news, _, moved := h.passes()
		changed, deadline := h.changed, h.write
		n := 0
		switch {
		case h.ended:
			err = net.ErrClosed
		case passed(deadline):
			err = os.ErrDeadlineExceeded
		case h.reset && news:
			err = syscall.EPIPE
		default:
			if n = min(len(p), maxSent-len(h.data)); n > 0 {
				h.data = append(h.data, p[:n]...)
				p, done = p[n:], done+n
				h.wake()
			}
		}
		h.mu.Unlock()
		if err != nil || len(p) == 0 {
			return done, err
		}
		if n == 0 {
			wait(moved, changed, deadline, 0)
		}
	}
}

func passed(deadline time.Time) bool { return !deadline.IsZero() && !time.Now().Before(deadline) }

// wait waits for a change, a deadline, or a time if it is not 0.
func wait(moved, changed <-chan struct{}, deadline time.Time, most time.Duration) {
	if !deadline.IsZero() {
		if left := time.Until(deadline); most == 0 || left < most {
			most = max(left, 1)
		}
	}
	var late <-chan time.Time
	if most > 0 {
		timer := time.NewTimer(most)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-moved:
	case <-changed:
	case <-late:
	}
}

// wire is one end of a connection.
type wire struct {
	in, out       *half
	local, remote net.Addr
}

func (w *wire) Read(p []byte) (int, error)  { return w.in.take(p) }
func (w *wire) Write(p []byte) (int, error) { return w.out.put(p) }

func (w *wire) Close() error {
	w.out.set(func() { w.out.ended = true })
	w.in.set(func() { w.in.reset = true })
	return nil
}

func (w *wire) LocalAddr() net.Addr  { return w.local }
func (w *wire) RemoteAddr() net.Addr { return w.remote }

func (w *wire) SetDeadline(t time.Time) error {
	w.SetReadDeadline(t)
	return w.SetWriteDeadline(t)
}

func (w *wire) SetReadDeadline(t time.Time) error {
	w.in.set(func() { w.in.read = t })
	return nil
}

func (w *wire) SetWriteDeadline(t time.Time) error {
	w.out.set(func() { w.out.write = t })
	return nil
}

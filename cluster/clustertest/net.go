// Package clustertest runs a cluster of several nodes in one process, on disks that lose power and a network that can be cut.
//
// The network is cut at the dialer, so raft, blobs and forwarded writes are cut together. Like TCP over a dead wire a cut connection says nothing: reads and writes
// wait, until the wire is whole again or somebody's patience ends.
package clustertest

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// Net is the wires between nodes. Addresses are "NAME:7443".
type Net struct {
	mu    sync.Mutex
	at    map[string]string     // node → the loopback address where it listens
	cut   map[[2]string]bool    // from, to
	off   map[string]bool       // nodes without power
	slow  map[[2]string]latency // from, to
	moved chan struct{}         // closed at the next change
}

type latency time.Duration

// NewNet returns whole wires.
func NewNet() *Net {
	return &Net{at: map[string]string{}, off: map[string]bool{}, cut: map[[2]string]bool{}, slow: map[[2]string]latency{}, moved: make(chan struct{})}
}

// Addr is what other nodes dial.
func Addr(node string) string { return node + ":7443" }

// Listen opens a node's port.
func (n *Net) Listen(node string) (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.at[node] = l.Addr().String()
	return l, nil
}

// Dialer returns the dial function of a node.
func (n *Net) Dialer(from string) func(ctx context.Context, addr string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		to, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		deadline, _ := ctx.Deadline()
		for _, way := range [][2]string{{from, to}, {to, from}} {
			if err := n.pass(way, deadline, ctx.Done()); err != nil {
				return nil, fmt.Errorf("dial %s: %w", addr, err)
			}
		}
		n.mu.Lock()
		at := n.at[to]
		n.mu.Unlock()
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", at)
		if err != nil {
			return nil, err
		}
		return &wire{Conn: conn, net: n, out: [2]string{from, to}, in: [2]string{to, from}, closed: make(chan struct{})}, nil
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
	n.change(func() { n.slow[[2]string{a, b}], n.slow[[2]string{b, a}] = latency(d), latency(d) })
}

// Heal makes all wires whole and quick.
func (n *Net) Heal() {
	n.change(func() { clear(n.cut); clear(n.slow) })
}

// blocked says that nothing may go this way now. n.mu is held.
func (n *Net) blocked(way [2]string) bool { return n.cut[way] || n.off[way[0]] || n.off[way[1]] }

// pass waits until something may go this way.
func (n *Net) pass(way [2]string, deadline time.Time, closed <-chan struct{}) error {
	var late <-chan time.Time
	if !deadline.IsZero() {
		t := time.NewTimer(time.Until(deadline))
		defer t.Stop()
		late = t.C
	}
	for {
		n.mu.Lock()
		cut, slow, moved := n.blocked(way), n.slow[way], n.moved
		n.mu.Unlock()
		if !cut {
			if slow > 0 {
				select {
				case <-time.After(time.Duration(slow)):
				case <-closed:
					return net.ErrClosed
				}
			}
			return nil
		}
		select {
		case <-moved:
		case <-late:
			return os.ErrDeadlineExceeded
		case <-closed:
			return net.ErrClosed
		}
	}
}

// wire is the dialer's end of a connection; both directions pass through it.
type wire struct {
	net.Conn
	net     *Net
	out, in [2]string

	mu          sync.Mutex
	read, write time.Time
	queue       []byte

	once   sync.Once
	closed chan struct{}
}

func (w *wire) Read(p []byte) (int, error) {
	w.mu.Lock()
	deadline := w.read
	w.mu.Unlock()
	if err := w.net.pass(w.in, deadline, w.closed); err != nil {
		return 0, err
	}
	n, err := w.Conn.Read(p)
	if n > 0 {
		w.mu.Lock()
		deadline = w.read
		w.mu.Unlock()
		if perr := w.net.pass(w.in, deadline, w.closed); perr != nil {
			w.Close() // these bytes are lost, so the connection is
			return 0, perr
		}
	}
	return n, err
}

// Write hands what cannot go now to a queue, as a kernel does, until that is full.
func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	deadline := w.write
	w.net.mu.Lock()
	cut := w.net.blocked(w.out)
	w.net.mu.Unlock()
	if (cut || len(w.queue) > 0) && len(w.queue)+len(p) <= maxQueue {
		if len(w.queue) == 0 {
			go w.flush()
		}
		w.queue = append(w.queue, p...)
		w.mu.Unlock()
		return len(p), nil
	}
	full := len(w.queue) > 0
	w.mu.Unlock()
	if err := w.net.pass(w.out, deadline, w.closed); err != nil {
		return 0, err
	}
	if full {
		w.Close() // its order is lost
		return 0, net.ErrClosed
	}
	return w.Conn.Write(p)
}

const maxQueue = 64 << 10

// flush sends what is queued once it may go. It ends with the connection.
func (w *wire) flush() {
	if w.net.pass(w.out, time.Time{}, w.closed) != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Conn.SetWriteDeadline(time.Time{})
	w.Conn.Write(w.queue)
	w.queue = nil
}

func (w *wire) SetDeadline(t time.Time) error {
	w.mu.Lock()
	w.read, w.write = t, t
	w.mu.Unlock()
	return w.Conn.SetDeadline(t)
}

func (w *wire) SetReadDeadline(t time.Time) error {
	w.mu.Lock()
	w.read = t
	w.mu.Unlock()
	return w.Conn.SetReadDeadline(t)
}

func (w *wire) SetWriteDeadline(t time.Time) error {
	w.mu.Lock()
	w.write = t
	w.mu.Unlock()
	return w.Conn.SetWriteDeadline(t)
}

func (w *wire) Close() error {
	w.once.Do(func() { close(w.closed) })
	return w.Conn.Close()
}

// Package clientconn limits client connections: how many one client may have, how long it may make no progress, and
// in which order clients get large responses.
package clientconn

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"casemate/cluster/share"
	"casemate/cluster/stall"
)

// How long a client may make no progress, and how much counts as progress. A big file over a slow line takes as long
// as it takes; a client that has stopped reading, or reads a byte now and then, is disconnected.
const (
	StallTimeout = 2 * time.Minute
	stallChunk   = 1 << 20 // bytes that must be sent within StallTimeout: 9 KB/s
)

// Conn limits how long writes may wait for the client. It remains an io.ReaderFrom, so that net/http passes *os.File
// to the kernel (sendfile) as on a bare *net.TCPConn; but in pieces, each with its own deadline.
//
// It counts the time that writes spent waiting, over as many writes as stallChunk takes (stall.Budget): TLS writes in
// small records, and a client that accepts one of them now and then makes too little progress.
type Conn struct {
	*net.TCPConn
	place    *share.Place
	budget   stall.Budget // of writes
	deadline stall.Deadline
	asked    atomic.Bool // a request has begun
	settle   func()      // at the first request, or at the end without one; nil: nobody waits for it

	// For large copies (turns.go). The writer owns turn and raw.
	turns  *share.Turns // nil: unlimited
	client string       // the client that takes turns
	turn   bool         // this connection has the turn
	raw    syscall.RawConn

	gathering sync.Mutex
	gathered  []byte // what was written and is not sent yet; nil: writes go to the socket
}

// extendDeadline gives the client the rest of the budget for the next write.
func (c *Conn) extendDeadline() (start time.Time) {
	return c.deadline.Extend(c.TCPConn.SetWriteDeadline, c.budget.Left())
}

// wrote accounts for a write.
func (c *Conn) wrote(start time.Time, n int64) {
	c.budget.Spend(start, n)
	c.place.Touch()
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.place.Touch()
	return n, err
}

// SetDeadline is called by net/http around a handshake.
func (c *Conn) SetDeadline(t time.Time) error {
	c.deadline.Forget()
	return c.TCPConn.SetDeadline(t)
}

// SetWriteDeadline sets a deadline that lasts until the next write.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.deadline.Forget()
	return c.TCPConn.SetWriteDeadline(t)
}

func (c *Conn) Write(p []byte) (n int, err error) {
	if c.gathers(p) {
		return len(p), nil
	}
	if c.turns != nil && len(p) >= LargeWrite {
		return c.writeInTurns(p)
	}
	for len(p) > 0 {
		piece := p[:min(len(p), stallChunk)]
		start := c.extendDeadline()
		m, err := c.TCPConn.Write(piece)
		c.wrote(start, int64(m))
		n += m
		if err != nil {
			return n, err
		}
		p = p[m:]
	}
	return n, nil
}

// ReadFrom is called by net/http and io.Copy for a body that is a file.
func (c *Conn) ReadFrom(r io.Reader) (n int64, err error) {
	limit := int64(1<<63 - 1)
	outer, limited := r.(*io.LimitedReader)
	if limited {
		r, limit = outer.R, outer.N
	}
	if f, isFile := r.(*os.File); isFile && c.turns != nil {
		if n, ok, err := c.sendFile(f, limit); ok {
			if limited {
				outer.N -= n
			}
			return n, err
		}
	}
	for limit > 0 {
		// The kernel takes a file itself or one in an *io.LimitedReader, not deeper: so the outer one was removed
		// above.
		piece := &io.LimitedReader{R: r, N: min(limit, stallChunk)}
		want := piece.N
		start := c.extendDeadline()
		m, err := c.TCPConn.ReadFrom(piece)
		c.wrote(start, m)
		n += m
		limit -= m
		if limited {
			outer.N = limit
		}
		if err != nil || m < want {
			return n, err
		}
	}
	return n, nil
}

func (c *Conn) Close() error {
	c.settled()
	c.place.Free()
	return c.TCPConn.Close()
}

// connKey is the context key of a request's connection.
type connKey struct{}

// WithConn is the ConnContext of an http.Server.
func WithConn(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if p, ok := c.(*Conn); ok {
		ctx = context.WithValue(ctx, connKey{}, p)
	}
	return ctx
}

// Of returns the connection of a request, nil if it did not come through a Listener.
func Of(ctx context.Context) *Conn {
	c, _ := ctx.Value(connKey{}).(*Conn)
	return c
}

// Begin records that a request begins on the connection. The returned function records its end, and whether the
// request was permitted.
func (c *Conn) Begin() (end func(good bool)) {
	c.asked.Store(true)
	c.settled()
	c.place.Begin()
	return c.place.End
}

func (c *Conn) settled() {
	if c.settle != nil {
		c.settle()
	}
}

// Asked reports whether a request has begun on a connection that came through a Listener.
func Asked(c net.Conn) bool {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	p, ok := c.(*Conn)
	return ok && p.asked.Load()
}

// InTurns reports whether large copies on the connection wait for a turn.
func (c *Conn) InTurns() bool { return c.turns != nil }

// NewPlaces limits the connections of ports 80 and 443. known reports the addresses of nodes.
func NewPlaces(max int, known func(client string) bool) *share.Places {
	return share.New(share.Config{Max: max, Kept: min(512, max/8), Known: known})
}

// A response that was generated in memory stays there until its client has received it, for as long as Conn allows.
const (
	LargeAnswer  = 64 << 10 // size in bytes from which a response counts
	LargeAnswers = 64       // in progress at a time; the registry's lists and manifests have up to 4 MiB
)

// NewLarge divides the places for large responses among clients. All responses count as idle, so there is always a
// place for one more: the oldest response of the client with most places is aborted.
func NewLarge(max int) *share.Places {
	return share.New(share.Config{Max: max})
}

// Abort closes the connection and drops what the kernel has not sent.
func (c *Conn) Abort() {
	c.SetLinger(0)
	c.Close()
}

// Listener limits the connections, in total and for each client, so that no client can keep others out by holding
// connections open.
type Listener struct {
	net.Listener
	Places *share.Places
	Turns  *share.Turns // for large copies; nil: unlimited
	Fresh  *Fresh       // counts its connections; nil: nobody waits for them
	Stall  time.Duration
	Log    *slog.Logger
}

// Fresh counts the connections on which no request has begun. Its zero value is ready.
type Fresh struct{ n atomic.Int64 }

// Wait waits until each accepted connection has begun a request or has ended, but at most most. A stop calls it after
// the listeners were closed and before [http.Server.Shutdown], which closes a new HTTP/2 connection although the first
// request is on its way: clients repeat a request only if the connection had served another one.
func (f *Fresh) Wait(most time.Duration) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(most); f.n.Load() > 0 && time.Now().Before(end); {
		<-tick.C
	}
}

// Close stops accepting. It may be called again, as [http.Server.Shutdown] does.
func (l *Listener) Close() error {
	if err := l.Listener.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Accept returns the next connection for which there is a place. It closes others at once, which clients notice and
// may retry.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tcp, ok := c.(*net.TCPConn)
		if !ok {
			return c, nil
		}
		client := share.Of(share.AddrOf(tcp.RemoteAddr()))
		place, ok := l.Places.Take(client, func() { tcp.Close() })
		if !ok {
			l.Log.Info("connection refused: too many connections", "client", tcp.RemoteAddr())
			tcp.SetLinger(0)
			tcp.Close()
			continue
		}
		conn := &Conn{
			TCPConn: tcp, place: place, budget: stall.Budget{Wait: l.Stall, Chunk: stallChunk}, turns: l.Turns,
			client: client,
		}
		if l.Fresh != nil {
			l.Fresh.n.Add(1)
			conn.settle = sync.OnceFunc(func() { l.Fresh.n.Add(-1) })
		}
		return conn, nil
	}
}

// AddrOf returns the address of the sender of r.
func AddrOf(r *http.Request) netip.Addr {
	a, _ := netip.ParseAddrPort(r.RemoteAddr)
	return share.Plain(a.Addr())
}

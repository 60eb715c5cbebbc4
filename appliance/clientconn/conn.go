// Package clientconn bounds the connections of clients: how many one may have, how long it may make no progress, and
// whose turn it is to get a large answer.
package clientconn

import (
	"context"
	"crypto/tls"
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
)

// How long a client may make no progress, and how much progress counts. A big file over a slow line takes as long as it
// takes; a client that has stopped reading, or reads a byte now and then, is cut off.
const (
	StallTimeout = 2 * time.Minute
	stallChunk   = 1 << 20 // bytes that must have left within StallTimeout: 9 KB/s
)

// Conn bounds how long writes may wait for the client. It stays an io.ReaderFrom, so that net/http hands
// *os.File to the kernel (sendfile) as on a bare *net.TCPConn; but in pieces, each with its own deadline.
//
// What counts is the time in which a write waited, over as many writes as stallChunk takes: TLS writes in small
// records, and a client that takes one of them now and then makes no progress that is worth a connection. The time in
// which nothing was written is not the client's fault.
type Conn struct {
	*net.TCPConn
	stall    time.Duration
	place    *share.Place
	waited   atomic.Int64 // nanoseconds that writes waited since
	sent     atomic.Int64 // so many bytes
	deadline atomic.Int64 // what extendDeadline set, in Unix nanoseconds; 0 when somebody else has set one

	// For large copies (turns.go). turn and raw belong to whoever writes.
	turns  *share.Turns // nil: they are not bounded
	client string       // who takes turns
	turn   bool         // it is this connection's turn
	raw    syscall.RawConn

	gathering sync.Mutex
	gathered  []byte // what was written and is not sent yet; nil: writes go to the socket
}

// extendDeadline gives the client what is left of stall for what is written next. A deadline that is nearly the right
// one is left.
func (c *Conn) extendDeadline() (start time.Time) {
	start = time.Now()
	left := c.stall - time.Duration(c.waited.Load())
	end := start.Add(left)
	if until := c.deadline.Load(); until > end.Add(-left/4).UnixNano() && until <= end.UnixNano() {
		return start
	}
	c.TCPConn.SetWriteDeadline(end)
	c.deadline.Store(end.UnixNano())
	return start
}

// wrote takes account of a write.
func (c *Conn) wrote(start time.Time, n int64) {
	c.waited.Add(int64(time.Since(start)))
	if c.sent.Add(n) >= stallChunk {
		c.sent.Store(0)
		c.waited.Store(0)
	}
	c.place.Touch()
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.place.Touch()
	return n, err
}

// SetDeadline is what net/http calls around a handshake.
func (c *Conn) SetDeadline(t time.Time) error {
	c.deadline.Store(0)
	return c.TCPConn.SetDeadline(t)
}

// SetWriteDeadline lasts until the next write.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.deadline.Store(0)
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

// ReadFrom is what net/http and io.Copy call for a body that is a file.
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
		// The kernel takes a file itself or one in an *io.LimitedReader, not deeper: so the outer one was taken off
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
	c.place.Free()
	return c.TCPConn.Close()
}

// connKey is the key of a request's context under which its connection is.
type connKey struct{}

// WithConn is an http.Server's ConnContext.
func WithConn(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if p, ok := c.(*Conn); ok {
		ctx = context.WithValue(ctx, connKey{}, p)
	}
	return ctx
}

// Of returns the connection that a request came on, nil if it did not come through a Listener.
func Of(ctx context.Context) *Conn {
	c, _ := ctx.Value(connKey{}).(*Conn)
	return c
}

// Begin notes that a request begins on the connection; the function that it returns that the request has ended, and
// whether the client asked for something that it may have.
func (c *Conn) Begin() (end func(good bool)) {
	c.place.Begin()
	return c.place.End
}

// InTurns reports whether large copies on the connection wait for a turn.
func (c *Conn) InTurns() bool { return c.turns != nil }

// NewPlaces divides the connections of ports 80 and 443. known reports the addresses of nodes.
func NewPlaces(max int, known func(client string) bool) *share.Places {
	// Three eighths for one client: a thousand downloads may come from one host. Whoever has none gets one all the
	// same.
	return share.New(share.Config{Max: max, PerClient: (max*3 + 7) / 8, Kept: min(512, max/8), Known: known})
}

// An answer that was made in memory stays there until its client has taken it, for as long as Conn lets it
// take.
const (
	LargeAnswer  = 64 << 10 // bytes from which it counts
	LargeAnswers = 64       // under way at a time; the registry's lists and manifests have up to 4 MiB
)

// NewLarge divides the large answers that are under way among clients. All count as idle, so there is always room for
// one more: the oldest one goes, of the client that holds most.
func NewLarge(max int) *share.Places {
	return share.New(share.Config{Max: max, PerClient: (max*3 + 7) / 8})
}

// Abort closes the connection and drops what the kernel has not sent.
func (c *Conn) Abort() {
	c.SetLinger(0)
	c.Close()
}

// Listener bounds the connections, all together and those of one client, so that nobody keeps the others out by
// holding them open.
type Listener struct {
	net.Listener
	Places *share.Places
	Turns  *share.Turns // for large copies; nil: they are not bounded
	Stall  time.Duration
	Log    *slog.Logger
}

// Accept returns the next connection for which there is room; the others are closed at once, which a client sees and
// may try again.
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
		client := share.Of(addrOf(tcp.RemoteAddr()))
		place, ok := l.Places.Take(client, func() { tcp.Close() })
		if !ok {
			l.Log.Info("connection refused: too many connections", "client", tcp.RemoteAddr())
			tcp.SetLinger(0)
			tcp.Close()
			continue
		}
		return &Conn{TCPConn: tcp, stall: l.Stall, place: place, turns: l.Turns, client: client}, nil
	}
}

func addrOf(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// AddrOf is the address of who sent r.
func AddrOf(r *http.Request) netip.Addr {
	a, _ := netip.ParseAddrPort(r.RemoteAddr)
	return a.Addr().Unmap().WithZone("")
}

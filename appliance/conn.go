package appliance

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
	stallTimeout = 2 * time.Minute
	stallChunk   = 1 << 20 // bytes that must have left within stallTimeout: 9 KB/s
)

// progressConn bounds how long writes may wait for the client. It stays an io.ReaderFrom, so that net/http hands
// *os.File to the kernel (sendfile) as on a bare *net.TCPConn; but in pieces, each with its own deadline.
//
// What counts is the time in which a write waited, over as many writes as stallChunk takes: TLS writes in small
// records, and a client that takes one of them now and then makes no progress that is worth a connection. The time in
// which nothing was written is not the client's fault.
type progressConn struct {
	*net.TCPConn
	stall  time.Duration
	place  *share.Place
	waited atomic.Int64 // nanoseconds that writes waited since
	sent   atomic.Int64 // so many bytes
	until  atomic.Int64 // the write deadline that extend set, in Unix nanoseconds; 0 when somebody else has set one

	// For large copies (turns.go). turn and raw belong to whoever writes.
	turns  *share.Turns // nil: they are not bounded
	client string       // who takes turns
	turn   bool         // it is this connection's turn
	raw    syscall.RawConn

	gathering sync.Mutex
	gathered  []byte // what was written and is not sent yet; nil: writes go to the socket
}

// extend gives the client what is left of stall for what is written next. A deadline that is nearly the right one is
// left.
func (c *progressConn) extend() (start time.Time) {
	start = time.Now()
	left := c.stall - time.Duration(c.waited.Load())
	end := start.Add(left)
	if until := c.until.Load(); until > end.Add(-left/4).UnixNano() && until <= end.UnixNano() {
		return start
	}
	c.TCPConn.SetWriteDeadline(end)
	c.until.Store(end.UnixNano())
	return start
}

// wrote takes account of a write.
func (c *progressConn) wrote(start time.Time, n int64) {
	c.waited.Add(int64(time.Since(start)))
	if c.sent.Add(n) >= stallChunk {
		c.sent.Store(0)
		c.waited.Store(0)
	}
	c.place.Touch()
}

// Read implements net.Conn.
func (c *progressConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.place.Touch()
	return n, err
}

// SetDeadline is what net/http calls around a handshake.
func (c *progressConn) SetDeadline(t time.Time) error {
	c.until.Store(0)
	return c.TCPConn.SetDeadline(t)
}

// SetWriteDeadline lasts until the next write.
func (c *progressConn) SetWriteDeadline(t time.Time) error {
	c.until.Store(0)
	return c.TCPConn.SetWriteDeadline(t)
}

func (c *progressConn) Write(p []byte) (n int, err error) {
	if c.gathers(p) {
		return len(p), nil
	}
	if c.turns != nil && len(p) >= largeWrite {
		return c.writeInTurns(p)
	}
	for len(p) > 0 {
		piece := p[:min(len(p), stallChunk)]
		start := c.extend()
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
func (c *progressConn) ReadFrom(r io.Reader) (n int64, err error) {
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
		start := c.extend()
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

func (c *progressConn) Close() error {
	c.place.Free()
	return c.TCPConn.Close()
}

// placeKey is the key of a request's context under which its connection is.
type placeKey struct{}

// withPlace is an http.Server's ConnContext.
func withPlace(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if p, ok := c.(*progressConn); ok {
		ctx = context.WithValue(ctx, placeKey{}, p)
	}
	return ctx
}

// newPlaces divides the connections of ports 80 and 443. known reports the addresses of nodes.
func newPlaces(max int, known func(client string) bool) *share.Places {
	// Three eighths for one client: a thousand downloads may come from one host. Whoever has none gets one all the
	// same.
	return share.New(share.Config{Max: max, PerClient: (max*3 + 7) / 8, Kept: min(512, max/8), Known: known})
}

// An answer that was made in memory stays there until its client has taken it, for as long as progressConn lets it
// take.
const (
	largeAnswer  = 64 << 10 // bytes from which it counts
	largeAnswers = 64       // under way at a time; the registry's lists and manifests have up to 4 MiB
)

// newLarge divides the large answers that are under way among clients. All count as idle, so there is always room for
// one more: the oldest one goes, of the client that holds most.
func newLarge(max int) *share.Places {
	return share.New(share.Config{Max: max, PerClient: (max*3 + 7) / 8})
}

// abort closes the connection and drops what the kernel has not sent.
func (c *progressConn) abort() {
	c.SetLinger(0)
	c.Close()
}

// limitListener bounds the connections, all together and those of one client, so that nobody keeps the others out by
// holding them open.
type limitListener struct {
	net.Listener
	places *share.Places
	turns  *share.Turns
	stall  time.Duration
	log    *slog.Logger
}

// Accept returns the next connection for which there is room; the others are closed at once, which a client sees and
// may try again.
func (l *limitListener) Accept() (net.Conn, error) {
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
		place, ok := l.places.Take(client, func() { tcp.Close() })
		if !ok {
			l.log.Info("a connection was refused: there are too many", "client", tcp.RemoteAddr())
			tcp.SetLinger(0)
			tcp.Close()
			continue
		}
		return &progressConn{TCPConn: tcp, stall: l.stall, place: place, turns: l.turns, client: client}, nil
	}
}

func addrOf(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// clientOf is the address of who sent r.
func clientOf(r *http.Request) netip.Addr {
	a, _ := netip.ParseAddrPort(r.RemoteAddr)
	return a.Addr().Unmap().WithZone("")
}

// stallBody bounds how long reading a request's body may wait for the client, over the whole request: as for writes, it
// is the time in which somebody waited for it, over stallChunk bytes. It lies around the body, not the connection,
// because the server reads the connection on its own while a handler sends, and a deadline there would end a download.
type stallBody struct {
	io.ReadCloser
	deadline func(time.Time) error // http.ResponseController's SetReadDeadline
	stall    time.Duration
	expects  bool // the client waits for 100 Continue, which reading sends

	mu      sync.Mutex // of whoever reads
	waited  time.Duration
	got     int
	touched bool
	over    bool // all of it was read, or it was closed
}

// What a server reads of a body that nobody wants, so that the connection can be used again.
const (
	drainTime  = 10 * time.Second
	drainBytes = 256 << 10
)

func (b *stallBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	start := time.Now()
	b.deadline(start.Add(b.stall - b.waited))
	b.touched = true
	n, err := b.ReadCloser.Read(p)
	b.waited += time.Since(start)
	if b.got += n; b.got >= stallChunk {
		b.got, b.waited = 0, 0
	}
	if err == io.EOF {
		b.over = true
		b.deadline(time.Time{})
	}
	return n, err
}

func (b *stallBody) Close() error {
	b.deadline(time.Now().Add(drainTime))
	err := b.ReadCloser.Close()
	b.deadline(time.Time{})
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	return err
}

// settle reads what is left of the body before an answer begins, as the server does, but for a bounded time. It reports
// whether the connection can be used again.
func (b *stallBody) settle() bool {
	if !b.mu.TryLock() {
		return true // somebody reads it
	}
	defer b.mu.Unlock()
	if b.over || b.expects && !b.touched {
		return true // there is nothing, or the server closes the connection
	}
	b.deadline(time.Now().Add(drainTime))
	if _, err := io.CopyN(io.Discard, b.ReadCloser, drainBytes); err != io.EOF {
		return false
	}
	b.over = true
	b.deadline(time.Time{})
	return true
}

// end bounds what the server itself reads after the handler.
func (b *stallBody) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.over {
		b.deadline(time.Now().Add(drainTime))
	}
}

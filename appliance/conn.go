package appliance

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// How long a client may make no progress, and how much progress counts. A big file over a slow line takes as long as it takes; a client
// that has stopped reading, or reads a byte now and then, is cut off.
const (
	stallTimeout = 2 * time.Minute
	stallChunk   = 1 << 20 // bytes that must have left within stallTimeout: 9 KB/s
)

// progressConn bounds how long a write may wait for the client. It stays an io.ReaderFrom, so that net/http hands *os.File to the kernel (sendfile)
// as on a bare *net.TCPConn; but in pieces, each with its own deadline.
type progressConn struct {
	*net.TCPConn
	stall time.Duration
	until atomic.Int64 // the write deadline that extend set, in Unix nanoseconds; 0 when somebody else has set one
	done  func()
	once  sync.Once
}

// extend gives the client stall more for what is written next. TLS writes in small records, so a deadline that is still far enough away is left.
func (c *progressConn) extend() {
	now := time.Now()
	if c.until.Load() > now.Add(c.stall/4*3).UnixNano() {
		return
	}
	end := now.Add(c.stall)
	c.TCPConn.SetWriteDeadline(end)
	c.until.Store(end.UnixNano())
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
	for len(p) > 0 {
		piece := p[:min(len(p), stallChunk)]
		c.extend()
		m, err := c.TCPConn.Write(piece)
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
	for limit > 0 {
		// The kernel takes a file itself or one in an *io.LimitedReader, not deeper: so the outer one was taken off above.
		piece := &io.LimitedReader{R: r, N: min(limit, stallChunk)}
		want := piece.N
		c.extend()
		m, err := c.TCPConn.ReadFrom(piece)
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
	c.once.Do(c.done)
	return c.TCPConn.Close()
}

// limitListener bounds the connections, all together and those of one client, so that nobody keeps the others out by holding them open.
type limitListener struct {
	net.Listener
	slots *slots
	stall time.Duration
}

// slots counts connections over all listeners that share it.
type slots struct {
	max, maxClient int
	log            *slog.Logger

	mu      sync.Mutex
	all     int
	clients map[netip.Addr]int
	refused uint64
}

func newSlots(max int, log *slog.Logger) *slots {
	return &slots{max: max, maxClient: (max + 3) / 4, log: log, clients: map[netip.Addr]int{}}
}

// take counts a connection, or refuses it.
func (s *slots) take(client netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= s.max || s.clients[client] >= s.maxClient {
		s.refused++
		return false
	}
	s.all++
	s.clients[client]++
	return true
}

func (s *slots) give(client netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.clients[client]--; s.clients[client] == 0 {
		delete(s.clients, client)
	}
}

func (s *slots) counts() (open int, refused uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all, s.refused
}

// Accept returns the next connection for which there is room; the others are closed at once, which a client sees and may try again.
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
		client := addrOf(tcp.RemoteAddr())
		if !l.slots.take(client) {
			tcp.SetLinger(0)
			tcp.Close()
			continue
		}
		return &progressConn{TCPConn: tcp, stall: l.stall, done: func() { l.slots.give(client) }}, nil
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

// stallBody bounds how long reading a request's body may wait for the client. It lies around the body, not the connection, because the server reads the
// connection on its own while a handler sends, and a deadline there would end a download.
type stallBody struct {
	io.ReadCloser
	deadline func(time.Time) error // http.ResponseController's SetReadDeadline
	stall    time.Duration
}

func (b *stallBody) Read(p []byte) (int, error) {
	b.deadline(time.Now().Add(b.stall))
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.deadline(time.Time{})
	}
	return n, err
}

func (b *stallBody) Close() error {
	err := b.ReadCloser.Close()
	b.deadline(time.Time{})
	return err
}
